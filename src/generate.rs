//! Makes segments of realistic logs: any size, either format, the same bytes for the same [`Spec`] wherever it runs (compressed
//! ones: with the same compressors). Tests, benchmarks and demonstrations read them.
//!
//! The encoders here are independent of the decoders in `segment`, on purpose: each is evidence for the other. Records are
//! streamed out batch by batch, so a segment's size costs no memory. Knows nothing of decoding, Tantivy or stores.

pub mod chronik;
pub mod kafka;
pub mod logs;
mod random;

use std::fmt;
use std::io::{self, Write};
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use crate::ids::{OffsetRange, TopicPartition, TopicPartitionError};
use crate::record::RecordBatch;
use logs::Logs;

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What the segment is written in.
    pub format: Format,
    /// How the Kafka batches are compressed; without effect on Chronik V1 records and on Chronik V2 without
    /// [`producer_bytes`](Self::producer_bytes), which carry none.
    pub codec: Codec,
    /// How much of it.
    pub size: Size,
    /// Chooses the records. They depend on nothing else: all formats and codecs carry the same ones for a seed.
    pub seed: u64,
    /// The first, or only, partition. Kafka batches and Chronik V1 records do not say it.
    pub partition: TopicPartition,
    /// How many partitions of the topic take turns, batch by batch, from `partition` on; more than one in
    /// [`Format::ChronikV2`] only.
    pub partitions: NonZeroU32,
    /// The first offset of each partition.
    pub base_offset: i64,
    /// Records of a batch, at most [`BATCH_RECORDS_MAX`].
    pub batch_records: NonZeroU32,
    /// Whether Chronik V2 frames also carry the producer's Kafka batch, as a broker stores them.
    pub producer_bytes: bool,
    /// Leaves out one offset after every so many records of a partition, as compaction does.
    pub gap_every: Option<NonZeroU64>,
}

/// The most records of a batch, so that one batch stays far below any format's limits.
pub const BATCH_RECORDS_MAX: u32 = 100_000;

impl Default for Spec {
    /// A Kafka log segment of 64 MiB, uncompressed, 200 records a batch, for `logs`/0 from offset 0 on.
    fn default() -> Self {
        Self {
            format: Format::Kafka,
            codec: Codec::None,
            size: Size::Bytes(64 << 20),
            seed: 1,
            partition: TopicPartition::new("logs", 0).expect("a valid name"),
            partitions: NonZeroU32::MIN,
            base_offset: 0,
            batch_records: NonZeroU32::new(200).expect("not zero"),
            producer_bytes: true,
            gap_every: None,
        }
    }
}

/// What a generated segment is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Kafka record batches, magic 2.
    Kafka,
    /// Chronik WAL V2: a batch a frame.
    ChronikV2,
    /// Chronik WAL V1: a record a frame.
    ChronikV1,
    /// Batches take turns: one as V1 records, the next as a V2 frame.
    ChronikMixed,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Kafka, Self::ChronikV2, Self::ChronikV1, Self::ChronikMixed];

    /// Its name: `kafka`, `chronik-v2`, `chronik-v1`, `chronik-mixed`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ChronikV2 => "chronik-v2",
            Self::ChronikV1 => "chronik-v1",
            Self::ChronikMixed => "chronik-mixed",
        }
    }
}

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip, level 6.
    Gzip,
    /// Snappy in Xerial's framing, as Java clients write it.
    Snappy,
    /// LZ4 frames of independent 64 KiB blocks, as Java clients write them.
    Lz4,
    /// Zstandard, level 3.
    Zstd,
}

impl Codec {
    /// All codecs, in the order of their numbers in Kafka's attributes.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Its name: `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Its number in Kafka's batch attributes, which is also the number of Chronik's enum variant.
    fn number(self) -> u8 {
        self as u8
    }
}

/// A name that stands for no format or codec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is none of {known}")]
pub struct UnknownName {
    /// The name given.
    pub name: String,
    /// The names that there are.
    pub known: &'static str,
}

