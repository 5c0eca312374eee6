//! Reads when a certificate expires. Operators must know this in time, and TLS libraries do not report it.
//! This module knows only the part of X.509 that comes before this date.

use time::format_description::StaticFormatDescription;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// DER tags.
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, which holds the version. It may be missing.
const VERSION: u8 = 0xa0;

const FORMAT: StaticFormatDescription = format_description!("[year][month][day][hour][minute][second]Z");

/// Returns when a certificate expires. `None` if its bytes do not follow RFC 5280, section 4.1.
pub(super) fn not_after(certificate: impl AsRef<[u8]>) -> Option<OffsetDateTime> {
    let (certificate, _) = take(certificate.as_ref(), SEQUENCE)?;
    let (signed, _) = take(certificate, SEQUENCE)?;
    let signed = take(signed, VERSION).map_or(signed, |(_, rest)| rest);
    let (_serial, signed) = take(signed, INTEGER)?;
    let (_algorithm, signed) = take(signed, SEQUENCE)?;
    let (_issuer, signed) = take(signed, SEQUENCE)?;
    let (validity, _) = take(signed, SEQUENCE)?;
    let (_, ends) = moment(validity)?;
    moment(ends).map(|(ends, _)| ends)
}

/// Returns a time and the bytes behind it. Years of two digits are 1950 to 2049.
fn moment(der: &[u8]) -> Option<(OffsetDateTime, &[u8])> {
    let (text, rest) = match take(der, UTC_TIME) {
        Some((digits, rest)) => {
            let digits = std::str::from_utf8(digits).ok()?;
            let century = if digits.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" };
            (format!("{century}{digits}"), rest)
        }
        None => {
            let (digits, rest) = take(der, GENERALIZED_TIME)?;
            (std::str::from_utf8(digits).ok()?.to_owned(), rest)
        }
    };
    Some((PrimitiveDateTime::parse(&text, FORMAT).ok()?.assume_utc(), rest))
}

/// Returns the contents of an element with this tag, and the bytes behind it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // This number of bytes holds the length.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut parameters = CertificateParams::new(["workers.test".to_owned()]).expect("names");
        parameters.not_after = date_time_ymd(year, 2, 28);
        let key = KeyPair::generate().expect("a key");
        parameters.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn certificates_tell_when_they_end() {
        for year in [1999, 2026, 2049, 2050, 4096] {
            assert_eq!(not_after(certificate(year)), Some(date_time_ymd(year, 2, 28)), "{year}");
        }
    }

    #[test]
    fn what_is_cut_off_or_something_else_does_not_read() {
        let whole = certificate(2026);
        for end in 0..whole.len() {
            assert_eq!(not_after(&whole[..end]), None, "{end}");
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 0xff;
            // Any result is right, but reading must end without a panic.
            let _ = not_after(&other);
        }
        assert_eq!(not_after(b"-----BEGIN CERTIFICATE-----"), None);
    }
}
