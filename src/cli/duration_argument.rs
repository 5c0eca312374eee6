//! Durations on the command line: seconds, with or without a fraction.

use std::time::Duration;

/// About thirty years: longer than any useful wait, and short enough to be added to any time.
const SECONDS_MAX: f64 = 1e9;

/// The text is not a duration.
#[derive(Debug, thiserror::Error)]
#[error("not a number of seconds, such as 30 or 0.5")]
pub struct NotSeconds;

/// Parses seconds, zero or more.
pub fn seconds(text: &str) -> Result<Duration, NotSeconds> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds <= SECONDS_MAX);
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or(NotSeconds)
}

/// Parses seconds, more than zero.
pub fn positive_seconds(text: &str) -> Result<Duration, NotSeconds> {
    seconds(text).and_then(|duration| if duration.is_zero() { Err(NotSeconds) } else { Ok(duration) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_fractions_and_are_neither_negative_nor_endless() {
        assert_eq!(seconds("0.25").unwrap(), Duration::from_millis(250));
        assert_eq!(seconds("30").unwrap(), Duration::from_secs(30));
        assert_eq!(seconds("0").unwrap(), Duration::ZERO);
        for text in ["", "-1", "30s", "inf", "NaN", "1e10"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert!(positive_seconds("0").is_err() && positive_seconds("1e-10").is_err());
        assert!(positive_seconds("0.001").is_ok());
    }
}
