//! What an operator no longer wants is deleted: whole bundles, chosen by their offsets or times, oldest first.
//!
//! First a [`Plan`], which touches nothing; then [`Plan::apply`]. A key says which offsets and times its bundle covers. A bundle is
//! opened only where times decide and its key does not say them. An object whose name is no key is never seen here. Each log is deleted from its front, one bundle after the other, so
//! that an end in the middle leaves no hole: the next run goes on there.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use futures::stream;
use futures::{StreamExt, TryStreamExt};

use crate::archive::{ArchiveError, BundleCache};
use crate::ids::{LogId, TopicPartition};
use crate::rate_limit::RateLimit;
use crate::registry::{self, Filter, Timed, Times};
use crate::store::{Deleted, Listed, Store, StoreError};

/// What is kept in memory of the times that are looked up.
const SHELF_BYTES_MAX: u64 = 1 << 20;

/// Logs that are deleted from side by side.
const LOGS_AT_ONCE: usize = 16;

/// Where the line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bundles whose latest record is older than this, in milliseconds since the Unix epoch. A bundle whose records have no times is
    /// never older, nor is one whose times are not known.
    BeforeMs(i64),
    /// Bundles whose last offset is below this.
    BelowOffset(i64),
}

impl Limit {
    /// Whether all of the bundle lies beyond it.
    pub fn is_past(self, bundle: &Timed) -> bool {
        match self {
            Self::BeforeMs(limit_ms) => {
                bundle.times.range_ms().is_some_and(|(_, last_ms)| last_ms < limit_ms)
            }
            Self::BelowOffset(limit) => bundle.listed.key.range().last() < limit,
        }
    }
}

/// Of which logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The topic.
    pub topic: String,
    /// The partitions' numbers; none: all of them.
    pub partitions: Vec<i32>,
    /// The incarnation of the logs; `None`: all of them.
    pub log_id: Option<LogId>,
}

/// What would go and what would stay, of each log in the order of partition and log id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The logs that have bundles.
    pub logs: Vec<LogPlan>,
}

/// What would go and what would stay of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlan {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// Its incarnation.
    pub log_id: LogId,
    /// What goes, in the order in which it goes.
    pub expired: Vec<Timed>,
    /// What stays, in the same order.
    pub kept: Vec<Timed>,
}

impl LogPlan {
    /// How many of those that go lie behind one that stays, so that their offsets become a gap.
    pub fn behind_kept(&self) -> usize {
        let Some(first) = self.kept.first() else { return 0 };
        self.expired.iter().filter(|one| one.listed.key > first.listed.key).count()
    }

    /// How many of those that stay have records without times only.
    pub fn untimed(&self) -> usize {
        self.kept.iter().filter(|one| one.times == Times::Absent).count()
    }

    /// Those that stay and whose times are not known, with the reason.
    pub fn unknown(&self) -> impl Iterator<Item = (&Listed, &str)> {
        self.kept.iter().filter_map(|one| match &one.times {
            Times::Unknown { why } => Some((&one.listed, why.as_str())),
            Times::Range { .. } | Times::Absent => None,
        })
    }
}

/// What is heard on the way.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// This bundle is gone.
    Deleted(&'a Listed, Deleted),
    /// This one could not be deleted; what lies behind it in its log stays, too.
    Failed(&'a Listed, &'a StoreError),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bundles that were deleted.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Bundles that somebody else had deleted since the listing.
    pub gone_before: u64,
    /// Bundles that should have gone and are still there.
    pub left: u64,
    /// Why, the first failure of each log.
    pub failures: Vec<StoreError>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The store cannot be listed.
    #[error(transparent)]
    List(#[from] StoreError),
    /// A bundle's times are in its manifest alone, and the store does not give it now.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl Plan {
    /// Lists the bundles, and draws the line.
    pub async fn new(store: &Store, scope: &Scope, limit: Limit) -> Result<Self, PlanError> {
        let filter = Filter {
            topic: Some(scope.topic.clone()),
            // A narrower listing.
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
                let bundle_cache = BundleCache::new(store.clone(), SHELF_BYTES_MAX);
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

    /// What would go, and how many bytes.
    pub fn expired(&self) -> (u64, u64) {
        let expired = self.logs.iter().flat_map(|log| &log.expired);
        expired.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.listed.size_bytes))
    }

    /// Deletes what the plan says, no more than so many bundles in a second. A bundle that cannot be deleted ends its log's turn; the
    /// other logs go on.
    pub async fn apply(
        &self,
        store: &Store,
        per_second_max: Option<NonZeroU64>,
        progress: impl Fn(Progress<'_>),
    ) -> Outcome {
        let (pace, progress) = (RateLimit::new(per_second_max), &progress);
        let logs = stream::iter(&self.logs).map(|log| log.apply(store, &pace, progress));
        let outcomes = logs.buffer_unordered(LOGS_AT_ONCE).collect::<Vec<_>>().await;
        outcomes.into_iter().fold(Outcome::default(), Outcome::and)
    }
}

impl LogPlan {
    async fn apply(&self, store: &Store, pace: &RateLimit, progress: &impl Fn(Progress<'_>)) -> Outcome {
        let mut outcome = Outcome::default();
        for (nth, Timed { listed: one, .. }) in self.expired.iter().enumerate() {
            pace.wait(1).await;
            match store.delete(&one.key).await {
                Ok(deleted) => {
                    match deleted {
                        Deleted::Now => {
                            outcome.deleted += 1;
                            outcome.deleted_bytes += one.size_bytes;
                        }
                        Deleted::Before => outcome.gone_before += 1,
                    }
                    progress(Progress::Deleted(one, deleted));
                }
                Err(error) => {
                    progress(Progress::Failed(one, &error));
                    outcome.left = (self.expired.len() - nth) as u64;
                    outcome.failures.push(error);
                    break;
                }
            }
        }
        outcome
    }
}

impl Outcome {
    fn and(mut self, other: Self) -> Self {
        self.deleted += other.deleted;
        self.deleted_bytes += other.deleted_bytes;
        self.gone_before += other.gone_before;
        self.left += other.left;
        self.failures.extend(other.failures);
        self
    }
}

#[cfg(test)]
mod tests;
