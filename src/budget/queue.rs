//! The queue of a budget: which request gets how many bytes, and when. It does not wait and has no clock; its
//! caller passes the time.
//!
//! Each caller has a queue of its own, served in order. Between these queues, the caller that was given the
//! fewest bytes so far is next. Nobody passes the next request: otherwise small requests could keep a large
//! one waiting for ever. A caller does not get more than half of the budget while others wait, or were here a
//! moment ago and are expected back; it is skipped then. One exception: a caller that holds nothing may get a
//! request of more than half.

mod return_rate;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ids::CallerId;

use return_rate::ReturnRate;

/// How long a caller is expected back after it gave back its last reservation: a caller that sends one
/// segment after another holds nothing in between.
pub(super) const EXPECTED_BACK: Duration = Duration::from_secs(5);

/// Why a waiting request gets no reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unserved {
    /// Too many requests wait.
    TooManyWait,
}

/// A budget and the requests that wait for it. `W` is where a request gets its answer.
#[derive(Debug)]
pub(super) struct Queue<W> {
    total_bytes: u64,
    waiting_max: usize,
    held_bytes: u64,
    waiting: usize,
    waiting_bytes: u64,
    claims: BTreeMap<CallerId, Claim<W>>,
    /// The bytes that the last served caller had been given before. A new caller starts there, with neither a
    /// debt nor a credit.
    floor: u64,
    next_id: u64,
    turned_away: Vec<W>,
    return_rate: ReturnRate,
}

/// The state of one caller.
#[derive(Debug)]
struct Claim<W> {
    held_bytes: u64,
    waiting: VecDeque<Asked<W>>,
    /// The bytes that it was given so far.
    given: u64,
    /// When it last gave memory back or stopped waiting.
    last_seen: Instant,
}

#[derive(Debug)]
struct Asked<W> {
    id: u64,
    bytes: u64,
    waiter: W,
}

/// A request that was served.
#[derive(Debug)]
pub(super) struct Granted<W> {
    pub caller_id: CallerId,
    pub bytes: u64,
    pub waiter: W,
}

/// Requests that are to be answered.
#[derive(Debug)]
pub(super) struct Served<W> {
    pub granted: Vec<Granted<W>>,
    pub turned_away: Vec<W>,
}

