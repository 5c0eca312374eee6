//! Reads bundles from a store or a file, by ranges. Every checksum is checked.
//!
//! [`Archive::open`] reads the end of the object and, with it, the manifest and the block index. The rest is
//! read on demand. [`full_scan`] reads an object from its first byte to its last, for callers that check
//! everything. [`check_existing`] uses it for the write path, if an object with the same key exists already.
//!
//! This module knows nothing of queries, of gRPC, or of what a caller does with the bytes.

mod bundle_cache;
mod cached_parts;
mod error;
mod existing_object;
mod full_scan;
mod index;
mod parts;
mod pick;
mod read;
mod records;
mod source;
mod tail;
mod times;
mod transactions;

pub use error::{ArchiveError, ArchiveErrorKind, Fault};
pub use existing_object::check_existing;
pub use index::{catalog, open_index};
pub use pick::{MemoryAllowance, Picked, WorkBounds, block_usage};
pub use read::Archive;
pub use records::{FRAME_BYTES_MAX, decode_block, fault_in_block, split_block};

pub use crate::record::{Omitted, StoredRecord};
pub use bundle_cache::BundleCache;
pub use full_scan::{ScanVisitor, full_scan};
pub use source::{Source, Traffic, TrafficCounter};
pub use transactions::transaction_facts;

#[cfg(test)]
pub(crate) mod testing;
