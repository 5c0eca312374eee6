//! Chronik's `CanonicalRecord`, the data of a V2 frame. Only this module uses bincode.
//!
//! Chronik writes it with `bincode::serialize` of bincode 1 (fixed-width little-endian numbers, `u64`
//! lengths, `u32` enum tags), which bincode 2 calls the legacy configuration. It is read piece by piece and
//! borrowed from the frame. A length is checked against the bytes that are left before anything is allocated
//! for it.

use std::ops::Range;

use bincode::{BorrowDecode, Decode};
use bytes::Bytes;

use super::record_builder::RecordBuilder;
use super::skim::{self, Source, Visitor};
use super::{Anomaly, Codec, Fault, kafka};
use crate::ids::OffsetRange;
use crate::record::Span;

/// The fields before the records, in this order.
#[derive(Decode)]
struct Head {
    base_offset: i64,
    _partition_leader_epoch: i32,
    producer_id: i64,
    _producer_epoch: i16,
    _base_sequence: i32,
    is_transactional: bool,
    is_control: bool,
    compression: Compression,
    timestamp_type: TimestampType,
    _base_timestamp: i64,
    max_timestamp: i64,
    record_count: u64,
}

/// The codec of the producer's batch. `records` are not compressed.
#[derive(Decode)]
enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip,
            Compression::Snappy => Self::Snappy,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

#[derive(Decode, PartialEq)]
enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// The fields of a record before its headers.
#[derive(BorrowDecode)]
struct RecordHead<'a> {
    offset: i64,
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    header_count: u64,
}

#[derive(BorrowDecode)]
struct Header<'a> {
    key: &'a str,
    value: Option<&'a [u8]>,
}

/// The smallest record: offset, time, no key, no value, header count, attributes.
const RECORD_BYTES_MIN: usize = 8 + 8 + 1 + 1 + 8 + 1;

/// The contents of a canonical record.
pub(super) struct Canonical {
    pub(super) base_offset: i64,
    pub(super) count: u64,
    pub(super) builder: RecordBuilder,
    /// The position in the frame of the producer's own batch of magic 2, if it was kept.
    pub(super) original: Option<Range<usize>>,
    /// What is wrong with that batch. The broker does not check it, and its own record beside it is sound.
    pub(super) original_damage: Option<&'static str>,
}

/// Decodes the canonical record in `data` of `frame`. `offsets` is the range that the frame's head claims.
pub(super) fn decode(
    frame: &Bytes,
    data: Range<usize>,
    offsets: Option<OffsetRange>,
    limit: usize,
) -> Result<Canonical, Fault> {
    let mut rest = Rest { frame, at: data.start, end: data.end };
    let head: Head = rest.decode().ok_or(Fault::BadFrame { part: "its canonical record's head" })?;
    let most = (rest.len() / RECORD_BYTES_MIN) as u64;
    let count = head.record_count;
    if count > most {
        return Err(Fault::BadCount { claimed: i64::try_from(count).unwrap_or(i64::MAX), most });
    }
    let append_time = (head.timestamp_type == TimestampType::LogAppendTime).then_some(head.max_timestamp);
    let mut builder = RecordBuilder::new(count as usize, head.is_control, 0, limit)?;
    builder.codec = head.compression.into();
    builder.producer_id = (head.is_transactional || head.is_control).then_some(head.producer_id);
    for record in 0..count as u32 {
        decode_record(&mut rest, record, offsets, append_time, &mut builder)?;
    }
    // The bytes of the compressed section, of the producer's message set of magic 1, and of its batch of
    // magic 2. Older releases have fewer of these fields, and end after the last one that they have.
    let _compressed_records_wire_bytes = rest.option("its compressed section")?;
    let _original_v1_wire_format = rest.option("its original message set")?;
    let original = rest.option("its original batch")?;
    let original_damage = original.and_then(|batch| kafka::check_whole(batch).err());
    if original_damage.is_some() {
        builder.anomalies.insert(Anomaly::OriginalBatchDamaged);
    }
    let original = original.map(|batch| {
        let Span { start, len } = rest.span(batch);
        start as usize..start as usize + len as usize
    });
    if rest.len() > 0 {
        return Err(Fault::LeftOver { bytes: rest.len() as u64 });
    }
    Ok(Canonical { base_offset: head.base_offset, count, builder, original, original_damage })
}

