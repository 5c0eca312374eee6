//! A broker's sealed segments, seen from the side that sends them away: what there is, its bytes, and its end.
//!
//! [`SealedSegments`] is what a broker written in Rust implements to offer its own; [`dir::WalDir`] implements it for the
//! directories of Chronik and Kafka. Knows nothing of workers and of when to send what.

pub mod dir;
mod layout;
mod listing;
mod moment;
pub mod note;
mod reader;
mod scan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

use crate::client::Receipt;
use crate::ids::{LogId, SegmentFormat, TopicPartition};

/// A segment that its broker has finished, or seems to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Names it for as long as it is there: no two segments of a log have the same at the same time. For files the path
    /// below the WAL directory.
    pub name: String,
    /// Whose records it holds.
    pub partition: TopicPartition,
    /// The incarnation of the log that its offsets count in.
    pub log_id: LogId,
    /// What its bytes are written in; `None`: recognised from them.
    pub format: Option<SegmentFormat>,
    /// Its place among the segments of its partition, ascending.
    pub position: u64,
    /// What it was when it was listed.
    pub version: Version,
    /// Whether its broker may still append to it. Such a segment is sent, but never deleted.
    pub may_grow: bool,
    /// Whether its broker deletes it itself, in its own time. Then nobody else does.
    pub kept: bool,
    /// What was decided about it before.
    pub verdict: Option<Verdict>,
}

/// Tells one state of a segment from another: where any of this differs, it is another segment's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Its length.
    pub size_bytes: u64,
    /// When it was last written to, by the clock of whoever keeps it.
    #[serde(with = "moment")]
    pub changed_at: SystemTime,
    /// Tells a file from another of the same name: the inode.
    pub identity: u64,
}

/// What was decided about a segment that workers refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It stays, and holds up deletion behind it, until it changes or somebody asks to try again.
    Rejected,
    /// It stays, and an operator accepts that what lies behind it may go.
    Skipped,
}

/// Why a worker refused a segment for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The gRPC code's name: `DATA_LOSS`, `INVALID_ARGUMENT`.
    pub code: String,
    /// The stable reason of the error's `google.rpc.ErrorInfo`.
    pub reason: String,
    /// In words.
    pub message: String,
    /// Where in the segment, in bytes, if that is known.
    pub position: Option<u64>,
}

/// A segment's bytes from its first to its last. Ends with an error where the segment is not, or is no longer, what was
/// listed: whoever has read the last byte and the end behind it has read that version and nothing else.
pub type Reading = Pin<Box<dyn AsyncRead + Send>>;

/// A broker's sealed segments.
///
/// All methods may be called at the same time, for different segments. An error never means that there is nothing: a listing
/// that fails fails as a whole.
pub trait SealedSegments: Send + Sync + 'static {
    /// All segments that may be sent, in any order: those that are sealed, and those that may still grow but should be sent
    /// all the same. Segments that are in use are not among them.
    fn list(&self) -> impl Future<Output = Result<Vec<Segment>, WalError>> + Send;

    /// The bytes of a segment as it was listed.
    fn open(&self, segment: &Segment) -> impl Future<Output = Result<Reading, WalError>> + Send;

    /// Deletes a segment for good: when this returns it will not come back after a crash. The receipt says that it is
    /// stored. Refuses where the segment is no longer what was listed. One that is gone already is no error.
    fn delete(
        &self,
        segment: &Segment,
        receipt: &Receipt,
    ) -> impl Future<Output = Result<(), WalError>> + Send;

    /// Remembers that a worker refused this version of the segment for good: from now on it is listed with
    /// [`Verdict::Rejected`], until it changes.
    fn reject(
        &self,
        segment: &Segment,
        rejection: &Rejection,
    ) -> impl Future<Output = Result<(), WalError>> + Send;

    /// Where workers see the same bytes, if they share the storage: a URL under one of their source roots.
    fn url(&self, segment: &Segment) -> Option<url::Url> {
        let _ = segment;
        None
    }
}

/// Why a segment could not be listed, read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The segment is no longer there.
    #[error("{name} is gone")]
    Gone {
        /// The segment.
        name: String,
    },
    /// The segment is not what it was when it was listed.
    #[error("{name} has changed")]
    Changed {
        /// The segment.
        name: String,
    },
    /// Its broker may still append to it, as to the newest of each partition: it is not deleted.
    #[error("{name} may still grow")]
    MayGrow {
        /// The segment.
        name: String,
    },
    /// Its broker deletes it itself, in its own time.
    #[error("{name} is its broker's to delete")]
    Kept {
        /// The segment.
        name: String,
    },
    /// The receipt is about something else.
    #[error("{name} has {size_bytes} bytes, and the receipt is for {receipt_bytes}")]
    OtherReceipt {
        /// The segment.
        name: String,
        /// Its length.
        size_bytes: u64,
        /// What the receipt says was read.
        receipt_bytes: u64,
    },
    /// There can be no segment of this name.
    #[error("{name} is not the name of a segment")]
    NotASegment {
        /// What was taken for a segment.
        name: String,
    },
    /// Whatever keeps it failed.
    #[error("{what}")]
    Io {
        /// What was tried, and on what.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl WalError {
    /// What a [`Reading`] ended with, if it ended because of the segment and not of the disk.
    pub fn behind(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
