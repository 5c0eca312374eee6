//! Keeps a request's reservation in step with its memory. Every part of the work reports what it holds, and
//! the reservation grows when the sum exceeds it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::budget::{Budget, BudgetError, Permit, Reservation};

/// The minimum step by which a reservation grows, in bytes, so that not every block needs the shared budget.
const GROWTH_STEP_BYTES: u64 = 4 << 20;

/// The memory that one request holds. Clones are cheap.
#[derive(Clone, Debug)]
pub(super) struct MemoryAccount {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug)]
struct Held {
    reservation: Reservation,
    bytes: u64,
}

/// The memory that one part of a request holds. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    account: MemoryAccount,
    bytes: u64,
}

/// Memory for a short piece of work. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct WorkMemory {
    _permit: Permit,
    _beyond: Share,
}

impl MemoryAccount {
    pub(super) fn new(reservation: Reservation) -> Self {
        Self { held: Arc::new(Mutex::new(Held { reservation, bytes: 0 })) }
    }

    /// Returns an empty share.
    pub(super) fn share(&self) -> Share {
        Share { account: self.clone(), bytes: 0 }
    }

    /// The memory that all parts hold together, in bytes.
    pub(super) fn held(&self) -> u64 {
        self.with(|held| held.bytes)
    }

    /// Gives back what is reserved beyond what is held plus `more`, after the part of the work that can grow.
    pub(super) fn shrink_to_held(&self, more: u64) {
        self.with(|held| held.reservation.shrink_to(held.bytes + more));
    }

    /// Whether other callers wait for memory.
    pub(super) fn is_waited_for(&self) -> bool {
        self.with(|held| held.reservation.budget().others_wait(held.reservation.caller_id()))
    }

    /// Gives back what is reserved beyond what is held, but keeps at least `keep` bytes reserved.
    pub(super) fn release_excess(&self, keep: u64) {
        self.with(|held| held.reservation.shrink_to(held.bytes.max(keep)));
    }

    /// Grows the reservation to `bytes` again, at once or after a wait in the queue. Little is held during
    /// the wait, and the wait ends at a timeout. So the wait of others for this memory ends, too.
    pub(super) async fn regrow(&self, bytes: u64, wait_max: Duration) -> Result<(), BudgetError> {
        let lacking = self.with(|held| {
            let lacking = bytes.saturating_sub(held.reservation.bytes());
            if lacking == 0 || held.reservation.grow(lacking).is_ok() {
                return None;
            }
            Some((held.reservation.caller_id().clone(), lacking))
        });
        let Some((caller_id, lacking)) = lacking else { return Ok(()) };
        let more = self.budget().reserve(&caller_id, lacking, wait_max).await?;
        self.with(|held| held.reservation.absorb(more));
        Ok(())
    }

    /// Reserves `bytes` for the whole request now, because other requests could take them later. This is a
    /// forecast: if `bytes` can never fit, it is refused only if they are far more than the budget.
    pub(super) fn reserve_forecast(&self, bytes: u64) -> Result<(), BudgetError> {
        self.with(|held| {
            let Some(lacking) = bytes.checked_sub(held.reservation.bytes()).filter(|lacking| *lacking > 0)
            else {
                return Ok(());
            };
            match held.reservation.grow(lacking) {
                Err(BudgetError::NeverFits { budget_bytes, .. }) if bytes - bytes / 5 <= budget_bytes => {
                    Ok(())
                }
                grown => grown,
            }
        })
    }

    /// Waits for `bytes` more memory for a short piece of work: a permit, and what exceeds the largest permit from the request's own
    /// reservation. The request holds other memory while it waits, so the holder of a permit must not wait for memory.
    pub(super) async fn work_memory(&self, bytes: u64) -> Result<WorkMemory, BudgetError> {
        let permit = self.budget().permit(bytes).await;
        self.work_memory_from(permit, bytes)
    }

    /// The same, without waiting. `None` if there is no memory now.
    pub(super) fn try_work_memory(&self, bytes: u64) -> Option<WorkMemory> {
        let permit = self.budget().try_permit(bytes)?;
        self.work_memory_from(permit, bytes).ok()
    }

