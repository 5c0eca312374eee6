//! What is indexed of one record. The buffers are used again for each record.

use super::catalog::{FieldCatalog, FieldTypes, Unsearchable};
use super::json::{Parsed, Scalar, Tape};
use super::paths::{Dots, PathId, Paths, ROOT};
use super::schema::{HEADERS_BYTES_MAX, TERM_BYTES_MAX, VALUE_BYTES_MAX};
use super::settings::ValueMode;
use super::unlisted_paths;
use crate::record::Record;

/// All that is indexed of a record, and the paths that were seen in it and in earlier records.
#[derive(Clone, Debug)]
pub(super) struct IndexedRecord {
    mode: ValueMode,
    offset: i64,
    timestamp_ms: Option<i64>,
    key: Vec<u8>,
    has_key: bool,
    tape: Tape,
    headers: Vec<Header>,
    header_text: String,
    paths: Paths,
    names: Paths,
    /// The header name under which the terms of [`unlisted_paths`] are indexed.
    unlisted_name: PathId,
    rest_leaves: u64,
    unsearchable: Unsearchable,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    name: PathId,
    start: u32,
    len: u32,
}

impl IndexedRecord {
    pub fn new(mode: ValueMode) -> Self {
        let mut names = Paths::new(Dots::Kept);
        let unlisted_name = names.child(ROOT, unlisted_paths::NAME);
        Self {
            mode,
            offset: 0,
            timestamp_ms: None,
            key: Vec::new(),
            has_key: false,
            tape: Tape::default(),
            headers: Vec::new(),
            header_text: String::new(),
            paths: Paths::new(Dots::Separate),
            names,
            unlisted_name,
            rest_leaves: 0,
            unsearchable: Unsearchable::default(),
        }
    }

    /// Reads the next record. Whatever cannot be searched is counted.
    pub fn fill(&mut self, record: &Record<'_>) {
        self.offset = record.offset();
        self.timestamp_ms = record.timestamp_ms();
        self.fill_key(record.key());
        self.fill_headers(record);
        if self.tape.mem_usage() > SPARE_BYTES_MAX {
            self.tape.shrink();
        }
        if self.header_text.capacity() > SPARE_BYTES_MAX {
            self.header_text = String::new();
            self.headers = Vec::new();
        }
        self.tape.clear();
        if let Some(value) = record.value() {
            self.fill_value(value);
        }
        self.fill_unlisted();
        self.unsearchable.leaves_without_path += self.tape.leaves_without_path;
        self.unsearchable.leaves_beyond_paths += self.tape.leaves_beyond_paths;
        self.unsearchable.objects_as_text += u64::from(self.tape.too_deep > 0);
        self.unsearchable.dates_out_of_range += self.tape.dates_out_of_range;
    }

    fn fill_key(&mut self, key: Option<&[u8]>) {
        self.key.clear();
        self.has_key = false;
        match key {
            None => {}
            Some(key) if key.len() > TERM_BYTES_MAX => self.unsearchable.keys_too_long += 1,
            Some(key) => {
                self.key.extend_from_slice(key);
                self.has_key = true;
            }
        }
    }

    fn fill_headers(&mut self, record: &Record<'_>) {
        self.headers.clear();
        self.header_text.clear();
        self.names.forget_passing();
        self.names.enter(ROOT);
        for (name, value) in record.headers() {
            let Some(value) = value else { continue };
            if self.fill_header(name, value).is_none() {
                self.unsearchable.headers += 1;
            }
        }
    }

    fn fill_header(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if value.len() > TERM_BYTES_MAX || self.header_text.len() + value.len() > HEADERS_BYTES_MAX {
            return None;
        }
        let (name, value) = (str::from_utf8(name).ok()?, str::from_utf8(value).ok()?);
        let name = self.names.child(ROOT, name);
        if name == self.unlisted_name || !self.names.admit(name, FieldTypes::TEXT) {
            return None;
        }
        let start = self.header_text.len() as u32;
        self.header_text.push_str(value);
        self.headers.push(Header { name, start, len: value.len() as u32 });
        Some(())
    }

