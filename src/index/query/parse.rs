//! Parses text to the query's tree, by recursive descent. Depth and size are limited before anything is
//! built.

use std::ops::Bound;
use std::rc::Rc;

use super::operators;
use super::range_bounds::{self, RangeBound};
use super::scan::{Piece, Scanner, Word};
use super::{
    Exact, Node, QUERY_BYTES_MAX, QUERY_CLAUSES_MAX, QUERY_DEPTH_MAX, QueryError, QueryProblem, TextMatch,
    shown,
};

pub(super) fn parse(text: &str) -> Result<Node, QueryError> {
    if text.len() > QUERY_BYTES_MAX {
        return Err(QueryError { position: 0, problem: QueryProblem::TooLong { bytes: text.len() } });
    }
    let mut parser = Parser { scanner: Scanner::new(text), depth: 0, clauses: 0, within: None };
    parser.scanner.skip_space();
    if parser.scanner.peek().is_none() {
        return Ok(Node::All);
    }
    let node = parser.or()?;
    match parser.scanner.peek() {
        None => Ok(node),
        Some(c) => Err(parser.scanner.problem(QueryProblem::Unexpected(c))),
    }
}

struct Parser {
    scanner: Scanner,
    depth: usize,
    clauses: usize,
    /// The field whose brackets are open here, as in `level:(error OR fatal)`.
    within: Option<Rc<Field>>,
}

/// The field to search, and its name as it was written.
struct Field {
    place: Place,
    name: String,
}

enum Place {
    Offset,
    Timestamp,
    Key,
    Text,
    Header(String),
    Path(String),
}

impl Field {
    /// Returns `None` if it is not a name.
    fn named(name: String) -> Option<Self> {
        let place = match name.as_str() {
            "" | "header." => return None,
            "offset" => Place::Offset,
            "timestamp" => Place::Timestamp,
            "key" => Place::Key,
            "text" => Place::Text,
            _ => {
                if let Some(header) = name.strip_prefix("header.") {
                    Place::Header(header.to_owned())
                } else {
                    Place::Path(name.strip_prefix("value.").unwrap_or(&name).to_owned())
                }
            }
        };
        Some(Self { place, name })
    }

    /// Matches records that have the field, with any content.
    fn present(&self) -> Node {
        match &self.place {
            Place::Offset => Node::All,
            Place::Timestamp => Node::Timestamp(i64::MIN..=i64::MAX),
            Place::Key => Node::Key(Exact::Prefix(String::new())),
            Place::Text => Node::Text(TextMatch::any_word()),
            Place::Header(name) => Node::Header(name.clone(), Exact::Prefix(String::new())),
            Place::Path(path) => Node::Present(path.clone()),
        }
    }

    fn holds(&self, word: Word) -> Result<Node, QueryError> {
        let exact = |word: Word| match word.is_open {
            true => Exact::Prefix(word.text),
            false => Exact::Whole(word.text),
        };
        match &self.place {
            Place::Key => Ok(Node::Key(exact(word))),
            Place::Header(name) => Ok(Node::Header(name.clone(), exact(word))),
            Place::Text => Ok(Node::Text(text_match(word)?)),
            Place::Path(path) => Ok(Node::At(path.clone(), text_match(word)?)),
            Place::Offset | Place::Timestamp if word.is_open => Err(QueryError {
                position: word.at,
                problem: QueryProblem::PrefixOfNumber(self.name.clone()),
            }),
            Place::Offset => {
                Ok(Node::Offset(range_bounds::offset(&RangeBound { text: word.text, at: word.at })?))
            }
            Place::Timestamp => {
                Ok(Node::Timestamp(range_bounds::timestamp(&RangeBound { text: word.text, at: word.at })?))
            }
        }
    }

    fn between(
        &self,
        from: &Bound<RangeBound>,
        to: &Bound<RangeBound>,
        position: usize,
    ) -> Result<Node, QueryError> {
        match &self.place {
            Place::Offset => Ok(Node::Offset(range_bounds::offsets(from, to)?)),
            Place::Timestamp => Ok(Node::Timestamp(range_bounds::timestamps(from, to)?)),
            Place::Path(path) => Ok(Node::Range(path.clone(), range_bounds::limits(from, to)?)),
            Place::Key | Place::Text | Place::Header(_) => {
                Err(QueryError { position, problem: QueryProblem::RangeOfExact(shown(&self.name)) })
            }
        }
    }
}

