//! Chooses the log that is read, and lists its bundles.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use futures::TryStreamExt;

use super::{FetchError, Request};
use crate::archive::BundleCache;
use crate::ids::{LogId, OffsetRange};
use crate::registry::{self, Filter, Timed};
use crate::store::{BundleKey, Listed};

/// The maximum number of other logs that a response names.
pub const OTHER_LOGS_MAX: usize = 100;

/// The chosen log, and the other logs of its partition.
#[derive(Debug)]
pub(super) struct Found {
    /// `None` if the requested log is not stored.
    pub log: Option<Log>,
    /// Sorted by the time of the last stored bundle, latest first.
    pub others: Vec<(LogId, OffsetRange)>,
    /// The number of bundles of the partition.
    pub listed: usize,
}

/// A log's bundles, in the order of their first offsets.
#[derive(Debug)]
pub(super) struct Log {
    pub log_id: LogId,
    pub bundles: Vec<Listed>,
}

/// Finds the requested log, or the log whose bundle was stored last.
pub(super) async fn find(bundle_cache: &BundleCache, request: &Request) -> Result<Found, FetchError> {
    let filter = Filter {
        topic: Some(request.partition.topic().to_owned()),
        partition: Some(request.partition.partition()),
        ..Filter::default()
    };
    let bundles = registry::find(bundle_cache.store(), &filter).await?.bundles;
    let (listed, mut by_log) = (bundles.len(), BTreeMap::<LogId, Vec<Listed>>::new());
    for one in bundles {
        by_log.entry(one.key.log_id().clone()).or_default().push(one);
    }
    let mut logs: Vec<_> = by_log.into_iter().map(|(log_id, bundles)| Log { log_id, bundles }).collect();
    let looked_up = times_where_they_decide(bundle_cache, &logs).await?;
    logs.sort_by_cached_key(|log| Reverse((log.last_stored(&looked_up), log.log_id.clone())));
    let nth = match &request.log_id {
        Some(wanted) => logs.iter().position(|log| log.log_id == *wanted),
        None => (!logs.is_empty()).then_some(0),
    };
    let mut log = nth.map(|nth| logs.remove(nth));
    if let Some(log) = &mut log {
        log.bundles.sort_by_key(|one| (one.key.range(), one.key.hash()));
    }
    let others = logs.iter().filter_map(|other| Some((other.log_id.clone(), other.range()?)));
    Ok(Found { log, others: others.take(OTHER_LOGS_MAX).collect(), listed })
}

/// The latest record times of bundles whose keys do not contain them.
type LatestTimes = BTreeMap<BundleKey, i64>;

/// Looks up the times that decide which log was stored last. They are needed only if the last bundles of
/// several logs were stored at the same time.
async fn times_where_they_decide(
    bundle_cache: &BundleCache,
    logs: &[Log],
) -> Result<LatestTimes, FetchError> {
    let last_ms = |log: &Log| log.bundles.iter().map(|one| one.stored_at_ms).max();
    let newest_ms = logs.iter().filter_map(last_ms).max();
    let newest: Vec<_> = logs.iter().filter(|log| last_ms(log) == newest_ms).collect();
    let mut looked_up = LatestTimes::new();
    if newest.len() < 2 {
        return Ok(looked_up);
    }
    let bundles = newest.iter().flat_map(|log| &log.bundles);
    let last = bundles.filter(|one| Some(one.stored_at_ms) == newest_ms && one.key.times_ms().is_none());
    let mut timed = registry::timed(bundle_cache, last.cloned().collect());
    while let Some(Timed { listed, times }) = timed.try_next().await? {
        looked_up.extend(times.range_ms().map(|(_, max_ms)| (listed.key, max_ms)));
    }
    Ok(looked_up)
}

impl Log {
    /// The sort key that distinguishes the log in use from older ones: the time at which the store received
    /// its last bundle. Some stores have a resolution of one second only. If two logs have the same time, the
    /// times of their records decide. These count at most up to the time at which the bundle was stored.
    fn last_stored(&self, looked_up: &LatestTimes) -> Option<(i64, Option<i64>, i64)> {
        let stored = self.bundles.iter().map(|one| {
            let of_key = one.key.times_ms().map(|(_, max_ms)| max_ms);
            let latest_ms = of_key.or_else(|| looked_up.get(&one.key).copied());
            let latest_ms = latest_ms.map(|max_ms| max_ms.min(one.stored_at_ms));
            (one.stored_at_ms, latest_ms, one.key.range().last())
        });
        stored.max()
    }

    fn range(&self) -> Option<OffsetRange> {
        self.bundles.iter().map(|one| one.key.range()).reduce(|all, range| all.cover(&range))
    }
}
