//! The read story: a query becomes records.
//!
//! A LIST names the bundles, and their keys say which of them come into question and in which order. Those that promise most are opened
//! first, a few at a time; of each index only what the query needs is read ([`Leaf`](crate::index::Leaf)); and when as many records are
//! found as are asked for, and no other bundle can hold one that comes before them, that is enough. The records are then read from their
//! blocks, piece by piece. Where bundles overlap, as those of two replicas do, each offset of a log counts and is answered once, unless the
//! bundles hold different records for it: then all of them are answered, and the conflict is reported.
//!
//! An answer is whole or an error: a bundle that cannot be read fails the search, by its name. All searches of a process share a bounded
//! memory ([`Searcher`]), and each of them has an end.
//!
//! Knows nothing of gRPC or the command line, nor of the write path.

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

use crate::archive::{Archive, ArchiveError, Fault, Traffic};
use crate::budget::Budget;
use crate::bundle::{BlockEntry, TAIL_BYTES};
use crate::ids::{CallerId, LogId, TopicPartition};
use crate::index::{PREFIX_TERMS_MAX, Plan, ReadError};
use crate::registry::{self, Selected};
use crate::spans;
use crate::store::{Listed, StoreError};

pub use crate::archive::{BundleCache, StoredRecord};
pub use crate::index::{Order, Query, QueryError};
pub use crate::registry::Filter;
pub use crate::transactions::{Isolation, TransactionState};

use bundle::{Bundle, search_bundle};
use context::{EndsIt, SearchContext};
use hit_collector::{Counts, Owner};
pub use memory::FetchMemory;
use memory::SearchMemory;
use overlaps::Overlaps;
pub use record_reader::Page;
use record_reader::RecordReader;
use schedule::{RecordRanges, schedule};

/// The most records that one search answers.
pub const LIMIT_MAX: usize = 100_000;

/// How many records a search answers by default.
pub const LIMIT_DEFAULT: usize = 100;

/// The most buckets of time that matches are counted in.
pub const BUCKETS_MAX: usize = 10_000;

/// The most offsets that are reported for having different records. Beyond that the records are answered all the same.
pub const CONFLICTS_MAX: usize = 1_000;

/// The most bundles that are named for not being able to tell what matches.
pub const UNSURE_MAX: usize = 100;

/// What the searches of a process may take in memory, in bytes, where nothing else is said.
pub const MEMORY_BYTES_DEFAULT: u64 = 128 << 20;

/// How long a search may take, where nothing else is said.
pub const TIME_MAX_DEFAULT: Duration = Duration::from_secs(30);

/// How many bundles are searched at a time.
const BUNDLES_AT_ONCE: usize = 8;

/// How many blocks of records are read at a time.
const BLOCKS_AT_ONCE: usize = 8;

/// Of how many of them the frames are read at a time.
const FRAMES_AT_ONCE: usize = 2;

/// What a search takes while it lasts, in bytes: itself, and messages on their way to a caller who is slow to take them;
const SEARCH_BYTES: u64 = 1 << 20;
/// for each record that it may answer: its place among the hits, and what is remembered of it when it has been answered;
const HIT_BYTES: u64 = 256;
/// for each bundle that comes into question;
const LISTED_BYTES: u64 = 512;
/// for each bundle that is open: its table of blocks, its manifest, and the hot part of its index, which grow with it;
const OPENED_BYTES: u64 = 64 << 10;
const OPENED_SHARE: u64 = 64;
/// and the query, made for this bundle, as long as its values have no more paths than this. Larger plans are paid for by themselves.
const PATHS_USUAL: usize = 16;
/// What is not foreseen is taken in steps.
const EXTRA_STEP_BYTES: u64 = 64 << 10;

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
    /// Whether records of aborted and of open transactions are answered and counted.
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
    /// What it is, if its transaction was not committed.
    pub transaction: Option<TransactionState>,
}

