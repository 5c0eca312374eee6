//! Limits the memory of a sender that declares much and sends little. Memory is reserved by the declared
//! size. While other callers wait for memory, a slow sender keeps only as much as its received bytes justify.

use std::time::Duration;

use crate::budget::BudgetError;

use super::memory_account::MemoryAccount;

/// The interval at which a sender is checked while the worker waits for its bytes.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How long to wait for a sender's first bytes. A sender that had to wait for its memory has already sent
/// them.
const FIRST_LOOK: Duration = Duration::from_millis(25);

/// The minimum rate of a sender, in bytes per second. A slower one is behind, after the worker has waited
/// `LOOK_AGAIN` for it.
const BYTES_PER_SECOND_MIN: u64 = 4 << 20;

/// The received part of the declared size counts this many times, because memory must be reserved before it
/// is needed.
const AHEAD: u64 = 2;

/// What is known of one sender.
pub(super) struct SenderCheck {
    account: MemoryAccount,
    declared: u64,
    reserved: u64,
    received_bytes: u64,
    waited: Duration,
    has_released: bool,
    wait_max: Duration,
}

impl SenderCheck {
    /// Creates this for a sender that has declared this many bytes, for which `reserved` bytes are reserved.
    /// To reserve them again, it waits `wait_max` at most.
    pub(super) fn new(account: MemoryAccount, declared: u64, reserved: u64, wait_max: Duration) -> Self {
        Self {
            account,
            declared,
            reserved,
            received_bytes: 0,
            waited: Duration::ZERO,
            has_released: false,
            wait_max,
        }
    }

    /// The time to the next check whether it is behind.
    pub(super) fn look_in(&self) -> Duration {
        if self.received_bytes == 0 && !self.has_released { FIRST_LOOK } else { LOOK_AGAIN }
    }

    /// Records that the worker has waited for the sender. Gives back memory if the sender is behind and
    /// others wait for memory.
    pub(super) fn waited(&mut self, took: Duration) {
        self.waited += took;
        let due =
            self.waited.saturating_sub(LOOK_AGAIN).as_millis() * u128::from(BYTES_PER_SECOND_MIN) / 1_000;
        let is_behind = match self.received_bytes {
            0 => self.waited >= FIRST_LOOK,
            received => self.waited >= LOOK_AGAIN && u128::from(received) <= due,
        };
        if is_behind && self.received_bytes < self.declared && self.account.is_waited_for() {
            self.account.release_excess(self.worth());
            self.has_released = true;
        }
    }

    /// Records that more has come. Reserves again what was given back.
    pub(super) async fn received(&mut self, bytes: usize) -> Result<(), BudgetError> {
        self.received_bytes += bytes as u64;
        if self.has_released {
            let worth = self.worth();
            self.account.regrow(worth, self.wait_max).await?;
            self.has_released = worth < self.reserved;
        }
        Ok(())
    }

    /// The part of the reservation that the received bytes justify, in bytes.
    fn worth(&self) -> u64 {
        let part = u128::from(self.reserved) * u128::from(AHEAD * self.received_bytes)
            / u128::from(self.declared.max(1));
        u64::try_from(part).unwrap_or(u64::MAX).min(self.reserved)
    }
}
