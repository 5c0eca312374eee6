//! Chooses the next block to read: the one with the lowest first offset over all bundles. A bundle is opened
//! only when it is the next one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::future::try_join_all;

use super::reorder_buffer::Amount;
use crate::archive::{Archive, ArchiveError, BundleCache, TrafficCounter};
use crate::bundle::BlockEntry;
use crate::ids::OffsetRange;
use crate::spans;
use crate::store::Listed;

/// The maximum number of bundles that are opened at the same time, if they overlap.
const OPENS_AT_ONCE: usize = 8;

/// The blocks that may hold requested records, in the order of their first offsets.
#[derive(Debug)]
pub(super) struct Plan {
    bundle_cache: BundleCache,
    traffic: TrafficCounter,
    from: i64,
    unopened: VecDeque<Listed>,
    opened: u64,
    /// The last offset that the opened bundles cover. A bundle that covers no offset does not count: the
    /// offset in its key is only its position.
    last_covered: Option<i64>,
    /// By first offset, then by the order of bundles and of blocks, so that the order is always the same.
    blocks: BTreeMap<(i64, u64, usize), Arc<Archive>>,
}

/// A block to read.
#[derive(Debug)]
pub(super) struct Planned {
    pub archive: Arc<Archive>,
    pub entry: BlockEntry,
    pub offsets: OffsetRange,
}

impl Plan {
    /// `bundles` are in the order of their first offsets.
    pub fn new(bundle_cache: BundleCache, traffic: TrafficCounter, from: i64, bundles: Vec<Listed>) -> Self {
        let unopened = bundles.into_iter().filter(|one| one.key.range().last() >= from).collect();
        Self { bundle_cache, traffic, from, unopened, opened: 0, last_covered: None, blocks: BTreeMap::new() }
    }

    /// The lowest offset that an unread block may hold; `None` if no block is left.
    pub fn next_offset(&self) -> Option<i64> {
        let opened = self.blocks.first_key_value().map(|((first, ..), _)| *first);
        opened.into_iter().chain(self.next_unopened()).min()
    }

    /// The last offset that the opened bundles cover.
    pub fn last_covered(&self) -> Option<i64> {
        self.last_covered
    }

    fn next_unopened(&self) -> Option<i64> {
        self.unopened.front().map(|one| one.key.range().first())
    }

    /// Takes the next block.
    pub async fn next(&mut self) -> Result<Option<Planned>, ArchiveError> {
        while let Some(first) = self.next_unopened().filter(|first| self.next_offset() == Some(*first)) {
            self.open_up_to(first).await?;
        }
        while let Some(((_, _, at), archive)) = self.blocks.pop_first() {
            let entry = archive.blocks().entries().get(at).cloned();
            if let Some(entry) = entry
                && let Some(offsets) = entry.offsets
            {
                return Ok(Some(Planned { archive, entry, offsets }));
            }
        }
        Ok(None)
    }

    /// Opens the next bundles concurrently: those that begin at or before `first`, or before the requested
    /// offset.
    async fn open_up_to(&mut self, first: i64) -> Result<(), ArchiveError> {
        let now = first.max(self.from);
        let count = self.unopened.iter().take_while(|one| one.key.range().first() <= now).count();
        let opens = self.unopened.iter().take(count.min(OPENS_AT_ONCE));
        let opens = opens.map(|listed| {
            spans::stage(spans::open(&listed.key), self.bundle_cache.open(listed, &self.traffic))
        });
        let opened = try_join_all(opens).await?;
        self.unopened.drain(..opened.len());
        for archive in opened {
            self.add(Arc::new(archive));
        }
        Ok(())
    }

    fn add(&mut self, archive: Arc<Archive>) {
        let covered = archive.manifest().covered().map(|covered| covered.last());
        self.last_covered = self.last_covered.into_iter().chain(covered).max();
        for (at, entry) in archive.blocks().entries().iter().enumerate() {
            if let Some(offsets) = entry.offsets.filter(|offsets| offsets.last() >= self.from) {
                self.blocks.insert((offsets.first(), self.opened, at), Arc::clone(&archive));
            }
        }
        self.opened += 1;
    }
}

impl Planned {
    /// Estimates how much the block holds from an offset on. Assumes that its records are spread evenly.
    pub fn expected(&self, from: i64) -> Amount {
        let count = |from: i64| self.offsets.last().abs_diff(from).saturating_add(1);
        let share = count(from.max(self.offsets.first())) as f64 / count(self.offsets.first()) as f64;
        let of = |whole: u64| (whole as f64 * share) as u64;
        Amount { records: of(self.entry.records), bytes: of(self.entry.plain_len.into()) }
    }
}
