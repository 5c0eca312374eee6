//! The contents of the fixtures, as their makers recorded them, and the contents of bundles. Bundles are read
//! with the crate's own bundle reader and decoders only. Other tests compare these with the same records.

use std::collections::BTreeSet;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use wal_indexer::internals::bundle::{self, BlockEntry, Manifest};
use wal_indexer::internals::record::RecordBatch;
use wal_indexer::proto::v1::{self, IndexSegmentResponse};
use wal_indexer::segment::{Frame, FrameSplitter};

/// A record that borrows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A segment's file and its contents.
pub struct Fixture {
    /// Its path below `tests/fixtures`.
    pub file: String,
    /// Its bytes.
    pub bytes: Bytes,
    pub format: v1::SegmentFormat,
    /// Topic and partition, if the caller must name them.
    pub named_partition: Option<(&'static str, i32)>,
    /// Sorted by topic and partition.
    pub expected: Vec<ExpectedPartition>,
}

/// A segment's contents for one partition.
#[derive(Clone, Debug, Default)]
pub struct ExpectedPartition {
    pub topic: String,
    pub partition: i32,
    pub base_offset: i64,
    pub last_offset: i64,
    /// In the order of the file.
    pub records: Vec<Record>,
    pub control_offsets: Vec<i64>,
    pub batches: u64,
}

/// How the records of a Kafka fixture are stored in a Chronik one.
#[derive(Clone, Copy)]
enum As {
    /// Each batch is a frame.
    Batches,
    /// The same, but the batches from this index on come first.
    From(usize),
    /// Each record is a V1 record: a frame that cannot hold null.
    Records,
}

/// Topic and partition of most Chronik fixtures. The caller names them if the bytes do not.
const ORDERS: (&str, i32) = ("orders", 3);

type Parts = &'static [((&'static str, i32), As, &'static str)];

/// Chronik's fixtures, as in `tests/fixtures/README.md`: what each is made of, and whether the caller must
/// name the partition.
const CHRONIK: [(&str, bool, Parts); 16] = [
    ("empty", false, &[]),
    ("v1", true, &[(ORDERS, As::Records, "none")]),
    ("v1-then-v2", true, &[(ORDERS, As::Records, "none"), (ORDERS, As::Batches, "gzip")]),
    ("v1-zero-length-crc", true, &[(ORDERS, As::Records, "none")]),
    ("v2-frames-out-of-order", false, &[(ORDERS, As::From(50), "none")]),
    ("v2-gaps", false, &[(ORDERS, As::Batches, "gaps")]),
    ("v2-gzip", false, &[(ORDERS, As::Batches, "gzip")]),
    ("v2-none", false, &[(ORDERS, As::Batches, "none")]),
    ("v2-old-shape", false, &[(ORDERS, As::Batches, "zstd")]),
    ("v2-one-record", false, &[(ORDERS, As::Batches, "one-record")]),
    ("v2-snappy", false, &[(ORDERS, As::Batches, "snappy")]),
    (
        "v2-three-partitions",
        false,
        &[
            (("audit.events_eu", 7), As::Batches, "zstd"),
            (("orders", 0), As::Batches, "none"),
            (("orders", 1), As::Batches, "gzip"),
        ],
    ),
    ("v2-times-unordered", false, &[(ORDERS, As::Batches, "times-unordered")]),
    ("v2-transactional", false, &[(ORDERS, As::Batches, "transactional")]),
    ("v2-zero-length-crc", false, &[(ORDERS, As::Batches, "gzip")]),
    ("v2-zstd", false, &[(ORDERS, As::Batches, "zstd")]),
];

