//! The bare loop: the minimum cost of indexing these records with unchanged Tantivy. It uses Tantivy's
//! single-segment writer, its own document type, its `default` tokenizer and the fields of `index/schema.rs`,
//! and stores nothing. Records are decoded before; their JSON is parsed in the loop. There is one thread for
//! each core, and each builds an index of its share.

use std::error::Error;
use std::thread;

use serde_json::{Map, Value};
use tantivy::directory::RamDirectory;
use tantivy::indexer::SingleSegmentIndexWriter;
use tantivy::schema::{
    BytesOptions, Field, IndexRecordOption, JsonObjectOptions, NumericOptions, OwnedValue, Schema,
    TextFieldIndexing, TextOptions,
};
use tantivy::store::Compressor;
use tantivy::{Index, IndexSettings, TantivyDocument, TantivyError};
use wal_indexer::internals::record::{Record, RecordBatch};

use crate::segments::Segment;

/// The writer's arena overflows at 4 GiB without an error, so an index ends far below that.
const ARENA_BYTES_MAX: usize = 1 << 30;

/// Indexes all records into memory, drops the result, and returns the number of documents.
pub fn index_all(segments: &[Segment], threads: usize) -> Result<u64, Box<dyn Error>> {
    let batches: Vec<&RecordBatch> = segments.iter().flat_map(|segment| &segment.batches).collect();
    let share = batches.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let started: Vec<_> =
            batches.chunks(share).map(|batches| scope.spawn(move || index_share(batches))).collect();
        Ok(started
            .into_iter()
            .map(|thread| thread.join().expect("the loop does not panic"))
            .sum::<Result<u64, _>>()?)
    })
}

fn index_share(batches: &[&RecordBatch]) -> Result<u64, TantivyError> {
    let (schema, fields) = schema();
    let mut writer = writer(&schema)?;
    let mut documents = 0;
    for batch in batches {
        for record in batch.iter() {
            writer.add_document(fields.document(&record))?;
        }
        if writer.mem_usage() > ARENA_BYTES_MAX {
            documents += finish(std::mem::replace(&mut writer, self::writer(&schema)?))?;
        }
    }
    Ok(documents + finish(writer)?)
}

fn finish(writer: SingleSegmentIndexWriter) -> Result<u64, TantivyError> {
    let segments = writer.finalize()?.searchable_segment_metas()?;
    Ok(segments.iter().map(|segment| u64::from(segment.num_docs())).sum())
}

fn writer(schema: &Schema) -> Result<SingleSegmentIndexWriter, TantivyError> {
    let settings = IndexSettings {
        docstore_compression: Compressor::None,
        docstore_compress_dedicated_thread: false,
        ..IndexSettings::default()
    };
    Index::builder()
        .schema(schema.clone())
        .settings(settings)
        .single_segment_index_writer(RamDirectory::create(), ARENA_BYTES_MAX)
}

struct Fields {
    offset: Field,
    timestamp: Field,
    key: Field,
    header: Field,
    value: Field,
    num: Field,
    text: Field,
}

/// The fields of `index/schema.rs` with its default settings: no positions, no lengths, and columns only for
/// numbers and dates.
fn schema() -> (Schema, Fields) {
    let words = TextFieldIndexing::default()
        .set_tokenizer("default")
        .set_index_option(IndexRecordOption::Basic)
        .set_fieldnorms(false);
    let exact = TextFieldIndexing::default()
        .set_tokenizer("raw")
        .set_index_option(IndexRecordOption::Basic)
        .set_fieldnorms(false);
    let value = JsonObjectOptions::default().set_indexing_options(words.clone()).set_expand_dots_enabled();
    let num = JsonObjectOptions::default().set_fast("raw").set_expand_dots_enabled();
    let mut schema = Schema::builder();
    let fields = Fields {
        offset: schema.add_i64_field("offset", NumericOptions::default().set_fast()),
        timestamp: schema.add_i64_field("timestamp", NumericOptions::default().set_fast()),
        key: schema.add_bytes_field("key", BytesOptions::default().set_indexed()),
        header: schema.add_json_field("header", JsonObjectOptions::default().set_indexing_options(exact)),
        value: schema.add_json_field("value", value),
        num: schema.add_json_field("num", num),
        text: schema.add_text_field("text", TextOptions::default().set_indexing_options(words)),
    };
    (schema.build(), fields)
}

impl Fields {
    fn document(&self, record: &Record<'_>) -> TantivyDocument {
        let mut document = TantivyDocument::default();
        document.add_i64(self.offset, record.offset());
        if let Some(timestamp_ms) = record.timestamp_ms() {
            document.add_i64(self.timestamp, timestamp_ms);
        }
        if let Some(key) = record.key() {
            document.add_bytes(self.key, key);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers: Vec<(String, OwnedValue)> = record
            .headers()
            .filter_map(|(name, value)| Some((text(name), OwnedValue::Str(text(value?)))))
            .collect();
        if !headers.is_empty() {
            document.add_field_value(self.header, &OwnedValue::Object(headers));
        }
        let value = record.value().unwrap_or_default();
        match serde_json::from_slice::<Map<String, Value>>(value) {
            Ok(object) => {
                let object = OwnedValue::from(object);
                if let Some(numbers) = numbers(&object) {
                    document.add_field_value(self.num, &numbers);
                }
                document.add_field_value(self.value, &object);
            }
            Err(_) => document.add_text(self.text, text(value)),
        }
        document
    }
}

/// Returns the parts of a value that belong in columns: its numbers and dates, at their paths.
fn numbers(value: &OwnedValue) -> Option<OwnedValue> {
    match value {
        OwnedValue::U64(_) | OwnedValue::I64(_) | OwnedValue::F64(_) | OwnedValue::Date(_) => {
            Some(value.clone())
        }
        OwnedValue::Object(entries) => {
            let kept: Vec<_> =
                entries.iter().filter_map(|(key, value)| Some((key.clone(), numbers(value)?))).collect();
            (!kept.is_empty()).then_some(OwnedValue::Object(kept))
        }
        OwnedValue::Array(values) => {
            let kept: Vec<_> = values.iter().filter_map(numbers).collect();
            (!kept.is_empty()).then_some(OwnedValue::Array(kept))
        }
        _ => None,
    }
}
