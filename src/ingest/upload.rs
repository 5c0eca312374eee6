//! Bundles become objects: stored create-only, checked, and only then part of a receipt.

use std::pin::pin;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use tokio::time::Instant;

use crate::archive::check_existing;
use crate::spans;
use crate::store::{NewObject, Store};

use super::error::IngestError;
use super::memory_account::Share;
use super::pack::Packed;
use super::receipt::IndexedPartition;

/// How many bundles of one segment are on their way at a time, and how many where there are many, which are small then: each waits for the store,
/// and takes next to nothing meanwhile.
const UPLOADS_AT_ONCE: usize = 4;
const SMALL_UPLOADS_AT_ONCE: usize = 16;

/// From how many bundles on they are many.
const MANY: usize = 64;

/// How much longer than the base a bundle may take for each MiB: the store may be slow, and a few attempts must fit.
const UPLOAD_PER_MIB: Duration = Duration::from_secs(2);

/// What a bundle's receipt takes in bytes, beside the names in it: itself, and its copies in the answer's message and on the wire.
const RECEIPT_BYTES: u64 = 2 << 10;
/// What a gap takes in them.
const GAP_BYTES: u64 = 64;
/// How often a topic's name is in all of these: by itself, in the key and in the URL. What does not go into a key as it is takes three bytes there.
const NAMES: u64 = 16;

/// Stores all of `bundles` bundles, each within `base` and what its size adds. Some may be stored when one fails: sending the segment
/// again finds them. `memory` is what the receipts take.
pub(super) async fn upload(
    store: &Store,
    packed: impl Stream<Item = Result<Packed, IngestError>>,
    bundles: usize,
    base: Duration,
    memory: &mut Share,
) -> Result<Vec<IndexedPartition>, IngestError> {
    let uploads = packed.map_ok(|one| {
        let span = spans::upload(&one.key, one.built.size_bytes, one.counts.records);
        spans::stage(span, upload_one(store, one, base))
    });
    let at_once = if bundles >= MANY { SMALL_UPLOADS_AT_ONCE } else { UPLOADS_AT_ONCE };
    let mut uploaded = pin!(uploads.try_buffered(at_once));
    let mut receipts = Vec::with_capacity(bundles);
    while let Some(receipt) = uploaded.try_next().await? {
        let names = NAMES * receipt.partition.topic().len() as u64;
        let gaps = receipt.gaps.len() as u64 * GAP_BYTES;
        memory.set(memory.bytes() + RECEIPT_BYTES + names + gaps)?;
        receipts.push(receipt);
    }
    Ok(receipts)
}

async fn upload_one(store: &Store, packed: Packed, base: Duration) -> Result<IndexedPartition, IngestError> {
    let Packed { key, manifest, built, counts, memory } = packed;
    let object = NewObject { parts: built.parts.clone(), size_bytes: built.size_bytes, crc32c: built.crc32c };
    let deadline = Instant::now() + base + UPLOAD_PER_MIB * (object.size_bytes >> 20) as u32;
    let put = store
        .put(&key, &object, deadline, |existing| check_existing(existing, &manifest, &built.blocks))
        .await
        .map_err(|source| IngestError::Put { key: key.to_string(), source })?;
    let footer_offset = put.judged.unwrap_or(built.footer_offset);
    spans::ended(if put.stored.already_existed() { "already there" } else { "created" });
    drop((object, built, memory));
    Ok(IndexedPartition::new(manifest, counts, put.stored, footer_offset))
}
