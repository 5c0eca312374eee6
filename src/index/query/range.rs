//! Ranges over columns.
//!
//! Tantivy's own range query over JSON converts the ends to the type that a column happens to have, and gets
//! some ends wrong: if an end is below all whole numbers, everything matches. Here each column of each
//! Tantivy segment is read in its own type.

use std::cmp::Ordering;
use std::ops::{Bound, RangeInclusive};

use tantivy::columnar::{ColumnType, DynamicColumnHandle};
use tantivy::query::{
    BitSetDocSet, ConstScorer, EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight,
};
use tantivy::{BitSet, DocId, Score, SegmentReader, TantivyError, f64_to_u64, i64_to_u64};

use super::super::json::Number;

/// A range of whole numbers. The ends are included.
pub(in crate::index) type Span = RangeInclusive<i64>;

/// A range at a path.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) enum Limits {
    Numbers(Bound<Number>, Bound<Number>),
    /// Nanoseconds since the epoch.
    Dates(Span),
}

impl Limits {
    /// Returns the values of a column that are in the range, in the order-preserving `u64` form of columns.
    /// `None` means that no value is in the range.
    ///
    /// With `rounded`, whole numbers beyond 2^53 may have been rounded to the column's floating-point
    /// numbers. Then the numbers to which an end would be rounded are also in the range.
    pub(super) fn in_column(&self, column: ColumnType, rounded: bool) -> Option<RangeInclusive<u64>> {
        match (self, column) {
            (Self::Numbers(from, to), ColumnType::I64) => {
                let (from, to) = (lowest_i64(from)?, highest_i64(to)?);
                (from <= to).then(|| i64_to_u64(from)..=i64_to_u64(to))
            }
            (Self::Numbers(from, to), ColumnType::U64) => {
                let (from, to) = (lowest_u64(from)?, highest_u64(to)?);
                (from <= to).then_some(from..=to)
            }
            (Self::Numbers(from, to), ColumnType::F64) => {
                let (from, to) = (lowest_f64(from, rounded), highest_f64(to, rounded));
                (from <= to).then(|| f64_to_u64(from)..=f64_to_u64(to))
            }
            (Self::Dates(span), ColumnType::DateTime) => {
                (!span.is_empty()).then(|| i64_to_u64(*span.start())..=i64_to_u64(*span.end()))
            }
            _ => None,
        }
    }
}

const TWO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_64: f64 = TWO_63 * 2.0;
/// Below this number, every whole number has an `f64` of its own.
const TWO_53: f64 = 9_007_199_254_740_992.0;

fn lowest_i64(from: &Bound<Number>) -> Option<i64> {
    match *from {
        Bound::Unbounded => Some(i64::MIN),
        Bound::Included(Number::I64(value)) => Some(value),
        Bound::Excluded(Number::I64(value)) => value.checked_add(1),
        Bound::Included(Number::U64(_)) | Bound::Excluded(Number::U64(_)) => None,
        // A fraction is not a whole number: included or not, the range begins at the next whole number.
        Bound::Included(Number::F64(value)) | Bound::Excluded(Number::F64(value)) => {
            (value < TWO_63).then_some(value.ceil() as i64)
        }
    }
}

fn highest_i64(to: &Bound<Number>) -> Option<i64> {
    match *to {
        Bound::Unbounded | Bound::Included(Number::U64(_)) | Bound::Excluded(Number::U64(_)) => {
            Some(i64::MAX)
        }
        Bound::Included(Number::I64(value)) => Some(value),
        Bound::Excluded(Number::I64(value)) => value.checked_sub(1),
        Bound::Included(Number::F64(value)) | Bound::Excluded(Number::F64(value)) => {
            (value >= -TWO_63).then_some(value.floor() as i64)
        }
    }
}

fn lowest_u64(from: &Bound<Number>) -> Option<u64> {
    match *from {
        Bound::Unbounded => Some(0),
        Bound::Included(Number::I64(value)) => Some(u64::try_from(value).unwrap_or(0)),
        Bound::Excluded(Number::I64(value)) => Some(u64::try_from(value).map_or(0, |value| value + 1)),
        Bound::Included(Number::U64(value)) => Some(value),
        Bound::Excluded(Number::U64(value)) => value.checked_add(1),
        Bound::Included(Number::F64(value)) | Bound::Excluded(Number::F64(value)) => {
            (value < TWO_64).then_some(value.ceil() as u64)
        }
    }
}

