//! Transactions: the facts in one frame, and the facts in all frames of a partition together.
//!
//! The batches of a transaction are marked as transactional and name their producer. A control batch with a
//! commit or an abort marker ends the transaction of its producer. So a batch is aborted if the next marker
//! of its producer, at a higher offset, is an abort (KIP-98).

use std::collections::BTreeMap;

use super::{Encoding, Frame, SegmentError, kafka};
use crate::ids::OffsetRange;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its records count as committed.
    Committed,
    /// Its records are aborted: consumers that read only committed records skip them.
    Aborted,
}

/// The part of a frame in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionPart {
    /// It holds data of a transaction of this producer.
    Data {
        /// The producer.
        producer_id: i64,
    },
    /// It holds the marker that ends the transaction of this producer.
    End {
        /// The producer.
        producer_id: i64,
        /// The marker's offset.
        offset: i64,
        /// How the transaction ended.
        outcome: Outcome,
    },
}

/// Returns the outcome from the key of a control record, which holds a version and a type. Only the types 0
/// (abort) and 1 (commit) end a transaction.
pub(super) fn outcome_of_key(key: &[u8]) -> Option<Outcome> {
    let (version, kind) =
        (i16::from_be_bytes(*key.first_chunk()?), i16::from_be_bytes(*key[2..].first_chunk()?));
    match kind {
        _ if version < 0 => None,
        0 => Some(Outcome::Aborted),
        1 => Some(Outcome::Committed),
        _ => None,
    }
}

impl Frame {
    /// Returns the frame's part in a transaction, if it has one. For a Kafka batch with data it reads only
    /// the head, and does not verify the checksum. It decodes Kafka control batches and Chronik V2 frames,
    /// within `decoded_bytes_max`.
    ///
    /// # Errors
    /// Those of [`Frame::decode`].
    pub fn transaction(&self, decoded_bytes_max: usize) -> Result<Option<TransactionPart>, SegmentError> {
        match self.encoding {
            Encoding::KafkaBatch if !kafka::is_control(&self.bytes) => Ok(self.transaction_of_head()),
            Encoding::KafkaBatch | Encoding::ChronikV2 => Ok(self.decode(decoded_bytes_max)?.transaction),
            Encoding::ChronikV1 | Encoding::KafkaMessage | Encoding::Unknown => Ok(None),
        }
    }

    /// Returns the part that the head alone states, for a Kafka batch that holds data. Used for frames that
    /// cannot be decoded.
    pub fn transaction_of_head(&self) -> Option<TransactionPart> {
        let is_data = self.encoding == Encoding::KafkaBatch && !kafka::is_control(&self.bytes);
        let producer_id = is_data.then(|| kafka::transactional_producer(&self.bytes)).flatten()?;
        Some(TransactionPart::Data { producer_id })
    }
}

/// The offsets of aborted transactions, the offsets of transactions whose end is not among the frames, and
/// the markers that end transactions of earlier frames. Frames are added in the order of the file, in which a
/// producer's data comes before its marker.
#[derive(Clone, Debug, Default)]
pub struct Transactions {
    aborted: Vec<OffsetRange>,
    open: BTreeMap<i64, Vec<OffsetRange>>,
    /// The first marker of each producer.
    ends: BTreeMap<i64, (i64, Outcome)>,
}

impl Transactions {
    /// Adds the next frame, which covers `range`.
    pub fn add(&mut self, part: Option<TransactionPart>, range: Option<OffsetRange>) {
        match (part, range) {
            (Some(TransactionPart::Data { producer_id }), Some(range)) => {
                push(self.open.entry(producer_id).or_default(), range);
            }
            (Some(TransactionPart::End { producer_id, offset, outcome }), _) => {
                self.end(producer_id, offset, outcome);
            }
            (Some(TransactionPart::Data { .. }) | None, _) => {}
        }
    }

    fn end(&mut self, producer_id: i64, offset: i64, outcome: Outcome) {
        let ended = self.open.remove(&producer_id).unwrap_or_default();
        if outcome == Outcome::Aborted {
            self.aborted.extend(ended);
        }
        self.ends.entry(producer_id).or_insert((offset, outcome));
    }

    /// Adds the facts of later frames.
    pub fn merge(&mut self, later: Self) {
        for (producer_id, (offset, outcome)) in later.ends {
            self.end(producer_id, offset, outcome);
        }
        for (producer_id, ranges) in later.open {
            let open = self.open.entry(producer_id).or_default();
            ranges.into_iter().for_each(|range| push(open, range));
        }
        self.aborted.extend(later.aborted);
    }

    /// Whether no frame had a part in a transaction.
    pub fn is_empty(&self) -> bool {
        self.aborted.is_empty() && self.open.is_empty() && self.ends.is_empty()
    }

