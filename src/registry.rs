//! Which bundles there are: a LIST is the registry, and what keys say is enough to choose by. None is opened.

use crate::ids::{LogId, OffsetRange, TopicPartition};
use crate::store::{BundleKey, KeyHash, KeyPrefix, Listed, Store, StoreError};

/// Which bundles, and so which records, come into question. `None` leaves it open; ends are included.
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

/// What a LIST found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// The bundles that may hold what is asked for, in the order of their keys.
    pub bundles: Vec<Listed>,
    /// How many were listed and cannot hold any of it.
    pub pruned: u64,
}

/// Lists the bundles that may hold what `filter` asks for.
pub async fn find(store: &Store, filter: &Filter) -> Result<Selected, StoreError> {
    let listed = store.list(&filter.prefix()).await?;
    let all = listed.len() as u64;
    let bundles: Vec<Listed> = listed.into_iter().filter(|listed| filter.may_hold(&listed.key)).collect();
    let pruned = all - bundles.len() as u64;
    Ok(Selected { bundles, pruned })
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

    /// Whether a bundle of this key may hold what is asked for.
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
        let partition = TopicPartition::new("t", 2).expect("a partition");
        let log_id = LogId::new("a");
        let hash = KeyHash::new(&[7; 32], &log_id, &partition).hash16();
        let range = OffsetRange::new(base, base + 9).expect("a range");
        BundleKey::new(partition, log_id, range, times, hash).expect("a key")
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
