//! Chronik WAL records, versions 1 and 2, which one segment may mix.
//!
//! The format is that of the record writer of Chronik's releases up to 2.10.4 (its `WalRecord`). All numbers
//! are little-endian.

use std::ops::Range;

use bytes::Bytes;

use super::canonical::{self, Canonical};
use super::framing::Head;
use super::record_builder::RecordBuilder;
use super::{DecodedFrame, Fault};
use crate::ids::{OffsetRange, TopicPartition};
use crate::record::Span;

/// `0xCA7E`, as it lies in the file.
pub(super) const MAGIC: [u8; 2] = 0xCA7E_u16.to_le_bytes();
/// Magic, version, flags and length: the bytes that give a frame's length.
pub(super) const PREFIX_BYTES: usize = 8;
/// The position of the length.
const LENGTH: Range<usize> = 4..8;
/// V2: the head that the length does not count.
const V2_HEAD_BYTES: usize = 12;
/// V2: topic length, partition, data length.
const V2_BODY_BYTES_MIN: usize = 2 + 4 + 4;
/// V2: base offset, last offset, record count.
const V2_TRAILER_BYTES: usize = 8 + 8 + 4;
/// V1: the head with offset, time and CRC.
const V1_HEAD_BYTES: usize = 28;
/// V1: key length, value length, header count.
const V1_BYTES_MIN: usize = V1_HEAD_BYTES + 4 + 4 + 4;
/// V1: name length, value length.
const V1_HEADER_BYTES_MIN: usize = 2 + 4;

fn le<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Reads as much of a frame's head as splitting needs.
pub(super) fn head(bytes: &[u8]) -> Result<Head, Fault> {
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        let found = bytes[..seen].iter().rev().fold(0, |found, byte| found << 8 | u32::from(*byte));
        return Err(Fault::BadMagic { found });
    }
    let version = bytes.get(2).copied();
    if let Some(version) = version.filter(|version| !matches!(version, 1 | 2)) {
        return Err(Fault::BadVersion { version });
    }
    if bytes.len() < PREFIX_BYTES {
        return Ok(Head::Needs(PREFIX_BYTES));
    }
    let length = u32::from_le_bytes(le(bytes, LENGTH.start));
    let (least, uncounted) = match version {
        Some(1) => (V1_BYTES_MIN, 0),
        _ => (V2_BODY_BYTES_MIN, V2_HEAD_BYTES),
    };
    if (length as usize) < least {
        return Err(Fault::BadLength { length: length.into(), least: least as i64 });
    }
    Ok(Head::Frame(u64::from(length) + uncounted as u64))
}

/// Whether a frame, whose head was read, is of version 1.
pub(super) fn is_v1(frame: &[u8]) -> bool {
    frame[2] == 1
}

/// The two ranges that a frame's CRC-32 covers in addition to magic, version, flags and length, and the
/// position of the CRC.
fn covered(frame: &[u8]) -> (Range<usize>, Range<usize>, usize) {
    if is_v1(frame) { (8..24, V1_HEAD_BYTES..frame.len(), 24) } else { (8..8, V2_HEAD_BYTES..frame.len(), 8) }
}

/// The CRC-32 that a frame would have if its length field held `length`.
fn crc(frame: &[u8], length: u32) -> u32 {
    let (before, behind, _) = covered(frame);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..LENGTH.start]);
    crc.update(&length.to_le_bytes());
    crc.update(&frame[before]);
    crc.update(&frame[behind]);
    crc.finalize()
}

fn stored_crc(frame: &[u8]) -> u32 {
    u32::from_le_bytes(le(frame, covered(frame).2))
}

/// Checks the CRC-32 of a whole frame. Early releases computed it before they set the length, so over a
/// length of zero.
pub(super) fn check_crc(frame: &[u8]) -> Result<(), Fault> {
    let stored = stored_crc(frame);
    let computed = crc(frame, u32::from_le_bytes(le(frame, LENGTH.start)));
    if computed == stored || crc(frame, 0) == stored {
        Ok(())
    } else {
        Err(Fault::CrcMismatch { stored, computed })
    }
}

