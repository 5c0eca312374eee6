use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Date, parse};

fn by_the_time_crate(text: &str) -> Option<i128> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(|date| date.unix_timestamp_nanos())
}

#[test]
fn every_day_of_eight_centuries_agrees_with_the_time_crate() {
    for year in (1680..2262).chain([1600, 0, 1, 4, 100, 400, 9999]) {
        for month in 1..=12 {
            for day in [1, 28, 29, 30, 31] {
                let text = format!("{year:04}-{month:02}-{day:02}T23:59:58.123456789Z");
                let expected = by_the_time_crate(&text);
                match parse(&text) {
                    Some(Date::Nanos(nanos)) => assert_eq!(Some(i128::from(nanos)), expected, "{text}"),
                    Some(Date::OutOfRange) => assert!(i64::try_from(expected.unwrap()).is_err(), "{text}"),
                    None => assert_eq!(expected, None, "{text}"),
                }
            }
        }
    }
}

#[test]
fn zones_fractions_and_small_letters_are_understood() {
    for text in [
        "2024-05-01T12:30:00Z",
        "2024-05-01t12:30:00z",
        "2024-05-01T12:30:00.5Z",
        "2024-05-01T12:30:00.000000001+05:45",
        "2024-05-01T12:30:00-23:59",
        "1969-12-31T23:59:59.999999999Z",
    ] {
        let expected = by_the_time_crate(text).unwrap();
        assert_eq!(parse(text), Some(Date::Nanos(expected as i64)), "{text}");
    }
}

#[test]
fn a_leap_second_counts_as_the_nanosecond_before_it() {
    assert_eq!(parse("2016-12-31T23:59:60Z"), Some(Date::Nanos(1_483_228_799_999_999_999)));
}

#[test]
fn what_only_resembles_a_date_is_none() {
    for text in [
        "",
        "2024-05-01",
        "2024-05-01T12:30:00",
        "2024-05-01 12:30:00Z",
        "2024-13-01T12:30:00Z",
        "2024-02-30T12:30:00Z",
        "2023-02-29T12:30:00Z",
        "2024-05-00T12:30:00Z",
        "2024-05-01T24:00:00Z",
        "2024-05-01T12:60:00Z",
        "2024-05-01T12:30:61Z",
        "2024-05-01T12:30:00.Z",
        "2024-05-01T12:30:00+0200",
        "2024-05-01T12:30:00Z ",
        "+024-05-01T12:30:00Z",
        "2024-05-01T12:30:00€",
        "ééééé-05-01T12:30:00Z",
    ] {
        assert_eq!(parse(text), None, "{text}");
    }
}
