//! Makes random queries from the records: as text for the worker, and as a tree for the scan.

use std::ops::Bound;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::oracle::{Doc, Place, Query, date, words};

/// A query in both forms.
pub type Both = (String, Query);

/// A pseudo-random generator with a fixed sequence: SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len())) }
    }
}

/// Returns a query of clauses, at most `depth` deep.
pub fn query(docs: &[Doc], rng: &mut Rng, depth: usize) -> Both {
    if depth == 0 || rng.below(20) < 9 {
        return clause(docs, rng);
    }
    let count = 2 + rng.below(2);
    match rng.below(8) {
        0 => {
            let (text, query) = query(docs, rng, depth - 1);
            let not = if rng.one_in(2) { "NOT " } else { "-" };
            (format!("{not}({text})"), Query::Not(Box::new(query)))
        }
        1..=4 => {
            let parts: Vec<Both> = (0..count).map(|_| query(docs, rng, depth - 1)).collect();
            let and = if rng.one_in(2) { " " } else { " AND " };
            let text: Vec<_> = parts.iter().map(bracketed).collect();
            (text.join(and), Query::And(parts.into_iter().map(|part| part.1).collect()))
        }
        _ => {
            let parts: Vec<Both> = (0..count).map(|_| query(docs, rng, depth - 1)).collect();
            // OR has the lowest precedence, so its parts need no brackets.
            let bare = rng.one_in(2);
            let text: Vec<_> =
                parts.iter().map(|part| if bare { part.0.clone() } else { bracketed(part) }).collect();
            (text.join(" OR "), Query::Or(parts.into_iter().map(|part| part.1).collect()))
        }
    }
}

fn bracketed((text, query): &Both) -> String {
    if matches!(query, Query::And(_) | Query::Or(_)) { format!("({text})") } else { text.clone() }
}

/// Returns a single clause that most likely finds something.
fn clause(docs: &[Doc], rng: &mut Rng) -> Both {
    loop {
        let doc = &docs[rng.below(docs.len())];
        let made = match rng.below(17) {
            0 | 1 => word(doc, rng, false),
            2 => word(doc, rng, true),
            3 | 4 => phrase(doc, rng),
            5 | 6 => at_path(doc, rng),
            7 | 8 => numbers(doc, rng),
            9 => dates(doc, rng),
            10 => Some(offsets(doc, rng)),
            11 => times(doc, rng),
            12 => key(doc, rng),
            13 => header(doc, rng),
            14 => group(doc, rng),
            15 => present(doc, rng),
            _ => Some(seldom(rng)),
        };
        if let Some(made) = made {
            return made;
        }
    }
}

/// Changes the case of a word at random.
fn in_some_case(word: &str, rng: &mut Rng) -> String {
    match rng.below(3) {
        0 if !["and", "or", "not", "to"].contains(&word) => word.to_uppercase(),
        _ => word.to_owned(),
    }
}

fn some_word(text: &str, rng: &mut Rng) -> Option<String> {
    // If upper case has more letters than lower case ("ß", "SS"), it is not the same word.
    let words = words(text);
    let word = rng.pick(&words)?;
    let shouted = in_some_case(word, rng);
    Some(if super::oracle::words(&shouted) == [word.clone()] { shouted } else { word.clone() })
}

/// Returns the first letters of a word, at least one.
fn start_of(word: &str, rng: &mut Rng) -> String {
    let count = 1 + rng.below(word.chars().count());
    word.chars().take(count).collect()
}

fn word(doc: &Doc, rng: &mut Rng, open: bool) -> Option<Both> {
    let text = some_word(rng.pick(&doc.strings())?, rng)?;
    let text = if open { start_of(&text, rng) } else { text };
    let is_text = doc.text.is_some() && rng.one_in(4);
    let (name, place) = if is_text { ("text:", Place::Text) } else { ("", Place::Anywhere) };
    Some((format!("{name}{text}{}", star(open)), Query::Words { place, text, open }))
}

fn star(open: bool) -> &'static str {
    if open { "*" } else { "" }
}

/// Returns two or three consecutive words, sometimes in the wrong order.
fn phrase(doc: &Doc, rng: &mut Rng) -> Option<Both> {
    let strings = doc.strings();
    let all = words(rng.pick(&strings)?);
    let count = 2 + rng.below(2);
    let start = rng.below(all.len().checked_sub(count)? + 1);
    let mut words = all[start..start + count].to_vec();
    if rng.one_in(4) {
        words.reverse();
    }
    let open = rng.one_in(3);
    if open && let Some(last) = words.last_mut() {
        *last = start_of(last, rng);
    }
    let text = words.join(" ");
    let written = match rng.below(3) {
        0 => words.join("-"),
        1 => format!("\"{}\"", words.join(", ")),
        _ => format!("\"{text}\""),
    };
    Some((format!("{written}{}", star(open)), Query::Words { place: Place::Anywhere, text, open }))
}

