//! Text → the query's tree, by recursive descent. Depth and size are bounded before anything is built.

use std::ops::Bound;

use super::range::{Limits, Span};
use super::{
    Node, QUERY_BYTES_MAX, QUERY_CLAUSES_MAX, QUERY_DEPTH_MAX, QueryError, QueryProblem, Sought, number,
    rfc3339,
};

pub(super) fn parse(text: &str) -> Result<Node, QueryError> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(QueryError { position: 0, problem: QueryProblem::TooLong { bytes: text.len() } });
    }
    let mut parser = Parser { chars: text.chars().collect(), at: 0, depth: 0, clauses: 0 };
    parser.skip_space();
    if parser.peek().is_none() {
        return Ok(Node::All);
    }
    let node = parser.or()?;
    match parser.peek() {
        None => Ok(node),
        Some(c) => Err(parser.problem(QueryProblem::Unexpected(c))),
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
    clauses: usize,
}

/// A range's end as it was written.
struct End {
    text: String,
    at: usize,
}

/// What a name stands for.
enum Field {
    Offset,
    Timestamp,
    Key,
    Text,
    Header(String),
    Path(String),
}

impl Field {
    fn named(name: String) -> Self {
        match name.as_str() {
            "offset" => Self::Offset,
            "timestamp" => Self::Timestamp,
            "key" => Self::Key,
            "text" => Self::Text,
            _ => {
                if let Some(header) = name.strip_prefix("header.") {
                    Self::Header(header.to_owned())
                } else if let Some(path) = name.strip_prefix("value.") {
                    Self::Path(path.to_owned())
                } else {
                    Self::Path(name)
                }
            }
        }
    }
}

impl Parser {
    fn or(&mut self) -> Result<Node, QueryError> {
        let mut nodes = vec![self.and()?];
        while self.operator("OR") {
            nodes.push(self.and()?);
        }
        Ok(one_or(nodes, Node::Or))
    }

    fn and(&mut self) -> Result<Node, QueryError> {
        let mut nodes = vec![self.not()?];
        loop {
            if !self.operator("AND") && (matches!(self.peek(), None | Some(')')) || self.is_operator("OR")) {
                return Ok(one_or(nodes, Node::And));
            }
            nodes.push(self.not()?);
        }
    }

    fn not(&mut self) -> Result<Node, QueryError> {
        let start = self.at;
        if !self.operator("NOT") {
            return self.clause();
        }
        self.deeper(start)?;
        let node = self.not()?;
        self.depth -= 1;
        Ok(Node::Not(Box::new(node)))
    }

    fn clause(&mut self) -> Result<Node, QueryError> {
        let start = self.at;
        self.clauses += 1;
        if self.clauses > QUERY_CLAUSES_MAX {
            return Err(self.problem(QueryProblem::TooManyClauses));
        }
        let node = match self.peek() {
            None => return Err(self.problem(QueryProblem::Missing)),
            Some('(') => {
                self.at += 1;
                self.deeper(start)?;
                self.skip_space();
                let node = self.or()?;
                self.depth -= 1;
                if self.peek() != Some(')') {
                    return Err(QueryError { position: start, problem: QueryProblem::NotClosed('(') });
                }
                self.at += 1;
                node
            }
            Some(')') if self.depth == 0 => return Err(self.problem(QueryProblem::Unexpected(')'))),
            Some(')') => return Err(self.problem(QueryProblem::Missing)),
            Some('"') => {
                let text = self.quoted()?;
                Node::Anywhere(sought(&text, start)?)
            }
            Some(_) if ["AND", "OR"].iter().any(|operator| self.is_operator(operator)) => {
                return Err(self.problem(QueryProblem::Missing));
            }
            Some(_) => self.word_or_field()?,
        };
        self.skip_space();
        Ok(node)
    }

    fn word_or_field(&mut self) -> Result<Node, QueryError> {
        let start = self.at;
        let word = self.word(true);
        if self.peek() == Some(':') {
            self.at += 1;
            return self.field(word, start);
        }
        if word == "*" {
            return Ok(Node::All);
        }
        Ok(Node::Anywhere(sought(&word, start)?))
    }

