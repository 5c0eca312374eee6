//! Makes segments of realistic logs, of any size and in each format. The same [`Spec`] gives the same bytes
//! on every machine (compressed ones with the same version of the compressors). Tests, benchmarks and
//! demonstrations read them.
//!
//! The encoders here deliberately share no code with the decoders in `segment`, so that each verifies the
//! other. Records are written batch by batch, so a larger segment takes no more memory. This module does not
//! know decoding, Tantivy or stores.

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

/// The description of a segment to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The format of the segment.
    pub format: Format,
    /// The compression of the Kafka batches. It has no effect on Chronik V1 records, or on Chronik V2 without
    /// [`producer_bytes`](Self::producer_bytes), because these have no Kafka batches.
    pub codec: Codec,
    /// The size of the segment.
    pub size: Size,
    /// Selects the records. They depend on nothing else: for one seed, all formats and codecs have the same
    /// records.
    pub seed: u64,
    /// The first, or only, partition. Kafka batches and Chronik V1 records do not name it.
    pub partition: TopicPartition,
    /// The number of partitions of the topic, from `partition` on. Their batches alternate. More than one is
    /// possible only with [`Format::ChronikV2`].
    pub partitions: NonZeroU32,
    /// The first offset of each partition.
    pub base_offset: i64,
    /// The number of records in a batch, at most [`BATCH_RECORDS_MAX`].
    pub batch_records: NonZeroU32,
    /// Whether Chronik V2 frames also carry the producer's Kafka batch, as a broker stores them.
    pub producer_bytes: bool,
    /// Leaves out one offset after each group of this many records of a partition, as compaction does.
    pub gap_every: Option<NonZeroU64>,
}

/// The largest number of records in a batch, so that a batch stays far below the limits of every format.
pub const BATCH_RECORDS_MAX: u32 = 100_000;

impl Default for Spec {
    /// A Kafka log segment of 64 MiB, uncompressed, with 200 records in a batch, for `logs`/0 from offset 0
    /// on.
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

/// The format of a generated segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Kafka record batches, magic 2.
    Kafka,
    /// Chronik WAL V2: each frame is a batch.
    ChronikV2,
    /// Chronik WAL V1: each frame is a record.
    ChronikV1,
    /// Batches alternate: one as V1 records, the next as a V2 frame.
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

/// The compression of a batch's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not compressed.
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

/// The error that a name is not a format or a codec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not one of {known}")]
pub struct UnknownName {
    /// The name given.
    pub name: String,
    /// The valid names.
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

/// The size of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As many whole batches as fit into this many bytes, but at least one.
    Bytes(u64),
    /// Exactly this many records; 0 makes an empty segment.
    Records(u64),
}

/// The facts about a generated segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The segment's length.
    pub bytes: u64,
    /// The number of frames: Kafka batches, or Chronik records of either version.
    pub frames: u64,
    /// The number of records of all partitions.
    pub records: u64,
    /// One for each partition that got records, in their order.
    pub partitions: Vec<PartitionSummary>,
}

/// The facts about one partition of a generated segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSummary {
    /// The partition.
    pub partition: TopicPartition,
    /// The number of its records.
    pub records: u64,
    /// From its first to its last offset.
    pub range: OffsetRange,
    /// The number of offsets left out within the range. No two of them are adjacent.
    pub gaps: u64,
    /// The earliest record's time, in milliseconds since the Unix epoch.
    pub min_timestamp_ms: i64,
    /// The latest record's time.
    pub max_timestamp_ms: i64,
}

