//! The reference for the scanner: reads objects with `serde_json`, by a call of a visitor for each value.

use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::super::super::paths::{PathId, Paths, ROOT};
use super::super::super::rfc3339::{self, Date};
use super::super::*;

/// Reads objects as [`Tape::parse`] should.
pub(super) fn parse(tape: &mut Tape, json: &str, paths: &mut Paths) -> Parsed {
    tape.clear();
    paths.forget_passing();
    if !json.trim_ascii_start().starts_with('{') {
        return Parsed::Other;
    }
    let mark = paths.mark();
    let mut reader = Reader { tape: &mut *tape, paths: &mut *paths, depth: 0, too_large: false };
    let mut json = serde_json::Deserializer::from_str(json);
    let result = Seed { reader: &mut reader, path: ROOT }.deserialize(&mut json).and_then(|()| json.end());
    let too_large = reader.too_large;
    if result.is_err() {
        paths.forget(mark);
        tape.clear();
        return if too_large { Parsed::TooLarge } else { Parsed::Other };
    }
    tape.settle(paths);
    Parsed::Object
}

/// Whether a string is a number as JSON writes it.
fn is_number(text: &str) -> bool {
    !text.starts_with(char::is_whitespace)
        && !text.ends_with(char::is_whitespace)
        && text.len() <= 64
        && serde_json::from_str::<serde_json::Number>(text).is_ok()
}

struct Reader<'a> {
    tape: &'a mut Tape,
    paths: &'a mut Paths,
    depth: usize,
    too_large: bool,
}

impl Reader<'_> {
    fn push<E: Error>(&mut self, path: PathId, kind: Kind, bits: u64) -> Result<(), E> {
        if self.tape.leaves.len() == LEAVES_MAX {
            self.too_large = true;
            return Err(E::custom("too many leaves"));
        }
        self.tape.leaves.push(Leaf { bits, path, kind });
        Ok(())
    }

    fn text<E: Error>(&mut self, path: PathId, text: &str) -> Result<(), E> {
        let kind = match rfc3339::parse(text) {
            None if is_number(text) => Kind::NumberText,
            None => Kind::Text,
            Some(Date::Nanos(_)) => Kind::Date,
            Some(Date::OutOfRange) => {
                self.tape.dates_out_of_range += 1;
                Kind::Text
            }
        };
        let start = self.tape.text.len();
        self.tape.text.push_str(text);
        let len = text.len();
        self.push(path, kind, (start as u64) << 32 | len as u64)
    }

    fn number<E: Error>(&mut self, path: PathId, number: Number) -> Result<(), E> {
        match number {
            Number::I64(value) => self.push(path, Kind::I64, value.cast_unsigned()),
            Number::U64(value) => self.push(path, Kind::U64, value),
            Number::F64(value) => self.push(path, Kind::F64, value.to_bits()),
        }
    }

    fn deeper<E: Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            self.too_large = true;
            return Err(E::custom("nested too deep"));
        }
        Ok(())
    }
}

/// Reads the value at one path.
struct Seed<'r, 'a> {
    reader: &'r mut Reader<'a>,
    path: PathId,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.reader.push(self.path, Kind::Bool, u64::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.reader.number(self.path, Number::I64(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.reader.number(self.path, Number::of_u64(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.reader.number(self.path, Number::of_f64(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.reader.text(self.path, text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        self.reader.deeper()?;
        while elements.next_element_seed(Seed { reader: &mut *self.reader, path: self.path })?.is_some() {}
        self.reader.depth -= 1;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.reader.deeper()?;
        self.reader.paths.enter(self.path);
        while let Some(path) =
            entries.next_key_seed(Key { paths: &mut *self.reader.paths, parent: self.path })?
        {
            entries.next_value_seed(Seed { reader: &mut *self.reader, path })?;
        }
        self.reader.depth -= 1;
        Ok(())
    }
}

/// Reads a key and finds its path.
struct Key<'p> {
    paths: &'p mut Paths,
    parent: PathId,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = PathId;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<PathId, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = PathId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<PathId, E> {
        Ok(self.paths.child(self.parent, key))
    }
}
