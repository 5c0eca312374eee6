//! The memory and the threads that all searches of a process share.
//!
//! A search reserves the memory that lasts as long as it does when it begins: for its list of bundles, what
//! it opened, and the hits that it keeps. Memory for a short time, for a leaf of an index or for blocks of
//! records, is taken by a [`Permit`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::SearchError;
use crate::archive::Fault;
use crate::budget::{Budget, BudgetError, Limits, Permit, Reservation};
use crate::ids::CallerId;
use crate::spans;

/// The part of the memory that searches reserve. The rest is for permits.
const RESERVED_PART: f64 = 0.375;

/// The part of the permits that is kept free for small ones, and their size: a search looks at many leaves of
/// some hundred kilobytes, and each of them would wait for a record of tens of megabytes.
const SMALL_PERMITS_PART: u64 = 8;

/// The part of the reserved memory that fetches may hold together. A fetch that waits for its reader keeps
/// its part; searches go on.
const FETCHES_PART: f64 = 2.0 / 3.0;

/// When a fetch should try again if other fetches hold all of that part.
const FETCH_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The bytes that one unit of the fetches' semaphore stands for.
const FETCHES_UNIT_BYTES: u64 = 4 << 10;

/// The memory to read the frames of a block, in bytes. Most frames need less.
const WORK_BYTES_MIN: u64 = 64 << 10;
const WORK_BYTES_MAX: u64 = 6 << 20;

/// The memory and the threads; clones share them.
#[derive(Clone, Debug)]
pub(super) struct SearchMemory {
    budget: Budget,
    threads: Arc<Semaphore>,
    alone: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    fetches_bytes: u64,
    caller_id: CallerId,
}

/// The memory that a fetch holds as long as it lasts.
#[derive(Debug)]
pub struct FetchMemory {
    /// The reserved memory.
    pub reservation: Reservation,
    /// Its share of the fetches' part.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl SearchMemory {
    pub fn new(memory_bytes: u64) -> Self {
        let reservable_bytes = (memory_bytes as f64 * RESERVED_PART) as u64;
        let permits_bytes = memory_bytes - reservable_bytes;
        let fetches_units = (reservable_bytes as f64 * FETCHES_PART) as u64 / FETCHES_UNIT_BYTES;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            budget: Budget::with_limits(Limits {
                total_bytes: reservable_bytes,
                permits_bytes,
                small_permits_bytes: permits_bytes / SMALL_PERMITS_PART,
                ..Limits::default()
            }),
            threads: Arc::new(Semaphore::new(threads)),
            alone: Arc::new(Semaphore::new(1)),
            fetches: Arc::new(Semaphore::new(fetches_units as usize)),
            fetches_bytes: fetches_units * FETCHES_UNIT_BYTES,
            caller_id: CallerId::default(),
        }
    }

    /// The same memory, for requests of `caller_id`.
    pub fn for_caller(self, caller_id: CallerId) -> Self {
        Self { caller_id, ..self }
    }

    /// The budget, for fetches.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The bytes that searches can reserve together.
    pub fn reservable_bytes(&self) -> u64 {
        self.budget.usage().total_bytes
    }

    /// The bytes of all permits together.
    pub fn permits_bytes(&self) -> u64 {
        self.budget.permits_bytes()
    }

    /// The most bytes that one permit can have.
    pub fn largest_permit(&self) -> u64 {
        self.budget.largest_permit()
    }

    /// A permit for an answer that waits for its reader: see [`Budget::delivery`].
    pub async fn delivery(&self, bytes: u64) -> Permit {
        self.budget.delivery(bytes).await
    }

    /// The memory to read the frames of one block, in bytes, beside the block and its records.
    pub fn work_bytes(&self) -> u64 {
        (self.permits_bytes() / 12).clamp(WORK_BYTES_MIN, WORK_BYTES_MAX)
    }

    /// Reserves memory for as long as a search lasts. Waits for it without a limit: each search has a
    /// deadline.
    pub async fn reserve(&self, bytes: u64) -> Result<Reservation, SearchError> {
        self.reserve_within(bytes, Duration::MAX).await
    }

    async fn reserve_within(&self, bytes: u64, wait_max: Duration) -> Result<Reservation, SearchError> {
        Ok(self.budget.reserve(&self.caller_id, bytes, wait_max).await?)
    }

    /// The bytes that fetches may hold together.
    pub fn fetches_bytes(&self) -> u64 {
        self.fetches_bytes
    }

    /// Reserves memory for a fetch, at most [`SearchMemory::fetches_bytes`]. Waits for up to `wait_max`,
    /// since a fetch has no deadline.
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

    /// A permit for work whose memory has no bound: one at a time.
    pub async fn alone(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.alone).acquire_owned().await.ok()
    }

    /// A permit for nothing yet.
    pub fn permit(&self) -> SearchPermit {
        SearchPermit { memory: self.clone(), permit: Permit::default() }
    }

    /// Runs blocking work, as many pieces at a time as there are cores. A piece keeps its thread until it
    /// ends, also when its caller has gone.
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

/// The permit of one piece of work: a leaf of an index, or a page of records.
#[derive(Debug)]
pub(super) struct SearchPermit {
    memory: SearchMemory,
    permit: Permit,
}

impl SearchPermit {
    /// Makes it a permit for so many bytes. Where they are not free at once, `drop_all` drops what the work
    /// holds, and all its memory is given back before it waits: a waiting piece of work holds no permit.
    pub async fn grow_to(&mut self, bytes: u64, drop_all: impl FnOnce()) -> Result<(), SearchError> {
        let (budget, largest) = (&self.memory.budget, self.memory.largest_permit());
        if bytes <= self.permit.bytes() {
            return Ok(());
        }
        if bytes > largest {
            return Err(SearchError::TooLarge { needed_bytes: bytes, there_are_bytes: largest });
        }
        if !budget.try_grow_permit(&mut self.permit, bytes) {
            drop_all();
            self.permit = Permit::default();
            self.permit = budget.permit(bytes).await;
        }
        Ok(())
    }

    /// Gives back what exceeds so many bytes.
    pub fn shrink_to(&mut self, bytes: u64) {
        self.permit.shrink_to(bytes);
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
