//! What a fetch may hold for a while: blocks as they are read, and records that are too large for its window.

use std::time::Duration;

use tokio::time::timeout;

use super::FetchError;
use crate::archive::WorkBounds;
use crate::budget::{Budget, Delivery, Turn};

/// How long a fetch waits for memory that others hold.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// When it is worth to ask again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What reading a block's frames takes beside the block, in bytes: more than most frames need, and a small part of the memory.
const WORK_BYTES_MIN: u64 = 64 << 10;
const WORK_BYTES_MAX: u64 = 4 << 20;

/// The turns that fetches share with other readers; without them, whatever there is.
#[derive(Clone, Debug, Default)]
pub struct Memory(Option<Budget>);

impl Memory {
    /// The turns of `budget`.
    pub fn of(budget: Budget) -> Self {
        Self(Some(budget))
    }

    /// Whether it can ever hold so many bytes at once.
    pub(super) fn holds(&self, bytes: u64) -> bool {
        self.0.as_ref().is_none_or(|budget| bytes <= budget.turns_bytes())
    }

    /// The most that it can hold at once, in bytes.
    pub(super) fn most(&self) -> u64 {
        self.0.as_ref().map_or(u64::MAX / 4, Budget::turns_bytes)
    }

    /// So many bytes of it. Whoever has them waits for no others.
    pub(super) async fn turn(&self, bytes: u64) -> Result<Option<Turn>, FetchError> {
        let Some(budget) = &self.0 else { return Ok(None) };
        let turn = timeout(WAIT_MAX, budget.turn(bytes)).await;
        turn.map(Some).map_err(|_| FetchError::NoRoom { retry_after: RETRY_AFTER })
    }

    /// So many bytes of it, and the permit to hold as many of them as that allows until they have been read. Whoever has both waits for no others.
    pub(super) async fn delivery(&self, bytes: u64) -> Result<Option<Delivery>, FetchError> {
        let Some(budget) = &self.0 else { return Ok(None) };
        // More than half of it is only free where no other answer waits for its reader.
        let waits = if bytes > budget.turns_bytes() / 2 { budget.deliveries_bytes() } else { bytes };
        let both = async {
            let delivery = budget.delivery(waits).await;
            Delivery { delivery, turn: budget.turn(bytes).await }
        };
        let both = timeout(WAIT_MAX, both).await;
        both.map(Some).map_err(|_| FetchError::NoRoom { retry_after: RETRY_AFTER })
    }

    /// What reading one block's frames may take.
    pub(super) fn work_bytes(&self) -> u64 {
        let all = self.0.as_ref().map_or(u64::MAX, Budget::turns_bytes);
        (all / 12).clamp(WORK_BYTES_MIN, WORK_BYTES_MAX)
    }

    pub(super) fn work_bounds(&self) -> WorkBounds {
        WorkBounds::new(self.work_bytes())
    }
}
