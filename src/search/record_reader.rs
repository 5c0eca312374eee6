//! Reads the records of the hits from their blocks, a page at a time, and returns each offset of a log once.

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

/// The most bytes that the blocks of a page decompress to, unless the blocks of its first record alone have
/// more.
const PAGE_BLOCKS_BYTES: u64 = 4 << 20;

/// The most memory that the records of a page take, in bytes.
const PAGE_RECORDS_BYTES: u64 = 4 << 20;

/// A record that takes more memory than this, in bytes, is a page of its own. Messages with smaller records
/// wait for their reader in the memory that the search reserves until it ends.
const PAGE_RECORD_BYTES_MAX: u64 = 1 << 20;

/// The most hits in a page.
const PAGE_PLACES: usize = 1_024;

/// A part of an answer. It holds the memory for its records until it is dropped.
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

/// The candidates that are left, and what is known of the returned records.
#[derive(Debug)]
pub(super) struct RecordReader {
    context: Arc<SearchContext>,
    bundles: Vec<Bundle>,
    left: VecDeque<Candidate>,
    /// Records, by bundle and ordinal, that are too large for a page with other records, and the memory that
    /// each needs, in bytes, if it is known.
    large: HashMap<(u32, u64), Option<u64>>,
    answered: usize,
    /// The records returned for each offset that may occur again.
    repeated: HashMap<(u32, i64), Vec<Version>>,
}

/// One of the different records at an offset.
#[derive(Debug)]
struct Version {
    fingerprint: Fingerprint,
    bundle: u32,
    leader_epoch: Option<i32>,
}

/// A hash that distinguishes a record from others.
type Fingerprint = [u8; 16];

/// The blocks that a page is read from, by bundle and position, with the ordinals of the wanted records.
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

    /// Returns the next records; `None` if as many as requested are returned, or none are left.
    pub async fn next(&mut self) -> Result<Option<Page>, SearchError> {
        match self.wanted() {
            Some(_) => spans::stage(spans::take(), self.next_page()).await,
            None => Ok(None),
        }
    }

    /// Returns how many more records may be returned; `None` if none are wanted or none are left.
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

    /// Reads as many of the next records as fit into one page.
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
        // The candidates from the first large one on wait, so that the order is kept. Those that did not fit
        // only because of the records before them are tried again in a page.
        let rest = candidates.split_off(whole);
        self.unmark_small(&rest[usize::from(whole == 0).min(rest.len())..], record_bytes);
        self.put_back(rest);
        let records = self.answer(&candidates, &archives, &marks, picked, wanted)?;
        permit.shrink_to(records_bytes);
        spans::record_size(compressed_bytes, records.len() as u64);
        Ok(Page { records, _permit: permit, _delivery: None })
    }

    /// Removes records from `large` that did not fit only because of the records before them.
    fn unmark_small(&mut self, rest: &[Candidate], record_bytes: u64) {
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

    /// Returns the memory that the records of a page may take, in bytes.
    fn records_bytes(&self) -> u64 {
        PAGE_RECORDS_BYTES.min(self.context.memory.permits_bytes() / 8)
    }

    /// Takes the next candidates. Returns them with their bundles, opened, and the blocks that hold their
    /// records.
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

    /// Opens the bundle of a copy. Opened bundles stay in the bundle cache, and here only for one page: a
    /// search may have hits in thousands of bundles.
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

    /// Returns the records of the candidates, in their order, without records that were returned before.
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

    /// Notes a record as returned. Returns whether it is new.
    fn note(&mut self, candidate: &Candidate, bundle: u32, record: &StoredRecord) -> bool {
        let known = self.repeated.entry((candidate.log, candidate.offset)).or_default();
        let fingerprint = record.fingerprint();
        let is_new = known.iter().all(|answered| answered.fingerprint != fingerprint);
        if is_new {
            known.push(Version { fingerprint, bundle, leader_epoch: record.leader_epoch });
        }
        is_new
    }

    /// Returns the offsets for which different records were returned, the first [`CONFLICTS_MAX`] of them.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let several = self.repeated.iter().filter(|(_, answered)| answered.len() > 1);
        let conflict = |(&(_, offset), answered): (&(u32, i64), &Vec<Version>)| {
            let key = |version: &Version| -> &BundleKey { &self.bundles[version.bundle as usize].listed.key };
            let mut seen = HashSet::new();
            let names = answered.iter().filter(|version| seen.insert(version.bundle));
            let first = key(&answered[0]);
            Conflict {
                partition: first.partition().clone(),
                log_id: first.log_id().clone(),
                offset,
                bundles: names.map(|version| key(version).to_string()).collect(),
                versions: answered.iter().map(|one| (key(one).to_string(), one.leader_epoch)).collect(),
            }
        };
        let mut names: Vec<_> = several.collect();
        names.sort_unstable_by_key(|(name, _)| **name);
        names.truncate(CONFLICTS_MAX);
        names.into_iter().map(conflict).collect()
    }
}

/// Turns a record without its value into [`Picked::TooLarge`]. It is read again, alone.
fn whole(picked: Picked) -> Picked {
    match &picked {
        Picked::Record(StoredRecord { omitted: Some(omitted), .. }) => Picked::TooLarge(omitted.needed_bytes),
        _ => picked,
    }
}

/// Reads the wanted records of each block. Together they take at most `records_bytes` bytes of memory, and
/// each at most `record_bytes`.
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