fn highest_u64(to: &Bound<Number>) -> Option<u64> {
    match *to {
        Bound::Unbounded => Some(u64::MAX),
        Bound::Included(Number::I64(value)) => u64::try_from(value).ok(),
        Bound::Excluded(Number::I64(value)) => u64::try_from(value).ok()?.checked_sub(1),
        Bound::Included(Number::U64(value)) => Some(value),
        Bound::Excluded(Number::U64(value)) => value.checked_sub(1),
        Bound::Included(Number::F64(value)) | Bound::Excluded(Number::F64(value)) => {
            (value >= 0.0).then_some(value.floor() as u64)
        }
    }
}

/// Returns the nearest floating-point number, and how it compares to the number.
fn nearest(number: Number) -> (f64, Ordering) {
    let exact = |whole: i128, value: f64| (value, (value as i128).cmp(&whole));
    match number {
        Number::I64(whole) => exact(whole.into(), whole as f64),
        Number::U64(whole) => exact(whole.into(), whole as f64),
        Number::F64(value) => (value, Ordering::Equal),
    }
}

fn lowest_f64(from: &Bound<Number>, rounded: bool) -> f64 {
    let (number, is_included) = match *from {
        Bound::Unbounded => return f64::NEG_INFINITY,
        Bound::Included(number) => (number, true),
        Bound::Excluded(number) => (number, false),
    };
    match nearest(number) {
        (value, _) if rounded && value.abs() >= TWO_53 => value,
        (value, Ordering::Greater) => value,
        (value, Ordering::Equal) if is_included => value,
        (value, _) => value.next_up(),
    }
}

fn highest_f64(to: &Bound<Number>, rounded: bool) -> f64 {
    let (number, is_included) = match *to {
        Bound::Unbounded => return f64::INFINITY,
        Bound::Included(number) => (number, true),
        Bound::Excluded(number) => (number, false),
    };
    match nearest(number) {
        (value, _) if rounded && value.abs() >= TWO_53 => value,
        (value, Ordering::Less) => value,
        (value, Ordering::Equal) if is_included => value,
        (value, _) => value.next_down(),
    }
}

impl Limits {
    /// Returns whether an end is a whole number that may have the same `f64` as its neighbours.
    pub(super) fn has_large_end(&self) -> bool {
        let is_large = |bound: &Bound<Number>| match bound {
            Bound::Unbounded => false,
            Bound::Included(number) | Bound::Excluded(number) => nearest(*number).0.abs() >= TWO_53,
        };
        matches!(self, Self::Numbers(from, to) if is_large(from) || is_large(to))
    }
}

/// Matches the documents with a value in the range, in any column with this name.
#[derive(Clone, Debug)]
pub(super) struct RangeQuery {
    /// The name as in Tantivy's fast fields: dotted, `\` escaped.
    pub column: String,
    pub limits: Limits,
    /// Whether columns of floating-point numbers may hold whole numbers that were rounded.
    pub rounded: bool,
}

impl Query for RangeQuery {
    fn weight(&self, _scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for RangeQuery {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let mut found: Option<BitSet> = None;
        for handle in reader.fast_fields().dynamic_column_handles(&self.column)? {
            if let Some(values) = self.limits.in_column(handle.column_type(), self.rounded) {
                let found = found.get_or_insert_with(|| BitSet::with_max_value(reader.max_doc()));
                collect(&handle, values, reader.max_doc(), found)?;
            }
        }
        Ok(match found {
            Some(found) => Box::new(ConstScorer::new(BitSetDocSet::from(found), boost)),
            None => Box::new(EmptyScorer),
        })
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        if self.scorer(reader, 1.0)?.seek(doc) == doc {
            Ok(Explanation::new("in the range", 1.0))
        } else {
            Err(TantivyError::InvalidArgument(format!("document {doc} is not in the range")))
        }
    }
}

/// How many documents are read at once.
const STRIDE: u32 = 1 << 16;

fn collect(
    handle: &DynamicColumnHandle,
    values: RangeInclusive<u64>,
    max_doc: u32,
    found: &mut BitSet,
) -> tantivy::Result<()> {
    let Some(column) = handle.open_u64_lenient()? else { return Ok(()) };
    if column.max_value() < *values.start() || column.min_value() > *values.end() {
        return Ok(());
    }
    let mut docs = Vec::new();
    let mut from = 0;
    while from < max_doc {
        let to = max_doc.min(from.saturating_add(STRIDE));
        docs.clear();
        column.get_docids_for_value_range(values.clone(), from..to, &mut docs);
        for doc in &docs {
            found.insert(*doc);
        }
        from = to;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