impl Parser {
    fn or(&mut self) -> Result<Node, QueryError> {
        let mut nodes = vec![self.and()?];
        while self.scanner.operator("OR") {
            nodes.push(self.and()?);
        }
        Ok(one_or(nodes, Node::Or))
    }

    fn and(&mut self) -> Result<Node, QueryError> {
        let mut nodes = vec![self.not()?];
        loop {
            let ends = || matches!(self.scanner.peek(), None | Some(')')) || self.scanner.is_operator("OR");
            if !self.scanner.is_operator("AND") && ends() {
                return Ok(one_or(nodes, Node::And));
            }
            self.scanner.operator("AND");
            nodes.push(self.not()?);
        }
    }

    fn not(&mut self) -> Result<Node, QueryError> {
        let start = self.scanner.at;
        if !self.scanner.operator("NOT") && !self.minus() {
            return self.clause();
        }
        self.deeper(start)?;
        let node = self.not()?;
        self.depth -= 1;
        Ok(Node::Not(Box::new(node)))
    }

    /// Takes a `-` directly before what it excludes.
    fn minus(&mut self) -> bool {
        let is_minus = self.scanner.peek() == Some('-')
            && self.scanner.peek_behind().is_some_and(|c| !c.is_whitespace() && c != ')');
        self.scanner.at += usize::from(is_minus);
        is_minus
    }

    fn clause(&mut self) -> Result<Node, QueryError> {
        self.clauses += 1;
        if self.clauses > QUERY_CLAUSES_MAX {
            return Err(self.scanner.problem(QueryProblem::TooManyClauses));
        }
        let node = match self.scanner.peek() {
            None => return Err(self.scanner.problem(QueryProblem::Missing)),
            Some('(') => self.brackets()?,
            Some(')') if self.depth == 0 => {
                return Err(self.scanner.problem(QueryProblem::Unexpected(')')));
            }
            Some(')') => return Err(self.scanner.problem(QueryProblem::Missing)),
            Some(_) if ["AND", "OR"].iter().any(|operator| self.scanner.is_operator(operator)) => {
                return Err(self.scanner.problem(QueryProblem::Missing));
            }
            Some(c) => match self.within.clone() {
                Some(field) if matches!(c, '[' | '{' | '>' | '<') => self.range(&field)?,
                Some(field) if c == '"' => field.holds(self.scanner.quoted()?)?,
                None if c == '"' => Node::Anywhere(text_match(self.scanner.quoted()?)?),
                within => self.word_or_field(within.as_deref())?,
            },
        };
        self.scanner.skip_space();
        Ok(node)
    }

    fn brackets(&mut self) -> Result<Node, QueryError> {
        let start = self.scanner.at;
        self.scanner.at += 1;
        self.deeper(start)?;
        self.scanner.skip_space();
        let node = self.or()?;
        self.depth -= 1;
        if self.scanner.peek() != Some(')') {
            return Err(QueryError { position: start, problem: QueryProblem::NotClosed('(') });
        }
        self.scanner.at += 1;
        Ok(node)
    }

    fn word_or_field(&mut self, within: Option<&Field>) -> Result<Node, QueryError> {
        let piece = self.scanner.piece(|c| ends_word(c) || c == ':');
        if self.scanner.peek() == Some(':') {
            self.scanner.at += 1;
            self.refuse_name(&piece)?;
            return self.field(piece.at, piece.plain()?);
        }
        match within {
            Some(_) => operators::refuse_in_value(&piece)?,
            None => operators::refuse_in_word(&piece)?,
        }
        match within {
            Some(field) if piece.is_star() => Ok(field.present()),
            Some(field) => field.holds(piece.word()?),
            None if piece.is_star() => Ok(Node::All),
            None => Ok(Node::Anywhere(text_match(piece.word()?)?)),
        }
    }

