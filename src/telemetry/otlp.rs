//! Sends traces and measurements to a collector, by OTLP over gRPC. It has its own threads and its own queue.
//! A collector that is unreachable or hangs costs spans, which are counted, and nothing else.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter,
    SpanProcessor,
};
use tokio::runtime::Runtime;
use tonic::transport::{self, Channel, ClientTlsConfig};
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

use crate::metrics;

/// The maximum number of spans that wait to be sent: about 2 MiB. More are dropped.
const WAITING_SPANS_MAX: usize = 2_048;

/// The timeouts for a collector to accept a batch, and to accept a connection.
const EXPORT_MAX: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long the end of the process may wait until the rest is sent.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// The target of this crate's spans.
const SPANS: &str = "wal_indexer::spans";

/// The collector, and the identity of this process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector: `http://HOST:PORT`, or `https://` for TLS with the system's authorities.
    pub endpoint: String,
    /// `service.name`. The attributes in `OTEL_RESOURCE_ATTRIBUTES` are added, and override this.
    pub service: String,
    /// A service name that overrides those attributes, if it is given.
    pub service_override: Option<String>,
    /// `service.instance.id`.
    pub instance: String,
    /// The part of the traces that begin here which is collected, from 0 to 1. A trace that began elsewhere
    /// is collected if it is collected there.
    pub root_ratio: f64,
}

/// Why the exporter cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The endpoint is not valid. The error does not repeat it, because it may hold a password.
    #[error("not http://HOST:PORT or https://HOST:PORT")]
    Endpoint,
    /// The connection cannot be set up.
    #[error("cannot set up the connection")]
    Transport(#[from] transport::Error),
    /// Other settings of the exporter cannot be used.
    #[error("cannot set up the exporter")]
    Exporter(#[from] ExporterBuildError),
    /// No thread can be started.
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
}

/// A collector, and the spans that wait for it.
#[derive(Debug)]
pub struct Otlp {
    /// The runtime of the connection, which is separate from the program's own.
    runtime: Runtime,
    channel: Channel,
    resource: Resource,
    tracers: SdkTracerProvider,
    meters: OnceLock<SdkMeterProvider>,
}

impl Otlp {
    /// Starts to collect spans. It connects when there is something to send, and again after the connection
    /// breaks.
    pub fn start(settings: &Settings) -> Result<Self, OtlpError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()?;
        let channel = {
            let _on = runtime.enter();
            endpoint(&settings.endpoint)?.connect_lazy()
        };
        let resource = resource(settings);
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_channel(channel.clone())
            .with_timeout(EXPORT_MAX)
            .build()?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = Watched::new(exporter, "traces", Arc::clone(&waiting));
        let batches = BatchConfigBuilder::default().with_max_queue_size(WAITING_SPANS_MAX).build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.root_ratio)));
        let tracers = SdkTracerProvider::builder()
            .with_span_processor(Bounded { batches, waiting })
            .with_sampler(sampler)
            .with_resource(resource.clone())
            .build();
        Ok(Self { runtime, channel, resource, tracers, meters: OnceLock::new() })
    }

    /// Returns the layer that collects this crate's spans, in addition to the layer that writes log lines.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let ours = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target().starts_with(SPANS);
        tracing_opentelemetry::layer()
            .with_tracer(self.tracers.tracer("wal-indexer"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(ours).with_max_level_hint(LevelFilter::INFO))
    }

    /// Returns the reader that reads the instruments every minute, or every `OTEL_METRIC_EXPORT_INTERVAL`
    /// milliseconds, and sends their values.
    pub(super) fn reader(&self) -> Result<PeriodicReader<impl PushMetricExporter + use<>>, OtlpError> {
        let exporter = MetricExporter::builder()
            .with_tonic()
            .with_channel(self.channel.clone())
            .with_timeout(EXPORT_MAX)
            .build()?;
        Ok(PeriodicReader::builder(Watched::new(exporter, "metrics", Arc::default())).build())
    }

    /// The identity of this process.
    pub(super) fn resource(&self) -> Resource {
        self.resource.clone()
    }

    /// Keeps the meters, to shut them down in [`Self::end`].
    pub(super) fn watch(&self, meters: &SdkMeterProvider) {
        // This is set once in a process.
        let _ = self.meters.set(meters.clone());
    }

    /// Sends the rest, for a few seconds at most.
    pub fn end(self) {
        let Self { runtime, tracers, meters, .. } = self;
        let (done, ended) = mpsc::channel();
        let also_done = done.clone();
        // Nothing joins these threads, because what they wait for may hang.
        thread::spawn(move || done.send(tracers.shutdown_with_timeout(FLUSH_MAX)));
        thread::spawn(move || also_done.send(meters.get().map_or(Ok(()), SdkMeterProvider::shutdown)));
        let until = std::time::Instant::now() + FLUSH_MAX;
        for _ in 0..2 {
            let left = until.saturating_duration_since(std::time::Instant::now());
            if !matches!(ended.recv_timeout(left), Ok(Ok(()))) {
                warn!("not everything could be sent to the collector in time");
                break;
            }
        }
        runtime.shutdown_background();
    }
}

