//! Damages segments in every way: flipped bytes, cuts and wrong lengths. Also splits segments into chunks of
//! any size.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::encode::*;
use super::*;

/// Splits a segment that comes in the given chunks.
fn split_chunked(bytes: &Bytes, chunk: impl FnMut() -> usize) -> (Vec<Frame>, Result<Tail, SegmentError>) {
    split_announced(bytes, None, chunk)
}

fn split_announced(
    bytes: &Bytes,
    format: Option<SegmentFormat>,
    mut chunk: impl FnMut() -> usize,
) -> (Vec<Frame>, Result<Tail, SegmentError>) {
    let mut frames = Vec::new();
    let mut splitter = FrameSplitter::new(bytes.len() as u64, format);
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let len = chunk().min(rest.len());
        if let Err(error) = splitter.push(rest.split_to(len), &mut frames) {
            return (frames, Err(error));
        }
    }
    (frames, splitter.finish())
}

const FLIPS: [u8; 4] = [0x01, 0x02, 0x80, 0xff];

/// Flips bytes of a fixture, and counts the flips that are accepted. An accepted flip must be at a position
/// within its frame that no checksum covers, which `is_free` decides.
#[track_caller]
fn accepted_flips(name: &str, step: usize, is_free: fn(usize) -> bool) -> usize {
    let whole = fixture(name);
    let frames: Vec<_> = read(&whole).expect("whole").into_iter().map(|(frame, _)| frame).collect();
    let mut accepted = 0;
    for at in (0..whole.len()).step_by(step) {
        for flip in FLIPS {
            let mut bytes = whole.to_vec();
            bytes[at] ^= flip;
            if read(&Bytes::from(bytes)).is_ok() {
                let frame = frames.iter().rfind(|frame| frame.position <= at as u64).expect("a frame");
                let within = at - frame.position as usize;
                assert!(is_free(within), "{name}: byte {at}, {within} of its frame, xor {flip:#x}");
                accepted += 1;
            }
        }
    }
    accepted
}

#[test]
fn a_flipped_byte_of_a_chronik_segment_is_always_found() {
    for (name, step) in [
        ("v2-one-record", 1),
        ("v2-transactional", 307),
        ("v2-zero-length-crc", 601),
        ("v2-old-shape", 601),
        ("v2-three-partitions", 1_009),
        ("v1", 211),
        ("v1-zero-length-crc", 211),
        ("v1-then-v2", 601),
    ] {
        assert_eq!(accepted_flips(&format!("chronik/{name}.wal"), step, |_| false), 0);
    }
}

#[test]
fn a_flipped_byte_of_a_kafka_segment_is_found_but_for_base_offset_and_leader_epoch() {
    let is_free = |within| matches!(within, 0..8 | 12..16);
    // In the only batch: all four flips of the four bytes of the epoch, and all flips of the offset but the
    // two that change its sign.
    assert_eq!(accepted_flips("kafka/one-record.log", 1, is_free), 4 * 4 + 4 * 8 - 2);
    accepted_flips("kafka/transactional.log", 1, is_free);
    for name in ["apache-clients", "compacted", "gzip", "lz4", "snappy", "snappy-raw", "zstd", "none"] {
        accepted_flips(&format!("kafka/{name}.log"), 101, is_free);
    }
}

#[test]
fn a_base_offset_that_breaks_the_order_of_the_log_is_found() {
    // The offsets of this fixture leave no gap, so only the last batch can be moved, and only forward.
    let whole = fixture("kafka/transactional.log");
    let frames = read(&whole).expect("whole");
    for (nth, (frame, decoded)) in frames.iter().enumerate() {
        for moved in [-1, 1] {
            let base = decoded.base_offset + moved;
            let mut bytes = whole.to_vec();
            bytes[frame.position as usize..][..8].copy_from_slice(&base.to_be_bytes());
            let is_first = nth == 0;
            let is_last = nth == frames.len() - 1;
            let can_pass = (is_first && moved < 0) || (is_last && moved > 0);
            let moved_frames = read(&Bytes::from(bytes)).expect("it is read all the same");
            let marked = moved_frames.iter().any(|(_, d)| d.anomalies.contains(Anomaly::OffsetsOutOfOrder));
            assert_eq!(!marked, can_pass, "batch {nth} moved by {moved}");
        }
    }
}

