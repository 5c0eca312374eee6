//! Finds the parts of a value that show what a query matches, for display only. The index alone decides what
//! matches.

use std::ops::{Bound, Range};

use super::range::Limits;
use super::{Node, Query, TextMatch, number};
use crate::index::json::{self, Number};
use crate::index::{rfc3339, words};

/// Values longer than this, in bytes, are marked as if they were plain text.
const JSON_BYTES_MAX: usize = 1 << 20;

/// A scalar of a JSON value.
#[derive(Debug, PartialEq)]
struct Leaf {
    /// The dotted path.
    path: String,
    /// The place of the scalar. For a string it is the part between the quotes.
    place: Range<usize>,
    is_string: bool,
}

impl Query {
    /// Returns the parts of a value that show why a record matches. They ascend and do not overlap. Excluded
    /// terms are not shown, and neither are terms that match anything.
    pub fn highlights(&self, value: &str) -> Vec<Range<usize>> {
        let leaves = leaves(value);
        let mut highlights = Vec::new();
        highlight(&self.root, value, leaves.as_deref(), &mut highlights);
        highlights.sort_by_key(|highlight| (highlight.start, highlight.end));
        let mut end = 0;
        highlights.retain(|highlight| {
            let is_new = highlight.start >= end && !highlight.is_empty();
            end = if is_new { highlight.end } else { end };
            is_new
        });
        highlights
    }
}

fn highlight(node: &Node, value: &str, leaves: Option<&[Leaf]>, highlights: &mut Vec<Range<usize>>) {
    let at = |path: &str, each: &mut dyn FnMut(&Leaf)| {
        leaves.unwrap_or_default().iter().filter(|leaf| leaf.path == path).for_each(each);
    };
    match node {
        Node::And(nodes) | Node::Or(nodes) => {
            nodes.iter().for_each(|node| highlight(node, value, leaves, highlights))
        }
        Node::Anywhere(text_match) => match leaves {
            Some(leaves) => leaves.iter().for_each(|leaf| text_match.highlight(value, leaf, highlights)),
            None => text_match.highlight_words(&words_of(value, 0), highlights),
        },
        Node::Text(text_match) if leaves.is_none() => {
            text_match.highlight_words(&words_of(value, 0), highlights)
        }
        Node::At(path, text_match) => at(path, &mut |leaf| text_match.highlight(value, leaf, highlights)),
        Node::Range(path, limits) => at(path, &mut |leaf| {
            if limits.hold(&value[leaf.place.clone()], leaf.is_string) {
                highlights.push(leaf.place.clone());
            }
        }),
        Node::All
        | Node::Not(_)
        | Node::Text(_)
        | Node::Present(_)
        | Node::Key(_)
        | Node::Header(..)
        | Node::Offset(_)
        | Node::Timestamp(_) => {}
    }
}

impl TextMatch {
    fn highlight(&self, value: &str, leaf: &Leaf, highlights: &mut Vec<Range<usize>>) {
        let text = &value[leaf.place.clone()];
        let is_same = match leaf.is_string {
            true if self.number.is_some() && self.number == json::number_text(text) => true,
            true => self.date.is_some_and(|date| rfc3339::parse(text) == Some(rfc3339::Date::Nanos(date))),
            false if self.number.is_some() => self.number == number(text),
            false => self.boolean.is_some() && self.boolean == text.parse().ok(),
        };
        match is_same {
            true => highlights.push(leaf.place.clone()),
            false if leaf.is_string => {
                self.highlight_words(&words_in_json(value, leaf.place.clone()), highlights)
            }
            false => {}
        }
    }

    /// Marks the words where they follow each other. If they never do, all of them are marked.
    fn highlight_words(&self, found: &[Found], highlights: &mut Vec<Range<usize>>) {
        let last = self.words.len() - 1;
        let is = |nth: usize, word: &str| match &self.words[nth] {
            start if nth == last && self.is_open => word.starts_with(start.as_str()),
            whole => word == whole,
        };
        let runs = found.windows(self.words.len());
        let runs = runs.filter(|run| run.iter().enumerate().all(|(nth, (_, word))| is(nth, word)));
        let before = highlights.len();
        highlights.extend(runs.flatten().map(|(place, _)| place.clone()));
        let has_all = || (0..=last).all(|nth| found.iter().any(|(_, word)| is(nth, word)));
        if highlights.len() == before && last > 0 && has_all() {
            let any = |word: &str| (0..=last).any(|nth| is(nth, word));
            highlights.extend(found.iter().filter(|(_, word)| any(word)).map(|(place, _)| place.clone()));
        }
    }
}