fn endpoint(text: &str) -> Result<transport::Endpoint, OtlpError> {
    let url = Url::parse(text).map_err(|_| OtlpError::Endpoint)?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_plain {
        return Err(OtlpError::Endpoint);
    }
    let endpoint = transport::Endpoint::from_shared(text.to_owned())?;
    let endpoint = endpoint.connect_timeout(CONNECT_MAX).timeout(EXPORT_MAX);
    match url.scheme() {
        "https" => Ok(endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?),
        _ => Ok(endpoint),
    }
}

fn resource(settings: &Settings) -> Resource {
    let resource = Resource::builder_empty()
        .with_service_name(settings.service.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", settings.instance.clone()))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match &settings.service_override {
        Some(name) => resource.with_service_name(name.clone()).build(),
        None => resource.build(),
    }
}

/// Limits the number of waiting spans, and counts those that are dropped. (The queue behind it would drop
/// them as well, but does not report it.)
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING_SPANS_MAX {
            self.batches.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            metrics::process::spans("dropped", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// An exporter that reports failures: their beginning in the log, and each lost span in a counter.
struct Watched<E> {
    inner: E,
    what: &'static str,
    /// The number of spans that wait to be sent.
    waiting: Arc<AtomicUsize>,
    is_failing: AtomicBool,
}

impl<E> Watched<E> {
    fn new(inner: E, what: &'static str, waiting: Arc<AtomicUsize>) -> Self {
        Self { inner, what, waiting, is_failing: AtomicBool::new(false) }
    }

    fn note(&self, result: &OTelSdkResult) {
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !was_failing => {
                let error = description(error);
                warn!(what = self.what, error, "the collector does not accept data; some of it is lost");
            }
            Ok(()) if was_failing => warn!(what = self.what, "the collector accepts data again"),
            Err(_) | Ok(()) => {}
        }
    }
}

fn description(error: &OTelSdkError) -> String {
    match error {
        OTelSdkError::InternalFailure(why) => why.clone(),
        error => error.to_string(),
    }
}

impl<E> fmt::Debug for Watched<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("what", &self.what).finish_non_exhaustive()
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        metrics::process::spans(if result.is_ok() { "sent" } else { "failed" }, spans as u64);
        self.note(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Watched<E> {
    async fn export(&self, measured: &ResourceMetrics) -> OTelSdkResult {
        let result = self.inner.export(measured).await;
        self.note(&result);
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_nothing_secret() {
        for (text, is_one) in [
            ("http://127.0.0.1:4317", true),
            ("https://collector.example:4317", true),
            ("http://collector", true),
            ("collector:4317", false),
            ("grpc://collector:4317", false),
            ("http://me:secret@collector:4317", false),
            ("http://collector:4317?token=secret", false),
            ("", false),
        ] {
            assert_eq!(endpoint(text).is_ok(), is_one, "{text}");
        }
    }
}
