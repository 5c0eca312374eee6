//! What a query reads of an index, known before anything is read.
//!
//! A search of an index that is stored elsewhere looks up all terms first, together. The terms that are there
//! decide whether anything can match, and which postings and columns must be read.

use tantivy::Term;
use tantivy::schema::Field;

use super::{Node, Query, TextMatch};

/// What is read, and how it decides whether a record matches. It may cause too many reads, but never too few.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) enum RequiredTerms {
    /// Nothing is read: all records match.
    Nothing,
    /// Nothing is read: no record matches.
    Never,
    /// A term: its place in the dictionary, its postings, and its positions if a phrase needs them.
    Term { term: Term, positions: bool },
    /// The terms of a field that start with `bytes` (as in [`Term::serialized_value_bytes`]): their postings,
    /// and their positions if a phrase needs them. With an `end`: the terms from `bytes` on that come before
    /// it.
    Prefix { field: Field, bytes: Vec<u8>, end: Option<Vec<u8>>, positions: bool },
    /// The columns with this name, as in Tantivy's fast fields: dotted, `\` escaped.
    Column(String),
    /// A record matches if it matches all of them.
    All(Vec<RequiredTerms>),
    /// A record matches if it matches one of them.
    Any(Vec<RequiredTerms>),
    /// A record matches if it does not match this.
    Not(Box<RequiredTerms>),
}

impl Query {
    /// Returns how many terms, prefixes and columns the query has at most, for an index with this many paths.
    pub(in crate::index) fn terms_max(&self, paths: usize) -> usize {
        self.root.terms_max(paths)
    }
}

impl Node {
    fn terms_max(&self, paths: usize) -> usize {
        // In addition to its words, a text may mean a number, a boolean or a date.
        let at_one_place = |text_match: &TextMatch| text_match.words.len() + 3;
        // The same again for the paths that the catalog does not list.
        let at_path = |text_match: &TextMatch| 2 * at_one_place(text_match);
        match self {
            Self::Anywhere(text_match) => at_one_place(text_match).saturating_mul(paths + 1),
            Self::At(_, text_match) => at_path(text_match),
            Self::Text(text_match) => at_one_place(text_match),
            Self::Present(_) => paths.saturating_mul(4) + 2,
            Self::Range(..) => 4,
            Self::And(nodes) | Self::Or(nodes) => {
                nodes.iter().fold(0, |all, node| node.terms_max(paths).saturating_add(all))
            }
            Self::Not(node) => node.terms_max(paths),
            Self::All | Self::Key(_) | Self::Header(..) | Self::Offset(_) | Self::Timestamp(_) => 1,
        }
    }
}

impl RequiredTerms {
    /// Returns whether any record can match. `found` says whether the index has a term or a prefix.
    pub fn possible(&self, found: &impl Fn(&Self) -> bool) -> bool {
        match self {
            Self::Never => false,
            Self::Nothing | Self::Column(_) | Self::Not(_) => true,
            Self::Term { .. } | Self::Prefix { .. } => found(self),
            Self::All(required) => required.iter().all(|required| required.possible(found)),
            Self::Any(required) => required.iter().any(|required| required.possible(found)),
        }
    }

    /// Returns all terms, prefixes and columns.
    pub fn all(&self) -> Vec<&Self> {
        let mut all = Vec::new();
        self.visit(&|_| true, &mut |need| all.push(need));
        all
    }

    /// Calls `each` with all terms, prefixes and columns, except for those whose part of the query cannot
    /// match.
    pub fn visit<'a>(&'a self, found: &impl Fn(&Self) -> bool, each: &mut impl FnMut(&'a Self)) {
        match self {
            Self::Nothing | Self::Never => {}
            Self::Not(required) => required.visit(found, each),
            Self::All(required) | Self::Any(required) => {
                if self.possible(found) {
                    required.iter().for_each(|required| required.visit(found, each));
                }
            }
            Self::Term { .. } | Self::Prefix { .. } | Self::Column(_) => each(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(text: &str) -> RequiredTerms {
        RequiredTerms::Term { term: Term::from_field_text(Field::from_field_id(0), text), positions: false }
    }

    #[test]
    fn what_cannot_match_needs_nothing_read() {
        let column = || RequiredTerms::Column("num.n".into());
        let found = |required: &RequiredTerms| *required == term("a");
        for (required, possible, read) in [
            (term("a"), true, 1),
            (RequiredTerms::All(vec![term("a"), term("b"), column()]), false, 0),
            (RequiredTerms::All(vec![term("a"), column()]), true, 2),
            (RequiredTerms::Any(vec![term("a"), RequiredTerms::All(vec![term("b"), column()])]), true, 1),
            (
                RequiredTerms::All(vec![RequiredTerms::Nothing, RequiredTerms::Not(Box::new(term("b")))]),
                true,
                1,
            ),
            (RequiredTerms::Any(vec![]), false, 0),
            (RequiredTerms::All(vec![column(), RequiredTerms::Never]), false, 0),
        ] {
            let mut visited = 0;
            required.visit(&found, &mut |_| visited += 1);
            assert_eq!((required.possible(&found), visited), (possible, read), "{required:?}");
        }
    }
}