    /// The heap memory, in bytes.
    pub fn mem_usage(&self) -> usize {
        // What an entry of a map takes in addition to its value.
        const ENTRY_BYTES: usize = 32;
        let range = size_of::<OffsetRange>();
        let open = self
            .open
            .values()
            .map(|ranges| ENTRY_BYTES + size_of::<Vec<OffsetRange>>() + ranges.capacity() * range);
        self.aborted.capacity() * range
            + open.sum::<usize>()
            + self.ends.len() * (ENTRY_BYTES + size_of::<(i64, Outcome)>())
    }

    /// The offsets of the data of aborted transactions, ascending and merged.
    pub fn aborted(&self) -> Vec<OffsetRange> {
        merged(self.aborted.clone())
    }

    /// The producers with a transaction whose end is not here, ascending, each with the offsets of the
    /// transaction's data, ascending and merged.
    pub fn open(&self) -> impl Iterator<Item = (i64, Vec<OffsetRange>)> {
        self.open.iter().map(|(producer_id, ranges)| (*producer_id, merged(ranges.clone())))
    }

    /// The first marker of each producer, in ascending order of producers: its offset, and the outcome of a
    /// transaction that began earlier.
    pub fn first_ends(&self) -> impl Iterator<Item = (i64, i64, Outcome)> {
        self.ends.iter().map(|(producer_id, (offset, outcome))| (*producer_id, *offset, *outcome))
    }
}

/// Adds a range. Extends the last range if the new one follows it directly.
fn push(ranges: &mut Vec<OffsetRange>, range: OffsetRange) {
    match ranges.last_mut() {
        Some(last) if last.last().checked_add(1) == Some(range.first()) => *last = last.cover(&range),
        _ => ranges.push(range),
    }
}

fn merged(mut ranges: Vec<OffsetRange>) -> Vec<OffsetRange> {
    ranges.sort_unstable();
    let mut merged: Vec<OffsetRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.last().saturating_add(1) >= range.first() => *last = last.cover(&range),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64) -> OffsetRange {
        OffsetRange::new(first, last).expect("a range")
    }

    /// A frame: its producer, its first and last offset, and for a marker the outcome of the transaction.
    type Event = (i64, i64, i64, Option<Outcome>);

    fn of(events: &[Event]) -> Transactions {
        let mut all = Transactions::default();
        for (producer_id, first, last, outcome) in events.iter().copied() {
            let part = match outcome {
                None => TransactionPart::Data { producer_id },
                Some(outcome) => TransactionPart::End { producer_id, offset: first, outcome },
            };
            all.add(Some(part), Some(range(first, last)));
        }
        all
    }

    /// The aborted offsets; the open offsets by producer; and the first markers.
    type Facts = (Vec<OffsetRange>, Vec<(i64, Vec<OffsetRange>)>, Vec<(i64, i64, Outcome)>);

    fn facts(all: &Transactions) -> Facts {
        (all.aborted(), all.open().collect(), all.first_ends().collect())
    }

    const ABORT: Option<Outcome> = Some(Outcome::Aborted);
    const COMMIT: Option<Outcome> = Some(Outcome::Committed);

    /// The batches of two producers alternate. A transaction of the second producer is still open at the end.
    const EVENTS: &[Event] = &[
        (7, 0, 0, COMMIT),
        (7, 1, 4, None),
        (8, 5, 5, None),
        (7, 6, 6, None),
        (7, 7, 7, ABORT),
        (8, 8, 8, COMMIT),
        (8, 9, 9, None),
        (7, 10, 11, None),
        (8, 12, 12, None),
        (7, 13, 13, ABORT),
    ];

    #[test]
    fn data_goes_by_the_next_marker_of_its_producer() {
        let (aborted, open, ends) = facts(&of(EVENTS));
        assert_eq!(aborted, [range(1, 4), range(6, 6), range(10, 11)]);
        assert_eq!(open, [(8, vec![range(9, 9), range(12, 12)])]);
        assert_eq!(ends, [(7, 0, Outcome::Committed), (8, 8, Outcome::Committed)]);
    }

    #[test]
    fn wherever_the_frames_are_parted_the_parts_come_to_the_same() {
        let whole = facts(&of(EVENTS));
        for first in 0..=EVENTS.len() {
            for second in first..=EVENTS.len() {
                let mut merged = of(&EVENTS[..first]);
                merged.merge(of(&EVENTS[first..second]));
                merged.merge(of(&EVENTS[second..]));
                assert_eq!(facts(&merged), whole, "{first}, {second}");
            }
        }
    }

    #[test]
    fn only_commit_and_abort_markers_end_a_transaction() {
        for (key, outcome) in [
            (&[0, 0, 0, 0][..], ABORT),
            (&[0, 0, 0, 1], COMMIT),
            (&[0, 9, 0, 1, 5], COMMIT),
            // A change of leader in the controllers' own log; an invalid version; a key that is cut off.
            (&[0, 0, 0, 2], None),
            (&[0xff, 0xff, 0, 0], None),
            (&[0, 0, 0], None),
            (&[], None),
        ] {
            assert_eq!(outcome_of_key(key), outcome, "{key:?}");
        }
    }
}
