//! Items that are too large for the reorder buffer. Each is read and returned separately. A record is
//! returned without its value if the memory limit does not allow it.

use std::sync::Arc;

use super::memory::Memory;
use super::reorder_buffer::Version;
use super::{FetchError, Item};
use crate::archive::{
    Archive, ArchiveError, Fault, Omitted, StoredRecord, block_usage, fault_in_block, split_block,
};
use crate::budget::Delivery;
use crate::bundle::BlockEntry;

use crate::segment::{self, KafkaBatch, Visitor};

/// While an item is read it is in memory twice: in its frame, and as a copy.
const COPIES: u64 = 2;

/// What an opened frame needs in addition to the parts of the record.
const OPENED_BESIDE_BYTES: usize = 16 << 10;

/// The place of an item that is not in the reorder buffer itself.
#[derive(Clone, Debug)]
pub(super) struct ItemLocation {
    pub archive: Arc<Archive>,
    pub entry: BlockEntry,
    /// The memory that the item needs, in bytes.
    pub bytes: u64,
    /// The checksum of a batch, to distinguish it from others of the same size.
    pub crc32c: u32,
}

impl ItemLocation {
    /// The size of an item that could not be read yet.
    pub const UNKNOWN: u64 = 1 << 40;
}

impl PartialEq for ItemLocation {
    /// Compares the items, not their places.
    fn eq(&self, other: &Self) -> bool {
        (self.bytes, self.crc32c) == (other.bytes, other.crc32c)
    }
}

impl Eq for ItemLocation {}

/// Finds one record of a frame.
struct RecordFinder {
    wanted: StoredRecord,
    bytes_max: usize,
    found: Option<StoredRecord>,
}

impl Visitor for RecordFinder {
    fn limit(&mut self, offset: i64, timestamp_ms: Option<i64>) -> Option<usize> {
        let time = self.wanted.timestamp_ms;
        let is_it = offset == self.wanted.offset && (time.is_none() || time == timestamp_ms);
        (is_it && self.found.is_none()).then_some(self.bytes_max)
    }

    fn record(&mut self, record: StoredRecord) {
        let (is, wanted) = (record.fingerprint(), self.wanted.fingerprint());
        self.found = Some(record).filter(|_| is == wanted || wanted == Omitted::UNREAD);
    }

    fn shares(&self) -> bool {
        true
    }

    fn is_done(&self) -> bool {
        self.found.is_some()
    }
}

/// Reads the item that the large `version` stands for.
pub(super) async fn resolve(
    version: Version,
    memory: &Memory,
) -> Result<(Item, Option<Delivery>), FetchError> {
    let Version { item, bundle, location } = version;
    let Some(ItemLocation { archive, entry, bytes, crc32c }) = location else {
        return Ok((item, None));
    };
    // If the size is unknown, the limit is as much as the memory allows.
    let most = memory.most().saturating_sub(block_usage(&entry) + memory.work_bytes()) / COPIES;
    let bytes = if bytes == ItemLocation::UNKNOWN { most } else { bytes };
    let needed = block_usage(&entry) + memory.work_bytes() + COPIES * bytes;
    match item {
        Item::Record(outline) if bytes == 0 || !memory.holds(needed) => Ok((Item::Record(outline), None)),
        Item::Record(outline) => {
            let mut delivery = memory.delivery(needed).await?;
            let whole = record(&archive, &entry, outline.clone(), bytes, memory).await?;
            let whole = whole.unwrap_or(outline);
            let kept = whole.delivery_bytes();
            delivery.iter_mut().for_each(|delivery| delivery.shrink_to(kept));
            Ok((Item::Record(whole), delivery))
        }
        Item::Batch(batch) if !memory.holds(needed) => {
            let (bundle, offset) = (bundle.to_string(), batch.range.first());
            Err(FetchError::TooLarge { bundle, offset, needed_bytes: needed })
        }
        Item::Batch(batch) => {
            let mut delivery = memory.delivery(needed).await?;
            let whole = self::batch(&archive, &entry, &batch, (bytes, crc32c), memory).await?;
            delivery.iter_mut().for_each(|delivery| delivery.shrink_to(bytes));
            Ok((Item::Batch(whole), delivery))
        }
    }
}

async fn record(
    archive: &Archive,
    entry: &BlockEntry,
    wanted: StoredRecord,
    bytes: u64,
    memory: &Memory,
) -> Result<Option<StoredRecord>, ArchiveError> {
    let (plain, format) = (archive.block(entry).await?, archive.manifest().segment.format);
    let bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
    let (entry, window_bytes) = (entry.clone(), memory.work_bounds().window_bytes);
    let read = archive.blocking(move || {
        let mut finder = RecordFinder { wanted, bytes_max, found: None };
        for frame in split_block(&entry, &plain, format)? {
            if finder.found.is_some() {
                break;
            }
            let opened_bytes = bytes_max.saturating_add(OPENED_BESIDE_BYTES);
            match frame.visit(opened_bytes, window_bytes, &mut finder) {
                Err(error) if matches!(error.fault(), segment::Fault::TooLarge { .. }) => {}
                visited => visited.map_err(|error| fault_in_block(&entry, &error))?,
            }
        }
        Ok::<_, Fault>(finder.found)
    });
    read.await?.map_err(|fault| archive.error(fault))
}

async fn batch(
    archive: &Archive,
    entry: &BlockEntry,
    wanted: &KafkaBatch,
    (bytes, crc32c): (u64, u32),
    memory: &Memory,
) -> Result<KafkaBatch, ArchiveError> {
    let (plain, format) = (archive.block(entry).await?, archive.manifest().segment.format);
    let offset = wanted.range.first();
    let (owned, wanted, bounds) = (entry.clone(), wanted.clone(), memory.work_bounds());
    let read = archive.blocking(move || {
        for frame in split_block(&owned, &plain, format)? {
            let found = super::block::batch_of(&owned, &frame, bounds)?;
            let found = found
                .filter(|found| found.bytes.len() as u64 == bytes && crc32c::crc32c(&found.bytes) == crc32c);
            if let Some(found) = found {
                // A copy, so that the rest of the block can be freed.
                return Ok(Some(KafkaBatch { bytes: bytes::Bytes::copy_from_slice(&found.bytes), ..wanted }));
            }
        }
        Ok::<_, Fault>(None)
    });
    let found = read.await?.map_err(|fault| archive.error(fault))?;
    let (source_position, offset) = (entry.source_position, offset);
    found.ok_or_else(|| archive.error(Fault::BatchGone { source_position, offset }))
}
