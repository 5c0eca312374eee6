//! Records that are too large to be read beside others: one at a time, and without its value where the memory does not hold it.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Piece, Taking};
use crate::archive::{Archive, Omitted, Picked, Purse, StoredRecord, WorkBounds, block_usage};
use crate::bundle::BlockEntry;
use crate::search::best::{Copy, Found as Candidate};
use crate::search::room::Share;
use crate::search::{SearchError, block_of};

/// Records are there twice: beside the frame that they are read from, and where they are answered, their headers beside the message or the rest of
/// the frame beside the record.
const COPIES: u64 = 2;

/// What part of the memory a codec's window may take where a frame is read as a stream.
const WINDOW_PART: u64 = 8;

/// What codecs hold beside.
const SLACK_BYTES: u64 = 512 << 10;

impl Taking {
    /// The first of the candidates that are left, by itself.
    pub(super) async fn large_piece(&mut self) -> Result<Piece, SearchError> {
        let mut share = self.hunt.room.share();
        let Some(mut candidate) = self.left.pop_front() else {
            return Ok(Piece { records: Vec::new(), _share: share });
        };
        if candidate.copies.len() > 1 {
            // Copies are read one after another, and then told from one another by their fingerprints.
            let others = candidate.copies.split_off(1);
            candidate.repeats = true;
            self.large.extend(others.iter().map(|copy| ((copy.bundle, copy.ordinal), None)));
            for copy in others.into_iter().rev() {
                self.left.push_front(Candidate { copies: vec![copy], ..candidate.clone() });
            }
        }
        let mut archives = HashMap::new();
        for copy in &candidate.copies {
            self.open(copy, &mut archives).await?;
        }
        let marks = self.hunt.transactions.marks(&self.hunt, &archives).await?;
        let mut picked = HashMap::new();
        for copy in &candidate.copies {
            self.large.remove(&(copy.bundle, copy.ordinal));
            let record = self.large(&archives[&copy.bundle], &candidate, copy, &mut share).await?;
            picked.insert((copy.bundle, copy.ordinal), Picked::Record(record));
        }
        let records = self.answer(&[candidate], &archives, &marks, picked, 1)?;
        Ok(Piece { records, _share: share })
    }

    /// Takes all memory that there is for a while, until the record is read.
    async fn large(
        &self,
        archive: &Archive,
        candidate: &Candidate,
        copy: &Copy,
        share: &mut Share,
    ) -> Result<StoredRecord, SearchError> {
        let entry = block_of(archive, copy.ordinal)?;
        let there_are = self.hunt.room.turns_bytes();
        let Some(beside) = there_are.checked_sub(block_usage(entry) + SLACK_BYTES) else {
            return Ok(outline_of(candidate, entry));
        };
        share.grow_to(there_are, || {}).await?;
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
        share.shrink_to(COPIES * record.mem_usage() as u64);
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