/// Whether the bytes would be a whole frame if the length field had their number.
pub(super) fn is_whole_but_for_its_length(tail: &[u8]) -> bool {
    let Ok(Head::Frame(_)) = head(tail) else { return false };
    let (least, uncounted) =
        if is_v1(tail) { (V1_BYTES_MIN, 0) } else { (V2_HEAD_BYTES + V2_BODY_BYTES_MIN, V2_HEAD_BYTES) };
    let Ok(length) = u32::try_from(tail.len() - uncounted.min(tail.len())) else { return false };
    tail.len() >= least && [length, 0].iter().any(|length| crc(tail, *length) == stored_crc(tail))
}

/// The positions of the parts of a V2 frame's body.
struct Body {
    topic: Range<usize>,
    partition: i32,
    data: Range<usize>,
    trailer: Range<usize>,
}

fn body(frame: &[u8]) -> Result<Body, Fault> {
    let bad = |part| Fault::BadFrame { part };
    let range = |start: usize, len: usize, part| {
        let end = start.checked_add(len).filter(|end| *end <= frame.len()).ok_or(bad(part))?;
        Ok(start..end)
    };
    let start = V2_HEAD_BYTES + 2;
    let topic = range(start, u16::from_le_bytes(le(frame, V2_HEAD_BYTES)).into(), "its topic's length")?;
    let numbers = range(topic.end, 8, "its topic's length")?;
    let partition = i32::from_le_bytes(le(frame, numbers.start));
    let data_len = u32::from_le_bytes(le(frame, numbers.start + 4)) as usize;
    let data = range(numbers.end, data_len, "its data's length")?;
    let trailer = data.end..frame.len();
    Ok(Body { topic, partition, data, trailer })
}

/// The topic-partition of a whole V2 frame. It is not verified. `before` is that of the frame before it,
/// which is usually the same.
pub(super) fn partition(frame: &[u8], before: Option<TopicPartition>) -> Result<TopicPartition, Fault> {
    let body = body(frame)?;
    let topic = std::str::from_utf8(&frame[body.topic])
        .map_err(|_| Fault::BadFrame { part: "its topic is not UTF-8" })?;
    if let Some(before) =
        before.filter(|before| before.topic() == topic && before.partition() == body.partition)
    {
        return Ok(before);
    }
    TopicPartition::new(topic, body.partition).or_else(|error| {
        // A damaged name must not be taken for one that the broker wrote.
        check_crc(frame)?;
        Err(Fault::UnusablePartition(error))
    })
}

/// The number of zeros that an undamaged frame usually ends in: the upper bytes of its record count.
pub(super) const USUAL_ZEROS: usize = 3;

/// The record count of a whole V2 frame. It is not verified.
pub(super) fn claimed_records(frame: &[u8]) -> Option<u64> {
    let trailer = body(frame).ok()?.trailer;
    (trailer.len() == V2_TRAILER_BYTES)
        .then(|| i32::from_le_bytes(le(frame, trailer.end - 4)))
        .and_then(|count| u64::try_from(count).ok())
}

/// The offsets of a whole V2 frame. They are not verified.
pub(super) fn v2_range(frame: &[u8]) -> Option<OffsetRange> {
    let trailer = body(frame).ok()?.trailer;
    let at = |place| i64::from_le_bytes(le(frame, place));
    let range = (trailer.len() == V2_TRAILER_BYTES).then(|| (at(trailer.start), at(trailer.start + 8)));
    range.and_then(|(base, last)| OffsetRange::new(base, last)).filter(|range| range.first() >= 0)
}

/// The offset of a whole V1 frame. It is not verified.
pub(super) fn v1_range(frame: &[u8]) -> Option<OffsetRange> {
    let offset = i64::from_le_bytes(le(frame, 8));
    OffsetRange::new(offset, offset).filter(|_| offset >= 0)
}

/// Decodes a V2 frame. `frame` has the length that its length field says: the splitter ensures it.
pub(super) fn decode_v2(frame: &Bytes, decoded_bytes_max: usize) -> Result<DecodedFrame, Fault> {
    let (head, canonical) = open_v2(frame, decoded_bytes_max)?;
    canonical.builder.finish(canonical.base_offset, head, frame.clone())
}

