//! A cache of bundles that are read again and again. Its size is limited.

use std::sync::Arc;

use super::cached_parts::{CachedParts, PartCache};
use super::error::ArchiveError;
use super::read::Archive;
use super::source::{Source, TrafficCounter};
use crate::store::{Listed, Store};

/// Opens bundles of a store for readers, with a cache. Clones share the cache.
///
/// Only for callers that answer requests from bundles. A caller that verifies a bundle reads it anew, with
/// [`Archive::open`].
#[derive(Clone, Debug)]
pub struct BundleCache {
    store: Store,
    memory: Arc<PartCache>,
}

impl BundleCache {
    /// Makes an empty cache that keeps at most `bytes_max` bytes.
    pub fn new(store: Store, bytes_max: u64) -> Self {
        Self { store, memory: Arc::new(PartCache::new(bytes_max)) }
    }

    /// Returns the store of the bundles.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the cached parts.
    pub(super) fn memory(&self) -> &Arc<PartCache> {
        &self.memory
    }

    /// Returns the number of bytes in the cache.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Opens a bundle that a LIST found. All reads for it, now and later, are added to `counter`. Cached
    /// parts are not read and not counted.
    pub async fn open(&self, listed: &Listed, counter: &TrafficCounter) -> Result<Archive, ArchiveError> {
        let source = Source::listed(&self.store, listed).counted_by(counter);
        Archive::open_cached(source, CachedParts::new(&self.memory, listed)).await
    }
}
