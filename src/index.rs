//! Records → a searchable index; a query → the records that match. The only place that names Tantivy. Synchronous; refuses to
//! know where bytes come from or go.
//!
//! What is indexed of a record: its offset and timestamp, its key and headers (exact), and its value. A JSON object's leaves are
//! found by path and by word, its numbers and dates also by range; other text is found by word. [`Unsearchable`] counts what
//! cannot be found. Nothing is stored: a hit is the record's ordinal, and records come from elsewhere.

mod assemble;
mod builder;
mod catalog;
mod chunked;
mod columns;
mod directory;
mod document;
mod hot_cache;
mod inverted;
mod json;
mod leaf;
mod parts;
mod paths;
pub mod query;
mod reader;
mod rest;
mod rfc3339;
mod schema;
mod segment;
mod settings;
#[cfg(test)]
mod testing;
mod words;

pub use assemble::{Index, IndexSegment, META_FILE, assemble};
pub use builder::{IndexBuilder, IndexPart};
pub use catalog::{FieldCatalog, FieldTypes, Gaps, Unsearchable};
pub use hot_cache::hot_ranges;
pub use leaf::{Leaf, LeafFacts, Opening, Outline, Plan, Scored, Step};
pub use parts::IndexParts;
pub use query::{PREFIX_TERMS_MAX, Query, QueryError, QueryProblem};
pub use reader::{Bounds, Hit, Hits, IndexReader, Order, ReadError};
pub use schema::{HEADERS_BYTES_MAX, PATH_BYTES_MAX, PATHS_MAX, TERM_BYTES_MAX, VALUE_BYTES_MAX};
pub use settings::{Settings, SettingsError, TopicSettings, ValueMode};

/// Why an index could not be built.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Tantivy failed, which no record may cause: a bug here or there.
    #[error("tantivy failed while {doing}")]
    Tantivy {
        /// What it was asked to do.
        doing: Doing,
        /// What it said.
        source: Box<tantivy::TantivyError>,
    },
    /// A part was built with other settings than the index is to have.
    #[error("a part was built with {part:?}, the index is to have {index:?}")]
    SettingsDiffer {
        /// The part's settings.
        part: TopicSettings,
        /// The index's.
        index: TopicSettings,
    },
    /// A name made for a Tantivy segment is none: a bug.
    #[error("{name:?} is no name for a tantivy segment")]
    SegmentName {
        /// The name.
        name: String,
    },
}

impl IndexError {
    fn tantivy(doing: Doing, source: tantivy::TantivyError) -> Self {
        Self::Tantivy { doing, source: Box::new(source) }
    }
}

/// What Tantivy was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Starting a segment.
    Starting,
    /// Adding a record.
    Adding,
    /// Finishing a segment.
    Finishing,
    /// Describing the whole index.
    Assembling,
    /// Opening what was finished.
    Reopening,
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting a segment",
            Self::Adding => "adding a record",
            Self::Finishing => "finishing a segment",
            Self::Assembling => "describing the index",
            Self::Reopening => "opening the index",
        })
    }
}
