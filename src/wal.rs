//! A broker's sealed segments, seen from the side that sends them away: what there is, its bytes, and its end.
//!
//! [`SealedSegments`] is what a broker written in Rust implements to offer its own; [`dir::WalDir`] implements it for the
//! directories of Chronik and Kafka. Knows nothing of workers and of when to send what. Whoever keeps segments in files reads them by
//! [`look_at`], [`open_file`] and [`check_file`]: one version of a file, and no other.

pub mod dir;
mod frames;
mod hold;
mod layout;
mod lease;
mod level;
mod listing;
mod reader;
pub mod rejection_note;
mod scan;
mod survey;
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
    /// The time of the last change of any kind. `None`: nobody can say it.
    pub change_time: Option<ChangeTime>,
    /// The offsets that it may hold, by its own name and the next segment's. A worker refuses it where it holds others. `None`: names
    /// do not say it.
    pub bounds: Option<OffsetRange>,
}

/// The time of a file's last change of any kind (`st_ctime`): of its bytes, its times, its owner, its names. Nobody can set
/// it back, so it tells of bytes that were replaced where [`Version`] looks the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeTime {
    /// Whole seconds since the Unix epoch.
    pub secs: i64,
    /// Nanoseconds behind them.
    pub nanos: i64,
}

/// What is in a broker's log, as far as it may be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The segments, in any order.
    pub segments: Vec<Segment>,
    /// The partitions in which nothing may be deleted at present, with the reason. Their sealed segments are sent all the same.
    pub held: Vec<(TopicPartition, Hold)>,
    /// What could not be looked into, while all else could. An error is never an absence: nothing is known of the segments there.
    pub halted: Vec<Halted>,
    /// What tells each partition's log from another one of the same name. A partition may be missing: then the segments' log ids
    /// say it all.
    pub logs: BTreeMap<TopicPartition, LogSigns>,
    /// How many partitions have a segment, one that is in use among them; `None`: nobody has counted them.
    pub partitions: Option<u64>,
    /// Where there is no partition: where else some are, in words.
    pub hint: Option<String>,
}

/// A part of a log with which nothing is done at present: nothing of it is sent, and nothing is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halted {
    /// Where: what the names of its segments begin with, up to a slash. For files the directory, below the WAL directory.
    pub name: String,
    /// The partition, where it can be told.
    pub partition: Option<TopicPartition>,
    /// Why.
    pub halt: Halt,
}

impl Halted {
    /// Whether a segment belongs to it.
    pub fn covers(&self, segment: &str, partition: &TopicPartition) -> bool {
        let is_below = || segment.strip_prefix(&*self.name).is_some_and(|rest| rest.starts_with('/'));
        self.partition.as_ref() == Some(partition) || is_below()
    }
}

/// Why nothing is done with a part of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It cannot be looked into, for this reason.
    Unreadable(String),
    /// The log's id should be beside its segments, and cannot be read, for this reason.
    LogIdUnreadable(String),
    /// The log's id is no longer beside its segments, and its offsets begin anew.
    LogIdLost,
    /// It was deleted and created again: its offsets begin anew under a log id that others are stored under.
    CreatedAgain {
        /// The log id.
        log_id: LogId,
    },
}

impl Halt {
    /// A stable name, as metrics have it.
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
    /// Whether nobody knows which segments there are. Otherwise they were listed, and only nothing is done with them.
    pub fn is_unseen(&self) -> bool {
        matches!(self, Self::Unreadable(_) | Self::LogIdUnreadable(_))
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => f.write_str(why),
            Self::LogIdUnreadable(why) => write!(f, "nobody can tell which log it is: {why}"),
            Self::LogIdLost => f.write_str(
                "its partition.metadata is gone and its offsets begin anew, so nobody can tell which log it is: put the file \
                 back, or name the log with --log-id TOPIC=ID",
            ),
            Self::CreatedAgain { log_id } => write!(
                f,
                "it was deleted and created again: its offsets begin anew, and those before are stored under log id {:?}; give it \
                 another one with --log-id TOPIC=ID",
                log_id.as_str()
            ),
        }
    }
}

/// What tells a partition's log from another one of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSigns {
    /// Whether the log itself says its id, as Kafka's does. Otherwise [`Segment::log_id`] is what was set for it.
    pub says_its_id: bool,
    /// Tells where the log is kept from another place of the same name.
    pub birth: Option<Birth>,
}

/// When and as what a partition's directory was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// The directory's inode.
    pub inode: u64,
    /// Nanoseconds since the Unix epoch; `None` where the file system does not know.
    pub nanos: Option<i64>,
}

impl From<Vec<Segment>> for Listing {
    /// Segments of partitions of which none is held.
    fn from(segments: Vec<Segment>) -> Self {
        Self { segments, ..Self::default() }
    }
}

