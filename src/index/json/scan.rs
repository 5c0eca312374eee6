//! Reads JSON text onto a tape, in one pass and without asking a library for each value.
//!
//! What is an object, and what its leaves are, is `serde_json`'s decision, to the bit of a number: the tests hold the two against
//! each other. What is rare (numbers with an exponent, or with more digits than a `u64` surely holds) is its work here, too.

use super::{DEPTH_MAX, Kind, LEAVES_MAX, Leaf, Number, Slice, Tape};
use crate::index::paths::{PathId, Paths, ROOT};
use crate::index::rfc3339::{self, Date};

/// Why reading ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It is no JSON object.
    Syntax,
    /// It nests too deep, or has too many leaves.
    TooLarge,
}

/// Reads the object that `json` is, whose copy is all that stands in the tape's text so far.
pub(super) fn read(json: &str, tape: &mut Tape, paths: &mut Paths) -> Result<(), Stop> {
    let mut scanner = Scanner { json, at: 0, depth: 0, key: String::new(), tape, paths };
    match scanner.next()? {
        b'{' => scanner.object(ROOT)?,
        _ => return Err(Stop::Syntax),
    }
    match scanner.next() {
        Ok(_) => Err(Stop::Syntax),
        Err(_) => Ok(()),
    }
}

struct Scanner<'a> {
    json: &'a str,
    at: usize,
    depth: usize,
    /// A key that is written with escapes.
    key: String,
    tape: &'a mut Tape,
    paths: &'a mut Paths,
}

