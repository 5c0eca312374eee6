//! The consumer's read path: a partition's records from an offset on, once the broker's own copy is gone.
//!
//! A LIST names the bundles of the partition, and one log is chosen. Its blocks are read in the order of their first offsets, wherever
//! they lie: what is found waits in a window until no block that is left can hold anything that comes before it. So records come in the
//! order of their offsets, each offset once, also where frames are out of order, segments were sent again, or replicas overlap. Where
//! bundles hold different records for one offset, all are answered, and the conflict is reported.
//!
//! An answer is right or an error: a bundle that cannot be read fails the fetch, by its name. It may be shorter than was asked for;
//! `next_offset` says where to go on.
//!
//! Knows nothing of gRPC or the command line, nor of the write path.

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

use crate::archive::{ArchiveError, BundleCache, StoredRecord};
use crate::budget::Delivery;
use crate::ids::{LogId, TopicPartition};
use crate::segment::{KafkaBatch, NoBatch};
use crate::spans;
use crate::store::StoreError;
use crate::transactions::{Isolation, TransactionState};

pub use log::OTHER_LOGS_MAX;
pub use memory::Memory;
pub use reorder_buffer::BUFFER_BYTES_MAX;
pub use response::{CONFLICTS_MAX, Conflict, Fetch};

/// What a consumer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log; `None`: that of the bundle that was stored last. Times of records do not count: one that lies in the
    /// future would decide for good.
    pub log_id: Option<LogId>,
    /// Where to begin; not negative.
    pub offset: i64,
    /// How many records to answer, at most. Offsets with a conflict are not split, and batches are not: one of these at least is answered.
    pub max_records: u64,
    /// How many bytes to answer, at most: of batches as they are; of keys, values and headers, and
    /// `size_of::<StoredRecord>()` for each record. The first record or batch is answered whatever it takes.
    pub max_bytes: u64,
    /// What waits to be answered takes no more memory, in bytes; at most [`BUFFER_BYTES_MAX`].
    pub buffer_bytes_max: u64,
    /// As what.
    pub form: Form,
    /// Whether records of aborted and of open transactions are answered. Where they are not, an answer ends before the first record of an
    /// open one.
    pub isolation: Isolation,
}

/// What messages on their way take.
const MESSAGES_BYTES: u64 = 1 << 20;

/// What waits at least for what is asked for in bytes: smaller records are not worth to be read by themselves.
const WINDOW_BYTES_MIN: u64 = 64 << 10;

impl Request {
    /// What a fetch takes as long as it lasts, in bytes: what waits to be answered, what two blocks bring, and messages. Beside it come turns of its
    /// [`Memory`].
    pub fn memory_estimate(&self) -> u64 {
        3 * self.item_bytes_max() + MESSAGES_BYTES
    }

    /// The same request, for a fetch that holds no more than `bytes` as long as it lasts.
    pub fn within(self, bytes: u64) -> Self {
        let buffer_bytes = (bytes.saturating_sub(MESSAGES_BYTES) / 3).max(WINDOW_BYTES_MIN);
        Self { buffer_bytes_max: self.buffer_bytes_max.min(buffer_bytes), ..self }
    }

    /// A record, or a batch, that takes more bytes is answered by itself.
    fn item_bytes_max(&self) -> u64 {
        self.max_bytes.clamp(WINDOW_BYTES_MIN, self.buffer_bytes_max)
    }
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Data records, decoded.
    Records,
    /// The producers' own batches, control batches among them: those that end at the asked offset or behind it. The first may begin in
    /// front of it, as in Kafka's own fetch.
    KafkaBatches,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A record; without its value where the memory does not hold it.
    Record(StoredRecord),
    /// A batch.
    Batch(KafkaBatch),
}

/// A part of an answer, and what it is if its transaction was not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The record or batch.
    pub item: Item,
    /// `None` where it belongs to no transaction, or to one that was committed.
    pub transaction: Option<TransactionState>,
}

/// Some items, in order, and what memory they take beside what a fetch takes as long as it lasts.
#[derive(Debug, Default)]
pub struct Part {
    /// The items.
    pub items: Vec<Answered>,
    /// To be held until they are on their way.
    pub memory: Option<Delivery>,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Offsets count from zero.
    #[error("the offset {offset} is negative")]
    NegativeOffset {
        /// What was asked for.
        offset: i64,
    },
    /// The store cannot be listed.
    #[error(transparent)]
    List(#[from] StoreError),
    /// A bundle cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Others hold the memory that it needs now.
    #[error("others hold the memory that it needs now")]
    NoRoom {
        /// When there may be some.
        retry_after: Duration,
    },
    /// What comes next takes more memory than there is for all readers.
    #[error("{bundle}: what is at offset {offset} needs {needed_bytes} bytes of memory, more than there are")]
    TooLarge {
        /// The bundle.
        bundle: String,
        /// The offset.
        offset: i64,
        /// What it needs.
        needed_bytes: u64,
    },
    /// The producer's batch is asked for and was not kept. Nothing is encoded anew: the records can be had as records.
    #[error("{bundle}: no kafka batch at offset {offset}: {why}")]
    NoBatch {
        /// The bundle.
        bundle: String,
        /// The frame's first offset.
        offset: i64,
        /// Why not.
        why: NoBatch,
    },
}

/// Begins a fetch: lists the partition's bundles and chooses the log. Nothing is read before [`Fetch::next`] is called; whoever drops
/// a fetch ends it. Blocks that it reads are held in turns of `memory`.
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
