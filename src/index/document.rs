//! One record as Tantivy's document: a view onto storage that is filled again for each record.

use std::slice;
use std::sync::Arc;

use tantivy::DateTime;
use tantivy::schema::Field;
use tantivy::schema::document::{Document, ReferenceValue, ReferenceValueLeaf, Value};

use super::catalog::{FieldCatalog, FieldTypes, Unsearchable};
use super::json::{Leaf, Parsed, Scalar, Tape};
use super::paths::{Dots, PathId, Paths, ROOT};
use super::schema::{Fields, HEADERS_BYTES_MAX, TERM_BYTES_MAX, VALUE_BYTES_MAX};
use super::settings::ValueMode;
use crate::record::Record;

/// All that a record shows to Tantivy, and the paths that were seen in it and before.
///
/// Strings are copied here once, as they are read: a document must own what it shows, and a copy that is known to be UTF-8
/// costs less than asking at each of Tantivy's visits.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    fields: Fields,
    mode: ValueMode,
    offset: i64,
    timestamp_ms: Option<i64>,
    key: Vec<u8>,
    has_key: bool,
    tape: Tape,
    has_ranges: bool,
    headers: Vec<Header>,
    header_text: String,
    paths: Paths,
    names: Paths,
    unsearchable: Unsearchable,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    name: PathId,
    start: u32,
    len: u32,
}

impl Draft {
    pub fn new(fields: Fields, mode: ValueMode) -> Self {
        Self {
            fields,
            mode,
            offset: 0,
            timestamp_ms: None,
            key: Vec::new(),
            has_key: false,
            tape: Tape::default(),
            has_ranges: false,
            headers: Vec::new(),
            header_text: String::new(),
            paths: Paths::new(Dots::Separate),
            names: Paths::new(Dots::Kept),
            unsearchable: Unsearchable::default(),
        }
    }

    /// Takes in the next record; whatever of it cannot be searched is counted.
    pub fn fill(&mut self, record: &Record<'_>) {
        self.offset = record.offset();
        self.timestamp_ms = record.timestamp_ms();
        self.fill_key(record.key());
        self.fill_headers(record);
        if self.tape.mem_usage() > SPARE_BYTES_MAX {
            self.tape.shrink();
        }
        self.tape.clear();
        if let Some(value) = record.value() {
            self.fill_value(value);
        }
        self.has_ranges = self.tape.leaves.iter().any(Leaf::has_range);
        self.unsearchable.leaves_without_path += self.tape.leaves_without_path;
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
        if !self.names.admit(name, FieldTypes::TEXT) {
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
        let Ok(value) = str::from_utf8(value) else {
            self.unsearchable.values_not_utf8 += 1;
            return;
        };
        let parsed = match self.mode {
            ValueMode::Text | ValueMode::None => Parsed::Other,
            ValueMode::Auto | ValueMode::Json => self.tape.parse(value, &mut self.paths),
        };
        match (parsed, self.mode) {
            (Parsed::Object, _) => {}
            (Parsed::Other, ValueMode::Json) => self.unsearchable.values_not_json += 1,
            (Parsed::Other, _) => self.tape.push_text(value),
            (Parsed::TooLarge, _) => {
                self.unsearchable.objects_as_text += 1;
                self.tape.push_text(value);
            }
        }
    }

    /// What was found in all records so far.
    pub fn catalog(&self) -> FieldCatalog {
        FieldCatalog::from_paths(&self.paths, &self.names)
    }

    /// What of all records so far cannot be searched.
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

/// How much storage stays for the next record.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// The document handed to Tantivy, which drops it when it has walked it: the storage is then the builder's again.
#[derive(Clone, Debug)]
pub(super) struct RecordDocument(pub Arc<Draft>);

impl Document for RecordDocument {
    type Value<'a> = Part<'a>;
    type FieldsValuesIter<'a> = Parts<'a>;

    fn iter_fields_and_values(&self) -> Parts<'_> {
        Parts { draft: &self.0, next: Step::Offset }
    }
}

/// The fields of a record in the order of the schema: Tantivy sorts them, and finds them sorted.
pub(super) struct Parts<'a> {
    draft: &'a Draft,
    next: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Offset,
    Timestamp,
    Key,
    Header,
    Value,
    Num,
    Text(usize),
}

