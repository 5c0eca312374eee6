//! The memory and the threads that all searches of a process share.
//!
//! What lasts as long as a search (its list of bundles, what it opened, the hits that it keeps) is reserved when it begins, first come
//! first served. What is needed for a while (a leaf of an index, blocks of records) is taken by [`Turn`]s: whoever holds one waits for no
//! other, so that each comes round.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::SearchError;
use crate::archive::Fault;
use crate::budget::{Budget, BudgetError, Reservation, Turn};
use crate::ids::CallerId;
use crate::spans;

/// How much of the memory is for what lasts: the rest is for turns.
const RESERVED_PART: f64 = 0.375;

/// How much of that fetches may hold together: one that waits for its reader holds its part, and searches go on.
const FETCHES_PART: f64 = 2.0 / 3.0;

/// When it is worth to ask again where other fetches hold all of it.
const FETCH_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What one permit for fetches stands for, in bytes.
const FETCHES_UNIT_BYTES: u64 = 4 << 10;

/// What reading a block's frames takes, in bytes: more than most frames need, and a small part of the memory.
const WORK_BYTES_MIN: u64 = 64 << 10;
const WORK_BYTES_MAX: u64 = 6 << 20;

/// Memory and threads; clones share them.
#[derive(Clone, Debug)]
pub(super) struct SearchMemory {
    budget: Budget,
    threads: Arc<Semaphore>,
    alone: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    fetches_bytes: u64,
    caller_id: CallerId,
}

/// What a fetch holds as long as it lasts.
#[derive(Debug)]
pub struct FetchMemory {
    /// The memory.
    pub reservation: Reservation,
    /// What of the fetches' part that is.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl SearchMemory {
    pub fn new(memory_bytes: u64) -> Self {
        let reservable_bytes = (memory_bytes as f64 * RESERVED_PART) as u64;
        let turns_bytes = memory_bytes - reservable_bytes;
        let fetches_units = (reservable_bytes as f64 * FETCHES_PART) as u64 / FETCHES_UNIT_BYTES;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            budget: Budget::with_turns(reservable_bytes, turns_bytes),
            threads: Arc::new(Semaphore::new(threads)),
            alone: Arc::new(Semaphore::new(1)),
            fetches: Arc::new(Semaphore::new(fetches_units as usize)),
            fetches_bytes: fetches_units * FETCHES_UNIT_BYTES,
            caller_id: CallerId::default(),
        }
    }

    /// The same room; what is reserved there is `caller_id`'s.
    pub fn for_caller(self, caller_id: CallerId) -> Self {
        Self { caller_id, ..self }
    }

    /// The memory, for another way to read.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What there is for what lasts, in bytes.
    pub fn reservable_bytes(&self) -> u64 {
        self.budget.usage().total_bytes
    }

    /// What there is for a while, in bytes.
    pub fn turns_bytes(&self) -> u64 {
        self.budget.turns_bytes()
    }

    /// A permit for an answer that waits for its reader; see [`Budget::delivery`].
    pub async fn delivery(&self, bytes: u64) -> Turn {
        self.budget.delivery(bytes).await
    }

    /// What reading one block's frames may take, in bytes, beside the block and its records.
    pub fn work_bytes(&self) -> u64 {
        (self.turns_bytes() / 12).clamp(WORK_BYTES_MIN, WORK_BYTES_MAX)
    }

    /// Reserves what lasts. Waits for it: a search has a deadline of its own.
    pub async fn reserve(&self, bytes: u64) -> Result<Reservation, SearchError> {
        self.reserve_within(bytes, Duration::MAX).await
    }

    async fn reserve_within(&self, bytes: u64, wait_max: Duration) -> Result<Reservation, SearchError> {
        Ok(self.budget.reserve(&self.caller_id, bytes, wait_max).await?)
    }

    /// What fetches may hold together, in bytes.
    pub fn fetches_bytes(&self) -> u64 {
        self.fetches_bytes
    }

    /// The same for a fetch, which has no deadline, and takes no more than there is for fetches.
    pub async fn reserve_for_fetch(
        &self,
        bytes: u64,
        wait_max: Duration,
    ) -> Result<FetchMemory, SearchError> {
        let bytes = bytes.min(self.fetches_bytes);
        let units = u32::try_from(bytes.div_ceil(FETCHES_UNIT_BYTES)).unwrap_or(u32::MAX);
        let permit = timeout(wait_max, Arc::clone(&self.fetches).acquire_many_owned(units)).await;
        let permit = permit.map_err(|_| SearchError::NoRoom { retry_after: FETCH_RETRY_AFTER })?;
        // Never closed, so there is a permit.
        Ok(FetchMemory { reservation: self.reserve_within(bytes, wait_max).await?, permit: permit.ok() })
    }

    /// For what cannot be bounded: one at a time.
    pub async fn alone(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.alone).acquire_owned().await.ok()
    }

    /// A share of what is there for a while; none of it yet.
    pub fn permits(&self) -> Permits {
        Permits { memory: self.clone(), turns: Vec::new(), bytes: 0 }
    }

    /// Runs work that takes its time, on as many threads as there are cores. Its thread is free again when the work ends, also where
    /// nobody waits for it any more.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        // Never closed.
        let permit = Arc::clone(&self.threads).acquire_owned().await.ok();
        let work = spans::carried(work);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| Fault::Panicked)
    }
}

/// What a piece of work may take for a while.
#[derive(Debug)]
pub(super) struct Permits {
    memory: SearchMemory,
    turns: Vec<Turn>,
    bytes: u64,
}

impl Permits {
    /// So many bytes from now on. Where they are not there at once, all is dropped and given back before it is waited for more: nobody
    /// waits with a share in hand.
    pub async fn grow_to(&mut self, bytes: u64, drop_all: impl FnOnce()) -> Result<(), SearchError> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return Ok(());
        };
        if bytes > self.memory.turns_bytes() {
            return Err(SearchError::TooLarge {
                needed_bytes: bytes,
                there_are_bytes: self.memory.turns_bytes(),
            });
        }
        if let Some(turn) = self.memory.budget.turn_now(more) {
            self.turns.push(turn);
            self.bytes = bytes;
            return Ok(());
        }
        drop_all();
        self.turns.clear();
        self.turns.push(self.memory.budget.turn(bytes).await);
        self.bytes = bytes;
        Ok(())
    }
}

impl Permits {
    /// Gives back what is more than so many bytes.
    pub fn shrink_to(&mut self, bytes: u64) {
        if bytes < self.bytes {
            let mut turns = std::mem::take(&mut self.turns).into_iter();
            if let Some(mut held) = turns.next() {
                turns.for_each(|turn| held.absorb(turn));
                held.shrink_to(bytes);
                self.turns.push(held);
            }
            self.bytes = bytes;
        }
    }
}

impl From<BudgetError> for SearchError {
    fn from(error: BudgetError) -> Self {
        match error {
            BudgetError::NeverFits { wanted_bytes, budget_bytes } => {
                Self::TooLarge { needed_bytes: wanted_bytes, there_are_bytes: budget_bytes }
            }
            BudgetError::NoRoom { retry_after, .. } | BudgetError::TooManyWait { retry_after, .. } => {
                Self::NoRoom { retry_after }
            }
        }
    }
}
