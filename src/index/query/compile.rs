//! The query's tree → Tantivy's queries, for one index: its paths and whether its words know their place.

use tantivy::Term;
use tantivy::query::{
    AllQuery, BooleanQuery, EmptyQuery, Occur, PhraseQuery, Query as TantivyQuery, TermQuery,
};
use tantivy::schema::{Field, IndexRecordOption};

use super::super::catalog::{FieldCatalog, FieldTypes};
use super::super::json::Number;
use super::super::schema::{Fields, names};
use super::needs::Needs;
use super::range::{Limits, RangeQuery, Span};
use super::{Node, Query, Sought};

/// How many terms a query may become when its words are looked for at every path.
const TERMS_MAX: usize = 1 << 18;

/// A query made for one index.
pub(in crate::index) struct Compiled {
    pub query: Box<dyn TantivyQuery>,
    /// What it reads.
    #[allow(dead_code)]
    pub needs: Needs,
    /// Whether a phrase was taken as its words in any order.
    pub phrases_as_words: bool,
}

/// Why a query cannot be asked of this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::index) struct TooBroad;

impl Query {
    pub(in crate::index) fn compile(
        &self,
        fields: &Fields,
        catalog: &FieldCatalog,
        positions: bool,
    ) -> Result<Compiled, TooBroad> {
        let mut compiler = Compiler { fields, catalog, positions, terms: 0, phrases_as_words: false };
        let Part { query, needs } = compiler.node(&self.root)?;
        Ok(Compiled { query, needs, phrases_as_words: compiler.phrases_as_words })
    }
}

struct Compiler<'a> {
    fields: &'a Fields,
    catalog: &'a FieldCatalog,
    positions: bool,
    terms: usize,
    phrases_as_words: bool,
}

/// A part of the query, and what it reads.
struct Part {
    query: Box<dyn TantivyQuery>,
    needs: Needs,
}

type Built = Result<Part, TooBroad>;

impl Compiler<'_> {
    fn node(&mut self, node: &Node) -> Built {
        match node {
            Node::All => Ok(all()),
            Node::Anywhere(sought) => self.anywhere(sought),
            Node::At(path, sought) => {
                let types = self.catalog.value(path);
                let found = self.at(path, types, sought)?;
                Ok(any(found))
            }
            Node::Text(sought) => self.text(sought),
            Node::Key(key) => self.term(Term::from_field_bytes(self.fields.key, key)),
            Node::Header(name, value) => {
                let mut term = Term::from_field_json_path(self.fields.header, &escaped(name, true), false);
                term.append_type_and_str(value);
                self.term(term)
            }
            Node::Offset(span) => Ok(whole(names::OFFSET, span)),
            Node::Timestamp(span) => Ok(whole(names::TIMESTAMP, span)),
            Node::Range(path, limits) => Ok(range(path, limits.clone())),
            Node::And(nodes) => self.and(nodes),
            Node::Or(nodes) => {
                let nodes = nodes.iter().map(|node| self.node(node)).collect::<Result<_, _>>()?;
                Ok(any(nodes))
            }
            Node::Not(node) => Ok(both(vec![(Occur::Must, all()), (Occur::MustNot, self.node(node)?)])),
        }
    }

    fn and(&mut self, nodes: &[Node]) -> Built {
        let mut clauses = Vec::with_capacity(nodes.len() + 1);
        for node in nodes {
            clauses.push(match node {
                Node::Not(node) => (Occur::MustNot, self.node(node)?),
                node => (Occur::Must, self.node(node)?),
            });
        }
        if clauses.iter().all(|(occur, _)| *occur == Occur::MustNot) {
            clauses.push((Occur::Must, all()));
        }
        Ok(both(clauses))
    }

    /// In text without a path, and at every path that ever held something of the kind.
    fn anywhere(&mut self, sought: &Sought) -> Built {
        let mut found = vec![self.text(sought)?];
        for (path, types) in self.catalog.values() {
            found.extend(self.at(path, types, sought)?);
        }
        Ok(any(found))
    }

    fn text(&mut self, sought: &Sought) -> Built {
        self.words(self.fields.text, &sought.words, Term::from_field_text)
    }

    fn at(&mut self, path: &str, types: FieldTypes, sought: &Sought) -> Result<Vec<Part>, TooBroad> {
        let at_path = Term::from_field_json_path(self.fields.value, &escaped(path, false), false);
        let mut found = Vec::new();
        if types.contains(FieldTypes::TEXT) {
            found.push(self.words(self.fields.value, &sought.words, |_, word| {
                let mut term = at_path.clone();
                term.append_type_and_str(word);
                term
            })?);
        }
        if let Some(number) = sought.number
            && types.has_numbers()
        {
            let mut term = at_path.clone();
            match number {
                Number::I64(value) => term.append_type_and_fast_value(value),
                Number::U64(value) => term.append_type_and_fast_value(value),
                Number::F64(value) => term.append_type_and_fast_value(value),
            }
            found.push(self.term(term)?);
        }
        if let Some(value) = sought.boolean
            && types.contains(FieldTypes::BOOL)
        {
            let mut term = at_path;
            term.append_type_and_fast_value(value);
            found.push(self.term(term)?);
        }
        if let Some(nanos) = sought.date
            && types.contains(FieldTypes::DATE)
        {
            found.push(range(path, Limits::Dates(nanos..=nanos)));
        }
        Ok(found)
    }

    /// All the words at one place, adjacent where the index knows.
    fn words(&mut self, field: Field, words: &[String], term: impl Fn(Field, &str) -> Term) -> Built {
        let mut terms: Vec<Term> = words.iter().map(|word| term(field, word)).collect();
        match (terms.len(), terms.pop()) {
            (1, Some(term)) => self.term(term),
            (_, last) => {
                terms.extend(last);
                self.count(terms.len())?;
                if self.positions {
                    let need = |term: &Term| Needs::Term { term: term.clone(), positions: true };
                    let needs = Needs::All(terms.iter().map(need).collect());
                    return Ok(Part { query: Box::new(PhraseQuery::new(terms)), needs });
                }
                self.phrases_as_words = true;
                Ok(both(terms.into_iter().map(|term| (Occur::Must, part(term))).collect()))
            }
        }
    }

    fn term(&mut self, term: Term) -> Built {
        self.count(1)?;
        Ok(part(term))
    }

    fn count(&mut self, terms: usize) -> Result<(), TooBroad> {
        self.terms += terms;
        if self.terms > TERMS_MAX { Err(TooBroad) } else { Ok(()) }
    }
}

