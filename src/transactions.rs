//! Finds which records of a log count: those that belong to no transaction, or to a committed one.
//!
//! A bundle states only the facts of its own frames. A transaction that is open at its end is ended in a
//! later bundle of the same log. So the later bundles are read in the order of their offsets, until one has
//! the marker or none is left. If the offsets between two bundles are not stored, the marker may have been
//! there, and a later marker may end another transaction. Then the end is not known.
//!
//! Searches and fetches share this module. It does not know queries, gRPC or the write path.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::archive::{Archive, ArchiveError, BundleCache, TrafficCounter};
use crate::bundle::{OpenTransaction, TransactionFacts, has_offset};
use crate::ids::{LogId, OffsetRange, TopicPartition};
use crate::registry::{self, Filter};
use crate::store::{Listed, StoreError};

/// Which records are returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// All records. Those of aborted and of open transactions are marked.
    #[default]
    Uncommitted,
    /// Records of no transaction, and of committed transactions.
    Committed,
}

/// Why a record does not count, or does not count yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// Its transaction was aborted.
    Aborted,
    /// The end of its transaction is not stored, so it is not known.
    Open,
}

/// The records of a bundle that are not committed.
#[derive(Clone, Debug, Default)]
pub struct NotCommitted {
    facts: Option<Arc<TransactionFacts>>,
    /// The offsets of transactions that later bundles abort, ascending.
    aborted_later: Vec<OffsetRange>,
    /// The offsets of transactions that no bundle ends, ascending.
    open: Vec<OffsetRange>,
}

impl NotCommitted {
    /// Returns the state of the record at this offset, if it is not committed.
    pub fn state_of(&self, offset: i64) -> Option<TransactionState> {
        let facts = self.facts.as_ref()?;
        if has_offset(&facts.aborted, offset) || has_offset(&self.aborted_later, offset) {
            return Some(TransactionState::Aborted);
        }
        has_offset(&self.open, offset).then_some(TransactionState::Open)
    }

    /// Whether the end of a transaction is not known.
    pub fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether there may be such records at these offsets; `None`: at any offset.
    pub fn may_be_in(&self, offsets: Option<OffsetRange>) -> bool {
        let mut ranges = self.ranges();
        match offsets {
            Some(offsets) => ranges.any(|range| range.overlaps(&offsets)),
            None => ranges.next().is_some(),
        }
    }

    /// The memory that it takes, in bytes, in addition to the manifest.
    pub fn mem_usage(&self) -> usize {
        (self.aborted_later.len() + self.open.len()) * size_of::<OffsetRange>()
    }

    fn ranges(&self) -> impl Iterator<Item = &OffsetRange> {
        let aborted = self.facts.iter().flat_map(|facts| &facts.aborted);
        aborted.chain(&self.aborted_later).chain(&self.open)
    }
}

/// Reserved memory, which is given back when this is dropped.
pub type Reservation = Box<dyn Send>;

/// Reserves this many bytes of memory for reading frames.
pub type Reserve<'a, E> = &'a (dyn Fn(u64) -> BoxFuture<'a, Result<Reservation, E>> + Send + Sync);

/// Finds the ends of transactions in the bundles of a log.
#[derive(Debug)]
pub struct LogTransactions {
    bundle_cache: BundleCache,
    traffic: TrafficCounter,
    filter: Filter,
    /// The bundles in the order of their offsets. They are listed when they are first needed.
    bundles: OnceCell<Vec<Listed>>,
}

impl LogTransactions {
    /// Makes it for a log. The bytes that it reads are added to `traffic`.
    pub fn new(
        bundle_cache: BundleCache,
        traffic: TrafficCounter,
        partition: &TopicPartition,
        log_id: &LogId,
    ) -> Self {
        let filter = Filter {
            topic: Some(partition.topic().to_owned()),
            partition: Some(partition.partition()),
            log_id: Some(log_id.clone()),
            ..Filter::default()
        };
        Self { bundle_cache, traffic, filter, bundles: OnceCell::new() }
    }

    /// The number of bundles listed here; 0 before they are listed.
    pub fn listed(&self) -> usize {
        self.bundles.get().map_or(0, Vec::len)
    }

    /// Returns the records of a bundle of this log that are not committed.
    pub async fn not_committed<E: From<StoreError> + From<ArchiveError>>(
        &self,
        archive: &Archive,
        reserve: Reserve<'_, E>,
    ) -> Result<NotCommitted, E> {
        let Some(facts) = facts_of(archive, reserve).await? else { return Ok(NotCommitted::default()) };
        let (mut aborted_later, mut open) = (Vec::new(), Vec::new());
        let mut undecided: Vec<&OpenTransaction> = facts.open.iter().collect();
        let mut known_to = archive.manifest().last_offset;
        let bundles = if undecided.is_empty() { &[][..] } else { self.bundles().await? };
        for listed in bundles {
            let range = listed.key.range();
            if undecided.is_empty() || range.first() > known_to.saturating_add(1) {
                break;
            }
            if range.last() <= known_to {
                continue;
            }
            known_to = range.last();
            let later = self.bundle_cache.open(listed, &self.traffic).await?;
            let Some(later_facts) = facts_of(&later, reserve).await? else { continue };
            undecided.retain(|transaction| match is_aborted(transaction, &later_facts, range) {
                Some(true) => {
                    aborted_later.extend(&transaction.offsets);
                    false
                }
                Some(false) => false,
                None => true,
            });
        }
        undecided.into_iter().for_each(|transaction| open.extend(&transaction.offsets));
        aborted_later.sort_unstable();
        open.sort_unstable();
        Ok(NotCommitted { facts: Some(Arc::clone(&facts)), aborted_later, open })
    }

    async fn bundles(&self) -> Result<&[Listed], StoreError> {
        let list = async || {
            let mut bundles = registry::find(self.bundle_cache.store(), &self.filter).await?.bundles;
            bundles.sort_by_key(|one| (one.key.range(), one.key.hash()));
            self.traffic.count_list();
            Ok(bundles)
        };
        Ok(self.bundles.get_or_try_init(list).await?)
    }
}

async fn facts_of<E: From<ArchiveError>>(
    archive: &Archive,
    reserve: Reserve<'_, E>,
) -> Result<Option<Arc<TransactionFacts>>, E> {
    let _reservation = match archive.transactions_usage() {
        0 => None,
        bytes => Some(reserve(bytes).await?),
    };
    Ok(archive.transactions().await?)
}

/// Whether a later bundle, which covers `range`, aborts a transaction; `None` if it does not end it.
fn is_aborted(transaction: &OpenTransaction, later: &TransactionFacts, range: OffsetRange) -> Option<bool> {
    let first = transaction.offsets.first()?.first();
    let end = later.end_of(transaction.producer_id)?;
    if first < range.first() {
        return Some(end.aborted);
    }
    // The bundles overlap: the later one has the transaction's data too, and states how it ended.
    let is_open = later.open_of(transaction.producer_id).is_some_and(|open| has_offset(&open.offsets, first));
    (!is_open).then(|| has_offset(&later.aborted, first))
}
