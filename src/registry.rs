//! The registry: which bundles there are. A LIST is the registry, and keys have enough information to choose
//! bundles. Only [`find_timed`] and [`timed()`] open bundles, and only those whose keys do not have their
//! times.

mod times;

use std::collections::BTreeMap;

use crate::ids::{LogId, OffsetRange, TopicPartition};
use crate::store::{BundleKey, KeyHash, KeyPrefix, Listed, Store, StoreError};

pub use times::{Timed, Times, find_timed, timed};

/// Selects bundles, and with them records. `None` means no limit. All limits are inclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The topic.
    pub topic: Option<String>,
    /// The partition's number.
    pub partition: Option<i32>,
    /// The incarnation of the log.
    pub log_id: Option<LogId>,
    /// The lowest offset.
    pub min_offset: Option<i64>,
    /// The highest offset.
    pub max_offset: Option<i64>,
    /// The earliest time, in milliseconds since the Unix epoch.
    pub min_timestamp_ms: Option<i64>,
    /// The latest time.
    pub max_timestamp_ms: Option<i64>,
    /// SHA-256 of the segment that the bundle was made from.
    pub segment_sha256: Option<[u8; 32]>,
}

/// The result of a LIST.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// The bundles that may have matching records, in the order of their keys.
    pub bundles: Vec<Listed>,
    /// The number of listed bundles that cannot have matching records.
    pub pruned: u64,
}

/// Lists the bundles that may have records that match `filter`.
pub async fn find(store: &Store, filter: &Filter) -> Result<Selected, StoreError> {
    let listed = store.list(&filter.prefix()).await?;
    let all = listed.len() as u64;
    let bundles: Vec<Listed> = listed.into_iter().filter(|listed| filter.may_hold(&listed.key)).collect();
    let pruned = all - bundles.len() as u64;
    Ok(Selected { bundles, pruned })
}

/// A summary of one log, made from a LIST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log.
    pub log_id: LogId,
    /// The number of its bundles.
    pub bundles: u64,
    /// The total size of its bundles in bytes.
    pub size_bytes: u64,
    /// The range from the first to the last offset that a bundle covers.
    pub range: OffsetRange,
    /// The earliest and the latest known time of a record; `None` if no time is known.
    pub times_ms: Option<(i64, i64)>,
    /// The number of bundles with unknown times.
    pub unknown_times: u64,
    /// The offsets within `range` that no bundle covers, ascending. Gaps within a bundle are in its manifest.
    pub gaps: Vec<Gap>,
    /// The offsets that two bundles cover, ordered by the first offset of the second bundle.
    pub overlaps: Vec<Overlap>,
}

/// A range of offsets that no bundle covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The offsets.
    pub range: OffsetRange,
    /// The bundle before the gap.
    pub before: BundleKey,
    /// The bundle after the gap.
    pub behind: BundleKey,
}

/// A range of offsets that two bundles cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The offsets.
    pub range: OffsetRange,
    /// The bundle that begins first.
    pub first: BundleKey,
    /// The other bundle.
    pub second: BundleKey,
}

/// Summarizes bundles by log, in the order of partition and log id.
pub fn logs(bundles: &[Timed]) -> Vec<Log> {
    let mut by_log: BTreeMap<_, Vec<&Timed>> = BTreeMap::new();
    for one in bundles {
        by_log.entry((one.listed.key.partition(), one.listed.key.log_id())).or_default().push(one);
    }
    by_log.into_values().filter_map(Log::of).collect()
}

impl Log {
    /// `bundles` must all be of one log.
    fn of(mut bundles: Vec<&Timed>) -> Option<Self> {
        bundles.sort_by_key(|one| (one.listed.key.range(), one.listed.key.hash()));
        // The bundle with the greatest last offset so far.
        let mut furthest = &bundles.first()?.listed.key;
        let mut log = Self {
            partition: furthest.partition().clone(),
            log_id: furthest.log_id().clone(),
            bundles: 0,
            size_bytes: 0,
            range: furthest.range(),
            times_ms: None,
            unknown_times: 0,
            gaps: Vec::new(),
            overlaps: Vec::new(),
        };
        for (nth, Timed { listed: Listed { key, size_bytes, .. }, times }) in bundles.iter().enumerate() {
            log.bundles += 1;
            log.size_bytes += size_bytes;
            log.unknown_times += u64::from(matches!(times, Times::Unknown { .. }));
            let times = log.times_ms.into_iter().chain(times.range_ms());
            log.times_ms = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
            if nth > 0 {
                log.compare(furthest, key);
            }
            log.range = log.range.cover(&key.range());
            if key.range().last() > furthest.range().last() {
                furthest = key;
            }
        }
        Some(log)
    }

    fn compare(&mut self, furthest: &BundleKey, next: &BundleKey) {
        let (end, start) = (furthest.range().last(), next.range().first());
        // Neither addition nor subtraction overflows: offsets are not negative, and `end` is less than
        // `start`.
        if end < start {
            self.gaps.extend(OffsetRange::new(end + 1, start - 1).map(|range| Gap {
                range,
                before: furthest.clone(),
                behind: next.clone(),
            }));
        } else {
            let shared = OffsetRange::new(start, end.min(next.range().last()));
            self.overlaps.extend(shared.map(|range| Overlap {
                range,
                first: furthest.clone(),
                second: next.clone(),
            }));
        }
    }
}

impl Filter {
    fn prefix(&self) -> KeyPrefix {
        let Some(topic) = &self.topic else { return KeyPrefix::all() };
        let partition = self.partition.and_then(|number| TopicPartition::new(topic.as_str(), number).ok());
        match (partition, &self.log_id) {
            (Some(partition), Some(log_id)) => KeyPrefix::log(&partition, log_id),
            (Some(partition), None) => KeyPrefix::partition(&partition),
            (None, _) => KeyPrefix::topic(topic),
        }
    }

