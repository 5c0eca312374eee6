//! One search while it goes on: what all its parts share.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::hit_collector::HitCollector;
use super::memory::SearchMemory;
use super::top_hits::SortKey;
use super::transactions::Transactions;
use super::{Request, SearchError, UNSURE_MAX};
use crate::archive::{BundleCache, TrafficCounter};
use crate::budget::Reservation;
use crate::index::{Bounds, Order};

/// A search.
#[derive(Debug)]
pub(super) struct SearchContext {
    pub bundle_cache: BundleCache,
    pub memory: SearchMemory,
    pub request: Request,
    pub traffic: TrafficCounter,
    pub ended: Ended,
    pub phrases_as_words: AtomicBool,
    pub transactions: Transactions,
    unsure: Mutex<BTreeSet<String>>,
    found: Mutex<HitCollector>,
    reserved: Mutex<ReservedMemory>,
}

/// What a search takes as long as it lasts.
#[derive(Debug)]
struct ReservedMemory {
    reservation: Reservation,
    /// What of that is for what could not be foreseen, in bytes,
    unforeseen_bytes: u64,
    /// and is taken: by hits at one place and offsets that repeat, beside the room of the limit;
    overlaps_bytes: u64,
    /// and by the query, made for bundles with many paths.
    plans_bytes: u64,
    /// The most that was taken or asked for at once.
    needed_bytes: u64,
}

/// Memory for a plan, given back with this.
#[derive(Debug)]
pub(super) struct PlanMemory<'a> {
    context: &'a SearchContext,
    bytes: u64,
}

impl Drop for PlanMemory<'_> {
    fn drop(&mut self) {
        self.context.reserved().plans_bytes -= self.bytes;
    }
}

impl ReservedMemory {
    /// Sees to it that there is room for all that is taken. Nothing is waited for: see [`SearchContext::needed_bytes`].
    fn suffice(&mut self) -> Result<(), SearchError> {
        let taken = self.overlaps_bytes + self.plans_bytes;
        self.needed_bytes = self.needed_bytes.max(taken);
        if let Some(more) = taken.checked_sub(self.unforeseen_bytes).filter(|more| *more > 0) {
            // In steps, so that not each leaf asks.
            let more = more.max(super::EXTRA_STEP_BYTES);
            self.reservation.grow(more)?;
            self.unforeseen_bytes += more;
        }
        Ok(())
    }
}

/// Whether nobody waits for a search any more: then work for it ends by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Ended(Arc<AtomicBool>);

impl Ended {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For those who know of no search.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// Ends a search with itself.
#[derive(Debug)]
pub(super) struct EndsIt(pub Ended);

impl Drop for EndsIt {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// What a tally is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct EmptyCollector {
    order: Order,
    limit: usize,
    bucket_ms: Option<NonZeroU64>,
}

impl EmptyCollector {
    pub fn of(request: &Request) -> Self {
        Self { order: request.order, limit: request.limit, bucket_ms: request.bucket_ms }
    }

    pub fn hit_collector(&self) -> HitCollector {
        HitCollector::new(self.order, self.limit, self.bucket_ms)
    }
}

impl SearchContext {
    /// `reserved` is reserved for it, `unforeseen_bytes` of that for what nobody can know before.
    pub fn new(
        bundle_cache: BundleCache,
        memory: SearchMemory,
        request: Request,
        reserved: Reservation,
        unforeseen_bytes: u64,
    ) -> Self {
        let found = EmptyCollector::of(&request).hit_collector();
        Self {
            bundle_cache,
            memory,
            request,
            traffic: TrafficCounter::default(),
            ended: Ended::default(),
            phrases_as_words: AtomicBool::new(false),
            transactions: Transactions::default(),
            unsure: Mutex::default(),
            found: Mutex::new(found),
            reserved: Mutex::new(ReservedMemory {
                reservation: reserved,
                unforeseen_bytes,
                overlaps_bytes: 0,
                plans_bytes: 0,
                needed_bytes: 0,
            }),
        }
    }

    pub fn empty_collector(&self) -> EmptyCollector {
        EmptyCollector::of(&self.request)
    }

    pub fn empty_tally(&self) -> HitCollector {
        self.empty_collector().hit_collector()
    }

    /// Whether matches are only counted, and not by time.
    pub fn counts_only(&self) -> bool {
        self.request.limit == 0 && self.request.bucket_ms.is_none()
    }

    /// Whether every bundle has to be searched, whatever was found.
    pub fn needs_all(&self) -> bool {
        self.request.limit == 0 || self.request.bucket_ms.is_some() || self.request.order == Order::ByScore
    }

    /// Whether how well a record matches decides the order.
    pub fn is_scored(&self) -> bool {
        self.request.order == Order::ByScore && self.request.limit > 0
    }

    /// Whether no offset and no time is left out.
    pub fn asks_for_all(&self) -> bool {
        self.bounds() == Bounds::default()
    }

    pub fn bounds(&self) -> Bounds {
        let filter = &self.request.filter;
        Bounds {
            min_offset: filter.min_offset,
            max_offset: filter.max_offset,
            min_timestamp_ms: filter.min_timestamp_ms,
            max_timestamp_ms: filter.max_timestamp_ms,
        }
    }

    /// Whether records from this place on may be among those that are answered.
    pub fn may_keep(&self, place: &SortKey) -> bool {
        self.needs_all() || self.found().may_keep(place)
    }

    /// How many more bundles may be needed, if they hold as much as those that were searched.
    pub fn to_go(&self, searched: usize) -> usize {
        let found = self.found().top_hits.places();
        let wanted = self.request.limit.saturating_sub(found);
        wanted.saturating_mul(searched).checked_div(found).map_or(usize::MAX, |more| more + 1)
    }

    /// Adds what a leaf found.
    pub fn take_in(&self, leaf: HitCollector) -> Result<(), SearchError> {
        let mut found = self.found();
        found.merge(leaf);
        found.check()?;
        let overlaps_bytes = found.extra_bytes();
        drop(found);
        let mut reserved = self.reserved();
        reserved.overlaps_bytes = reserved.overlaps_bytes.max(overlaps_bytes);
        reserved.suffice()
    }

    /// A bundle's index cannot tell for sure what matches.
    pub fn note_unsure(&self, key: &str) {
        let mut unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
        if unsure.len() < UNSURE_MAX {
            unsure.insert(key.to_owned());
        }
    }

    /// The bundles of which that is so, at most [`UNSURE_MAX`], sorted.
    pub fn unsure(&self) -> Vec<String> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Takes room for a plan.
    pub fn hold_plan(&self, bytes: u64) -> Result<PlanMemory<'_>, SearchError> {
        self.reserved().plans_bytes += bytes;
        let held = PlanMemory { context: self, bytes };
        self.reserved().suffice()?;
        Ok(held)
    }

    /// Takes room for something that stays as long as the search does.
    pub fn keep(&self, bytes: u64) -> Result<(), SearchError> {
        let mut reserved = self.reserved();
        reserved.plans_bytes += bytes;
        reserved.suffice()
    }

    /// The most that was needed at once and could not be foreseen. A search that lacks room for it ends, and begins again with so much reserved:
    /// whoever holds room waits for none.
    pub fn needed_bytes(&self) -> u64 {
        self.reserved().needed_bytes
    }

    fn reserved(&self) -> MutexGuard<'_, ReservedMemory> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found; nothing is, afterwards.
    pub fn take_found(&self) -> HitCollector {
        std::mem::replace(&mut *self.found(), self.empty_tally())
    }

    fn found(&self) -> MutexGuard<'_, HitCollector> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
