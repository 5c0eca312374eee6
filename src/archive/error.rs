//! The reasons why a bundle cannot be read. Each error names the bundle.

use crate::bundle::{
    BlockError, BlockIndexError, Disagreement, HotCacheError, Kind, ManifestError, MemberError, OpenError,
    VerifyError,
};
use crate::index::ReadError as IndexReadError;
use crate::segment;
use crate::store::{StoreError, StoreErrorKind};

/// The name of a bundle and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{bundle}: {fault}")]
pub struct ArchiveError {
    bundle: String,
    fault: Box<Fault>,
}

/// What is wrong with a bundle.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The store did not give the bytes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The local file did not give the bytes.
    #[error("cannot read the file: {0}")]
    File(#[from] std::io::Error),
    /// The bytes are not a sound bundle.
    #[error(transparent)]
    Bundle(#[from] VerifyError),
    /// The bundle's manifest does not match its key.
    #[error("the manifest's {what} is not the key's; the bundle belongs under {own_key}")]
    KeyMismatch {
        /// What differs.
        what: &'static str,
        /// The key that belongs to the manifest.
        own_key: String,
    },
    /// The topic, partition, log id, offsets or times in the manifest are not valid.
    #[error("the manifest's {what} is not valid")]
    Unusable {
        /// The field.
        what: &'static str,
    },
    /// A Kafka batch that was found in a block is not there when the block is read again.
    #[error("the block from source position {source_position} has no batch with offset {offset} any more")]
    BatchGone {
        /// The start of the block in the source.
        source_position: u64,
        /// The first offset of the batch.
        offset: i64,
    },
    /// A byte of the segment is in no block.
    #[error("the byte {position} of the segment is in no block")]
    SourceHole {
        /// Its position in the segment.
        position: u64,
    },
    /// A frame in a block cannot be read, though the block's checksum is right.
    #[error("the frame at source position {source_position}: {flaw}")]
    Frame {
        /// The start of the frame in the source.
        source_position: u64,
        /// What is wrong with the frame.
        flaw: segment::Fault,
    },
    /// The number of items in a block differs from the block index.
    #[error(
        "the block from source position {source_position} has {found} {what}, the block index says {stated}"
    )]
    BlockCounts {
        /// The start of the block in the source.
        source_position: u64,
        /// What is counted.
        what: &'static str,
        /// The number in the block index.
        stated: u64,
        /// The number that was found.
        found: u64,
    },
    /// The index refers to bytes that its file does not have.
    #[error("{file} has {len} bytes, which do not include {start}..{end}")]
    Beyond {
        /// The member.
        file: String,
        /// Its length in bytes.
        len: u64,
        /// The first byte of the range.
        start: u64,
        /// The byte after the last byte of the range.
        end: u64,
    },
    /// The index cannot be opened or searched.
    #[error("{}", Chained(.0))]
    Index(#[from] IndexReadError),
    /// The number of documents in the index differs from the number of records.
    #[error("the index has {found} documents, the manifest says {stated}")]
    Documents {
        /// The number in the manifest.
        stated: u64,
        /// The number of documents in the index.
        found: u64,
    },
    /// The index has other facts about a record than the stored record has.
    #[error("record {ordinal} differs from the record that the index has for this number")]
    IndexDisagrees {
        /// The number of the record in the bundle, from 0.
        ordinal: u64,
    },
    /// The work panicked: a bug.
    #[error("the code that reads it panicked")]
    Panicked,
}

/// What the caller of a failed read can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveErrorKind {
    /// The object does not exist.
    NotFound,
    /// The reader has no permission, or its request was refused. An operator must fix this.
    Denied,
    /// The store is not available. Try again later.
    Unavailable,
    /// The bytes are not those that were written, or they are not a bundle.
    Corrupt,
    /// A later release wrote the bundle. Read it with that release.
    Unsupported,
    /// A bug.
    Bug,
}

impl ArchiveError {
    /// Makes an error for the bundle of this name.
    pub fn new(bundle: impl Into<String>, fault: impl Into<Fault>) -> Self {
        Self { bundle: bundle.into(), fault: Box::new(fault.into()) }
    }

    /// Returns the bundle's key, or the path of its file.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Returns what is wrong with the bundle.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// Returns what the caller can do.
    pub fn kind(&self) -> ArchiveErrorKind {
        self.fault.kind()
    }
}

impl Fault {
    /// Returns whether reading takes more memory than is allowed. Nothing is wrong with the bytes then.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Frame { flaw: segment::Fault::TooLarge { .. }, .. })
    }

    /// Returns what the caller can do.
    pub fn kind(&self) -> ArchiveErrorKind {
        match self {
            Self::Store(error) => match error.kind() {
                StoreErrorKind::NotFound => ArchiveErrorKind::NotFound,
                StoreErrorKind::Denied | StoreErrorKind::Refused => ArchiveErrorKind::Denied,
                StoreErrorKind::Unavailable | StoreErrorKind::TimedOut => ArchiveErrorKind::Unavailable,
                StoreErrorKind::Changed | StoreErrorKind::Corrupt => ArchiveErrorKind::Corrupt,
            },
            Self::File(error) => match error.kind() {
                std::io::ErrorKind::NotFound => ArchiveErrorKind::NotFound,
                std::io::ErrorKind::UnexpectedEof => ArchiveErrorKind::Corrupt,
                _ => ArchiveErrorKind::Denied,
            },
            Self::Bundle(error) => match error.kind() {
                // An object that has the key of a bundle but is not a bundle.
                Kind::Absent | Kind::Corrupt => ArchiveErrorKind::Corrupt,
                Kind::Unsupported => ArchiveErrorKind::Unsupported,
            },
            Self::KeyMismatch { .. }
            | Self::Unusable { .. }
            | Self::BatchGone { .. }
            | Self::Frame { .. }
            | Self::BlockCounts { .. }
            | Self::SourceHole { .. }
            | Self::Beyond { .. }
            | Self::Index(_)
            | Self::Documents { .. }
            | Self::IndexDisagrees { .. } => ArchiveErrorKind::Corrupt,
            Self::Panicked => ArchiveErrorKind::Bug,
        }
    }
}

/// An error and its causes in one line. The causes have the name of a damaged file.
struct Chained<'a>(&'a IndexReadError);

impl std::fmt::Display for Chained<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Errors of a bundle's parts become errors of the whole bundle.
macro_rules! bundle_faults {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Bundle(error.into())
            }
        }
    )*};
}

bundle_faults!(
    OpenError,
    MemberError,
    HotCacheError,
    ManifestError,
    BlockIndexError,
    BlockError,
    Disagreement
);
