//! Segments to send, a write path in this process, and checks that compare replies with the store.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use sha2::{Digest, Sha256};
use url::Url;
use wal_indexer::generate::kafka::{self, BatchHead};
use wal_indexer::generate::{Codec, Format, Size, Spec, generate};
use wal_indexer::ingest::{Ingest, IngestError, Request, RequestParts, Timeouts, TornTail};
use wal_indexer::internals::budget::Budget;
use wal_indexer::internals::cpu::Cpu;
use wal_indexer::internals::record::{RecordBatch, RecordSpans, Span};
use wal_indexer::internals::rpc::convert;
use wal_indexer::internals::stats::Stats;
use wal_indexer::proto::v1::IndexSegmentResponse;
use wal_indexer::store::{BundleKey, KeyPrefix, Store};

use crate::truth;

/// Topic and partition of segments that do not name theirs.
pub const TOLD: (&str, i32) = ("orders", 3);

/// A segment and what its caller states about it.
#[derive(Clone)]
pub struct Segment {
    pub bytes: Bytes,
    pub named_partition: Option<(&'static str, i32)>,
    pub torn_tail: TornTail,
}

impl Segment {
    pub fn new(bytes: impl Into<Bytes>, named_partition: Option<(&'static str, i32)>) -> Self {
        Self { bytes: bytes.into(), named_partition, torn_tail: TornTail::Refuse }
    }

    /// Returns a file of `tests/fixtures`.
    pub fn fixture(name: &str) -> Self {
        let all = truth::fixtures();
        let fixture = all.into_iter().find(|fixture| fixture.file == name).expect("a fixture");
        Self::new(fixture.bytes, fixture.named_partition)
    }

    /// Returns a segment with three partitions, which makes three objects.
    pub fn of_three_partitions() -> Self {
        Self::fixture("chronik/v2-three-partitions.wal")
    }

    /// Returns log records of one partition, in compressed Kafka batches.
    pub fn logs(records: u64, seed: u64) -> Self {
        let size = Size::Records(records);
        Self::new(generated(&Spec { size, seed, codec: Codec::Zstd, ..Spec::default() }), Some(TOLD))
    }

    /// Returns one Kafka batch for each length: a record with a value of this length that can neither be
    /// searched nor compressed. The offsets begin at `base_offset`. Such segments are indexed quickly,
    /// whatever their size.
    pub fn opaque(lengths: &[usize], base_offset: i64) -> Self {
        let mut bytes = Vec::new();
        let longest = lengths.iter().max().copied().unwrap_or_default();
        let noise = noise(longest + lengths.len());
        for (nth, len) in lengths.iter().enumerate() {
            let record = RecordSpans {
                offset: base_offset + nth as i64,
                timestamp_ms: Some(1_760_000_000_000 + nth as i64),
                key: None,
                value: Some(Span { start: nth as u32, len: *len as u32 }),
                headers: 0..0,
            };
            let batch = RecordBatch { bytes: noise.clone(), records: vec![record], headers: Vec::new() };
            kafka::encode(&BatchHead::default(), &batch, Codec::None, &mut bytes).expect("a batch");
        }
        Self::new(bytes, Some(TOLD))
    }

    /// Returns more than 32 MiB of one partition, so more than one slice, with log records at the start and
    /// at the end.
    pub fn of_two_slices() -> Self {
        let logs = |base_offset| {
            let spec = Spec { size: Size::Records(500), base_offset, codec: Codec::Lz4, ..Spec::default() };
            generated(&spec)
        };
        let opaque = Self::opaque(&[1 << 20; 36], 500).bytes;
        Self::new([logs(0), opaque.to_vec(), logs(536)].concat(), Some(TOLD))
    }

    pub fn kept_if_torn(self) -> Self {
        Self { torn_tail: TornTail::Keep, ..self }
    }

    pub fn parts(&self) -> RequestParts {
        RequestParts {
            segment_id: "a:segment:1".to_owned(),
            topic: self.named_partition.map(|(topic, _)| topic.to_owned()),
            partition: self.named_partition.map(|(_, partition)| partition),
            size_bytes: self.bytes.len() as u64,
            torn_tail: self.torn_tail,
            ..RequestParts::default()
        }
    }
}

pub fn generated(spec: &Spec) -> Vec<u8> {
    let mut bytes = Vec::new();
    generate(&Spec { format: Format::Kafka, ..spec.clone() }, &mut bytes).expect("a segment");
    bytes
}

/// Returns bytes without any pattern, which are not UTF-8.
pub fn noise(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(len).collect()
}

/// Returns a store in memory.
pub fn memory() -> Store {
    Store::open(&Url::parse("memory:///bundles").expect("a URL")).expect("a store")
}

/// Returns a write path on this store, with two threads and enough memory for every test here.
pub fn ingest(store: Store) -> Ingest {
    ingest_with(store, 2)
}

pub fn ingest_with(store: Store, threads: usize) -> Ingest {
    Ingest {
        store,
        cpu: Cpu::start(NonZeroUsize::new(threads).expect("not zero")).expect("threads"),
        budget: Budget::new(1 << 30),
        settings: Default::default(),
        stats: Stats::default(),
        timeouts: Timeouts { upload: Duration::from_secs(20), ..Timeouts::default() },
        spill: None,
    }
}

/// Sends a segment in chunks of `chunk_bytes`.
pub async fn send(
    ingest: &Ingest,
    segment: &Segment,
    chunk_bytes: usize,
) -> Result<IndexSegmentResponse, IngestError> {
    let request = Request::new(segment.parts())?;
    let starts = (0..segment.bytes.len()).step_by(chunk_bytes);
    let chunks = starts.map(|at| {
        // Copied, as chunks from a network are.
        let end = segment.bytes.len().min(at + chunk_bytes);
        Ok(Bytes::copy_from_slice(&segment.bytes[at..end]))
    });
    Ok(convert::receipt(&ingest.run(request, stream::iter(chunks)).await?))
}

/// Compares a reply with the store: every object that it names exists, matches the reply, and is sound.
/// Together they are the segment that was sent.
pub async fn check(store: &Store, reply: &IndexSegmentResponse, bytes: &[u8]) {
    assert_eq!((reply.bytes_read, reply.crc32c), (bytes.len() as u64, crc32c::crc32c(bytes)));
    assert_eq!(reply.sha256[..], Sha256::digest(bytes)[..]);
    let mut pieces = Vec::new();
    for one in &reply.partitions {
        let bundle = one.bundle.as_ref().expect("a bundle");
        let key: BundleKey = bundle.key.parse().expect("a key");
        let head = store.head(&key).await.expect("the object that the receipt names");
        assert_eq!(bundle.e_tag, head.e_tag.unwrap_or_default(), "{key}");
        assert_eq!(bundle.url, store.url_of(&key));
        let object = store.get(&key, 1 << 30).await.expect("the object's bytes");
        assert_eq!(
            (bundle.size_bytes, bundle.crc32c),
            (object.len() as u64, crc32c::crc32c(&object)),
            "{key}"
        );
        let stored = truth::open(&object);
        let documents: u64 = stored.manifest.index.segments.iter().map(|segment| segment.documents).sum();
        let counts = (stored.records.len() as u64, documents);
        assert_eq!(counts, (one.record_count, one.record_count), "{key}: records, documents");
        pieces.extend(stored.pieces);
    }
    assert_eq!(reply.record_count, reply.partitions.iter().map(|one| one.record_count).sum::<u64>());
    pieces.sort_by_key(|(position, _)| *position);
    let restored: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
    assert!(restored == bytes, "{} bytes restored of {}", restored.len(), bytes.len());
}

/// Returns the keys of all bundles in the store.
pub async fn keys(store: &Store) -> Vec<String> {
    let listed = store.list(&KeyPrefix::all()).await.expect("a list");
    listed.into_iter().map(|listed| listed.key.to_string()).collect()
}

/// Returns the keys in a reply.
pub fn keys_of(reply: &IndexSegmentResponse) -> Vec<String> {
    reply.partitions.iter().map(|one| one.bundle.clone().expect("a bundle").key).collect()
}

/// Returns for each partition whether its object existed before.
pub fn already_existed(reply: &IndexSegmentResponse) -> Vec<bool> {
    reply.partitions.iter().map(|one| one.bundle.as_ref().expect("a bundle").already_existed).collect()
}

/// Returns the parts that are equal in every receipt for a segment: everything except the timings and which
/// caller was first.
pub fn lasting(reply: &IndexSegmentResponse) -> IndexSegmentResponse {
    let mut reply = reply.clone();
    reply.timings = None;
    for bundle in reply.partitions.iter_mut().filter_map(|one| one.bundle.as_mut()) {
        bundle.already_existed = false;
    }
    reply
}
