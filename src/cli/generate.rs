//! `generate`: writes realistic segments for trials.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use bytesize::ByteSize;
use indicatif::ProgressBar;
use serde_json::json;

use super::{CliError, Exit, output};
use crate::generate::{self, Codec, Format, GenerateError, Size, Spec, Summary};
use crate::ids::TopicPartition;

/// Write a segment of realistic JSON logs. The same flags always give the same bytes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to write. `-` is standard output.
    #[arg(long, env = "WAL_INDEXER_OUT", value_name = "FILE")]
    out: PathBuf,

    /// kafka, chronik-v2, chronik-v1 or chronik-mixed.
    #[arg(long, env = "WAL_INDEXER_FORMAT", default_value = "kafka", value_name = "FORMAT")]
    format: Format,

    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, env = "WAL_INDEXER_CODEC", default_value = "none", value_name = "CODEC")]
    codec: Codec,

    /// The approximate size of the segment.
    #[arg(
        long,
        env = "WAL_INDEXER_SIZE",
        default_value = "64MiB",
        value_name = "SIZE",
        conflicts_with = "records"
    )]
    size: ByteSize,

    /// The number of records.
    #[arg(long, env = "WAL_INDEXER_RECORDS", value_name = "N")]
    records: Option<u64>,

    /// The seed of the random records.
    #[arg(long, env = "WAL_INDEXER_SEED", default_value_t = 1, value_name = "N")]
    seed: u64,

    /// The topic that Chronik V2 frames name.
    #[arg(long, env = "WAL_INDEXER_TOPIC", default_value = "logs", value_name = "TOPIC")]
    topic: String,

    /// The partition that Chronik V2 frames name, the first of --partitions.
    #[arg(long, env = "WAL_INDEXER_PARTITION", default_value_t = 0, value_name = "N")]
    partition: i32,

    /// The number of partitions, which take turns (chronik-v2 only).
    #[arg(long, env = "WAL_INDEXER_PARTITIONS", default_value = "1", value_name = "N")]
    partitions: NonZeroU32,

    /// The first offset.
    #[arg(long, env = "WAL_INDEXER_BASE_OFFSET", default_value_t = 0, value_name = "N")]
    base_offset: i64,

    /// The number of records in a batch.
    #[arg(long, env = "WAL_INDEXER_BATCH_RECORDS", default_value = "200", value_name = "N")]
    batch_records: NonZeroU32,

    /// Leave the producer's Kafka batch out of Chronik V2 frames.
    #[arg(long, env = "WAL_INDEXER_WITHOUT_PRODUCER_BYTES")]
    without_producer_bytes: bool,

    /// Leave out one offset after every N records, as compaction does.
    #[arg(long, env = "WAL_INDEXER_GAP_EVERY", value_name = "N")]
    gap_every: Option<NonZeroU64>,

    /// Print the summary as JSON.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,
}

/// Writes the segment and prints a summary.
pub fn run(args: Args) -> Result<(), CliError> {
    let partition = TopicPartition::new(args.topic.as_str(), args.partition)
        .map_err(|error| CliError::flag("--topic, --partition", &error))?;
    let spec = Spec {
        format: args.format,
        codec: args.codec,
        size: args.records.map_or(Size::Bytes(args.size.as_u64()), Size::Records),
        seed: args.seed,
        partition,
        partitions: args.partitions,
        base_offset: args.base_offset,
        batch_records: args.batch_records,
        producer_bytes: !args.without_producer_bytes,
        gap_every: args.gap_every,
    };
    if args.out.as_os_str() == "-" {
        generate_into(&spec, io::stdout().lock())?;
        return Ok(());
    }
    let name = args.out.display().to_string();
    let file = File::create(&args.out).map_err(|error| CliError::new(Exit::Failed, &name, &error))?;
    let bar = output::progress(if args.records.is_some() { 0 } else { args.size.as_u64() }, &name);
    let summary =
        generate_into(&spec, Counted { inner: BufWriter::with_capacity(1 << 20, file), bar: bar.clone() })?;
    bar.finish_and_clear();
    if args.json { output::json_line(&as_json(&summary)) } else { output::line(&text(&summary)) }
}

fn generate_into(spec: &Spec, mut out: impl Write) -> Result<Summary, CliError> {
    let summary = generate::generate(spec, &mut out).map_err(|error| match error {
        GenerateError::Write(_) | GenerateError::Compress { .. } => {
            CliError::new(Exit::Failed, "generate", &error)
        }
        GenerateError::OnePartitionOnly { .. }
        | GenerateError::BatchTooLarge { .. }
        | GenerateError::Partition { .. }
        | GenerateError::Offsets { .. } => CliError::new(Exit::Usage, "generate", &error),
    })?;
    out.flush().map_err(|error| CliError::new(Exit::Failed, "generate", &error))?;
    Ok(summary)
}

fn text(summary: &Summary) -> String {
    let mut text =
        format!("{}, {} records in {} frames", output::bytes(summary.bytes), summary.records, summary.frames);
    for one in &summary.partitions {
        let (first, last) = (one.range.first(), one.range.last());
        text.push_str(&format!(
            "\n  {}: {} records, offsets {first}..{last}, {} gaps",
            one.partition, one.records, one.gaps
        ));
    }
    text
}

fn as_json(summary: &Summary) -> serde_json::Value {
    let partitions: Vec<_> = (summary.partitions.iter())
        .map(|one| {
            json!({
                "topic": one.partition.topic(),
                "partition": one.partition.partition(),
                "records": one.records,
                "base_offset": one.range.first(),
                "last_offset": one.range.last(),
                "gaps": one.gaps,
                "min_timestamp_ms": one.min_timestamp_ms,
                "max_timestamp_ms": one.max_timestamp_ms,
            })
        })
        .collect();
    json!({ "bytes": summary.bytes, "frames": summary.frames, "records": summary.records, "partitions": partitions })
}

/// Moves a progress bar forward as bytes are written.
struct Counted<W> {
    inner: W,
    bar: ProgressBar,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bar.inc(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
