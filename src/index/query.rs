//! The query language. `docs/search.md` describes it for users, with more examples.
//!
//! | query | finds records |
//! |---|---|
//! | `timeout payment` | with both words, each anywhere in the value |
//! | `"connection reset"` | with the phrase: see below |
//! | `user-30` | with the words `user` and `30` in one place, as `"user 30"` |
//! | `time*`, `"connection re"*` | with a word with this prefix, or a phrase whose last word has it |
//! | `level:error`, `value.level:error` | with the word at the path `level` of a JSON value |
//! | `level:(error OR fatal)` | with one of the words at the path |
//! | `http.status:500` | with the number 500, written `500`, `500.0` or `"500"` |
//! | `latency_ms:>100`, `latency_ms:[10 TO 20]` | with a number in the range: see below |
//! | `at:[2024-05-01 TO 2024-05-02T12:00:00Z}` | with a date in the range; a day alone is its midnight, UTC |
//! | `user:*` | with anything that can be found at the path `user` or below it |
//! | `key:user-30`, `key:user-*` | with exactly this key, byte for byte; with a key with this prefix |
//! | `header.trace.id:abc` | with exactly this value of the header `trace.id` |
//! | `header.trace.id:ab*` | with a value of the header with this prefix |
//! | `key:*`, `header.trace.id:*`, `timestamp:*` | with a key, such a header, a timestamp |
//! | `offset:[100 TO 200]`, `offset:7` | at these offsets |
//! | `timestamp:>=2024-05-01T12:00:00Z` | at these times |
//! | `timestamp:<1714564800000` | at these times, in milliseconds since the epoch |
//! | `text:broken` | with the word in a value that is not a JSON object, or in a leaf without a path |
//! | `a AND b`, `a b`, `a OR b` | with both; with both; with at least one of them |
//! | `NOT a`, `-a`, `a (b OR c)` | without `a`; without `a`; with `a`, and with `b` or `c` |
//! | the empty query, `*` | all records |
//!
//! `NOT` and `-` bind tightest, then `AND`, which may be left out, then `OR`.
//!
//! A word ends at white space, a bracket or a quotation mark. `\` takes the next character as it is, also in
//! names: `my\ key:x`. So `\-5` is the number, and `-5` means all records without a 5. The names `offset`,
//! `timestamp`, `key`, `text`, `value.…` and `header.…` come before paths of the same name. Such a path is
//! reached as `value.offset`. A colon ends a name. To search for a colon, quote it: `"12:30"`.
//!
//! Letter case does not matter, except in keys, headers and the words AND, OR, NOT and TO. `words` defines
//! what a word is: the query is cut into words as the records were.
//!
//! **Phrases.** If the topic is indexed with `positions = true`, the words of a phrase must follow each
//! other. Otherwise they must all be at one path, in any order. Then
//! [`Hits::phrases_as_words`](super::Hits::phrases_as_words) is true.
//!
//! **Prefixes.** A `*` is allowed at the end of a word only: `*x` and `a*b` are errors. Words, keys and
//! headers have prefixes. A number in JSON has none: a range finds it. All prefixes of a query together may
//! match [`PREFIX_TERMS_MAX`] different words in one Tantivy segment. With more the query fails as too broad:
//! it never leaves records out.
//!
//! **Ranges.** `[` and `]` include the end, `{` and `}` exclude it, `*` is open. A range finds a number
//! whatever type the path has in other records, and also a number that is written as a string. Ranges are
//! exact for all whole numbers that fit an `i64` or a `u64`. In bundles of earlier releases a range may also
//! find neighbours of an end beyond 2^53, if the path has fractions, too.
//!
//! ```
//! use wal_indexer::search::Query;
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
/// How many different words all prefixes of a query together may match in one Tantivy segment, which holds
/// about 32 MiB of records. To look up a million takes about a second, and such a query excludes almost
/// nothing.
pub const PREFIX_TERMS_MAX: usize = 1 << 20;

/// A query that was read and checked. See the [module](self) for the language.
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

