//! Counts the decoded records, to compare them with what was indexed and what was stored.

use std::collections::BTreeMap;

use crate::bundle::UndecodedFacts;
use crate::ids::OffsetRange;
use crate::segment::{AnomalyCounts, DecodedFrame, Frame, TransactionPart, Transactions};

/// The counts of a slice's frames, or of a whole partition's.
#[derive(Clone, Debug, Default)]
pub(super) struct RecordCounts {
    /// The range that the frames cover. `None` if there are no frames, or none covers an offset.
    pub range: Option<OffsetRange>,
    /// The least first offset of the frames that cover no offset. `None` if there are none.
    pub place: Option<i64>,
    /// Data records.
    pub records: u64,
    /// Control records.
    pub control_records: u64,
    /// Frames: Kafka batches, Chronik records.
    pub batches: u64,
    /// The number of source bytes, with the torn tail.
    pub source_bytes: u64,
    /// Source bytes that belong to no whole frame.
    pub torn_bytes: u64,
    /// The smallest and the greatest timestamp of data records, in milliseconds since the Unix epoch.
    pub times: Option<(i64, i64)>,
    /// The frames that break their format.
    pub anomalies: AnomalyCounts,
    /// Frames that were not decoded.
    pub undecoded: UndecodedFacts,
    /// The transactions of the data. They are boxed, because most partitions have none, and there may be many
    /// partitions.
    transactions: Option<Box<Transactions>>,
    /// Offsets with data records, as runs in the order of the file.
    data: Vec<OffsetRange>,
}

impl RecordCounts {
    /// Counts a frame of `source_bytes`.
    pub(super) fn count(&mut self, frame: &DecodedFrame, source_bytes: usize) {
        self.cover(frame.range);
        if frame.range.is_none() {
            self.place = Some(self.place.map_or(frame.base_offset, |place| place.min(frame.base_offset)));
        }
        self.anomalies.add(frame.anomalies);
        self.add_transaction(frame.transaction, frame.range);
        self.records += frame.records.records.len() as u64;
        self.control_records += frame.control_offsets.len() as u64;
        self.batches += 1;
        self.source_bytes += source_bytes as u64;
        for record in frame.records.iter() {
            self.times = merge_times(self.times, record.timestamp_ms().map(|time| (time, time)));
            self.count_offset(record.offset());
        }
    }

    /// Counts a frame that is kept although it could not be decoded, with the reason.
    pub(super) fn count_undecoded(&mut self, frame: &Frame, reason: &'static str) {
        self.cover(frame.head_range());
        self.add_transaction(frame.transaction_of_head(), frame.head_range());
        self.batches += 1;
        self.source_bytes += frame.bytes.len() as u64;
        self.undecoded.merge(UndecodedFacts {
            frames: 1,
            bytes: frame.bytes.len() as u64,
            claimed_records: frame.claimed_records().unwrap_or_default(),
            reasons: BTreeMap::from([(reason.to_owned(), 1)]),
        });
        self.anomalies.add(frame.anomalies);
    }

    fn add_transaction(&mut self, part: Option<TransactionPart>, range: Option<OffsetRange>) {
        if part.is_some() {
            self.transactions.get_or_insert_default().add(part, range);
        }
    }

    /// Returns the facts about transactions, and removes them from the counts.
    pub(super) fn take_transactions(&mut self) -> Transactions {
        self.transactions.take().map(|transactions| *transactions).unwrap_or_default()
    }

    fn cover(&mut self, range: Option<OffsetRange>) {
        self.range = match (self.range, range) {
            (Some(a), Some(b)) => Some(a.cover(&b)),
            (a, b) => a.or(b),
        };
    }

    /// Counts bytes that are kept although they are not a whole frame.
    pub(super) fn count_torn(&mut self, bytes: usize) {
        self.source_bytes += bytes as u64;
        self.torn_bytes += bytes as u64;
    }

    /// Adds what a later slice of the same partition counted.
    pub(super) fn merge(&mut self, later: RecordCounts) {
        self.cover(later.range);
        self.place = self.place.into_iter().chain(later.place).min();
        self.anomalies.merge(&later.anomalies);
        self.undecoded.merge(later.undecoded);
        if let Some(later) = later.transactions {
            self.transactions.get_or_insert_default().merge(*later);
        }
        self.records += later.records;
        self.control_records += later.control_records;
        self.batches += later.batches;
        self.source_bytes += later.source_bytes;
        self.torn_bytes += later.torn_bytes;
        self.times = merge_times(self.times, later.times);
        self.data.extend(later.data);
    }

    /// Returns the offsets of the range that have no data record, ascending and merged. Frees the memory of
    /// the counted offsets.
    pub(super) fn gaps(&mut self) -> Vec<OffsetRange> {
        let Some(range) = self.range else { return Vec::new() };
        self.data.sort_unstable();
        let mut gaps = Vec::new();
        let mut next = Some(range.first());
        for run in &self.data {
            let Some(expected) = next else { break };
            if run.first() > expected {
                gaps.extend(OffsetRange::new(expected, run.first() - 1));
            }
            next = run.last().checked_add(1).map(|after| after.max(expected));
        }
        if let Some(expected) = next {
            gaps.extend(OffsetRange::new(expected, range.last()));
        }
        self.data = Vec::new();
        gaps
    }

    /// Heap memory, in bytes.
    pub(super) fn mem_usage(&self) -> usize {
        let transactions = self.transactions.as_ref();
        let transactions = transactions.map_or(0, |facts| size_of::<Transactions>() + facts.mem_usage());
        self.data.capacity() * size_of::<OffsetRange>() + transactions
    }

    fn count_offset(&mut self, offset: i64) {
        let one = OffsetRange::new(offset, offset).expect("an offset is a range of one");
        match self.data.last_mut() {
            Some(run) if run.last().checked_add(1) == Some(offset) => *run = run.cover(&one),
            _ => self.data.push(one),
        }
    }
}

fn merge_times(a: Option<(i64, i64)>, b: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64) -> OffsetRange {
        OffsetRange::new(first, last).expect("first is not after last")
    }

    fn gaps_of(covered: OffsetRange, offsets: impl IntoIterator<Item = i64>) -> Vec<OffsetRange> {
        let mut counts = RecordCounts { range: Some(covered), ..RecordCounts::default() };
        offsets.into_iter().for_each(|offset| counts.count_offset(offset));
        counts.gaps()
    }

    #[test]
    fn gaps_are_what_the_range_has_and_the_records_have_not() {
        assert_eq!(gaps_of(range(0, 9), 0..=9), []);
        assert_eq!(gaps_of(range(0, 9), []), [range(0, 9)]);
        assert_eq!(gaps_of(range(0, 9), [1, 2, 5]), [range(0, 0), range(3, 4), range(6, 9)]);
    }

    #[test]
    fn gaps_of_frames_out_of_order_and_overlapping_are_merged() {
        assert_eq!(gaps_of(range(0, 9), [6, 7, 8, 0, 1, 2, 1, 2, 3]), [range(4, 5), range(9, 9)]);
    }

    #[test]
    fn the_last_offset_of_all_leaves_no_gap_behind_it() {
        assert_eq!(gaps_of(range(i64::MAX - 1, i64::MAX), [i64::MAX]), [range(i64::MAX - 1, i64::MAX - 1)]);
        assert_eq!(gaps_of(range(i64::MAX, i64::MAX), [i64::MAX]), []);
    }
}
