//! The scanner and `serde_json` agree on every text: whether it is an object, and which leaves it has.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::super::super::paths::{Dots, Paths};
use super::super::*;
use super::oracle;
use crate::generate::logs::Logs;

/// Both readers, each with the paths of all texts that it has read.
struct Both {
    ours: Paths,
    theirs: Paths,
    tapes: [Tape; 2],
    objects: usize,
    others: usize,
}

impl Both {
    fn new() -> Self {
        let paths = || Paths::new(Dots::Separate);
        Self { ours: paths(), theirs: paths(), tapes: Default::default(), objects: 0, others: 0 }
    }

    fn check(&mut self, json: &str) {
        let [ours, theirs] = &mut self.tapes;
        let parsed = oracle::parse(theirs, json, &mut self.theirs);
        if parsed != Parsed::Object {
            // Our scanner reads more than `serde_json`. What it cannot read, it must not lose.
            self.others += 1;
            let parsed = ours.parse(json, &mut Paths::new(Dots::Separate));
            let is_empty = ours.leaves.is_empty() && ours.unlisted.is_empty() && ours.texts.is_empty();
            let has_all = ours
                .texts
                .iter()
                .any(|text| text.of(&ours.text).len() >= json.trim_start_matches(BYTE_ORDER_MARK).len());
            match parsed {
                Parsed::Other => assert!(is_empty, "{json:?}"),
                Parsed::Partial | Parsed::TooLarge => assert!(has_all, "{json:?}"),
                Parsed::Object => {}
            }
            return;
        }
        assert_eq!(ours.parse(json, &mut self.ours), parsed, "{json:?}");
        assert_eq!(self.ours.mark(), self.theirs.mark(), "{json:?}");
        let counts = |tape: &Tape| (tape.leaves.len(), tape.leaves_without_path, tape.dates_out_of_range);
        assert_eq!(counts(ours), counts(theirs), "{json:?}");
        for (our, their) in ours.leaves.iter().zip(&theirs.leaves) {
            assert_eq!((our.path(), our.kind), (their.path(), their.kind), "{json:?}");
            match our.kind {
                Kind::Text | Kind::Date | Kind::NumberText => {
                    let their = their.slice().of(&theirs.text);
                    assert_eq!(our.slice().of(&ours.text), their, "{json:?}");
                }
                // Compared by bits: two zeros, or two numbers that look the same in print, are different in
                // an index.
                _ => assert_eq!(our.bits, their.bits, "{json:?}"),
            }
        }
        let texts = |tape: &Tape| -> Vec<String> {
            tape.texts.iter().map(|slice| slice.of(&tape.text).to_owned()).collect()
        };
        assert_eq!(texts(ours), texts(theirs), "{json:?}");
        self.objects += 1;
    }

    /// Checks that both found the same paths, and that at least `least` texts were objects and at least
    /// `least` were not.
    fn finish(self, least: usize) {
        assert!(self.ours.admitted().eq(self.theirs.admitted()));
        assert!(self.objects >= least && self.others >= least, "{} and {}", self.objects, self.others);
    }
}

/// Pieces of text that JSON readers treat differently.
const PIECES: [&str; 94] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "{}",
    "[]",
    "{\"",
    "\":",
    "\"\"",
    " ",
    "\n",
    "\t",
    "\r",
    "\u{b}",
    "\u{c}",
    "\0",
    "\u{1f}",
    "\u{7f}",
    "\u{80}",
    "ü",
    "\u{2028}",
    "🦀",
    "\u{feff}",
    "\u{a0}",
    "true",
    "false",
    "null",
    "True",
    "nul",
    "tru",
    "NaN",
    "Infinity",
    "-Infinity",
    "0",
    "-0",
    "00",
    "01",
    "-01",
    "1",
    "-1",
    "1.",
    ".5",
    "-.5",
    "0.1",
    "-0.0",
    "1.0",
    "1.5e3",
    "1e400",
    "-1e400",
    "1e-400",
    "1E+2",
    "1e",
    "1e+",
    "+1",
    "--1",
    "1-2",
    "0x10",
    "9007199254740993",
    "999999999999999999",
    "1000000000000000000",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890",
    "0.30000000000000004",
    "3.14159265358979323846264338327950288",
    "2.2250738585072011e-308",
    "123456.789012",
    "0.000000000000000001",
    "\\n",
    "\\\"",
    "\\\\",
    "\\/",
    "\\u0000",
    "\\u00e9",
    "\\ud83e\\udd80",
    "\\ud800",
    "\\udc00",
    "\\ud800\\u0041",
    "\\uD83E\\uDD80",
    "\\u12",
    "\\x",
    "\\u+123",
    "2024-05-01T12:00:00Z",
    "1600-05-01T12:00:00Z",
    "2024-05-01T12:00:00.123456789+02:00",
    "$serde_json::private::Number",
];

