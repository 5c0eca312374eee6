//! Metrics of sending segments to workers.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// Counts an attempt that failed and is followed by another one. `reason` is the stable reason of the error,
/// or the name of the code.
pub fn retried(reason: &str) {
    COUNTERS.retries.add(1, &[KeyValue::new("reason", reason.to_owned())]);
}

/// Counts a name whose addresses could not be looked up. The known addresses stay in use.
pub fn lookup_failed(host: &str) {
    COUNTERS.failed_lookups.add(1, &[KeyValue::new("host", host.to_owned())]);
}

struct Counters {
    retries: Counter<u64>,
    failed_lookups: Counter<u64>,
}

static COUNTERS: LazyLock<Counters> = LazyLock::new(|| {
    let meter = super::meter();
    Counters {
        retries: super::counter(
            &meter,
            "wal_indexer_client_retries",
            "Attempts that failed and were made again",
        ),
        failed_lookups: super::counter(
            &meter,
            "wal_indexer_client_failed_lookups",
            "Names that could not be looked up",
        ),
    }
});