/// Why a segment could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The format cannot name the partition of a batch.
    #[error("{format} segments hold one partition, not {partitions}")]
    OnePartitionOnly {
        /// The format asked for.
        format: Format,
        /// The partitions asked for.
        partitions: u32,
    },
    /// There are more records in a batch than [`BATCH_RECORDS_MAX`].
    #[error("{records} records in a batch are more than {BATCH_RECORDS_MAX}")]
    BatchTooLarge {
        /// The records asked for.
        records: u32,
    },
    /// One of the partitions has no valid number.
    #[error("partition {index}, counted from the first: {source}")]
    Partition {
        /// The number of the partition, counted from the first one.
        index: u32,
        /// The reason.
        source: TopicPartitionError,
    },
    /// Offsets start below zero or would exceed the largest one.
    #[error("the records' offsets from {base_offset} on are out of range")]
    Offsets {
        /// The first offset asked for.
        base_offset: i64,
    },
    /// The batch could not be compressed.
    #[error("compressing with {codec}: {source}")]
    Compress {
        /// The codec.
        codec: Codec,
        /// The compressor's error.
        source: io::Error,
    },
    /// The bytes could not be written.
    #[error("writing the segment: {0}")]
    Write(#[from] io::Error),
}

/// Writes the segment that `spec` describes to `out`, with one `write_all` for each batch, and returns the
/// facts about it. Does not flush.
pub fn generate(spec: &Spec, out: &mut impl Write) -> Result<Summary, GenerateError> {
    let mut partition_states = partition_states(spec)?;
    let batch_records = u64::from(spec.batch_records.get());
    let mut logs = Logs::new(spec.seed);
    let mut summary = Summary::default();
    let (mut bytes, mut producer_batch) = (Vec::new(), Vec::new());
    for turn in 0.. {
        let records = match spec.size {
            Size::Bytes(_) => batch_records,
            Size::Records(total) => batch_records.min(total - summary.records),
        };
        if records == 0 {
            break;
        }
        let state_count = partition_states.len();
        let state = &mut partition_states[turn % state_count];
        let mut next = state.clone();
        for _ in 0..records {
            let offset =
                next.take_offset(spec).ok_or(GenerateError::Offsets { base_offset: spec.base_offset })?;
            logs.push(offset);
        }
        let batch = logs.take();
        next.count(&batch);

        bytes.clear();
        let frames = encode(spec, turn, &state.partition, &batch, &mut producer_batch, &mut bytes)?;
        logs.recycle(batch);
        if matches!(spec.size, Size::Bytes(max) if turn > 0 && summary.bytes + bytes.len() as u64 > max) {
            break;
        }
        out.write_all(&bytes)?;
        summary.bytes += bytes.len() as u64;
        summary.frames += frames;
        summary.records += records;
        *state = next;
    }
    summary.partitions = partition_states.into_iter().filter_map(|state| state.summary).collect();
    Ok(summary)
}

/// Encodes a batch in the segment's format and returns the number of frames.
fn encode(
    spec: &Spec,
    turn: usize,
    partition: &TopicPartition,
    batch: &RecordBatch,
    producer_batch: &mut Vec<u8>,
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
    let (codec, producer_batch) = if spec.producer_bytes {
        producer_batch.clear();
        kafka::encode(&head, batch, spec.codec, producer_batch)?;
        (spec.codec, Some(producer_batch.as_slice()))
    } else {
        (Codec::None, None)
    };
    chronik::encode_v2(partition, &head, codec, batch, producer_batch, out);
    Ok(1)
}

/// The state of one partition while the segment is made.
#[derive(Clone)]
struct PartitionState {
    partition: TopicPartition,
    next_offset: Option<i64>,
    /// Records since the last gap.
    since_gap: u64,
    gaps: u64,
    summary: Option<PartitionSummary>,
}

fn partition_states(spec: &Spec) -> Result<Vec<PartitionState>, GenerateError> {
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
            // A number that wraps around is negative, so `TopicPartition::new` refuses it.
            let number = spec.partition.partition().wrapping_add_unsigned(index);
            let partition = TopicPartition::new(spec.partition.topic(), number)
                .map_err(|source| GenerateError::Partition { index, source })?;
            let next_offset = Some(spec.base_offset);
            Ok(PartitionState { partition, next_offset, since_gap: 0, gaps: 0, summary: None })
        })
        .collect()
}

impl PartitionState {
    /// Returns the next record's offset; `None` if there is none left.
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
