//! The order in which bundles, and the leaves of their indexes, are searched, and when the search stops.

use std::future::Future;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::SearchError;
use super::overlaps::Overlaps;
use super::top_hits::SortKey;
use crate::bundle::BlockEntry;
use crate::ids::OffsetRange;
use crate::index::{Hit, LeafFacts, Order};
use crate::registry::Filter;
use crate::store::BundleKey;
use crate::transactions::NotCommitted;

/// What is known of the offsets and times of some records before they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordRanges {
    offsets: Option<OffsetRange>,
    /// The earliest and the latest time; `None` if they are not known.
    times_ms: Option<(i64, i64)>,
}

impl RecordRanges {
    pub fn of_key(key: &BundleKey) -> Self {
        Self { offsets: Some(key.range()), times_ms: key.times_ms() }
    }

    /// Returns the ranges of the blocks that hold a leaf's records.
    pub fn of_leaf(leaf: &LeafFacts, blocks: &[BlockEntry]) -> Self {
        let (first, behind) = (leaf.first_ordinal, leaf.first_ordinal + u64::from(leaf.documents));
        let from = blocks.partition_point(|block| block.ordinals().end <= first);
        let blocks = blocks[from..].iter().take_while(|block| block.first_ordinal < behind);
        let blocks = blocks.filter(|block| block.records > 0);
        let offsets = blocks.clone().filter_map(|block| block.offsets).reduce(|a, b| a.cover(&b));
        let times = blocks.filter_map(|block| block.times).reduce(|a, b| a.cover(&b));
        Self { offsets, times_ms: times.map(|times| (times.min_ms, times.max_ms)) }
    }

    /// Whether one of the records may match the filter. A record without a time is in no range of times.
    pub fn may_hold(&self, filter: &Filter) -> bool {
        let offsets =
            OffsetRange::new(filter.min_offset.unwrap_or(i64::MIN), filter.max_offset.unwrap_or(i64::MAX));
        let in_time = self.times_ms.is_none_or(|(min, max)| {
            filter.min_timestamp_ms.is_none_or(|from| from <= max)
                && filter.max_timestamp_ms.is_none_or(|to| min <= to)
        });
        let in_offsets = |wanted: OffsetRange| self.offsets.is_none_or(|offsets| offsets.overlaps(&wanted));
        offsets.is_some_and(in_offsets) && in_time
    }

    /// Whether any of the records' offsets may occur more than once.
    pub fn overlaps(&self, overlaps: &Overlaps) -> bool {
        self.offsets.is_none_or(|offsets| overlaps.any_in(offsets))
    }

    /// Whether some of the records may be left out, because they are not committed.
    pub fn meets(&self, left_out: &NotCommitted) -> bool {
        left_out.may_be_in(self.offsets)
    }

    /// Returns a place that none of these records can sort before, in an order by time.
    pub fn first_place(&self, order: Order, log: u32) -> SortKey {
        let hit = |time: Option<i64>, offset: Option<i64>, unknown: i64| Hit {
            ordinal: 0,
            offset: offset.unwrap_or(unknown),
            timestamp_ms: Some(time.unwrap_or(unknown)),
            score: Some(f32::MAX),
        };
        let hit = match order {
            Order::OldestFirst => {
                hit(self.times_ms.map(|times| times.0), self.offsets.map(|range| range.first()), i64::MIN)
            }
            Order::NewestFirst | Order::ByScore => {
                hit(self.times_ms.map(|times| times.1), self.offsets.map(|range| range.last()), i64::MAX)
            }
        };
        SortKey::new(order, log, &hit)
    }
}

/// Works on items while the next one is `worth` it. Returns how many items are left. The items must be
/// sorted, those with the likely first hits first. If `all` are needed, it works on up to `at_once_max` at a
/// time. If not, it begins with one. After each item it works on up to twice as many, but on no more than are
/// likely `estimate_remaining` after that many items.
pub(super) async fn schedule<T, F: Future<Output = Result<(), SearchError>>>(
    items: Vec<T>,
    at_once_max: usize,
    all: bool,
    worth: impl Fn(&T) -> bool,
    estimate_remaining: impl Fn(usize) -> usize,
    work: impl Fn(T) -> F,
) -> Result<usize, SearchError> {
    let mut items = items.into_iter().peekable();
    let mut at_once = if all { at_once_max } else { 1 };
    let (mut running, mut ended) = (FuturesUnordered::new(), 0);
    loop {
        while running.len() < at_once
            && let Some(item) = items.next_if(|item| all || worth(item))
        {
            running.push(work(item));
        }
        match running.next().await {
            Some(done) => done?,
            None => return Ok(items.count()),
        }
        ended += 1;
        at_once = if all {
            at_once_max
        } else {
            (at_once * 2).min(at_once_max).min(estimate_remaining(ended)).max(1)
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn no_more_is_begun_than_is_worth_it() {
        let begun = Cell::new(0);
        let work = |_| {
            begun.set(begun.get() + 1);
            async { Ok(()) }
        };
        let left = schedule((0..100).collect(), 8, false, |item| *item < 1, |_| 9, work).await;
        assert_eq!((left.expect("no error"), begun.take()), (99, 1));
        let left = schedule((0..100).collect(), 8, false, |item| *item < 40, |_| 9, work).await;
        assert_eq!((left.expect("no error"), begun.take()), (60, 40));
        let left = schedule((0..100).collect(), 8, true, |_| false, |_| 1, work).await;
        assert_eq!((left.expect("no error"), begun.take()), (0, 100));
    }

    #[tokio::test]
    async fn one_is_worked_on_at_first_and_then_more() {
        let (running, most) = (Cell::new(0), Cell::new(Vec::new()));
        let work = |_: usize| async {
            running.set(running.get() + 1);
            let mut seen = most.take();
            seen.push(running.get());
            most.set(seen);
            tokio::task::yield_now().await;
            running.set(running.get() - 1);
            Ok(())
        };
        let left = schedule((0..20).collect(), 4, false, |_| true, |_| 9, work).await;
        assert_eq!(left.expect("no error"), 0);
        let seen = most.take();
        assert_eq!((seen[0], seen.iter().max()), (1, Some(&4)));
    }

    #[test]
    fn a_span_without_times_may_hold_all_and_promises_most() {
        let unknown = RecordRanges { offsets: OffsetRange::new(5, 9), times_ms: None };
        let known = RecordRanges { offsets: OffsetRange::new(5, 9), times_ms: Some((10, 20)) };
        let filter = |from, to| Filter { min_timestamp_ms: from, max_timestamp_ms: to, ..Filter::default() };
        for (from, to, holds) in
            [(Some(20), None, true), (Some(21), None, false), (None, Some(10), true), (None, Some(9), false)]
        {
            assert_eq!(known.may_hold(&filter(from, to)), holds);
            assert!(unknown.may_hold(&filter(from, to)));
        }
        for (min, max, holds) in [(9, 9, true), (10, 99, false), (0, 4, false), (9, 5, false)] {
            let filter = Filter { min_offset: Some(min), max_offset: Some(max), ..Filter::default() };
            assert_eq!((known.may_hold(&filter), unknown.may_hold(&filter)), (holds, holds), "{min} {max}");
        }
        for order in [Order::NewestFirst, Order::OldestFirst] {
            assert!(unknown.first_place(order, 0) < known.first_place(order, 0));
        }
    }
}
