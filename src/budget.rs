//! The process-wide byte budget: whoever wants memory for a segment reserves it first, waits in order, and gets it or
//! an error. Received bytes, the index under construction, record blocks and uploads all count. Knows nothing of them.
//!
//! First come first served holds for each caller by itself; between callers it goes by turns, and while somebody else waits, nobody
//! gets more than half (`queue`).
//!
//! A part of it can be set aside for short work that already holds other memory and must wait for more ([`Budget::turn`]): whoever
//! holds a part of that waits for nothing else, so that it always comes round.

mod queue;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::ids::CallerId;

use queue::{Queue, Unserved};

/// What one permit for turns stands for. Semaphores hand out at most `u32::MAX` permits at once: 16 TiB.
const UNIT_BYTES: u64 = 4 * 1024;

/// Requests that may wait at a time where nothing else is said.
const WAITING_MAX: usize = 4 << 10;

/// How often a request that waits looks whether it may have more than half by now: nobody tells it that the others stay away.
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
    /// What is set aside for turns.
    turns: Arc<Semaphore>,
    turns_bytes: u64,
    /// How much of that may wait for readers.
    deliveries: Arc<Semaphore>,
}

/// How a request that waits is told what comes of it. What is sent to one that has gone is dropped, and so given back.
type Waiter = oneshot::Sender<Result<Reservation, Unserved>>;

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
        /// When there may be, by what has been given back lately and what waits.
        retry_after: Duration,
    },
    /// As many wait for memory as may, and none of them for a caller with more of the places.
    #[error("{waiting_max} requests wait for memory already")]
    TooManyWait {
        /// How many may wait.
        waiting_max: usize,
        /// When fewer may.
        retry_after: Duration,
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
    /// A budget of `total_bytes`, at least one.
    pub fn new(total_bytes: u64) -> Self {
        Self::with_turns(total_bytes, 0)
    }

    /// The same, and `turns_bytes` beside them that are only handed out as turns.
    pub fn with_turns(total_bytes: u64, turns_bytes: u64) -> Self {
        Self::with_waiting_max(total_bytes, turns_bytes, WAITING_MAX)
    }

    /// The same, where no more than `waiting_max` requests may wait at a time.
    pub fn with_waiting_max(total_bytes: u64, turns_bytes: u64, waiting_max: usize) -> Self {
        let total_bytes = total_bytes.max(1);
        let turns = (turns_bytes / UNIT_BYTES).min(u64::from(u32::MAX));
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::new(Queue::new(total_bytes, waiting_max)),
                total_bytes,
                turns: Arc::new(Semaphore::new(turns as usize)),
                turns_bytes: turns * UNIT_BYTES,
                deliveries: Arc::new(Semaphore::new((turns / 2) as usize)),
            }),
        }
    }

    /// Reserves `bytes` for `caller_id`, in turn, waiting for up to `wait_max`.
    pub async fn reserve(
        &self,
        caller_id: &CallerId,
        bytes: u64,
        wait_max: Duration,
    ) -> Result<Reservation, BudgetError> {
        self.check_fits(bytes)?;
        let (waiter, mut told) = oneshot::channel();
        let id = self.change(|queue, now| queue.ask(caller_id, bytes, waiter, now));
        let waiting = Waiting { budget: self, caller_id, id };
        let served = async {
            loop {
                match timeout(LOOK_AGAIN, &mut told).await {
                    Ok(told) => break told,
                    Err(_) => self.change(|_, _| ()),
                }
            }
        };
        let served = timeout(wait_max, served).await;
        drop(waiting);
        match served {
            Ok(Ok(Ok(reservation))) => Ok(reservation),
            Ok(Ok(Err(Unserved::TooManyWait))) => Err(self.too_many_wait()),
            // The queue drops nobody without a word.
            Ok(Err(_)) | Err(_) => Err(self.no_room(bytes)),
        }
    }

    /// What is set aside for turns.
    pub fn turns_bytes(&self) -> u64 {
        self.shared.turns_bytes
    }

    /// Up to `bytes` of what is set aside for turns, first come first served; all of it where `bytes` are more than there is. To be
    /// held for a piece of work that waits for no memory, and so comes to its end.
    pub async fn turn(&self, bytes: u64) -> Turn {
        let (bytes, units) = self.turn_of(bytes);
        // Never closed: there is always an answer.
        let permit = self.shared.turns.clone().acquire_many_owned(units).await.ok();
        Turn { bytes, permit }
    }

    /// The same at once, or not at all.
    pub fn turn_now(&self, bytes: u64) -> Option<Turn> {
        let (bytes, units) = self.turn_of(bytes);
        let permit = self.shared.turns.clone().try_acquire_many_owned(units).ok()?;
        Some(Turn { bytes, permit: Some(permit) })
    }

    /// Up to `bytes` of the half of it that answers may hold which wait for their readers; all of that half where `bytes` are more. A slow
    /// reader then keeps memory from other slow readers, and never all of it from the rest. To be had before the turn that the answer is read
    /// with, and to be held as long.
    pub async fn delivery(&self, bytes: u64) -> Turn {
        let bytes = bytes.min(self.deliveries_bytes());
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        // Never closed, as those of the turns.
        let permit = self.shared.deliveries.clone().acquire_many_owned(units).await.ok();
        Turn { bytes, permit }
    }

    /// What there is for deliveries.
    pub fn deliveries_bytes(&self) -> u64 {
        self.shared.turns_bytes / UNIT_BYTES / 2 * UNIT_BYTES
    }

    /// What there is of so many bytes, also in units.
    fn turn_of(&self, bytes: u64) -> (u64, u32) {
        let bytes = bytes.min(self.shared.turns_bytes);
        (bytes, u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX))
    }

    /// How it stands now.
    pub fn usage(&self) -> BudgetUse {
        self.with(|queue| BudgetUse {
            total_bytes: self.shared.total_bytes,
            reserved_bytes: queue.held_bytes(),
            waiting_requests: queue.waiting() as u64,
            waiting_bytes: queue.waiting_bytes(),
        })
    }

    /// Whether anybody but `caller_id` waits for a part of it.
    pub fn others_wait(&self, caller_id: &CallerId) -> bool {
        self.with(|queue| queue.others_wait(caller_id))
    }

    /// `in_all` is what the caller would hold afterwards.
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

    /// Changes the queue, then serves those whose turn that makes it. They are told when the queue is free again, since whoever has
    /// gone gives back at once what it is sent.
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

    /// The queue stays as it should be whatever panics: each change of it is whole.
    fn with<T>(&self, act: impl FnOnce(&mut Queue<Waiter>) -> T) -> T {
        act(&mut self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A request in the queue, which it leaves when this is dropped, also where its future is.
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

/// Bytes of those that are set aside, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    bytes: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// How many.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes in another one of the same budget.
    pub fn absorb(&mut self, other: Self) {
        self.bytes += other.bytes;
        match (&mut self.permit, other.permit) {
            (Some(permit), Some(other)) => permit.merge(other),
            (permit, other) => *permit = permit.take().or(other),
        }
    }

    /// Gives back what exceeds `keep` bytes.
    pub fn shrink_to(&mut self, keep: u64) {
        self.bytes = self.bytes.min(keep);
        if let Some(permit) = &mut self.permit {
            let keep = usize::try_from(keep.div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX);
            drop(permit.split(permit.num_permits().saturating_sub(keep)));
        }
    }
}

/// What a large answer holds until its reader has it.
#[derive(Debug)]
pub struct Delivery {
    /// The permit to wait for the reader.
    pub delivery: Turn,
    /// The memory.
    pub turn: Turn,
}

impl Delivery {
    /// Gives back what exceeds `keep` bytes.
    pub fn shrink_to(&mut self, keep: u64) {
        self.turn.shrink_to(keep);
        self.delivery.shrink_to(keep);
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
    /// What is held, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it is a part of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Takes `more` bytes at once or not at all: a request that already holds memory must not wait for others that do. It goes before
    /// those that hold none yet, since only its end gives them some.
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

    /// A part of it as a reservation of its own: up to `bytes`.
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), caller_id: self.caller_id.clone(), bytes }
    }

    /// Whose it is.
    pub fn caller_id(&self) -> &CallerId {
        &self.caller_id
    }

    /// Takes in another one of the same caller.
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
