//! A second reference for queries, written only from docs/search.md. It reads the raw bytes of a record, and
//! uses neither this program's JSON parser nor that of any crate.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A value at a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    Text(String),
    Number(Number),
    Bool(bool),
}

/// A number. Whole numbers from -2^63 to 2^64 - 1 are exact, all others are floats.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    Whole(i128),
    Float(f64),
}

/// What can be searched in a value.
#[derive(Clone, Debug, Default)]
pub struct Value {
    /// The leaves of JSON objects, by their dotted paths.
    pub paths: BTreeMap<String, Vec<Leaf>>,
    /// Text that has no path.
    pub texts: Vec<String>,
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.compare(*other) == Ordering::Equal
    }
}

impl Number {
    /// Parses a whole text as a JSON number. A number that is too large for a float is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned, None),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_sound = digits(whole)
            && (whole == "0" || !whole.starts_with('0'))
            && fraction.is_none_or(digits)
            && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
        if !is_sound {
            return None;
        }
        if fraction.is_none()
            && exponent.is_none()
            && let Ok(whole) = text.parse::<i128>()
            && (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&whole)
        {
            return Some(Self::Whole(whole));
        }
        text.parse().ok().filter(|float: &f64| float.is_finite()).map(Self::Float)
    }

    pub fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(&b),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b).expect("finite"),
            (Self::Whole(a), Self::Float(b)) => whole_and_float(a, b),
            (Self::Float(a), Self::Whole(b)) => whole_and_float(b, a).reverse(),
        }
    }
}

fn whole_and_float(whole: i128, float: f64) -> Ordering {
    // Beyond this, no whole number is as large. Below it, the whole part of a float is exact.
    if float.abs() >= 1e30 {
        return if float > 0.0 { Ordering::Less } else { Ordering::Greater };
    }
    let part = float.trunc() as i128;
    whole.cmp(&part).then_with(|| {
        if float.fract() > 0.0 {
            Ordering::Less
        } else if float.fract() < 0.0 {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    })
}

/// Returns the words of a text: runs of letters and digits, in lower case. Terminal escape sequences separate
/// words.
pub fn words(text: &str) -> Vec<String> {
    let text = without_escapes(text);
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word.chars().flat_map(char::to_lowercase).collect()).collect()
}

/// Replaces each sequence of ESC and a bracket by a space, also if ESC is written as text.
fn without_escapes(text: &str) -> String {
    let (mut left, mut result) = (text, String::new());
    'text: while let Some(c) = left.chars().next() {
        for begin in ["\u{1b}[", r"\x1b[", r"\x1B[", r"\033[", r"\e[", r"\u001b[", r"\u001B["] {
            let Some(behind) = left.strip_prefix(begin) else { continue };
            let parameters = behind.bytes().take_while(|byte| (0x20..0x40).contains(byte)).count();
            let has_end = behind.as_bytes().get(parameters).is_some_and(|byte| (0x40..0x7f).contains(byte));
            left = &behind[parameters + usize::from(has_end)..];
            result.push(' ');
            continue 'text;
        }
        result.push(c);
        left = &left[c.len_utf8()..];
    }
    result
}

impl Value {
    /// Reads a record's value.
    pub fn read(bytes: &[u8]) -> Self {
        let mut reader = Reader { bytes, at: 0, value: Self::default() };
        if reader.all().is_none() {
            // It is not JSON, or stops being JSON somewhere: then all of it is text, if it is UTF-8.
            reader.value.texts.extend(str::from_utf8(bytes).ok().map(str::to_owned));
        }
        reader.value
    }
}

/// Reads JSON. A method returns `None` if the JSON breaks off, or if something else is there.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    value: Value,
}

