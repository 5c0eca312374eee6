//! Segments with one fault each. Most have valid checksums, so that only the check in question can refuse
//! them.
//!
//! [`cases`] gives bad input to other tests. The tests here run it through the decoders.

use std::io::{self, Read};

use bytes::Bytes;
use wal_indexer::generate::kafka::BatchHead;
use wal_indexer::generate::{Codec, Format, Size, Spec, chronik, generate, kafka};
use wal_indexer::ids::{OffsetRange, TopicPartition};
use wal_indexer::internals::record::{HeaderSpans, RecordBatch, RecordSpans, Span};

/// A segment of three frames (for Chronik V1: records). The middle one is wrong.
pub struct Case {
    /// What is wrong with it.
    pub name: String,
    /// The segment.
    pub bytes: Vec<u8>,
    /// The start of the wrong frame.
    pub position: u64,
    /// The reasons that a refusal may have.
    pub reasons: &'static [&'static str],
}

/// The memory limit for decoding a frame in these tests. [`BOMB_BYTES`] is more.
pub const DECODED_BYTES_MAX: usize = 16 << 20;
const BOMB_BYTES: u64 = 64 << 20;

const BAD_COUNT: &[&str] = &["BAD_RECORD_COUNT", "BAD_RECORD", "BYTES_LEFT_OVER", "HEAD_DISAGREES"];
const BAD_RECORD: &[&str] = &["BAD_RECORD", "BAD_RECORD_COUNT", "BYTES_LEFT_OVER"];
const BAD_OFFSET: &[&str] = &["BAD_RECORD_OFFSET", "BAD_OFFSETS", "HEAD_DISAGREES"];
const BAD_FRAME: &[&str] = &["BAD_FRAME", "BAD_RECORD", "BAD_RECORD_COUNT", "BYTES_LEFT_OVER"];
const BAD_COMPRESSION: &[&str] = &["BAD_COMPRESSION"];
const BAD_LENGTH: &[&str] = &["BAD_LENGTH", "WRONG_LENGTH"];
const TOO_LARGE: &[&str] = &["OPENS_TOO_LARGE"];
const EXTREMES_32: [i32; 4] = [-1, i32::MIN, i32::MAX, 1 << 30];

/// Returns all cases.
pub fn cases() -> Vec<Case> {
    let mut cases = kafka_heads();
    cases.extend(kafka_records());
    cases.extend(kafka_compressed());
    cases.extend(chronik_v2());
    cases.extend(chronik_v1());
    cases
}

/// Builds a case from the good middle frame and a change to it.
struct Middle {
    before: Vec<u8>,
    frame: Vec<u8>,
    after: Vec<u8>,
}

impl Middle {
    fn case(
        &self,
        name: impl Into<String>,
        reasons: &'static [&'static str],
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Case {
        let mut frame = self.frame.clone();
        change(&mut frame);
        assert_ne!(frame, self.frame);
        let bytes = [&self.before[..], &frame, &self.after].concat();
        Case { name: name.into(), bytes, position: self.before.len() as u64, reasons }
    }
}

/// Returns three records at `base`, with key, value and two headers each.
fn records(base: i64) -> RecordBatch {
    let bytes = Bytes::from_static(b"key{\"level\":\"INFO\"}header");
    let span = |start, len| Span { start, len };
    let header = HeaderSpans { name: span(19, 6), value: Some(span(0, 3)) };
    let record = |nth: i64| RecordSpans {
        offset: base + nth,
        timestamp_ms: Some(1_760_000_000_000 + nth),
        key: Some(span(0, 3)),
        value: Some(span(3, 16)),
        headers: 2 * nth as u32..2 * nth as u32 + 2,
    };
    RecordBatch { bytes, records: (0..3).map(record).collect(), headers: vec![header; 6] }
}

fn kafka_batch(base: i64, codec: Codec) -> Vec<u8> {
    let mut out = Vec::new();
    kafka::encode(&BatchHead::default(), &records(base), codec, &mut out).expect("compresses");
    out
}

