//! The columns of one Tantivy segment under construction. Ranges and the order of hits are read from columns.
//!
//! Tantivy's own writer finds a column by its name for each value, and allocates seven mebibytes before the
//! first one. Here a column is found by a number, and values are kept in the form in which they are written.

mod column;
mod write;

use std::collections::HashMap;

use tantivy::columnar::NumericalValue;

use super::paths::{PathId, Paths, SEPARATOR};
use super::schema::names;
use column::{Column, Kind};

/// The columns of the documents so far.
#[derive(Debug)]
pub(super) struct Columns {
    columns: Vec<Column>,
    /// The column of each path, by path id: first for numbers, then for dates.
    by_path: [Vec<u32>; 2],
    /// The column by name, and by whether it has dates. Different path ids may mean the same path.
    by_name: HashMap<(Box<str>, bool), u32>,
}

const OFFSET: usize = 0;
const TIMESTAMP: usize = 1;
const UNKNOWN: u32 = u32::MAX;

impl Columns {
    pub fn new() -> Self {
        let columns = [names::OFFSET, names::TIMESTAMP].map(|name| Column::new(name.into(), Kind::I64));
        Self { columns: columns.into(), by_path: Default::default(), by_name: HashMap::new() }
    }

    pub fn push_offset(&mut self, doc: u32, offset: i64) {
        self.columns[OFFSET].push(doc, tantivy::i64_to_u64(offset));
    }

    pub fn push_timestamp(&mut self, doc: u32, timestamp_ms: i64) {
        self.columns[TIMESTAMP].push(doc, tantivy::i64_to_u64(timestamp_ms));
    }

    #[inline]
    pub fn push_number(&mut self, doc: u32, path: PathId, paths: &Paths, number: NumericalValue) {
        self.column(false, path, paths).push_number(doc, number);
    }

    #[inline]
    pub fn push_date(&mut self, doc: u32, path: PathId, paths: &Paths, nanos: i64) {
        self.column(true, path, paths).push(doc, tantivy::i64_to_u64(nanos));
    }

    #[inline]
    fn column(&mut self, dates: bool, path: PathId, paths: &Paths) -> &mut Column {
        let found = self.by_path[usize::from(dates)].get(path.index()).copied();
        let column = match found {
            Some(column) if column != UNKNOWN => column,
            _ => self.name(dates, path, paths),
        };
        &mut self.columns[column as usize]
    }

    #[cold]
    fn name(&mut self, dates: bool, path: PathId, paths: &Paths) -> u32 {
        let by_path = &mut self.by_path[usize::from(dates)];
        if by_path.len() <= path.index() {
            by_path.resize(path.index() + 1, UNKNOWN);
        }
        let name: Box<str> = format!("{}{SEPARATOR}{}", names::NUM, paths.path(path)).into();
        let columns = &mut self.columns;
        let column = *self.by_name.entry((name, dates)).or_insert_with_key(|(name, _)| {
            columns.push(Column::new(name.clone(), if dates { Kind::Date } else { Kind::I64 }));
            (columns.len() - 1) as u32
        });
        by_path[path.index()] = column;
        column
    }

    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        let by_path: usize = self.by_path.iter().map(|by_path| by_path.capacity() * size_of::<u32>()).sum();
        let names: usize = self.by_name.keys().map(|(name, _)| 2 * name.len() + 48).sum();
        by_path + names + self.columns.iter().map(Column::mem_usage).sum::<usize>()
    }

    /// Returns the size in bytes of what is kept of the documents. It depends only on the documents.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }

    /// Returns the memory in bytes that [`Columns::write`] takes at most, in addition to what is in use now.
    /// It includes the file, which is in memory twice when it ends.
    pub fn write_usage(&self) -> usize {
        let largest = self.columns.iter().map(Column::bytes).max().unwrap_or(0);
        2 * largest + 2 * self.file_usage()
    }

    /// Returns the maximum size of the file, in bytes.
    pub fn file_usage(&self) -> usize {
        self.columns.iter().map(|column| column.bytes() + 3 * (1_024 + column.len() / 8)).sum()
    }
}
