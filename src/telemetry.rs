//! Measurements, for Prometheus to fetch: `/metrics` over HTTP. Knows nothing of what is measured.

use std::future::Future;
use std::io;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;

/// Collects what this process measures.
#[derive(Clone, Debug)]
pub struct Telemetry {
    registry: Registry,
}

impl Telemetry {
    /// From now on measurements of the whole process come here. To be called before the first one: what was measured before is
    /// lost, and so is what comes from the places that measured it.
    pub fn install() -> Result<Self, OTelSdkError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // Names say their units themselves, and there is one scope only.
            .without_units()
            .scope_info_enabled(false)
            .without_target_info()
            .build()?;
        opentelemetry::global::set_meter_provider(SdkMeterProvider::builder().with_reader(exporter).build());
        Ok(Self { registry })
    }

    /// All measurements as they are now, in Prometheus' text format.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Answers `GET /metrics` until `shutdown`.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let routes = Router::new().route("/metrics", get(metrics)).with_state(self);
        axum::serve(listener, routes).with_graceful_shutdown(shutdown).await
    }
}

async fn metrics(State(telemetry): State<Telemetry>) -> Response {
    match telemetry.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
