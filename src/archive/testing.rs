//! Bundles for tests: the segments of the fixtures, packed with the parts of the write path.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use url::Url;

use crate::bundle::{
    self, AssembleError, BlockWriter, Built, FieldFacts, FrameFacts, IndexFacts, IndexSegmentFacts, Manifest,
    RecordsFacts, SegmentFacts, TantivyFacts, UndecodedFacts,
};
use crate::ids::{LogId, OffsetRange, TopicPartition};
use crate::index::{self, FieldCatalog, IndexBuilder, TopicSettings};
use crate::record::RecordBatch;
use crate::segment::{DecodedFrame, Frame, FrameSplitter};
use crate::store::{BundleKey, Existing, KeyHash, NewObject, PutError, Refused, Store};

/// The number of frames in a slice. It is small, so that short segments also have several Tantivy segments
/// and blocks.
const SLICE_FRAMES: usize = 2;

/// A packed partition of a segment.
pub(crate) struct Packed {
    pub key: BundleKey,
    pub built: Built,
    pub manifest: Manifest,
}

impl Packed {
    /// The whole object.
    pub fn object(&self) -> Bytes {
        self.built.parts.concat().into()
    }
}

/// Returns a fixture's bytes, such as those of `kafka/none.log`.
pub(crate) fn fixture(name: &str) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

/// Returns the names of all fixtures.
pub(crate) fn fixtures() -> Vec<String> {
    let mut names = Vec::new();
    for (folder, extension) in [("chronik", "wal"), ("kafka", "log")] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
        for entry in std::fs::read_dir(path).expect("the fixtures are there") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            if name.ends_with(extension) {
                names.push(format!("{folder}/{name}"));
            }
        }
    }
    names.sort();
    assert!(names.len() > 25, "{names:?}");
    names
}

/// Packs a whole segment. Frames that do not name a partition belong to `orders`/3. A torn tail is kept.
pub(crate) fn pack(source: &Bytes, log_id: &str) -> Vec<Packed> {
    pack_as(source, log_id, Sha256::digest(source).into())
}

/// Packs a whole segment, with a wrong hash of the source in the manifests.
pub(crate) fn pack_claiming(source: &Bytes, sha256: [u8; 32]) -> Vec<Packed> {
    pack_as(source, "", sha256)
}

/// Packs a whole segment whose frames do not name a partition.
pub(crate) fn pack_for(source: &Bytes, partition: &TopicPartition) -> Vec<Packed> {
    pack_frames(source, "", partition, Sha256::digest(source).into(), None)
}

fn orders() -> TopicPartition {
    TopicPartition::new("orders", 3).expect("a partition")
}

/// Makes a bundle with the records of one segment and the index of another, both of the same partition.
pub(crate) fn pack_with_index_of(source: &Bytes, indexed: &Bytes) -> Packed {
    let mut frames = Vec::new();
    FrameSplitter::new(indexed.len() as u64, None).push(indexed.clone(), &mut frames).expect("frames");
    let indexed: Vec<_> =
        frames.iter().map(|frame| frame.decode(1 << 30).expect("records").records).collect();
    pack_frames(source, "", &orders(), Sha256::digest(source).into(), Some(&indexed)).remove(0)
}

fn pack_as(source: &Bytes, log_id: &str, sha256: [u8; 32]) -> Vec<Packed> {
    pack_frames(source, log_id, &orders(), sha256, None)
}

fn pack_frames(
    source: &Bytes,
    log_id: &str,
    fallback: &TopicPartition,
    sha256: [u8; 32],
    indexed: Option<&[RecordBatch]>,
) -> Vec<Packed> {
    let (mut frames, mut splitter) = (Vec::new(), FrameSplitter::new(source.len() as u64, None));
    splitter.push(source.clone(), &mut frames).expect("frames");
    let tail = splitter.finish().expect("an end");
    let mut partitions: BTreeMap<TopicPartition, Vec<(Frame, DecodedFrame)>> = BTreeMap::new();
    let mut last = None;
    for frame in frames {
        let decoded = frame.decode(1 << 30).expect("records");
        let partition = frame.partition.clone().unwrap_or_else(|| fallback.clone());
        last = Some(partition.clone());
        partitions.entry(partition).or_default().push((frame, decoded));
    }
    let segment = SegmentFacts {
        id: "a:segment".into(),
        format: tail.format.unwrap_or(crate::ids::SegmentFormat::KafkaLog),
        size_bytes: source.len() as u64,
        crc32c: crc32c::crc32c(source),
        sha256,
        torn_tail_bytes: tail.torn.as_ref().map_or(0, |torn| torn.bytes.len() as u64),
        partitions: partitions.len() as u32,
    };
    let packed = partitions.into_iter().map(|(partition, frames)| {
        let torn = tail.torn.as_ref().filter(|_| last.as_ref() == Some(&partition));
        pack_partition(
            &segment,
            partition,
            LogId::new(log_id),
            &frames,
            torn.map(|t| (t.position, t.bytes.clone())),
            indexed,
        )
    });
    packed.collect()
}

