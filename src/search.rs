//! Searches bundles: a query in, records out.
//!
//! A LIST names the bundles. Their keys show which of them may have matches, and in which order to open them.
//! The bundles that are likely to have the first hits are opened first, a few at a time. Of each index, only
//! what the query needs is read ([`Leaf`](crate::index::Leaf)). The search stops when it has as many hits as
//! requested, and no other bundle can have a record that sorts before the last of them. Then the records are
//! read from their blocks, page by page. If bundles overlap, as those of two replicas do, each offset of a
//! log is counted and returned once. But if the bundles hold different records for an offset, all of them are
//! returned, and the conflict is reported.
//!
//! An answer is complete, or it is an error. If a bundle cannot be read, the search fails with an error that
//! names it. All searches of a process share a limited memory ([`Searcher`]), and each has a deadline.
//!
//! This module does not know gRPC, the command line or the write path.

mod bundle;
mod context;
mod hit_collector;
mod leaf;
mod memory;
mod overlaps;
mod record_reader;
mod schedule;
mod top_hits;
mod transactions;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::archive::{Archive, Fault, Traffic};
use crate::budget::Budget;
use crate::bundle::{BlockEntry, TAIL_BYTES};
use crate::ids::{CallerId, LogId, TopicPartition};
use crate::index::{PREFIX_TERMS_MAX, Plan, ReadError};
use crate::registry::{self, Selected};
use crate::spans;
use crate::store::{Listed, StoreError};

pub use crate::archive::{ArchiveError, BundleCache, StoredRecord};
pub use crate::index::{Order, Query, QueryError};
pub use crate::registry::Filter;
pub use crate::transactions::{Isolation, TransactionState};

use bundle::{Bundle, search_bundle};
use context::{EndGuard, SearchContext};
use hit_collector::{Counts, Owner};
pub use memory::FetchMemory;
use memory::SearchMemory;
use overlaps::Overlaps;
pub use record_reader::Page;
use record_reader::RecordReader;
use schedule::{RecordRanges, schedule};

/// The most records that one search returns.
pub const LIMIT_MAX: usize = 100_000;

/// How many records a search answers by default.
pub const LIMIT_DEFAULT: usize = 100;

/// The most time buckets that matches are counted in.
pub const BUCKETS_MAX: usize = 10_000;

/// The most offsets that are reported as conflicts. The records of further ones are returned, but not
/// reported.
pub const CONFLICTS_MAX: usize = 1_000;

/// The most bundles that are named because their matches may be inexact.
pub const UNSURE_MAX: usize = 100;

/// The default limit for the memory of all searches of a process, in bytes.
pub const MEMORY_BYTES_DEFAULT: u64 = 128 << 20;

/// The default limit for the time of a search.
pub const TIME_MAX_DEFAULT: Duration = Duration::from_secs(30);

/// How many bundles a search works on at a time.
const BUNDLES_AT_ONCE: usize = 8;

/// How many blocks of records a search reads at a time.
const BLOCKS_AT_ONCE: usize = 8;

/// From how many of these blocks it decodes frames at a time.
const FRAMES_AT_ONCE: usize = 2;

/// The memory that a search reserves until it ends, in bytes, for itself and for messages that a slow caller
/// has not read yet.
const SEARCH_BYTES: u64 = 1 << 20;
/// In addition, for each record that it may return: the entry among the hits, and what is remembered of the
/// record after it is returned. A time bucket counts as a record.
const HIT_BYTES: u64 = 256;
/// In addition, for each listed bundle that may have matches.
const LISTED_BYTES: u64 = 512;
/// In addition, for each open bundle: its block table, its manifest and the hot part of its index. These grow
/// with the bundle: they take this many bytes, plus the bundle's size divided by [`OPENED_SHARE`].
const OPENED_BYTES: u64 = 64 << 10;
const OPENED_SHARE: u64 = 64;
/// In addition, for each open bundle, a plan of the query for values with this many paths. A larger plan
/// reserves its own memory.
const PATHS_USUAL: usize = 16;
/// Memory that is not known at the start is reserved in steps of at least this many bytes.
const EXTRA_STEP_BYTES: u64 = 64 << 10;

