//! Which log is read, and which bundles it has.

use crate::ids::LogId;
use crate::registry::{self, Filter};
use crate::store::{Listed, Store, StoreError};

use super::Request;

/// A log's bundles, in the order of their first offsets.
#[derive(Debug)]
pub(super) struct Log {
    pub log_id: LogId,
    pub bundles: Vec<Listed>,
}

/// The log that is asked for, or the newest; `None` where nothing of it is stored.
pub(super) async fn find(store: &Store, request: &Request) -> Result<Option<Log>, StoreError> {
    let filter = Filter {
        topic: Some(request.partition.topic().to_owned()),
        partition: Some(request.partition.partition()),
        log_id: request.log_id.clone(),
        ..Filter::default()
    };
    let mut bundles = registry::find(store, &filter).await?.bundles;
    let newest = bundles.iter().max_by_key(|one| {
        let key = &one.key;
        (key.times_ms().map(|(_, max_ms)| max_ms), key.range().last(), key.log_id())
    });
    let Some(log_id) = newest.map(|newest| newest.key.log_id().clone()) else { return Ok(None) };
    bundles.retain(|one| *one.key.log_id() == log_id);
    bundles.sort_by_key(|one| (one.key.range(), one.key.hash()));
    Ok(Some(Log { log_id, bundles }))
}
