//! Looks up records in the index: by their numbers, and by a term of each record that a query can name.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::archive::Fault;
use crate::bundle::Manifest;
use crate::index::{Bounds, Hit, IndexReader, Order, Query, TERM_BYTES_MAX, VALUE_BYTES_MAX, ValueMode};
use crate::record::Record;

/// The longest part of a text to look up, in bytes.
const SOUGHT_BYTES_MAX: usize = 200;

/// The longest key, header or path to look up, in bytes. With every byte escaped it is still a valid query.
const EXACT_BYTES_MAX: usize = if TERM_BYTES_MAX < 16_000 { TERM_BYTES_MAX } else { 16_000 };

/// The part of a record that is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Key,
    Header,
    Value,
}

const PARTS: [(Part, &str); 3] = [(Part::Key, "keys"), (Part::Header, "headers"), (Part::Value, "values")];

/// The settings of a bundle's index, and the counts of the lookups.
pub(super) struct Terms {
    mode: ValueMode,
    found: u64,
    missed: [u64; 3],
    /// For each part, how many records cannot be found according to the manifest.
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

    /// Returns the number of terms that found their records.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// Returns a message for each part by which records were not found, but should be.
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
    /// The offset and time of each record, by number.
    records: Vec<(i64, Option<i64>)>,
    /// The numbers of the records that each query must find.
    queries: HashMap<(Part, String), Vec<u64>>,
}

impl Group {
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns this group, and leaves the next one, empty, in its place.
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

    /// Looks up each record in the index. Returns the faults of offsets and times.
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
                // The smallest text, so that the result is the same on every run.
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

/// Returns the ordinals that a query finds, ascending.
fn find(reader: &IndexReader, text: &str, bounds: &Bounds) -> Result<Vec<u64>, Fault> {
    // A query that cannot be parsed finds nothing. That becomes a finding.
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

/// Returns a query for the first leaf with a word. If the index does not know the leaf's path, the word is
/// found as text.
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

/// Returns a part of a text to look up, between white space, which always separates words.
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
