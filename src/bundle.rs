//! The bundle: one object for a partition's records, and how it is written and read. `docs/bundle-format.md`
//! shows each byte.
//!
//! A plain tar of `manifest.json`, the index's files, `records.zst` (the segment's own frames in compressed
//! blocks), `hot.zst` (what readers of a large bundle need first, once more), `records.idx` (where each block
//! lies and what it holds) and a footer that says where the members lie. Writing goes [`BlockWriter`] → [`Blocks`] → [`assemble()`] → [`Built`]; reading goes [`Footer::open`]
//! → [`HotCache::parse`], [`Manifest::parse`], [`BlockIndex::parse`] → [`BlockEntry::open`]; [`verify()`] and [`Verifier`] read
//! everything.
//!
//! Bytes in, bytes out: knows nothing of stores, networks, Tantivy, or what is in a frame. Readers trust
//! nothing: every length is checked before memory is set aside for it, every checksum before contents are
//! looked at.

mod assemble;
mod compress;
mod cursor;
mod footer;
mod hot_cache;
mod layout;
mod manifest;
mod records;
#[cfg(test)]
mod sample;
mod transactions;
mod verify;
mod writer;

pub use assemble::{AssembleError, Built, assemble};
pub use cursor::Malformed;
pub use footer::{
    FOOTER_BYTES_MAX, Footer, Member, MemberError, OpenError, Opened, TAIL_BYTES, TRAILER_BYTES,
    TRAILER_MAGIC,
};
pub use hot_cache::{CHUNK_BYTES, HOT_MAGIC, HotCache, HotCacheError};
pub use layout::{BLOCK_INDEX_NAME, FOOTER_NAME, HOT_NAME, INDEX_PREFIX, MANIFEST_NAME, RECORDS_NAME};
pub use manifest::{
    Disagreement, FieldFacts, IndexFacts, IndexSegmentFacts, Manifest, ManifestError, RecordsFacts,
    SegmentFacts, TantivyFacts, UndecodedFacts,
};
pub use records::{
    BLOCK_INDEX_MAGIC, BLOCK_PLAIN_BYTES_MAX, BlockEntry, BlockError, BlockIndex, BlockIndexError,
    BlockOrderError, TimeRange,
};
pub use transactions::{OpenTransaction, TransactionEnd, TransactionFacts, has_offset};
pub use verify::{OpenedBlock, Verified, Verifier, VerifyError, verify};
pub use writer::{BLOCK_PLAIN_BYTES, BlockWriter, BlockWriterError, Blocks, FrameFacts, FrameKind};

/// The latest version of the bundle's format that this build reads. The first had no hot part. Only bundles with anomalies, or with frames
/// that were not decoded, are of the third: readers of the second would take their frames for damaged.
pub const FORMAT_VERSION: u32 = 3;

/// The version of a bundle in which every frame is as its format says.
const FORMAT_VERSION_STRICT: u32 = 2;

/// What kind of trouble a reader has: three that call for three different answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is nothing of the kind: another object, or none that was ever finished.
    Absent,
    /// It is there and damaged.
    Corrupt,
    /// It is there and sound as far as can be told, but a later release wrote it.
    Unsupported,
}
