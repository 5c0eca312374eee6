//! Records out of an opened block, within bounds.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::error::Fault;
use super::records::{check_count, fault_in_block, split_block};
use crate::bundle::BlockEntry;
use crate::ids::SegmentFormat;
use crate::record::StoredRecord;
use crate::segment::{Frame, Visitor};

/// What is held while a block is read, beside its records, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkBounds {
    /// A frame whose records open to no more is decoded at once.
    pub opened_bytes: usize,
    /// What a codec may hold of what it has opened, where a frame is read as a stream.
    pub window_bytes: usize,
}

impl WorkBounds {
    /// For so many bytes in all.
    pub fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // A buffer that is doubled is there twice for a moment: half of it and the whole. A stream's own buffers take the rest.
        Self { opened_bytes: bytes / 2, window_bytes: bytes / 4 * 3 }
    }
}

/// What is held of a block that is read, in bytes: as it is stored, as it is opened, and what its frames are cut into.
pub fn block_usage(entry: &BlockEntry) -> u64 {
    2 * u64::from(entry.plain_len) + u64::from(entry.compressed_len)
}

/// What the records that are read may still take in memory, in bytes. Those who read side by side share it.
#[derive(Debug)]
pub struct Purse(AtomicUsize);

impl Purse {
    /// With so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(AtomicUsize::new(usize::try_from(bytes).unwrap_or(usize::MAX)))
    }

    /// Takes up to `most` bytes out of it; returns how many.
    fn take(&self, most: usize) -> usize {
        let mut taken = 0;
        // Never refused: the closure always answers.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            taken = left.min(most);
            Some(left - taken)
        });
        taken
    }

    fn put_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What came of a record that was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picked {
    /// The record.
    Record(StoredRecord),
    /// The purse did not hold the bytes that it needs any more.
    TooLarge(u64),
    /// Its frame needs more memory than the bounds allow.
    Unread,
}

/// Takes the records of some ordinals.
struct Picker<'a> {
    /// Of the next record.
    ordinal: u64,
    wanted: std::iter::Peekable<std::slice::Iter<'a, u64>>,
    record_bytes_max: usize,
    purse: &'a Purse,
    shares: bool,
    /// What was taken out of the purse for the record that comes.
    taken: usize,
    picked: Vec<(u64, Picked)>,
}

impl Visitor for Picker<'_> {
    fn limit(&mut self, _: i64, _: Option<i64>) -> Option<usize> {
        let ordinal = self.ordinal;
        self.ordinal += 1;
        self.wanted.next_if_eq(&&ordinal)?;
        self.taken = self.purse.take(self.record_bytes_max);
        Some(self.taken)
    }

    fn record(&mut self, record: StoredRecord) {
        let used = record.mem_usage().min(self.taken);
        self.purse.put_back(self.taken - used);
        let picked = match record.omitted {
            Some(omitted) if self.taken < self.record_bytes_max => Picked::TooLarge(omitted.needed_bytes),
            _ => Picked::Record(record),
        };
        self.picked.push((self.ordinal - 1, picked));
    }

    fn shares(&self) -> bool {
        self.shares
    }

    fn is_done(&self) -> bool {
        self.wanted.len() == 0
    }
}

/// The records of these ordinals, ascending, from their opened block; those that it does not hold are left out. A record that takes more than
/// `record_bytes_max` bytes in memory comes without its value. One that is wanted alone, of a known size at most, may keep its frame.
pub(super) fn pick(
    entry: &BlockEntry,
    plain: &Bytes,
    format: SegmentFormat,
    ordinals: &[u64],
    bounds: WorkBounds,
    record_bytes_max: usize,
    purse: &Purse,
) -> Result<Vec<(u64, Picked)>, Fault> {
    let mut picker = Picker {
        ordinal: entry.first_ordinal,
        wanted: ordinals.iter().peekable(),
        record_bytes_max,
        purse,
        shares: ordinals.len() == 1 && record_bytes_max < usize::MAX,
        taken: 0,
        picked: Vec::with_capacity(ordinals.len()),
    };
    match visit(entry, plain, format, bounds, &mut picker) {
        Err(fault) if fault.is_too_large() => {
            let rest = picker.wanted.by_ref().map(|ordinal| (*ordinal, Picked::Unread));
            picker.picked.extend(rest);
        }
        visited => visited?,
    }
    Ok(picker.picked)
}

