//! The read story: a query becomes records.
//!
//! A LIST names the bundles, their keys say which of them come into question, and of each of those the index says which records
//! match. The best are taken, and read from their blocks. Where bundles overlap, as those of two replicas do, each offset of a log is
//! answered once, unless the bundles hold different records for it: then all of them are answered, and the conflict is reported.
//!
//! An answer is whole or an error: a bundle that cannot be read fails the search, by its name.
//!
//! Knows nothing of gRPC or the command line, nor of the write path.

mod candidates;
mod hits;
mod take;

use std::num::NonZeroU64;

use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::{ArchiveError, Shelf, StoredRecord, Traffic, TrafficCounter};
use crate::ids::{LogId, TopicPartition};
use crate::index::{Order, PREFIX_TERMS_MAX, Query};
use crate::registry::{self, Filter};
use crate::store::StoreError;

/// The most records that one search answers.
pub const LIMIT_MAX: usize = 100_000;

/// The most bytes of keys, values and headers that one search answers.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How many bundles are searched at a time; the index of each is in memory.
const BUNDLES_AT_ONCE: usize = 4;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which records come into question. A topic is required.
    pub filter: Filter,
    /// Which of those match.
    pub query: Query,
    /// How many are answered, at most [`LIMIT_MAX`]; none where they are only to be counted.
    pub limit: usize,
    /// Which come first.
    pub order: Order,
    /// How wide the buckets are that the matches are counted in by time, in milliseconds; `None`: they are not.
    pub bucket_ms: Option<NonZeroU64>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The first records that match, in order.
    pub records: Vec<Found>,
    /// What it took.
    pub summary: Summary,
}

/// A record, and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log.
    pub log_id: LogId,
    /// The record.
    pub record: StoredRecord,
    /// How well it matches, where that decides the order.
    pub score: Option<f32>,
}

/// What a search found and took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many records match, answered or not. An offset that several bundles hold counts once for each time it has there.
    pub matched: u64,
    /// How many bundles were opened.
    pub bundles_searched: u64,
    /// How many were not, since there was enough without them that comes first. Then more records may match.
    pub bundles_left: u64,
    /// How many bundles of the topic could not hold what was looked for.
    pub bundles_pruned: u64,
    /// What was read from the store; the LIST counts as one request.
    pub traffic: Traffic,
    /// Offsets for which different records were answered.
    pub conflicts: Vec<Conflict>,
    /// Whether a phrase was looked for as its words in any order, since an index does not know their places.
    pub phrases_as_words: bool,
    /// Where each bucket begins, in milliseconds since the Unix epoch, and how many records of it match; ascending, none of them empty.
    pub buckets: Vec<(i64, u64)>,
}

/// Bundles hold different records for one offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log.
    pub log_id: LogId,
    /// The offset.
    pub offset: i64,
    /// The bundles.
    pub bundles: Vec<String>,
}

/// Why a search has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The request names no topic.
    #[error("a topic is needed")]
    NoTopic,
    /// More records are asked for than one search answers.
    #[error("the limit is {limit}, more than {LIMIT_MAX}")]
    LimitTooLarge {
        /// What was asked for.
        limit: usize,
    },
    /// The query has too many words for a bundle with so many paths.
    #[error("{bundle}: the query is too broad for its {paths} paths: name a field")]
    TooBroad {
        /// The bundle.
        bundle: String,
        /// How many paths its records have.
        paths: usize,
    },
    /// The query's prefixes stand for too many words of a bundle.
    #[error("{bundle}: a prefix stands for more than {PREFIX_TERMS_MAX} words: write more of it")]
    PrefixTooBroad {
        /// The bundle.
        bundle: String,
    },
    /// The records are too large to be answered at once.
    #[error("the records have more than {ANSWER_BYTES_MAX} bytes: ask for fewer")]
    AnswerTooLarge,
    /// The store cannot be listed.
    #[error(transparent)]
    List(#[from] StoreError),
    /// A bundle cannot be read. What it holds is not answered, so nothing is.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Searches a topic.
pub async fn search(shelf: &Shelf, request: &Request) -> Result<Answer, SearchError> {
    if request.filter.topic.is_none() {
        return Err(SearchError::NoTopic);
    }
    if request.limit > LIMIT_MAX {
        return Err(SearchError::LimitTooLarge { limit: request.limit });
    }
    let selected = registry::find(shelf.store(), &request.filter).await?;
    let traffic = TrafficCounter::default();
    let bundles = hits::with_overlaps(selected.bundles);
    let searched = bundles.len() as u64;
    let mut searches = stream::iter(bundles)
        .map(|bundle| hits::search_bundle(shelf, bundle, request, &traffic))
        .buffered(BUNDLES_AT_ONCE);
    let mut found = Vec::new();
    while let Some(bundle) = searches.try_next().await? {
        found.push(bundle);
        candidates::prune(&mut found, request.order, request.limit);
    }
    let mut summary = Summary {
        bundles_searched: searched,
        bundles_pruned: selected.pruned,
        phrases_as_words: found.iter().any(|bundle| bundle.phrases_as_words),
        ..Summary::default()
    };
    let candidates = candidates::merge(&found, request.order);
    summary.matched = candidates.matched;
    let taken = take::take(&found, candidates.hits, request.limit, ANSWER_BYTES_MAX).await?;
    summary.traffic = Traffic { requests: 1, bytes: 0 };
    summary.traffic += traffic.total();
    summary.conflicts = taken.conflicts;
    Ok(Answer { records: taken.records, summary })
}

#[cfg(test)]
mod tests;