impl Reader<'_> {
    /// Reads objects and arrays in sequence, at least one.
    fn all(&mut self) -> Option<()> {
        self.between();
        loop {
            match self.peek()? {
                b'{' | b'[' => self.value("", false)?,
                _ => return None,
            }
            self.between();
            if self.at == self.bytes.len() {
                return Some(());
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips space and byte-order marks.
    fn between(&mut self) {
        self.space();
        while self.bytes[self.at..].starts_with("\u{feff}".as_bytes()) {
            self.at += 3;
            self.space();
        }
    }

    fn value(&mut self, path: &str, in_object: bool) -> Option<()> {
        self.space();
        match self.peek()? {
            b'{' => self.object(path),
            b'[' => self.array(path, in_object),
            b'"' => {
                let text = self.string()?;
                self.add(path, in_object, Leaf::Text(text));
                Some(())
            }
            _ => self.bare(path, in_object),
        }
    }

    fn add(&mut self, path: &str, in_object: bool, leaf: Leaf) {
        match (in_object, leaf) {
            (true, leaf) => self.value.paths.entry(path.to_owned()).or_default().push(leaf),
            (false, Leaf::Text(text)) => self.value.texts.push(text),
            (false, _) => unreachable!("told apart where it is read"),
        }
    }

    fn object(&mut self, path: &str) -> Option<()> {
        self.at += 1;
        self.space();
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.space();
            if self.peek()? != b'"' {
                return None;
            }
            let name = self.string()?;
            self.space();
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            let below = if path.is_empty() { name } else { format!("{path}.{name}") };
            self.value(&below, true)?;
            self.space();
            self.at += 1;
            match self.bytes[self.at - 1..].first()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn array(&mut self, path: &str, in_object: bool) -> Option<()> {
        self.at += 1;
        self.space();
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.value(path, in_object)?;
            self.space();
            self.at += 1;
            match self.bytes[self.at - 1..].first()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Reads what ends with a comma, a bracket or space: a number, a JSON keyword, or something that JSON
    /// does not allow, which is text.
    fn bare(&mut self, path: &str, in_object: bool) -> Option<()> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| b",]} \t\n\r".contains(byte))?;
        let text = str::from_utf8(&rest[..end]).ok().filter(|text| !text.is_empty())?.to_owned();
        self.at += end;
        let leaf = match text.as_str() {
            "null" => return Some(()),
            "true" | "false" if in_object => Leaf::Bool(text == "true"),
            _ => match Number::parse(&text).filter(|_| in_object) {
                Some(number) => Leaf::Number(number),
                None => Leaf::Text(text),
            },
        };
        self.add(path, in_object, leaf);
        Some(())
    }

    /// Reads a string. Bytes that are not a character become one that separates words.
    fn string(&mut self) -> Option<String> {
        self.at += 1;
        let mut units = Vec::new();
        let mut result = String::new();
        loop {
            let byte = self.peek()?;
            if byte == b'\\' && self.bytes.get(self.at + 1) == Some(&b'u') {
                let digits = str::from_utf8(self.bytes.get(self.at + 2..self.at + 6)?).ok()?;
                units.push(u16::from_str_radix(digits, 16).ok()?);
                self.at += 6;
                continue;
            }
            result.push_str(&String::from_utf16_lossy(&units));
            units.clear();
            match byte {
                b'"' => {
                    self.at += 1;
                    return Some(result);
                }
                b'\\' => {
                    let escaped = self.bytes.get(self.at + 1)?;
                    result.push(match escaped {
                        b'n' => '\n',
                        b't' => '\t',
                        b'r' => '\r',
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'"' | b'\\' | b'/' => char::from(*escaped),
                        _ => return None,
                    });
                    self.at += 2;
                }
                _ => {
                    let rest = &self.bytes[self.at..];
                    let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(rest.len());
                    result.push_str(&String::from_utf8_lossy(&rest[..end]));
                    self.at += end;
                }
            }
        }
    }
}

/// Where words are looked for.
#[derive(Clone, Debug)]
pub enum Place {
    Anywhere,
    Path(String),
    Text,
}

/// A bound of a range.
#[derive(Clone, Copy, Debug)]
pub enum End<T> {
    Open,
    With(T),
    Without(T),
}

/// A parsed query.
#[derive(Clone, Debug)]
pub enum Query {
    All,
    /// One word, or several as a phrase. `open`: the last word is a prefix.
    Words {
        place: Place,
        text: String,
        open: bool,
    },
    Numbers(String, End<Number>, End<Number>),
    Present(String),
    Times(End<i64>, End<i64>),
    Offsets(End<i64>, End<i64>),
    And(Vec<Query>),
    Or(Vec<Query>),
    Not(Box<Query>),
}

/// A record.
#[derive(Clone, Debug)]
pub struct Record {
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub bytes: Vec<u8>,
    pub value: Value,
}

fn is_within<T: Copy>(value: T, from: End<T>, to: End<T>, compare: impl Fn(T, T) -> Ordering) -> bool {
    let above = match from {
        End::Open => true,
        End::With(end) => compare(value, end) != Ordering::Less,
        End::Without(end) => compare(value, end) == Ordering::Greater,
    };
    let below = match to {
        End::Open => true,
        End::With(end) => compare(value, end) != Ordering::Greater,
        End::Without(end) => compare(value, end) == Ordering::Less,
    };
    above && below
}

impl Leaf {
    /// Returns the number that a leaf is, or that its text is.
    pub fn number(&self) -> Option<Number> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => Number::parse(text),
            Self::Bool(_) => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::Bool(_) => None,
        }
    }

    fn is_searchable(&self) -> bool {
        self.text().is_none_or(|text| !words(text).is_empty())
    }
}

