//! Finding records again: by their numbers, and by a term of each that a query can name.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::archive::Fault;
use crate::bundle::Manifest;
use crate::index::{Bounds, Hit, IndexReader, Order, Query, TERM_BYTES_MAX, VALUE_BYTES_MAX, ValueMode};
use crate::record::Record;

/// The longest part of a text that is looked for, in bytes.
const SOUGHT_BYTES_MAX: usize = 200;

/// The longest key, header or path that is looked for: with every byte escaped it is a query still.
const EXACT_BYTES_MAX: usize = if TERM_BYTES_MAX < 16_000 { TERM_BYTES_MAX } else { 16_000 };

/// What of a record is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Key,
    Header,
    Value,
}

const PARTS: [(Part, &str); 3] = [(Part::Key, "keys"), (Part::Header, "headers"), (Part::Value, "values")];

/// How a bundle's records were indexed, and how looking for them went.
pub(super) struct Terms {
    mode: ValueMode,
    found: u64,
    missed: [u64; 3],
    /// How many of each part the manifest says cannot be found.
    excused: [u64; 3],
    example: Option<String>,
}

impl Terms {
    pub fn new(manifest: &Manifest) -> Self {
        let index = &manifest.index;
        let mode = index.settings.get("value").map(String::as_str);
        let modes = [ValueMode::Auto, ValueMode::Json, ValueMode::Text, ValueMode::None];
        let count = |name: &str| index.unsearchable.get(name).copied().unwrap_or(0);
        Self {
            mode: modes.into_iter().find(|known| Some(known.name()) == mode).unwrap_or(ValueMode::Auto),
            found: 0,
            missed: [0; 3],
            excused: [0, count("headers"), count("values_not_json") + count("leaves_without_path")],
            example: None,
        }
    }

    /// Terms that led to their records.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// What could not be found, and should be.
    pub fn missed(&self) -> Vec<String> {
        let example = self.example.as_deref().unwrap_or_default();
        let missed =
            PARTS.iter().filter(|(part, _)| self.missed[*part as usize] > self.excused[*part as usize]);
        missed
            .map(|(part, name)| {
                let count = self.missed[*part as usize];
                format!("{count} records are not found by their {name}, such as by {example}")
            })
            .collect()
    }
}

/// Records that are looked up together.
#[derive(Default)]
pub(super) struct Group {
    first_ordinal: u64,
    /// Offset and time of each, by number.
    records: Vec<(i64, Option<i64>)>,
    /// The records that each query must find, by number.
    queries: HashMap<(Part, String), Vec<u64>>,
}

impl Group {
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// This group; what stays is the next one, empty.
    pub fn take(&mut self) -> Self {
        let first_ordinal = self.first_ordinal + self.records.len() as u64;
        std::mem::replace(self, Self { first_ordinal, ..Self::default() })
    }

    pub fn add(&mut self, record: &Record<'_>, terms: &Terms) {
        let ordinal = self.first_ordinal + self.records.len() as u64;
        self.records.push((record.offset(), record.timestamp_ms()));
        let queries = [
            (Part::Key, key_query(record)),
            (Part::Header, header_query(record)),
            (Part::Value, value_query(record, terms.mode)),
        ];
        for (part, query) in queries {
            if let Some(query) = query {
                self.queries.entry((part, query)).or_default().push(ordinal);
            }
        }
    }

    /// Asks the index for each record; returns what is wrong with its numbers.
    pub fn look_up(self, reader: &IndexReader, terms: &mut Terms) -> Result<Vec<String>, Fault> {
        let Some(min_offset) = self.records.iter().map(|(offset, _)| *offset).min() else {
            return Ok(Vec::new());
        };
        let max_offset = self.records.iter().map(|(offset, _)| *offset).max();
        let bounds = Bounds { min_offset: Some(min_offset), max_offset, ..Bounds::default() };
        let all = reader.search(&Query::all(), &bounds, Order::OldestFirst, usize::MAX)?;
        let wrong = self.compare_numbers(&all.hits);

        let looked: Vec<(Part, &str, u64, u64)> = self
            .queries
            .par_iter()
            .map(|((part, text), ordinals)| {
                let found = find(reader, text, &bounds)?;
                let missed = ordinals.iter().filter(|ordinal| found.binary_search(ordinal).is_err()).count();
                Ok((*part, text.as_str(), ordinals.len() as u64, missed as u64))
            })
            .collect::<Result<_, Fault>>()?;
        for (part, text, sought, missed) in looked {
            terms.found += sought - missed;
            terms.missed[part as usize] += missed;
            if missed > 0 {
                // The least of them, so that the same is said each time.
                let least = terms.example.take().filter(|example| example.as_str() <= text);
                terms.example = Some(least.unwrap_or_else(|| text.to_owned()));
            }
        }
        Ok(wrong)
    }