/// Offsets and times of the records of these ordinals, as [`pick`].
pub(super) fn places(
    entry: &BlockEntry,
    plain: &Bytes,
    format: SegmentFormat,
    ordinals: &[u64],
    bounds: WorkBounds,
) -> Result<Vec<(u64, i64, Option<i64>)>, Fault> {
    struct Places<'a> {
        ordinal: u64,
        wanted: std::iter::Peekable<std::slice::Iter<'a, u64>>,
        found: Vec<(u64, i64, Option<i64>)>,
    }
    impl Visitor for Places<'_> {
        fn limit(&mut self, offset: i64, timestamp_ms: Option<i64>) -> Option<usize> {
            if self.wanted.next_if_eq(&&self.ordinal).is_some() {
                self.found.push((self.ordinal, offset, timestamp_ms));
            }
            self.ordinal += 1;
            None
        }

        fn record(&mut self, _: StoredRecord) {}

        fn is_done(&self) -> bool {
            self.wanted.len() == 0
        }
    }
    impl Seeks for Places<'_> {
        fn ordinal(&mut self) -> &mut u64 {
            &mut self.ordinal
        }

        fn next_wanted(&mut self) -> Option<u64> {
            self.wanted.peek().map(|ordinal| **ordinal)
        }
    }
    let wanted = ordinals.iter().peekable();
    let mut places =
        Places { ordinal: entry.first_ordinal, wanted, found: Vec::with_capacity(ordinals.len()) };
    visit(entry, plain, format, bounds, &mut places)?;
    Ok(places.found)
}

/// Looks for records by their ordinals.
trait Seeks: Visitor {
    /// Of the next record.
    fn ordinal(&mut self) -> &mut u64;

    /// Of the next record that is wanted.
    fn next_wanted(&mut self) -> Option<u64>;
}

impl Seeks for Picker<'_> {
    fn ordinal(&mut self) -> &mut u64 {
        &mut self.ordinal
    }

    fn next_wanted(&mut self) -> Option<u64> {
        self.wanted.peek().map(|ordinal| **ordinal)
    }
}

/// Reads a block's frames up to the last record that is wanted. Frames that hold none of them are passed over where their heads say how many
/// records they have.
fn visit(
    entry: &BlockEntry,
    plain: &Bytes,
    format: SegmentFormat,
    bounds: WorkBounds,
    visitor: &mut dyn Seeks,
) -> Result<(), Fault> {
    let frames = split_block(entry, plain, format)?;
    if entry.is_undecoded {
        return Ok(());
    }
    for frame in frames {
        let Some(next) = visitor.next_wanted() else { return Ok(()) };
        let first = *visitor.ordinal();
        match frame.data_records() {
            Some(records) if first + records <= next => *visitor.ordinal() += records,
            _ => read(entry, &frame, bounds, visitor)?,
        }
    }
    if visitor.is_done() {
        return Ok(());
    }
    // All of it was read, so it can be told.
    let found = *visitor.ordinal() - entry.first_ordinal;
    check_count(entry, "records", entry.records, found)
}

fn read(entry: &BlockEntry, frame: &Frame, bounds: WorkBounds, visitor: &mut dyn Seeks) -> Result<(), Fault> {
    let visited = frame.visit(bounds.opened_bytes, bounds.window_bytes, visitor);
    visited.map_err(|error| fault_in_block(entry, &error))
}
