//! From candidates to records: each read from its block, and each offset of a log answered once.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt, stream};

use super::candidates::Candidate;
use super::hits::BundleHits;
use super::{Conflict, Found, SearchError};
use crate::archive::{Fault, StoredRecord};
use crate::bundle::BlockEntry;
use crate::ids::{LogId, TopicPartition};

/// How many blocks are read at a time.
const BLOCKS_AT_ONCE: usize = 8;

/// How many candidates are read before it is looked at which of them are the same.
const CANDIDATES_AT_ONCE: usize = 10_000;

/// The records to answer.
#[derive(Default)]
pub(super) struct Taken {
    pub records: Vec<Found>,
    pub conflicts: Vec<Conflict>,
}

/// What was answered so far, by offset.
type Answered<'a> = HashMap<(&'a TopicPartition, &'a LogId, i64), Vec<Answer>>;

/// A record that was answered, and the bundle that it came from.
struct Answer {
    record: StoredRecord,
    bundle: usize,
}

/// Reads the first `limit` records, going on where some turn out to be the same as others. More than `bytes_max` are neither
/// answered nor held at once.
pub(super) async fn take(
    found: &[BundleHits],
    candidates: Vec<Candidate>,
    limit: usize,
    bytes_max: usize,
) -> Result<Taken, SearchError> {
    let (mut taken, mut answered, mut bytes) = (Taken::default(), Answered::new(), 0);
    let mut left = candidates.as_slice();
    while taken.records.len() < limit && !left.is_empty() {
        let count = left.len().min(limit - taken.records.len()).min(CANDIDATES_AT_ONCE);
        let (next, rest) = left.split_at(count);
        left = rest;
        for (candidate, record) in next.iter().zip(read(found, next, bytes_max).await?) {
            let archive = &found[candidate.bundle].archive;
            let offset = (archive.partition(), archive.log_id(), record.offset);
            let same_offset: &mut Vec<Answer> = answered.entry(offset).or_default();
            if same_offset.iter().any(|answer| answer.record == record) {
                continue;
            }
            bytes += record.mem_usage();
            if bytes > bytes_max {
                return Err(SearchError::AnswerTooLarge);
            }
            taken.records.push(Found {
                partition: archive.partition().clone(),
                log_id: archive.log_id().clone(),
                record: record.clone(),
                score: candidate.hit.score,
            });
            same_offset.push(Answer { record, bundle: candidate.bundle });
        }
    }
    taken.conflicts = conflicts(found, answered);
    Ok(taken)
}

fn conflicts(found: &[BundleHits], answered: Answered<'_>) -> Vec<Conflict> {
    let several = answered.into_iter().filter(|(_, answers)| answers.len() > 1);
    let mut conflicts: Vec<Conflict> = several
        .map(|((partition, log_id, offset), answers)| Conflict {
            partition: partition.clone(),
            log_id: log_id.clone(),
            offset,
            bundles: answers.iter().map(|answer| found[answer.bundle].archive.name()).collect(),
        })
        .collect();
    conflicts.sort_by(|a, b| (&a.partition, &a.log_id, a.offset).cmp(&(&b.partition, &b.log_id, b.offset)));
    conflicts
}

/// Reads the records of `candidates`, in their order, up to `bytes_max` bytes of them. Each block is read once.
async fn read(
    found: &[BundleHits],
    candidates: &[Candidate],
    bytes_max: usize,
) -> Result<Vec<StoredRecord>, SearchError> {
    // By bundle and by the block's position in it; the ordinals wanted of each block ascend.
    let mut blocks: BTreeMap<(usize, u64), (BlockEntry, Vec<u64>)> = BTreeMap::new();
    for Candidate { bundle, hit } in candidates {
        let archive = &found[*bundle].archive;
        let entry = archive.blocks().by_ordinal(hit.ordinal);
        let entry = entry.ok_or_else(|| archive.error(Fault::IndexDisagrees { ordinal: hit.ordinal }))?;
        blocks
            .entry((*bundle, entry.position))
            .or_insert_with(|| (entry.clone(), Vec::new()))
            .1
            .push(hit.ordinal);
    }
    let mut reads = Vec::with_capacity(blocks.len());
    for ((bundle, _), (entry, mut ordinals)) in blocks {
        ordinals.sort_unstable();
        reads.push(read_block(found, bundle, entry, ordinals));
    }
    let mut records: HashMap<(usize, u64), StoredRecord> = HashMap::with_capacity(candidates.len());
    let mut reads = stream::iter(reads).buffer_unordered(BLOCKS_AT_ONCE);
    let mut bytes = 0;
    while let Some(read) = reads.try_next().await? {
        bytes += read.iter().map(|(_, record)| record.mem_usage()).sum::<usize>();
        if bytes > bytes_max {
            return Err(SearchError::AnswerTooLarge);
        }
        records.extend(read);
    }
    let in_order = candidates.iter().map(|Candidate { bundle, hit }| {
        let archive = &found[*bundle].archive;
        let record = records.remove(&(*bundle, hit.ordinal)).filter(|record| record.offset == hit.offset);
        Ok(record.ok_or_else(|| archive.error(Fault::IndexDisagrees { ordinal: hit.ordinal }))?)
    });
    in_order.collect()
}

async fn read_block(
    found: &[BundleHits],
    bundle: usize,
    entry: BlockEntry,
    ordinals: Vec<u64>,
) -> Result<Vec<((usize, u64), StoredRecord)>, SearchError> {
    let records = found[bundle].archive.records(&entry, ordinals).await?;
    Ok(records.into_iter().map(|(ordinal, record)| ((bundle, ordinal), record)).collect())
}
