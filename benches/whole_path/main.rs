//! Measures the whole path, from a client's bytes to its receipt, and its references, in one run on the same
//! records.
//!
//! The worker is the release binary with its defaults, as a separate process. It is called over gRPC and
//! stores into a local directory. Its time includes receiving, checksums, decoding, indexing, record blocks,
//! fsync and the check of the object. The references are in [`bare`], [`reference`] and [`baselines`]. Each
//! of [`parts`] answers one question. All print medians with the minimum and the maximum, and ratios of
//! measurements from the same round.
//!
//! Run it with `make bench`. `docs/performance.md` explains the numbers.

mod bare;
mod baselines;
mod contest;
mod parts;
mod process;
mod reference;
mod report;
mod sample;
mod segments;
#[allow(dead_code)] // The tests use more of it.
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
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc; // as in the program, so that the loop has it too

/// Measures the whole path and its references.
#[derive(Parser)]
struct Args {
    /// A part to run. May be given several times. Default: all parts.
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Run one round of each part, with no segment above 64 MB: shows that everything runs, and gives rough
    /// numbers.
    #[arg(long)]
    quick: bool,
    /// What the part `speed` sends, as FORMAT:CODEC or chronik-v2:records. May be given several times.
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<Case>,
    /// The size of a medium segment, in MB.
    #[arg(long, default_value_t = 64)]
    megabytes: usize,
    /// The number of segments in a round of the part `speed`. They are sent at the same time.
    #[arg(long, default_value_t = 2)]
    segments: u64,
    /// The number of measured rounds. One more round before them is the warm-up.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The directory for the workers' stores, on the disk that you want to measure. The stores are removed
    /// afterwards.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    directory: PathBuf,
    /// The program of benches/reference.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/reference/release/tantivy-reference"))]
    reference: PathBuf,
    /// The directory for the text that benches/corpora.py fetches.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/corpora"))]
    corpora: PathBuf,
    /// Set by `cargo bench`, but not by `cargo test`, which must not measure anything.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The settings of all parts.
struct Setup {
    directory: PathBuf,
    reference: PathBuf,
    corpora: PathBuf,
    cases: Vec<Case>,
    segments: u64,
    rounds: usize,
    /// The size of a medium segment.
    megabytes: usize,
    /// The size of a large segment.
    large_megabytes: usize,
    /// The maximum size of a segment.
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
