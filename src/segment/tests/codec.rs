//! Compressed sections: which ones can be decompressed, which ones cannot, and up to which limit.

use std::io::Write;

use super::super::codec::{self, decompressed_len};
use super::*;

fn open(codec: Codec, input: &[u8], bytes_max: usize) -> Result<Vec<u8>, Fault> {
    codec::decompress_to(codec, input, bytes_max).map(|opened| opened.bytes)
}

const CODECS: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

pub(super) fn compress(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    match codec {
        Codec::None => bytes.to_vec(),
        Codec::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            out.write_all(bytes).and_then(|()| out.finish()).expect("in memory")
        }
        Codec::Snappy => xerial(&bytes.chunks(32 << 10).collect::<Vec<_>>()),
        Codec::Lz4 => lz4(bytes, lz4_flex::frame::FrameInfo::new()),
        Codec::Zstd => zstd::encode_all(bytes, 3).expect("in memory"),
    }
}

/// Snappy in the framing of Java's library: its head, then each chunk with its length.
fn xerial(chunks: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
    for chunk in chunks {
        let block = snap::raw::Encoder::new().compress_vec(chunk).expect("small");
        out.extend((block.len() as u32).to_be_bytes());
        out.extend(block);
    }
    out
}

fn lz4(bytes: &[u8], info: lz4_flex::frame::FrameInfo) -> Vec<u8> {
    let mut out = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    out.write_all(bytes).expect("in memory");
    out.finish().expect("in memory")
}

