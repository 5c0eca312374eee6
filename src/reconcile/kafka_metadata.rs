//! What Kafka's metadata topic `__remote_log_metadata` says about copies of segments, as Kafka's console
//! consumer prints it with `RemoteLogMetadataSerde$RemoteLogMetadataFormatter` (Kafka 3.9 to 4.4):
//!
//! ```text
//! partition: 3, offset: 17, value: RemoteLogSegmentMetadata{remoteLogSegmentId=RemoteLogSegmentId{
//!     topicIdPartition=TOPIC_ID:orders-0, id=COPY_ID}, startOffset=0, …, state=COPY_SEGMENT_STARTED}
//! partition: 3, offset: 18, value: RemoteLogSegmentMetadataUpdate{remoteLogSegmentId=…, state=…, …}
//! partition: 3, offset: 19, value: RemotePartitionDeleteMetadata{topicPartition=…, state=…, …}
//! ```
//!
//! Each event is one line. Kafka writes the first event of a copy before it calls the worker, and an event of
//! success after the worker's receipt. All events of one log are in one partition of the topic, in their
//! order.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use crate::ids::{CopyId, LogId, TopicPartition};
use crate::store::{Hash16, KeyHash};

/// The longest line that is read, in bytes. Kafka's own limit for an event is 1 MiB.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// A log of Kafka: a topic-partition, and the id of the topic.
pub type Log = (TopicPartition, LogId);

/// The copies that the metadata topic names.
#[derive(Clone, Debug, Default)]
pub struct KafkaMetadata {
    logs: BTreeMap<Log, KnownLog>,
    partitions: BTreeMap<u32, Partition>,
}

/// What is known about one log.
#[derive(Clone, Debug)]
pub struct KnownLog {
    /// The copies, by the hash in the key of their bundle.
    pub copies: BTreeMap<Hash16, KnownCopy>,
    /// The partition of the metadata topic that has all events of this log.
    partition: u32,
}

/// What is known about one copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCopy {
    /// Its id.
    pub id: CopyId,
    /// The first offset of the segment; `None` if the event of its start is not in the topic any more.
    pub base_offset: Option<i64>,
    /// The time of the last event, in milliseconds since the Unix epoch.
    pub changed_at_ms: i64,
    /// The state after the last event.
    pub state: CopyState,
}

/// The states of a copy in Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// Kafka has called the worker, or is about to.
    CopyStarted,
    /// Kafka has the worker's receipt, and serves consumers from this copy.
    CopyFinished,
    /// Kafka has asked the worker to delete the copy, or is about to.
    DeleteStarted,
    /// The worker has confirmed the deletion.
    DeleteFinished,
}

/// One partition of the metadata topic.
#[derive(Clone, Copy, Debug)]
struct Partition {
    first_offset: u64,
    last_offset: u64,
    last_event_ms: i64,
}

/// The reasons why the metadata cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The input cannot be read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// There is no event in it. Then every copy would look unknown.
    #[error("has no events: is it the output of Kafka's console consumer for __remote_log_metadata?")]
    Empty,
    /// A line is not an event in the form that Kafka's formatter prints.
    #[error("line {line} is not an event that RemoteLogMetadataFormatter prints: {why}")]
    Line {
        /// The number of the line, from 1 on.
        line: u64,
        /// What is missing.
        why: &'static str,
    },
    /// Events are missing between two lines.
    #[error(
        "line {line} has offset {found} of partition {partition}, {expected} is expected: it is incomplete"
    )]
    Gap {
        /// The number of the line, from 1 on.
        line: u64,
        /// The partition of the metadata topic.
        partition: u32,
        /// The offset that comes next.
        expected: u64,
        /// The offset in the line.
        found: u64,
    },
}

/// One line.
struct Event<'a> {
    partition: u32,
    offset: u64,
    value: &'a str,
    at_ms: i64,
}

impl CopyState {
    /// Returns Kafka's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CopyStarted => "COPY_SEGMENT_STARTED",
            Self::CopyFinished => "COPY_SEGMENT_FINISHED",
            Self::DeleteStarted => "DELETE_SEGMENT_STARTED",
            Self::DeleteFinished => "DELETE_SEGMENT_FINISHED",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let all = [Self::CopyStarted, Self::CopyFinished, Self::DeleteStarted, Self::DeleteFinished];
        all.into_iter().find(|state| state.name() == name)
    }
}

