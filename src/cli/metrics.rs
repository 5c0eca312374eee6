//! `--metrics-listen`: what this process measures, for Prometheus.

use std::future;

use tokio::net::TcpListener;

use super::{CliError, Exit, output};
use crate::metrics;
use crate::telemetry::{Otlp, Telemetry};

/// Where measurements are served.
#[derive(Debug, clap::Args)]
pub struct MetricsArgs {
    /// Where to serve `/metrics` for Prometheus; port 0 picks a free one. `metrics on HOST:PORT` on standard output says
    /// which. Default: nowhere.
    #[arg(long, env = "WAL_INDEXER_METRICS_LISTEN", value_name = "HOST:PORT")]
    metrics_listen: Option<String>,
}

/// Measurements that nobody has been told of yet.
pub struct Collected {
    telemetry: Telemetry,
    listener: TcpListener,
}

impl MetricsArgs {
    /// Collects what is measured from now on, also for `otlp`: to be called before anything else is done.
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
    /// Says where, and answers until the process ends: until then somebody may want to know how it ended.
    pub fn serve(self) -> Result<(), CliError> {
        let address = self.listener.local_addr();
        let address = address.map_err(|error| CliError::flag("--metrics-listen", &error))?;
        output::line(&format!("metrics on {address}"))?;
        tokio::spawn(self.telemetry.serve(self.listener, future::pending()));
        Ok(())
    }
}
