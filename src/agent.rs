//! A broker's WAL empties itself: sealed segments are found, sent, and deleted on their receipts, in order.
//!
//! [`Agent`] looks at the segments every now and then, sends what is ready to be sent, oldest first, several at a time, and
//! remembers each receipt in a [`Checkpoint`] before it acts on it. Of each partition only the contiguous prefix that is stored
//! goes, so that the broker's log never has a hole. Knows nothing of files (that is [`wal`](crate::wal)'s) and of workers
//! (that is [`client`](crate::client)'s).
//!
//! What is sent next is a pure function (`plan`), and so is what may go (`deletable_prefix`). Everything that waits is a task of its own:
//! neither a worker that hangs nor a slow disk keeps the agent from looking at what is there, and from telling of it.

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

pub use check::{Check, CheckError, Prospect, check};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use event::{Event, Fate, log};
pub use in_flight::InFlightLimit;
pub use retention::Retention;

use crate::client::{Client, Payload};
use crate::metrics;
use crate::wal::{Reading, SealedSegments, Segment};

/// How an agent goes about it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From one look at the segments to the next; not zero.
    pub interval: Duration,
    /// A segment is left alone until it has not changed for so long.
    pub min_segment_age: Duration,
    /// How many segments are sent between two looks.
    pub max_segments_per_run: usize,
    /// Whether segments are deleted once they are stored.
    pub delete_after_index: bool,
    /// What stays on disk for longer, although it is stored.
    pub retention: Retention,
    /// Whether bytes of a frame that a segment's end cuts off are kept, or make workers refuse the segment.
    pub keep_torn_tail: bool,
    /// Whether frames that workers cannot decode are kept as they are, or make them refuse the segment.
    pub keep_undecodable: bool,
    /// How long segments on their way may take after the shutdown.
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

/// Looks after the sealed segments of one broker.
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

/// What an agent did, and how it left things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Segments that this process got receipts for.
    pub stored: u64,
    /// Segments that were deleted.
    pub deleted: u64,
    /// Segments that stay until later: not sent, or waiting behind another one.
    pub left: u64,
    /// Segments that stay until somebody decides.
    pub rejected: u64,
    /// Partitions, or directories of several, with which nothing is done until somebody sets something right.
    pub halted: u64,
    /// Whether the segments could be listed.
    pub is_listed: bool,
}

impl<W: SealedSegments> Agent<W> {
    /// An agent called `name` in logs and metrics. Logs what it does; see [`Self::observed_by`].
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

    /// Tells `observer` what becomes of segments, in place of the log. It must not block.
    pub fn observed_by(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// Looks after the segments until `shutdown`. Then nothing new is begun; what is on its way may still arrive, for
    /// [`Settings::drain_max`], and is settled; the rest stays where it is.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Summary {
        metrics::agent::watched(&self.name);
        run::Run::new(self).until(shutdown).await
    }

    /// Looks at the segments once, and sends what is ready to be sent, up to [`Settings::max_segments_per_run`].
    pub async fn run_once(self, shutdown: impl Future<Output = ()>) -> Summary {
        metrics::agent::watched(&self.name);
        run::Run::new(self).once(shutdown).await
    }
}

/// A segment as something to be sent.
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
