//! The answer, piece by piece.

use std::collections::VecDeque;
use std::sync::Arc;

use super::block;
use super::large;
use super::log::{Found, Log};
use super::memory::Memory;
use super::plan::Plan;
use super::reorder_buffer::{ReorderBuffer, Room, Version, Why};
use super::task::Task;
use super::transactions::Transactions;
use super::{Answered, FetchError, Form, Item, Part, Request};
use crate::archive::{ArchiveError, BundleCache, Fault, Traffic, TrafficCounter};
use crate::ids::{LogId, OffsetRange};
use crate::spans;
use crate::transactions::{Isolation, TransactionState};

/// An answer ends where it has so many conflicts, so that the list of them stays short.
pub const CONFLICTS_MAX: usize = 256;

/// Blocks in work: one is read while another is decoded.
const BLOCKS_AT_ONCE: usize = 2;

/// The log holds different things for one offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The offset; of batches that overlap, the first that they share.
    pub offset: i64,
    /// The bundles; one, where its own frames contradict one another.
    pub bundles: Vec<String>,
}

/// A fetch under way.
#[derive(Debug)]
pub struct Fetch {
    log_id: Option<LogId>,
    other_logs: Vec<(LogId, OffsetRange)>,
    from: i64,
    form: Form,
    isolation: Isolation,
    transactions: Transactions,
    memory: Memory,
    item_bytes_max: u64,
    plan: Plan,
    /// What is answered next, one by one.
    large: VecDeque<(Version, Option<TransactionState>)>,
    reading: VecDeque<Reading>,
    buffer: ReorderBuffer,
    /// Where the next fetch goes on, by what was answered.
    answered_to: i64,
    open_at: Option<i64>,
    is_done: bool,
    last_batch: Option<(OffsetRange, Arc<str>)>,
    conflicts: Vec<Conflict>,
    traffic: TrafficCounter,
}

/// A block that is being read.
#[derive(Debug)]
struct Reading {
    bundle: String,
    first_offset: i64,
    expected: Room,
    buffer: Task<Result<ReorderBuffer, FetchError>>,
}

impl Fetch {
    pub(super) fn new(bundle_cache: BundleCache, request: &Request, found: Found, memory: Memory) -> Self {
        let room = Room { records: request.max_records, bytes: request.max_bytes };
        let traffic = TrafficCounter::default();
        let (log_id, bundles) = found.log.map(|Log { log_id, bundles }| (log_id, bundles)).unzip();
        Self {
            log_id,
            other_logs: found.others,
            from: request.offset,
            form: request.form,
            isolation: request.isolation,
            transactions: Transactions::new(bundle_cache.clone(), traffic.clone()),
            memory,
            item_bytes_max: request.item_bytes_max(),
            large: VecDeque::new(),
            plan: Plan::new(bundle_cache, traffic.clone(), request.offset, bundles.unwrap_or_default()),
            reading: VecDeque::new(),
            buffer: ReorderBuffer::new(request.offset, room, request.buffer_bytes_max),
            answered_to: request.offset,
            open_at: None,
            is_done: false,
            last_batch: None,
            conflicts: Vec::new(),
            traffic,
        }
    }

    /// The log that is read; `None` where nothing of it is stored.
    pub fn log_id(&self) -> Option<&LogId> {
        self.log_id.as_ref()
    }

    /// The other logs of the partition and what their bundles cover, at most [`OTHER_LOGS_MAX`](super::OTHER_LOGS_MAX) of them: those
    /// first that were stored to last.
    pub fn other_logs(&self) -> &[(LogId, OffsetRange)] {
        &self.other_logs
    }

    /// The next items, at least one; `None` after the last. After an error there are no more.
    pub async fn next(&mut self) -> Result<Option<Part>, FetchError> {
        loop {
            if let Some((version, transaction)) = self.large.front().cloned() {
                let (item, memory) = large::resolve(version, &self.memory).await?;
                // Not sooner: whoever stops waiting may call again.
                self.large.pop_front();
                return Ok(Some(Part { items: vec![Answered { item, transaction }], memory }));
            }
            if self.is_done {
                return Ok(None);
            }
            // Before anything is taken out of the window, for the same reason.
            self.transactions.read().await?;
            let items = self.take();
            if !items.is_empty() {
                return Ok(Some(Part { items, memory: None }));
            }
            if !self.large.is_empty() {
                continue;
            }
            if self.is_done {
                return Ok(None);
            }
            if self.buffer.is_done(self.next_to_come()) {
                return self.end();
            }
            self.read_ahead().await?;
            let Some(reading) = self.reading.front_mut() else { continue };
            let read = (&mut reading.buffer).await;
            let panicked =
                |_| FetchError::Archive(ArchiveError::new(reading.bundle.as_str(), Fault::Panicked));
            let read = read.map_err(panicked).flatten();
            // Not sooner here either.
            self.reading.pop_front();
            self.buffer.merge(read?);
        }
    }

    /// Where to go on after the last item: behind it, or, where the log has been read to its end, behind the last offset that it
    /// covers; never before what was asked for.
    pub fn next_offset(&self) -> i64 {
        self.answered_to
    }

    /// Where the answer ends because a record follows whose transaction has no end in what is stored: only what is committed is answered, and in the
    /// order of offsets. When the end is stored, a fetch from there goes on.
    pub fn open_at(&self) -> Option<i64> {
        self.open_at
    }

