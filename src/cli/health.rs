//! `health`: whether a worker can take work.

use std::time::Duration;

use super::{CliError, Exit, endpoint, output, runtime, unknown_values};
use crate::proto::v1::health_response::Status;

/// Check whether a worker can take work.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    endpoint: endpoint::EndpointArgs,

    /// Print the protobuf message as JSON.
    #[arg(long, env = "WAL_INDEXER_JSON")]
    json: bool,
}

/// Asks the worker and prints its health. The exit code is 0 only if the worker serves.
pub fn run(args: Args) -> Result<(), CliError> {
    let asked = async { args.endpoint.ask_indexer(async |client| client.health().await).await };
    let health = runtime()?.block_on(asked)?;
    let health = unknown_values::health(health);
    if args.json {
        output::json_line(&health)?;
    } else {
        for check in &health.checks {
            let (mark, took) =
                (if check.ok { "ok" } else { "failed" }, Duration::from_micros(check.latency_us));
            output::line(&format!("{} {mark}: {} ({})", check.name, check.message, output::duration(took)))?;
        }
        output::line(health.status().as_str_name())?;
    }
    match health.status() {
        Status::Serving => Ok(()),
        Status::Draining | Status::Unavailable | Status::Unspecified => {
            Err(CliError::because(Exit::Again, format!("the worker is {}", health.status().as_str_name())))
        }
    }
}
