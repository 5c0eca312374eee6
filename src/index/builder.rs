//! Records → one part of an index: a few Tantivy segments, in order.

use super::catalog::{FieldCatalog, Unsearchable};
use super::document::Draft;
use super::schema::{self, Fields};
use super::segment::{PartSegment, SegmentBuilder};
use super::settings::TopicSettings;
use super::{Doing, IndexError};
use crate::record::RecordBatch;

/// From how many bytes on a Tantivy segment is finished and the next one begun. Addresses in it end at 4 GiB, and no record adds
/// a gigabyte.
const SEGMENT_BYTES_MAX: usize = 1 << 30;

/// Builds one part of an index from record batches: each record becomes exactly one document, in order.
///
/// Equal batches in equal order give equal bytes, on any machine.
pub struct IndexBuilder {
    settings: TopicSettings,
    fields: Fields,
    draft: Draft,
    words_too_long: u64,
    segment: Option<SegmentBuilder>,
    segments: Vec<PartSegment>,
    documents: u64,
    segment_bytes_max: usize,
}

/// A finished part: what [`assemble`](super::assemble) makes an index of.
#[derive(Clone, Debug)]
pub struct IndexPart {
    pub(super) settings: TopicSettings,
    pub(super) segments: Vec<PartSegment>,
    pub(super) fields: FieldCatalog,
    pub(super) unsearchable: Unsearchable,
}

impl IndexBuilder {
    /// An empty part; it takes no memory to speak of before the first record.
    pub fn new(settings: TopicSettings) -> Result<Self, IndexError> {
        Self::with_segment_bytes_max(settings, SEGMENT_BYTES_MAX)
    }

    pub(super) fn with_segment_bytes_max(
        settings: TopicSettings,
        segment_bytes_max: usize,
    ) -> Result<Self, IndexError> {
        let (_, fields) = schema::build(settings.positions);
        Ok(Self {
            settings,
            fields,
            draft: Draft::new(settings.value),
            words_too_long: 0,
            segment: None,
            segments: Vec::new(),
            documents: 0,
            segment_bytes_max,
        })
    }

    /// Adds a batch's records, one document each.
    ///
    /// An error is Tantivy's and final: the builder is of no use after it.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), IndexError> {
        self.add_from(batch, 0, usize::MAX).map(drop)
    }

    /// Adds the records of a batch from the one numbered `first` on, until they are more than `bytes_max` bytes together. Returns the number of
    /// the next one.
    ///
    /// An error is as that of [`IndexBuilder::add`].
    pub fn add_from(
        &mut self,
        batch: &RecordBatch,
        first: usize,
        bytes_max: usize,
    ) -> Result<usize, IndexError> {
        let mut bytes = 0;
        for (nth, record) in batch.iter().enumerate().skip(first) {
            if self.segment.as_ref().is_some_and(|segment| segment.bytes() > self.segment_bytes_max) {
                self.finish_segment()?;
            }
            let segment = match &mut self.segment {
                Some(segment) => segment,
                none => none.insert(SegmentBuilder::new(&self.fields, self.settings.positions)),
            };
            self.draft.fill(&record);
            segment.add(&self.draft);
            self.documents += 1;
            bytes += record.value().map_or(0, <[u8]>::len);
            if bytes > bytes_max {
                return Ok(nth + 1);
            }
        }
        Ok(batch.records.len())
    }

    /// How many records were added.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Bytes in memory: the segment in the making, finished ones and what is kept of the records.
    pub fn mem_usage(&self) -> usize {
        let segments: usize = self.segments.iter().map(PartSegment::mem_usage).sum();
        segments + self.draft.mem_usage() + self.segment.as_ref().map_or(0, SegmentBuilder::mem_usage)
    }

    /// What [`IndexBuilder::finish`] takes beside that, at most, in bytes: all of it, the files among it, until it returns.
    pub fn finish_usage(&self) -> usize {
        self.segment.as_ref().map_or(0, SegmentBuilder::finish_usage)
    }

    /// Ends the part.
    pub fn finish(mut self) -> Result<IndexPart, IndexError> {
        self.finish_segment()?;
        let mut unsearchable = self.draft.unsearchable();
        unsearchable.words_too_long = self.words_too_long;
        Ok(IndexPart {
            settings: self.settings,
            segments: self.segments,
            fields: self.draft.catalog(),
            unsearchable,
        })
    }

    fn finish_segment(&mut self) -> Result<(), IndexError> {
        if let Some(segment) = self.segment.take() {
            self.words_too_long += segment.words_too_long();
            let finished = segment.finish();
            self.segments.push(finished.map_err(|source| IndexError::tantivy(Doing::Finishing, source))?);
        }
        Ok(())
    }
}

impl std::fmt::Debug for IndexBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexBuilder")
            .field("settings", &self.settings)
            .field("fields", &self.fields)
            .field("documents", &self.documents)
            .finish_non_exhaustive()
    }
}

impl IndexPart {
    /// How many records it holds.
    pub fn documents(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.documents)).sum()
    }

    /// What was found in its records.
    pub fn fields(&self) -> &FieldCatalog {
        &self.fields
    }

    /// What of its records cannot be searched.
    pub fn unsearchable(&self) -> &Unsearchable {
        &self.unsearchable
    }

    /// Bytes in memory: its files, and what was found in the records.
    pub fn mem_usage(&self) -> usize {
        self.segments.iter().map(PartSegment::mem_usage).sum::<usize>() + self.fields.mem_usage()
    }
}

#[cfg(test)]
mod tests;
