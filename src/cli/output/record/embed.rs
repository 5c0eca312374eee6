//! JSON within JSON: decides which texts can be embedded in a line as JSON, and writes them on one line.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Returns whether a text is one JSON object or array that common parsers read completely and in the same
/// way. It is not if it is malformed or deeply nested, if a member occurs twice, if a number is too large for
/// a float, or if a string has half of a surrogate pair.
///
/// A number, string, boolean or `null` alone counts as text. So a string in the output always stands for the
/// stored bytes.
pub fn is_whole_in_json(text: &str) -> bool {
    text.trim_ascii_start().starts_with(['{', '[']) && serde_json::from_str::<Whole>(text).is_ok()
}

/// Writes JSON without whitespace between its parts. Names, strings and numbers stay as they were written,
/// except characters that a terminal or a line reader acts on: these are escaped, and the parsed value is the
/// same.
pub fn on_one_line(line: &mut Vec<u8>, json: &str) {
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        match c {
            ' ' | '\t' | '\n' | '\r' if !in_string => {}
            c => push(line, c),
        }
        match c {
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && c == '\\' && !escaped;
    }
}

/// Writes a text as a JSON string.
pub fn string(line: &mut Vec<u8>, text: &str) -> Result<(), serde_json::Error> {
    let quoted = serde_json::to_string(text)?;
    quoted.chars().for_each(|c| push(line, c));
    Ok(())
}

/// Writes one character of JSON. A character that [`is_plain`](crate::cli::terminal_escaping::is_plain)
/// excludes can occur only in strings, so it can be escaped.
fn push(line: &mut Vec<u8>, c: char) {
    if crate::cli::terminal_escaping::is_plain(c) {
        line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        // All these characters are below 2^16.
        line.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
    }
}

/// Any JSON value that can be read, in which no member occurs twice.
struct Whole;

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reads)
    }
}

struct Reads;

impl<'de> Visitor<'de> for Reads {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_str<E>(self, _: &str) -> Result<Whole, E> {
        Ok(Whole)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Whole, A::Error> {
        while elements.next_element::<Whole>()?.is_some() {}
        Ok(Whole)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Whole, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, _)) = members.next_entry::<String, Whole>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        Ok(Whole)
    }
}
