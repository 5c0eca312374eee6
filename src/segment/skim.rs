//! Reads records one at a time from a stream, for frames that are too large to be decompressed as a whole. If
//! a record is larger than a limit, its parts are skipped, but counted and hashed. So no more than the limit
//! is held, whatever the frame decompresses to.
//!
//! Frames come from blocks with verified checksums, and were decoded when they were stored. So their own
//! checksums are not computed again, and a deviation from the format is an error.

mod draft;
mod inflate;
mod legacy;
mod snappy;
mod source;

use std::io::BufRead;

use super::codec::Codec;
use super::{Fault, canonical, chronik, kafka};
use crate::ids::SegmentFormat;
use crate::record::StoredRecord;

use draft::Draft;
#[cfg(test)]
pub(super) use snappy::REACH_BYTES;
pub(super) use source::Source;

/// Receives the records of a stream.
pub trait Visitor {
    /// Limits the size of the next data record in bytes, as [`StoredRecord::mem_usage`] counts it; `None`
    /// skips the record. Called once for each record.
    fn limit(&mut self, offset: i64, timestamp_ms: Option<i64>) -> Option<usize>;

    /// Receives a record that was not skipped. If it is larger than its limit, it comes without its value.
    fn record(&mut self, record: StoredRecord);

    /// Whether a record may share the decompressed bytes of its frame instead of a copy. It is for visitors
    /// that take one record and hold nothing else of the frame.
    fn shares(&self) -> bool {
        false
    }

    /// Whether the visitor wants no more records of the frame. Then the rest of it is not decompressed.
    fn is_done(&self) -> bool {
        false
    }
}

/// The fields of a batch's head that its records need.
struct KafkaHead {
    base_offset: i64,
    leader_epoch: Option<i32>,
    base_timestamp: i64,
    append_time: Option<i64>,
    count: i32,
}

/// Reads the next frame of `from` to its last byte, and passes its data records to `visitor`. In addition to
/// the memory of the records, it holds a codec's window of up to `work_bytes_max` bytes.
///
/// # Errors
/// Bytes that are not a frame, and [`Fault::TooLarge`] if a codec needs a larger window than it may have.
pub fn skim_frame(
    from: &mut dyn BufRead,
    format: SegmentFormat,
    work_bytes_max: usize,
    visitor: &mut dyn Visitor,
) -> Result<(), Fault> {
    let mut source = Source::new(from);
    match format {
        SegmentFormat::KafkaLog => kafka_frame(&mut source, work_bytes_max, visitor),
        SegmentFormat::ChronikWal => chronik_frame(&mut source, visitor),
    }
}

fn kafka_frame(
    source: &mut Source<'_>,
    work_bytes_max: usize,
    visitor: &mut dyn Visitor,
) -> Result<(), Fault> {
    let prefix: [u8; kafka::PREFIX_BYTES] = source.array()?;
    let offset = i64::from_be_bytes(prefix[..8].try_into().expect("eight bytes"));
    let length = u32::from_be_bytes(prefix[8..12].try_into().expect("four bytes"));
    let left = u64::from(length) + 12 - kafka::PREFIX_BYTES as u64;
    let mut frame = source.take(left);
    match prefix[kafka::MAGIC_AT] {
        kafka::MAGIC => {
            let leader_epoch = kafka::leader_epoch(&prefix);
            batch(&mut frame, (offset, leader_epoch), work_bytes_max, visitor)?
        }
        magic => legacy::message(&mut frame, magic, offset, work_bytes_max, visitor)?,
    }
    frame.skip_rest()
}

