//! Metrics of a worker: its input and output, its responses, and its state.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram};

/// The state of a worker at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The memory budget that all segments share.
    pub budget_bytes: u64,
    /// The part of the budget that is reserved.
    pub reserved_bytes: u64,
    /// Requests that wait for memory.
    pub waiting_requests: u64,
    /// The memory that they wait for.
    pub waiting_bytes: u64,
    /// Segments that are being received and indexed.
    pub building_segments: u64,
    /// Segments whose bundles are being uploaded.
    pub uploading_segments: u64,
    /// Bytes of segments that callers have announced and that are not indexed yet, with segments that wait
    /// for memory.
    pub backlog_bytes: u64,
}

/// Starts the counters of a worker at zero, so that they exist before their first event. `state` returns the
/// worker's state. It is called whenever the gauges are read.
pub fn started(state: impl Fn() -> State + Send + Sync + 'static) {
    for counter in [
        &INSTRUMENTS.segments,
        &INSTRUMENTS.segments_already_indexed,
        &INSTRUMENTS.records,
        &INSTRUMENTS.read_bytes,
        &INSTRUMENTS.bundles,
        &INSTRUMENTS.written_bytes,
    ] {
        counter.add(0, &[]);
    }
    gauges(Arc::new(state));
}

/// Sets whether the worker drains, and so takes no more work.
pub fn draining(is_draining: bool) {
    INSTRUMENTS.draining.record(u64::from(is_draining), &[]);
}

/// Counts an acknowledged segment. `already`: no object had to be created for it.
pub fn acknowledged(bytes: u64, records: u64, already: bool) {
    INSTRUMENTS.segments.add(1, &[]);
    INSTRUMENTS.segments_already_indexed.add(u64::from(already), &[]);
    INSTRUMENTS.read_bytes.add(bytes, &[]);
    INSTRUMENTS.records.add(records, &[]);
}

/// Counts a created bundle of an acknowledged segment.
pub fn bundle_created(bytes: u64) {
    INSTRUMENTS.bundles.add(1, &[]);
    INSTRUMENTS.written_bytes.add(bytes, &[]);
}

/// Records how long an acknowledged segment spent in a phase.
pub fn phase_took(phase: &'static str, took: Duration) {
    INSTRUMENTS.phase_seconds.record(took.as_secs_f64(), &[KeyValue::new("phase", phase)]);
}

/// Counts a call that ended. `reason` is the stable reason of the error, or empty.
pub fn answered(method: &'static str, code: &'static str, reason: String, took: Duration) {
    let method = KeyValue::new("method", method);
    INSTRUMENTS.request_seconds.record(took.as_secs_f64(), std::slice::from_ref(&method));
    INSTRUMENTS.requests.add(1, &[method, KeyValue::new("code", code), KeyValue::new("reason", reason)]);
}

/// Counts what a call read from the store for its response.
pub fn fetched(method: &'static str, requests: u64, bytes: u64) {
    let method = [KeyValue::new("method", method)];
    INSTRUMENTS.fetched_requests.add(requests, &method);
    INSTRUMENTS.fetched_bytes.add(bytes, &method);
}

struct Instruments {
    segments: Counter<u64>,
    segments_already_indexed: Counter<u64>,
    records: Counter<u64>,
    read_bytes: Counter<u64>,
    bundles: Counter<u64>,
    written_bytes: Counter<u64>,
    requests: Counter<u64>,
    fetched_requests: Counter<u64>,
    fetched_bytes: Counter<u64>,
    request_seconds: Histogram<f64>,
    phase_seconds: Histogram<f64>,
    draining: Gauge<u64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = super::meter();
    let counter = |name, about| super::counter(&meter, name, about);
    Instruments {
        segments: counter("wal_indexer_worker_segments", "Segments acknowledged"),
        segments_already_indexed: counter(
            "wal_indexer_worker_segments_already_indexed",
            "Segments acknowledged whose bundles all existed before",
        ),
        records: counter("wal_indexer_worker_records", "Data records of acknowledged segments"),
        read_bytes: counter("wal_indexer_worker_read_bytes", "Bytes of acknowledged segments"),
        bundles: counter("wal_indexer_worker_bundles", "Bundles created"),
        written_bytes: counter("wal_indexer_worker_written_bytes", "Bytes of bundles created"),
        requests: counter("wal_indexer_worker_requests", "Calls that ended, by code and reason"),
        fetched_requests: counter(
            "wal_indexer_worker_fetched_requests",
            "Requests to the store for responses",
        ),
        fetched_bytes: counter("wal_indexer_worker_fetched_bytes", "Bytes read from the store for responses"),
        request_seconds: super::durations(
            &meter,
            "wal_indexer_worker_request_duration_seconds",
            "From a call's first byte to the end of its response",
        ),
        phase_seconds: super::durations(
            &meter,
            "wal_indexer_worker_phase_duration_seconds",
            "The time that acknowledged segments spent in each phase",
        ),
        draining: meter
            .u64_gauge("wal_indexer_worker_draining")
            .with_description("1 if the worker takes no more work")
            .build(),
    }
});

/// The gauges of a worker's state. They are computed when they are read.
fn gauges(state: Arc<dyn Fn() -> State + Send + Sync>) {
    let meter = super::meter();
    let gauge = |name: &'static str, about: &'static str, value: fn(&State) -> u64| {
        let state = Arc::clone(&state);
        let observe = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
            observer.observe(value(&state()), &[]);
        };
        meter.u64_observable_gauge(name).with_description(about).with_callback(observe).build();
    };
    gauge("wal_indexer_worker_memory_budget_bytes", "The memory for all segments", |it| it.budget_bytes);
    gauge("wal_indexer_worker_memory_reserved_bytes", "The reserved part of the budget", |it| {
        it.reserved_bytes
    });
    gauge("wal_indexer_worker_memory_waiting_bytes", "Memory that requests wait for", |it| it.waiting_bytes);
    gauge("wal_indexer_worker_waiting_requests", "Requests that wait for memory", |it| it.waiting_requests);
    gauge("wal_indexer_worker_building_segments", "Segments that are received and indexed", |it| {
        it.building_segments
    });
    gauge("wal_indexer_worker_uploading_segments", "Segments whose bundles are uploaded", |it| {
        it.uploading_segments
    });
    gauge("wal_indexer_worker_backlog_bytes", "Bytes announced and not indexed yet", |it| it.backlog_bytes);
}
