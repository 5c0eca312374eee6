//! The contents of the generated records: services that write JSON log lines of 300 to 700 bytes. They are
//! skewed like real logs: a few words, services and users make up most of the text, while trace and request
//! ids never repeat.

use bytes::Bytes;
use time::OffsetDateTime;

use super::random::Random;
use crate::record::{HeaderSpans, RecordBatch, RecordSpans, Span};

/// The time of the first record: 2025-10-09T08:53:20Z.
const FIRST_TIMESTAMP_MS: i64 = 1_760_000_000_000;

const SERVICES: [&str; 24] = [
    "checkout",
    "cart",
    "gateway",
    "payment",
    "search",
    "inventory",
    "auth",
    "catalog",
    "shipping",
    "pricing",
    "session",
    "recommend",
    "email",
    "invoice",
    "ledger",
    "fraud",
    "media",
    "notify",
    "profile",
    "review",
    "stock",
    "tax",
    "upload",
    "webhook",
];
const REGIONS: [&str; 4] = ["eu-west-1", "us-east-1", "eu-central-1", "ap-south-1"];
const COUNTRIES: [&str; 12] = ["DE", "US", "FR", "JP", "BR", "IN", "GB", "PL", "SE", "ES", "IT", "NL"];
const TAGS: [&str; 16] = [
    "beta", "mobile", "web", "retry", "cached", "slow", "partner", "batch", "canary", "internal", "export",
    "audit", "cold", "eu", "vip", "async",
];
const PATHS: [&str; 8] = [
    "/v1/orders/",
    "/v1/carts/",
    "/v1/users/",
    "/v2/search/",
    "/v1/items/",
    "/v1/payments/",
    "/v1/sessions/",
    "/internal/jobs/",
];
const METHODS: [&str; 4] = ["GET", "GET", "POST", "PUT"];
const STATUS_OK: [&str; 8] = ["200", "200", "200", "200", "201", "204", "304", "202"];
const STATUS_FAILED: [&str; 6] = ["500", "503", "404", "429", "502", "409"];

/// An endless log.
pub struct Logs {
    random: Random,
    words: Words,
    clock_ms: i64,
    bytes: Vec<u8>,
    records: Vec<RecordSpans>,
    headers: Vec<HeaderSpans>,
}

impl Logs {
    /// The log that the seed selects.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            words: Words::new(),
            clock_ms: FIRST_TIMESTAMP_MS,
            bytes: Vec::new(),
            records: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// Adds the next record, at this offset, to the open batch.
    pub fn push(&mut self, offset: i64) {
        let random = &mut self.random;
        self.clock_ms += i64::from(random.below(20));
        let user = skewed(random, 200_000);
        let trace = [random.bits(), random.bits()];

        let start = self.bytes.len();
        self.bytes.extend_from_slice(b"user-");
        push_number(&mut self.bytes, user);
        let key = span(start, self.bytes.len());

        let start = self.bytes.len();
        push_value(&mut self.bytes, random, &self.words, self.clock_ms, user, trace);
        let value = span(start, self.bytes.len());

        let headers_start = self.headers.len() as u32;
        let header_count = random.below(3);
        if header_count > 0 {
            let id = push_part(&mut self.bytes, |out| trace.iter().for_each(|half| push_hex(out, *half)));
            let name = push_part(&mut self.bytes, |out| out.extend_from_slice(b"trace-id"));
            self.headers.push(HeaderSpans { name, value: Some(id) });
        }
        if header_count > 1 {
            let tenant = push_part(&mut self.bytes, |out| {
                out.extend_from_slice(b"tenant-");
                push_number(out, random.below(64));
            });
            let name = push_part(&mut self.bytes, |out| out.extend_from_slice(b"tenant"));
            self.headers.push(HeaderSpans { name, value: Some(tenant) });
        }
        self.records.push(RecordSpans {
            offset,
            timestamp_ms: Some(self.clock_ms),
            key: Some(key),
            value: Some(value),
            headers: headers_start..self.headers.len() as u32,
        });
    }

    /// Closes the open batch and returns it.
    pub fn take(&mut self) -> RecordBatch {
        RecordBatch {
            bytes: Bytes::from(std::mem::take(&mut self.bytes)),
            records: std::mem::take(&mut self.records),
            headers: std::mem::take(&mut self.headers),
        }
    }

