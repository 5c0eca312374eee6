//! What an operator no longer wants is deleted: whole bundles, chosen by their keys, oldest first.
//!
//! First a [`Plan`], which touches nothing; then [`Plan::apply`]. No bundle is opened: a key says which offsets and times its bundle
//! covers, and an object whose name is no key is never seen here. Each log is deleted from its front, one bundle after the other, so
//! that an end in the middle leaves no hole: the next run goes on there.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use futures::StreamExt;
use futures::stream;

use crate::ids::{LogId, TopicPartition};
use crate::pace::Pace;
use crate::registry::{self, Filter};
use crate::store::{BundleKey, Deleted, Listed, Store, StoreError};

/// Logs that are deleted from side by side.
const LOGS_AT_ONCE: usize = 16;

/// Where the line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Bundles whose latest record is older than this, in milliseconds since the Unix epoch. A bundle whose key says no times is never
    /// older.
    BeforeMs(i64),
    /// Bundles whose last offset is below this.
    BelowOffset(i64),
}

impl Limit {
    /// Whether all of the bundle lies beyond it.
    pub fn is_past(self, key: &BundleKey) -> bool {
        match self {
            Self::BeforeMs(limit_ms) => key.times_ms().is_some_and(|(_, latest_ms)| latest_ms < limit_ms),
            Self::BelowOffset(limit) => key.range().last() < limit,
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
    pub expired: Vec<Listed>,
    /// What stays, in the same order.
    pub kept: Vec<Listed>,
}

impl LogPlan {
    /// How many of those that go lie behind one that stays, so that their offsets become a gap.
    pub fn behind_kept(&self) -> usize {
        let Some(first) = self.kept.first() else { return 0 };
        self.expired.iter().filter(|one| one.key > first.key).count()
    }

    /// How many stay because their keys say no times.
    pub fn untimed(&self) -> usize {
        self.kept.iter().filter(|one| one.key.times_ms().is_none()).count()
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

impl Plan {
    /// Lists the bundles, and draws the line.
    pub async fn new(store: &Store, scope: &Scope, limit: Limit) -> Result<Self, StoreError> {
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
        let bundles = registry::find(store, &filter).await?.bundles;
        Ok(Self::of(bundles.into_iter().filter(is_wanted), limit))
    }

    fn of(bundles: impl Iterator<Item = Listed>, limit: Limit) -> Self {
        let mut by_log: BTreeMap<(TopicPartition, LogId), Vec<Listed>> = BTreeMap::new();
        for one in bundles {
            let log = (one.key.partition().clone(), one.key.log_id().clone());
            by_log.entry(log).or_default().push(one);
        }
        let logs = by_log.into_iter().map(|((partition, log_id), mut bundles)| {
            bundles.sort_by(|a, b| a.key.cmp(&b.key));
            let (expired, kept) = bundles.into_iter().partition(|one| limit.is_past(&one.key));
            LogPlan { partition, log_id, expired, kept }
        });
        Self { logs: logs.collect() }
    }

    /// What would go, and how many bytes.
    pub fn expired(&self) -> (u64, u64) {
        let expired = self.logs.iter().flat_map(|log| &log.expired);
        expired.fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.size_bytes))
    }

    /// Deletes what the plan says, no more than so many bundles in a second. A bundle that cannot be deleted ends its log's turn; the
    /// other logs go on.
    pub async fn apply(
        &self,
        store: &Store,
        per_second_max: Option<NonZeroU64>,
        progress: impl Fn(Progress<'_>),
    ) -> Outcome {
        let (pace, progress) = (Pace::new(per_second_max), &progress);
        let logs = stream::iter(&self.logs).map(|log| log.apply(store, &pace, progress));
        let outcomes = logs.buffer_unordered(LOGS_AT_ONCE).collect::<Vec<_>>().await;
        outcomes.into_iter().fold(Outcome::default(), Outcome::and)
    }
}

impl LogPlan {
    async fn apply(&self, store: &Store, pace: &Pace, progress: &impl Fn(Progress<'_>)) -> Outcome {
        let mut outcome = Outcome::default();
        for (nth, one) in self.expired.iter().enumerate() {
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