#[test]
fn they_agree_on_generated_logs_and_on_what_becomes_of_them() {
    let mut both = Both::new();
    let mut random = StdRng::seed_from_u64(1);
    let mut logs = Logs::new(11);
    (0..2_000).for_each(|offset| logs.push(offset));
    for record in logs.take().iter() {
        let value = record.value().unwrap_or_default();
        both.check(str::from_utf8(value).expect("logs are UTF-8"));
        for _ in 0..10 {
            let mut broken = value.to_vec();
            for _ in 0..random.random_range(1..4) {
                damage(&mut broken, &mut random);
            }
            both.check(&String::from_utf8_lossy(&broken));
        }
    }
    both.finish(2_000);
}

/// Changes a byte, removes a range, repeats a range, cuts off the end, or inserts a piece.
fn damage(json: &mut Vec<u8>, random: &mut StdRng) {
    let at = random.random_range(0..=json.len());
    let end = (at + random.random_range(0..12)).min(json.len());
    match random.random_range(0..5) {
        0 if at < json.len() => json[at] = random.random(),
        1 => drop(json.drain(at..end)),
        2 => {
            let again = json[at..end].to_vec();
            json.splice(at..at, again);
        }
        3 => json.truncate(json.len() - random.random_range(0..3).min(json.len())),
        _ => {
            let piece = PIECES.choose(random).expect("there are pieces");
            json.splice(at..end, piece.bytes());
        }
    }
}

#[test]
fn they_agree_on_values_of_every_kind_wherever_they_stand() {
    let mut both = Both::new();
    for piece in PIECES {
        for json in [
            piece.to_owned(),
            format!("{{{piece}}}"),
            format!("{{\"a\":{piece}}}"),
            format!("{{\"a\":{piece}"),
            format!("{{ \"a\" : {piece} , \"b\" : [ {piece} , {piece} ] }}"),
            format!("{{\"a\":\"{piece}\"}}"),
            format!("{{\"a\":\"1234567{piece}12345678{piece}\"}}"),
            format!("{{\"{piece}\":1}}"),
            format!("{{\"x{piece}y\":{{\"{piece}\":\"{piece}\"}}}}"),
            format!("{piece}{{\"a\":1}}"),
            format!("{{\"a\":1}}{piece}"),
            format!("{{\"a\":1,{piece}}}"),
            format!("{{\"a\":[1,{piece}]}}"),
        ] {
            both.check(&json);
            // The second time, its keys are foreseen.
            both.check(&json);
        }
    }
    both.finish(500);
}

#[test]
fn they_agree_on_objects_made_at_random() {
    let mut both = Both::new();
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..8_000 {
        let mut json = Vec::new();
        push_object(&mut json, &mut random, 0);
        both.check(&String::from_utf8_lossy(&json));
        damage(&mut json, &mut random);
        both.check(&String::from_utf8_lossy(&json));
    }
    both.finish(5_000);
}

#[test]
fn they_agree_on_rows_of_pieces() {
    let mut both = Both::new();
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..50_000 {
        let pieces = (0..random.random_range(0..8)).filter_map(|_| PIECES.choose(&mut random).copied());
        both.check(&format!("{{\"k\":{}", pieces.collect::<String>()));
    }
    both.finish(20);
}

