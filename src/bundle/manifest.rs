//! `manifest.json`: what a bundle holds, in words that need no other member to be understood.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::records::{BlockEntry, BlockIndex, TimeRange};
use super::transactions::TransactionFacts;
use super::writer::Blocks;
use super::{FORMAT_VERSION, FORMAT_VERSION_STRICT, Kind};
use crate::ids::{OffsetRange, SegmentFormat};

/// What a bundle is. No wall-clock times, nothing random: the same source, settings and build give the same
/// bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the bundle's format; readers look at this first.
    pub format_version: u32,
    /// The program that wrote the bundle, with its version: `wal-indexer 0.1.0`.
    pub created_by: String,
    /// What wrote the files under `index/`.
    pub tantivy: TantivyFacts,
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The incarnation of the log that the offsets count in.
    pub log_id: String,
    /// The least offset that a frame covers.
    pub base_offset: i64,
    /// The greatest such offset, inclusive. Where no frame covers an offset, one less than `base_offset`, which is where they stand.
    pub last_offset: i64,
    /// Data records: documents in the index, and records in the blocks.
    pub record_count: u64,
    /// Control records (commit and abort markers): kept in the blocks, not indexed.
    pub control_record_count: u64,
    /// Frames of the segment: Kafka batches or Chronik records.
    pub batch_count: u64,
    /// The least time of a data record, in milliseconds since the Unix epoch; absent where none carries one.
    pub min_timestamp_ms: Option<i64>,
    /// The greatest.
    pub max_timestamp_ms: Option<i64>,
    /// All offsets from `base_offset` to `last_offset` without a data record, as `[first, last]`, ascending
    /// and merged.
    #[serde(with = "gap_pairs")]
    pub gaps: Vec<OffsetRange>,
    /// What is not as the formats say in frames that were read all the same: a number of frames for each kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub anomalies: BTreeMap<String, u64>,
    /// Frames that could not be decoded, and are kept as they are; absent where there are none.
    #[serde(default, skip_serializing_if = "UndecodedFacts::is_empty")]
    pub undecoded: UndecodedFacts,
    /// The transactions of its records; absent where none belongs to one, and where an earlier release wrote the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared")]
    pub transactions: Option<Arc<TransactionFacts>>,
    /// The source.
    pub segment: SegmentFacts,
    /// The index.
    pub index: IndexFacts,
    /// The blocks.
    pub records: RecordsFacts,
}

/// What wrote the files under `index/`, and so can read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TantivyFacts {
    /// Tantivy's version.
    pub version: String,
    /// The kind of its term dictionaries: `sstable`.
    pub dictionary: String,
}

/// The segment that the bundle was made from: whole, also where it held other partitions too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFacts {
    /// The name that the caller gave. Another caller may know the same bytes by another name: `sha256` tells.
    pub id: String,
    /// `chronik-wal` or `kafka-log`.
    #[serde(with = "format_name")]
    pub format: SegmentFormat,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// CRC-32C of its bytes, as eight hexadecimal digits.
    #[serde(with = "hex_crc32c")]
    pub crc32c: u32,
    /// SHA-256 of its bytes, as 64 hexadecimal digits.
    #[serde(with = "hex_sha256")]
    pub sha256: [u8; 32],
    /// Bytes behind its last whole frame, which are kept by the bundle of that frame's partition.
    pub torn_tail_bytes: u64,
    /// The number of partitions in it: as many bundles restore it.
    pub partitions: u32,
}

/// What the index holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFacts {
    /// How the topic's values were indexed, as settings name and value.
    pub settings: BTreeMap<String, String>,
    /// The fields found in the records, sorted by path.
    pub fields: Vec<FieldFacts>,
    /// The Tantivy segments, in the order of the record ordinals.
    pub segments: Vec<IndexSegmentFacts>,
    /// What is stored but cannot be searched: a number for each reason.
    pub unsearchable: BTreeMap<String, u64>,
    /// Leaves of JSON values at paths that `fields` does not list, which have terms of their own. Absent where an earlier release wrote the bundle: then
    /// such leaves have none, and numbers that are written as strings are words only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_leaves: Option<u64>,
}

