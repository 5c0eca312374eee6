//! `manifest.json`: describes what a bundle holds. It can be understood without the other members.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::footer::Footer;
use super::layout::{self, ATTACHMENT_PREFIX};
use super::records::{BlockEntry, BlockIndex, TimeRange};
use super::transactions::TransactionFacts;
use super::writer::Blocks;
use super::{FORMAT_VERSION, FORMAT_VERSION_STRICT, Kind};
use crate::ids::{OffsetRange, SegmentFormat};

/// The description of a bundle. It has no clock times and nothing random: the same source, settings and build
/// give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the bundle format. Readers look at this first.
    pub format_version: u32,
    /// The program that wrote the bundle, with its version: `wal-indexer 0.1.0`.
    pub created_by: String,
    /// The library that wrote the files under `index/`.
    pub tantivy: TantivyFacts,
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The incarnation of the log that the offsets belong to.
    pub log_id: String,
    /// The smallest offset that a frame covers.
    pub base_offset: i64,
    /// The greatest offset that a frame covers, inclusive. If no frame covers an offset, it is `base_offset -
    /// 1`, and `base_offset` is the offset at which the frames are.
    pub last_offset: i64,
    /// The number of data records: documents in the index, and records in the blocks.
    pub record_count: u64,
    /// The number of control records (commit and abort markers). They are in the blocks, but not in the
    /// index.
    pub control_record_count: u64,
    /// The number of the segment's frames: Kafka batches or Chronik records.
    pub batch_count: u64,
    /// The smallest time of a data record, in milliseconds since the Unix epoch; absent if no record has a
    /// time.
    pub min_timestamp_ms: Option<i64>,
    /// The greatest such time.
    pub max_timestamp_ms: Option<i64>,
    /// All offsets from `base_offset` to `last_offset` that have no data record, as `[first, last]`,
    /// ascending and merged.
    #[serde(with = "gap_pairs")]
    pub gaps: Vec<OffsetRange>,
    /// The number of frames for each kind of anomaly. A frame with an anomaly breaks its format, but is
    /// decoded all the same.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub anomalies: BTreeMap<String, u64>,
    /// The frames that could not be decoded and are kept as they are; absent if there are none.
    #[serde(default, skip_serializing_if = "UndecodedFacts::is_empty")]
    pub undecoded: UndecodedFacts,
    /// The transactions of the bundle's records. Absent if no record belongs to one, and in bundles of
    /// earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared")]
    pub transactions: Option<Arc<TransactionFacts>>,
    /// The copy that the bundle is. Absent in bundles whose keys follow from their contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyFacts>,
    /// The source.
    pub segment: SegmentFacts,
    /// The index.
    pub index: IndexFacts,
    /// The blocks.
    pub records: RecordsFacts,
}

/// The library that wrote the files under `index/`, and so can read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TantivyFacts {
    /// Tantivy's version.
    pub version: String,
    /// The kind of its term dictionaries: `sstable`.
    pub dictionary: String,
}

/// One copy of a segment, with an id that its caller chose. The bundle's key follows from that id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyFacts {
    /// The id.
    pub id: String,
    /// The base offset that the caller stated. It may be less than the first offset that a frame covers.
    pub base_offset: i64,
    /// The attachments, sorted by name.
    pub attachments: Vec<AttachmentFacts>,
}

/// Bytes that are stored verbatim beside the segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentFacts {
    /// The name. The member is `attachments/NAME`.
    pub name: String,
    /// The length in bytes.
    pub size_bytes: u64,
    /// CRC-32C of the bytes, as eight hexadecimal digits.
    #[serde(with = "hex_crc32c")]
    pub crc32c: u32,
}

impl AttachmentFacts {
    /// Returns whether an attachment can have this name.
    pub fn is_name(name: &str) -> bool {
        name.len() <= ATTACHMENT_NAME_BYTES_MAX
            && layout::is_attachment_name(&format!("{ATTACHMENT_PREFIX}{name}"))
    }
}

/// The longest name of an attachment, in bytes.
pub const ATTACHMENT_NAME_BYTES_MAX: usize = 80;

