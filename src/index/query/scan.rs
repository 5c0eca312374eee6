//! Splits a query into words, quotations and operators. Does not know what they mean.

use super::{QueryError, QueryProblem};

/// A position in a query.
pub(super) struct Scanner {
    chars: Vec<char>,
    /// How many characters come before it.
    pub at: usize,
}

/// Text that was written in one piece, without its escapes.
pub(super) struct Piece {
    pub text: String,
    /// Where it starts in the query.
    pub at: usize,
    /// The first `*` without a `\` before it: its place in the query, and in the text.
    star: Option<(usize, usize)>,
    /// The characters without a `\` before them that are operators in other query languages.
    bare: Vec<Bare>,
}

/// A character that is written without a `\` before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bare {
    pub c: char,
    /// Its place in the query.
    pub at: usize,
    /// Its place in the piece's text.
    pub byte: usize,
}

/// A piece, and whether it is a prefix.
pub(super) struct Word {
    pub text: String,
    pub at: usize,
    pub is_open: bool,
}

impl Piece {
    /// Returns the characters that are operators in other query languages, each with the character directly
    /// before it, if that is one, too.
    pub fn bare(&self) -> impl Iterator<Item = (Option<char>, Bare)> {
        self.bare.iter().enumerate().map(|(nth, bare)| {
            let before = nth.checked_sub(1).map(|nth| self.bare[nth]);
            (before.filter(|before| before.at + 1 == bare.at).map(|before| before.c), *bare)
        })
    }

    /// Returns whether it is a single `*`.
    pub fn is_star(&self) -> bool {
        self.text == "*" && self.star.is_some()
    }

    /// Returns the text of a piece that must not contain a star.
    pub fn plain(self) -> Result<String, QueryError> {
        match self.star {
            None => Ok(self.text),
            Some((position, _)) => Err(QueryError { position, problem: QueryProblem::StrayStar }),
        }
    }

    /// Returns the word of a piece that may end with a star.
    pub fn word(mut self) -> Result<Word, QueryError> {
        let is_open = matches!(self.star, Some((_, byte)) if byte + 1 == self.text.len());
        if is_open {
            self.text.pop();
            self.star = None;
        }
        let at = self.at;
        Ok(Word { text: self.plain()?, at, is_open })
    }
}

impl Scanner {
    pub fn new(text: &str) -> Self {
        Self { chars: text.chars().collect(), at: 0 }
    }

    pub fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// Returns the character after the next one.
    pub fn peek_behind(&self) -> Option<char> {
        self.chars.get(self.at + 1).copied()
    }

    pub fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    /// Reads everything before the first character for which `ends` is true. `\` takes the next character as
    /// it is.
    pub fn piece(&mut self, ends: impl Fn(char) -> bool) -> Piece {
        let (at, mut text, mut star, mut bare) = (self.at, String::new(), None, Vec::new());
        while let Some(c) = self.peek() {
            if c == '\\'
                && let Some(next) = self.peek_behind()
            {
                text.push(next);
                self.at += 2;
                continue;
            }
            if ends(c) {
                break;
            }
            if c == '*' && star.is_none() {
                star = Some((self.at, text.len()));
            }
            if matches!(c, '!' | '=' | '~' | '?' | '/' | '<' | '>' | '&' | '|') {
                bare.push(Bare { c, at: self.at, byte: text.len() });
            }
            text.push(c);
            self.at += 1;
        }
        Piece { text, at, star, bare }
    }

    /// Reads a quotation, in which a star is a normal character. A star after it makes its last word a
    /// prefix.
    pub fn quoted(&mut self) -> Result<Word, QueryError> {
        let at = self.at;
        self.at += 1;
        let Piece { text, .. } = self.piece(|c| c == '"');
        if self.peek() != Some('"') {
            return Err(QueryError { position: at, problem: QueryProblem::NotClosed('"') });
        }
        self.at += 1;
        let is_open = self.peek() == Some('*');
        self.at += usize::from(is_open);
        Ok(Word { text, at, is_open })
    }

    /// Takes an operator and the space after it.
    pub fn operator(&mut self, operator: &str) -> bool {
        let is_next = self.is_operator(operator);
        if is_next {
            self.at += operator.len();
            self.skip_space();
        }
        is_next
    }

    pub fn is_operator(&self, operator: &str) -> bool {
        let rest = &self.chars[self.at..];
        operator.chars().zip(rest).filter(|(a, b)| a == *b).count() == operator.len()
            && rest.get(operator.len()).is_none_or(|c| c.is_whitespace() || matches!(c, '(' | ')' | '"'))
    }

    /// Returns an error at this position.
    pub fn problem(&self, problem: QueryProblem) -> QueryError {
        QueryError { position: self.at, problem }
    }
}