impl Scanner<'_> {
    /// The byte that the next token starts with; an error at the end.
    #[inline]
    fn next(&mut self) -> Result<u8, Stop> {
        let bytes = self.json.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Ok(*byte);
            }
            self.at += 1;
        }
        Err(Stop::Syntax)
    }

    fn value(&mut self, path: PathId) -> Result<(), Stop> {
        match self.next()? {
            b'"' => self.string(path),
            b'{' => self.object(path),
            b'[' => self.array(path),
            b'-' | b'0'..=b'9' => self.number(path),
            b't' => self.word("true").and_then(|()| self.push(path, Kind::Bool, 1)),
            b'f' => self.word("false").and_then(|()| self.push(path, Kind::Bool, 0)),
            b'n' => self.word("null"),
            _ => Err(Stop::Syntax),
        }
    }

    fn object(&mut self, path: PathId) -> Result<(), Stop> {
        self.deeper()?;
        self.paths.enter(path);
        if self.next()? == b'}' {
            return self.higher();
        }
        loop {
            if self.next()? != b'"' {
                return Err(Stop::Syntax);
            }
            let below = self.key(path)?;
            if self.next()? != b':' {
                return Err(Stop::Syntax);
            }
            self.at += 1;
            self.value(below)?;
            match self.next()? {
                b',' => self.at += 1,
                b'}' => return self.higher(),
                _ => return Err(Stop::Syntax),
            }
        }
    }

    fn array(&mut self, path: PathId) -> Result<(), Stop> {
        self.deeper()?;
        if self.next()? == b']' {
            return self.higher();
        }
        loop {
            self.value(path)?;
            match self.next()? {
                b',' => self.at += 1,
                b']' => return self.higher(),
                _ => return Err(Stop::Syntax),
            }
        }
    }

    /// Behind a bracket that opens.
    fn deeper(&mut self) -> Result<(), Stop> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(Stop::TooLarge) } else { Ok(()) }
    }

    /// Behind one that closes.
    fn higher(&mut self) -> Result<(), Stop> {
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), Stop> {
        if !self.json.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Stop::Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    /// Reads a key and finds its path.
    #[inline]
    fn key(&mut self, parent: PathId) -> Result<PathId, Stop> {
        let rest = &self.json.as_bytes()[self.at..];
        if let Some((path, quoted_bytes)) = self.paths.foreseen(parent, rest) {
            self.at += quoted_bytes;
            return Ok(path);
        }
        self.at += 1;
        let start = self.at;
        if self.run()? == b'"' {
            let path = self.paths.child(parent, &self.json[start..self.at]);
            self.at += 1;
            return Ok(path);
        }
        self.at = start;
        let mut key = std::mem::take(&mut self.key);
        key.clear();
        self.unescape(&mut key)?;
        let path = self.paths.child(parent, &key);
        self.key = key;
        Ok(path)
    }

    /// Reads a string. One without escapes is a part of the text already.
    #[inline]
    fn string(&mut self, path: PathId) -> Result<(), Stop> {
        self.at += 1;
        let start = self.at;
        if self.run()? == b'"' {
            let slice = Slice { start: start as u32, len: (self.at - start) as u32 };
            let kind = self.kind_of(rfc3339::parse(&self.json[start..self.at]));
            self.at += 1;
            return self.push_text(path, kind, slice);
        }
        self.at = start;
        let mut text = std::mem::take(&mut self.tape.text);
        let start = text.len();
        let read = self.unescape(&mut text);
        let slice = Slice { start: start as u32, len: (text.len() - start) as u32 };
        let kind = self.kind_of(rfc3339::parse(&text[start..]));
        self.tape.text = text;
        read?;
        self.push_text(path, kind, slice)
    }

    /// Appends to `out` what stands from here to the closing quote, and goes behind that.
    fn unescape(&mut self, out: &mut String) -> Result<(), Stop> {
        loop {
            let start = self.at;
            let end = self.run()?;
            out.push_str(&self.json[start..self.at]);
            self.at += 1;
            if end == b'"' {
                return Ok(());
            }
            let escaped = *self.json.as_bytes().get(self.at).ok_or(Stop::Syntax)?;
            self.at += 1;
            out.push(match escaped {
                b'"' | b'\\' | b'/' => char::from(escaped),
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'u' => self.code_point()?,
                _ => return Err(Stop::Syntax),
            });
        }
    }

    /// Reads what follows `\u`: four hexadecimal digits, or two times four that are a pair of surrogates.
    fn code_point(&mut self) -> Result<char, Stop> {
        let unit = self.hex()?;
        if !(0xd800..0xdc00).contains(&unit) {
            return char::from_u32(unit).ok_or(Stop::Syntax);
        }
        self.word("\\u")?;
        let low = self.hex()?;
        if !(0xdc00..0xe000).contains(&low) {
            return Err(Stop::Syntax);
        }
        char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).ok_or(Stop::Syntax)
    }

    fn hex(&mut self) -> Result<u32, Stop> {
        let digits = self.json.as_bytes().get(self.at..self.at + 4).ok_or(Stop::Syntax)?;
        self.at += 4;
        digits.iter().try_fold(0, |value, digit| {
            let digit = char::from(*digit).to_digit(16).ok_or(Stop::Syntax)?;
            Ok(value << 4 | digit)
        })
    }

    /// Goes to the next quote or backslash, and returns it. There must be one, and no control character in front of it.
    #[inline]
    fn run(&mut self) -> Result<u8, Stop> {
        let bytes = self.json.as_bytes();
        while let Some(chunk) = bytes[self.at..].first_chunk::<8>() {
            let found = specials(u64::from_le_bytes(*chunk));
            if found != 0 {
                self.at += found.trailing_zeros() as usize / 8;
                break;
            }
            self.at += 8;
        }
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' | b'\\' => return Ok(*byte),
                0..0x20 => return Err(Stop::Syntax),
                _ => self.at += 1,
            }
        }
        Err(Stop::Syntax)
    }

    #[inline]
    fn number(&mut self, path: PathId) -> Result<(), Stop> {
        let rest = &self.json.as_bytes()[self.at..];
        let (number, len) = match plain_number(rest) {
            Some(plain) => plain,
            None => any_number(&self.json[self.at..])?,
        };
        self.at += len;
        match number {
            Number::I64(value) => self.push(path, Kind::I64, value.cast_unsigned()),
            Number::U64(value) => self.push(path, Kind::U64, value),
            Number::F64(value) => self.push(path, Kind::F64, value.to_bits()),
        }
    }

    fn kind_of(&mut self, date: Option<Date>) -> Kind {
        match date {
            None => Kind::Text,
            Some(Date::Nanos(_)) => Kind::Date,
            Some(Date::OutOfRange) => {
                self.tape.dates_out_of_range += 1;
                Kind::Text
            }
        }
    }

    fn push_text(&mut self, path: PathId, kind: Kind, Slice { start, len }: Slice) -> Result<(), Stop> {
        self.push(path, kind, u64::from(start) << 32 | u64::from(len))
    }

    #[inline]
    fn push(&mut self, path: PathId, kind: Kind, bits: u64) -> Result<(), Stop> {
        if self.tape.leaves.len() == LEAVES_MAX {
            return Err(Stop::TooLarge);
        }
        self.tape.leaves.push(Leaf { bits, path, kind });
        Ok(())
    }
}

