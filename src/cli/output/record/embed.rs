//! JSON within JSON: which texts may stand as they are in a line that others read, and how they fit on one line.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Whether a text is one JSON object or array that common readers understand in the same way and in full. It is not, if it is broken or
/// deeply nested, if a member is there twice, if a number is too large for a float, or a string has half of a surrogate pair.
///
/// Numbers, strings, booleans and `null` by themselves are text: so a string in a line is always the bytes that were stored.
pub fn is_whole_in_json(text: &str) -> bool {
    text.trim_ascii_start().starts_with(['{', '[']) && serde_json::from_str::<Whole>(text).is_ok()
}

/// JSON without the space between its parts. Names, strings and numbers stay as they were written, but for the characters that mean
/// something to a terminal or to a reader of lines: these are escaped, which reads as the same.
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

/// A text as a JSON string.
pub fn string(line: &mut Vec<u8>, text: &str) -> Result<(), serde_json::Error> {
    let quoted = serde_json::to_string(text)?;
    quoted.chars().for_each(|c| push(line, c));
    Ok(())
}

/// A character of JSON. Those that move a terminal's cursor, or what stands beside them, are in strings only, and can be escaped there.
fn push(line: &mut Vec<u8>, c: char) {
    if crate::cli::terminal_escaping::is_plain(c) {
        line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        // All of them are below 2^16.
        line.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
    }
}

/// Any JSON that reads, with each member once.
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
