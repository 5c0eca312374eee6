//! Chronik frames, byte by byte, and the errors of wrong ones.

use super::encode::*;
use super::*;

/// A V2 frame, each byte written out.
const V2: &[u8] = &[
    0x7e, 0xca, // magic 0xCA7E
    2,    // version
    0,    // flags
    141, 0, 0, 0, // length of what follows the CRC
    0x5f, 0xf4, 0x02, 0x45, // CRC-32 of all but itself
    1, 0, b't', // topic, 1 byte
    7, 0, 0, 0, // partition
    110, 0, 0, 0, // length of the data
    100, 0, 0, 0, 0, 0, 0, 0, // base offset
    5, 0, 0, 0, // partition leader epoch
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // producer id: none
    0xff, 0xff, // producer epoch: none
    0xff, 0xff, 0xff, 0xff, // base sequence: none
    0,    // not transactional
    0,    // not control
    4, 0, 0, 0, // the producer compressed with zstd
    0, 0, 0, 0, // times by the producer
    0xe8, 3, 0, 0, 0, 0, 0, 0, // base timestamp: 1,000
    0xed, 3, 0, 0, 0, 0, 0, 0, // max timestamp: 1,005
    1, 0, 0, 0, 0, 0, 0, 0, // one record
    101, 0, 0, 0, 0, 0, 0, 0, // its offset
    0xed, 3, 0, 0, 0, 0, 0, 0, // its time: 1,005
    0, // null key
    1, 2, 0, 0, 0, 0, 0, 0, 0, b'v', b'1', // value, 2 bytes
    1, 0, 0, 0, 0, 0, 0, 0, // one header
    1, 0, 0, 0, 0, 0, 0, 0, b'h', // its name
    0,    // its value is null
    0,    // the record's attributes
    0,    // no compressed section
    0,    // no message set of magic 1
    0,    // no batch of magic 2
    100, 0, 0, 0, 0, 0, 0, 0, // base offset
    103, 0, 0, 0, 0, 0, 0, 0, // last offset
    1, 0, 0, 0, // record count
];

/// A V1 frame, each byte written out.
const V1: &[u8] = &[
    0x7e, 0xca, // magic 0xCA7E
    1,    // version
    0,    // flags
    51, 0, 0, 0, // length of the whole record
    42, 0, 0, 0, 0, 0, 0, 0, // offset
    0xe8, 3, 0, 0, 0, 0, 0, 0, // time: 1,000
    0xdc, 0x29, 0x91, 0x53, // CRC-32 of all but itself
    1, 0, 0, 0, b'k', // key, 1 byte
    2, 0, 0, 0, b'v', b'1', // value, 2 bytes
    1, 0, 0, 0, // one header
    1, 0, b'h', // its name
    1, 0, 0, 0, b'x', // its value
];

#[track_caller]
fn decode(bytes: &[u8]) -> Result<(Frame, DecodedFrame), SegmentError> {
    let frames = read(&Bytes::copy_from_slice(bytes))?;
    assert_eq!(frames.len(), 1);
    Ok(frames.into_iter().next().expect("one frame"))
}

#[track_caller]
fn check_reason(reason: &str, bytes: &[u8]) {
    let error = decode(bytes).expect_err(reason);
    assert_eq!(error.reason(), reason, "{error}");
}

#[test]
fn a_v2_frame_is_read_as_its_bytes_say() {
    let (frame, decoded) = decode(V2).expect("a whole frame");
    assert_eq!(frame.partition, TopicPartition::new("t", 7).ok());
    assert_eq!(decoded.range, OffsetRange::new(100, 103));
    assert_eq!((decoded.min_timestamp_ms, decoded.max_timestamp_ms), (Some(1_005), Some(1_005)));
    let records: Vec<_> = decoded.records.iter().collect();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].offset(), records[0].timestamp_ms()), (101, Some(1_005)));
    assert_eq!((records[0].key(), records[0].value()), (None, Some(&b"v1"[..])));
    assert_eq!(records[0].headers().collect::<Vec<_>>(), [(&b"h"[..], None)]);
    assert_eq!(decoded.records.bytes.as_ptr(), frame.bytes.as_ptr());
}

