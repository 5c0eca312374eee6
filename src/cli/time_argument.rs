//! Times on the command line.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

/// Smaller numbers are not taken as milliseconds. As milliseconds, this is a year after the epoch; as
/// seconds, it is in the year 2969.
const MILLISECONDS_LEAST: u64 = 31_536_000_000;

/// Parses a time into milliseconds since the Unix epoch. The text is a day, an RFC 3339 time, a number of
/// milliseconds, or an age. A number of nine to eleven digits below `MILLISECONDS_LEAST` is taken as seconds.
pub fn parse(text: &str) -> Result<i64, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    parse_at(text, i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

fn parse_at(text: &str, now_ms: i64) -> Result<i64, String> {
    if let Ok(ms) = text.parse::<i64>() {
        let is_seconds = (100_000_000..MILLISECONDS_LEAST).contains(&ms.unsigned_abs());
        return Ok(if is_seconds { ms.saturating_mul(1_000) } else { ms });
    }
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(time.unix_timestamp_nanos().div_euclid(1_000_000) as i64);
    }
    if let Ok(day) = Date::parse(text, format_description!("[year]-[month]-[day]")) {
        return Ok(day.midnight().assume_utc().unix_timestamp() * 1_000);
    }
    let age = age_ms(text).and_then(|age| now_ms.checked_sub(age));
    age.ok_or_else(|| "a day, an RFC 3339 time, milliseconds or an age such as 15m is needed".to_owned())
}

/// Parses an age into milliseconds: `90s`, `15m`, `2h`, `7d`.
pub fn age_ms(text: &str) -> Option<i64> {
    let units = [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let (count, unit) = units.into_iter().find_map(|(name, ms)| Some((text.strip_suffix(name)?, ms)))?;
    count.parse::<u32>().ok().map(i64::from)?.checked_mul(unit)
}

/// Parses an age: see [`age_ms`].
pub fn age(text: &str) -> Result<Duration, String> {
    let age = age_ms(text).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    age.ok_or_else(|| "an age is needed, such as 24h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_days_instants_numbers_and_ages() {
        let now = 1_714_564_800_000;
        for (text, ms) in [
            ("2024-05-01", now - 12 * 3_600_000),
            ("2024-05-01T12:00:00Z", now),
            ("2024-05-01T14:00:00.25+02:00", now + 250),
            ("1714564800000", now),
            ("1969-12-31T23:59:59.9985Z", -2),
            ("-5", -5),
            ("1714564800", now),
            ("-1714564800", -now),
            ("99999999", 99_999_999),
            ("31536000000", 31_536_000_000),
            ("90s", now - 90_000),
            ("15m", now - 900_000),
            ("2h", now - 7_200_000),
            ("7d", now - 604_800_000),
        ] {
            assert_eq!(parse_at(text, now), Ok(ms), "{text}");
        }
        for text in ["", "m", "yesterday", "2024-13-01", "-1h", "99999999999999999999", "4294967296d"] {
            assert!(parse_at(text, now).is_err(), "{text}");
        }
    }
}
