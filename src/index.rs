//! Builds a searchable index from records, and finds the records that match a query. This is the only place
//! that names Tantivy. It is synchronous, and does not know where bytes come from or where they go.
//!
//! The index holds the offset and the timestamp of a record, its key and headers (exact match), and its
//! value. The leaves of a JSON object are found by path and by word, its numbers and dates also by range.
//! Other text is found by word. [`Unsearchable`] counts what cannot be found. Records are not stored: a hit
//! is the record's ordinal, and the record itself is read from elsewhere.

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
mod rfc3339;
mod schema;
mod segment;
mod settings;
#[cfg(test)]
mod testing;
mod unlisted_paths;
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
    /// Tantivy failed. No record may cause this: it is a bug in this program or in Tantivy.
    #[error("tantivy failed while {doing}")]
    Tantivy {
        /// What Tantivy was asked to do.
        doing: Doing,
        /// Tantivy's error.
        source: Box<tantivy::TantivyError>,
    },
    /// A part was built with other settings than those of the index.
    #[error("a part was built with {part:?}, but the index has {index:?}")]
    SettingsDiffer {
        /// The part's settings.
        part: TopicSettings,
        /// The settings of the index.
        index: TopicSettings,
    },
    /// A generated name is not valid for a Tantivy segment: a bug.
    #[error("{name:?} is not a valid name for a tantivy segment")]
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
    /// Opening the finished index.
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
