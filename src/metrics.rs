//! The metrics of this process: one named function for each measurement.
//!
//! Measurements go to OpenTelemetry's global meter. If no meter is set up before the first measurement, they
//! cost almost nothing and go nowhere. Names follow Prometheus' conventions: they end with their unit, and
//! counters get `_total` when they are exported. This module does not know what is measured where, or how
//! measurements are read.

pub mod agent;
pub mod client;
pub mod listener;
pub mod process;
pub mod store;
pub mod worker;

use opentelemetry::global;
use opentelemetry::metrics::{Counter, Histogram, Meter};

/// The upper bounds of histogram buckets, in seconds: from a call that is answered from memory to a large
/// segment on a slow store.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

fn meter() -> Meter {
    global::meter("wal-indexer")
}

fn counter(meter: &Meter, name: &'static str, about: &'static str) -> Counter<u64> {
    meter.u64_counter(name).with_description(about).build()
}

fn durations(meter: &Meter, name: &'static str, about: &'static str) -> Histogram<f64> {
    let bounds = SECONDS.to_vec();
    meter.f64_histogram(name).with_description(about).with_boundaries(bounds).build()
}
