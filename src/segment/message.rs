//! Kafka messages of magic 0 and 1, the format before record batches. They still lie in segments of logs that
//! were never rewritten.
//!
//! The format is Kafka's "message set" (its documentation, section Old Message Format; KIP-31, KIP-32). For
//! anything the documentation does not say, the source is `LegacyRecord` and `AbstractLegacyRecordBatch` of
//! Kafka's Java clients. Each message is a frame. A compressed message holds further messages in its value.

use std::borrow::Cow;

use bytes::Bytes;

use super::codec::{self, Codec, DecompressLimit};
use super::kafka::MAGIC_AT;
use super::record_builder::RecordBuilder;
use super::{Anomalies, Anomaly, DecodedFrame, Fault};
use crate::ids::OffsetRange;
use crate::record::Span;

/// The smallest length field: CRC, magic, attributes, key length and value length of magic 0.
pub(super) const LENGTH_MIN: i32 = 14;
/// Offset and length, which the length field does not count.
const OVERHEAD: usize = 12;
/// The bytes of the smallest message.
pub(super) const HEAD_BYTES: usize = OVERHEAD + LENGTH_MIN as usize;
/// The position of the CRC-32. It covers the bytes from the magic on.
const CRC_AT: usize = 12;
const ATTRIBUTES_AT: usize = 17;
const TIMESTAMP_AT: usize = 18;
/// The position of the key's length, for magic 0 and for magic 1.
const KEY_AT: [usize; 2] = [18, 26];

const ATTRIBUTE_LOG_APPEND_TIME: u8 = 1 << 3;

/// A message's parts.
struct Message {
    offset: i64,
    magic: u8,
    attributes: u8,
    /// -1 means none: magic 0 has no time.
    timestamp: i64,
    key: Option<Span>,
    value: Option<Span>,
    anomalies: Anomalies,
}

impl Message {
    /// Reads the message that takes up `bytes[start..end]`, and checks its CRC-32.
    fn parse(bytes: &[u8], start: usize, end: usize) -> Result<Self, Fault> {
        let whole = &bytes[start..end];
        check_crc(whole)?;
        let magic = whole[MAGIC_AT];
        let key_at = *KEY_AT.get(usize::from(magic)).ok_or(Fault::BadMagic { found: magic.into() })?;
        let least = key_at + 8 - OVERHEAD;
        if whole.len() < OVERHEAD + least {
            let length = (whole.len() - OVERHEAD) as i64;
            return Err(Fault::BadLength { length, least: least as i64 });
        }
        let mut fields = Fields { bytes: whole, at: key_at, start, anomalies: Anomalies::default() };
        let bad = |part| Fault::BadRecord { record: 0, part };
        let key = fields.nullable().ok_or(bad("its key"))?;
        let value = fields.nullable().ok_or(bad("its value"))?;
        let mut anomalies = fields.anomalies;
        if fields.at < whole.len() {
            anomalies.insert(Anomaly::BytesLeftOver);
        }
        anomalies.insert(if magic == 0 { Anomaly::KafkaMagic0 } else { Anomaly::KafkaMagic1 });
        let timestamp = if magic == 0 { -1 } else { i64_at(whole, TIMESTAMP_AT) };
        let (offset, attributes) = (i64_at(whole, 0), whole[ATTRIBUTES_AT]);
        Ok(Self { offset, magic, attributes, timestamp, key, value, anomalies })
    }

    fn codec(&self) -> Result<Codec, Fault> {
        codec_of(self.attributes)
    }

    fn is_of_append_time(&self) -> bool {
        is_of_append_time(self.magic, self.attributes)
    }
}

/// Whether a message has the time at which the broker appended it. The time then holds for all messages
/// inside it, too.
pub(super) fn is_of_append_time(magic: u8, attributes: u8) -> bool {
    magic == 1 && attributes & ATTRIBUTE_LOG_APPEND_TIME != 0
}

