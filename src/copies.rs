//! Reads copies of segments: finds them by name, and returns their own bytes from a position.
//!
//! A copy is a bundle whose key follows from an id that its caller chose. Most of the key is known from the
//! name. The rest is in a [`Locator`], which the caller keeps, or is found by a LIST.
//!
//! This module knows nothing of gRPC, queries or the write path.

mod locator;
mod memory;
mod reader;

use std::time::Duration;

use bytes::Bytes;

use crate::archive::{Archive, ArchiveError, ArchiveErrorKind, BundleCache, TrafficCounter};
use crate::budget::{Budget, BudgetError};
use crate::ids::{CallerId, CopyId, LogId, TopicPartition};
use crate::store::{BundleKey, KeyError, KeyHash, Listed, MarkerKey, Store, StoreError};

pub use locator::Locator;
pub use memory::ReadReservation;
pub use reader::{CHUNK_BYTES, SegmentReader};

use memory::ReadMemory;

/// The name of a copy: the front of its key, and the hash of its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyName(MarkerKey);

impl CopyName {
    /// The name of the copy `copy_id` of the segment with this base offset.
    ///
    /// # Errors
    /// The topic or the log id does not fit into a key, or the base offset is negative.
    pub fn new(
        partition: TopicPartition,
        log_id: LogId,
        base_offset: i64,
        copy_id: &CopyId,
    ) -> Result<Self, KeyError> {
        let hash = KeyHash::of_copy(copy_id, &log_id, &partition).hash16();
        MarkerKey::new(partition, log_id, base_offset, hash).map(Self)
    }

    /// Returns the key of the marker that hides the copy.
    pub fn marker(&self) -> &MarkerKey {
        &self.0
    }
}

/// The bundle that a caller wants to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A copy, with what the caller knows of its place.
    Copy(CopyName, Option<Locator>),
    /// A bundle with one partition.
    Key(BundleKey),
}

/// Why a copy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is no such copy, or it is hidden.
    #[error("there is no such copy, or it was deleted")]
    NotFound,
    /// The copy has no attachment of this name.
    #[error("the copy has no attachment {name:?}")]
    NoAttachment {
        /// The name.
        name: String,
    },
    /// The bundle holds only a part of its segment.
    #[error(
        "the bundle holds one of the {partitions} partitions of its segment, so it has no segment to read"
    )]
    ManyPartitions {
        /// The number of partitions of the segment.
        partitions: u32,
    },
    /// The position is beyond the end of the segment.
    #[error("the position {position} is beyond the end of the segment of {size_bytes} bytes")]
    BeyondEnd {
        /// The position.
        position: u64,
        /// The size of the segment, in bytes.
        size_bytes: u64,
    },
    /// There is no memory for the read now.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The store cannot be listed.
    #[error(transparent)]
    List(#[from] StoreError),
    /// The bundle cannot be read.
    #[error(transparent)]
    Archive(ArchiveError),
}

impl From<ArchiveError> for CopyError {
    /// Deleting removes the object at last: then it is not there, and that is no loss.
    fn from(error: ArchiveError) -> Self {
        match error.kind() {
            ArchiveErrorKind::NotFound => Self::NotFound,
            _ => Self::Archive(error),
        }
    }
}

/// Reads copies. Clones share the cache and the memory.
#[derive(Clone, Debug)]
pub struct Copies {
    bundle_cache: BundleCache,
    memory: ReadMemory,
}

impl Copies {
    /// Opens bundles through `bundle_cache`. All reads together hold at most half of `budget`. A read waits
    /// for its memory for up to `wait_max`.
    pub fn new(bundle_cache: BundleCache, budget: Budget, wait_max: Duration) -> Self {
        Self { bundle_cache, memory: ReadMemory::new(budget, wait_max) }
    }

    /// Returns the store of the copies.
    pub fn store(&self) -> &Store {
        self.bundle_cache.store()
    }

    /// Begins to read the segment's own bytes from `position` up to `end`, exclusive, or to its end. `counter`
    /// counts what is read from the store.
    pub async fn read(
        &self,
        wanted: &Wanted,
        position: u64,
        end: Option<u64>,
        caller_id: &CallerId,
        counter: &TrafficCounter,
    ) -> Result<SegmentReader, CopyError> {
        let archive = self.open(wanted, counter).await?;
        let segment = &archive.manifest().segment;
        let (partitions, size_bytes) = (segment.partitions, segment.size_bytes);
        if partitions != 1 {
            return Err(CopyError::ManyPartitions { partitions });
        }
        if position > size_bytes {
            return Err(CopyError::BeyondEnd { position, size_bytes });
        }
        let end = end.unwrap_or(size_bytes).min(size_bytes);
        let bytes = reader::mem_usage(&archive, position, end);
        let reservation = self.memory.reserve(caller_id, bytes).await?;
        Ok(SegmentReader::new(archive, position, end, reservation))
    }

    /// Returns an attachment of a copy, checked, with its CRC-32C, and the memory that it takes.
    pub async fn attachment(
        &self,
        wanted: &Wanted,
        name: &str,
        caller_id: &CallerId,
        counter: &TrafficCounter,
    ) -> Result<(Bytes, u32, ReadReservation), CopyError> {
        let archive = self.open(wanted, counter).await?;
        let found = archive.footer().attachments().find(|(attachment, _)| *attachment == name);
        let Some((_, member)) = found else { return Err(CopyError::NoAttachment { name: name.to_owned() }) };
        let reservation = self.memory.reserve(caller_id, member.len).await?;
        Ok((archive.member(member).await?, member.crc32c, reservation))
    }

    async fn open(&self, wanted: &Wanted, counter: &TrafficCounter) -> Result<Archive, CopyError> {
        let listed = match wanted {
            Wanted::Copy(name, Some(locator)) => locator.listed(name).ok_or(CopyError::NotFound)?,
            Wanted::Copy(name, None) => self.find(name, counter).await?,
            Wanted::Key(key) => self.head(key, counter).await?,
        };
        Ok(self.bundle_cache.open(&listed, counter).await?)
    }

    async fn find(&self, name: &CopyName, counter: &TrafficCounter) -> Result<Listed, CopyError> {
        counter.count_list();
        let found = self.store().find(name.marker()).await?;
        found.ok_or(CopyError::NotFound)
    }

    async fn head(&self, key: &BundleKey, counter: &TrafficCounter) -> Result<Listed, CopyError> {
        counter.count_list();
        let head = self.store().head(key).await;
        head.map_err(|error| ArchiveError::new(key.to_string(), error).into())
    }
}