impl Limits {
    fn hold(&self, text: &str, is_string: bool) -> bool {
        match self {
            Self::Dates(span) => match rfc3339::parse(text) {
                Some(rfc3339::Date::Nanos(nanos)) => is_string && span.contains(&nanos),
                _ => false,
            },
            Self::Numbers(from, to) => {
                let as_f64 = |number: &Number| match *number {
                    Number::I64(value) => value as f64,
                    Number::U64(value) => value as f64,
                    Number::F64(value) => value,
                };
                let number = if is_string { json::number_text(text) } else { number(text) };
                let Some(value) = number.map(|number| as_f64(&number)) else { return false };
                let is_above = match from {
                    Bound::Unbounded => true,
                    Bound::Included(from) => value >= as_f64(from),
                    Bound::Excluded(from) => value > as_f64(from),
                };
                is_above
                    && match to {
                        Bound::Unbounded => true,
                        Bound::Included(to) => value <= as_f64(to),
                        Bound::Excluded(to) => value < as_f64(to),
                    }
            }
        }
    }
}

/// A word, and its place.
type Found = (Range<usize>, String);

/// Returns the words of a text that starts at byte `start` of a value.
fn words_of(text: &str, start: usize) -> Vec<Found> {
    let text = &*words::blank(text);
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let mut word = Vec::new();
        let Some(place) = words::next_word(text, at, &mut word) else { return found };
        at = place.end;
        found.extend(String::from_utf8(word).map(|word| (start + place.start..start + place.end, word)));
    }
}

/// Returns the words of a JSON string. An escape separates words, as nearly all escaped characters do.
fn words_in_json(value: &str, place: Range<usize>) -> Vec<Found> {
    let (mut found, mut at) = (Vec::new(), place.start);
    let text = words::blank(&value[place.clone()]);
    while at < place.end {
        let rest = &text[at - place.start..];
        let len = rest.find('\\').unwrap_or(rest.len());
        found.extend(words_of(&rest[..len], at));
        let escape_bytes = if rest.as_bytes().get(len + 1) == Some(&b'u') { 6 } else { 2 };
        at += len + escape_bytes;
    }
    found
}

/// Returns the scalars of a JSON object; `None` if it is not one.
fn leaves(value: &str) -> Option<Vec<Leaf>> {
    if value.len() > JSON_BYTES_MAX || !value.trim_ascii_start().starts_with('{') {
        return None;
    }
    serde_json::from_str::<serde::de::IgnoredAny>(value).ok()?;
    let mut walk = Walk { json: value, at: 0, leaves: Vec::new() };
    walk.value("");
    Some(walk.leaves)
}

/// A walk over JSON that is known to be valid, and that is not nested deeper than `serde_json` allows.
struct Walk<'a> {
    json: &'a str,
    at: usize,
    leaves: Vec<Leaf>,
}

impl Walk<'_> {
    /// Goes to the next byte that is not white space, and returns it.
    fn next(&mut self) -> u8 {
        let bytes = self.json.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or_default()
    }

    fn value(&mut self, path: &str) {
        match self.next() {
            b'{' => self.members(b'}', |walk| {
                let key = walk.string();
                let key: String =
                    serde_json::from_str(&walk.json[key.start - 1..key.end + 1]).unwrap_or_default();
                walk.next();
                walk.at += 1;
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                walk.value(&path);
            }),
            b'[' => self.members(b']', |walk| walk.value(path)),
            b'"' => {
                let place = self.string();
                self.leaves.push(Leaf { path: path.to_owned(), place, is_string: true });
            }
            _ => {
                let rest = &self.json[self.at..];
                let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
                let place = self.at..self.at + len.unwrap_or(rest.len()).max(1);
                self.at = place.end;
                self.leaves.push(Leaf { path: path.to_owned(), place, is_string: false });
            }
        }
    }

    /// Goes past an object or an array, member by member.
    fn members(&mut self, end: u8, mut member: impl FnMut(&mut Self)) {
        self.at += 1;
        while self.next() != end && self.at < self.json.len() {
            member(self);
            if self.next() == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
    }

    /// Goes past a string, and returns the range between its quotes.
    fn string(&mut self) -> Range<usize> {
        let (start, bytes) = (self.at + 1, self.json.as_bytes());
        let mut end = start;
        while bytes.get(end).is_some_and(|byte| *byte != b'"') {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        self.at = end + 1;
        start..end
    }
}

#[cfg(test)]
mod tests;
