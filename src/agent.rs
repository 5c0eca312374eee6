//! The agent that empties a broker's WAL. It finds sealed segments, sends them to workers, and deletes them
//! in order when it has receipts for them.
//!
//! [`Agent`] lists the segments at an interval. It sends the segments that are ready, the oldest first,
//! several at a time. It writes each receipt to a [`Checkpoint`] before it acts on the receipt. In each
//! partition it deletes only the contiguous prefix of stored segments, so that the broker's log never has a
//! hole. The agent knows nothing of files (see [`wal`](crate::wal)) or of workers (see
//! [`client`](crate::client)).
//!
//! Two pure functions decide what to send next (`plan`) and what may be deleted (`deletable_prefix`).
//! Everything that waits is a separate task. So neither a worker that hangs nor a slow disk stops the agent
//! from listing the segments and reporting their state.

mod check;
mod checkpoint;
mod deletable_prefix;
mod event;
mod in_flight;
mod journal;
mod logs;
mod plan;
mod retention;
mod run;
mod segment_states;
mod send;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use check::{Check, CheckError, PlannedAction, check};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use event::{Event, SegmentOutcome, log};
pub use in_flight::InFlightLimit;
pub use retention::Retention;

use crate::client::{Client, Payload};
use crate::metrics;
use crate::wal::{Reading, SealedSegments, Segment};

/// The settings of an agent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The time between two listings of the segments. It must not be zero.
    pub interval: Duration,
    /// A segment is sent only when it has not changed for this time.
    pub min_segment_age: Duration,
    /// The largest number of segments that are sent after one listing. For more, the agent lists the segments
    /// again.
    pub max_segments_per_run: usize,
    /// Whether segments are deleted once they are stored.
    pub delete_after_index: bool,
    /// Which stored segments stay on disk for longer.
    pub retention: Retention,
    /// Whether the bytes of a frame that the end of a segment cuts off are kept. If not, workers refuse the
    /// segment.
    pub keep_torn_tail: bool,
    /// Whether frames that workers cannot decode are kept as they are. If not, workers refuse the segment.
    pub keep_undecodable: bool,
    /// How long the agent waits, after the shutdown, for segments in flight and for deletions.
    pub drain_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            min_segment_age: Duration::from_secs(10),
            max_segments_per_run: 100,
            delete_after_index: true,
            retention: Retention::default(),
            keep_torn_tail: false,
            keep_undecodable: false,
            drain_max: Duration::from_secs(30),
        }
    }
}

/// An agent that sends and deletes the sealed segments of one broker.
pub struct Agent<W> {
    name: Arc<str>,
    wal: Arc<W>,
    client: Client,
    checkpoint: Checkpoint,
    in_flight_limit: InFlightLimit,
    settings: Settings,
    observer: Observer,
}

type Observer = Arc<dyn Fn(&Event<'_>) + Send + Sync>;

/// The result of a run: what the agent did, and what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The number of segments for which this process got receipts.
    pub stored: u64,
    /// The number of segments that were deleted.
    pub deleted: u64,
    /// The number of segments that stay until later: they are not sent, or they wait behind another segment.
    pub left: u64,
    /// The number of rejected segments. They stay until an operator decides what to do with them.
    pub rejected: u64,
    /// The number of halted partitions, or directories of several partitions. The agent does nothing with
    /// them until the cause is corrected.
    pub halted: u64,
    /// Whether the last listing of the segments succeeded.
    pub is_listed: bool,
}

impl<W: SealedSegments> Agent<W> {
    /// Creates an agent. `name` identifies it in logs and metrics. The agent logs what it does; see
    /// [`Self::observed_by`].
    pub fn new(
        name: &str,
        wal: W,
        client: Client,
        checkpoint: Checkpoint,
        in_flight_limit: InFlightLimit,
        settings: Settings,
    ) -> Self {
        let (name, wal) = (name.into(), Arc::new(wal));
        Self { name, wal, client, checkpoint, in_flight_limit, settings, observer: Arc::new(log) }
    }

    /// Reports the outcomes of segments to `observer` instead of the log. `observer` must not block.
    pub fn observed_by(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// Runs until `shutdown`. Then the agent sends no new segments. It waits up to [`Settings::drain_max`]
    /// for segments in flight and for deletions of stored segments. All other segments stay where they are.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Summary {
        metrics::agent::watched(&self.name);
        run::Run::new(self).until(shutdown).await
    }

    /// Sends all segments that are ready, up to [`Settings::max_segments_per_run`] after each listing, until
    /// none is left or until `shutdown`. Each segment is tried once.
    pub async fn run_once(self, shutdown: impl Future<Output = ()>) -> Summary {
        metrics::agent::watched(&self.name);
        run::Run::new(self).once(shutdown).await
    }
}

/// A segment as a payload that a client sends.
struct SegmentBytes<W> {
    wal: Arc<W>,
    segment: Segment,
}

impl<W: SealedSegments> Payload for SegmentBytes<W> {
    type Bytes = Reading;

    fn size_bytes(&self) -> u64 {
        self.segment.version.size_bytes
    }

    async fn open(&self) -> io::Result<Reading> {
        self.wal.open(&self.segment).await.map_err(io::Error::other)
    }
}
