//! The fields of every index, and the limits of what it can hold.

use std::sync::OnceLock;

use tantivy::IndexSettings;
use tantivy::schema::{
    BytesOptions, Field, IndexRecordOption, JsonObjectOptions, NumericOptions, Schema, TextFieldIndexing,
    TextOptions,
};
use tantivy::store::Compressor;

use super::words::{RAW, WORDS};

/// The longest term, in bytes.
///
/// While it indexes, Tantivy stores the length of a term in a `u16` and silently cuts off the rest
/// (`tantivy-stacker`, `SharedArenaHashMap::mutate_or_create`). A term there has 4 bytes for the field, for
/// JSON 4 for the path and 1 for the type, and then the text: 65,535 − 9. Tantivy's own limit for words,
/// 65,530, leaves room for only 5 of these 9 bytes.
pub const TERM_BYTES_MAX: usize = u16::MAX as usize - 9;

/// The longest path of a leaf, or name of a header, in bytes. A leaf with a longer path is searchable as
/// text.
pub const PATH_BYTES_MAX: usize = 1_024;

/// How many different paths the values of one part may have, and how many different names its headers. Each
/// may need a column.
pub const PATHS_MAX: usize = 1_000;

/// The longest value that is indexed, in bytes. Addresses in a segment under construction end at 4 GiB.
/// There, a value of different two-letter words takes more than a dozen times its length.
pub const VALUE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The maximum size of the headers of one record that are indexed, in bytes of their values, for the same
/// reason.
pub const HEADERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The fields that have terms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    /// The key's bytes, exact.
    pub key: Field,
    /// Headers by name, exact. A name is one segment of a path, including its dots.
    pub header: Field,
    /// The leaves of JSON values as terms.
    pub value: Field,
    /// Text that has no path.
    pub text: Field,
}

/// Names in the schema.
pub(super) mod names {
    pub const OFFSET: &str = "offset";
    pub const TIMESTAMP: &str = "timestamp";
    pub const KEY: &str = "key";
    pub const HEADER: &str = "header";
    pub const VALUE: &str = "value";
    pub const NUM: &str = "num";
    pub const TEXT: &str = "text";
}

/// Returns the schema. Nothing is stored, and no lengths are kept for scores. With `positions`, words have
/// positions. The schema is made once: a segment with many partitions needs it several times for each
/// partition.
pub(super) fn build(positions: bool) -> (Schema, Fields) {
    static MADE: [OnceLock<(Schema, Fields)>; 2] = [const { OnceLock::new() }; 2];
    MADE[usize::from(positions)].get_or_init(|| make(positions)).clone()
}

fn make(positions: bool) -> (Schema, Fields) {
    let record = if positions { IndexRecordOption::WithFreqsAndPositions } else { IndexRecordOption::Basic };
    let words =
        TextFieldIndexing::default().set_tokenizer(WORDS).set_index_option(record).set_fieldnorms(false);
    let exact = TextFieldIndexing::default()
        .set_tokenizer(RAW)
        .set_index_option(IndexRecordOption::Basic)
        .set_fieldnorms(false);
    let mut schema = Schema::builder();
    // The record's offset.
    schema.add_i64_field(names::OFFSET, NumericOptions::default().set_fast());
    // Milliseconds since the epoch, absent if the record has none. It is not Tantivy's date, which counts
    // nanoseconds in an `i64`: a hostile timestamp would overflow.
    schema.add_i64_field(names::TIMESTAMP, NumericOptions::default().set_fast());
    let key = schema.add_bytes_field(names::KEY, BytesOptions::default().set_indexed());
    let header =
        schema.add_json_field(names::HEADER, JsonObjectOptions::default().set_indexing_options(exact));
    let value = schema.add_json_field(
        names::VALUE,
        JsonObjectOptions::default().set_indexing_options(words.clone()).set_expand_dots_enabled(),
    );
    // Numbers and dates of JSON values as columns, for ranges. They need a field of their own: a JSON field
    // has columns for all types or for none. Columns of strings would take a third of the build time, and no
    // query uses them.
    schema.add_json_field(names::NUM, JsonObjectOptions::default().set_fast(RAW).set_expand_dots_enabled());
    let text = schema.add_text_field(names::TEXT, TextOptions::default().set_indexing_options(words));
    (schema.build(), Fields { key, header, value, text })
}

/// Returns the fields of a schema that this program writes, and whether it has positions; `None` for any
/// other schema.
pub(super) fn of(schema: &Schema) -> Option<(Fields, bool)> {
    [false, true].into_iter().find_map(|positions| {
        let (known, fields) = build(positions);
        (known == *schema).then_some((fields, positions))
    })
}

/// Returns settings that start no thread. The document store cannot be left out; without stored fields it
/// takes five bytes for each document.
pub(super) fn settings() -> IndexSettings {
    IndexSettings {
        docstore_compression: Compressor::None,
        docstore_compress_dedicated_thread: false,
        ..IndexSettings::default()
    }
}