fn part(term: Term) -> Part {
    let needs = Needs::Term { term: term.clone(), positions: false };
    Part { query: Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)), needs }
}

fn all() -> Part {
    Part { query: Box::new(AllQuery), needs: Needs::Nothing }
}

/// Clauses of which all hold: none of them is optional.
fn both(clauses: Vec<(Occur, Part)>) -> Part {
    let clauses = clauses.into_iter().map(|(occur, part)| {
        let needs = if occur == Occur::MustNot { Needs::Not(Box::new(part.needs)) } else { part.needs };
        ((occur, part.query), needs)
    });
    let (clauses, needs) = clauses.unzip();
    Part { query: Box::new(BooleanQuery::new(clauses)), needs: Needs::All(needs) }
}

fn any(mut found: Vec<Part>) -> Part {
    match (found.len(), found.pop()) {
        (_, None) => Part { query: Box::new(EmptyQuery), needs: Needs::Never },
        (1, Some(one)) => one,
        (_, Some(last)) => {
            found.push(last);
            let (queries, needs) = found.into_iter().map(|part| (part.query, part.needs)).unzip();
            Part { query: Box::new(BooleanQuery::union(queries)), needs: Needs::Any(needs) }
        }
    }
}

/// A dotted path as Tantivy reads it: `\` escaped, and the dots too where they do not separate.
fn escaped(path: &str, dots: bool) -> String {
    let path = path.replace('\\', "\\\\");
    if dots { path.replace('.', "\\.") } else { path }
}

fn range(path: &str, limits: Limits) -> Part {
    in_column(format!("{}.{}", names::NUM, escaped(path, false)), limits)
}

fn in_column(column: String, limits: Limits) -> Part {
    let needs = Needs::Column(column.clone());
    Part { query: Box::new(RangeQuery { column, limits }), needs }
}

fn whole(column: &str, span: &Span) -> Part {
    let limits = Limits::Numbers(
        std::ops::Bound::Included(Number::I64(*span.start())),
        std::ops::Bound::Included(Number::I64(*span.end())),
    );
    in_column(column.to_owned(), limits)
}
