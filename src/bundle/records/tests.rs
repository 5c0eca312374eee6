use super::super::sample::{blocks_of, frames, log_lines};
use super::super::{BlockWriter, FrameFacts};
use super::*;

fn index_of(blocks: &super::super::Blocks) -> BlockIndex {
    BlockIndex::parse(&blocks.index.encode().into()).expect("a sound index")
}

/// Two blocks: 300 bytes of three frames with a gap before the last, and a torn tail of 7 bytes.
fn two_blocks() -> BlockIndex {
    let mut runs = RunsBuilder::new(1_000);
    runs.push(1_000, 100);
    runs.push(1_100, 150);
    runs.push(1_500, 50);
    let first = BlockEntry {
        first_ordinal: 0,
        records: 9,
        frames: 3,
        is_undecoded: false,
        offsets: OffsetRange::new(40, 51),
        times: Some(TimeRange { min_ms: -1, max_ms: 258 }),
        position: 0,
        compressed_len: 200,
        plain_len: 300,
        crc32c: 0x4433_2211,
        source_position: 1_000,
        runs: runs.finish(),
    };
    let mut runs = RunsBuilder::new(1_550);
    runs.push(1_550, 7);
    let torn = BlockEntry {
        records: 0,
        frames: 0,
        offsets: None,
        times: None,
        compressed_len: 16,
        plain_len: 7,
        crc32c: 0x8877_6655,
        source_position: 1_550,
        runs: runs.finish(),
        ..first
    };
    let mut index = BlockIndex::default();
    index.push(first).expect("the first");
    index.push(torn).expect("the second");
    index
}

#[test]
fn records_idx_has_these_bytes() {
    #[rustfmt::skip]
    let bytes = [
        b'W', b'I', b'B', b'L', b'O', b'C', b'K', b'S',         // magic
        1, 0, 0, 0,                                             // format version
        2, 0, 0, 0,                                             // two blocks
        // The first block.
        200, 0, 0, 0,                                           // compressed length
        0x11, 0x22, 0x33, 0x44,                                 // CRC-32C of the compressed bytes
        0x2c, 0x01, 0, 0,                                       // 300 bytes once opened
        3, 0, 0, 0,                                             // three frames
        9, 0, 0, 0, 0, 0, 0, 0,                                 // nine data records
        40, 0, 0, 0, 0, 0, 0, 0,                                // from offset 40
        51, 0, 0, 0, 0, 0, 0, 0,                                // to 51
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,         // from time -1
        0x02, 0x01, 0, 0, 0, 0, 0, 0,                           // to 258
        0xe8, 0x03, 0, 0, 0, 0, 0, 0,                           // from byte 1,000 of the source
        3, 0, 0, 0,                                             // flags: offsets, times
        5, 0, 0, 0,                                             // five bytes of runs
        0xfa, 0x01,                                             // a run of 250 bytes: 0x7a + 1 * 128
        0xfa, 0x01,                                             // 250 bytes left out
        0x32,                                                   // a run of 50 bytes
        // The torn tail.
        16, 0, 0, 0,
        0x55, 0x66, 0x77, 0x88,
        7, 0, 0, 0,
        0, 0, 0, 0,                                             // no whole frame
        0, 0, 0, 0, 0, 0, 0, 0,                                 // no record
        0, 0, 0, 0, 0, 0, 0, 0,                                 // no offsets: zeros
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,                                 // no times: zeros
        0, 0, 0, 0, 0, 0, 0, 0,
        0x0e, 0x06, 0, 0, 0, 0, 0, 0,                           // from byte 1,550 of the source
        0, 0, 0, 0,                                             // no flag
        1, 0, 0, 0,                                             // one byte of runs
        7,                                                      // a run of 7 bytes
        0x60, 0x1e, 0xff, 0x06,                                 // CRC-32C of all the above
    ];
    assert_eq!(two_blocks().encode(), bytes);
    assert_eq!(BlockIndex::parse(&Bytes::copy_from_slice(&bytes)), Ok(two_blocks()));
}