fn kafka_middle(frame: Vec<u8>) -> Middle {
    Middle { before: kafka_batch(0, Codec::None), frame, after: kafka_batch(20, Codec::None) }
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Returns faults in fields of a Kafka batch's head. Most of these fields are covered by its checksum.
fn kafka_heads() -> Vec<Case> {
    let middle = kafka_middle(kafka_batch(10, Codec::None));
    let sealed = |name: String, reasons, at: usize, bytes: &[u8]| {
        middle.case(name, reasons, |batch| {
            put(batch, at, bytes);
            kafka::seal(batch);
        })
    };
    let mut cases = vec![
        middle.case("kafka: a flipped bit in a value", &["CRC_MISMATCH"], |batch| batch[80] ^= 4),
        middle.case("kafka: a flipped bit in the checksum", &["CRC_MISMATCH"], |batch| batch[17] ^= 1),
        middle.case("kafka: zeros in place of a batch", &["BAD_LENGTH", "BAD_MAGIC"], |batch| batch.fill(0)),
        sealed("kafka: magic 0".into(), &["CRC_MISMATCH"], 16, &[0]),
        sealed("kafka: magic 1".into(), &["CRC_MISMATCH"], 16, &[1]),
        sealed("kafka: magic 3".into(), &["BAD_MAGIC"], 16, &[3]),
        sealed("kafka: a negative base offset".into(), &["BAD_OFFSETS"], 0, &(-10_i64).to_be_bytes()),
        sealed("kafka: offsets past the greatest".into(), &["BAD_OFFSETS"], 0, &(i64::MAX - 1).to_be_bytes()),
    ];
    for codec in 5..8_u8 {
        cases.push(sealed(format!("kafka: codec {codec}"), &["UNKNOWN_CODEC"], 22, &[codec]));
    }
    for count in [2, 4].into_iter().chain(EXTREMES_32) {
        cases.push(sealed(format!("kafka: {count} records claimed"), BAD_COUNT, 57, &count.to_be_bytes()));
    }
    for length in [0, 1, 48, -1, i32::MIN] {
        cases.push(sealed(format!("kafka: a length of {length}"), BAD_LENGTH, 8, &length.to_be_bytes()));
    }
    // A whole frame follows, so this is not a torn tail.
    for length in [i32::MAX, 1 << 20] {
        cases.push(sealed(format!("kafka: a length of {length}"), BAD_LENGTH, 8, &length.to_be_bytes()));
    }
    cases
}

fn varint(number: i64) -> Vec<u8> {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    let mut out = Vec::new();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

/// Returns a batch of `count` records whose records section has these bytes.
fn kafka_raw(attributes: u16, count: i32, section: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let head = BatchHead { range: OffsetRange::new(10, 19), ..BatchHead::default() };
    kafka::encode(&head, &RecordBatch::default(), Codec::None, &mut out).expect("no compression");
    out.extend_from_slice(section);
    let length = out.len() as i32 - 12;
    put(&mut out, 8, &length.to_be_bytes());
    put(&mut out, 21, &attributes.to_be_bytes());
    put(&mut out, 57, &count.to_be_bytes());
    kafka::seal(&mut out);
    out
}

/// Returns a record's body with its length in front.
fn counted(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [varint(body.len() as i64), body].concat()
}

fn kafka_records() -> Vec<Case> {
    // attributes, time delta 0, offset delta 0, key "k", value "v", no headers
    let good = counted(&[&[0], &[0], &[0], &[2, b'k'], &[2, b'v'], &[0]]);
    let middle = kafka_middle(kafka_raw(0, 1, &good));
    let case = |name: &str, reasons, section: &[u8]| {
        middle.case(format!("kafka: {name}"), reasons, |batch| *batch = kafka_raw(0, 1, section))
    };
    let overlong = [0xff; 11];
    vec![
        case("a record longer than the batch", BAD_RECORD, &[varint(1_000), good[1..].to_vec()].concat()),
        case("a record of a negative length", BAD_RECORD, &[varint(-5), good[1..].to_vec()].concat()),
        case("a record shorter than its parts", BAD_RECORD, &[varint(4), good[1..].to_vec()].concat()),
        case("a record longer than its parts", BAD_RECORD, &counted(&[&good[1..], &[0, 0]])),
        case("bytes behind the last record", BAD_RECORD, &[&good[..], &[0]].concat()),
        case("a record's length without an end", BAD_RECORD, &overlong),
        case("a time delta without an end", BAD_RECORD, &counted(&[&[0], &overlong, &[0, 1, 1, 0]])),
        case("a key past the record", BAD_RECORD, &counted(&[&[0, 0, 0], &varint(1_000), &[b'k', 1, 0]])),
        case(
            "a key past the address space",
            BAD_RECORD,
            &counted(&[&[0, 0, 0], &varint(i64::MAX), &[b'k', 1, 0]]),
        ),
        case(
            "a value past the record",
            BAD_RECORD,
            &counted(&[&[0, 0, 0, 1], &varint(i32::MAX.into()), &[0]]),
        ),
        case("-1 headers", BAD_RECORD, &counted(&[&[0, 0, 0, 1, 1], &varint(-1)])),
        case(
            "two thousand million headers",
            BAD_RECORD,
            &counted(&[&[0, 0, 0, 1, 1], &varint(i32::MAX.into())]),
        ),
        case(
            "a header without a name",
            BAD_RECORD,
            &counted(&[&[0, 0, 0, 1, 1], &varint(1), &varint(-1), &[1]]),
        ),
        case(
            "an offset past the greatest",
            &["BAD_RECORD_OFFSET", "BAD_RECORD"],
            &counted(&[&[0, 0], &varint(i64::MAX), &[1, 1, 0]]),
        ),
    ]
}

fn kafka_compressed() -> Vec<Case> {
    let mut cases = Vec::new();
    let good = counted(&[&[0], &[0], &[0], &[2, b'k'], &[2, b'v'], &[0]]);
    let middle = kafka_middle(kafka_raw(0, 1, &good));
    for (number, codec) in [(1, Codec::Gzip), (2, Codec::Snappy), (3, Codec::Lz4), (4, Codec::Zstd)] {
        let section = kafka_batch(10, codec)[kafka::HEAD_BYTES..].to_vec();
        let case = |name: &str, reasons, section: &[u8]| {
            middle.case(format!("kafka: {codec}, {name}"), reasons, |batch| {
                *batch = kafka_raw(number, 3, section)
            })
        };
        cases.push(case("nothing at all", BAD_COMPRESSION, &[]));
        cases.push(case("not compressed", BAD_COMPRESSION, &[0x55; 40]));
        cases.push(case("cut off", BAD_COMPRESSION, &section[..section.len() - 5]));
        cases.push(case("cut off in its head", BAD_COMPRESSION, &section[..3]));
        // Kafka's reader ignores bytes behind gzip and lz4 data. Behind snappy data it ignores fewer bytes
        // than a length has.
        if matches!(codec, Codec::Snappy | Codec::Zstd) {
            cases.push(case("bytes behind its end", BAD_COMPRESSION, &[&section[..], &[1; 7]].concat()));
        }
        cases.push(case("opens to far more", TOO_LARGE, &bomb(codec, BOMB_BYTES)));
    }
    let snappy_claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]; // raw Snappy: 4 GiB claimed
    let snappy = |name: &str, section: &[u8]| {
        let reasons = &["BAD_COMPRESSION", "OPENS_TOO_LARGE"];
        middle.case(format!("kafka: snappy, {name}"), reasons, |batch| *batch = kafka_raw(2, 3, section))
    };
    let xerial = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
    cases.push(snappy("a raw block claims 4 GiB", &snappy_claim));
    cases.push(snappy("a framed block claims 4 GiB", &[&xerial[..], &[0, 0, 0, 7], &snappy_claim].concat()));
    cases
        .push(snappy("a framed block passes the end", &[&xerial[..], &[0x7f, 0xff, 0xff, 0xff, 0]].concat()));
    cases
}

/// Returns a segment of one batch for each codec, which decompresses to this many zeros.
pub fn bombs(opened_bytes: u64) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let codecs = [(1, Codec::Gzip), (2, Codec::Snappy), (3, Codec::Lz4), (4, Codec::Zstd)];
    codecs
        .into_iter()
        .map(move |(number, codec)| (codec.name(), kafka_raw(number, 3, &bomb(codec, opened_bytes))))
}

