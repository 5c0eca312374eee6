//! Checks one bundle block by block: compares the decoded contents with block index, manifest and index.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::probe::{Group, Terms};
use crate::archive::{Archive, Fault, ScanVisitor, decode_block, split_block, transaction_facts};
use crate::bundle::{BlockEntry, Manifest, OpenedBlock, TimeRange};
use crate::ids::{OffsetRange, TopicPartition};
use crate::index::IndexReader;
use crate::segment::{Anomalies, Anomaly, AnomalyCounts, DecodedFrame, Frame, LogOrder, Transactions};

/// The number of records that are looked up together. The terms of a group are in memory, and each group
/// queries the index once for all its records.
const GROUP_RECORDS: usize = 256 << 10;

/// The most faults that are reported of one bundle. More of them give no new information.
const WRONG_MAX: usize = 20;

/// The check of one bundle.
pub(super) struct Check {
    manifest: Manifest,
    partition: TopicPartition,
    reader: IndexReader,
    group: Group,
    terms: Terms,
    /// The offsets with data records, as runs, in the order of the file.
    data: Vec<OffsetRange>,
    control_records: u64,
    order: LogOrder,
    anomalies: AnomalyCounts,
    transactions: Transactions,
    /// The hash of the source, if this bundle has all of it.
    source: Option<Sha256>,
    wrong: Vec<String>,
}

/// The result of the check.
pub(super) struct Concluded {
    pub terms: u64,
    pub wrong: Vec<String>,
}

/// The facts that the frames of one block show.
#[derive(Default)]
struct BlockFacts {
    offsets: Option<OffsetRange>,
    times: Option<TimeRange>,
}

impl BlockFacts {
    fn cover(&mut self, range: Option<OffsetRange>) {
        let both = self.offsets.into_iter().chain(range).reduce(|a, b| a.cover(&b));
        self.offsets = both;
    }
}

/// Formats the counts of kinds of anomalies.
fn listed(counts: &BTreeMap<String, u64>) -> String {
    let counts: Vec<_> = counts.iter().map(|(kind, frames)| format!("{frames} {kind}")).collect();
    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
}

impl Check {
    pub fn new(archive: &Archive, reader: IndexReader) -> Self {
        let manifest = archive.manifest().clone();
        Self {
            partition: archive.partition().clone(),
            reader,
            group: Group::default(),
            terms: Terms::new(&manifest),
            data: Vec::new(),
            control_records: 0,
            order: LogOrder::default(),
            anomalies: AnomalyCounts::default(),
            transactions: Transactions::default(),
            source: (manifest.segment.partitions == 1).then(Sha256::new),
            wrong: Vec::new(),
            manifest,
        }
    }

    /// Finishes the check after the last block: looks up the last records, and compares the sums with the
    /// manifest.
    pub fn conclude(mut self) -> Result<Concluded, Fault> {
        self.look_up()?;
        let (stated, found) = (self.manifest.control_record_count, self.control_records);
        if stated != found {
            self.complain(format!("{found} control records, the manifest says {stated}"));
        }
        let anomalies: BTreeMap<String, u64> =
            self.anomalies.by_name().map(|(name, count)| (name.to_owned(), count)).collect();
        if anomalies != self.manifest.anomalies {
            let (found, stated) = (listed(&anomalies), listed(&self.manifest.anomalies));
            self.complain(format!("the frames' anomalies are {found}, the manifest says {stated}"));
        }
        // Manifests of earlier releases have no transactions.
        let stated = &self.manifest.transactions;
        if stated.is_some() && *stated != transaction_facts(&self.transactions) {
            self.complain("the transactions in the manifest differ from those of the frames".to_owned());
        }
        if self.gaps() != self.manifest.gaps {
            self.complain("the gaps in the manifest differ from those of the records".to_owned());
        }
        let hash = self.source.take().map(|source| <[u8; 32]>::from(source.finalize()));
        if hash.is_some_and(|hash| hash != self.manifest.segment.sha256) {
            self.complain("the blocks together do not have the segment's sha256".to_owned());
        }
        let missed = self.terms.missed();
        self.wrong.extend(missed);
        Ok(Concluded { terms: self.terms.found(), wrong: self.wrong })
    }