/// Writes a path: names with another meaning need `value.` in front.
fn path(path: &str, rng: &mut Rng) -> String {
    let is_taken = ["offset", "timestamp", "key", "text"].contains(&path) || path.starts_with("header.");
    if is_taken || rng.one_in(3) { format!("value.{path}") } else { path.to_owned() }
}

fn leaf<'a>(doc: &'a Doc, rng: &mut Rng, is: impl Fn(&Value) -> bool) -> Option<(&'a str, &'a Value)> {
    let leaves =
        doc.places.iter().flat_map(|(path, values)| values.iter().map(|value| (path.as_str(), value)));
    let leaves: Vec<_> = leaves.filter(|(_, value)| is(value)).collect();
    rng.pick(&leaves).copied()
}

fn at_path(doc: &Doc, rng: &mut Rng) -> Option<Both> {
    let (at, value) = leaf(doc, rng, |_| true)?;
    let open = rng.one_in(3);
    let (written, text) = match value {
        Value::String(text) if rng.one_in(5) => (quoted(text), text.clone()),
        Value::String(text) => {
            let word = some_word(text, rng)?;
            let word = if open { start_of(&word, rng) } else { word };
            (word.clone(), word)
        }
        value => (value.to_string(), value.to_string()),
    };
    if words(&text).is_empty() {
        return None;
    }
    let place = Place::Path(at.to_owned());
    Some((format!("{}:{written}{}", path(at, rng), star(open)), Query::Words { place, text, open }))
}

/// Returns a range that most likely contains the value: its text after the colon, and its bounds.
fn range<T: Clone>(
    rng: &mut Rng,
    (low, high): (T, T),
    show: impl Fn(&T) -> String,
) -> (String, Bound<T>, Bound<T>) {
    let (from, to) = (show(&low), show(&high));
    match rng.below(8) {
        0 => (format!(">{from}"), Bound::Excluded(low), Bound::Unbounded),
        1 => (format!(">={from}"), Bound::Included(low), Bound::Unbounded),
        2 => (format!("<{to}"), Bound::Unbounded, Bound::Excluded(high)),
        3 => (format!("<={to}"), Bound::Unbounded, Bound::Included(high)),
        4 => (format!("{{{from} TO {to}}}"), Bound::Excluded(low), Bound::Excluded(high)),
        5 => (format!("[{from} TO {to}}}"), Bound::Included(low), Bound::Excluded(high)),
        6 => (format!("[ {from} TO *]"), Bound::Included(low), Bound::Unbounded),
        _ => (format!("[{from} TO {to}]"), Bound::Included(low), Bound::Included(high)),
    }
}

fn numbers(doc: &Doc, rng: &mut Rng) -> Option<Both> {
    let (at, value) = leaf(doc, rng, Value::is_number)?;
    let value = value.as_f64()?;
    // The value itself is often a bound, and bounds are often fractions.
    let step = |rng: &mut Rng| rng.below(40) as f64 * if rng.one_in(2) { 2.0 } else { 0.25 };
    let (low, high) = (value - step(rng), value + step(rng));
    let (text, from, to) = range(rng, (low, high), f64::to_string);
    Some((format!("{}:{text}", path(at, rng)), Query::Numbers(at.to_owned(), from, to)))
}

fn rfc3339(date: &OffsetDateTime) -> String {
    date.format(&Rfc3339).expect("a date of our time")
}

fn dates(doc: &Doc, rng: &mut Rng) -> Option<Both> {
    let (at, value) = leaf(doc, rng, |value| value.as_str().and_then(date).is_some())?;
    let value = date(value.as_str()?)?;
    if rng.one_in(4) {
        // The same moment in another time zone.
        let text = rfc3339(&value.to_offset(time::macros::offset!(+2)));
        let query = Query::Words { place: Place::Path(at.to_owned()), text: text.clone(), open: false };
        return Some((format!("{}:{text}", path(at, rng)), query));
    }
    let step = |rng: &mut Rng| time::Duration::milliseconds(rng.below(2_000) as i64);
    let (low, high) = (value - step(rng), value + step(rng));
    let (text, from, to) = range(rng, (low, high), rfc3339);
    Some((format!("{}:{text}", path(at, rng)), Query::Dates(at.to_owned(), from, to)))
}