/// What a search found and took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many records match, answered or not, as far as bundles were searched: an offset of a log counts once.
    pub matched: u64,
    /// How many bundles were opened.
    pub bundles_searched: u64,
    /// How many were not searched, or not to their end, since there was enough without them that comes first. Then more records may match.
    pub bundles_left: u64,
    /// How many bundles of the topic could not hold what was looked for.
    pub bundles_pruned: u64,
    /// What was read from the store; the LIST counts as one request.
    pub traffic: Traffic,
    /// Offsets for which different records were answered, at most [`CONFLICTS_MAX`].
    pub conflicts: Vec<Conflict>,
    /// Whether a phrase was looked for as its words in any order, since an index does not know their places.
    pub phrases_as_words: bool,
    /// Bundles whose indexes cannot tell for sure what matches, since an earlier release wrote them, at most [`UNSURE_MAX`]: of numbers that are written as
    /// strings, of paths beyond the thousandth, and of the ends of ranges beyond 2^53.
    pub unsure: Vec<String>,
    /// Where each bucket begins, in milliseconds since the Unix epoch, and how many records of it match; ascending, none of them empty.
    pub buckets: Vec<(i64, u64)>,
    /// Of how many bundles records were left out because the end of their transactions is not known. It may be known later.
    pub bundles_with_open: u64,
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
    /// More buckets than are answered.
    #[error("the matches are in more than {BUCKETS_MAX} buckets of time: ask for wider ones")]
    TooManyBuckets,
    /// The search would take more memory than there is for all of them.
    #[error(
        "the search needs {needed_bytes} bytes at once, and there are {there_are_bytes} for all searches: ask for fewer words or records"
    )]
    TooLarge {
        /// What it needs.
        needed_bytes: u64,
        /// What there is.
        there_are_bytes: u64,
    },
    /// Other searches hold the memory.
    #[error("others hold the memory that it needs now")]
    NoRoom {
        /// When there may be some.
        retry_after: Duration,
    },
    /// It took longer than it may.
    #[error("the search has taken the {} ms that it may", time_max.as_millis())]
    OutOfTime {
        /// What it may take.
        time_max: Duration,
    },
    /// The store cannot be listed.
    #[error(transparent)]
    List(#[from] StoreError),
    /// A bundle cannot be read. What it holds is not answered, so nothing is.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Answers searches; clones share the memory that these may take.
#[derive(Clone, Debug)]
pub struct Searcher {
    bundle_cache: BundleCache,
    memory: SearchMemory,
    time_max: Duration,
}

/// An answer as it is read.
#[derive(Debug)]
pub struct Answers {
    record_reader: RecordReader,
    summary: Summary,
    context: Arc<SearchContext>,
    due: Due,
    _ends_it: EndsIt,
}

/// When a search has to be over.
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
    /// Searches the bundles of `bundle_cache`. All searches together take up to `memory_bytes`, beside what the cache keeps, and each of them up to
    /// `time_max` until its last record has been taken.
    pub fn new(bundle_cache: BundleCache, memory_bytes: u64, time_max: Duration) -> Self {
        Self { bundle_cache, memory: SearchMemory::new(memory_bytes), time_max }
    }

    /// The bundles.
    pub fn bundle_cache(&self) -> &BundleCache {
        &self.bundle_cache
    }

    /// The same for somebody who shares the memory with others.
    pub fn for_caller(&self, caller_id: CallerId) -> Self {
        Self { memory: self.memory.clone().for_caller(caller_id), ..self.clone() }
    }

    /// Reserves a part of what searches may take for a fetch: all that there is for fetches, where that is less. Waits no longer than a search may
    /// take.
    pub async fn reserve_for_fetch(&self, bytes: u64) -> Result<FetchMemory, SearchError> {
        self.memory.reserve_for_fetch(bytes, self.time_max).await
    }

    /// What all fetches may hold together, in bytes.
    pub fn fetches_bytes(&self) -> u64 {
        self.memory.fetches_bytes()
    }

    /// What searches share, for another way to read.
    pub fn budget(&self) -> &Budget {
        self.memory.budget()
    }

    /// Searches a topic. `time_max` is what the caller has.
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
        // A listing in its turn, too; what it found is paid for with the rest.
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
        let bundles = in_question(bundles, request.order);
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
            match hunt_through(&context, bundles.clone(), at_once, pruned, due).await {
                // Others hold what it lacks. It gives back what it holds, and waits for its turn with all that it will need, as far as
                // it can tell: each time twice as much, if there is.
                Err(SearchError::NoRoom { .. }) => {
                    let there_are = self.memory.reservable_bytes().saturating_sub(reservable_bytes);
                    let needed_bytes = context.needed_bytes();
                    unforeseen_bytes = (2 * needed_bytes).min(there_are.max(needed_bytes));
                }
                ended => return ended,
            }
        }
    }

    /// What a search takes while it lasts, in bytes, and how many bundles it then has open at a time.
    fn reservable_bytes(&self, request: &Request, bundles: &[Listed]) -> (u64, usize) {
        let largest = bundles.iter().map(|listed| listed.size_bytes).max().unwrap_or(0);
        let plan_bytes = Plan::mem_usage_max(&request.query, PATHS_USUAL);
        let opened_bytes = OPENED_BYTES + plan_bytes + largest / OPENED_SHARE;
        let buckets = if request.bucket_ms.is_some() { BUCKETS_MAX as u64 } else { 0 };
        let places = request.limit as u64 + buckets;
        let at_least = SEARCH_BYTES + places * HIT_BYTES + bundles.len() as u64 * LISTED_BYTES;
        // One search is not to take more than a quarter for bundles that it has open.
        let at_once = (self.memory.reservable_bytes() / 4 / opened_bytes).clamp(1, BUNDLES_AT_ONCE as u64);
        let at_once = at_once.min(bundles.len().max(1) as u64);
        (at_least + at_once * opened_bytes, at_once as usize)
    }
}