    /// Parses what follows a name and its colon.
    fn field(&mut self, position: usize, name: String) -> Result<Node, QueryError> {
        let Some(field) = Field::named(name.clone()) else {
            return Err(QueryError { position, problem: QueryProblem::NoField(name) });
        };
        match self.scanner.peek() {
            Some('[' | '{' | '>' | '<') => self.range(&field),
            Some('"') => field.holds(self.scanner.quoted()?),
            Some('(') => {
                let outside = self.within.replace(Rc::new(field));
                let node = self.brackets();
                self.within = outside;
                node
            }
            None | Some(')') => Err(self.scanner.problem(QueryProblem::Missing)),
            Some(c) if c.is_whitespace() => Err(self.scanner.problem(QueryProblem::Missing)),
            Some(_) => {
                let piece = self.scanner.piece(ends_word);
                operators::refuse_in_value(&piece)?;
                if piece.is_star() { Ok(field.present()) } else { field.holds(piece.word()?) }
            }
        }
    }

    /// Refuses a name that contains an operator. The error also shows what follows the colon.
    fn refuse_name(&mut self, name: &Piece) -> Result<(), QueryError> {
        let behind = self.scanner.at;
        let value = self.scanner.piece(ends_word).text;
        self.scanner.at = behind;
        operators::refuse_in_name(name, &value)
    }

    fn range(&mut self, field: &Field) -> Result<Node, QueryError> {
        let start = self.scanner.at;
        let (from, to) = self.ends()?;
        field.between(&from, &to, start)
    }

    fn ends(&mut self) -> Result<(Bound<RangeBound>, Bound<RangeBound>), QueryError> {
        let start = self.scanner.at;
        let Some(open) = self.scanner.peek() else {
            return Err(self.scanner.problem(QueryProblem::NoRange));
        };
        self.scanner.at += 1;
        if matches!(open, '<' | '>') {
            let is_included = self.scanner.peek() == Some('=');
            self.scanner.at += usize::from(is_included);
            let end = self.end(is_included)?;
            return Ok(if open == '>' { (end, Bound::Unbounded) } else { (Bound::Unbounded, end) });
        }
        self.scanner.skip_space();
        let from = self.end(open == '[')?;
        self.scanner.skip_space();
        if !self.scanner.operator("TO") {
            return Err(self.scanner.problem(QueryProblem::NoRange));
        }
        let to = self.end(true)?;
        self.scanner.skip_space();
        let is_included = match self.scanner.peek() {
            Some(']') => true,
            Some('}') => false,
            Some(_) => return Err(self.scanner.problem(QueryProblem::NoRange)),
            None => return Err(QueryError { position: start, problem: QueryProblem::NotClosed(open) }),
        };
        self.scanner.at += 1;
        let to = match to {
            Bound::Included(end) if !is_included => Bound::Excluded(end),
            to => to,
        };
        Ok((from, to))
    }

    fn end(&mut self, is_included: bool) -> Result<Bound<RangeBound>, QueryError> {
        let ends = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '[' | ']' | '{' | '}' | '"');
        let at = self.scanner.at;
        let text = match self.scanner.peek() {
            Some('"') => match self.scanner.quoted()? {
                word if word.is_open => {
                    return Err(QueryError {
                        position: self.scanner.at - 1,
                        problem: QueryProblem::StrayStar,
                    });
                }
                word => word.text,
            },
            _ => {
                let piece = self.scanner.piece(ends);
                if piece.is_star() {
                    return Ok(Bound::Unbounded);
                }
                piece.text
            }
        };
        if text.is_empty() {
            return Err(self.scanner.problem(QueryProblem::Missing));
        }
        let end = RangeBound { text, at };
        Ok(if is_included { Bound::Included(end) } else { Bound::Excluded(end) })
    }

    fn deeper(&mut self, position: usize) -> Result<(), QueryError> {
        self.depth += 1;
        if self.depth > QUERY_DEPTH_MAX {
            return Err(QueryError { position, problem: QueryProblem::TooDeep });
        }
        Ok(())
    }
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | '"')
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

fn text_match(word: Word) -> Result<TextMatch, QueryError> {
    let problem = || QueryProblem::NoWord(shown(&word.text));
    TextMatch::new(&word.text, word.is_open)
        .ok_or_else(|| QueryError { position: word.at, problem: problem() })
}
