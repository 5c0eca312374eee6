//! Packs finished slices into bundles: one for each partition, laid out in memory and not copied.

use std::collections::btree_map;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, try_join_all};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use crate::archive::transaction_facts;
use crate::bundle::{
    self, Built, FieldFacts, IndexFacts, IndexSegmentFacts, Manifest, RecordsFacts, SegmentFacts,
    TantivyFacts,
};
use crate::cpu::Cpu;
use crate::ids::{OffsetRange, SegmentFormat, TopicPartition};
use crate::index::{self, FieldTypes, Index, Settings};
use crate::spans;
use crate::store::{BundleKey, KeyHash};

use super::copy::Attachment;
use super::error::IngestError;
use super::memory_account::Share;
use super::receive::{Received, Source};
use super::record_counts::RecordCounts;
use super::slice::Slice;
use super::spill::Spilled;
use super::{Ingest, Request};

/// A bundle that is ready for the store.
pub(super) struct Packed {
    pub key: BundleKey,
    pub manifest: Manifest,
    pub built: Built,
    pub counts: RecordCounts,
    /// Whether some of the bytes are on a disk. It may return others when they are sent.
    pub is_spilled: bool,
    /// The memory of the slices, of which the bundle consists, and of its list of gaps.
    pub memory: Vec<Share>,
}

/// The memory of a gap, in bytes: in the manifest and in its JSON.
const GAP_BYTES: u64 = size_of::<OffsetRange>() as u64 + 24;

/// The memory of the facts about transactions, as a multiple of their size: in the manifest, in its JSON, and
/// while they are made.
const FACTS_USAGE: u64 = 5;

/// What all bundles of a segment say about the segment.
#[derive(Clone)]
struct Origin {
    segment: SegmentFacts,
    source: Source,
    attachments: Vec<Attachment>,
}

/// The number of partitions that are packed together. The next ones are packed when these are being uploaded.
/// If slices are small, their bundles take several times as much memory as the slices.
const PACKED_TOGETHER: usize = 64;

/// The memory of a bundle in addition to its slices, in bytes: manifest, description of the index, headers
/// and padding, block table, footer.
const BUNDLE_BYTES: u64 = 24 << 10;

/// Several partitions are packed as one task if they have less than this together, in bytes.
const SMALL_BYTES: u64 = 256 << 10;

/// The memory of the bundles that are packed at the same time, in addition to their slices, in bytes. Some of
/// them are being uploaded, the others are next.
pub(super) fn usage(partitions: usize) -> u64 {
    partitions.min(2 * PACKED_TOGETHER) as u64 * BUNDLE_BYTES
}

/// The slices of a segment that are packed into bundles.
pub(super) struct Packing {
    pub source: Source,
    /// The number of all bundles.
    pub bundles: usize,
    origin: Arc<Origin>,
    request: Request,
    settings: Arc<Settings>,
    cpu: Cpu,
    /// The memory of the attachments. The bundle takes it over.
    attachments_memory: Option<Share>,
    left: btree_map::IntoIter<TopicPartition, Vec<Slice>>,
}

/// The slices of a few partitions.
type Slices = Vec<(TopicPartition, Vec<Slice>)>;

impl Packing {
    /// Begins the packing, and checks that the partitions' frames add up to the segment.
    pub(super) fn begin(ingest: &Ingest, request: &Request, received: Received) -> Result<Self, IngestError> {
        let Received { source, partitions, attachments: (attachments, attachments_memory), .. } = received;
        let packed_bytes = partitions.values().flatten().map(|slice| slice.counts.source_bytes).sum();
        if packed_bytes != source.bytes_read {
            return Err(IngestError::BytesDiffer { packed: packed_bytes, read: source.bytes_read });
        }
        let origin = Arc::new(Origin {
            segment: SegmentFacts {
                id: request.segment_id.as_str().to_owned(),
                // Only a segment of zero bytes has no format, and no partitions to pack either.
                format: source.format.unwrap_or(SegmentFormat::KafkaLog),
                size_bytes: source.bytes_read,
                crc32c: source.crc32c,
                sha256: source.sha256,
                torn_tail_bytes: source.torn_tail_bytes,
                partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
            },
            source: source.clone(),
            attachments,
        });
        Ok(Self {
            source,
            bundles: partitions.len(),
            origin,
            request: request.clone(),
            settings: Arc::clone(&ingest.settings),
            cpu: ingest.cpu.for_caller(&request.caller_id),
            attachments_memory: Some(attachments_memory),
            left: partitions.into_iter(),
        })
    }

