//! Batches for tests, and the files that Tantivy's own writer makes of them.

pub(super) mod stock;

use bytes::Bytes;

use super::{Index, IndexBuilder, TopicSettings, assemble};
use crate::record::{HeaderSpans, RecordBatch, RecordSpans, Span};

/// The content of a record for a test.
#[derive(Clone, Debug, Default)]
pub(super) struct TestRecord {
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Records with these values, at offsets from 0, a second apart.
pub(super) fn valued<T: AsRef<[u8]>>(values: &[T]) -> RecordBatch {
    let records = values.iter().enumerate().map(|(index, value)| TestRecord {
        offset: index as i64,
        timestamp_ms: Some(index as i64 * 1_000),
        value: Some(value.as_ref().to_vec()),
        ..TestRecord::default()
    });
    batch(&records.collect::<Vec<_>>())
}

/// The records in one buffer.
pub(super) fn batch(records: &[TestRecord]) -> RecordBatch {
    let mut bytes = Vec::new();
    let mut keep = |part: &[u8]| {
        let span = Span { start: bytes.len() as u32, len: part.len() as u32 };
        bytes.extend_from_slice(part);
        span
    };
    let mut batch = RecordBatch::default();
    for record in records {
        let first = batch.headers.len() as u32;
        for (name, value) in &record.headers {
            batch.headers.push(HeaderSpans { name: keep(name), value: value.as_deref().map(&mut keep) });
        }
        batch.records.push(RecordSpans {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref().map(&mut keep),
            value: record.value.as_deref().map(&mut keep),
            headers: first..batch.headers.len() as u32,
        });
    }
    batch.bytes = Bytes::from(bytes);
    batch
}

/// An index of one part.
pub(super) fn index(batches: &[RecordBatch], settings: TopicSettings) -> Index {
    let mut builder = IndexBuilder::new(settings).unwrap();
    for batch in batches {
        builder.add(batch).unwrap();
    }
    assemble(vec![builder.finish().unwrap()], &[7; 32], &settings).unwrap()
}
