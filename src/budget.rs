//! The byte budget of a process. A request reserves memory before it uses it: it waits in a queue, and gets
//! the memory or an error. Received bytes, the index under construction, record blocks and uploads all count.
//! This module does not know what the memory is for.
//!
//! Requests of one caller are served in order. Between callers the queue is fair: while another caller waits,
//! no caller gets more than half (`queue`).
//!
//! A part of the memory can be set aside for short work that already holds other memory and must wait for
//! more: permits ([`Budget::permit`]).

mod permits;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::ids::CallerId;

pub use permits::{Delivery, Permit};

use permits::Permits;
use queue::{Queue, Unserved};

/// How many requests may wait at a time by default.
const WAITING_MAX: usize = 4 << 10;

/// How often a waiting request checks whether it may have more than half now. Nothing wakes it when the other
/// callers stay away.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Bytes that all requests of a process share; cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue<Waiter>>,
    total_bytes: u64,
    permits: Permits,
}

/// The sizes of a budget.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What requests can reserve together, in bytes; at least one.
    pub total_bytes: u64,
    /// What is set aside for permits beside that, in bytes.
    pub permits_bytes: u64,
    /// What of the permits is kept free for small ones, in bytes: those of up to so many bytes.
    pub small_permits_bytes: u64,
    /// How many requests may wait for a reservation at a time.
    pub waiting_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total_bytes: 1, permits_bytes: 0, small_permits_bytes: 0, waiting_max: WAITING_MAX }
    }
}

/// Where a waiting request gets its answer. An answer to a request that has gone is dropped, which gives the
/// memory back.
type Waiter = oneshot::Sender<Result<Reservation, Unserved>>;

/// Why bytes were not reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// The request is larger than the whole budget. Waiting does not help.
    #[error("{wanted_bytes} bytes are more than the whole budget of {budget_bytes}")]
    NeverFits {
        /// The requested bytes.
        wanted_bytes: u64,
        /// The whole budget, in bytes.
        budget_bytes: u64,
    },
    /// Other requests hold the memory now.
    #[error("{wanted_bytes} bytes are not free now, of a budget of {budget_bytes}")]
    NoRoom {
        /// The requested bytes.
        wanted_bytes: u64,
        /// The whole budget, in bytes.
        budget_bytes: u64,
        /// When to try again: estimated from the rate at which memory is given back, and from what waits.
        retry_after: Duration,
    },
    /// Too many requests wait, and no other caller has more waiting requests than this one.
    #[error("{waiting_max} requests wait for memory already")]
    TooManyWait {
        /// How many requests may wait.
        waiting_max: usize,
        /// When to try again.
        retry_after: Duration,
    },
}

/// The use of a budget at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetUse {
    /// The whole budget, in bytes.
    pub total_bytes: u64,
    /// Reserved bytes.
    pub reserved_bytes: u64,
    /// Requests that wait for their reservation.
    pub waiting_requests: u64,
    /// The bytes that they wait for.
    pub waiting_bytes: u64,
}

impl Budget {
    /// A budget of `total_bytes`, at least one, without permits.
    pub fn new(total_bytes: u64) -> Self {
        Self::with_limits(Limits { total_bytes, ..Limits::default() })
    }

