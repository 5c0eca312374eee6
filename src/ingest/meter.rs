//! Keeps a request's memory in step with its reservation: every part of the work says what it holds, and the
//! reservation grows when the sum passes it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::budget::{BudgetError, Reservation};

/// Growing takes at least this much at a time, so that the shared budget is not asked for every block.
const GROWTH_STEP_BYTES: u64 = 4 << 20;

/// What one request holds; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Meter {
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
    meter: Meter,
    bytes: u64,
}

impl Meter {
    pub(super) fn new(reservation: Reservation) -> Self {
        Self { held: Arc::new(Mutex::new(Held { reservation, bytes: 0 })) }
    }

    /// A share of nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { meter: self.clone(), bytes: 0 }
    }

    /// Gives back what was reserved beyond what is held: the part of the work that can grow is over.
    pub(super) fn settle(&self) {
        self.with(|held| held.reservation.shrink_to(held.bytes));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Held) -> T) -> T {
        act(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Share {
    /// This part now holds `bytes`. An error leaves the share as it was.
    pub(super) fn set(&mut self, bytes: u64) -> Result<(), BudgetError> {
        let before = self.bytes;
        self.meter.with(|held| {
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
        self.meter.with(|held| held.bytes -= self.bytes);
    }
}
