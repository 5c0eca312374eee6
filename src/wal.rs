//! A broker's sealed segments, as the agent sees them: which segments there are, their bytes, and their
//! deletion.
//!
//! A broker written in Rust implements [`SealedSegments`] to offer its own segments. [`dir::WalDir`]
//! implements it for the directories of Chronik and Kafka. This module does not know workers, nor when to
//! send which segment. An implementation that keeps segments in files can use [`look_at`], [`open_file`] and
//! [`check_file`], which read exactly one version of a file.

pub mod dir;
mod frames;
mod hold;
mod ignored;
mod layout;
mod lease;
mod listing;
mod reader;
pub mod rejection_note;
mod root_hint;
mod scan;
#[cfg(test)]
mod tests;
mod timestamp;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

pub use reader::{check_file, look_at, open_file};

use crate::client::Receipt;
use crate::ids::{LogId, OffsetRange, SegmentFormat, TopicPartition};

/// A segment that its broker has finished, or seems to have finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name. No two segments of a log have the same name at the same time. For files it is the path below
    /// the WAL directory.
    pub name: String,
    /// The partition of its records.
    pub partition: TopicPartition,
    /// The incarnation of the log that its offsets count in.
    pub log_id: LogId,
    /// The format of its bytes; `None`: the worker recognises it from the bytes.
    pub format: Option<SegmentFormat>,
    /// Its place among the segments of its partition, ascending.
    pub position: u64,
    /// The state of the segment when it was listed.
    pub version: Version,
    /// Whether its broker may still append to it. Such a segment may be sent, but is never deleted.
    pub may_grow: bool,
    /// Whether its broker deletes it itself. Then nobody else does.
    pub broker_deletes: bool,
    /// An earlier decision about it.
    pub verdict: Option<Verdict>,
    /// The time of the last change of any kind. `None`: it is not known.
    pub change_time: Option<ChangeTime>,
    /// The offsets that it may hold, by its own name and the next segment's. A worker refuses the segment if
    /// it holds others. `None`: the names do not show them.
    pub bounds: Option<OffsetRange>,
}

/// The time of a file's last change of any kind (`st_ctime`): of its bytes, its times, its owner or its
/// names. It cannot be set back. So it shows that bytes were replaced, even if [`Version`] is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeTime {
    /// Whole seconds since the Unix epoch.
    pub secs: i64,
    /// Nanoseconds after the whole second.
    pub nanos: i64,
}

/// The part of a broker's log that may be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The segments, in any order.
    pub segments: Vec<Segment>,
    /// The partitions in which nothing may be deleted at present, with the reason. Their sealed segments are
    /// still sent.
    pub held: Vec<(TopicPartition, Hold)>,
    /// The parts that could not be listed, while all others could. The segments there are unknown: an error
    /// never means that there are none.
    pub halted: Vec<Halted>,
    /// For each partition, the facts that distinguish its log from another one of the same name. If a
    /// partition is missing, only the segments' log ids distinguish its logs.
    pub logs: BTreeMap<TopicPartition, LogSigns>,
    /// The number of partitions that have a segment, including a segment that is in use; `None`: they were
    /// not counted.
    pub partitions: Option<u64>,
    /// If there is no partition: a text that names another directory with partitions.
    pub hint: Option<String>,
}

/// A part of a log that is halted at present: nothing of it is sent or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halted {
    /// The prefix of its segments' names, up to a slash. For files it is the directory, below the WAL
    /// directory.
    pub name: String,
    /// The partition, if it is known.
    pub partition: Option<TopicPartition>,
    /// The reason.
    pub halt: Halt,
}

impl Halted {
    /// Whether a segment belongs to it.
    pub fn covers(&self, segment: &str, partition: &TopicPartition) -> bool {
        let is_below = || segment.strip_prefix(&*self.name).is_some_and(|rest| rest.starts_with('/'));
        self.partition.as_ref() == Some(partition) || is_below()
    }
}

/// Why a part of a log is halted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It cannot be read, for this reason.
    Unreadable(String),
    /// The log's id should be beside its segments, but cannot be read, for this reason.
    LogIdUnreadable(String),
    /// The log's id is no longer beside its segments, and its offsets start again.
    LogIdLost,
    /// The log was deleted and created again. Its offsets start again, under a log id that earlier records
    /// are stored under.
    CreatedAgain {
        /// The log id.
        log_id: LogId,
    },
}

impl Halt {
    /// A stable name, as used in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::LogIdUnreadable(_) => "log_id_unreadable",
            Self::LogIdLost => "log_id_lost",
            Self::CreatedAgain { .. } => "created_again",
        }
    }
}

