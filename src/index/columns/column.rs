//! One column.

use tantivy::columnar::{ColumnType, NumericalValue};

use super::super::chunked::Chunked;

/// What a column's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    I64,
    U64,
    F64,
    Date,
}

/// Values as Tantivy orders them, in the order of their documents.
#[derive(Debug)]
pub(super) struct Column {
    pub name: Box<str>,
    kind: Kind,
    has_negative: bool,
    values: Chunked<u64, 12>,
    /// The document of each value; none as long as the nth value is the nth document's.
    docs: Chunked<u32, 13>,
}

impl Column {
    pub fn new(name: Box<str>, kind: Kind) -> Self {
        Self { name, kind, has_negative: false, values: Chunked::default(), docs: Chunked::default() }
    }

    /// The next value, which belongs to the same document as the last one or to a later one.
    #[inline]
    pub fn push(&mut self, doc: u32, value: u64) {
        if self.docs.len() > 0 {
            self.docs.push(doc);
        } else if self.values.len() != doc as usize {
            (0..self.values.len() as u32).chain([doc]).for_each(|doc| self.docs.push(doc));
        }
        self.values.push(value);
    }

    /// The same. Where whole numbers of all sizes do not fit a type, or some are fractions, all become `f64`.
    #[inline]
    pub fn push_number(&mut self, doc: u32, number: NumericalValue) {
        match number {
            NumericalValue::I64(number) => {
                self.has_negative |= number < 0;
                if self.kind == Kind::U64 && number < 0 {
                    self.widen(Kind::F64);
                }
            }
            NumericalValue::U64(_) if self.kind == Kind::I64 => {
                self.widen(if self.has_negative { Kind::F64 } else { Kind::U64 });
            }
            NumericalValue::F64(_) if self.kind != Kind::F64 => self.widen(Kind::F64),
            _ => {}
        }
        self.push(doc, of_kind(self.kind, number));
    }

    #[cold]
    fn widen(&mut self, kind: Kind) {
        let was = self.kind;
        for value in self.values.iter_mut() {
            let number = match was {
                Kind::U64 => NumericalValue::U64(*value),
                _ => NumericalValue::I64(tantivy::u64_to_i64(*value)),
            };
            *value = of_kind(kind, number);
        }
        self.kind = kind;
    }

    pub fn column_type(&self) -> ColumnType {
        match self.kind {
            Kind::I64 => ColumnType::I64,
            Kind::U64 => ColumnType::U64,
            Kind::F64 => ColumnType::F64,
            Kind::Date => ColumnType::DateTime,
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The values, and the document of each, if not simply one each from the first on.
    pub fn into_parts(self) -> (Vec<u64>, Option<Vec<u32>>) {
        let mut values = Vec::with_capacity(self.values.len());
        self.values.into_chunks().for_each(|chunk| values.extend_from_slice(&chunk));
        let mut docs = Vec::with_capacity(self.docs.len());
        self.docs.into_chunks().for_each(|chunk| docs.extend_from_slice(&chunk));
        (values, (!docs.is_empty()).then_some(docs))
    }

    pub fn mem_usage(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.values.mem_usage() + self.docs.mem_usage()
    }

    /// Bytes of the values alone.
    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<u64>() + self.docs.len() * size_of::<u32>()
    }
}

fn of_kind(kind: Kind, number: NumericalValue) -> u64 {
    match (kind, number) {
        (Kind::F64, NumericalValue::I64(number)) => tantivy::f64_to_u64(number as f64),
        (Kind::F64, NumericalValue::U64(number)) => tantivy::f64_to_u64(number as f64),
        (_, NumericalValue::F64(number)) => tantivy::f64_to_u64(number),
        (Kind::U64, NumericalValue::I64(number)) => number as u64,
        (_, NumericalValue::I64(number)) => tantivy::i64_to_u64(number),
        (_, NumericalValue::U64(number)) => number,
    }
}
