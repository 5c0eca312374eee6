//! Kafka record batches, magic 2, as they lie in a log segment.
//!
//! The format is Kafka's "Record Batch" and "Record" (its documentation, section Message Format; KIP-98, KIP-534). Where the
//! documentation is silent, `DefaultRecordBatch` and `DefaultRecord` of its Java clients decide.

use bytes::Bytes;

use super::codec::{self, Codec};
use super::gather::Gather;
use super::split::Head;
use super::{DecodedFrame, Fault};
use crate::ids::OffsetRange;
use crate::record::Span;

/// The magic of record batches, at byte 16.
pub(super) const MAGIC: u8 = 2;
/// The bytes in front of the first record.
pub(super) const HEAD_BYTES: usize = 61;
/// The bytes that the length field does not count: base offset and length.
const LENGTH_OVERHEAD: usize = 12;
/// The smallest length field: that of a batch without records.
const LENGTH_MIN: i32 = (HEAD_BYTES - LENGTH_OVERHEAD) as i32;
/// Magic 0: the smallest message behind its offset and size is CRC, magic, attributes, key length and value length.
const MESSAGE_LENGTH_MIN: i32 = 14;
/// Base offset, length, leader epoch and magic: what must be there to tell a batch from other bytes.
pub(super) const PREFIX_BYTES: usize = 17;
/// Where the bytes that the CRC covers start.
const CRC_START: usize = 21;
/// The smallest record: length, attributes, time, offset, key length, value length, header count, a byte each.
const RECORD_BYTES_MIN: usize = 7;
/// The smallest header: two lengths.
const HEADER_BYTES_MIN: usize = 2;

/// What a compressed record is guessed to be, in bytes, where there are very many of them for the batch's size; and how many times
/// its size a batch is guessed to open to at most.
const RECORD_BYTES_GUESS: u64 = 256;
const OPENS_TO_TIMES_MAX: u64 = 16;

const ATTRIBUTE_LOG_APPEND_TIME: u16 = 1 << 3;
const ATTRIBUTE_CONTROL: u16 = 1 << 5;

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

fn base_offset(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(be(bytes, 0))
}

fn length(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(be(bytes, 8))
}

/// Reads as much of a batch's head as splitting needs.
pub(super) fn head(bytes: &[u8]) -> Result<Head, Fault> {
    if bytes.len() >= 8 && base_offset(bytes) < 0 {
        return Err(Fault::BadOffsets { base: base_offset(bytes), last: base_offset(bytes) });
    }
    if bytes.len() < PREFIX_BYTES {
        if bytes.len() >= LENGTH_OVERHEAD && length(bytes) < MESSAGE_LENGTH_MIN {
            return Err(Fault::BadLength { length: length(bytes).into(), least: LENGTH_MIN.into() });
        }
        return Ok(Head::Needs(PREFIX_BYTES));
    }
    match bytes[16] {
        MAGIC => {}
        magic @ (0 | 1) if length(bytes) >= MESSAGE_LENGTH_MIN => return Err(Fault::KafkaMagic { magic }),
        found => return Err(Fault::BadMagic { found: found.into() }),
    }
    if length(bytes) < LENGTH_MIN {
        return Err(Fault::BadLength { length: length(bytes).into(), least: LENGTH_MIN.into() });
    }
    Ok(Head::Frame(LENGTH_OVERHEAD as u64 + length(bytes) as u64))
}

/// The offsets of a batch whose head is all there.
pub(super) fn range(bytes: &[u8]) -> Result<OffsetRange, Fault> {
    let base = base_offset(bytes);
    let last_delta = last_delta(bytes);
    base.checked_add(last_delta)
        .and_then(|last| OffsetRange::new(base, last))
        .filter(|_| base >= 0)
        .ok_or(Fault::BadOffsets { base, last: last_delta })
}

/// How far the last offset of a batch, whose head is all there, is from its first.
pub(super) fn last_delta(bytes: &[u8]) -> i64 {
    i32::from_be_bytes(be(bytes, 23)).into()
}

