//! Reads JSON text onto a tape, in one pass and without a call of a library for each value.
//!
//! If `serde_json` accepts an object, the scanner finds the same leaves, to the last bit of a number: tests
//! compare the two. Producers also write what JSON does not allow, for example a number beyond `f64`, `NaN`
//! or a lone surrogate. This affects only the leaf that contains it. Several values in a row are read like
//! the elements of an array.

use super::{DEPTH_MAX, Kind, LEAVES_MAX, Leaf, Number, Slice, Tape};
use crate::index::paths::{PathId, Paths, ROOT};
use crate::index::rfc3339::{self, Date};
use crate::index::words;

/// Why reading ends early. What was read before stays on the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It is not JSON, or breaks off.
    Syntax,
    /// It has too many leaves.
    TooLarge,
}

/// Reads the objects and arrays in `json`. The text of the tape must be a copy of `json`, and nothing else.
pub(super) fn read(json: &str, tape: &mut Tape, paths: &mut Paths) -> Result<(), Stop> {
    let mut scanner = Scanner { json, at: 0, depth: 0, objects: 0, key: String::new(), tape, paths };
    let mut is_first = true;
    loop {
        match scanner.next() {
            Ok(b'{') => scanner.object(ROOT)?,
            Ok(b'[') => scanner.array(ROOT)?,
            Ok(b',' | RECORD_SEPARATOR) if !is_first => scanner.at += 1,
            Err(_) if !is_first => return Ok(()),
            _ if !is_first && json[scanner.at..].starts_with(BYTE_ORDER_MARK) => {
                scanner.at += BYTE_ORDER_MARK.len_utf8();
            }
            _ => return Err(Stop::Syntax),
        }
        is_first = false;
    }
}

/// Begins each value of a JSON text sequence (RFC 7464).
const RECORD_SEPARATOR: u8 = 0x1e;
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';

struct Scanner<'a> {
    json: &'a str,
    at: usize,
    depth: usize,
    /// How many objects are open.
    objects: usize,
    /// A buffer for a key that is written with escapes.
    key: String,
    tape: &'a mut Tape,
    paths: &'a mut Paths,
}

