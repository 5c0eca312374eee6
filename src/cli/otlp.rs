//! `--otlp-endpoint`: sends traces and measurements to a collector.

use std::env;

use super::CliError;
use crate::telemetry::{Otlp, Settings};

/// Where traces and measurements are sent.
#[derive(Debug, clap::Args)]
pub struct OtlpArgs {
    /// The collector for traces and measurements, by OTLP over gRPC: http://HOST:4317, or https://. Default: the
    /// value of OTEL_EXPORTER_OTLP_ENDPOINT, or none.
    #[arg(long, env = "WAL_INDEXER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,

    /// The share of the traces that begin here and are collected, from 0 to 1. If the caller sends a trace,
    /// the caller decides.
    #[arg(long, env = "WAL_INDEXER_TRACE_RATIO", default_value_t = 0.1, value_name = "RATIO", value_parser = ratio)]
    trace_ratio: f64,
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        Ok(_) | Err(_) => Err("not a number from 0 to 1".to_owned()),
    }
}

impl OtlpArgs {
    /// Starts to collect for the collector, if there is one. OpenTelemetry's SDK reads those of its own
    /// variables that have no flag here. It uses `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_SERVICE_NAME` only
    /// if the program sets no value, so this function reads them.
    pub fn start(&self, service: &str, instance: String) -> Result<Option<Otlp>, CliError> {
        let (flag, endpoint) = match &self.otlp_endpoint {
            Some(endpoint) => ("--otlp-endpoint", Some(endpoint.clone())),
            None => ("OTEL_EXPORTER_OTLP_ENDPOINT", variable("OTEL_EXPORTER_OTLP_ENDPOINT")),
        };
        let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty()) else { return Ok(None) };
        let settings = Settings {
            endpoint,
            service: service.to_owned(),
            service_override: variable("OTEL_SERVICE_NAME"),
            instance,
            root_ratio: self.trace_ratio,
        };
        Otlp::start(&settings).map(Some).map_err(|error| CliError::flag(flag, &error))
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The default name of a process: host name and process id.
pub fn process_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}
