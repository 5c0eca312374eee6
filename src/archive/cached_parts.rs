//! The cached parts of bundles, limited in bytes: opened bundles, chunks of their indexes, decompressed
//! blocks. All of them are checked before they are cached. Bundles never change, so nothing in the cache
//! expires.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tokio::time::timeout;

use super::read::Opened;
use crate::store::Listed;

/// The memory that an entry takes besides its value, in bytes. It includes the entry's share of the bundle's
/// name.
const ENTRY_BYTES: u64 = 256;

/// One part in this many of the cache is for opened bundles. They take some ten kilobytes each, and without
/// them no other part of a bundle can be found.
const OPENED_SHARE: u64 = 4;

/// The usual size of an entry, in bytes. The cache's tables are made for entries of this size.
const USUAL_BYTES: u64 = 8 * 1024;

/// The number of shards of the cache, each with its own lock. The limit is divided among them, and no entry
/// can be larger than the limit of a shard.
const SHARDS: usize = 4;

/// How long to wait for a read that another caller has started. That caller may be stopped for the moment: a
/// task with several reads in progress advances them only while it awaits them. So a task could wait for
/// itself for ever; this limit prevents that.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Identifies an object: its key, and what a LIST says of it (size, ETag, time), which would differ for
/// another object with that key. Cheap to clone and to compare.
#[derive(Clone, Debug)]
struct BundleId(Arc<Listed>);

/// The kinds of parts that are cached as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// A chunk of an index file: number of the file, number of the chunk. A file with only one checksum is
    /// one chunk.
    Chunk { file: usize, chunk: u64 },
    /// A decompressed block, by its position in `records.zst`.
    Block { position: u64 },
    /// The transaction facts of a bundle that were found in its frames.
    Transactions,
    /// The times of a bundle's records that its key does not state.
    Times,
}

/// The cached parts of all bundles.
pub(super) struct PartCache {
    opened: Cache<BundleId, Arc<Opened>, ByBytes>,
    parts: Cache<(BundleId, Part), Bytes, ByBytes>,
}

/// The cached parts of one bundle. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct CachedParts {
    memory: Arc<PartCache>,
    bundle: BundleId,
}

type Lifecycle = DefaultLifecycle<(BundleId, Part), Bytes>;

/// The right to read a part that is not cached, while other callers wait for it. If it is dropped, the next
/// caller gets it.
pub(super) struct FillGuard<'a>(
    PlaceholderGuard<'a, (BundleId, Part), Bytes, ByBytes, DefaultHashBuilder, Lifecycle>,
);

/// The result of a cache lookup.
pub(super) enum CacheLookup<'a> {
    /// The part is cached.
    Hit(Bytes),
    /// The part is not cached, and no other caller reads it.
    Fill(FillGuard<'a>),
    /// Another caller reads the part.
    Pending,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<BundleId, Arc<Opened>> for ByBytes {
    fn weight(&self, _: &BundleId, opened: &Arc<Opened>) -> u64 {
        ENTRY_BYTES + opened.mem_usage() as u64
    }
}

impl Weighter<(BundleId, Part), Bytes> for ByBytes {
    fn weight(&self, _: &(BundleId, Part), bytes: &Bytes) -> u64 {
        ENTRY_BYTES + bytes.len() as u64
    }
}

impl PartCache {
    pub fn new(bytes_max: u64) -> Self {
        let opened_max = bytes_max / OPENED_SHARE;
        Self { opened: cache(opened_max), parts: cache(bytes_max - opened_max) }
    }

    /// Returns the number of cached bytes.
    pub fn bytes(&self) -> u64 {
        self.opened.weight() + self.parts.weight()
    }
}

fn cache<K: Eq + Hash, V: Clone>(bytes_max: u64) -> Cache<K, V, ByBytes>
where
    ByBytes: Weighter<K, V>,
{
    let items = (bytes_max / USUAL_BYTES) as usize;
    let options = OptionsBuilder::new()
        .estimated_items_capacity(items)
        .weight_capacity(bytes_max)
        .shards(SHARDS)
        .build();
    match options {
        Ok(options) => {
            Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
        }
        // This happens only if one of the above options is missing.
        Err(_) => Cache::with_weighter(items, bytes_max, ByBytes),
    }
}

impl CachedParts {
    pub fn new(memory: &Arc<PartCache>, listed: &Listed) -> Self {
        Self { memory: Arc::clone(memory), bundle: BundleId(Arc::new(listed.clone())) }
    }

    /// Returns the opened bundle. If it is not cached, the first caller opens it while the others wait.
    pub async fn opened<E>(
        &self,
        open: impl Future<Output = Result<Arc<Opened>, E>>,
    ) -> Result<Arc<Opened>, E> {
        match timeout(WAIT_MAX, self.memory.opened.get_value_or_guard_async(&self.bundle)).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(fill_guard)) => {
                let opened = open.await?;
                // Fails only if the entry was removed meanwhile, and no code removes entries.
                let _ = fill_guard.insert(Arc::clone(&opened));
                Ok(opened)
            }
            Err(_) => open.await,
        }
    }

    /// Returns a part. If it is not cached, the first caller reads it while the others wait. The bytes that
    /// `read` returns must not be a slice of a larger buffer.
    pub async fn part<E>(
        &self,
        part: Part,
        read: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, E> {
        match self.wait(part).await {
            CacheLookup::Hit(bytes) => Ok(bytes),
            CacheLookup::Fill(fill_guard) => {
                let bytes = read.await?;
                fill_guard.keep(bytes.clone());
                Ok(bytes)
            }
            CacheLookup::Pending => read.await,
        }
    }

    /// Looks a part up without waiting.
    pub fn look(&self, part: Part) -> CacheLookup<'_> {
        match self.memory.parts.get_value_or_guard(&(self.bundle.clone(), part), Some(Duration::ZERO)) {
            GuardResult::Value(bytes) => CacheLookup::Hit(bytes),
            GuardResult::Guard(fill_guard) => CacheLookup::Fill(FillGuard(fill_guard)),
            GuardResult::Timeout => CacheLookup::Pending,
        }
    }

    /// Looks a part up, and waits while another caller reads it. Returns [`CacheLookup::Pending`] if that
    /// takes too long. A caller that holds a [`FillGuard`] must not wait: other callers may wait for that
    /// guard.
    pub async fn wait(&self, part: Part) -> CacheLookup<'_> {
        let name = (self.bundle.clone(), part);
        match timeout(WAIT_MAX, self.memory.parts.get_value_or_guard_async(&name)).await {
            Ok(Ok(bytes)) => CacheLookup::Hit(bytes),
            Ok(Err(fill_guard)) => CacheLookup::Fill(FillGuard(fill_guard)),
            Err(_) => CacheLookup::Pending,
        }
    }

    /// Returns a part if it is cached.
    pub fn get(&self, part: Part) -> Option<Bytes> {
        self.memory.parts.get(&(self.bundle.clone(), part))
    }
}

impl FillGuard<'_> {
    /// Gives the bytes to the waiting callers, and caches them unless they are too large. The bytes must not
    /// be a slice of a larger buffer.
    pub fn keep(self, bytes: Bytes) {
        // Fails only if the entry was removed meanwhile, and no code removes entries.
        let _ = self.0.insert(bytes);
    }
}

impl PartialEq for BundleId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for BundleId {}

impl Hash for BundleId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Hash::hash(&self.0.key, state);
    }
}

impl fmt::Debug for PartCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartCache").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
