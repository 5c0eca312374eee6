//! Flags become typed values, verbs become library calls; the one reader of the environment. Every flag `--some-name` has
//! a variable `WAL_INDEXER_SOME_NAME`. Knows nothing of what happens inside the pipeline.

mod agent;
mod cgroup;
mod demo;
mod duration_argument;
mod endpoint;
mod error;
mod expire;
mod export;
mod fetch;
mod file_mode;
mod generate;
mod health;
mod index;
mod inspect;
mod isolation;
mod logging;
mod ls;
mod metrics;
mod otlp;
mod output;
mod pipeline;
mod progress;
mod restore;
mod search;
mod security;
mod serve;
mod signals;
mod stats;
mod stderr;
mod store;
mod store_or_endpoint;
mod sweep;
mod terminal_escaping;
mod time_argument;
mod unknown_values;
mod verify;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::{CliError, Exit};

use logging::LogFormat;

use crate::telemetry::{self, Otlp};

/// Takes index building off a log broker's back: WAL segments in, searchable and restorable objects out.
///
/// Exit codes: 0 all is well; 1 it failed; 2 the command line is wrong; 3 data is corrupt or not what it should be;
/// 4 there is no such thing; 5 not now, the same again later may do.
#[derive(Debug, Parser)]
#[command(name = "wal-indexer", version, max_term_width = 110, color = output::help_colours())]
struct Cli {
    /// What to log, to standard error: a level, or targets with levels (`info,wal_indexer=debug`).
    #[arg(
        long,
        global = true,
        env = "WAL_INDEXER_LOG",
        default_value = "warn,wal_indexer=info,tantivy=error",
        value_name = "FILTER"
    )]
    log: String,

    /// How log lines look.
    #[arg(
        long,
        global = true,
        env = "WAL_INDEXER_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve IndexSegment and friends over gRPC.
    Serve(serve::Args),
    /// Send a broker's sealed segments to workers, and delete them on their receipts.
    Agent(Box<agent::Args>),
    /// Index segment files in this process, without a server.
    Index(index::Args),
    /// The main job on one screen: index, delete, search, restore.
    Demo(demo::Args),
    /// Write a segment of realistic JSON logs.
    Generate(generate::Args),
    /// Restore a segment, byte for byte, from its bundles.
    Restore(restore::RestoreArgs),
    /// List what is stored.
    Ls(ls::LsArgs),
    /// Find records: newest first, one a line.
    Search(search::SearchArgs),
    /// Read a partition from an offset on, as a consumer does.
    Fetch(fetch::FetchArgs),
    /// Show what is in a segment file or a bundle.
    Inspect(inspect::InspectArgs),
    /// Write a bundle's index and manifest as a tar.gz.
    Export(export::ExportArgs),
    /// Check every byte, count and record of stored bundles.
    Verify(verify::VerifyArgs),
    /// Delete what is too old, whole bundles at a time: shown first, deleted with --delete.
    Expire(expire::ExpireArgs),
    /// Remove what killed writers have left on a local disk: shown first, removed with --delete.
    Sweep(sweep::SweepArgs),
    /// What a worker has done and is doing.
    Stats(stats::Args),
    /// Whether a worker can take work.
    Health(health::Args),
}

/// Runs the program: parses the command line, does what it says, prints an error once.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return say(&error),
    };
    telemetry::propagate();
    let otlp = match cli.start_watching() {
        Ok(otlp) => otlp,
        Err(error) => return error.report(),
    };
    let result = match cli.command {
        Command::Serve(args) => serve::run(args, otlp.as_ref()),
        Command::Agent(args) => agent::run(*args, otlp.as_ref()),
        Command::Index(args) => index::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Restore(args) => restore::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Search(args) => search::run(&args),
        Command::Fetch(args) => fetch::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Expire(args) => expire::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Stats(args) => stats::run(args),
        Command::Health(args) => health::run(args),
    };
    otlp.into_iter().for_each(Otlp::end);
    match output::end(result) {
        Ok(()) => {
            stderr::flush();
            ExitCode::SUCCESS
        }
        Err(error) => error.report(),
    }
}

/// Prints help, the version, or what is wrong with the command line. Help that cannot be written is a failure.
fn say(error: &clap::Error) -> ExitCode {
    let (printed, code) = (error.print(), error.exit_code());
    match printed {
        Err(cause) if !error.use_stderr() && cause.kind() != io::ErrorKind::BrokenPipe => {
            CliError::new(Exit::Failed, "standard output", &cause).report()
        }
        _ => ExitCode::from(u8::try_from(code).unwrap_or(Exit::Usage as u8)),
    }
}

impl Cli {
    /// Logs, and collects traces where somebody wants them.
    fn start_watching(&self) -> Result<Option<Otlp>, CliError> {
        let otlp = match &self.command {
            Command::Serve(args) => args.otlp()?,
            Command::Agent(args) => args.otlp()?,
            _ => None,
        };
        logging::start(&self.log, self.log_format, otlp.as_ref())?;
        Ok(otlp)
    }
}

/// The runtime that a verb's library call runs on; made here so that it is dropped outside of async code.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(Exit::Failed, "cannot start the runtime", &error))
}