/// Verifies a V2 frame: the offsets that its head claims, and its data. A frame without records covers no
/// offsets. For every frame the broker writes base offset + number of records - 1 as the last offset.
pub(super) fn open_v2(
    frame: &Bytes,
    decoded_bytes_max: usize,
) -> Result<(Option<OffsetRange>, Canonical), Fault> {
    check_crc(frame)?;
    let Body { data, trailer, .. } = body(frame)?;
    match trailer.len() {
        0 => return Err(Fault::ChronikV2WithoutOffsets),
        V2_TRAILER_BYTES => {}
        len if len < V2_TRAILER_BYTES => return Err(Fault::BadFrame { part: "its offsets are cut off" }),
        len => return Err(Fault::LeftOver { bytes: (len - V2_TRAILER_BYTES) as u64 }),
    }
    let base = i64::from_le_bytes(le(frame, trailer.start));
    let last = i64::from_le_bytes(le(frame, trailer.start + 8));
    let count = i32::from_le_bytes(le(frame, trailer.start + 16));
    let head = OffsetRange::new(base, last);
    let is_empty = head.is_none() && count == 0 && last.checked_add(1) == Some(base);
    if base < 0 || (head.is_none() && !is_empty) {
        return Err(Fault::BadOffsets { base: base.into(), last: last.into() });
    }
    let canonical = canonical::decode(frame, data, head, decoded_bytes_max)?;
    let Canonical { base_offset, count: inside, .. } = canonical;
    if base_offset != base {
        return Err(Fault::HeadDisagrees { field: "base offset", head: base, inside: base_offset });
    }
    if u64::try_from(count) != Ok(inside) {
        return Err(Fault::HeadDisagrees {
            field: "record count",
            head: count.into(),
            inside: inside as i64,
        });
    }
    Ok((head, canonical))
}

/// Decodes a V1 frame, which is one record. `frame` has the length that its length field says: the splitter
/// ensures it.
pub(super) fn decode_v1(frame: &Bytes, decoded_bytes_max: usize) -> Result<DecodedFrame, Fault> {
    check_crc(frame)?;
    let bad = |part| Fault::BadRecord { record: 0, part };
    let offset = i64::from_le_bytes(le(frame, 8));
    let timestamp = i64::from_le_bytes(le(frame, 16));
    let range = OffsetRange::new(offset, offset)
        .filter(|_| offset >= 0)
        .ok_or(Fault::BadOffsets { base: offset.into(), last: offset.into() })?;
    let mut builder = RecordBuilder::new(1, false, 0, decoded_bytes_max)?;
    let mut fields = Fields { bytes: frame, at: V1_HEAD_BYTES };
    let key = match fields.i32().ok_or(bad("its key"))? {
        -1 => None,
        len => Some(fields.span(len.into()).ok_or(bad("its key"))?),
    };
    let value = fields.i32().and_then(|len| fields.span(len.into())).ok_or(bad("its value"))?;
    let headers = fields.i32().ok_or(bad("its header count"))?;
    let most = (frame.len() - fields.at) / V1_HEADER_BYTES_MIN;
    if usize::try_from(headers).is_err() || headers as usize > most {
        return Err(bad("its header count"));
    }
    for _ in 0..headers {
        let name = fields.take().map(u16::from_le_bytes).and_then(|len| fields.span(len.into()));
        let name = name.ok_or(bad("a header's name"))?;
        std::str::from_utf8(name.of(frame)).map_err(|_| bad("a header's name"))?;
        let value = fields.take().map(u32::from_le_bytes).and_then(|len| fields.span(len.into()));
        builder.header(name, Some(value.ok_or(bad("a header's value"))?))?;
    }
    if fields.at < frame.len() {
        return Err(Fault::LeftOver { bytes: (frame.len() - fields.at) as u64 });
    }
    builder.record(offset, timestamp, key, Some(value), 0);
    builder.finish(offset, Some(range), frame.clone())
}

/// Reads the parts of a V1 record; `None` if they reach past the end.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = *self.bytes[self.at..].first_chunk::<N>()?;
        self.at += N;
        Some(field)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }

    fn span(&mut self, len: i64) -> Option<Span> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.bytes.len() - self.at)?;
        let span = Span { start: self.at as u32, len: len as u32 };
        self.at += len;
        Some(span)
    }
}
