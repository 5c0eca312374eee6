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
pub(super) struct Pledge {
    account: MemoryAccount,
    declared: u64,
    reserved: u64,
    came: u64,
    waited: Duration,
    gave_way: bool,
    wait_max: Duration,
}

impl Pledge {
    /// Creates this for a sender that has declared this many bytes, for which `reserved` bytes are reserved.
    /// To reserve them again, it waits `wait_max` at most.
    pub(super) fn new(account: MemoryAccount, declared: u64, reserved: u64, wait_max: Duration) -> Self {
        Self { account, declared, reserved, came: 0, waited: Duration::ZERO, gave_way: false, wait_max }
    }

    /// The time to the next check whether it is behind.
    pub(super) fn look_in(&self) -> Duration {
        if self.came == 0 && !self.gave_way { FIRST_LOOK } else { LOOK_AGAIN }
    }

    /// Records that the worker has waited for the sender. Gives back memory if the sender is behind and
    /// others wait for memory.
    pub(super) fn waited(&mut self, took: Duration) {
        self.waited += took;
        let due =
            self.waited.saturating_sub(LOOK_AGAIN).as_millis() * u128::from(BYTES_PER_SECOND_MIN) / 1_000;
        let is_behind = match self.came {
            0 => self.waited >= FIRST_LOOK,
            came => self.waited >= LOOK_AGAIN && u128::from(came) <= due,
        };
        if is_behind && self.came < self.declared && self.account.is_waited_for() {
            self.account.give_way(self.worth());
            self.gave_way = true;
        }
    }

    /// Records that more has come. Reserves again what was given back.
    pub(super) async fn came(&mut self, bytes: usize) -> Result<(), BudgetError> {
        self.came += bytes as u64;
        if self.gave_way {
            let worth = self.worth();
            self.account.take_again(worth, self.wait_max).await?;
            self.gave_way = worth < self.reserved;
        }
        Ok(())
    }

    /// The part of the reservation that the received bytes justify, in bytes.
    fn worth(&self) -> u64 {
        let part =
            u128::from(self.reserved) * u128::from(AHEAD * self.came) / u128::from(self.declared.max(1));
        u64::try_from(part).unwrap_or(u64::MAX).min(self.reserved)
    }
}