fn pack_partition(
    segment: &SegmentFacts,
    partition: TopicPartition,
    log_id: LogId,
    frames: &[(Frame, DecodedFrame)],
    torn: Option<(u64, Bytes)>,
    indexed: Option<&[RecordBatch]>,
) -> Packed {
    let settings = TopicSettings::default();
    let (mut parts, mut blocks) = (Vec::new(), Vec::new());
    for slice in frames.chunks(SLICE_FRAMES) {
        let mut index = IndexBuilder::new(settings).expect("an index");
        let mut writer = BlockWriter::new().expect("blocks");
        for (frame, decoded) in slice {
            if indexed.is_none() {
                index.add(&decoded.records).expect("documents");
            }
            let facts = FrameFacts {
                range: decoded.range,
                min_timestamp_ms: decoded.min_timestamp_ms,
                max_timestamp_ms: decoded.max_timestamp_ms,
                data_records: decoded.records.records.len() as u64,
                ..FrameFacts::default()
            };
            writer.add(frame.position, &frame.bytes, facts).expect("a frame");
        }
        parts.push(index.finish().expect("a part"));
        blocks.push(writer.finish().expect("blocks"));
    }
    if let Some(batches) = indexed {
        let mut index = IndexBuilder::new(settings).expect("an index");
        batches.iter().for_each(|batch| index.add(batch).expect("documents"));
        parts = vec![index.finish().expect("a part")];
    }
    if let Some((position, bytes)) = torn {
        let mut writer = BlockWriter::new().expect("blocks");
        writer.add(position, &bytes, FrameFacts::torn_tail()).expect("a tail");
        blocks.push(writer.finish().expect("blocks"));
    }
    let hash = KeyHash::new(&segment.sha256, &log_id, &partition);
    let index = index::assemble(parts, hash.bytes(), &settings).expect("an index");
    let decoded = || frames.iter().map(|(_, decoded)| decoded);
    let range = decoded().filter_map(|d| d.range).reduce(|a, b| a.cover(&b)).expect("a frame");
    let times = decoded()
        .filter_map(|d| d.min_timestamp_ms)
        .min()
        .zip(decoded().filter_map(|d| d.max_timestamp_ms).max());
    let manifest = Manifest {
        format_version: 2,
        created_by: Manifest::this_build(),
        tantivy: TantivyFacts { version: index.tantivy_version.into(), dictionary: index.dictionary.into() },
        topic: partition.topic().into(),
        partition: partition.partition(),
        log_id: log_id.as_str().into(),
        base_offset: range.first(),
        last_offset: range.last(),
        record_count: decoded().map(|d| d.records.records.len() as u64).sum(),
        control_record_count: decoded().map(|d| d.control_offsets.len() as u64).sum(),
        batch_count: frames.len() as u64,
        min_timestamp_ms: times.map(|(min, _)| min),
        max_timestamp_ms: times.map(|(_, max)| max),
        gaps: gaps(range, decoded()),
        anomalies: BTreeMap::new(),
        undecoded: UndecodedFacts::default(),
        transactions: None,
        copy: None,
        segment: segment.clone(),
        index: IndexFacts {
            settings: BTreeMap::new(),
            fields: field_facts(&index.fields),
            segments: (index.segments.iter())
                .map(|s| IndexSegmentFacts { name: s.name.clone(), documents: s.documents.into() })
                .collect(),
            unsearchable: index.unsearchable.counts().map(|(name, count)| (name.to_owned(), count)).into(),
            rest_leaves: Some(index.fields.rest_leaves()),
        },
        records: RecordsFacts::of(&blocks),
    };
    let built = bundle::assemble(&manifest, index.files, blocks, hot_ranges).expect("a bundle");
    let key = BundleKey::new(partition, log_id, range, times, hash.hash16()).expect("a key");
    Packed { key, built, manifest }
}

fn hot_ranges(files: &[(String, Bytes)]) -> Result<Vec<Vec<Range<u64>>>, AssembleError> {
    Ok(index::hot_ranges(files).expect("an index that opens"))
}

fn gaps<'a>(range: OffsetRange, frames: impl Iterator<Item = &'a DecodedFrame>) -> Vec<OffsetRange> {
    let mut offsets: Vec<i64> = frames.flat_map(|d| d.records.iter().map(|record| record.offset())).collect();
    offsets.sort_unstable();
    offsets.dedup();
    let ends = offsets.iter().copied().chain([range.last() + 1]);
    let starts = [range.first()].into_iter().chain(offsets.iter().map(|offset| offset + 1));
    starts.zip(ends).filter_map(|(start, end)| OffsetRange::new(start, end - 1)).collect()
}

fn field_facts(fields: &FieldCatalog) -> Vec<FieldFacts> {
    let values = fields.values().map(|(path, types)| FieldFacts {
        path: format!("value.{path}"),
        types: types.names().map(str::to_owned).collect(),
    });
    let headers = fields
        .headers()
        .map(|name| FieldFacts { path: format!("header.{name}"), types: vec!["text".into()] });
    let mut facts: Vec<_> = values.chain(headers).collect();
    facts.sort_by(|a, b| a.path.cmp(&b.path));
    facts
}

/// An empty store in memory.
pub(crate) fn store() -> Store {
    Store::open(&Url::parse("memory:").expect("a url")).expect("a store")
}

/// Stores bytes under a key. Calls `check_existing` if another object has the key.
pub(crate) async fn put<T, F: Future<Output = Result<T, Refused>>>(
    store: &Store,
    key: &BundleKey,
    object: &Bytes,
    check_existing: impl Fn(Existing) -> F,
) -> Result<Option<T>, PutError> {
    let object = NewObject {
        parts: vec![object.clone()],
        size_bytes: object.len() as u64,
        crc32c: crc32c::crc32c(object),
        is_read_back: false,
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    Ok(store.put(key, &object, deadline, check_existing).await?.check_result)
}

/// Stores bytes under a key that no object has.
pub(crate) async fn put_new(store: &Store, key: &BundleKey, object: &Bytes) {
    let put =
        put(store, key, object, async |_| Err::<(), _>(Refused::Foreign { reason: "it was there".into() }));
    put.await.expect("stored");
}

/// Packs a segment and stores all its bundles.
pub(crate) async fn put_segment(store: &Store, source: &Bytes) -> Vec<Packed> {
    let packed = pack(source, "");
    for one in &packed {
        put_new(store, &one.key, &one.object()).await;
    }
    packed
}