impl Scanner<'_> {
    /// Returns the first byte of the next token; an error at the end of the text.
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
            b'{' | b'[' if self.depth == DEPTH_MAX => self.too_deep(),
            b'{' => self.object(path),
            b'[' => self.array(path),
            b'-' | b'0'..=b'9' => self.number(path),
            b't' if self.word("true") => self.push(path, Kind::Bool, 1),
            b'f' if self.word("false") => self.push(path, Kind::Bool, 0),
            b'n' if self.word("null") => Ok(()),
            _ => self.token(path),
        }
    }

    fn object(&mut self, path: PathId) -> Result<(), Stop> {
        self.open();
        self.objects += 1;
        self.paths.enter(path);
        loop {
            match self.next()? {
                b'"' => {}
                b'}' => break,
                _ => return Err(Stop::Syntax),
            }
            let below = self.key(path)?;
            if self.next()? != b':' {
                return Err(Stop::Syntax);
            }
            self.at += 1;
            self.value(below)?;
            match self.next()? {
                b',' => self.at += 1,
                b'}' => break,
                _ => return Err(Stop::Syntax),
            }
        }
        self.objects -= 1;
        self.close();
        Ok(())
    }

    fn array(&mut self, path: PathId) -> Result<(), Stop> {
        self.open();
        while self.next()? != b']' {
            self.value(path)?;
            match self.next()? {
                b',' => self.at += 1,
                b']' => break,
                _ => return Err(Stop::Syntax),
            }
        }
        self.close();
        Ok(())
    }

    /// Goes past an opening bracket.
    fn open(&mut self) {
        self.at += 1;
        self.depth += 1;
    }

    /// Goes past a closing bracket.
    fn close(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// Turns an object or an array that is nested too deep into text, as it is written.
    #[cold]
    fn too_deep(&mut self) -> Result<(), Stop> {
        let (start, bytes) = (self.at, self.json.as_bytes());
        let mut depth = 0_usize;
        loop {
            match *bytes.get(self.at).ok_or(Stop::Syntax)? {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b'"' => self.skip_string()?,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                break;
            }
        }
        self.tape.too_deep += 1;
        self.tape.texts.push(Slice { start: start as u32, len: (self.at - start) as u32 });
        Ok(())
    }

    /// Goes from the opening quote of a string to the closing one.
    fn skip_string(&mut self) -> Result<(), Stop> {
        let bytes = self.json.as_bytes();
        self.at += 1;
        while *bytes.get(self.at).ok_or(Stop::Syntax)? != b'"' {
            self.at += if bytes[self.at] == b'\\' { 2 } else { 1 };
        }
        Ok(())
    }

    /// Takes this word if it is the whole value, and returns whether it is.
    fn word(&mut self, word: &str) -> bool {
        let rest = &self.json.as_bytes()[self.at..];
        let is_word = rest.starts_with(word.as_bytes()) && ends_token(rest.get(word.len()));
        self.at += if is_word { word.len() } else { 0 };
        is_word
    }

    /// Turns a value that JSON does not allow into text: `NaN`, `01`, `1e400`.
    #[cold]
    fn token(&mut self, path: PathId) -> Result<(), Stop> {
        let rest = &self.json.as_bytes()[self.at..];
        let len = (0..rest.len()).find(|at| ends_token(rest.get(*at))).ok_or(Stop::Syntax)?;
        let is_odd = rest[..len].iter().any(|byte| matches!(byte, b'"' | b'{' | b'['));
        if len == 0 || is_odd {
            return Err(Stop::Syntax);
        }
        let slice = Slice { start: self.at as u32, len: len as u32 };
        self.at += len;
        self.push_text(path, Kind::Text, slice)
    }

    /// Reads a key and finds its path.
    #[inline]
    fn key(&mut self, parent: PathId) -> Result<PathId, Stop> {
        let rest = &self.json.as_bytes()[self.at..];
        if let Some((path, quoted_bytes)) = self.paths.predict(parent, rest) {
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

    /// Reads a string. A string without escapes is in the tape's text already.
    #[inline]
    fn string(&mut self, path: PathId) -> Result<(), Stop> {
        self.at += 1;
        let start = self.at;
        if self.run()? == b'"' {
            let slice = Slice { start: start as u32, len: (self.at - start) as u32 };
            let kind = self.kind_of(rfc3339::parse(&self.json[start..self.at]), &self.json[start..self.at]);
            self.at += 1;
            return self.push_text(path, kind, slice);
        }
        self.at = start;
        let mut text = std::mem::take(&mut self.tape.text);
        let start = text.len();
        let read = self.unescape(&mut text);
        words::blank_behind(&mut text, start);
        let slice = Slice { start: start as u32, len: (text.len() - start) as u32 };
        let kind = self.kind_of(rfc3339::parse(&text[start..]), &text[start..]);
        self.tape.text = text;
        read?;
        self.push_text(path, kind, slice)
    }

    /// Appends everything up to the closing quote to `out`, and goes past that quote.
    fn unescape(&mut self, out: &mut String) -> Result<(), Stop> {
        loop {
            let start = self.at;
            let end = self.run()?;
            out.push_str(&self.json[start..self.at]);
            self.at += 1;
            match end {
                b'"' => return Ok(()),
                b'\\' => self.escape(out)?,
                control => out.push(char::from(control)),
            }
        }
    }

    /// Reads what follows a backslash. A backslash that escapes nothing is left out.
    fn escape(&mut self, out: &mut String) -> Result<(), Stop> {
        let escaped = *self.json.as_bytes().get(self.at).ok_or(Stop::Syntax)?;
        if !escaped.is_ascii() {
            return Ok(());
        }
        self.at += 1;
        out.push(match escaped {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.code_point(),
            other => char::from(other),
        });
        Ok(())
    }

    /// Reads what follows `\u`: four hexadecimal digits, or twice four that are a pair of surrogates. A lone
    /// surrogate, or other characters, become the replacement character.
    fn code_point(&mut self) -> char {
        let Some(unit) = self.hex() else { return char::REPLACEMENT_CHARACTER };
        let behind = self.at;
        if (0xd800..0xdc00).contains(&unit) && self.json.as_bytes()[self.at..].starts_with(b"\\u") {
            self.at += 2;
            if let Some(low) = self.hex().filter(|low| (0xdc00..0xe000).contains(low)) {
                let code = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            }
            self.at = behind;
        }
        char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.json.as_bytes().get(self.at..self.at + 4)?;
        let value = digits
            .iter()
            .try_fold(0, |value, digit| char::from(*digit).to_digit(16).map(|digit| value << 4 | digit));
        self.at += if value.is_some() { 4 } else { 0 };
        value
    }

    /// Goes to the next quote, backslash or control character, and returns it. If there is none, it is an
    /// error.
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
                b'"' | b'\\' | 0..0x20 => return Ok(*byte),
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
            None => match any_number(&self.json[self.at..]) {
                Some(any) => any,
                None => return self.token(path),
            },
        };
        if !ends_token(rest.get(len)) {
            return self.token(path);
        }
        let slice = Slice { start: self.at as u32, len: len as u32 };
        self.at += len;
        match number {
            // A number outside of objects is text as it is written, like everything outside of objects.
            _ if self.objects == 0 => self.push_text(path, Kind::Text, slice),
            Number::I64(value) => self.push(path, Kind::I64, value.cast_unsigned()),
            Number::U64(value) => self.push(path, Kind::U64, value),
            Number::F64(value) => self.push(path, Kind::F64, value.to_bits()),
        }
    }

    #[inline]
    fn kind_of(&mut self, date: Option<Date>, text: &str) -> Kind {
        match date {
            None if number_text(text).is_some() => Kind::NumberText,
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

/// Sets the highest bit of each byte that is a quote, a backslash or a control character. Above the lowest of
/// these bytes, other bits may be set, too. (Mycroft's zero byte test, for all three.)
#[inline]
fn specials(bytes: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let below = |bytes: u64, limit: u64| bytes.wrapping_sub(ONES * limit) & !bytes;
    let is = |byte: u8| below(bytes ^ (ONES * u64::from(byte)), 1);
    (below(bytes, 0x20) | is(b'"') | is(b'\\')) & (ONES << 7)
}

/// Any number of so many digits fits a `u64` and an `i64`.
const DIGITS_MAX: usize = 18;

const POWERS_OF_TEN: [f64; DIGITS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];

/// Reads the number that `bytes` start with, if it has at most [`DIGITS_MAX`] digits and no exponent. Also
/// returns its length.
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
    // `serde_json` does the same. The result may differ by a bit from the nearest number, but all numbers in
    // indexes are read like this.
    let value = all as f64 / POWERS_OF_TEN[decimals];
    Some((Number::of_f64(if is_negative { -value } else { value }), end))
}

/// Appends the digits from `at` on to `value`, which wraps if they are too many. Also returns where they end.
#[inline]
fn digits(bytes: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (value, at)
}

/// Reads any number that `json` starts with. All bytes that can belong to a number must belong to it: if some
/// of them were left over, nothing after them could make the text valid.
#[cold]
fn any_number(json: &str) -> Option<(Number, usize)> {
    let len = json.bytes().position(|byte| !belongs_to_number(byte)).unwrap_or(json.len());
    let number: serde_json::Number = serde_json::from_str(&json[..len]).ok()?;
    let number = match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(value), ..) => Number::of_u64(value),
        (_, Some(value), _) => Number::I64(value),
        (.., value) => Number::of_f64(value?),
    };
    Some((number, len))
}

fn belongs_to_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
}

/// Returns whether a value that is not a string, an object or an array ends before this byte. At the end of
/// the text it does not: the value may be cut off there.
fn ends_token(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b',' | b'}' | b']' | 0..=b' '))
}

/// The longest string that is read as a number, in bytes. Nobody uses longer strings of digits as numbers.
const NUMBER_TEXT_BYTES_MAX: usize = 64;

/// Returns the number if all of the string is a number, as JSON writes numbers.
#[inline]
pub(in crate::index) fn number_text(text: &str) -> Option<Number> {
    match text.as_bytes().first()? {
        b'-' | b'0'..=b'9' => {}
        _ => return None,
    }
    if text.len() > NUMBER_TEXT_BYTES_MAX || !text.bytes().all(belongs_to_number) {
        return None;
    }
    let (number, len) = plain_number(text.as_bytes()).or_else(|| any_number(text))?;
    (len == text.len()).then_some(number)
}
