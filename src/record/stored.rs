//! Records that are independent of their batch.

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::Record;

/// A record shares its batch's bytes if the rest of the batch is at most this fraction (1/8) of the record's
/// own bytes.
const SHARED_BESIDE: usize = 8;

/// A record that is independent of its batch. Its bytes are copied out of the batch, so that it keeps nothing
/// else in memory; or they are shared, if the batch holds little else ([`StoredRecord::within`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch; `None` if the record has no time.
    pub timestamp_ms: Option<i64>,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null (a tombstone).
    pub value: Option<Bytes>,
    /// Names and values of the headers, in order. Names may repeat, and need not be UTF-8.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// The epoch of the leader that appended the record, if its frame states one. It is not a part of the
    /// record: replicas that disagree about a log may hold the same record with different epochs.
    pub leader_epoch: Option<i32>,
    /// Set if the record is larger than the reader's limit. Then the value and the headers are left out, and
    /// also the key if it is long.
    pub omitted: Option<Omitted>,
}

/// The known facts about a record that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Omitted {
    /// The size of its key, value and headers, in bytes.
    pub bytes: u64,
    /// The memory that the whole record would take, as [`StoredRecord::mem_usage`] counts it.
    pub needed_bytes: u64,
    /// The hash of the whole record, which distinguishes it from other records.
    pub fingerprint: [u8; 16],
}

impl Omitted {
    /// The fingerprint of a record that could not be read at all.
    pub const UNREAD: [u8; 16] = [0; 16];
}

impl StoredRecord {
    /// The memory that a header takes in addition to its bytes: its entry in the list, and spare capacity of
    /// the list.
    pub const HEADER_BYTES: usize = 2 * size_of::<(Bytes, Option<Bytes>)>();

    /// If a record is too large, its key is still kept up to this many bytes.
    pub const KEY_BYTES_SHOWN: usize = 4 << 10;

    /// A record that has only an offset.
    pub fn empty(offset: i64) -> Self {
        Self {
            offset,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Vec::new(),
            leader_epoch: None,
            omitted: None,
        }
    }

    /// Copies a record out of its batch.
    pub fn new(record: &Record<'_>) -> Self {
        let mut bytes = BytesMut::with_capacity(record.parts_len());
        let mut copy = |part: &[u8]| {
            bytes.extend_from_slice(part);
            bytes.split().freeze()
        };
        Self {
            timestamp_ms: record.timestamp_ms(),
            key: record.key().map(&mut copy),
            value: record.value().map(&mut copy),
            headers: record.headers().map(|(name, value)| (copy(name), value.map(&mut copy))).collect(),
            ..Self::empty(record.offset())
        }
    }

    /// Copies a record that takes no more than `bytes_max` bytes in memory. If it takes more, the parts that
    /// are too large are left out. With `shares`, a record that is nearly all of its batch shares the batch's
    /// bytes instead of a copy.
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

    /// The memory that it takes, in bytes.
    pub fn mem_usage(&self) -> usize {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|(name, value)| Self::HEADER_BYTES + name.len() + len(value));
        size_of::<Self>() + len(&self.key) + len(&self.value) + headers.sum::<usize>()
    }

    /// The memory that a response with this record takes, in bytes: the record, or the batch that it shares,
    /// and its headers a second time in the message.
    pub fn delivery_bytes(&self) -> u64 {
        let in_memory = self.mem_usage();
        let headers =
            self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len));
        (in_memory + in_memory / SHARED_BESIDE + headers.sum::<usize>()) as u64
    }

    /// Whether the other one is the same record, whichever leader appended it.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { offset, timestamp_ms, key, value, headers, leader_epoch: _, omitted } = self;
        (*offset, *timestamp_ms, *omitted) == (other.offset, other.timestamp_ms, other.omitted)
            && (key, value, headers) == (&other.key, &other.value, &other.headers)
    }

    /// The hash of the whole record without its offset, which distinguishes it from other records.
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
    /// The memory that a copy of it takes, as [`StoredRecord::mem_usage`] counts it.
    pub fn stored_usage(&self) -> usize {
        size_of::<StoredRecord>() + self.headers().count() * StoredRecord::HEADER_BYTES + self.parts_len()
    }

    /// The size of its key, value and headers, in bytes.
    pub fn parts_len(&self) -> usize {
        let len = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let headers: usize = self.headers().map(|(name, value)| name.len() + len(value)).sum();
        len(self.key()) + len(self.value()) + headers
    }
}

/// A hash of a record's time and parts, computed as they arrive.
#[derive(Debug)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Begins with the time. Then add the key, the value, and each header's name and value as parts.
    pub fn new(timestamp_ms: Option<i64>) -> Self {
        let mut fingerprint = Self(Sha256::new());
        fingerprint.part(timestamp_ms.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
        fingerprint
    }

    /// Adds a whole part; `None` is null.
    pub fn part(&mut self, bytes: Option<&[u8]>) {
        self.begin_part(bytes.map(|bytes| bytes.len() as u64));
        self.push(bytes.unwrap_or_default());
    }

    /// Begins a part of `len` bytes, which are pushed next; `None` is null.
    pub fn begin_part(&mut self, len: Option<u64>) {
        self.0.update([u8::from(len.is_some())]);
        self.0.update(len.unwrap_or(0).to_le_bytes());
    }

    /// Adds bytes of the current part.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash of everything that was added.
    pub fn finish(self) -> [u8; 16] {
        let hash: [u8; 32] = self.0.finalize().into();
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&hash[..16]);
        fingerprint
    }
}
