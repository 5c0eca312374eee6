//! Permits: memory for short work that already holds other memory and must wait for more. The holder of a
//! permit waits for no other memory, so each permit comes back soon.
//!
//! Three limits apply, each a semaphore that serves its requests in order. All permits together are within
//! `bytes`. Permits of more than `small_bytes` each leave `small_bytes` free, so that a small request never
//! waits behind a large piece of work. Answers that wait for their readers hold at most half
//! ([`Permits::delivery`]), so that a slow reader cannot hold all of it.
//!
//! A request takes from the limits in one order: delivery, large, all. The holder of the last one waits for
//! none, so no two requests wait for each other.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes that one unit of a semaphore stands for. Semaphores hold at most `u32::MAX` units at once: 16
/// TiB.
const UNIT_BYTES: u64 = 4 * 1024;

/// The memory that permits are for.
#[derive(Debug)]
pub(super) struct Permits {
    all: Arc<Semaphore>,
    /// Units that permits of more than `small_units` may hold together.
    large: Arc<Semaphore>,
    deliveries: Arc<Semaphore>,
    units: u32,
    small_units: u32,
}

/// Some of that memory, until it is dropped.
#[derive(Debug, Default)]
pub struct Permit {
    bytes: u64,
    all: Held,
    large: Held,
}

/// Units of one semaphore.
#[derive(Debug, Default)]
struct Held(Option<OwnedSemaphorePermit>);

impl Permits {
    /// Permits for `bytes` in all, of which `small_bytes` are kept free for small requests.
    pub(super) fn new(bytes: u64, small_bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        let small_units = units_of(small_bytes).min(units / 2);
        let semaphore = |units: u32| Arc::new(Semaphore::new(units as usize));
        Self {
            all: semaphore(units),
            large: semaphore(units - small_units),
            deliveries: semaphore(units / 2),
            units,
            small_units,
        }
    }

    /// The bytes of all permits together.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.units) * UNIT_BYTES
    }

    /// The most bytes that one permit can have.
    pub(super) fn largest(&self) -> u64 {
        u64::from(self.units - self.small_units) * UNIT_BYTES
    }

    /// The bytes that answers may hold together while they wait for their readers.
    pub(super) fn deliveries_bytes(&self) -> u64 {
        u64::from(self.units / 2) * UNIT_BYTES
    }

    /// A permit for `bytes`, or for [`Permits::largest`] where that is less. Waits for it.
    pub(super) async fn take(&self, bytes: u64) -> Permit {
        let bytes = bytes.min(self.largest());
        let (units, large_units) = self.units_of(bytes);
        let large = Held::take(&self.large, large_units).await;
        Permit { bytes, all: Held::take(&self.all, units).await, large }
    }

    /// The same without waiting; `None` where that many are not free.
    pub(super) fn try_take(&self, bytes: u64) -> Option<Permit> {
        let mut permit = Permit::default();
        self.try_grow(&mut permit, bytes.min(self.largest())).then_some(permit)
    }

    /// Makes `permit` one for `bytes` without waiting. Returns whether it is; it stays as it is otherwise.
    pub(super) fn try_grow(&self, permit: &mut Permit, bytes: u64) -> bool {
        let (units, large_units) = self.units_of(bytes);
        let Some(large) = Held::try_take(&self.large, permit.large.lacks(large_units)) else { return false };
        let Some(all) = Held::try_take(&self.all, permit.all.lacks(units)) else { return false };
        permit.large.absorb(large);
        permit.all.absorb(all);
        permit.bytes = permit.bytes.max(bytes);
        true
    }

    /// A permit to keep up to `bytes` of an answer until its reader has it; up to
    /// [`Permits::deliveries_bytes`]. To be taken before the permit for the memory itself, and to be held as
    /// long.
    pub(super) async fn delivery(&self, bytes: u64) -> Permit {
        let bytes = bytes.min(self.deliveries_bytes());
        Permit { bytes, all: Held::take(&self.deliveries, units_of(bytes)).await, large: Held::default() }
    }

    /// The units of all, and of the large permits' limit, that a permit for `bytes` holds.
    fn units_of(&self, bytes: u64) -> (u32, u32) {
        let units = units_of(bytes);
        (units, if units > self.small_units { units } else { 0 })
    }
}

fn units_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl Permit {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what exceeds `keep` bytes.
    pub fn shrink_to(&mut self, keep: u64) {
        self.bytes = self.bytes.min(keep);
        self.all.shrink_to(units_of(keep));
        self.large.shrink_to(units_of(keep));
    }
}

impl Held {
    /// Waits for `units`. The semaphore is never closed, so there is always an answer.
    async fn take(semaphore: &Arc<Semaphore>, units: u32) -> Self {
        match units {
            0 => Self(None),
            _ => Self(Arc::clone(semaphore).acquire_many_owned(units).await.ok()),
        }
    }

    fn try_take(semaphore: &Arc<Semaphore>, units: u32) -> Option<Self> {
        match units {
            0 => Some(Self(None)),
            _ => Arc::clone(semaphore).try_acquire_many_owned(units).ok().map(|permit| Self(Some(permit))),
        }
    }

    fn units(&self) -> u32 {
        self.0.as_ref().map_or(0, |permit| u32::try_from(permit.num_permits()).unwrap_or(u32::MAX))
    }

    /// How many units are missing to `units`.
    fn lacks(&self, units: u32) -> u32 {
        units.saturating_sub(self.units())
    }

    fn absorb(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(permit), Some(other)) => permit.merge(other),
            (permit, other) => *permit = permit.take().or(other),
        }
    }

    fn shrink_to(&mut self, units: u32) {
        let surplus = self.units().saturating_sub(units) as usize;
        if let Some(permit) = &mut self.0 {
            drop(permit.split(surplus));
        }
    }
}

/// The memory of a large answer, held until its reader has it.
#[derive(Debug)]
pub struct Delivery {
    /// The permit to keep it for the reader.
    pub delivery: Permit,
    /// The permit for the memory.
    pub permit: Permit,
}

impl Delivery {
    /// Gives back what exceeds `keep` bytes.
    pub fn shrink_to(&mut self, keep: u64) {
        self.permit.shrink_to(keep);
        self.delivery.shrink_to(keep);
    }
}