impl<W> Queue<W> {
    pub(super) fn new(total_bytes: u64, waiting_max: usize) -> Self {
        Self {
            total_bytes,
            waiting_max,
            held_bytes: 0,
            waiting: 0,
            waiting_bytes: 0,
            claims: BTreeMap::new(),
            floor: 0,
            next_id: 0,
            turned_away: Vec::new(),
            return_rate: ReturnRate::default(),
        }
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    pub(super) fn waiting_max(&self) -> usize {
        self.waiting_max
    }

    /// An estimate of when a request for `bytes` may try again.
    pub(super) fn retry_after(&self, bytes: u64, now: Instant) -> Duration {
        let free = self.total_bytes - self.held_bytes;
        let before = (self.waiting_bytes + bytes).saturating_sub(free);
        self.return_rate.time_for(before, now)
    }

    /// Adds a request, to be served by [`Queue::serve`]. It must fit into the budget. Returns its id for
    /// [`Queue::leave`].
    pub(super) fn ask(&mut self, caller_id: &CallerId, bytes: u64, waiter: W, now: Instant) -> u64 {
        self.claims.retain(|_, claim| claim.is_expected(now));
        let (id, floor) = (self.next_id, self.floor);
        self.next_id += 1;
        let claim = self.claims.entry(caller_id.clone()).or_insert_with(|| Claim::new(now));
        if claim.held_bytes == 0 && claim.waiting.is_empty() {
            claim.given = claim.given.max(floor);
        }
        claim.last_seen = now;
        claim.waiting.push_back(Asked { id, bytes, waiter });
        self.waiting += 1;
        self.waiting_bytes += bytes;
        id
    }

    /// Removes a waiting request. Does nothing if it was answered already.
    pub(super) fn leave(&mut self, caller_id: &CallerId, id: u64, now: Instant) {
        let Some(claim) = self.claims.get_mut(caller_id) else { return };
        if let Some(at) = claim.waiting.iter().position(|asked| asked.id == id) {
            let left = claim.waiting.remove(at);
            claim.last_seen = now;
            self.waiting -= 1;
            self.waiting_bytes -= left.map_or(0, |asked| asked.bytes);
        }
    }

    /// Takes back a part of what a caller holds.
    pub(super) fn give_back(&mut self, caller_id: &CallerId, bytes: u64, now: Instant) {
        if let Some(claim) = self.claims.get_mut(caller_id) {
            claim.held_bytes -= bytes;
            claim.last_seen = now;
            self.held_bytes -= bytes;
            self.return_rate.gave_back(bytes, now);
        }
    }

    /// Whether another caller waits.
    pub(super) fn others_wait(&self, caller_id: &CallerId) -> bool {
        self.waiting > self.claims.get(caller_id).map_or(0, |claim| claim.waiting.len())
    }

    /// Gives a reservation of `has` bytes `more` if they are free. While others wait, a caller does not get
    /// more than half this way either, unless this reservation is all that it holds. Returns whether it was
    /// given.
    pub(super) fn grow(&mut self, caller_id: &CallerId, has: u64, more: u64, now: Instant) -> bool {
        // A caller that holds nothing may have been removed.
        let claim = self.claims.entry(caller_id.clone()).or_insert_with(|| Claim::new(now));
        let fits = more <= self.total_bytes - self.held_bytes;
        let in_all = claim.held_bytes.saturating_add(more);
        let others_wait = self.waiting > claim.waiting.len();
        if !fits || others_wait && in_all > self.total_bytes / 2 && claim.held_bytes > has {
            return false;
        }
        self.give(caller_id, more);
        true
    }

    /// Serves the requests that are next, as long as there is room.
    pub(super) fn serve(&mut self, now: Instant) -> Served<W> {
        let mut granted = Vec::new();
        while let Some(caller_id) = self.next(now).cloned()
            && let Some(one) = self.grant(caller_id)
        {
            granted.push(one);
        }
        while self.waiting > self.waiting_max {
            self.turn_one_away();
        }
        Served { granted, turned_away: std::mem::take(&mut self.turned_away) }
    }

    /// The caller whose request is next, whether or not there is room for it.
    fn next(&self, now: Instant) -> Option<&CallerId> {
        let may_be_served = self.claims.iter().filter_map(|(caller_id, claim)| {
            let first = claim.waiting.front()?;
            let within_half = claim.held_bytes + first.bytes <= self.half();
            let may = within_half || claim.held_bytes == 0 || self.is_alone(caller_id, now);
            may.then_some((claim.given, first.id, caller_id))
        });
        may_be_served.min().map(|(_, _, caller_id)| caller_id)
    }

    fn grant(&mut self, caller_id: CallerId) -> Option<Granted<W>> {
        let free = self.total_bytes - self.held_bytes;
        let claim = self.claims.get_mut(&caller_id)?;
        claim.waiting.front().filter(|asked| asked.bytes <= free)?;
        let Asked { bytes, waiter, .. } = claim.waiting.pop_front()?;
        self.floor = self.floor.max(claim.given);
        self.waiting -= 1;
        self.waiting_bytes -= bytes;
        self.give(&caller_id, bytes);
        Some(Granted { caller_id, bytes, waiter })
    }

    fn give(&mut self, caller_id: &CallerId, bytes: u64) {
        if let Some(claim) = self.claims.get_mut(caller_id) {
            claim.held_bytes += bytes;
            claim.given = claim.given.saturating_add(bytes);
            self.held_bytes += bytes;
        }
    }

    /// Turns away the last request of the caller with the most waiting requests: a caller cannot keep others
    /// out by sending many.
    fn turn_one_away(&mut self) {
        let most = self.claims.values_mut().max_by_key(|claim| (claim.waiting.len(), claim.last_id()));
        if let Some(asked) = most.and_then(|claim| claim.waiting.pop_back()) {
            self.waiting -= 1;
            self.waiting_bytes -= asked.bytes;
            self.turned_away.push(asked.waiter);
        }
    }

    fn is_alone(&self, caller_id: &CallerId, now: Instant) -> bool {
        self.claims.iter().all(|(other, claim)| other == caller_id || !claim.is_expected(now))
    }

    fn half(&self) -> u64 {
        self.total_bytes / 2
    }
}

impl<W> Claim<W> {
    fn new(now: Instant) -> Self {
        Self { held_bytes: 0, waiting: VecDeque::new(), given: 0, last_seen: now }
    }

    /// Whether it holds or waits for something, or did so a moment ago.
    fn is_expected(&self, now: Instant) -> bool {
        let away = now.saturating_duration_since(self.last_seen);
        self.held_bytes > 0 || !self.waiting.is_empty() || away < EXPECTED_BACK
    }

    fn last_id(&self) -> Option<u64> {
        self.waiting.back().map(|asked| asked.id)
    }
}
