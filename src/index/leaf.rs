//! Searches an index that is stored elsewhere, by parts: leaf by leaf. Each leaf is one Tantivy segment.
//!
//! Nothing here waits. A [`Leaf`] either gives a result, or returns [`Step::Missing`]. Then it knows which
//! bytes are missing and how much memory they take. [`Leaf::fetch`] is the future that gets them. After that
//! the caller asks the leaf again. What a search needs is known before much is read ([`RequiredTerms`]), so
//! two or three rounds are enough, and everything for one round is fetched together.

mod loaded_parts;
mod warm_up;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use loaded_parts::{LoadedParts, Names, Part};
use tantivy::columnar::Column;
use tantivy::query::{Bm25StatisticsProvider, EnableScoring, Weight};
use tantivy::schema::{Field, Schema};
use tantivy::{DocId, DocSet, Score, Searcher, SegmentReader, TERMINATED, TantivyError, Term};
use warm_up::WarmedUp;

use super::catalog::FieldCatalog;
use super::directory::ReadOnly;
use super::parts::IndexParts;
use super::query::Query;
use super::query::compile::Compiled;
use super::query::prefix;
use super::query::required_terms::RequiredTerms;
use super::reader::{Bounds, Hit, ReadError};
use super::schema::{self, Fields, names};

/// Limit for what is read of an index before it is known which part of it matters, in bytes: `meta.json`.
const OUTLINE_BYTES: u64 = 1 << 20;

/// Memory that a term of a query takes, in bytes: the term itself, and what it needs.
const TERM_BYTES: u64 = 512;
/// Memory that Tantivy's weight of a term takes while a leaf is searched, in bytes. Its table has 1 KiB.
const WEIGHT_BYTES: u64 = 1_536;

/// Memory that the cursor of a term takes, in bytes: a decoded block of documents, one of frequencies, and
/// what else Tantivy keeps for it.
const CURSOR_BYTES: u64 = 2_560;

/// The leaves of an index, and how to read them.
#[derive(Clone, Debug)]
pub struct Outline {
    parts: Arc<dyn IndexParts>,
    names: Arc<Names>,
    fields: Fields,
    schema: Schema,
    positions: bool,
    leaves: Arc<[LeafFacts]>,
}

/// What is known about a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafFacts {
    /// The ordinal of its first record.
    pub first_ordinal: u64,
    /// How many records it has.
    pub documents: u32,
}

/// A query that is compiled for one index.
#[derive(Clone)]
pub struct Plan {
    compiled: Arc<Compiled>,
    scored: bool,
}

impl Plan {
    /// Sets the flag that ends the search. Once `over` is true, nobody needs the result, and long reads of
    /// the words with a prefix end early.
    pub fn ends_with(&self, over: Arc<AtomicBool>) {
        self.compiled.prefix_counter.ends_with(over);
    }
}

/// A record's ordinal, and its score if scores decide the order.
pub type Scored = (u64, Option<f32>);

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// It is complete.
    Done(T),
    /// Something is not loaded: [`Leaf::fetch`] loads it.
    Missing,
}

/// An outline that is being read.
#[derive(Debug)]
pub struct Opening {
    loaded: LoadedParts,
    parts: Arc<dyn IndexParts>,
    names: Arc<Names>,
    missing: Vec<Part>,
}

impl Opening {
    /// Creates an opening that has read nothing yet.
    pub fn new(parts: Arc<dyn IndexParts>) -> Self {
        let names = Arc::new(loaded_parts::names(&*parts));
        let loaded = LoadedParts::new(Arc::clone(&parts), Arc::clone(&names), OUTLINE_BYTES);
        Self { loaded, parts, names, missing: Vec::new() }
    }

    /// Reads the index's description of itself.
    pub fn open(&mut self) -> Result<Step<Outline>, ReadError> {
        let opened = tantivy::Index::open(ReadOnly(self.loaded.clone()));
        self.missing = self.loaded.missing();
        if !self.missing.is_empty() {
            return Ok(Step::Missing);
        }
        let index = opened.map_err(open_error)?;
        Outline::of(index, Arc::clone(&self.parts), Arc::clone(&self.names)).map(Step::Done)
    }