fn decode_record(
    rest: &mut Rest<'_>,
    record: u32,
    head_range: Option<OffsetRange>,
    append_time: Option<i64>,
    builder: &mut RecordBuilder,
) -> Result<(), Fault> {
    let bad = |part| Fault::BadRecord { record, part };
    let head: RecordHead<'_> = rest.decode().ok_or(bad("its offset, time, key or value"))?;
    // The broker computes a record's offset from the producer's deltas, but the last offset from the number
    // of records. Deltas with gaps reach beyond the last offset.
    if head_range.is_none_or(|range| head.offset < range.first() || head.offset > range.last()) {
        builder.unexpected_offset(head.offset);
    }
    let first_header = builder.headers();
    for _ in 0..head.header_count {
        let header: Header<'_> = rest.decode().ok_or(bad("a header"))?;
        builder.header(rest.span(header.key.as_bytes()), header.value.map(|value| rest.span(value)))?;
    }
    // No bit of a record's attributes means anything so far.
    let _attributes: i8 = rest.decode().ok_or(bad("its attributes"))?;
    let key = head.key.map(|key| rest.span(key));
    let value = head.value.map(|value| rest.span(value));
    builder.record(head.offset, append_time.unwrap_or(head.timestamp), key, value, first_header);
    Ok(())
}

/// The size of [`Head`] in a frame, in bytes. All its fields have a fixed width.
const HEAD_BYTES: usize = 8 + 4 + 8 + 2 + 4 + 1 + 1 + 4 + 4 + 8 + 8 + 8;

/// Passes the records of a canonical record, which is all of `data`, to `visitor`, one at a time.
pub(super) fn skim(data: &mut Source<'_>, visitor: &mut dyn Visitor) -> Result<(), Fault> {
    let bad = Fault::BadFrame { part: "its canonical record's head" };
    let head: [u8; HEAD_BYTES] = data.array()?;
    let (head, _) =
        bincode::decode_from_slice::<Head, _>(&head, bincode::config::legacy()).map_err(|_| bad)?;
    if head.is_control {
        return data.skip_rest();
    }
    let append_time = (head.timestamp_type == TimestampType::LogAppendTime).then_some(head.max_timestamp);
    for _ in 0..head.record_count {
        if visitor.is_done() {
            break;
        }
        let offset = i64::from_le_bytes(data.array()?);
        let own = i64::from_le_bytes(data.array()?);
        let timestamp = append_time.unwrap_or(own);
        let mut draft = skim::draft(offset, timestamp, visitor);
        let key = optional_len(data)?;
        draft.key(data, key)?;
        let value = optional_len(data)?;
        draft.value(data, value)?;
        for _ in 0..u64::from_le_bytes(data.array()?) {
            let name = u64::from_le_bytes(data.array()?);
            draft.header_name(data, name)?;
            let value = optional_len(data)?;
            draft.header_value(data, value)?;
        }
        let _attributes: [u8; 1] = data.array()?;
        draft.finish(visitor);
    }
    data.skip_rest()
}

/// Reads the length of an optional part that follows.
fn optional_len(data: &mut Source<'_>) -> Result<Option<u64>, Fault> {
    match data.array()? {
        [0] => Ok(None),
        _ => Ok(Some(u64::from_le_bytes(data.array()?))),
    }
}

/// The bytes that are not read yet.
struct Rest<'a> {
    frame: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Rest<'a> {
    fn len(&self) -> usize {
        self.end - self.at
    }

    fn decode<T: BorrowDecode<'a, ()>>(&mut self) -> Option<T> {
        let bytes = &self.frame[self.at..self.end];
        let (value, read) = bincode::borrow_decode_from_slice(bytes, bincode::config::legacy()).ok()?;
        self.at += read;
        Some(value)
    }

    /// Reads an option. It may be missing, but only if nothing follows.
    fn option(&mut self, part: &'static str) -> Result<Option<&'a [u8]>, Fault> {
        if self.len() == 0 {
            return Ok(None);
        }
        self.decode().ok_or(Fault::BadFrame { part })
    }

    /// The position in the frame of a part that was borrowed from it.
    fn span(&self, part: &[u8]) -> Span {
        let start = part.as_ptr() as usize - self.frame.as_ptr() as usize;
        Span { start: start as u32, len: part.len() as u32 }
    }
}