#[track_caller]
fn check_cuts(name: &str, step: usize) {
    let whole = fixture(name);
    let frames = read(&whole).expect("whole");
    let ends: Vec<_> = frames.iter().map(|(frame, _)| frame.position as usize + frame.bytes.len()).collect();
    for len in (0..whole.len()).step_by(step).chain(ends.iter().copied()) {
        let (cut, tail) =
            split(&whole.slice(..len)).unwrap_or_else(|error| panic!("{name} to {len}: {error}"));
        let end = ends.iter().rfind(|end| **end <= len).copied().unwrap_or(0);
        assert_eq!(cut.len(), ends.iter().filter(|end| **end <= len).count(), "{name} to {len}");
        match tail.torn {
            None => assert_eq!(end, len, "{name}"),
            Some(torn) => {
                assert!(end < len, "{name} to {len}");
                assert_eq!((torn.position, torn.ordinal), (end as u64, cut.len() as u64), "{name}");
                assert_eq!(torn.bytes, whole.slice(end..len), "{name}");
                // The first bytes of a Kafka batch may be zeros.
                let is_zeros = torn.bytes.iter().all(|byte| *byte == 0);
                assert!(torn.needed > torn.bytes.len() as u64 || is_zeros, "{name}");
                let error = torn.error();
                assert_eq!((error.reason(), error.kind()), ("TORN", ErrorKind::Corrupt));
                assert_eq!((error.position(), error.ordinal()), (torn.position, torn.ordinal));
            }
        }
    }
}

#[test]
fn a_cut_segment_is_a_shorter_one_or_a_torn_one() {
    check_cuts("kafka/one-record.log", 1);
    check_cuts("kafka/transactional.log", 1);
    check_cuts("chronik/v2-one-record.wal", 1);
    for name in ["kafka/apache-clients.log", "kafka/compacted.log", "kafka/lz4.log"] {
        check_cuts(name, 17);
    }
    for name in ["v1", "v2-transactional", "v1-then-v2", "v2-three-partitions", "v2-zero-length-crc"] {
        check_cuts(&format!("chronik/{name}.wal"), 97);
    }
}

#[test]
fn a_length_that_reaches_past_the_end_is_torn_only_where_nothing_whole_follows() {
    for (name, length_at, big_endian) in [
        ("kafka/apache-clients.log", 8, true),
        ("chronik/v2-gzip.wal", 4, false),
        ("chronik/v1.wal", 4, false),
    ] {
        let whole = fixture(name);
        let frames = read(&whole).expect("whole");
        for (nth, (frame, _)) in frames
            .iter()
            .enumerate()
            .step_by(3)
            .chain([frames.last().expect("some")].into_iter().map(|last| (frames.len() - 1, last)))
        {
            let mut bytes = whole.to_vec();
            let at = frame.position as usize + length_at;
            let claim =
                if big_endian { 0x7f00_0000_i32.to_be_bytes() } else { 0x7f00_0000_i32.to_le_bytes() };
            bytes[at..at + 4].copy_from_slice(&claim);
            let error = read(&Bytes::from(bytes.clone())).expect_err("the length is wrong");
            // Chronik's checksum covers the length, but the right length is known here. Kafka's checksum does
            // not cover it. In both cases the wrong length is found, even in the last frame.
            assert_eq!(error.reason(), "WRONG_LENGTH", "{name} {nth}: {error}");
            assert_eq!((error.position(), error.ordinal()), (frame.position, nth as u64), "{name}");
            // Without its last byte, the last frame is really torn.
            if nth == frames.len() - 1 {
                bytes.pop();
                assert_eq!(read(&Bytes::from(bytes)).expect_err("torn").reason(), "TORN", "{name}");
            }
        }
    }
}