const KAFKA: [&str; 15] = [
    "apache-clients",
    "compacted",
    "empty",
    "gaps",
    "gzip",
    "log-append-time",
    "lz4",
    "no-timestamp",
    "none",
    "one-record",
    "snappy",
    "snappy-raw",
    "times-unordered",
    "transactional",
    "zstd",
];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Returns all fixtures.
pub fn fixtures() -> Vec<Fixture> {
    let kafka = KAFKA.into_iter().map(|name| {
        let expected =
            if name == "empty" { vec![] } else { vec![read_expected(name, "Zürich/events~1", 2)] };
        fixture(format!("kafka/{name}.log"), Some(("Zürich/events~1", 2)), expected)
    });
    let chronik = CHRONIK.into_iter().map(|(name, named_partition, parts)| {
        let mut expected: Vec<ExpectedPartition> = Vec::new();
        for ((topic, partition), way, of) in parts {
            let part = arranged(read_expected(of, topic, *partition), *way);
            match expected
                .iter_mut()
                .find(|expected| (&*expected.topic, expected.partition) == (topic, *partition))
            {
                Some(expected) => expected.append(part),
                None => expected.push(part),
            }
        }
        fixture(format!("chronik/{name}.wal"), named_partition.then_some(ORDERS), expected)
    });
    kafka.chain(chronik).collect()
}

