//! Kafka batches, byte by byte, and the errors of wrong ones.

use super::encode::*;
use super::*;

/// A batch of two records, each byte written out.
const TWO_RECORDS: &[u8] = &[
    0, 0, 0, 0, 0, 0, 0, 100, // base offset: 100
    0, 0, 0, 73, // length of what follows: 49 of the head, 24 of the records
    0, 0, 0, 5, // partition leader epoch
    2, // magic
    0x22, 0x20, 0x36, 0x4b, // CRC-32C of all that follows
    0, 0, // attributes: uncompressed, times by the producer, no transaction, data
    0, 0, 0, 3, // last offset delta: the batch reaches to 103
    0, 0, 0, 0, 0, 0, 0x03, 0xe8, // base timestamp: 1,000
    0, 0, 0, 0, 0, 0, 0x07, 0xd0, // max timestamp: 2,000
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // producer id: none
    0xff, 0xff, // producer epoch: none
    0xff, 0xff, 0xff, 0xff, // base sequence: none
    0, 0, 0, 2,  // two records
    30, // the first is 15 bytes long (zigzag: twice as much)
    0,  // its attributes
    10, // time delta 5
    0,  // offset delta 0
    2, b'k', // key, 1 byte
    4, b'v', b'1', // value, 2 bytes
    4,    // two headers
    2, b'h', 0, // the first: "h" with an empty value
    2, b'n', 1,  // the second: "n" with null
    14, // the second record is 7 bytes long
    0,  // its attributes
    0x81, 0x10, // time delta -1,025, so it is before the epoch
    4,    // offset delta 2
    1,    // null key
    1,    // null value
    0,    // no headers
];

/// Decodes exactly one frame.
#[track_caller]
fn decode(bytes: &[u8]) -> Result<DecodedFrame, SegmentError> {
    let frames = read(&Bytes::copy_from_slice(bytes))?;
    assert_eq!(frames.len(), 1);
    Ok(frames.into_iter().next().expect("one frame").1)
}

#[track_caller]
fn check_reason(reason: &str, bytes: &[u8]) {
    let error = decode(bytes).expect_err(reason);
    assert_eq!(error.reason(), reason, "{error}");
    assert_eq!((error.position(), error.ordinal()), (0, 0));
}

#[test]
fn a_batch_is_read_as_its_bytes_say() {
    let decoded = decode(TWO_RECORDS).expect("a whole batch");
    assert_eq!(decoded.range, OffsetRange::new(100, 103));
    assert_eq!((decoded.min_timestamp_ms, decoded.max_timestamp_ms), (Some(-25), Some(1_005)));
    assert!(decoded.control_offsets.is_empty());
    let records: Vec<_> = decoded.records.iter().collect();
    assert_eq!(records.len(), 2);
    assert_eq!((records[0].offset(), records[0].timestamp_ms()), (100, Some(1_005)));
    assert_eq!((records[0].key(), records[0].value()), (Some(&b"k"[..]), Some(&b"v1"[..])));
    let headers: Vec<_> = records[0].headers().collect();
    assert_eq!(headers, [(&b"h"[..], Some(&b""[..])), (&b"n"[..], None)]);
    assert_eq!((records[1].offset(), records[1].timestamp_ms()), (102, Some(-25)));
    assert_eq!((records[1].key(), records[1].value(), records[1].headers().count()), (None, None, 0));
}

#[test]
fn uncompressed_records_are_spans_into_the_frame_itself() {
    let bytes = Bytes::from_static(TWO_RECORDS);
    let (frame, decoded) = read(&bytes).expect("whole").remove(0);
    assert_eq!(frame.bytes.as_ptr(), bytes.as_ptr());
    assert_eq!(decoded.records.bytes.as_ptr(), bytes.as_ptr());
    assert!(decoded.mem_usage(&frame) < 1_000);
}

#[test]
fn what_a_batch_opens_to_is_guessed_from_its_head() {
    let (size, cases) = (
        1_000,
        [
            // Codec, records, guess.
            (0, 1_000_000, 1_000),
            (2, 1, 2_000),
            (3, 1, 2_000),
            (1, 1, 4_000),
            (4, 1, 4_000),
            (4, 40, 40 * 256),
            (4, i32::MAX, 16_000),
            (4, -1, 4_000),
            (7, 40, 1_000),
        ],
    );
    for (codec, records, guess) in cases {
        let mut bytes = TWO_RECORDS.to_vec();
        bytes.resize(size, 0);
        bytes[22] = codec;
        bytes[57..61].copy_from_slice(&i32::to_be_bytes(records));
        assert_eq!(
            crate::segment::kafka::opened_bytes_guess(&bytes),
            guess,
            "codec {codec}, {records} records"
        );
    }
}

