//! What a sender's word is worth. Memory is reserved by the size that it declares; while other callers wait for memory, whoever declares much and sends
//! little keeps no more than what has come is worth.

use std::time::Duration;

use crate::budget::BudgetError;

use super::memory_account::MemoryAccount;

/// How often a sender that is waited for is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How long a sender's first bytes are waited for: one that had to wait for its memory has long since sent them.
const FIRST_LOOK: Duration = Duration::from_millis(25);

/// A sender that brings less in a second than this is behind, once it has been waited for that long.
const BYTES_PER_SECOND_MIN: u64 = 4 << 20;

/// The part of the declared size that has come counts as so many times itself: what is reserved should be there before it is needed.
const AHEAD: u64 = 2;

/// One sender's.
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
    /// Of a sender that has declared so many bytes, for which `reserved` are reserved. To have them again it waits for `wait_max` at most.
    pub(super) fn new(account: MemoryAccount, declared: u64, reserved: u64, wait_max: Duration) -> Self {
        Self { account, declared, reserved, came: 0, waited: Duration::ZERO, gave_way: false, wait_max }
    }

    /// When to look whether it is behind.
    pub(super) fn look_in(&self) -> Duration {
        if self.came == 0 && !self.gave_way { FIRST_LOOK } else { LOOK_AGAIN }
    }

    /// The sender has been waited for.
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

    /// More has come: what was given back for want of it is reserved again.
    pub(super) async fn came(&mut self, bytes: usize) -> Result<(), BudgetError> {
        self.came += bytes as u64;
        if self.gave_way {
            let worth = self.worth();
            self.account.take_again(worth, self.wait_max).await?;
            self.gave_way = worth < self.reserved;
        }
        Ok(())
    }

    /// What of the reservation has come, about.
    fn worth(&self) -> u64 {
        let part =
            u128::from(self.reserved) * u128::from(AHEAD * self.came) / u128::from(self.declared.max(1));
        u64::try_from(part).unwrap_or(u64::MAX).min(self.reserved)
    }
}