/// A field that queries can name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldFacts {
    /// As queries write it: `value.user.id`, `header.trace`, `text`.
    pub path: String,
    /// The types of its values, as the index names them.
    pub types: Vec<String>,
}

/// One Tantivy segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSegmentFacts {
    /// Its name: the files of the segment start with it.
    pub name: String,
    /// Its documents: one for each data record, in the order of the ordinals.
    pub documents: u64,
}

/// Frames that could not be decoded and are kept verbatim: they can be restored and fetched as batches, and none of their records is indexed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndecodedFacts {
    /// How many.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The records that their heads claim, where they do.
    pub claimed_records: u64,
    /// Why not: a number of frames for each reason.
    pub reasons: BTreeMap<String, u64>,
}

impl UndecodedFacts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Adds others.
    pub fn merge(&mut self, others: Self) {
        self.frames += others.frames;
        self.bytes += others.bytes;
        self.claimed_records = self.claimed_records.saturating_add(others.claimed_records);
        for (reason, frames) in others.reasons {
            *self.reasons.entry(reason).or_default() += frames;
        }
    }
}

/// What the blocks hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsFacts {
    /// Blocks in `records.zst`.
    pub blocks: u64,
    /// Whole frames in them.
    pub frames: u64,
    /// Bytes of the source in them, torn tail included.
    pub plain_bytes: u64,
}

impl RecordsFacts {
    /// Counts what the slices of a bundle hold.
    pub fn of(slices: &[Blocks]) -> Self {
        slices.iter().flat_map(Blocks::entries).fold(Self::default(), |sum, entry| Self {
            blocks: sum.blocks + 1,
            frames: sum.frames + u64::from(entry.frames),
            plain_bytes: sum.plain_bytes + u64::from(entry.plain_len),
        })
    }
}

/// Why bytes are not a manifest that this build reads.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of the shape that the version has.
    #[error("manifest at line {line}, column {column}: {source}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Written by a later release.
    #[error("bundle format version {version} is newer than this build reads ({FORMAT_VERSION})")]
    Newer {
        /// What it states.
        version: u32,
    },
    /// A field's value cannot be.
    #[error("manifest: {field} {what}")]
    Field {
        /// The field's path.
        field: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl ManifestError {
    fn json(source: serde_json::Error) -> Self {
        Self::Json { line: source.line(), column: source.column(), source }
    }

    /// Whether it is absent, corrupt, or of a later release.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Json { .. } | Self::Field { .. } => Kind::Corrupt,
            Self::Newer { .. } => Kind::Unsupported,
        }
    }
}

/// Two parts of a bundle state different numbers for the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the manifest and the blocks disagree on {what}: {stated} and {found}")]
pub struct Disagreement {
    /// What is counted.
    pub what: &'static str,
    /// What the manifest states.
    pub stated: i128,
    /// What the other members say.
    pub found: i128,
}

impl Manifest {
    /// The program's name for [`Manifest::created_by`].
    pub fn this_build() -> String {
        format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    }

    /// The version of the format that a bundle with this in it is written in.
    pub fn version_for(anomalies: &BTreeMap<String, u64>, undecoded: &UndecodedFacts) -> u32 {
        if anomalies.is_empty() && undecoded.is_empty() { FORMAT_VERSION_STRICT } else { FORMAT_VERSION }
    }

    /// The offsets that the frames cover; `None` where they cover none.
    pub fn covered(&self) -> Option<OffsetRange> {
        OffsetRange::new(self.base_offset, self.last_offset)
    }

    /// The offsets that the bundle's key says. Where the frames cover none, it says the one at which they stand.
    pub fn key_range(&self) -> OffsetRange {
        let place = || OffsetRange::new(self.base_offset, self.base_offset).expect("a range of one");
        self.covered().unwrap_or_else(place)
    }