    /// Takes back a batch that is no longer needed, so that the next one reuses its memory.
    pub fn recycle(&mut self, batch: RecordBatch) {
        (self.bytes, self.records, self.headers) = (batch.bytes.into(), batch.records, batch.headers);
        self.bytes.clear();
        self.records.clear();
        self.headers.clear();
    }
}

fn push_value(
    out: &mut Vec<u8>,
    random: &mut Random,
    words: &Words,
    clock_ms: i64,
    user: u32,
    trace: [u64; 2],
) {
    let failed = random.below(25) == 0;
    let level = match random.below(32) {
        _ if failed => "ERROR",
        0..=25 => "INFO",
        26..=28 => "DEBUG",
        _ => "WARN",
    };
    out.extend_from_slice(b"{\"timestamp\":\"");
    push_time(out, clock_ms);
    out.extend_from_slice(b"\",\"level\":\"");
    out.extend_from_slice(level.as_bytes());
    out.extend_from_slice(b"\",\"service\":\"");
    out.extend_from_slice(SERVICES[skewed(random, SERVICES.len() as u32) as usize].as_bytes());
    out.extend_from_slice(b"\",\"message\":\"");
    push_message(out, random, words);
    out.extend_from_slice(b"\",\"latency_ms\":");
    let slow = random.bits().trailing_zeros().min(8);
    push_number(out, (1 + random.below(20)) << slow);
    out.extend_from_slice(b",\"status\":");
    out.extend_from_slice(random.pick(if failed { &STATUS_FAILED } else { &STATUS_OK }).as_bytes());
    out.extend_from_slice(b",\"user\":{\"id\":");
    push_number(out, user);
    out.extend_from_slice(b",\"country\":\"");
    // A user stays in one country.
    out.extend_from_slice(COUNTRIES[(user % COUNTRIES.len() as u32) as usize].as_bytes());
    out.extend_from_slice(b"\"},\"http\":{\"method\":\"");
    out.extend_from_slice(random.pick(&METHODS).as_bytes());
    out.extend_from_slice(b"\",\"path\":\"");
    out.extend_from_slice(random.pick(&PATHS).as_bytes());
    push_number(out, random.below(1_000_000));
    out.extend_from_slice(b"\",\"bytes\":");
    push_number(out, random.below(65_536));
    out.extend_from_slice(b"},\"node\":{\"name\":\"node-");
    push_number(out, random.below(300));
    out.extend_from_slice(b"\",\"region\":\"");
    out.extend_from_slice(random.pick(&REGIONS).as_bytes());
    out.extend_from_slice(b"\"},\"cached\":");
    out.extend_from_slice(if random.below(3) == 0 { b"true" } else { b"false" });
    out.extend_from_slice(b",\"tags\":[");
    for nth in 0..random.below(4) {
        out.extend_from_slice(if nth == 0 { b"\"" } else { b",\"" });
        out.extend_from_slice(TAGS[skewed(random, TAGS.len() as u32) as usize].as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b"],\"trace_id\":\"");
    trace.iter().for_each(|half| push_hex(out, *half));
    out.extend_from_slice(b"\",\"request_id\":\"");
    push_hex(out, random.bits());
    out.extend_from_slice(b"\"}");
}

/// Writes 4 to 27 words; sometimes a quotation, which JSON must escape, or a word that is not ASCII.
fn push_message(out: &mut Vec<u8>, random: &mut Random, words: &Words) {
    let count = 4 + random.below(24);
    let special = random.below(64);
    for nth in 0..count {
        if nth > 0 {
            out.push(b' ');
        }
        match (special, nth) {
            (0, 2) => out.extend_from_slice(b"\\\"refused\\\""),
            (1, 2) => out.extend_from_slice("zurückgestellt".as_bytes()),
            _ => out.extend_from_slice(words.get(random.bits() as usize)),
        }
    }
}

/// A number below `end`. Small numbers are much more frequent: it is the square of a uniform number.
fn skewed(random: &mut Random, end: u32) -> u32 {
    let even = random.bits() >> 32;
    ((((even * even) >> 32) * u64::from(end)) >> 32) as u32
}

fn span(start: usize, end: usize) -> Span {
    // A batch has at most 100,000 records of a few hundred bytes: far below 4 GiB.
    Span { start: start as u32, len: (end - start) as u32 }
}

fn push_part(out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>)) -> Span {
    let start = out.len();
    push(out);
    span(start, out.len())
}