/// A search request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which records are searched. A topic is required.
    pub filter: Filter,
    /// The query that they must match.
    pub query: Query,
    /// The most records that are returned, at most [`LIMIT_MAX`]; 0 if matches are only counted.
    pub limit: usize,
    /// The order of the returned records.
    pub order: Order,
    /// The width of the time buckets that matches are counted in, in milliseconds; `None` if they are not
    /// counted by time.
    pub bucket_ms: Option<NonZeroU64>,
    /// Whether records of aborted and of open transactions are returned and counted.
    pub isolation: Isolation,
}

impl Request {
    /// A search of a topic for the newest [`LIMIT_DEFAULT`] records that match `query`, in the query language of
    /// `docs/search.md`.
    ///
    /// # Errors
    /// The query is not one.
    pub fn new(topic: &str, query: &str) -> Result<Self, QueryError> {
        Ok(Self {
            filter: Filter { topic: Some(topic.to_owned()), ..Filter::default() },
            query: Query::parse(query)?,
            limit: LIMIT_DEFAULT,
            order: Order::default(),
            bucket_ms: None,
            isolation: Isolation::default(),
        })
    }
}

/// The answer to a search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The first records that match, in order.
    pub records: Vec<Found>,
    /// The counts and costs of the search.
    pub summary: Summary,
}

/// A record and the log that it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log.
    pub log_id: LogId,
    /// The record.
    pub record: StoredRecord,
    /// Its score, if scores decide the order.
    pub score: Option<f32>,
    /// The state of its transaction, if that was not committed.
    pub transaction: Option<TransactionState>,
}

/// The counts and costs of a search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many records match in the bundles that were searched, whether they are returned or not. An offset
    /// of a log counts once.
    pub matched: u64,
    /// How many bundles were opened.
    pub bundles_searched: u64,
    /// How many bundles were not searched, or not completely, because enough records that come first were
    /// found without them. If there are any, more records may match.
    pub bundles_left: u64,
    /// How many of the listed bundles cannot have matches, as their keys show.
    pub bundles_pruned: u64,
    /// What was read from the store. The LIST counts as one request.
    pub traffic: Traffic,
    /// Offsets for which different records were returned, at most [`CONFLICTS_MAX`].
    pub conflicts: Vec<Conflict>,
    /// Whether a phrase was searched as its words in any order, because an index has no word positions.
    pub phrases_as_words: bool,
    /// Bundles with indexes for which matches may be inexact, because an earlier release wrote them: for
    /// numbers that are written as strings, for paths after the thousandth, and for range ends beyond 2^53.
    /// At most [`UNSURE_MAX`] are named.
    pub unsure: Vec<String>,
    /// The start of each bucket, in milliseconds since the Unix epoch, and its number of matches; ascending,
    /// without empty buckets.
    pub buckets: Vec<(i64, u64)>,
    /// How many bundles have records that were left out because the end of their transactions is not known.
    /// It may become known later.
    pub bundles_with_open: u64,
}

/// An offset for which bundles hold different records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// The incarnation of the log.
    pub log_id: LogId,
    /// The offset.
    pub offset: i64,
    /// The keys of the bundles.
    pub bundles: Vec<String>,
    /// The records, in the order in which they were returned: the key of the bundle of each, and the epoch of
    /// the leader that appended it, if its frame states one.
    pub versions: Vec<(String, Option<i32>)>,
}

