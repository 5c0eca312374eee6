//! An opened index: finds the ordinals of the records that match a query.

mod files;

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use bytes::Bytes;
use files::InMemory;
use tantivy::columnar::Column;
use tantivy::query::{EnableScoring, Weight};
use tantivy::{DocId, ReloadPolicy, Score, Searcher, SegmentReader, TantivyError};

use super::catalog::FieldCatalog;
use super::directory::ReadOnly;
use super::query::{PREFIX_TERMS_MAX, Query, prefix};
use super::schema::{self, Fields, names};

/// An opened index.
pub struct IndexReader {
    searcher: Searcher,
    fields: Fields,
    catalog: FieldCatalog,
    positions: bool,
}

/// Why an index cannot be opened or searched.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The files are not an index that this build of Tantivy can read, or are damaged.
    #[error("the index cannot be opened")]
    Open(#[source] Box<TantivyError>),
    /// Its schema is not one that this program writes.
    #[error("the index has an unknown schema")]
    Schema,
    /// Tantivy failed during a search: the files are damaged.
    #[error("the index cannot be searched")]
    Search(#[source] Box<TantivyError>),
    /// A part of the files cannot be read.
    #[error("a part of the index cannot be read")]
    Parts(#[source] std::io::Error),
    /// The query has too many words for an index with so many paths.
    #[error("the query is too broad for an index with {paths} paths: name a field")]
    TooBroad {
        /// How many paths the index has.
        paths: usize,
    },
    /// The query's prefixes match too many words of the index.
    #[error("the prefixes match more than {PREFIX_TERMS_MAX} words: write longer prefixes")]
    PrefixTooBroad,
}

/// Limits for the records of a search, in addition to the query. Ends are included; `None` is open. A record
/// without a timestamp is not in any range of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The lowest offset.
    pub min_offset: Option<i64>,
    /// The highest offset.
    pub max_offset: Option<i64>,
    /// The earliest timestamp, in milliseconds since the epoch.
    pub min_timestamp_ms: Option<i64>,
    /// The latest timestamp, in milliseconds since the epoch.
    pub max_timestamp_ms: Option<i64>,
}

/// The order of hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By timestamp, then offset, the latest first. Records without a timestamp come after all others.
    #[default]
    NewestFirst,
    /// By timestamp, then offset, the earliest first. Records without a timestamp come after all others here,
    /// too.
    OldestFirst,
    /// By score: records with the rarest words come first. Of equal scores, the newest comes first.
    ByScore,
}

/// A record that matches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The number of the record in the index, in the order in which the records were added, from 0.
    pub ordinal: u64,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in milliseconds since the epoch.
    pub timestamp_ms: Option<i64>,
    /// Its score, with [`Order::ByScore`]. Scores can be compared within one index only.
    pub score: Option<f32>,
}

/// The result of a search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hits {
    /// The first hits, in order.
    pub hits: Vec<Hit>,
    /// Number of all hits.
    pub matched: u64,
    /// Whether a phrase was searched as its words in any order, because the index has no positions. Then some
    /// hits may not contain the phrase.
    pub phrases_as_words: bool,
}

impl Order {
    /// Compares two hits: the lesser one comes first. This is the order for merging the hits of several
    /// indexes.
    pub fn compare(self, a: &Hit, b: &Hit) -> Ordering {
        let age = |hit: &Hit| (hit.timestamp_ms, hit.offset, hit.ordinal);
        match self {
            Self::NewestFirst => age(b).cmp(&age(a)),
            Self::OldestFirst => {
                a.timestamp_ms.is_none().cmp(&b.timestamp_ms.is_none()).then_with(|| age(a).cmp(&age(b)))
            }
            Self::ByScore => {
                b.score.unwrap_or(0.0).total_cmp(&a.score.unwrap_or(0.0)).then_with(|| age(b).cmp(&age(a)))
            }
        }
    }
}

impl IndexReader {
    /// Opens an index from its files, including `meta.json`, and the catalog that was written with it. A
    /// file's bytes are not copied if nothing else shares them.
    pub fn open(files: Vec<(String, Bytes)>, catalog: &FieldCatalog) -> Result<Self, ReadError> {
        let failed = |source| ReadError::Open(Box::new(source));
        let index = tantivy::Index::open(ReadOnly(InMemory::new(files))).map_err(failed)?;
        let (fields, positions) = schema::of(&index.schema()).ok_or(ReadError::Schema)?;
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(failed)?;
        Ok(Self { searcher: reader.searcher(), fields, catalog: catalog.clone(), positions })
    }

    /// How many records the index holds.
    pub fn documents(&self) -> u64 {
        self.searcher.num_docs()
    }

