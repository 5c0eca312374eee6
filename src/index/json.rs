//! Reads a JSON value once, onto a tape: a flat list of paths and leaves. Tantivy's own reader of JSON stops
//! at deep nesting and at some keys. A flat list has no nesting and no such keys.

mod scan;

use std::fmt::Write;

use super::catalog::FieldTypes;
use super::paths::{Kept, PathId, Paths, ROOT};
use super::rfc3339::{self, Date};
use super::words;
pub(super) use scan::number_text;
use scan::{BYTE_ORDER_MARK, Stop};

/// How deep objects and arrays may be nested. What is deeper becomes text.
const DEPTH_MAX: usize = 100;
/// How many leaves one value may have. What comes after them becomes text: a leaf takes sixteen bytes on the
/// tape, and the shortest leaf has two.
const LEAVES_MAX: usize = 1 << 20;

/// The place of a string in [`Tape::text`]. A record and its strings have less than 4 GiB.
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

/// A value that contains no other values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Text(&'a str),
    /// A string that is an RFC 3339 date: indexed as both.
    Date(&'a str, i64),
    /// A string that is a number: indexed as both.
    NumberText(&'a str, Number),
    I64(i64),
    U64(u64),
    F64(f64),
    Bool(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Date,
    NumberText,
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

    /// Returns the value. Its string is borrowed from the tape's text.
    pub fn scalar<'a>(&self, text: &'a str) -> Scalar<'a> {
        match self.kind {
            Kind::Text => Scalar::Text(self.slice().of(text)),
            // The date is parsed again instead of kept: few leaves are dates, and eight more bytes for each
            // leaf cost more.
            Kind::Date => match (self.slice().of(text), rfc3339::parse(self.slice().of(text))) {
                (text, Some(Date::Nanos(nanos))) => Scalar::Date(text, nanos),
                (text, _) => Scalar::Text(text),
            },
            Kind::NumberText => match (self.slice().of(text), scan::number_text(self.slice().of(text))) {
                (text, Some(number)) => Scalar::NumberText(text, number),
                (text, None) => Scalar::Text(text),
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

    fn types(&self, text: &str) -> FieldTypes {
        match self.kind {
            Kind::Text => FieldTypes::TEXT,
            Kind::Date => FieldTypes::TEXT | FieldTypes::DATE,
            Kind::NumberText => match scan::number_text(self.slice().of(text)) {
                Some(Number::I64(_)) => FieldTypes::TEXT | FieldTypes::I64,
                Some(Number::U64(_)) => FieldTypes::TEXT | FieldTypes::U64,
                Some(Number::F64(_)) => FieldTypes::TEXT | FieldTypes::F64,
                None => FieldTypes::TEXT,
            },
            Kind::I64 => FieldTypes::I64,
            Kind::U64 => FieldTypes::U64,
            Kind::F64 => FieldTypes::F64,
            Kind::Bool => FieldTypes::BOOL,
        }
    }
}

/// A number in its only form, so that it is found in any notation: `1.0` is `1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    I64(i64),
    /// Too large for an `i64`.
    U64(u64),
    F64(f64),
}

impl Number {
    pub fn of_u64(value: u64) -> Self {
        i64::try_from(value).map_or(Self::U64(value), Self::I64)
    }

    pub fn of_f64(value: f64) -> Self {
        const TWO_63: f64 = 9_223_372_036_854_775_808.0;
        // 2^64 itself becomes `u64::MAX`, as in Tantivy's terms.
        if value.fract() != 0.0 || !(-TWO_63..=TWO_63 * 2.0).contains(&value) {
            Self::F64(value)
        } else if value < TWO_63 {
            Self::I64(value as i64)
        } else {
            Self::U64(value as u64)
        }
    }
}

/// The outcome of reading a value as JSON objects and arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// Its leaves are on the tape.
    Object,
    /// Some of its leaves are on the tape. After them it is not JSON, or breaks off. All of it is also a
    /// text.
    Partial,
    /// It is not JSON.
    Other,
    /// It has more leaves than a tape may hold. The first of them are on the tape. All of it is also a text.
    TooLarge,
}

/// The leaves of a value, and the texts that have no path.
#[derive(Clone, Debug, Default)]
pub(super) struct Tape {
    pub leaves: Vec<Leaf>,
    /// Leaves at paths that the index does not list. They are also texts.
    pub unlisted: Vec<Leaf>,
    pub texts: Vec<Slice>,
    /// The text that the slices point into: the value as it came, then the strings that had to be written
    /// differently.
    pub text: String,
    /// Leaves that are only texts, because their path is too long or contains a NUL.
    pub leaves_without_path: u64,
    /// Leaves that are only texts, because the value has too many paths, or the record too many terms for
    /// such leaves.
    pub leaves_beyond_paths: u64,
    /// Dates that Tantivy cannot hold.
    pub dates_out_of_range: u64,
    /// Objects and arrays that became texts because they are nested too deep.
    pub too_deep: u64,
}

impl Tape {
    pub fn clear(&mut self) {
        self.leaves.clear();
        self.unlisted.clear();
        self.texts.clear();
        self.text.clear();
        self.leaves_without_path = 0;
        self.leaves_beyond_paths = 0;
        self.dates_out_of_range = 0;
        self.too_deep = 0;
    }

    /// Frees memory that only an unusually large record needed.
    pub fn shrink(&mut self) {
        self.leaves.shrink_to(4_096);
        self.unlisted.shrink_to(4_096);
        self.texts.shrink_to(4_096);
        self.text.shrink_to(1 << 20);
    }

    pub fn mem_usage(&self) -> usize {
        (self.leaves.capacity() + self.unlisted.capacity()) * size_of::<Leaf>()
            + self.texts.capacity() * size_of::<Slice>()
            + self.text.capacity()
    }

    /// Adds a text that has no path.
    pub fn push_text(&mut self, text: &str) {
        let start = self.text.len();
        self.text.push_str(&words::blank(text));
        self.texts.push(Slice { start: start as u32, len: (self.text.len() - start) as u32 });
    }

    /// Reads the leaves of objects and arrays. If the value is not JSON, the tape is empty afterwards and no
    /// path was added.
    pub fn parse(&mut self, json: &str, paths: &mut Paths) -> Parsed {
        self.clear();
        paths.forget_passing();
        let json = json.trim_start_matches(BYTE_ORDER_MARK);
        if !json.trim_ascii_start().starts_with(['{', '[']) {
            return Parsed::Other;
        }
        let mark = paths.mark();
        // One copy of the whole value costs less than a copy of each string: most strings are used as they
        // are.
        self.text.push_str(json);
        let parsed = match scan::read(json, self, paths) {
            Ok(()) => Parsed::Object,
            Err(Stop::TooLarge) => Parsed::TooLarge,
            Err(Stop::Syntax) if self.leaves.iter().any(|leaf| leaf.path != ROOT) => Parsed::Partial,
            Err(Stop::Syntax) => {
                paths.forget(mark);
                self.clear();
                return Parsed::Other;
            }
        };
        self.settle(paths);
        if parsed != Parsed::Object {
            // This is in addition to the texts that are there already: in those, escapes are decoded.
            self.push_text(json);
        }
        parsed
    }

    /// Turns the leaves whose path is not listed into texts.
    fn settle(&mut self, paths: &mut Paths) {
        let mut kept = 0;
        for index in 0..self.leaves.len() {
            let leaf = self.leaves[index];
            if paths.admit(leaf.path, leaf.types(&self.text)) {
                self.leaves[kept] = leaf;
                kept += 1;
                continue;
            }
            match paths.place(leaf.path) {
                Kept::NoPath => {}
                Kept::Named => self.unlisted.push(leaf),
                Kept::Unnamable => self.leaves_without_path += 1,
                Kept::TooMany => self.leaves_beyond_paths += 1,
            }
            let slice = self.slice_of(leaf);
            self.texts.push(slice);
        }
        self.leaves.truncate(kept);
    }

    fn slice_of(&mut self, leaf: Leaf) -> Slice {
        let start = self.text.len();
        // Writing to a string cannot fail.
        let _ = match leaf.kind {
            Kind::Text | Kind::Date | Kind::NumberText => return leaf.slice(),
            Kind::I64 => write!(self.text, "{}", leaf.bits.cast_signed()),
            Kind::U64 => write!(self.text, "{}", leaf.bits),
            Kind::F64 => write!(self.text, "{}", f64::from_bits(leaf.bits)),
            Kind::Bool => write!(self.text, "{}", leaf.bits != 0),
        };
        Slice { start: start as u32, len: (self.text.len() - start) as u32 }
    }
}

#[cfg(test)]
mod tests;