/// Why a search fails.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The request names no topic.
    #[error("a topic is needed")]
    NoTopic,
    /// The limit is higher than the most records that one search returns.
    #[error("the limit is {limit}, more than {LIMIT_MAX}")]
    LimitTooLarge {
        /// The requested limit.
        limit: usize,
    },
    /// The query has too many words for a bundle with this many paths.
    #[error("{bundle}: the query is too broad for an index with {paths} paths: name a field")]
    TooBroad {
        /// The bundle.
        bundle: String,
        /// How many paths its records have.
        paths: usize,
    },
    /// The query's prefixes match too many words of a bundle.
    #[error("{bundle}: the prefixes match more than {PREFIX_TERMS_MAX} words: write longer prefixes")]
    PrefixTooBroad {
        /// The bundle.
        bundle: String,
    },
    /// The matches are in more time buckets than are returned.
    #[error("the matches are in more than {BUCKETS_MAX} time buckets: request wider buckets")]
    TooManyBuckets,
    /// The search needs more memory than it can ever get.
    #[error(
        "the search needs {needed_bytes} bytes of memory at once, more than the limit of {there_are_bytes}: \
         search for fewer words, or request fewer records"
    )]
    TooLarge {
        /// The memory that it needs, in bytes.
        needed_bytes: u64,
        /// The most memory that it can get, in bytes.
        there_are_bytes: u64,
    },
    /// Other readers hold the memory that the search, or a fetch, needs now.
    #[error("other readers hold the memory that the request needs now")]
    NoRoom {
        /// After this time a retry makes sense.
        retry_after: Duration,
    },
    /// It did not end within its time limit.
    #[error("the search did not end within {} ms", time_max.as_millis())]
    OutOfTime {
        /// The time limit.
        time_max: Duration,
    },
    /// The store cannot be listed.
    #[error(transparent)]
    List(#[from] StoreError),
    /// A bundle cannot be read. Then nothing is returned, because its records would be missing.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Runs searches. Clones share the memory for all searches.
#[derive(Clone, Debug)]
pub struct Searcher {
    bundle_cache: BundleCache,
    memory: SearchMemory,
    time_max: Duration,
}

/// The answer to a search, which is read page by page. Dropping it ends the search.
#[derive(Debug)]
pub struct Answers {
    record_reader: RecordReader,
    summary: Summary,
    context: Arc<SearchContext>,
    due: Due,
    _ends_it: EndGuard,
}

/// The deadline of a search.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    time_max: Duration,
}

impl Due {
    async fn bound<T>(self, work: impl Future<Output = Result<T, SearchError>>) -> Result<T, SearchError> {
        let time_max = self.time_max;
        timeout_at(self.at, work).await.unwrap_or(Err(SearchError::OutOfTime { time_max }))
    }
}

impl Searcher {
    /// Creates a searcher for the bundles of `bundle_cache`. All searches together take at most
    /// `memory_bytes`, in addition to the memory of the cache. Each search takes at most `time_max`, until
    /// the caller has read the last record.
    pub fn new(bundle_cache: BundleCache, memory_bytes: u64, time_max: Duration) -> Self {
        Self { bundle_cache, memory: SearchMemory::new(memory_bytes), time_max }
    }

    /// The cache of the bundles.
    pub fn bundle_cache(&self) -> &BundleCache {
        &self.bundle_cache
    }

    /// Returns a searcher for the requests of one caller. All callers share the memory.
    pub fn for_caller(&self, caller_id: CallerId) -> Self {
        Self { memory: self.memory.clone().for_caller(caller_id), ..self.clone() }
    }

    /// Reserves a part of the searches' memory for a fetch: `bytes`, or the whole part for fetches if that is
    /// less. It waits twice, for the fetches' part and for the searches' memory, each time at most as long as
    /// a search may take.
    pub async fn reserve_for_fetch(&self, bytes: u64) -> Result<FetchMemory, SearchError> {
        self.memory.reserve_for_fetch(bytes, self.time_max).await
    }

    /// The most memory that all fetches hold together, in bytes.
    pub fn fetches_bytes(&self) -> u64 {
        self.memory.fetches_bytes()
    }

    /// The budget that searches share, for fetches.
    pub fn budget(&self) -> &Budget {
        self.memory.budget()
    }

