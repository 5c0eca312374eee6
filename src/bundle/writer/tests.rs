use super::super::sample::{SampleFrame, blocks_of, frames, log_lines};
use super::*;

fn plain_lens(blocks: &Blocks) -> Vec<u32> {
    blocks.entries().iter().map(|entry| entry.plain_len).collect()
}

const MIB: usize = BLOCK_PLAIN_BYTES;

#[test]
fn blocks_are_cut_at_frame_boundaries() {
    let check = |lens: &[usize], expected: &[usize]| {
        let frames = frames(lens, 1);
        let blocks = blocks_of(&frames);
        assert_eq!(
            plain_lens(&blocks),
            expected.iter().map(|len| *len as u32).collect::<Vec<_>>(),
            "{lens:?}"
        );
        let opened = blocks
            .entries()
            .iter()
            .zip(blocks.data())
            .map(|(entry, data)| entry.open(data).expect("it opens"));
        let source = frames.iter().map(|frame| &frame.bytes[..]).collect::<Vec<_>>().concat();
        assert!(opened.collect::<Vec<_>>().concat() == source, "{lens:?}");
    };
    check(&[], &[]);
    check(&[1], &[1]);
    check(&[1, 2, 3], &[6]);
    check(&[MIB - 1, 1], &[MIB]);
    check(&[MIB - 1, 2], &[MIB - 1, 2]);
    check(&[MIB], &[MIB]);
    check(&[MIB, 1], &[MIB, 1]);
    check(&[MIB + 1, 1], &[MIB + 1, 1]);
    check(&[1, MIB, 1], &[1, MIB, 1]);
    check(&[1, 5 * MIB, 1, 2], &[1, 5 * MIB, 3]);
    check(&[MIB / 2; 5], &[MIB, MIB, MIB / 2]);
}

#[test]
fn an_entry_says_what_the_frames_of_its_block_hold() {
    let frame = |position, range, times: Option<(i64, i64)>, data_records| SampleFrame {
        position,
        bytes: log_lines(position, 100),
        facts: FrameFacts {
            range: OffsetRange::new(range, range + 9),
            min_timestamp_ms: times.map(|times| times.0),
            max_timestamp_ms: times.map(|times| times.1),
            data_records,
            ..FrameFacts::default()
        },
    };
    let blocks = blocks_of(&[
        frame(5, 100, Some((7, 70)), 10),
        frame(105, 50, None, 1),
        frame(300, 110, Some((-3, 8)), 3),
        frame(400, 60, None, 0),
    ]);
    let [entry] = blocks.entries() else { panic!("one block") };
    assert_eq!((entry.frames, entry.records), (4, 14));
    assert_eq!(entry.offsets, OffsetRange::new(50, 119));
    assert_eq!(entry.times, Some(TimeRange { min_ms: -3, max_ms: 70 }));
    assert_eq!(entry.source_runs().collect::<Vec<_>>(), [(5, 200), (300, 200)]);
    assert!(!entry.is_torn_tail());
}

#[test]
fn the_torn_tail_is_a_block_of_its_own_and_the_last() {
    for torn_len in [1, 3_000_000] {
        let whole = frames(&[100, 200], 2);
        let mut writer = BlockWriter::new().expect("a context");
        for frame in &whole {
            writer.add(frame.position, &frame.bytes, frame.facts).expect("a frame");
        }
        let torn = log_lines(9, torn_len);
        writer.add(300, &torn, FrameFacts::torn_tail()).expect("the torn tail");
        let more = writer.add(300 + torn_len as u64, &torn, whole[0].facts);
        assert!(matches!(more, Err(BlockWriterError::OutOfOrder { .. })), "nothing follows it");
        let blocks = writer.finish().expect("blocks");
        let [first, last] = blocks.entries() else { panic!("two blocks") };
        assert_eq!((first.frames, first.records, first.is_torn_tail()), (2, 4, false));
        assert_eq!((last.frames, last.records, last.is_torn_tail()), (0, 0, true));
        assert_eq!((last.offsets, last.times), (None, None));
        assert_eq!(last.open(&blocks.data()[1]), Ok(torn));
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let range = OffsetRange::new(0, 0);
    let times = |min, max| FrameFacts {
        range,
        min_timestamp_ms: min,
        max_timestamp_ms: max,
        data_records: 1,
        ..FrameFacts::default()
    };
    let good = times(Some(1), Some(1));
    let check = |position, bytes: &'static [u8], facts, message: &str| {
        let mut writer = BlockWriter::new().expect("a context");
        writer.add(100, &Bytes::from_static(b"frame"), good).expect("a frame");
        let error = writer.add(position, &Bytes::from_static(bytes), facts).expect_err(message);
        assert_eq!(error.to_string(), message);
    };
    check(105, b"", good, "the frame at source position 105 is empty");
    check(
        104,
        b"x",
        good,
        "the frame at source position 104 does not follow the one before, which ends at 105",
    );
    check(0, b"x", good, "the frame at source position 0 does not follow the one before, which ends at 105");
    let end =
        "the frame at source position 18446744073709551615 does not follow the one before, which ends at 105";
    check(u64::MAX, b"x", good, end);
    let facts = "the frame at source position 105: it has only one of least and greatest time";
    check(105, b"x", times(Some(1), None), facts);
    check(105, b"x", times(None, Some(1)), facts);
    let facts = "the frame at source position 105: its least time is above its greatest";
    check(105, b"x", times(Some(2), Some(1)), facts);
    let facts = "the frame at source position 105: it has records but no offsets";
    check(105, b"x", FrameFacts { range: None, data_records: 1, ..FrameFacts::default() }, facts);
    let facts = "the frame at source position 105: it has times but no records";
    check(105, b"x", FrameFacts { data_records: 0, ..good }, facts);
}

#[test]
fn the_same_frames_give_the_same_blocks() {
    let frames = frames(&[300_000, 900_000, 10, 2_000_000, 5_000], 3);
    let (one, other) = (blocks_of(&frames), blocks_of(&frames));
    assert!(one.data() == other.data() && one.entries() == other.entries());
}

#[test]
fn what_is_held_is_counted() {
    let frames = frames(&[900_000; 8], 3);
    let mut writer = BlockWriter::new().expect("a context");
    let mut last = 0;
    for frame in &frames {
        writer.add(frame.position, &frame.bytes, frame.facts).expect("a frame");
        assert!(
            writer.mem_usage() >= last.max(900_000),
            "it does not shrink while frames of one size come in"
        );
        last = writer.mem_usage();
    }
    assert!(last < 8_000_000, "{last}");
    let blocks = writer.finish().expect("blocks");
    let data: usize = blocks.data().iter().map(Bytes::len).sum();
    assert!((data..data + 8 * 300).contains(&blocks.mem_usage()), "{} for {data}", blocks.mem_usage());
}
