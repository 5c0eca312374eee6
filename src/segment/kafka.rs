//! Kafka record batches, magic 2, as they lie in a log segment.
//!
//! The format is Kafka's "Record Batch" and "Record" (its documentation, section Message Format; KIP-98, KIP-534). Where the
//! documentation is silent, `DefaultRecordBatch` and `DefaultRecord` of its Java clients decide. What these read although the documentation
//! does not allow it is read here too, and named as an [`Anomaly`].

use bytes::Bytes;

use super::codec::{self, Codec, Opened, Room};
use super::framing::Head;
use super::message;
use super::record_builder::RecordBuilder;
use super::{Anomaly, DecodedFrame, Fault};
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
/// Where the magic is, in batches and in the messages from before them.
pub(super) const MAGIC_AT: usize = 16;
/// Base offset, length, leader epoch and magic: what must be there to tell a batch from other bytes.
pub(super) const PREFIX_BYTES: usize = 17;
/// Where the bytes that the CRC covers start.
const CRC_START: usize = 21;
/// The smallest record: length, attributes, time, offset, key length, value length, header count, a byte each.
pub(super) const RECORD_BYTES_MIN: usize = 7;
/// The smallest header: two lengths.
const HEADER_BYTES_MIN: usize = 2;

/// What a compressed record is guessed to be, in bytes, where there are very many of them for the batch's size; and how many times
/// its size a batch is guessed to open to at most.
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

/// A batch's first offset; a message's own, or that of the last one in it.
pub(super) fn base_offset(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(be(bytes, 0))
}

fn length(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(be(bytes, 8))
}

/// Reads as much of the head of a batch, or of a message from before batches, as splitting needs. With `any_magic` a frame of an unknown
/// magic is as long as its length field says: all magics so far have it at the same place.
pub(super) fn head(bytes: &[u8], any_magic: bool) -> Result<Head, Fault> {
    if bytes.len() >= 8 && base_offset(bytes) < 0 {
        return Err(Fault::BadOffsets { base: base_offset(bytes), last: base_offset(bytes) });
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

/// Whether a frame is one of no known magic.
pub(super) fn is_of_unknown_magic(bytes: &[u8]) -> bool {
    bytes[MAGIC_AT] > MAGIC
}

/// The offsets of a batch whose head is all there; an error where they are no range.
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

/// Whether the records of a batch, whose head is all there, are control records.
pub(super) fn is_control(bytes: &[u8]) -> bool {
    attributes(bytes) & ATTRIBUTE_CONTROL != 0
}

/// The producer of a batch, whose head is all there, that belongs to a transaction or ends one.
pub(super) fn transactional_producer(bytes: &[u8]) -> Option<i64> {
    let has_one = attributes(bytes) & (ATTRIBUTE_TRANSACTIONAL | ATTRIBUTE_CONTROL) != 0;
    has_one.then(|| i64::from_be_bytes(be(bytes, 43)))
}

/// How the records of a batch, whose head is all there, are compressed.
pub(super) fn codec(bytes: &[u8]) -> Result<Codec, Fault> {
    Codec::of_attributes(attributes(bytes))
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
pub(super) fn decode(bytes: &Bytes, room: Room) -> Result<DecodedFrame, Fault> {
    let decoded_bytes_max = room.bytes_max;
    check_crc(bytes)?;
    let head = head_range(bytes)?;
    let attributes = attributes(bytes);
    let codec = Codec::of_attributes(attributes)?;
    let batch = Batch {
        codec,
        base_offset: base_offset(bytes),
        last_delta: last_delta(bytes),
        // Compaction may put a delete horizon here (attribute bit 6, KIP-534): it rewrites the records' times relative to
        // that, so that their sum is their time all the same.
        base_timestamp: i64::from_be_bytes(be(bytes, 27)),
        append_time: (attributes & ATTRIBUTE_LOG_APPEND_TIME != 0).then(|| i64::from_be_bytes(be(bytes, 35))),
        is_control: is_control(bytes),
        producer_id: transactional_producer(bytes),
        count: count(bytes),
    };
    let body = &bytes[HEAD_BYTES..];
    if codec == Codec::None || batch.count == 0 {
        let uncompressed = Opened::default();
        return batch.records(bytes.clone(), HEAD_BYTES, head, &uncompressed, decoded_bytes_max);
    }
    let within = Room { bytes_max: decoded_bytes_max.min(u32::MAX as usize), ..room };
    let mut opened = codec::open_into(codec, body, within)?;
    let records = Bytes::from(std::mem::take(&mut opened.bytes));
    batch.records(records, 0, head, &opened, decoded_bytes_max)
}

/// The compressed section of a batch that is all there.
pub(super) fn compressed(bytes: &[u8]) -> Option<(Codec, &[u8])> {
    let codec = codec(bytes).ok().filter(|codec| *codec != Codec::None)?;
    Some((codec, &bytes[HEAD_BYTES..]))
}

/// The offsets that a batch's head claims; `None` where the last one comes before the first, as in a batch that covers none.
fn head_range(bytes: &[u8]) -> Result<Option<OffsetRange>, Fault> {
    let (base, last_delta) = (base_offset(bytes), last_delta(bytes));
    let last = base.checked_add(last_delta).filter(|_| base >= 0);
    let last = last.ok_or(Fault::BadOffsets { base, last: last_delta })?;
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
    /// Reads the records, which start at `start` of `bytes` and end where those end. `opened` says what was noticed when they were opened.
    fn records(
        &self,
        bytes: Bytes,
        start: usize,
        head: Option<OffsetRange>,
        opened: &Opened,
        limit: usize,
    ) -> Result<DecodedFrame, Fault> {
        let most = ((bytes.len() - start) / RECORD_BYTES_MIN) as u64;
        let count = u32::try_from(self.count)
            .ok()
            .filter(|count| u64::from(*count) <= most)
            .ok_or(Fault::BadCount { claimed: self.count.into(), most })?;
        // Uncompressed records are there already.
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
            // Kafka's reader looks behind the last record, and does not look for one where none is counted.
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
        // Java adds without looking for overflow, and so finds again the time that its writer took the difference from.
        let timestamp = self.append_time.unwrap_or(self.base_timestamp.wrapping_add(time_delta));
        builder.record(offset, timestamp, key, value, first_header);
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

    /// A zigzag varint of at most five bytes. What goes beyond 32 bits is lost, as in Kafka's reader.
    #[inline]
    fn varint(&mut self) -> Option<i32> {
        let value = self.unsigned::<5>()? as u32;
        Some((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// A zigzag varint of at most ten bytes. What goes beyond 64 bits is lost.
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
            // The tenth byte has room for one bit only: the others are lost.
            value |= u64::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A length and as many bytes; the length -1 stands for null, and Kafka's reader takes all that are negative for it.
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

    /// A length, not negative, and as many bytes.
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