    /// Returns the first `limit` records that match, in order, and how many match in all. With a limit of 0
    /// they are only counted.
    pub fn search(
        &self,
        query: &Query,
        bounds: &Bounds,
        order: Order,
        limit: usize,
    ) -> Result<Hits, ReadError> {
        let compiled = query
            .compile(&self.fields, &self.catalog, self.positions)
            .map_err(|_| ReadError::TooBroad { paths: self.catalog.values().count() })?;
        let scoring = match order {
            Order::ByScore if limit > 0 => EnableScoring::enabled_from_searcher(&self.searcher),
            _ => EnableScoring::disabled_from_searcher(&self.searcher),
        };
        let failed = |source| match prefix::is_too_broad(&source) {
            true => ReadError::PrefixTooBroad,
            false => ReadError::Search(Box::new(source)),
        };
        let weight = compiled.query.weight(scoring).map_err(failed)?;
        let mut best = Best { heap: BinaryHeap::new(), order, limit, matched: 0 };
        let mut first_ordinal = 0;
        for segment in self.searcher.segment_readers() {
            let mut search = SegmentSearch::new(segment, first_ordinal, bounds).map_err(failed)?;
            search.run(&*weight, scoring.is_scoring_enabled(), &mut best).map_err(failed)?;
            first_ordinal += u64::from(segment.max_doc());
        }
        Ok(Hits { matched: best.matched, hits: best.sorted(), phrases_as_words: compiled.phrases_as_words })
    }
}

impl std::fmt::Debug for IndexReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexReader").field("documents", &self.documents()).finish_non_exhaustive()
    }
}

/// A search of one Tantivy segment.
struct SegmentSearch<'a> {
    segment: &'a SegmentReader,
    first_ordinal: u64,
    bounds: &'a Bounds,
    offsets: Column<i64>,
    timestamps: Column<i64>,
}

impl<'a> SegmentSearch<'a> {
    fn new(segment: &'a SegmentReader, first_ordinal: u64, bounds: &'a Bounds) -> tantivy::Result<Self> {
        Ok(Self {
            segment,
            first_ordinal,
            bounds,
            offsets: segment.fast_fields().i64(names::OFFSET)?,
            timestamps: segment.fast_fields().i64(names::TIMESTAMP)?,
        })
    }

    fn run(&mut self, weight: &dyn Weight, scored: bool, best: &mut Best) -> tantivy::Result<()> {
        if best.limit == 0 && *self.bounds == Bounds::default() {
            best.matched += u64::from(weight.count(self.segment)?);
            return Ok(());
        }
        if scored {
            return weight.for_each(self.segment, &mut |doc, score| self.offer(doc, Some(score), best));
        }
        weight.for_each_no_score(self.segment, &mut |docs| {
            for doc in docs {
                self.offer(*doc, None, best);
            }
        })
    }

    fn offer(&self, doc: DocId, score: Option<Score>, best: &mut Best) {
        // Every record has an offset; a damaged column must not look like a match.
        let Some(offset) = self.offsets.first(doc) else { return };
        let timestamp_ms = self.timestamps.first(doc);
        if !self.bounds.contain(offset, timestamp_ms) {
            return;
        }
        best.offer(Hit { ordinal: self.first_ordinal + u64::from(doc), offset, timestamp_ms, score });
    }
}

impl Bounds {
    /// Returns whether a record is within these limits.
    pub fn contain(&self, offset: i64, timestamp_ms: Option<i64>) -> bool {
        let above = |min: Option<i64>, value: i64| min.is_none_or(|min| min <= value);
        let below = |max: Option<i64>, value: i64| max.is_none_or(|max| value <= max);
        let in_time = match timestamp_ms {
            Some(time) => above(self.min_timestamp_ms, time) && below(self.max_timestamp_ms, time),
            None => self.min_timestamp_ms.is_none() && self.max_timestamp_ms.is_none(),
        };
        above(self.min_offset, offset) && below(self.max_offset, offset) && in_time
    }
}

/// The best hits so far. The worst of them is on top.
struct Best {
    heap: BinaryHeap<Ranked>,
    order: Order,
    limit: usize,
    matched: u64,
}

struct Ranked {
    hit: Hit,
    order: Order,
}

impl Best {
    fn offer(&mut self, hit: Hit) {
        self.matched += 1;
        let ranked = Ranked { hit, order: self.order };
        if self.heap.len() < self.limit {
            self.heap.push(ranked);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && ranked < *worst
        {
            *worst = ranked;
        }
    }

    fn sorted(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|ranked| ranked.hit).collect()
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.compare(&self.hit, &other.hit)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

#[cfg(test)]
mod tests;
