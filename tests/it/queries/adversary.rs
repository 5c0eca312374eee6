//! Random queries over unusual records, compared with a scan of their raw bytes.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use wal_indexer::proto::v1;

use super::compose::Rng;
use super::scan::{End, Leaf, Number, Place, Query, Record, Value, words};
use super::{Client, ask, send, worker};

const TOPIC: &str = "odd";

/// Number of records in a corpus.
const RECORDS: usize = 150;

/// Number of queries on a corpus.
const QUERIES: usize = 250;

const WORDS: [&str; 16] = [
    "error", "WARN", "timeout", "conn", "reset", "Zürich", "東京", "naïve", "x1", "500", "5e2", "true",
    "False", "null", "v2", "ÉTÉ",
];

/// What separates words in a JSON string.
const BETWEEN: [&[u8]; 16] = [
    b" ",
    b"-",
    b"_",
    b"/",
    b".",
    b"\\n",
    b"\\\"",
    b"\\\\",
    b"\\u001b[31m",
    b"\\u001B[0;1m",
    b"\\\\x1b[31m",
    b"\\\\u001b[0m",
    b"\\ud83d",
    b"\\ud83d\\ude00",
    b"\t",
    b"\\u0000",
];

/// Separators that are not UTF-8.
const BROKEN: [&[u8]; 4] = [b"\xff", b"\xe9", b"\xed\xa0\xbd", b"\xf0\x9f\xa6"];

/// In the order of their values, except for equal ones.
const NUMBERS: [&str; 30] = [
    "-1e300",
    "-9223372036854775808",
    "-9223372036854775807",
    "-9007199254740993",
    "-9007199254740992",
    "-500",
    "-5",
    "-1.5",
    "-1",
    "-0",
    "0.0",
    "0.5",
    "5e-1",
    "1",
    "1.0",
    "499.99",
    "500",
    "500.0",
    "5e2",
    "503",
    "9007199254740991",
    "9007199254740992",
    "9007199254740993",
    "9223372036854775806",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551614",
    "18446744073709551615",
    "1.5E22",
    "1e300",
];

/// Text that JSON does not allow as a number, or that only looks like a number.
const NO_NUMBERS: [&str; 11] =
    ["1e400", "-1e999", "NaN", "-Infinity", "01", "-007", "+5", ".5", "1.", "0x1F", "True"];

const PATHS: [&str; 15] = [
    "level",
    "status",
    "n",
    "user",
    "user.id",
    "error.code",
    "ok",
    "tags",
    "my path",
    "a.b",
    "timestamp",
    "text",
    "key",
    "header.x",
    "ключ",
];

const TIMES: [i64; 10] =
    [-1, -2, 0, 1, 1_760_000_000_000, 1_760_000_000_001, -5_000, i64::MIN, i64::MAX, 86_400_000];

/// Makes records.
struct Maker<'a> {
    rng: &'a mut Rng,
    /// Whether strings may contain bytes that are not UTF-8.
    breaks: bool,
}

