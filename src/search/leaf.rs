//! Searches one leaf of a bundle's index, with a permit for its memory.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::context::SearchContext;
use super::hit_collector::{HitCollector, Owner};
use super::memory::SearchPermit;
use super::{BLOCKS_AT_ONCE, FRAMES_AT_ONCE, HIT_BYTES, SearchError};
use crate::archive::{Archive, Fault, WorkBounds, block_usage};
use crate::bundle::BlockEntry;
use crate::index::{Hit, Leaf, Outline, Plan, ReadError, Scored, Step};

/// The memory that an opened leaf takes in addition to what is read from it, in bytes: mostly the ends of its
/// files and the indexes of its dictionaries.
const OPENED_BYTES: u64 = 64 << 10;

/// If there are at most this many hits, their times may be read from their records, instead of from the
/// columns of all records.
const FEW_HITS: usize = 256;

/// How many hits are added between two checks of the number of buckets.
const HITS_BETWEEN_CHECKS: u32 = 4_096;

/// One leaf to search.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub archive: Archive,
    pub outline: Arc<Outline>,
    pub plan: Plan,
    pub owner: Owner,
    /// The number of the leaf in the outline.
    pub number: usize,
    /// Whether none of its offsets may occur more than once, all offsets and times are requested, and no
    /// record is left out. Then matches can be counted without reading their offsets and times.
    pub counts_alone: bool,
}

/// Searches a leaf, and adds its hits to those of the search.
pub(super) async fn search_leaf(context: &SearchContext, task: Task) -> Result<(), SearchError> {
    let documents = task.outline.leaves()[task.number].documents as usize;
    let kept_bytes = context.request.limit.min(documents) as u64 * HIT_BYTES;
    let counted_bytes = if task.counts_alone { 0 } else { documents as u64 * 2 };
    let mut search = Search {
        leaf: None,
        permit: context.memory.permit(),
        kept_bytes: kept_bytes + counted_bytes,
        most_bytes: 0,
        context,
        task,
    };
    let found = search.run().await?;
    context.add_leaf(found)
}

struct Search<'a> {
    context: &'a SearchContext,
    task: Task,
    leaf: Option<Leaf>,
    permit: SearchPermit,
    /// The memory for the hits, in bytes.
    kept_bytes: u64,
    /// The most memory that the leaf was known to need, in bytes.
    most_bytes: u64,
}