#[test]
fn damage_within_the_checksum_is_named_so() {
    for at in 17..TWO_RECORDS.len() {
        let mut bytes = TWO_RECORDS.to_vec();
        bytes[at] ^= 0x10;
        check_reason("CRC_MISMATCH", &bytes);
    }
}

/// A message of magic 1 without a key.
fn message(offset: i64, attributes: u8, value: &[u8]) -> Vec<u8> {
    let head = [&[1, attributes][..], &1_000_i64.to_be_bytes(), &(-1_i32).to_be_bytes()].concat();
    let covered = [&head[..], &(value.len() as i32).to_be_bytes(), value].concat();
    let (len, crc) = (covered.len() as i32 + 4, crc32fast::hash(&covered));
    [&offset.to_be_bytes()[..], &len.to_be_bytes(), &crc.to_be_bytes(), &covered].concat()
}

#[test]
fn a_compressed_message_with_an_offset_that_cannot_be_is_refused() {
    for (last_inner, range) in
        [(6, "-1 to 5"), (i64::MAX, "-9223372036854775802 to 5"), (i64::MIN, "9223372036854775813 to 5")]
    {
        let inside = codec::compress(Codec::Gzip, &message(last_inner, 0, b"v"));
        let error = decode(&message(5, Codec::Gzip as u8, &inside)).expect_err(range);
        assert_eq!(*error.fault().to_string(), format!("offsets {range} are not a valid range"));
    }
}

#[test]
fn heads_that_cannot_be_are_refused_by_name() {
    let changed = |at: usize, field: &[u8]| {
        let mut bytes = TWO_RECORDS.to_vec();
        bytes[at..at + field.len()].copy_from_slice(field);
        bytes
    };
    check_reason("BAD_OFFSETS", &changed(0, &(-1_i64).to_be_bytes()));
    check_reason("BAD_OFFSETS", &changed(0, &i64::MAX.to_be_bytes()));
    let error = decode(&changed(0, &i64::MAX.to_be_bytes())).expect_err("offsets beyond the largest");
    let range = "offsets 9223372036854775807 to 9223372036854775810 are not a valid range";
    assert!(error.to_string().ends_with(range), "{error}");
    let backwards = batch(BatchHead { last_delta: -103, ..BatchHead::default() }, b"");
    let fault = crate::segment::kafka::range(&backwards).expect_err("reversed");
    assert_eq!(fault.to_string(), "offsets 100 to -3 are not a valid range");
    check_reason("BAD_LENGTH", &changed(8, &48_i32.to_be_bytes()));
    check_reason("BAD_LENGTH", &changed(8, &(-1_i32).to_be_bytes()));
    check_reason("BAD_LENGTH", &changed(8, &i32::MIN.to_be_bytes()));
    // A message of magic 0 or 1 has another checksum.
    check_reason("CRC_MISMATCH", &changed(16, &[0]));
    check_reason("CRC_MISMATCH", &changed(16, &[1]));
    check_reason("UNKNOWN_FORMAT", &changed(16, &[3]));
    check_reason("UNKNOWN_FORMAT", &changed(16, &[0xfe]));
    check_reason("UNKNOWN_CODEC", &batch(BatchHead { attributes: 5, ..BatchHead::default() }, b"?"));
    check_reason("UNKNOWN_CODEC", &batch(BatchHead { attributes: 7, ..BatchHead::default() }, b"?"));
}

