//! Decoded records: one buffer of bytes and ranges into it, so that nothing is copied on the way to the
//! index. The decoders (`segment`) and the index share these types. This module does not know formats, files
//! or Tantivy.

mod stored;

use bytes::Bytes;

pub use stored::{Fingerprint, Omitted, StoredRecord};

/// A part of a batch's bytes. Batches are smaller than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it starts.
    pub start: u32,
    /// Its length in bytes.
    pub len: u32,
}

impl Span {
    /// Returns the bytes of the span.
    pub fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..self.start as usize + self.len as usize]
    }
}

/// The positions of a record's parts in its batch's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSpans {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch; `None` if the record has no time.
    pub timestamp_ms: Option<i64>,
    /// The key; `None` is null.
    pub key: Option<Span>,
    /// The value; `None` is null (a tombstone).
    pub value: Option<Span>,
    /// Its headers: a range of [`RecordBatch::headers`].
    pub headers: std::ops::Range<u32>,
}

/// A header's name and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderSpans {
    /// The name. It is UTF-8 in records that follow the format, but nothing enforces it.
    pub name: Span,
    /// The value; `None` is null.
    pub value: Option<Span>,
}

/// The data records of one batch, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordBatch {
    /// The bytes that the spans point into.
    pub bytes: Bytes,
    /// The records.
    pub records: Vec<RecordSpans>,
    /// The headers of all records.
    pub headers: Vec<HeaderSpans>,
}

impl RecordBatch {
    /// The records, borrowed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.records.iter().map(|spans| Record { batch: self, spans })
    }
}

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    batch: &'a RecordBatch,
    spans: &'a RecordSpans,
}

impl<'a> Record<'a> {
    /// The record's offset in its partition.
    pub fn offset(&self) -> i64 {
        self.spans.offset
    }

    /// Milliseconds since the Unix epoch; `None` if the record has no time.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.spans.timestamp_ms
    }

    /// All bytes of its batch.
    pub fn batch_bytes(&self) -> &'a Bytes {
        &self.batch.bytes
    }

    /// The key; `None` is null.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.spans.key.map(|span| span.of(&self.batch.bytes))
    }

    /// The value; `None` is null.
    pub fn value(&self) -> Option<&'a [u8]> {
        self.spans.value.map(|span| span.of(&self.batch.bytes))
    }

    /// Names and values of the headers, in order; names may repeat.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let range = self.spans.headers.start as usize..self.spans.headers.end as usize;
        let bytes = &self.batch.bytes;
        self.batch.headers[range].iter().map(move |h| (h.name.of(bytes), h.value.map(|v| v.of(bytes))))
    }
}
