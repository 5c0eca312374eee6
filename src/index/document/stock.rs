//! The same record as a document for Tantivy's own writer. Its files are compared with ours.

use std::slice;
use std::sync::Arc;

use tantivy::DateTime;
use tantivy::schema::document::{Document, ReferenceValue, ReferenceValueLeaf, Value};
use tantivy::schema::{Field, Schema};

use super::super::json::{Leaf, Number};
use super::super::schema::names;
use super::*;

/// The document for Tantivy.
#[derive(Clone, Debug)]
pub(in super::super) struct RecordDocument(pub Arc<IndexedRecord>, pub StockFields);

/// The fields in the order of the schema.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct StockFields {
    offset: Field,
    timestamp: Field,
    key: Field,
    header: Field,
    value: Field,
    num: Field,
    text: Field,
}

impl StockFields {
    pub fn of(schema: &Schema) -> Self {
        let field = |name| schema.get_field(name).unwrap();
        Self {
            offset: field(names::OFFSET),
            timestamp: field(names::TIMESTAMP),
            key: field(names::KEY),
            header: field(names::HEADER),
            value: field(names::VALUE),
            num: field(names::NUM),
            text: field(names::TEXT),
        }
    }
}

impl Document for RecordDocument {
    type Value<'a> = Part<'a>;
    type FieldsValuesIter<'a> = Parts<'a>;

    fn iter_fields_and_values(&self) -> Parts<'_> {
        Parts { indexed: &self.0, fields: &self.1, next: Step::Offset }
    }
}

/// The fields of a record in the order of the schema. Tantivy sorts them, and they are sorted already.
pub(in super::super) struct Parts<'a> {
    indexed: &'a IndexedRecord,
    fields: &'a StockFields,
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
        let indexed = self.indexed;
        let fields = self.fields;
        loop {
            let (after, found) = match self.next {
                Step::Offset => (Step::Timestamp, Some((fields.offset, Part::I64(indexed.offset)))),
                Step::Timestamp => {
                    (Step::Key, indexed.timestamp_ms.map(|ms| (fields.timestamp, Part::I64(ms))))
                }
                Step::Key => (Step::Header, indexed.has_key.then(|| (fields.key, Part::Bytes(&indexed.key)))),
                Step::Header => (
                    Step::Value,
                    (!indexed.headers.is_empty()).then_some((fields.header, Part::Headers(indexed))),
                ),
                Step::Value => (
                    Step::Num,
                    (!indexed.tape.leaves.is_empty()).then_some((fields.value, Part::Leaves(indexed))),
                ),
                Step::Num => (
                    Step::Text(0),
                    indexed
                        .tape
                        .leaves
                        .iter()
                        .any(|leaf| has_range(indexed, leaf))
                        .then_some((fields.num, Part::Ranges(indexed))),
                ),
                Step::Text(index) => {
                    let text = indexed.tape.texts.get(index)?.of(&indexed.tape.text);
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

fn has_range(indexed: &IndexedRecord, leaf: &Leaf) -> bool {
    !matches!(leaf.scalar(&indexed.tape.text), Scalar::Text(_) | Scalar::Bool(_))
}

/// A part of a record, as Tantivy sees it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Part<'a> {
    I64(i64),
    U64(u64),
    F64(f64),
    Bool(bool),
    Date(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
    /// Header names and values.
    Headers(&'a IndexedRecord),
    /// All leaves. Dates are text.
    Leaves(&'a IndexedRecord),
    /// Numbers and dates only.
    Ranges(&'a IndexedRecord),
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
            Self::Headers(indexed) => {
                return ReferenceValue::Object(Entries {
                    indexed,
                    of: Of::Headers(indexed.headers.iter()),
                    number: None,
                });
            }
            Self::Leaves(indexed) => {
                return ReferenceValue::Object(Entries {
                    indexed,
                    of: Of::Leaves(indexed.tape.leaves.iter()),
                    number: None,
                });
            }
            Self::Ranges(indexed) => {
                return ReferenceValue::Object(Entries {
                    indexed,
                    of: Of::Ranges(indexed.tape.leaves.iter()),
                    number: None,
                });
            }
        })
    }
}

/// A JSON field's content: whole paths with leaves, never nested.
pub(in super::super) struct Entries<'a> {
    indexed: &'a IndexedRecord,
    of: Of<'a>,
    /// The number of a string that is also a number. It follows the text.
    number: Option<(&'a str, Part<'a>)>,
}

enum Of<'a> {
    Headers(slice::Iter<'a, Header>),
    Leaves(slice::Iter<'a, Leaf>),
    Ranges(slice::Iter<'a, Leaf>),
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, Part<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let indexed = self.indexed;
        if let Some(number) = self.number.take() {
            return Some(number);
        }
        let (leaf, dates_are_text) = match &mut self.of {
            Of::Headers(headers) => {
                let header = headers.next()?;
                let value = &indexed.header_text[header.start as usize..][..header.len as usize];
                return Some((indexed.names.path(header.name), Part::Text(value)));
            }
            Of::Leaves(leaves) => (leaves.next()?, true),
            Of::Ranges(leaves) => (leaves.find(|leaf| has_range(indexed, leaf))?, false),
        };
        let part = match leaf.scalar(&indexed.tape.text) {
            Scalar::Date(_, nanos) if !dates_are_text => Part::Date(nanos),
            Scalar::Text(text) | Scalar::Date(text, _) => Part::Text(text),
            Scalar::NumberText(text, value) => {
                let number = match value {
                    Number::I64(value) => Part::I64(value),
                    Number::U64(value) => Part::U64(value),
                    Number::F64(value) => Part::F64(value),
                };
                if dates_are_text {
                    self.number = Some((indexed.paths.path(leaf.path()), number));
                    Part::Text(text)
                } else {
                    number
                }
            }
            Scalar::I64(value) => Part::I64(value),
            Scalar::U64(value) => Part::U64(value),
            Scalar::F64(value) => Part::F64(value),
            Scalar::Bool(value) => Part::Bool(value),
        };
        Some((indexed.paths.path(leaf.path()), part))
    }
}