    fn field(&mut self, name: String, start: usize) -> Result<Node, QueryError> {
        let field = Field::named(name.clone());
        if name.is_empty() || matches!(&field, Field::Header(header) if header.is_empty()) {
            return Err(QueryError { position: start, problem: QueryProblem::NoField(name) });
        }
        let value = self.at;
        match self.peek() {
            Some('[' | '{' | '>' | '<') => {
                let (from, to) = self.range()?;
                match field {
                    Field::Offset => Ok(Node::Offset(offsets(&from, &to)?)),
                    Field::Timestamp => Ok(Node::Timestamp(timestamps(&from, &to)?)),
                    Field::Path(path) => Ok(Node::Range(path, limits(&from, &to)?)),
                    Field::Key | Field::Text | Field::Header(_) => {
                        Err(QueryError { position: value, problem: QueryProblem::RangeOfExact(name) })
                    }
                }
            }
            Some('"') => {
                let text = self.quoted()?;
                exact(field, text, value)
            }
            None | Some(')' | '(') => Err(self.problem(QueryProblem::Missing)),
            Some(c) if c.is_whitespace() => Err(self.problem(QueryProblem::Missing)),
            Some(_) => {
                let text = self.word(false);
                exact(field, text, value)
            }
        }
    }

    fn range(&mut self) -> Result<(Bound<End>, Bound<End>), QueryError> {
        let start = self.at;
        let open = self.chars[self.at];
        self.at += 1;
        if matches!(open, '<' | '>') {
            let included = self.peek() == Some('=');
            self.at += usize::from(included);
            let end = self.end()?;
            let end = if included { Bound::Included(end) } else { Bound::Excluded(end) };
            return Ok(if open == '>' { (end, Bound::Unbounded) } else { (Bound::Unbounded, end) });
        }
        self.skip_space();
        let from = self.end()?;
        self.skip_space();
        if !self.operator("TO") {
            return Err(self.problem(QueryProblem::NoRange));
        }
        let to = self.end()?;
        self.skip_space();
        let close = match self.peek() {
            Some(c @ (']' | '}')) => c,
            Some(_) => return Err(self.problem(QueryProblem::NoRange)),
            None => return Err(QueryError { position: start, problem: QueryProblem::NotClosed(open) }),
        };
        self.at += 1;
        let bound = |end: End, included: bool| match (end.text.as_str(), included) {
            ("*", _) => Bound::Unbounded,
            (_, true) => Bound::Included(end),
            (_, false) => Bound::Excluded(end),
        };
        Ok((bound(from, open == '['), bound(to, close == ']')))
    }

    fn end(&mut self) -> Result<End, QueryError> {
        let at = self.at;
        let text = match self.peek() {
            Some('"') => self.quoted()?,
            _ => self.take(|c| c.is_whitespace() || matches!(c, '(' | ')' | '[' | ']' | '{' | '}' | '"')),
        };
        if text.is_empty() {
            return Err(self.problem(QueryProblem::Missing));
        }
        Ok(End { text, at })
    }

    /// A word, or the name before a colon.
    fn word(&mut self, stop_at_colon: bool) -> String {
        self.take(|c| c.is_whitespace() || matches!(c, '(' | ')' | '"') || (stop_at_colon && c == ':'))
    }

    fn take(&mut self, ends: impl Fn(char) -> bool) -> String {
        let mut text = String::new();
        while let Some(c) = self.peek() {
            if c == '\\'
                && let Some(next) = self.chars.get(self.at + 1)
            {
                text.push(*next);
                self.at += 2;
            } else if ends(c) {
                break;
            } else {
                text.push(c);
                self.at += 1;
            }
        }
        text
    }

    fn quoted(&mut self) -> Result<String, QueryError> {
        let start = self.at;
        self.at += 1;
        let text = self.take(|c| c == '"');
        if self.peek() != Some('"') {
            return Err(QueryError { position: start, problem: QueryProblem::NotClosed('"') });
        }
        self.at += 1;
        Ok(text)
    }

    /// Takes an operator and the space behind it.
    fn operator(&mut self, operator: &str) -> bool {
        let is_next = self.is_operator(operator);
        if is_next {
            self.at += operator.len();
            self.skip_space();
        }
        is_next
    }

    fn is_operator(&self, operator: &str) -> bool {
        let rest = &self.chars[self.at..];
        operator.chars().zip(rest).filter(|(a, b)| a == *b).count() == operator.len()
            && rest.get(operator.len()).is_none_or(|c| c.is_whitespace() || matches!(c, '(' | ')' | '"'))
    }