impl Maker<'_> {
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.below(of.len())]
    }

    fn string(&mut self, out: &mut Vec<u8>) {
        out.push(b'"');
        match self.rng.below(12) {
            0 => out.extend_from_slice(self.pick(&NUMBERS).as_bytes()),
            1 => out.extend_from_slice(self.pick(&NO_NUMBERS).as_bytes()),
            2 => {}
            _ => {
                for nth in 0..=self.rng.below(4) {
                    if nth > 0 {
                        let between = self.pick(&BETWEEN);
                        let broken = self.breaks && self.rng.one_in(3);
                        out.extend_from_slice(if broken { self.pick(&BROKEN) } else { between });
                    }
                    out.extend_from_slice(self.pick(&WORDS).as_bytes());
                }
            }
        }
        out.push(b'"');
    }

    fn space(&mut self, out: &mut Vec<u8>) {
        let space = self.pick(&["", "", "", " ", "\n  ", "\t", "\r\n"]);
        out.extend_from_slice(space.as_bytes());
    }

    fn leaf(&mut self, depth: usize, out: &mut Vec<u8>) {
        self.space(out);
        match self.rng.below(if depth > 0 { 16 } else { 12 }) {
            0..5 => self.string(out),
            5..9 => out.extend_from_slice(self.pick(&NUMBERS).as_bytes()),
            9 => out.extend_from_slice(self.pick(&NO_NUMBERS).as_bytes()),
            10 => out.extend_from_slice(self.pick(&["true", "false"]).as_bytes()),
            11 => out.extend_from_slice(b"null"),
            12..14 => self.array(depth - 1, out),
            _ => self.object(depth - 1, out),
        }
        self.space(out);
    }

    fn array(&mut self, depth: usize, out: &mut Vec<u8>) {
        out.push(b'[');
        for nth in 0..self.rng.below(4) {
            if nth > 0 {
                out.push(b',');
            }
            self.leaf(depth, out);
        }
        out.push(b']');
    }

    /// Writes an object. A name may occur twice.
    fn object(&mut self, depth: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for nth in 0..self.rng.below(6) {
            if nth > 0 {
                out.push(b',');
            }
            self.space(out);
            out.push(b'"');
            out.extend_from_slice(self.pick(&PATHS).as_bytes());
            out.extend_from_slice(b"\"");
            self.space(out);
            out.push(b':');
            self.leaf(depth, out);
        }
        out.push(b'}');
    }

    /// Writes text that is not JSON.
    fn text(&mut self, out: &mut Vec<u8>) {
        for nth in 0..=self.rng.below(5) {
            if nth > 0 {
                let between = self.pick(&[
                    " ",
                    ", ",
                    "=",
                    "\u{1b}[31m",
                    "\u{1b}[0m ",
                    r"\x1b[1m",
                    r"\033[0m",
                    r"\e[32m",
                    "\n",
                    "\u{feff}",
                ]);
                out.extend_from_slice(between.as_bytes());
            }
            out.extend_from_slice(self.pick(&WORDS).as_bytes());
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let kind = self.rng.below(20);
        // A value that breaks off is text as a whole, so it must be UTF-8.
        self.breaks = kind != 15 && kind != 16 && self.rng.one_in(4);
        match kind {
            0..9 => self.object(3, &mut out),
            9 => {
                out.extend_from_slice("\u{feff}".as_bytes());
                self.object(2, &mut out);
            }
            10..12 => self.array(2, &mut out),
            12..15 => {
                for nth in 0..=self.rng.below(3) {
                    if nth > 0 {
                        let between = self.pick(&["", "\n", " ", "\r\n", "\n\u{feff}"]);
                        out.extend_from_slice(between.as_bytes());
                    }
                    self.object(2, &mut out);
                }
            }
            15 => {
                self.object(2, &mut out);
                let mut end = self.rng.below(out.len()).max(1);
                while str::from_utf8(&out[..end]).is_err() {
                    end -= 1;
                }
                out.truncate(end);
            }
            16 => {
                self.object(2, &mut out);
                out.push(b' ');
                self.text(&mut out);
            }
            17 => self.text(&mut out),
            18 => {
                self.text(&mut out);
                out.extend_from_slice(self.pick(&BROKEN));
            }
            _ => {
                let scalar = self.pick(&["", "42", "\"conn reset\"", "null", "true", "-0.5"]);
                out.extend_from_slice(scalar.as_bytes());
            }
        }
        out
    }
}