/// Has the highest bit set of each byte that is a quote, a backslash or a control character; above the lowest of these, bits may be set
/// for no reason. (Mycroft's zero byte test, for all three.)
#[inline]
fn specials(bytes: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let below = |bytes: u64, limit: u64| bytes.wrapping_sub(ONES * limit) & !bytes;
    let is = |byte: u8| below(bytes ^ (ONES * u64::from(byte)), 1);
    (below(bytes, 0x20) | is(b'"') | is(b'\\')) & (ONES << 7)
}

/// So many digits fit a `u64`, and an `i64`, whatever they are.
const DIGITS_MAX: usize = 18;

const POWERS_OF_TEN: [f64; DIGITS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];

/// Reads the number that `bytes` start with where it has no more than [`DIGITS_MAX`] digits and no exponent, and says how long it is.
#[inline]
fn plain_number(bytes: &[u8]) -> Option<(Number, usize)> {
    let is_negative = bytes.first() == Some(&b'-');
    let start = usize::from(is_negative);
    let (whole, point) = digits(bytes, start, 0);
    let starts_with_zero = bytes.get(start) == Some(&b'0');
    if point == start || point - start > DIGITS_MAX || (starts_with_zero && point > start + 1) {
        return None;
    }
    match bytes.get(point) {
        Some(b'.') => {}
        Some(b'e' | b'E') => return None,
        _ if is_negative => return Some((Number::I64(-whole.cast_signed()), point)),
        _ => return Some((Number::I64(whole.cast_signed()), point)),
    }
    let (all, end) = digits(bytes, point + 1, whole);
    let decimals = end - point - 1;
    if decimals == 0 || end - start - 1 > DIGITS_MAX || matches!(bytes.get(end), Some(b'e' | b'E')) {
        return None;
    }
    // What `serde_json` does. It may be off by a bit from the nearest number, but all there is in indexes is read like this.
    let value = all as f64 / POWERS_OF_TEN[decimals];
    Some((Number::of_f64(if is_negative { -value } else { value }), end))
}

/// Appends the digits from `at` on to `value`, which wraps where they are too many, and says where they end.
#[inline]
fn digits(bytes: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (value, at)
}

/// Reads any number that `json` starts with. All that can belong to one must: bytes of this kind that are left over could not be
/// followed by anything that makes sense of them.
#[cold]
fn any_number(json: &str) -> Result<(Number, usize), Stop> {
    let belongs = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let len = json.bytes().position(|byte| !belongs(&byte)).unwrap_or(json.len());
    let number: serde_json::Number = serde_json::from_str(&json[..len]).map_err(|_| Stop::Syntax)?;
    let number = match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(value), ..) => Number::of_u64(value),
        (_, Some(value), _) => Number::I64(value),
        (.., Some(value)) => Number::of_f64(value),
        (None, None, None) => return Err(Stop::Syntax),
    };
    Ok((number, len))
}
