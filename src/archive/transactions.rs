//! The transaction facts of a bundle. They are in its manifest; for a bundle of an earlier release they come
//! from its frames.

use std::sync::Arc;

use bytes::Bytes;

use super::cached_parts::Part;
use super::error::{ArchiveError, Fault};
use super::read::Archive;
use super::records::{FRAME_BYTES_MAX, fault_in_block, split_block};
use crate::bundle::{BlockEntry, OpenTransaction, TransactionEnd, TransactionFacts};
use crate::ids::SegmentFormat;
use crate::segment::{Outcome, Transactions};

/// Converts what was found in frames to the form of a manifest. `None` if no frame has to do with
/// transactions.
pub fn transaction_facts(found: &Transactions) -> Option<Arc<TransactionFacts>> {
    let open = found.open().map(|(producer_id, offsets)| OpenTransaction { producer_id, offsets });
    let ends = found.first_ends().map(|(producer_id, offset, outcome)| TransactionEnd {
        producer_id,
        offset,
        aborted: outcome == Outcome::Aborted,
    });
    let facts = || TransactionFacts { aborted: found.aborted(), open: open.collect(), ends: ends.collect() };
    (!found.is_empty()).then(|| Arc::new(facts()))
}

impl Archive {
    /// Returns whether any of the records may belong to a transaction.
    ///
    /// A manifest of an earlier release has the number of control records, but not what they end. If that
    /// number is 0, such a bundle cannot be distinguished from one without transactions.
    pub fn may_have_transactions(&self) -> bool {
        self.manifest().transactions.is_some() || self.has_unread_transactions()
    }

    fn has_unread_transactions(&self) -> bool {
        self.manifest().transactions.is_none() && self.manifest().control_record_count > 0
    }

    /// Returns the memory that [`Archive::transactions`] needs for a while, in bytes: one block, if it must
    /// read frames.
    pub fn transactions_usage(&self) -> u64 {
        if !self.has_unread_transactions() {
            return 0;
        }
        let usage = |entry: &BlockEntry| 2 * u64::from(entry.plain_len) + u64::from(entry.compressed_len);
        self.blocks().entries().iter().map(usage).max().unwrap_or(0)
    }

    /// Returns the transactions of the bundle's records; `None` if there are none. It reads something only if
    /// an earlier release wrote the bundle and the bundle has control records: then it reads all blocks, one
    /// after the other.
    pub async fn transactions(&self) -> Result<Option<Arc<TransactionFacts>>, ArchiveError> {
        if !self.has_unread_transactions() {
            return Ok(self.manifest().transactions.clone());
        }
        let found = match self.cached() {
            Some(cached) => cached.part(Part::Transactions, Box::pin(self.look_at_frames())).await?,
            None => Box::pin(self.look_at_frames()).await?,
        };
        // This module wrote the bytes, so they can be parsed.
        let found: Option<TransactionFacts> =
            serde_json::from_slice(&found).map_err(|_| self.error(Fault::Panicked))?;
        Ok(found.map(Arc::new))
    }

    /// Returns the transaction facts of the frames, as JSON.
    async fn look_at_frames(&self) -> Result<Bytes, ArchiveError> {
        let (mut found, format) = (Transactions::default(), self.manifest().segment.format);
        for entry in self.blocks().entries() {
            let (plain, entry) = (self.block(entry).await?, entry.clone());
            let looked = self.blocking(move || look_at_block(&entry, &plain, format, found)).await?;
            found = looked.map_err(|fault| self.error(fault))?;
        }
        let facts = transaction_facts(&found);
        Ok(serde_json::to_vec(&facts.as_deref()).map_err(|_| self.error(Fault::Panicked))?.into())
    }
}

fn look_at_block(
    entry: &BlockEntry,
    plain: &Bytes,
    format: SegmentFormat,
    mut found: Transactions,
) -> Result<Transactions, Fault> {
    for frame in split_block(entry, plain, format)? {
        let part = match entry.is_undecoded {
            true => frame.transaction_of_head(),
            false => frame.transaction(FRAME_BYTES_MAX).map_err(|error| fault_in_block(entry, &error))?,
        };
        found.add(part, frame.head_range());
    }
    Ok(found)
}