#[test]
fn a_v1_frame_is_read_as_its_bytes_say() {
    let (frame, decoded) = decode(V1).expect("a whole frame");
    assert_eq!(frame.partition, None);
    assert_eq!(decoded.range, OffsetRange::new(42, 42));
    let records: Vec<_> = decoded.records.iter().collect();
    assert_eq!((records[0].offset(), records[0].timestamp_ms()), (42, Some(1_000)));
    assert_eq!((records[0].key(), records[0].value()), (Some(&b"k"[..]), Some(&b"v1"[..])));
    assert_eq!(records[0].headers().collect::<Vec<_>>(), [(&b"h"[..], Some(&b"x"[..]))]);
}

#[test]
fn heads_that_cannot_be_are_refused_by_name() {
    let changed = |frame: &[u8], at: usize, field: &[u8]| {
        let mut bytes = frame.to_vec();
        bytes[at..at + field.len()].copy_from_slice(field);
        bytes
    };
    for frame in [V1, V2] {
        check_reason("UNKNOWN_FORMAT", &changed(frame, 0, &[0xca, 0x7e]));
        check_reason("BAD_VERSION", &changed(frame, 2, &[0]));
        check_reason("BAD_VERSION", &changed(frame, 2, &[3]));
        check_reason("BAD_LENGTH", &changed(frame, 4, &[0, 0, 0, 0]));
        check_reason("BAD_LENGTH", &changed(frame, 4, &[9, 0, 0, 0]));
        check_reason("CRC_MISMATCH", &changed(frame, 3, &[1]));
        // After a whole frame, the format is known, so a wrong magic is reported as one.
        let error = read(&Bytes::from([frame, &changed(frame, 0, &[0xca])].concat())).expect_err("bad magic");
        assert_eq!((error.reason(), error.position()), ("BAD_MAGIC", frame.len() as u64));
    }
}

#[test]
fn a_crc_over_a_zero_length_is_accepted_and_over_no_other() {
    let data = canonical(CanonicalHead::default(), &entry(100, 0, None, None), &[]);
    let body = v2_body(b"orders", 3, &data, &v2_trailer(100, 100, 1));
    assert!(decode(&v2_hashing(&body, None)).is_ok());
    assert!(decode(&v2_hashing(&body, Some(0))).is_ok());
    for length in [1, body.len() as u32 + 12, body.len() as u32 - 1, u32::MAX] {
        check_reason("CRC_MISMATCH", &v2_hashing(&body, Some(length)));
    }
}

#[test]
fn a_v2_frame_of_the_oldest_releases_has_a_reason_of_its_own() {
    let data = canonical(CanonicalHead::default(), &entry(100, 0, None, None), &[]);
    let bytes = v2(&data, &[]);
    check_reason("CHRONIK_V2_WITHOUT_OFFSETS", &bytes);
    assert_eq!(decode(&bytes).expect_err("unsupported").kind(), ErrorKind::Unsupported);
    // A damaged frame has another reason.
    let mut damaged = bytes.clone();
    damaged[40] ^= 1;
    check_reason("CRC_MISMATCH", &damaged);
    check_reason("BAD_FRAME", &v2(&data, &v2_trailer(100, 100, 1)[..19]));
    check_reason("BYTES_LEFT_OVER", &v2(&data, &[&v2_trailer(100, 100, 1)[..], &[0]].concat()));
}

#[test]
fn a_head_that_disagrees_with_its_contents_is_corrupt() {
    let data = canonical(CanonicalHead::default(), &entry(100, 0, None, None), &[]);
    assert!(decode(&v2(&data, &v2_trailer(100, 100, 1))).is_ok());
    assert!(decode(&v2(&data, &v2_trailer(100, 200, 1))).is_ok(), "the range may reach past the last record");
    check_reason("HEAD_DISAGREES", &v2(&data, &v2_trailer(99, 100, 1)));
    check_reason("HEAD_DISAGREES", &v2(&data, &v2_trailer(100, 100, 2)));
    check_reason("HEAD_DISAGREES", &v2(&data, &v2_trailer(100, 100, -1)));
    check_reason("HEAD_DISAGREES", &v2(&data, &v2_trailer(101, 102, 1)));
    check_reason("BAD_OFFSETS", &v2(&data, &v2_trailer(100, 99, 1)));
    check_reason("BAD_OFFSETS", &v2(&data, &v2_trailer(-1, 100, 1)));
    check_reason("BAD_OFFSETS", &v2(&data, &v2_trailer(100, 98, 0)));
}

/// A frame of `orders`/3 with records at these offsets, as the broker writes it: the last offset is base
/// offset + number of records - 1.
fn at_offsets(offsets: &[i64]) -> Vec<u8> {
    let records: Vec<u8> = offsets.iter().flat_map(|offset| entry(*offset, 0, None, Some(b"v"))).collect();
    let count = offsets.len();
    let head = CanonicalHead { count: count as u64, ..CanonicalHead::default() };
    v2(&canonical(head, &records, &[]), &v2_trailer(100, 99 + count as i64, count as i32))
}