    /// Packs the next few partitions. Returns an empty list if none is left.
    pub(super) async fn next(&mut self) -> Result<Vec<Packed>, IngestError> {
        let works = works_of(self.left.by_ref().take(PACKED_TOGETHER)).into_iter().map(|slices| {
            let (origin, request) = (Arc::clone(&self.origin), self.request.clone());
            let settings = Arc::clone(&self.settings);
            self.cpu.run(move || {
                let packed = slices.into_iter().map(|(partition, slices)| {
                    let settings = settings.for_topic(partition.topic());
                    pack_partition(&request, &origin, partition, slices, &settings)
                });
                packed.collect::<Result<Vec<_>, _>>()
            })
        });
        let packed: Result<Vec<_>, IngestError> = try_join_all(works).await?.into_iter().collect();
        let mut packed: Vec<Packed> = packed?.into_iter().flatten().collect();
        if let Some(first) = packed.first_mut() {
            first.memory.extend(self.attachments_memory.take());
        }
        let bytes = packed.iter().map(|one| one.built.size_bytes).sum();
        spans::record_size(bytes, packed.iter().map(|one| one.counts.records).sum());
        Ok(packed)
    }

    /// Returns `first`, and then the other bundles as the stream is read. Each group must be packed within
    /// `time_max`.
    pub(super) fn after(
        self,
        first: Vec<Packed>,
        time_max: Duration,
    ) -> impl Stream<Item = Result<Packed, IngestError>> {
        let rest = stream::try_unfold(self, move |mut packing| async move {
            if packing.left.len() == 0 {
                return Ok(None);
            }
            let packed = timeout(time_max, spans::stage(spans::pack(), packing.next())).await;
            let packed = packed.unwrap_or(Err(IngestError::BuildTooSlow { after: time_max }))?;
            Ok(Some((packed, packing)))
        });
        stream::once(future::ok::<_, IngestError>(first))
            .chain(rest)
            .map_ok(|few| stream::iter(few).map(Ok))
            .try_flatten()
    }
}

/// Groups partitions into tasks: several small ones, or one that is not small.
fn works_of(partitions: impl Iterator<Item = (TopicPartition, Vec<Slice>)>) -> Vec<Slices> {
    let (mut works, mut bytes_before) = (Vec::<Slices>::new(), 0);
    for (partition, slices) in partitions {
        let bytes: u64 = slices.iter().map(|slice| slice.memory.bytes()).sum();
        match works.last_mut() {
            Some(work) if bytes_before + bytes < SMALL_BYTES => {
                work.push((partition, slices));
                bytes_before += bytes;
            }
            _ => {
                works.push(vec![(partition, slices)]);
                bytes_before = bytes;
            }
        }
    }
    works
}