    /// Offsets for which different items were answered.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// What was read from the store so far; the LIST counts as one request.
    pub fn traffic(&self) -> Traffic {
        let mut traffic = Traffic { requests: 1, bytes: 0 };
        traffic += self.traffic.total();
        traffic
    }

    /// Nothing that comes before this offset is still to be found.
    fn next_to_come(&self) -> Option<i64> {
        let reading = self.reading.front().map(|reading| reading.first_offset);
        reading.into_iter().chain(self.plan.next_offset()).min()
    }

    /// Starts to read what is likely to be needed.
    async fn read_ahead(&mut self) -> Result<(), FetchError> {
        while self.reading.len() < BLOCKS_AT_ONCE && self.needs_more() {
            let Some(planned) = self.plan.next().await? else { break };
            let bundle = planned.archive.name();
            self.transactions.add(&bundle, &planned);
            let span = spans::block(&bundle, planned.entry.compressed_len.into());
            self.reading.push_back(Reading {
                first_offset: planned.offsets.first(),
                expected: planned.expected(self.from),
                buffer: Task::spawn(spans::stage(
                    span,
                    block::read(
                        planned,
                        self.form,
                        self.item_bytes_max,
                        self.buffer.bounds(),
                        self.memory.clone(),
                    ),
                )),
                bundle,
            });
        }
        Ok(())
    }

    /// Whether the blocks that are being read will not do. One always is.
    fn needs_more(&self) -> bool {
        let mut expected = Room::default();
        self.reading.iter().for_each(|reading| expected += reading.expected);
        let left = self.buffer.room_left();
        self.reading.is_empty() || (expected.records < left.records && expected.bytes < left.bytes)
    }

    /// What nothing can come before any more.
    fn take(&mut self) -> Vec<Answered> {
        let mut answered = Vec::new();
        for (offset, versions) in self.buffer.take_before(self.next_to_come()) {
            let states = versions.iter().map(|version| self.transactions.state_of(version));
            let mut states: Vec<_> = states.collect();
            let mut versions = versions;
            if self.isolation == Isolation::Committed {
                if states.contains(&Some(TransactionState::Open)) {
                    self.end_at_open(&versions);
                    break;
                }
                let mut kept = states.iter().map(Option::is_none);
                versions.retain(|_| kept.next().unwrap_or_default());
                states = vec![None; versions.len()];
            }
            if self.conflicts.len() >= CONFLICTS_MAX {
                self.is_done = true;
                break;
            }
            self.compare(offset, &versions);
            self.answered_to = offset.saturating_add(1);
            if versions.iter().any(|version| version.large.is_some()) {
                // The window holds nothing behind what is so large.
                self.large.extend(versions.into_iter().zip(states));
            } else {
                let items = versions.into_iter().zip(states);
                answered
                    .extend(items.map(|(version, transaction)| Answered { item: version.item, transaction }));
            }
        }
        self.transactions.forget_before(self.answered_to);
        answered
    }

    /// Nothing more is answered: these belong to a transaction whose end is not known.
    fn end_at_open(&mut self, versions: &[Version]) {
        let first = versions.iter().map(|version| version.item.first_offset()).min();
        self.answered_to = self.answered_to.max(first.unwrap_or(self.answered_to));
        (self.open_at, self.is_done) = (Some(self.answered_to), true);
    }

    fn compare(&mut self, offset: i64, versions: &[Version]) {
        match self.form {
            Form::Records if versions.len() > 1 => {
                let bundles = versions.iter().map(|version| &*version.bundle);
                self.conflicts.push(Conflict::new(offset, bundles));
            }
            Form::Records => {}
            Form::KafkaBatches => versions.iter().for_each(|version| self.compare_batch(version)),
        }
    }

    /// Batches come in the order of their last offsets: one that overlaps any before it overlaps the one before it.
    fn compare_batch(&mut self, version: &Version) {
        let Item::Batch(batch) = &version.item else { return };
        let before = self.last_batch.replace((batch.range, Arc::clone(&version.bundle)));
        if let Some((before, bundle)) = before.filter(|(before, _)| before.overlaps(&batch.range)) {
            let offset = before.first().max(batch.range.first());
            self.conflicts.push(Conflict::new(offset, [&*bundle, &*version.bundle].into_iter()));
        }
    }

    /// Nothing more is answered.
    fn end(&mut self) -> Result<Option<Part>, FetchError> {
        let is_read_to_its_end = self.buffer.end().is_none() && self.next_to_come().is_none();
        self.is_done = true;
        self.reading.clear();
        if is_read_to_its_end {
            // All bundles with anything at the asked offset or behind it were opened.
            let behind = self.plan.last_covered().map_or(self.from, |last| last.saturating_add(1));
            self.answered_to = self.answered_to.max(behind);
        }
        match self.buffer.missing() {
            // What comes before it is answered first.
            Some(missing) if self.answered_to == self.from => {
                let (bundle, offset) = (missing.bundle.to_string(), missing.offset);
                Err(match missing.why {
                    Why::NoBatch(why) => FetchError::NoBatch { bundle, offset, why },
                    Why::TooLarge(needed_bytes) => FetchError::TooLarge { bundle, offset, needed_bytes },
                })
            }
            _ => Ok(None),
        }
    }
}

impl Conflict {
    fn new<'a>(offset: i64, bundles: impl Iterator<Item = &'a str>) -> Self {
        let mut bundles: Vec<_> = bundles.map(str::to_owned).collect();
        bundles.dedup();
        Self { offset, bundles }
    }
}
