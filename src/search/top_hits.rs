//! Keeps the first hits in the requested order, and no more than are returned.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use crate::index::{Hit, Order};

/// The place of a hit in the order. The lowest place comes first. Hits of one log with the same offset and
/// time have the same place, except in an order by score: see [`TopHits::common_place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SortKey {
    score: Reverse<u32>,
    no_time: bool,
    /// Time and offset as unsigned numbers: inverted if the order is descending.
    time: u64,
    offset: u64,
    log: u32,
}

/// One copy of a hit: where it was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Copy {
    /// The bundle's number.
    pub bundle: u32,
    /// The record's ordinal in the bundle.
    pub ordinal: u64,
    pub score: Option<f32>,
}

/// The hits at one place. Replicas hold copies of one record, but they may also hold different records.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub log: u32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    /// Whether the offset may occur at other places too.
    pub overlaps: bool,
    pub copies: Vec<Copy>,
}

/// The first places in the order, with their hits.
#[derive(Debug)]
pub(super) struct TopHits {
    order: Order,
    limit: usize,
    places: BTreeMap<SortKey, Found>,
    /// Only in an order by score, and for offsets that may occur more than once: the place of the hit that
    /// was found before, because its copies may have other scores.
    scored: HashMap<(u32, i64, Option<i64>), SortKey>,
    copies: usize,
}

impl SortKey {
    pub fn new(order: Order, log: u32, hit: &Hit) -> Self {
        let time = ascending(hit.timestamp_ms.unwrap_or(i64::MIN));
        let (time, offset) = match order {
            Order::OldestFirst => (time, ascending(hit.offset)),
            Order::NewestFirst | Order::ByScore => (!time, !ascending(hit.offset)),
        };
        let score = match order {
            Order::ByScore => hit.score.unwrap_or(0.0).max(0.0).to_bits(),
            _ => 0,
        };
        Self { score: Reverse(score), no_time: hit.timestamp_ms.is_none(), time, offset, log }
    }
}

/// Maps a number to an unsigned one with the same order.
fn ascending(number: i64) -> u64 {
    (number as u64) ^ (1 << 63)
}

impl TopHits {
    pub fn new(order: Order, limit: usize) -> Self {
        Self { order, limit, places: BTreeMap::new(), scored: HashMap::new(), copies: 0 }
    }

    /// Returns the last place that is kept, if no later place would be kept.
    pub fn last(&self) -> Option<&SortKey> {
        let full = self.places.len() >= self.limit;
        self.places.last_key_value().filter(|_| full).map(|(place, _)| place)
    }

    /// Whether a hit at this place would be kept.
    pub fn keeps(&self, place: &SortKey) -> bool {
        self.limit > 0 && self.last().is_none_or(|last| place <= last)
    }

    /// Returns how many places are kept.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Returns how many hits are kept in addition to the first of each place.
    pub fn extra_copies(&self) -> usize {
        self.copies - self.places.len()
    }

    /// Keeps a hit, if it is among the first.
    pub fn offer(&mut self, log: u32, bundle: u32, overlaps: bool, hit: &Hit) {
        let place = SortKey::new(self.order, log, hit);
        if !self.keeps(&place) {
            return;
        }
        let copy = Copy { bundle, ordinal: hit.ordinal, score: hit.score };
        let (offset, timestamp_ms) = (hit.offset, hit.timestamp_ms);
        self.put(place, Found { log, offset, timestamp_ms, overlaps, copies: vec![copy] });
    }

    /// Adds the hits of `other`.
    pub fn merge(&mut self, other: Self) {
        for (place, found) in other.places {
            if !self.keeps(&place) {
                break;
            }
            self.put(place, found);
        }
    }

    fn put(&mut self, place: SortKey, mut found: Found) {
        self.copies += found.copies.len();
        let place = self.common_place(place, &mut found);
        match self.places.get_mut(&place) {
            Some(here) => here.copies.append(&mut found.copies),
            None => {
                self.places.insert(place, found);
            }
        }
        while self.places.len() > self.limit {
            if let Some((_, dropped)) = self.places.pop_last() {
                self.copies -= dropped.copies.len();
                self.scored.remove(&(dropped.log, dropped.offset, dropped.timestamp_ms));
            }
        }
    }

    /// Returns the place of a hit. In an order by score, all copies of a record are at the place of the copy
    /// with the best score.
    fn common_place(&mut self, place: SortKey, found: &mut Found) -> SortKey {
        if self.order != Order::ByScore || !found.overlaps {
            return place;
        }
        let name = (found.log, found.offset, found.timestamp_ms);
        let top_hits = self.scored.get(&name).map_or(place, |before| place.min(*before));
        if let Some(before) = self.scored.insert(name, top_hits)
            && before != top_hits
            && let Some(mut copies) = self.places.remove(&before)
        {
            found.copies.append(&mut copies.copies);
        }
        top_hits
    }

    /// Returns all that is kept, in order.
    pub fn into_found(self) -> impl Iterator<Item = Found> {
        self.places.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(ordinal: u64, offset: i64, timestamp_ms: Option<i64>, score: f32) -> Hit {
        Hit { ordinal, offset, timestamp_ms, score: Some(score) }
    }

    fn offsets(order: Order, limit: usize, hits: &[Hit]) -> Vec<i64> {
        let mut top_hits = TopHits::new(order, limit);
        hits.iter().for_each(|hit| top_hits.offer(0, 0, true, hit));
        top_hits.into_found().map(|found| found.offset).collect()
    }

    #[test]
    fn places_are_in_the_indexs_own_order() {
        let hits = [
            hit(0, 5, Some(i64::MIN), 0.5),
            hit(1, 4, Some(-1), 2.0),
            hit(2, 3, Some(0), 2.0),
            hit(3, 2, Some(i64::MAX), 0.0),
            hit(4, 1, None, 9.0),
            hit(5, i64::MAX, Some(0), 1.0),
        ];
        for order in [Order::NewestFirst, Order::OldestFirst, Order::ByScore] {
            let mut sorted = hits.to_vec();
            sorted.sort_by(|a, b| order.compare(a, b));
            for limit in [0, 1, 3, 6, 9] {
                let expected: Vec<i64> = sorted.iter().take(limit).map(|hit| hit.offset).collect();
                assert_eq!(offsets(order, limit, &hits), expected, "{order:?}, {limit}");
            }
        }
    }

    #[test]
    fn copies_share_a_place_however_they_score_and_take_none_from_others() {
        for order in [Order::NewestFirst, Order::ByScore] {
            let mut top_hits = TopHits::new(order, 2);
            for (bundle, score) in [(0, 1.0), (1, 3.0), (2, 2.0)] {
                top_hits.offer(0, bundle, true, &hit(7, 50, Some(5), score));
            }
            top_hits.offer(0, 0, true, &hit(8, 40, Some(4), 0.5));
            top_hits.offer(0, 0, true, &hit(9, 30, Some(3), 0.1));
            assert_eq!(top_hits.extra_copies(), 2);
            let found: Vec<_> =
                top_hits.into_found().map(|found| (found.offset, found.copies.len())).collect();
            assert_eq!(found, [(50, 3), (40, 1)], "{order:?}");
        }
    }
}
