//! Compiles the query's tree to Tantivy's queries, for one index: for its paths, and with or without
//! positions.

use std::ops::Bound;

use tantivy::columnar::ColumnType;
use tantivy::query::{
    AllQuery, BooleanQuery, EmptyQuery, Occur, PhraseQuery, Query as TantivyQuery, TermQuery,
};
use tantivy::schema::IndexRecordOption;
use tantivy::{Term, i64_to_u64};

use super::super::catalog::{FieldCatalog, FieldTypes};
use super::super::json::Number;
use super::super::paths::SEPARATOR;
use super::super::schema::{Fields, names};
use super::super::unlisted_paths;
use super::exclusions::Excluded;
use super::prefix::{OpenEnd, PrefixCounter, PrefixQuery};
use super::range::{Limits, RangeQuery, Span};
use super::required_terms::RequiredTerms;
use super::{Exact, Node, Query, TextMatch};

/// How many terms a query may have after its words were multiplied by the paths.
const TERMS_MAX: usize = 1 << 18;

/// A query made for one index.
pub(in crate::index) struct Compiled {
    pub query: Box<dyn TantivyQuery>,
    /// What the query reads.
    pub required: RequiredTerms,
    /// Counts the terms that its prefixes match.
    pub prefix_counter: PrefixCounter,
    /// Whether a phrase is searched as its words in any order.
    pub phrases_as_words: bool,
    /// Whether the index has no certain answer: see [`Gaps`](super::super::catalog::Gaps).
    pub unsure: bool,
}

/// The query has too many terms for this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::index) struct TooBroad;

impl Query {
    pub(in crate::index) fn compile(
        &self,
        fields: &Fields,
        catalog: &FieldCatalog,
        positions: bool,
    ) -> Result<Compiled, TooBroad> {
        let prefix_counter = PrefixCounter::default();
        let mut compiler = Compiler {
            fields,
            catalog,
            positions,
            prefix_counter,
            terms: 0,
            phrases_as_words: false,
            unsure: false,
        };
        let Part { query, required } = compiler.node(&self.root)?;
        let Compiler { prefix_counter, phrases_as_words, unsure, .. } = compiler;
        Ok(Compiled { query, required, prefix_counter, phrases_as_words, unsure })
    }
}

struct Compiler<'a> {
    fields: &'a Fields,
    catalog: &'a FieldCatalog,
    positions: bool,
    prefix_counter: PrefixCounter,
    terms: usize,
    phrases_as_words: bool,
    unsure: bool,
}

/// A part of the query, and what it reads.
struct Part {
    query: Box<dyn TantivyQuery>,
    required: RequiredTerms,
}

/// What a text may match, at one path or at several.
#[derive(Default)]
struct Found {
    parts: Vec<Part>,
    /// Prefixes. They are kept together, since each query of prefixes has a bit for each document.
    ends: Vec<OpenEnd>,
}

type Built = Result<Part, TooBroad>;

