//! Records, and the segments that hold them.

use std::error::Error;
use std::fmt;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;
use wal_indexer::generate::{Codec, Format, chronik, kafka, kafka::BatchHead, logs::Logs};
use wal_indexer::ids::TopicPartition;
use wal_indexer::internals::record::{RecordBatch, RecordSpans, Span};

/// The default number of records in a batch.
pub const BATCH_RECORDS: NonZeroUsize = NonZeroUsize::new(200).unwrap();

/// The format of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub format: Format,
    pub codec: Codec,
    /// Whether Chronik V2 frames also carry the producer's Kafka batch.
    pub producer_bytes: bool,
}

impl Case {
    /// The cases that the goals name.
    pub const OF_GOALS: [Self; 4] = [
        Self::kafka(Codec::None),
        Self::kafka(Codec::Zstd),
        Self::chronik(Codec::None),
        Self::CHRONIK_RECORDS,
    ];

    pub const fn kafka(codec: Codec) -> Self {
        Self { format: Format::Kafka, codec, producer_bytes: true }
    }

    pub const fn chronik(codec: Codec) -> Self {
        Self { format: Format::ChronikV2, codec, producer_bytes: true }
    }

    /// Chronik V2 without the producer's bytes.
    pub const CHRONIK_RECORDS: Self =
        Self { format: Format::ChronikV2, codec: Codec::None, producer_bytes: false };
}

/// Parses `kafka:zstd`, `chronik-v2:none`, or `chronik-v2:records` (without the producer's bytes).
impl FromStr for Case {
    type Err = Box<dyn Error + Send + Sync>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "chronik-v2:records" {
            return Ok(Self::CHRONIK_RECORDS);
        }
        let (format, codec) = text.split_once(':').unwrap_or((text, "none"));
        Ok(Self { format: format.parse()?, codec: codec.parse()?, producer_bytes: true })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.format, self.producer_bytes) {
            (Format::ChronikV2, true) => write!(f, "Chronik V2, with producer's bytes ({})", self.codec),
            (Format::ChronikV2, false) => write!(f, "Chronik V2, records only"),
            (Format::ChronikV1 | Format::ChronikMixed, _) => write!(f, "{}", self.format),
            (Format::Kafka, _) => write!(f, "Kafka, {}", self.codec),
        }
    }
}

/// A segment, and its records before they were encoded. No decoder is used here.
#[derive(Clone, Debug)]
pub struct Segment {
    pub bytes: Bytes,
    pub batches: Vec<RecordBatch>,
}

impl Segment {
    /// Makes a segment of complete batches, at least one, up to `bytes_max`.
    pub fn fill(
        case: Case,
        bytes_max: usize,
        batches: impl Iterator<Item = RecordBatch>,
    ) -> Result<Self, Box<dyn Error>> {
        let partition = TopicPartition::new("logs", 0)?;
        let (mut bytes, mut kept) = (Vec::with_capacity(bytes_max.min(1 << 30)), Vec::new());
        for batch in batches {
            let before = bytes.len();
            encode(case, &partition, &batch, &mut bytes)?;
            if bytes.len() > bytes_max && before > 0 {
                bytes.truncate(before);
                break;
            }
            kept.push(batch);
        }
        Ok(Self { bytes: bytes.into(), batches: kept })
    }

    /// Makes several segments of generated logs, each up to `bytes_max` and with records of its own.
    pub fn logs(case: Case, bytes_max: usize, count: u64) -> Result<Vec<Self>, Box<dyn Error>> {
        (0..count).map(|seed| Self::fill(case, bytes_max, logs(seed, BATCH_RECORDS))).collect()
    }

    pub fn records(&self) -> u64 {
        self.batches.iter().map(|batch| batch.records.len() as u64).sum()
    }

    /// The length in millions of bytes.
    pub fn megabytes(&self) -> f64 {
        self.bytes.len() as f64 / 1e6
    }
}

/// The total length in millions of bytes.
pub fn megabytes(segments: &[Segment]) -> f64 {
    segments.iter().map(Segment::megabytes).sum()
}

/// An endless log in batches. The seed decides its records.
pub fn logs(seed: u64, batch_records: NonZeroUsize) -> impl Iterator<Item = RecordBatch> {
    let (mut logs, mut offset) = (Logs::new(seed), 0);
    std::iter::repeat_with(move || {
        for _ in 0..batch_records.get() {
            logs.push(offset);
            offset += 1;
        }
        logs.take()
    })
}

/// Reads a file of `benches/corpora.py`: values, each followed by a zero byte. They become records without
/// keys and headers, one second apart. A batch ends after 200 records or 256 KiB.
pub fn corpus(path: &Path) -> std::io::Result<Vec<RecordBatch>> {
    const BATCH_BYTES: usize = 256 << 10;
    let file = fs::read(path)?;
    let (mut batches, mut bytes, mut records) = (Vec::new(), Vec::new(), Vec::new());
    let values = file.split(|byte| *byte == 0).filter(|value| !value.is_empty());
    for (offset, value) in (0..).zip(values) {
        if records.len() == BATCH_RECORDS.get() || bytes.len() >= BATCH_BYTES {
            batches.push(batch(std::mem::take(&mut bytes), std::mem::take(&mut records)));
        }
        let span = Span { start: bytes.len() as u32, len: value.len() as u32 };
        bytes.extend_from_slice(value);
        records.push(RecordSpans {
            offset,
            timestamp_ms: Some(1_760_000_000_000 + offset * 1_000),
            key: None,
            value: Some(span),
            headers: 0..0,
        });
    }
    if !records.is_empty() {
        batches.push(batch(bytes, records));
    }
    Ok(batches)
}

fn batch(bytes: Vec<u8>, records: Vec<RecordSpans>) -> RecordBatch {
    RecordBatch { bytes: bytes.into(), records, headers: Vec::new() }
}

fn encode(
    case: Case,
    partition: &TopicPartition,
    batch: &RecordBatch,
    out: &mut Vec<u8>,
) -> Result<(), Box<dyn Error>> {
    let head = BatchHead::default();
    match case.format {
        Format::Kafka => kafka::encode(&head, batch, case.codec, out)?,
        Format::ChronikV1 => batch.iter().for_each(|record| chronik::encode_v1(&record, out)),
        Format::ChronikV2 if case.producer_bytes => {
            let mut wire = Vec::new();
            kafka::encode(&head, batch, case.codec, &mut wire)?;
            chronik::encode_v2(partition, &head, case.codec, batch, Some(&wire), out);
        }
        Format::ChronikV2 => chronik::encode_v2(partition, &head, Codec::None, batch, None, out),
        Format::ChronikMixed => return Err("a mixed segment is no case of this bench".into()),
    }
    Ok(())
}

/// A file that is removed when this value is dropped.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Writes `bytes` to `name` in `directory`.
    pub fn write(directory: &Path, name: &str, bytes: &[u8]) -> std::io::Result<Self> {
        let path = directory.join(format!("bench-{}-{name}", std::process::id()));
        fs::write(&path, bytes)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // All measurements are done. A file that cannot be removed is no reason to fail.
        let _ = fs::remove_file(&self.0);
    }
}
