//! Keeps a request's memory in step with its reservation: every part of the work says what it holds, and the
//! reservation grows when the sum passes it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::budget::{Budget, BudgetError, Permit, Reservation};

/// Growing takes at least this much at a time, so that the shared budget is not asked for every block.
const GROWTH_STEP_BYTES: u64 = 4 << 20;

/// What one request holds; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct MemoryAccount {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug)]
struct Held {
    reservation: Reservation,
    bytes: u64,
}

/// One part's share of what a request holds; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    account: MemoryAccount,
    bytes: u64,
}

/// Room for a short piece of work; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    _permit: Permit,
    _beyond: Share,
}

impl MemoryAccount {
    pub(super) fn new(reservation: Reservation) -> Self {
        Self { held: Arc::new(Mutex::new(Held { reservation, bytes: 0 })) }
    }

    /// A share of nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { account: self.clone(), bytes: 0 }
    }

    /// What all parts hold together, in bytes.
    pub(super) fn held(&self) -> u64 {
        self.with(|held| held.bytes)
    }

    /// Gives back what was reserved beyond what is held and `more`: the part of the work that can grow is over.
    pub(super) fn settle(&self, more: u64) {
        self.with(|held| held.reservation.shrink_to(held.bytes + more));
    }

    /// Whether other callers wait for what is reserved here.
    pub(super) fn is_waited_for(&self) -> bool {
        self.with(|held| held.reservation.budget().others_wait(held.reservation.caller_id()))
    }

    /// Gives back what was reserved beyond what is held, but for `keep` bytes in all.
    pub(super) fn give_way(&self, keep: u64) {
        self.with(|held| held.reservation.shrink_to(held.bytes.max(keep)));
    }

    /// Reserves `bytes` in all once more, at once or in turn. What is held meanwhile is little, and the wait has an end: so others that wait for it
    /// have one, too.
    pub(super) async fn take_again(&self, bytes: u64, wait_max: Duration) -> Result<(), BudgetError> {
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

    /// The whole request is going to hold about `bytes`: takes them now rather than half-way, when others have taken them.
    /// What seems never to fit is refused only where it is far too much, for this is a forecast.
    pub(super) fn foresee(&self, bytes: u64) -> Result<(), BudgetError> {
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
    pub(super) async fn room(&self, bytes: u64) -> Result<Room, BudgetError> {
        let permit = self.budget().permit(bytes).await;
        self.room_in(permit, bytes)
    }

    /// The same without waiting.
    pub(super) fn room_now(&self, bytes: u64) -> Option<Room> {
        let permit = self.budget().try_permit(bytes)?;
        self.room_in(permit, bytes).ok()
    }

    fn room_in(&self, permit: Permit, bytes: u64) -> Result<Room, BudgetError> {
        let mut beyond = self.share();
        beyond.set(bytes - permit.bytes())?;
        Ok(Room { _permit: permit, _beyond: beyond })
    }

    fn budget(&self) -> Budget {
        self.with(|held| held.reservation.budget().clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Held) -> T) -> T {
        act(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Share {
    /// Another part of the same request, which holds nothing yet.
    pub(super) fn another(&self) -> Self {
        self.account.share()
    }

    /// What this part holds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// This part now holds `bytes`. An error leaves the share as it was.
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
        let first = account.room_now(3 * MIB).expect("set aside for this");
        assert!(account.room_now(3 * MIB).is_none());
        let mut second = Box::pin(account.room(3 * MIB));
        assert!(
            tokio::time::timeout(Duration::from_millis(5), &mut second).await.is_err(),
            "the first one holds the memory"
        );
        drop(first);
        drop(second.await.expect("the first one has gone"));
        let refused = account.room(5 * MIB).await.expect_err("one more than is set aside");
        assert!(matches!(refused, BudgetError::NeverFits { .. }), "{refused:?}");
        part.set(7 * MIB).expect("less");
        drop(account.room(5 * MIB).await.expect("one is from its own"));
    }

    #[tokio::test]
    async fn what_is_foreseen_is_reserved_at_once_or_refused_at_once() {
        let budget = Budget::new(64 * MIB);
        let account = meter_of(&budget, MIB).await;
        account.foresee(40 * MIB).expect("it fits");
        assert_eq!(budget.usage().reserved_bytes, 40 * MIB);
        account.foresee(70 * MIB).expect("a little too much may be a wrong forecast");
        assert!(matches!(account.foresee(130 * MIB), Err(BudgetError::NeverFits { .. })));
        let second = meter_of(&budget, MIB).await;
        assert!(matches!(second.foresee(40 * MIB), Err(BudgetError::NoRoom { .. })));
    }
}
