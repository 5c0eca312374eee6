//! The memory of all reads of copies.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::budget::{Budget, BudgetError, Reservation};
use crate::ids::CallerId;

/// The part of the budget that reads may hold together: a reader that stops reading keeps its part, and new
/// segments must still come in.
const READS_PART: u64 = 2;

/// The bytes that one unit of the semaphore stands for.
const UNIT_BYTES: u64 = 4 << 10;

/// When a read should try again if other reads hold all of their part.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A part of a budget. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ReadMemory {
    budget: Budget,
    reads: Arc<Semaphore>,
    reads_bytes: u64,
    wait_max: Duration,
}

/// The memory of one read. It is given back when this is dropped.
#[derive(Debug)]
pub struct ReadReservation {
    _reservation: Reservation,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ReadMemory {
    pub fn new(budget: Budget, wait_max: Duration) -> Self {
        let units = budget.usage().total_bytes / READS_PART / UNIT_BYTES;
        let reads = Arc::new(Semaphore::new(units as usize));
        Self { budget, reads, reads_bytes: units * UNIT_BYTES, wait_max }
    }

    /// Reserves memory for as long as a read lasts.
    pub async fn reserve(&self, caller_id: &CallerId, bytes: u64) -> Result<ReadReservation, BudgetError> {
        if bytes > self.reads_bytes {
            return Err(BudgetError::NeverFits { wanted_bytes: bytes, budget_bytes: self.reads_bytes });
        }
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let permit = timeout(self.wait_max, Arc::clone(&self.reads).acquire_many_owned(units)).await;
        let permit = permit.map_err(|_| BudgetError::NoRoom {
            wanted_bytes: bytes,
            budget_bytes: self.reads_bytes,
            retry_after: RETRY_AFTER,
        })?;
        let reservation = self.budget.reserve(caller_id, bytes, self.wait_max).await?;
        // Never closed, so there is a permit.
        Ok(ReadReservation { _reservation: reservation, _permit: permit.ok() })
    }
}
