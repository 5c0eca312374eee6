//! `stats`: what a worker has done and is doing.

mod view;
mod watch;

use std::time::Duration;

use super::duration_argument::positive_seconds;
use super::{CliError, endpoint, output, runtime, unknown_values};
use crate::proto::v1;

/// Show what a worker has done and is doing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    endpoint: endpoint::EndpointArgs,

    /// Print the protobuf message as JSON.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,

    /// Show a live view on the terminal: throughput, memory, jobs, topics. `q` or Ctrl-C ends it.
    #[arg(long, conflicts_with = "json")]
    watch: bool,

    /// How often to ask the worker with --watch, in seconds.
    #[arg(long, env = "WAL_INDEXER_EVERY", default_value = "1", value_name = "SECONDS", value_parser = positive_seconds)]
    every: Duration,
}

/// Asks the worker and prints its statistics.
pub fn run(args: Args) -> Result<(), CliError> {
    if args.watch {
        return watch::run(args.endpoint.worker()?, args.every);
    }
    let asked = async { args.endpoint.ask_indexer(async |client| client.stats().await).await };
    let stats = runtime()?.block_on(asked)?;
    if args.json { output::json_line(&unknown_values::stats(stats)) } else { output::line(&text(&stats)) }
}

fn text(stats: &v1::GetStatsResponse) -> String {
    let (memory, latency) = (stats.memory.unwrap_or_default(), stats.latency.unwrap_or_default());
    let micros = |us| output::duration(Duration::from_micros(us));
    let mut table = output::table(&["", ""], &[]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("worker", format!("{} ({})", stats.worker_id, stats.version));
    row("up", output::duration(Duration::from_millis(stats.uptime_ms)));
    let already = stats.segments_already_indexed;
    row("segments", format!("{} ({already} already there)", stats.segments_processed));
    row("records", stats.records_indexed.to_string());
    row("bundles created", stats.indexes_created.to_string());
    row("read", output::bytes(stats.bytes_read));
    row("written", output::bytes(stats.bytes_written));
    row(
        "latency",
        format!(
            "median {}, p99 {}, max {}",
            micros(latency.p50_us),
            micros(latency.p99_us),
            micros(latency.max_us)
        ),
    );
    row(
        "memory",
        format!(
            "{} of {} reserved",
            output::bytes(memory.reserved_bytes),
            output::bytes(memory.budget_bytes)
        ),
    );
    row("waiting", format!("{} for {}", memory.waiting_requests, output::bytes(memory.waiting_bytes)));
    let mut rejected: Vec<_> = stats.rejected.iter().map(|(code, count)| format!("{code} {count}")).collect();
    rejected.sort();
    row("rejected", if rejected.is_empty() { "none".into() } else { rejected.join(", ") });
    row("internal errors", stats.errors.to_string());
    let mut text = table.trim_fmt();
    for job in &stats.jobs {
        let phase = job.phase().as_str_name().trim_start_matches("PHASE_").to_lowercase();
        let (done, total) = (output::bytes(job.bytes_done), output::bytes(job.bytes_total));
        let age = output::duration(Duration::from_millis(job.age_ms));
        text.push_str(&format!(
            "\n  {} {phase} {done} of {total}, {} records, {age}",
            job.segment_id, job.records_done
        ));
    }
    text
}
