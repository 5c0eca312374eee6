//! Records on their own.

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::Record;

/// A record keeps its batch where that has so small a part of the record's bytes beside it.
const SHARED_BESIDE: usize = 8;

/// A record on its own: its bytes are copied out of its batch, so that keeping it keeps nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch; `None` where the record carries none.
    pub timestamp_ms: Option<i64>,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null (a tombstone).
    pub value: Option<Bytes>,
    /// Names and values of the headers, in order; names may repeat, and need not be UTF-8.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// What is left out, since it is larger than the reader may take: the value and the headers, and the key where it is not short.
    pub omitted: Option<Omitted>,
}

/// What is known of a record that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Omitted {
    /// Its key, value and headers, in bytes.
    pub bytes: u64,
    /// What all of it would take in memory, as [`StoredRecord::mem_usage`] counts it.
    pub needed_bytes: u64,
    /// What all of the record is told from others by.
    pub fingerprint: [u8; 16],
}

impl Omitted {
    /// The fingerprint of a record that could not be read at all.
    pub const UNREAD: [u8; 16] = [0; 16];
}

impl StoredRecord {
    /// What a header takes beside its bytes, in bytes: its place in the list, and room that was set aside for those that follow.
    pub const HEADER_BYTES: usize = 2 * size_of::<(Bytes, Option<Bytes>)>();

    /// A key up to so many bytes is there also where its record is too large.
    pub const KEY_BYTES_SHOWN: usize = 4 << 10;

    /// A record without anything but an offset.
    pub fn empty(offset: i64) -> Self {
        Self { offset, timestamp_ms: None, key: None, value: None, headers: Vec::new(), omitted: None }
    }

    /// Copies a record out of its batch.
    pub fn new(record: &Record<'_>) -> Self {
        let mut bytes = BytesMut::with_capacity(record.parts_len());
        let mut copy = |part: &[u8]| {
            bytes.extend_from_slice(part);
            bytes.split().freeze()
        };
        Self {
            offset: record.offset(),
            timestamp_ms: record.timestamp_ms(),
            key: record.key().map(&mut copy),
            value: record.value().map(&mut copy),
            headers: record.headers().map(|(name, value)| (copy(name), value.map(&mut copy))).collect(),
            omitted: None,
        }
    }

    /// The same where that takes no more than `bytes_max` bytes in memory; else without what is too large. Where it `shares`, and nearly all of its
    /// batch is the record, it keeps the batch instead of a copy.
    pub fn within(record: &Record<'_>, bytes_max: usize, shares: bool) -> Self {
        let needed = record.stored_usage();
        if needed <= bytes_max {
            let is_nearly_all =
                record.batch_bytes().len() <= record.parts_len() + record.parts_len() / SHARED_BESIDE;
            return if shares && is_nearly_all { Self::sharing(record) } else { Self::new(record) };
        }
        let omitted = Omitted {
            bytes: record.parts_len() as u64,
            needed_bytes: needed as u64,
            fingerprint: fingerprint(record.timestamp_ms(), record.key(), record.value(), record.headers()),
        };
        let key = record.key().filter(|key| key.len() <= Self::KEY_BYTES_SHOWN.min(bytes_max));
        Self {
            timestamp_ms: record.timestamp_ms(),
            key: key.map(Bytes::copy_from_slice),
            omitted: Some(omitted),
            ..Self::empty(record.offset())
        }
    }

    fn sharing(record: &Record<'_>) -> Self {
        let all = record.batch_bytes();
        let part = |bytes: &[u8]| all.slice_ref(bytes);
        Self {
            timestamp_ms: record.timestamp_ms(),
            key: record.key().map(part),
            value: record.value().map(part),
            headers: record.headers().map(|(name, value)| (part(name), value.map(part))).collect(),
            ..Self::empty(record.offset())
        }
    }

    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|(name, value)| Self::HEADER_BYTES + name.len() + len(value));
        size_of::<Self>() + len(&self.key) + len(&self.value) + headers.sum::<usize>()
    }

    /// What an answer holds that has this record, in bytes: the record, or the batch that it keeps, and its headers once more in the message.
    pub fn delivery_bytes(&self) -> u64 {
        let in_memory = self.mem_usage();
        let headers =
            self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len));
        (in_memory + in_memory / SHARED_BESIDE + headers.sum::<usize>()) as u64
    }

    /// What all of the record is told from others by, its offset aside.
    pub fn fingerprint(&self) -> [u8; 16] {
        if let Some(omitted) = self.omitted {
            return omitted.fingerprint;
        }
        let headers = self.headers.iter().map(|(name, value)| (&name[..], value.as_deref()));
        fingerprint(self.timestamp_ms, self.key.as_deref(), self.value.as_deref(), headers)
    }
}

fn fingerprint<'a>(
    timestamp_ms: Option<i64>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> [u8; 16] {
    let mut fingerprint = Fingerprint::new(timestamp_ms);
    fingerprint.part(key);
    fingerprint.part(value);
    for (name, value) in headers {
        fingerprint.part(Some(name));
        fingerprint.part(value);
    }
    fingerprint.finish()
}

impl Record<'_> {
    /// What [`StoredRecord::mem_usage`] says of a copy of it.
    pub fn stored_usage(&self) -> usize {
        size_of::<StoredRecord>() + self.headers().count() * StoredRecord::HEADER_BYTES + self.parts_len()
    }

    /// Its key, value and headers, in bytes.
    pub fn parts_len(&self) -> usize {
        let len = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let headers: usize = self.headers().map(|(name, value)| name.len() + len(value)).sum();
        len(self.key()) + len(self.value()) + headers
    }
}

/// A hash over a record's time and parts, made as they come.
#[derive(Debug)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Begins with the time. Key, value, and each header's name and value follow as parts.
    pub fn new(timestamp_ms: Option<i64>) -> Self {
        let mut fingerprint = Self(Sha256::new());
        fingerprint.part(timestamp_ms.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
        fingerprint
    }

    /// A part as a whole; `None` is null.
    pub fn part(&mut self, bytes: Option<&[u8]>) {
        self.begin_part(bytes.map(|bytes| bytes.len() as u64));
        self.push(bytes.unwrap_or_default());
    }

    /// A part of so many bytes, which are pushed next; `None` is null.
    pub fn begin_part(&mut self, len: Option<u64>) {
        self.0.update([u8::from(len.is_some())]);
        self.0.update(len.unwrap_or(0).to_le_bytes());
    }

    /// Bytes of the part that was begun.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that was pushed.
    pub fn finish(self) -> [u8; 16] {
        let hash: [u8; 32] = self.0.finalize().into();
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&hash[..16]);
        fingerprint
    }
}
