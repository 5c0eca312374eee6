//! From hits to records: read from their blocks a page at a time, and each offset of a log answered once.

mod large;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::bundle::Bundle;
use super::context::SearchContext;
use super::memory::SearchPermit;
use super::top_hits::{Copy, Found as Candidate};
use super::transactions::Marks;
use super::{BLOCKS_AT_ONCE, CONFLICTS_MAX, Conflict, FRAMES_AT_ONCE, Found, SearchError, block_of};
use crate::archive::{Archive, Fault, MemoryAllowance, Picked, StoredRecord, WorkBounds, block_usage};
use crate::budget::Permit;
use crate::bundle::BlockEntry;
use crate::spans;
use crate::store::BundleKey;

/// A page needs no more blocks than open to so much, in bytes, unless one alone does.
const PAGE_BLOCKS_BYTES: u64 = 4 << 20;

/// What the records of a page take in memory at most, in bytes.
const PAGE_RECORDS_BYTES: u64 = 4 << 20;

/// A record that takes more in memory is a page of its own, in bytes: a message of smaller ones waits for its reader in what its search takes as long
/// as it lasts.
const PAGE_RECORD_BYTES_MAX: u64 = 1 << 20;

/// How many places make up a page at most.
const PAGE_PLACES: usize = 1_024;

/// A part of an answer, and the memory that it takes for as long as it is there.
#[derive(Debug)]
pub struct Page {
    /// The next records, in order.
    pub records: Vec<Found>,
    _permit: SearchPermit,
    _delivery: Option<Permit>,
}

impl Page {
    fn empty(permit: SearchPermit) -> Self {
        Self { records: Vec::new(), _permit: permit, _delivery: None }
    }
}

/// The candidates that are left, and what has been answered.
#[derive(Debug)]
pub(super) struct RecordReader {
    context: Arc<SearchContext>,
    bundles: Vec<Bundle>,
    left: VecDeque<Candidate>,
    /// Those that are too large for a page that has others too, and what they need, in bytes, where that is known.
    large: HashMap<(u32, u64), Option<u64>>,
    answered: usize,
    /// The records answered for each offset that may come again: what they are, and whose.
    repeated: HashMap<(u32, i64), Vec<(Fingerprint, u32)>>,
}

/// What a record is told from others by.
type Fingerprint = [u8; 16];

/// The blocks that a piece is read from, by bundle and position; the ordinals wanted of each.
type Blocks = BTreeMap<(u32, u64), (BlockEntry, Vec<u64>)>;

impl RecordReader {
    pub fn new(context: Arc<SearchContext>, bundles: Vec<Bundle>, found: Vec<Candidate>) -> Self {
        Self {
            context,
            bundles,
            left: found.into(),
            large: HashMap::new(),
            answered: 0,
            repeated: HashMap::new(),
        }
    }

    /// The next records; `None` when there are as many as were asked for, or no more.
    pub async fn next(&mut self) -> Result<Option<Page>, SearchError> {
        match self.wanted() {
            Some(_) => spans::stage(spans::take(), self.next_page()).await,
            None => Ok(None),
        }
    }

    /// How many more may be answered; `None` where none are wanted, or left.
    fn wanted(&self) -> Option<usize> {
        let wanted = self.context.request.limit - self.answered;
        (wanted > 0 && !self.left.is_empty()).then_some(wanted)
    }