/// Whether the bytes from attributes to end are those that the batch's CRC-32C was made of.
pub(super) fn check_crc(bytes: &[u8]) -> Result<(), Fault> {
    let stored = u32::from_be_bytes(be(bytes, 17));
    let computed = crc32c::crc32c(&bytes[CRC_START..]);
    if stored == computed { Ok(()) } else { Err(Fault::CrcMismatch { stored, computed }) }
}

/// Whether the fields of a would-be batch are those of a batch: far cheaper to ask than its checksum.
pub(super) fn is_plausible(batch: &[u8]) -> bool {
    range(batch).is_ok_and(|range| i64::from(count(batch)) <= range.last() - range.first() + 1)
        && count(batch) >= 0
        && Codec::of_attributes(attributes(batch)).is_ok()
}

/// Whether `bytes` are one whole batch of magic 2, no more and no less, with a checksum that holds; if not, why.
pub(super) fn check_whole(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.len() < HEAD_BYTES {
        return Err("it is shorter than a batch's head");
    }
    if bytes[16] != MAGIC {
        return Err("its magic is not 2");
    }
    if i64::from(length(bytes)) != (bytes.len() - LENGTH_OVERHEAD) as i64 {
        return Err("its length field is wrong");
    }
    check_crc(bytes).map_err(|_| "its checksum does not hold")
}

fn attributes(bytes: &[u8]) -> u16 {
    u16::from_be_bytes(be(bytes, 21))
}

fn count(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(be(bytes, 57))
}

/// The record count of a batch that is all there, but not verified.
pub(super) fn claimed_records(bytes: &[u8]) -> Option<u64> {
    u64::try_from(count(bytes)).ok()
}

/// What a batch that is all there opens to, about. Log data compresses to a quarter; where it is more, the number of records shows it.
pub(super) fn opened_bytes_guess(bytes: &[u8]) -> u64 {
    let size = bytes.len() as u64;
    let least = match Codec::of_attributes(attributes(bytes)) {
        Ok(Codec::None) | Err(_) => return size,
        Ok(Codec::Snappy | Codec::Lz4) => 2 * size,
        Ok(Codec::Gzip | Codec::Zstd) => 4 * size,
    };
    let by_records = claimed_records(bytes).unwrap_or(0) * RECORD_BYTES_GUESS;
    by_records.clamp(least, OPENS_TO_TIMES_MAX * size)
}

/// Decodes a batch. `bytes` are as many as its length field says, and at least [`HEAD_BYTES`]: splitting saw to that.
pub(super) fn decode(bytes: &Bytes, decoded_bytes_max: usize) -> Result<DecodedFrame, Fault> {
    check_crc(bytes)?;
    let range = range(bytes)?;
    let attributes = attributes(bytes);
    let codec = Codec::of_attributes(attributes)?;
    let batch = Batch {
        codec,
        base_offset: range.first(),
        last_delta: last_delta(bytes),
        // Compaction may put a delete horizon here (attribute bit 6, KIP-534): it rewrites the records' times relative to
        // that, so that their sum is their time all the same.
        base_timestamp: i64::from_be_bytes(be(bytes, 27)),
        append_time: (attributes & ATTRIBUTE_LOG_APPEND_TIME != 0).then(|| i64::from_be_bytes(be(bytes, 35))),
        is_control: attributes & ATTRIBUTE_CONTROL != 0,
        count: count(bytes),
    };
    let body = &bytes[HEAD_BYTES..];
    let is_empty = batch.count == 0 && body.is_empty();
    if codec == Codec::None || is_empty {
        return batch.records(bytes.clone(), HEAD_BYTES, range, 0, decoded_bytes_max);
    }
    let opened = codec::open(codec, body, decoded_bytes_max.min(u32::MAX as usize))?;
    let used = opened.len();
    batch.records(Bytes::from(opened), 0, range, used, decoded_bytes_max)
}

/// What a batch's head says about its records.
struct Batch {
    codec: Codec,
    base_offset: i64,
    last_delta: i64,
    base_timestamp: i64,
    append_time: Option<i64>,
    is_control: bool,
    count: i32,
}

