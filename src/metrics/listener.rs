//! Metrics of a worker's port: connections, refused connections, and the files that decide who may connect.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};

/// Why a connection did not begin to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// The TLS handshake failed: the caller does not use TLS, or shows no accepted certificate.
    Tls,
    /// It did not send enough in time.
    TimedOut,
    /// Its host, or all hosts together, have as many connections as they may.
    Crowded,
    /// A new one needed its place before it could be used.
    Evicted,
}

/// Why the worker closed a connection that it served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It had no call, and a new one needed its place.
    Evicted,
    /// It was told to go away, and did not.
    Retired,
    /// It sent too many frames that carry nothing.
    Flooding,
}

/// Starts the counters of connections at zero, so that they exist before their first event.
pub fn started() {
    INSTRUMENTS.connections.add(0, &[]);
    add(NotOpened::Tls, 0);
    add(NotOpened::TimedOut, 0);
    add(NotOpened::Crowded, 0);
    add(NotOpened::Evicted, 0);
    [Ended::Evicted, Ended::Retired, Ended::Flooding].into_iter().for_each(|why| add_ended(why, 0));
}

/// Counts a connection that can be used.
pub fn opened() {
    INSTRUMENTS.connections.add(1, &[]);
}

/// Counts a connection that did not begin to be served.
pub fn not_opened(why: NotOpened) {
    add(why, 1);
}

/// Counts a connection that the worker served, and closed.
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
        NotOpened::Evicted => "evicted",
    };
    INSTRUMENTS.not_opened.add(count, &[KeyValue::new("why", why)]);
}

/// Sets when the certificate in use expires, in seconds since 1970.
pub fn certificate_ends(unix_seconds: i64) {
    INSTRUMENTS.certificate_ends.record(unix_seconds, &[]);
}

/// Sets whether changed files are not used because they are not valid.
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
            "Connections that did not begin to be served: no TLS, too little sent in time, or too many",
        ),
        ended: super::counter(
            &meter,
            "wal_indexer_worker_connections_closed",
            "Connections that began to be served and that the worker closed before their callers did",
        ),
        certificate_ends: meter
            .i64_gauge("wal_indexer_worker_certificate_not_after_seconds")
            .with_description("When the certificate in use expires, in seconds since 1970")
            .build(),
        reload_failing: meter
            .u64_gauge("wal_indexer_worker_reload_failing")
            .with_description("1 if changed files are not valid, and the earlier contents stay in use")
            .build(),
    }
});
