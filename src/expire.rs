//! Hides bundles that an operator no longer wants: whole bundles, selected by offsets or times, oldest first.
//! They are gone from every answer, but not yet from the store: [`crate::hidden`] brings them back, or
//! deletes them for good.
//!
//! [`Plan::new`] changes nothing; [`Plan::apply`] hides. A key has the offsets and times of its bundle. A
//! bundle is opened only if times decide and its key does not have them. Objects whose names are not keys are
//! never listed here. Each log is hidden from its start, one bundle after the other. So an interrupted run
//! leaves no gap, and the next run continues from there.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use futures::TryStreamExt;

use crate::archive::{ArchiveError, BundleCache};
use crate::ids::{LogId, TopicPartition};
use crate::log_by_log::{Worked, log_by_log};
use crate::registry::{self, Filter, Timed, Times};
use crate::store::{Hidden, HiddenReason, Listed, MarkerKey, Store, StoreError};

/// The size of the cache for looked-up times, in bytes.
const CACHE_BYTES_MAX: u64 = 1 << 20;

/// The limit that decides which bundles are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bundles whose latest record is before this time, in milliseconds since the Unix epoch. Bundles without
    /// times or with unknown times never are.
    BeforeMs(i64),
    /// Bundles whose last offset is below this offset.
    BelowOffset(i64),
}

impl Limit {
    /// Returns whether the whole bundle is past the limit.
    pub fn is_past(self, bundle: &Timed) -> bool {
        match self {
            Self::BeforeMs(limit_ms) => {
                bundle.times.range_ms().is_some_and(|(_, last_ms)| last_ms < limit_ms)
            }
            Self::BelowOffset(limit) => bundle.listed.key.range().last() < limit,
        }
    }
}

/// The logs to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The topic.
    pub topic: String,
    /// The numbers of the partitions; empty for all partitions.
    pub partitions: Vec<i32>,
    /// The incarnation of the logs; `None` for all incarnations.
    pub log_id: Option<LogId>,
}

/// The bundles to hide and the bundles to keep, for each log, in the order of partition and log id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The logs that have bundles.
    pub logs: Vec<LogPlan>,
}

/// The bundles of one log to hide and to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlan {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log.
    pub log_id: LogId,
    /// The bundles to hide, in the order of hiding.
    pub expired: Vec<Timed>,
    /// The bundles to keep, in the same order.
    pub kept: Vec<Timed>,
}

impl LogPlan {
    /// Returns how many of the bundles to hide are after a bundle to keep. Their offsets become a gap.
    pub fn behind_kept(&self) -> usize {
        let Some(first) = self.kept.first() else { return 0 };
        self.expired.iter().filter(|one| one.listed.key > first.listed.key).count()
    }

    /// Returns how many of the bundles to keep have only records without times.
    pub fn untimed(&self) -> usize {
        self.kept.iter().filter(|one| one.times == Times::Absent).count()
    }

    /// Returns the bundles to keep whose times are unknown, with the reason.
    pub fn unknown(&self) -> impl Iterator<Item = (&Listed, &str)> {
        self.kept.iter().filter_map(|one| match &one.times {
            Times::Unknown { why } => Some((&one.listed, why.as_str())),
            Times::Range { .. } | Times::Absent => None,
        })
    }
}

/// An event during the hiding.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// This bundle is hidden now.
    Hidden(&'a Listed),
    /// Something else had hidden this bundle after the listing.
    HiddenBefore(&'a Listed),
    /// This bundle could not be hidden. The bundles after it in its log are kept too.
    Failed(&'a Listed, &'a StoreError),
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The number of bundles that were hidden.
    pub hidden: u64,
    /// Their total size in bytes.
    pub hidden_bytes: u64,
    /// The number of bundles that something else hid after the listing.
    pub hidden_before: u64,
    /// The number of bundles that were to be hidden and are still visible.
    pub left: u64,
    /// The first failure of each log.
    pub failures: Vec<StoreError>,
}

/// The reasons why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The store cannot be listed.
    #[error(transparent)]
    List(#[from] StoreError),
    /// A bundle's times are only in its manifest, and the store cannot return it now.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl Plan {
    /// Lists the bundles and divides them by the limit.
    pub async fn new(store: &Store, scope: &Scope, limit: Limit) -> Result<Self, PlanError> {
        let filter = Filter {
            topic: Some(scope.topic.clone()),
            // With one partition the listing is shorter.
            partition: <[i32; 1]>::try_from(&scope.partitions[..]).ok().map(|[number]| number),
            log_id: scope.log_id.clone(),
            ..Filter::default()
        };
        let is_wanted = |one: &Listed| {
            scope.partitions.is_empty() || scope.partitions.contains(&one.key.partition().partition())
        };
        let listed = registry::find(store, &filter).await?.bundles.into_iter().filter(is_wanted).collect();
        let bundles: Vec<Timed> = match limit {
            Limit::BeforeMs(_) => {
                let bundle_cache = BundleCache::new(store.clone(), CACHE_BYTES_MAX);
                registry::timed(&bundle_cache, listed).try_collect().await?
            }
            Limit::BelowOffset(_) => listed.into_iter().map(Timed::by_key).collect(),
        };
        Ok(Self::of(bundles.into_iter(), limit))
    }

    fn of(bundles: impl Iterator<Item = Timed>, limit: Limit) -> Self {
        let mut by_log: BTreeMap<(TopicPartition, LogId), Vec<Timed>> = BTreeMap::new();
        for one in bundles {
            let key = &one.listed.key;
            let log = (key.partition().clone(), key.log_id().clone());
            by_log.entry(log).or_default().push(one);
        }
        let logs = by_log.into_iter().map(|((partition, log_id), mut bundles)| {
            bundles.sort_by(|a, b| a.listed.key.cmp(&b.listed.key));
            let (expired, kept) = bundles.into_iter().partition(|one| limit.is_past(one));
            LogPlan { partition, log_id, expired, kept }
        });
        Self { logs: logs.collect() }
    }

    /// Returns the number of bundles to hide, and their total size in bytes.
    pub fn expired(&self) -> (u64, u64) {
        let expired = self.logs.iter().flat_map(|log| &log.expired);
        expired.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.listed.size_bytes))
    }

    /// Hides the bundles of the plan, at most `per_second_max` of them per second. If a bundle cannot be
    /// hidden, the rest of its log is kept; the other logs continue.
    pub async fn apply(
        &self,
        store: &Store,
        per_second_max: Option<NonZeroU64>,
        progress: impl Fn(Progress<'_>),
    ) -> Outcome {
        let hide = async |Timed { listed, .. }: &Timed| {
            store
                .hide(&MarkerKey::of(&listed.key), HiddenReason::Expired)
                .await
                .map(|hidden| (listed.size_bytes, hidden))
        };
        let progress = |Timed { listed, .. }: &Timed, result: Result<&(u64, Hidden), &StoreError>| {
            progress(match result {
                Ok((_, hidden)) if hidden.already => Progress::HiddenBefore(listed),
                Ok(_) => Progress::Hidden(listed),
                Err(error) => Progress::Failed(listed, error),
            });
        };
        let logs = self.logs.iter().map(|log| &log.expired[..]);
        let Worked { done, left, failures } = log_by_log(logs, per_second_max, hide, progress).await;
        let mut outcome = Outcome { left, failures, ..Outcome::default() };
        for (size_bytes, hidden) in done {
            if hidden.already {
                outcome.hidden_before += 1;
            } else {
                outcome.hidden += 1;
                outcome.hidden_bytes += size_bytes;
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
