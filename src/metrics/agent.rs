//! Metrics of an agent: what is in WAL directories, and the outcomes. All of them have the label `wal_dir`.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Counter, Meter};

/// What is on disk in a WAL directory, and what of it is not stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// When the directory was last listed.
    pub listed_at: Instant,
    /// Segments without a receipt, with rejected ones, but without those that an operator skipped.
    pub segments: u64,
    /// The bytes of these segments.
    pub bytes: u64,
    /// Bytes of all sealed segments on disk, with or without a receipt.
    pub sealed_bytes: u64,
    /// Segments that workers refused permanently and that no operator skipped.
    pub rejected: u64,
    /// Segments that an operator skipped.
    pub skipped: u64,
    /// Since when the oldest segment without a receipt waits. `None` if there is none.
    pub oldest: Option<Waiting>,
    /// Stored segments that should be deleted and must stay at present, by reason.
    pub held: BTreeMap<&'static str, u64>,
    /// Partitions in which nothing may be deleted at present, by reason.
    pub held_partitions: BTreeMap<&'static str, u64>,
    /// The number of partitions. `None` if it is unknown.
    pub partitions: Option<u64>,
    /// The halted partitions, or directories of several partitions: names, and reasons.
    pub halted: BTreeMap<String, &'static str>,
}

/// Since when a segment waits. Its age is the greater one of two, because the clock of a file may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// When it was last written, by the clock of the file.
    pub changed_at: SystemTime,
    /// When it was first seen.
    pub seen_at: Instant,
}

impl Waiting {
    /// Combines two waits: the earlier time by each clock.
    pub fn longer(self, other: Self) -> Self {
        Self { changed_at: self.changed_at.min(other.changed_at), seen_at: self.seen_at.min(other.seen_at) }
    }

    fn age_seconds(&self) -> f64 {
        let by_the_file = self.changed_at.elapsed().unwrap_or_default();
        by_the_file.max(self.seen_at.elapsed()).as_secs_f64()
    }
}

/// Starts the counters of a WAL directory at zero, so that they exist before their first event.
pub fn watched(wal_dir: &str) {
    let counters = &*COUNTERS;
    let dir = [directory(wal_dir)];
    for counter in [
        &counters.acknowledged_segments,
        &counters.acknowledged_bytes,
        &counters.acknowledged_records,
        &counters.deleted_segments,
        &counters.vanished_segments,
        &counters.mismatches,
        &counters.failed_deletions,
        &counters.failed_listings,
    ] {
        counter.add(0, &dir);
    }
}

/// Sets what is in a directory now.
pub fn backlog(wal_dir: &str, backlog: Backlog) {
    LazyLock::force(&COUNTERS);
    backlogs().insert(wal_dir.to_owned(), backlog);
}

/// Counts a directory that could not be listed. Its [`Backlog`] stays the same, and gets older.
pub fn listing_failed(wal_dir: &str) {
    COUNTERS.failed_listings.add(1, &[directory(wal_dir)]);
}

/// Counts a stored segment of a directory.
pub fn acknowledged(wal_dir: &str, bytes: u64, records: u64) {
    let dir = [directory(wal_dir)];
    COUNTERS.acknowledged_segments.add(1, &dir);
    COUNTERS.acknowledged_bytes.add(bytes, &dir);
    COUNTERS.acknowledged_records.add(records, &dir);
}

/// Counts a segment of a directory that was deleted on its receipt.
pub fn deleted(wal_dir: &str) {
    COUNTERS.deleted_segments.add(1, &[directory(wal_dir)]);
}

/// Counts segments of a directory that are gone, and for which there is no receipt.
pub fn vanished(wal_dir: &str, segments: u64) {
    COUNTERS.vanished_segments.add(segments, &[directory(wal_dir)]);
}

/// Counts a failed attempt to delete a stored segment of a directory.
pub fn deletion_failed(wal_dir: &str) {
    COUNTERS.failed_deletions.add(1, &[directory(wal_dir)]);
}

/// Counts a segment that a worker refused permanently. `reason` is the stable reason of the error, or the
/// name of the code.
pub fn rejected(wal_dir: &str, reason: &str) {
    COUNTERS.rejections.add(1, &[directory(wal_dir), KeyValue::new("reason", reason.to_owned())]);
}

/// Counts a refusal because of this client, or of something else that must be corrected first. `reason` is
/// the stable reason of the error, or the name of the code.
pub fn refused(wal_dir: &str, reason: &str) {
    COUNTERS.refusals.add(1, &[directory(wal_dir), KeyValue::new("reason", reason.to_owned())]);
}

/// Counts a receipt that does not match the bytes on disk. Nothing was deleted, and an operator should
/// investigate.
pub fn mismatched(wal_dir: &str) {
    COUNTERS.mismatches.add(1, &[directory(wal_dir)]);
}

struct Counters {
    acknowledged_segments: Counter<u64>,
    acknowledged_bytes: Counter<u64>,
    acknowledged_records: Counter<u64>,
    deleted_segments: Counter<u64>,
    vanished_segments: Counter<u64>,
    failed_deletions: Counter<u64>,
    rejections: Counter<u64>,
    refusals: Counter<u64>,
    mismatches: Counter<u64>,
    failed_listings: Counter<u64>,
}