/// Goes through the bundles for one search.
async fn hunt_through(
    context: &Arc<SearchContext>,
    bundles: Vec<Bundle>,
    at_once: usize,
    pruned: u64,
    due: Due,
) -> Result<Answers, SearchError> {
    let ends_it = EndsIt(context.ended.clone());
    let (opened, unfinished) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut by_promise = bundles.clone();
    by_promise.sort_by_key(|bundle| bundle.first_place);
    let left = schedule(
        by_promise,
        at_once,
        context.needs_all(),
        |bundle| context.may_keep(&bundle.first_place),
        |done| context.to_go(done),
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
    let (Counts { matched, buckets }, found) = context.take_found().finish()?;
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
    /// The next records; `None` when there are no more.
    pub async fn next(&mut self) -> Result<Option<Page>, SearchError> {
        self.due.bound(self.record_reader.next()).await
    }

    /// What was found, and what it took so far: all of it when [`Answers::next`] has returned `None`.
    pub fn summary(&self) -> Summary {
        let mut traffic = Traffic { requests: 1, bytes: 0 };
        traffic += self.context.traffic.total();
        Summary { traffic, conflicts: self.record_reader.conflicts(), ..self.summary.clone() }
    }
}

/// Searches a topic by itself, and keeps all of the answer.
pub async fn search(bundle_cache: &BundleCache, request: &Request) -> Result<Answer, SearchError> {
    let searcher = Searcher::new(bundle_cache.clone(), MEMORY_BYTES_DEFAULT, Duration::from_secs(3_600));
    let mut answers = searcher.search(request.clone(), None).await?;
    let mut records = Vec::new();
    while let Some(page) = answers.next().await? {
        records.extend(page.records);
    }
    Ok(Answer { records, summary: answers.summary() })
}

/// The bundles by number, in the order of their keys.
fn in_question(listed: Vec<Listed>, order: Order) -> Vec<Bundle> {
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

/// The block of a record that the index found.
fn block_of(archive: &Archive, ordinal: u64) -> Result<&BlockEntry, SearchError> {
    let entry = archive.blocks().by_ordinal(ordinal);
    Ok(entry.ok_or_else(|| archive.error(Fault::IndexDisagrees { ordinal }))?)
}

/// An error of a bundle's index by the bundle's name.
fn read_error(archive: &Archive, error: ReadError) -> SearchError {
    match error {
        ReadError::TooBroad { paths } => SearchError::TooBroad { bundle: archive.name(), paths },
        ReadError::PrefixTooBroad => SearchError::PrefixTooBroad { bundle: archive.name() },
        // The parts' reader has named the bundle and the place.
        ReadError::Parts(error) => match error.downcast::<ArchiveError>() {
            Ok(error) => error.into(),
            Err(error) => archive.error(error).into(),
        },
        error => archive.error(error).into(),
    }
}

#[cfg(test)]
mod tests;
