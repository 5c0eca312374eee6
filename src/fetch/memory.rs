//! The memory that a fetch takes for a short time: for blocks while they are read, and for records that are
//! too large for its window.

use std::time::Duration;

use tokio::time::timeout;

use super::FetchError;
use crate::archive::WorkBounds;
use crate::budget::{Budget, Delivery, Permit};

/// How long a fetch waits for memory that other requests hold.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// When the caller should try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The memory to read the frames of a block, beside the block itself, in bytes. Most frames need less.
const WORK_BYTES_MIN: u64 = 64 << 10;
const WORK_BYTES_MAX: u64 = 4 << 20;

/// The permits that fetches share with searches. Without a budget there is no limit.
#[derive(Clone, Debug, Default)]
pub struct Memory(Option<Budget>);

impl Memory {
    /// The permits of `budget`.
    pub fn of(budget: Budget) -> Self {
        Self(Some(budget))
    }

    /// Whether one permit can have so many bytes.
    pub(super) fn holds(&self, bytes: u64) -> bool {
        self.0.as_ref().is_none_or(|budget| bytes <= budget.largest_permit())
    }

    /// The most bytes that one permit can have.
    pub(super) fn most(&self) -> u64 {
        self.0.as_ref().map_or(u64::MAX / 4, Budget::largest_permit)
    }

    /// Waits for a permit for so many bytes. Its holder must not wait for other memory.
    pub(super) async fn permit(&self, bytes: u64) -> Result<Option<Permit>, FetchError> {
        let Some(budget) = &self.0 else { return Ok(None) };
        let permit = timeout(WAIT_MAX, budget.permit(bytes)).await;
        permit.map(Some).map_err(|_| FetchError::NoRoom { retry_after: RETRY_AFTER })
    }

    /// Waits for a permit for so many bytes of an answer, and for the permit to keep them until their reader
    /// has them.
    pub(super) async fn delivery(&self, bytes: u64) -> Result<Option<Delivery>, FetchError> {
        let Some(budget) = &self.0 else { return Ok(None) };
        // More than half of the memory is free only while no other answer waits for its reader.
        let waits = if bytes > budget.permits_bytes() / 2 { budget.deliveries_bytes() } else { bytes };
        let both = async {
            let delivery = budget.delivery(waits).await;
            Delivery { delivery, permit: budget.permit(bytes).await }
        };
        let both = timeout(WAIT_MAX, both).await;
        both.map(Some).map_err(|_| FetchError::NoRoom { retry_after: RETRY_AFTER })
    }

    /// The memory to read the frames of one block, in bytes.
    pub(super) fn work_bytes(&self) -> u64 {
        let all = self.0.as_ref().map_or(u64::MAX, Budget::permits_bytes);
        (all / 12).clamp(WORK_BYTES_MIN, WORK_BYTES_MAX)
    }

    pub(super) fn work_bounds(&self) -> WorkBounds {
        WorkBounds::new(self.work_bytes())
    }
}
