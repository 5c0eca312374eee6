//! How fast bytes have come back lately, and so when more of them may.

use std::time::{Duration, Instant};

/// What "lately" is: one to two of these.
const WINDOW: Duration = Duration::from_secs(10);

/// The least and the most that anybody is told to wait: shorter is knocking, longer is forgetting.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Where nothing has come back yet, so that nothing is known.
const WAIT_UNKNOWN: Duration = Duration::from_secs(5);

/// Bytes given back in this window and in the one before it.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    windows: Option<Windows>,
}

#[derive(Clone, Copy, Debug)]
struct Windows {
    began: Instant,
    bytes: u64,
    bytes_before: u64,
    /// How long the one before lasted; nothing where there was none.
    before: Duration,
}

impl RateLimit {
    pub(super) fn gave_back(&mut self, bytes: u64, now: Instant) {
        let first = Windows { began: now, bytes: 0, bytes_before: 0, before: Duration::ZERO };
        let windows = self.windows.get_or_insert(first);
        let lasts = now.saturating_duration_since(windows.began);
        if lasts >= WINDOW {
            *windows = Windows { began: now, bytes: 0, bytes_before: windows.bytes, before: lasts };
        }
        windows.bytes = windows.bytes.saturating_add(bytes);
    }

    /// How long `bytes` take to come back.
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
        let (mut pace, began) = (RateLimit::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(pace.time_for(1, began), WAIT_UNKNOWN);
        for second in 0..=8 {
            pace.gave_back(100, at(second));
        }
        assert_eq!(pace.time_for(450, at(9)), Duration::from_millis(4_500));
        assert_eq!(pace.time_for(0, at(9)), WAIT_MIN);
        assert_eq!(pace.time_for(u64::MAX, at(9)), WAIT_MAX);
        pace.gave_back(1_000, at(10));
        assert_eq!(pace.time_for(380, at(20)), Duration::from_secs(4), "900 and 1,000 in 20 seconds");
        pace.gave_back(10, at(20));
        assert_eq!(pace.time_for(101, at(20)), WAIT_MIN, "what lies further back does not count");
        assert_eq!(pace.time_for(404, at(20)), Duration::from_secs(4), "1,000 and 10 in ten seconds");
    }
}
