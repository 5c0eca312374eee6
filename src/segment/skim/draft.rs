//! A record that is being read. Its parts are held as long as all of them fit within the limit.

use bytes::Bytes;

use super::super::Fault;
use super::super::record_builder::NO_TIMESTAMP;
use super::Visitor;
use super::source::Source;
use crate::record::{Fingerprint, Omitted, StoredRecord};

/// A record whose parts are added in this order: its key, its value, its headers.
pub struct Draft(Option<Wanted>);

struct Wanted {
    record: StoredRecord,
    fingerprint: Fingerprint,
    /// The size of its parts, held or not.
    bytes: u64,
    /// The memory that the whole record would take.
    needed: u64,
    limit: u64,
    is_too_large: bool,
}

impl Draft {
    pub fn new(offset: i64, timestamp: i64, visitor: &mut dyn Visitor) -> Self {
        let timestamp_ms = (timestamp != NO_TIMESTAMP).then_some(timestamp);
        Self(visitor.limit(offset, timestamp_ms).map(|limit| Wanted {
            record: StoredRecord { timestamp_ms, ..StoredRecord::empty(offset) },
            fingerprint: Fingerprint::new(timestamp_ms),
            bytes: 0,
            needed: size_of::<StoredRecord>() as u64,
            limit: limit as u64,
            is_too_large: size_of::<StoredRecord>() > limit,
        }))
    }

    /// Adds the epoch of the leader that appended the record.
    pub fn led_in(mut self, leader_epoch: Option<i32>) -> Self {
        if let Self(Some(wanted)) = &mut self {
            wanted.record.leader_epoch = leader_epoch;
        }
        self
    }

    /// `len` is `None` for null, here and in the methods below.
    pub fn key(&mut self, source: &mut Source<'_>, len: Option<u64>) -> Result<(), Fault> {
        let key = self.part(source, len, 0)?;
        if let Self(Some(wanted)) = self {
            wanted.record.key = key;
        }
        Ok(())
    }

    pub fn value(&mut self, source: &mut Source<'_>, len: Option<u64>) -> Result<(), Fault> {
        let value = self.part(source, len, 0)?;
        if let Self(Some(wanted)) = self {
            wanted.record.value = value;
        }
        Ok(())
    }

    pub fn header_name(&mut self, source: &mut Source<'_>, len: u64) -> Result<(), Fault> {
        let name = self.part(source, Some(len), StoredRecord::HEADER_BYTES)?;
        if let Self(Some(wanted)) = self
            && let Some(name) = name.filter(|_| !wanted.is_too_large)
        {
            wanted.record.headers.push((name, None));
        }
        Ok(())
    }

    pub fn header_value(&mut self, source: &mut Source<'_>, len: Option<u64>) -> Result<(), Fault> {
        let value = self.part(source, len, 0)?;
        if let Self(Some(wanted)) = self
            && let Some(header) = wanted.record.headers.last_mut()
        {
            header.1 = value;
        }
        Ok(())
    }

    /// Reads a part, which takes `beside` bytes in addition to its own. `None` if it is null or not held.
    fn part(
        &mut self,
        source: &mut Source<'_>,
        len: Option<u64>,
        beside: usize,
    ) -> Result<Option<Bytes>, Fault> {
        let Self(Some(wanted)) = self else {
            source.skip(len.unwrap_or(0))?;
            return Ok(None);
        };
        wanted.fingerprint.begin_part(len);
        let Some(len) = len else { return Ok(None) };
        wanted.bytes += len;
        wanted.needed += len + beside as u64;
        if wanted.needed > wanted.limit {
            wanted.let_go();
            source.pass(len, |bytes| wanted.fingerprint.push(bytes))?;
            return Ok(None);
        }
        let bytes = source.bytes(len as usize)?;
        wanted.fingerprint.push(&bytes);
        Ok(Some(bytes.into()))
    }

    pub fn finish(self, visitor: &mut dyn Visitor) {
        let Self(Some(mut wanted)) = self else { return };
        if wanted.is_too_large {
            let fingerprint = wanted.fingerprint.finish();
            let Wanted { bytes, needed, .. } = wanted;
            wanted.record.omitted = Some(Omitted { bytes, needed_bytes: needed, fingerprint });
        }
        visitor.record(wanted.record);
    }
}

impl Wanted {
    /// Marks the record as too large. Of the parts that are held, only a short key stays.
    fn let_go(&mut self) {
        self.is_too_large = true;
        self.record.value = None;
        self.record.headers = Vec::new();
        self.record.key.take_if(|key| key.len() > StoredRecord::KEY_BYTES_SHOWN);
    }
}