impl FromStr for Format {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| UnknownName {
            name: name.to_owned(),
            known: "kafka, chronik-v2, chronik-v1, chronik-mixed",
        })
    }
}

impl FromStr for Codec {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| UnknownName { name: name.to_owned(), known: "none, gzip, snappy, lz4, zstd" })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As many whole batches as fit into so many bytes, but at least one.
    Bytes(u64),
    /// Exactly so many records; 0 makes an empty segment.
    Records(u64),
}

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The segment's length.
    pub bytes: u64,
    /// Frames of the segment: Kafka batches, or Chronik records of either version.
    pub frames: u64,
    /// Records of all partitions.
    pub records: u64,
    /// One for each partition that got records, in their order.
    pub partitions: Vec<PartitionSummary>,
}

/// What was made for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSummary {
    /// The partition.
    pub partition: TopicPartition,
    /// Its records.
    pub records: u64,
    /// From its first to its last offset.
    pub range: OffsetRange,
    /// Offsets left out within the range; no two are neighbours, unless a gap follows each record.
    pub gaps: u64,
    /// The earliest record's time, in milliseconds since the Unix epoch.
    pub min_timestamp_ms: i64,
    /// The latest record's time.
    pub max_timestamp_ms: i64,
}

/// Why a segment was not made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The format cannot say which partition a batch belongs to.
    #[error("{format} segments hold one partition, not {partitions}")]
    OnePartitionOnly {
        /// The format asked for.
        format: Format,
        /// The partitions asked for.
        partitions: u32,
    },
    /// More records a batch than [`BATCH_RECORDS_MAX`].
    #[error("{records} records a batch are more than {BATCH_RECORDS_MAX}")]
    BatchTooLarge {
        /// The records asked for.
        records: u32,
    },
    /// One of the partitions has no valid number.
    #[error("partition number {index} from the first on: {source}")]
    Partition {
        /// Counted from the first partition.
        index: u32,
        /// Why.
        source: TopicPartitionError,
    },
    /// Offsets start below zero or would pass the greatest one.
    #[error("no room for the records' offsets from {base_offset} on")]
    Offsets {
        /// The first offset asked for.
        base_offset: i64,
    },
    /// The batch could not be compressed.
    #[error("compressing with {codec}: {source}")]
    Compress {
        /// The codec.
        codec: Codec,
        /// What the compressor said.
        source: io::Error,
    },
    /// The bytes could not be written.
    #[error("writing the segment: {0}")]
    Write(#[from] io::Error),
}

/// Writes the segment that `spec` describes to `out`, one `write_all` a batch, and says what it holds. Does not flush.
pub fn generate(spec: &Spec, out: &mut impl Write) -> Result<Summary, GenerateError> {
    let mut lanes = lanes(spec)?;
    let batch_records = u64::from(spec.batch_records.get());
    let mut logs = Logs::new(spec.seed);
    let mut summary = Summary::default();
    let (mut bytes, mut wire) = (Vec::new(), Vec::new());
    for turn in 0.. {
        let records = match spec.size {
            Size::Bytes(_) => batch_records,
            Size::Records(total) => batch_records.min(total - summary.records),
        };
        if records == 0 {
            break;
        }
        let lane_count = lanes.len();
        let lane = &mut lanes[turn % lane_count];
        let mut next = lane.clone();
        for _ in 0..records {
            let offset =
                next.take_offset(spec).ok_or(GenerateError::Offsets { base_offset: spec.base_offset })?;
            logs.push(offset);
        }
        let batch = logs.take();
        next.count(&batch);

        bytes.clear();
        let frames = encode(spec, turn, &lane.partition, &batch, &mut wire, &mut bytes)?;
        logs.recycle(batch);
        if matches!(spec.size, Size::Bytes(max) if turn > 0 && summary.bytes + bytes.len() as u64 > max) {
            break;
        }
        out.write_all(&bytes)?;
        summary.bytes += bytes.len() as u64;
        summary.frames += frames;
        summary.records += records;
        *lane = next;
    }
    summary.partitions = lanes.into_iter().filter_map(|lane| lane.summary).collect();
    Ok(summary)
}

