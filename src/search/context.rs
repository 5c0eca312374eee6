//! The state of one search, which all its parts share.

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

/// A search that is in progress.
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

/// The memory that a search reserves until it ends.
#[derive(Debug)]
struct ReservedMemory {
    reservation: Reservation,
    /// The part of the reservation for memory that is not known at the start, in bytes.
    unforeseen_bytes: u64,
    /// The bytes of that part that are used by further copies of hits and by offsets that may occur more than
    /// once.
    overlaps_bytes: u64,
    /// The bytes of that part that are used by plans for bundles with many paths, and by what is kept for
    /// transactions.
    plans_bytes: u64,
    /// The most bytes of that part that were needed at once, whether they were free or not.
    needed_bytes: u64,
}

/// Memory for a plan, or for the records that are left out. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct ExtraMemory<'a> {
    context: &'a SearchContext,
    bytes: u64,
}

impl Drop for ExtraMemory<'_> {
    fn drop(&mut self) {
        self.context.reserved().plans_bytes -= self.bytes;
    }
}

impl ReservedMemory {
    /// Reserves more if the used memory exceeds its part of the reservation. It does not wait: see
    /// [`SearchContext::needed_bytes`].
    fn reserve_missing(&mut self) -> Result<(), SearchError> {
        let taken = self.overlaps_bytes + self.plans_bytes;
        self.needed_bytes = self.needed_bytes.max(taken);
        if let Some(more) = taken.checked_sub(self.unforeseen_bytes).filter(|more| *more > 0) {
            // In steps, so that not every leaf needs to reserve memory.
            let more = more.max(super::EXTRA_STEP_BYTES);
            self.reservation.grow(more)?;
            self.unforeseen_bytes += more;
        }
        Ok(())
    }
}

/// Whether nobody waits for the search any more. Then its work ends early.
#[derive(Clone, Debug, Default)]
pub(super) struct Ended(Arc<AtomicBool>);

impl Ended {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns the flag, for code that does not know searches.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// Ends a search when it is dropped.
#[derive(Debug)]
pub(super) struct EndGuard(pub Ended);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Creates empty hit collectors for one search.
#[derive(Clone, Copy, Debug)]
pub(super) struct CollectorSettings {
    order: Order,
    limit: usize,
    bucket_ms: Option<NonZeroU64>,
}

impl CollectorSettings {
    pub fn of(request: &Request) -> Self {
        Self { order: request.order, limit: request.limit, bucket_ms: request.bucket_ms }
    }

    pub fn hit_collector(&self) -> HitCollector {
        HitCollector::new(self.order, self.limit, self.bucket_ms)
    }
}

impl SearchContext {
    /// Creates the state of a search. `reserved` is its reservation, of which `unforeseen_bytes` are for
    /// memory that is not known at the start.
    pub fn new(
        bundle_cache: BundleCache,
        memory: SearchMemory,
        request: Request,
        reserved: Reservation,
        unforeseen_bytes: u64,
    ) -> Self {
        let found = CollectorSettings::of(&request).hit_collector();
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

    pub fn collector_settings(&self) -> CollectorSettings {
        CollectorSettings::of(&self.request)
    }

    pub fn new_collector(&self) -> HitCollector {
        self.collector_settings().hit_collector()
    }

    /// Whether matches are only counted, and not by time.
    pub fn counts_only(&self) -> bool {
        self.request.limit == 0 && self.request.bucket_ms.is_none()
    }

    /// Whether all bundles must be searched, whatever is found.
    pub fn needs_all(&self) -> bool {
        self.request.limit == 0 || self.request.bucket_ms.is_some() || self.request.order == Order::ByScore
    }

    /// Whether scores decide the order of the returned records.
    pub fn is_scored(&self) -> bool {
        self.request.order == Order::ByScore && self.request.limit > 0
    }

    /// Whether the request has no bounds for offsets and times.
    pub fn is_unbounded(&self) -> bool {
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

    /// Whether records at this place in the order, or after it, may be among the returned ones.
    pub fn may_keep(&self, place: &SortKey) -> bool {
        self.needs_all() || self.found().may_keep(place)
    }

    /// Estimates how many more bundles are needed, if they have as many hits as those that were searched.
    pub fn estimate_remaining(&self, searched: usize) -> usize {
        let found = self.found().top_hits.places();
        let wanted = self.request.limit.saturating_sub(found);
        wanted.saturating_mul(searched).checked_div(found).map_or(usize::MAX, |more| more + 1)
    }

    /// Adds the hits of a leaf.
    pub fn add_leaf(&self, leaf: HitCollector) -> Result<(), SearchError> {
        let mut found = self.found();
        found.merge(leaf);
        found.check()?;
        let overlaps_bytes = found.extra_bytes();
        drop(found);
        let mut reserved = self.reserved();
        reserved.overlaps_bytes = reserved.overlaps_bytes.max(overlaps_bytes);
        reserved.reserve_missing()
    }

    /// Notes that matches in a bundle may be inexact.
    pub fn note_unsure(&self, key: &str) {
        let mut unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
        if unsure.len() < UNSURE_MAX {
            unsure.insert(key.to_owned());
        }
    }

    /// Returns the keys of the bundles whose matches may be inexact, at most [`UNSURE_MAX`], sorted.
    pub fn unsure(&self) -> Vec<String> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Reserves memory that is given back when the result is dropped.
    pub fn hold_extra(&self, bytes: u64) -> Result<ExtraMemory<'_>, SearchError> {
        self.reserved().plans_bytes += bytes;
        let held = ExtraMemory { context: self, bytes };
        self.reserved().reserve_missing()?;
        Ok(held)
    }

    /// Reserves memory for something that stays until the search ends.
    pub fn keep(&self, bytes: u64) -> Result<(), SearchError> {
        let mut reserved = self.reserved();
        reserved.plans_bytes += bytes;
        reserved.reserve_missing()
    }

    /// Returns the most memory, in bytes, that was needed at once and was not known at the start. If a search
    /// cannot get this memory, it ends, and begins again with this much reserved: a search that holds memory
    /// does not wait for more.
    pub fn needed_bytes(&self) -> u64 {
        self.reserved().needed_bytes
    }

    fn reserved(&self) -> MutexGuard<'_, ReservedMemory> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the collected hits, and leaves an empty collector.
    pub fn take_hits(&self) -> HitCollector {
        std::mem::replace(&mut *self.found(), self.new_collector())
    }

    fn found(&self) -> MutexGuard<'_, HitCollector> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
