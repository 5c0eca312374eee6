//! Bundles become objects: stored create-only, checked, and only then part of a receipt.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use crate::archive::judge;
use crate::spans;
use crate::store::{NewObject, Store};

use super::error::IngestError;
use super::pack::Packed;
use super::receipt::IndexedPartition;

/// How many bundles of one segment are on their way at a time.
const UPLOADS_AT_ONCE: usize = 4;

/// How much longer than the base a bundle may take for each MiB: the store may be slow, and a few attempts must fit.
const UPLOAD_PER_MIB: Duration = Duration::from_secs(2);

/// Stores all bundles, each within `base` and what its size adds. Some may be stored when one fails: sending the segment
/// again finds them.
pub(super) async fn upload(
    store: &Store,
    packed: Vec<Packed>,
    base: Duration,
) -> Result<Vec<IndexedPartition>, IngestError> {
    let uploads = stream::iter(packed).map(|one| {
        let span = spans::upload(&one.key, one.built.size_bytes, one.tally.records);
        spans::stage(span, upload_one(store, one, base))
    });
    uploads.buffered(UPLOADS_AT_ONCE).try_collect().await
}

async fn upload_one(store: &Store, packed: Packed, base: Duration) -> Result<IndexedPartition, IngestError> {
    let Packed { key, manifest, built, tally, memory } = packed;
    let object = NewObject { parts: built.parts.clone(), size_bytes: built.size_bytes, crc32c: built.crc32c };
    let deadline = Instant::now() + base + UPLOAD_PER_MIB * (object.size_bytes >> 20) as u32;
    let put = store
        .put(&key, &object, deadline, |existing| judge(existing, &manifest, &built.blocks))
        .await
        .map_err(|source| IngestError::Put { key: key.to_string(), source })?;
    let footer_offset = put.judged.unwrap_or(built.footer_offset);
    spans::ended(if put.stored.already_existed() { "already there" } else { "created" });
    drop((object, built, memory));
    Ok(IndexedPartition::new(manifest, tally, put.stored, footer_offset))
}