fn offsets(doc: &Doc, rng: &mut Rng) -> Both {
    let offset = doc.record.offset;
    if rng.one_in(4) {
        return (
            format!("offset:{offset}"),
            Query::Offsets(Bound::Included(offset), Bound::Included(offset)),
        );
    }
    let ends = (offset - rng.below(30) as i64, offset + rng.below(30) as i64);
    let (text, from, to) = range(rng, ends, i64::to_string);
    (format!("offset:{text}"), Query::Offsets(from, to))
}

fn times(doc: &Doc, rng: &mut Rng) -> Option<Both> {
    let Some(ms) = doc.record.timestamp_ms else {
        return Some(("timestamp:*".to_owned(), Query::Times(Bound::Unbounded, Bound::Unbounded)));
    };
    let ends = (ms - rng.below(500) as i64, ms + rng.below(500) as i64);
    let as_date = rng.one_in(2);
    let show = |ms: &i64| match OffsetDateTime::from_unix_timestamp_nanos(i128::from(*ms) * 1_000_000) {
        Ok(date) if as_date => rfc3339(&date),
        _ => ms.to_string(),
    };
    let (text, from, to) = range(rng, ends, show);
    Some((format!("timestamp:{text}"), Query::Times(from, to)))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn exact(text: &str, rng: &mut Rng) -> (String, String, bool) {
    let open = rng.one_in(3);
    let text: String = match open {
        true => text.chars().take(rng.below(text.chars().count() + 1)).collect(),
        false => text.to_owned(),
    };
    (format!("{}{}", quoted(&text), star(open)), text, open)
}

fn key(doc: &Doc, rng: &mut Rng) -> Option<Both> {
    let key = str::from_utf8(doc.record.key.as_deref()?).ok()?;
    if rng.one_in(6) {
        return Some(("key:*".to_owned(), Query::Key { text: String::new(), open: true }));
    }
    let (written, text, open) = exact(key, rng);
    Some((format!("key:{written}"), Query::Key { text, open }))
}

fn header(doc: &Doc, rng: &mut Rng) -> Option<Both> {
    let (name, value) = rng.pick(&doc.record.headers)?;
    let name = String::from_utf8(name.clone()).ok()?;
    let value = str::from_utf8(value.as_deref()?).ok()?;
    if rng.one_in(6) {
        let query = Query::Header { name: name.clone(), text: String::new(), open: true };
        return Some((format!("header.{name}:*"), query));
    }
    let (written, text, open) = exact(value, rng);
    Some((format!("header.{name}:{written}"), Query::Header { name, text, open }))
}

/// Returns a group such as `path:(a OR -b)`.
fn group(doc: &Doc, rng: &mut Rng) -> Option<Both> {
    let (at, value) = leaf(doc, rng, Value::is_string)?;
    let mut word = || -> Option<Both> {
        let text = some_word(value.as_str()?, rng)?;
        let query = Query::Words { place: Place::Path(at.to_owned()), text: text.clone(), open: false };
        Some((text, query))
    };
    let (a, b) = (word()?, word()?);
    let name = path(at, rng);
    Some(match rng.below(3) {
        0 => (format!("{name}:({} OR {})", a.0, b.0), Query::Or(vec![a.1, b.1])),
        1 => (format!("{name}:({} {})", a.0, b.0), Query::And(vec![a.1, b.1])),
        _ => (format!("{name}:({} OR -{})", a.0, b.0), Query::Or(vec![a.1, Query::Not(Box::new(b.1))])),
    })
}

fn present(doc: &Doc, rng: &mut Rng) -> Option<Both> {
    let (at, _) = leaf(doc, rng, |_| true)?;
    let at = at.split_once('.').map_or(at, |(parent, _)| if rng.one_in(2) { parent } else { at });
    Some((format!("{}:*", path(at, rng)), Query::Present(at.to_owned())))
}

/// Returns a clause that almost no record matches, or that all match.
fn seldom(rng: &mut Rng) -> Both {
    let word = |text: &str| Query::Words { place: Place::Anywhere, text: text.to_owned(), open: false };
    match rng.below(5) {
        0 => ("*".to_owned(), Query::All),
        1 => ("nosuchword".to_owned(), word("nosuchword")),
        2 => ("東京".to_owned(), word("東京")),
        3 => ("ŻÓŁĆ".to_owned(), word("żółć")),
        _ => {
            let place = Place::Path("no.such.path".to_owned());
            ("no.such.path:x*".to_owned(), Query::Words { place, text: "x".to_owned(), open: true })
        }
    }
}
