//! Collects what was found so far: the number of matches, in all and by time bucket, and the first hits.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::overlaps::Overlaps;
use super::top_hits::{Copy, Found, SortKey, TopHits};
use super::{BUCKETS_MAX, SearchError};
use crate::index::{Hit, Order};
use crate::transactions::NotCommitted;

/// Counts matches, and keeps the first hits.
#[derive(Debug)]
pub(super) struct HitCollector {
    pub top_hits: TopHits,
    bucket_ms: Option<NonZeroU64>,
    /// Matches at offsets that occur only once.
    matched: u64,
    buckets: BTreeMap<i64, u64>,
    /// Matching offsets that may occur more than once, by log and bucket.
    repeated: BTreeMap<u32, BTreeMap<Option<i64>, RoaringTreemap>>,
}

/// The log and the bundle of a hit.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub log: u32,
    pub bundle: u32,
    pub overlaps: Overlaps,
    /// Records that are neither counted nor returned, because their transactions are not committed.
    pub left_out: Arc<NotCommitted>,
}

/// The numbers of matches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub matched: u64,
    /// The start of each bucket, and its number of matches; ascending, without empty buckets.
    pub buckets: Vec<(i64, u64)>,
}

impl HitCollector {
    pub fn new(order: Order, limit: usize, bucket_ms: Option<NonZeroU64>) -> Self {
        Self {
            top_hits: TopHits::new(order, limit),
            bucket_ms,
            matched: 0,
            buckets: BTreeMap::new(),
            repeated: BTreeMap::new(),
        }
    }

    /// Counts matches without their offsets and times. Each offset must occur only once.
    pub fn count(&mut self, matched: u64) {
        self.matched += matched;
    }

    pub fn add(&mut self, owner: &Owner, hit: &Hit) {
        if owner.left_out.state_of(hit.offset).is_some() {
            return;
        }
        let bucket = self.bucket_ms.zip(hit.timestamp_ms).map(|(width, time)| bucket(width, time));
        let overlaps = owner.overlaps.contain(hit.offset);
        if overlaps {
            let log = self.repeated.entry(owner.log).or_default();
            // Only a hostile segment has negative offsets. As unsigned numbers they are counted like others.
            log.entry(bucket).or_default().insert(hit.offset as u64);
        } else {
            self.matched += 1;
            if let Some(bucket) = bucket {
                *self.buckets.entry(bucket).or_default() += 1;
            }
        }
        self.top_hits.offer(owner.log, owner.bundle, overlaps, hit);
    }

    /// Adds what another collector found. An offset that both found counts once.
    pub fn merge(&mut self, other: Self) {
        self.matched += other.matched;
        for (bucket, matched) in other.buckets {
            *self.buckets.entry(bucket).or_default() += matched;
        }
        for (log, buckets) in other.repeated {
            let log = self.repeated.entry(log).or_default();
            for (bucket, offsets) in buckets {
                *log.entry(bucket).or_default() |= offsets;
            }
        }
        self.top_hits.merge(other.top_hits);
    }

    /// Whether a hit at this place could be among the returned ones.
    pub fn may_keep(&self, place: &SortKey) -> bool {
        self.top_hits.keeps(place)
    }

    /// Returns an error if there are more than [`BUCKETS_MAX`] buckets.
    pub fn check(&self) -> Result<(), SearchError> {
        let repeated = self.repeated.values().map(BTreeMap::len).max().unwrap_or(0);
        match self.buckets.len().max(repeated.saturating_sub(1)) > BUCKETS_MAX {
            true => Err(SearchError::TooManyBuckets),
            false => Ok(()),
        }
    }

    /// Returns about how much memory it takes in addition to one hit for each place, in bytes: for offsets
    /// that may occur more than once, and for further copies.
    pub fn extra_bytes(&self) -> u64 {
        let offsets = self.repeated.values().flatten();
        let offsets: u64 = offsets.map(|(_, offsets)| offsets.serialized_size() as u64 + 128).sum();
        offsets + self.top_hits.extra_copies() as u64 * size_of::<Copy>() as u64
    }

