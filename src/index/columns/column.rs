//! One column.

use tantivy::columnar::{ColumnType, NumericalValue};

use super::super::chunked::Chunked;

/// The type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    I64,
    U64,
    F64,
    Date,
}

/// Values in Tantivy's order-preserving form, in the order of their documents.
#[derive(Debug)]
pub(super) struct Column {
    pub name: Box<str>,
    kind: Kind,
    has_negative: bool,
    values: Chunked<u64, 12>,
    /// The document of each value. It is empty as long as the nth value belongs to the nth document.
    docs: Chunked<u32, 13>,
    /// The columns for whole numbers that this column's type cannot hold: first those that fit an `i64`, then
    /// larger ones.
    apart: Option<Box<[Self; 2]>>,
}

impl Column {
    pub fn new(name: Box<str>, kind: Kind) -> Self {
        Self {
            name,
            kind,
            has_negative: false,
            values: Chunked::default(),
            docs: Chunked::default(),
            apart: None,
        }
    }

    /// Adds the next value. It belongs to the same document as the last one, or to a later one.
    #[inline]
    pub fn push(&mut self, doc: u32, value: u64) {
        if self.docs.len() > 0 {
            self.docs.push(doc);
        } else if self.values.len() != doc as usize {
            (0..self.values.len() as u32).chain([doc]).for_each(|doc| self.docs.push(doc));
        }
        self.values.push(value);
    }

    /// Adds the next number. If the path also has fractions, whole numbers become `f64`, as long as each has
    /// an `f64` of its own. Larger ones are set apart in a column of the same name, and so are those that fit
    /// no type together with negative numbers.
    #[inline]
    pub fn push_number(&mut self, doc: u32, number: NumericalValue) {
        match (self.kind, number) {
            (Kind::I64, NumericalValue::I64(number)) => self.has_negative |= number < 0,
            (Kind::U64, NumericalValue::I64(number)) if number < 0 => {
                self.has_negative = true;
                self.turn_into(Kind::I64);
            }
            (Kind::I64, NumericalValue::U64(_)) if self.has_negative => return self.set_apart(doc, number),
            (Kind::I64, NumericalValue::U64(_)) => self.turn_into(Kind::U64),
            (Kind::I64 | Kind::U64, NumericalValue::F64(_)) => self.turn_into(Kind::F64),
            (Kind::F64, number) if !fits(Kind::F64, number) => return self.set_apart(doc, number),
            _ => {}
        }
        self.push(doc, of_kind(self.kind, number));
    }

    /// Converts the values to another type, and sets apart those that it cannot hold.
    #[cold]
    fn turn_into(&mut self, kind: Kind) {
        let was = self.kind;
        let number = |value: u64| match was {
            Kind::U64 => NumericalValue::U64(value),
            _ => NumericalValue::I64(tantivy::u64_to_i64(value)),
        };
        self.kind = kind;
        if self.values.iter().all(|value| fits(kind, number(*value))) {
            self.values.iter_mut().for_each(|value| *value = of_kind(kind, number(*value)));
            return;
        }
        let values = std::mem::take(&mut self.values).into_chunks().flatten();
        let docs: Vec<u32> = std::mem::take(&mut self.docs).into_chunks().flatten().collect();
        for (nth, value) in values.enumerate() {
            let doc = docs.get(nth).copied().unwrap_or(nth as u32);
            match number(value) {
                number if fits(kind, number) => self.push(doc, of_kind(kind, number)),
                number => self.set_apart(doc, number),
            }
        }
    }

    #[cold]
    fn set_apart(&mut self, doc: u32, number: NumericalValue) {
        let name = &self.name;
        let [i64s, u64s] = &mut **self.apart.get_or_insert_with(|| {
            Box::new([Kind::I64, Kind::U64].map(|kind| Self::new(name.clone(), kind)))
        });
        match number {
            NumericalValue::I64(value) => i64s.push(doc, tantivy::i64_to_u64(value)),
            // A column of large numbers may also hold small ones.
            NumericalValue::U64(value) => match i64::try_from(value) {
                Ok(value) => i64s.push(doc, tantivy::i64_to_u64(value)),
                Err(_) => u64s.push(doc, value),
            },
            NumericalValue::F64(_) => {}
        }
    }

    /// Returns this column and those with the numbers that were set apart.
    pub fn into_columns(mut self) -> impl Iterator<Item = Self> {
        let apart = self.apart.take().map(|apart| *apart);
        let apart = apart.into_iter().flatten().filter(|column| column.len() > 0);
        // This column is returned even if it is empty.
        Some(self).into_iter().chain(apart)
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

    /// Returns the values and the document of each. The documents are `None` if the nth value belongs to the
    /// nth document.
    pub fn into_parts(self) -> (Vec<u64>, Option<Vec<u32>>) {
        let mut values = Vec::with_capacity(self.values.len());
        self.values.into_chunks().for_each(|chunk| values.extend_from_slice(&chunk));
        let mut docs = Vec::with_capacity(self.docs.len());
        self.docs.into_chunks().for_each(|chunk| docs.extend_from_slice(&chunk));
        (values, (!docs.is_empty()).then_some(docs))
    }

    pub fn mem_usage(&self) -> usize {
        let apart: usize = self.apart().map(Self::mem_usage).sum();
        size_of::<Self>() + self.name.len() + self.values.mem_usage() + self.docs.mem_usage() + apart
    }

    fn apart(&self) -> impl Iterator<Item = &Self> {
        self.apart.iter().flat_map(|apart| apart.iter())
    }

    /// Returns the size of the values and their documents in bytes, without spare capacity.
    pub fn bytes(&self) -> usize {
        let apart: usize = self.apart().map(Self::bytes).sum();
        self.values.len() * size_of::<u64>() + self.docs.len() * size_of::<u32>() + apart
    }
}

/// Returns whether a column of this type can hold a number without rounding.
fn fits(kind: Kind, number: NumericalValue) -> bool {
    /// Up to this number, every whole number has an `f64` of its own.
    const WHOLE_MAX: u64 = 1 << 53;
    match (kind, number) {
        (Kind::F64, NumericalValue::I64(number)) => number.unsigned_abs() <= WHOLE_MAX,
        (Kind::F64, NumericalValue::U64(number)) => number <= WHOLE_MAX,
        (Kind::I64, NumericalValue::U64(number)) => i64::try_from(number).is_ok(),
        _ => true,
    }
}

fn of_kind(kind: Kind, number: NumericalValue) -> u64 {
    match (kind, number) {
        (Kind::F64, NumericalValue::I64(number)) => tantivy::f64_to_u64(number as f64),
        (Kind::F64, NumericalValue::U64(number)) => tantivy::f64_to_u64(number as f64),
        (_, NumericalValue::F64(number)) => tantivy::f64_to_u64(number),
        (Kind::U64, NumericalValue::I64(number)) => number as u64,
        (Kind::I64, NumericalValue::U64(number)) => tantivy::i64_to_u64(number as i64),
        (_, NumericalValue::I64(number)) => tantivy::i64_to_u64(number),
        (_, NumericalValue::U64(number)) => number,
    }
}
