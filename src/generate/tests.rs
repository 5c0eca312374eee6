use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::kafka::BatchHead;
use super::*;
use crate::record::{HeaderSpans, RecordBatch, RecordSpans, Span};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The batches of a fixture, each with its bytes and its records. The expectations state the size of each
/// batch, and the batch's head states its number of records.
fn batches(name: &str) -> Vec<(Bytes, RecordBatch)> {
    let log = Bytes::from(fs::read(fixture(&format!("kafka/{name}.log"))).unwrap());
    let expected = fs::read(fixture(&format!("kafka/{name}.expected.json"))).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let mut records = expected["records"].as_array().unwrap().iter();
    let mut start = 0;
    let mut batches = Vec::new();
    for bytes in expected["batch_bytes"].as_array().unwrap() {
        let producer_batch = log.slice(start..start + bytes.as_u64().unwrap() as usize);
        start += producer_batch.len();
        let count = u32::from_be_bytes(producer_batch[57..61].try_into().unwrap()) as usize;
        batches.push((producer_batch, batch(records.by_ref().take(count))));
    }
    assert_eq!(start, log.len());
    batches
}

fn batch<'a>(expected: impl Iterator<Item = &'a Value>) -> RecordBatch {
    let mut bytes = Vec::new();
    let mut push = |part: &[u8]| {
        let span = Span { start: bytes.len() as u32, len: part.len() as u32 };
        bytes.extend_from_slice(part);
        span
    };
    let decode = |part: &Value| part.as_str().map(|part| BASE64_STANDARD.decode(part).unwrap());
    let (mut records, mut headers) = (Vec::new(), Vec::new());
    for record in expected {
        let headers_start = headers.len() as u32;
        for header in record["headers"].as_array().unwrap() {
            let name = push(header[0].as_str().unwrap().as_bytes());
            headers.push(HeaderSpans { name, value: decode(&header[1]).map(|value| push(&value)) });
        }
        records.push(RecordSpans {
            offset: record["offset"].as_i64().unwrap(),
            timestamp_ms: record["timestamp"].as_i64().filter(|ms| *ms >= 0),
            key: decode(&record["key"]).map(|key| push(&key)),
            value: decode(&record["value"]).map(|value| push(&value)),
            headers: headers_start..headers.len() as u32,
        });
    }
    RecordBatch { bytes: bytes.into(), records, headers }
}

#[test]
fn kafka_batches_are_the_bytes_that_kafka_python_writes_for_the_same_records() {
    for name in ["none", "one-record", "no-timestamp"] {
        for (producer_batch, batch) in batches(name) {
            let mut out = b"before".to_vec();
            kafka::encode(&BatchHead::default(), &batch, Codec::None, &mut out).unwrap();
            assert_eq!(out[6..], producer_batch, "{name}");
        }
    }
}

#[test]
fn chronik_v2_frames_are_the_bytes_that_chronik_writes_for_the_same_batches() {
    let orders = TopicPartition::new("orders", 3).unwrap();
    let cases = [
        ("none", Codec::None),
        ("one-record", Codec::None),
        ("gzip", Codec::Gzip),
        ("snappy", Codec::Snappy),
        ("zstd", Codec::Zstd),
    ];
    for (name, codec) in cases {
        let mut out = Vec::new();
        for (producer_batch, batch) in batches(name) {
            chronik::encode_v2(
                &orders,
                &BatchHead::default(),
                codec,
                &batch,
                Some(&producer_batch),
                &mut out,
            );
        }
        assert_eq!(out, fs::read(fixture(&format!("chronik/v2-{name}.wal"))).unwrap(), "{name}");
    }
}

#[test]
fn chronik_v1_records_are_the_bytes_that_chronik_writes_for_the_same_records() {
    let mut out = Vec::new();
    for (_, batch) in batches("none") {
        batch.iter().for_each(|record| chronik::encode_v1(&record, &mut out));
    }
    assert_eq!(out, fs::read(fixture("chronik/v1.wal")).unwrap());
}

#[test]
fn a_batch_emptied_by_compaction_keeps_its_range_and_no_records() {
    let head = BatchHead { range: OffsetRange::new(500, 509), transactional: true, ..BatchHead::default() };
    let mut out = Vec::new();
    kafka::encode(&head, &RecordBatch::default(), Codec::None, &mut out).unwrap();
    let expected = [
        &[0, 0, 0, 0, 0, 0, 1, 0xf4][..], // base offset: 500
        &[0, 0, 0, 49],                   // bytes after this length
        &[0, 0, 0, 0],                    // partition leader epoch
        &[2],                             // magic
        &out[17..21],                     // CRC-32C, checked below
        &[0, 0x10],                       // attributes: transactional
        &[0, 0, 0, 9],                    // last offset delta
        &[0xff; 8],                       // base timestamp: none
        &[0xff; 8],                       // max timestamp: none
        &[0xff; 8],                       // producer id: none
        &[0xff; 2],                       // producer epoch: none
        &[0xff; 4],                       // base sequence: none
        &[0, 0, 0, 0],                    // records
    ];
    assert_eq!(out, expected.concat());
    assert_eq!(out[17..21], crc32c::crc32c(&out[21..]).to_be_bytes());
}

