//! Marks records that are not committed, or leaves them out of a search.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;

use super::context::SearchContext;
use super::{LISTED_BYTES, SearchError};
use crate::archive::Archive;
use crate::ids::{LogId, TopicPartition};
use crate::transactions::{Isolation, LogTransactions, NotCommitted, Reservation};

/// The records to mark, by the number of their bundle. Bundles without transactions have no entry.
pub(super) type Marks = HashMap<u32, NotCommitted>;

/// The transactions of the searched logs. Logs without transactions have no entry.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    logs: Mutex<HashMap<(TopicPartition, LogId), Arc<LogTransactions>>>,
    bundles_with_open: AtomicU64,
}

impl Transactions {
    /// Returns how many bundles have records that were left out because the end of their transactions is not
    /// known.
    pub fn bundles_with_open(&self) -> u64 {
        self.bundles_with_open.load(Ordering::Relaxed)
    }

    /// Returns the records of a bundle that are left out of the search.
    pub async fn left_out(
        &self,
        context: &SearchContext,
        archive: &Archive,
    ) -> Result<Arc<NotCommitted>, SearchError> {
        if context.request.isolation == Isolation::Uncommitted || !archive.may_have_transactions() {
            return Ok(Arc::default());
        }
        let left_out = Box::pin(self.not_committed(context, archive)).await?;
        if left_out.has_open() {
            self.bundles_with_open.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Arc::new(left_out))
    }

    /// Returns the records of these bundles that must be marked.
    pub async fn marks(
        &self,
        context: &SearchContext,
        archives: &HashMap<u32, Archive>,
    ) -> Result<Marks, SearchError> {
        let mut marks = Marks::new();
        if context.request.isolation == Isolation::Committed {
            return Ok(marks);
        }
        for (bundle, archive) in archives {
            if archive.may_have_transactions() {
                // On the heap, so that searches without transactions need less stack.
                marks.insert(*bundle, Box::pin(self.not_committed(context, archive)).await?);
            }
        }
        Ok(marks)
    }

    async fn not_committed(
        &self,
        context: &SearchContext,
        archive: &Archive,
    ) -> Result<NotCommitted, SearchError> {
        let log = self.log(context, archive);
        let listed = log.listed();
        let memory = |bytes| -> BoxFuture<'_, Result<Reservation, SearchError>> {
            let mut permit = context.memory.permit();
            Box::pin(async move {
                permit.grow_to(bytes, || {}).await?;
                Ok(Box::new(permit) as Reservation)
            })
        };
        let found = log.not_committed(archive, &memory).await?;
        let listed = log.listed().saturating_sub(listed) as u64;
        context.keep(listed * LISTED_BYTES)?;
        Ok(found)
    }

    fn log(&self, context: &SearchContext, archive: &Archive) -> Arc<LogTransactions> {
        let (partition, log_id) = (archive.partition(), archive.log_id());
        let new =
            || LogTransactions::new(context.bundle_cache.clone(), context.traffic.clone(), partition, log_id);
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(logs.entry((partition.clone(), log_id.clone())).or_insert_with(|| Arc::new(new())))
    }
}
