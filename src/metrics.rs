//! What this process measures: one named function for each measurement.
//!
//! Measurements go to OpenTelemetry's global meter: without one that somebody has set up before the first measurement, they
//! cost next to nothing and go nowhere. Names follow Prometheus' conventions: they end in their unit, and what only grows gets
//! `_total` where it is served. Knows nothing of who measures, and of how measurements are read.

pub mod agent;
pub mod client;
pub mod listener;
pub mod process;
pub mod store;
pub mod worker;

use opentelemetry::global;
use opentelemetry::metrics::{Counter, Histogram, Meter};

/// Upper bounds in seconds: from a call that finds its answer in memory to a large segment on a slow store.
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