#[test]
fn they_agree_on_numbers_of_every_length() {
    let mut both = Both::new();
    let mut random = StdRng::seed_from_u64(4);
    let digits = |random: &mut StdRng, most: usize| -> String {
        let len = random.random_range(0..=most);
        (0..len).map(|_| char::from(b'0' + random.random_range(0..10))).collect()
    };
    for _ in 0..50_000 {
        let sign = ["", "-"].choose(&mut random).expect("two");
        let whole = digits(&mut random, 22);
        let fraction = if random.random() { format!(".{}", digits(&mut random, 22)) } else { String::new() };
        let exponent = match random.random_range(0..4) {
            0 => format!("e{}", random.random_range(-340..340)),
            _ => String::new(),
        };
        both.check(&format!("{{\"n\":{sign}{whole}{fraction}{exponent}}}"));
    }
    both.finish(5_000);
}

#[test]
fn they_agree_on_strings_of_every_length_and_place_of_what_ends_them() {
    let mut both = Both::new();
    for before in 0..24 {
        for (nth, special) in
            ["", "\\\"", "\\u00fc", "\u{1}", "ü", "\u{7f}", "!", "#", "[", "]", "\\"].iter().enumerate()
        {
            for behind in 0..18 {
                let text = format!("{}{special}{}", "a".repeat(before), "b".repeat(behind));
                both.check(&format!("{{\"key{nth}\":\"{text}\",\"{text}\":0}}"));
                both.check(&format!("{{\"key{nth}\":\"{text}"));
            }
        }
    }
    both.finish(1_000);
}

#[test]
fn they_agree_on_depths_and_counts_about_their_limits() {
    let mut both = Both::new();
    for depth in 95..135 {
        for (open, close) in [("{\"a\":", "}"), ("[", "]"), ("{\"a\":[", "]}")] {
            for inside in ["1", "", "x", "{", "\"\\ud800\""] {
                both.check(&format!("{{\"a\":{}{inside}{}}}", open.repeat(depth), close.repeat(depth)));
                both.check(&format!("{{\"a\":{}{inside}", open.repeat(depth)));
            }
        }
    }
    for leaves in [LEAVES_MAX - 1, LEAVES_MAX, LEAVES_MAX + 1] {
        for end in ["]}", "", "x", ",1-2]}"] {
            both.check(&format!("{{\"a\":[1{}{end}", ",1".repeat(leaves - 1)));
        }
    }
    both.finish(10);
}

fn push_object(json: &mut Vec<u8>, random: &mut StdRng, depth: usize) {
    json.push(b'{');
    for nth in 0..random.random_range(0..6) {
        if nth > 0 {
            json.push(b',');
        }
        push_space(json, random);
        push_string(json, random);
        push_space(json, random);
        json.push(b':');
        push_any(json, random, depth);
    }
    json.push(b'}');
}

fn push_any(json: &mut Vec<u8>, random: &mut StdRng, depth: usize) {
    push_space(json, random);
    match random.random_range(0..8) {
        0 if depth < 6 => push_object(json, random, depth + 1),
        1 if depth < 6 => {
            json.push(b'[');
            for nth in 0..random.random_range(0..5) {
                if nth > 0 {
                    json.push(b',');
                }
                push_any(json, random, depth + 1);
            }
            json.push(b']');
        }
        2..4 => push_string(json, random),
        4 => json.extend(["true", "false", "null"].choose(random).expect("three").bytes()),
        5 => json.extend(random.random::<i64>().to_string().bytes()),
        6 => json.extend((random.random::<f64>() * 1e6).to_string().bytes()),
        _ => json.extend(random.random_range(-1_000..100_000).to_string().bytes()),
    }
    push_space(json, random);
}

fn push_string(json: &mut Vec<u8>, random: &mut StdRng) {
    const PARTS: [&str; 16] = [
        "a",
        "b",
        "level",
        "user",
        ".",
        " ",
        "ü",
        "🦀",
        "\\n",
        "\\\"",
        "\\u00df",
        "\\ud83e\\udd80",
        "\\\\",
        "message",
        "0123456789",
        "2024-05-01T12:00:00Z",
    ];
    json.push(b'"');
    for _ in 0..random.random_range(0..4) {
        json.extend(PARTS.choose(random).expect("parts").bytes());
    }
    json.push(b'"');
}

fn push_space(json: &mut Vec<u8>, random: &mut StdRng) {
    if random.random_range(0..6) == 0 {
        json.extend([" ", "\n", "\t", "\r\n  "].choose(random).expect("four").bytes());
    }
}
