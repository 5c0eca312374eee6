//! Makes random queries from the records: as text for the worker, and as a tree for the scan.

use std::ops::Bound;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::oracle::{Doc, Place, Query, date, words};

/// A query in both forms.
pub type Both = (String, Query);

/// A pseudo-random generator with a fixed sequence: SplitMix64.
pub struct Chance(pub u64);

impl Chance {
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
pub fn query(docs: &[Doc], chance: &mut Chance, depth: usize) -> Both {
    if depth == 0 || chance.below(20) < 9 {
        return clause(docs, chance);
    }
    let count = 2 + chance.below(2);
    match chance.below(8) {
        0 => {
            let (text, query) = query(docs, chance, depth - 1);
            let not = if chance.one_in(2) { "NOT " } else { "-" };
            (format!("{not}({text})"), Query::Not(Box::new(query)))
        }
        1..=4 => {
            let parts: Vec<Both> = (0..count).map(|_| query(docs, chance, depth - 1)).collect();
            let and = if chance.one_in(2) { " " } else { " AND " };
            let text: Vec<_> = parts.iter().map(bracketed).collect();
            (text.join(and), Query::And(parts.into_iter().map(|part| part.1).collect()))
        }
        _ => {
            let parts: Vec<Both> = (0..count).map(|_| query(docs, chance, depth - 1)).collect();
            // OR has the lowest precedence, so its parts need no brackets.
            let bare = chance.one_in(2);
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
fn clause(docs: &[Doc], chance: &mut Chance) -> Both {
    loop {
        let doc = &docs[chance.below(docs.len())];
        let made = match chance.below(17) {
            0 | 1 => word(doc, chance, false),
            2 => word(doc, chance, true),
            3 | 4 => phrase(doc, chance),
            5 | 6 => at_path(doc, chance),
            7 | 8 => numbers(doc, chance),
            9 => dates(doc, chance),
            10 => Some(offsets(doc, chance)),
            11 => times(doc, chance),
            12 => key(doc, chance),
            13 => header(doc, chance),
            14 => group(doc, chance),
            15 => present(doc, chance),
            _ => Some(seldom(chance)),
        };
        if let Some(made) = made {
            return made;
        }
    }
}

/// Changes the case of a word at random.
fn in_some_case(word: &str, chance: &mut Chance) -> String {
    match chance.below(3) {
        0 if !["and", "or", "not", "to"].contains(&word) => word.to_uppercase(),
        _ => word.to_owned(),
    }
}

fn some_word(text: &str, chance: &mut Chance) -> Option<String> {
    // If upper case has more letters than lower case ("ß", "SS"), it is not the same word.
    let words = words(text);
    let word = chance.pick(&words)?;
    let shouted = in_some_case(word, chance);
    Some(if super::oracle::words(&shouted) == [word.clone()] { shouted } else { word.clone() })
}

/// Returns the first letters of a word, at least one.
fn start_of(word: &str, chance: &mut Chance) -> String {
    let count = 1 + chance.below(word.chars().count());
    word.chars().take(count).collect()
}

fn word(doc: &Doc, chance: &mut Chance, open: bool) -> Option<Both> {
    let text = some_word(chance.pick(&doc.strings())?, chance)?;
    let text = if open { start_of(&text, chance) } else { text };
    let is_text = doc.text.is_some() && chance.one_in(4);
    let (name, place) = if is_text { ("text:", Place::Text) } else { ("", Place::Anywhere) };
    Some((format!("{name}{text}{}", star(open)), Query::Words { place, text, open }))
}

fn star(open: bool) -> &'static str {
    if open { "*" } else { "" }
}

/// Returns two or three consecutive words, sometimes in the wrong order.
fn phrase(doc: &Doc, chance: &mut Chance) -> Option<Both> {
    let strings = doc.strings();
    let all = words(chance.pick(&strings)?);
    let count = 2 + chance.below(2);
    let start = chance.below(all.len().checked_sub(count)? + 1);
    let mut words = all[start..start + count].to_vec();
    if chance.one_in(4) {
        words.reverse();
    }
    let open = chance.one_in(3);
    if open && let Some(last) = words.last_mut() {
        *last = start_of(last, chance);
    }
    let text = words.join(" ");
    let written = match chance.below(3) {
        0 => words.join("-"),
        1 => format!("\"{}\"", words.join(", ")),
        _ => format!("\"{text}\""),
    };
    Some((format!("{written}{}", star(open)), Query::Words { place: Place::Anywhere, text, open }))
}

/// Writes a path: names with another meaning need `value.` in front.
fn path(path: &str, chance: &mut Chance) -> String {
    let is_taken = ["offset", "timestamp", "key", "text"].contains(&path) || path.starts_with("header.");
    if is_taken || chance.one_in(3) { format!("value.{path}") } else { path.to_owned() }
}

fn leaf<'a>(doc: &'a Doc, chance: &mut Chance, is: impl Fn(&Value) -> bool) -> Option<(&'a str, &'a Value)> {
    let leaves =
        doc.places.iter().flat_map(|(path, values)| values.iter().map(|value| (path.as_str(), value)));
    let leaves: Vec<_> = leaves.filter(|(_, value)| is(value)).collect();
    chance.pick(&leaves).copied()
}

fn at_path(doc: &Doc, chance: &mut Chance) -> Option<Both> {
    let (at, value) = leaf(doc, chance, |_| true)?;
    let open = chance.one_in(3);
    let (written, text) = match value {
        Value::String(text) if chance.one_in(5) => (quoted(text), text.clone()),
        Value::String(text) => {
            let word = some_word(text, chance)?;
            let word = if open { start_of(&word, chance) } else { word };
            (word.clone(), word)
        }
        value => (value.to_string(), value.to_string()),
    };
    if words(&text).is_empty() {
        return None;
    }
    let place = Place::Path(at.to_owned());
    Some((format!("{}:{written}{}", path(at, chance), star(open)), Query::Words { place, text, open }))
}

/// Returns a range that most likely contains the value: its text after the colon, and its bounds.
fn range<T: Clone>(
    chance: &mut Chance,
    (low, high): (T, T),
    show: impl Fn(&T) -> String,
) -> (String, Bound<T>, Bound<T>) {
    let (from, to) = (show(&low), show(&high));
    match chance.below(8) {
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

fn numbers(doc: &Doc, chance: &mut Chance) -> Option<Both> {
    let (at, value) = leaf(doc, chance, Value::is_number)?;
    let value = value.as_f64()?;
    // The value itself is often a bound, and bounds are often fractions.
    let step = |chance: &mut Chance| chance.below(40) as f64 * if chance.one_in(2) { 2.0 } else { 0.25 };
    let (low, high) = (value - step(chance), value + step(chance));
    let (text, from, to) = range(chance, (low, high), f64::to_string);
    Some((format!("{}:{text}", path(at, chance)), Query::Numbers(at.to_owned(), from, to)))
}

fn rfc3339(date: &OffsetDateTime) -> String {
    date.format(&Rfc3339).expect("a date of our time")
}

fn dates(doc: &Doc, chance: &mut Chance) -> Option<Both> {
    let (at, value) = leaf(doc, chance, |value| value.as_str().and_then(date).is_some())?;
    let value = date(value.as_str()?)?;
    if chance.one_in(4) {
        // The same moment in another time zone.
        let text = rfc3339(&value.to_offset(time::macros::offset!(+2)));
        let query = Query::Words { place: Place::Path(at.to_owned()), text: text.clone(), open: false };
        return Some((format!("{}:{text}", path(at, chance)), query));
    }
    let step = |chance: &mut Chance| time::Duration::milliseconds(chance.below(2_000) as i64);
    let (low, high) = (value - step(chance), value + step(chance));
    let (text, from, to) = range(chance, (low, high), rfc3339);
    Some((format!("{}:{text}", path(at, chance)), Query::Dates(at.to_owned(), from, to)))
}

fn offsets(doc: &Doc, chance: &mut Chance) -> Both {
    let offset = doc.record.offset;
    if chance.one_in(4) {
        return (
            format!("offset:{offset}"),
            Query::Offsets(Bound::Included(offset), Bound::Included(offset)),
        );
    }
    let ends = (offset - chance.below(30) as i64, offset + chance.below(30) as i64);
    let (text, from, to) = range(chance, ends, i64::to_string);
    (format!("offset:{text}"), Query::Offsets(from, to))
}

fn times(doc: &Doc, chance: &mut Chance) -> Option<Both> {
    let Some(ms) = doc.record.timestamp_ms else {
        return Some(("timestamp:*".to_owned(), Query::Times(Bound::Unbounded, Bound::Unbounded)));
    };
    let ends = (ms - chance.below(500) as i64, ms + chance.below(500) as i64);
    let as_date = chance.one_in(2);
    let show = |ms: &i64| match OffsetDateTime::from_unix_timestamp_nanos(i128::from(*ms) * 1_000_000) {
        Ok(date) if as_date => rfc3339(&date),
        _ => ms.to_string(),
    };
    let (text, from, to) = range(chance, ends, show);
    Some((format!("timestamp:{text}"), Query::Times(from, to)))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn exact(text: &str, chance: &mut Chance) -> (String, String, bool) {
    let open = chance.one_in(3);
    let text: String = match open {
        true => text.chars().take(chance.below(text.chars().count() + 1)).collect(),
        false => text.to_owned(),
    };
    (format!("{}{}", quoted(&text), star(open)), text, open)
}

fn key(doc: &Doc, chance: &mut Chance) -> Option<Both> {
    let key = str::from_utf8(doc.record.key.as_deref()?).ok()?;
    if chance.one_in(6) {
        return Some(("key:*".to_owned(), Query::Key { text: String::new(), open: true }));
    }
    let (written, text, open) = exact(key, chance);
    Some((format!("key:{written}"), Query::Key { text, open }))
}

fn header(doc: &Doc, chance: &mut Chance) -> Option<Both> {
    let (name, value) = chance.pick(&doc.record.headers)?;
    let name = String::from_utf8(name.clone()).ok()?;
    let value = str::from_utf8(value.as_deref()?).ok()?;
    if chance.one_in(6) {
        let query = Query::Header { name: name.clone(), text: String::new(), open: true };
        return Some((format!("header.{name}:*"), query));
    }
    let (written, text, open) = exact(value, chance);
    Some((format!("header.{name}:{written}"), Query::Header { name, text, open }))
}

/// Returns a group such as `path:(a OR -b)`.
fn group(doc: &Doc, chance: &mut Chance) -> Option<Both> {
    let (at, value) = leaf(doc, chance, Value::is_string)?;
    let mut word = || -> Option<Both> {
        let text = some_word(value.as_str()?, chance)?;
        let query = Query::Words { place: Place::Path(at.to_owned()), text: text.clone(), open: false };
        Some((text, query))
    };
    let (a, b) = (word()?, word()?);
    let name = path(at, chance);
    Some(match chance.below(3) {
        0 => (format!("{name}:({} OR {})", a.0, b.0), Query::Or(vec![a.1, b.1])),
        1 => (format!("{name}:({} {})", a.0, b.0), Query::And(vec![a.1, b.1])),
        _ => (format!("{name}:({} OR -{})", a.0, b.0), Query::Or(vec![a.1, Query::Not(Box::new(b.1))])),
    })
}

fn present(doc: &Doc, chance: &mut Chance) -> Option<Both> {
    let (at, _) = leaf(doc, chance, |_| true)?;
    let at = at.split_once('.').map_or(at, |(parent, _)| if chance.one_in(2) { parent } else { at });
    Some((format!("{}:*", path(at, chance)), Query::Present(at.to_owned())))
}

/// Returns a clause that almost no record matches, or that all match.
fn seldom(chance: &mut Chance) -> Both {
    let word = |text: &str| Query::Words { place: Place::Anywhere, text: text.to_owned(), open: false };
    match chance.below(5) {
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