/// Returns this many zeros, compressed.
fn bomb(codec: Codec, opened_bytes: u64) -> Vec<u8> {
    let mut zeros = io::repeat(0).take(opened_bytes);
    let mut out = Vec::new();
    match codec {
        Codec::None => unreachable!("nothing to open"),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::fast());
            io::copy(&mut zeros, &mut encoder).and_then(|_| encoder.finish()).expect("compresses");
        }
        Codec::Snappy => {
            out.extend_from_slice(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
            let block = snap::raw::Encoder::new().compress_vec(&vec![0; 1 << 20]).expect("compresses");
            for _ in 0..opened_bytes >> 20 {
                out.extend_from_slice(&(block.len() as u32).to_be_bytes());
                out.extend_from_slice(&block);
            }
        }
        Codec::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(&mut out);
            io::copy(&mut zeros, &mut encoder).expect("compresses");
            encoder.finish().expect("compresses");
        }
        Codec::Zstd => zstd::stream::copy_encode(zeros, &mut out, 1).expect("compresses"),
    }
    out
}

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 3).expect("a valid name")
}

fn v2_frame(base: i64, wire: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let batch = kafka_batch(base, Codec::None);
    let wire = wire.then_some(&batch[..]);
    chronik::encode_v2(&orders(), &BatchHead::default(), Codec::None, &records(base), wire, &mut out);
    out
}

