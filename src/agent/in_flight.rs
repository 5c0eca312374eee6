//! Limits how many segments are sent at the same time.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The maximum number of segments in flight. All clones share one limit, and so can several agents.
#[derive(Clone, Debug)]
pub struct InFlightLimit(Arc<Semaphore>);

impl InFlightLimit {
    /// Creates a limit of this number of segments.
    pub fn new(in_flight_limit: NonZeroUsize) -> Self {
        Self(Arc::new(Semaphore::new(in_flight_limit.get().min(Semaphore::MAX_PERMITS))))
    }
}

/// The permit to send one segment. Dropping it frees its place.
pub(super) type InFlightPermit = OwnedSemaphorePermit;

type PendingPermit = Pin<Box<dyn Future<Output = Result<InFlightPermit, AcquireError>> + Send>>;

/// The place of an agent in the queue for permits. The wait can be cancelled and continued without losing the
/// place.
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
            // Only a closed semaphore gives this error, and this one is never closed.
            Err(AcquireError { .. }) => std::future::pending().await,
        }
    }

    /// Leaves the queue. A permit must not be reserved for an agent that has nothing to send.
    pub(super) fn leave(&mut self) {
        self.waiting = None;
    }
}
