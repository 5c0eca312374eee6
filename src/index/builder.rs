//! Builds one part of an index from records: a few Tantivy segments, in order.

use bytes::Bytes;

use super::catalog::{FieldCatalog, Unsearchable};
use super::document::IndexedRecord;
use super::schema::{self, Fields};
use super::segment::{PartSegment, SegmentBuilder};
use super::settings::TopicSettings;
use super::{Doing, IndexError};
use crate::record::RecordBatch;

/// A Tantivy segment above this size in bytes is finished, and the next one begins. Addresses in a segment
/// end at 4 GiB, and no record adds a gigabyte.
const SEGMENT_BYTES_MAX: usize = 1 << 30;

/// Builds one part of an index from record batches: each record becomes exactly one document, in order.
///
/// Equal batches in equal order give equal bytes, on any machine.
pub struct IndexBuilder {
    settings: TopicSettings,
    fields: Fields,
    indexed: IndexedRecord,
    words_too_long: u64,
    segment: Option<SegmentBuilder>,
    segments: Vec<PartSegment>,
    documents: u64,
    segment_bytes_max: usize,
}

/// A finished part. `assemble` makes an index of parts.
#[derive(Clone, Debug)]
pub struct IndexPart {
    pub(super) settings: TopicSettings,
    pub(super) segments: Vec<PartSegment>,
    pub(super) fields: FieldCatalog,
    pub(super) unsearchable: Unsearchable,
}

impl IndexBuilder {
    /// Creates an empty part. It takes almost no memory before the first record.
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
            indexed: IndexedRecord::new(settings.value),
            words_too_long: 0,
            segment: None,
            segments: Vec::new(),
            documents: 0,
            segment_bytes_max,
        })
    }

    /// Adds the records of a batch, one document each.
    ///
    /// An error comes from Tantivy and is final: the builder cannot be used after it.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), IndexError> {
        self.add_from(batch, 0, usize::MAX).map(drop)
    }

    /// Adds the records of a batch from number `first` on, until their values have more than `bytes_max`
    /// bytes together. Returns the number of the next record.
    ///
    /// Errors are those of [`IndexBuilder::add`].
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
            self.indexed.fill(&record);
            segment.add(&self.indexed);
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

    /// Returns the memory in use, in bytes: the unfinished segment, the finished ones, and what is kept of
    /// the records.
    pub fn mem_usage(&self) -> usize {
        let segments: usize = self.segments.iter().map(PartSegment::mem_usage).sum();
        segments + self.indexed.mem_usage() + self.segment.as_ref().map_or(0, SegmentBuilder::mem_usage)
    }

    /// Returns the memory in bytes that [`IndexBuilder::finish`] takes at most, in addition to what is in use
    /// now. All of it, including the files, is taken until it returns.
    pub fn finish_usage(&self) -> usize {
        self.segment.as_ref().map_or(0, SegmentBuilder::finish_usage)
    }

    /// Finishes the part.
    pub fn finish(mut self) -> Result<IndexPart, IndexError> {
        self.finish_segment()?;
        let mut unsearchable = self.indexed.unsearchable();
        unsearchable.words_too_long = self.words_too_long;
        Ok(IndexPart {
            settings: self.settings,
            segments: self.segments,
            fields: self.indexed.catalog(),
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

    /// The paths, types and header names that were found in its records.
    pub fn fields(&self) -> &FieldCatalog {
        &self.fields
    }

    /// Counts of what cannot be searched in its records.
    pub fn unsearchable(&self) -> &Unsearchable {
        &self.unsearchable
    }

    /// The bytes of all its files, to move them to another place.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut Bytes> {
        self.segments.iter_mut().flat_map(|segment| &mut segment.files).map(|(_, bytes)| bytes)
    }

    /// Returns the memory in use, in bytes: its files, and what was found in the records.
    pub fn mem_usage(&self) -> usize {
        self.segments.iter().map(PartSegment::mem_usage).sum::<usize>() + self.fields.mem_usage()
    }
}

#[cfg(test)]
mod tests;
