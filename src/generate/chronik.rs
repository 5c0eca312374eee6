//! Writes Chronik WAL records, versions 1 and 2. Everything is little-endian.
//!
//! Both versions begin with the magic `0xCA7E`, a version byte, a flags byte and a `u32` length. A V1 record
//! is one log record. A V2 record is a batch: a `CanonicalRecord` in bincode 1's fixed-width encoding,
//! surrounded by the broker's own fields.

use super::Codec;
use super::kafka::{BatchHead, HEAD_BYTES};
use crate::ids::TopicPartition;
use crate::record::{Record, RecordBatch};

const MAGIC: [u8; 2] = [0x7e, 0xca];
/// The position of a V1 record's CRC: after its head, offset and timestamp.
const V1_CRC_AT: usize = 24;
/// The position of a V2 record's CRC: after its head.
const V2_CRC_AT: usize = 8;
/// The bytes of a V2 record that its length does not count: the head and the CRC.
const V2_HEAD_BYTES: usize = 12;

/// Appends one record as V1. A null value becomes an empty one, also in a header, because V1 cannot
/// distinguish them. A record without a time gets -1.
pub fn encode_v1(record: &Record<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    push_head(out, 1);
    out.extend_from_slice(&record.offset().to_le_bytes());
    out.extend_from_slice(&record.timestamp_ms().unwrap_or(-1).to_le_bytes());
    out.extend_from_slice(&[0; 4]); // the CRC, below
    match record.key() {
        None => out.extend_from_slice(&(-1_i32).to_le_bytes()),
        Some(key) => push_counted(out, key),
    }
    push_counted(out, record.value().unwrap_or_default());
    out.extend_from_slice(&(record.headers().count() as u32).to_le_bytes());
    for (name, value) in record.headers() {
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
        push_counted(out, value.unwrap_or_default());
    }
    let length = (out.len() - start) as u32; // of the whole record
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    seal(&mut out[start..]);
}

/// Appends the records as one V2 record of `partition`.
///
/// `codec` is the codec that the canonical record names. `producer_batch` is the producer's Kafka batch. As
/// in the broker, it is kept beside the records in two forms: its compressed section, and the whole batch.
pub fn encode_v2(
    partition: &TopicPartition,
    head: &BatchHead,
    codec: Codec,
    batch: &RecordBatch,
    producer_batch: Option<&[u8]>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    push_head(out, 2);
    out.extend_from_slice(&[0; 4]); // the CRC, below
    let topic = partition.topic().as_bytes();
    out.extend_from_slice(&(topic.len() as u16).to_le_bytes());
    out.extend_from_slice(topic);
    out.extend_from_slice(&partition.partition().to_le_bytes());
    let data_start = out.len() + 4;
    out.extend_from_slice(&[0; 4]); // the data's length, below
    push_canonical(head, codec, batch, producer_batch, out);
    let data_bytes = (out.len() - data_start) as u32;
    out[data_start - 4..data_start].copy_from_slice(&data_bytes.to_le_bytes());

    let (base_offset, last_offset) = head.offsets(batch);
    out.extend_from_slice(&base_offset.to_le_bytes());
    out.extend_from_slice(&last_offset.to_le_bytes());
    out.extend_from_slice(&(batch.records.len() as i32).to_le_bytes());
    let length = (out.len() - start - V2_HEAD_BYTES) as u32;
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    seal(&mut out[start..]);
}

/// Appends the fields of `CanonicalRecord` in order. bincode 1 writes lengths as `u64`, enum variants as
/// `u32`, and the tag of an option as one byte.
fn push_canonical(
    head: &BatchHead,
    codec: Codec,
    batch: &RecordBatch,
    producer_batch: Option<&[u8]>,
    out: &mut Vec<u8>,
) {
    let times = || batch.records.iter().map(|record| record.timestamp_ms.unwrap_or(-1));
    out.extend_from_slice(&head.offsets(batch).0.to_le_bytes());
    out.extend_from_slice(&head.partition_leader_epoch.to_le_bytes());
    out.extend_from_slice(&head.producer_id.to_le_bytes());
    out.extend_from_slice(&head.producer_epoch.to_le_bytes());
    out.extend_from_slice(&head.base_sequence.to_le_bytes());
    out.push(head.transactional.into());
    out.push(head.control.into());
    out.extend_from_slice(&u32::from(codec.number()).to_le_bytes());
    out.extend_from_slice(&u32::from(head.log_append_time).to_le_bytes());
    out.extend_from_slice(&times().next().unwrap_or(-1).to_le_bytes());
    out.extend_from_slice(&times().max().unwrap_or(-1).to_le_bytes());
    push_u64(out, batch.records.len());
    for record in batch.iter() {
        out.extend_from_slice(&record.offset().to_le_bytes());
        out.extend_from_slice(&record.timestamp_ms().unwrap_or(-1).to_le_bytes());
        push_option(out, record.key());
        push_option(out, record.value());
        push_u64(out, record.headers().count());
        for (name, value) in record.headers() {
            push_u64(out, name.len());
            out.extend_from_slice(name);
            push_option(out, value);
        }
        out.push(0); // attributes
    }
    push_option(out, producer_batch.and_then(|batch| batch.get(HEAD_BYTES..))); // compressed_records_wire_bytes
    push_option(out, None); // original_v1_wire_format
    push_option(out, producer_batch); // original_v2_wire_format
}

fn push_head(out: &mut Vec<u8>, version: u8) {
    out.extend_from_slice(&MAGIC);
    out.push(version);
    out.push(0); // flags: none are set
    out.extend_from_slice(&[0; 4]); // the length, once it is known
}

/// Writes the correct checksum for the record's present bytes, including its length. Tests also use it to
/// make a hostile record that looks sound. The CRC-32 covers all bytes but itself.
pub fn seal(record: &mut [u8]) {
    let crc_at = if record[2] == 1 { V1_CRC_AT } else { V2_CRC_AT };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&record[..crc_at]);
    crc.update(&record[crc_at + 4..]);
    record[crc_at..crc_at + 4].copy_from_slice(&crc.finalize().to_le_bytes());
}

fn push_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn push_u64(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&(number as u64).to_le_bytes());
}

fn push_option(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            out.push(1);
            push_u64(out, bytes.len());
            out.extend_from_slice(bytes);
        }
    }
}
