//! The part of a manifest about transactions: which of the records in the bundle do not count, which
//! transactions are still open, and how transactions end that began in an earlier bundle.

use serde::{Deserialize, Serialize};

use super::manifest::gap_pairs;
use crate::ids::OffsetRange;

/// The transactions that a bundle's frames belong to. A record whose offset is in none of these ranges
/// belongs to no transaction, or to a committed one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionFacts {
    /// The offsets of the data of transactions that a marker in the bundle aborts: ascending and merged.
    #[serde(with = "gap_pairs")]
    pub aborted: Vec<OffsetRange>,
    /// The transactions whose end is not in the bundle, sorted by producer.
    pub open: Vec<OpenTransaction>,
    /// The first marker of each producer, sorted by producer. If an earlier bundle left a transaction of the
    /// producer open, this marker ends it.
    pub ends: Vec<TransactionEnd>,
}

/// A transaction whose end is not in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// The offsets of its data in the bundle: ascending and merged, at least one.
    #[serde(with = "gap_pairs")]
    pub offsets: Vec<OffsetRange>,
}

/// A marker that ends a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionEnd {
    /// The transaction's producer.
    pub producer_id: i64,
    /// The marker's offset.
    pub offset: i64,
    /// Whether the transaction is aborted. If not, it is committed.
    pub aborted: bool,
}

impl TransactionFacts {
    /// Returns the first marker of a producer.
    pub fn end_of(&self, producer_id: i64) -> Option<&TransactionEnd> {
        let nth = self.ends.binary_search_by_key(&producer_id, |end| end.producer_id);
        nth.ok().map(|nth| &self.ends[nth])
    }

    /// Returns the transaction that a producer left open.
    pub fn open_of(&self, producer_id: i64) -> Option<&OpenTransaction> {
        let nth = self.open.binary_search_by_key(&producer_id, |open| open.producer_id);
        nth.ok().map(|nth| &self.open[nth])
    }

    /// The memory used, in bytes.
    pub fn mem_usage(&self) -> usize {
        let ranges = self.open.iter().map(|open| open.offsets.len()).sum::<usize>() + self.aborted.len();
        ranges * size_of::<OffsetRange>()
            + self.open.len() * size_of::<OpenTransaction>()
            + self.ends.len() * size_of::<TransactionEnd>()
    }

    /// Returns what is wrong with the order of the lists. Readers use binary search, so the lists must be
    /// sorted.
    pub(super) fn flaw(&self) -> Option<&'static str> {
        let ascend = |ranges: &[OffsetRange]| ranges.windows(2).all(|pair| pair[0].last() < pair[1].first());
        let open = self.open.iter().all(|open| !open.offsets.is_empty() && ascend(&open.offsets));
        let by_producer = self.open.windows(2).all(|pair| pair[0].producer_id < pair[1].producer_id)
            && self.ends.windows(2).all(|pair| pair[0].producer_id < pair[1].producer_id);
        (!(ascend(&self.aborted) && open && by_producer)).then_some("are not in order")
    }
}

/// Tells whether one of `ranges` contains `offset`. The ranges must ascend.
pub fn has_offset(ranges: &[OffsetRange], offset: i64) -> bool {
    let behind = ranges.partition_point(|range| range.last() < offset);
    ranges.get(behind).is_some_and(|range| range.first() <= offset)
}
