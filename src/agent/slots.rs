//! How many segments are sent at a time.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Room for so many segments on their way; clones share it, and so do the agents that have them.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Semaphore>);

impl Slots {
    /// Room for so many.
    pub fn new(slots: NonZeroUsize) -> Self {
        Self(Arc::new(Semaphore::new(slots.get().min(Semaphore::MAX_PERMITS))))
    }
}

/// Room for one segment, until it is dropped.
pub(super) type Slot = OwnedSemaphorePermit;

type Place = Pin<Box<dyn Future<Output = Result<Slot, AcquireError>> + Send>>;

/// A place in the line for a slot. Waiting may be given up and taken up again without losing the place.
pub(super) struct Line {
    slots: Slots,
    waiting: Option<Place>,
}

impl Line {
    pub(super) fn new(slots: Slots) -> Self {
        Self { slots, waiting: None }
    }

    pub(super) async fn slot(&mut self) -> Slot {
        let slots = &self.slots;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(Arc::clone(&slots.0).acquire_owned()));
        let slot = waiting.await;
        self.waiting = None;
        match slot {
            Ok(slot) => slot,
            // Only closed slots are refused, and nobody closes them.
            Err(AcquireError { .. }) => std::future::pending().await,
        }
    }

    /// Leaves the line: a slot must not wait for somebody who has nothing to send.
    pub(super) fn leave(&mut self) {
        self.waiting = None;
    }
}
