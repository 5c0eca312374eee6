//! Uploads bundles: each one is stored create-only and checked. Only then it is part of a receipt.

use std::pin::pin;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use tokio::time::Instant;

use crate::archive::check_existing;
use crate::spans;
use crate::store::{NewObject, OBJECT_BYTES_MAX, Store};

use super::error::IngestError;
use super::memory_account::Share;
use super::pack::Packed;
use super::receipt::IndexedPartition;

/// The maximum number of uploads of one segment at the same time, for a few bundles and for many. Many
/// bundles are small: each one waits for the store, and takes almost no memory meanwhile.
const UPLOADS_AT_ONCE: usize = 4;
const SMALL_UPLOADS_AT_ONCE: usize = 16;

/// The number of bundles from which on they count as many.
const MANY: usize = 64;

/// The additional time for a bundle, for each MiB. The store may be slow, and a few attempts must fit.
const UPLOAD_PER_MIB: Duration = Duration::from_secs(2);

/// The time for a bundle of no size.
pub(super) const UPLOAD_BASE: Duration = Duration::from_secs(60);

/// The longest time for any bundle, with the default timeouts.
pub(super) const UPLOAD_TIME_MAX: Duration =
    Duration::from_secs(UPLOAD_BASE.as_secs() + UPLOAD_PER_MIB.as_secs() * (OBJECT_BYTES_MAX >> 20));

/// The memory of a bundle's receipt, in bytes, without names: the receipt, and its copies in the response's
/// message and on the wire.
const RECEIPT_BYTES: u64 = 2 << 10;
/// The memory of a gap in all of these, in bytes.
const GAP_BYTES: u64 = 64;
/// The number of bytes in all of these for each byte of a topic's name: it is there by itself, in the key and
/// in the URL. A byte that must be escaped in a key takes three bytes.
const NAMES: u64 = 16;

/// Stores all of `bundles` bundles, each within `base` and a time for its size. If one fails, some may be
/// stored: sending the segment again finds these. `memory` is the share for the receipts.
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
    let Packed { key, manifest, built, counts, is_spilled, memory } = packed;
    let object = NewObject {
        parts: built.parts.clone(),
        size_bytes: built.size_bytes,
        crc32c: built.crc32c,
        is_read_back: is_spilled,
    };
    let deadline = Instant::now() + base + UPLOAD_PER_MIB * (object.size_bytes >> 20) as u32;
    let put = store
        .put(&key, &object, deadline, |existing| check_existing(existing, &manifest, &built.blocks))
        .await
        .map_err(|source| IngestError::Put { key: key.to_string(), source })?;
    let footer_offset = put.check_result.unwrap_or(built.footer_offset);
    spans::ended(if put.stored.already_existed() { "already there" } else { "created" });
    drop((object, built, memory));
    Ok(IndexedPartition::new(manifest, counts, put.stored, footer_offset))
}
