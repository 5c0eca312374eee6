//! Finds files that killed writers left in a store, and removes those that are old. This module knows nothing
//! of bundles and removes none.

use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use crate::store::{Orphan, Store, StoreError};

/// The lowest age that an operator may set. A younger file may belong to an active writer.
pub const AGE_MIN: Duration = Duration::from_secs(3_600);

/// The age at which a worker removes a file. No attempt to store an object takes nearly as long.
pub const AGE_DEFAULT: Duration = Duration::from_secs(86_400);

/// Returns the files whose last write is at least `age` ago. `None` if this kind of store has no such files.
pub async fn find(store: &Store, age: Duration) -> Result<Option<Vec<Orphan>>, StoreError> {
    let now = SystemTime::now();
    // A time in the future comes from a wrong clock. Such a file counts as young.
    let is_old = |one: &Orphan| now.duration_since(one.changed_at).is_ok_and(|since| since >= age);
    let found = store.orphans().await?;
    Ok(found.map(|found| found.into_iter().filter(is_old).collect()))
}

/// Runs at the start of a worker, beside its other work. Removes files that are a day old and whose object is
/// complete. Nobody needs such a file, in whatever state its writer is.
pub async fn beside_objects(store: Store) {
    match remove_beside_objects(&store, AGE_DEFAULT).await {
        Ok((0, _)) => {}
        Ok((files, bytes)) => info!(files, bytes, "removed files that killed writers left"),
        Err(error) => warn!(%error, "cannot remove files that killed writers left"),
    }
}

async fn remove_beside_objects(store: &Store, age: Duration) -> Result<(u64, u64), StoreError> {
    let found = find(store, age).await?.unwrap_or_default();
    let (mut files, mut bytes) = (0, 0);
    for one in found.iter().filter(|one| one.object_is_there) {
        if store.remove_orphan(one).await? {
            files += 1;
            bytes += one.size_bytes;
        }
    }
    Ok((files, bytes))
}