#[test]
fn a_producers_deltas_with_gaps_are_gaps() {
    for (offsets, covered) in [
        (&[100, 105, 109][..], (100, 109)),
        (&[105], (100, 105)),
        (&[100, 98, 101], (98, 102)),
        (&[-3, 100], (100, 101)),
    ] {
        let (frame, decoded) = decode(&at_offsets(offsets)).expect("sound");
        let found: Vec<_> = decoded.records.iter().map(|record| record.offset()).collect();
        assert_eq!(found, offsets);
        assert_eq!(decoded.range, OffsetRange::new(covered.0, covered.1), "{offsets:?}");
        assert_eq!(decoded.anomalies, Anomalies::of(Anomaly::RecordOffset));
        assert_eq!(frame.claimed_records(), Some(offsets.len() as u64));
    }
    assert!(
        decode(&at_offsets(&[101, 100])).expect("sound").1.anomalies.is_empty(),
        "order is not asked for"
    );
}

#[test]
fn a_frame_of_no_records_covers_no_offset_and_stands_at_one() {
    for base in [0, 100] {
        let head = CanonicalHead { base_offset: base, count: 0, ..CanonicalHead::default() };
        let bytes = v2(&canonical(head, &[], &[]), &v2_trailer(base, base - 1, 0));
        let (frame, decoded) = decode(&bytes).expect("sound");
        assert_eq!((decoded.base_offset, decoded.range, frame.claimed_range()), (base, None, None));
        assert_eq!(decoded.anomalies, Anomalies::of(Anomaly::EmptyFrame));
        assert_eq!(frame.claimed_records(), Some(0));
        assert_eq!(frame.kafka_batch(1 << 20).expect("sound"), Err(NoBatch::Empty));
    }
}

#[test]
fn lengths_inside_a_v2_frame_are_held_against_what_is_there() {
    let trailer = v2_trailer(100, 100, 1);
    let good = entry(100, 0, Some(b"k"), Some(b"v"));
    let data = canonical(CanonicalHead::default(), &good, &[]);
    let head_len = data.len() - good.len();
    assert!(decode(&v2(&data, &trailer)).is_ok());
    for len in 0..head_len {
        check_reason("BAD_FRAME", &v2(&data[..len], &trailer));
    }
    for len in head_len..data.len() {
        let reason = if len - head_len < 27 { "BAD_RECORD_COUNT" } else { "BAD_RECORD" };
        check_reason(reason, &v2(&data[..len], &trailer));
    }
    for count in [0, 2, u64::from(u32::MAX), u64::MAX] {
        let data = canonical(CanonicalHead { count, ..CanonicalHead::default() }, &good, &[]);
        let reason = if count == 0 { "BAD_FRAME" } else { "BAD_RECORD_COUNT" };
        check_reason(reason, &v2(&data, &trailer));
    }
    // Every u64 of the record, made huge: key length, value length, header count.
    for at in [17, 27, 36] {
        for huge in [u64::MAX, 1 << 62, 1 << 32, 100] {
            let mut record = good.clone();
            record[at..at + 8].copy_from_slice(&huge.to_le_bytes());
            check_reason("BAD_RECORD", &v2(&canonical(CanonicalHead::default(), &record, &[]), &trailer));
        }
    }
    // Tags that bincode does not write.
    check_reason(
        "BAD_FRAME",
        &v2(&canonical(CanonicalHead { is_control: 2, ..CanonicalHead::default() }, &good, &[]), &trailer),
    );
    check_reason(
        "BAD_FRAME",
        &v2(&canonical(CanonicalHead { compression: 5, ..CanonicalHead::default() }, &good, &[]), &trailer),
    );
    check_reason(
        "BAD_FRAME",
        &v2(
            &canonical(CanonicalHead { timestamp_type: 2, ..CanonicalHead::default() }, &good, &[]),
            &trailer,
        ),
    );
    let mut record = good.clone();
    record[16] = 2;
    check_reason("BAD_RECORD", &v2(&canonical(CanonicalHead::default(), &record, &[]), &trailer));
    // A topic or data that reach beyond the frame.
    let body = v2_body(b"orders", 3, &data, &trailer);
    for (at, field) in [(0, &[0xff, 0xff][..]), (12, &[0xff, 0xff, 0xff, 0xff]), (12, &[0, 1, 0, 0])] {
        let mut body = body.clone();
        body[at..at + field.len()].copy_from_slice(field);
        check_reason("BAD_FRAME", &v2_hashing(&body, None));
    }
}

