//! The query language. `docs/search.md` describes it for those who search, with more examples.
//!
//! | query | finds records |
//! |---|---|
//! | `timeout payment` | with both words, each anywhere in the value |
//! | `"connection reset"` | with the phrase: see below |
//! | `user-30` | with the words `user` and `30` in one place, as `"user 30"` does |
//! | `time*`, `"connection re"*` | with a word that starts so, or a phrase whose last word does |
//! | `level:error`, `value.level:error` | with the word at the path `level` of a JSON value |
//! | `level:(error OR fatal)` | with either at the path: within the brackets it is looked there |
//! | `http.status:500` | with the number 500, written `500`, `500.0` or `"500"` |
//! | `latency_ms:>100`, `latency_ms:[10 TO 20]` | with a number in the range; `[`, `]` include the end, `{`, `}` exclude it, `*` is open |
//! | `at:[2024-05-01 TO 2024-05-02T12:00:00Z}` | with a date in the range; a bare day is its midnight, UTC |
//! | `user:*` | with anything that can be found at the path `user` or below it |
//! | `key:user-30`, `key:user-*` | with exactly this key, byte for byte; with a key that starts so |
//! | `header.trace.id:abc`, `header.trace.id:ab*` | with exactly this value of the header `trace.id`; with one that starts so |
//! | `key:*`, `header.trace.id:*`, `timestamp:*` | with a key, such a header, a timestamp |
//! | `offset:[100 TO 200]`, `offset:7` | at these offsets |
//! | `timestamp:>=2024-05-01T12:00:00Z`, `timestamp:<1714564800000` | at these times; whole numbers are milliseconds since the epoch |
//! | `text:broken` | with the word in a value that is no JSON object, or in what of one has no path |
//! | `a AND b`, `a b`, `a OR b`, `NOT a`, `-a`, `a (b OR c)` | `NOT` and `-` bind tightest, then `AND`, which may be left out, then `OR` |
//! | the empty query, `*` | all of them |
//!
//! A word ends at white space, a bracket or a quotation mark. `\` takes the next character as it is, also in names:
//! `my\ key:x`; so `\-5` is the number, where `-5` is whatever has no 5. The names `offset`, `timestamp`, `key`, `text`, `value.…`
//! and `header.…` come before paths of the same name, which are reached as `value.offset`. A colon separates a name: to search
//! for one, quote it: `"12:30"`.
//!
//! Letter case does not count, except in keys, headers and the words AND, OR, NOT and TO. What a word is, `words` says: the
//! query is cut as the records were.
//!
//! **Phrases.** Where the topic is indexed with `positions = true`, the words of a phrase must follow each other. Otherwise
//! they must all be there, at one path, in any order: [`Hits::phrases_as_words`](super::Hits::phrases_as_words) says that this was so.
//!
//! **Prefixes.** A `*` ends a word, and nothing else: `*x` and `a*b` are errors. Prefixes are of words, keys and headers: a number
//! in JSON has none, a range finds it. All prefixes of a query together may stand for [`PREFIX_TERMS_MAX`] different words in one Tantivy
//! segment; beyond that the query fails as too broad: nothing is left out.
//!
//! **Ranges** find a number whatever its type at other records, also one that is written as a string. They are exact for all whole numbers that fit an `i64` or a
//! `u64`. In bundles of earlier releases a range may find neighbours of an end beyond 2^53, where the path holds fractions too.
//!
//! ```
//! use wal_indexer::index::Query;
//!
//! assert!(Query::parse("level:error AND latency_ms:>100").is_ok());
//! let error = Query::parse("level:error AND (a OR b").unwrap_err();
//! assert_eq!(error.position, 16); // characters before the bracket that is not closed
//! ```

pub(super) mod compile;
mod exclusions;
mod highlights;
mod operators;
mod parse;
pub(super) mod prefix;
pub(super) mod range;
mod range_bounds;
pub(super) mod required_terms;
mod scan;

use range::{Limits, Span};

use super::json::Number;
use super::{rfc3339, words};

/// The longest query, in bytes.
pub const QUERY_BYTES_MAX: usize = 64 * 1024;
/// How deep brackets and NOT may nest.
pub const QUERY_DEPTH_MAX: usize = 64;
/// How many terms, phrases and ranges a query may have.
pub const QUERY_CLAUSES_MAX: usize = 1_024;
/// How many different words all prefixes of a query together may stand for in one Tantivy segment, which holds some 32 MiB of
/// records: a million take about a second to look up, and mean that the query says next to nothing.
pub const PREFIX_TERMS_MAX: usize = 1 << 20;

/// A query, read and checked. See the [module](self) for the language.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    root: Node,
}

impl Query {
    /// Reads a query.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        parse::parse(text).map(|root| Self { root })
    }

    /// The query that finds all records.
    pub fn all() -> Self {
        Self { root: Node::All }
    }
}

