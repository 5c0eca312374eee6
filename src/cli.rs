//! The command line: parses flags into typed values and calls one library function for each verb. It is the
//! only reader of the environment. Every flag `--some-name` has a variable `WAL_INDEXER_SOME_NAME`. It does
//! not know how the pipeline works inside.

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
mod hidden;
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
mod purge;
mod reconcile;
mod report;
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
mod undelete;
mod unknown_values;
mod verify;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::{CliError, Exit};

use logging::LogFormat;

use crate::telemetry::{self, Otlp};

/// Index the WAL segments of a log broker outside the broker: segments in, searchable and restorable objects
/// out.
///
/// Exit codes: 0 success; 1 failure; 2 the command line is wrong; 3 data is corrupt or not as expected; 4 not
/// found; 5 not possible now, a retry may succeed.
#[derive(Debug, Parser)]
#[command(name = "wal-indexer", version, max_term_width = 110, color = output::help_colours())]
struct Cli {
    /// What to log to standard error: a level, or targets with levels (`info,wal_indexer=debug`).
    #[arg(
        long,
        global = true,
        env = "WAL_INDEXER_LOG",
        default_value = "warn,wal_indexer=info,tantivy=error",
        value_name = "FILTER"
    )]
    log: String,

    /// The format of log lines.
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
    /// Serve the gRPC API: index segments, search and fetch records.
    Serve(serve::Args),
    /// Send a broker's sealed segments to workers, and delete each one after its receipt.
    Agent(Box<agent::Args>),
    /// Index segment files in this process, without a server.
    Index(index::Args),
    /// Show the whole path once: index, delete, search, restore.
    Demo(demo::Args),
    /// Write a segment of realistic JSON logs.
    Generate(generate::Args),
    /// Restore a segment, byte for byte, from its bundles.
    Restore(restore::RestoreArgs),
    /// List the stored logs and bundles.
    Ls(ls::LsArgs),
    /// Find records. Prints the newest first, one per line.
    Search(search::SearchArgs),
    /// Read a partition from a given offset on, as a consumer does.
    Fetch(fetch::FetchArgs),
    /// Show what is in a segment file or a bundle.
    Inspect(inspect::InspectArgs),
    /// Write a bundle's index and manifest as a tar.gz.
    Export(export::ExportArgs),
    /// Check every byte, count and record of stored bundles.
    Verify(verify::VerifyArgs),
    /// Hide whole bundles that are too old. Shows them first; hides them with --delete.
    Expire(expire::ExpireArgs),
    /// Bring back what was deleted and is not purged yet.
    Undelete(undelete::UndeleteArgs),
    /// Free the space of what was deleted some time ago. This cannot be undone.
    Purge(purge::PurgeArgs),
    /// Compare copies of Kafka's segments with Kafka's metadata. Hides those that Kafka does not use with
    /// --hide.
    Reconcile(reconcile::ReconcileArgs),
    /// Remove the partial files that killed writers left on a local disk. Shows them first; removes them with
    /// --delete.
    Sweep(sweep::SweepArgs),
    /// Show what a worker has done and is doing.
    Stats(stats::Args),
    /// Check whether a worker can take work.
    Health(health::Args),
}

/// Runs the program: parses the command line, runs the verb, and prints an error once.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return print_clap_error(&error),
    };
    telemetry::propagate();
    let otlp = match cli.start_telemetry() {
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
        Command::Undelete(args) => undelete::run(&args),
        Command::Purge(args) => purge::run(&args),
        Command::Reconcile(args) => reconcile::run(&args),
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

/// Prints help, the version, or what is wrong with the command line. If help cannot be written, the program
/// fails.
fn print_clap_error(error: &clap::Error) -> ExitCode {
    let (printed, code) = (error.print(), error.exit_code());
    match printed {
        Err(cause) if !error.use_stderr() && cause.kind() != io::ErrorKind::BrokenPipe => {
            CliError::new(Exit::Failed, "standard output", &cause).report()
        }
        _ => ExitCode::from(u8::try_from(code).unwrap_or(Exit::Usage as u8)),
    }
}

impl Cli {
    /// Starts logging, and starts to collect traces if a collector is configured.
    fn start_telemetry(&self) -> Result<Option<Otlp>, CliError> {
        let otlp = match &self.command {
            Command::Serve(args) => args.otlp()?,
            Command::Agent(args) => args.otlp()?,
            _ => None,
        };
        logging::start(&self.log, self.log_format, otlp.as_ref())?;
        Ok(otlp)
    }
}

/// Makes the runtime that a verb's library call runs on. It is made here so that it is dropped outside of
/// async code.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(Exit::Failed, "cannot start the runtime", &error))
}