#[test]
fn records_that_do_not_fit_are_refused_by_name() {
    let whole = record(0, 0, Some(b"key"), Some(b"value"));
    let one = |body: &[u8]| batch(BatchHead::default(), body);
    let counting =
        |count, body: &[u8]| batch(BatchHead { count, last_delta: 9, ..BatchHead::default() }, body);
    assert!(decode(&one(&whole)).is_ok());
    check_reason("BYTES_LEFT_OVER", &one(&[&whole[..], &[0]].concat()));
    check_reason(
        "BYTES_LEFT_OVER",
        &counting(1, &[record(0, 0, None, None), record(0, 1, None, None)].concat()),
    );
    check_reason("BAD_RECORD_COUNT", &counting(2, &whole[..13]));
    check_reason("BAD_RECORD_COUNT", &counting(-1, &whole));
    check_reason("BAD_RECORD_COUNT", &counting(i32::MAX, &whole));
    check_reason("BAD_RECORD", &counting(2, &[&whole[..], &[2]].concat()));
    for len in 0..whole.len() {
        let reason = if len < 7 { "BAD_RECORD_COUNT" } else { "BAD_RECORD" };
        check_reason(reason, &one(&whole[..len]));
    }
    // Attributes, time and offset, and then one part that is wrong.
    let record_with = |parts: &[Vec<u8>]| one(&record_of(&[&[0, 0, 0][..], &parts.concat()].concat()));
    let (null, none) = (varint(-1), varint(0));
    assert!(decode(&record_with(&[null.clone(), null.clone(), none.clone()])).is_ok());
    // Kafka's reader takes every negative length as null, not only -1.
    for length in [-2, i32::MIN] {
        let length = varint(length.into());
        let header = [varint(1), none.clone(), length.clone()].concat();
        for parts in [
            [length.clone(), null.clone(), none.clone()],
            [null.clone(), length, none.clone()],
            [null.clone(), null.clone(), header],
        ] {
            let decoded = check_anomaly(Anomaly::NegativeLength, &record_with(&parts));
            let record = decoded.records.iter().next().expect("one");
            assert_eq!((record.key(), record.value()), (None, None));
        }
    }
    check_reason("BAD_RECORD", &record_with(&[null.clone(), null.clone(), varint(-2)]));
    for wrong in [varint(2), varint(i32::MAX.into()), vec![0xff; 6]] {
        check_reason("BAD_RECORD", &record_with(&[wrong.clone(), null.clone(), none.clone()]));
        check_reason("BAD_RECORD", &record_with(&[null.clone(), wrong.clone(), none.clone()]));
        check_reason("BAD_RECORD", &record_with(&[null.clone(), null.clone(), wrong.clone()]));
        let header = |name: &[u8], value: &[u8]| [varint(1), name.to_vec(), value.to_vec()].concat();
        check_reason("BAD_RECORD", &record_with(&[null.clone(), null.clone(), header(&wrong, &null)]));
        check_reason("BAD_RECORD", &record_with(&[null.clone(), null.clone(), header(&none, &wrong)]));
    }
    // A header's name cannot be null, and a record has no bytes after its headers.
    check_reason(
        "BAD_RECORD",
        &record_with(&[null.clone(), null.clone(), varint(1), null.clone(), null.clone()]),
    );
    check_reason("BAD_RECORD", &record_with(&[null.clone(), null, none, vec![0]]));
}

#[track_caller]
fn check_anomaly(anomaly: Anomaly, bytes: &[u8]) -> DecodedFrame {
    let decoded = decode(bytes).unwrap_or_else(|error| panic!("{}: {error}", anomaly.name()));
    assert_eq!(decoded.anomalies, Anomalies::of(anomaly));
    decoded
}

#[test]
fn offsets_that_do_not_rise_or_leave_the_batchs_range_are_read_and_marked() {
    let pair = |first, second| {
        let body = [record(0, first, None, None), record(0, second, None, None)].concat();
        batch(BatchHead { count: 2, last_delta: 5, ..BatchHead::default() }, &body)
    };
    assert!(decode(&pair(0, 5)).expect("sound").anomalies.is_empty());
    for (first, second, covered) in [
        (1, 1, (100, 105)),
        (2, 1, (100, 105)),
        (-1, 0, (99, 105)),
        (0, 6, (100, 106)),
        (0, i32::MAX.into(), (100, 100 + i64::from(i32::MAX))),
        // No consumer can ask for a negative offset.
        (-101, 0, (100, 105)),
    ] {
        let decoded = check_anomaly(Anomaly::RecordOffset, &pair(first, second));
        let offsets: Vec<_> = decoded.records.iter().map(|record| record.offset() - 100).collect();
        assert_eq!(offsets, [first, second]);
        assert_eq!(decoded.range, OffsetRange::new(covered.0, covered.1), "{first} {second}");
    }
    // A last delta of 0, as a client once wrote it, or a negative one.
    for last_delta in [0, -1, -7] {
        let body = [record(0, 0, None, None), record(0, 1, None, None)].concat();
        let bytes = batch(BatchHead { count: 2, last_delta, ..BatchHead::default() }, &body);
        let decoded = check_anomaly(Anomaly::RecordOffset, &bytes);
        assert_eq!(decoded.range, OffsetRange::new(100, 101));
    }
    let beyond = BatchHead { base_offset: i64::MAX - 5, count: 2, last_delta: 5, ..BatchHead::default() };
    let body = [record(0, 0, None, None), record(0, 6, None, None)].concat();
    check_reason("BAD_RECORD_OFFSET", &batch(beyond, &body));
}