    /// Searches a topic. `time_max` is the caller's time limit. It can only shorten the searcher's limit.
    pub async fn search(&self, request: Request, time_max: Option<Duration>) -> Result<Answers, SearchError> {
        let time_max = time_max.map_or(self.time_max, |callers| callers.min(self.time_max));
        let due = Due { at: Instant::now() + time_max, time_max };
        due.bound(self.find(request, due)).await
    }

    async fn find(&self, request: Request, due: Due) -> Result<Answers, SearchError> {
        if request.filter.topic.is_none() {
            return Err(SearchError::NoTopic);
        }
        if request.limit > LIMIT_MAX {
            return Err(SearchError::LimitTooLarge { limit: request.limit });
        }
        // A listing waits for memory, too. The memory for the listed bundles is in the next reservation.
        let listing = self.memory.reserve(SEARCH_BYTES).await?;
        let selected = spans::stage(spans::list(), async {
            registry::find(self.bundle_cache.store(), &request.filter)
                .await
                .inspect(|found| spans::listed(found.bundles.len()))
        });
        let selected = selected.await?;
        drop(listing);
        let Selected { bundles, pruned } = selected;
        let (reservable_bytes, at_once) = self.reservable_bytes(&request, &bundles);
        let bundles = number_bundles(bundles, request.order);
        let mut unforeseen_bytes = 0;
        loop {
            let reserved = self.memory.reserve(reservable_bytes + unforeseen_bytes).await?;
            let (bundle_cache, memory) = (self.bundle_cache.clone(), self.memory.clone());
            let context = Arc::new(SearchContext::new(
                bundle_cache,
                memory,
                request.clone(),
                reserved,
                unforeseen_bytes,
            ));
            match search_bundles(&context, bundles.clone(), at_once, pruned, due).await {
                // Other searches hold the memory that this one lacks. It gives back what it holds, and waits
                // for all that it is likely to need: each time twice what it needed so far, if there is that
                // much.
                Err(SearchError::NoRoom { .. }) => {
                    let there_are = self.memory.reservable_bytes().saturating_sub(reservable_bytes);
                    let needed_bytes = context.needed_bytes();
                    unforeseen_bytes = (2 * needed_bytes).min(there_are.max(needed_bytes));
                }
                ended => return ended,
            }
        }
    }

    /// Returns the memory that a search reserves until it ends, in bytes, and how many bundles it has open at
    /// a time.
    fn reservable_bytes(&self, request: &Request, bundles: &[Listed]) -> (u64, usize) {
        let largest = bundles.iter().map(|listed| listed.size_bytes).max().unwrap_or(0);
        let plan_bytes = Plan::mem_usage_max(&request.query, PATHS_USUAL);
        let opened_bytes = OPENED_BYTES + plan_bytes + largest / OPENED_SHARE;
        let buckets = if request.bucket_ms.is_some() { BUCKETS_MAX as u64 } else { 0 };
        let places = request.limit as u64 + buckets;
        let at_least = SEARCH_BYTES + places * HIT_BYTES + bundles.len() as u64 * LISTED_BYTES;
        // The open bundles of one search take at most a quarter of the memory, unless one bundle takes more.
        let at_once = (self.memory.reservable_bytes() / 4 / opened_bytes).clamp(1, BUNDLES_AT_ONCE as u64);
        let at_once = at_once.min(bundles.len().max(1) as u64);
        (at_least + at_once * opened_bytes, at_once as usize)
    }
}

