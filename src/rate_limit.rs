//! Limits work to a rate, so that background work leaves the store to other work. Does not know what is
//! counted.

use std::num::NonZeroU64;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Delays work that exceeds a rate. Unused capacity does not accumulate: after a time in which the store was
/// slow, work does not go faster than the rate.
#[derive(Debug)]
pub struct RateLimit {
    per_second: Option<NonZeroU64>,
    /// The earliest time at which the work so far is within the rate.
    due: Mutex<Instant>,
}

impl RateLimit {
    /// Creates a limit for a number of units per second. `None` means no limit.
    pub fn new(per_second: Option<NonZeroU64>) -> Self {
        Self { per_second, due: Mutex::new(Instant::now()) }
    }

    /// Counts `count` more units, and waits until they are within the rate.
    pub async fn wait(&self, count: u64) {
        if let Some(due) = self.due_after(count, Instant::now()) {
            sleep_until(due).await;
        }
    }

    fn due_after(&self, count: u64, now: Instant) -> Option<Instant> {
        let rate = self.per_second?;
        let mut due = self.due.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *due = now.max(*due) + Duration::from_secs_f64(count as f64 / rate.get() as f64);
        Some(*due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_lost_time_is_not_made_up_for() {
        let rate_limit = RateLimit::new(NonZeroU64::new(100));
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(rate_limit.due_after(50, began), Some(began + Duration::from_millis(500)));
        assert_eq!(rate_limit.due_after(150, began), Some(after(2)));
        assert_eq!(rate_limit.due_after(100, after(60)), Some(after(61)));
        assert_eq!(RateLimit::new(None).due_after(u64::MAX, began), None);
    }
}