    fn deeper(&mut self, position: usize) -> Result<(), QueryError> {
        self.depth += 1;
        if self.depth > QUERY_DEPTH_MAX {
            return Err(QueryError { position, problem: QueryProblem::TooDeep });
        }
        Ok(())
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn problem(&self, problem: QueryProblem) -> QueryError {
        QueryError { position: self.at, problem }
    }
}

fn one_or(mut nodes: Vec<Node>, many: impl FnOnce(Vec<Node>) -> Node) -> Node {
    match (nodes.len(), nodes.pop()) {
        (1, Some(node)) => node,
        (_, last) => {
            nodes.extend(last);
            many(nodes)
        }
    }
}

fn sought(text: &str, position: usize) -> Result<Sought, QueryError> {
    Sought::new(text).ok_or_else(|| QueryError { position, problem: QueryProblem::NoWord(text.to_owned()) })
}

fn exact(field: Field, text: String, position: usize) -> Result<Node, QueryError> {
    match field {
        Field::Key => Ok(Node::Key(text.into_bytes())),
        Field::Header(name) => Ok(Node::Header(name, text)),
        Field::Text => Ok(Node::Text(sought(&text, position)?)),
        Field::Path(path) => Ok(Node::At(path, sought(&text, position)?)),
        Field::Offset => {
            let offset = whole(&End { text, at: position })?;
            Ok(Node::Offset(offset..=offset))
        }
        Field::Timestamp => {
            let end = End { text, at: position };
            let from = milliseconds(&end, Round::Up)?;
            let to = milliseconds(&end, Round::Down)?;
            Ok(Node::Timestamp(from..=to))
        }
    }
}

/// An empty range.
#[expect(clippy::reversed_empty_ranges, reason = "no offset and no time is in it")]
const NOTHING: Span = 1..=0;

/// The whole numbers between two ends, from them included.
fn span(from: Bound<i64>, to: Bound<i64>) -> Span {
    let from = match from {
        Bound::Unbounded => Some(i64::MIN),
        Bound::Included(value) => Some(value),
        Bound::Excluded(value) => value.checked_add(1),
    };
    let to = match to {
        Bound::Unbounded => Some(i64::MAX),
        Bound::Included(value) => Some(value),
        Bound::Excluded(value) => value.checked_sub(1),
    };
    from.zip(to).map_or(NOTHING, |(from, to)| from..=to)
}

fn map<T>(
    bound: &Bound<End>,
    read: impl FnOnce(&End) -> Result<T, QueryError>,
) -> Result<Bound<T>, QueryError> {
    Ok(match bound {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(end) => Bound::Included(read(end)?),
        Bound::Excluded(end) => Bound::Excluded(read(end)?),
    })
}

fn offsets(from: &Bound<End>, to: &Bound<End>) -> Result<Span, QueryError> {
    Ok(span(map(from, whole)?, map(to, whole)?))
}

fn timestamps(from: &Bound<End>, to: &Bound<End>) -> Result<Span, QueryError> {
    // A time between two milliseconds: from it on means from the next one on, beyond it too; the other end likewise.
    let round = |bound: &Bound<End>, inward, outward| {
        if matches!(bound, Bound::Included(_)) { inward } else { outward }
    };
    let from = map(from, |end| milliseconds(end, round(from, Round::Up, Round::Down)))?;
    let to = map(to, |end| milliseconds(end, round(to, Round::Down, Round::Up)))?;
    Ok(span(from, to))
}

fn limits(from: &Bound<End>, to: &Bound<End>) -> Result<Limits, QueryError> {
    let is_date = |bound: &Bound<End>| match bound {
        Bound::Unbounded => false,
        Bound::Included(end) | Bound::Excluded(end) => date(&end.text).is_some(),
    };
    if is_date(from) || is_date(to) {
        let read = |end: &End| date(&end.text).ok_or_else(|| bad(end, "RFC 3339 date"));
        return Ok(Limits::Dates(span(map(from, read)?, map(to, read)?)));
    }
    let read = |end: &End| number(&end.text).ok_or_else(|| bad(end, "number or RFC 3339 date"));
    Ok(Limits::Numbers(map(from, read)?, map(to, read)?))
}

fn whole(end: &End) -> Result<i64, QueryError> {
    end.text.parse().map_err(|_| bad(end, "whole number"))
}

#[derive(Clone, Copy)]
enum Round {
    Up,
    Down,
}

fn milliseconds(end: &End, round: Round) -> Result<i64, QueryError> {
    const NANOS: i64 = 1_000_000;
    if let Ok(milliseconds) = end.text.parse() {
        return Ok(milliseconds);
    }
    let nanos =
        date(&end.text).ok_or_else(|| bad(end, "time: milliseconds since the epoch or an RFC 3339 date"))?;
    let up = matches!(round, Round::Up) && nanos.rem_euclid(NANOS) != 0;
    Ok(nanos.div_euclid(NANOS) + i64::from(up))
}

/// Nanoseconds since the epoch of a date, or of a day's first moment.
fn date(text: &str) -> Option<i64> {
    let date = rfc3339::parse(text).or_else(|| rfc3339::parse(&format!("{text}T00:00:00Z")))?;
    match date {
        rfc3339::Date::Nanos(nanos) => Some(nanos),
        rfc3339::Date::OutOfRange => None,
    }
}

fn bad(end: &End, expected: &'static str) -> QueryError {
    QueryError { position: end.at, problem: QueryProblem::BadEnd { text: end.text.clone(), expected } }
}
