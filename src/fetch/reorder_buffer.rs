//! The reorder buffer: items that were found and are not returned yet, by offset. It never holds more than
//! the response can return.

use std::collections::BTreeMap;
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;

use super::Item;
use super::large::ItemLocation;
use crate::segment::NoBatch;

/// The maximum size of the reorder buffer in bytes, independent of the request. If frames are far out of
/// order, responses are shorter.
pub const BUFFER_BYTES_MAX: u64 = 8 << 20;

/// A number of records and bytes: an amount, or what is left of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub records: u64,
    pub bytes: u64,
}

impl Amount {
    pub fn fits(&self, within: &Self) -> bool {
        self.records <= within.records && self.bytes <= within.bytes
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.records = self.records.saturating_add(other.records);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Self) {
        self.records = self.records.saturating_sub(other.records);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// One of the different items at an offset, and the bundle in which it was found first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub item: Item,
    pub bundle: Arc<str>,
    /// The place of the item if it is larger than the buffer allows. Then `item` has no contents.
    pub location: Option<ItemLocation>,
}

impl Version {
    fn amount(&self) -> Amount {
        let amount = self.item.amount();
        Amount { bytes: self.location.as_ref().map_or(amount.bytes, |location| location.bytes), ..amount }
    }

    /// Whether it is the same item, wherever it is.
    fn is_same(&self, other: &Self) -> bool {
        let is_same = match (&self.item, &other.item) {
            (Item::Record(record), Item::Record(other)) => record.is_same(other),
            (item, other) => item == other,
        };
        is_same && self.location == other.location
    }
}

/// A frame that cannot be returned in the requested form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub bundle: Arc<str>,
    pub offset: i64,
    pub why: MissingReason,
}

/// Why a frame cannot be returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissingReason {
    /// The frame has no batch.
    NoBatch(NoBatch),
    /// Reading the frame needs this many bytes of memory.
    TooLarge(u64),
}

/// Holds records by their offsets, or batches by their last offsets. In that order no batch is skipped
/// because a longer batch contains it. If the limit is exceeded, the highest offsets are removed, and `end`
/// moves down to them. It never moves up again: earlier items that arrive later only leave less space.
#[derive(Clone, Debug)]
pub(super) struct ReorderBuffer {
    from: i64,
    /// The first offset that is not returned, if there is one.
    end: Option<i64>,
    /// Why the response ends at `end`, if the reason is not the limit.
    missing: Option<Missing>,
    remaining: Amount,
    /// The maximum memory of the held items, in bytes.
    bytes_max: u64,
    /// Whether an item was returned. Until then the first offset is kept, whatever its size.
    begun: bool,
    held: Amount,
    versions: BTreeMap<i64, Vec<Version>>,
}

impl ReorderBuffer {
    /// A buffer for the items at and after `from`.
    pub fn new(from: i64, remaining: Amount, bytes_max: u64) -> Self {
        let (end, missing, begun, held) = (None, None, false, Amount::default());
        Self { from, end, missing, remaining, bytes_max, begun, held, versions: BTreeMap::new() }
    }

    /// Returns an empty buffer with the same limits. It is filled separately and then merged.
    pub fn bounds(&self) -> Self {
        Self { end: self.end, begun: self.begun, ..Self::new(self.from, self.remaining, self.bytes_max) }
    }

    /// The requested offset.
    pub fn from(&self) -> i64 {
        self.from
    }

    /// Returns whether an item at this offset may be returned.
    pub fn takes(&self, offset: i64) -> bool {
        self.from <= offset && self.end.is_none_or(|end| offset < end)
    }

    /// Returns whether an item between these offsets, both included, may be returned.
    pub fn takes_some(&self, first: i64, last: i64) -> bool {
        self.from <= last && self.end.is_none_or(|end| first < end)
    }

    /// Adds an item, unless an equal item is there.
    pub fn add(&mut self, version: Version) {
        let offset = version.item.last_offset();
        if !self.takes(offset) {
            return;
        }
        let versions = self.versions.entry(offset).or_default();
        if versions.iter().any(|other| other.is_same(&version)) {
            return;
        }
        self.held += version.amount();
        versions.push(version);
        let bytes = self.remaining.bytes.min(self.bytes_max);
        while !self.held.fits(&Amount { bytes, ..self.remaining }) && (self.begun || self.versions.len() > 1)
        {
            let Some((offset, let_go)) = self.versions.pop_last() else { break };
            let_go.iter().for_each(|version| self.held -= version.amount());
            (self.end, self.missing) = (Some(offset), None);
        }
    }

    /// Ends the response before this offset, because a frame is missing.
    pub fn end_at(&mut self, offset: i64, missing: Missing) {
        if self.takes(offset) {
            self.cut(offset);
            self.missing = Some(missing);
        }
    }

