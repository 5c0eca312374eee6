//! What a query reads of an index, told before anything is read.
//!
//! Whoever searches an index that lies elsewhere looks up all terms first, in one go; which of them are there says whether anything can match
//! at all, and which postings and columns are worth reading.

use tantivy::Term;
use tantivy::schema::Field;

use super::{Node, Query, Sought};

/// What is read, and how it decides whether a record matches. It may only err towards reading more.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) enum RequiredTerms {
    /// Nothing is read: all records match.
    Nothing,
    /// Nothing is read: no record matches.
    Never,
    /// A term's place in its dictionary, its postings, and the places of its words where a phrase asks for them.
    Term { term: Term, positions: bool },
    /// The terms of a field that begin so (as [`Term::serialized_value_bytes`] has them), and their postings, with the places of their
    /// words where a phrase asks for them.
    /// With an `end`: those from `bytes` on that come before it.
    Prefix { field: Field, bytes: Vec<u8>, end: Option<Vec<u8>>, positions: bool },
    /// The columns of this name, as Tantivy's fast fields are named: dotted, `\` escaped.
    Column(String),
    /// A record matches where it matches all of them.
    All(Vec<RequiredTerms>),
    /// A record matches where it matches one of them.
    Any(Vec<RequiredTerms>),
    /// A record matches where it does not match this.
    Not(Box<RequiredTerms>),
}

impl Query {
    /// How many terms, prefixes and columns it becomes at most, for an index with so many paths.
    pub(in crate::index) fn terms_max(&self, paths: usize) -> usize {
        self.root.terms_max(paths)
    }
}

impl Node {
    fn terms_max(&self, paths: usize) -> usize {
        // Beside its words, a text may stand for a number, a boolean or a date.
        let at_one_place = |sought: &Sought| sought.words.len() + 3;
        // And once more among the paths beyond those that are known.
        let at_path = |sought: &Sought| 2 * at_one_place(sought);
        match self {
            Self::Anywhere(sought) => at_one_place(sought).saturating_mul(paths + 1),
            Self::At(_, sought) => at_path(sought),
            Self::Text(sought) => at_one_place(sought),
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
    /// Whether any record can match, where `found` says of a term or a prefix whether the index has it.
    pub fn possible(&self, found: &impl Fn(&Self) -> bool) -> bool {
        match self {
            Self::Never => false,
            Self::Nothing | Self::Column(_) | Self::Not(_) => true,
            Self::Term { .. } | Self::Prefix { .. } => found(self),
            Self::All(needs) => needs.iter().all(|needs| needs.possible(found)),
            Self::Any(needs) => needs.iter().any(|needs| needs.possible(found)),
        }
    }

    /// All terms, prefixes and columns.
    pub fn all(&self) -> Vec<&Self> {
        let mut all = Vec::new();
        self.visit(&|_| true, &mut |need| all.push(need));
        all
    }

    /// Shows `each` all terms, prefixes and columns, but for those that cannot matter, since what they belong to cannot match.
    pub fn visit<'a>(&'a self, found: &impl Fn(&Self) -> bool, each: &mut impl FnMut(&'a Self)) {
        match self {
            Self::Nothing | Self::Never => {}
            Self::Not(needs) => needs.visit(found, each),
            Self::All(needs) | Self::Any(needs) => {
                if self.possible(found) {
                    needs.iter().for_each(|needs| needs.visit(found, each));
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
        let found = |needs: &RequiredTerms| *needs == term("a");
        for (needs, possible, read) in [
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
            needs.visit(&found, &mut |_| visited += 1);
            assert_eq!((needs.possible(&found), visited), (possible, read), "{needs:?}");
        }
    }
}