    async fn next_page(&mut self) -> Result<Option<Page>, SearchError> {
        while let Some(wanted) = self.wanted() {
            let first = self.left.front().and_then(|candidate| candidate.copies.first());
            let page = match first.is_some_and(|copy| self.large.contains_key(&(copy.bundle, copy.ordinal))) {
                true => self.large_page().await?,
                false => self.page_of(wanted).await?,
            };
            if !page.records.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    /// As many records as go together.
    async fn page_of(&mut self, wanted: usize) -> Result<Page, SearchError> {
        let (mut candidates, archives, blocks) = self.next_blocks(wanted.min(PAGE_PLACES)).await?;
        let marks = self.context.transactions.marks(&self.context, &archives).await?;
        let mut permit = self.context.memory.permit();
        let (work, records_bytes) = (self.context.memory.work_bytes(), self.records_bytes());
        let record_bytes = records_bytes.min(PAGE_RECORD_BYTES_MAX);
        let blocks_bytes: u64 = blocks.values().map(|(entry, _)| block_usage(entry)).sum();
        let needed = blocks_bytes + FRAMES_AT_ONCE as u64 * work + records_bytes;
        if candidates.len() <= 1 && needed > self.context.memory.largest_permit() {
            self.large.extend(
                candidates.iter().flat_map(|one| &one.copies).map(|copy| ((copy.bundle, copy.ordinal), None)),
            );
            self.put_back(candidates);
            return Ok(Page::empty(permit));
        }
        permit.grow_to(needed, || {}).await?;
        let compressed_bytes = blocks.values().map(|(entry, _)| u64::from(entry.compressed_len)).sum();
        let picked = read(&archives, blocks, WorkBounds::new(work), records_bytes, record_bytes).await?;
        self.large.extend(picked.iter().filter_map(|(place, picked)| match picked {
            Picked::Record(_) => None,
            Picked::TooLarge(needed) => Some((*place, Some(*needed))),
            Picked::FrameTooLarge => Some((*place, None)),
        }));
        let is_whole = |candidate: &Candidate| {
            candidate.copies.iter().all(|copy| !self.large.contains_key(&(copy.bundle, copy.ordinal)))
        };
        let whole = candidates.iter().take_while(|candidate| is_whole(candidate)).count();
        // What comes behind it waits: the order is kept. Of those only the large ones are known to be.
        let rest = candidates.split_off(whole);
        self.forget_small(&rest[usize::from(whole == 0).min(rest.len())..], record_bytes);
        self.put_back(rest);
        let records = self.answer(&candidates, &archives, &marks, picked, wanted)?;
        permit.shrink_to(records_bytes);
        spans::record_size(compressed_bytes, records.len() as u64);
        Ok(Page { records, _permit: permit, _delivery: None })
    }

    /// What was too large only since others came first is not.
    fn forget_small(&mut self, rest: &[Candidate], record_bytes: u64) {
        for copy in rest.iter().flat_map(|candidate| &candidate.copies) {
            let place = (copy.bundle, copy.ordinal);
            if self
                .large
                .get(&place)
                .is_some_and(|needed| needed.is_some_and(|needed| needed <= record_bytes))
            {
                self.large.remove(&place);
            }
        }
    }

    fn put_back(&mut self, candidates: Vec<Candidate>) {
        candidates.into_iter().rev().for_each(|candidate| self.left.push_front(candidate));
    }

    /// What the records of a page may take in memory, in bytes.
    fn records_bytes(&self) -> u64 {
        PAGE_RECORDS_BYTES.min(self.context.memory.permits_bytes() / 8)
    }

    /// The next candidates, the bundles that hold them, opened, and the blocks in which they are.
    async fn next_blocks(
        &mut self,
        places: usize,
    ) -> Result<(Vec<Candidate>, HashMap<u32, Archive>, Blocks), SearchError> {
        let (mut candidates, mut archives, mut blocks) = (Vec::new(), HashMap::new(), Blocks::new());
        let mut blocks_bytes = 0;
        while candidates.len() < places
            && let Some(next) = self.left.front()
        {
            let mut new = Vec::new();
            for copy in &next.copies {
                let archive = self.open(copy, &mut archives).await?;
                let entry = block_of(archive, copy.ordinal)?;
                if !blocks.contains_key(&(copy.bundle, entry.position)) {
                    new.push(((copy.bundle, entry.position), entry.clone()));
                }
            }
            let new_bytes: u64 = new.iter().map(|(_, entry)| u64::from(entry.plain_len)).sum();
            let blocks_max = PAGE_BLOCKS_BYTES.min(self.context.memory.permits_bytes() / 8);
            if !candidates.is_empty() && blocks_bytes + new_bytes > blocks_max {
                break;
            }
            blocks_bytes += new_bytes;
            blocks.extend(new.into_iter().map(|(place, entry)| (place, (entry, Vec::new()))));
            for copy in &next.copies {
                let entry = block_of(&archives[&copy.bundle], copy.ordinal)?;
                if let Some((_, ordinals)) = blocks.get_mut(&(copy.bundle, entry.position)) {
                    ordinals.push(copy.ordinal);
                }
            }
            candidates.extend(self.left.pop_front());
        }
        Ok((candidates, archives, blocks))
    }

    /// Opened bundles are kept by the bundle cache, not here: a search may find its hits in thousands.
    async fn open<'a>(
        &self,
        copy: &Copy,
        archives: &'a mut HashMap<u32, Archive>,
    ) -> Result<&'a Archive, SearchError> {
        match archives.entry(copy.bundle) {
            std::collections::hash_map::Entry::Occupied(opened) => Ok(opened.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let listed = &self.bundles[copy.bundle as usize].listed;
                Ok(place.insert(self.context.bundle_cache.open(listed, &self.context.traffic).await?))
            }
        }
    }