impl<'a> Iterator for Parts<'a> {
    type Item = (Field, Part<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let draft = self.draft;
        let fields = &draft.fields;
        loop {
            let (after, found) = match self.next {
                Step::Offset => (Step::Timestamp, Some((fields.offset, Part::I64(draft.offset)))),
                Step::Timestamp => {
                    (Step::Key, draft.timestamp_ms.map(|ms| (fields.timestamp, Part::I64(ms))))
                }
                Step::Key => (Step::Header, draft.has_key.then(|| (fields.key, Part::Bytes(&draft.key)))),
                Step::Header => (
                    Step::Value,
                    (!draft.headers.is_empty()).then_some((fields.header, Part::Headers(draft))),
                ),
                Step::Value => (
                    Step::Num,
                    (!draft.tape.leaves.is_empty()).then_some((fields.value, Part::Leaves(draft))),
                ),
                Step::Num => (Step::Text(0), draft.has_ranges.then_some((fields.num, Part::Ranges(draft)))),
                Step::Text(index) => {
                    let text = draft.tape.texts.get(index)?.of(&draft.tape.text);
                    (Step::Text(index + 1), Some((fields.text, Part::Text(text))))
                }
            };
            self.next = after;
            if found.is_some() {
                return found;
            }
        }
    }
}

/// A part of a record, as Tantivy sees it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    I64(i64),
    U64(u64),
    F64(f64),
    Bool(bool),
    Date(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
    /// Header names and values.
    Headers(&'a Draft),
    /// All leaves, dates as text.
    Leaves(&'a Draft),
    /// Numbers and dates only.
    Ranges(&'a Draft),
}

impl<'a> Value<'a> for Part<'a> {
    type ArrayIter = std::iter::Empty<Self>;
    type ObjectIter = Entries<'a>;

    fn as_value(&self) -> ReferenceValue<'a, Self> {
        ReferenceValue::Leaf(match *self {
            Self::I64(value) => ReferenceValueLeaf::I64(value),
            Self::U64(value) => ReferenceValueLeaf::U64(value),
            Self::F64(value) => ReferenceValueLeaf::F64(value),
            Self::Bool(value) => ReferenceValueLeaf::Bool(value),
            Self::Date(nanos) => ReferenceValueLeaf::Date(DateTime::from_timestamp_nanos(nanos)),
            Self::Bytes(bytes) => ReferenceValueLeaf::Bytes(bytes),
            Self::Text(text) => ReferenceValueLeaf::Str(text),
            Self::Headers(draft) => {
                return ReferenceValue::Object(Entries { draft, of: Of::Headers(draft.headers.iter()) });
            }
            Self::Leaves(draft) => {
                return ReferenceValue::Object(Entries { draft, of: Of::Leaves(draft.tape.leaves.iter()) });
            }
            Self::Ranges(draft) => {
                return ReferenceValue::Object(Entries { draft, of: Of::Ranges(draft.tape.leaves.iter()) });
            }
        })
    }
}

/// A JSON field's content: whole paths with leaves, never nested.
pub(super) struct Entries<'a> {
    draft: &'a Draft,
    of: Of<'a>,
}

enum Of<'a> {
    Headers(slice::Iter<'a, Header>),
    Leaves(slice::Iter<'a, Leaf>),
    Ranges(slice::Iter<'a, Leaf>),
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, Part<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let draft = self.draft;
        let (leaf, dates_are_text) = match &mut self.of {
            Of::Headers(headers) => {
                let header = headers.next()?;
                let value = &draft.header_text[header.start as usize..][..header.len as usize];
                return Some((draft.names.path(header.name), Part::Text(value)));
            }
            Of::Leaves(leaves) => (leaves.next()?, true),
            Of::Ranges(leaves) => (leaves.find(|leaf| leaf.has_range())?, false),
        };
        let part = match leaf.scalar(&draft.tape.text) {
            Scalar::Date(_, nanos) if !dates_are_text => Part::Date(nanos),
            Scalar::Text(text) | Scalar::Date(text, _) => Part::Text(text),
            Scalar::I64(value) => Part::I64(value),
            Scalar::U64(value) => Part::U64(value),
            Scalar::F64(value) => Part::F64(value),
            Scalar::Bool(value) => Part::Bool(value),
        };
        Some((draft.paths.path(leaf.path()), part))
    }
}

#[cfg(test)]
mod tests;