/// Bytes of a V2 frame before its canonical record: head 12, topic 2 + 6, partition 4, length of the data 4.
const DATA_AT: usize = 28;
/// Bytes behind the canonical record: base offset, last offset, count.
const BEHIND_DATA: usize = 20;

fn chronik_v2() -> Vec<Case> {
    let middle = Middle { before: v2_frame(0, true), frame: v2_frame(10, true), after: v2_frame(20, true) };
    let end = middle.frame.len();
    let data_bytes = (end - DATA_AT - BEHIND_DATA) as u32;
    let sealed = |name: &str, reasons, at: usize, bytes: &[u8]| {
        middle.case(format!("chronik v2: {name}"), reasons, |frame| {
            put(frame, at, bytes);
            chronik::seal(frame);
        })
    };
    // Adds or removes bytes at a place, and adjusts the lengths.
    let resized = |name: &str, reasons, at: usize, remove: usize, insert: &[u8], in_data: bool| {
        middle.case(format!("chronik v2: {name}"), reasons, |frame| {
            frame.splice(at..at + remove, insert.iter().copied());
            let length = frame.len() as u32 - 12;
            put(frame, 4, &length.to_le_bytes());
            if in_data {
                let data = data_bytes + insert.len() as u32 - remove as u32;
                put(frame, DATA_AT - 4, &data.to_le_bytes());
            }
            chronik::seal(frame);
        })
    };
    let record = DATA_AT + 60; // offset, time, key's tag, key's length, …
    let mut cases = vec![
        middle
            .case("chronik v2: a flipped bit in a value", &["CRC_MISMATCH"], |frame| frame[record + 40] ^= 2),
        middle.case("chronik v2: a flipped bit in the checksum", &["CRC_MISMATCH"], |frame| frame[8] ^= 1),
        middle.case("chronik v2: a flipped flag", &["CRC_MISMATCH"], |frame| frame[3] ^= 1),
        middle.case("chronik v2: no magic", &["BAD_MAGIC"], |frame| put(frame, 0, &[0, 0])),
        sealed("version 3", &["BAD_VERSION"], 2, &[3]),
        sealed("version 0", &["BAD_VERSION"], 2, &[0]),
        sealed("a length of 0", BAD_LENGTH, 4, &[0; 4]),
        sealed("a length past the segment", BAD_LENGTH, 4, &[0xff; 4]),
        sealed("a topic past the frame", BAD_FRAME, 12, &[0xff; 2]),
        sealed("a topic that is not UTF-8", &["BAD_FRAME", "UNUSABLE_PARTITION"], 14, &[0xff]),
        sealed("a negative partition", &["UNUSABLE_PARTITION"], 20, &(-1_i32).to_le_bytes()),
        sealed("data past the frame", BAD_FRAME, 24, &[0xff; 4]),
        sealed("data shorter than it is", BAD_FRAME, 24, &(data_bytes - 1).to_le_bytes()),
        sealed("a base offset that its contents deny", BAD_OFFSET, end - 20, &9_i64.to_le_bytes()),
        sealed("a last offset before the first", BAD_OFFSET, end - 12, &9_i64.to_le_bytes()),
        sealed("a canonical base that its head denies", BAD_OFFSET, DATA_AT, &11_i64.to_le_bytes()),
        sealed("a boolean of 2", BAD_FRAME, DATA_AT + 26, &[2]),
        sealed("a compression that is none", &["BAD_FRAME", "UNKNOWN_CODEC"], DATA_AT + 28, &[9]),
        sealed("a timestamp type that is none", BAD_FRAME, DATA_AT + 32, &[2]),
        sealed("more records than bytes", BAD_FRAME, DATA_AT + 52, &[0xff; 8]),
        sealed("as many records as bytes", BAD_FRAME, DATA_AT + 52, &u64::from(data_bytes).to_le_bytes()),
        sealed("a record fewer than there are", BAD_FRAME, DATA_AT + 52, &[2]),
        sealed("a key's tag of 2", BAD_FRAME, record + 16, &[2]),
        sealed("a key past the data", BAD_FRAME, record + 17, &[0xff; 8]),
        sealed("a key of four gigabytes", BAD_FRAME, record + 17, &(u64::from(u32::MAX)).to_le_bytes()),
        sealed("more headers than bytes", BAD_FRAME, record + 53, &[0xff; 8]),
        sealed("a header's name that is not UTF-8", BAD_FRAME, record + 69, &[0xff]),
        resized("bytes behind the data's last option", BAD_FRAME, end - BEHIND_DATA, 0, &[0, 0, 0], true),
        resized("bytes behind the count", BAD_FRAME, end, 0, &[0, 0, 0], false),
        resized(
            "no offsets behind the data",
            &["CHRONIK_V2_WITHOUT_OFFSETS"],
            end - BEHIND_DATA,
            BEHIND_DATA,
            &[],
            false,
        ),
        resized("an empty topic", &["UNUSABLE_PARTITION", "BAD_FRAME"], 12, 8, &[0, 0], false),
    ];
    for count in [2, 4].into_iter().chain(EXTREMES_32) {
        cases.push(sealed(&format!("{count} records by its head"), BAD_COUNT, end - 4, &count.to_le_bytes()));
    }
    cases
}