impl Halt {
    /// Whether the segments there are unknown. If not, they were listed, but are neither sent nor deleted.
    pub fn is_unlisted(&self) -> bool {
        matches!(self, Self::Unreadable(_) | Self::LogIdUnreadable(_))
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => f.write_str(why),
            Self::LogIdUnreadable(why) => write!(f, "it is not known which log it is: {why}"),
            Self::LogIdLost => f.write_str(
                "its partition.metadata is gone and its offsets start again, so it is not known which log it is: \
                 put the file back, or name the log with --log-id TOPIC=ID",
            ),
            Self::CreatedAgain { log_id } => write!(
                f,
                "it was deleted and created again: its offsets start again, and earlier records are stored under \
                 log id {:?}; give it another one with --log-id TOPIC=ID",
                log_id.as_str()
            ),
        }
    }
}

/// The facts that distinguish a partition's log from another one of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSigns {
    /// Whether the log itself has an id, as Kafka's does. If not, [`Segment::log_id`] is the configured one.
    pub has_own_id: bool,
    /// Distinguishes the log's directory from another one of the same name.
    pub birth: Option<DirectoryIdentity>,
}

/// The identity of a partition's directory: its inode and its creation time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryIdentity {
    /// The directory's inode.
    pub inode: u64,
    /// The creation time, in nanoseconds since the Unix epoch; `None` if the file system does not record it.
    pub nanos: Option<i64>,
}

impl From<Vec<Segment>> for Listing {
    /// A listing of segments, without holds.
    fn from(segments: Vec<Segment>) -> Self {
        Self { segments, ..Self::default() }
    }
}

/// Why a stored segment must stay on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hold {
    /// No later segment of the partition holds a whole frame beyond its last offset. A broker that starts
    /// reads the end of the log from this segment.
    EndOfLog,
    /// The partition's highest segment is not the one that was last written to. The broker may still append
    /// to a lower one.
    NotLastWritten,
    /// Segments of the partition changed too recently to know which of them the broker continues with.
    Unsettled,
    /// A process has the file open for writing.
    OpenForWriting,
    /// It is not known whether a process has the file open for writing, for this reason.
    WritersUnknown(String),
    /// The broker still needs it, for this reason.
    BrokerNotReady(String),
    /// It must stay on disk for a configured time.
    Retention,
}

impl Hold {
    /// A stable name, as used in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::EndOfLog => "end_of_log",
            Self::NotLastWritten => "not_last_written",
            Self::Unsettled => "unsettled",
            Self::OpenForWriting => "open_for_writing",
            Self::WritersUnknown(_) => "writers_unknown",
            Self::BrokerNotReady(_) => "broker_not_ready",
            Self::Retention => "retention",
        }
    }

    /// Whether it is a normal state that needs no waiting and no attention.
    pub fn is_steady(&self) -> bool {
        matches!(self, Self::EndOfLog | Self::Retention)
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndOfLog => f.write_str("it holds the end of the log"),
            Self::NotLastWritten => {
                f.write_str("the partition's highest segment is not the one that was last written to")
            }
            Self::Unsettled => f.write_str("the partition changed too recently"),
            Self::OpenForWriting => f.write_str("it is open for writing"),
            Self::WritersUnknown(why) => write!(f, "it is not known whether it is open for writing: {why}"),
            Self::BrokerNotReady(why) => write!(f, "the broker is not ready: {why}"),
            Self::Retention => f.write_str("it must stay on disk for longer"),
        }
    }
}

/// Distinguishes one state of a segment from another. If any field differs, the bytes are those of another
/// segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Its length.
    pub size_bytes: u64,
    /// When it was last written to, by the clock of the system that stores it.
    #[serde(with = "timestamp")]
    pub changed_at: SystemTime,
    /// Distinguishes a file from another one of the same name: the inode.
    pub identity: u64,
}

/// A decision about a segment that workers refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It stays, and blocks the deletion of later segments, until it changes or an operator asks to try
    /// again.
    Rejected,
    /// It stays, and an operator accepts that later segments may be deleted.
    Skipped,
}

/// Why a worker refused a segment for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The gRPC code's name: `DATA_LOSS`, `INVALID_ARGUMENT`.
    pub code: String,
    /// The stable reason of the error's `google.rpc.ErrorInfo`.
    pub reason: String,
    /// The error message.
    pub message: String,
    /// The position of the error in the segment, in bytes, if it is known.
    pub position: Option<u64>,
}

/// A segment's bytes from the first to the last. It ends with an error if the segment is not, or is no
/// longer, the listed version. So a caller that reads up to the end without an error has read exactly that
/// version.
pub type Reading = Pin<Box<dyn AsyncRead + Send>>;

