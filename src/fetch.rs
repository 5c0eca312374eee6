//! The consumer's read path: returns a partition's records from an offset on, after the broker has deleted
//! its own copy.
//!
//! A LIST names the bundles of the partition, and one log is chosen. Its blocks are read in the order of
//! their first offsets, from all its bundles. Records wait in a reorder buffer until no unread block can hold
//! an earlier record. So records are returned in the order of their offsets, each offset once, also if frames
//! are out of order, segments were sent again, or replicas overlap. If bundles hold different records for one
//! offset, all are returned, and the conflict is reported.
//!
//! A response is correct, or it is an error: a bundle that cannot be read fails the fetch, and the error
//! names the bundle. A response may be shorter than requested; `next_offset` says where to continue.
//!
//! This module does not know gRPC, the command line or the write path.

mod block;
mod large;
mod log;
mod memory;
mod plan;
mod reorder_buffer;
mod response;
mod task;
mod transactions;

use std::time::Duration;

use crate::budget::Delivery;
use crate::ids::{LogId, TopicPartition};
use crate::segment::NoBatch;
use crate::spans;
use crate::store::StoreError;
use crate::transactions::TransactionState;

pub use crate::archive::{ArchiveError, BundleCache, StoredRecord};
pub use crate::segment::KafkaBatch;
pub use crate::transactions::Isolation;
pub use log::OTHER_LOGS_MAX;
pub use memory::Memory;
pub use reorder_buffer::BUFFER_BYTES_MAX;
pub use response::{CONFLICTS_MAX, Conflict, Fetch};

/// The request of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log. `None`: the one of the bundle that was stored last. The times of records
    /// do not decide: a log with one record in the future would then be chosen forever.
    pub log_id: Option<LogId>,
    /// The first offset to return. Not negative.
    pub offset: i64,
    /// The maximum number of records. All records of one offset are returned together, and batches are not
    /// split, so the first offset or batch may exceed the limit.
    pub max_records: u64,
    /// The maximum number of bytes. For batches, this is their size. For records, it counts keys, values and
    /// headers, and `size_of::<StoredRecord>()` for each record. The first record or batch is returned even
    /// if it is larger.
    pub max_bytes: u64,
    /// The maximum memory for records that wait to be returned, in bytes. At most [`BUFFER_BYTES_MAX`].
    pub buffer_bytes_max: u64,
    /// The form of the returned items.
    pub form: Form,
    /// Whether records of aborted and of open transactions are returned. With [`Isolation::Committed`], a
    /// response ends before the first record of an open transaction.
    pub isolation: Isolation,
}

/// The memory for response messages that are being sent.
const MESSAGES_BYTES: u64 = 1 << 20;

/// The minimum size of the reorder buffer. Smaller records are not worth a separate read.
const BUFFER_BYTES_MIN: u64 = 64 << 10;

impl Request {
    /// Returns the memory that a fetch holds as long as it runs, in bytes: for the reorder buffer, the
    /// contents of two blocks, and messages. Permits of its [`Memory`] come on top.
    pub fn memory_estimate(&self) -> u64 {
        3 * self.item_bytes_max() + MESSAGES_BYTES
    }

    /// Returns the same request with a smaller buffer, so that the fetch holds at most `bytes` as long as it
    /// runs.
    pub fn within(self, bytes: u64) -> Self {
        let buffer_bytes = (bytes.saturating_sub(MESSAGES_BYTES) / 3).max(BUFFER_BYTES_MIN);
        Self { buffer_bytes_max: self.buffer_bytes_max.min(buffer_bytes), ..self }
    }

    /// The size limit of one item in the reorder buffer. A larger record or batch is read and returned
    /// separately.
    fn item_bytes_max(&self) -> u64 {
        self.max_bytes.clamp(BUFFER_BYTES_MIN, self.buffer_bytes_max)
    }
}

/// The form of the returned items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Data records, decoded.
    Records,
    /// The producers' own batches, including control batches, if they end at or after the requested offset.
    /// The first batch may begin before that offset, as in Kafka's own fetch.
    KafkaBatches,
}

/// One item of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A record. Its value is missing if the memory limit does not allow it.
    Record(StoredRecord),
    /// A batch.
    Batch(KafkaBatch),
}

/// An item, and the state of its transaction if that is not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The record or batch.
    pub item: Item,
    /// `None` if the item belongs to no transaction, or to a committed one.
    pub transaction: Option<TransactionState>,
}

/// Some items, in order, and the memory that they use in addition to [`Request::memory_estimate`].
#[derive(Debug, Default)]
pub struct Part {
    /// The items.
    pub items: Vec<Answered>,
    /// Must be held until the items are sent.
    pub memory: Option<Delivery>,
}

/// Why there is no response, or why it stops early.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The requested offset is negative.
    #[error("the offset {offset} is negative")]
    NegativeOffset {
        /// The requested offset.
        offset: i64,
    },
    /// The store cannot be listed.
    #[error(transparent)]
    List(#[from] StoreError),
    /// A bundle cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Other readers hold the memory that the fetch needs now.
    #[error("other readers hold the memory that the fetch needs now")]
    NoRoom {
        /// After this time a retry makes sense.
        retry_after: Duration,
    },
    /// The next item needs more memory than all readers together have.
    #[error(
        "{bundle}: the item at offset {offset} needs {needed_bytes} bytes of memory, more than all readers have"
    )]
    TooLarge {
        /// The bundle.
        bundle: String,
        /// The offset.
        offset: i64,
        /// The memory that it needs, in bytes.
        needed_bytes: u64,
    },
    /// The producer's batch was requested, but it is not stored. Batches are not encoded again. The records
    /// are available as records.
    #[error("{bundle}: no kafka batch at offset {offset}: {why}")]
    NoBatch {
        /// The bundle.
        bundle: String,
        /// The frame's first offset.
        offset: i64,
        /// Why there is no batch.
        why: NoBatch,
    },
}

/// Begins a fetch: lists the partition's bundles and chooses the log. No bundle is read before
/// [`Fetch::next`] is called. Dropping the fetch ends it. `memory` limits the blocks that it holds at a time.
pub async fn fetch(
    bundle_cache: &BundleCache,
    request: &Request,
    memory: Memory,
) -> Result<Fetch, FetchError> {
    if request.offset < 0 {
        return Err(FetchError::NegativeOffset { offset: request.offset });
    }
    let planning = log::find(bundle_cache, request);
    let log = spans::stage(spans::plan(), async {
        let log = planning.await?;
        spans::listed(log.listed);
        Ok::<_, FetchError>(log)
    });
    let log = log.await?;
    Ok(Fetch::new(bundle_cache.clone(), request, log, memory))
}

#[cfg(test)]
mod tests;