    /// Returns whether a bundle with these times may have matching records.
    pub fn may_hold_times(&self, first_ms: i64, last_ms: i64) -> bool {
        self.min_timestamp_ms.is_none_or(|min_ms| min_ms <= last_ms)
            && self.max_timestamp_ms.is_none_or(|max_ms| first_ms <= max_ms)
    }

    /// Returns whether a bundle with this key may have matching records.
    pub fn may_hold(&self, key: &BundleKey) -> bool {
        let (partition, log_id) = (key.partition(), key.log_id());
        let offsets =
            OffsetRange::new(self.min_offset.unwrap_or(i64::MIN), self.max_offset.unwrap_or(i64::MAX));
        let (min_ms, max_ms) =
            (self.min_timestamp_ms.unwrap_or(i64::MIN), self.max_timestamp_ms.unwrap_or(i64::MAX));
        let of_segment = |sha256| KeyHash::new(sha256, log_id, partition).hash16() == key.hash();
        self.topic.as_ref().is_none_or(|topic| partition.topic() == topic)
            && self.partition.is_none_or(|number| partition.partition() == number)
            && self.log_id.as_ref().is_none_or(|wanted| wanted == log_id)
            && offsets.is_some_and(|offsets| offsets.overlaps(&key.range()))
            && min_ms <= max_ms
            && key.may_hold_times(min_ms, max_ms)
            && self.segment_sha256.as_ref().is_none_or(of_segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(base: i64, times: Option<(i64, i64)>) -> BundleKey {
        key_of("a", base, base + 9, times)
    }

    fn key_of(log_id: &str, base: i64, last: i64, times: Option<(i64, i64)>) -> BundleKey {
        let partition = TopicPartition::new("t", 2).expect("a partition");
        let log_id = LogId::new(log_id);
        let hash = KeyHash::new(&[7; 32], &log_id, &partition).hash16();
        let range = OffsetRange::new(base, last).expect("a range");
        BundleKey::new(partition, log_id, range, times, hash).expect("a key")
    }

    #[test]
    fn a_log_has_gaps_where_no_bundle_and_overlaps_where_two_cover_an_offset() {
        let keys = [
            key_of("a", 0, 9, Some((50, 60))),
            key_of("a", 10, 39, None),
            // It is within the bundle before it, so the next bundle is compared with that one.
            key_of("a", 12, 14, Some((40, 45))),
            key_of("a", 38, 49, Some((70, 80))),
            key_of("a", 60, 69, Some((90, 95))),
            key_of("b", 5, 5, None),
        ];
        let listed: Vec<_> = {
            let listed = |key: &BundleKey| {
                let key = key.clone();
                Timed::by_key(Listed { key, size_bytes: 10, e_tag: None, stored_at_ms: 0 })
            };
            keys.iter().rev().map(listed).collect()
        };
        let logs = logs(&listed);
        assert_eq!(logs.iter().map(|log| log.log_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let (a, b) = (&logs[0], &logs[1]);
        assert_eq!((a.bundles, a.size_bytes, a.times_ms, a.unknown_times), (5, 50, Some((40, 95)), 1));
        assert_eq!((a.range.first(), a.range.last()), (0, 69));
        let range = |first, last| OffsetRange::new(first, last).expect("a range");
        let gap = Gap { range: range(50, 59), before: keys[3].clone(), behind: keys[4].clone() };
        assert_eq!(a.gaps, [gap]);
        let overlap = |range, first: usize, second: usize| Overlap {
            range,
            first: keys[first].clone(),
            second: keys[second].clone(),
        };
        assert_eq!(a.overlaps, [overlap(range(12, 14), 1, 2), overlap(range(38, 39), 1, 3)]);
        assert_eq!((b.bundles, b.times_ms, b.gaps.len(), b.overlaps.len()), (1, None, 0, 0));
    }

    #[test]
    fn a_key_is_passed_over_only_where_it_cannot_hold_what_is_asked_for() {
        let all = Filter::default();
        let key = key(10, Some((1_000, 2_000)));
        for (holds, filter) in [
            (true, all.clone()),
            (true, Filter { min_offset: Some(19), ..all.clone() }),
            (false, Filter { min_offset: Some(20), ..all.clone() }),
            (true, Filter { max_offset: Some(10), ..all.clone() }),
            (false, Filter { max_offset: Some(9), ..all.clone() }),
            (false, Filter { min_offset: Some(15), max_offset: Some(14), ..all.clone() }),
            (true, Filter { min_timestamp_ms: Some(2_000), ..all.clone() }),
            (false, Filter { min_timestamp_ms: Some(2_001), ..all.clone() }),
            (false, Filter { max_timestamp_ms: Some(999), ..all.clone() }),
            (false, Filter { topic: Some("tt".into()), ..all.clone() }),
            (false, Filter { partition: Some(1), ..all.clone() }),
            (true, Filter { log_id: Some(LogId::new("a")), ..all.clone() }),
            (false, Filter { log_id: Some(LogId::new("b")), ..all.clone() }),
            (true, Filter { segment_sha256: Some([7; 32]), ..all.clone() }),
            (false, Filter { segment_sha256: Some([8; 32]), ..all.clone() }),
        ] {
            assert_eq!(filter.may_hold(&key), holds, "{filter:?}");
        }
    }

    #[test]
    fn a_bundle_whose_times_are_not_known_is_in_every_time_range() {
        let filter = Filter { min_timestamp_ms: Some(5), max_timestamp_ms: Some(6), ..Filter::default() };
        assert!(filter.may_hold(&key(0, None)));
        assert!(!filter.may_hold(&key(0, Some((7, 8)))));
    }
}
