//! What a manifest says of transactions: which of its records do not count, and what it tells of those that bundles in front of it began.

use serde::{Deserialize, Serialize};

use super::manifest::gap_pairs;
use crate::ids::OffsetRange;

/// The transactions that a bundle's frames belong to. A record at an offset that is in none of these ranges belongs to none, or to one that was
/// committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionFacts {
    /// The offsets of data of transactions that a marker in the bundle aborts: ascending and merged.
    #[serde(with = "gap_pairs")]
    pub aborted: Vec<OffsetRange>,
    /// The transactions whose end is not in the bundle, by producer.
    pub open: Vec<OpenTransaction>,
    /// The first marker of each producer, by producer: it ends what the producer left open in front of the bundle.
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
    /// Whether the transaction is aborted; else it is committed.
    pub aborted: bool,
}

impl TransactionFacts {
    /// The first marker of a producer.
    pub fn end_of(&self, producer_id: i64) -> Option<&TransactionEnd> {
        let nth = self.ends.binary_search_by_key(&producer_id, |end| end.producer_id);
        nth.ok().map(|nth| &self.ends[nth])
    }

    /// The transaction that a producer left open.
    pub fn open_of(&self, producer_id: i64) -> Option<&OpenTransaction> {
        let nth = self.open.binary_search_by_key(&producer_id, |open| open.producer_id);
        nth.ok().map(|nth| &self.open[nth])
    }

    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        let ranges = self.open.iter().map(|open| open.offsets.len()).sum::<usize>() + self.aborted.len();
        ranges * size_of::<OffsetRange>()
            + self.open.len() * size_of::<OpenTransaction>()
            + self.ends.len() * size_of::<TransactionEnd>()
    }

    /// What of it is not as it is written; readers search it by halves.
    pub(super) fn flaw(&self) -> Option<&'static str> {
        let ascend = |ranges: &[OffsetRange]| ranges.windows(2).all(|pair| pair[0].last() < pair[1].first());
        let open = self.open.iter().all(|open| !open.offsets.is_empty() && ascend(&open.offsets));
        let by_producer = self.open.windows(2).all(|pair| pair[0].producer_id < pair[1].producer_id)
            && self.ends.windows(2).all(|pair| pair[0].producer_id < pair[1].producer_id);
        (!(ascend(&self.aborted) && open && by_producer)).then_some("are not in order")
    }
}

/// Whether one of these ranges, which ascend, has an offset.
pub fn has_offset(ranges: &[OffsetRange], offset: i64) -> bool {
    let behind = ranges.partition_point(|range| range.last() < offset);
    ranges.get(behind).is_some_and(|range| range.first() <= offset)
}
