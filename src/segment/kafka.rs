//! Kafka record batches, magic 2, as they lie in a log segment.
//!
//! The format is Kafka's "Record Batch" and "Record" (its documentation, section Message Format; KIP-98,
//! KIP-534). For anything the documentation does not say, the source is `DefaultRecordBatch` and
//! `DefaultRecord` of Kafka's Java clients. If they read something that the documentation does not allow, it
//! is read here too and reported as an [`Anomaly`].

use bytes::Bytes;

use super::codec::{self, Codec, DecompressLimit, Decompressed};
use super::framing::Head;
use super::message;
use super::record_builder::RecordBuilder;
use super::{Anomaly, DecodedFrame, Fault};
use crate::ids::OffsetRange;
use crate::record::Span;

/// The magic of record batches, at byte 16.
pub(super) const MAGIC: u8 = 2;
/// The bytes before the first record.
pub(super) const HEAD_BYTES: usize = 61;
/// The bytes that the length field does not count: base offset and length.
const LENGTH_OVERHEAD: usize = 12;
/// The smallest length field: that of a batch without records.
const LENGTH_MIN: i32 = (HEAD_BYTES - LENGTH_OVERHEAD) as i32;
/// The position of the magic, in batches and in the older messages of magic 0 and 1.
pub(super) const MAGIC_AT: usize = 16;
/// Base offset, length, leader epoch and magic: the bytes needed to tell a batch from other bytes.
pub(super) const PREFIX_BYTES: usize = 17;
/// The position of the leader epoch. The CRC does not cover it, because brokers set it.
const LEADER_EPOCH_AT: usize = 12;
/// Where the bytes that the CRC covers start.
const CRC_START: usize = 21;
/// The smallest record: length, attributes, time, offset, key length, value length and header count, one byte
/// each.
pub(super) const RECORD_BYTES_MIN: usize = 7;
/// The smallest header: two lengths.
const HEADER_BYTES_MIN: usize = 2;

/// Values for estimating the decompressed size of a batch. The first is the size of a record in bytes, used
/// if the batch has very many records for its size. The second is the largest ratio of the decompressed size
/// to the batch's size.
const RECORD_BYTES_GUESS: u64 = 256;
const OPENS_TO_TIMES_MAX: u64 = 16;

pub(super) const ATTRIBUTE_LOG_APPEND_TIME: u16 = 1 << 3;
const ATTRIBUTE_TRANSACTIONAL: u16 = 1 << 4;
pub(super) const ATTRIBUTE_CONTROL: u16 = 1 << 5;

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// The first offset of a batch. Of a message it is its own offset, or, if it is compressed, that of the last
/// message in it.
pub(super) fn base_offset(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(be(bytes, 0))
}

fn length(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(be(bytes, 8))
}

/// Reads as much of the head of a batch, or of a message of magic 0 or 1, as splitting needs. With
/// `any_magic` a frame of an unknown magic is as long as its length field says: all known magics have this
/// field at the same place.
pub(super) fn head(bytes: &[u8], any_magic: bool) -> Result<Head, Fault> {
    if bytes.len() >= 8 && base_offset(bytes) < 0 {
        return Err(bad_offsets(base_offset(bytes), 0));
    }
    let too_short = |least: i32| Fault::BadLength { length: length(bytes).into(), least: least.into() };
    if bytes.len() < PREFIX_BYTES {
        if bytes.len() >= LENGTH_OVERHEAD && length(bytes) < message::LENGTH_MIN {
            return Err(too_short(LENGTH_MIN));
        }
        return Ok(Head::Needs(PREFIX_BYTES));
    }
    let least = match bytes[MAGIC_AT] {
        MAGIC => LENGTH_MIN,
        0 | 1 => message::LENGTH_MIN,
        _ if any_magic => (PREFIX_BYTES - LENGTH_OVERHEAD) as i32,
        found => return Err(Fault::BadMagic { found: found.into() }),
    };
    if length(bytes) < least {
        return Err(too_short(least));
    }
    Ok(Head::Frame(LENGTH_OVERHEAD as u64 + length(bytes) as u64))
}

/// Whether a frame has an unknown magic.
pub(super) fn is_of_unknown_magic(bytes: &[u8]) -> bool {
    bytes[MAGIC_AT] > MAGIC
}

/// The offsets of a batch whose head is complete; an error if they are not a valid range.
pub(super) fn range(bytes: &[u8]) -> Result<OffsetRange, Fault> {
    let base = base_offset(bytes);
    let last_delta = last_delta(bytes);
    base.checked_add(last_delta)
        .and_then(|last| OffsetRange::new(base, last))
        .filter(|_| base >= 0)
        .ok_or(bad_offsets(base, last_delta))
}

fn bad_offsets(base: i64, last_delta: i64) -> Fault {
    Fault::BadOffsets { base: base.into(), last: i128::from(base) + i128::from(last_delta) }
}

/// The distance from the first to the last offset of a batch whose head is complete.
pub(super) fn last_delta(bytes: &[u8]) -> i64 {
    i32::from_be_bytes(be(bytes, 23)).into()
}