    fn fill_value(&mut self, value: &[u8]) {
        if self.mode == ValueMode::None {
            return;
        }
        if value.len() > VALUE_BYTES_MAX {
            self.unsearchable.values_too_long += 1;
            return;
        }
        let Ok(value) = str::from_utf8(value) else { return self.fill_damaged(value) };
        let parsed = match self.mode {
            ValueMode::Text | ValueMode::None => Parsed::Other,
            ValueMode::Auto | ValueMode::Json => self.tape.parse(value, &mut self.paths),
        };
        match (parsed, self.mode) {
            (Parsed::Object, _) => {}
            (Parsed::Partial | Parsed::Other, ValueMode::Json) => {
                self.tape.texts.clear();
                self.unsearchable.values_not_json += 1;
            }
            (Parsed::Partial, _) => {}
            (Parsed::Other, _) => self.tape.push_text(value),
            (Parsed::TooLarge, _) => self.unsearchable.objects_as_text += 1,
        }
    }

    /// Reads a value that is not UTF-8. If it is JSON, the invalid bytes become replacement characters: a
    /// string that was cut within a character costs no other leaf.
    #[cold]
    fn fill_damaged(&mut self, value: &[u8]) {
        let start = value.trim_ascii_start().first();
        let is_json = matches!(self.mode, ValueMode::Auto | ValueMode::Json)
            && matches!(start, Some(b'{' | b'[' | 0xef));
        if is_json {
            let text = String::from_utf8_lossy(value);
            if text.len() <= VALUE_BYTES_MAX {
                match self.tape.parse(&text, &mut self.paths) {
                    Parsed::Object | Parsed::Partial => return,
                    Parsed::TooLarge => {
                        self.unsearchable.objects_as_text += 1;
                        return;
                    }
                    Parsed::Other => {}
                }
            }
        }
        self.unsearchable.values_not_utf8 += 1;
    }

    /// Adds the terms of the leaves at paths that the index does not list.
    fn fill_unlisted(&mut self) {
        if self.tape.unlisted.is_empty() {
            return;
        }
        let start = self.header_text.len();
        for index in 0..self.tape.unlisted.len() {
            let leaf = self.tape.unlisted[index];
            if self.header_text.len() - start > UNLISTED_BYTES_MAX {
                self.tape.leaves_beyond_paths += 1;
                continue;
            }
            let (headers, name) = (&mut self.headers, self.unlisted_name);
            let too_long = unlisted_paths::terms(
                self.paths.path(leaf.path()),
                leaf.scalar(&self.tape.text),
                &mut self.header_text,
                &mut |start, len| headers.push(Header { name, start, len }),
            );
            self.unsearchable.words_too_long += too_long;
            self.rest_leaves += 1;
        }
    }

    /// The record's offset in its partition.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    pub fn timestamp_ms(&self) -> Option<i64> {
        self.timestamp_ms
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.has_key.then_some(&self.key)
    }

    /// Returns the headers: ids of names in [`IndexedRecord::names`], and values.
    pub fn headers(&self) -> impl Iterator<Item = (PathId, &str)> {
        let value = |header: &Header| &self.header_text[header.start as usize..][..header.len as usize];
        self.headers.iter().map(move |header| (header.name, value(header)))
    }

    /// Returns the leaves of a JSON value, each with the id of its path in [`IndexedRecord::paths`].
    pub fn leaves(&self) -> impl Iterator<Item = (PathId, Scalar<'_>)> {
        self.tape.leaves.iter().map(|leaf| (leaf.path(), leaf.scalar(&self.tape.text)))
    }

    /// Returns the texts that have no path.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.tape.texts.iter().map(|text| text.of(&self.tape.text))
    }

    /// All paths seen so far.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// All names of headers seen so far.
    pub fn names(&self) -> &Paths {
        &self.names
    }

    /// Returns the catalog of all records so far.
    pub fn catalog(&self) -> FieldCatalog {
        FieldCatalog::from_paths(&self.paths, &self.names, self.rest_leaves)
    }

    /// Returns the counts of what cannot be searched in all records so far.
    pub fn unsearchable(&self) -> Unsearchable {
        self.unsearchable
    }

    pub fn mem_usage(&self) -> usize {
        self.tape.mem_usage()
            + self.header_text.capacity()
            + self.headers.capacity() * size_of::<Header>()
            + self.key.capacity()
            + self.paths.mem_usage()
            + self.names.mem_usage()
    }
}

/// How many bytes of a buffer are kept for the next record.
const SPARE_BYTES_MAX: usize = 4 << 20;
/// Maximum size, for one record, of all terms of leaves at paths that the index does not list, in bytes.
const UNLISTED_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
pub(super) mod stock;
#[cfg(test)]
mod tests;
