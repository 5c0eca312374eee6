//! What this worker has done since it started, and what it is doing now: one named function for each
//! measurement. The counts also go to `metrics`, so that `GetStats` and Prometheus agree. This module does
//! not know where the numbers are shown.

pub mod topics;

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::ids::SegmentId;
use crate::metrics;

use topics::Topics;

/// The counts of one process. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Stats {
    inner: Arc<Mutex<Inner>>,
    started: Instant,
}

#[derive(Debug)]
struct Inner {
    totals: Totals,
    rejected: BTreeMap<&'static str, u64>,
    topics: Topics,
    jobs: BTreeMap<u64, Arc<JobState>>,
    next_job: u64,
    latency_us: Histogram<u64>,
}

/// Totals since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Segments that were acknowledged.
    pub segments: u64,
    /// The part of these whose objects all existed before.
    pub segments_already_indexed: u64,
    /// Data records of acknowledged segments.
    pub records: u64,
    /// Bundles that this process created.
    pub bundles_created: u64,
    /// Requests that ended in INTERNAL.
    pub errors: u64,
    /// Bytes of segments, received or read.
    pub bytes_read: u64,
    /// Bytes of bundles created.
    pub bytes_written: u64,
    /// Milliseconds that requests spent between admission and their end, added up over requests.
    pub busy_ms: u64,
}

/// The totals of one topic since the process started, for acknowledged segments only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicTotals {
    /// Segments with records of the topic.
    pub segments: u64,
    /// Data records.
    pub records: u64,
    /// Bytes of the topic's frames in the segments.
    pub bytes_read: u64,
    /// Bytes of the bundles created.
    pub bytes_written: u64,
}

/// How long acknowledged requests took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The number of requests.
    pub count: u64,
    /// Half of the requests took no longer.
    pub p50_us: u64,
    /// 90 % of the requests took no longer.
    pub p90_us: u64,
    /// 99 % of the requests took no longer.
    pub p99_us: u64,
    /// The longest time.
    pub max_us: u64,
}

/// The phase of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for memory.
    Waiting,
    /// Its bytes are received and indexed.
    Building,
    /// Its bundles are stored and checked.
    Uploading,
}

impl AddAssign for TopicTotals {
    fn add_assign(&mut self, other: Self) {
        self.segments += other.segments;
        self.records += other.records;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
    }
}

/// A request in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    /// The caller's name for the segment.
    pub segment_id: String,
    /// Its phase.
    pub phase: Phase,
    /// The segment's size in bytes.
    pub bytes_total: u64,
    /// The number of bytes that are indexed.
    pub bytes_done: u64,
    /// The number of data records that are indexed.
    pub records_done: u64,
    /// The time since it began.
    pub age: Duration,
}

/// All counts at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The time since the process started.
    pub uptime: Duration,
    /// The totals.
    pub totals: Totals,
    /// Refused or failed requests by the name of their gRPC code.
    pub rejected: BTreeMap<&'static str, u64>,
    /// The totals by topic, sorted: the [`TOPICS_MAX`](topics::TOPICS_MAX) topics with the most bytes, and
    /// all others under the empty name.
    pub topics: BTreeMap<String, TopicTotals>,
    /// The requests in flight, oldest first.
    pub jobs: Vec<JobView>,
    /// The latency of acknowledged requests.
    pub latency: Latency,
}

#[derive(Debug)]
struct JobState {
    segment_id: SegmentId,
    bytes_total: u64,
    phase: AtomicU8,
    bytes_done: AtomicU64,
    records_done: AtomicU64,
    began: Instant,
    /// When its wait for memory ended.
    admitted: OnceLock<Instant>,
}

/// A request that counts as in flight until this is dropped.
#[derive(Debug)]
pub struct Job {
    stats: Stats,
    id: u64,
    state: Arc<JobState>,
}

/// The maximum latency that is recorded: an hour, in microseconds.
const LATENCY_US_MAX: u64 = 3_600_000_000;

impl Default for Stats {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
            .expect("the bounds are constants that hdrhistogram accepts");
        let inner = Inner {
            totals: Totals::default(),
            rejected: BTreeMap::new(),
            topics: Topics::default(),
            jobs: BTreeMap::new(),
            next_job: 0,
            latency_us,
        };
        Self { inner: Arc::new(Mutex::new(inner)), started: Instant::now() }
    }
}