    /// The records of the candidates, in their order, but for those that were answered before.
    fn answer(
        &mut self,
        candidates: &[Candidate],
        archives: &HashMap<u32, Archive>,
        marks: &Marks,
        mut picked: HashMap<(u32, u64), Picked>,
        wanted: usize,
    ) -> Result<Vec<Found>, SearchError> {
        let mut answered = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            for copy in &candidate.copies {
                let archive = &archives[&copy.bundle];
                let record = match picked.remove(&(copy.bundle, copy.ordinal)) {
                    Some(Picked::Record(record)) if record.offset == candidate.offset => record,
                    _ => return Err(archive.error(Fault::IndexDisagrees { ordinal: copy.ordinal }).into()),
                };
                let is_new = !candidate.overlaps || self.note(candidate, copy.bundle, &record);
                if is_new && answered.len() < wanted {
                    answered.push(Found {
                        partition: archive.partition().clone(),
                        log_id: archive.log_id().clone(),
                        transaction: marks.get(&copy.bundle).and_then(|mark| mark.state_of(record.offset)),
                        record,
                        score: copy.score,
                    });
                }
            }
        }
        self.answered += answered.len();
        Ok(answered)
    }

    /// Whether a record has not been answered yet.
    fn note(&mut self, candidate: &Candidate, bundle: u32, record: &StoredRecord) -> bool {
        let known = self.repeated.entry((candidate.log, candidate.offset)).or_default();
        let fingerprint = record.fingerprint();
        let is_new = known.iter().all(|(answered, _)| *answered != fingerprint);
        if is_new {
            known.push((fingerprint, bundle));
        }
        is_new
    }

    /// Offsets for which different records were answered, the first [`CONFLICTS_MAX`] of them.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let several = self.repeated.iter().filter(|(_, answered)| answered.len() > 1);
        let conflict = |(&(_, offset), answered): (&(u32, i64), &Vec<(Fingerprint, u32)>)| {
            let key = |bundle: u32| -> &BundleKey { &self.bundles[bundle as usize].listed.key };
            let mut seen = HashSet::new();
            let names = answered.iter().filter(|(_, bundle)| seen.insert(*bundle));
            let first = key(answered[0].1);
            Conflict {
                partition: first.partition().clone(),
                log_id: first.log_id().clone(),
                offset,
                bundles: names.map(|(_, bundle)| key(*bundle).to_string()).collect(),
            }
        };
        let mut names: Vec<_> = several.collect();
        names.sort_unstable_by_key(|(name, _)| **name);
        names.truncate(CONFLICTS_MAX);
        names.into_iter().map(conflict).collect()
    }
}

/// A record without its value is too large here.
fn whole(picked: Picked) -> Picked {
    match &picked {
        Picked::Record(StoredRecord { omitted: Some(omitted), .. }) => Picked::TooLarge(omitted.needed_bytes),
        _ => picked,
    }
}

/// Reads the records that are wanted of each block. Together they take no more than `records_bytes` bytes, and none more than `record_bytes`.
async fn read(
    archives: &HashMap<u32, Archive>,
    blocks: Blocks,
    bounds: WorkBounds,
    records_bytes: u64,
    record_bytes: u64,
) -> Result<HashMap<(u32, u64), Picked>, SearchError> {
    let allowance = Arc::new(MemoryAllowance::new(records_bytes));
    let record_bytes = usize::try_from(record_bytes).unwrap_or(usize::MAX);
    let opened = blocks.into_iter().map(|((bundle, _), (entry, mut ordinals))| async move {
        ordinals.sort_unstable();
        let plain = archives[&bundle].block(&entry).await?;
        Ok::<_, SearchError>((bundle, entry, plain, ordinals))
    });
    let picked = stream::iter(opened).buffer_unordered(BLOCKS_AT_ONCE).map(|opened| {
        let allowance = Arc::clone(&allowance);
        async move {
            let (bundle, entry, plain, ordinals) = opened?;
            let archive = &archives[&bundle];
            let picked = archive.records(&entry, plain, ordinals, bounds, record_bytes, allowance).await?;
            Ok::<_, SearchError>(
                picked.into_iter().map(move |(ordinal, one)| ((bundle, ordinal), whole(one))),
            )
        }
    });
    let mut picked = picked.buffer_unordered(FRAMES_AT_ONCE);
    let mut records = HashMap::new();
    while let Some(some) = picked.try_next().await? {
        records.extend(some);
    }
    Ok(records)
}
