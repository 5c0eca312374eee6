//! Records that no producer would write, made from a seed.

use std::fmt::Write;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;

const KEYS: [&str; 16] = [
    "a",
    "b",
    "a.b",
    "a.b.c",
    "",
    ".",
    "..",
    "level",
    "ünï",
    "a b",
    "\\u0000",
    "\\u0001",
    "a\\u0001b",
    "Ä",
    "1",
    "c",
];

const WORDS: [&str; 24] = [
    "a",
    "b",
    "A",
    "error",
    "ERROR",
    "ümlaut",
    "ÜMLAUT",
    "İ",
    "ß",
    "日本語",
    "🦀",
    "-",
    "",
    "a-b",
    "a_b",
    "1",
    "01",
    "-1",
    "true",
    "x²",
    "e\\u0301a",
    "12345678",
    "123456789",
    "0123456789abcdef0",
];

const NUMBERS: [&str; 24] = [
    "0",
    "-0",
    "1",
    "-1",
    "1.0",
    "-0.0",
    "1.5",
    "1e3",
    "1e-7",
    "1e300",
    "-1e300",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775807.5",
    "0.1",
    "255",
    "256",
    "65536",
    "4294967296",
    "123456789012",
];

const DATES: [&str; 8] = [
    "2024-05-01T12:30:00Z",
    "2024-05-01T12:30:00.123456789Z",
    "2024-05-01T14:30:00+02:00",
    "1969-12-31T23:59:60Z",
    "1500-01-01T00:00:00Z",
    "2300-01-01T00:00:00Z",
    "2024-02-30T00:00:00Z",
    "2024-05-01",
];

fn value(random: &mut StdRng, depth: usize, to: &mut String) {
    match random.random_range(0..if depth > 4 { 7 } else { 10 }) {
        0 => to.push_str(NUMBERS.choose(random).unwrap()),
        1 => drop(write!(to, "{}", random.random_range(-50..50))),
        2 => to.push_str(["true", "false", "null"].choose(random).unwrap()),
        3 => drop(write!(to, "\"{}\"", DATES.choose(random).unwrap())),
        4 => drop(write!(to, "{:.2}", random.random_range(-2.0..2.0))),
        5 | 6 => string(random, to),
        7 => {
            to.push('[');
            for index in 0..random.random_range(0..4) {
                to.push_str(if index > 0 { "," } else { "" });
                value(random, depth + 1, to);
            }
            to.push(']');
        }
        _ => object(random, depth + 1, to),
    }
}

fn object(random: &mut StdRng, depth: usize, to: &mut String) {
    to.push('{');
    for index in 0..random.random_range(0..6) {
        to.push_str(if index > 0 { ", " } else { "" });
        if random.random_range(0..40) == 0 {
            let _ = write!(to, "\"key{}\": ", random.random_range(0..3_000));
        } else {
            let _ = write!(to, "\"{}\": ", KEYS.choose(random).unwrap());
        }
        value(random, depth, to);
    }
    to.push('}');
}

fn string(random: &mut StdRng, to: &mut String) {
    to.push('"');
    for _ in 0..random.random_range(0..6) {
        if random.random_range(0..3) == 0 {
            let _ = write!(to, "{:x}", random.random::<u64>() >> (random.random::<u8>() % 64));
        } else {
            to.push_str(WORDS.choose(random).unwrap());
        }
        to.push_str([" ", "", "-", ".", "/"].choose(random).unwrap());
    }
    to.push('"');
}

fn bytes(random: &mut StdRng) -> Vec<u8> {
    match random.random_range(0..8) {
        0 => Vec::new(),
        1 => vec![0; random.random_range(0..20)],
        2 => (0..random.random_range(0..40)).map(|_| random.random_range(0..=255)).collect(),
        3 => vec![b'k'; random.random_range(65_520..65_530)],
        _ => format!("key-{}", random.random_range(0..50)).into_bytes(),
    }
}

fn record(random: &mut StdRng, offset: i64) -> TestRecord {
    let mut text = String::new();
    match random.random_range(0..10) {
        0 => string(random, &mut text),
        1 => text.push_str(r#"{"broken": "#),
        _ => object(random, 0, &mut text),
    }
    let headers = (0..random.random_range(0..5)).map(|_| {
        let name = match random.random_range(0..6) {
            0 => bytes(random),
            1 => format!("header{}", random.random_range(0..3_000)).into_bytes(),
            _ => ["trace.id", "a", "", "ü", "a\u{1}b"].choose(random).unwrap().as_bytes().to_vec(),
        };
        (name, (random.random_range(0..8) > 0).then(|| bytes(random)))
    });
    let headers = headers.collect();
    let value = match random.random_range(0..12) {
        0 => None,
        1 => Some(bytes(random)),
        _ => Some(text.into_bytes()),
    };
    TestRecord {
        offset: if random.random_range(0..50) == 0 { random.random() } else { offset },
        timestamp_ms: (random.random_range(0..8) > 0).then(|| random.random_range(-5..1_000_000)),
        key: (random.random_range(0..3) > 0).then(|| bytes(random)),
        value,
        headers,
    }
}

#[test]
fn nasty_records_are_written_as_tantivy_writes_them() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let records: Vec<_> = (0..400).map(|offset| record(&mut random, offset)).collect();
        check(&[batch(&records)], &format!("seed {seed}"));
    }
}

#[test]
fn thousands_of_paths_and_headers_are_written_as_tantivy_writes_them() {
    let records = (0..2_500).map(|n| TestRecord {
        offset: n,
        value: Some(
            format!(r#"{{"path{n}": {{"x": {n}, "y": "word{}", "z": {n}.5}}, "same": {n}}}"#, n % 7).into(),
        ),
        headers: vec![
            (format!("header{n}").into(), Some(b"x".to_vec())),
            (b"h".to_vec(), Some(format!("{n}").into())),
        ],
        ..TestRecord::default()
    });
    check(&[batch(&records.collect::<Vec<_>>())], "paths");
}