    fn compare_numbers(&self, hits: &[Hit]) -> Vec<String> {
        let mut indexed = vec![None; self.records.len()];
        for hit in hits {
            let nth = hit.ordinal.checked_sub(self.first_ordinal).and_then(|nth| usize::try_from(nth).ok());
            if let Some(slot) = nth.and_then(|nth| indexed.get_mut(nth)) {
                *slot = Some((hit.offset, hit.timestamp_ms));
            }
        }
        let differ =
            indexed.iter().zip(&self.records).filter(|(indexed, record)| **indexed != Some(**record));
        match differ.clone().next() {
            None => Vec::new(),
            Some((_, (offset, _))) => {
                let count = differ.count();
                vec![format!(
                    "the index has other offsets or times for {count} records, such as offset {offset}"
                )]
            }
        }
    }
}

/// The ordinals that a query finds, ascending.
fn find(reader: &IndexReader, text: &str, bounds: &Bounds) -> Result<Vec<u64>, Fault> {
    // A query that does not read finds nothing, which is then a finding.
    let Ok(query) = Query::parse(text) else { return Ok(Vec::new()) };
    let hits = reader.search(&query, bounds, Order::OldestFirst, usize::MAX)?;
    let mut ordinals: Vec<u64> = hits.hits.iter().map(|hit| hit.ordinal).collect();
    ordinals.sort_unstable();
    Ok(ordinals)
}

fn key_query(record: &Record<'_>) -> Option<String> {
    let key = record.key().filter(|key| key.len() <= EXACT_BYTES_MAX)?;
    Some(format!("key:{}", quoted(str::from_utf8(key).ok()?)))
}

fn header_query(record: &Record<'_>) -> Option<String> {
    record.headers().find_map(|(name, value)| {
        let value = value.filter(|value| value.len() <= EXACT_BYTES_MAX && !name.is_empty())?;
        let (name, value) = (str::from_utf8(name).ok()?, str::from_utf8(value).ok()?);
        (name.len() <= SOUGHT_BYTES_MAX).then(|| format!("header.{}:{}", escaped(name), quoted(value)))
    })
}

fn value_query(record: &Record<'_>, mode: ValueMode) -> Option<String> {
    let value = record.value().filter(|value| value.len() <= VALUE_BYTES_MAX)?;
    let value = str::from_utf8(value).ok().filter(|_| mode != ValueMode::None)?;
    let object = match mode {
        ValueMode::Text | ValueMode::None => None,
        ValueMode::Auto | ValueMode::Json => {
            serde_json::from_str(value).ok().filter(serde_json::Value::is_object)
        }
    };
    match object {
        Some(object) => leaf_query(&object, &mut Vec::new()),
        None if mode == ValueMode::Json => None,
        None => Some(format!("text:{}", quoted(sought(value)?))),
    }
}

/// The first leaf with a word. One whose path the index does not know is found as text.
fn leaf_query<'a>(value: &'a serde_json::Value, path: &mut Vec<&'a str>) -> Option<String> {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
        Value::Array(values) => values.iter().find_map(|value| leaf_query(value, path)),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            path.push(name);
            let query = leaf_query(value, path);
            path.pop();
            query
        }),
        Value::String(text) => {
            let (path, text) = (path.join("."), quoted(sought(text)?));
            (path.len() <= EXACT_BYTES_MAX).then(|| format!("value.{}:{text} OR text:{text}", escaped(&path)))
        }
    }
}

/// A part of a text that is looked for: between white space, which always parts words.
fn sought(text: &str) -> Option<&str> {
    let has_word =
        |part: &&str| part.len() <= SOUGHT_BYTES_MAX && part.chars().any(|c| c.is_ascii_alphanumeric());
    text.split_ascii_whitespace().find(has_word)
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn escaped(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_');
    name.chars().flat_map(|c| (!plain(c)).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests;