#[test]
fn trailing_options_may_be_missing_and_nothing_else_may_follow() {
    let trailer = v2_trailer(100, 100, 1);
    let with = |options: &[Vec<u8>]| {
        v2(&canonical(CanonicalHead::default(), &entry(100, 0, None, None), &options.concat()), &trailer)
    };
    let (none, some) = (option(None), option(Some(b"opaque")));
    for options in [
        vec![],
        vec![none.clone()],
        vec![some.clone()],
        vec![some.clone(), some.clone()],
        vec![none.clone(), none.clone(), none.clone()],
        vec![none.clone(), some.clone(), none.clone()],
    ] {
        assert!(decode(&with(&options)).is_ok());
    }
    check_reason("BYTES_LEFT_OVER", &with(&[none.clone(), none.clone(), none.clone(), vec![0]]));
    check_reason("BAD_FRAME", &with(&[vec![2]]));
    check_reason("BAD_FRAME", &with(&[some[..some.len() - 1].to_vec()]));
    let endless = [vec![1], u64::MAX.to_le_bytes().to_vec()].concat();
    for before in 0..3 {
        check_reason("BAD_FRAME", &with(&[vec![0; before], endless.clone()]));
    }
}

#[test]
fn the_producers_own_batch_is_checked() {
    let trailer = v2_trailer(100, 100, 1);
    let with = |original: &[u8]| {
        let options = [option(None), option(None), option(Some(original))].concat();
        v2(&canonical(CanonicalHead::default(), &entry(100, 0, None, None), &options), &trailer)
    };
    // The broker sets its offset and leader epoch. No checksum covers them, so they may have any value.
    let head = BatchHead { base_offset: 0, leader_epoch: -1, ..BatchHead::default() };
    let whole = batch(head, &record(0, 0, None, None));
    // A damaged batch is kept and marked, but never returned. The broker's own record is sound.
    let check_damaged = |original: &[u8]| {
        let (frame, decoded) = decode(&with(original)).expect("sound");
        assert_eq!(decoded.anomalies, Anomalies::of(Anomaly::OriginalBatchDamaged));
        assert_eq!(decoded.records.records.len(), 1);
        let batch = frame.kafka_batch(1 << 20).expect("sound");
        assert!(matches!(batch, Err(NoBatch::Damaged { .. })), "{batch:?}");
    };
    assert!(decode(&with(&whole)).expect("sound").1.anomalies.is_empty());
    for at in 8..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        if (12..16).contains(&at) {
            assert!(decode(&with(&damaged)).expect("sound").1.anomalies.is_empty());
        } else {
            check_damaged(&damaged);
        }
    }
    check_damaged(&whole[..60]);
    check_damaged(&[]);
    check_damaged(&[&whole[..], &[0]].concat());
}

#[test]
fn control_and_broker_time_are_read_from_the_canonical_record() {
    let records = [entry(100, 5, None, None), entry(101, -1, None, None)].concat();
    let head = CanonicalHead { count: 2, ..CanonicalHead::default() };
    let trailer = v2_trailer(100, 101, 2);
    let times = |head: CanonicalHead| {
        let (_, decoded) = decode(&v2(&canonical(head, &records, &[]), &trailer)).expect("whole");
        decoded.records.iter().map(|record| record.timestamp_ms()).collect::<Vec<_>>()
    };
    assert_eq!(times(head), [Some(5), None]);
    assert_eq!(times(CanonicalHead { timestamp_type: 1, ..head }), [Some(2_000); 2]);
    let control = canonical(CanonicalHead { is_control: 1, ..head }, &records, &[]);
    let (_, decoded) = decode(&v2(&control, &trailer)).expect("whole");
    assert_eq!(decoded.control_offsets, [100, 101]);
    assert!(decoded.records.records.is_empty());
}

