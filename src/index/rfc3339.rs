//! A fast parser for RFC 3339 dates: most log records contain one, and every string is tested.

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// A string that is a valid date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Date {
    /// Nanoseconds since the Unix epoch.
    Nanos(i64),
    /// A valid date before 1677 or after 2262: Tantivy counts nanoseconds in an `i64`.
    OutOfRange,
}

/// Reads the whole of `text` as RFC 3339, section 5.6, says: `2024-05-01T12:30:00.5Z`,
/// `2024-05-01T14:30:00+02:00`.
///
/// Returns `None` if it is something else. A leap second counts as the last nanosecond before it. Digits of a
/// fraction after the ninth are dropped.
pub(super) fn parse(text: &str) -> Option<Date> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || bytes[4] != b'-' || bytes[7] != b'-' || !matches!(bytes[10], b'T' | b't') {
        return None;
    }
    if bytes[13] != b':' || bytes[16] != b':' {
        return None;
    }
    let (year, month, day) = (digits(&bytes[0..4])?, digits(&bytes[5..7])?, digits(&bytes[8..10])?);
    let (hour, minute, second) = (digits(&bytes[11..13])?, digits(&bytes[14..16])?, digits(&bytes[17..19])?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (nanos, rest) = fraction(&bytes[19..])?;
    let offset_seconds = zone(rest)?;
    let (second, nanos) = if second == 60 { (59, 999_999_999) } else { (second, nanos) };
    let seconds =
        days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset_seconds;
    let nanos = i128::from(seconds) * NANOS_PER_SECOND + i128::from(nanos);
    Some(i64::try_from(nanos).map_or(Date::OutOfRange, Date::Nanos))
}

fn digits(bytes: &[u8]) -> Option<i64> {
    let mut value = 0;
    for byte in bytes {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    Some(value)
}

/// Returns the nanoseconds of a fraction, if there is one, and the bytes after it.
fn fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let Some(rest) = bytes.strip_prefix(b".") else { return Some((0, bytes)) };
    let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0 {
        return None;
    }
    let shown = len.min(9);
    let scale = 10_i64.pow(9 - shown as u32);
    Some((digits(&rest[..shown])? * scale, &rest[len..]))
}

/// Returns the offset of a time zone, in seconds east of Greenwich.
fn zone(bytes: &[u8]) -> Option<i64> {
    match bytes {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3_600 + minutes * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the days since 1970-01-01 in the proleptic Gregorian calendar, for years from 0 on.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    const BEFORE_MONTH: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    const BEFORE_1970: i64 = 719_528; // days from 0000-01-01 to 1970-01-01
    let leap_years_before =
        if year == 0 { 0 } else { (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400 + 1 };
    let leap_day = i64::from(month > 2 && is_leap(year));
    year * 365 + leap_years_before + BEFORE_MONTH[month as usize - 1] + leap_day + day - 1 - BEFORE_1970
}

#[cfg(test)]
mod tests;
