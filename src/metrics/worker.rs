//! A worker: what it takes in and puts out, whom it answers what, and how it stands.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram};

/// How a worker stands at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The memory that segments may take together.
    pub budget_bytes: u64,
    /// What of it is reserved.
    pub reserved_bytes: u64,
    /// Requests that wait for memory.
    pub waiting_requests: u64,
    /// What they wait for.
    pub waiting_bytes: u64,
    /// Segments whose bytes arrive and are indexed.
    pub building_segments: u64,
    /// Segments whose bundles go to the store.
    pub uploading_segments: u64,
    /// Bytes of segments that callers have announced and that are not indexed yet; those that wait for memory are among them.
    pub backlog_bytes: u64,
}

/// A worker takes segments from now on: its counters start from zero, rather than from their first event. `state` says how it
/// stands, whenever somebody asks.
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

/// Whether it takes no more work.
pub fn draining(is_draining: bool) {
    INSTRUMENTS.draining.record(u64::from(is_draining), &[]);
}

/// A segment was acknowledged; `already` where no object had to be created for it.
pub fn acknowledged(bytes: u64, records: u64, already: bool) {
    INSTRUMENTS.segments.add(1, &[]);
    INSTRUMENTS.segments_already_indexed.add(u64::from(already), &[]);
    INSTRUMENTS.read_bytes.add(bytes, &[]);
    INSTRUMENTS.records.add(records, &[]);
}

/// A bundle of an acknowledged segment was created.
pub fn bundle_created(bytes: u64) {
    INSTRUMENTS.bundles.add(1, &[]);
    INSTRUMENTS.written_bytes.add(bytes, &[]);
}

/// An acknowledged segment spent so long in a phase.
pub fn phase_took(phase: &'static str, took: Duration) {
    INSTRUMENTS.phase_seconds.record(took.as_secs_f64(), &[KeyValue::new("phase", phase)]);
}

/// A call came to its end; `reason` is the error's stable one, empty where there is none.
pub fn answered(method: &'static str, code: &'static str, reason: String, took: Duration) {
    let method = KeyValue::new("method", method);
    INSTRUMENTS.request_seconds.record(took.as_secs_f64(), std::slice::from_ref(&method));
    INSTRUMENTS.requests.add(1, &[method, KeyValue::new("code", code), KeyValue::new("reason", reason)]);
}

/// A call read so much from the store for its answer.
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
            "Segments acknowledged whose bundles were all there before",
        ),
        records: counter("wal_indexer_worker_records", "Data records of acknowledged segments"),
        read_bytes: counter("wal_indexer_worker_read_bytes", "Bytes of acknowledged segments"),
        bundles: counter("wal_indexer_worker_bundles", "Bundles created"),
        written_bytes: counter("wal_indexer_worker_written_bytes", "Bytes of bundles created"),
        requests: counter("wal_indexer_worker_requests", "Calls that ended, by code and reason"),
        fetched_requests: counter(
            "wal_indexer_worker_fetched_requests",
            "Requests to the store that answers took",
        ),
        fetched_bytes: counter("wal_indexer_worker_fetched_bytes", "Bytes read from the store for answers"),
        request_seconds: super::durations(
            &meter,
            "wal_indexer_worker_request_duration_seconds",
            "From a call's first byte to the end of its answer",
        ),
        phase_seconds: super::durations(
            &meter,
            "wal_indexer_worker_phase_duration_seconds",
            "What acknowledged segments spent in each phase",
        ),
        draining: meter
            .u64_gauge("wal_indexer_worker_draining")
            .with_description("1 where it takes no more work")
            .build(),
    }
});

/// How it stands, computed when somebody asks.
fn gauges(state: Arc<dyn Fn() -> State + Send + Sync>) {
    let meter = super::meter();
    let gauge = |name: &'static str, about: &'static str, value: fn(&State) -> u64| {
        let state = Arc::clone(&state);
        let observe = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
            observer.observe(value(&state()), &[]);
        };
        meter.u64_observable_gauge(name).with_description(about).with_callback(observe).build();
    };
    gauge("wal_indexer_worker_memory_budget_bytes", "What segments may take together", |it| it.budget_bytes);
    gauge("wal_indexer_worker_memory_reserved_bytes", "What of the budget is reserved", |it| {
        it.reserved_bytes
    });
    gauge("wal_indexer_worker_memory_waiting_bytes", "Memory that requests wait for", |it| it.waiting_bytes);
    gauge("wal_indexer_worker_waiting_requests", "Requests that wait for memory", |it| it.waiting_requests);
    gauge("wal_indexer_worker_building_segments", "Segments that are received and indexed", |it| {
        it.building_segments
    });
    gauge("wal_indexer_worker_uploading_segments", "Segments whose bundles go to the store", |it| {
        it.uploading_segments
    });
    gauge("wal_indexer_worker_backlog_bytes", "Bytes announced and not indexed yet", |it| it.backlog_bytes);
}