/// The codec of a message. Zstandard exists only in batches.
pub(super) fn codec_of(attributes: u8) -> Result<Codec, Fault> {
    match Codec::of_attributes(attributes.into())? {
        Codec::Zstd => Err(Fault::UnknownCodec { id: Codec::Zstd as u8 }),
        codec @ (Codec::None | Codec::Gzip | Codec::Snappy | Codec::Lz4) => Ok(codec),
    }
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Whether a frame is a message of magic 0 or 1.
pub(super) fn is_legacy_message(frame: &[u8]) -> bool {
    frame[MAGIC_AT] <= 1
}

/// Checks the message's CRC-32, which covers the bytes from the magic to the end.
pub(super) fn check_crc(message: &[u8]) -> Result<(), Fault> {
    let stored = i32_at(message, CRC_AT) as u32;
    let computed = crc32fast::hash(&message[MAGIC_AT..]);
    if stored == computed { Ok(()) } else { Err(Fault::CrcMismatch { stored, computed }) }
}

/// Whether the lengths in a possible message add up to its size. This is far cheaper than its checksum.
pub(super) fn is_plausible(message: &[u8]) -> bool {
    let Some(key_at) = KEY_AT.get(usize::from(message[MAGIC_AT])) else { return false };
    let mut fields = Fields { bytes: message, at: *key_at, start: 0, anomalies: Anomalies::default() };
    let adds_up = fields.nullable().is_some() && fields.nullable().is_some();
    adds_up && fields.at == message.len() && codec_of(message[ATTRIBUTES_AT]).is_ok()
}

/// The offset of a message that is not compressed; `None` for a compressed one, which states only the offset
/// of the last message in it.
pub(super) fn claimed_range(message: &[u8]) -> Option<OffsetRange> {
    let offset = i64_at(message, 0);
    let is_single = matches!(codec_of(message[ATTRIBUTES_AT]), Ok(Codec::None));
    OffsetRange::new(offset, offset).filter(|_| is_single && offset >= 0)
}

/// The number of records. A compressed message is decompressed to count them.
pub(super) fn claimed_records(message: &Bytes, decoded_bytes_max: usize) -> Option<u64> {
    match codec_of(message[ATTRIBUTES_AT]) {
        Ok(Codec::None) => Some(1),
        Ok(_) => Some(
            decode(message, DecompressLimit { bytes_max: decoded_bytes_max, known: 0 })
                .ok()?
                .records
                .records
                .len() as u64,
        ),
        Err(_) => None,
    }
}

/// Estimates the decompressed size of a message, in bytes, as for batches.
pub(super) fn opened_bytes_guess(message: &[u8]) -> u64 {
    let size = message.len() as u64;
    match codec_of(message[ATTRIBUTES_AT]) {
        Ok(Codec::None) | Err(_) => size,
        Ok(Codec::Snappy | Codec::Lz4) => 2 * size,
        Ok(Codec::Gzip | Codec::Zstd) => 4 * size,
    }
}

/// The compressed section of a message.
pub(super) fn compressed(message: &Bytes) -> Option<(Codec, &[u8])> {
    let outer = Message::parse(message, 0, message.len()).ok()?;
    let codec = outer.codec().ok().filter(|codec| *codec != Codec::None)?;
    Some((codec, outer.value.map_or(&[][..], |value| value.of(message))))
}

/// Decodes a message. `frame` has the length that its length field says: the splitter ensures it.
pub(super) fn decode(frame: &Bytes, limit: DecompressLimit) -> Result<DecodedFrame, Fault> {
    let decoded_bytes_max = limit.bytes_max;
    let outer = Message::parse(frame, 0, frame.len())?;
    let range = OffsetRange::new(outer.offset, outer.offset);
    let codec = outer.codec()?;
    if codec == Codec::None {
        let mut builder = RecordBuilder::new(1, false, 0, decoded_bytes_max)?;
        builder.anomalies = outer.anomalies;
        builder.record(outer.offset, outer.timestamp, outer.key, outer.value, 0);
        return builder.finish(outer.offset, range, frame.clone());
    }
    let bad = |part| Fault::BadFrame { part };
    let value = outer.value.ok_or(bad("a compressed message without a value"))?.of(frame);
    let section = match (outer.magic, codec) {
        (0, Codec::Lz4) => with_header_checksum(value),
        _ => Cow::Borrowed(value),
    };
    let limit = DecompressLimit { bytes_max: decoded_bytes_max.min(u32::MAX as usize), ..limit };
    let opened = codec::decompress(codec, &section, limit)?;
    let bytes_used = opened.bytes.len();
    let places = places(&opened.bytes, decoded_bytes_max)?;
    let bytes_used = bytes_used + places.len() * size_of::<(usize, usize)>();
    let first = opened.bytes.get(places.last().ok_or(bad("a compressed message without messages"))?.0..);
    let last_inner = first.map_or(0, |last| i64_at(last, 0));
    let mut builder = RecordBuilder::new(places.len(), false, bytes_used, decoded_bytes_max)?;
    (builder.codec, builder.anomalies) = (codec, opened.anomalies);
    builder.anomalies.extend(outer.anomalies);
    if places.last().is_some_and(|(_, end)| *end < opened.bytes.len()) {
        builder.anomalies.insert(Anomaly::BytesLeftOver);
    }
    // In magic 1, inner offsets are relative to the first inner message. Some producers, and so some brokers,
    // left the outer offset at zero.
    let base = match outer.magic {
        0 => 0,
        _ if outer.offset == 0 => 0,
        _ if outer.offset < last_inner => return Err(bad_offsets(outer.offset, last_inner)),
        _ => outer.offset.checked_sub(last_inner).ok_or(bad_offsets(outer.offset, last_inner))?,
    };
    for (nth, (start, end)) in places.into_iter().enumerate() {
        inner(&outer, base, nth as u32, &opened.bytes, start..end, &mut builder)?;
    }
    builder.finish(outer.offset, range, Bytes::from(opened.bytes))
}

/// The fault of a compressed message whose offset does not fit the offset that the last message in it states.
pub(super) fn bad_offsets(outer: i64, last_inner: i64) -> Fault {
    Fault::BadOffsets { base: i128::from(outer) - i128::from(last_inner), last: outer.into() }
}

/// Reads one of the messages in a compressed message.
fn inner(
    outer: &Message,
    base: i64,
    record: u32,
    bytes: &[u8],
    place: std::ops::Range<usize>,
    builder: &mut RecordBuilder,
) -> Result<(), Fault> {
    let message = Message::parse(bytes, place.start, place.end)?;
    if message.codec()? != Codec::None {
        return Err(Fault::BadRecord { record, part: "it is compressed within a compressed message" });
    }
    let offset = base.checked_add(message.offset);
    let offset = offset.ok_or(Fault::BadRecordOffset { record, offset: message.offset })?;
    builder.anomalies.extend(message.anomalies);
    if offset < 0 || offset > outer.offset {
        builder.unexpected_offset(offset);
    } else {
        builder.covers(offset);
    }
    let timestamp = match message.magic {
        1 if outer.is_of_append_time() => outer.timestamp,
        _ => message.timestamp,
    };
    builder.record(offset, timestamp, message.key, message.value, 0);
    Ok(())
}

/// Returns the positions of the messages in a decompressed value. A message that is cut off at the end is
/// ignored: brokers cut responses at any byte, and clients skip such a message.
fn places(opened: &[u8], limit: usize) -> Result<Vec<(usize, usize)>, Fault> {
    let (mut places, mut at) = (Vec::new(), 0);
    // A list that grows exists twice for a moment.
    let most = limit.saturating_sub(opened.len()) / (2 * size_of::<(usize, usize)>());
    while opened.len() - at >= OVERHEAD {
        let length = i32_at(opened, at + 8);
        if length < LENGTH_MIN {
            return Err(Fault::BadLength { length: length.into(), least: LENGTH_MIN.into() });
        }
        let Some(end) = at.checked_add(OVERHEAD + length as usize).filter(|end| *end <= opened.len()) else {
            break;
        };
        if places.len() >= most {
            return Err(Fault::TooLarge { limit });
        }
        places.push((at, end));
        at = end;
    }
    Ok(places)
}

/// Returns an LZ4 frame with a correct header checksum. Clients of magic 0 computed it over the magic number
/// too, which is wrong, and Kafka's reader does not check it.
pub(super) fn with_header_checksum(frame: &[u8]) -> Cow<'_, [u8]> {
    let Some(flags) = frame.get(4) else { return Cow::Borrowed(frame) };
    let end = 6 + if flags & 1 << 3 != 0 { 8 } else { 0 } + if flags & 1 != 0 { 4 } else { 0 };
    let Some(descriptor) = frame.get(4..end) else { return Cow::Borrowed(frame) };
    let checksum = (xxh32_of_few(descriptor) >> 8) as u8;
    match frame.get(end) {
        Some(found) if *found != checksum => {
            let mut mended = frame.to_vec();
            mended[end] = checksum;
            Cow::Owned(mended)
        }
        _ => Cow::Borrowed(frame),
    }
}

