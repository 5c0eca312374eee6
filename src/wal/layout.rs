//! The meaning of names in a WAL directory: which directories belong to a partition, and which files in them
//! are its segments.
//!
//! ```text
//! TOPIC/PARTITION/wal_PARTITION_ID.log      Chronik: the id counts up, also over restarts
//! TOPIC-PARTITION/OFFSET.log                Kafka: 20 digits, the offset of the first record
//! ```
//!
//! This module only looks at names, and never at a disk.

use std::collections::BTreeSet;

use crate::ids::{OffsetRange, SegmentFormat, TopicPartition};

/// The prefix of a broker's internal topics, which are ignored: `__consumer_offsets`, `__cluster_metadata`.
const INTERNAL: &str = "__";

/// The broker that uses such directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Chronik,
    Kafka,
}

impl Layout {
    pub(super) fn format(self) -> SegmentFormat {
        match self {
            Self::Chronik => SegmentFormat::ChronikWal,
            Self::Kafka => SegmentFormat::KafkaLog,
        }
    }

    /// Returns the offsets that the segment at this position may hold, if names show it. Its own name is the
    /// first of them, and the next segment's name is the first beyond them (Kafka's `UnifiedLog`: a segment's
    /// base offset names its file).
    pub(super) fn bounds(self, position: u64, positions: &BTreeSet<u64>) -> Option<OffsetRange> {
        let next = positions.range(position.checked_add(1)?..).next();
        match self {
            Self::Chronik => None,
            Self::Kafka => {
                let first = i64::try_from(position).ok()?;
                let last = next.and_then(|next| i64::try_from(next - 1).ok()).unwrap_or(i64::MAX);
                OffsetRange::new(first, last)
            }
        }
    }

    /// Whether the broker deletes its segments itself.
    pub(super) fn broker_deletes(self) -> bool {
        match self {
            Self::Chronik => false,
            Self::Kafka => true,
        }
    }
}

/// A directory that holds a partition's segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) layout: Layout,
    pub(super) partition: TopicPartition,
    /// The path below the WAL directory.
    pub(super) path: String,
}

/// The meaning of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<T> {
    /// It is valid.
    Is(T),
    /// It looks similar, but is not valid, for this reason.
    Invalid(&'static str),
    /// It is something else.
    Other,
}

impl<T> Name<T> {
    pub(super) fn is(self) -> Option<T> {
        match self {
            Self::Is(it) => Some(it),
            Self::Invalid(_) | Self::Other => None,
        }
    }
}

/// Whether a directory of this name is ignored: it is a broker's own, the file system's, or a parent.
pub(super) fn is_ignored(name: &str) -> bool {
    name.starts_with(INTERNAL) || matches!(name, "lost+found" | "." | "..")
}

impl Folder {
    /// Reads `TOPIC/PARTITION` in Chronik's layout.
    pub(super) fn chronik(topic: &str, partition: &str) -> Name<Self> {
        if is_ignored(topic) || !digits(partition) {
            return Name::Other;
        }
        Self::new(Layout::Chronik, topic, partition, format!("{topic}/{partition}"))
    }

    /// Reads `TOPIC-PARTITION` in Kafka's layout. Directories that Kafka deletes, moves or does not know end
    /// in `-delete`, `-future` or `-stray`, and are ignored.
    pub(super) fn kafka(name: &str) -> Name<Self> {
        match name.rsplit_once('-') {
            Some((topic, partition)) if !is_ignored(name) && digits(partition) => {
                Self::new(Layout::Kafka, topic, partition, name.to_owned())
            }
            _ => Name::Other,
        }
    }

    fn new(layout: Layout, topic: &str, partition: &str, path: String) -> Name<Self> {
        // Another spelling of the same number would be a second directory for its partition.
        let Some(number) = partition.parse::<i32>().ok().filter(|number| number.to_string() == partition)
        else {
            return Name::Invalid("its number is not a valid partition number");
        };
        match TopicPartition::new(topic, number) {
            Ok(partition) => Name::Is(Self { layout, partition, path }),
            Err(_) => Name::Invalid("its name is not a valid topic name"),
        }
    }

    /// Returns the position of the segment in a file of this directory, by the file's name.
    pub(super) fn position(&self, file: &str) -> Name<u64> {
        match (self.layout, file.strip_suffix(".log")) {
            (_, None) => Name::Other,
            (Layout::Chronik, Some(stem)) => self.chronik_position(stem),
            (Layout::Kafka, Some(stem)) => kafka_position(stem),
        }
    }

    fn chronik_position(&self, stem: &str) -> Name<u64> {
        let Some(numbers) = stem.strip_prefix("wal_") else { return Name::Other };
        match numbers.split_once('_') {
            Some((partition, _)) if partition != self.partition.partition().to_string() => {
                Name::Invalid("its partition differs from its directory's")
            }
            Some((_, id)) => position(id),
            None => Name::Invalid("its name lacks the segment's number"),
        }
    }

    /// Returns the name of a segment in this directory.
    pub(super) fn name_of(&self, file: &str) -> String {
        format!("{}/{file}", self.path)
    }
}

fn kafka_position(stem: &str) -> Name<u64> {
    match (stem.len(), position(stem)) {
        (20, Name::Is(position)) if i64::try_from(position).is_ok() => Name::Is(position),
        _ => Name::Invalid("its name is not an offset of 20 digits"),
    }
}

fn position(text: &str) -> Name<u64> {
    match text.parse() {
        Ok(position) if digits(text) => Name::Is(position),
        _ => Name::Invalid("its number is not a valid segment number"),
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the directory of a segment of this name, and the segment's position; `None`: it is not the name of
/// a segment.
pub(super) fn place(name: &str) -> Option<(Folder, u64)> {
    let parts: Vec<_> = name.split('/').collect();
    let (folder, file) = match parts[..] {
        [topic, partition, file] => (Folder::chronik(topic, partition).is()?, file),
        [folder, file] => (Folder::kafka(folder).is()?, file),
        _ => return None,
    };
    let position = folder.position(file).is()?;
    Some((folder, position))
}