/// Returns a Chronik V1 record.
fn frame(record: &Record) -> Vec<u8> {
    let mut bytes = super::hostile::segment(&[&record.bytes]);
    bytes[8..16].copy_from_slice(&record.offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&record.timestamp_ms.unwrap_or(-1).to_le_bytes());
    let sum = crc32fast::hash(&[&bytes[..24], &bytes[28..]].concat());
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Returns records. With `crowded`, the first one has so many paths that the paths of the others are beyond
/// the thousandth.
fn records(rng: &mut Rng, crowded: bool) -> Vec<Record> {
    let mut maker = Maker { rng, breaks: false };
    let values = (0..RECORDS).map(|nth| match nth {
        0 if crowded => {
            let members: Vec<_> = (0..1_100).map(|key| format!(r#""k{key}": {key}"#)).collect();
            format!("{{{}}}", members.join(",")).into_bytes()
        }
        _ => maker.value(),
    });
    let values: Vec<_> = values.collect();
    let records = values.into_iter().zip(0..).map(|(bytes, offset)| Record {
        offset,
        timestamp_ms: Some(TIMES[rng.below(TIMES.len())]).filter(|time| *time != -1),
        value: Value::read(&bytes),
        bytes,
    });
    records.collect()
}

type Both = (String, Query);

/// Returns a path in the syntax of queries.
fn written(path: &str) -> String {
    let is_taken = ["offset", "timestamp", "key", "text"].contains(&path) || path.starts_with("header.");
    let escaped: String =
        path.chars().map(|c| if c == ' ' { "\\ ".to_owned() } else { c.to_string() }).collect();
    if is_taken { format!("value.{escaped}") } else { escaped }
}

/// Makes queries that most likely find something.
struct Asker<'a> {
    records: &'a [Record],
    /// Whether most paths are not listed in the index. Values at such paths are also text without a path. In
    /// that text only single words are searched.
    crowded: bool,
    rng: &'a mut Rng,
}

impl Asker<'_> {
    fn query(&mut self, depth: usize) -> Both {
        if depth > 0 && self.rng.one_in(3) {
            let (a, b) = (self.query(depth - 1), self.query(depth - 1));
            return match self.rng.below(4) {
                0 => (format!("({} OR {})", a.0, b.0), Query::Or(vec![a.1, b.1])),
                1 => (format!("({} {})", a.0, b.0), Query::And(vec![a.1, b.1])),
                2 => (format!("({} AND NOT {})", a.0, b.0), Query::And(vec![a.1, Query::Not(Box::new(b.1))])),
                _ => (format!("(* -{})", a.0), Query::And(vec![Query::All, Query::Not(Box::new(a.1))])),
            };
        }
        loop {
            let made = match self.rng.below(10) {
                0 | 1 => self.words(false),
                2..4 => self.words(true),
                4 => self.number(),
                5 | 6 => self.range(),
                7 => self.present(),
                8 => self.times(),
                _ => self.offsets(),
            };
            if let Some(made) = made {
                return made;
            }
        }
    }

    fn record(&mut self) -> Record {
        self.records[self.rng.below(self.records.len())].clone()
    }

    fn leaf(&mut self) -> Option<(String, Leaf)> {
        let record = self.record();
        let paths: Vec<_> = record.value.paths.iter().collect();
        let (path, leaves) = paths.get(self.rng.below(paths.len().max(1)))?;
        Some(((*path).clone(), leaves[self.rng.below(leaves.len())].clone()))
    }

    /// Returns a word, the start of a word, or a phrase: at a path, in text, or anywhere.
    fn words(&mut self, at_path: bool) -> Option<Both> {
        let (place, text) = match at_path {
            true => {
                let (path, leaf) = self.leaf()?;
                let text = match leaf {
                    Leaf::Text(text) => text,
                    Leaf::Bool(value) => value.to_string(),
                    Leaf::Number(_) => return None,
                };
                (Place::Path(path), text)
            }
            false => {
                let record = self.record();
                let leaves = record.value.paths.values().flatten();
                let texts = leaves.filter_map(|leaf| match leaf {
                    Leaf::Text(text) => Some(text),
                    Leaf::Number(_) | Leaf::Bool(_) => None,
                });
                let of_leaves: Vec<_> = texts.collect();
                let of_text =
                    record.value.texts.first().filter(|_| of_leaves.is_empty() || self.rng.one_in(2));
                match of_text {
                    Some(text) if self.rng.one_in(2) => (Place::Text, text.clone()),
                    Some(text) => (Place::Anywhere, text.clone()),
                    None => {
                        let text = of_leaves.get(self.rng.below(of_leaves.len().max(1)))?;
                        (Place::Anywhere, (*text).clone())
                    }
                }
            }
        };
        let all = words(&text);
        let is_single = self.crowded && !at_path;
        let count = if is_single { 1 } else { 1 + self.rng.below(3) };
        let first = self.rng.below(all.len().max(1));
        let mut some: Vec<String> = all.get(first..(first + count).min(all.len()))?.to_vec();
        let last = some.last_mut()?;
        let is_number = last.starts_with(|c: char| c.is_ascii_digit());
        if is_single && (is_number || matches!(place, Place::Text)) {
            return None;
        }
        let open = self.rng.one_in(3);
        if open {
            *last = last.chars().take(1 + self.rng.below(last.chars().count())).collect();
        }
        if self.rng.one_in(4) {
            some.reverse();
        }
        let text = if self.rng.one_in(3) { some.join(" ").to_uppercase() } else { some.join(" ") };
        let quoted = match (some.len(), self.rng.below(2)) {
            // Not the names of operators.
            (1, _) if !["AND", "OR", "NOT", "TO"].contains(&text.as_str()) => text.clone(),
            (_, 0) if text.is_ascii() => text.replace(' ', "-"),
            _ => format!("\"{text}\""),
        };
        let name = match &place {
            Place::Anywhere => String::new(),
            Place::Text => "text:".to_owned(),
            Place::Path(path) => format!("{}:", written(path)),
        };
        let star = if open { "*" } else { "" };
        Some((format!("{name}{quoted}{star}"), Query::Words { place, text, open }))
    }

    fn some_number(&mut self) -> &'static str {
        NUMBERS[self.rng.below(NUMBERS.len())]
    }

    fn number(&mut self) -> Option<Both> {
        let (path, leaf) = self.leaf()?;
        leaf.number()?;
        let text = self.some_number();
        let wording = if self.rng.one_in(2) { format!("\"{text}\"") } else { text.to_owned() };
        let query = Query::Words { place: Place::Path(path.clone()), text: text.to_owned(), open: false };
        Some((format!("{}:{wording}", written(&path)), query))
    }

    fn range(&mut self) -> Option<Both> {
        let (path, leaf) = self.leaf()?;
        leaf.number()?;
        let nth = self.rng.below(NUMBERS.len());
        let (a, b) = (NUMBERS[nth], NUMBERS[(nth + self.rng.below(8)).min(NUMBERS.len() - 1)]);
        let number = |text| Number::parse(text).expect("a number");
        let (text, from, to) = self.between((a, number(a)), (b, number(b)));
        Some((format!("{}:{text}", written(&path)), Query::Numbers(path, from, to)))
    }

    fn between<T: Copy>(&mut self, (a, low): (&str, T), (b, high): (&str, T)) -> (String, End<T>, End<T>) {
        match self.rng.below(8) {
            0 => (format!(">{a}"), End::Without(low), End::Open),
            1 => (format!(">={a}"), End::With(low), End::Open),
            2 => (format!("<{b}"), End::Open, End::Without(high)),
            3 => (format!("<={b}"), End::Open, End::With(high)),
            4 => (format!("{{{a} TO {b}}}"), End::Without(low), End::Without(high)),
            5 => (format!("[{a} TO {b}}}"), End::With(low), End::Without(high)),
            6 => (format!("[* TO {b}]"), End::Open, End::With(high)),
            _ => (format!("[{a} TO {b}]"), End::With(low), End::With(high)),
        }
    }

    fn present(&mut self) -> Option<Both> {
        let (path, _) = self.leaf()?;
        let at = path
            .split_once('.')
            .map_or(path.as_str(), |(parent, _)| if self.rng.one_in(2) { parent } else { &path });
        // A part of a path that has another meaning in a query.
        let at = if at == "header" { path.as_str() } else { at };
        Some((format!("{}:*", written(at)), Query::Present(at.to_owned())))
    }

    fn times(&mut self) -> Option<Both> {
        let (a, b) = (TIMES[self.rng.below(TIMES.len())], TIMES[self.rng.below(TIMES.len())]);
        let (low, high) = (a.min(b), a.max(b));
        let (text, from, to) = self.between((&low.to_string(), low), (&high.to_string(), high));
        Some((format!("timestamp:{text}"), Query::Times(from, to)))
    }

    fn offsets(&mut self) -> Option<Both> {
        let low = self.rng.below(RECORDS) as i64;
        let high = low + self.rng.below(30) as i64;
        let (text, from, to) = self.between((&low.to_string(), low), (&high.to_string(), high));
        Some((format!("offset:{text}"), Query::Offsets(from, to)))
    }
}

