//! The states of transactions in the bundles that a fetch reads.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::FetchError;
use super::plan::Planned;
use super::reorder_buffer::Version;
use crate::archive::{Archive, BundleCache, TrafficCounter};
use crate::transactions::{LogTransactions, NotCommitted, Reservation, TransactionState};

/// The transactions of one log. If the log has none, nothing is read.
#[derive(Debug)]
pub(super) struct Transactions {
    bundle_cache: BundleCache,
    traffic: TrafficCounter,
    log: Option<LogTransactions>,
    /// Bundles with transactions, by name.
    bundles: HashMap<String, Bundle>,
    unread: Vec<Arc<Archive>>,
}

#[derive(Debug)]
struct Bundle {
    last_offset: i64,
    not_committed: NotCommitted,
}

impl Transactions {
    pub fn new(bundle_cache: BundleCache, traffic: TrafficCounter) -> Self {
        Self { bundle_cache, traffic, log: None, bundles: HashMap::new(), unread: Vec::new() }
    }

    /// Registers a bundle of which a block is read.
    pub fn add(&mut self, bundle: &str, planned: &Planned) {
        let archive = &planned.archive;
        let is_unread = || self.unread.iter().all(|other| !Arc::ptr_eq(other, archive));
        if archive.may_have_transactions() && !self.bundles.contains_key(bundle) && is_unread() {
            self.unread.push(Arc::clone(archive));
        }
    }

    /// Reads the transactions of the registered bundles.
    pub async fn read(&mut self) -> Result<(), FetchError> {
        while let Some(archive) = self.unread.last() {
            let log = self.log.get_or_insert_with(|| {
                let (bundle_cache, traffic) = (self.bundle_cache.clone(), self.traffic.clone());
                LogTransactions::new(bundle_cache, traffic, archive.partition(), archive.log_id())
            });
            // The memory for one block is part of what the fetch has reserved.
            let reserve = |_| -> BoxFuture<'_, Result<Reservation, FetchError>> {
                Box::pin(ready(Ok(Box::new(()) as Reservation)))
            };
            let not_committed = Box::pin(log.not_committed(archive, &reserve)).await?;
            let bundle = Bundle { last_offset: archive.manifest().last_offset, not_committed };
            self.bundles.insert(archive.name(), bundle);
            // Removed only after the await: a caller may drop this future and call again.
            self.unread.pop();
        }
        Ok(())
    }

    /// Returns the state of the version's transaction, if it is not committed.
    pub fn state_of(&self, version: &Version) -> Option<TransactionState> {
        let bundle = self.bundles.get(&*version.bundle)?;
        bundle.not_committed.state_of(version.item.first_offset())
    }

    /// Forgets bundles that end before `offset`.
    pub fn forget_before(&mut self, offset: i64) {
        self.bundles.retain(|_, bundle| bundle.last_offset >= offset);
    }
}