fn chronik_v1() -> Vec<Case> {
    let encoded = |base| {
        let mut out = Vec::new();
        chronik::encode_v1(&records(base).iter().next().expect("three records"), &mut out);
        out
    };
    let middle = Middle { before: encoded(0), frame: encoded(10), after: encoded(20) };
    let sealed = |name: &str, reasons, at: usize, bytes: &[u8]| {
        middle.case(format!("chronik v1: {name}"), reasons, |frame| {
            put(frame, at, bytes);
            chronik::seal(frame);
        })
    };
    let headers = 55; // head 8, offset 8, time 8, CRC 4, key 4 + 3, value 4 + 16
    let mut cases = vec![
        middle.case("chronik v1: a flipped bit in a value", &["CRC_MISMATCH"], |frame| frame[40] ^= 2),
        sealed("a length of 0", BAD_LENGTH, 4, &[0; 4]),
        sealed("a length of 39", BAD_LENGTH, 4, &39_u32.to_le_bytes()),
        sealed("a length past the segment", BAD_LENGTH, 4, &[0xff; 4]),
        sealed("a negative offset", &["BAD_OFFSETS", "BAD_RECORD_OFFSET"], 8, &(-1_i64).to_le_bytes()),
        sealed("a value one byte shorter", BAD_FRAME, 35, &15_i32.to_le_bytes()),
        sealed("a header's name past the record", BAD_FRAME, headers + 4, &[0xff; 2]),
        sealed("a header's value past the record", BAD_FRAME, headers + 12, &[0xff; 4]),
        middle.case("chronik v1: bytes behind the last header", BAD_FRAME, |frame| {
            frame.extend_from_slice(&[0; 3]);
            let length = frame.len() as u32;
            put(frame, 4, &length.to_le_bytes());
            chronik::seal(frame);
        }),
    ];
    for length in EXTREMES_32.into_iter().filter(|length| *length != -1) {
        cases.push(sealed(&format!("a key of {length} bytes"), BAD_FRAME, 28, &length.to_le_bytes()));
    }
    for length in EXTREMES_32 {
        cases.push(sealed(&format!("a value of {length} bytes"), BAD_FRAME, 35, &length.to_le_bytes()));
        cases.push(sealed(&format!("{length} headers"), BAD_FRAME, headers, &length.to_le_bytes()));
    }
    cases
}

/// Returns small, valid segments of all formats, to be damaged by tests.
pub fn sound() -> Vec<(Format, Vec<u8>)> {
    let spec = |format| Spec {
        format,
        size: Size::Records(4),
        batch_records: 2.try_into().expect("not zero"),
        partition: orders(),
        ..Spec::default()
    };
    let make = |format| {
        let mut out = Vec::new();
        generate(&spec(format), &mut out).expect("a valid description");
        (format, out)
    };
    Format::ALL.into_iter().map(make).collect()
}

