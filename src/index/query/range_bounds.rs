//! Converts what was written as a number or a time to the limits of ranges.

use std::ops::Bound;

use super::range::{Limits, Span};
use super::{QueryError, QueryProblem, number, shown};
use crate::index::rfc3339;

/// An end of a range as it was written, and its position.
pub(super) struct RangeBound {
    pub text: String,
    pub at: usize,
}

/// An empty range.
#[expect(clippy::reversed_empty_ranges, reason = "no offset and no time is in it")]
const NOTHING: Span = 1..=0;

/// Returns the whole numbers between two ends. The ends of the result are included.
fn span(from: Bound<i64>, to: Bound<i64>) -> Span {
    let from = match from {
        Bound::Unbounded => Some(i64::MIN),
        Bound::Included(value) => Some(value),
        Bound::Excluded(value) => value.checked_add(1),
    };
    let to = match to {
        Bound::Unbounded => Some(i64::MAX),
        Bound::Included(value) => Some(value),
        Bound::Excluded(value) => value.checked_sub(1),
    };
    from.zip(to).map_or(NOTHING, |(from, to)| from..=to)
}

fn map<T>(
    bound: &Bound<RangeBound>,
    read: impl FnOnce(&RangeBound) -> Result<T, QueryError>,
) -> Result<Bound<T>, QueryError> {
    Ok(match bound {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(end) => Bound::Included(read(end)?),
        Bound::Excluded(end) => Bound::Excluded(read(end)?),
    })
}

/// A single offset.
pub(super) fn offset(end: &RangeBound) -> Result<Span, QueryError> {
    let offset = whole(end)?;
    Ok(offset..=offset)
}

pub(super) fn offsets(from: &Bound<RangeBound>, to: &Bound<RangeBound>) -> Result<Span, QueryError> {
    Ok(span(map(from, whole)?, map(to, whole)?))
}

/// Reads a single time. The range is empty if the time is between two milliseconds.
pub(super) fn timestamp(end: &RangeBound) -> Result<Span, QueryError> {
    Ok(milliseconds(end, Round::Up)?..=milliseconds(end, Round::Down)?)
}

pub(super) fn timestamps(from: &Bound<RangeBound>, to: &Bound<RangeBound>) -> Result<Span, QueryError> {
    // A time between two milliseconds is rounded. An included end is rounded into the range, an excluded end
    // out of it.
    let round = |bound: &Bound<RangeBound>, inward, outward| {
        if matches!(bound, Bound::Included(_)) { inward } else { outward }
    };
    let from = map(from, |end| milliseconds(end, round(from, Round::Up, Round::Down)))?;
    let to = map(to, |end| milliseconds(end, round(to, Round::Down, Round::Up)))?;
    Ok(span(from, to))
}

/// Reads a range at a path. It is a range of dates if one end is a date, else of numbers.
pub(super) fn limits(from: &Bound<RangeBound>, to: &Bound<RangeBound>) -> Result<Limits, QueryError> {
    let is_date = |bound: &Bound<RangeBound>| match bound {
        Bound::Unbounded => false,
        Bound::Included(end) | Bound::Excluded(end) => date(&end.text).is_some(),
    };
    if is_date(from) || is_date(to) {
        let read = |end: &RangeBound| date(&end.text).ok_or_else(|| bad(end, "RFC 3339 date"));
        return Ok(Limits::Dates(span(map(from, read)?, map(to, read)?)));
    }
    let read = |end: &RangeBound| number(&end.text).ok_or_else(|| bad(end, "number or RFC 3339 date"));
    Ok(Limits::Numbers(map(from, read)?, map(to, read)?))
}

fn whole(end: &RangeBound) -> Result<i64, QueryError> {
    end.text.parse().map_err(|_| bad(end, "whole number"))
}

#[derive(Clone, Copy)]
enum Round {
    Up,
    Down,
}

fn milliseconds(end: &RangeBound, round: Round) -> Result<i64, QueryError> {
    const NANOS: i64 = 1_000_000;
    if let Ok(milliseconds) = end.text.parse() {
        return Ok(milliseconds);
    }
    let nanos =
        date(&end.text).ok_or_else(|| bad(end, "time: milliseconds since the epoch or an RFC 3339 date"))?;
    let up = matches!(round, Round::Up) && nanos.rem_euclid(NANOS) != 0;
    Ok(nanos.div_euclid(NANOS) + i64::from(up))
}

/// Returns the nanoseconds since the epoch of a date, or of the start of a day.
fn date(text: &str) -> Option<i64> {
    let date = rfc3339::parse(text).or_else(|| rfc3339::parse(&format!("{text}T00:00:00Z")))?;
    match date {
        rfc3339::Date::Nanos(nanos) => Some(nanos),
        rfc3339::Date::OutOfRange => None,
    }
}

fn bad(end: &RangeBound, expected: &'static str) -> QueryError {
    QueryError { position: end.at, problem: QueryProblem::BadEnd { text: shown(&end.text), expected } }
}