    /// Reads `manifest.json`. A later version is refused by its name before its fields are looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let Version { format_version: version } =
            serde_json::from_slice(bytes).map_err(ManifestError::json)?;
        match version {
            0 => return Err(ManifestError::Field { field: "format_version", what: "is 0" }),
            1..=FORMAT_VERSION => {}
            _ => return Err(ManifestError::Newer { version }),
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes of `manifest.json`: one line of JSON, for machines; `jq` shows it to people.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let mut bytes = serde_json::to_vec(self).map_err(ManifestError::json)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |field, what| Err(ManifestError::Field { field, what });
        if !(1..=FORMAT_VERSION).contains(&self.format_version) {
            return wrong("format_version", "is none that there is");
        }
        if self.topic.is_empty() {
            return wrong("topic", "is empty");
        }
        if self.partition < 0 {
            return wrong("partition", "is negative");
        }
        let is_strict = self.format_version <= FORMAT_VERSION_STRICT;
        if is_strict && !(self.anomalies.is_empty() && self.undecoded.is_empty()) {
            return wrong("anomalies", "are there in a version that knows none");
        }
        let covers_none = !is_strict && self.last_offset.checked_add(1) == Some(self.base_offset);
        if self.base_offset > self.last_offset && !covers_none {
            return wrong("base_offset", "is above last_offset");
        }
        match (self.min_timestamp_ms, self.max_timestamp_ms) {
            (Some(min), Some(max)) if min > max => {
                return wrong("min_timestamp_ms", "is above max_timestamp_ms");
            }
            (Some(_), None) => return wrong("max_timestamp_ms", "is absent, though min_timestamp_ms is not"),
            (None, Some(_)) => return wrong("min_timestamp_ms", "is absent, though max_timestamp_ms is not"),
            _ => {}
        }
        let inside = |gap: &OffsetRange| self.base_offset <= gap.first() && gap.last() <= self.last_offset;
        if !self.gaps.iter().all(inside) {
            return wrong("gaps", "reach beyond the bundle's offsets");
        }
        // Merged: an offset with a record lies between two gaps.
        if self
            .gaps
            .windows(2)
            .any(|pair| pair[0].last().checked_add(1).is_none_or(|next| next >= pair[1].first()))
        {
            return wrong("gaps", "are not ascending and merged");
        }
        if let Some(flaw) = self.transactions.as_ref().and_then(|facts| facts.flaw()) {
            return wrong("transactions", flaw);
        }
        Ok(())
    }

    /// Holds the version that it states against the footer's.
    pub fn is_of_version(&self, version: u32) -> Result<(), ManifestError> {
        if self.format_version == version {
            return Ok(());
        }
        Err(ManifestError::Field { field: "format_version", what: "is not the footer's" })
    }

    /// Holds the manifest against the blocks, count for count. Where the segment has one partition only, this
    /// proves that each of its bytes is in a block: they ascend, never overlap, and add up to its size.
    pub fn agrees_with(&self, blocks: &BlockIndex) -> Result<(), Disagreement> {
        let entries = blocks.entries();
        let same = |what, stated: i128, found: i128| {
            if stated == found { Ok(()) } else { Err(Disagreement { what, stated, found }) }
        };
        same("blocks", self.records.blocks.into(), entries.len() as i128)?;
        same("frames", self.records.frames.into(), blocks.frames().into())?;
        same("batches", self.batch_count.into(), blocks.frames().into())?;
        same("bytes of the source", self.records.plain_bytes.into(), blocks.plain_bytes().into())?;
        same("records", self.record_count.into(), blocks.records().into())?;
        let documents = self.index.segments.iter().map(|segment| i128::from(segment.documents)).sum();
        same("documents", documents, blocks.records().into())?;
        let offsets = entries.iter().filter_map(|entry| entry.offsets).reduce(|a, b| a.cover(&b));
        if let Some(offsets) = offsets {
            same("base_offset", self.base_offset.into(), offsets.first().into())?;
            same("last_offset", self.last_offset.into(), offsets.last().into())?;
        } else if blocks.frames() > 0 {
            same("offsets covered", i128::from(self.covered().is_some()), 0)?;
        }
        let unknown = |entry: &&BlockEntry| entry.frames > 0 && entry.offsets.is_none();
        if self.format_version <= FORMAT_VERSION_STRICT {
            same("blocks that cover no offset", 0, entries.iter().filter(unknown).count() as i128)?;
        }
        same("frames not decoded", self.undecoded.frames.into(), blocks.undecoded_frames().into())?;
        let times = entries.iter().filter_map(|entry| entry.times).reduce(|a: TimeRange, b| a.cover(&b));
        same("min_timestamp_ms", or_absent(self.min_timestamp_ms), or_absent(times.map(|t| t.min_ms)))?;
        same("max_timestamp_ms", or_absent(self.max_timestamp_ms), or_absent(times.map(|t| t.max_ms)))?;
        self.agrees_with_source(entries, blocks.plain_bytes())
    }

