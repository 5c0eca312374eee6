//! Records → one part of an index: a few Tantivy segments, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tantivy::SingleSegmentIndexWriter;
use tantivy::directory::error::OpenReadError;
use tantivy::directory::{Directory, RamDirectory};
use tantivy::index::SegmentComponent;

use super::catalog::{FieldCatalog, Unsearchable};
use super::document::{Draft, RecordDocument};
use super::schema::{self, Fields};
use super::settings::TopicSettings;
use super::tokenizer;
use super::{Doing, IndexError};
use crate::record::RecordBatch;

/// From how many bytes on a Tantivy segment is finished and the next one begun. The arenas of its writer end at 4 GiB each, and
/// no record adds a gigabyte.
const SEGMENT_BYTES_MAX: usize = 1 << 30;

/// Tantivy sizes its hash table by this and nothing else. It doubles as terms come, so small is right: thousands of small partitions
/// are built one after the other.
const TABLE_BUDGET_BYTES: usize = 1 << 20;

/// What Tantivy keeps for each document beside what its `mem_usage` counts: its number twice over (a `Vec` that doubles).
const DOCUMENT_BYTES: usize = 16;

/// Builds one part of an index from record batches: each record becomes exactly one document, in order.
///
/// Equal batches in equal order give equal bytes, on any machine.
pub struct IndexBuilder {
    settings: TopicSettings,
    fields: Fields,
    draft: Arc<Draft>,
    words_too_long: Arc<AtomicU64>,
    writer: Option<Writer>,
    segments: Vec<PartSegment>,
    documents: u64,
    segment_bytes_max: usize,
}

/// A Tantivy segment in the making.
struct Writer {
    tantivy: SingleSegmentIndexWriter<RecordDocument>,
    directory: RamDirectory,
    documents: u32,
}

/// A finished Tantivy segment without a name.
#[derive(Clone, Debug)]
pub(super) struct PartSegment {
    pub documents: u32,
    /// By extension, sorted.
    pub files: Vec<(String, Bytes)>,
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
            draft: Arc::new(Draft::new(fields, settings.value)),
            words_too_long: Arc::default(),
            writer: None,
            segments: Vec::new(),
            documents: 0,
            segment_bytes_max,
        })
    }

    /// Adds a batch's records, one document each.
    ///
    /// An error is Tantivy's and final: the builder is of no use after it.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), IndexError> {
        for record in batch.iter() {
            if self.writer.as_ref().is_some_and(|writer| writer.is_full(self.segment_bytes_max)) {
                self.finish_segment()?;
            }
            let writer = match &mut self.writer {
                Some(writer) => writer,
                none => none.insert(Writer::new(self.settings, &self.words_too_long)?),
            };
            // Tantivy drops each document before it returns, so this never copies.
            Arc::make_mut(&mut self.draft).fill(&record);
            let document = RecordDocument(Arc::clone(&self.draft));
            writer
                .tantivy
                .add_document(document)
                .map_err(|source| IndexError::tantivy(Doing::Adding, source))?;
            writer.documents += 1;
            self.documents += 1;
        }
        Ok(())
    }

    /// How many records were added.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Bytes in memory: Tantivy's arenas and tables, finished segments and what is kept of the records. Arenas grow by
    /// mebibytes, so the first record takes about nine of them at once.
    /// [`IndexBuilder::finish`] needs more for a moment: the files, and 32 bytes for each different term of the last segment.
    pub fn mem_usage(&self) -> usize {
        let segments: usize = self.segments.iter().map(PartSegment::mem_usage).sum();
        segments + self.draft.mem_usage() + self.writer.as_ref().map_or(0, Writer::mem_usage)
    }

    /// Ends the part.
    pub fn finish(mut self) -> Result<IndexPart, IndexError> {
        self.finish_segment()?;
        let mut unsearchable = self.draft.unsearchable();
        unsearchable.words_too_long = self.words_too_long.load(Ordering::Relaxed);
        Ok(IndexPart {
            settings: self.settings,
            segments: self.segments,
            fields: self.draft.catalog(),
            unsearchable,
        })
    }

    fn finish_segment(&mut self) -> Result<(), IndexError> {
        if let Some(writer) = self.writer.take() {
            self.segments.push(writer.finish()?);
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

impl Writer {
    fn new(settings: TopicSettings, words_too_long: &Arc<AtomicU64>) -> Result<Self, IndexError> {
        let (schema, _) = schema::build(settings.positions);
        let directory = RamDirectory::create();
        let tantivy = tantivy::Index::builder()
            .schema(schema)
            .settings(schema::settings())
            .tokenizers(tokenizer::manager(words_too_long))
            .single_segment_index_writer(directory.clone(), TABLE_BUDGET_BYTES)
            .map_err(|source| IndexError::tantivy(Doing::Starting, source))?;
        Ok(Self { tantivy, directory, documents: 0 })
    }

    /// Depends on the documents alone, so that equal records are cut alike.
    fn is_full(&self, segment_bytes_max: usize) -> bool {
        self.tantivy.mem_usage() + self.documents as usize * DOCUMENT_BYTES > segment_bytes_max
    }

    fn mem_usage(&self) -> usize {
        self.tantivy.mem_usage() + self.documents as usize * DOCUMENT_BYTES + self.directory.total_mem_usage()
    }

    fn finish(self) -> Result<PartSegment, IndexError> {
        let failed = |source| IndexError::tantivy(Doing::Finishing, source);
        let index = self.tantivy.finalize().map_err(failed)?;
        let metas = index.searchable_segment_metas().map_err(failed)?;
        let mut files = Vec::with_capacity(COMPONENTS.len());
        for meta in &metas {
            for component in COMPONENTS {
                // Read past Tantivy's own wrapper of the directory, which would hide the files' checksums.
                let file = match self.directory.open_read(&meta.relative_path(component.clone())) {
                    Err(OpenReadError::FileDoesNotExist(_)) => continue,
                    file => file.map_err(|source| failed(source.into()))?,
                };
                let bytes = file.read_bytes().map_err(|source| failed(source.into()))?;
                files.push((component.to_string(), Bytes::from_owner(bytes)));
            }
        }
        // Tantivy's own count, not how many records it was given: whoever asked for the index holds one against the other.
        let documents = metas.iter().map(|meta| meta.max_doc()).sum();
        Ok(PartSegment { documents, files })
    }
}

/// The files of a Tantivy segment, by extension.
const COMPONENTS: [SegmentComponent; 6] = [
    SegmentComponent::FastFields,
    SegmentComponent::FieldNorms,
    SegmentComponent::Postings,
    SegmentComponent::Positions,
    SegmentComponent::Store,
    SegmentComponent::Terms,
];

impl PartSegment {
    fn mem_usage(&self) -> usize {
        self.files.iter().map(|(_, bytes)| bytes.len()).sum()
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

    /// Bytes in memory: its files.
    pub fn mem_usage(&self) -> usize {
        self.segments.iter().map(PartSegment::mem_usage).sum()
    }
}

#[cfg(test)]
mod tests;