    /// Returns the numbers and the first hits. If bundles hold records with different times for an offset,
    /// the offset counts in the earliest bucket.
    pub fn finish(mut self) -> Result<(Counts, Vec<Found>), SearchError> {
        for buckets in self.repeated.values() {
            let mut counted = RoaringTreemap::new();
            // An offset without a time is in no bucket, unless another record of it has one.
            let timed = buckets.iter().filter_map(|(bucket, offsets)| Some(((*bucket)?, offsets)));
            for (bucket, offsets) in timed {
                let before = counted.len();
                counted |= offsets;
                let new = counted.len() - before;
                if new > 0 {
                    *self.buckets.entry(bucket).or_default() += new;
                }
            }
            if let Some(offsets) = buckets.get(&None) {
                counted |= offsets;
            }
            self.matched += counted.len();
        }
        self.check()?;
        let counts = Counts { matched: self.matched, buckets: self.buckets.into_iter().collect() };
        if counts.buckets.len() > BUCKETS_MAX {
            return Err(SearchError::TooManyBuckets);
        }
        Ok((counts, self.top_hits.into_found().collect()))
    }
}

/// Returns the start of the bucket that a time is in.
fn bucket(width: NonZeroU64, time_ms: i64) -> i64 {
    let width = i128::from(width.get());
    let from = i128::from(time_ms).div_euclid(width) * width;
    // The very first bucket may start before the lowest `i64`.
    i64::try_from(from).unwrap_or(i64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(log: u32, bundle: u32, overlaps: Overlaps) -> Owner {
        Owner { log, bundle, overlaps, left_out: Arc::default() }
    }

    fn hit(offset: i64, timestamp_ms: Option<i64>) -> Hit {
        Hit { ordinal: 0, offset, timestamp_ms, score: None }
    }

    #[test]
    fn an_offset_of_a_log_counts_once_and_in_the_earliest_bucket() {
        let mut tallies = [0, 1].map(|_| HitCollector::new(Order::NewestFirst, 2, NonZeroU64::new(10)));
        let alone = Overlaps::Within([].into());
        for (hit_collector, bundle, log, overlaps, hits) in [
            (0, 0, 0, Overlaps::All, &[(1, Some(5)), (2, Some(25)), (3, None), (1, Some(5))][..]),
            (1, 1, 0, Overlaps::All, &[(1, Some(5)), (2, Some(15)), (3, Some(31)), (4, None)]),
            (1, 2, 1, Overlaps::All, &[(1, Some(-1))]),
            (0, 3, 2, alone, &[(1, Some(5)), (1, Some(7))]),
        ] {
            let owner = owner(log, bundle, overlaps);
            hits.iter().for_each(|(offset, time)| tallies[hit_collector].add(&owner, &hit(*offset, *time)));
        }
        let [mut one, other] = tallies;
        one.merge(other);
        one.count(100);
        let (counts, top_hits) = one.finish().expect("few buckets");
        assert_eq!(counts, Counts { matched: 107, buckets: vec![(-10, 1), (0, 3), (10, 1), (30, 1)] });
        assert_eq!(
            top_hits.iter().map(|found| (found.offset, found.timestamp_ms)).collect::<Vec<_>>(),
            [(3, Some(31)), (2, Some(25))]
        );
    }

    #[test]
    fn buckets_begin_at_multiples_of_their_width() {
        for (width, time, from) in [
            (10, 0, 0),
            (10, 9, 0),
            (10, -1, -10),
            (10, -10, -10),
            (u64::MAX, 5, 0),
            (u64::MAX, -5, i64::MIN),
            (3, i64::MIN, i64::MIN),
            (1, i64::MAX, i64::MAX),
        ] {
            assert_eq!(bucket(NonZeroU64::new(width).expect("not zero"), time), from, "{width}, {time}");
        }
    }

    #[test]
    fn more_buckets_than_are_answered_are_an_error() {
        for overlaps in [Overlaps::All, Overlaps::Within([].into())] {
            let mut hit_collector = HitCollector::new(Order::NewestFirst, 0, NonZeroU64::new(1));
            let owner = owner(0, 0, overlaps);
            let mut add = |count: usize| {
                (0..count as i64).for_each(|n| hit_collector.add(&owner, &hit(n, Some(n))));
                hit_collector.check().is_ok()
            };
            assert!(add(BUCKETS_MAX));
            assert!(!add(BUCKETS_MAX + 2));
        }
    }
}
