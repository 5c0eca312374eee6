//! What a query finds by the documented rules, checked record by record: without an index, and without code
//! of the search.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::truth::Record;

/// A record, and what can be searched in its value.
pub struct Doc {
    pub record: Record,
    /// The leaves of JSON objects by their dotted paths.
    pub places: BTreeMap<String, Vec<Value>>,
    /// A value that is text, but not a JSON object.
    pub text: Option<String>,
}

/// Where words are looked for.
#[derive(Clone, Debug)]
pub enum Place {
    Anywhere,
    Path(String),
    Text,
}

/// A query as a tree.
#[derive(Clone, Debug)]
pub enum Query {
    All,
    /// `open`: the last word is a prefix.
    Words {
        place: Place,
        text: String,
        open: bool,
    },
    Numbers(String, Bound<f64>, Bound<f64>),
    Dates(String, Bound<OffsetDateTime>, Bound<OffsetDateTime>),
    Present(String),
    Key {
        text: String,
        open: bool,
    },
    Header {
        name: String,
        text: String,
        open: bool,
    },
    Times(Bound<i64>, Bound<i64>),
    Offsets(Bound<i64>, Bound<i64>),
    And(Vec<Query>),
    Or(Vec<Query>),
    Not(Box<Query>),
}

impl Doc {
    pub fn new(record: Record) -> Self {
        let text = record.value.as_deref().and_then(|value| String::from_utf8(value.to_vec()).ok());
        let mut places = BTreeMap::new();
        let Some(values) = text.as_deref().and_then(objects_and_arrays) else {
            return Self { record, places, text };
        };
        let (mut strings, mut bare) = (Vec::new(), Vec::new());
        for value in &values {
            if let Value::Array(_) = value {
                elements(value, &mut bare);
            }
            leaves(value, "", &mut places);
        }
        // An element without an object around it has no path: it is text.
        if !bare.is_empty() {
            places.remove("");
            strings.extend(bare.iter().map(|value| value.as_str().map_or(value.to_string(), str::to_owned)));
        }
        Self { record, places, text: (!strings.is_empty()).then(|| strings.join("\n")) }
    }

    /// Returns all strings in which words are searched.
    pub fn strings(&self) -> Vec<&str> {
        let leaves = self.places.values().flatten().filter_map(Value::as_str);
        self.text.as_deref().into_iter().chain(leaves).collect()
    }
}

/// Returns the values of a text that consists only of JSON objects and arrays, at least one.
fn objects_and_arrays(text: &str) -> Option<Vec<Value>> {
    let values = serde_json::Deserializer::from_str(text.trim_start_matches('\u{feff}')).into_iter::<Value>();
    let values = values.collect::<Result<Vec<_>, _>>().ok()?;
    let all = values.iter().all(|value| value.is_object() || value.is_array());
    (all && !values.is_empty()).then_some(values)
}

fn elements(value: &Value, bare: &mut Vec<Value>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| elements(value, bare)),
        Value::Object(_) | Value::Null => {}
        value => bare.push(value.clone()),
    }
}

/// Returns the number that a value is, or that its string is.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) if !text.contains(char::is_whitespace) => {
            serde_json::from_str::<serde_json::Number>(text).ok()?.as_f64()
        }
        value => value.as_f64(),
    }
}

fn leaves(value: &Value, path: &str, places: &mut BTreeMap<String, Vec<Value>>) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(value, &path, places);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|value| leaves(value, path, places)),
        leaf => places.entry(path.to_owned()).or_default().push(leaf.clone()),
    }
}

/// Returns the words of a text: runs of letters and digits, each letter in lower case.
pub fn words(text: &str) -> Vec<String> {
    let text = without_escapes(text);
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word.chars().flat_map(char::to_lowercase).collect()).collect()
}

/// Replaces each terminal escape sequence by a space: ESC, a bracket, other characters, and a letter.
fn without_escapes(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |all, piece| {
        let end = piece.find(|c: char| ('@'..='~').contains(&c)).map_or(piece.len(), |at| at + 1);
        all + " " + &piece[end..]
    })
}