/// The whole segment that the bundle was made from, also if other partitions were in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFacts {
    /// The name that the caller gave. Another caller may have another name for the same bytes; `sha256`
    /// identifies them.
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
    /// The number of bytes after its last whole frame. They are in the bundle of that frame's partition.
    pub torn_tail_bytes: u64,
    /// The number of partitions in it. A restore needs one bundle for each of them.
    pub partitions: u32,
}

/// The contents of the index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFacts {
    /// How the topic's values are indexed: the names of settings, with their values.
    pub settings: BTreeMap<String, String>,
    /// The fields found in the records, sorted by path.
    pub fields: Vec<FieldFacts>,
    /// The Tantivy segments, in the order of the record ordinals.
    pub segments: Vec<IndexSegmentFacts>,
    /// The number of items that are stored but not searchable, for each reason.
    pub unsearchable: BTreeMap<String, u64>,
    /// The number of leaves of JSON values at paths that `fields` does not list. These leaves have terms of
    /// their own.
    ///
    /// Absent in bundles of earlier releases. There such leaves have no terms of their own, and numbers that
    /// are written as strings are indexed as words only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_leaves: Option<u64>,
}

/// A field that queries can name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldFacts {
    /// The path as queries write it: `value.user.id`, `header.trace`, `text`.
    pub path: String,
    /// The types of its values, as the index names them.
    pub types: Vec<String>,
}

/// One Tantivy segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSegmentFacts {
    /// Its name. The names of the segment's files start with it.
    pub name: String,
    /// The number of its documents: one for each data record, in the order of the ordinals.
    pub documents: u64,
}

/// The frames that could not be decoded and are kept verbatim. They can be restored and fetched as batches.
/// None of their records is indexed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndecodedFacts {
    /// The number of these frames.
    pub frames: u64,
    /// Their total length in bytes.
    pub bytes: u64,
    /// The total number of records that their heads state, as far as heads state one.
    pub claimed_records: u64,
    /// The number of frames for each reason why a frame was not decoded.
    pub reasons: BTreeMap<String, u64>,
}

impl UndecodedFacts {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Adds the frames of `others`.
    pub fn merge(&mut self, others: Self) {
        self.frames += others.frames;
        self.bytes += others.bytes;
        self.claimed_records = self.claimed_records.saturating_add(others.claimed_records);
        for (reason, frames) in others.reasons {
            *self.reasons.entry(reason).or_default() += frames;
        }
    }
}

/// The contents of the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsFacts {
    /// The number of blocks in `records.zst`.
    pub blocks: u64,
    /// The number of whole frames in them.
    pub frames: u64,
    /// The number of bytes of the source in them, with the torn tail.
    pub plain_bytes: u64,
}

impl RecordsFacts {
    /// Counts the contents of a bundle's slices.
    pub fn of(slices: &[Blocks]) -> Self {
        slices.iter().flat_map(Blocks::entries).fold(Self::default(), |sum, entry| Self {
            blocks: sum.blocks + 1,
            frames: sum.frames + u64::from(entry.frames),
            plain_bytes: sum.plain_bytes + u64::from(entry.plain_len),
        })
    }
}

/// The reasons why bytes are not a manifest that this build reads.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not JSON, or the fields are not those of the format version.
    #[error("manifest at line {line}, column {column}: {source}")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// A later release wrote it.
    #[error("bundle format version {version} is newer than this build reads ({FORMAT_VERSION})")]
    Newer {
        /// The version that it states.
        version: u32,
    },
    /// The value of a field is not possible.
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

    /// Returns whether it is corrupt or of a later release.
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
    /// The value in the manifest.
    pub stated: i128,
    /// The value in the other members.
    pub found: i128,
}

impl Manifest {
    /// Returns the name of this program and its version, for [`Manifest::created_by`].
    pub fn this_build() -> String {
        format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    }

    /// Returns the format version for a bundle with these anomalies and undecoded frames, which may be a copy.
    pub fn version_for(
        anomalies: &BTreeMap<String, u64>,
        undecoded: &UndecodedFacts,
        copy: Option<&CopyFacts>,
    ) -> u32 {
        let is_strict = anomalies.is_empty() && undecoded.is_empty() && copy.is_none();
        if is_strict { FORMAT_VERSION_STRICT } else { FORMAT_VERSION }
    }