/// Parses the bytes of [`two_blocks`] with a change and the right checksum.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<BlockIndex, BlockIndexError> {
    let mut bytes = two_blocks().encode();
    bytes.truncate(bytes.len() - 4);
    change(&mut bytes);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    BlockIndex::parse(&bytes.into())
}

#[test]
fn absent_is_not_corrupt_and_corrupt_is_not_newer() {
    let check = |parsed: Result<BlockIndex, BlockIndexError>, kind, message: &str| {
        let error = parsed.expect_err(message);
        assert_eq!((error.kind(), error.to_string()), (kind, message.to_owned()));
    };
    let absent = "no block index: records.idx does not start with WIBLOCKS";
    check(BlockIndex::parse(&Bytes::new()), Kind::Absent, absent);
    check(changed(|bytes| bytes[0] = b'w'), Kind::Absent, absent);
    let newer = "block index format version 258 is newer than this build reads (1)";
    check(changed(|bytes| bytes[8..10].copy_from_slice(&[2, 1])), Kind::Unsupported, newer);
    let zero = "block index: there is no format version 0 at byte 12";
    check(changed(|bytes| bytes[8] = 0), Kind::Corrupt, zero);
    let encoded = two_blocks().encode();
    for len in 8..encoded.len() {
        let cut = BlockIndex::parse(&Bytes::copy_from_slice(&encoded[..len])).expect_err("cut");
        assert_eq!(cut.kind(), Kind::Corrupt, "{len}: {cut}");
    }
    for at in 8..encoded.len() {
        let mut flipped = encoded.clone();
        flipped[at] ^= 0x10;
        let error = BlockIndex::parse(&flipped.into()).expect_err("flipped");
        assert!(matches!(error, BlockIndexError::Checksum { .. }), "{at}: {error}");
    }
}

#[test]
fn an_index_that_contradicts_itself_is_refused_though_its_checksum_fits() {
    const FIRST: usize = 16;
    const RUNS: usize = FIRST + 72;
    const TORN: usize = RUNS + 5;
    let check = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let error = changed(change).expect_err(what);
        let BlockIndexError::Malformed(malformed) = &error else { panic!("{error}") };
        assert_eq!(malformed.what, what);
    };
    assert_eq!(changed(|_| {}), Ok(two_blocks()), "unchanged");
    check("the number of blocks is too large for the bytes", &|bytes| bytes[12..16].fill(0xff));
    check("a field runs past the end", &|bytes| bytes.truncate(TORN + 70));
    check("bytes follow the last block", &|bytes| bytes.push(0));
    check("bytes follow the last block", &|bytes| bytes[12] = 1);
    let lengths = "a block's plain length is zero or above 2 GiB";
    check(lengths, &|bytes| bytes[FIRST + 8..FIRST + 12].fill(0));
    check(lengths, &|bytes| bytes[FIRST + 8..FIRST + 12].fill(0xff));
    check("no zstd frame can decompress to that length", &|bytes| bytes[FIRST..FIRST + 4].fill(0));
    check("no zstd frame can decompress to that length", &|bytes| bytes[FIRST + 11] = 0x7f);
    check("a block has unknown flags", &|bytes| bytes[FIRST + 64] = 11);
    check("a block's offsets are no range", &|bytes| bytes[FIRST + 24] = 52);
    check("a block's offsets are no range", &|bytes| bytes[TORN + 32] = 1);
    check("a block's times are no range", &|bytes| bytes[FIRST + 55] = 0x80);
    check("a block's times are no range", &|bytes| bytes[TORN + 48] = 1);
    let counts = "a block's counts contradict one another";
    check(counts, &|bytes| bytes[FIRST + 12] = 0);
    check(counts, &|bytes| bytes[FIRST + 16] = 0);
    check(counts, &|bytes| bytes[FIRST + 64] = 7);
    check(counts, &|bytes| bytes[TORN + 64] = 4);
    check(counts, &|bytes| bytes[TORN + 16] = 1);
    check(counts, &|bytes| bytes[TORN + 64] = 1);
    check("a field runs past the end", &|bytes| bytes[FIRST + 71] = 0xff);
    check("the runs are shorter than their block", &|bytes| bytes[FIRST + 8] = 0x2d);
    check("the runs are shorter than their block", &|bytes| bytes[RUNS + 4] = 0x31);
    check("a run's length does not fit its block", &|bytes| bytes[RUNS + 4] = 0x33);
    check("a run's length does not fit its block", &|bytes| bytes[RUNS + 4] = 0);
    check("two runs of source bytes touch", &|bytes| {
        bytes[RUNS + 2] = 0x00;
        bytes.remove(RUNS + 3);
        bytes[FIRST + 68] = 4;
    });
    check("a number is not in its shortest form", &|bytes| bytes[RUNS + 1] = 0);
    check("a run ends beyond 64 bits", &|bytes| bytes[FIRST + 56..FIRST + 64].fill(0xff));
    let order = "a block does not follow the one before it in the source";
    check(order, &|bytes| bytes[TORN + 56] = 0x0d);
    // The last block again, after the torn tail.
    check(order, &|bytes| {
        bytes[12] = 3;
        let mut torn = bytes[TORN..].to_vec();
        torn[57] = 0x07;
        bytes.extend(torn);
    });
    // Ordinals beyond 64 bits: the first block has all of them, and a second one has more.
    check(order, &|bytes| {
        bytes[FIRST + 16..FIRST + 24].fill(0xff);
        let mut next = bytes[FIRST..TORN].to_vec();
        next[57] = 0x07;
        bytes.splice(TORN..TORN, next);
        bytes[12] = 3;
    });
}

