//! `--metrics-listen`: serves the measurements of this process to Prometheus.

use std::future;

use tokio::net::TcpListener;

use super::{CliError, Exit, output};
use crate::metrics;
use crate::telemetry::{Otlp, Telemetry};

/// The address for measurements.
#[derive(Debug, clap::Args)]
pub struct MetricsArgs {
    /// Where to serve `/metrics` for Prometheus. Port 0 picks a free port. The line `metrics on HOST:PORT` on
    /// standard output shows the address. Default: not served.
    #[arg(long, env = "WAL_INDEXER_METRICS_LISTEN", value_name = "HOST:PORT")]
    metrics_listen: Option<String>,
}

/// Collected measurements that are not served yet.
pub struct Collected {
    telemetry: Telemetry,
    listener: TcpListener,
}

impl MetricsArgs {
    /// Starts to collect measurements, also for `otlp`. Call it before anything else: earlier events are not
    /// counted.
    pub async fn collect(&self, otlp: Option<&Otlp>) -> Result<Option<Collected>, CliError> {
        let listener = match &self.metrics_listen {
            Some(listen) => {
                let flag = |error| CliError::flag(&format!("--metrics-listen {listen}"), &error);
                Some(TcpListener::bind(listen).await.map_err(flag)?)
            }
            None if otlp.is_none() => return Ok(None),
            None => None,
        };
        let telemetry = Telemetry::install(otlp)
            .map_err(|error| CliError::new(Exit::Failed, "cannot set up metrics", &error))?;
        metrics::process::started(env!("CARGO_PKG_VERSION"));
        Ok(listener.map(|listener| Collected { telemetry, listener }))
    }
}

impl Collected {
    /// Prints the address, and serves measurements until the process ends, so that a scrape can still see how
    /// the work ended.
    pub fn serve(self) -> Result<(), CliError> {
        let address = self.listener.local_addr();
        let address = address.map_err(|error| CliError::flag("--metrics-listen", &error))?;
        output::line(&format!("metrics on {address}"))?;
        tokio::spawn(self.telemetry.serve(self.listener, future::pending()));
        Ok(())
    }
}