/// Runs queries on the corpus of this seed. Returns how many found something, and the wrong answers.
async fn check(
    client: &Client,
    seed: u64,
    records: &[Record],
    crowded: bool,
    positions: bool,
) -> (usize, Vec<String>) {
    let mut rng = Rng(seed.wrapping_mul(7));
    let (log_id, mut hits, mut wrong) = (format!("seed-{seed}"), 0, Vec::new());
    for nth in 0..QUERIES {
        let (text, query) = Asker { records, crowded, rng: &mut rng }.query(2);
        let filter = v1::RecordFilter {
            topic: TOPIC.to_owned(),
            log_id: Some(log_id.clone()),
            ..v1::RecordFilter::default()
        };
        let request = v1::SearchRequest {
            filter: Some(filter),
            query: text.clone(),
            limit: 10_000,
            ..v1::SearchRequest::default()
        };
        let told = format!("seed {seed}, positions {positions}, query {nth}: {text}");
        let answer = ask(client.clone(), request).await.unwrap_or_else(|status| panic!("{told}: {status}"));
        let found: BTreeSet<i64> = answer.records.iter().map(|record| record.offset).collect();
        let expected: BTreeSet<i64> = records
            .iter()
            .filter(|record| query.finds(record, positions))
            .map(|record| record.offset)
            .collect();
        hits += usize::from(!expected.is_empty());
        if found != expected || answer.summary.matched != expected.len() as u64 {
            let shown = |offsets: Vec<&i64>| -> Vec<String> {
                let show = |offset: &&i64| {
                    String::from_utf8_lossy(&records[**offset as usize].bytes).chars().take(600).collect()
                };
                offsets.iter().take(2).map(show).collect()
            };
            let more = shown(found.difference(&expected).collect());
            let less = shown(expected.difference(&found).collect());
            wrong.push(format!(
                "{told}\n  {query:?}\n  found without reason: {more:#?}\n  not found: {less:#?}"
            ));
        }
    }
    (hits, wrong)
}

