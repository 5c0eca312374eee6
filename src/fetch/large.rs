//! What is too large for the window: answered by itself, and a record without its value where the memory does not hold it.

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

/// What is answered is there twice while it is read: in its frame, and by itself.
const COPIES: u64 = 2;

/// What a frame opens to beside the parts of the record that it holds.
const OPENED_BESIDE_BYTES: usize = 16 << 10;

/// Where something is that a version stands for.
#[derive(Clone, Debug)]
pub(super) struct Large {
    pub archive: Arc<Archive>,
    pub entry: BlockEntry,
    /// What it takes in memory, in bytes.
    pub bytes: u64,
    /// What a batch is told from others by.
    pub crc32c: u32,
}

impl Large {
    /// The size of what could not be read yet.
    pub const UNKNOWN: u64 = 1 << 40;
}

impl PartialEq for Large {
    /// Wherever it lies.
    fn eq(&self, other: &Self) -> bool {
        (self.bytes, self.crc32c) == (other.bytes, other.crc32c)
    }
}

impl Eq for Large {}

/// Takes one record of a frame.
struct One {
    wanted: StoredRecord,
    bytes_max: usize,
    found: Option<StoredRecord>,
}

impl Visitor for One {
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

/// What `version`, which is large, stands for.
pub(super) async fn resolve(
    version: Version,
    memory: &Memory,
) -> Result<(Item, Option<Delivery>), FetchError> {
    let Version { item, bundle, large } = version;
    let Some(Large { archive, entry, bytes, crc32c }) = large else {
        return Ok((item, None));
    };
    // Of what could not be read before, as much is tried as the memory holds.
    let most = memory.most().saturating_sub(block_usage(&entry) + memory.work_bytes()) / COPIES;
    let bytes = if bytes == Large::UNKNOWN { most } else { bytes };
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
        let mut one = One { wanted, bytes_max, found: None };
        for frame in split_block(&entry, &plain, format)? {
            if one.found.is_some() {
                break;
            }
            let opened_bytes = bytes_max.saturating_add(OPENED_BESIDE_BYTES);
            match frame.visit(opened_bytes, window_bytes, &mut one) {
                Err(error) if matches!(error.fault(), segment::Fault::TooLarge { .. }) => {}
                visited => visited.map_err(|error| fault_in_block(&entry, &error))?,
            }
        }
        Ok::<_, Fault>(one.found)
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
    let (owned, wanted, bounds) = (entry.clone(), wanted.clone(), memory.work_bounds());
    let read = archive.blocking(move || {
        for frame in split_block(&owned, &plain, format)? {
            let found = super::block::batch_of(&owned, &frame, bounds)?;
            let found = found
                .filter(|found| found.bytes.len() as u64 == bytes && crc32c::crc32c(&found.bytes) == crc32c);
            if let Some(found) = found {
                // A copy, with nothing else of its block.
                return Ok(Some(KafkaBatch { bytes: bytes::Bytes::copy_from_slice(&found.bytes), ..wanted }));
            }
        }
        Ok::<_, Fault>(None)
    });
    let found = read.await?.map_err(|fault| archive.error(fault))?;
    found.ok_or_else(|| archive.error(Fault::Unusable { what: "batch that was there before" }))
}
