//! The process-wide byte budget: whoever wants memory for a segment reserves it first, waits in order, and gets it or
//! an error. Received bytes, the index under construction, record blocks and uploads all count. Knows nothing of them.
//!
//! A part of it can be set aside for short work that already holds other memory and must wait for more ([`Budget::turn`]): whoever
//! holds a part of that waits for nothing else, so that it always comes round.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::timeout;

/// What one permit of the semaphore stands for. Semaphores hand out at most `u32::MAX` permits at once: 16 TiB.
const UNIT_BYTES: u64 = 4 * 1024;

/// Bytes that all requests of a process share; cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    units: Arc<Semaphore>,
    total_bytes: u64,
    /// What is set aside for turns.
    turns: Arc<Semaphore>,
    turns_bytes: u64,
    waiting_requests: AtomicU64,
    waiting_bytes: AtomicU64,
}

/// Why bytes were not reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// More than the whole budget: waiting would not help.
    #[error("{wanted_bytes} bytes are more than the whole budget of {budget_bytes}")]
    NeverFits {
        /// What was asked for.
        wanted_bytes: u64,
        /// What there is in all.
        budget_bytes: u64,
    },
    /// Others hold the memory now.
    #[error("{wanted_bytes} bytes are not free now, of a budget of {budget_bytes}")]
    NoRoom {
        /// What was asked for.
        wanted_bytes: u64,
        /// What there is in all.
        budget_bytes: u64,
    },
}

/// How the budget stands at this moment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetUse {
    /// The whole budget.
    pub total_bytes: u64,
    /// What is reserved.
    pub reserved_bytes: u64,
    /// Requests that wait for their reservation.
    pub waiting_requests: u64,
    /// What they wait for.
    pub waiting_bytes: u64,
}

impl Budget {
    /// A budget of `total_bytes`, rounded down to 4 KiB, at least that.
    pub fn new(total_bytes: u64) -> Self {
        Self::with_turns(total_bytes, 0)
    }

    /// The same, and `turns_bytes` beside them that are only handed out as turns.
    pub fn with_turns(total_bytes: u64, turns_bytes: u64) -> Self {
        let units = (total_bytes / UNIT_BYTES).clamp(1, u64::from(u32::MAX));
        let turns = (turns_bytes / UNIT_BYTES).min(u64::from(u32::MAX));
        Self {
            shared: Arc::new(Shared {
                units: Arc::new(Semaphore::new(units as usize)),
                total_bytes: units * UNIT_BYTES,
                turns: Arc::new(Semaphore::new(turns as usize)),
                turns_bytes: turns * UNIT_BYTES,
                waiting_requests: AtomicU64::new(0),
                waiting_bytes: AtomicU64::new(0),
            }),
        }
    }

    /// Reserves `bytes`, first come first served, waiting for up to `wait_max`.
    pub async fn reserve(&self, bytes: u64, wait_max: Duration) -> Result<Reservation, BudgetError> {
        let units = self.units_for(bytes, bytes)?;
        let _waiting = Waiting::enter(&self.shared, bytes);
        match timeout(wait_max, self.shared.units.clone().acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Reservation { budget: self.clone(), permit }),
            Ok(Err(_)) | Err(_) => Err(self.no_room(bytes)),
        }
    }

    /// Up to `bytes` of what is set aside for turns, first come first served; all of it where `bytes` are more than there is. To be
    /// held for a piece of work that waits for no memory, and so comes to its end.
    pub async fn turn(&self, bytes: u64) -> Turn {
        let (bytes, units) = self.turn_of(bytes);
        // Never closed: there is always an answer.
        let permit = self.shared.turns.clone().acquire_many_owned(units).await.ok();
        Turn { bytes, _permit: permit }
    }

    /// The same at once, or not at all.
    pub fn turn_now(&self, bytes: u64) -> Option<Turn> {
        let (bytes, units) = self.turn_of(bytes);
        let permit = self.shared.turns.clone().try_acquire_many_owned(units).ok()?;
        Some(Turn { bytes, _permit: Some(permit) })
    }

    /// What there is of so many bytes, also in units.
    fn turn_of(&self, bytes: u64) -> (u64, u32) {
        let bytes = bytes.min(self.shared.turns_bytes);
        (bytes, u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX))
    }

    /// How it stands now.
    pub fn usage(&self) -> BudgetUse {
        let free = self.shared.units.available_permits() as u64 * UNIT_BYTES;
        BudgetUse {
            total_bytes: self.shared.total_bytes,
            reserved_bytes: self.shared.total_bytes - free,
            waiting_requests: self.shared.waiting_requests.load(Ordering::Relaxed),
            waiting_bytes: self.shared.waiting_bytes.load(Ordering::Relaxed),
        }
    }

    /// `in_all` is what the caller would hold afterwards.
    fn units_for(&self, bytes: u64, in_all: u64) -> Result<u32, BudgetError> {
        let budget_bytes = self.shared.total_bytes;
        let never_fits = BudgetError::NeverFits { wanted_bytes: in_all, budget_bytes };
        if in_all > budget_bytes {
            return Err(never_fits);
        }
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).map_err(|_| never_fits)
    }

    fn no_room(&self, wanted_bytes: u64) -> BudgetError {
        BudgetError::NoRoom { wanted_bytes, budget_bytes: self.shared.total_bytes }
    }
}