fn fixture(
    file: String,
    named_partition: Option<(&'static str, i32)>,
    expected: Vec<ExpectedPartition>,
) -> Fixture {
    let path = folder(&file);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let format = match () {
        () if bytes.is_empty() => v1::SegmentFormat::Unspecified,
        () if file.starts_with("kafka") => v1::SegmentFormat::KafkaLog,
        () => v1::SegmentFormat::ChronikWal,
    };
    Fixture { file, bytes: bytes.into(), format, named_partition, expected }
}

fn read_expected(name: &str, topic: &str, partition: i32) -> ExpectedPartition {
    let path = folder(&format!("kafka/{name}.expected.json"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    let number = |field: &str| json[field].as_i64().expect("a number");
    let records: Vec<_> = json["records"].as_array().expect("records").iter().map(record).collect();
    assert_eq!(records.len() as i64, number("record_count"));
    let control = json["control_offsets"].as_array().expect("offsets");
    ExpectedPartition {
        topic: topic.to_owned(),
        partition,
        base_offset: number("base_offset"),
        last_offset: number("last_offset"),
        records,
        control_offsets: control.iter().map(|offset| offset.as_i64().expect("a number")).collect(),
        batches: number("batch_count") as u64,
    }
}

fn record(json: &Value) -> Record {
    let bytes = |json: &Value| json.as_str().map(|text| BASE64_STANDARD.decode(text).expect("base64"));
    let headers = json["headers"].as_array().expect("headers").iter();
    Record {
        offset: json["offset"].as_i64().expect("a number"),
        timestamp_ms: json["timestamp"].as_i64().filter(|time| *time != -1),
        key: bytes(&json["key"]),
        value: bytes(&json["value"]),
        headers: headers.map(|pair| (pair[0].as_str().expect("a name").into(), bytes(&pair[1]))).collect(),
    }
}

fn arranged(mut expected: ExpectedPartition, way: As) -> ExpectedPartition {
    match way {
        As::Batches => {}
        As::From(record) => expected.records.rotate_left(record),
        As::Records => {
            expected.batches = expected.records.len() as u64;
            expected.records.iter_mut().for_each(|record| {
                record.value.get_or_insert_default();
            });
        }
    }
    expected
}

impl ExpectedPartition {
    fn append(&mut self, other: ExpectedPartition) {
        self.base_offset = self.base_offset.min(other.base_offset);
        self.last_offset = self.last_offset.max(other.last_offset);
        self.batches += other.batches;
        self.records.extend(other.records);
        self.control_offsets.extend(other.control_offsets);
    }

    fn times(&self) -> Option<(i64, i64)> {
        let times = || self.records.iter().filter_map(|record| record.timestamp_ms);
        times().min().zip(times().max())
    }

    /// Returns the offsets of the range without a data record.
    pub fn gaps(&self) -> Vec<(i64, i64)> {
        let with_data: BTreeSet<i64> = self.records.iter().map(|record| record.offset).collect();
        let before = [self.base_offset - 1].into_iter().chain(with_data.iter().copied());
        let after = with_data.iter().copied().chain([self.last_offset + 1]);
        before.zip(after).map(|(before, after)| (before + 1, after - 1)).filter(|(a, b)| a <= b).collect()
    }

    /// Returns the bundle's key by the documented scheme.
    fn key(&self, source_sha256: &[u8], log_id: &str) -> String {
        let encoded = |name: &str| match name {
            "." => "%2E".to_owned(),
            ".." => "%2E%2E".to_owned(),
            name => name.bytes().map(encoded_byte).collect(),
        };
        let mut hash = Sha256::new();
        hash.update(source_sha256);
        let partition = self.partition.to_string();
        [log_id, "\0", &self.topic, "\0", &partition].iter().for_each(|part| hash.update(part));
        let (min, max) = self.times().unwrap_or_default();
        let (base, last) = (self.base_offset, self.last_offset);
        let hash16: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let (topic, log_id) = (encoded(&self.topic), encoded(log_id));
        format!("{topic}/{partition}/{log_id}/{base:020}-{last:020}_{min:020}-{max:020}_{hash16}.tar")
    }
}

fn encoded_byte(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    }
}

/// Compares a reply, and the objects that it names, with the segment that was sent. `log_id` is the one that
/// was sent. `object` returns the bytes under a key.
#[track_caller]
pub fn check_reply(
    name: &str,
    reply: &IndexSegmentResponse,
    (bytes, format, expected): (&[u8], v1::SegmentFormat, &[ExpectedPartition]),
    log_id: &str,
    object: impl Fn(&str) -> Bytes,
) {
    let log_id = if log_id.is_empty() { "0" } else { log_id };
    let sum = |count: fn(&ExpectedPartition) -> u64| expected.iter().map(count).sum::<u64>();
    assert_eq!(reply.format(), format, "{name}: format");
    assert_eq!(reply.bytes_read, bytes.len() as u64, "{name}: bytes_read");
    assert_eq!(reply.crc32c, crc32c::crc32c(bytes), "{name}: crc32c");
    let sha256 = Sha256::digest(bytes);
    assert_eq!(reply.sha256[..], sha256[..], "{name}: sha256");
    assert_eq!(reply.record_count, sum(|expected| expected.records.len() as u64), "{name}: record_count");
    let control = sum(|expected| expected.control_offsets.len() as u64);
    assert_eq!(reply.control_record_count, control, "{name}: control_record_count");
    assert_eq!(reply.batch_count, sum(|expected| expected.batches), "{name}: batch_count");
    let named: Vec<_> = reply.partitions.iter().map(|one| (&*one.topic, one.partition)).collect();
    let partitions: Vec<_> = expected.iter().map(|one| (&*one.topic, one.partition)).collect();
    assert_eq!(named, partitions, "{name}: partitions");

    let (mut pieces, mut torn_bytes) = (Vec::new(), 0);
    for (one, expected) in reply.partitions.iter().zip(expected) {
        check_partition(name, one, expected, &sha256, log_id);
        let stored = open(&object(&one.bundle.as_ref().expect("a bundle").key));
        check_stored(name, &stored, one, expected, reply);
        torn_bytes += stored.torn_bytes;
        pieces.extend(stored.pieces);
    }
    assert_eq!(reply.torn_tail_bytes, torn_bytes, "{name}: torn_tail_bytes");
    pieces.sort_by_key(|(position, _)| *position);
    let restored: Vec<u8> = pieces.iter().flat_map(|(_, piece)| piece.to_vec()).collect();
    assert!(restored == bytes, "{name}: {} bytes restored of {}", restored.len(), bytes.len());
    let timings = reply.timings.as_ref().expect("timings");
    let stages = timings.admit_us + timings.receive_us + timings.build_us + timings.upload_us;
    // Each of the four is rounded down.
    assert!(stages <= timings.total_us && timings.total_us <= stages + 2_000, "{name}: {timings:?}");
}

#[track_caller]
fn check_partition(
    name: &str,
    one: &v1::IndexedPartition,
    expected: &ExpectedPartition,
    sha256: &[u8],
    log_id: &str,
) {
    let records = expected.records.len() as u64;
    let (min, max) = expected.times().unzip();
    assert_eq!(one.log_id, log_id, "{name}: log_id");
    assert_eq!(
        (one.base_offset, one.last_offset),
        (expected.base_offset, expected.last_offset),
        "{name}: offsets"
    );
    assert_eq!(one.record_count, records, "{name}: records of a partition");
    assert_eq!((one.min_timestamp_ms, one.max_timestamp_ms), (min, max), "{name}: times");
    let gaps = expected.gaps();
    let listed: Vec<_> = one.gaps.iter().map(|gap| (gap.first, gap.last)).collect();
    assert_eq!(listed, gaps[..gaps.len().min(1_000)], "{name}: gaps");
    assert_eq!(one.gap_count, gaps.len() as u64, "{name}: gap_count");
    let bundle = one.bundle.as_ref().expect("a bundle");
    assert_eq!(bundle.key, expected.key(sha256, log_id), "{name}: key");
    let url_end = bundle.key.replace('%', "%25");
    assert!(bundle.url.ends_with(&format!("/{url_end}")), "{name}: {}", bundle.url);
    assert_eq!(
        (bundle.base_offset, bundle.last_offset),
        (expected.base_offset, expected.last_offset),
        "{name}: bundle"
    );
    assert_eq!(bundle.record_count, records, "{name}: bundle's records");
    assert_eq!((bundle.min_timestamp_ms, bundle.max_timestamp_ms), (min, max), "{name}: bundle's times");
}

#[track_caller]
fn check_stored(
    name: &str,
    stored: &Stored,
    one: &v1::IndexedPartition,
    expected: &ExpectedPartition,
    reply: &IndexSegmentResponse,
) {
    let Stored { object, manifest, records, .. } = stored;
    let bundle = one.bundle.as_ref().expect("a bundle");
    assert_eq!(bundle.size_bytes, object.len() as u64, "{name}: size of the object");
    assert_eq!(bundle.crc32c, crc32c::crc32c(object), "{name}: checksum of the object");
    let opened = bundle::Footer::open(&object[bundle.footer_offset as usize..], bundle.size_bytes);
    assert!(matches!(opened, Ok(bundle::Opened::Footer(_))), "{name}: {opened:?} from footer_offset on");
    assert_eq!(*records, expected.records, "{name}: records read back");

    assert_eq!(
        (&*manifest.topic, manifest.partition),
        (&*expected.topic, expected.partition),
        "{name}: manifest"
    );
    assert_eq!(manifest.log_id, one.log_id, "{name}: manifest's log_id");
    assert_eq!(manifest.record_count, one.record_count, "{name}: manifest's records");
    assert_eq!(
        manifest.control_record_count,
        expected.control_offsets.len() as u64,
        "{name}: manifest's control"
    );
    assert_eq!(manifest.batch_count, expected.batches, "{name}: manifest's batches");
    assert_eq!(
        (manifest.base_offset, manifest.last_offset),
        (expected.base_offset, expected.last_offset),
        "{name}"
    );
    let gaps: Vec<_> = manifest.gaps.iter().map(|gap| (gap.first(), gap.last())).collect();
    assert_eq!(gaps, expected.gaps(), "{name}: manifest's gaps");
    let times = (manifest.min_timestamp_ms, manifest.max_timestamp_ms);
    assert_eq!(times, expected.times().unzip(), "{name}: manifest's times");
    let documents: u64 = manifest.index.segments.iter().map(|segment| segment.documents).sum();
    assert_eq!(documents, one.record_count, "{name}: documents");
    assert_eq!(manifest.segment.id, reply.segment_id, "{name}: manifest's segment");
    assert_eq!(manifest.segment.size_bytes, reply.bytes_read, "{name}: manifest's size");
    assert_eq!(manifest.segment.crc32c, reply.crc32c, "{name}: manifest's crc32c");
    assert_eq!(manifest.segment.sha256[..], reply.sha256[..], "{name}: manifest's sha256");
    assert_eq!(manifest.segment.torn_tail_bytes, reply.torn_tail_bytes, "{name}: manifest's torn bytes");
    assert_eq!(manifest.segment.partitions as usize, reply.partitions.len(), "{name}: manifest's partitions");
}

/// A bundle, completely read.
pub struct Stored {
    pub object: Bytes,
    pub manifest: Manifest,
    /// Pieces of the source, with their positions.
    pub pieces: Vec<(u64, Bytes)>,
    /// In the order of the file.
    pub records: Vec<Record>,
    pub torn_bytes: u64,
}

/// Reads a whole bundle: everything in it is checked, and every frame is decoded.
#[track_caller]
pub fn open(object: &Bytes) -> Stored {
    let verified = bundle::verify(object).expect("a sound bundle");
    let (mut pieces, mut records, mut torn_bytes) = (Vec::new(), Vec::new(), 0);
    for entry in verified.blocks.entries() {
        let range = verified.footer.block_range(entry).expect("within records.zst");
        let plain = entry.open(&object[range.start as usize..range.end as usize]).expect("a sound block");
        pieces.extend(entry.pieces(&plain));
        assert_eq!(entry.first_ordinal, records.len() as u64, "the block's first ordinal");
        if entry.is_torn_tail() {
            torn_bytes += plain.len() as u64;
        } else {
            records.extend(block_records(entry, &plain));
        }
        assert_eq!(entry.ordinals().end, records.len() as u64, "the block's last ordinal");
    }
    let manifest = verified.manifest;
    Stored { object: object.clone(), manifest, pieces, records, torn_bytes }
}

/// Returns the records of an opened block.
pub fn block_records(entry: &BlockEntry, plain: &Bytes) -> Vec<Record> {
    let frames = split(plain);
    assert_eq!(frames.len(), entry.frames as usize, "frames of a block");
    frames.iter().flat_map(frame_records).collect()
}

/// Returns the frames of valid bytes.
pub fn split(bytes: &Bytes) -> Vec<Frame> {
    let (mut splitter, mut frames) = (FrameSplitter::new(bytes.len() as u64, None), Vec::new());
    splitter.push(bytes.clone(), &mut frames).expect("sound frames");
    assert!(splitter.finish().expect("sound frames").torn.is_none(), "whole frames only");
    frames
}

pub fn frame_records(frame: &Frame) -> Vec<Record> {
    records_of(&frame.decode(1 << 30).expect("a sound frame").records)
}

pub fn records_of(batch: &RecordBatch) -> Vec<Record> {
    let owned = |part: &[u8]| part.to_vec();
    let records = batch.iter().map(|record| Record {
        offset: record.offset(),
        timestamp_ms: record.timestamp_ms(),
        key: record.key().map(owned),
        value: record.value().map(owned),
        headers: record.headers().map(|(name, value)| (owned(name), value.map(owned))).collect(),
    });
    records.collect()
}

#[test]
fn every_fixture_on_disk_is_known_here() {
    let known: BTreeSet<String> = fixtures().into_iter().map(|fixture| fixture.file).collect();
    for (directory, extension) in [("kafka", "log"), ("chronik", "wal")] {
        for entry in std::fs::read_dir(folder(directory)).expect("the fixtures are there") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|found| found == extension) {
                let name = format!("{directory}/{}", path.file_name().expect("a name").to_string_lossy());
                assert!(known.contains(&name), "{name}");
            }
        }
    }
}
