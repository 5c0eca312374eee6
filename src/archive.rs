//! A bundle where it lies: opened by ranged reads, read in parts, every checksum checked on the way.
//!
//! [`Archive::open`] reads the end of the object, and from there the manifest and the table of blocks; the rest is read when it is
//! asked for. [`walk`] reads an object from its first byte to its last, for those who trust nothing; [`judge`] does so for the
//! write path, where an object of the same key is there already.
//!
//! Knows nothing of what queries mean, of gRPC, or of what a caller does with the bytes.

mod end;
mod error;
mod index;
mod judge;
mod memory;
mod parts;
mod pick;
mod read;
mod records;
mod shelf;
mod source;
mod times;
mod transactions;
mod walk;

pub use error::{ArchiveError, ArchiveErrorKind, Fault};
pub use index::{catalog, open_index};
pub use judge::judge;
pub use pick::{Picked, Purse, WorkBounds, block_usage};
pub use read::Archive;
pub use records::{FRAME_BYTES_MAX, decode_block, fault_in_block, split_block};

pub use crate::record::{Omitted, StoredRecord};
pub use shelf::Shelf;
pub use source::{Source, Traffic, TrafficCounter};
pub use transactions::transaction_facts;
pub use walk::{Visit, walk};

#[cfg(test)]
pub(crate) mod testing;
