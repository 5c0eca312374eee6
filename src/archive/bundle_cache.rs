//! Bundles that are read again and again: what was read of them once is kept, up to a bound.

use std::sync::Arc;

use super::cached_parts::{CachedParts, PartCache};
use super::error::ArchiveError;
use super::read::Archive;
use super::source::{Source, TrafficCounter};
use crate::store::{Listed, Store};

/// A store's bundles for readers. Clones share what is kept.
///
/// Only for those who answer from bundles: whoever judges one reads it anew, with [`Archive::open`].
#[derive(Clone, Debug)]
pub struct BundleCache {
    store: Store,
    memory: Arc<PartCache>,
}

impl BundleCache {
    /// Keeps up to `bytes_max` of what is read.
    pub fn new(store: Store, bytes_max: u64) -> Self {
        Self { store, memory: Arc::new(PartCache::new(bytes_max)) }
    }

    /// Where the bundles are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is kept.
    pub(super) fn memory(&self) -> &Arc<PartCache> {
        &self.memory
    }

    /// How many bytes are kept.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Opens a bundle that a LIST found. What is read for it, and later from it, is added to `counter`; what is kept is not read.
    pub async fn open(&self, listed: &Listed, counter: &TrafficCounter) -> Result<Archive, ArchiveError> {
        let source = Source::listed(&self.store, listed).counted_by(counter);
        Archive::open_cached(source, CachedParts::new(&self.memory, listed)).await
    }
}