#[test]
fn records_are_found_by_ordinal() {
    let index = index_of(&blocks_of(&frames(&[600_000, 600_000, 600_000, 10], 5)));
    let ordinals: Vec<_> = index.entries().iter().map(BlockEntry::ordinals).collect();
    assert_eq!(ordinals, [0..5, 5..10, 10..20]);
    assert_eq!(index.records(), 20);
    for ordinal in 0..20 {
        let found = index.by_ordinal(ordinal).expect("a block");
        assert!(found.ordinals().contains(&ordinal), "{ordinal}");
    }
    assert_eq!(index.by_ordinal(20), None);
    assert_eq!(index.by_ordinal(u64::MAX), None);
    assert_eq!(BlockIndex::default().by_ordinal(0), None);
}

#[test]
fn blocks_without_records_hold_no_ordinal() {
    let mut frames = frames(&[2_000_000, 2_000_000, 2_000_000], 4);
    frames[1].facts =
        FrameFacts { data_records: 0, min_timestamp_ms: None, max_timestamp_ms: None, ..frames[1].facts };
    let index = index_of(&blocks_of(&frames));
    let blocks: Vec<_> =
        (0..8).map(|ordinal| index.by_ordinal(ordinal).expect("a block").source_position).collect();
    assert_eq!(blocks, [0, 0, 0, 0, 4_000_000, 4_000_000, 4_000_000, 4_000_000]);
}

#[test]
fn blocks_are_found_by_offset_also_where_frames_are_out_of_order_and_overlap() {
    let mut frames = frames(&[2_000_000; 4], 1);
    let ranges = [(10, 19), (0, 9), (15, 40), (60, 60)];
    for (frame, (first, last)) in frames.iter_mut().zip(ranges) {
        frame.facts.range = OffsetRange::new(first, last);
    }
    let index = index_of(&blocks_of(&frames));
    let found = |first, last| {
        let range = OffsetRange::new(first, last).expect("a range");
        index.by_offsets(range).map(|entry| entry.source_position / 2_000_000).collect::<Vec<_>>()
    };
    assert_eq!(found(0, 0), [1]);
    assert_eq!(found(9, 10), [0, 1]);
    assert_eq!(found(15, 15), [0, 2]);
    assert_eq!(found(41, 59), Vec::<u64>::new());
    assert_eq!(found(60, i64::MAX), [3]);
    assert_eq!(found(i64::MIN, i64::MAX), [0, 1, 2, 3]);
}