/// XXH32 with the seed 0, of fewer than 16 bytes (xxHash fast digest algorithm, section XXH32).
fn xxh32_of_few(bytes: &[u8]) -> u32 {
    const PRIMES: [u32; 5] = [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D, 0x27D4_EB2F, 0x1656_67B1];
    let mut hash = PRIMES[4].wrapping_add(bytes.len() as u32);
    let lanes = bytes.chunks_exact(4);
    let rest = lanes.remainder();
    for lane in lanes {
        let lane = u32::from_le_bytes(lane.try_into().expect("four bytes"));
        hash = hash.wrapping_add(lane.wrapping_mul(PRIMES[2])).rotate_left(17).wrapping_mul(PRIMES[3]);
    }
    for byte in rest {
        hash = hash.wrapping_add(u32::from(*byte).wrapping_mul(PRIMES[4]));
        hash = hash.rotate_left(11).wrapping_mul(PRIMES[0]);
    }
    hash = (hash ^ hash >> 15).wrapping_mul(PRIMES[1]);
    hash = (hash ^ hash >> 13).wrapping_mul(PRIMES[2]);
    hash ^ hash >> 16
}

/// Reads a message's key and value; `None` if they reach past its end.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The position of the message in the bytes that the spans point into.
    start: usize,
    anomalies: Anomalies,
}

impl Fields<'_> {
    /// Reads a length and as many bytes. -1 means null, and Kafka's reader takes every negative length as
    /// null.
    fn nullable(&mut self) -> Option<Option<Span>> {
        let len = i32::from_be_bytes(*self.bytes.get(self.at..)?.first_chunk()?);
        self.at += 4;
        let Ok(len) = usize::try_from(len) else {
            if len != -1 {
                self.anomalies.insert(Anomaly::NegativeLength);
            }
            return Some(None);
        };
        if len > self.bytes.len() - self.at {
            return None;
        }
        let span = Span { start: (self.start + self.at) as u32, len: len as u32 };
        self.at += len;
        Some(Some(span))
    }
}
