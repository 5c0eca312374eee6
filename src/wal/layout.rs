//! What names mean in a WAL directory: which directories belong to a partition, and which files in them are its segments.
//!
//! ```text
//! TOPIC/PARTITION/wal_PARTITION_ID.log      Chronik: the id counts up, also over restarts
//! TOPIC-PARTITION/OFFSET.log                Kafka: 20 digits, the offset of the first record
//! ```
//!
//! Names only: nothing here looks at a disk.

use std::collections::BTreeSet;

use crate::ids::{OffsetRange, SegmentFormat, TopicPartition};

/// Topics of a broker's own, which are left alone: `__consumer_offsets`, `__cluster_metadata`.
const INTERNAL: &str = "__";

/// Who keeps its log in such directories.
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

    /// The offsets that the segment at this position may hold, where names say it: its own name is the first of them, and the
    /// next segment's the first that is none (Kafka's `UnifiedLog`: a segment's base offset names its file).
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
    pub(super) fn keeps(self) -> bool {
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
    /// Below the WAL directory.
    pub(super) path: String,
}

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<T> {
    /// What was looked for.
    Is(T),
    /// It looks much like that, but for this reason it is not.
    Nearly(&'static str),
    /// Something else.
    Other,
}

impl<T> Name<T> {
    pub(super) fn is(self) -> Option<T> {
        match self {
            Self::Is(it) => Some(it),
            Self::Nearly(_) | Self::Other => None,
        }
    }
}

/// Whether a directory of this name is no topic's to send: a broker's own, the file system's, or one above.
pub(super) fn left_alone(name: &str) -> bool {
    name.starts_with(INTERNAL) || matches!(name, "lost+found" | "." | "..")
}

impl Folder {
    /// What `TOPIC/PARTITION` is in Chronik's layout.
    pub(super) fn chronik(topic: &str, partition: &str) -> Name<Self> {
        if left_alone(topic) || !digits(partition) {
            return Name::Other;
        }
        Self::new(Layout::Chronik, topic, partition, format!("{topic}/{partition}"))
    }

    /// What `TOPIC-PARTITION` is in Kafka's layout. What Kafka is about to delete, moves or does not know ends in `-delete`,
    /// `-future` or `-stray`, so it is something else.
    pub(super) fn kafka(name: &str) -> Name<Self> {
        match name.rsplit_once('-') {
            Some((topic, partition)) if !left_alone(name) && digits(partition) => {
                Self::new(Layout::Kafka, topic, partition, name.to_owned())
            }
            _ => Name::Other,
        }
    }

    fn new(layout: Layout, topic: &str, partition: &str, path: String) -> Name<Self> {
        // A second spelling of a number would be a second directory for its partition.
        let Some(number) = partition.parse::<i32>().ok().filter(|number| number.to_string() == partition)
        else {
            return Name::Nearly("its number is not a partition's");
        };
        match TopicPartition::new(topic, number) {
            Ok(partition) => Name::Is(Self { layout, partition, path }),
            Err(_) => Name::Nearly("its name is not a topic's"),
        }
    }

    /// The position of the segment that a file in this directory holds, by its name.
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
                Name::Nearly("its partition is not its directory's")
            }
            Some((_, id)) => position(id),
            None => Name::Nearly("its name lacks the segment's number"),
        }
    }

    /// What a segment in this directory is called.
    pub(super) fn name_of(&self, file: &str) -> String {
        format!("{}/{file}", self.path)
    }
}

fn kafka_position(stem: &str) -> Name<u64> {
    match (stem.len(), position(stem)) {
        (20, Name::Is(position)) if i64::try_from(position).is_ok() => Name::Is(position),
        _ => Name::Nearly("its name is not an offset of 20 digits"),
    }
}

fn position(text: &str) -> Name<u64> {
    match text.parse() {
        Ok(position) if digits(text) => Name::Is(position),
        _ => Name::Nearly("its number is not a segment's"),
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Where a segment of this name would be, and its position there; `None`: no segment is called so.
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