fn batch(
    frame: &mut Source<'_>,
    (base_offset, leader_epoch): (i64, Option<i32>),
    work_bytes_max: usize,
    visitor: &mut dyn Visitor,
) -> Result<(), Fault> {
    frame.skip(4)?;
    let attributes = u16::from_be_bytes(frame.array()?);
    frame.skip(4)?;
    let base_timestamp = i64::from_be_bytes(frame.array()?);
    let max_timestamp = i64::from_be_bytes(frame.array()?);
    frame.skip(8 + 2 + 4)?;
    let count = i32::from_be_bytes(frame.array()?);
    if attributes & kafka::ATTRIBUTE_CONTROL != 0 {
        return Ok(());
    }
    let append_time = (attributes & kafka::ATTRIBUTE_LOG_APPEND_TIME != 0).then_some(max_timestamp);
    let head = KafkaHead { base_offset, leader_epoch, base_timestamp, append_time, count };
    match Codec::of_attributes(attributes)? {
        Codec::None => records(frame, &head, visitor),
        _ if count == 0 => Ok(()),
        codec => {
            let mut opened = inflate::reader(codec, frame, work_bytes_max)?;
            records(&mut Source::new(&mut *opened), &head, visitor)
        }
    }
}

fn records(source: &mut Source<'_>, head: &KafkaHead, visitor: &mut dyn Visitor) -> Result<(), Fault> {
    for record in 0..head.count {
        if visitor.is_done() {
            break;
        }
        let bad = Fault::BadRecordOffset { record: record as u32, offset: head.base_offset };
        let _length = source.varint()?;
        let _attributes: [u8; 1] = source.array()?;
        let time_delta = source.varlong()?;
        let offset = head.base_offset.checked_add(i64::from(source.varint()?)).ok_or(bad)?;
        let timestamp = head.append_time.unwrap_or(head.base_timestamp.wrapping_add(time_delta));
        let mut draft = Draft::new(offset, timestamp, visitor).led_in(head.leader_epoch);
        let len = source.varint()?;
        draft.key(source, u64::try_from(len).ok())?;
        let len = source.varint()?;
        draft.value(source, u64::try_from(len).ok())?;
        for _ in 0..source.varint()? {
            let name = source.varint()?.try_into().unwrap_or(0);
            draft.header_name(source, name)?;
            let len = source.varint()?;
            draft.header_value(source, u64::try_from(len).ok())?;
        }
        draft.finish(visitor);
    }
    Ok(())
}

fn chronik_frame(source: &mut Source<'_>, visitor: &mut dyn Visitor) -> Result<(), Fault> {
    let prefix: [u8; chronik::PREFIX_BYTES] = source.array()?;
    let length = u64::from(u32::from_le_bytes(prefix[4..8].try_into().expect("four bytes")));
    match prefix[2] {
        1 => {
            let mut frame = source.take(length.saturating_sub(chronik::PREFIX_BYTES as u64));
            chronik_v1(&mut frame, visitor)?;
            frame.skip_rest()
        }
        _ => {
            // The length does not include the checksum.
            source.skip(4)?;
            let mut frame = source.take(length);
            let topic = u16::from_le_bytes(frame.array()?);
            frame.skip(u64::from(topic) + 4)?;
            let data = u32::from_le_bytes(frame.array()?);
            canonical::skim(&mut frame.take(data.into()), visitor)?;
            frame.skip_rest()
        }
    }
}

fn chronik_v1(frame: &mut Source<'_>, visitor: &mut dyn Visitor) -> Result<(), Fault> {
    let offset = i64::from_le_bytes(frame.array()?);
    let timestamp = i64::from_le_bytes(frame.array()?);
    frame.skip(4)?;
    let mut draft = Draft::new(offset, timestamp, visitor);
    let len = i32::from_le_bytes(frame.array()?);
    draft.key(frame, u64::try_from(len).ok())?;
    let len = i32::from_le_bytes(frame.array()?);
    draft.value(frame, u64::try_from(len).ok())?;
    for _ in 0..i32::from_le_bytes(frame.array()?) {
        let name = u16::from_le_bytes(frame.array()?);
        draft.header_name(frame, name.into())?;
        let len = u32::from_le_bytes(frame.array()?);
        draft.header_value(frame, Some(len.into()))?;
    }
    draft.finish(visitor);
    Ok(())
}

/// Makes a draft for the canonical record, whose parts have the same order.
pub(super) fn draft(offset: i64, timestamp: i64, visitor: &mut dyn Visitor) -> Draft {
    Draft::new(offset, timestamp, visitor)
}