    /// Returns the offsets that the frames cover; `None` if they cover none.
    pub fn covered(&self) -> Option<OffsetRange> {
        OffsetRange::new(self.base_offset, self.last_offset)
    }

    /// Returns the offsets in the bundle's key. If the frames cover no offset, this is the one offset at
    /// which they are.
    pub fn key_range(&self) -> OffsetRange {
        let place = || OffsetRange::new(self.base_offset, self.base_offset).expect("a range of one");
        let range = self.covered().unwrap_or_else(place);
        let stated = self.copy.as_ref().and_then(|copy| OffsetRange::new(copy.base_offset, copy.base_offset));
        stated.map_or(range, |stated| stated.cover(&range))
    }

    /// Returns the attachments, sorted by name.
    pub fn attachments(&self) -> &[AttachmentFacts] {
        self.copy.as_ref().map_or(&[], |copy| &copy.attachments)
    }

    /// Parses `manifest.json`. The version is checked first, so that a later version is reported as such,
    /// whatever its other fields are.
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

    /// Returns the bytes of `manifest.json`: one line of JSON for programs. `jq` formats it for people.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let mut bytes = serde_json::to_vec(self).map_err(ManifestError::json)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |field, what| Err(ManifestError::Field { field, what });
        if !(1..=FORMAT_VERSION).contains(&self.format_version) {
            return wrong("format_version", "is unknown");
        }
        if self.topic.is_empty() {
            return wrong("topic", "is empty");
        }
        if self.partition < 0 {
            return wrong("partition", "is negative");
        }
        let is_strict = self.format_version <= FORMAT_VERSION_STRICT;
        if is_strict && !(self.anomalies.is_empty() && self.undecoded.is_empty()) {
            return wrong("anomalies", "are not allowed in this version");
        }
        if let Some(copy) = &self.copy {
            if is_strict {
                return wrong("copy", "is not allowed in this version");
            }
            if copy.base_offset < 0 || copy.base_offset > self.base_offset {
                return wrong("copy.base_offset", "is negative, or above base_offset");
            }
            if !copy.attachments.iter().all(|one| AttachmentFacts::is_name(&one.name)) {
                return wrong("copy.attachments", "have an invalid name");
            }
            if copy.attachments.windows(2).any(|pair| pair[0].name >= pair[1].name) {
                return wrong("copy.attachments", "are not in ascending order");
            }
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
        // The gaps are merged: at least one offset with a record is between two gaps.
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

    /// Checks that the manifest states the same version as the footer.
    pub fn is_of_version(&self, version: u32) -> Result<(), ManifestError> {
        if self.format_version == version {
            return Ok(());
        }
        Err(ManifestError::Field { field: "format_version", what: "is not the footer's" })
    }

    /// Compares the counts in the manifest with those of the blocks. If the segment has one partition only,
    /// this proves that each of its bytes is in a block: the blocks ascend, never overlap, and add up to the
    /// segment's size.
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

    /// Checks that the bundle has exactly the attachments that the manifest lists.
    pub fn agrees_with_attachments(&self, footer: &Footer) -> Result<(), Disagreement> {
        let listed = self.attachments();
        let (stated, found) = (listed.len() as i128, footer.attachments().len() as i128);
        if stated != found {
            return Err(Disagreement { what: "attachments", stated, found });
        }
        for (facts, (name, member)) in listed.iter().zip(footer.attachments()) {
            let differs = [
                ("the names of attachments", i128::from(facts.name != name), 0),
                ("the size of an attachment", facts.size_bytes.into(), member.len.into()),
                ("the checksum of an attachment", facts.crc32c.into(), member.crc32c.into()),
            ];
            if let Some((what, stated, found)) =
                differs.into_iter().find(|(_, stated, found)| stated != found)
            {
                return Err(Disagreement { what, stated, found });
            }
        }
        Ok(())
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

/// Maps an absent time to a number that is outside the range of `i64`, so that it differs from every time.
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

/// An optional value that is shared with readers.
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

/// Only lower-case digits are accepted, as they are written.
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
