//! The outcomes of segments, as events for an observer.

use std::fmt;
use std::time::Duration;

use tracing::info;

use crate::client::Receipt;
use crate::wal::{Hold, Segment};

/// The outcome of one segment, with its details.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// The name of the agent, which is the name of its WAL directory.
    pub agent: &'a str,
    /// The segment.
    pub segment: &'a Segment,
    /// The receipt, if the segment is stored.
    pub receipt: Option<&'a Receipt>,
    /// The time from the first attempt to the last response, if this process sent the segment.
    pub took: Option<Duration>,
    /// The outcome.
    pub outcome: SegmentOutcome<'a>,
}

/// The outcome of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentOutcome<'a> {
    /// It is stored, and permanently deleted.
    Deleted,
    /// It is stored, and stays: its broker deletes it itself or may still append to it, or the agent is set
    /// to delete nothing.
    Kept,
    /// It is stored, and must stay at present, for this reason.
    Held(&'a Hold),
    /// It is stored, and is deleted after the named segment before it.
    WaitsBehind(&'a str),
    /// Workers refused it permanently, for this reason.
    Rejected(&'a str),
    /// It stays, for this reason. It may go later.
    Later(&'a str),
}

impl fmt::Display for SegmentOutcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => f.write_str("deleted"),
            Self::Kept => f.write_str("kept"),
            Self::Held(hold) => write!(f, "stays: {hold}"),
            Self::WaitsBehind(name) => write!(f, "waits behind {name}"),
            Self::Rejected(why) => write!(f, "rejected: {why}"),
            Self::Later(why) => write!(f, "again later: {why}"),
        }
    }
}

/// Logs the stored segments. Failures are logged where they are found.
pub fn log(event: &Event<'_>) {
    let Some(receipt) = event.receipt else { return };
    let (digest, took_ms) = (receipt.digest(), event.took.map(|took| took.as_millis() as u64));
    info!(
        wal_dir = event.agent,
        segment = event.segment.name,
        size_bytes = digest.size_bytes,
        records = receipt.data_records(),
        worker = receipt.worker(),
        attempts = receipt.attempts(),
        already_existed = receipt.already_existed(),
        took_ms,
        "stored, and {}",
        event.outcome
    );
}