mod decoders {
    use wal_indexer::segment::{DecodedFrame, FrameSplitter, SegmentError, Tail};

    use super::*;

    struct Found {
        frames: Vec<DecodedFrame>,
        tail: Tail,
    }

    /// Reads a whole segment as ingest does: an error of a frame counts before an error of the splitter.
    fn read(bytes: &[u8]) -> Result<Found, SegmentError> {
        let mut splitter = FrameSplitter::new(bytes.len() as u64, None);
        let mut whole = Vec::new();
        let mut split = Ok(());
        for chunk in bytes.chunks(1_000) {
            split = split.and_then(|()| splitter.push(Bytes::copy_from_slice(chunk), &mut whole));
        }
        let tail = split.and_then(|()| splitter.finish());
        let frames = whole.iter().map(|frame| frame.decode(DECODED_BYTES_MAX)).collect::<Result<_, _>>()?;
        Ok(Found { frames, tail: tail? })
    }

    fn values(found: &Found) -> Vec<&[u8]> {
        found
            .frames
            .iter()
            .flat_map(|frame| frame.records.iter())
            .filter_map(|record| record.value())
            .collect()
    }

    #[test]
    fn a_frame_that_is_wrong_is_named_by_place_and_reason() {
        let mut wrong = Vec::new();
        for case in cases() {
            match read(&case.bytes) {
                Ok(found) => wrong.push(format!("{}: accepted, tail {:?}", case.name, found.tail)),
                Err(error) if error.position() != case.position || error.ordinal() != 1 => {
                    wrong.push(format!("{}: not at byte {}: {error}", case.name, case.position));
                }
                Err(error) if !case.reasons.contains(&error.reason()) => {
                    wrong.push(format!(
                        "{}: {:?} is not {}: {error}",
                        case.name,
                        case.reasons,
                        error.reason()
                    ));
                }
                Err(_) => {}
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases().len(), wrong.join("\n"));
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        for (format, bytes) in sound() {
            let before = read(&bytes).expect("sound");
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let Ok(found) = read(&damaged) else { continue };
                if found.tail.torn.is_some() {
                    continue;
                }
                // Kafka's checksum covers neither the base offset nor the leader's epoch, which brokers
                // rewrite.
                assert_eq!(format, Format::Kafka, "{format}: bit {bit}");
                assert_eq!(values(&found), values(&before), "{format}: bit {bit}");
            }
        }
    }

    #[test]
    fn a_cut_segment_is_torn_at_the_frame_that_is_cut_and_keeps_those_before_it() {
        for (format, bytes) in sound() {
            let mut whole = Vec::new();
            let mut splitter = FrameSplitter::new(bytes.len() as u64, None);
            splitter.push(Bytes::from(bytes.clone()), &mut whole).expect("sound");
            splitter.finish().expect("sound");
            let starts: Vec<u64> = whole.iter().map(|frame| frame.position).collect();
            for end in 1..bytes.len() {
                let found = read(&bytes[..end]).expect("torn is not corrupt");
                let frames = whole
                    .iter()
                    .filter(|frame| frame.position + frame.bytes.len() as u64 <= end as u64)
                    .count();
                assert_eq!(found.frames.len(), frames, "{format}: {end}");
                let torn = found.tail.torn.as_ref().map(|torn| (torn.position, torn.bytes.len() as u64));
                let start = starts[frames];
                let expected = (start < end as u64).then(|| (start, end as u64 - start));
                assert_eq!(torn, expected, "{format}: {end}");
            }
        }
    }

    #[test]
    fn whatever_bytes_come_the_decoders_answer() {
        // A fixed sequence of pseudo-random numbers, so that a failure repeats.
        let mut state = 1_u64;
        let mut next = |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % end
        };
        for (_, bytes) in sound() {
            for _ in 0..2_000 {
                let mut damaged = bytes.clone();
                for _ in 0..1 + next(8) {
                    let at = next(damaged.len());
                    match next(4) {
                        0 => damaged[at] = next(256) as u8,
                        1 => damaged[at] = [0, 0xff, 0x7f, 0x80][next(4)],
                        2 => drop(damaged.drain(at..(at + next(16)).min(damaged.len()))),
                        _ => damaged.insert(at, next(256) as u8),
                    }
                    if damaged.is_empty() {
                        break;
                    }
                }
                // The decoder may refuse or read these bytes. It must only return.
                let _ = read(&damaged);
            }
        }
    }
}
