//! The response, produced part by part.

use std::collections::VecDeque;
use std::sync::Arc;

use super::block;
use super::large;
use super::log::{Found, Log};
use super::memory::Memory;
use super::plan::Plan;
use super::reorder_buffer::{Amount, MissingReason, ReorderBuffer, Version};
use super::task::Task;
use super::transactions::Transactions;
use super::{Answered, FetchError, Form, Item, Part, Request};
use crate::archive::{ArchiveError, BundleCache, Fault, Traffic, TrafficCounter};
use crate::ids::{LogId, OffsetRange};
use crate::spans;
use crate::transactions::{Isolation, TransactionState};

/// A response ends after this many conflicts, so that the list of them stays short.
pub const CONFLICTS_MAX: usize = 256;

/// The maximum number of blocks in progress: one is read while another is decoded.
const BLOCKS_AT_ONCE: usize = 2;

/// Different items are stored for one offset of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The offset. For batches that overlap, the first offset that they share.
    pub offset: i64,
    /// The bundles. There is only one if frames of the same bundle contradict each other.
    pub bundles: Vec<String>,
    /// The items, in the order in which they are returned: the bundle of each, and the epoch of the leader
    /// that appended it, if it states one.
    pub versions: Vec<(String, Option<i32>)>,
}

/// The bundle of an item, and the epoch of the leader that appended it.
type Appended = (Arc<str>, Option<i32>);

/// A running fetch.
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
    /// The next items to return. Each is read and returned separately.
    large: VecDeque<(Version, Option<TransactionState>)>,
    reading: VecDeque<Reading>,
    buffer: ReorderBuffer,
    /// The offset at which the next fetch continues, from the items returned so far.
    answered_to: i64,
    open_at: Option<i64>,
    is_done: bool,
    last_batch: Option<(OffsetRange, Appended)>,
    conflicts: Vec<Conflict>,
    traffic: TrafficCounter,
}

/// A block that is being read.
#[derive(Debug)]
struct Reading {
    bundle: String,
    first_offset: i64,
    expected: Amount,
    buffer: Task<Result<ReorderBuffer, FetchError>>,
}

