//! Deletes hidden bundles for good, after they have been hidden for long enough.
//!
//! [`Plan::new`] changes nothing; [`Plan::apply`] deletes: of each marker first the bundles, last the marker.
//! So if it is interrupted, nothing becomes visible again, and the next run continues. Just before its bundle
//! goes, a marker is read again: what was brought back meanwhile stays.

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Entry, Scope, find, logs};
use crate::log_by_log::{Worked, log_by_log};
use crate::store::{Deleted, Store, StoreError};

/// The shortest time that a marker must stay. A copy may still be on its way to the store when it is deleted.
/// It must find its marker, or it would be visible after all. The largest segment may take 5 h 41 min from its
/// first byte to the end of its upload. The rest is for clocks that differ.
pub const AFTER_MIN: Duration = Duration::from_secs(6 * 3_600);

/// The markers that are old enough, and those that are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to delete, in the order of the keys.
    pub due: Vec<Entry>,
    /// What is hidden, and stays hidden: its marker is younger.
    pub younger: Vec<Entry>,
}

/// The reasons why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The time is shorter than a request may take.
    #[error(
        "{} s are shorter than a request may take: a bundle that arrives after its marker is gone would be \
         visible; the least is {} s",
        .after.as_secs(), AFTER_MIN.as_secs()
    )]
    TooShort {
        /// The time that was asked for.
        after: Duration,
    },
    /// The store cannot be listed, or a marker cannot be read.
    #[error(transparent)]
    List(#[from] StoreError),
}

/// What a purge did with one marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purged {
    /// Bundles and marker are deleted, these bytes in all.
    Deleted {
        /// The number of bundles.
        bundles: u64,
        /// Their total size in bytes.
        size_bytes: u64,
    },
    /// The marker was removed, or replaced by a newer one, after the plan was made. Nothing was deleted.
    Changed,
}

/// An event during the deletion.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// This marker is done.
    Done(&'a Entry, Purged),
    /// This one failed. The rest of its log is left for the next run.
    Failed(&'a Entry, &'a StoreError),
}

/// The outcome of the deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The number of bundles that were deleted.
    pub bundles: u64,
    /// Their total size in bytes.
    pub size_bytes: u64,
    /// The number of markers that were deleted.
    pub markers: u64,
    /// The number of markers that were removed or replaced after the plan was made.
    pub changed: u64,
    /// The number of markers of the plan that are left because of a failure.
    pub left: u64,
    /// The first failure of each log.
    pub failures: Vec<StoreError>,
}

impl Plan {
    /// Lists what is hidden, and divides it by its age. `after` is how long a bundle must have been hidden.
    pub async fn new(store: &Store, scope: &Scope, after: Duration) -> Result<Self, PlanError> {
        if after < AFTER_MIN {
            return Err(PlanError::TooShort { after });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let limit_ms = i64::try_from(now.saturating_sub(after).as_millis()).unwrap_or(i64::MAX);
        // A time in the future comes from a wrong clock. It counts as young.
        let is_due = |entry: &Entry| entry.marker.hidden_at_ms <= limit_ms;
        let (due, younger) = find(store, scope).await?.into_iter().partition(is_due);
        Ok(Self { due, younger })
    }

    /// Deletes what is due, at most `per_second_max` markers per second. If something cannot be deleted, the
    /// rest of its log is left; the other logs continue.
    pub async fn apply(
        &self,
        store: &Store,
        per_second_max: Option<NonZeroU64>,
        progress: impl Fn(Progress<'_>),
    ) -> Outcome {
        let progress = |entry, result: Result<&Purged, &StoreError>| match result {
            Ok(purged) => progress(Progress::Done(entry, *purged)),
            Err(error) => progress(Progress::Failed(entry, error)),
        };
        let work = async |entry| delete(entry, store).await;
        let Worked { done, left, failures } =
            log_by_log(logs(&self.due), per_second_max, work, progress).await;
        let mut outcome = Outcome { left, failures, ..Outcome::default() };
        for purged in done {
            match purged {
                Purged::Deleted { bundles, size_bytes } => {
                    outcome.bundles += bundles;
                    outcome.size_bytes += size_bytes;
                    outcome.markers += 1;
                }
                Purged::Changed => outcome.changed += 1,
            }
        }
        outcome
    }
}

/// Deletes the bundles, then the marker.
async fn delete(entry: &Entry, store: &Store) -> Result<Purged, StoreError> {
    if store.hidden(&entry.listed.key).await?.as_ref() != Some(&entry.marker) {
        return Ok(Purged::Changed);
    }
    let (mut bundles, mut size_bytes) = (0, 0);
    for bundle in &entry.listed.hides {
        if store.delete(&bundle.key).await? == Deleted::Now {
            bundles += 1;
            size_bytes += bundle.size_bytes;
        }
    }
    store.unhide(&entry.listed.key).await?;
    Ok(Purged::Deleted { bundles, size_bytes })
}
