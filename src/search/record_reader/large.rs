//! Reads records that are too large for a page with other records: one at a time, and without its value if
//! the memory is too small for it.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Page, RecordReader};
use crate::archive::{Archive, MemoryAllowance, Omitted, Picked, StoredRecord, WorkBounds, block_usage};
use crate::budget::Permit;
use crate::bundle::BlockEntry;
use crate::search::memory::SearchPermit;
use crate::search::top_hits::{Copy, Found as Candidate};
use crate::search::{SearchError, block_of};

/// How often a record is in memory while it is read: in its frame, and on its own.
const COPIES: u64 = 2;

/// If a frame is read as a stream, the window of its codec may take one part in this many of the memory.
const WINDOW_PART: u64 = 8;

/// The memory that codecs use in addition, in bytes.
const SLACK_BYTES: u64 = 512 << 10;

impl RecordReader {
    /// Reads the first of the candidates that are left, as a page of its own.
    pub(super) async fn large_page(&mut self) -> Result<Page, SearchError> {
        let permit = self.context.memory.permit();
        let Some(mut candidate) = self.left.pop_front() else { return Ok(Page::empty(permit)) };
        if candidate.copies.len() > 1 {
            // Copies are read one after another. Their fingerprints show whether they are different records.
            let others = candidate.copies.split_off(1);
            candidate.overlaps = true;
            self.large.extend(others.iter().map(|copy| ((copy.bundle, copy.ordinal), None)));
            for copy in others.into_iter().rev() {
                self.left.push_front(Candidate { copies: vec![copy], ..candidate.clone() });
            }
        }
        let Some(copy) = candidate.copies.first() else { return Ok(Page::empty(permit)) };
        let mut archives = HashMap::new();
        self.open(copy, &mut archives).await?;
        let marks = self.context.transactions.marks(&self.context, &archives).await?;
        let place = (copy.bundle, copy.ordinal);
        let needed_bytes = self.large.remove(&place).flatten();
        let page = self.large(&archives[&copy.bundle], &candidate, copy, (needed_bytes, permit)).await?;
        let (record, permit, delivery) = page;
        let picked = HashMap::from([(place, Picked::Record(record))]);
        let records = self.answer(&[candidate], &archives, &marks, picked, 1)?;
        Ok(Page { records, _permit: permit, _delivery: delivery })
    }

    /// Reads one record. It takes the largest possible permit, unless it is known that half of that is
    /// enough.
    async fn large(
        &self,
        archive: &Archive,
        candidate: &Candidate,
        copy: &Copy,
        (needed_bytes, mut permit): (Option<u64>, SearchPermit),
    ) -> Result<(StoredRecord, SearchPermit, Option<Permit>), SearchError> {
        let (entry, memory) = (block_of(archive, copy.ordinal)?, &self.context.memory);
        let (there_are, block_bytes) = (memory.largest_permit(), block_usage(entry) + SLACK_BYTES);
        let Some(most) = there_are.checked_sub(block_bytes) else {
            return Ok((outline_of(candidate, entry), permit, None));
        };
        let beside = needed_bytes.map(|bytes| COPIES * bytes / (WINDOW_PART - 1) * WINDOW_PART + SLACK_BYTES);
        let beside = beside.filter(|beside| block_bytes + beside <= there_are / 2);
        // Taken before the permit: the holder of a permit must not wait for the readers of other answers.
        let mut delivery = memory.delivery(beside.unwrap_or(there_are)).await;
        let beside = beside.unwrap_or(most);
        permit.grow_to(block_bytes + beside, || {}).await?;
        let plain = archive.block(entry).await?;
        // A frame that decompresses to at most half of the memory is decoded in one piece. If the record is
        // most of it, the record keeps the frame's memory. From a larger frame, the record is copied.
        let window = beside / WINDOW_PART;
        let bounds = WorkBounds { opened_bytes: bytes(beside / COPIES), window_bytes: bytes(window) };
        let record_max = (beside - window) / COPIES;
        let allowance = Arc::new(MemoryAllowance::new(record_max));
        let ordinals = vec![copy.ordinal];
        let picked = archive.records(entry, plain, ordinals, bounds, bytes(record_max), allowance).await?;
        let record = match picked.into_iter().next() {
            Some((_, Picked::Record(record))) => record,
            _ => outline_of(candidate, entry),
        };
        permit.shrink_to(record.delivery_bytes());
        delivery.shrink_to(record.delivery_bytes());
        Ok((record, permit, Some(delivery)))
    }
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Returns what is known of a record if its block or frame cannot be read: what the index has, and the size
/// of the block.
fn outline_of(candidate: &Candidate, entry: &BlockEntry) -> StoredRecord {
    let bytes = u64::from(entry.plain_len);
    let omitted = Omitted { bytes, needed_bytes: bytes, fingerprint: Omitted::UNREAD };
    StoredRecord {
        timestamp_ms: candidate.timestamp_ms,
        omitted: Some(omitted),
        ..StoredRecord::empty(candidate.offset)
    }
}
