//! Who gets how much of a budget, and when. Waits for nothing and knows no clock: it is told what time it is.
//!
//! Each caller has a queue, and in it first come is first served. Between queues the one whose caller was given the fewest bytes
//! is next, and whoever is next is waited for: small requests do not pass a large one until there is never room for it. A caller
//! does not go beyond half of the budget while others wait, or had something here a moment ago and will be back; it is passed over
//! then. The exception is a caller that holds nothing: a request that needs more than half by itself has its turn like any other.

mod pace;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ids::CallerId;

use pace::RateLimit;

/// How long a caller is expected back that has nothing here: somebody who sends one segment after another is not away in between.
pub(super) const EXPECTED_BACK: Duration = Duration::from_secs(5);

/// What a request can be told in place of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unserved {
    /// There is no place for it to wait.
    TooManyWait,
}

/// A budget and those who wait for it. `W` is how one of them is told.
#[derive(Debug)]
pub(super) struct Queue<W> {
    total_bytes: u64,
    waiting_max: usize,
    held_bytes: u64,
    waiting: usize,
    waiting_bytes: u64,
    claims: BTreeMap<CallerId, Claim<W>>,
    /// What the last one served had been given before: where a caller begins that comes anew, so that it has neither a debt nor savings.
    floor: u64,
    next_id: u64,
    turned_away: Vec<W>,
    pace: RateLimit,
}

/// What a caller has here.
#[derive(Debug)]
struct Claim<W> {
    held_bytes: u64,
    waiting: VecDeque<Asked<W>>,
    /// Bytes that it was given so far.
    given: u64,
    /// When it last gave something back or stopped waiting.
    last_seen: Instant,
}

#[derive(Debug)]
struct Asked<W> {
    id: u64,
    bytes: u64,
    waiter: W,
}

/// A request that is served.
#[derive(Debug)]
pub(super) struct Granted<W> {
    pub caller_id: CallerId,
    pub bytes: u64,
    pub waiter: W,
}

/// Those to be told what comes of their requests.
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
            pace: RateLimit::default(),
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

    /// When somebody who wants `bytes` may try again, as far as can be told.
    pub(super) fn retry_after(&self, bytes: u64, now: Instant) -> Duration {
        let free = self.total_bytes - self.held_bytes;
        let before = (self.waiting_bytes + bytes).saturating_sub(free);
        self.pace.time_for(before, now)
    }

    /// Takes in a request, to be served by [`Queue::serve`]. It must fit into the budget. Returns what to call it when it leaves.
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

    /// Whoever asked under this name does not wait any more; nothing where it was told already.
    pub(super) fn leave(&mut self, caller_id: &CallerId, id: u64, now: Instant) {
        let Some(claim) = self.claims.get_mut(caller_id) else { return };
        if let Some(at) = claim.waiting.iter().position(|asked| asked.id == id) {
            let left = claim.waiting.remove(at);
            claim.last_seen = now;
            self.waiting -= 1;
            self.waiting_bytes -= left.map_or(0, |asked| asked.bytes);
        }
    }

    /// A caller gives back a part of what it holds.
    pub(super) fn give_back(&mut self, caller_id: &CallerId, bytes: u64, now: Instant) {
        if let Some(claim) = self.claims.get_mut(caller_id) {
            claim.held_bytes -= bytes;
            claim.last_seen = now;
            self.held_bytes -= bytes;
            self.pace.gave_back(bytes, now);
        }
    }

    /// Whether anybody but this caller waits.
    pub(super) fn others_wait(&self, caller_id: &CallerId) -> bool {
        self.waiting > self.claims.get(caller_id).map_or(0, |claim| claim.waiting.len())
    }

    /// Gives a reservation of `has` bytes `more` of what is free, or says no. While others wait, that is no way to more than half
    /// either, unless it is all that its caller has.
    pub(super) fn grow(&mut self, caller_id: &CallerId, has: u64, more: u64, now: Instant) -> bool {
        // One that holds nothing any more may have been forgotten.
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

    /// Those whose turn it is.
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

    /// Whose turn it is, whether or not there is room for it already.
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

    /// The place to be cleared is the last one of whoever has most of them: nobody keeps others out by asking often.
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

    /// Whether it has something here, or is likely to come back for it.
    fn is_expected(&self, now: Instant) -> bool {
        let away = now.saturating_duration_since(self.last_seen);
        self.held_bytes > 0 || !self.waiting.is_empty() || away < EXPECTED_BACK
    }

    fn last_id(&self) -> Option<u64> {
        self.waiting.back().map(|asked| asked.id)
    }
}