/// Counts a request as waiting for as long as it lives, also when its future is dropped.
struct Waiting<'a> {
    shared: &'a Shared,
    bytes: u64,
}

impl<'a> Waiting<'a> {
    fn enter(shared: &'a Shared, bytes: u64) -> Self {
        shared.waiting_requests.fetch_add(1, Ordering::Relaxed);
        shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { shared, bytes }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting_requests.fetch_sub(1, Ordering::Relaxed);
        self.shared.waiting_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of those that are set aside, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    bytes: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Bytes that belong to one request until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// What is held, in bytes.
    pub fn bytes(&self) -> u64 {
        self.permit.num_permits() as u64 * UNIT_BYTES
    }

    /// What it is a part of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Takes `more` bytes at once or not at all: a request that already holds memory must not wait for others that do.
    pub fn grow(&mut self, more: u64) -> Result<(), BudgetError> {
        let units = self.budget.units_for(more, self.bytes() + more)?;
        match self.budget.shared.units.clone().try_acquire_many_owned(units) {
            Ok(permit) => {
                self.permit.merge(permit);
                Ok(())
            }
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => Err(self.budget.no_room(more)),
        }
    }

    /// Gives back what exceeds `keep` bytes.
    pub fn shrink_to(&mut self, keep: u64) {
        let surplus = self.permit.num_permits().saturating_sub(keep.div_ceil(UNIT_BYTES) as usize);
        drop(self.permit.split(surplus));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn what_can_never_fit_is_refused_at_once_and_for_good() {
        let budget = Budget::new(MIB);
        let error = budget.reserve(MIB + 1, Duration::MAX).await.expect_err("too much");
        assert_eq!(error, BudgetError::NeverFits { wanted_bytes: MIB + 1, budget_bytes: MIB });
    }

    #[tokio::test]
    async fn a_request_waits_for_room_and_gets_it_when_another_ends() {
        let budget = Budget::new(MIB);
        let first = budget.reserve(MIB, Duration::ZERO).await.expect("the budget is free");
        assert!(matches!(budget.reserve(1, Duration::from_millis(5)).await, Err(BudgetError::NoRoom { .. })));
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(MIB, Duration::from_secs(60)).await.map(|r| r.bytes()) }
        });
        while budget.usage().waiting_requests == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(budget.usage().waiting_bytes, MIB);
        drop(first);
        assert_eq!(waiting.await.expect("no panic"), Ok(MIB));
        assert_eq!(budget.usage().reserved_bytes, 0);
        assert_eq!(budget.usage().waiting_requests, 0);
    }

    #[tokio::test]
    async fn turns_come_round_whatever_is_reserved_and_take_nothing_of_it() {
        let budget = Budget::with_turns(MIB, 4 * MIB);
        let _all = budget.reserve(MIB, Duration::ZERO).await.expect("free");
        let (one, other) = (budget.turn(MIB).await, budget.turn(3 * MIB).await);
        assert_eq!((one.bytes(), other.bytes()), (MIB, 3 * MIB));
        assert!(budget.turn_now(1).is_none());
        let mut third = Box::pin(budget.turn(9 * MIB));
        assert!(timeout(Duration::from_millis(5), &mut third).await.is_err(), "nothing is left");
        drop((one, other));
        assert_eq!(third.await.bytes(), 4 * MIB, "all there is");
        assert_eq!(Budget::new(MIB).turn(MIB).await.bytes(), 0, "nothing is set aside");
    }

    #[tokio::test]
    async fn a_reservation_grows_at_once_or_not_at_all_and_shrinks() {
        let budget = Budget::new(4 * MIB);
        let mut one = budget.reserve(MIB, Duration::ZERO).await.expect("free");
        let other = budget.reserve(2 * MIB, Duration::ZERO).await.expect("free");
        one.grow(MIB).expect("one MiB is left");
        assert!(matches!(one.grow(1), Err(BudgetError::NoRoom { .. })));
        drop(other);
        assert!(matches!(one.grow(3 * MIB), Err(BudgetError::NeverFits { .. })));
        one.grow(2 * MIB).expect("the other has gone");
        one.shrink_to(MIB);
        assert_eq!((one.bytes(), budget.usage().reserved_bytes), (MIB, MIB));
    }
}
