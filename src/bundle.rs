//! The bundle: one object that holds the records of one partition. This module writes and reads it.
//! `docs/bundle-format.md` shows each byte.
//!
//! A bundle is a plain tar. Its members are `manifest.json`, the attachments of a copy, the index files, `records.zst` (the segment's
//! own frames in compressed blocks), `hot.zst` (the hot cache: a second copy of what readers of a large
//! bundle need first), `records.idx` (the block index: position and contents of each block) and a footer with
//! the position of each member.
//!
//! Writing goes [`BlockWriter`] → [`Blocks`] → [`assemble()`] → [`Built`]. Reading goes [`Footer::open`] →
//! [`HotCache::parse`], [`Manifest::parse`], [`BlockIndex::parse`] → [`BlockEntry::open`]. [`verify()`] and
//! [`Verifier`] read everything.
//!
//! This module takes bytes and returns bytes. It knows nothing of stores, networks, Tantivy, or the contents
//! of a frame. Readers trust nothing: they check each length before they allocate memory for it, and each
//! checksum before they use the contents.

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

pub use assemble::{AssembleError, Built, assemble, assemble_with};
pub use cursor::Malformed;
pub use footer::{
    FOOTER_BYTES_MAX, Footer, Member, MemberError, OpenError, Opened, TAIL_BYTES, TRAILER_BYTES,
    TRAILER_MAGIC,
};
pub use hot_cache::{CHUNK_BYTES, HOT_MAGIC, HotCache, HotCacheError};
pub use layout::{BLOCK_INDEX_NAME, FOOTER_NAME, HOT_NAME, INDEX_PREFIX, MANIFEST_NAME, RECORDS_NAME};
pub use manifest::{
    ATTACHMENT_NAME_BYTES_MAX, AttachmentFacts, CopyFacts, Disagreement, FieldFacts, IndexFacts,
    IndexSegmentFacts, Manifest, ManifestError, RecordsFacts, SegmentFacts, TantivyFacts, UndecodedFacts,
};
pub use records::{
    BLOCK_INDEX_MAGIC, BLOCK_PLAIN_BYTES_MAX, BlockEntry, BlockError, BlockIndex, BlockIndexError,
    BlockOrderError, TimeRange,
};
pub use transactions::{OpenTransaction, TransactionEnd, TransactionFacts, has_offset};
pub use verify::{OpenedBlock, Verified, Verifier, VerifyError, verify};
pub use writer::{BLOCK_PLAIN_BYTES, BlockWriter, BlockWriterError, Blocks, FrameFacts, FrameKind};

/// The newest version of the bundle format that this build reads and writes.
///
/// Version 1 has no hot cache. Only copies, and bundles with anomalies or with frames that could not be
/// decoded, have version 3: readers of version 2 would take them for damaged.
pub const FORMAT_VERSION: u32 = 3;

/// The version of a bundle in which every frame follows its format.
const FORMAT_VERSION_STRICT: u32 = 2;

/// The kinds of read errors. The reader reacts differently to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is not there: the object is something else, or it was never finished.
    Absent,
    /// It is there and damaged.
    Corrupt,
    /// A later release wrote it. As far as this build can check, it is not damaged.
    Unsupported,
}