static COUNTERS: LazyLock<Counters> = LazyLock::new(|| {
    let meter = super::meter();
    gauges(&meter);
    let counter = |name, about| super::counter(&meter, name, about);
    Counters {
        acknowledged_segments: counter("wal_indexer_agent_acknowledged_segments", "Segments stored"),
        acknowledged_bytes: counter("wal_indexer_agent_acknowledged_bytes", "Bytes of segments stored"),
        acknowledged_records: counter("wal_indexer_agent_acknowledged_records", "Records stored"),
        deleted_segments: counter("wal_indexer_agent_deleted_segments", "Segments deleted on their receipts"),
        vanished_segments: counter(
            "wal_indexer_agent_vanished_segments",
            "Segments that were gone before they were stored",
        ),
        failed_deletions: counter(
            "wal_indexer_agent_failed_deletions",
            "Attempts to delete stored segments that failed",
        ),
        rejections: counter("wal_indexer_agent_rejections", "Segments that workers refused permanently"),
        refusals: counter("wal_indexer_agent_refusals", "Refusals for a cause that must be corrected first"),
        mismatches: counter("wal_indexer_agent_mismatches", "Receipts that do not match the bytes on disk"),
        failed_listings: counter("wal_indexer_agent_failed_listings", "Directories that could not be listed"),
    }
});

static BACKLOGS: Mutex<BTreeMap<String, Backlog>> = Mutex::new(BTreeMap::new());

fn backlogs() -> MutexGuard<'static, BTreeMap<String, Backlog>> {
    BACKLOGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The gauges of what is there now. They are computed when they are read.
fn gauges(meter: &Meter) {
    let count = |name: &'static str, about: &'static str, value: fn(&Backlog) -> u64| {
        meter.u64_observable_gauge(name).with_description(about).with_callback(observe(value)).build();
    };
    count("wal_indexer_agent_backlog_segments", "Segments without a receipt", |it| it.segments);
    count("wal_indexer_agent_backlog_bytes", "Bytes of segments without a receipt", |it| it.bytes);
    count("wal_indexer_agent_sealed_bytes", "Bytes of all sealed segments on disk", |it| it.sealed_bytes);
    count("wal_indexer_agent_rejected_segments", "Segments that stay until an operator decides", |it| {
        it.rejected
    });
    count("wal_indexer_agent_skipped_segments", "Segments that an operator skipped", |it| it.skipped);

    let by_reason =
        |name: &'static str, about: &'static str, counts: fn(&Backlog) -> &BTreeMap<&'static str, u64>| {
            meter
                .u64_observable_gauge(name)
                .with_description(about)
                .with_callback(observe_reasons(counts))
                .build();
        };
    by_reason("wal_indexer_agent_held_segments", "Stored segments that stay at present, by reason", |it| {
        &it.held
    });
    by_reason(
        "wal_indexer_agent_held_partitions",
        "Partitions in which nothing may be deleted, by reason",
        |it| &it.held_partitions,
    );

    count("wal_indexer_agent_halted_partitions", "Halted partitions: nothing is done with them", |it| {
        it.halted.len() as u64
    });
    meter
        .u64_observable_gauge("wal_indexer_agent_halted_partition")
        .with_description("1 for each halted partition, by its name and the reason")
        .with_callback(observe_halted)
        .build();
    meter
        .u64_observable_gauge("wal_indexer_agent_partitions")
        .with_description("Partitions that have a segment")
        .with_callback(observe_partitions)
        .build();

    let age = |name: &'static str, about: &'static str, value: fn(&Backlog) -> f64| {
        meter.f64_observable_gauge(name).with_description(about).with_callback(observe(value)).build();
    };
    age("wal_indexer_agent_oldest_unsent_age_seconds", "Age of the oldest segment without a receipt", |it| {
        it.oldest.as_ref().map_or(0.0, Waiting::age_seconds)
    });
    age("wal_indexer_agent_listing_age_seconds", "Time since the directory was last listed", |it| {
        it.listed_at.elapsed().as_secs_f64()
    });
}

fn observe<T>(value: fn(&Backlog) -> T) -> impl Fn(&dyn AsyncInstrument<T>) + Send + Sync + 'static
where
    T: 'static,
{
    move |observer| {
        for (wal_dir, backlog) in &*backlogs() {
            observer.observe(value(backlog), &[directory(wal_dir)]);
        }
    }
}

/// All reasons for which a segment may be held. Reasons without segments are reported as zero.
const HOLDS: [&str; 7] = [
    "broker_not_ready",
    "end_of_log",
    "not_last_written",
    "open_for_writing",
    "retention",
    "unsettled",
    "writers_unknown",
];

fn observe_reasons(
    counts: fn(&Backlog) -> &BTreeMap<&'static str, u64>,
) -> impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static {
    move |observer| {
        for (wal_dir, backlog) in &*backlogs() {
            for reason in HOLDS {
                let count = counts(backlog).get(reason).copied().unwrap_or_default();
                observer.observe(count, &[directory(wal_dir), KeyValue::new("reason", reason)]);
            }
        }
    }
}

/// The maximum number of halted partitions of a directory that are named. If all partitions failed, there
/// would be too many time series.
const HALTED_NAMES_MAX: usize = 200;

fn observe_halted(observer: &dyn AsyncInstrument<u64>) {
    for (wal_dir, backlog) in &*backlogs() {
        for (name, reason) in backlog.halted.iter().take(HALTED_NAMES_MAX) {
            let partition = KeyValue::new("partition", name.clone());
            observer.observe(1, &[directory(wal_dir), partition, KeyValue::new("reason", *reason)]);
        }
    }
}

fn observe_partitions(observer: &dyn AsyncInstrument<u64>) {
    for (wal_dir, backlog) in &*backlogs() {
        if let Some(partitions) = backlog.partitions {
            observer.observe(partitions, &[directory(wal_dir)]);
        }
    }
}

fn directory(wal_dir: &str) -> KeyValue {
    KeyValue::new("wal_dir", wal_dir.to_owned())
}