fn log_lines(len: usize) -> Vec<u8> {
    (0_u64..)
        .flat_map(|n| format!("{n} level=info id={:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes())
        .take(len)
        .collect()
}

#[track_caller]
fn check_flaw(codec: Codec, flaws: &[CompressionFlaw], input: &[u8]) {
    match open(codec, input, 1 << 20) {
        Err(Fault::BadCompression { codec: of, flaw }) if of == codec && flaws.contains(&flaw) => {}
        other => panic!("{codec}: {:?}, not one of {flaws:?}", other.map(|out| out.len())),
    }
}

#[test]
fn what_was_compressed_opens_within_a_bound_that_fits_and_no_smaller_one() {
    for codec in CODECS {
        for len in [0, 1, 100, 1_023, 1_024, 1_025, 300_000] {
            let plain = log_lines(len);
            let packed = compress(codec, &plain);
            for bound in [len, len + 1, 1 << 30] {
                let opened = open(codec, &packed, bound)
                    .unwrap_or_else(|fault| panic!("{codec} {len} {bound}: {fault}"));
                assert!(opened == plain, "{codec} {len}");
                assert!(
                    opened.capacity() <= bound.max(1_024),
                    "{codec} {len} {bound}: {}",
                    opened.capacity()
                );
            }
            for bound in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|bound| *bound < len) {
                assert_eq!(
                    open(codec, &packed, bound),
                    Err(Fault::TooLarge { limit: bound }),
                    "{codec} {len}"
                );
            }
        }
    }
}

#[test]
fn a_bomb_is_too_large_and_is_not_opened_any_further() {
    let zeros = vec![0; 64 << 20];
    for codec in CODECS {
        let bomb = compress(codec, &zeros);
        // A decoder that reads the whole input would find that its end is missing. (For LZ4 all block lengths
        // are read first.)
        let reached = if codec == Codec::Lz4 { bomb.len() } else { bomb.len() * 3 / 4 };
        assert_eq!(
            open(codec, &bomb[..reached], 1 << 20),
            Err(Fault::TooLarge { limit: 1 << 20 }),
            "{codec}"
        );
    }
}

#[test]
fn a_cut_stream_never_passes_for_a_whole_one() {
    let plain = log_lines(200_000);
    for codec in CODECS {
        let packed = compress(codec, &plain);
        let step = packed.len() / 300;
        let near_the_end = packed.len() - 40..packed.len();
        for len in (0..packed.len()).step_by(step.max(1)).chain(near_the_end).chain(0..40) {
            // Chunks of Xerial's framing have no end mark. If the cut is between two chunks, only the record
            // count shows it.
            match open(codec, &packed[..len], 1 << 20) {
                Ok(opened) => {
                    assert!(codec == Codec::Snappy && opened.len() < plain.len(), "{codec} to {len}")
                }
                Err(fault) => {
                    assert!(matches!(fault, Fault::BadCompression { .. }), "{codec} to {len}: {fault}")
                }
            }
        }
    }
}

#[test]
fn bytes_behind_a_streams_end_are_passed_over_where_kafka_passes_over_them() {
    use CompressionFlaw::{Broken, CutOff};
    let plain = log_lines(10_000);
    let left_over = |codec, packed: &[u8]| {
        let opened =
            codec::decompress_to(codec, packed, 1 << 20).unwrap_or_else(|fault| panic!("{codec}: {fault}"));
        assert!(opened.bytes == plain, "{codec}");
        assert_eq!(opened.anomalies, Anomalies::of(Anomaly::BytesLeftOver), "{codec}");
    };
    for garbage in [&b"\0"[..], b"garbage", b"\0\0\0\0", &[0; 100], &[0x1f, 0x8b], &[0x1f, 0x8b, 8, 4]] {
        let with = |packed: Vec<u8>| [&packed[..], garbage].concat();
        for codec in [Codec::Gzip, Codec::Lz4] {
            left_over(codec, &with(compress(codec, &plain)));
        }
        check_flaw(Codec::Zstd, &[Broken, CutOff], &with(compress(Codec::Zstd, &plain)));
        check_flaw(
            Codec::Snappy,
            &[Broken],
            &with(snap::raw::Encoder::new().compress_vec(&plain).expect("small")),
        );
    }
    // Java's reader ignores reserved flags.
    for flag in [0x20, 0x40, 0x80] {
        let mut packed = compress(Codec::Gzip, &plain);
        packed[3] |= flag;
        let packed = packed.repeat(2);
        assert!(open(Codec::Gzip, &packed, 1 << 20).expect("two members") == plain.repeat(2));
    }
    let snappy = compress(Codec::Snappy, &plain);
    for short in 1..4 {
        left_over(Codec::Snappy, &[&snappy[..], &[0; 3][..short]].concat());
    }
    check_flaw(Codec::Snappy, &[Broken, CutOff], &[&snappy[..], b"garbage"].concat());
    check_flaw(Codec::Snappy, &[Broken, CutOff], &[&snappy[..], &[0; 4]].concat());
    // Kafka's reader stops after the first LZ4 frame.
    left_over(Codec::Lz4, &compress(Codec::Lz4, &plain).repeat(2));
}

#[test]
fn an_lz4_frame_whose_content_has_another_checksum_opens_as_it_does_for_kafka() {
    let plain = log_lines(200_000);
    let info = || lz4_flex::frame::FrameInfo::new().block_size(lz4_flex::frame::BlockSize::Max64KB);
    let mut checksum = lz4(&plain, info().content_checksum(true));
    *checksum.last_mut().expect("bytes") ^= 1;
    let opened = codec::decompress_to(Codec::Lz4, &checksum, 1 << 20).expect("it opens");
    assert!(opened.bytes == plain);
    assert_eq!(opened.anomalies, Anomalies::of(Anomaly::ContentChecksum));
    // The checksum of a block is verified.
    let mut block = lz4(&plain, info().block_checksums(true));
    let at = block.len() - 10;
    block[at] ^= 1;
    check_flaw(Codec::Lz4, &[CompressionFlaw::Broken], &block);
}

#[test]
fn what_opens_beyond_a_bound_is_known_without_opening_it() {
    for codec in CODECS {
        for len in [1, 1_000, 300_000] {
            let packed = compress(codec, &log_lines(len));
            for (bound, beyond) in [(len - 1, true), (len, false), (len + 1, false)] {
                assert_eq!(
                    decompressed_len(codec, &packed, bound).is_none(),
                    beyond,
                    "{codec} {len} {bound}"
                );
            }
        }
        assert!(codec == Codec::None || decompressed_len(codec, b"\xffgarbage", 1).is_some(), "{codec}");
    }
}

#[test]
fn streams_that_follow_one_another_are_read_where_kafka_reads_them() {
    let (one, two) = (log_lines(5_000), log_lines(70_000));
    let both = [&one[..], &two].concat();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Zstd] {
        let packed = [compress(codec, &one), compress(codec, &two)].concat();
        assert!(open(codec, &packed, 1 << 20).expect("two streams") == both, "{codec}");
        assert_eq!(open(codec, &packed, both.len() - 1), Err(Fault::TooLarge { limit: both.len() - 1 }));
    }
}

