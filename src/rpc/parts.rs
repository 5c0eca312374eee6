//! Writes messages in parts. A large field is sent from the buffer that it is in, and is not copied into the
//! message's bytes.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::proto::v1;

/// A field of at least this size, in bytes, is a part of its own. For a smaller one a copy costs less than
/// another frame.
const LARGE_BYTES: usize = 16 << 10;

/// Field numbers of `proto/walindexer/v1/search.proto`.
const SEARCH_RESPONSE_RECORDS: u32 = 1;
const FETCH_RESPONSE_RECORDS: u32 = 1;
const FETCH_RESPONSE_KAFKA_BATCHES: u32 = 2;
/// Of `proto/walindexer/v1/archive.proto`, in both responses with chunks.
const READ_RESPONSE_CHUNK: u32 = 1;
const RECORD_KEY: u32 = 5;
const RECORD_VALUE: u32 = 6;

/// The bytes of a message while it is written. The parts in a row are the message.
#[derive(Debug, Default)]
pub struct Parts {
    done: Vec<Bytes>,
    open: BytesMut,
}

/// A field that is not copied: its number and its bytes.
type Large = (u32, Bytes);

/// A message that can be written in parts. Its fields may come in any order (Protocol Buffers, "Encoding",
/// "Field Order").
pub trait Parted: Message + Sized {
    /// Returns how many bytes [`Parted::write`] does not copy.
    fn large_bytes(&self) -> usize;

    /// Writes the whole message.
    fn write(self, parts: &mut Parts);
}

impl Parted for v1::SearchResponse {
    fn large_bytes(&self) -> usize {
        self.records.iter().map(large_bytes).sum()
    }

    fn write(mut self, parts: &mut Parts) {
        let records = std::mem::take(&mut self.records);
        records.into_iter().for_each(|record| parts.record(SEARCH_RESPONSE_RECORDS, record));
        parts.fields(&self);
    }
}

impl Parted for v1::FetchResponse {
    fn large_bytes(&self) -> usize {
        self.records.iter().map(large_bytes).sum::<usize>() + large_len(&self.kafka_batches)
    }

    fn write(mut self, parts: &mut Parts) {
        let records = std::mem::take(&mut self.records);
        records.into_iter().for_each(|record| parts.record(FETCH_RESPONSE_RECORDS, record));
        if large_len(&self.kafka_batches) > 0 {
            parts.large((FETCH_RESPONSE_KAFKA_BATCHES, std::mem::take(&mut self.kafka_batches)));
        }
        parts.fields(&self);
    }
}

/// Messages with a chunk.
macro_rules! parted_by_chunk {
    ($($message:ty),*) => {$(
        impl Parted for $message {
            fn large_bytes(&self) -> usize {
                large_len(&self.chunk)
            }

            fn write(mut self, parts: &mut Parts) {
                if is_large(&self.chunk) {
                    parts.large((READ_RESPONSE_CHUNK, std::mem::take(&mut self.chunk)));
                }
                parts.fields(&self);
            }
        }
    )*};
}

parted_by_chunk!(v1::ReadSegmentResponse, v1::ReadAttachmentResponse);

impl Parts {
    /// Creates an empty list of parts, with a buffer for `bytes` bytes that will be copied.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { done: Vec::new(), open: BytesMut::with_capacity(bytes) }
    }

    /// Appends a copy of the bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
    }

    /// Returns all parts.
    pub fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.done
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(self.open.split().freeze());
        }
    }

    fn record(&mut self, field: u32, mut record: v1::Record) {
        self.head(field, record.encoded_len());
        let key: Option<Large> = record.key.take_if(|key| is_large(key)).map(|key| (RECORD_KEY, key));
        let value = record.value.take_if(|value| is_large(value)).map(|value| (RECORD_VALUE, value));
        self.fields(&record);
        key.into_iter().chain(value).for_each(|large| self.large(large));
    }

    fn large(&mut self, (field, bytes): Large) {
        self.head(field, bytes.len());
        self.close();
        self.done.push(bytes);
    }

    fn head(&mut self, field: u32, len: usize) {
        encode_key(field, WireType::LengthDelimited, &mut self.open);
        encode_varint(len as u64, &mut self.open);
    }

    fn fields(&mut self, message: &impl Message) {
        // Encoding fails only if the buffer is full, and this buffer grows.
        let _ = message.encode(&mut self.open);
    }
}

fn large_bytes(record: &v1::Record) -> usize {
    [&record.key, &record.value].into_iter().flatten().map(large_len).sum()
}

fn large_len(bytes: &Bytes) -> usize {
    if is_large(bytes) { bytes.len() } else { 0 }
}

fn is_large(bytes: &Bytes) -> bool {
    bytes.len() >= LARGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Bytes {
        vec![b'x'; len].into()
    }

    fn record(key: usize, value: usize, header: usize) -> v1::Record {
        v1::Record {
            topic: "orders".to_owned(),
            offset: -7,
            key: Some(bytes(key)),
            value: Some(bytes(value)),
            headers: vec![v1::Header { name: "name".to_owned(), value: Some(bytes(header)) }],
            score: Some(0.5),
            log_id: "log".to_owned(),
            ..v1::Record::default()
        }
    }

    /// Checks that the parts are the message, are as long, and copy no more than `large_bytes` says.
    fn check<T: Parted + Default + Clone + PartialEq + std::fmt::Debug>(message: &T, large: &[usize]) {
        let copied = message.encoded_len() - message.large_bytes();
        let mut parts = Parts::with_capacity(copied);
        message.clone().write(&mut parts);
        let parts = parts.finish();
        let all = parts.concat();
        assert_eq!(T::decode(&all[..]).as_ref(), Ok(message));
        assert_eq!(all.len(), message.encoded_len());
        let found: Vec<_> = parts.iter().map(Bytes::len).filter(|len| *len >= LARGE_BYTES).collect();
        assert_eq!(found, large);
        assert_eq!(copied, all.len() - large.iter().sum::<usize>());
    }

    #[test]
    fn a_message_in_parts_is_the_message() {
        let records =
            vec![record(0, 1, 2), record(3, LARGE_BYTES, 4), record(LARGE_BYTES + 1, 5, 6), record(7, 8, 9)];
        let summary = Some(v1::SearchSummary { matched: 4, ..v1::SearchSummary::default() });
        check(&v1::SearchResponse { records: records.clone(), summary }, &[LARGE_BYTES, LARGE_BYTES + 1]);
        check(&v1::SearchResponse::default(), &[]);
        let next_offset = Some(12);
        check(
            &v1::FetchResponse { records, next_offset, ..v1::FetchResponse::default() },
            &[LARGE_BYTES, LARGE_BYTES + 1],
        );
        for len in [LARGE_BYTES - 100, LARGE_BYTES] {
            let kafka_batches = bytes(len);
            let large = if len == LARGE_BYTES { &[LARGE_BYTES][..] } else { &[] };
            check(&v1::FetchResponse { kafka_batches, next_offset, ..v1::FetchResponse::default() }, large);
            check(&v1::ReadSegmentResponse { chunk: bytes(len), segment_size_bytes: 7 }, large);
            check(&v1::ReadAttachmentResponse { chunk: bytes(len), attachment: None }, large);
        }
    }

    #[test]
    fn a_large_field_is_not_copied() {
        let record = record(1, LARGE_BYTES, 1);
        let value = record.value.clone().expect("a value");
        let mut parts = Parts::default();
        v1::SearchResponse { records: vec![record], summary: None }.write(&mut parts);
        assert!(parts.finish().iter().any(|part| part.as_ptr() == value.as_ptr()));
    }
}