    /// Fetches what was missing. An error comes from the parts.
    pub fn fetch(&mut self) -> BoxFuture<'_, io::Result<()>> {
        self.loaded.fetch(std::mem::take(&mut self.missing))
    }
}

impl Outline {
    fn of(index: tantivy::Index, parts: Arc<dyn IndexParts>, names: Arc<Names>) -> Result<Self, ReadError> {
        let (fields, positions) = schema::of(&index.schema()).ok_or(ReadError::Schema)?;
        let metas = index.searchable_segment_metas().map_err(open_error)?;
        let mut first_ordinal = 0;
        let leaves = metas.iter().map(|meta| {
            let documents = meta.max_doc();
            let leaf = LeafFacts { first_ordinal, documents };
            first_ordinal += u64::from(documents);
            leaf
        });
        let leaves = leaves.collect();
        Ok(Self { parts, names, fields, schema: index.schema(), positions, leaves })
    }

    /// The leaves, in the order of their records.
    pub fn leaves(&self) -> &[LeafFacts] {
        &self.leaves
    }

    /// How many records the index holds.
    pub fn documents(&self) -> u64 {
        self.leaves.iter().map(|leaf| u64::from(leaf.documents)).sum()
    }

    /// Compiles a query for this index.
    pub fn plan(&self, query: &Query, catalog: &FieldCatalog, scored: bool) -> Result<Plan, ReadError> {
        let compiled = query
            .compile(&self.fields, catalog, self.positions)
            .map_err(|_| ReadError::TooBroad { paths: catalog.values().count() })?;
        Ok(Plan { compiled: Arc::new(compiled), scored })
    }

    /// Creates the search of a leaf. Nothing is loaded yet. The leaf may load `bytes_max` bytes of what is at
    /// hand.
    pub fn leaf(&self, number: usize, plan: &Plan, bytes_max: u64) -> Leaf {
        let facts = self.leaves[number].clone();
        let loaded = LoadedParts::new(Arc::clone(&self.parts), Arc::clone(&self.names), bytes_max);
        Leaf {
            loaded,
            number,
            facts,
            schema: self.schema.clone(),
            plan: plan.clone(),
            opened: None,
            missing: Vec::new(),
            cursors: 0,
        }
    }
}

impl Plan {
    /// Returns whether no record of the index can match, whatever terms it has.
    pub fn is_impossible(&self) -> bool {
        !self.compiled.required.possible(&|_| true)
    }

    /// Returns whether a phrase is searched as its words in any order.
    pub fn phrases_as_words(&self) -> bool {
        self.compiled.phrases_as_words
    }

    /// Returns whether the index has no certain answer: an earlier release wrote it, or it is beyond a limit.
    pub fn is_unsure(&self) -> bool {
        self.compiled.unsure
    }

    /// Returns the maximum memory of a query's plan in bytes, for an index with this many paths.
    pub fn mem_usage_max(query: &Query, paths: usize) -> u64 {
        (query.terms_max(paths) as u64).saturating_mul(TERM_BYTES)
    }
}

/// A search of one leaf.
pub struct Leaf {
    loaded: LoadedParts,
    number: usize,
    facts: LeafFacts,
    schema: Schema,
    plan: Plan,
    opened: Option<SegmentReader>,
    missing: Vec<Part>,
    /// Number of terms that have postings here.
    cursors: usize,
}

impl Leaf {
    /// Returns the memory in bytes that it takes when everything that is missing has been fetched.
    pub fn needed_bytes(&self) -> u64 {
        let missing: u64 = self.missing.iter().map(|(_, range)| range.end - range.start).sum();
        self.loaded.bytes() + missing + self.working_bytes()
    }

    /// Returns the memory in bytes that it takes in addition to what is loaded of the files.
    fn working_bytes(&self) -> u64 {
        let set_bytes = u64::from(self.facts.documents.div_ceil(8));
        let parts = self.plan.compiled.required.all().into_iter().map(|need| match need {
            RequiredTerms::Term { .. } => WEIGHT_BYTES,
            _ => set_bytes,
        });
        parts.sum::<u64>() + self.cursors as u64 * CURSOR_BYTES
    }