fn make(spec: &Spec) -> (Vec<u8>, Summary) {
    let mut out = Vec::new();
    let summary = generate(spec, &mut out).unwrap();
    assert_eq!(summary.bytes, out.len() as u64);
    (out, summary)
}

fn records(format: Format, records: u64) -> Spec {
    Spec { format, size: Size::Records(records), ..Spec::default() }
}

#[test]
fn a_seed_always_makes_the_same_bytes() {
    let cases = [
        (Format::Kafka, 452_681_802),
        (Format::ChronikV2, 1_543_679_302),
        (Format::ChronikV1, 2_346_243_849),
        (Format::ChronikMixed, 3_101_673_946),
    ];
    for (format, crc) in cases {
        let (bytes, _) = make(&records(format, 1_000));
        assert_eq!(crc32c::crc32c(&bytes), crc, "{format}");
        let (other, _) = make(&Spec { seed: 2, ..records(format, 1_000) });
        assert_ne!(bytes, other, "{format}");
    }
}

#[test]
fn a_segment_of_a_size_is_as_large_as_whole_batches_allow() {
    for format in Format::ALL {
        for codec in Codec::ALL {
            let (bytes, summary) =
                make(&Spec { format, codec, size: Size::Bytes(3 << 20), ..Spec::default() });
            assert!(bytes.len() <= 3 << 20, "{format} {codec}: {}", bytes.len());
            assert!(bytes.len() > 5 << 19, "{format} {codec}: {}", bytes.len());
            assert_eq!(summary.records % 200, 0);
        }
    }
}

#[test]
fn a_size_too_small_for_a_batch_still_gets_one() {
    let (_, summary) = make(&Spec { size: Size::Bytes(1), ..Spec::default() });
    assert_eq!((summary.records, summary.frames), (200, 1));
}

#[test]
fn a_number_of_records_is_met_exactly_also_where_it_is_none_or_one() {
    for format in Format::ALL {
        for count in [0, 1, 199, 200, 201] {
            let (bytes, summary) = make(&records(format, count));
            assert_eq!(summary.records, count, "{format}");
            assert_eq!(bytes.is_empty(), count == 0, "{format}");
            assert_eq!(summary.partitions.len(), usize::from(count > 0), "{format}");
        }
    }
}

#[test]
fn partitions_take_turns_and_each_counts_its_own_offsets() {
    let spec =
        Spec { partitions: NonZero::new(3).unwrap(), base_offset: 70, ..records(Format::ChronikV2, 1_000) };
    let (_, summary) = make(&spec);
    let found: Vec<_> =
        summary.partitions.iter().map(|p| (p.partition.partition(), p.records, p.range)).collect();
    let range = |first, last| OffsetRange::new(first, last).unwrap();
    assert_eq!(found, [(0, 400, range(70, 469)), (1, 400, range(70, 469)), (2, 200, range(70, 269))]);
}

#[test]
fn gaps_leave_out_one_offset_after_every_so_many_records() {
    let (_, summary) = make(&Spec { gap_every: NonZero::new(7), ..records(Format::Kafka, 701) });
    let [partition] = &summary.partitions[..] else { panic!("one partition") };
    assert_eq!((partition.gaps, partition.range), (100, OffsetRange::new(0, 800).unwrap()));
}

#[test]
fn what_a_format_cannot_hold_is_refused() {
    let refused = |spec: Spec| generate(&spec, &mut Vec::new()).unwrap_err().to_string();
    let partitions = NonZero::new(2).unwrap();
    assert_eq!(
        refused(Spec { partitions, ..records(Format::ChronikMixed, 1) }),
        "chronik-mixed segments hold one partition, not 2"
    );
    let partition = TopicPartition::new("logs", i32::MAX).unwrap();
    assert_eq!(
        refused(Spec { partitions, partition, ..records(Format::ChronikV2, 1) }),
        "partition 1, counted from the first: the partition -2147483648 is negative"
    );
    assert_eq!(
        refused(Spec { base_offset: i64::MAX - 1, ..records(Format::Kafka, 3) }),
        format!("the records' offsets from {} on are out of range", i64::MAX - 1)
    );
    assert_eq!(
        refused(Spec { batch_records: NonZero::new(100_001).unwrap(), ..records(Format::Kafka, 1) }),
        "100001 records in a batch are more than 100000"
    );
}

#[test]
fn names_are_parsed_back() {
    assert!(Format::ALL.iter().all(|format| format.name().parse() == Ok(*format)));
    assert!(Codec::ALL.iter().all(|codec| codec.name().parse() == Ok(*codec)));
    assert_eq!(
        "lzma".parse::<Codec>().unwrap_err().to_string(),
        "\"lzma\" is not one of none, gzip, snappy, lz4, zstd"
    );
}