/// Why a text is no query, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at character {position}")]
pub struct QueryError {
    /// How many characters come before the place.
    pub position: usize,
    /// What is wrong there.
    pub problem: QueryProblem,
}

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryProblem {
    /// It is longer than [`QUERY_BYTES_MAX`].
    #[error("the query has {bytes} bytes, more than {QUERY_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It nests deeper than [`QUERY_DEPTH_MAX`].
    #[error("the query nests more than {QUERY_DEPTH_MAX} deep")]
    TooDeep,
    /// It has more than [`QUERY_CLAUSES_MAX`] clauses.
    #[error("the query has more than {QUERY_CLAUSES_MAX} clauses")]
    TooManyClauses,
    /// A bracket is not closed.
    #[error("this {0:?} is not closed")]
    NotClosed(char),
    /// A bracket closes nothing, or stands where none may.
    #[error("unexpected {0:?}")]
    Unexpected(char),
    /// Something to search for is missing: after an operator or a name, or in brackets.
    #[error("something to search for is missing")]
    Missing,
    /// A text has no letter and no digit, so it cannot be found by its words.
    #[error("{0:?} has no word to search for")]
    NoWord(String),
    /// A name ends in nothing.
    #[error("{0:?} is no name of a field")]
    NoField(String),
    /// A star where none may be.
    #[error("a * stands at the end of a word; \\\\* is the character")]
    StrayStar,
    /// The field holds numbers, which have no prefixes.
    #[error("{0:?} has no prefixes: use a range")]
    PrefixOfNumber(String),
    /// An operator of another query language.
    #[error("{written} is no operator: write {instead}, or quote it as text")]
    NoOperator {
        /// What was written.
        written: String,
        /// The right spelling.
        instead: String,
    },
    /// A range without `TO` between its ends.
    #[error("a range is written [a TO b], {{a TO b}}, >a, >=a, <a or <=a")]
    NoRange,
    /// The field has no ranges.
    #[error("{0:?} has no ranges")]
    RangeOfExact(String),
    /// An end of a range is not what the field holds.
    #[error("{text:?} is no {expected}")]
    BadEnd {
        /// What was written.
        text: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// A query as a tree.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    All,
    /// Anywhere in the value.
    Anywhere(Sought),
    /// At a dotted path.
    At(String, Sought),
    /// In text without a path.
    Text(Sought),
    /// Anything at a dotted path, or below it.
    Present(String),
    Key(Exact),
    Header(String, Exact),
    Offset(Span),
    Timestamp(Span),
    Range(String, Limits),
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
}

/// What is not cut into words.
#[derive(Clone, Debug, PartialEq)]
enum Exact {
    Whole(String),
    Prefix(String),
}

/// What a text may stand for where a value is looked for.
#[derive(Clone, Debug, PartialEq)]
struct Sought {
    words: Vec<String>,
    /// Whether the last word is a prefix of those that are looked for.
    is_open: bool,
    number: Option<Number>,
    boolean: Option<bool>,
    /// Nanoseconds since the epoch.
    date: Option<i64>,
}

impl Sought {
    /// `is_open`: all that starts with `text`. `None`: there is no word in it.
    fn new(text: &str, is_open: bool) -> Option<Self> {
        let words = words::words(text);
        // Numbers and dates hold digits, so they are words too.
        if words.is_empty() {
            return None;
        }
        if is_open {
            // Behind a word's end any word may come, or none.
            let is_open = text.ends_with(char::is_alphanumeric);
            let small = text.to_lowercase();
            let boolean = [true, false].into_iter().find(|value| value.to_string().starts_with(&small));
            return Some(Self { words, is_open, number: None, boolean, date: None });
        }
        let date = match rfc3339::parse(text) {
            Some(rfc3339::Date::Nanos(nanos)) => Some(nanos),
            _ => None,
        };
        // As JSON writes it: `007` is a word.
        let number = number(text).filter(|_| serde_json::from_str::<serde_json::Number>(text).is_ok());
        Some(Self { words, is_open, number, boolean: boolean(text), date })
    }

    /// Any word at all.
    fn any_word() -> Self {
        Self { words: vec![String::new()], is_open: true, number: None, boolean: None, date: None }
    }
}

/// `true` or `false`, in whatever case.
fn boolean(text: &str) -> Option<bool> {
    [true, false].into_iter().find(|value| text.eq_ignore_ascii_case(if *value { "true" } else { "false" }))
}

/// As much of a query as an error repeats: it may be sent where there is little room.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A number as JSON writes it, and a little more freely.
fn number(text: &str) -> Option<Number> {
    if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
        return None;
    }
    if let Ok(value) = text.parse::<i64>() {
        return Some(Number::I64(value));
    }
    if let Ok(value) = text.parse::<u64>() {
        return Some(Number::of_u64(value));
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Number::of_f64)
}

#[cfg(test)]
mod tests;
