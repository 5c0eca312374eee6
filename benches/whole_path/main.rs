//! The whole path, from a client's bytes to its receipt, beside what it is measured against, in one run on the same records.
//!
//! The worker is the release binary with its defaults, a process of its own, reached over real gRPC, storing into a local
//! directory: receive, checksums, decoding, indexing, record blocks, fsync and check are all in its time. What it is measured
//! against is in [`bare`], [`reference`] and [`marks`]. Each of [`parts`] answers one question; all print medians with the
//! least and the greatest, and ratios of what ran side by side.
//!
//! Run it with `make bench`; `docs/performance.md` says what the numbers mean.

mod bare;
mod contest;
mod marks;
mod parts;
mod process;
mod reference;
mod report;
mod sample;
mod segments;
#[allow(dead_code)] // The tests need more of it.
#[path = "../../tests/it/servers.rs"]
mod servers;
mod worker;

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, ValueEnum};

use parts::Part;
use report::Report;
use segments::Case;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc; // as in the binary, so that the loop has it too

/// Measures the whole path beside its references.
#[derive(Parser)]
struct Args {
    /// A part to run; several times for several. Default: all.
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// One round of each, and no segment beyond 64 MB: shows that everything runs, and roughly where it stands.
    #[arg(long)]
    quick: bool,
    /// What the part `speed` sends, as FORMAT:CODEC or chronik-v2:records; several times for several.
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<Case>,
    /// The size of a middling segment.
    #[arg(long, default_value_t = 64)]
    megabytes: usize,
    /// Segments a round of the part `speed`, all sent at once.
    #[arg(long, default_value_t = 2)]
    segments: u64,
    /// Rounds that count; one more goes before them to warm up.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the workers' stores are put, removed afterwards; on the disk that you mean to measure.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    directory: PathBuf,
    /// The program of benches/reference.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/reference/release/tantivy-reference"))]
    reference: PathBuf,
    /// Where benches/corpora.py has put real text.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/corpora"))]
    corpora: PathBuf,
    /// Given by `cargo bench`, not by `cargo test`, which must not measure anything.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What all parts go by.
struct Setup {
    directory: PathBuf,
    reference: PathBuf,
    corpora: PathBuf,
    cases: Vec<Case>,
    segments: u64,
    rounds: usize,
    /// Of a middling segment.
    megabytes: usize,
    /// Of a large segment.
    large_megabytes: usize,
    /// The largest segment of all.
    bytes_max: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if !args.bench {
        return Ok(());
    }
    let setup = Setup {
        directory: args.directory,
        reference: args.reference,
        corpora: args.corpora,
        cases: args.cases,
        segments: args.segments,
        rounds: if args.quick { 1 } else { args.rounds },
        megabytes: args.megabytes,
        large_megabytes: if args.quick { args.megabytes } else { 250 },
        bytes_max: if args.quick { args.megabytes * 1_000_000 } else { usize::MAX },
    };
    println!("{} cores, {}. MB are millions of bytes.", process::cores(), process::cpu_model());
    let parts = if args.only.is_empty() { Part::value_variants() } else { &args.only };
    let mut report = Report::default();
    for part in parts {
        let started = Instant::now();
        part.run(&setup, &mut report)?;
        eprintln!("({part:?}: {:.0} s)", started.elapsed().as_secs_f64());
    }
    report.close();
    Ok(())
}
