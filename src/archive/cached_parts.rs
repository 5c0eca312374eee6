//! What was read of bundles, kept up to a bound: opened bundles, chunks of their indexes, opened blocks. All of it was checked before
//! it is kept. Bundles never change, so nothing kept expires.

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

/// What an entry takes beside its value, and its share of the bundle's name.
const ENTRY_BYTES: u64 = 256;

/// Opened bundles may take one part in so many of all: some ten kilobytes each, and without them nothing else of a bundle is found.
const OPENED_SHARE: u64 = 4;

/// What most entries take, in bytes: the tables are made for so many.
const USUAL_BYTES: u64 = 8 * 1024;

/// A bound is divided among so many, each with a lock of its own: no entry can be larger than its part.
const SHARDS: usize = 4;

/// How long somebody else's read is waited for. It may be one that nobody goes on with for the moment: a task that has several under way
/// goes on with them only while it waits for them, and must never wait for itself.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Which object: the key that a LIST gave, and what would tell another object of that key. Cheap to clone and to compare.
#[derive(Clone, Debug)]
struct BundleId(Arc<Listed>);

/// What of a bundle is kept as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// A chunk of an index file, by their numbers; a file that has one checksum only is one chunk.
    Chunk { file: usize, chunk: u64 },
    /// An opened block, by its position in `records.zst`.
    Block { position: u64 },
    /// The facts of its transactions, where these were found in its frames.
    Transactions,
    /// The times of its records, where its key does not say them.
    Times,
}

/// What is kept, of all bundles.
pub(super) struct PartCache {
    opened: Cache<BundleId, Arc<Opened>, ByBytes>,
    parts: Cache<(BundleId, Part), Bytes, ByBytes>,
}

/// What is kept of one bundle; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct CachedParts {
    memory: Arc<PartCache>,
    bundle: BundleId,
}

type Lifecycle = DefaultLifecycle<(BundleId, Part), Bytes>;

/// The turn to read something that is not kept, while others wait for it. Dropped, it is the next one's.
pub(super) struct FillGuard<'a>(
    PlaceholderGuard<'a, (BundleId, Part), Bytes, ByBytes, DefaultHashBuilder, Lifecycle>,
);

/// Whether something is kept.
pub(super) enum CacheLookup<'a> {
    /// It is.
    CachedParts(Bytes),
    /// It is not, and nobody else reads it.
    Ours(FillGuard<'a>),
    /// Somebody else reads it.
    Others,
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

    /// Bytes kept.
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
        // Only where one of the above is missing.
        Err(_) => Cache::with_weighter(items, bytes_max, ByBytes),
    }
}

impl CachedParts {
    pub fn new(memory: &Arc<PartCache>, listed: &Listed) -> Self {
        Self { memory: Arc::clone(memory), bundle: BundleId(Arc::new(listed.clone())) }
    }

    /// The opened bundle: kept, or opened by the first who asks while the others wait.
    pub async fn opened<E>(
        &self,
        open: impl Future<Output = Result<Arc<Opened>, E>>,
    ) -> Result<Arc<Opened>, E> {
        match timeout(WAIT_MAX, self.memory.opened.get_value_or_guard_async(&self.bundle)).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(fill_guard)) => {
                let opened = open.await?;
                // Fails only where somebody has taken the entry out, which nobody does.
                let _ = fill_guard.insert(Arc::clone(&opened));
                Ok(opened)
            }
            Err(_) => open.await,
        }
    }

    /// A part: kept, or read by the first who asks while the others wait. What is read must own no more than it shows.
    pub async fn part<E>(
        &self,
        part: Part,
        read: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, E> {
        match self.wait(part).await {
            CacheLookup::CachedParts(bytes) => Ok(bytes),
            CacheLookup::Ours(fill_guard) => {
                let bytes = read.await?;
                fill_guard.keep(bytes.clone());
                Ok(bytes)
            }
            CacheLookup::Others => read.await,
        }
    }

    /// Whether a part is kept now.
    pub fn look(&self, part: Part) -> CacheLookup<'_> {
        match self.memory.parts.get_value_or_guard(&(self.bundle.clone(), part), Some(Duration::ZERO)) {
            GuardResult::Value(bytes) => CacheLookup::CachedParts(bytes),
            GuardResult::Guard(fill_guard) => CacheLookup::Ours(FillGuard(fill_guard)),
            GuardResult::Timeout => CacheLookup::Others,
        }
    }

    /// Waits while somebody else reads a part; it is [`CacheLookup::Others`] where that takes long. Whoever has a turn must not wait: others
    /// may wait for that.
    pub async fn wait(&self, part: Part) -> CacheLookup<'_> {
        let name = (self.bundle.clone(), part);
        match timeout(WAIT_MAX, self.memory.parts.get_value_or_guard_async(&name)).await {
            Ok(Ok(bytes)) => CacheLookup::CachedParts(bytes),
            Ok(Err(fill_guard)) => CacheLookup::Ours(FillGuard(fill_guard)),
            Err(_) => CacheLookup::Others,
        }
    }

    /// What is kept of a part.
    pub fn get(&self, part: Part) -> Option<Bytes> {
        self.memory.parts.get(&(self.bundle.clone(), part))
    }
}

impl FillGuard<'_> {
    /// Gives to those who wait what was read, and keeps it where it is not too large for that. It must own no more than it shows.
    pub fn keep(self, bytes: Bytes) {
        // Fails only where somebody has taken the entry out, which nobody does.
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
        f.debug_struct("Memory").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