    fn agrees_with_source(&self, entries: &[BlockEntry], plain_bytes: u64) -> Result<(), Disagreement> {
        let segment = &self.segment;
        let (size, torn_bytes) = (i128::from(segment.size_bytes), i128::from(segment.torn_tail_bytes));
        let end = entries.last().map_or(0, BlockEntry::source_end).into();
        if end > size {
            return Err(Disagreement { what: "the segment's end", stated: size, found: end });
        }
        let torn = entries.last().filter(|last| last.is_torn_tail()).map(|last| i128::from(last.plain_len));
        if let Some(found) =
            torn.or((segment.partitions <= 1).then_some(0)).filter(|found| *found != torn_bytes)
        {
            return Err(Disagreement { what: "torn bytes", stated: torn_bytes, found });
        }
        if segment.partitions <= 1 && i128::from(plain_bytes) != size {
            let found = plain_bytes.into();
            return Err(Disagreement { what: "the segment's size", stated: size, found });
        }
        Ok(())
    }
}

/// A number that no `i64` is, so that "absent" and every time can be told apart.
fn or_absent(time: Option<i64>) -> i128 {
    time.map_or(i128::from(i64::MIN) - 1, i128::from)
}

/// Ranges as `[first, last]`.
pub(super) mod gap_pairs {
    use super::OffsetRange;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(gaps: &[OffsetRange], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(gaps.iter().map(|gap| (gap.first(), gap.last())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OffsetRange>, D::Error> {
        let pairs = Vec::<(i64, i64)>::deserialize(deserializer)?;
        let range =
            |(first, last)| OffsetRange::new(first, last).ok_or_else(|| D::Error::custom("an empty gap"));
        pairs.into_iter().map(range).collect()
    }
}

/// What may be absent, and is shared with readers.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(
        shared: &Option<Arc<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        shared.as_deref().serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<T>>, D::Error> {
        Ok(Option::<T>::deserialize(deserializer)?.map(Arc::new))
    }
}

mod format_name {
    use super::SegmentFormat;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(format: &SegmentFormat, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(format.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SegmentFormat, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = [SegmentFormat::ChronikWal, SegmentFormat::KafkaLog];
        let found = known.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| D::Error::custom(format_args!("no segment format is called {name:?}")))
    }
}

mod hex_crc32c {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(crc32c: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{crc32c:08x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let hex = String::deserialize(deserializer)?;
        let bytes =
            super::from_hex::<4>(&hex).ok_or_else(|| D::Error::custom("not eight hexadecimal digits"))?;
        Ok(u32::from_be_bytes(bytes))
    }
}

mod hex_sha256 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::formatting::hex;

    pub fn serialize<S: Serializer>(sha256: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(sha256))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let hex = String::deserialize(deserializer)?;
        super::from_hex(&hex).ok_or_else(|| D::Error::custom("not 64 hexadecimal digits"))
    }
}

/// Lower-case digits only, as they are written.
fn from_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