/// Why a text is not a query, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at character {position}")]
pub struct QueryError {
    /// How many characters come before the error.
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
    #[error("the query is nested more than {QUERY_DEPTH_MAX} levels deep")]
    TooDeep,
    /// It has more than [`QUERY_CLAUSES_MAX`] clauses.
    #[error("the query has more than {QUERY_CLAUSES_MAX} clauses")]
    TooManyClauses,
    /// A bracket is not closed.
    #[error("this {0:?} is not closed")]
    NotClosed(char),
    /// A bracket closes nothing, or is not allowed there.
    #[error("unexpected {0:?}")]
    Unexpected(char),
    /// Something to search for is missing: after an operator or a name, or in brackets.
    #[error("something to search for is missing")]
    Missing,
    /// A text has no letter and no digit, so it has no word to search for.
    #[error("{0:?} has no word to search for")]
    NoWord(String),
    /// A name is empty, or ends too early.
    #[error("{0:?} is not the name of a field")]
    NoField(String),
    /// A star is not allowed there.
    #[error("a * is allowed at the end of a word only; \\* is the character")]
    StrayStar,
    /// The field holds numbers, which have no prefixes.
    #[error("{0:?} does not support prefixes: use a range")]
    PrefixOfNumber(String),
    /// An operator of another query language.
    #[error("{written} is not an operator: write {instead}, or quote it as text")]
    NoOperator {
        /// What was written.
        written: String,
        /// The right spelling.
        instead: String,
    },
    /// A range without `TO` between its ends.
    #[error("a range is written [a TO b], {{a TO b}}, >a, >=a, <a or <=a")]
    NoRange,
    /// The field does not support ranges.
    #[error("{0:?} does not support ranges")]
    RangeOfExact(String),
    /// An end of a range does not fit the field.
    #[error("{text:?} is not a valid {expected}")]
    BadEnd {
        /// What was written.
        text: String,
        /// What would be valid.
        expected: &'static str,
    },
}

/// A query as a tree.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    All,
    /// Anywhere in the value.
    Anywhere(TextMatch),
    /// At a dotted path.
    At(String, TextMatch),
    /// In text without a path.
    Text(TextMatch),
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

/// A text that is not cut into words.
#[derive(Clone, Debug, PartialEq)]
enum Exact {
    Whole(String),
    Prefix(String),
}

/// What a text may mean in a search for values.
#[derive(Clone, Debug, PartialEq)]
struct TextMatch {
    words: Vec<String>,
    /// Whether the last word is a prefix.
    is_open: bool,
    number: Option<Number>,
    boolean: Option<bool>,
    /// Nanoseconds since the epoch.
    date: Option<i64>,
}

impl TextMatch {
    /// Reads a text. With `is_open` it is a prefix. Returns `None` if there is no word in it.
    fn new(text: &str, is_open: bool) -> Option<Self> {
        let words = words::words(text);
        // Numbers and dates contain digits, so they are words, too.
        if words.is_empty() {
            return None;
        }
        if is_open {
            // After a separator any word may follow, or none: then the last word is not a prefix.
            let is_open = text.ends_with(char::is_alphanumeric);
            let small = text.to_lowercase();
            let boolean = [true, false].into_iter().find(|value| value.to_string().starts_with(&small));
            return Some(Self { words, is_open, number: None, boolean, date: None });
        }
        let date = match rfc3339::parse(text) {
            Some(rfc3339::Date::Nanos(nanos)) => Some(nanos),
            _ => None,
        };
        // Only numbers that JSON allows: `007` is a word.
        let number = number(text).filter(|_| serde_json::from_str::<serde_json::Number>(text).is_ok());
        Some(Self { words, is_open, number, boolean: boolean(text), date })
    }

    /// Matches any word.
    fn any_word() -> Self {
        Self { words: vec![String::new()], is_open: true, number: None, boolean: None, date: None }
    }
}

/// Reads `true` or `false`, in any letter case.
fn boolean(text: &str) -> Option<bool> {
    [true, false].into_iter().find(|value| text.eq_ignore_ascii_case(if *value { "true" } else { "false" }))
}

/// Returns the part of a query that an error repeats. It is short, because errors may be sent where space is
/// limited.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Reads a number as JSON writes it, and some other forms.
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