    /// Sets the memory that it may take. Up to this limit it loads what is at hand without asking.
    pub fn set_bytes_max(&self, bytes: u64) {
        self.loaded.set_bytes_max(bytes.saturating_sub(self.working_bytes()));
    }

    /// Fetches what was missing. An error comes from the parts.
    pub fn fetch(&mut self) -> BoxFuture<'_, io::Result<()>> {
        match self.missing.is_empty() {
            true => ready(Ok(())).boxed(),
            false => self.loaded.fetch(std::mem::take(&mut self.missing)),
        }
    }

    /// Returns how many records match. The count ends early when `ended` returns true.
    pub fn count(&mut self, ended: &dyn Fn() -> bool) -> Result<Step<u64>, ReadError> {
        self.attempt(true, 0, |segment, weight| {
            if matches!(
                segment.required(),
                RequiredTerms::Term { .. } | RequiredTerms::Nothing | RequiredTerms::Never
            ) {
                return Ok(u64::from(weight.count(segment.reader)?));
            }
            let mut count = 0;
            segment.each(weight, false, &mut |_, _| {
                count += 1;
                until(ended())
            })?;
            Ok(count)
        })
    }

    /// Returns the ordinals and scores of the records that match; `None` if they are more than `count_max`.
    pub fn few(&mut self, count_max: usize) -> Result<Step<Option<Vec<Scored>>>, ReadError> {
        let first_ordinal = self.facts.first_ordinal;
        let scored = self.plan.scored;
        self.attempt(false, Some(Vec::new()), |segment, weight| {
            let mut few = Vec::new();
            segment.each(weight, scored, &mut |doc, score| {
                few.push((first_ordinal + u64::from(doc), score));
                until(few.len() > count_max)
            })?;
            Ok((few.len() <= count_max).then_some(few))
        })
    }

    /// Returns the size in bytes of the columns of offsets and times, whether they are loaded or not.
    pub fn columns_bytes(&mut self) -> Result<Step<u64>, ReadError> {
        self.attempt(false, 0, |segment, _| {
            let fields = segment.reader.fast_fields();
            let sizes = [names::OFFSET, names::TIMESTAMP].map(|name| fields.column_num_bytes(name));
            sizes.into_iter().map(|size| Ok(size?.get_bytes())).sum()
        })
    }

    /// Calls `each` with the records within `bounds` that match, in the order of their ordinals, until it
    /// breaks. If something is missing, `each` was not called.
    pub fn each(
        &mut self,
        bounds: &Bounds,
        each: &mut dyn FnMut(Hit) -> ControlFlow<()>,
    ) -> Result<Step<()>, ReadError> {
        let first_ordinal = self.facts.first_ordinal;
        let (scored, loaded) = (self.plan.scored, self.loaded.clone());
        self.attempt(false, (), |segment, weight| {
            for name in [names::OFFSET, names::TIMESTAMP] {
                warm_up::columns(segment.reader, name)
                    .or_else(|e| if loaded.has_missing() { Ok(()) } else { Err(e) })?;
            }
            let fields = segment.reader.fast_fields();
            let offsets: Column<i64> = fields.i64(names::OFFSET)?;
            let times: Column<i64> = fields.i64(names::TIMESTAMP)?;
            segment.each(weight, scored, &mut |doc, score| {
                // Every record has an offset; a damaged column must not look like a match.
                let Some(offset) = offsets.first(doc) else { return ControlFlow::Continue(()) };
                let timestamp_ms = times.first(doc);
                if !bounds.contain(offset, timestamp_ms) {
                    return ControlFlow::Continue(());
                }
                each(Hit { ordinal: first_ordinal + u64::from(doc), offset, timestamp_ms, score })
            })
        })
    }

    /// Opens the leaf, reads what the query needs, and does the work, as far as the loaded bytes allow. If no
    /// record can match, the result is `nothing`.
    fn attempt<T>(
        &mut self,
        count: bool,
        nothing: T,
        work: impl FnOnce(&Segment<'_>, &dyn Weight) -> tantivy::Result<T>,
    ) -> Result<Step<T>, ReadError> {
        let done = self.try_to(count, work);
        self.missing = self.loaded.missing();
        match done {
            _ if !self.missing.is_empty() => Ok(Step::Missing),
            Ok(done) => Ok(Step::Done(done.unwrap_or(nothing))),
            Err(error) if prefix::is_too_broad(&error) => Err(ReadError::PrefixTooBroad),
            Err(error) => Err(ReadError::Search(Box::new(error))),
        }
    }

    fn try_to<T>(
        &mut self,
        count: bool,
        work: impl FnOnce(&Segment<'_>, &dyn Weight) -> tantivy::Result<T>,
    ) -> tantivy::Result<Option<T>> {
        let reader = match self.opened.take() {
            Some(reader) => reader,
            None => self.open()?,
        };
        let (loaded, plan) = (self.loaded.clone(), self.plan.clone());
        let noted = || loaded.has_missing();
        let touched = warm_up::warm_up(&reader, &plan.compiled.required, plan.scored, count, &noted);
        let reader = self.opened.insert(reader);
        match touched? {
            WarmedUp::Impossible => return Ok(None),
            WarmedUp::Terms(terms) => self.cursors = terms,
        }
        if self.loaded.has_missing() {
            return Ok(None);
        }
        plan.compiled.prefix_counter.forget(reader.segment_id());
        let segment = Segment { reader, plan: &plan };
        let weight = segment.weight(&self.schema)?;
        work(&segment, &*weight).map(Some)
    }

    fn open(&self) -> tantivy::Result<SegmentReader> {
        let index = tantivy::Index::open(ReadOnly(self.loaded.clone()))?;
        let segments = index.searchable_segments()?;
        let segment = segments.get(self.number).filter(|one| one.meta().max_doc() == self.facts.documents);
        let changed = || TantivyError::SystemError("the index has other segments than before".to_owned());
        SegmentReader::open(segment.ok_or_else(changed)?)
    }
}

/// Breaks if `over` is true.
fn until(over: bool) -> ControlFlow<()> {
    if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// An opened leaf, and the plan for it.
struct Segment<'a> {
    reader: &'a SegmentReader,
    plan: &'a Plan,
}

impl Segment<'_> {
    fn required(&self) -> &RequiredTerms {
        &self.plan.compiled.required
    }

    fn weight(&self, schema: &Schema) -> tantivy::Result<Box<dyn Weight>> {
        let query = &self.plan.compiled.query;
        if !self.plan.scored {
            return query.weight(EnableScoring::disabled_from_schema(schema));
        }
        // Tantivy requires a searcher, but does not use it if the statistics come from elsewhere.
        let nowhere: Searcher = tantivy::Index::create_in_ram(schema.clone()).reader()?.searcher();
        query.weight(EnableScoring::enabled_from_statistics_provider(self, &nowhere))
    }

    /// Calls `each` with the documents that match, in ascending order.
    fn each(
        &self,
        weight: &dyn Weight,
        scored: bool,
        each: &mut dyn FnMut(DocId, Option<Score>) -> ControlFlow<()>,
    ) -> tantivy::Result<()> {
        let mut scorer = weight.scorer(self.reader, 1.0)?;
        let mut doc = scorer.doc();
        while doc != TERMINATED {
            let score = scored.then(|| scorer.score());
            if each(doc, score).is_break() {
                break;
            }
            doc = scorer.advance();
        }
        Ok(())
    }
}

/// The statistics for scores: how rare a word is, counted in each leaf by itself.
impl Bm25StatisticsProvider for Segment<'_> {
    fn total_num_tokens(&self, field: Field) -> tantivy::Result<u64> {
        Ok(self.reader.inverted_index(field)?.total_num_tokens())
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(u64::from(self.reader.max_doc()))
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        Ok(u64::from(self.reader.inverted_index(term.field())?.doc_freq(term)?))
    }
}

fn open_error(error: TantivyError) -> ReadError {
    ReadError::Open(Box::new(error))
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("required", &self.compiled.required).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf")
            .field("facts", &self.facts)
            .field("loaded", &self.loaded)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests;