impl Batch {
    /// Reads the records, which start at `start` of `bytes` and end where those end.
    fn records(
        &self,
        bytes: Bytes,
        start: usize,
        range: OffsetRange,
        bytes_used: usize,
        limit: usize,
    ) -> Result<DecodedFrame, Fault> {
        let most = ((bytes.len() - start) / RECORD_BYTES_MIN) as u64;
        let count = u32::try_from(self.count)
            .ok()
            .filter(|count| u64::from(*count) <= most)
            .ok_or(Fault::BadCount { claimed: self.count.into(), most })?;
        let mut gather = Gather::new(count as usize, self.is_control, bytes_used, limit)?;
        gather.codec = self.codec;
        let mut fields = Fields { bytes: &bytes, at: start, end: bytes.len() };
        let mut delta_before = -1;
        for record in 0..count {
            delta_before = self.record(&mut fields, record, delta_before, &mut gather)?;
        }
        if fields.at < bytes.len() {
            return Err(Fault::LeftOver { bytes: (bytes.len() - fields.at) as u64 });
        }
        Ok(gather.finish(range, bytes))
    }

    /// Reads one record, and returns its offset's distance from the base.
    fn record(
        &self,
        fields: &mut Fields<'_>,
        record: u32,
        delta_before: i64,
        gather: &mut Gather,
    ) -> Result<i64, Fault> {
        let bad = |part| Fault::BadRecord { record, part };
        let batch_end = fields.end;
        let length = fields.varint().ok_or(bad("its length"))?;
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| fields.at.checked_add(length))
            .filter(|end| *end <= batch_end)
            .ok_or(bad("its length"))?;
        fields.end = end;
        // No bit of a record's attributes means anything so far.
        fields.byte().ok_or(bad("its attributes"))?;
        let time_delta = fields.varlong().ok_or(bad("its time"))?;
        let offset_delta = i64::from(fields.varint().ok_or(bad("its offset"))?);
        if offset_delta <= delta_before || offset_delta > self.last_delta {
            return Err(Fault::BadRecordOffset { record, offset: offset_delta });
        }
        let key = fields.nullable().ok_or(bad("its key"))?;
        let value = fields.nullable().ok_or(bad("its value"))?;
        let first_header = gather.headers();
        let headers = fields.varint().ok_or(bad("its header count"))?;
        let most = (end - fields.at) / HEADER_BYTES_MIN;
        if usize::try_from(headers).is_err() || headers as usize > most {
            return Err(bad("its header count"));
        }
        for _ in 0..headers {
            let name = fields.nullable().flatten().ok_or(bad("a header's name"))?;
            let value = fields.nullable().ok_or(bad("a header's value"))?;
            gather.header(name, value)?;
        }
        if fields.at != end {
            return Err(bad("its length is larger than its parts"));
        }
        fields.end = batch_end;
        // Java adds without looking for overflow, and so finds again the time that its writer took the difference from.
        let timestamp = self.append_time.unwrap_or(self.base_timestamp.wrapping_add(time_delta));
        gather.record(self.base_offset + offset_delta, timestamp, key, value, first_header);
        Ok(offset_delta)
    }
}

/// Reads the parts of records; `None` where they reach past the end or are no number.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl Fields<'_> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        if self.at >= self.end {
            return None;
        }
        let byte = self.bytes[self.at];
        self.at += 1;
        Some(byte)
    }

    /// A zigzag varint of at most five bytes.
    #[inline]
    fn varint(&mut self) -> Option<i32> {
        let value = u32::try_from(self.unsigned::<5>()?).ok()?;
        Some((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// A zigzag varint of at most ten bytes.
    #[inline]
    fn varlong(&mut self) -> Option<i64> {
        let value = self.unsigned::<10>()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    #[inline]
    fn unsigned<const BYTES_MAX: u32>(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for nth in 0..BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if nth == 9 && bits > 1 {
                return None;
            }
            value |= bits << (7 * nth);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A length and as many bytes; the length -1 stands for null.
    #[inline]
    fn nullable(&mut self) -> Option<Option<Span>> {
        let len = self.varint()?;
        if len == -1 {
            return Some(None);
        }
        let len = usize::try_from(len).ok().filter(|len| *len <= self.end - self.at)?;
        let span = Span { start: self.at as u32, len: len as u32 };
        self.at += len;
        Some(Some(span))
    }
}