fn push_number(out: &mut Vec<u8>, mut number: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_hex(out: &mut Vec<u8>, number: u64) {
    let bytes = number.to_be_bytes();
    let digits: [u8; 16] = std::array::from_fn(|nth| {
        let nibble = if nth % 2 == 0 { bytes[nth / 2] >> 4 } else { bytes[nth / 2] & 15 };
        b"0123456789abcdef"[usize::from(nibble)]
    });
    out.extend_from_slice(&digits);
}

/// Writes a time as RFC 3339 in UTC, with milliseconds.
fn push_time(out: &mut Vec<u8>, timestamp_ms: i64) {
    // The clock starts at FIRST_TIMESTAMP_MS and advances in steps of less than 20 ms, so the time stays
    // within the calendar's range.
    let time = OffsetDateTime::from_unix_timestamp(timestamp_ms.div_euclid(1_000))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (time.year() as u32, u32::from(u8::from(time.month())), u32::from(time.day()));
    let two = |number: u32| [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
    let [y1, y2] = two(year / 100);
    let [y3, y4] = two(year);
    let [m1, m2] = two(month);
    let [d1, d2] = two(day);
    let [h1, h2] = two(time.hour().into());
    let [i1, i2] = two(time.minute().into());
    let [s1, s2] = two(time.second().into());
    let ms = timestamp_ms.rem_euclid(1_000) as u32;
    let [f2, f3] = two(ms);
    let f1 = b'0' + (ms / 100) as u8;
    out.extend_from_slice(&[
        y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', i1, i2, b':', s1, s2, b'.', f1, f2,
        f3, b'Z',
    ]);
}

/// A vocabulary, and a table to draw a word by its rank. The nth word is drawn about as often as 1/(n + 2),
/// as in natural text.
struct Words {
    text: String,
    /// The start of each word, and the end of the last one.
    starts: Vec<u32>,
    /// The rank for each value of 16 random bits.
    ranks: Vec<u16>,
}

const DRAWS: usize = 1 << 16;

/// The most frequent words, most frequent first.
const COMMON: &str = "request completed for user connection to the from with order in session timeout after retry \
    failed cache miss hit payment received message sent response service client server upstream error invalid \
    token expired not found rate limit exceeded database query slow lock pool exhausted queue full worker started \
    stopped health check passed config reloaded leader elected partition offset committed record batch index \
    segment sealed uploaded stored object deleted created updated event consumed produced lag high low memory cpu \
    disk network unreachable refused accepted login logout denied granted role admin";

/// Stems from which the other words are derived.
const STEMS: &str = "accept adapt adjust align alloc alter append apply archive arrange assign attach audit authorize \
    await balance bind block boot bounce branch bridge broadcast buffer build call capture cast chain change charge \
    claim clamp clean clear clone close collect commit compact compare compile compress compute conduct configure \
    confirm connect consume contain convert copy correct count cover crawl decode default defer define delay deliver \
    deploy derive detach detect dial direct discard dispatch display divide drain drift drop dump edit elect emit \
    encode encrypt enforce enter escape estimate evict examine exceed exclude execute expand expect expire export \
    extend extract fail fetch fill filter find finish fix flag flush fold follow force fork format forward freeze \
    gather generate grant group guard halt handle hash hold hydrate import include inflate inform ingest inherit \
    inject insert inspect install intern invoke isolate join journal jump keep label launch lease level limit link \
    list listen load lock log lookup map mark mask match measure merge migrate mirror mount move mute name nest \
    normalize notify observe obtain offload open order overflow pack page park parse partition patch pause permit \
    persist pin ping place plan poll post prefetch prepare present print probe process project promote propose \
    prune publish pull purge push quote raise rank reach read reap recover redact reduce refer reflect refresh \
    register reject relate relay release reload remove render repair repeat replay reply report request require \
    reserve reset resolve resume retain retire return reveal revoke rewrite roll rotate route sample save scale scan \
    schedule scrape seal search secure seed select send serve settle shard share shift ship shuffle signal skip \
    sleep slice snapshot sort spawn spill split stage stamp start steer step stitch store stream strip submit \
    suspend swap switch sync tail target terminate test thaw throttle tick time toggle touch trace track transfer \
    transform translate transmit trigger trim truncate tune unify update upgrade upload validate vary verify view \
    visit vote wait wake walk warm watch weigh wrap write yield";

const PREFIXES: [&str; 4] = ["", "re", "un", "pre"];
const SUFFIXES: [&str; 4] = ["", "ed", "ing", "er"];

impl Words {
    fn new() -> Self {
        let mut derived: Vec<String> = Vec::new();
        for stem in STEMS.split_ascii_whitespace() {
            for (prefix, suffix) in PREFIXES.iter().flat_map(|prefix| SUFFIXES.map(|suffix| (prefix, suffix)))
            {
                // "close" becomes "closed" and "closing".
                let stem = if suffix.is_empty() { stem } else { stem.strip_suffix('e').unwrap_or(stem) };
                derived.push(format!("{prefix}{stem}{suffix}"));
            }
        }
        // The order gives the rank. So it must not be alphabetical, nor depend on the log's seed.
        let mut random = Random::new(0);
        for last in (1..derived.len()).rev() {
            derived.swap(last, random.below(last as u32 + 1) as usize);
        }
        let mut words = Self { text: String::new(), starts: vec![0], ranks: Vec::with_capacity(DRAWS) };
        for word in COMMON.split_ascii_whitespace().chain(derived.iter().map(String::as_str)) {
            words.text.push_str(word);
            words.starts.push(words.text.len() as u32);
        }
        words.draw();
        words
    }

    /// Fills the table. It uses only division and addition, which are exact to the bit on every machine;
    /// powers are not.
    fn draw(&mut self) {
        let count = self.starts.len() - 1;
        let weight = |rank: usize| 1.0 / (rank as f64 + 2.0);
        let total: f64 = (0..count).map(weight).sum();
        let mut sum = 0.0;
        for rank in 0..count {
            sum += weight(rank);
            let end = ((sum / total) * DRAWS as f64) as usize;
            self.ranks.resize(end.clamp(self.ranks.len(), DRAWS), rank as u16);
        }
        self.ranks.resize(DRAWS, 0);
    }

    fn get(&self, bits: usize) -> &[u8] {
        let rank = usize::from(self.ranks[bits % DRAWS]);
        &self.text.as_bytes()[self.starts[rank] as usize..self.starts[rank + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_vocabulary_has_some_thousand_words_and_draws_them_with_a_natural_skew() {
        let words = Words::new();
        let all: HashSet<&[u8]> = (0..DRAWS).map(|bits| words.get(bits)).collect();
        assert!(all.len() > 4_000, "only {} words can be drawn", all.len());
        let share =
            |word: &[u8]| (0..DRAWS).filter(|bits| words.get(*bits) == word).count() as f64 / DRAWS as f64;
        let (first, fiftieth) = (share(b"request"), share(b"slow"));
        assert!(first > 0.03 && first < 0.1, "{first}");
        assert!(fiftieth > 0.001 && fiftieth < first / 10.0, "{fiftieth}");
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let mut out = Vec::new();
        push_time(&mut out, 1_760_000_001_022);
        assert_eq!(out, b"2025-10-09T08:53:21.022Z");
    }

    #[test]
    fn values_are_json_objects_of_a_log_lines_size() {
        let mut logs = Logs::new(7);
        (0..2_000).for_each(|offset| logs.push(offset));
        let batch = logs.take();
        let mut requests = HashSet::new();
        for record in batch.iter() {
            let value = record.value().unwrap();
            assert!((300..=720).contains(&value.len()), "{}", value.len());
            let json: serde_json::Value = serde_json::from_slice(value).unwrap();
            assert!(json["message"].as_str().unwrap().split(' ').count() >= 4);
            assert_eq!(record.key().unwrap(), format!("user-{}", json["user"]["id"]).as_bytes());
            for (name, header) in record.headers().filter(|(name, _)| *name == b"trace-id") {
                assert_eq!(
                    (name, header.unwrap()),
                    (&b"trace-id"[..], json["trace_id"].as_str().unwrap().as_bytes())
                );
            }
            assert!(requests.insert(json["request_id"].as_str().unwrap().to_owned()));
        }
        let sizes: usize = batch.iter().map(|record| record.value().unwrap().len()).sum();
        assert!((400..=550).contains(&(sizes / 2_000)), "{}", sizes / 2_000);
    }
}