#[test]
fn many_short_gzip_members_take_no_longer_than_their_bytes_do() {
    // The cost of a member must not depend on the bytes decompressed before it.
    let first = log_lines(16 << 20);
    let short = compress(Codec::Gzip, b"x").repeat(20_000);
    let packed = [&compress(Codec::Gzip, &first)[..], &short].concat();
    let start = std::time::Instant::now();
    let opened = open(Codec::Gzip, &packed, 64 << 20).expect("members");
    assert!(opened == [&first[..], &[b'x'; 20_000]].concat());
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn snappy_opens_with_and_without_framing() {
    let plain = log_lines(100_000);
    let raw = snap::raw::Encoder::new().compress_vec(&plain).expect("small");
    assert!(open(Codec::Snappy, &raw, 1 << 20).expect("raw") == plain);
    assert!(open(Codec::Snappy, &xerial(&[&plain]), 1 << 20).expect("one chunk") == plain);
    assert!(
        open(Codec::Snappy, &xerial(&[&plain[..7], &[], &plain[7..]]), 1 << 20).expect("three chunks")
            == plain
    );
    assert_eq!(open(Codec::Snappy, &xerial(&[]), 1 << 20), Ok(Vec::new()));
}

#[test]
fn every_kind_of_lz4_frame_opens() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameInfo};
    let plain = log_lines(700_000);
    for mode in [BlockMode::Independent, BlockMode::Linked] {
        for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max4MB] {
            for checksums in [false, true] {
                let info = FrameInfo::new()
                    .block_mode(mode)
                    .block_size(size)
                    .block_checksums(checksums)
                    .content_checksum(checksums)
                    .content_size(checksums.then_some(plain.len() as u64));
                let packed = lz4(&plain, info);
                assert!(open(Codec::Lz4, &packed, 1 << 20).expect("whole") == plain);
            }
        }
    }
    // Bytes that do not compress are stored as they are.
    let noise: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert!(open(Codec::Lz4, &compress(Codec::Lz4, &noise), 1 << 20).expect("whole") == noise);
}

#[test]
fn a_claim_of_a_large_size_is_checked_before_it_is_believed() {
    use CompressionFlaw::{Broken, CutOff};
    // A raw Snappy block of 10 bytes that claims 4 GiB, and the same block as a chunk of Xerial's framing.
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0];
    check_flaw(Codec::Snappy, &[Broken], &claim);
    check_flaw(Codec::Snappy, &[Broken], &[&xerial(&[])[..], &[0, 0, 0, 10], &claim].concat());
    check_flaw(Codec::Snappy, &[CutOff], &[&xerial(&[])[..], &[0xff, 0xff, 0xff, 0xff], &claim].concat());
    // An LZ4 block that claims 2 GiB.
    let mut packed = compress(Codec::Lz4, &log_lines(1_000));
    packed[7..11].copy_from_slice(&[0xff; 4]);
    check_flaw(Codec::Lz4, &[CutOff], &packed);
    // A zstd frame that claims 2^60 bytes of content in one segment, as large as its window.
    let huge =
        [&0xfd2f_b528_u32.to_le_bytes()[..], &[0xe0], &(1_u64 << 60).to_le_bytes(), &[1, 0, 0]].concat();
    assert_eq!(open(Codec::Zstd, &huge, 1 << 20), Err(Fault::TooLarge { limit: 1 << 20 }));
}

#[test]
fn zstd_opens_again_after_an_error_on_the_same_thread() {
    let plain = log_lines(50_000);
    let packed = zstd::encode_all(&plain[..], 19).expect("in memory");
    for len in [3, 20, packed.len() / 2, packed.len() - 1] {
        assert!(open(Codec::Zstd, &packed[..len], 1 << 20).is_err());
        assert!(open(Codec::Zstd, &packed, 10).is_err());
        assert!(open(Codec::Zstd, &packed, 1 << 20).expect("whole") == plain);
    }
}

#[test]
fn zstd_windows_are_as_large_as_the_bound_at_most() {
    let compress = |window_log| {
        let mut out = zstd::Encoder::new(Vec::new(), 1).expect("in memory");
        out.window_log(window_log).expect("a valid window");
        out.write_all(&log_lines(100_000)).and_then(|()| out.finish()).expect("in memory")
    };
    for (window_log, bound, opens) in [
        (23, 1 << 20, true),
        (24, 1 << 20, false),
        (24, 16 << 20, true),
        (27, 64 << 20, false),
        (27, 1 << 30, true),
    ] {
        match open(Codec::Zstd, &compress(window_log), bound) {
            Ok(_) => assert!(opens, "{window_log} {bound}"),
            // It is not broken: a larger limit may allow it.
            Err(fault) => {
                assert_eq!((fault, opens), (Fault::TooLarge { limit: bound }, false), "{window_log} {bound}");
            }
        }
    }
}