    fn work_memory_from(&self, permit: Permit, bytes: u64) -> Result<WorkMemory, BudgetError> {
        let mut beyond = self.share();
        beyond.set(bytes - permit.bytes())?;
        Ok(WorkMemory { _permit: permit, _beyond: beyond })
    }

    fn budget(&self) -> Budget {
        self.with(|held| held.reservation.budget().clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Held) -> T) -> T {
        act(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Share {
    /// Returns an empty share of the same request.
    pub(super) fn another(&self) -> Self {
        self.account.share()
    }

    /// The memory that this part holds, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets what this part holds, in bytes. After an error the share is unchanged.
    pub(super) fn set(&mut self, bytes: u64) -> Result<(), BudgetError> {
        let before = self.bytes;
        self.account.with(|held| {
            let after = held.bytes - before + bytes;
            if let Some(lacking) = after.checked_sub(held.reservation.bytes()).filter(|lacking| *lacking > 0)
            {
                let step = lacking.max(GROWTH_STEP_BYTES);
                held.reservation.grow(step).or_else(|_| held.reservation.grow(lacking))?;
            }
            held.bytes = after;
            Ok(())
        })?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.account.with(|held| held.bytes -= self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Limits;
    use crate::ids::CallerId;

    const MIB: u64 = 1 << 20;

    async fn meter_of(budget: &Budget, bytes: u64) -> MemoryAccount {
        MemoryAccount::new(
            budget.reserve(&CallerId::default(), bytes, Duration::ZERO).await.expect("there is room"),
        )
    }

    #[tokio::test]
    async fn a_reservation_grows_with_what_its_parts_hold_and_is_given_back_with_them() {
        let budget = Budget::new(64 * MIB);
        let account = meter_of(&budget, MIB).await;
        let (mut one, mut other) = (account.share(), account.share());
        one.set(10 * MIB).expect("the budget has room");
        assert!(budget.usage().reserved_bytes >= 10 * MIB);
        let refused = other.set(60 * MIB).expect_err("70 MiB in all");
        assert!(matches!(refused, BudgetError::NeverFits { .. }), "{refused:?}");
        drop(one);
        other.set(60 * MIB).expect("the other part has gone");
        drop((other, account));
        assert_eq!(budget.usage().reserved_bytes, 0);
    }

    #[tokio::test]
    async fn short_work_gets_a_permit_even_where_all_is_reserved() {
        let budget =
            Budget::with_limits(Limits { total_bytes: 8 * MIB, permits_bytes: 4 * MIB, ..Limits::default() });
        let account = meter_of(&budget, 8 * MIB).await;
        let mut part = account.share();
        part.set(8 * MIB).expect("reserved");
        let first = account.try_work_memory(3 * MIB).expect("set aside for this");
        assert!(account.try_work_memory(3 * MIB).is_none());
        let mut second = Box::pin(account.work_memory(3 * MIB));
        assert!(
            tokio::time::timeout(Duration::from_millis(5), &mut second).await.is_err(),
            "the first one holds the memory"
        );
        drop(first);
        drop(second.await.expect("the first one has gone"));
        let refused = account.work_memory(5 * MIB).await.expect_err("one more than is set aside");
        assert!(matches!(refused, BudgetError::NeverFits { .. }), "{refused:?}");
        part.set(7 * MIB).expect("less");
        drop(account.work_memory(5 * MIB).await.expect("one is from its own"));
    }

    #[tokio::test]
    async fn what_is_foreseen_is_reserved_at_once_or_refused_at_once() {
        let budget = Budget::new(64 * MIB);
        let account = meter_of(&budget, MIB).await;
        account.reserve_forecast(40 * MIB).expect("it fits");
        assert_eq!(budget.usage().reserved_bytes, 40 * MIB);
        account.reserve_forecast(70 * MIB).expect("a little too much may be a wrong forecast");
        assert!(matches!(account.reserve_forecast(130 * MIB), Err(BudgetError::NeverFits { .. })));
        let second = meter_of(&budget, MIB).await;
        assert!(matches!(second.reserve_forecast(40 * MIB), Err(BudgetError::NoRoom { .. })));
    }
}
