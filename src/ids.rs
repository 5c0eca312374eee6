//! Names and identifiers, which are validated once when they are made. Uses only `std`.

mod log_ids;

use std::fmt;
use std::sync::Arc;

pub use log_ids::LogIds;

/// A partition of a topic. The topic is any non-empty string of up to [`TOPIC_BYTES_MAX`] bytes. The store
/// encodes it in object keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    topic: Arc<str>,
    partition: i32,
}

/// The longest topic name, in bytes. Kafka allows 249 characters, and the key scheme limits the
/// percent-encoded name.
pub const TOPIC_BYTES_MAX: usize = 249;

/// Why a pair of topic and partition is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicPartitionError {
    /// The topic is the empty string.
    #[error("the topic is empty")]
    EmptyTopic,
    /// The topic is longer than [`TOPIC_BYTES_MAX`].
    #[error("the topic has {bytes} bytes, more than {TOPIC_BYTES_MAX}")]
    TopicTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Partitions count from zero.
    #[error("the partition {partition} is negative")]
    NegativePartition {
        /// The number given.
        partition: i32,
    },
}

impl TopicPartition {
    /// Checks and builds a topic-partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Result<Self, TopicPartitionError> {
        let topic = topic.into();
        if topic.is_empty() {
            return Err(TopicPartitionError::EmptyTopic);
        }
        if topic.len() > TOPIC_BYTES_MAX {
            return Err(TopicPartitionError::TopicTooLong { bytes: topic.len() });
        }
        if partition < 0 {
            return Err(TopicPartitionError::NegativePartition { partition });
        }
        Ok(Self { topic, partition })
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition's number, not negative.
    pub fn partition(&self) -> i32 {
        self.partition
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A range of offsets, both ends inclusive, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OffsetRange {
    first: i64,
    last: i64,
}

impl OffsetRange {
    /// Returns `None` if `last` comes before `first`.
    pub fn new(first: i64, last: i64) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The first offset.
    pub fn first(&self) -> i64 {
        self.first
    }

    /// The last offset, which belongs to the range.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// The smallest range that holds both ranges.
    pub fn cover(&self, other: &Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// Whether the two ranges share an offset.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The incarnation of the log that offsets count in. It is part of every key. An empty id means `"0"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(Arc<str>);

impl LogId {
    /// Takes any string; the empty one means `"0"`.
    pub fn new(id: &str) -> Self {
        Self(if id.is_empty() { "0".into() } else { id.into() })
    }

    /// The id as it was given, or `"0"` for an empty one.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of one copy of a segment. The caller draws a new one for each attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CopyId(Arc<str>);

/// The longest copy id, in bytes.
pub const COPY_ID_BYTES_MAX: usize = 64;

/// The text is not a copy id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a copy id has 1 to {COPY_ID_BYTES_MAX} bytes of [A-Za-z0-9._-]")]
pub struct CopyIdError;

impl CopyId {
    /// Takes 1 to [`COPY_ID_BYTES_MAX`] bytes of `[A-Za-z0-9._-]`.
    pub fn new(id: &str) -> Result<Self, CopyIdError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let fits = (1..=COPY_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(plain);
        if fits { Ok(Self(id.into())) } else { Err(CopyIdError) }
    }

    /// The id as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The caller's name for a segment. It is returned and logged, but never used as a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SegmentId(Arc<str>);

/// The longest segment id, in bytes.
pub const SEGMENT_ID_BYTES_MAX: usize = 1_024;

impl SegmentId {
    /// Returns `None` if the id is longer than [`SEGMENT_ID_BYTES_MAX`].
    pub fn new(id: &str) -> Option<Self> {
        (id.len() <= SEGMENT_ID_BYTES_MAX).then(|| Self(id.into()))
    }

    /// The id as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a caller that shares memory and threads with other callers. Callers of the same name count
/// as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerId(Option<Arc<str>>);

impl CallerId {
    /// Makes the identity of all callers of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(Some(name.into()))
    }
}

/// The format of a segment's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentFormat {
    /// Chronik WAL records, V1 and V2, also mixed in one segment.
    ChronikWal,
    /// Kafka record batches of magic 2, and messages of magic 0 and 1, as they lie in a log segment.
    KafkaLog,
}

impl SegmentFormat {
    /// The name used in manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChronikWal => "chronik-wal",
            Self::KafkaLog => "kafka-log",
        }
    }
}
