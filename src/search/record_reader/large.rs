//! Records that are too large to be read beside others: one at a time, and without its value where the memory does not hold it.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Page, RecordReader};
use crate::archive::{Archive, Omitted, Picked, Purse, StoredRecord, WorkBounds, block_usage};
use crate::bundle::BlockEntry;
use crate::search::memory::Permits;
use crate::search::top_hits::{Copy, Found as Candidate};
use crate::search::{SearchError, block_of};

/// Records are there twice: beside the frame that they are read from, and where they are answered, their headers beside the message or the rest of
/// the frame beside the record.
const COPIES: u64 = 2;

/// What part of the memory a codec's window may take where a frame is read as a stream.
const WINDOW_PART: u64 = 8;

/// What codecs hold beside.
const SLACK_BYTES: u64 = 512 << 10;

impl RecordReader {
    /// The first of the candidates that are left, by itself.
    pub(super) async fn large_page(&mut self) -> Result<Page, SearchError> {
        let mut permits = self.context.memory.permits();
        let Some(mut candidate) = self.left.pop_front() else {
            return Ok(Page { records: Vec::new(), _share: permits });
        };
        if candidate.copies.len() > 1 {
            // Copies are read one after another, and then told from one another by their fingerprints.
            let others = candidate.copies.split_off(1);
            candidate.overlaps = true;
            self.large.extend(others.iter().map(|copy| ((copy.bundle, copy.ordinal), None)));
            for copy in others.into_iter().rev() {
                self.left.push_front(Candidate { copies: vec![copy], ..candidate.clone() });
            }
        }
        let mut archives = HashMap::new();
        for copy in &candidate.copies {
            self.open(copy, &mut archives).await?;
        }
        let marks = self.context.transactions.marks(&self.context, &archives).await?;
        let mut picked = HashMap::new();
        for copy in &candidate.copies {
            self.large.remove(&(copy.bundle, copy.ordinal));
            let record = self.large(&archives[&copy.bundle], &candidate, copy, &mut permits).await?;
            picked.insert((copy.bundle, copy.ordinal), Picked::Record(record));
        }
        let records = self.answer(&[candidate], &archives, &marks, picked, 1)?;
        Ok(Page { records, _share: permits })
    }

    /// Takes all memory that there is for a while, until the record is read.
    async fn large(
        &self,
        archive: &Archive,
        candidate: &Candidate,
        copy: &Copy,
        permits: &mut Permits,
    ) -> Result<StoredRecord, SearchError> {
        let entry = block_of(archive, copy.ordinal)?;
        let there_are = self.context.memory.turns_bytes();
        let Some(beside) = there_are.checked_sub(block_usage(entry) + SLACK_BYTES) else {
            return Ok(outline_of(candidate, entry));
        };
        permits.grow_to(there_are, || {}).await?;
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
        permits.shrink_to(COPIES * record.mem_usage() as u64);
        Ok(record)
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
