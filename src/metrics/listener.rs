//! A worker's port: connections that come, those that come to nothing, and the files that decide who may.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

/// Why a connection came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// It agreed on no TLS: something else is spoken, or no certificate is shown that counts here.
    Tls,
    /// It did not say enough in time.
    TimedOut,
    /// Its host has as many as it may.
    Crowded,
}

/// Why a connection was closed by the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It had no call, and a new one needed its place.
    Evicted,
    /// It was told to go away, and did not.
    Retired,
    /// It sent too many frames that carry nothing.
    Flooding,
}

/// Connections are counted from now on: from zero, rather than from the first event.
pub fn started() {
    INSTRUMENTS.connections.add(0, &[]);
    add(NotOpened::Tls, 0);
    add(NotOpened::TimedOut, 0);
    add(NotOpened::Crowded, 0);
    [Ended::Evicted, Ended::Retired, Ended::Flooding].into_iter().for_each(|why| add_ended(why, 0));
}

/// A connection can be used from now on.
pub fn opened() {
    INSTRUMENTS.connections.add(1, &[]);
}

/// A connection came to nothing.
pub fn not_opened(why: NotOpened) {
    add(why, 1);
}

/// A connection that was in use was closed.
pub fn ended(why: Ended) {
    add_ended(why, 1);
}

fn add_ended(why: Ended, count: u64) {
    let why = match why {
        Ended::Evicted => "evicted",
        Ended::Retired => "retired",
        Ended::Flooding => "flooding",
    };
    INSTRUMENTS.ended.add(count, &[KeyValue::new("why", why)]);
}

fn add(why: NotOpened, count: u64) {
    let why = match why {
        NotOpened::Tls => "tls",
        NotOpened::TimedOut => "timed_out",
        NotOpened::Crowded => "crowded",
    };
    INSTRUMENTS.not_opened.add(count, &[KeyValue::new("why", why)]);
}

/// The certificate in use ends then, in seconds since 1970.
pub fn certificate_ends(unix_seconds: i64) {
    INSTRUMENTS.certificate_ends.record(unix_seconds, &[]);
}

/// Whether files hold something else than what is in use, because it does not fit.
pub fn reload_failing(what: &'static str, is_failing: bool) {
    INSTRUMENTS.reload_failing.record(u64::from(is_failing), &[KeyValue::new("what", what)]);
}

struct Instruments {
    connections: Counter<u64>,
    not_opened: Counter<u64>,
    ended: Counter<u64>,
    certificate_ends: Gauge<i64>,
    reload_failing: Gauge<u64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = super::meter();
    Instruments {
        connections: super::counter(
            &meter,
            "wal_indexer_worker_connections",
            "Connections that began to be served",
        ),
        not_opened: super::counter(
            &meter,
            "wal_indexer_worker_connections_refused",
            "Connections that came to nothing: no TLS, or no word in time",
        ),
        ended: super::counter(
            &meter,
            "wal_indexer_worker_connections_closed",
            "Connections that the worker closed although their callers had not left",
        ),
        certificate_ends: meter
            .i64_gauge("wal_indexer_worker_certificate_not_after_seconds")
            .with_description("When the certificate in use ends, since 1970")
            .build(),
        reload_failing: meter
            .u64_gauge("wal_indexer_worker_reload_failing")
            .with_description("1 where files hold what does not fit, and what was read before stays in use")
            .build(),
    }
});