impl Search<'_> {
    async fn run(&mut self) -> Result<HitCollector, SearchError> {
        let mut found = self.context.new_collector();
        if self.context.counts_only() && self.task.counts_alone {
            let ended = self.context.ended.clone();
            let count = self.ask(move |leaf| leaf.count(&|| ended.is_set())).await?;
            found.count(count);
            return Ok(found);
        }
        if let Some(few) = self.ask(|leaf| leaf.few(FEW_HITS)).await? {
            if few.is_empty() {
                return Ok(found);
            }
            let columns_bytes = self.ask(Leaf::columns_bytes).await?;
            let blocks = blocks_of(&self.task.archive, &few)?;
            let blocks_bytes: u64 = blocks.values().map(|(entry, _)| u64::from(entry.compressed_len)).sum();
            let opened_bytes: u64 = blocks.values().map(|(entry, _)| block_usage(entry)).sum();
            let needed =
                self.kept_bytes + opened_bytes + FRAMES_AT_ONCE as u64 * self.context.memory.work_bytes();
            if blocks_bytes <= columns_bytes
                && opened_bytes <= self.context.memory.permits_bytes() / 4
                && needed <= self.context.memory.largest_permit()
                && let Some(found) = self.read_blocks(&few, blocks).await?
            {
                return Ok(found);
            }
        }
        self.read_columns().await
    }

    /// Asks the leaf, and fetches what it lacks, until it answers.
    async fn ask<T: Send + 'static>(
        &mut self,
        ask: impl Fn(&mut Leaf) -> Result<Step<T>, ReadError> + Clone + Send + 'static,
    ) -> Result<T, SearchError> {
        loop {
            let mut leaf = self.leaf.take().unwrap_or_else(|| self.new_leaf());
            self.most_bytes = self.most_bytes.max(leaf.needed_bytes() + OPENED_BYTES);
            let mut held = Some(leaf);
            self.permit.grow_to(self.kept_bytes + self.most_bytes, || held = None).await?;
            leaf = held.unwrap_or_else(|| self.new_leaf());
            leaf.fetch().await.map_err(|error| self.failed(ReadError::Parts(error)))?;
            leaf.set_bytes_max(self.most_bytes);
            let ask = ask.clone();
            let asked = self.context.memory.run(move || {
                let answer = ask(&mut leaf);
                (leaf, answer)
            });
            let (leaf, answer) = asked.await.map_err(|fault| self.task.archive.error(fault))?;
            self.leaf = Some(leaf);
            if let Step::Done(done) = answer.map_err(|error| self.failed(error))? {
                return Ok(done);
            }
        }
    }

    fn new_leaf(&self) -> Leaf {
        self.task.outline.leaf(self.task.number, &self.task.plan, 0)
    }

    fn failed(&self, error: ReadError) -> SearchError {
        super::read_error(&self.task.archive, error)
    }

    /// Reads offsets and times of all matches from the columns of the index.
    async fn read_columns(&mut self) -> Result<HitCollector, SearchError> {
        let bounds = self.context.bounds();
        let (empty, owner) = (self.context.collector_settings(), self.task.owner.clone());
        let ended = self.context.ended.clone();
        let found = self.ask(move |leaf| {
            let (mut found, mut hits) = (empty.hit_collector(), 0_u32);
            let step = leaf.each(&bounds, &mut |hit| {
                found.add(&owner, &hit);
                hits += 1;
                if ended.is_set() || hits.is_multiple_of(HITS_BETWEEN_CHECKS) && found.check().is_err() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
            Ok(match step {
                Step::Done(()) => Step::Done(found),
                Step::Missing => Step::Missing,
            })
        });
        found.await
    }

    /// Reads offsets and times of a few matches from their records. That is less to read than the columns of
    /// all records, and if the records are wanted later, their blocks are read already. Returns `None` if a
    /// frame needs too much memory.
    async fn read_blocks(
        &mut self,
        few: &[Scored],
        blocks: Blocks,
    ) -> Result<Option<HitCollector>, SearchError> {
        self.leaf = None;
        let blocks_bytes: u64 = blocks.values().map(|(entry, _)| block_usage(entry)).sum();
        let work = self.context.memory.work_bytes();
        self.permit.grow_to(self.kept_bytes + blocks_bytes + FRAMES_AT_ONCE as u64 * work, || {}).await?;
        let archive = &self.task.archive;
        let opened = blocks.into_values().map(async |(entry, ordinals)| {
            let plain = archive.block(&entry).await?;
            Ok::<_, SearchError>((entry, plain, ordinals))
        });
        let found = stream::iter(opened).buffer_unordered(BLOCKS_AT_ONCE).map(async |opened| {
            let (entry, plain, ordinals) = opened?;
            Ok::<_, SearchError>(
                archive.offsets_and_times(&entry, plain, ordinals, WorkBounds::new(work)).await?,
            )
        });
        let mut found = found.buffer_unordered(FRAMES_AT_ONCE);
        let mut known = BTreeMap::new();
        loop {
            let some = match found.try_next().await {
                Err(SearchError::Archive(error)) if error.fault().is_too_large() => return Ok(None),
                some => some?,
            };
            let Some(some) = some else { break };
            known.extend(
                some.into_iter().map(|(ordinal, offset, timestamp_ms)| (ordinal, (offset, timestamp_ms))),
            );
        }
        let (mut found, bounds) = (self.context.new_collector(), self.context.bounds());
        for (ordinal, score) in few.iter().copied() {
            let record = known.get(&ordinal).copied();
            let (offset, timestamp_ms) =
                record.ok_or_else(|| archive.error(Fault::IndexDisagrees { ordinal }))?;
            if bounds.contain(offset, timestamp_ms) {
                found.add(&self.task.owner, &Hit { ordinal, offset, timestamp_ms, score });
            }
        }
        Ok(Some(found))
    }
}

/// Blocks by position, with the ordinals of the wanted records.
type Blocks = BTreeMap<u64, (BlockEntry, Vec<u64>)>;

fn blocks_of(archive: &Archive, hits: &[Scored]) -> Result<Blocks, SearchError> {
    let mut blocks = Blocks::new();
    for (ordinal, _) in hits {
        let entry = super::block_of(archive, *ordinal)?;
        blocks.entry(entry.position).or_insert_with(|| (entry.clone(), Vec::new())).1.push(*ordinal);
    }
    Ok(blocks)
}