/// Encodes a batch in the segment's format and says how many frames it became.
fn encode(
    spec: &Spec,
    turn: usize,
    partition: &TopicPartition,
    batch: &RecordBatch,
    wire: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<u64, GenerateError> {
    let head = kafka::BatchHead::default();
    let as_v1 = match spec.format {
        Format::Kafka => {
            kafka::encode(&head, batch, spec.codec, out)?;
            return Ok(1);
        }
        Format::ChronikV1 => true,
        Format::ChronikV2 => false,
        Format::ChronikMixed => turn.is_multiple_of(2),
    };
    if as_v1 {
        batch.iter().for_each(|record| chronik::encode_v1(&record, out));
        return Ok(batch.records.len() as u64);
    }
    let (codec, wire) = if spec.producer_bytes {
        wire.clear();
        kafka::encode(&head, batch, spec.codec, wire)?;
        (spec.codec, Some(wire.as_slice()))
    } else {
        (Codec::None, None)
    };
    chronik::encode_v2(partition, &head, codec, batch, wire, out);
    Ok(1)
}

/// One partition's turn of the segment.
#[derive(Clone)]
struct Lane {
    partition: TopicPartition,
    next_offset: Option<i64>,
    /// Records since the last gap.
    since_gap: u64,
    gaps: u64,
    summary: Option<PartitionSummary>,
}

fn lanes(spec: &Spec) -> Result<Vec<Lane>, GenerateError> {
    let partitions = spec.partitions.get();
    if partitions > 1 && spec.format != Format::ChronikV2 {
        return Err(GenerateError::OnePartitionOnly { format: spec.format, partitions });
    }
    if spec.batch_records.get() > BATCH_RECORDS_MAX {
        return Err(GenerateError::BatchTooLarge { records: spec.batch_records.get() });
    }
    if spec.base_offset < 0 {
        return Err(GenerateError::Offsets { base_offset: spec.base_offset });
    }
    (0..partitions)
        .map(|index| {
            // A wrapped number is negative, so it is refused by name.
            let number = spec.partition.partition().wrapping_add_unsigned(index);
            let partition = TopicPartition::new(spec.partition.topic(), number)
                .map_err(|source| GenerateError::Partition { index, source })?;
            let next_offset = Some(spec.base_offset);
            Ok(Lane { partition, next_offset, since_gap: 0, gaps: 0, summary: None })
        })
        .collect()
}

impl Lane {
    /// The next record's offset; `None` where there is none left.
    fn take_offset(&mut self, spec: &Spec) -> Option<i64> {
        let mut offset = self.next_offset?;
        if spec.gap_every.is_some_and(|every| self.since_gap == every.get()) {
            self.since_gap = 0;
            self.gaps += 1;
            offset = offset.checked_add(1)?;
        }
        self.since_gap += 1;
        self.next_offset = offset.checked_add(1);
        Some(offset)
    }

    /// Adds a batch of this partition to its summary.
    fn count(&mut self, batch: &RecordBatch) {
        let times = batch.records.iter().filter_map(|record| record.timestamp_ms);
        let (Some(first), Some(last)) = (batch.records.first(), batch.records.last()) else { return };
        let (Some(min), Some(max)) = (times.clone().min(), times.max()) else { return };
        let Some(range) = OffsetRange::new(first.offset, last.offset) else { return };
        let records = batch.records.len() as u64;
        let summary = self.summary.get_or_insert_with(|| PartitionSummary {
            partition: self.partition.clone(),
            records: 0,
            range,
            gaps: 0,
            min_timestamp_ms: min,
            max_timestamp_ms: max,
        });
        summary.records += records;
        summary.range = summary.range.cover(&range);
        summary.gaps = self.gaps;
        summary.min_timestamp_ms = summary.min_timestamp_ms.min(min);
        summary.max_timestamp_ms = summary.max_timestamp_ms.max(max);
    }
}

#[cfg(test)]
mod tests;