fn pack_partition(
    request: &Request,
    origin: &Origin,
    partition: TopicPartition,
    slices: Vec<Slice>,
    settings: &index::TopicSettings,
) -> Result<Packed, IngestError> {
    let (mut counts, mut memory) = (RecordCounts::default(), Vec::with_capacity(slices.len()));
    let (mut parts, mut blocks) = (Vec::with_capacity(slices.len()), Vec::with_capacity(slices.len()));
    let mut spilled = Vec::new();
    for slice in slices {
        spilled.extend(slice.spilled);
        counts.merge(slice.counts);
        parts.push(slice.index);
        blocks.push(slice.blocks);
        memory.push(slice.memory);
    }
    // Frames that cover no offset have a first offset all the same. Only a torn tail has none, and it is
    // always kept with the last whole frame.
    let covered = counts.range.map(|range| (range.first(), range.last()));
    let placed = covered.or_else(|| counts.place.map(|place| (place, place - 1)));
    let (base_offset, last_offset) =
        placed.ok_or(IngestError::NothingWhole { bytes: counts.torn_bytes as usize })?;
    let hash = match &request.copy {
        None => KeyHash::new(&origin.source.sha256, &request.log_id, &partition),
        Some(copy) => KeyHash::of_copy(&copy.id, &request.log_id, &partition),
    };
    let copy = request.copy.as_ref().map(|copy| copy.facts(&origin.attachments));
    let index = index::assemble(parts, hash.bytes(), settings)?;
    let indexed = index.segments.iter().map(|segment| u64::from(segment.documents)).sum();
    if indexed != counts.records {
        return Err(IngestError::CountsDiffer { decoded: counts.records, indexed, stored: counts.records });
    }
    let gaps = counts.gaps();
    let transactions = transaction_facts(&counts.take_transactions());
    // A compacted log may have millions of gaps.
    if let Some(share) = memory.first() {
        let mut listed = share.another();
        let transactions_bytes =
            transactions.as_ref().map_or(0, |facts| facts.mem_usage() as u64 * FACTS_USAGE);
        listed.set(BUNDLE_BYTES + gaps.len() as u64 * GAP_BYTES + transactions_bytes)?;
        memory.push(listed);
    }
    let anomalies = counts.anomalies.by_name().map(|(name, count)| (name.to_owned(), count)).collect();
    let manifest = Manifest {
        format_version: Manifest::version_for(&anomalies, &counts.undecoded, copy.as_ref()),
        created_by: Manifest::this_build(),
        tantivy: TantivyFacts {
            version: index.tantivy_version.to_owned(),
            dictionary: index.dictionary.to_owned(),
        },
        topic: partition.topic().to_owned(),
        partition: partition.partition(),
        log_id: request.log_id.as_str().to_owned(),
        base_offset,
        last_offset,
        record_count: counts.records,
        control_record_count: counts.control_records,
        batch_count: counts.batches,
        min_timestamp_ms: counts.times.map(|(min, _)| min),
        max_timestamp_ms: counts.times.map(|(_, max)| max),
        gaps,
        anomalies,
        undecoded: counts.undecoded.clone(),
        transactions,
        copy,
        segment: origin.segment.clone(),
        index: index_facts(&index),
        records: RecordsFacts::of(&blocks),
    };
    let (log_id, range) = (request.log_id.clone(), manifest.key_range());
    let key = BundleKey::new(partition, log_id, range, counts.times, hash.hash16())?;
    let attachments: Vec<Bytes> = origin.attachments.iter().map(|one| one.bytes.clone()).collect();
    let built = bundle::assemble_with(&manifest, &attachments, index.files, blocks, |files| {
        index::hot_ranges(files).map_err(IngestError::from)
    })?;
    // After the checksums of the bundle were computed from these bytes.
    spilled.iter().try_for_each(Spilled::check)?;
    if let Some(share) = memory.first() {
        let mut hot = share.another();
        hot.set(built.hot_bytes)?;
        memory.push(hot);
    }
    Ok(Packed { key, manifest, built, counts, is_spilled: !spilled.is_empty(), memory })
}

/// Describes the index for the manifest, with paths as in queries.
fn index_facts(index: &Index) -> IndexFacts {
    let value = |(path, types): (&str, FieldTypes)| FieldFacts {
        path: format!("value.{path}"),
        types: types.names().map(str::to_owned).collect(),
    };
    let header = |name| FieldFacts { path: format!("header.{name}"), types: vec!["exact".to_owned()] };
    let settings = [
        ("value", index.settings.value.name().to_owned()),
        ("positions", index.settings.positions.to_string()),
    ];
    IndexFacts {
        settings: settings.map(|(name, value)| (name.to_owned(), value)).into(),
        fields: index.fields.headers().map(header).chain(index.fields.values().map(value)).collect(),
        segments: (index.segments.iter())
            .map(|segment| IndexSegmentFacts {
                name: segment.name.clone(),
                documents: u64::from(segment.documents),
            })
            .collect(),
        unsearchable: index.unsearchable.counts().map(|(what, count)| (what.to_owned(), count)).into(),
        rest_leaves: Some(index.fields.rest_leaves()),
    }
}

#[cfg(test)]
mod tests;