/// Searches the bundles for one search.
async fn search_bundles(
    context: &Arc<SearchContext>,
    bundles: Vec<Bundle>,
    at_once: usize,
    pruned: u64,
    due: Due,
) -> Result<Answers, SearchError> {
    let ends_it = EndGuard(context.ended.clone());
    let (opened, unfinished) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut by_first_place = bundles.clone();
    by_first_place.sort_by_key(|bundle| bundle.first_place);
    let left = schedule(
        by_first_place,
        at_once,
        context.needs_all(),
        |bundle| context.may_keep(&bundle.first_place),
        |done| context.estimate_remaining(done),
        async |bundle| {
            opened.fetch_add(1, Ordering::Relaxed);
            let span = spans::bundle(&bundle.listed.key, bundle.listed.size_bytes);
            if spans::stage(span, search_bundle(context, bundle)).await? {
                unfinished.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        },
    );
    let left = left.await? as u64;
    let (Counts { matched, buckets }, found) = context.take_hits().finish()?;
    let summary = Summary {
        matched,
        bundles_searched: opened.into_inner(),
        bundles_left: left + unfinished.into_inner(),
        bundles_pruned: pruned,
        phrases_as_words: context.phrases_as_words.load(Ordering::Relaxed),
        unsure: context.unsure(),
        buckets,
        bundles_with_open: context.transactions.bundles_with_open(),
        ..Summary::default()
    };
    Ok(Answers {
        record_reader: RecordReader::new(Arc::clone(context), bundles, found),
        summary,
        context: Arc::clone(context),
        due,
        _ends_it: ends_it,
    })
}

impl Answers {
    /// Returns the next records; `None` if there are no more.
    pub async fn next(&mut self) -> Result<Option<Page>, SearchError> {
        self.due.bound(self.record_reader.next()).await
    }

    /// Returns the counts and costs so far. They are complete when [`Answers::next`] has returned `None`.
    pub fn summary(&self) -> Summary {
        let mut traffic = Traffic { requests: 1, bytes: 0 };
        traffic += self.context.traffic.total();
        Summary { traffic, conflicts: self.record_reader.conflicts(), ..self.summary.clone() }
    }
}

/// Searches a topic and returns the whole answer. The search has its own memory of [`MEMORY_BYTES_DEFAULT`],
/// and one hour.
pub async fn search(bundle_cache: &BundleCache, request: &Request) -> Result<Answer, SearchError> {
    let searcher = Searcher::new(bundle_cache.clone(), MEMORY_BYTES_DEFAULT, Duration::from_secs(3_600));
    let mut answers = searcher.search(request.clone(), None).await?;
    let mut records = Vec::new();
    while let Some(page) = answers.next().await? {
        records.extend(page.records);
    }
    Ok(Answer { records, summary: answers.summary() })
}

/// Numbers the bundles, in the order of their keys.
fn number_bundles(listed: Vec<Listed>, order: Order) -> Vec<Bundle> {
    let (logs, overlaps) = overlaps::of_logs(&listed);
    let bundles = listed.into_iter().zip(logs).enumerate().map(|(number, (listed, log))| Bundle {
        first_place: RecordRanges::of_key(&listed.key).first_place(order, log),
        owner: Owner {
            log,
            bundle: number as u32,
            overlaps: Overlaps::Within(Arc::clone(&overlaps[log as usize])),
            left_out: Arc::default(),
        },
        listed: Arc::new(listed),
    });
    bundles.collect()
}

/// Returns the block of a record that the index found.
fn block_of(archive: &Archive, ordinal: u64) -> Result<&BlockEntry, SearchError> {
    let entry = archive.blocks().by_ordinal(ordinal);
    Ok(entry.ok_or_else(|| archive.error(Fault::IndexDisagrees { ordinal }))?)
}

/// Converts an error of a bundle's index to one that names the bundle.
fn read_error(archive: &Archive, error: ReadError) -> SearchError {
    match error {
        ReadError::TooBroad { paths } => SearchError::TooBroad { bundle: archive.name(), paths },
        ReadError::PrefixTooBroad => SearchError::PrefixTooBroad { bundle: archive.name() },
        // The error names the bundle and the place already.
        ReadError::Parts(error) => match error.downcast::<ArchiveError>() {
            Ok(error) => error.into(),
            Err(error) => archive.error(error).into(),
        },
        error => archive.error(error).into(),
    }
}

#[cfg(test)]
mod tests;