    fn cut(&mut self, end: i64) {
        let let_go = self.versions.split_off(&end);
        let_go.values().flatten().for_each(|version| self.held -= version.amount());
        (self.end, self.missing) = (Some(end), None);
    }

    /// Adds the items of another buffer with the same limits.
    pub fn merge(&mut self, other: Self) {
        if let Some(end) = other.end.filter(|end| self.takes(*end)) {
            self.cut(end);
            self.missing = other.missing;
        }
        other.versions.into_values().flatten().for_each(|version| self.add(version));
    }

    /// Takes the items before `offset`, or all items. They count as returned.
    pub fn take_before(&mut self, offset: Option<i64>) -> BTreeMap<i64, Vec<Version>> {
        let stays = offset.map(|offset| self.versions.split_off(&offset)).unwrap_or_default();
        let taken = std::mem::replace(&mut self.versions, stays);
        for version in taken.values().flatten() {
            self.held -= version.amount();
            self.remaining -= version.amount();
        }
        self.begun |= !taken.is_empty();
        taken
    }

    /// Returns how much more may be held.
    pub fn left_to_hold(&self) -> Amount {
        let mut left = self.remaining;
        left -= self.held;
        left
    }

    /// Returns whether the response is complete, if all items still to come are at or after `next`.
    pub fn is_done(&self, next: Option<i64>) -> bool {
        let nothing_comes = next.is_none_or(|next| self.end.is_some_and(|end| end <= next));
        let is_full = self.begun && (self.remaining.records == 0 || self.remaining.bytes == 0);
        self.versions.is_empty() && (nothing_comes || is_full)
    }

    /// The first stored offset that is not returned, if one is known.
    pub fn end(&self) -> Option<i64> {
        self.end
    }

    /// The missing frame at which the response ends.
    pub fn missing(&self) -> Option<&Missing> {
        self.missing.as_ref()
    }
}

impl Item {
    /// The response continues after this offset.
    pub fn last_offset(&self) -> i64 {
        match self {
            Self::Record(record) => record.offset,
            Self::Batch(batch) => batch.range.last(),
        }
    }

    /// The epoch of the leader that appended the item, if it states one.
    pub fn leader_epoch(&self) -> Option<i32> {
        match self {
            Self::Record(record) => record.leader_epoch,
            Self::Batch(batch) => batch.leader_epoch,
        }
    }

    /// The first offset of the item.
    pub fn first_offset(&self) -> i64 {
        match self {
            Self::Record(record) => record.offset,
            Self::Batch(batch) => batch.range.first(),
        }
    }

    fn amount(&self) -> Amount {
        match self {
            Self::Record(record) => Amount { records: 1, bytes: record.mem_usage() as u64 },
            Self::Batch(batch) => Amount { records: batch.records, bytes: batch.bytes.len() as u64 },
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::OffsetRange;
    use crate::segment::KafkaBatch;

    fn batch(offset: i64, bytes: &Bytes) -> Version {
        let range = OffsetRange::new(offset, offset).expect("a range");
        let item = Item::Batch(KafkaBatch { range, records: 1, leader_epoch: None, bytes: bytes.clone() });
        Version { item, bundle: "a".into(), location: None }
    }

    #[test]
    fn what_waits_is_bounded_however_much_is_asked_for() {
        let bytes = Bytes::from(vec![0; BUFFER_BYTES_MAX as usize / 2]);
        let mut buffer =
            ReorderBuffer::new(0, Amount { records: u64::MAX, bytes: u64::MAX }, BUFFER_BYTES_MAX);
        for offset in [7, 3, 9, 5, 1] {
            buffer.add(batch(offset, &bytes));
        }
        assert_eq!(buffer.end(), Some(5), "two fit");
        assert_eq!(buffer.take_before(None).into_keys().collect::<Vec<_>>(), [1, 3]);
        assert!(buffer.is_done(Some(5)) && !buffer.is_done(Some(4)));
    }

    #[test]
    fn the_first_is_kept_whatever_it_takes_and_what_differs_from_it_too() {
        let mut buffer = ReorderBuffer::new(2, Amount { records: 1, bytes: 10 }, BUFFER_BYTES_MAX);
        buffer.add(batch(1, &Bytes::from_static(b"before what is asked for")));
        buffer.add(batch(5, &Bytes::from_static(b"a large one")));
        buffer.add(batch(4, &Bytes::from_static(b"one that comes first")));
        buffer.add(batch(4, &Bytes::from_static(b"another one for the same offset")));
        buffer.add(batch(4, &Bytes::from_static(b"one that comes first")));
        let taken = buffer.take_before(None);
        assert_eq!(taken.values().map(Vec::len).collect::<Vec<_>>(), [2]);
        assert_eq!((taken.into_keys().next(), buffer.end()), (Some(4), Some(5)));
        buffer.add(batch(4, &Bytes::from_static(b"")));
        assert!(buffer.take_before(None).is_empty(), "nothing fits behind it");
    }
}