/// A broker's sealed segments.
///
/// All methods may be called at the same time, for different segments. An error never means that there is
/// nothing: a listing fails as a whole, or names the parts that are unknown ([`Listing::halted`]).
///
/// # What a broker must ensure
/// After a deletion the bytes are only in the object store, so the broker must not need them to start again:
///
/// - A segment is sealed when nothing will be appended to it **and** its file is closed. A segment that is
///   sealed in memory while a writer still holds its file must not be listed. If a partition has several open
///   segments, only those below the lowest open one are sealed.
/// - A broker recovers state from its segments when it starts: the end of the log, the next offset,
///   producers' states. Before a deletion, this state must be durable elsewhere. If it is not, the newest
///   segment that holds a whole frame must stay, however many empty or torn segments follow it.
///   [`Self::hold`] reports this.
/// - Consumers must be informed that the log starts later. This must happen before the deletion, not after
///   it.
pub trait SealedSegments: Send + Sync + 'static {
    /// Lists all segments that may be sent, in any order: sealed ones, and those that may still grow but
    /// should be sent anyway. It leaves out segments that are in use.
    fn list(&self) -> impl Future<Output = Result<Listing, WalError>> + Send;

    /// Opens a segment's bytes, in the version that was listed.
    fn open(&self, segment: &Segment) -> impl Future<Output = Result<Reading, WalError>> + Send;

    /// Returns the offset that a segment begins with. It is called if a log may have been deleted and created
    /// again. `None`: it is not known.
    fn first_offset(&self, segment: &Segment) -> impl Future<Output = Result<Option<i64>, WalError>> + Send {
        let first = segment.bounds.map(|bounds| bounds.first());
        async move { Ok(first) }
    }

    /// Returns why a stored segment must stay; `None`: it may be deleted. It is called before a deletion. If
    /// the segment must stay, the caller asks again with the next listing. The answer is valid only for the
    /// moment: [`Self::delete`] checks again whatever can change.
    fn hold(
        &self,
        segment: &Segment,
        receipt: &Receipt,
    ) -> impl Future<Output = Result<Option<Hold>, WalError>> + Send {
        let _ = (segment, receipt);
        async { Ok(None) }
    }

    /// Receives the stored segments of a partition, before deletions. An implementation that moves the start
    /// of a log needs them, because a broker deletes everything before the start by itself.
    fn note_stored(&self, partition: &TopicPartition, stored: &[Segment]) {
        let _ = (partition, stored);
    }

    /// Returns the name of a segment of a partition, in use or sealed, that is not in `stored` and whose
    /// offsets are all below `offset`. If the log starts at `offset`, the broker deletes this segment.
    /// `None`: there is none.
    fn unstored_below(
        &self,
        partition: &TopicPartition,
        offset: i64,
        stored: &[Segment],
    ) -> impl Future<Output = Result<Option<String>, WalError>> + Send {
        let _ = (partition, offset, stored);
        async { Ok(None) }
    }

    /// Deletes a segment durably: after this returns, it does not come back after a crash. The receipt proves
    /// that the segment is stored. It is an error if the segment is no longer the listed version, or, with
    /// [`WalError::Held`], if it must stay at present. A segment that is already gone is not an error.
    fn delete(
        &self,
        segment: &Segment,
        receipt: &Receipt,
    ) -> impl Future<Output = Result<(), WalError>> + Send;

    /// Remembers that a worker refused this version of the segment permanently. From then on it is listed
    /// with [`Verdict::Rejected`], until it changes.
    fn reject(
        &self,
        segment: &Segment,
        rejection: &Rejection,
    ) -> impl Future<Output = Result<(), WalError>> + Send;

    /// Returns the URL under which workers see the same bytes, if they share the storage. It is below one of
    /// their source roots.
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
    /// Its broker may still append to it, as to the newest segment of each partition. So it is not deleted.
    #[error("{name} may still grow")]
    MayGrow {
        /// The segment.
        name: String,
    },
    /// It must stay at present. This is not a failure: the deletion is tried again later.
    #[error("{name} stays: {hold}")]
    Held {
        /// The segment.
        name: String,
        /// The reason.
        hold: Hold,
    },
    /// The file was changed since it was listed. Its size and times are the same, but its bytes may differ,
    /// so they must be read again.
    #[error("{name} was touched since it was listed")]
    Touched {
        /// The segment.
        name: String,
    },
    /// Its broker deletes it itself.
    #[error("{name} may only be deleted by its broker")]
    BrokerDeletes {
        /// The segment.
        name: String,
    },
    /// The receipt is for other bytes.
    #[error("{name} has {size_bytes} bytes, and the receipt is for {receipt_bytes}")]
    OtherReceipt {
        /// The segment.
        name: String,
        /// Its length.
        size_bytes: u64,
        /// The number of bytes that the receipt is for.
        receipt_bytes: u64,
    },
    /// No segment can have this name.
    #[error("{name} is not the name of a segment")]
    NotASegment {
        /// The invalid name.
        name: String,
    },
    /// The storage failed.
    #[error("{what}")]
    Io {
        /// The operation that failed, and its file.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl WalError {
    /// Returns the error of a [`Reading`], if the segment caused it and not the disk.
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