#[test]
fn a_batch_that_counts_no_records_has_none_whatever_follows() {
    let whole = record(0, 0, Some(b"key"), Some(b"value"));
    let none =
        |last_delta, body: &[u8]| batch(BatchHead { count: 0, last_delta, ..BatchHead::default() }, body);
    let decoded = check_anomaly(Anomaly::BytesLeftOver, &none(9, &whole));
    assert_eq!((decoded.records.records.len(), decoded.range), (0, OffsetRange::new(100, 109)));
    let decoded = check_anomaly(Anomaly::EmptyFrame, &none(-1, &[]));
    assert_eq!((decoded.base_offset, decoded.range), (100, None));
}

#[test]
fn offsets_of_a_log_rise_from_batch_to_batch_or_the_batch_is_marked() {
    let at = |base_offset| {
        batch(BatchHead { base_offset, last_delta: 1, ..BatchHead::default() }, &record(0, 0, None, None))
    };
    let marks = |second| {
        let frames = read(&Bytes::from([at(100), at(second)].concat())).expect("sound");
        frames.into_iter().map(|(_, decoded)| decoded.anomalies).collect::<Vec<_>>()
    };
    let (none, marked) = (Anomalies::default(), Anomalies::of(Anomaly::OffsetsOutOfOrder));
    assert_eq!(marks(102), [none, none]);
    assert_eq!(marks(5_000_000_000), [none, none], "a gap");
    for second in [0, 100, 101] {
        assert_eq!(marks(second), [none, marked]);
    }
}

#[test]
fn the_brokers_time_counts_for_every_record_of_its_batch() {
    let body = [record(0, 0, None, None), record(77, 1, None, None)].concat();
    let head = BatchHead { attributes: 8, count: 2, last_delta: 1, ..BatchHead::default() };
    let times = |head| {
        let decoded = decode(&batch(head, &body)).expect("whole");
        decoded.records.iter().map(|record| record.timestamp_ms()).collect::<Vec<_>>()
    };
    assert_eq!(times(head), [Some(2_000); 2]);
    assert_eq!(times(BatchHead { max_timestamp: -1, ..head }), [None; 2]);
    assert_eq!(times(BatchHead { attributes: 0, ..head }), [Some(1_000), Some(1_077)]);
}

#[test]
fn a_time_of_minus_one_is_none_and_no_other_is() {
    let times = |base_timestamp, delta| {
        let decoded = decode(&batch(
            BatchHead { base_timestamp, ..BatchHead::default() },
            &record(delta, 0, None, None),
        ));
        let decoded = decoded.expect("whole");
        assert_eq!(
            (decoded.min_timestamp_ms, decoded.max_timestamp_ms),
            (decoded.records.records[0].timestamp_ms, decoded.records.records[0].timestamp_ms)
        );
        decoded.min_timestamp_ms
    };
    assert_eq!(times(-1, 0), None);
    assert_eq!(times(5, -6), None);
    assert_eq!(times(-1, -1), Some(-2));
    assert_eq!(times(-1, 1), Some(0));
    // A writer that subtracts these times gets a difference that wraps around, so the sum must wrap around
    // too.
    assert_eq!(times(i64::MIN, i64::MIN), Some(0));
    assert_eq!(times(i64::MAX, 1), Some(i64::MIN));
}

#[test]
fn times_are_relative_to_a_delete_horizon_where_there_is_one() {
    // KIP-534: attribute bit 6 makes the base timestamp a delete horizon, and the cleaner writes the deltas
    // relative to it.
    let head = BatchHead { attributes: 1 << 6, base_timestamp: 9_000, ..BatchHead::default() };
    let decoded = decode(&batch(head, &record(-7_990, 0, Some(b"k"), None))).expect("whole");
    assert_eq!(decoded.min_timestamp_ms, Some(1_010));
}

