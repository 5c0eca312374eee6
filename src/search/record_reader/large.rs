//! Records that are too large to be read beside others: one at a time, and without its value where the memory does not hold it.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Page, RecordReader};
use crate::archive::{Archive, Omitted, Picked, Purse, StoredRecord, WorkBounds, block_usage};
use crate::budget::Turn;
use crate::bundle::BlockEntry;
use crate::search::memory::Permits;
use crate::search::top_hits::{Copy, Found as Candidate};
use crate::search::{SearchError, block_of};

/// A record is there twice while it is read: in its frame, and by itself.
const COPIES: u64 = 2;

/// What part of the memory a codec's window may take where a frame is read as a stream.
const WINDOW_PART: u64 = 8;

/// What codecs hold beside.
const SLACK_BYTES: u64 = 512 << 10;

impl RecordReader {
    /// The first of the candidates that are left, by itself.
    pub(super) async fn large_page(&mut self) -> Result<Page, SearchError> {
        let permits = self.context.memory.permits();
        let Some(mut candidate) = self.left.pop_front() else { return Ok(Page::empty(permits)) };
        if candidate.copies.len() > 1 {
            // Copies are read one after another, and then told from one another by their fingerprints.
            let others = candidate.copies.split_off(1);
            candidate.overlaps = true;
            self.large.extend(others.iter().map(|copy| ((copy.bundle, copy.ordinal), None)));
            for copy in others.into_iter().rev() {
                self.left.push_front(Candidate { copies: vec![copy], ..candidate.clone() });
            }
        }
        let Some(copy) = candidate.copies.first() else { return Ok(Page::empty(permits)) };
        let mut archives = HashMap::new();
        self.open(copy, &mut archives).await?;
        let marks = self.context.transactions.marks(&self.context, &archives).await?;
        let place = (copy.bundle, copy.ordinal);
        let needed_bytes = self.large.remove(&place).flatten();
        let page = self.large(&archives[&copy.bundle], &candidate, copy, (needed_bytes, permits)).await?;
        let (record, permits, delivery) = page;
        let picked = HashMap::from([(place, Picked::Record(record))]);
        let records = self.answer(&[candidate], &archives, &marks, picked, 1)?;
        Ok(Page { records, _permits: permits, _delivery: delivery })
    }

    /// Reads one record. Where it is not known how much that takes, or it is more than half of the memory for a while, all of that is taken.
    async fn large(
        &self,
        archive: &Archive,
        candidate: &Candidate,
        copy: &Copy,
        (needed_bytes, mut permits): (Option<u64>, Permits),
    ) -> Result<(StoredRecord, Permits, Option<Turn>), SearchError> {
        let (entry, memory) = (block_of(archive, copy.ordinal)?, &self.context.memory);
        let (there_are, block_bytes) = (memory.turns_bytes(), block_usage(entry) + SLACK_BYTES);
        let Some(most) = there_are.checked_sub(block_bytes) else {
            return Ok((outline_of(candidate, entry), permits, None));
        };
        let beside = needed_bytes.map(|bytes| COPIES * bytes / (WINDOW_PART - 1) * WINDOW_PART + SLACK_BYTES);
        let beside = beside.filter(|beside| block_bytes + beside <= there_are / 2);
        // Before the memory: whoever holds that must not wait for others' readers.
        let mut delivery = memory.delivery(beside.unwrap_or(there_are)).await;
        let beside = beside.unwrap_or(most);
        permits.grow_to(block_bytes + beside, || {}).await?;
        let plain = archive.block(entry).await?;
        // A frame that opens to half of it is decoded at once, and kept for the record that is most of it. Of a larger one the record is copied.
        let window = beside / WINDOW_PART;
        let bounds = WorkBounds { opened_bytes: bytes(beside / COPIES), window_bytes: bytes(window) };
        let record_max = (beside - window) / COPIES;
        let purse = Arc::new(Purse::new(record_max));
        let ordinals = vec![copy.ordinal];
        let picked = archive.records(entry, plain, ordinals, bounds, bytes(record_max), purse).await?;
        let record = match picked.into_iter().next() {
            Some((_, Picked::Record(record))) => record,
            _ => outline_of(candidate, entry),
        };
        permits.shrink_to(record.delivery_bytes());
        delivery.shrink_to(record.delivery_bytes());
        Ok((record, permits, Some(delivery)))
    }
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What is known of a record whose block, or whose frame, cannot be read: what the index says, and how large its block is.
fn outline_of(candidate: &Candidate, entry: &BlockEntry) -> StoredRecord {
    let bytes = u64::from(entry.plain_len);
    let omitted = Omitted { bytes, needed_bytes: bytes, fingerprint: Omitted::UNREAD };
    StoredRecord {
        timestamp_ms: candidate.timestamp_ms,
        omitted: Some(omitted),
        ..StoredRecord::empty(candidate.offset)
    }
}