/// Checks the batch's CRC-32C, which covers the bytes from the attributes to the end.
pub(super) fn check_crc(bytes: &[u8]) -> Result<(), Fault> {
    let stored = u32::from_be_bytes(be(bytes, 17));
    let computed = crc32c::crc32c(&bytes[CRC_START..]);
    if stored == computed { Ok(()) } else { Err(Fault::CrcMismatch { stored, computed }) }
}

/// Whether the fields of a possible batch are plausible. This is far cheaper than its checksum.
pub(super) fn is_plausible(batch: &[u8]) -> bool {
    range(batch).is_ok_and(|range| i64::from(count(batch)) <= range.last() - range.first() + 1)
        && count(batch) >= 0
        && Codec::of_attributes(attributes(batch)).is_ok()
}

/// Checks that `bytes` are exactly one whole batch of magic 2 with a correct checksum. The error says why
/// they are not.
pub(super) fn check_whole(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.len() < HEAD_BYTES {
        return Err("it is shorter than a batch's head");
    }
    if bytes[MAGIC_AT] != MAGIC {
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

/// Whether a batch, whose head is complete, holds control records.
pub(super) fn is_control(bytes: &[u8]) -> bool {
    attributes(bytes) & ATTRIBUTE_CONTROL != 0
}

/// The producer of a batch, whose head is complete, that belongs to a transaction or ends one.
pub(super) fn transactional_producer(bytes: &[u8]) -> Option<i64> {
    let has_one = attributes(bytes) & (ATTRIBUTE_TRANSACTIONAL | ATTRIBUTE_CONTROL) != 0;
    has_one.then(|| i64::from_be_bytes(be(bytes, 43)))
}

/// The epoch of the leader that appended a batch; `None` if nobody has set it, and for other frames. Messages
/// of magic 0 and 1 have none.
pub(super) fn leader_epoch(bytes: &[u8]) -> Option<i32> {
    let has_one = bytes.get(MAGIC_AT) == Some(&MAGIC);
    has_one.then(|| i32::from_be_bytes(be(bytes, LEADER_EPOCH_AT))).filter(|epoch| *epoch >= 0)
}

/// The codec of a batch whose head is complete.
pub(super) fn codec(bytes: &[u8]) -> Result<Codec, Fault> {
    Codec::of_attributes(attributes(bytes))
}

fn count(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(be(bytes, 57))
}

/// The record count of a whole batch. It is not verified.
pub(super) fn claimed_records(bytes: &[u8]) -> Option<u64> {
    u64::try_from(count(bytes)).ok()
}

/// Estimates the decompressed size of a whole batch, in bytes. Log data usually compresses to a quarter. A
/// large number of records shows that it compressed better.
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

/// Decodes a batch. `bytes` has the length that its length field says, and at least [`HEAD_BYTES`]: the
/// splitter ensures it.
pub(super) fn decode(bytes: &Bytes, limit: DecompressLimit) -> Result<DecodedFrame, Fault> {
    let decoded_bytes_max = limit.bytes_max;
    check_crc(bytes)?;
    let head = head_range(bytes)?;
    let attributes = attributes(bytes);
    let codec = Codec::of_attributes(attributes)?;
    let batch = Batch {
        codec,
        base_offset: base_offset(bytes),
        last_delta: last_delta(bytes),
        // Compaction may store a delete horizon here (attribute bit 6, KIP-534). It also rewrites the
        // records' times relative to the horizon, so the sum is still the record's time.
        base_timestamp: i64::from_be_bytes(be(bytes, 27)),
        append_time: (attributes & ATTRIBUTE_LOG_APPEND_TIME != 0).then(|| i64::from_be_bytes(be(bytes, 35))),
        is_control: is_control(bytes),
        producer_id: transactional_producer(bytes),
        count: count(bytes),
    };
    let body = &bytes[HEAD_BYTES..];
    if codec == Codec::None || batch.count == 0 {
        let uncompressed = Decompressed::default();
        return batch.records(bytes.clone(), HEAD_BYTES, head, &uncompressed, decoded_bytes_max);
    }
    let limit = DecompressLimit { bytes_max: decoded_bytes_max.min(u32::MAX as usize), ..limit };
    let mut opened = codec::decompress(codec, body, limit)?;
    let records = Bytes::from(std::mem::take(&mut opened.bytes));
    batch.records(records, 0, head, &opened, decoded_bytes_max)
}

/// The compressed section of a whole batch.
pub(super) fn compressed(bytes: &[u8]) -> Option<(Codec, &[u8])> {
    let codec = codec(bytes).ok().filter(|codec| *codec != Codec::None)?;
    Some((codec, &bytes[HEAD_BYTES..]))
}

/// The offsets that a batch's head claims; `None` if the last one comes before the first, as in a batch that
/// covers none.
fn head_range(bytes: &[u8]) -> Result<Option<OffsetRange>, Fault> {
    let (base, last_delta) = (base_offset(bytes), last_delta(bytes));
    let last = base.checked_add(last_delta).filter(|_| base >= 0);
    let last = last.ok_or(bad_offsets(base, last_delta))?;
    Ok(OffsetRange::new(base, last))
}

/// What a batch's head says about its records.
struct Batch {
    codec: Codec,
    base_offset: i64,
    last_delta: i64,
    base_timestamp: i64,
    append_time: Option<i64>,
    is_control: bool,
    producer_id: Option<i64>,
    count: i32,
}

impl Batch {
    /// Reads the records, which start at `start` of `bytes` and end with `bytes`. `opened` has the anomalies
    /// found during decompression.
    fn records(
        &self,
        bytes: Bytes,
        start: usize,
        head: Option<OffsetRange>,
        opened: &Decompressed,
        limit: usize,
    ) -> Result<DecodedFrame, Fault> {
        let most = ((bytes.len() - start) / RECORD_BYTES_MIN) as u64;
        let count = u32::try_from(self.count)
            .ok()
            .filter(|count| u64::from(*count) <= most)
            .ok_or(Fault::BadCount { claimed: self.count.into(), most })?;
        // Uncompressed records are a part of the frame and take no further memory.
        let bytes_used = if start == 0 { bytes.len() } else { 0 };
        let mut builder = RecordBuilder::new(count as usize, self.is_control, bytes_used, limit)?;
        (builder.codec, builder.producer_id) = (self.codec, self.producer_id);
        builder.anomalies = opened.anomalies;
        let mut fields = Fields { bytes: &bytes, at: start, end: bytes.len() };
        let mut delta_before = -1;
        for record in 0..count {
            delta_before = self.record(&mut fields, record, delta_before, &mut builder)?;
        }
        match bytes.len() - fields.at {
            0 => {}
            // Kafka's reader refuses bytes after the last record, but does not check for them if the count is
            // 0.
            _ if count == 0 => builder.anomalies.insert(Anomaly::BytesLeftOver),
            left => return Err(Fault::LeftOver { bytes: left as u64 }),
        }
        builder.finish(self.base_offset, head, bytes)
    }

    /// Reads one record, and returns its offset's distance from the base.
    fn record(
        &self,
        fields: &mut Fields<'_>,
        record: u32,
        delta_before: i64,
        builder: &mut RecordBuilder,
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
        let offset = self.base_offset.checked_add(offset_delta);
        let offset = offset.ok_or(Fault::BadRecordOffset { record, offset: offset_delta })?;
        if offset_delta <= delta_before || offset_delta > self.last_delta {
            builder.unexpected_offset(offset);
        }
        let key = fields.nullable(builder).ok_or(bad("its key"))?;
        let value = fields.nullable(builder).ok_or(bad("its value"))?;
        let first_header = builder.headers();
        let headers = fields.varint().ok_or(bad("its header count"))?;
        let most = (end - fields.at) / HEADER_BYTES_MIN;
        if usize::try_from(headers).is_err() || headers as usize > most {
            return Err(bad("its header count"));
        }
        for _ in 0..headers {
            let name = fields.sized().ok_or(bad("a header's name"))?;
            let value = fields.nullable(builder).ok_or(bad("a header's value"))?;
            builder.header(name, value)?;
        }
        if fields.at != end {
            return Err(bad("its length is larger than its parts"));
        }
        fields.end = batch_end;
        // Java adds without an overflow check. So the sum wraps around to the time from which the writer
        // computed the difference.
        let timestamp = self.append_time.unwrap_or(self.base_timestamp.wrapping_add(time_delta));
        builder.record(offset, timestamp, key, value, first_header);
        Ok(offset_delta)
    }
}

/// Reads the parts of records; `None` if they reach past the end or are not a number.
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

    /// Reads a zigzag varint of at most five bytes. Bits beyond 32 are lost, as in Kafka's reader.
    #[inline]
    fn varint(&mut self) -> Option<i32> {
        let value = self.unsigned::<5>()? as u32;
        Some((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// Reads a zigzag varint of at most ten bytes. Bits beyond 64 are lost.
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
            // Only one bit of the tenth byte fits. The others are lost.
            value |= u64::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a length and as many bytes. The length -1 means null, and Kafka's reader takes every negative
    /// length as null.
    #[inline]
    fn nullable(&mut self, builder: &mut RecordBuilder) -> Option<Option<Span>> {
        match self.varint()? {
            -1 => Some(None),
            len if len < 0 => {
                builder.anomalies.insert(Anomaly::NegativeLength);
                Some(None)
            }
            len => self.span(len).map(Some),
        }
    }

    /// Reads a length, which must not be negative, and as many bytes.
    fn sized(&mut self) -> Option<Span> {
        let len = self.varint()?;
        self.span(len)
    }

    #[inline]
    fn span(&mut self, len: i32) -> Option<Span> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.end - self.at)?;
        let span = Span { start: self.at as u32, len: len as u32 };
        self.at += len;
        Some(span)
    }
}
