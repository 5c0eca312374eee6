//! The receipt of an acknowledged segment. It is built from [`Stored`] objects, and only a confirmed PUT
//! makes one of those. So code that acknowledges before the data is durable does not compile.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bundle::{AttachmentFacts, Manifest, UndecodedFacts};
use crate::ids::{LogId, OffsetRange, SegmentFormat, SegmentId, TopicPartition};
use crate::store::Stored;

use super::memory_account::Share;
use super::receive::Source;
use super::record_counts::RecordCounts;

/// The maximum number of gaps that a receipt lists. The manifest holds all gaps.
pub const RECEIPT_GAPS_MAX: usize = 1_000;

/// The confirmation that every record of the segment is durable, searchable, and restorable byte for byte.
#[derive(Debug)]
pub struct Receipt {
    /// The caller's name for the segment.
    pub segment_id: SegmentId,
    /// The format. `None` for a segment of zero bytes whose format the caller did not say.
    pub format: Option<SegmentFormat>,
    /// The segment's size in bytes.
    pub bytes_read: u64,
    /// CRC-32C of the whole segment.
    pub crc32c: u32,
    /// SHA-256 of the whole segment.
    pub sha256: [u8; 32],
    /// The number of bytes behind the last whole frame, which are kept because the caller asked for it.
    pub torn_tail_bytes: u64,
    /// The partitions, sorted by topic, then by number.
    pub partitions: Vec<IndexedPartition>,
    /// How long each stage took.
    pub timings: Timings,
    memory: Share,
}

/// The memory of a receipt and its copies. It is given back when this is dropped.
#[derive(Debug)]
pub struct ReceiptMemory {
    _share: Share,
}

/// One partition's records and the object that holds them.
#[derive(Debug)]
pub struct IndexedPartition {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log.
    pub log_id: LogId,
    /// The first offset that the segment's frames cover. If they cover none: the least of their first
    /// offsets.
    pub base_offset: i64,
    /// The last offset that they cover. If they cover none: one less than `base_offset`.
    pub last_offset: i64,
    /// Data records.
    pub records: u64,
    /// Control records.
    pub control_records: u64,
    /// Frames: Kafka batches or Chronik records.
    pub batches: u64,
    /// Bytes of the partition's frames in the segment.
    pub source_bytes: u64,
    /// The smallest and the greatest timestamp of data records in milliseconds since the Unix epoch.
    pub times_ms: Option<(i64, i64)>,
    /// The first [`RECEIPT_GAPS_MAX`] gaps.
    pub gaps: Vec<OffsetRange>,
    /// How many gaps there are in all.
    pub gap_count: u64,
    /// The number of frames of each kind of anomaly: they break their format, and were read all the same.
    pub anomalies: BTreeMap<String, u64>,
    /// Frames that were not decoded and are kept as they are.
    pub undecoded: UndecodedFacts,
    /// The attachments of a copy, sorted by name.
    pub attachments: Vec<AttachmentFacts>,
    /// The object, which is stored and checked.
    pub stored: Stored,
    /// Where the bundle's footer begins in the object.
    pub footer_offset: u64,
}

/// How long each stage took. Stages overlap only in `receive`, where indexing begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Waiting for memory.
    pub admit: Duration,
    /// From admission to the last byte.
    pub receive: Duration,
    /// From the last byte to the finished bundles.
    pub build: Duration,
    /// From the finished bundles to the last confirmed object.
    pub upload: Duration,
    /// The whole time.
    pub total: Duration,
}

impl Timings {
    /// The stages with their names, in order.
    pub fn phases(&self) -> [(&'static str, Duration); 4] {
        [("admit", self.admit), ("receive", self.receive), ("build", self.build), ("upload", self.upload)]
    }
}

impl Receipt {
    pub(super) fn new(
        segment_id: SegmentId,
        source: Source,
        partitions: Vec<IndexedPartition>,
        memory: Share,
    ) -> Self {
        Self {
            segment_id,
            format: source.format,
            bytes_read: source.bytes_read,
            crc32c: source.crc32c,
            sha256: source.sha256,
            torn_tail_bytes: source.torn_tail_bytes,
            partitions,
            timings: Timings::default(),
            memory,
        }
    }

    /// Returns the memory of the receipt, for a caller that continues with a copy of the receipt.
    pub fn into_memory(self) -> ReceiptMemory {
        ReceiptMemory { _share: self.memory }
    }

    /// Data records of all partitions.
    pub fn records(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.records).sum()
    }

    /// Control records of all partitions.
    pub fn control_records(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.control_records).sum()
    }

    /// Frames of all partitions.
    pub fn batches(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.batches).sum()
    }

    /// The anomalies of all partitions.
    pub fn anomalies(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (kind, frames) in self.partitions.iter().flat_map(|partition| &partition.anomalies) {
            *all.entry(kind.clone()).or_default() += frames;
        }
        all
    }

    /// The frames of all partitions that were not decoded.
    pub fn undecoded(&self) -> UndecodedFacts {
        let mut all = UndecodedFacts::default();
        self.partitions.iter().for_each(|partition| all.merge(partition.undecoded.clone()));
        all
    }

    /// Whether every object existed before this request.
    pub fn already_existed(&self) -> bool {
        !self.partitions.is_empty() && self.partitions.iter().all(|one| one.stored.already_existed())
    }
}

impl IndexedPartition {
    pub(super) fn new(manifest: Manifest, counts: RecordCounts, stored: Stored, footer_offset: u64) -> Self {
        let mut gaps = manifest.gaps;
        let gap_count = gaps.len() as u64;
        gaps.truncate(RECEIPT_GAPS_MAX);
        gaps.shrink_to_fit();
        Self {
            partition: stored.key().partition().clone(),
            log_id: stored.key().log_id().clone(),
            base_offset: manifest.base_offset,
            last_offset: manifest.last_offset,
            records: counts.records,
            control_records: counts.control_records,
            batches: counts.batches,
            source_bytes: counts.source_bytes,
            times_ms: counts.times,
            gaps,
            gap_count,
            attachments: manifest.copy.map(|copy| copy.attachments).unwrap_or_default(),
            anomalies: manifest.anomalies,
            undecoded: manifest.undecoded,
            stored,
            footer_offset,
        }
    }
}
