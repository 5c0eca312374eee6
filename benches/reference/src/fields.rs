//! Two sets of fields for the same records, and their documents.

use serde_json::{Map, Value};
use tantivy::schema::{
    BytesOptions, FAST, Field, INDEXED, IndexRecordOption, JsonObjectOptions, NumericOptions, OwnedValue,
    STORED, STRING, Schema, TEXT, TextFieldIndexing, TextOptions,
};
use tantivy::{DateTime, TantivyDocument};

use crate::records::Record;

/// A schema, and the field for each part of a record.
pub struct Fields {
    pub schema: Schema,
    offset: Field,
    timestamp: Field,
    key: Field,
    header: Field,
    value: Field,
    text: Field,
    /// Numbers and dates of values as columns; [`Fields::stock`] has none.
    num: Option<Field>,
}

impl Fields {
    /// The fields that Tantivy's documentation suggests: `TEXT` and `STRING` unchanged (`TEXT` with
    /// frequencies, positions and lengths), everything `STORED`, offset and time `FAST`.
    pub fn stock() -> Self {
        let mut schema = Schema::builder();
        Self {
            offset: schema.add_i64_field("offset", INDEXED | FAST | STORED),
            timestamp: schema.add_date_field("timestamp", INDEXED | FAST | STORED),
            key: schema.add_bytes_field("key", INDEXED | STORED),
            header: schema.add_json_field("header", STRING | STORED),
            value: schema.add_json_field("value", TEXT | STORED),
            text: schema.add_text_field("text", TEXT | STORED),
            num: None,
            schema: schema.build(),
        }
    }

    /// The worker's own fields (`src/index/schema.rs`). No more is indexed than there, but key, headers and
    /// value are stored.
    pub fn lean() -> Self {
        let indexing = |tokenizer| {
            TextFieldIndexing::default()
                .set_tokenizer(tokenizer)
                .set_index_option(IndexRecordOption::Basic)
                .set_fieldnorms(false)
        };
        let json =
            |tokenizer| JsonObjectOptions::default().set_indexing_options(indexing(tokenizer)).set_stored();
        let num = JsonObjectOptions::default().set_fast("raw").set_expand_dots_enabled();
        let mut schema = Schema::builder();
        Self {
            offset: schema.add_i64_field("offset", NumericOptions::default().set_fast()),
            timestamp: schema.add_date_field("timestamp", FAST),
            key: schema.add_bytes_field("key", BytesOptions::default().set_indexed().set_stored()),
            header: schema.add_json_field("header", json("raw")),
            value: schema.add_json_field("value", json("default").set_expand_dots_enabled()),
            text: schema.add_text_field(
                "text",
                TextOptions::default().set_indexing_options(indexing("default")).set_stored(),
            ),
            num: Some(schema.add_json_field("num", num)),
            schema: schema.build(),
        }
    }

    pub fn document(&self, record: &Record<'_>) -> TantivyDocument {
        let mut document = TantivyDocument::default();
        document.add_i64(self.offset, record.offset);
        if let Some(ms) = record.timestamp_ms {
            document.add_date(self.timestamp, DateTime::from_timestamp_millis(ms));
        }
        if let Some(key) = record.key {
            document.add_bytes(self.key, key);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers: Vec<(String, OwnedValue)> = (record.headers.iter())
            .filter_map(|(name, value)| Some((text(name), OwnedValue::Str(text((*value)?)))))
            .collect();
        if !headers.is_empty() {
            document.add_field_value(self.header, &OwnedValue::Object(headers));
        }
        let value = record.value.unwrap_or_default();
        match serde_json::from_slice::<Map<String, Value>>(value) {
            Ok(object) => {
                let object = OwnedValue::from(object);
                if let Some((field, numbers)) = self.num.zip(numbers(&object)) {
                    document.add_field_value(field, &numbers);
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