    fn complain(&mut self, what: String) {
        if self.wrong.len() < WRONG_MAX {
            self.wrong.push(what);
        }
    }

    fn frame(&mut self, frame: &Frame, decoded: &DecodedFrame, facts: &mut BlockFacts) -> Result<(), Fault> {
        if frame.partition.as_ref().is_some_and(|partition| *partition != self.partition) {
            self.complain(format!("a frame at offset {} belongs to another partition", decoded.base_offset));
        }
        facts.cover(decoded.range);
        self.transactions.add(decoded.transaction, decoded.range);
        self.place(frame, decoded.anomalies);
        if let (Some(min_ms), Some(max_ms)) = (decoded.min_timestamp_ms, decoded.max_timestamp_ms) {
            let times = TimeRange { min_ms, max_ms };
            facts.times = Some(facts.times.map_or(times, |all| all.cover(&times)));
        }
        self.control_records += decoded.control_offsets.len() as u64;
        for record in decoded.records.iter() {
            if let Some(one) = OffsetRange::new(record.offset(), record.offset()) {
                match self.data.last_mut() {
                    Some(run) if run.last().checked_add(1) == Some(record.offset()) => *run = run.cover(&one),
                    _ => self.data.push(one),
                }
            }
            self.group.add(&record, &self.terms);
        }
        if self.group.len() >= GROUP_RECORDS { self.look_up() } else { Ok(()) }
    }

    /// Counts a frame's anomalies. Whether offsets are out of order is decided here, because the first frame
    /// of a block is decoded without the frame before it.
    fn place(&mut self, frame: &Frame, found: Anomalies) {
        let mut anomalies = self.order.next(frame);
        let of_frame = found.iter().filter(|one| *one != Anomaly::OffsetsOutOfOrder);
        of_frame.for_each(|one| anomalies.insert(one));
        self.anomalies.add(anomalies);
    }

    /// Checks frames that were not decoded when they were stored.
    fn undecoded(&mut self, block: &OpenedBlock, facts: &mut BlockFacts) -> Result<(), Fault> {
        for frame in split_block(&block.entry, &block.plain, self.manifest.segment.format)? {
            facts.cover(frame.head_range());
            self.transactions.add(frame.transaction_of_head(), frame.head_range());
            self.place(&frame, Anomalies::default());
        }
        Ok(())
    }

    fn look_up(&mut self) -> Result<(), Fault> {
        let group = self.group.take();
        let wrong = group.look_up(&self.reader, &mut self.terms)?;
        wrong.into_iter().for_each(|what| self.complain(what));
        Ok(())
    }

    fn compare(&mut self, entry: &BlockEntry, facts: &BlockFacts) {
        if facts.offsets != entry.offsets {
            self.complain(format!(
                "block at source byte {}: its offsets are not those in the block index",
                entry.source_position
            ));
        }
        if facts.times != entry.times {
            self.complain(format!(
                "block at source byte {}: its times are not those in the block index",
                entry.source_position
            ));
        }
    }

    /// Returns the offsets in the bundle's range that have no data record.
    fn gaps(&mut self) -> Vec<OffsetRange> {
        self.data.sort_unstable();
        let (mut gaps, mut next) = (Vec::new(), Some(self.manifest.base_offset));
        for run in &self.data {
            let Some(expected) = next else { break };
            if run.first() > expected {
                gaps.extend(OffsetRange::new(expected, run.first() - 1));
            }
            next = run.last().checked_add(1).map(|after| after.max(expected));
        }
        gaps.extend(next.and_then(|expected| OffsetRange::new(expected, self.manifest.last_offset)));
        gaps
    }
}

impl ScanVisitor for Check {
    fn block(&mut self, block: OpenedBlock) -> Result<(), Fault> {
        if let Some(source) = &mut self.source {
            source.update(&block.plain);
        }
        let (format, mut facts) = (self.manifest.segment.format, BlockFacts::default());
        if block.entry.is_undecoded {
            self.undecoded(&block, &mut facts)?;
        } else {
            decode_block(&block.entry, &block.plain, format, |frame, decoded| {
                self.frame(frame, &decoded, &mut facts)
            })?;
        }
        self.compare(&block.entry, &facts);
        Ok(())
    }
}
