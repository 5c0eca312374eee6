//! The whole path, from a client's bytes to its receipt, beside a bare indexing loop over the same records.
//!
//! One round measures both, one after the other, so that a slow minute of the machine hits both; the table shows medians. The worker is
//! the release binary with its defaults, reached over real gRPC, storing into a local directory: receive, checksums, decoding,
//! indexing, record blocks, fsync and check are all in its time. The loop in [`bare`] has none of that: its records lie decoded in
//! memory.
//!
//! Run it with `make bench`; `docs/performance.md` says what the numbers mean.

mod bare;
mod process;
mod worker;

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use wal_indexer::generate::{self, Codec, Format, Size, Spec, logs::Logs};
use wal_indexer::record::RecordBatch;

use process::Cpu;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc; // as in the binary, so that the loop has it too

/// Measures the whole path beside a bare indexing loop.
#[derive(Parser)]
struct Args {
    /// What to send, as FORMAT:CODEC; several times for several.
    #[arg(long = "case", value_name = "FORMAT:CODEC", value_parser = parse_case,
          default_values = ["kafka:none", "kafka:zstd", "chronik-v2:none"])]
    cases: Vec<(Format, Codec)>,
    /// Records of each segment; 100,000 are some 55 MB in uncompressed Kafka batches.
    #[arg(long, default_value_t = 400_000)]
    records: u64,
    /// Segments a round, all sent at once.
    #[arg(long, default_value_t = 2)]
    segments: u64,
    /// Rounds that count; one more goes before them to warm up.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the worker's store is put, removed afterwards; on the disk that you mean to measure.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    directory: PathBuf,
    /// Given by `cargo bench`, not by `cargo test`, which must not measure anything.
    #[arg(long, hide = true)]
    bench: bool,
}

fn parse_case(text: &str) -> Result<(Format, Codec), Box<dyn Error + Send + Sync>> {
    let (format, codec) = text.split_once(':').unwrap_or((text, "none"));
    Ok((format.parse()?, codec.parse()?))
}

/// What one contender took for one round.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    wall: Duration,
    cpu: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if !args.bench {
        return Ok(());
    }
    println!("{} cores, {}", cores(), process::cpu_model());
    println!(
        "{} segments of {} records at once, medians of {} rounds\n",
        args.segments, args.records, args.rounds
    );
    println!(
        "| segments | MB | whole path MB/s | bare loop MB/s | ratio | CPU s whole : bare | bundle bytes / segment byte | \
         peak RSS of the worker, MB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (format, codec) in &args.cases {
        measure(&args, *format, *codec)?;
    }
    Ok(())
}

fn measure(args: &Args, format: Format, codec: Codec) -> Result<(), Box<dyn Error>> {
    let specs = (0..args.segments).map(|seed| Spec {
        format,
        codec,
        seed,
        size: Size::Records(args.records),
        ..Spec::default()
    });
    let (mut segments, mut records) = (Vec::new(), Vec::new());
    for spec in specs {
        let mut bytes = Vec::new();
        generate::generate(&spec, &mut bytes)?;
        segments.push(Bytes::from(bytes));
        records.push(decoded(&spec, args.records));
    }
    let segment_bytes: usize = segments.iter().map(Bytes::len).sum();

    let records_sent = args.segments * args.records;
    let mut worker = worker::Worker::start(&args.directory)?;
    let (mut whole, mut bare) = (Vec::new(), Vec::new());
    let mut bundle_bytes = 0;
    for round in 0..=args.rounds {
        let before = (Instant::now(), worker.cpu()?);
        let stored = worker.index_all(&segments, round)?;
        let whole_took = Took { wall: before.0.elapsed(), cpu: worker.cpu()? - before.1 };
        worker.clear_store()?;

        let before = (Instant::now(), Cpu::of_self()?);
        let documents = bare::index_all(&records, cores())?;
        let bare_took = Took { wall: before.0.elapsed(), cpu: Cpu::of_self()? - before.1 };
        if (stored.records, documents) != (records_sent, records_sent) {
            return Err(format!("{records_sent} records became {} and {documents}", stored.records).into());
        }
        bundle_bytes = stored.bundle_bytes;
        if round > 0 {
            whole.push(whole_took);
            bare.push(bare_took);
        }
    }
    let peak_rss_bytes = worker.peak_rss_bytes()?;
    drop(worker);

    let megabytes = segment_bytes as f64 / 1e6;
    let wall = |took: &[Took]| median(took.iter().map(|took| took.wall.as_secs_f64()));
    let cpu = |took: &[Took]| median(took.iter().map(|took| took.cpu.as_secs_f64()));
    println!(
        "| {format}, {codec} | {megabytes:.0} | {:.1} | {:.1} | {:.2} | {:.1} : {:.1} | {:.3} | {:.0} |",
        megabytes / wall(&whole),
        megabytes / wall(&bare),
        wall(&bare) / wall(&whole),
        cpu(&whole),
        cpu(&bare),
        bundle_bytes as f64 / segment_bytes as f64,
        peak_rss_bytes as f64 / 1e6,
    );
    Ok(())
}

/// The records of a generated segment: the log that its seed chooses, without going through a decoder.
fn decoded(spec: &Spec, records: u64) -> Vec<RecordBatch> {
    let mut logs = Logs::new(spec.seed);
    let offsets: Vec<i64> = (0..).take(records as usize).collect();
    let batches = offsets.chunks(spec.batch_records.get() as usize);
    batches
        .map(|batch| {
            batch.iter().for_each(|offset| logs.push(*offset));
            logs.take()
        })
        .collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        _ if values.is_empty() => f64::NAN,
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