impl Fetch {
    pub(super) fn new(bundle_cache: BundleCache, request: &Request, found: Found, memory: Memory) -> Self {
        let remaining = Amount { records: request.max_records, bytes: request.max_bytes };
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
            buffer: ReorderBuffer::new(request.offset, remaining, request.buffer_bytes_max),
            answered_to: request.offset,
            open_at: None,
            is_done: false,
            last_batch: None,
            conflicts: Vec::new(),
            traffic,
        }
    }

    /// The log that is read; `None` if it is not stored.
    pub fn log_id(&self) -> Option<&LogId> {
        self.log_id.as_ref()
    }

    /// The other logs of the partition and the offsets that their bundles cover, latest stored first. At most
    /// [`OTHER_LOGS_MAX`](super::OTHER_LOGS_MAX).
    pub fn other_logs(&self) -> &[(LogId, OffsetRange)] {
        &self.other_logs
    }

    /// Returns the next items, at least one; `None` after the last. After an error there are no more items.
    pub async fn next(&mut self) -> Result<Option<Part>, FetchError> {
        loop {
            if let Some((version, transaction)) = self.large.front().cloned() {
                let (item, memory) = large::resolve(version, &self.memory).await?;
                // Removed only after the await: a caller may drop this future and call `next` again.
                self.large.pop_front();
                return Ok(Some(Part { items: vec![Answered { item, transaction }], memory }));
            }
            if self.is_done {
                return Ok(None);
            }
            // This await comes before items are taken out of the buffer, for the same reason.
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
            // Removed only after the await, as above.
            self.reading.pop_front();
            self.buffer.merge(read?);
        }
    }

    /// The offset to continue from: after the last item or, if the log was read to its end, after the last
    /// offset that it covers. It is never before the requested offset.
    pub fn next_offset(&self) -> i64 {
        self.answered_to
    }

    /// The offset before which the response ends because the next record belongs to a transaction whose end
    /// is not stored. Only a response with committed records has it. After the end of the transaction is
    /// stored, a fetch from this offset continues.
    pub fn open_at(&self) -> Option<i64> {
        self.open_at
    }

    /// The offsets for which different items were returned.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// The traffic with the store so far. The LIST counts as one request.
    pub fn traffic(&self) -> Traffic {
        let mut traffic = Traffic { requests: 1, bytes: 0 };
        traffic += self.traffic.total();
        traffic
    }

    /// The lowest offset that may still be found.
    fn next_to_come(&self) -> Option<i64> {
        let reading = self.reading.front().map(|reading| reading.first_offset);
        reading.into_iter().chain(self.plan.next_offset()).min()
    }

    /// Starts to read the blocks that are probably needed.
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

    /// Returns whether more blocks are needed than those being read. At least one is always read.
    fn needs_more(&self) -> bool {
        let mut expected = Amount::default();
        self.reading.iter().for_each(|reading| expected += reading.expected);
        let left = self.buffer.left_to_hold();
        self.reading.is_empty() || (expected.records < left.records && expected.bytes < left.bytes)
    }

    /// Takes the items that no unread item can precede.
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
            if versions.iter().any(|version| version.location.is_some()) {
                // The buffer holds nothing after an item of this size.
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

    /// Ends the response before these versions: they belong to a transaction whose end is not known.
    fn end_at_open(&mut self, versions: &[Version]) {
        let first = versions.iter().map(|version| version.item.first_offset()).min();
        self.answered_to = self.answered_to.max(first.unwrap_or(self.answered_to));
        (self.open_at, self.is_done) = (Some(self.answered_to), true);
    }

    fn compare(&mut self, offset: i64, versions: &[Version]) {
        match self.form {
            Form::Records if versions.len() > 1 => {
                self.conflicts.push(Conflict::new(offset, versions.iter().map(appended)));
            }
            Form::Records => {}
            Form::KafkaBatches => versions.iter().for_each(|version| self.compare_batch(version)),
        }
    }

    /// Compares a batch with the previous one. Batches come in the order of their last offsets, so a batch
    /// that overlaps any earlier batch also overlaps the previous one.
    fn compare_batch(&mut self, version: &Version) {
        let Item::Batch(batch) = &version.item else { return };
        let before = self.last_batch.replace((batch.range, appended(version)));
        if let Some((before, other)) = before.filter(|(before, _)| before.overlaps(&batch.range)) {
            let offset = before.first().max(batch.range.first());
            self.conflicts.push(Conflict::new(offset, [other, appended(version)].into_iter()));
        }
    }

    /// Ends the response.
    fn end(&mut self) -> Result<Option<Part>, FetchError> {
        let is_read_to_its_end = self.buffer.end().is_none() && self.next_to_come().is_none();
        self.is_done = true;
        self.reading.clear();
        if is_read_to_its_end {
            // All bundles with an item at or after the requested offset were opened.
            let behind = self.plan.last_covered().map_or(self.from, |last| last.saturating_add(1));
            self.answered_to = self.answered_to.max(behind);
        }
        match self.buffer.missing() {
            // If there are earlier items, they are returned first, and the next fetch returns the error.
            Some(missing) if self.answered_to == self.from => {
                let (bundle, offset) = (missing.bundle.to_string(), missing.offset);
                Err(match missing.why {
                    MissingReason::NoBatch(why) => FetchError::NoBatch { bundle, offset, why },
                    MissingReason::TooLarge(needed_bytes) => {
                        FetchError::TooLarge { bundle, offset, needed_bytes }
                    }
                })
            }
            _ => Ok(None),
        }
    }
}

fn appended(version: &Version) -> Appended {
    (Arc::clone(&version.bundle), version.item.leader_epoch())
}

impl Conflict {
    fn new(offset: i64, versions: impl Iterator<Item = Appended>) -> Self {
        let versions: Vec<_> = versions.map(|(bundle, epoch)| (bundle.to_string(), epoch)).collect();
        let mut bundles: Vec<_> = versions.iter().map(|(bundle, _)| bundle.clone()).collect();
        bundles.dedup();
        Self { offset, bundles, versions }
    }
}
