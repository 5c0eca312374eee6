//! What killed writers have left in a store is found, and removed when it is old. Knows nothing of what a bundle is, and removes none.

use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use crate::store::{Orphan, Store, StoreError};

/// Younger than this a file may be a writer's that is at work.
pub const AGE_MIN: Duration = Duration::from_secs(3_600);

/// What a worker takes for left behind: no attempt to store an object lasts near as long.
pub const AGE_DEFAULT: Duration = Duration::from_secs(86_400);

/// The files that were last written to so long ago. `None` where the store is of a kind that has none.
pub async fn find(store: &Store, age: Duration) -> Result<Option<Vec<Orphan>>, StoreError> {
    let now = SystemTime::now();
    // A time that has not come yet is somebody's clock: no age.
    let is_old = |one: &Orphan| now.duration_since(one.changed_at).is_ok_and(|since| since >= age);
    let found = store.orphans().await?;
    Ok(found.map(|found| found.into_iter().filter(is_old).collect()))
}

/// What a worker does at its start, beside its work: removes what lies by a finished object for a day. Nobody can need it, whatever has
/// become of its writer.
pub async fn beside_objects(store: Store) {
    match remove_beside_objects(&store, AGE_DEFAULT).await {
        Ok((0, _)) => {}
        Ok((files, bytes)) => info!(files, bytes, "removed what killed writers had left"),
        Err(error) => warn!(%error, "what killed writers have left stays"),
    }
}

async fn remove_beside_objects(store: &Store, age: Duration) -> Result<(u64, u64), StoreError> {
    let found = find(store, age).await?.unwrap_or_default();
    let (mut files, mut bytes) = (0, 0);
    for one in found.iter().filter(|one| one.object_is_there) {
        if store.remove_leftover(one).await? {
            files += 1;
            bytes += one.size_bytes;
        }
    }
    Ok((files, bytes))
}
