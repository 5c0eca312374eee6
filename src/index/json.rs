//! JSON objects, read once onto a tape of leaves: Tantivy walks a document several times, and would stop at depths and
//! keys that a flat list of paths and leaves does not have.

use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::catalog::FieldTypes;
use super::paths::{PathId, Paths, ROOT};
use super::rfc3339::{self, Date};

/// How deep objects and arrays may nest; `serde_json` itself refuses more than 127. Deeper ones are text.
const DEPTH_MAX: usize = 100;
/// How many leaves one object may have. More than that is text: a tape has sixteen bytes for each, and the shortest leaf has two.
const LEAVES_MAX: usize = 1 << 20;

/// A string's place in [`Tape::text`]. One record's strings have less than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    start: u32,
    len: u32,
}

impl Slice {
    pub fn of<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start as usize..][..self.len as usize]
    }
}

/// A value without parts of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Text(&'a str),
    /// A string that is an RFC 3339 date: indexed as both.
    Date(&'a str, i64),
    I64(i64),
    U64(u64),
    F64(f64),
    Bool(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Date,
    I64,
    U64,
    F64,
    Bool,
}

/// A scalar at its path, in 16 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    bits: u64,
    path: PathId,
    kind: Kind,
}

impl Leaf {
    pub fn path(&self) -> PathId {
        self.path
    }

    /// The value, its string borrowed from the tape's.
    pub fn scalar<'a>(&self, text: &'a str) -> Scalar<'a> {
        match self.kind {
            Kind::Text => Scalar::Text(self.slice().of(text)),
            // Read again rather than kept: dates are few among leaves, and eight bytes more on each cost more.
            Kind::Date => match (self.slice().of(text), rfc3339::parse(self.slice().of(text))) {
                (text, Some(Date::Nanos(nanos))) => Scalar::Date(text, nanos),
                (text, _) => Scalar::Text(text),
            },
            Kind::I64 => Scalar::I64(self.bits.cast_signed()),
            Kind::U64 => Scalar::U64(self.bits),
            Kind::F64 => Scalar::F64(f64::from_bits(self.bits)),
            Kind::Bool => Scalar::Bool(self.bits != 0),
        }
    }

    fn slice(&self) -> Slice {
        Slice { start: (self.bits >> 32) as u32, len: self.bits as u32 }
    }

    fn types(&self) -> FieldTypes {
        match self.kind {
            Kind::Text => FieldTypes::TEXT,
            Kind::Date => FieldTypes::TEXT | FieldTypes::DATE,
            Kind::I64 => FieldTypes::I64,
            Kind::U64 => FieldTypes::U64,
            Kind::F64 => FieldTypes::F64,
            Kind::Bool => FieldTypes::BOOL,
        }
    }
}

/// A number in its one form, so that it is found however it was written: `1.0` is `1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    I64(i64),
    /// Above all that fit an `i64`.
    U64(u64),
    F64(f64),
}

impl Number {
    pub fn of_u64(value: u64) -> Self {
        i64::try_from(value).map_or(Self::U64(value), Self::I64)
    }

    pub fn of_f64(value: f64) -> Self {
        const TWO_63: f64 = 9_223_372_036_854_775_808.0;
        // 2^64 itself becomes `u64::MAX`, since Tantivy has it so in its terms.
        if value.fract() != 0.0 || !(-TWO_63..=TWO_63 * 2.0).contains(&value) {
            Self::F64(value)
        } else if value < TWO_63 {
            Self::I64(value as i64)
        } else {
            Self::U64(value as u64)
        }
    }
}

/// What came of reading a value as a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// Its leaves are on the tape.
    Object,
    /// It is no JSON object.
    Other,
    /// It is one, for all that was read, but too deep or too large for the tape.
    TooLarge,
}

/// The leaves of one object, and the texts that have no path.
#[derive(Clone, Debug, Default)]
pub(super) struct Tape {
    pub leaves: Vec<Leaf>,
    pub texts: Vec<Slice>,
    /// What the slices point into.
    pub text: String,
    /// Leaves that became texts.
    pub leaves_without_path: u64,
    /// Dates that Tantivy cannot hold.
    pub dates_out_of_range: u64,
}

impl Tape {
    pub fn clear(&mut self) {
        self.leaves.clear();
        self.texts.clear();
        self.text.clear();
        self.leaves_without_path = 0;
        self.dates_out_of_range = 0;
    }

    /// Frees what only an unusually large record needed.
    pub fn shrink(&mut self) {
        self.leaves.shrink_to(4_096);
        self.texts.shrink_to(4_096);
        self.text.shrink_to(1 << 20);
    }

    pub fn mem_usage(&self) -> usize {
        self.leaves.capacity() * size_of::<Leaf>()
            + self.texts.capacity() * size_of::<Slice>()
            + self.text.capacity()
    }

    /// Keeps a text that has no path.
    pub fn push_text(&mut self, text: &str) {
        let slice = self.keep(text);
        self.texts.push(slice);
    }

    /// Reads an object's leaves. Where it is none, the tape is empty afterwards and no path was added.
    pub fn parse(&mut self, json: &str, paths: &mut Paths) -> Parsed {
        self.clear();
        if !json.trim_ascii_start().starts_with('{') {
            return Parsed::Other;
        }
        let mark = paths.mark();
        let mut reader = Reader { tape: self, paths, depth: 0, too_large: false };
        let mut json = serde_json::Deserializer::from_str(json);
        let result =
            Seed { reader: &mut reader, path: ROOT }.deserialize(&mut json).and_then(|()| json.end());
        let too_large = reader.too_large;
        if result.is_err() {
            paths.forget(mark);
            self.clear();
            return if too_large { Parsed::TooLarge } else { Parsed::Other };
        }
        self.settle(paths);
        Parsed::Object
    }

    /// Turns the leaves whose path cannot be kept into texts.
    fn settle(&mut self, paths: &mut Paths) {
        let mut kept = 0;
        for index in 0..self.leaves.len() {
            let leaf = self.leaves[index];
            if paths.admit(leaf.path, leaf.types()) {
                self.leaves[kept] = leaf;
                kept += 1;
            } else {
                self.leaves_without_path += 1;
                let slice = self.slice_of(leaf);
                self.texts.push(slice);
            }
        }
        self.leaves.truncate(kept);
    }

    fn slice_of(&mut self, leaf: Leaf) -> Slice {
        let start = self.text.len();
        // Writing to a string cannot fail.
        let _ = match leaf.kind {
            Kind::Text | Kind::Date => return leaf.slice(),
            Kind::I64 => write!(self.text, "{}", leaf.bits.cast_signed()),
            Kind::U64 => write!(self.text, "{}", leaf.bits),
            Kind::F64 => write!(self.text, "{}", f64::from_bits(leaf.bits)),
            Kind::Bool => write!(self.text, "{}", leaf.bits != 0),
        };
        Slice { start: start as u32, len: (self.text.len() - start) as u32 }
    }

    fn keep(&mut self, text: &str) -> Slice {
        let start = self.text.len() as u32;
        self.text.push_str(text);
        Slice { start, len: text.len() as u32 }
    }
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
            None => Kind::Text,
            Some(Date::Nanos(_)) => Kind::Date,
            Some(Date::OutOfRange) => {
                self.tape.dates_out_of_range += 1;
                Kind::Text
            }
        };
        let Slice { start, len } = self.tape.keep(text);
        self.push(path, kind, u64::from(start) << 32 | u64::from(len))
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

#[cfg(test)]
mod tests;
