//! What becomes of segments, for whoever wants to watch.

use std::fmt;
use std::time::Duration;

use tracing::info;

use crate::client::Receipt;
use crate::wal::{Hold, Segment};

/// What became of a segment.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// Which agent's: the name of its WAL directory.
    pub agent: &'a str,
    /// The segment.
    pub segment: &'a Segment,
    /// Where it is stored, if it is.
    pub receipt: Option<&'a Receipt>,
    /// From the first attempt to the last answer, where this process sent it.
    pub took: Option<Duration>,
    /// What became of it.
    pub fate: Fate<'a>,
}

/// What became of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate<'a> {
    /// It is stored, and deleted for good.
    Deleted,
    /// It is stored, and stays: its broker deletes it itself, or may still append to it, or nothing is to be deleted.
    Kept,
    /// It is stored, and stays at present.
    Held(&'a Hold),
    /// It is stored, and goes when the one before it does.
    WaitsBehind(&'a str),
    /// Workers refused it for good.
    Rejected(&'a str),
    /// It stays for another time.
    Later(&'a str),
}

impl fmt::Display for Fate<'_> {
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

/// Logs what went well. What did not was logged where that was found.
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
        event.fate
    );
}