impl Compiler<'_> {
    fn node(&mut self, node: &Node) -> Built {
        match node {
            Node::All => Ok(all()),
            Node::Anywhere(text_match) => self.anywhere(text_match),
            Node::At(path, text_match) => {
                let (types, mut found) = (self.catalog.value(path), Found::default());
                self.at(path, types, text_match, &mut found)?;
                self.unsure |= self.catalog.gaps().paths;
                if self.has_unlisted() {
                    self.at_unlisted(path, text_match, &mut found)?;
                }
                Ok(self.any(found))
            }
            Node::Text(text_match) => {
                let mut found = Found::default();
                self.text(text_match, &mut found)?;
                Ok(self.any(found))
            }
            Node::Present(path) => self.present(path),
            Node::Key(exact) => {
                let term = |key: &str| Term::from_field_bytes(self.fields.key, key.as_bytes());
                self.exact(exact, term)
            }
            Node::Header(name, exact) => {
                let header = Term::from_field_json_path(self.fields.header, &escaped(name, true), false);
                self.exact(exact, |value| with_word(&header, value))
            }
            Node::Offset(span) => Ok(whole(names::OFFSET, span)),
            Node::Timestamp(span) => Ok(whole(names::TIMESTAMP, span)),
            Node::Range(path, limits) => self.range(path, limits),
            Node::And(nodes) => self.and(nodes),
            Node::Or(nodes) => {
                let parts = nodes.iter().map(|node| self.node(node)).collect::<Result<_, _>>()?;
                Ok(self.any(Found { parts, ends: Vec::new() }))
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

    /// Searches text without a path, and every path that has values of the type.
    fn anywhere(&mut self, text_match: &TextMatch) -> Built {
        let mut found = Found::default();
        self.text(text_match, &mut found)?;
        for (path, types) in self.catalog.values() {
            self.at(path, types, text_match, &mut found)?;
        }
        Ok(self.any(found))
    }

    fn text(&mut self, text_match: &TextMatch, found: &mut Found) -> Result<(), TooBroad> {
        let text = self.fields.text;
        self.words(text_match, |word| Term::from_field_text(text, word), found)
    }

    fn at(
        &mut self,
        path: &str,
        types: FieldTypes,
        text_match: &TextMatch,
        found: &mut Found,
    ) -> Result<(), TooBroad> {
        let at_path = self.path(path);
        if types.contains(FieldTypes::TEXT) {
            self.words(text_match, |word| with_word(&at_path, word), found)?;
        }
        if let Some(number) = text_match.number
            && types.has_numbers()
        {
            let mut term = at_path.clone();
            match number {
                Number::I64(value) => term.append_type_and_fast_value(value),
                Number::U64(value) => term.append_type_and_fast_value(value),
                Number::F64(value) => term.append_type_and_fast_value(value),
            }
            found.parts.push(self.term(term)?);
        }
        if let Some(value) = text_match.boolean
            && types.contains(FieldTypes::BOOL)
        {
            let mut term = at_path;
            term.append_type_and_fast_value(value);
            found.parts.push(self.term(term)?);
        }
        if let Some(nanos) = text_match.date
            && types.contains(FieldTypes::DATE)
        {
            found.parts.push(range(path, Limits::Dates(nanos..=nanos), false));
        }
        Ok(())
    }

    /// Returns whether there are leaves at paths that the catalog does not list.
    fn has_unlisted(&self) -> bool {
        self.catalog.rest_leaves() > 0
    }

    /// Searches the paths that the catalog does not list.
    fn at_unlisted(&mut self, path: &str, text_match: &TextMatch, found: &mut Found) -> Result<(), TooBroad> {
        let (header, path) = (self.unlisted_header(), path.replace('.', &SEPARATOR.to_string()));
        let term = |kind: unlisted_paths::Kind, what: &str| {
            with_word(&header, &(unlisted_paths::start(&path, kind) + what))
        };
        let words = |word: &str| term(unlisted_paths::Kind::Word, word);
        let positions = std::mem::replace(&mut self.positions, false);
        let added = self.words(text_match, words, found);
        self.positions = positions;
        added?;
        if let Some(number) = text_match.number {
            let (kind, value) = unlisted_paths::number(number);
            found.parts.push(self.term(term(kind, &unlisted_paths::digits(value)))?);
        }
        if let Some(value) = text_match.boolean {
            found
                .parts
                .push(self.term(term(unlisted_paths::Kind::Bool, &unlisted_paths::digits(value.into())))?);
        }
        if let Some(nanos) = text_match.date {
            let date = term(unlisted_paths::Kind::Date, &unlisted_paths::digits(i64_to_u64(nanos)));
            found.parts.push(self.term(date)?);
        }
        Ok(())
    }

    /// Matches the values at a path that are in a range.
    fn range(&mut self, path: &str, limits: &Limits) -> Built {
        let (types, gaps) = (self.catalog.value(path), self.catalog.gaps());
        let is_mixed = types.contains(FieldTypes::F64) || types.contains(FieldTypes::I64 | FieldTypes::U64);
        let is_unsure =
            types.contains(FieldTypes::TEXT) || types.has_numbers() && is_mixed && limits.has_large_end();
        let is_numeric = matches!(limits, Limits::Numbers(..));
        self.unsure |= gaps.paths || gaps.numbers && is_numeric && is_unsure;
        let mut found = Found::default();
        found.parts.push(range(path, limits.clone(), gaps.numbers));
        if self.has_unlisted() {
            let (header, path) = (self.unlisted_header(), path.replace('.', &SEPARATOR.to_string()));
            for (kind, column) in [
                (unlisted_paths::Kind::I64, ColumnType::I64),
                (unlisted_paths::Kind::U64, ColumnType::U64),
                (unlisted_paths::Kind::F64, ColumnType::F64),
                (unlisted_paths::Kind::Date, ColumnType::DateTime),
            ] {
                let Some(values) = limits.in_column(column, false) else { continue };
                self.count(1)?;
                let end = |value: &u64| {
                    with_word(
                        &header,
                        &(unlisted_paths::start(&path, kind) + &unlisted_paths::digits(*value)),
                    )
                };
                let (prefix, mut to) =
                    (end(values.start()), end(values.end()).serialized_value_bytes().to_vec());
                to.push(0);
                found.ends.push(OpenEnd { before: Vec::new(), prefix, end: Some(to) });
            }
        }
        Ok(self.any(found))
    }

    /// Returns the start of the terms of paths that the catalog does not list.
    fn unlisted_header(&self) -> Term {
        Term::from_field_json_path(self.fields.header, &escaped(unlisted_paths::NAME, true), false)
    }

    /// Matches everything at a path, or below it. Dates are words, too.
    fn present(&mut self, path: &str) -> Built {
        let mut found = Found::default();
        self.unsure |= self.catalog.gaps().paths;
        if self.has_unlisted() {
            let (header, path) = (self.unlisted_header(), path.replace('.', &SEPARATOR.to_string()));
            for start in [unlisted_paths::start_of_all(&path), format!("{path}{SEPARATOR}")] {
                self.count(1)?;
                found.ends.push(open(with_word(&header, &start)));
            }
        }
        for (at, types) in self.catalog.values() {
            let below = at.strip_prefix(path);
            if !below.is_some_and(|below| below.is_empty() || below.starts_with('.')) {
                continue;
            }
            let at_path = self.path(at);
            if types.contains(FieldTypes::TEXT) {
                self.count(1)?;
                found.ends.push(open(with_word(&at_path, "")));
            }
            if types.has_numbers() {
                let limits = Limits::Numbers(Bound::Unbounded, Bound::Unbounded);
                found.parts.push(range(at, limits, false));
            }
            for value in [true, false].into_iter().filter(|_| types.contains(FieldTypes::BOOL)) {
                let mut term = at_path.clone();
                term.append_type_and_fast_value(value);
                found.parts.push(self.term(term)?);
            }
        }
        Ok(self.any(found))
    }

    fn exact(&mut self, exact: &Exact, term: impl Fn(&str) -> Term) -> Built {
        match exact {
            Exact::Whole(text) => self.term(term(text)),
            Exact::Prefix(text) => {
                self.count(1)?;
                Ok(self.prefixes(vec![open(term(text))]))
            }
        }
    }

    /// Matches all the words at one path; next to each other, if the index has positions.
    fn words(
        &mut self,
        text_match: &TextMatch,
        term: impl Fn(&str) -> Term,
        found: &mut Found,
    ) -> Result<(), TooBroad> {
        let mut terms: Vec<Term> = text_match.words.iter().map(|word| term(word)).collect();
        self.count(terms.len())?;
        let last = if text_match.is_open { terms.pop() } else { None };
        let in_order = self.positions || text_match.words.len() == 1;
        // A number or a date is one value, although its text has several words: `5.0`,
        // `2024-05-01T12:00:00Z`.
        let is_phrase = text_match.number.is_none() && text_match.date.is_none();
        self.phrases_as_words |= !in_order && is_phrase;
        match (last, terms.len()) {
            (None, 1) => found.parts.extend(terms.pop().map(part)),
            (None, _) if in_order => {
                let required = RequiredTerms::All(terms.iter().map(placed).collect());
                found.parts.push(Part { query: Box::new(PhraseQuery::new(terms)), required });
            }
            (Some(prefix), _) if in_order => found.ends.push(OpenEnd { before: terms, prefix, end: None }),
            (last, _) => {
                let last = last.map(|prefix| self.prefixes(vec![open(prefix)]));
                let all = terms.into_iter().map(part).chain(last);
                found.parts.push(both(all.map(|part| (Occur::Must, part)).collect()));
            }
        }
        Ok(())
    }

    fn prefixes(&self, ends: Vec<OpenEnd>) -> Part {
        let required = ends.iter().map(OpenEnd::required).collect();
        Part {
            query: Box::new(PrefixQuery { ends, prefix_counter: self.prefix_counter.clone() }),
            required: RequiredTerms::Any(required),
        }
    }

    /// Matches what any of these parts matches.
    fn any(&self, Found { mut parts, ends }: Found) -> Part {
        if !ends.is_empty() {
            parts.push(self.prefixes(ends));
        }
        match (parts.len(), parts.pop()) {
            (_, None) => Part { query: Box::new(EmptyQuery), required: RequiredTerms::Never },
            (1, Some(one)) => one,
            (_, Some(last)) => {
                parts.push(last);
                let (queries, required) = parts.into_iter().map(|part| (part.query, part.required)).unzip();
                Part { query: Box::new(BooleanQuery::union(queries)), required: RequiredTerms::Any(required) }
            }
        }
    }

    fn path(&self, path: &str) -> Term {
        Term::from_field_json_path(self.fields.value, &escaped(path, false), false)
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
    let required = RequiredTerms::Term { term: term.clone(), positions: false };
    Part { query: Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)), required }
}

/// Requires a term and its positions.
fn placed(term: &Term) -> RequiredTerms {
    RequiredTerms::Term { term: term.clone(), positions: true }
}

impl OpenEnd {
    fn required(&self) -> RequiredTerms {
        let (field, bytes) = (self.prefix.field(), self.prefix.serialized_value_bytes().to_vec());
        let (end, positions) = (self.end.clone(), !self.before.is_empty());
        let prefix = RequiredTerms::Prefix { field, bytes, end, positions };
        RequiredTerms::All(self.before.iter().map(placed).chain([prefix]).collect())
    }
}

fn all() -> Part {
    Part { query: Box::new(AllQuery), required: RequiredTerms::Nothing }
}

/// Combines clauses that must all hold. None of them is optional.
fn both(clauses: Vec<(Occur, Part)>) -> Part {
    type Clause = ((Occur, Box<dyn TantivyQuery>), RequiredTerms);
    let clauses = clauses.into_iter().map(|(occur, Part { query, required })| -> Clause {
        match occur {
            Occur::MustNot => ((occur, Box::new(Excluded(query))), RequiredTerms::Not(Box::new(required))),
            _ => ((occur, query), required),
        }
    });
    let (clauses, required) = clauses.unzip();
    Part { query: Box::new(BooleanQuery::new(clauses)), required: RequiredTerms::All(required) }
}

/// Returns a term of a path: with a word, or with the start of one.
fn with_word(path: &Term, word: &str) -> Term {
    let mut term = path.clone();
    term.append_type_and_str(word);
    term
}

/// Returns a dotted path as Tantivy reads it: `\` is escaped, and with `dots` the dots, too.
fn escaped(path: &str, dots: bool) -> String {
    let path = path.replace('\\', "\\\\");
    if dots { path.replace('.', "\\.") } else { path }
}

/// Matches all terms that start with `prefix`.
fn open(prefix: Term) -> OpenEnd {
    OpenEnd { before: Vec::new(), prefix, end: None }
}

fn range(path: &str, limits: Limits, rounded: bool) -> Part {
    // Tantivy takes an empty path for the field alone. A `\` that escapes nothing is an empty path for
    // Tantivy.
    let path = if path.is_empty() { "\\".to_owned() } else { escaped(path, false) };
    in_column(format!("{}.{path}", names::NUM), limits, rounded)
}

fn in_column(column: String, limits: Limits, rounded: bool) -> Part {
    let required = RequiredTerms::Column(column.clone());
    Part { query: Box::new(RangeQuery { column, limits, rounded }), required }
}

fn whole(column: &str, span: &Span) -> Part {
    let end = |value: &i64| Bound::Included(Number::I64(*value));
    in_column(column.to_owned(), Limits::Numbers(end(span.start()), end(span.end())), false)
}