async fn check_seeds(positions: bool, seeds: impl IntoIterator<Item = u64>) {
    let (worker, _settings) = worker(positions);
    let client = Client::new(worker.channel().await);
    let (mut all_wrong, mut asked) = (Vec::new(), 0);
    for seed in seeds {
        println!("seed {seed}, positions {positions}");
        let mut rng = Rng(seed);
        // A phrase at an unlisted path is searched as single words. So positions and unlisted paths are not
        // combined.
        let crowded = !positions && seed.is_multiple_of(2);
        let records = records(&mut rng, crowded);
        let log_id = format!("seed-{seed}");
        let bytes: Vec<u8> = records.iter().flat_map(frame).collect();
        send(&worker, &log_id, Some((TOPIC, 0)), &bytes).await;
        let (hits, wrong) = check(&client, seed, &records, crowded, positions).await;
        assert!(hits * 2 >= QUERIES, "seed {seed}: only {hits} queries find anything");
        asked += QUERIES;
        all_wrong.extend(wrong);
    }
    let count = all_wrong.len();
    all_wrong.sort_by_key(String::len);
    all_wrong.truncate(12);
    assert!(count == 0, "{count} of {asked} are wrong:\n{}", all_wrong.join("\n"));
}

#[tokio::test]
async fn odd_records_are_found_as_the_documentation_says() {
    check_seeds(false, [20_261_128, 20_261_129]).await;
    check_seeds(true, [20_261_130]).await;
}

#[tokio::test]
#[ignore = "takes minutes: make test-long runs it"]
async fn long_so_are_those_of_many_seeds() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    check_seeds(false, now..now + 40).await;
    check_seeds(true, now + 40..now + 60).await;
}