pub fn date(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

impl Query {
    /// Whether a record matches. `positions`: in an index that stores positions of words.
    pub fn finds(&self, doc: &Doc, positions: bool) -> bool {
        let values = |path: &String| doc.places.get(path).into_iter().flatten();
        match self {
            Self::All => true,
            Self::Words { place, text, open } => {
                let sought = Sought::new(text, *open, positions);
                let in_text = || doc.text.iter().any(|text| sought.is_in(&[text]));
                match place {
                    Place::Text => in_text(),
                    Place::Path(path) => doc.places.get(path).is_some_and(|values| sought.is_at(values)),
                    Place::Anywhere => in_text() || doc.places.values().any(|values| sought.is_at(values)),
                }
            }
            Self::Numbers(path, from, to) => {
                values(path).filter_map(number).any(|number| (*from, *to).contains(&number))
            }
            Self::Dates(path, from, to) => {
                let dates = values(path).filter_map(Value::as_str).filter_map(date);
                dates.into_iter().any(|date| (*from, *to).contains(&date))
            }
            Self::Present(path) => doc.places.iter().any(|(at, values)| {
                let is_below =
                    at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                let holds_word = |value: &Value| value.as_str().is_none_or(|text| !words(text).is_empty());
                is_below && values.iter().any(holds_word)
            }),
            Self::Key { text, open } => {
                doc.record.key.as_deref().is_some_and(|key| is_or_starts(key, text, *open))
            }
            Self::Header { name, text, open } => doc.record.headers.iter().any(|(header, value)| {
                let value = value.as_deref().filter(|value| str::from_utf8(value).is_ok());
                header == name.as_bytes() && value.is_some_and(|value| is_or_starts(value, text, *open))
            }),
            Self::Times(from, to) => doc.record.timestamp_ms.is_some_and(|ms| (*from, *to).contains(&ms)),
            Self::Offsets(from, to) => (*from, *to).contains(&doc.record.offset),
            Self::And(all) => all.iter().all(|query| query.finds(doc, positions)),
            Self::Or(any) => any.iter().any(|query| query.finds(doc, positions)),
            Self::Not(query) => !query.finds(doc, positions),
        }
    }
}

fn is_or_starts(bytes: &[u8], text: &str, open: bool) -> bool {
    if open { bytes.starts_with(text.as_bytes()) } else { bytes == text.as_bytes() }
}

/// What is searched in values.
struct Sought {
    text: String,
    words: Vec<String>,
    open: bool,
    positions: bool,
}

impl Sought {
    fn new(text: &str, open: bool, positions: bool) -> Self {
        let ends_in_word = text.chars().next_back().is_some_and(char::is_alphanumeric);
        Self { text: text.to_owned(), words: words(text), open: open && ends_in_word, positions }
    }

    /// Whether it matches the leaves of one path.
    fn is_at(&self, leaves: &[Value]) -> bool {
        let strings: Vec<&str> = leaves.iter().filter_map(Value::as_str).collect();
        self.is_in(&strings) || leaves.iter().any(|leaf| self.is(leaf))
    }

    /// Whether it matches the whole leaf.
    fn is(&self, leaf: &Value) -> bool {
        match leaf {
            Value::Bool(value) if self.open => value.to_string().starts_with(&self.text.to_lowercase()),
            Value::Bool(value) => value.to_string().eq_ignore_ascii_case(&self.text),
            leaf if !self.open && number(leaf).is_some() => {
                let is_number = self.text.parse::<f64>().is_ok_and(|sought| Some(sought) == number(leaf));
                is_number && self.text.chars().all(|c| "0123456789+-.eE".contains(c))
            }
            Value::String(text) if !self.open => {
                date(&self.text).is_some_and(|sought| date(text) == Some(sought))
            }
            _ => false,
        }
    }

    /// Whether it matches the strings of one place.
    fn is_in(&self, strings: &[&str]) -> bool {
        let (last, before) = self.words.split_last().expect("a word at least");
        let ends = |word: &String| if self.open { word.starts_with(last) } else { word == last };
        let texts: Vec<Vec<String>> = strings.iter().map(|text| words(text)).collect();
        if self.positions || before.is_empty() {
            let mut runs = texts.iter().flat_map(|text| text.windows(self.words.len()));
            return runs.any(|run| run[..before.len()] == *before && ends(&run[before.len()]));
        }
        before.iter().all(|word| texts.iter().flatten().any(|other| other == word))
            && texts.iter().flatten().any(ends)
    }
}
