//! Exports traces and measurements from one set of instruments: at `/metrics` over HTTP for Prometheus, and
//! with [`Otlp`] to a collector. This module does not know what is measured or traced.

mod otlp;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

pub use otlp::{Otlp, OtlpError, Settings};

use crate::metrics;

/// The maximum number of open connections. Only a few programs scrape, and others must not take the process's
/// files.
const CONNECTIONS_MAX: usize = 64;

/// The timeout for each request of a connection, in particular the first.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// The pause before the next accept if the process has no free file.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why metrics cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The exporter for Prometheus cannot be set up.
    #[error(transparent)]
    Prometheus(#[from] OTelSdkError),
    /// The exporter for a collector cannot be set up.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
}

/// Passes traces on across processes from now on, by W3C's headers.
pub fn propagate() {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
}

/// Collects the measurements of this process.
#[derive(Clone, Debug)]
pub struct Telemetry {
    registry: Registry,
}

impl Telemetry {
    /// Collects the measurements of the whole process from now on, for Prometheus and for `otlp`. Must be
    /// called before the first measurement: earlier ones are lost, and so are all later ones from the same
    /// places.
    pub fn install(otlp: Option<&Otlp>) -> Result<Self, InstallError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // Names contain their units, and there is only one scope.
            .without_units()
            .scope_info_enabled(false)
            .without_target_info()
            .build()?;
        let mut meters = SdkMeterProvider::builder().with_reader(exporter);
        if let Some(otlp) = otlp {
            meters = meters.with_reader(otlp.reader()?).with_resource(otlp.resource());
        }
        let meters = meters.build();
        otlp.into_iter().for_each(|otlp| otlp.watch(&meters));
        opentelemetry::global::set_meter_provider(meters);
        if otlp.is_some() {
            metrics::process::collected();
        }
        Ok(Self { registry })
    }

    /// Returns all current measurements in Prometheus' text format.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Answers `GET /metrics` until `shutdown`.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let routes = Router::new().route("/metrics", get(scrape)).with_state(self);
        let (service, places) = (TowerToHyperService::new(routes), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        let answering = async {
            loop {
                // Only an accepted connection takes a file.
                let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
                let Ok((stream, _)) = listener.accept().await else {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let answered = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(REQUEST_MAX)
                    .serve_connection(TokioIo::new(stream), service.clone());
                tokio::spawn(async move {
                    // A caller that breaks off wants no response.
                    let _ = answered.await;
                    drop(place);
                });
            }
        };
        tokio::select! {
            ended = answering => ended,
            () = shutdown => Ok(()),
        }
    }
}

async fn scrape(State(telemetry): State<Telemetry>) -> Response {
    match telemetry.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
