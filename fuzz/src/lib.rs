//! Shared by the fuzz targets: reads a whole segment, and checks what must hold for all that is read.

use bytes::Bytes;
use wal_indexer::ids::SegmentFormat;
use wal_indexer::internals::record::RecordBatch;
use wal_indexer::segment::{DecodedFrame, Frame, SegmentError, FrameSplitter, Tail};

/// The limit for a decompressed frame. It is small, so that it is cheap to reach.
pub const DECODED_BYTES_MAX: usize = 4 << 20;

/// Splits a segment that arrives in chunks. `chunk` returns the length of each.
pub fn split(
    bytes: &Bytes,
    format: Option<SegmentFormat>,
    mut chunk: impl FnMut() -> usize,
) -> (Vec<Frame>, Result<Tail, SegmentError>) {
    let mut frames = Vec::new();
    let mut splitter = FrameSplitter::new(bytes.len() as u64, format);
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let len = chunk().clamp(1, rest.len());
        if let Err(error) = splitter.push(rest.split_to(len), &mut frames) {
            return (frames, Err(error));
        }
    }
    (frames, splitter.finish())
}

/// Reads a segment in one chunk, decodes its frames, and checks what must hold for any bytes.
pub fn read(bytes: &Bytes, format: Option<SegmentFormat>) {
    let (frames, tail) = split(bytes, format, || usize::MAX);
    let mut position = 0;
    for (nth, frame) in frames.iter().enumerate() {
        assert_eq!((frame.position, frame.ordinal), (position, nth as u64));
        assert_eq!(frame.bytes, bytes[position as usize..][..frame.bytes.len()]);
        position += frame.bytes.len() as u64;
        if let Ok(decoded) = frame.decode(DECODED_BYTES_MAX) {
            check(frame, &decoded);
        }
    }
    match tail {
        Ok(Tail { torn: None, .. }) => assert_eq!(position, bytes.len() as u64),
        Ok(Tail { torn: Some(torn), .. }) => {
            assert_eq!(torn.position, position);
            assert_eq!(torn.bytes, bytes[position as usize..]);
            let is_zeros = torn.bytes.ends_with(&[0]) && torn.needed == torn.bytes.len() as u64;
            assert!(torn.needed > torn.bytes.len() as u64 || is_zeros);
        }
        Err(error) => assert!(error.position() <= bytes.len() as u64),
    }
}

/// Reads every span of a decoded frame, and compares the records with the frame's range and the limit.
fn check(frame: &Frame, decoded: &DecodedFrame) {
    assert!(decoded.mem_usage(frame) <= DECODED_BYTES_MAX);
    let RecordBatch { records, headers, .. } = &decoded.records;
    assert!(records.is_empty() || decoded.control_offsets.is_empty());
    let covers = |offset: i64| match decoded.range {
        Some(range) => {
            assert!(range.first() >= 0);
            offset < 0 || (range.first()..=range.last()).contains(&offset)
        }
        None => false,
    };
    assert!(decoded.control_offsets.iter().all(|offset| covers(*offset)));
    let (mut bytes, mut header_count) = (0, 0);
    for record in decoded.records.iter() {
        assert!(covers(record.offset()));
        bytes += record.key().map_or(0, <[u8]>::len) + record.value().map_or(0, <[u8]>::len);
        for (name, value) in record.headers() {
            bytes += name.len() + value.map_or(0, <[u8]>::len);
            header_count += 1;
        }
        if let Some(time) = record.timestamp_ms() {
            assert!(decoded.min_timestamp_ms.is_some_and(|min| min <= time));
            assert!(decoded.max_timestamp_ms.is_some_and(|max| max >= time));
        }
    }
    assert_eq!(header_count, headers.len());
    assert!(bytes <= decoded.records.bytes.len(), "no byte belongs to two records");
}

/// Corrects the lengths and checksums of as many frames as possible, so that the fuzzer reaches the code
/// after these checks.
pub fn fix_checksums(bytes: &mut [u8], format: SegmentFormat) {
    let mut rest = bytes;
    loop {
        let len = match format {
            SegmentFormat::KafkaLog => fix_batch(rest),
            SegmentFormat::ChronikWal => fix_chronik(rest),
        };
        let Some(len) = len else { return };
        rest = &mut rest[len..];
    }
}

/// Corrects a Kafka batch and returns its length. An invalid length becomes the length of all remaining
/// bytes.
fn fix_batch(bytes: &mut [u8]) -> Option<usize> {
    if bytes.len() < 61 {
        return None;
    }
    let claimed = i64::from(i32::from_be_bytes(bytes[8..12].try_into().expect("4 bytes"))) + 12;
    let len =
        usize::try_from(claimed).ok().filter(|len| (61..=bytes.len()).contains(len)).unwrap_or(bytes.len());
    bytes[0] &= 0x7f;
    bytes[8..12].copy_from_slice(&(len as i32 - 12).to_be_bytes());
    bytes[16] = 2;
    let crc = crc32c::crc32c(&bytes[21..len]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Some(len)
}

/// Corrects a Chronik record and returns its length. If its data ends with the producer's batch, corrects
/// that too.
fn fix_chronik(bytes: &mut [u8]) -> Option<usize> {
    if bytes.len() < 64 {
        return None;
    }
    bytes[0] = 0x7e;
    bytes[1] = 0xca;
    let is_v1 = bytes[2] & 1 == 1;
    bytes[2] = if is_v1 { 1 } else { 2 };
    let uncounted = if is_v1 { 0 } else { 12 };
    let claimed = u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes")) as usize + uncounted;
    let len = if (64..=bytes.len()).contains(&claimed) { claimed } else { bytes.len() };
    bytes[4..8].copy_from_slice(&((len - uncounted) as u32).to_le_bytes());
    let frame = &mut bytes[..len];
    let at = if is_v1 { 24 } else { 8 };
    if !is_v1 {
        fix_original(frame);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..at]);
    crc.update(&frame[at + 4..]);
    let crc = crc.finalize();
    frame[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    Some(len)
}

/// Searches for the tag and the length of an option that ends where the data ends, and corrects the batch in
/// it.
fn fix_original(frame: &mut [u8]) {
    let end = frame.len() - 20;
    for start in (12..end.saturating_sub(61 + 9)).rev().take(4_096) {
        let len = (end - start - 9) as u64;
        if frame[start] == 1 && frame[start + 1..start + 9] == len.to_le_bytes() {
            let original = &mut frame[start + 9..end];
            original[8..12].copy_from_slice(&(len as i32 - 12).to_be_bytes());
            fix_batch(original);
            return;
        }
    }
}