#[test]
fn a_block_opens_to_the_pieces_of_the_source() {
    let mut frames = frames(&[100, 200, 300, 400], 1);
    frames[2].position += 50;
    frames[3].position += 50;
    let blocks = blocks_of(&frames);
    let entry = &blocks.entries()[0];
    let plain = entry.open(&blocks.data()[0]).expect("it opens");
    let all = frames.iter().map(|frame| &frame.bytes[..]).collect::<Vec<_>>();
    assert_eq!(plain, all.concat());
    assert_eq!(entry.source_runs().collect::<Vec<_>>(), [(0, 300), (350, 700)]);
    assert_eq!(entry.source_end(), 1_050);
    let pieces: Vec<_> = entry.pieces(&plain).collect();
    assert_eq!(pieces, [(0, plain.slice(..300)), (350, plain.slice(300..))]);
    let position = |plain_position| entry.source_position_of(plain_position);
    assert_eq!([position(0), position(299), position(300), position(999)], [0, 299, 350, 1_049].map(Some));
    assert_eq!(position(1_000), None);
    assert_eq!(entry.pieces(&plain.slice(..500)).count(), 1, "an incomplete piece is not returned");
}

#[test]
fn a_block_with_any_bit_flipped_does_not_open() {
    let blocks = blocks_of(&frames(&[2_000], 1));
    let (entry, data) = (&blocks.entries()[0], &blocks.data()[0]);
    for at in 0..data.len() {
        let mut flipped = data.to_vec();
        flipped[at] ^= 1 << (at % 8);
        let error = entry.open(&flipped).expect_err("flipped");
        assert!(matches!(error, BlockError::Checksum { .. }), "{at}: {error}");
    }
    for len in 0..data.len() {
        let error = entry.open(&data[..len]).expect_err("cut");
        assert!(matches!(error, BlockError::Length { .. }), "{len}: {error}");
    }
}

#[test]
fn a_block_that_is_no_frame_of_the_stated_size_does_not_open() {
    let text = log_lines(1, 2_000);
    let check = |data: &[u8], plain_len: u32, reason: &str| {
        let mut entry = blocks_of(&frames(&[2_000], 1)).entries()[0].clone();
        entry.compressed_len = data.len() as u32;
        entry.crc32c = crc32c::crc32c(data);
        entry.plain_len = plain_len;
        match entry.open(data).expect_err(reason) {
            BlockError::Opening { reason: found, .. } => assert_eq!(found, reason),
            error => panic!("{error}"),
        }
    };
    let compressed = zstd::bulk::compress(&text, 1).expect("compressed");
    check(&compressed, 2_001, "its frame states 2000 bytes");
    check(&compressed, 1_999, "its frame states 2000 bytes");
    check(&text, 2_000, "not a zstd frame");
    check(&[], 2_000, "not a zstd frame");
    let mut unsized_frame = zstd::bulk::Compressor::new(1).expect("a context");
    unsized_frame.include_contentsize(false).expect("a setting");
    let streamed = unsized_frame.compress(&text).expect("compressed");
    check(&streamed, 2_000, "its frame states no size");
    // Two frames, the first of the right size.
    let twice = [&compressed[..], &compressed[..]].concat();
    check(&twice, 2_000, "Destination buffer is too small");
    let cut = &compressed[..compressed.len() - 1];
    check(cut, 2_000, "Src size is incorrect");
}

#[test]
fn a_block_for_which_no_memory_could_be_set_aside_is_refused_by_its_claim() {
    // 100 bytes cannot open to 2 GiB; 64 KiB can.
    let claim = |compressed_len: u32| {
        changed(|bytes| {
            bytes[16..20].copy_from_slice(&compressed_len.to_le_bytes());
            bytes[24..28].copy_from_slice(&BLOCK_PLAIN_BYTES_MAX.to_le_bytes());
        })
    };
    let whats = [100, 65_535, 65_536].map(|len| match claim(len) {
        Err(BlockIndexError::Malformed(malformed)) => malformed.what,
        other => panic!("{other:?}"),
    });
    let runs = "the runs are shorter than their block";
    assert_eq!(
        whats,
        ["no zstd frame can decompress to that length", "no zstd frame can decompress to that length", runs]
    );
}

#[test]
fn an_index_without_blocks_is_an_index() {
    let parsed = BlockIndex::parse(
        &BlockWriter::new().expect("a context").finish().expect("none").index.encode().into(),
    );
    assert_eq!(parsed, Ok(BlockIndex::default()));
}
