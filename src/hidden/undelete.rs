//! Brings hidden bundles back by removing their markers.

use std::num::NonZeroU64;

use super::{Entry, Scope, find, logs};
use crate::log_by_log::{Worked, log_by_log};
use crate::store::{Deleted, Store, StoreError, StoreErrorKind};

/// What to bring back, within a [`Scope`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only what was hidden at this time or later, in milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// Only bundles that begin at one of these offsets; empty for all.
    pub base_offsets: Vec<i64>,
}

/// What became of one marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undeleted {
    /// The marker is removed, and these bundles are visible again.
    Visible {
        /// The number of bundles.
        bundles: u64,
        /// Their total size in bytes.
        size_bytes: u64,
    },
    /// The marker is removed. There is no bundle: it never came, or it was purged. If it comes, it is
    /// visible.
    NoBundle,
    /// Something else had removed the marker.
    Before,
}

/// An event during the work.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// This marker is done.
    Done(&'a Entry, Undeleted),
    /// This one failed. The rest of its log stays hidden.
    Failed(&'a Entry, &'a StoreError),
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The number of bundles that are visible again.
    pub bundles: u64,
    /// Their total size in bytes.
    pub size_bytes: u64,
    /// The number of markers without a bundle that were removed.
    pub without_bundle: u64,
    /// The number of markers that something else had removed.
    pub before: u64,
    /// The number of markers that are left because of a failure.
    pub left: u64,
    /// The first failure of each log.
    pub failures: Vec<StoreError>,
}

impl Selection {
    fn includes(&self, entry: &Entry) -> bool {
        self.since_ms.is_none_or(|since_ms| entry.marker.hidden_at_ms >= since_ms)
            && (self.base_offsets.is_empty() || self.base_offsets.contains(&entry.listed.key.base_offset()))
    }
}

/// Lists what is selected, in the order of the keys. Changes nothing.
pub async fn select(store: &Store, scope: &Scope, selection: &Selection) -> Result<Vec<Entry>, StoreError> {
    let found = find(store, scope).await?;
    Ok(found.into_iter().filter(|entry| selection.includes(entry)).collect())
}

/// Removes the markers of `entries`, at most `per_second_max` of them per second. If one cannot be removed,
/// the rest of its log stays hidden; the other logs continue.
pub async fn apply(
    entries: &[Entry],
    store: &Store,
    per_second_max: Option<NonZeroU64>,
    progress: impl Fn(Progress<'_>),
) -> Outcome {
    let progress = |entry, result: Result<&Undeleted, &StoreError>| match result {
        Ok(undeleted) => progress(Progress::Done(entry, *undeleted)),
        Err(error) => progress(Progress::Failed(entry, error)),
    };
    let work = async |entry| undelete(entry, store).await;
    let Worked { done, left, failures } = log_by_log(logs(entries), per_second_max, work, progress).await;
    let mut outcome = Outcome { left, failures, ..Outcome::default() };
    for undeleted in done {
        match undeleted {
            Undeleted::Visible { bundles, size_bytes } => {
                outcome.bundles += bundles;
                outcome.size_bytes += size_bytes;
            }
            Undeleted::NoBundle => outcome.without_bundle += 1,
            Undeleted::Before => outcome.before += 1,
        }
    }
    outcome
}

/// Removes the marker, and looks whether the bundles are still there: a purge may have been faster.
async fn undelete(entry: &Entry, store: &Store) -> Result<Undeleted, StoreError> {
    if store.unhide(&entry.listed.key).await? == Deleted::Before {
        return Ok(Undeleted::Before);
    }
    let (mut bundles, mut size_bytes) = (0, 0);
    for bundle in &entry.listed.hides {
        match store.head(&bundle.key).await {
            Ok(found) => {
                bundles += 1;
                size_bytes += found.size_bytes;
            }
            Err(error) if error.kind() == StoreErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(if bundles == 0 { Undeleted::NoBundle } else { Undeleted::Visible { bundles, size_bytes } })
}
