//! Picks records from a decompressed block, within memory limits.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::error::Fault;
use super::records::{check_count, fault_in_block, split_block};
use crate::bundle::BlockEntry;
use crate::ids::SegmentFormat;
use crate::record::StoredRecord;
use crate::segment::{Frame, Visitor};

/// Memory limits for reading a block, in bytes. The memory for the picked records is not part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkBounds {
    /// A frame whose records decompress to at most this many bytes is decoded in one piece.
    pub opened_bytes: usize,
    /// The most decompressed data that a codec may hold while a frame is read as a stream.
    pub window_bytes: usize,
}

impl WorkBounds {
    /// Divides `bytes` among the limits.
    pub fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // A buffer that is doubled exists twice for a moment: the old half and the new whole. The stream's
        // own buffers take the rest.
        Self { opened_bytes: bytes / 2, window_bytes: bytes / 4 * 3 }
    }
}

/// Returns the memory for reading a block, in bytes: the compressed block, the decompressed block, and its
/// frames.
pub fn block_usage(entry: &BlockEntry) -> u64 {
    2 * u64::from(entry.plain_len) + u64::from(entry.compressed_len)
}

/// The memory budget that is left for the records that are read, in bytes. Concurrent reads share it.
#[derive(Debug)]
pub struct MemoryAllowance(AtomicUsize);

impl MemoryAllowance {
    /// Makes a budget of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        Self(AtomicUsize::new(usize::try_from(bytes).unwrap_or(usize::MAX)))
    }

    /// Takes up to `most` bytes from the budget. Returns how many it took.
    fn take(&self, most: usize) -> usize {
        let mut taken = 0;
        // This cannot fail: the closure always returns a value.
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

/// The outcome for one wanted record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picked {
    /// The record. Its value is missing if the record needs more than the limit for one record.
    Record(StoredRecord),
    /// The budget had too few bytes left for the record. The number is how many bytes it needs.
    TooLarge(u64),
    /// The frame of the record needs more memory than the limits allow.
    FrameTooLarge,
}

/// Picks the records with the wanted ordinals.
struct Picker<'a> {
    /// The ordinal of the next record.
    ordinal: u64,
    wanted: std::iter::Peekable<std::slice::Iter<'a, u64>>,
    record_bytes_max: usize,
    allowance: &'a MemoryAllowance,
    shares: bool,
    /// The bytes taken from the budget for the next record.
    taken: usize,
    picked: Vec<(u64, Picked)>,
}

impl Visitor for Picker<'_> {
    fn limit(&mut self, _: i64, _: Option<i64>) -> Option<usize> {
        let ordinal = self.ordinal;
        self.ordinal += 1;
        self.wanted.next_if_eq(&&ordinal)?;
        self.taken = self.allowance.take(self.record_bytes_max);
        Some(self.taken)
    }

    fn record(&mut self, record: StoredRecord) {
        let used = record.mem_usage().min(self.taken);
        self.allowance.put_back(self.taken - used);
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

/// Returns the records with these ordinals, which must ascend, from their decompressed block. Ordinals that
/// are not in the block are left out. A record that takes more than `record_bytes_max` bytes in memory comes
/// without its value. If only one record is wanted, and `record_bytes_max` limits its size, it may keep the
/// memory of its frame.
pub(super) fn pick(
    entry: &BlockEntry,
    plain: &Bytes,
    format: SegmentFormat,
    ordinals: &[u64],
    bounds: WorkBounds,
    record_bytes_max: usize,
    allowance: &MemoryAllowance,
) -> Result<Vec<(u64, Picked)>, Fault> {
    let mut picker = Picker {
        ordinal: entry.first_ordinal,
        wanted: ordinals.iter().peekable(),
        record_bytes_max,
        allowance,
        shares: ordinals.len() == 1 && record_bytes_max < usize::MAX,
        taken: 0,
        picked: Vec::with_capacity(ordinals.len()),
    };
    match visit(entry, plain, format, bounds, &mut picker) {
        Err(fault) if fault.is_too_large() => {
            let rest = picker.wanted.by_ref().map(|ordinal| (*ordinal, Picked::FrameTooLarge));
            picker.picked.extend(rest);
        }
        visited => visited?,
    }
    Ok(picker.picked)
}

/// Returns ordinals, offsets and times of the records with these ordinals, as [`pick`] does for records.
pub(super) fn offsets_and_times(
    entry: &BlockEntry,
    plain: &Bytes,
    format: SegmentFormat,
    ordinals: &[u64],
    bounds: WorkBounds,
) -> Result<Vec<(u64, i64, Option<i64>)>, Fault> {
    struct OffsetsAndTimes<'a> {
        ordinal: u64,
        wanted: std::iter::Peekable<std::slice::Iter<'a, u64>>,
        found: Vec<(u64, i64, Option<i64>)>,
    }
    impl Visitor for OffsetsAndTimes<'_> {
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
    impl Seeks for OffsetsAndTimes<'_> {
        fn ordinal(&mut self) -> &mut u64 {
            &mut self.ordinal
        }

        fn next_wanted(&mut self) -> Option<u64> {
            self.wanted.peek().map(|ordinal| **ordinal)
        }
    }
    let wanted = ordinals.iter().peekable();
    let mut offsets_and_times =
        OffsetsAndTimes { ordinal: entry.first_ordinal, wanted, found: Vec::with_capacity(ordinals.len()) };
    visit(entry, plain, format, bounds, &mut offsets_and_times)?;
    Ok(offsets_and_times.found)
}

/// A visitor that looks for records by their ordinals.
trait Seeks: Visitor {
    /// The ordinal of the next record.
    fn ordinal(&mut self) -> &mut u64;

    /// The ordinal of the next record that is wanted.
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

/// Reads a block's frames up to the last wanted record. It skips frames without wanted records if the head of
/// the frame states the number of its records.
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
    // The whole block was read, so the number of its records is known.
    let found = *visitor.ordinal() - entry.first_ordinal;
    check_count(entry, "records", entry.records, found)
}

fn read(entry: &BlockEntry, frame: &Frame, bounds: WorkBounds, visitor: &mut dyn Seeks) -> Result<(), Fault> {
    let visited = frame.visit(bounds.opened_bytes, bounds.window_bytes, visitor);
    visited.map_err(|error| fault_in_block(entry, &error))
}
