//! From hits to records: read from their blocks a piece at a time, and each offset of a log answered once.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::best::{Copy, Found as Candidate};
use super::bundle::Bundle;
use super::hunt::Hunt;
use super::room::Share;
use super::transactions::Marks;
use super::{BLOCKS_AT_ONCE, CONFLICTS_MAX, Conflict, Found, SearchError, block_of};
use crate::archive::{Archive, Fault, StoredRecord};
use crate::bundle::BlockEntry;
use crate::spans;
use crate::store::BundleKey;

/// A piece of the answer needs no more blocks than open to so much, in bytes, unless one alone does.
const PIECE_BLOCKS_BYTES: u64 = 8 << 20;

/// How many places make up a piece at most.
const PIECE_PLACES: usize = 1_024;

/// A part of an answer, and the memory that it takes for as long as it is there.
#[derive(Debug)]
pub struct Piece {
    /// The next records, in order.
    pub records: Vec<Found>,
    _share: Share,
}

/// The candidates that are left, and what has been answered.
#[derive(Debug)]
pub(super) struct Taking {
    hunt: Arc<Hunt>,
    bundles: Vec<Bundle>,
    left: VecDeque<Candidate>,
    answered: usize,
    /// The records answered for each offset that may come again: what they are, and whose.
    repeated: HashMap<(u32, i64), Vec<(Fingerprint, u32)>>,
}

/// What a record is told from others by.
type Fingerprint = [u8; 16];

/// The blocks that a piece is read from, by bundle and position; the ordinals wanted of each.
type Blocks = BTreeMap<(u32, u64), (BlockEntry, Vec<u64>)>;

impl Taking {
    pub fn new(hunt: Arc<Hunt>, bundles: Vec<Bundle>, found: Vec<Candidate>) -> Self {
        Self { hunt, bundles, left: found.into(), answered: 0, repeated: HashMap::new() }
    }

    /// The next records; `None` when there are as many as were asked for, or no more.
    pub async fn next(&mut self) -> Result<Option<Piece>, SearchError> {
        match self.wanted() {
            Some(_) => spans::stage(spans::take(), self.next_piece()).await,
            None => Ok(None),
        }
    }

    /// How many more may be answered; `None` where none are wanted, or left.
    fn wanted(&self) -> Option<usize> {
        let wanted = self.hunt.request.limit - self.answered;
        (wanted > 0 && !self.left.is_empty()).then_some(wanted)
    }

    async fn next_piece(&mut self) -> Result<Option<Piece>, SearchError> {
        while let Some(wanted) = self.wanted() {
            let (candidates, archives, blocks) = self.next_blocks(wanted.min(PIECE_PLACES)).await?;
            let marks = self.hunt.transactions.marks(&self.hunt, &archives).await?;
            let mut share = self.hunt.room.share();
            let blocks_bytes = blocks.values().map(|(entry, _)| u64::from(entry.compressed_len)).sum();
            let sizes = blocks
                .values()
                .map(|(entry, _)| 2 * u64::from(entry.plain_len) + u64::from(entry.compressed_len));
            share.grow_to(sizes.sum(), || {}).await?;
            let records = read(&archives, blocks).await?;
            let records = self.answer(&candidates, &archives, &marks, records, wanted)?;
            if !records.is_empty() {
                spans::took(blocks_bytes, records.len() as u64);
                return Ok(Some(Piece { records, _share: share }));
            }
        }
        Ok(None)
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
            if !candidates.is_empty() && blocks_bytes + new_bytes > PIECE_BLOCKS_BYTES {
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

    /// Opened bundles are kept by the shelf, not here: a search may find its hits in thousands.
    async fn open<'a>(
        &self,
        copy: &Copy,
        archives: &'a mut HashMap<u32, Archive>,
    ) -> Result<&'a Archive, SearchError> {
        match archives.entry(copy.bundle) {
            std::collections::hash_map::Entry::Occupied(opened) => Ok(opened.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let listed = &self.bundles[copy.bundle as usize].listed;
                Ok(place.insert(self.hunt.shelf.open(listed, &self.hunt.traffic).await?))
            }
        }
    }

    /// The records of the candidates, in their order, but for those that were answered before.
    fn answer(
        &mut self,
        candidates: &[Candidate],
        archives: &HashMap<u32, Archive>,
        marks: &Marks,
        mut records: HashMap<(u32, u64), StoredRecord>,
        wanted: usize,
    ) -> Result<Vec<Found>, SearchError> {
        let mut answered = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            for copy in &candidate.copies {
                let archive = &archives[&copy.bundle];
                let record = records.remove(&(copy.bundle, copy.ordinal));
                let record = record.filter(|record| record.offset == candidate.offset);
                let record =
                    record.ok_or_else(|| archive.error(Fault::IndexDisagrees { ordinal: copy.ordinal }))?;
                let is_new = !candidate.repeats || self.note(candidate, copy.bundle, &record);
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
        let fingerprint = fingerprint(record);
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

fn fingerprint(record: &StoredRecord) -> Fingerprint {
    let mut hash = Sha256::new();
    let mut part = |bytes: Option<&[u8]>| {
        hash.update([u8::from(bytes.is_some())]);
        hash.update((bytes.map_or(0, <[u8]>::len) as u64).to_le_bytes());
        hash.update(bytes.unwrap_or_default());
    };
    part(record.timestamp_ms.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
    part(record.key.as_deref());
    part(record.value.as_deref());
    for (name, value) in &record.headers {
        part(Some(name));
        part(value.as_deref());
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut fingerprint = Fingerprint::default();
    fingerprint.copy_from_slice(&hash[..16]);
    fingerprint
}

/// Reads the records that are wanted of each block.
async fn read(
    archives: &HashMap<u32, Archive>,
    blocks: Blocks,
) -> Result<HashMap<(u32, u64), StoredRecord>, SearchError> {
    let reads = blocks.into_iter().map(|((bundle, _), (entry, mut ordinals))| async move {
        ordinals.sort_unstable();
        let records = archives[&bundle].records(&entry, ordinals).await?;
        Ok::<_, SearchError>(records.into_iter().map(move |(ordinal, record)| ((bundle, ordinal), record)))
    });
    let mut reads = stream::iter(reads).buffer_unordered(BLOCKS_AT_ONCE);
    let mut records = HashMap::new();
    while let Some(read) = reads.try_next().await? {
        records.extend(read);
    }
    Ok(records)
}
