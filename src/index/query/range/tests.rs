use tantivy::{u64_to_f64, u64_to_i64};

use super::*;

const NUMBERS: [Number; 17] = [
    Number::F64(f64::MIN),
    Number::F64(-9_223_372_036_854_777_856.0),
    Number::I64(i64::MIN),
    Number::I64(i64::MIN + 1),
    Number::I64(-2),
    Number::F64(-1.5),
    Number::I64(-1),
    Number::F64(-0.5),
    Number::I64(0),
    Number::F64(0.5),
    Number::I64(1),
    Number::I64(i64::MAX - 1),
    Number::I64(i64::MAX),
    Number::U64(1 << 63),
    Number::U64(u64::MAX - 1),
    Number::U64(u64::MAX),
    Number::F64(f64::MAX),
];

fn bounds() -> impl Iterator<Item = (Bound<usize>, Bound<usize>)> {
    let ends = || {
        let each = (0..NUMBERS.len()).flat_map(|index| [Bound::Included(index), Bound::Excluded(index)]);
        each.chain([Bound::Unbounded]).collect::<Vec<_>>()
    };
    ends().into_iter().flat_map(move |from| ends().into_iter().map(move |to| (from, to)))
}

/// [`NUMBERS`] ascend, so a number is between two others if its index is.
fn is_between(index: usize, from: Bound<usize>, to: Bound<usize>) -> bool {
    use std::ops::RangeBounds;
    (from, to).contains(&index)
}

fn limits(from: Bound<usize>, to: Bound<usize>) -> Limits {
    Limits::Numbers(from.map(|index| NUMBERS[index]), to.map(|index| NUMBERS[index]))
}

#[test]
fn whole_columns_answer_exactly_for_every_pair_of_ends() {
    for (from, to) in bounds() {
        let limits = limits(from, to);
        let (i64s, u64s) =
            (limits.in_column(ColumnType::I64, false), limits.in_column(ColumnType::U64, false));
        for (index, number) in NUMBERS.into_iter().enumerate() {
            let expected = is_between(index, from, to);
            if let Number::I64(value) = number {
                let found = i64s.as_ref().is_some_and(|range| range.contains(&i64_to_u64(value)));
                assert_eq!(found, expected, "{value} in {limits:?}");
            }
            let value = match number {
                Number::I64(value) if value >= 0 => value as u64,
                Number::U64(value) => value,
                _ => continue,
            };
            let found = u64s.as_ref().is_some_and(|range| range.contains(&value));
            assert_eq!(found, expected, "{value} in {limits:?}");
        }
    }
}

#[test]
fn columns_of_fractions_are_exact_and_rounded_ones_miss_nothing() {
    for (from, to) in bounds() {
        let limits = limits(from, to);
        let [exact, rounded] = [false, true].map(|rounded| limits.in_column(ColumnType::F64, rounded));
        for (index, number) in NUMBERS.into_iter().enumerate() {
            let (value, side) = nearest(number);
            let is_in = |range: &Option<RangeInclusive<u64>>| {
                range.as_ref().is_some_and(|range| range.contains(&f64_to_u64(value)))
            };
            let expected = is_between(index, from, to);
            if side == Ordering::Equal {
                assert_eq!(is_in(&exact), expected, "{number:?} in {limits:?}");
            }
            assert!(is_in(&rounded) || !expected, "{number:?} in {limits:?}");
            assert!(is_in(&rounded) == expected || value.abs() >= TWO_53, "{number:?} in {limits:?}");
        }
    }
}

#[test]
fn a_column_of_another_kind_holds_nothing_of_the_range() {
    let numbers = Limits::Numbers(Bound::Unbounded, Bound::Unbounded);
    assert_eq!(numbers.in_column(ColumnType::DateTime, false), None);
    assert_eq!(numbers.in_column(ColumnType::Bool, false), None);
    assert_eq!(Limits::Dates(i64::MIN..=i64::MAX).in_column(ColumnType::I64, false), None);
    assert_eq!(Limits::Dates(Span::new(2, 1)).in_column(ColumnType::DateTime, false), None);
    let all = numbers.in_column(ColumnType::I64, false).unwrap();
    assert_eq!((u64_to_i64(*all.start()), u64_to_i64(*all.end())), (i64::MIN, i64::MAX));
    let all = numbers.in_column(ColumnType::F64, false).unwrap();
    assert_eq!((u64_to_f64(*all.start()), u64_to_f64(*all.end())), (f64::NEG_INFINITY, f64::INFINITY));
}