/// Messages of magic 0 and 1 have another checksum than batches, at another place.
#[test]
fn a_last_message_whose_length_reaches_past_the_end_has_a_wrong_length() {
    let whole = fixture("anomalies/kafka-old-messages.log");
    let frames = read(&whole).expect("whole");
    let messages = || frames.iter().map(|(frame, _)| frame).filter(|frame| frame.bytes[16] < 2);
    assert!(messages().count() > 1);
    for (nth, frame) in messages().enumerate() {
        let at = frame.position as usize;
        let mut bytes = whole[..at + frame.bytes.len()].to_vec();
        for claim in [0x7f00_0000, frame.bytes.len() as i32 - 11] {
            bytes[at + 8..at + 12].copy_from_slice(&claim.to_be_bytes());
            let error = read(&Bytes::from(bytes.clone())).expect_err("the length is wrong");
            assert_eq!((error.reason(), error.ordinal()), ("WRONG_LENGTH", nth as u64), "{error}");
            assert_eq!(error.position(), frame.position);
        }
        bytes.pop();
        assert_eq!(read(&Bytes::from(bytes)).expect_err("torn").reason(), "TORN");
    }
}

#[test]
fn a_wrong_length_early_in_a_large_segment_is_reported_long_before_its_end() {
    let frame = |base_offset, bytes| {
        let head = BatchHead { base_offset, ..BatchHead::default() };
        batch(head, &record(0, 0, None, Some(&vec![b'x'; bytes])))
    };
    // If the damaged frame is larger than the first search, a second search finds it.
    for (first_bytes, sent_max) in [(1_000, 1 << 20), (3 << 20, 6 << 20)] {
        let mut bytes = frame(0, first_bytes);
        (1..16_000).for_each(|offset| bytes.extend(frame(offset, 1_000)));
        bytes[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        let bytes = Bytes::from(bytes);
        let mut splitter = FrameSplitter::new(bytes.len() as u64, None);
        let mut sent = 0;
        let error = loop {
            match splitter.push(bytes.slice(sent..sent + 65_536), &mut Vec::new()) {
                Ok(()) => sent += 65_536,
                Err(error) => break error,
            }
            assert_eq!(splitter.torn_at(), Some(0));
        };
        assert_eq!(error.reason(), "WRONG_LENGTH");
        assert!(sent <= sent_max, "{sent} of {} bytes were taken", bytes.len());
    }
}

#[test]
fn a_segment_shorter_than_a_head_is_torn() {
    for (bytes, format) in [
        (&[0x7e][..], None),
        (&[0x7e, 0xca][..], Some(SegmentFormat::ChronikWal)),
        (&[0x7e, 0xca, 2, 0, 1][..], Some(SegmentFormat::ChronikWal)),
        (&[0; 8][..], None),
        (&[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 99, 0, 0, 0, 0][..], None),
    ] {
        let (frames, tail) = split(&Bytes::from_static(bytes)).expect("torn");
        assert!(frames.is_empty());
        assert_eq!(tail.format, format);
        assert_eq!(tail.torn.expect("torn").bytes, bytes);
    }
}

#[test]
fn bytes_that_start_no_frame_are_corrupt_and_not_torn() {
    for (name, garbage) in [
        ("chronik/v1.wal", &[0, 0, 1][..]),
        ("chronik/v1.wal", &[0x7e, 0xcb]),
        ("chronik/v2-one-record.wal", &[0x7e, 0xca, 9]),
        ("chronik/v2-one-record.wal", &[0x7f, 0, 0, 0]),
        ("kafka/one-record.log", &[0xff; 8]),
        ("kafka/one-record.log", &[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 48, 0, 0, 0, 0, 2, 0, 0]),
    ] {
        let whole = fixture(name);
        let error = split(&Bytes::from([&whole[..], garbage].concat())).expect_err("corrupt");
        assert_eq!(
            (error.kind(), error.position()),
            (ErrorKind::Corrupt, whole.len() as u64),
            "{name} {error}"
        );
        assert_ne!(error.reason(), "TORN");
    }
}

#[test]
fn the_announced_format_and_size_are_held_against_the_bytes() {
    use SegmentFormat::{ChronikWal, KafkaLog};
    for (name, right, wrong) in
        [("chronik/v1.wal", ChronikWal, KafkaLog), ("kafka/none.log", KafkaLog, ChronikWal)]
    {
        let bytes = fixture(name);
        for chunk in [1, 5, 16, 17, bytes.len()] {
            let (frames, tail) = split_announced(&bytes, Some(right), || chunk);
            assert!(!frames.is_empty() && tail.expect("whole").format == Some(right));
            let (_, tail) = split_announced(&bytes, Some(wrong), || chunk);
            let error = tail.expect_err("not of that format");
            assert_eq!((error.reason(), error.kind()), ("FORMAT_MISMATCH", ErrorKind::Unsupported), "{name}");
        }
        for size in [bytes.len() as u64 - 1, 0] {
            let mut splitter = FrameSplitter::new(size, None);
            let error = splitter.push(bytes.clone(), &mut Vec::new()).expect_err("too many bytes");
            assert_eq!((error.reason(), error.kind()), ("SIZES_DISAGREE", ErrorKind::Unsupported));
        }
        let mut splitter = FrameSplitter::new(bytes.len() as u64 + 1, None);
        splitter.push(bytes, &mut Vec::new()).expect("so far all is well");
        assert_eq!(splitter.finish().expect_err("a byte is missing").reason(), "SIZES_DISAGREE");
    }
}

#[test]
fn a_chronik_segment_is_one_also_where_its_bytes_could_be_a_kafka_batchs_head() {
    // Byte 16, where Kafka has its magic, is 2 in each of these: it is the lowest byte of a V1 record's time,
    // or a byte of the partition after a topic of two letters.
    let data = canonical(CanonicalHead::default(), &entry(100, 1_000, None, Some(b"v")), &[]);
    let body = |at| v2_body(b"ab", 2 | at << 8, &data, &v2_trailer(100, 100, 1));
    let v1_record = [&(-1_i32).to_le_bytes()[..], &1_i32.to_le_bytes(), b"v", &[0; 4]].concat();
    let segments =
        [v1(1, 0x1_02, &v1_record)].into_iter().chain((0..8).map(|at| v2_hashing(&body(at), None)));
    let mut could_be = 0;
    for bytes in segments.map(Bytes::from) {
        could_be += usize::from(super::super::kafka::head(&bytes, false).is_ok());
        let (frames, tail) = split_announced(&bytes, Some(SegmentFormat::ChronikWal), || 7);
        assert_eq!(tail.expect("whole").format, Some(SegmentFormat::ChronikWal));
        frames[0].decode(DECODED_BYTES_MAX).expect("sound");
    }
    assert!(could_be > 1, "{could_be}");
}

#[test]
fn chunks_of_any_size_give_the_same_frames_the_same_tail_and_the_same_errors() {
    let mut random = StdRng::seed_from_u64(7);
    let mut segments: Vec<(String, Bytes)> = Vec::new();
    for name in [
        "kafka/apache-clients.log",
        "kafka/transactional.log",
        "chronik/v1-then-v2.wal",
        "chronik/v2-three-partitions.wal",
    ] {
        let whole = fixture(name);
        segments.push((name.to_owned(), whole.clone()));
        for _ in 0..8 {
            let len = random.random_range(1..whole.len());
            segments.push((format!("{name} to {len}"), whole.slice(..len)));
            let mut bytes = whole[..len].to_vec();
            bytes[random.random_range(0..len)] ^= random.random_range(1..=u8::MAX);
            segments.push((format!("{name} to {len}, damaged"), bytes.into()));
        }
        for len in 0..24 {
            segments.push((format!("{name} to {len}"), whole.slice(..len)));
        }
    }
    let show = |(frames, tail): (Vec<Frame>, Result<Tail, SegmentError>)| {
        let frames: Vec<_> =
            frames.into_iter().map(|f| (f.position, f.ordinal, f.partition, f.bytes, f.encoding)).collect();
        let tail = tail.map(|tail| {
            (tail.format, tail.torn.map(|torn| (torn.position, torn.ordinal, torn.bytes, torn.needed)))
        });
        (frames, tail)
    };
    for (name, bytes) in segments {
        let expected = show(split_chunked(&bytes, || usize::MAX));
        for most in [1, 2, 30, 1_000, 10_000] {
            let found = show(split_chunked(&bytes, || random.random_range(1..=most)));
            assert!(found == expected, "{name} in chunks of up to {most}");
        }
    }
}

#[test]
fn frames_within_a_chunk_are_slices_of_it_and_others_are_assembled_once() {
    let whole = fixture("kafka/none.log");
    let (frames, _) = split(&whole).expect("whole");
    for frame in &frames {
        assert_eq!(frame.bytes.as_ptr(), whole[frame.position as usize..].as_ptr());
    }
    let (frames, _) = split_chunked(&whole, || 5_000);
    let inside = |bytes: &Bytes| shares_memory(bytes, &whole);
    assert_eq!(
        frames.iter().map(|frame| inside(&frame.bytes)).collect::<Vec<_>>(),
        [true, false, false, false]
    );
}

#[test]
fn what_a_frame_claims_is_set_aside_only_as_its_bytes_come() {
    let size = 2_u64 << 30;
    let mut head = batch(BatchHead::default(), &[0; 7]);
    head[8..12].copy_from_slice(&(i32::MAX - 100).to_be_bytes());
    let mut splitter = FrameSplitter::new(size, None);
    splitter.push(head.into(), &mut Vec::new()).expect("not torn: there is room for it");
    assert_eq!(splitter.torn_at(), None);
    assert!(splitter.mem_usage() <= 2 << 20, "{}", splitter.mem_usage());
}

#[test]
fn looking_for_frames_in_a_tail_takes_time_in_proportion_to_it() {
    // 800,000 heads that each claim all the rest, in 6 MiB. It would take hours to compute a checksum over
    // each claim.
    let chronik = |left: u32| [&[0x7e, 0xca, 1, 0][..], &left.to_le_bytes()].concat();
    let count = 800_000_u32;
    let mut bytes: Vec<u8> = (0..count).flat_map(|nth| chronik((count - nth) * 8)).collect();
    bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let start = std::time::Instant::now();
    let error = read(&Bytes::from(bytes)).expect_err("undecided is no receipt");
    assert_eq!((error.reason(), error.kind()), ("TAIL_UNDECIDED", ErrorKind::Corrupt));
    // The same for Kafka: a plausible head at each 61st byte.
    let size = 6_000_000;
    let mut bytes = Vec::new();
    while bytes.len() < size {
        let mut head = batch(BatchHead { count: 0, ..BatchHead::default() }, &[]);
        head[8..12].copy_from_slice(&((size - bytes.len()) as i32 - 100).to_be_bytes());
        bytes.extend(head);
    }
    bytes[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
    assert_eq!(read(&Bytes::from(bytes)).expect_err("undecided").reason(), "TAIL_UNDECIDED");
    assert!(start.elapsed().as_secs() < 300, "{:?}", start.elapsed());
}

/// A segment, and where its frames end.
fn with_ends(name: &str) -> (Bytes, Vec<usize>) {
    let whole = fixture(name);
    let frames = read(&whole).expect("whole");
    let ends = frames.iter().map(|(frame, _)| frame.position as usize + frame.bytes.len()).collect();
    (whole, ends)
}

#[track_caller]
fn check_zeros(bytes: Vec<u8>, frames: usize, position: usize, what: &str) {
    let bytes = Bytes::from(bytes);
    for most in [usize::MAX, 1_000, 7] {
        let (found, tail) = split_chunked(&bytes, || most);
        let tail = tail.unwrap_or_else(|error| panic!("{what}: {error}"));
        let torn = tail.torn.unwrap_or_else(|| panic!("{what}: not torn"));
        assert_eq!(
            (found.len(), torn.position as usize, torn.ordinal),
            (frames, position, frames as u64),
            "{what}"
        );
        assert_eq!(torn.bytes, bytes.slice(position..), "{what}");
        assert_eq!((torn.error().reason(), torn.error().kind()), ("TORN", ErrorKind::Corrupt), "{what}");
        found.iter().for_each(|frame| {
            frame.decode(DECODED_BYTES_MAX).expect("whole");
        });
    }
}

#[test]
fn zeros_to_the_end_are_a_torn_tail() {
    for name in ["kafka/lz4.log", "kafka/none.log", "chronik/v1.wal", "chronik/v2-gzip.wal"] {
        let (whole, ends) = with_ends(name);
        for zeros in [1, 7, 8, 16, 17, 61, 4_096, 1 << 20] {
            for end in [0, ends[0], whole.len()] {
                let frames = ends.iter().filter(|one| **one <= end).count();
                check_zeros(
                    [&whole[..end], &vec![0; zeros]].concat(),
                    frames,
                    end,
                    &format!("{name} {end} {zeros}"),
                );
            }
        }
    }
}

#[test]
fn a_frame_that_zeros_cut_off_is_torn_with_them() {
    for name in [
        "kafka/none.log",
        "kafka/zstd.log",
        "chronik/v1.wal",
        "chronik/v2-one-record.wal",
        "chronik/v2-gzip.wal",
    ] {
        let (whole, mut ends) = with_ends(name);
        ends.truncate(2);
        if ends.len() < 2 {
            continue;
        }
        let (first, second) = (ends[0], ends[1]);
        for cut in (first + 1..second).step_by(13) {
            // If only zeros are cut off, nothing is lost.
            if whole[cut..second].iter().take_while(|byte| **byte == 0).count() == second - cut {
                continue;
            }
            let usual = whole[..cut].iter().rev().take_while(|byte| **byte == 0).count() + second - cut;
            for zeros in [second - cut + 1, 20_000] {
                let what = format!("{name} cut at {cut} of {first}..{second}, {zeros} zeros");
                if usual > 4 {
                    check_zeros([&whole[..cut], &vec![0; zeros]].concat(), 1, first, &what);
                }
            }
        }
        // Zeros up to the frame's end and no further, as a missing sector leaves them.
        if second - first > 1_100 {
            check_zeros([&whole[..second - 600], &[0; 600]].concat(), 1, first, name);
        }
    }
}

#[test]
fn zeros_that_something_follows_are_corrupt_as_ever() {
    for (name, reason) in [("kafka/lz4.log", "BAD_LENGTH"), ("chronik/v2-gzip.wal", "BAD_MAGIC")] {
        let (whole, ends) = with_ends(name);
        for zeros in [17, 4_096] {
            let bytes = Bytes::from([&whole[..], &vec![0; zeros], &whole[..ends[0]]].concat());
            for most in [usize::MAX, 1_000, 7] {
                let (found, tail) = split_chunked(&bytes, || most);
                let error = tail.expect_err("corrupt");
                assert_eq!((error.reason(), error.position() as usize), (reason, whole.len()), "{name}");
                assert_eq!(found.len(), ends.len(), "{name}");
            }
        }
        // A damaged frame before zeros is damaged, and not torn: it ends in no more zeros than frames usually
        // do.
        let mut damaged = whole.to_vec();
        damaged[whole.len() - 30] ^= 1;
        let error = read(&Bytes::from([&damaged[..], &[0; 4_096]].concat())).expect_err("damaged");
        assert_eq!(error.reason(), "CRC_MISMATCH", "{name}");
    }
}

#[test]
fn zeros_are_counted_and_not_held() {
    let mut splitter = FrameSplitter::new(1 << 30, Some(SegmentFormat::KafkaLog));
    for _ in 0..1_000 {
        splitter.push(Bytes::from_static(&[0; 1 << 16]), &mut Vec::new()).expect("zeros so far");
    }
    assert_eq!((splitter.mem_usage(), splitter.finish_usage(), splitter.torn_at()), (0, 1_000 << 16, None));
}