impl KafkaMetadata {
    /// Reads all events.
    ///
    /// # Errors
    /// A line has another form, or the offsets of a partition have a gap. Whoever compares with incomplete
    /// metadata would take copies for unknown that Kafka uses.
    pub fn read(mut input: impl BufRead) -> Result<Self, MetadataError> {
        let mut metadata = Self::default();
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            if io::Read::take(&mut input, LINE_BYTES_MAX).read_until(b'\n', &mut text)? == 0 {
                break;
            }
            let wrong = |why| MetadataError::Line { line, why };
            let text = str::from_utf8(&text).map_err(|_| wrong("it is not UTF-8"))?.trim_end();
            if text.is_empty() {
                continue;
            }
            let event = Event::parse(text).map_err(wrong)?;
            metadata.follow(line, &event)?;
            metadata.add(&event).map_err(wrong)?;
        }
        if metadata.logs.is_empty() {
            return Err(MetadataError::Empty);
        }
        Ok(metadata)
    }

    /// Returns the logs that have events, with their copies.
    pub fn logs(&self) -> impl Iterator<Item = (&Log, &KnownLog)> {
        self.logs.iter()
    }

    /// Returns the time up to which the events of a log are known: that of the last event of its partition of
    /// the topic, whichever log that is of. In milliseconds since the Unix epoch.
    pub fn known_until_ms(&self, log: &KnownLog) -> i64 {
        self.partitions.get(&log.partition).map_or(i64::MIN, |partition| partition.last_event_ms)
    }

    /// Returns whether all events of a log are known, from the first one on. Otherwise the topic's retention
    /// has removed some, and a copy without events need not be unknown to Kafka.
    pub fn is_from_start(&self, log: &KnownLog) -> bool {
        self.partitions.get(&log.partition).is_some_and(|partition| partition.first_offset == 0)
    }

    /// Checks that no event is missing before this one.
    fn follow(&mut self, line: u64, event: &Event<'_>) -> Result<(), MetadataError> {
        let &Event { partition, offset: found, at_ms, .. } = event;
        let first = Partition { first_offset: found, last_offset: found, last_event_ms: at_ms };
        let known = match self.partitions.entry(partition) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(first);
                return Ok(());
            }
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
        };
        let expected = known.last_offset.saturating_add(1);
        if found != expected {
            return Err(MetadataError::Gap { line, partition, expected, found });
        }
        known.last_offset = found;
        known.last_event_ms = known.last_event_ms.max(at_ms);
        Ok(())
    }

    fn add(&mut self, event: &Event<'_>) -> Result<(), &'static str> {
        let Some(value) = event.value.strip_prefix("RemoteLogSegmentMetadata") else {
            // Says that a whole partition is to be deleted. Each of its copies has events of its own.
            return match event.value.starts_with("RemotePartitionDeleteMetadata{") {
                true => Ok(()),
                false => Err("it has another kind of value"),
            };
        };
        let starts = value.starts_with('{');
        if !starts && !value.starts_with("Update{") {
            return Err("it has another kind of value");
        }
        let log = field(value, "topicIdPartition=").and_then(log).ok_or("it has no topicIdPartition")?;
        let id = field(value, ", id=").and_then(|id| CopyId::new(id).ok()).ok_or("it has no segment id")?;
        let state = field(value, "state=").and_then(CopyState::named).ok_or("it has no known state")?;
        let base_offset = match starts {
            true => Some(number(value, "startOffset=").ok_or("it has no startOffset")?),
            false => None,
        };
        let hash = KeyHash::of_copy(&id, &log.1, &log.0).hash16();
        let known = self
            .logs
            .entry(log)
            .or_insert_with(|| KnownLog { copies: BTreeMap::new(), partition: event.partition });
        if known.partition != event.partition {
            return Err("its log has events in another partition, too");
        }
        let copy = known.copies.entry(hash).or_insert(KnownCopy {
            id,
            base_offset,
            changed_at_ms: event.at_ms,
            state,
        });
        (copy.state, copy.changed_at_ms) = (state, event.at_ms);
        Ok(())
    }
}

impl<'a> Event<'a> {
    fn parse(line: &'a str) -> Result<Self, &'static str> {
        let rest = line.strip_prefix("partition: ").ok_or("it has no partition")?;
        let (partition, rest) = rest.split_once(", offset: ").ok_or("it has no offset")?;
        let (offset, value) = rest.split_once(", value: ").ok_or("it has no value")?;
        if !value.ends_with('}') {
            return Err("it is cut off");
        }
        Ok(Self {
            partition: partition.parse().map_err(|_| "its partition is not a number")?,
            offset: offset.parse().map_err(|_| "its offset is not a number")?,
            value,
            at_ms: number(value, "eventTimestampMs=").ok_or("it has no eventTimestampMs")?,
        })
    }
}

/// Returns the text between a name and the next comma or brace.
fn field<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let at = value.find(name)? + name.len();
    value[at..].split([',', '}']).next()
}

fn number(value: &str, name: &str) -> Option<i64> {
    field(value, name)?.parse().ok()
}

/// Parses `TOPIC_ID:TOPIC-PARTITION`.
fn log(text: &str) -> Option<Log> {
    let (id, partition) = text.split_once(':')?;
    let (topic, number) = partition.rsplit_once('-')?;
    Some((TopicPartition::new(topic, number.parse().ok()?).ok()?, LogId::new(id)))
}
