//! Metrics of requests to object stores. Each attempt is counted by itself.

use std::sync::LazyLock;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};

/// Counts an attempt at a store's `operation` and how long it took. `outcome` is `ok`, or the kind of the
/// error.
pub fn asked(operation: &'static str, outcome: &'static str, took: Duration) {
    let operation = KeyValue::new("operation", operation);
    INSTRUMENTS.seconds.record(took.as_secs_f64(), std::slice::from_ref(&operation));
    INSTRUMENTS.requests.add(1, &[operation, KeyValue::new("outcome", outcome)]);
}

struct Instruments {
    requests: Counter<u64>,
    seconds: Histogram<f64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = super::meter();
    Instruments {
        requests: super::counter(&meter, "wal_indexer_store_requests", "Attempts at the store, by outcome"),
        seconds: super::durations(
            &meter,
            "wal_indexer_store_request_duration_seconds",
            "How long an attempt at the store took",
        ),
    }
});