impl Stats {
    /// Registers a request whose bytes have not come yet.
    pub fn job_started(&self, segment_id: &SegmentId, bytes_total: u64) -> Job {
        let state = Arc::new(JobState {
            segment_id: segment_id.clone(),
            bytes_total,
            phase: AtomicU8::new(Phase::Waiting as u8),
            bytes_done: AtomicU64::new(0),
            records_done: AtomicU64::new(0),
            began: Instant::now(),
            admitted: OnceLock::new(),
        });
        let mut inner = self.lock();
        let id = inner.next_job;
        inner.next_job += 1;
        inner.jobs.insert(id, Arc::clone(&state));
        Job { stats: self.clone(), id, state }
    }

    /// Counts a segment that was acknowledged after `took`. `already`: no object had to be created for it.
    pub fn segment_acknowledged(&self, bytes_read: u64, records: u64, already: bool, took: Duration) {
        metrics::worker::acknowledged(bytes_read, records, already);
        let mut inner = self.lock();
        inner.totals.segments += 1;
        inner.totals.segments_already_indexed += u64::from(already);
        inner.totals.records += records;
        inner.totals.bytes_read += bytes_read;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_US_MAX);
        inner.latency_us.saturating_record(micros);
    }

    /// Counts one partition's part of an acknowledged segment. `created_bytes` is the size of its bundle, if
    /// this process created it.
    pub fn partition_acknowledged(
        &self,
        topic: &str,
        bytes_read: u64,
        records: u64,
        created_bytes: Option<u64>,
    ) {
        created_bytes.into_iter().for_each(metrics::worker::bundle_created);
        let mut inner = self.lock();
        let written = created_bytes.unwrap_or(0);
        inner.totals.bundles_created += u64::from(created_bytes.is_some());
        inner.totals.bytes_written += written;
        inner.topics.count(topic, TopicTotals { segments: 1, records, bytes_read, bytes_written: written });
    }

    /// Counts a request that was refused or failed, with this gRPC code.
    pub fn request_rejected(&self, code: &'static str, internal: bool) {
        let mut inner = self.lock();
        *inner.rejected.entry(code).or_default() += 1;
        inner.totals.errors += u64::from(internal);
    }

    /// Returns all counts at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            uptime: self.started.elapsed(),
            totals: inner.totals,
            rejected: inner.rejected.clone(),
            topics: inner.topics.largest(),
            jobs: inner.jobs(),
            latency: Latency {
                count: inner.latency_us.len(),
                p50_us: inner.latency_us.value_at_quantile(0.50),
                p90_us: inner.latency_us.value_at_quantile(0.90),
                p99_us: inner.latency_us.value_at_quantile(0.99),
                max_us: inner.latency_us.max(),
            },
        }
    }

    /// Requests in flight, oldest first.
    pub fn jobs(&self) -> Vec<JobView> {
        self.lock().jobs()
    }

    /// The time since the process started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Locks the counters, also after a thread panicked with the lock: each counter is valid by itself.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn jobs(&self) -> Vec<JobView> {
        self.jobs.values().map(|job| job.view()).collect()
    }
}

impl Job {
    /// Sets the phase of the request.
    pub fn enter(&self, phase: Phase) {
        if phase != Phase::Waiting {
            self.state.admitted.get_or_init(Instant::now);
        }
        self.state.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Records that a part of the segment has been indexed.
    pub fn progressed(&self, bytes: u64, records: u64) {
        self.state.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        self.state.records_done.fetch_add(records, Ordering::Relaxed);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let busy = self.state.admitted.get().map_or(Duration::ZERO, Instant::elapsed);
        let busy_ms = u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
        let mut inner = self.stats.lock();
        inner.jobs.remove(&self.id);
        inner.totals.busy_ms += busy_ms;
    }
}

impl JobState {
    fn view(&self) -> JobView {
        JobView {
            segment_id: self.segment_id.as_str().to_owned(),
            phase: match self.phase.load(Ordering::Relaxed) {
                phase if phase == Phase::Building as u8 => Phase::Building,
                phase if phase == Phase::Uploading as u8 => Phase::Uploading,
                _ => Phase::Waiting,
            },
            bytes_total: self.bytes_total,
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            records_done: self.records_done.load(Ordering::Relaxed),
            age: self.began.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_busy_from_its_admission_on() {
        let (stats, pause) = (Stats::default(), Duration::from_millis(30));
        let segment_id = SegmentId::new("a").expect("short");
        let job = stats.job_started(&segment_id, 1);
        std::thread::sleep(pause);
        drop(job);
        assert_eq!(stats.snapshot().totals.busy_ms, 0, "it only waited");
        let job = stats.job_started(&segment_id, 1);
        job.enter(Phase::Building);
        std::thread::sleep(pause);
        job.enter(Phase::Uploading);
        drop(job);
        assert!(stats.snapshot().totals.busy_ms >= 30);
    }
}
