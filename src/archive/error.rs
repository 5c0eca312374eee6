//! Why a bundle cannot be read. Each error names the bundle.

use crate::bundle::{
    BlockError, BlockIndexError, Disagreement, HotCacheError, Kind, ManifestError, MemberError, OpenError,
    VerifyError,
};
use crate::index::ReadError as IndexReadError;
use crate::segment;
use crate::store::{StoreError, StoreErrorKind};

/// A bundle, by name, and what is wrong with it.
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
    /// The bytes are no sound bundle.
    #[error(transparent)]
    Bundle(#[from] VerifyError),
    /// The bundle says of itself what its key does not say.
    #[error("the manifest's {what} is not the key's; by what it says it belongs under {own_key}")]
    OtherThanItsKey {
        /// What differs.
        what: &'static str,
        /// The key that its manifest makes.
        own_key: String,
    },
    /// The bundle's fields are no topic and partition.
    #[error("the manifest's {what} cannot be")]
    Unusable {
        /// The field.
        what: &'static str,
    },
    /// What is in a block cannot be read, though the block's checksum holds.
    #[error("the frame at source position {source_position}: {flaw}")]
    Frame {
        /// Where the frame starts in the source.
        source_position: u64,
        /// What is wrong with it.
        flaw: segment::Fault,
    },
    /// A block holds other than the table of blocks says.
    #[error("the block from source position {source_position} has {found} {what}, its table says {stated}")]
    BlockCounts {
        /// Where the block starts in the source.
        source_position: u64,
        /// What is counted.
        what: &'static str,
        /// What the table says.
        stated: u64,
        /// What was found.
        found: u64,
    },
    /// The index points to bytes that a file of it does not have.
    #[error("{file} has {len} bytes, and none from {start} to {end}")]
    Beyond {
        /// The member.
        file: String,
        /// Its length in bytes.
        len: u64,
        /// The first byte that was asked for.
        start: u64,
        /// The one behind the last.
        end: u64,
    },
    /// The index cannot be opened or searched.
    #[error("{}", Chained(.0))]
    Index(#[from] IndexReadError),
    /// The index holds other than there are records.
    #[error("the index has {found} documents, the manifest says {stated}")]
    Documents {
        /// What the manifest says.
        stated: u64,
        /// What is in the index.
        found: u64,
    },
    /// The index knows a record otherwise than it is stored.
    #[error("record {ordinal} is not the one that the index has under its number")]
    IndexDisagrees {
        /// Which record of the bundle, from 0.
        ordinal: u64,
    },
    /// The work panicked: a bug.
    #[error("the work on it panicked")]
    Panicked,
}

/// What to do about an [`ArchiveError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveErrorKind {
    /// There is no such object.
    NotFound,
    /// The reader may not read it, or not so: an operator's business.
    Denied,
    /// The store is away: the same again, later.
    Unavailable,
    /// The bytes are not those that were written, or no bundle's.
    Corrupt,
    /// A later release wrote it: read it with that.
    Unsupported,
    /// A bug.
    Bug,
}

impl ArchiveError {
    /// `fault` is what is wrong with the bundle of this name.
    pub fn new(bundle: impl Into<String>, fault: impl Into<Fault>) -> Self {
        Self { bundle: bundle.into(), fault: Box::new(fault.into()) }
    }

    /// The bundle's key, or its file's path.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// What is wrong with it.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// What to do about it.
    pub fn kind(&self) -> ArchiveErrorKind {
        self.fault.kind()
    }
}

impl Fault {
    /// Whether reading takes more memory than there is for it; nothing is wrong with the bytes.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Frame { flaw: segment::Fault::TooLarge { .. }, .. })
    }

    /// What to do about it.
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
                // An object under a bundle's key that is no bundle.
                Kind::Absent | Kind::Corrupt => ArchiveErrorKind::Corrupt,
                Kind::Unsupported => ArchiveErrorKind::Unsupported,
            },
            Self::OtherThanItsKey { .. }
            | Self::Unusable { .. }
            | Self::Frame { .. }
            | Self::BlockCounts { .. }
            | Self::Beyond { .. }
            | Self::Index(_)
            | Self::Documents { .. }
            | Self::IndexDisagrees { .. } => ArchiveErrorKind::Corrupt,
            Self::Panicked => ArchiveErrorKind::Bug,
        }
    }
}

/// An error and its causes in one line: the causes say what a damaged file is called.
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

/// The parts of a bundle fail as the whole does.
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