#[test]
fn control_records_are_counted_and_are_not_data() {
    let marker = [&record_of(
        &[
            &[0, 0, 0][..],
            &nullable(Some(&[0, 0, 0, 1])),
            &nullable(Some(&[0; 6])),
            &varint(1),
            &nullable(Some(b"h")),
            &nullable(None),
        ]
        .concat(),
    )[..]]
    .concat();
    let decoded =
        decode(&batch(BatchHead { attributes: 0x30, ..BatchHead::default() }, &marker)).expect("whole");
    assert_eq!(decoded.control_offsets, [100]);
    assert_eq!(decoded.records.iter().len(), 0);
    assert!(decoded.records.headers.is_empty());
    assert_eq!((decoded.min_timestamp_ms, decoded.max_timestamp_ms), (None, None));
}

#[test]
fn a_batch_that_compaction_emptied_still_has_its_offsets() {
    for attributes in [0, 4, 0x20, 0x30] {
        let head = BatchHead { attributes, count: 0, last_delta: 24, ..BatchHead::default() };
        let decoded = decode(&batch(head, &[])).expect("whole");
        assert_eq!(decoded.range, OffsetRange::new(100, 124));
        assert!(decoded.records.records.is_empty() && decoded.control_offsets.is_empty());
    }
}

#[test]
fn what_spans_need_counts_towards_the_bound() {
    let body: Vec<u8> = (0..100).flat_map(|delta| record(0, delta, None, None)).collect();
    let bytes = batch(BatchHead { count: 100, last_delta: 99, ..BatchHead::default() }, &body);
    let (frames, _) = split(&Bytes::from(bytes)).expect("one frame");
    let need = 100 * size_of::<RecordSpans>();
    assert!(frames[0].decode(need).is_ok());
    let error = frames[0].decode(need - 1).expect_err("too large");
    assert_eq!((error.kind(), error.reason()), (ErrorKind::TooLarge, "OPENS_TOO_LARGE"));
    // Headers count too.
    let headers: Vec<u8> = (0..1_000).flat_map(|_| [0, 1]).collect();
    let bytes =
        batch(BatchHead::default(), &record_of(&[&[0, 0, 0, 1, 1][..], &varint(1_000), &headers].concat()));
    let (frames, _) = split(&Bytes::from(bytes)).expect("one frame");
    assert_eq!(
        frames[0].decode(1_000 * size_of::<HeaderSpans>()).expect_err("too large").reason(),
        "OPENS_TOO_LARGE"
    );
    // The allocation has space for at most twice as many headers.
    let bound = 2_500 * size_of::<HeaderSpans>();
    let decoded = frames[0].decode(bound).expect("enough");
    assert_eq!(decoded.records.headers.len(), 1_000);
    assert!(decoded.mem_usage(&frames[0]) <= bound, "{}", decoded.mem_usage(&frames[0]));
}

#[test]
fn numbers_of_more_bits_than_their_type_lose_them_and_of_more_bytes_are_refused() {
    let with_time = |delta: &[u8]| one_record(&[&[0], delta, &[0, 1, 1, 0]].concat());
    let time_of = |delta: &[u8]| decode(&with_time(delta)).expect("sound").min_timestamp_ms;
    let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let decoded = decode(&with_time(&longest)).expect("the least number there is");
    assert_eq!(decoded.min_timestamp_ms, Some(1_000_i64.wrapping_add(i64::MIN)));
    assert_eq!(time_of(&[&longest[..9], &[3]].concat()), time_of(&longest));
    check_reason("BAD_RECORD", &with_time(&[&longest[..9], &[0x81, 0]].concat()));
    // Only four bits of an offset's fifth byte fit.
    let with_offset = |delta: &[u8]| one_record(&[&[0, 0], delta, &[1, 1, 0]].concat());
    for last in [0, 0x10, 0x70] {
        let decoded = decode(&with_offset(&[0x80, 0x80, 0x80, 0x80, last])).expect("sound");
        assert_eq!(decoded.records.records[0].offset, 100);
    }
    check_reason("BAD_RECORD", &with_offset(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]));
}

/// A batch of one record, from the bytes after its length.
fn one_record(parts: &[u8]) -> Vec<u8> {
    batch(BatchHead::default(), &record_of(parts))
}
