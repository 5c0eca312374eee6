//! The rate at which memory was given back lately, to estimate when more of it will be free.

use std::time::{Duration, Instant};

/// "Lately" is the last one to two windows.
const WINDOW: Duration = Duration::from_secs(10);

/// The limits of an estimate. A shorter wait would only cause more retries; after a longer one the estimate
/// is out of date.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The estimate before anything was given back.
const WAIT_UNKNOWN: Duration = Duration::from_secs(5);

/// Bytes given back in this window and in the one before it.
#[derive(Debug, Default)]
pub(super) struct ReturnRate {
    windows: Option<Windows>,
}

#[derive(Clone, Copy, Debug)]
struct Windows {
    began: Instant,
    bytes: u64,
    bytes_before: u64,
    /// How long the window before lasted; zero if there was none.
    before: Duration,
}

impl ReturnRate {
    pub(super) fn gave_back(&mut self, bytes: u64, now: Instant) {
        let first = Windows { began: now, bytes: 0, bytes_before: 0, before: Duration::ZERO };
        let windows = self.windows.get_or_insert(first);
        let lasts = now.saturating_duration_since(windows.began);
        if lasts >= WINDOW {
            *windows = Windows { began: now, bytes: 0, bytes_before: windows.bytes, before: lasts };
        }
        windows.bytes = windows.bytes.saturating_add(bytes);
    }

    /// An estimate of how long it takes until `bytes` are given back.
    pub(super) fn time_for(&self, bytes: u64, now: Instant) -> Duration {
        let Some(windows) = self.windows else { return WAIT_UNKNOWN };
        let lasts = now.saturating_duration_since(windows.began) + windows.before;
        let came = windows.bytes.saturating_add(windows.bytes_before);
        if came == 0 || lasts.is_zero() {
            return WAIT_UNKNOWN;
        }
        let seconds = lasts.as_secs_f64() * bytes as f64 / came as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(WAIT_MAX).clamp(WAIT_MIN, WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_what_the_same_bytes_took_lately() {
        let (mut rate, began) = (ReturnRate::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(rate.time_for(1, began), WAIT_UNKNOWN);
        for second in 0..=8 {
            rate.gave_back(100, at(second));
        }
        assert_eq!(rate.time_for(450, at(9)), Duration::from_millis(4_500));
        assert_eq!(rate.time_for(0, at(9)), WAIT_MIN);
        assert_eq!(rate.time_for(u64::MAX, at(9)), WAIT_MAX);
        rate.gave_back(1_000, at(10));
        assert_eq!(rate.time_for(380, at(20)), Duration::from_secs(4), "900 and 1,000 in 20 seconds");
        rate.gave_back(10, at(20));
        assert_eq!(rate.time_for(101, at(20)), WAIT_MIN, "what lies further back does not count");
        assert_eq!(rate.time_for(404, at(20)), Duration::from_secs(4), "1,000 and 10 in ten seconds");
    }
}