    /// A budget of these sizes.
    pub fn with_limits(limits: Limits) -> Self {
        let total_bytes = limits.total_bytes.max(1);
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue::new(total_bytes, limits.waiting_max)),
                total_bytes,
                permits: Permits::new(limits.permits_bytes, limits.small_permits_bytes),
            }),
        }
    }

    /// Reserves `bytes` for `caller_id`. Waits for them in the queue, for up to `wait_max`.
    pub async fn reserve(
        &self,
        caller_id: &CallerId,
        bytes: u64,
        wait_max: Duration,
    ) -> Result<Reservation, BudgetError> {
        self.check_fits(bytes)?;
        let (waiter, mut answer) = oneshot::channel();
        let id = self.change(|queue, now| queue.ask(caller_id, bytes, waiter, now));
        let waiting = Waiting { budget: self, caller_id, id };
        let served = async {
            loop {
                match timeout(LOOK_AGAIN, &mut answer).await {
                    Ok(answer) => break answer,
                    Err(_) => self.change(|_, _| ()),
                }
            }
        };
        let served = timeout(wait_max, served).await;
        drop(waiting);
        match served {
            Ok(Ok(Ok(reservation))) => Ok(reservation),
            Ok(Ok(Err(Unserved::TooManyWait))) => Err(self.too_many_wait()),
            // The queue answers each request; a dropped sender counts as no room.
            Ok(Err(_)) | Err(_) => Err(self.no_room(bytes)),
        }
    }

    /// The bytes of all permits together.
    pub fn permits_bytes(&self) -> u64 {
        self.shared.permits.bytes()
    }

    /// The most bytes that one permit can have.
    pub fn largest_permit(&self) -> u64 {
        self.shared.permits.largest()
    }

    /// The bytes that answers may hold together while they wait for their readers.
    pub fn deliveries_bytes(&self) -> u64 {
        self.shared.permits.deliveries_bytes()
    }

    /// Waits for a permit for `bytes`, or for [`Budget::largest_permit`] where that is less. Its holder must
    /// not wait for other memory.
    pub async fn permit(&self, bytes: u64) -> Permit {
        self.shared.permits.take(bytes).await
    }

    /// The same without waiting; `None` where that many bytes are not free.
    pub fn try_permit(&self, bytes: u64) -> Option<Permit> {
        self.shared.permits.try_take(bytes)
    }

    /// Makes `permit` one for `bytes` without waiting. Returns whether it is; it stays as it is otherwise.
    pub fn try_grow_permit(&self, permit: &mut Permit, bytes: u64) -> bool {
        self.shared.permits.try_grow(permit, bytes)
    }

    /// Waits for a permit to keep up to `bytes` of an answer until its reader has it, or up to
    /// [`Budget::deliveries_bytes`] where that is less. To be taken before the permit for the memory itself,
    /// and to be held as long.
    pub async fn delivery(&self, bytes: u64) -> Permit {
        self.shared.permits.delivery(bytes).await
    }

    /// The use of the budget now.
    pub fn usage(&self) -> BudgetUse {
        self.with(|queue| BudgetUse {
            total_bytes: self.shared.total_bytes,
            reserved_bytes: queue.held_bytes(),
            waiting_requests: queue.waiting() as u64,
            waiting_bytes: queue.waiting_bytes(),
        })
    }

    /// Whether another caller than `caller_id` waits for memory.
    pub fn others_wait(&self, caller_id: &CallerId) -> bool {
        self.with(|queue| queue.others_wait(caller_id))
    }

    /// `in_all` is what the caller would hold afterwards, in bytes.
    fn check_fits(&self, in_all: u64) -> Result<(), BudgetError> {
        let budget_bytes = self.shared.total_bytes;
        match in_all > budget_bytes {
            true => Err(BudgetError::NeverFits { wanted_bytes: in_all, budget_bytes }),
            false => Ok(()),
        }
    }

    fn no_room(&self, wanted_bytes: u64) -> BudgetError {
        let retry_after = self.with(|queue| queue.retry_after(wanted_bytes, Instant::now()));
        BudgetError::NoRoom { wanted_bytes, budget_bytes: self.shared.total_bytes, retry_after }
    }

    fn too_many_wait(&self) -> BudgetError {
        let (waiting_max, retry_after) =
            self.with(|queue| (queue.waiting_max(), queue.retry_after(0, Instant::now())));
        BudgetError::TooManyWait { waiting_max, retry_after }
    }

    /// Changes the queue, then serves the requests that this lets through. Answers are sent after the queue
    /// is unlocked: a request that has gone gives its memory back at once, which locks the queue again.
    fn change<T>(&self, act: impl FnOnce(&mut Queue<Waiter>, Instant) -> T) -> T {
        let now = Instant::now();
        let (changed, served) = self.with(|queue| (act(queue, now), queue.serve(now)));
        for one in served.granted {
            let reservation =
                Reservation { budget: self.clone(), caller_id: one.caller_id, bytes: one.bytes };
            let _ = one.waiter.send(Ok(reservation));
        }
        for waiter in served.turned_away {
            let _ = waiter.send(Err(Unserved::TooManyWait));
        }
        changed
    }

    /// A panic cannot leave the queue half changed, so a poisoned lock is used on.
    fn with<T>(&self, act: impl FnOnce(&mut Queue<Waiter>) -> T) -> T {
        act(&mut self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A request in the queue. It leaves the queue when this is dropped, also when its future is dropped.
struct Waiting<'a> {
    budget: &'a Budget,
    caller_id: &'a CallerId,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.budget.change(|queue, now| queue.leave(self.caller_id, self.id, now));
    }
}

/// Bytes that belong to one request until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    caller_id: CallerId,
    bytes: u64,
}

impl Reservation {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The budget that it is a part of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Takes `more` bytes at once or not at all: a request that holds memory must not wait for other requests
    /// that hold memory. It goes before requests that hold none, since they get memory only when it ends.
    pub fn grow(&mut self, more: u64) -> Result<(), BudgetError> {
        self.budget.check_fits(self.bytes.saturating_add(more))?;
        let now = Instant::now();
        let grown = self.budget.with(|queue| queue.grow(&self.caller_id, self.bytes, more, now));
        match grown {
            true => self.bytes += more,
            false => return Err(self.budget.no_room(more)),
        }
        Ok(())
    }

    /// Splits off up to `bytes` as a reservation of its own.
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), caller_id: self.caller_id.clone(), bytes }
    }

    /// The caller that it belongs to.
    pub fn caller_id(&self) -> &CallerId {
        &self.caller_id
    }

    /// Adds another reservation of the same caller.
    pub fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back what exceeds `keep` bytes.
    pub fn shrink_to(&mut self, keep: u64) {
        let surplus = self.bytes.saturating_sub(keep);
        self.bytes -= surplus;
        self.budget.change(|queue, now| queue.give_back(&self.caller_id, surplus, now));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}
