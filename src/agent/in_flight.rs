//! How many segments are sent at a time.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Room for so many segments on their way; clones share it, and so do the agents that have them.
#[derive(Clone, Debug)]
pub struct InFlightLimit(Arc<Semaphore>);

impl InFlightLimit {
    /// Room for so many.
    pub fn new(in_flight_limit: NonZeroUsize) -> Self {
        Self(Arc::new(Semaphore::new(in_flight_limit.get().min(Semaphore::MAX_PERMITS))))
    }
}

/// Room for one segment, until it is dropped.
pub(super) type InFlightPermit = OwnedSemaphorePermit;

type PendingPermit = Pin<Box<dyn Future<Output = Result<InFlightPermit, AcquireError>> + Send>>;

/// A place in the line for a slot. Waiting may be given up and taken up again without losing the place.
pub(super) struct PermitQueue {
    in_flight_limit: InFlightLimit,
    waiting: Option<PendingPermit>,
}

impl PermitQueue {
    pub(super) fn new(in_flight_limit: InFlightLimit) -> Self {
        Self { in_flight_limit, waiting: None }
    }

    pub(super) async fn slot(&mut self) -> InFlightPermit {
        let in_flight_limit = &self.in_flight_limit;
        let waiting =
            self.waiting.get_or_insert_with(|| Box::pin(Arc::clone(&in_flight_limit.0).acquire_owned()));
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