/// Why a segment stays although it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hold {
    /// No later segment of the partition holds a whole frame beyond its last offset. A broker that starts takes the end of the
    /// log from here.
    EndOfLog,
    /// The partition's highest segment is not the one that was last written to: the broker may still append to a lower one.
    NotLastWritten,
    /// Segments of the partition have changed too lately to tell which of them the broker goes on with.
    Unsettled,
    /// A process has the file open for writing.
    OpenForWriting,
    /// It cannot be found out whether a process has the file open for writing, for this reason.
    WritersUnknown(String),
    /// The broker is not ready to lose it, for this reason.
    BrokerNotReady(String),
    /// It is to stay on disk for longer.
    Retention,
}

impl Hold {
    /// A stable name, as metrics have it.
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

    /// Whether it is a state of rest, which nobody needs to wait for or to look into.
    pub fn is_rest(&self) -> bool {
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
            Self::Unsettled => f.write_str("the partition has changed too lately"),
            Self::OpenForWriting => f.write_str("it is open for writing"),
            Self::WritersUnknown(why) => write!(f, "nobody can tell whether it is open for writing: {why}"),
            Self::BrokerNotReady(why) => write!(f, "the broker is not ready: {why}"),
            Self::Retention => f.write_str("it is to stay on disk for longer"),
        }
    }
}

/// Tells one state of a segment from another: where any of this differs, it is another segment's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Its length.
    pub size_bytes: u64,
    /// When it was last written to, by the clock of whoever keeps it.
    #[serde(with = "timestamp")]
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
/// fails as a whole, or says of which parts it knows nothing ([`Listing::halted`]).
///
/// # What a broker must see to
/// After a deletion the bytes are in the object store and nowhere else, so the broker must not need them to start again:
///
/// - A segment is sealed when nothing will be appended to it **and** its file is closed. A segment that is sealed in memory
///   while a writer still holds its file must not be listed. With several open segments in a partition only what lies below the
///   lowest of them is sealed.
/// - What a broker recovers from its segments at its start (the end of the log, the next offset, producers' states) must be
///   durable elsewhere before the deletion, or the newest segment that holds a whole frame must stay, however many empty or torn
///   ones lie behind it. [`Self::hold`] is where it says so.
/// - Consumers must be told that the log starts later, before the deletion and not after it.
pub trait SealedSegments: Send + Sync + 'static {
    /// All segments that may be sent, in any order: those that are sealed, and those that may still grow but should be sent
    /// all the same. Segments that are in use are not among them.
    fn list(&self) -> impl Future<Output = Result<Listing, WalError>> + Send;

    /// The bytes of a segment as it was listed.
    fn open(&self, segment: &Segment) -> impl Future<Output = Result<Reading, WalError>> + Send;

    /// The offset that a segment begins with. Asked where a log may have been deleted and created again. `None`: nobody can say it.
    fn first_offset(&self, segment: &Segment) -> impl Future<Output = Result<Option<i64>, WalError>> + Send {
        let first = segment.bounds.map(|bounds| bounds.first());
        async move { Ok(first) }
    }

    /// Asked before a deletion: why a segment must stay although it is stored; `None`: it may go. Whoever is told to wait
    /// asks again with the next listing. The answer holds for the moment: [`Self::delete`] checks again what can change.
    fn hold(
        &self,
        segment: &Segment,
        receipt: &Receipt,
    ) -> impl Future<Output = Result<Option<Hold>, WalError>> + Send {
        let _ = (segment, receipt);
        async { Ok(None) }
    }

    /// Told before deletions: which segments of a partition are stored. Whoever moves the start of a log must know it, for a broker drops all
    /// that lies in front of the start by itself.
    fn note_stored(&self, partition: &TopicPartition, stored: &[Segment]) {
        let _ = (partition, stored);
    }

    /// Names a segment of a partition that is not among `stored` and whose offsets all lie below this one, in use or sealed: a broker
    /// whose log starts there drops it. `None`: there is none.
    fn unstored_below(
        &self,
        partition: &TopicPartition,
        offset: i64,
        stored: &[Segment],
    ) -> impl Future<Output = Result<Option<String>, WalError>> + Send {
        let _ = (partition, offset, stored);
        async { Ok(None) }
    }

    /// Deletes a segment for good: when this returns it will not come back after a crash. The receipt says that it is
    /// stored. Refuses where the segment is no longer what was listed, and with [`WalError::Held`] where it must stay at present.
    /// One that is gone already is no error.
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
    /// It must stay at present. This is no failure: it is asked for again later.
    #[error("{name} stays: {hold}")]
    Held {
        /// The segment.
        name: String,
        /// Why.
        hold: Hold,
    },
    /// Something was done to the file since it was listed. Its size and times are the same, its bytes perhaps not: they must be
    /// read again.
    #[error("{name} was touched since it was listed")]
    Touched {
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
