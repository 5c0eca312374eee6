//! The columns of one Tantivy segment in the making: what ranges and the order of hits are read from.

use std::io;

use tantivy::DateTime;
use tantivy::columnar::{ColumnType, ColumnarWriter, NumericalValue};

use super::paths::{PathId, Paths, SEPARATOR};
use super::schema::names;

/// The columns of the documents so far.
#[derive(Default)]
pub(super) struct Columns {
    tantivy: ColumnarWriter,
    /// The columns' names, by the number that paths have while records are read.
    names: Vec<Option<Box<str>>>,
    values: usize,
}

/// What a value takes at most: its document, its type and itself.
const VALUE_BYTES: usize = 16;

impl Columns {
    pub fn new() -> Self {
        let mut tantivy = ColumnarWriter::default();
        tantivy.record_column_type(names::OFFSET, ColumnType::I64, false);
        tantivy.record_column_type(names::TIMESTAMP, ColumnType::I64, false);
        Self { tantivy, names: Vec::new(), values: 0 }
    }

    pub fn push_offset(&mut self, doc: u32, offset: i64) {
        self.tantivy.record_numerical(doc, names::OFFSET, offset);
        self.values += 1;
    }

    pub fn push_timestamp(&mut self, doc: u32, timestamp_ms: i64) {
        self.tantivy.record_numerical(doc, names::TIMESTAMP, timestamp_ms);
        self.values += 1;
    }

    pub fn push_number(&mut self, doc: u32, path: PathId, paths: &Paths, number: NumericalValue) {
        self.tantivy.record_numerical(doc, name(&mut self.names, path, paths), number);
        self.values += 1;
    }

    pub fn push_date(&mut self, doc: u32, path: PathId, paths: &Paths, nanos: i64) {
        let date = DateTime::from_timestamp_nanos(nanos);
        self.tantivy.record_datetime(doc, name(&mut self.names, path, paths), date);
        self.values += 1;
    }

    /// Writes all columns of this many documents.
    pub fn write(mut self, documents: u32, to: &mut dyn io::Write) -> io::Result<()> {
        self.tantivy.serialize(documents, None, to)
    }

    /// Bytes of what is kept of the documents: depends on nothing but them.
    pub fn bytes(&self) -> usize {
        self.values * VALUE_BYTES
    }

    /// What [`Columns::write`] takes beside what is held, at most, in bytes; the file in it, which grows by doubling.
    pub fn write_usage(&self, documents: u32) -> usize {
        let one_column = documents as usize * (size_of::<u64>() + size_of::<u32>());
        one_column + 2 * self.file_usage(documents)
    }

    /// What the file takes at most.
    pub fn file_usage(&self, documents: u32) -> usize {
        self.values * 9 + self.names.iter().flatten().count() * (documents as usize / 8 + 1_024)
    }

    /// Bytes in memory. Tantivy sets aside seven mebibytes before the first value.
    pub fn mem_usage(&self) -> usize {
        self.tantivy.mem_usage() + self.names.capacity() * size_of::<Option<Box<str>>>()
    }
}

/// The name of a path's column, as Tantivy's own writer makes it.
fn name<'a>(names: &'a mut Vec<Option<Box<str>>>, path: PathId, paths: &Paths) -> &'a str {
    if names.len() <= path.index() {
        names.resize(path.index() + 1, None);
    }
    names[path.index()].get_or_insert_with(|| format!("{}{SEPARATOR}{}", names::NUM, paths.path(path)).into())
}