#[test]
fn a_whole_frame_with_an_unusable_name_is_told_from_a_damaged_one() {
    let data = canonical(CanonicalHead::default(), &entry(100, 0, None, None), &[]);
    let frame = |topic: &[u8], partition| {
        v2_hashing(&v2_body(topic, partition, &data, &v2_trailer(100, 100, 1)), None)
    };
    let long = vec![b'x'; 250];
    assert!(decode(&frame(&long[1..], 0)).is_ok());
    for (topic, partition) in [(&b""[..], 0), (b"orders", -1), (&long[..], 0)] {
        let whole = frame(topic, partition);
        check_reason("UNUSABLE_PARTITION", &whole);
        assert_eq!(decode(&whole).expect_err("unusable").kind(), ErrorKind::Unsupported);
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("not empty") ^= 1;
        check_reason("CRC_MISMATCH", &damaged);
    }
    check_reason("BAD_FRAME", &frame(&[0xff, 0xfe], 0));
}

#[test]
fn v1_parts_that_do_not_fit_are_refused_by_name() {
    let field = |len: i32, bytes: &[u8]| [&len.to_le_bytes()[..], bytes].concat();
    let frame = |parts: &[Vec<u8>]| v1(42, -1, &parts.concat());
    let (empty, null) = (field(0, b""), field(-1, b""));
    let (_, decoded) = decode(&frame(&[null.clone(), empty.clone(), empty.clone()])).expect("whole");
    let record = decoded.records.iter().next().expect("one record");
    assert_eq!((record.key(), record.value(), record.timestamp_ms()), (None, Some(&b""[..]), None));
    for wrong in [-2, 1_000_000, i32::MAX, i32::MIN] {
        let wrong = field(wrong, b"");
        check_reason("BAD_RECORD", &frame(&[wrong.clone(), empty.clone(), empty.clone()]));
        check_reason("BAD_RECORD", &frame(&[null.clone(), wrong.clone(), empty.clone()]));
        check_reason("BAD_RECORD", &frame(&[null.clone(), empty.clone(), wrong]));
    }
    check_reason("BAD_RECORD", &frame(&[null.clone(), null.clone(), empty.clone()]));
    check_reason("BYTES_LEFT_OVER", &frame(&[null.clone(), empty.clone(), empty.clone(), vec![0]]));
    let header = |name_len: u16, name: &[u8], value_len: u32, value: &[u8]| {
        let name = [&name_len.to_le_bytes()[..], name].concat();
        [null.clone(), empty.clone(), field(1, b""), name, [&value_len.to_le_bytes()[..], value].concat()]
    };
    assert!(decode(&frame(&header(1, b"h", 2, b"ok"))).is_ok());
    check_reason("BAD_RECORD", &frame(&header(9, b"h", 2, b"ok")));
    check_reason("BAD_RECORD", &frame(&header(1, b"h", 3, b"ok")));
    check_reason("BAD_RECORD", &frame(&header(1, b"h", u32::MAX, b"ok")));
    check_reason("BAD_RECORD", &frame(&header(1, &[0xff], 2, b"ok")));
    check_reason("BAD_OFFSETS", &v1(-1, 0, &[null, empty.clone(), empty].concat()));
}

#[test]
fn the_producers_own_batch_gets_the_base_offset_that_the_log_gave_it_and_nothing_else_changes() {
    let frame = |original: Option<&[u8]>| {
        let options = [option(None), option(None), option(original)].concat();
        let records = [entry(100, 0, None, None), entry(101, 0, None, None)].concat();
        let head = CanonicalHead { count: 2, ..CanonicalHead::default() };
        let bytes = v2(&canonical(head, &records, &options), &v2_trailer(100, 101, 2));
        let mut frames = Vec::new();
        FrameSplitter::new(bytes.len() as u64, None).push(bytes.into(), &mut frames).expect("a frame");
        frames.remove(0)
    };
    let records = [record(0, 0, None, None), record(0, 1, None, None)].concat();
    let sent = batch(BatchHead { base_offset: 0, last_delta: 1, count: 2, ..BatchHead::default() }, &records);
    let kept = frame(Some(&sent)).kafka_batch(1 << 20).expect("sound").expect("it was kept");
    assert_eq!((kept.range.first(), kept.range.last(), kept.records), (100, 101, 2));
    assert_eq!(kept.bytes[..8], 100_i64.to_be_bytes());
    assert_eq!(kept.bytes[8..], sent[8..]);

    assert_eq!(frame(None).kafka_batch(1 << 20).expect("sound"), Err(NoBatch::NotKept));
    let longer = batch(BatchHead { last_delta: 2, count: 2, ..BatchHead::default() }, &records);
    let other = frame(Some(&longer)).kafka_batch(1 << 20).expect("sound");
    assert_eq!(other, Err(NoBatch::OffsetCountDiffers { batch: 3, frame: 2 }));
}
