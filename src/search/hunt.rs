//! One search while it goes on: what all its parts share.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::best::Place;
use super::room::Room;
use super::tally::Tally;
use super::{Request, SearchError};
use crate::archive::{Shelf, TrafficCounter};
use crate::budget::Reservation;
use crate::index::{Bounds, Order};

/// A search.
#[derive(Debug)]
pub(super) struct Hunt {
    pub shelf: Shelf,
    pub room: Room,
    pub request: Request,
    pub traffic: TrafficCounter,
    pub ended: Ended,
    pub phrases_as_words: AtomicBool,
    found: Mutex<Tally>,
    /// What it takes as long as it lasts; what of that is for hits at one place and offsets that repeat, beside the room of the limit.
    lasting: Mutex<(Reservation, u64)>,
}

/// Whether nobody waits for a search any more: then work for it ends by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Ended(Arc<AtomicBool>);

impl Ended {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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
pub(super) struct Blank {
    order: Order,
    limit: usize,
    bucket_ms: Option<NonZeroU64>,
}

impl Blank {
    pub fn of(request: &Request) -> Self {
        Self { order: request.order, limit: request.limit, bucket_ms: request.bucket_ms }
    }

    pub fn tally(&self) -> Tally {
        Tally::new(self.order, self.limit, self.bucket_ms)
    }
}

impl Hunt {
    pub fn new(shelf: Shelf, room: Room, request: Request, lasting: Reservation) -> Self {
        let found = Blank::of(&request).tally();
        Self {
            shelf,
            room,
            request,
            traffic: TrafficCounter::default(),
            ended: Ended::default(),
            phrases_as_words: AtomicBool::new(false),
            found: Mutex::new(found),
            lasting: Mutex::new((lasting, 0)),
        }
    }

    pub fn blank(&self) -> Blank {
        Blank::of(&self.request)
    }

    pub fn empty_tally(&self) -> Tally {
        self.blank().tally()
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
    pub fn may_keep(&self, place: &Place) -> bool {
        self.needs_all() || self.found().may_keep(place)
    }

    /// How many more bundles may be needed, if they hold as much as those that were searched.
    pub fn to_go(&self, searched: usize) -> usize {
        let found = self.found().best.places();
        let wanted = self.request.limit.saturating_sub(found);
        wanted.saturating_mul(searched).checked_div(found).map_or(usize::MAX, |more| more + 1)
    }

    /// Adds what a leaf found.
    pub fn take_in(&self, leaf: Tally) -> Result<(), SearchError> {
        let mut found = self.found();
        found.merge(leaf);
        found.check()?;
        let extra_bytes = found.extra_bytes();
        drop(found);
        self.hold(extra_bytes)
    }

    /// More copies and repeated offsets than there was room set aside for take more of it, or end the search.
    fn hold(&self, extra_bytes: u64) -> Result<(), SearchError> {
        let mut lasting = self.lasting.lock().unwrap_or_else(PoisonError::into_inner);
        let (reservation, held) = &mut *lasting;
        if let Some(more) = extra_bytes.checked_sub(*held).filter(|more| *more > 0) {
            // In steps, so that not each leaf asks.
            let more = more.max(super::EXTRA_STEP_BYTES);
            reservation.grow(more)?;
            *held += more;
        }
        Ok(())
    }

    /// What was found; nothing is, afterwards.
    pub fn take_found(&self) -> Tally {
        std::mem::replace(&mut *self.found(), self.empty_tally())
    }

    fn found(&self) -> MutexGuard<'_, Tally> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
