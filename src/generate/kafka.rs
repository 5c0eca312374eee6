//! Writes Kafka record batches, magic 2.
//!
//! The layout is from Kafka's documentation, "Message Format"
//! (<https://kafka.apache.org/documentation/#messageformat>). Everything is big-endian. Xerial's framing of
//! Snappy is from the README of snappy-java's `SnappyOutputStream`.

use std::io::Write;

use super::{Codec, GenerateError};
use crate::ids::OffsetRange;
use crate::record::{Record, RecordBatch};

/// The fields of a batch's head that do not follow from its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// The offsets that the batch covers; `None`: from its first to its last record. Compaction leaves behind
    /// a wider range, or a range without records.
    pub range: Option<OffsetRange>,
    /// The leader's epoch when it appended the batch.
    pub partition_leader_epoch: i32,
    /// The producer's id; -1: none.
    pub producer_id: i64,
    /// The producer's epoch; -1 without a producer id.
    pub producer_epoch: i16,
    /// The first sequence number; -1 without a producer id.
    pub base_sequence: i32,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
    /// Whether the records are commit or abort markers.
    pub control: bool,
    /// Whether every record has the head's max timestamp as its time.
    pub log_append_time: bool,
}

impl BatchHead {
    /// The first and the last offset that the head states for these records.
    pub(super) fn offsets(&self, batch: &RecordBatch) -> (i64, i64) {
        let of_records = || (batch.records.first().map(|r| r.offset), batch.records.last().map(|r| r.offset));
        match (self.range, of_records()) {
            (Some(range), _) => (range.first(), range.last()),
            (None, (Some(first), Some(last))) => (first, last),
            (None, _) => (0, 0),
        }
    }
}

impl Default for BatchHead {
    /// Epoch 0, no producer id, times given by the producer.
    fn default() -> Self {
        Self {
            range: None,
            partition_leader_epoch: 0,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            transactional: false,
            control: false,
            log_append_time: false,
        }
    }
}

/// Bytes of a batch before its first record.
pub const HEAD_BYTES: usize = 61;
/// The position of the CRC-32C, which covers all bytes after it.
const CRC_AT: usize = 17;
/// The bytes that Kafka's length field does not count: the base offset and the length itself.
const LENGTH_FROM: usize = 12;
/// The input bytes of a block in Xerial's framing, as in snappy-java by default.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// Appends the records to `out` as one batch. Their offsets must rise. A batch without records and without a
/// range covers offset 0.
pub fn encode(
    head: &BatchHead,
    batch: &RecordBatch,
    codec: Codec,
    out: &mut Vec<u8>,
) -> Result<(), GenerateError> {
    let start = out.len();
    let (base_offset, last_offset) = head.offsets(batch);
    let base_timestamp = batch.records.first().and_then(|record| record.timestamp_ms).unwrap_or(-1);
    let max_timestamp = batch.records.iter().filter_map(|record| record.timestamp_ms).max().unwrap_or(-1);
    let attributes = i16::from(codec.number())
        | i16::from(head.log_append_time) << 3
        | i16::from(head.transactional) << 4
        | i16::from(head.control) << 5;

    out.extend_from_slice(&base_offset.to_be_bytes());
    out.extend_from_slice(&[0; 4]); // the length, below
    out.extend_from_slice(&head.partition_leader_epoch.to_be_bytes());
    out.push(2); // magic
    out.extend_from_slice(&[0; 4]); // the CRC, below
    out.extend_from_slice(&attributes.to_be_bytes());
    out.extend_from_slice(&((last_offset - base_offset) as i32).to_be_bytes());
    out.extend_from_slice(&base_timestamp.to_be_bytes());
    out.extend_from_slice(&max_timestamp.to_be_bytes());
    out.extend_from_slice(&head.producer_id.to_be_bytes());
    out.extend_from_slice(&head.producer_epoch.to_be_bytes());
    out.extend_from_slice(&head.base_sequence.to_be_bytes());
    out.extend_from_slice(&(batch.records.len() as i32).to_be_bytes());
    debug_assert_eq!(out.len() - start, HEAD_BYTES);

    if codec == Codec::None {
        encode_records(batch, base_offset, base_timestamp, out);
    } else {
        let mut plain = Vec::with_capacity(batch.bytes.len() + 32 * batch.records.len());
        encode_records(batch, base_offset, base_timestamp, &mut plain);
        compress(codec, &plain, out).map_err(|source| GenerateError::Compress { codec, source })?;
    }

    let length = (out.len() - start - LENGTH_FROM) as u32;
    out[start + 8..start + LENGTH_FROM].copy_from_slice(&length.to_be_bytes());
    seal(&mut out[start..]);
    Ok(())
}

/// Writes the correct checksum for the batch's present bytes. Tests also use it to make a hostile batch that
/// looks sound.
pub fn seal(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CRC_AT + 4..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

fn encode_records(batch: &RecordBatch, base_offset: i64, base_timestamp: i64, out: &mut Vec<u8>) {
    for record in batch.iter() {
        encode_record(&record, base_offset, base_timestamp, out);
    }
}

fn encode_record(record: &Record<'_>, base_offset: i64, base_timestamp: i64, out: &mut Vec<u8>) {
    let timestamp_delta = record.timestamp_ms().unwrap_or(-1) - base_timestamp;
    let offset_delta = record.offset() - base_offset;
    let headers = record.headers().count() as i64;
    // The length comes first, so it is computed before the record is written.
    let length = 1
        + varint_bytes(timestamp_delta)
        + varint_bytes(offset_delta)
        + field_bytes(record.key())
        + field_bytes(record.value())
        + varint_bytes(headers)
        + record.headers().map(|(name, value)| field_bytes(Some(name)) + field_bytes(value)).sum::<usize>();
    push_varint(out, length as i64);
    out.push(0); // attributes: none are defined
    push_varint(out, timestamp_delta);
    push_varint(out, offset_delta);
    push_field(out, record.key());
    push_field(out, record.value());
    push_varint(out, headers);
    for (name, value) in record.headers() {
        push_field(out, Some(name));
        push_field(out, value);
    }
}

/// Appends a length, which is -1 for null, and the bytes.
fn push_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => push_varint(out, -1),
        Some(bytes) => {
            push_varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

fn field_bytes(field: Option<&[u8]>) -> usize {
    field.map_or(1, |bytes| varint_bytes(bytes.len() as i64) + bytes.len())
}

/// Zigzag encoding: numbers near zero, of either sign, become short.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn push_varint(out: &mut Vec<u8>, number: i64) {
    let mut rest = zigzag(number);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn varint_bytes(number: i64) -> usize {
    let bits = 64 - (zigzag(number) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn compress(codec: Codec, plain: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    match codec {
        Codec::None => out.extend_from_slice(plain),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(6));
            encoder.write_all(plain)?;
            encoder.finish()?;
        }
        Codec::Snappy => {
            out.extend_from_slice(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"); // magic, version 1, readable by version 1
            let mut encoder = snap::raw::Encoder::new();
            for block in plain.chunks(XERIAL_BLOCK_BYTES) {
                let compressed = encoder.compress_vec(block)?;
                out.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
                out.extend_from_slice(&compressed);
            }
        }
        Codec::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
            encoder.write_all(plain)?;
            encoder.finish()?;
        }
        Codec::Zstd => zstd::stream::copy_encode(plain, out, 3)?,
    }
    Ok(())
}
