//! What was found and not answered yet, in the order of offsets, and never more of it than can be answered.

use std::collections::BTreeMap;
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;

use super::Item;
use super::large::Large;
use crate::segment::NoBatch;

/// What waits at most until it can be answered, in bytes, however much is asked for: where frames lie far out of order, answers are
/// shorter.
pub const BUFFER_BYTES_MAX: u64 = 8 << 20;

/// Records and bytes: how many there are, or how many more there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub records: u64,
    pub bytes: u64,
}

impl Room {
    pub fn fits(&self, within: &Self) -> bool {
        self.records <= within.records && self.bytes <= within.bytes
    }
}

impl AddAssign for Room {
    fn add_assign(&mut self, other: Self) {
        self.records = self.records.saturating_add(other.records);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl SubAssign for Room {
    fn sub_assign(&mut self, other: Self) {
        self.records = self.records.saturating_sub(other.records);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// One of the different things that are stored at an offset, and where it was found first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub item: Item,
    pub bundle: Arc<str>,
    /// Where it is, if it is larger than what waits may be: then `item` says only what it is.
    pub large: Option<Large>,
}

impl Version {
    fn room(&self) -> Room {
        let room = self.item.room();
        Room { bytes: self.large.as_ref().map_or(room.bytes, |large| large.bytes), ..room }
    }
}

/// A frame of which what was asked for is not to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub bundle: Arc<str>,
    pub offset: i64,
    pub why: Why,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It has no batch.
    NoBatch(NoBatch),
    /// To read it takes so many bytes of memory.
    TooLarge(u64),
}

/// Records by their offsets, or batches by their last ones: in that order no batch is passed over for a longer one that it lies in. What
/// there is no room for is let go of from the end, and nothing is taken there again: what comes in front of it only makes less room.
#[derive(Clone, Debug)]
pub(super) struct ReorderBuffer {
    from: i64,
    /// The first offset that is not answered any more, if there is one.
    end: Option<i64>,
    /// Why not, where room is not the reason.
    missing: Option<Missing>,
    room: Room,
    /// What waits here takes no more memory, in bytes.
    bytes_max: u64,
    /// Whether something was answered. Until then the first offset is kept, whatever it takes.
    begun: bool,
    held: Room,
    versions: BTreeMap<i64, Vec<Version>>,
}

impl ReorderBuffer {
    /// For what is stored at `from` and behind it.
    pub fn new(from: i64, room: Room, bytes_max: u64) -> Self {
        let (end, missing, begun, held) = (None, None, false, Room::default());
        Self { from, end, missing, room, bytes_max, begun, held, versions: BTreeMap::new() }
    }

    /// An empty one with the same bounds, to be filled beside it and then added.
    pub fn bounds(&self) -> Self {
        Self { end: self.end, begun: self.begun, ..Self::new(self.from, self.room, self.bytes_max) }
    }

    /// What is asked for begins here.
    pub fn from(&self) -> i64 {
        self.from
    }

    /// Whether something of this offset may be answered.
    pub fn takes(&self, offset: i64) -> bool {
        self.from <= offset && self.end.is_none_or(|end| offset < end)
    }

    /// Whether something between these offsets, ends included, may be answered.
    pub fn takes_some(&self, first: i64, last: i64) -> bool {
        self.from <= last && self.end.is_none_or(|end| first < end)
    }

    /// Adds an item, unless the same is there.
    pub fn add(&mut self, version: Version) {
        let offset = version.item.last_offset();
        if !self.takes(offset) {
            return;
        }
        let versions = self.versions.entry(offset).or_default();
        if versions.iter().any(|other| (&other.item, &other.large) == (&version.item, &version.large)) {
            return;
        }
        self.held += version.room();
        versions.push(version);
        let bytes = self.room.bytes.min(self.bytes_max);
        while !self.held.fits(&Room { bytes, ..self.room }) && (self.begun || self.versions.len() > 1) {
            let Some((offset, let_go)) = self.versions.pop_last() else { break };
            let_go.iter().for_each(|version| self.held -= version.room());
            (self.end, self.missing) = (Some(offset), None);
        }
    }

    /// Nothing is answered from the last offset of a frame on, since its batch is missing.
    pub fn end_at(&mut self, last_offset: i64, missing: Missing) {
        if self.takes(last_offset) {
            self.cut(last_offset);
            self.missing = Some(missing);
        }
    }

    fn cut(&mut self, end: i64) {
        let let_go = self.versions.split_off(&end);
        let_go.values().flatten().for_each(|version| self.held -= version.room());
        (self.end, self.missing) = (Some(end), None);
    }

    /// Adds what another one of the same bounds holds.
    pub fn merge(&mut self, other: Self) {
        if let Some(end) = other.end.filter(|end| self.takes(*end)) {
            self.cut(end);
            self.missing = other.missing;
        }
        other.versions.into_values().flatten().for_each(|version| self.add(version));
    }

    /// Takes out what comes before `offset`, or everything: it is answered.
    pub fn take_before(&mut self, offset: Option<i64>) -> BTreeMap<i64, Vec<Version>> {
        let stays = offset.map(|offset| self.versions.split_off(&offset)).unwrap_or_default();
        let taken = std::mem::replace(&mut self.versions, stays);
        for version in taken.values().flatten() {
            self.held -= version.room();
            self.room -= version.room();
        }
        self.begun |= !taken.is_empty();
        taken
    }

    /// How much more there is room for.
    pub fn room_left(&self) -> Room {
        let mut left = self.room;
        left -= self.held;
        left
    }

    /// Whether all is answered that can be, when nothing is left to come but from `next` on.
    pub fn is_done(&self, next: Option<i64>) -> bool {
        let nothing_comes = next.is_none_or(|next| self.end.is_some_and(|end| end <= next));
        let is_full = self.begun && (self.room.records == 0 || self.room.bytes == 0);
        self.versions.is_empty() && (nothing_comes || is_full)
    }

    /// The first offset that was stored and is not answered, if one is known.
    pub fn end(&self) -> Option<i64> {
        self.end
    }

    /// The frame at which the answer ends because its batch is missing.
    pub fn missing(&self) -> Option<&Missing> {
        self.missing.as_ref()
    }
}

impl Item {
    /// The offset that comes before the one to go on from.
    pub fn last_offset(&self) -> i64 {
        match self {
            Self::Record(record) => record.offset,
            Self::Batch(batch) => batch.range.last(),
        }
    }

    /// The first offset that it covers.
    pub fn first_offset(&self) -> i64 {
        match self {
            Self::Record(record) => record.offset,
            Self::Batch(batch) => batch.range.first(),
        }
    }

    fn room(&self) -> Room {
        match self {
            Self::Record(record) => Room { records: 1, bytes: record.mem_usage() as u64 },
            Self::Batch(batch) => Room { records: batch.records, bytes: batch.bytes.len() as u64 },
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
        let item = Item::Batch(KafkaBatch { range, records: 1, bytes: bytes.clone() });
        Version { item, bundle: "a".into(), large: None }
    }

    #[test]
    fn what_waits_is_bounded_however_much_is_asked_for() {
        let bytes = Bytes::from(vec![0; BUFFER_BYTES_MAX as usize / 2]);
        let mut buffer = ReorderBuffer::new(0, Room { records: u64::MAX, bytes: u64::MAX }, BUFFER_BYTES_MAX);
        for offset in [7, 3, 9, 5, 1] {
            buffer.add(batch(offset, &bytes));
        }
        assert_eq!(buffer.end(), Some(5), "two fit");
        assert_eq!(buffer.take_before(None).into_keys().collect::<Vec<_>>(), [1, 3]);
        assert!(buffer.is_done(Some(5)) && !buffer.is_done(Some(4)));
    }

    #[test]
    fn the_first_is_kept_whatever_it_takes_and_what_differs_from_it_too() {
        let mut buffer = ReorderBuffer::new(2, Room { records: 1, bytes: 10 }, BUFFER_BYTES_MAX);
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
