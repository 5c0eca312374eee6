//! Reads copies of segments: finds them by name, and returns their own bytes from a position.
//!
//! A copy is a bundle whose key follows from an id that its caller chose. Most of the key is known from the
//! name. The rest is in a [`Locator`], which the caller keeps, or is found by a LIST.
//!
//! This module knows nothing of gRPC, queries or the write path.

mod locator;
mod memory;
mod reader;

use crate::archive::{Archive, ArchiveError, ArchiveErrorKind, BundleCache, TrafficCounter};
use crate::budget::{Budget, BudgetError, Reservation};
use crate::ids::{CallerId, CopyId, LogId, TopicPartition};
use crate::store::{BundleKey, Hash16, KeyHash, KeyPrefix, Listed, MarkerKey, StoreError};
use std::time::Duration;

pub use locator::Locator;
pub use reader::{CHUNK_BYTES, SegmentReader};

use bytes::Bytes;
use memory::ReadMemory;

/// The name of a copy: the front of its key, and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyName {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log.
    pub log_id: LogId,
    /// The base offset, not negative.
    pub base_offset: i64,
    /// The id.
    pub copy_id: CopyId,
}

impl CopyName {
    fn hash(&self) -> Hash16 {
        KeyHash::of_copy(&self.copy_id, &self.log_id, &self.partition).hash16()
    }

    /// Returns the key of the marker that hides the copy.
    pub fn marker(&self) -> MarkerKey {
        MarkerKey::new(self.partition.clone(), self.log_id.clone(), self.base_offset, self.hash())
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
    #[error("the bundle holds one of the {partitions} partitions of its segment, so it has no segment to read")]
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

    /// Returns an attachment of a copy, checked, and the memory that it takes.
    pub async fn attachment(
        &self,
        wanted: &Wanted,
        name: &str,
        caller_id: &CallerId,
        counter: &TrafficCounter,
    ) -> Result<(Bytes, memory::ReadReservation), CopyError> {
        let archive = self.open(wanted, counter).await?;
        let found = archive.footer().attachments().find(|(attachment, _)| *attachment == name);
        let Some((_, member)) = found else { return Err(CopyError::NoAttachment { name: name.to_owned() }) };
        let reservation = self.memory.reserve(caller_id, member.len).await?;
        Ok((archive.member(member).await?, reservation))
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
        let prefix = KeyPrefix::log(&name.partition, &name.log_id);
        let found = self.bundle_cache.store().find(&prefix, &name.marker()).await?;
        found.ok_or(CopyError::NotFound)
    }

    async fn head(&self, key: &BundleKey, counter: &TrafficCounter) -> Result<Listed, CopyError> {
        counter.count_list();
        let head = self.bundle_cache.store().head(key).await;
        head.map_err(|error| ArchiveError::new(key.to_string(), error).into())
    }
}

/// The memory of a read, which is given back when this is dropped.
pub use memory::ReadReservation;

#[allow(unused)]
type Unused = Reservation;