impl Query {
    /// Whether it finds the record. `positions`: in an index that stores positions of words.
    pub fn finds(&self, record: &Record, positions: bool) -> bool {
        let value = &record.value;
        match self {
            Self::All => true,
            Self::Words { place, text, open } => {
                let sought = Sought { text, words: words(text), open: *open, positions };
                let in_texts = || sought.is_in(&value.texts.iter().map(String::as_str).collect::<Vec<_>>());
                match place {
                    Place::Text => in_texts(),
                    Place::Path(path) => value.paths.get(path).is_some_and(|leaves| sought.is_at(leaves)),
                    Place::Anywhere => in_texts() || value.paths.values().any(|leaves| sought.is_at(leaves)),
                }
            }
            Self::Numbers(path, from, to) => {
                let leaves = value.paths.get(path).into_iter().flatten();
                leaves.filter_map(Leaf::number).any(|number| is_within(number, *from, *to, Number::compare))
            }
            Self::Present(path) => value.paths.iter().any(|(at, leaves)| {
                let is_there =
                    at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                is_there && leaves.iter().any(Leaf::is_searchable)
            }),
            Self::Times(from, to) => {
                record.timestamp_ms.is_some_and(|time| is_within(time, *from, *to, |a, b| a.cmp(&b)))
            }
            Self::Offsets(from, to) => is_within(record.offset, *from, *to, |a, b| a.cmp(&b)),
            Self::And(all) => all.iter().all(|query| query.finds(record, positions)),
            Self::Or(any) => any.iter().any(|query| query.finds(record, positions)),
            Self::Not(query) => !query.finds(record, positions),
        }
    }
}

/// The words of a search.
struct Sought<'a> {
    text: &'a str,
    words: Vec<String>,
    open: bool,
    positions: bool,
}

impl Sought<'_> {
    /// Whether it matches the leaves of one path: as words of their texts, or as the value of one leaf.
    fn is_at(&self, leaves: &[Leaf]) -> bool {
        let texts: Vec<&str> = leaves.iter().filter_map(Leaf::text).collect();
        self.is_in(&texts) || leaves.iter().any(|leaf| self.is(leaf))
    }

    fn is(&self, leaf: &Leaf) -> bool {
        match leaf {
            Leaf::Bool(value) => {
                let (value, text) = (value.to_string(), self.text.to_lowercase());
                value == text || self.open && value.starts_with(&text)
            }
            leaf => {
                !self.open && Number::parse(self.text).is_some_and(|number| leaf.number() == Some(number))
            }
        }
    }

    /// Whether it matches the texts of one place: all words in any one text, or in sequence if positions are
    /// stored.
    fn is_in(&self, texts: &[&str]) -> bool {
        let Some((last, before)) = self.words.split_last() else { return false };
        let ends = |word: &String| word == last || self.open && word.starts_with(last.as_str());
        let texts: Vec<Vec<String>> = texts.iter().map(|text| words(text)).collect();
        if self.positions {
            let mut runs = texts.iter().flat_map(|text| text.windows(self.words.len()));
            return runs.any(|run| run[..before.len()] == *before && ends(&run[before.len()]));
        }
        let all: Vec<&String> = texts.iter().flatten().collect();
        before.iter().all(|word| all.contains(&word)) && all.into_iter().any(ends)
    }
}
