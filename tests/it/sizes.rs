//! Segments with no record, one, many and very many records: all are counted, and no reply exceeds what a
//! client accepts.

use std::io::{BufWriter, Read};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use futures::stream;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tonic::Code;
use wal_indexer::client;
use wal_indexer::generate::logs::Logs;
use wal_indexer::generate::{Codec, Format, Size, Spec, Summary, generate, kafka};
use wal_indexer::internals::bundle;
use wal_indexer::internals::record::{RecordBatch, RecordSpans, Span};
use wal_indexer::proto::v1::{IndexSegmentResponse, RecordFilter, SegmentHeader};

use crate::fixtures::search;
use crate::truth::{Record, block_records, open, records_of};
use crate::worker::{Refusal, Worker, chunk, header, inline, send_inline};

/// A segment in a file, and its maker's summary.
pub struct Made {
    spec: Spec,
    pub file: NamedTempFile,
    summary: Summary,
}

pub fn make(spec: Spec) -> Made {
    let file = NamedTempFile::with_prefix("wal-indexer-it-").expect("a file");
    let summary = generate(&spec, &mut BufWriter::new(file.as_file())).expect("a valid description");
    Made { spec, file, summary }
}

impl Made {
    pub fn header(&self) -> SegmentHeader {
        let partition = &self.spec.partition;
        let told = self.spec.partitions.get() == 1;
        inline(self.summary.bytes, told.then_some((partition.topic(), partition.partition())))
    }

    /// Streams the file as the crate's client does.
    pub async fn index(&self, worker: &Worker) -> IndexSegmentResponse {
        let mut client = client::Connection::connect(&worker.endpoint()).await.expect("it listens");
        client.index_file(self.header(), self.file.path()).await.expect("indexed")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).expect("the segment")
    }

    fn sha256(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut file = self.file.reopen().expect("the segment");
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).expect("the segment") {
                0 => return hash.finalize().into(),
                read => hash.update(&buffer[..read]),
            }
        }
    }
}

/// Compares counts, ranges and times of a reply and its manifests with the maker's summary.
#[track_caller]
fn check_counts(made: &Made, reply: &IndexSegmentResponse, worker: &Worker) {
    let summary = &made.summary;
    assert_eq!((reply.bytes_read, reply.torn_tail_bytes), (summary.bytes, 0));
    assert_eq!((reply.record_count, reply.batch_count), (summary.records, summary.frames));
    assert_eq!(reply.sha256[..], made.sha256());
    assert_eq!(reply.partitions.len(), summary.partitions.len());
    for (one, expected) in reply.partitions.iter().zip(&summary.partitions) {
        let (topic, partition) = (expected.partition.topic(), expected.partition.partition());
        assert_eq!((&*one.topic, one.partition), (topic, partition));
        assert_eq!((one.base_offset, one.last_offset), (expected.range.first(), expected.range.last()));
        assert_eq!(one.record_count, expected.records);
        let times = (Some(expected.min_timestamp_ms), Some(expected.max_timestamp_ms));
        assert_eq!((one.min_timestamp_ms, one.max_timestamp_ms), times);
        assert_eq!(one.gap_count, expected.gaps);
        assert_eq!(one.gaps.len() as u64, expected.gaps.min(1_000));

        let stored = one.bundle.as_ref().expect("a bundle");
        let object = worker.object(&stored.key);
        let verified = bundle::verify(&object).expect("a sound bundle");
        let manifest = &verified.manifest;
        let documents: u64 = manifest.index.segments.iter().map(|segment| segment.documents).sum();
        assert_eq!((stored.record_count, manifest.record_count), (expected.records, expected.records));
        assert_eq!((verified.blocks.records(), documents), (expected.records, expected.records));
        assert_eq!(manifest.gaps.len() as u64, expected.gaps, "the manifest has all of them");
    }
}

/// Reads all records back, in order, and compares them and the restored bytes with the generated ones. The
/// segment has one partition.
#[track_caller]
fn check_contents(made: &Made, reply: &IndexSegmentResponse, worker: &Worker) {
    let [one] = &reply.partitions[..] else { panic!("one partition") };
    let object = worker.object(&one.bundle.as_ref().expect("a bundle").key);
    let verified = bundle::verify(&object).expect("a sound bundle");
    let (mut logs, mut hash, mut records) = (Logs::new(made.spec.seed), Sha256::new(), 0);
    for entry in verified.blocks.entries() {
        let range = verified.footer.block_range(entry).expect("within records.zst");
        let plain = entry.open(&object[range.start as usize..range.end as usize]).expect("a sound block");
        hash.update(&plain);
        let found = block_records(entry, &plain);
        found.iter().for_each(|record| logs.push(record.offset));
        let expected = logs.take();
        assert!(found == records_of(&expected), "records {records} and the following");
        logs.recycle(expected);
        records += found.len() as u64;
    }
    assert_eq!(records, made.summary.records);
    assert_eq!(<[u8; 32]>::from(hash.finalize()), made.sha256(), "restored byte for byte");
}

/// Searches records by their offsets and by their contents.
async fn check_search(made: &Made, worker: &Worker, ordinals: &[u64]) {
    let (partition, base) = (&made.spec.partition, made.spec.base_offset);
    let all = RecordFilter { topic: partition.topic().to_owned(), ..RecordFilter::default() };
    let mut logs = Logs::new(made.spec.seed);
    (0..made.summary.records as i64).for_each(|ordinal| logs.push(base + ordinal));
    let expected: Vec<Record> = records_of(&logs.take());
    for ordinal in ordinals {
        let expected = &expected[*ordinal as usize];
        let offset = expected.offset;
        let filter = RecordFilter { min_offset: Some(offset), max_offset: Some(offset), ..all.clone() };
        let by_query = search(worker, all.clone(), &format!("offset:{offset}")).await;
        for (found, summary) in [search(worker, filter, "").await, by_query] {
            let [found] = &found[..] else { panic!("{} records at offset {offset}", found.len()) };
            assert_eq!((found.offset, found.timestamp_ms), (offset, expected.timestamp_ms));
            assert_eq!(found.key.as_deref(), expected.key.as_deref());
            assert_eq!(found.value.as_deref(), expected.value.as_deref());
            assert_eq!(summary.matched, 1);
        }
    }
}

pub fn spec(format: Format, codec: Codec, size: Size) -> Spec {
    Spec { format, codec, size, seed: 11, ..Spec::default() }
}

#[tokio::test]
async fn none_one_and_two_records_are_segments_in_every_format() {
    let worker = Worker::start();
    for format in Format::ALL {
        for (records, batch) in [(0, 1), (1, 1), (2, 1), (2, 2)] {
            let log_id = format!("{format}-{records}-{batch}");
            let batch_records = NonZero::new(batch).expect("not zero");
            let made = make(Spec { batch_records, ..spec(format, Codec::Gzip, Size::Records(records)) });
            let header = SegmentHeader { log_id, ..made.header() };
            let reply =
                send_inline(&mut worker.client().await, header, &made.bytes(), 50).await.expect("indexed");
            check_counts(&made, &reply, &worker);
            if records > 0 {
                check_contents(&made, &reply, &worker);
            }
        }
    }
}

/// Checks a segment with a gap behind each record.
async fn check_gaps(records: u64) {
    let worker = Worker::start();
    let made = make(Spec {
        gap_every: NonZero::new(1),
        base_offset: 5_000_000_000,
        ..spec(Format::Kafka, Codec::Zstd, Size::Records(records))
    });
    assert_eq!(made.summary.partitions[0].gaps, records - 1);
    // The generated stubs accept replies of 4 MiB.
    let reply = send_inline(&mut worker.client().await, made.header(), &made.bytes(), 1 << 20).await;
    let reply = reply.expect("a reply that a client takes");
    check_counts(&made, &reply, &worker);
    let gaps = reply.partitions[0].gaps.iter().map(|gap| (gap.first, gap.last));
    let expected = (0..1_000).map(|nth| 5_000_000_001 + 2 * nth);
    assert!(gaps.eq(expected.map(|offset| (offset, offset))));
}

#[tokio::test]
async fn thirty_thousand_gaps_fit_into_a_reply() {
    check_gaps(30_001).await;
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_three_hundred_thousand_gaps_fit_into_a_reply() {
    check_gaps(300_001).await;
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_the_gaps_of_many_partitions_fit_into_a_reply() {
    let worker = Worker::start();
    let made = make(Spec {
        gap_every: NonZero::new(1),
        base_offset: 1 << 60,
        partitions: NonZero::new(210).expect("not zero"),
        batch_records: NonZero::new(1_010).expect("not zero"),
        producer_bytes: false,
        ..spec(Format::ChronikV2, Codec::None, Size::Records(210 * 1_010))
    });
    let reply = send_inline(&mut worker.client().await, made.header(), &made.bytes(), 1 << 20).await;
    let reply = reply.expect("a reply that a client takes");
    assert_eq!((reply.record_count, reply.partitions.len()), (210 * 1_010, 210));
    for one in &reply.partitions {
        assert_eq!(one.gap_count, 1_009, "all are counted, listed or not");
        let listed = one.gaps.iter().map(|gap| (gap.first, gap.last));
        let first = (0..).map(|nth| (1 << 60) + 1 + 2 * nth).map(|offset| (offset, offset));
        assert!(!one.gaps.is_empty() && listed.eq(first.take(one.gaps.len())), "the first ones");
    }
}

async fn check_many(format: Format, codec: Codec, records: u64) {
    let worker = Worker::start();
    let made = make(spec(format, codec, Size::Records(records)));
    let began = Instant::now();
    let reply = made.index(&worker).await;
    println!("{records} records, {} MiB: {:?}", made.summary.bytes >> 20, began.elapsed());
    check_counts(&made, &reply, &worker);
    check_contents(&made, &reply, &worker);
    let last = records - 1;
    check_search(&made, &worker, &[0, last, last / 2, last / 3, last / 7 * 5, last - 199, 200]).await;
}

#[tokio::test]
async fn a_hundred_and_twenty_thousand_records_are_all_there() {
    check_many(Format::Kafka, Codec::Lz4, 120_000).await;
}

/// More than a million: in an earlier system an index stopped there without an error, and its metadata
/// continued to count.
#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_one_million_two_hundred_thousand_records_are_all_there() {
    check_many(Format::ChronikV2, Codec::Snappy, 1_200_000).await;
    check_many(Format::Kafka, Codec::Zstd, 1_200_000).await;
}

/// What a worker may have resident beside its budget: what batches are decompressed to before it is accounted
/// for.
const BESIDE_BUDGET_BYTES: u64 = 64 << 20;

/// Returns a batch of one record. Its value decompresses to `bytes` from almost nothing.
pub fn dense_batch(codec: Codec, bytes: usize) -> Vec<u8> {
    let value = Span { start: 0, len: bytes as u32 };
    let record =
        RecordSpans { offset: 7, timestamp_ms: Some(1), key: None, value: Some(value), headers: 0..0 };
    let batch = RecordBatch { bytes: vec![b'a'; bytes].into(), records: vec![record], headers: vec![] };
    let mut out = Vec::new();
    kafka::encode(&kafka::BatchHead::default(), &batch, codec, &mut out).expect("compressed");
    out
}

#[tokio::test]
async fn a_batch_that_opens_to_a_thousand_times_its_size_is_taken_where_the_memory_is() {
    let roomy = Worker::start_with(&["--memory-budget", "512MiB"]);
    let narrow = Worker::start_with(&["--memory-budget", "48MiB"]);
    for (nth, codec) in [Codec::Gzip, Codec::Lz4, Codec::Zstd].into_iter().enumerate() {
        let bytes = dense_batch(codec, 40 << 20);
        let header = || inline(bytes.len() as u64, Some(("dense", nth as i32)));
        let reply = send_inline(&mut roomy.client().await, header(), &bytes, 1 << 20).await.expect("taken");
        let object = roomy.object(&reply.partitions[0].bundle.as_ref().expect("a bundle").key);
        let records = open(&object).records;
        assert_eq!(records[0].value.as_ref().map(|value| (value.len(), value[0])), Some((40 << 20, b'a')));
        let refused = send_inline(&mut narrow.client().await, header(), &bytes, 1 << 20).await;
        let refusal = Refusal::of(&refused.expect_err("there is no room for it, ever"));
        let told = (refusal.code, &*refusal.reason);
        assert_eq!(told, (Code::InvalidArgument, "LARGER_THAN_BUDGET"), "{codec}: {refusal:?}");
    }
}

async fn check_large(format: Format, codec: Codec, bytes: u64, budget_mib: u64) {
    let worker = Worker::start_with(&["--memory-budget", &format!("{budget_mib}MiB")]);
    let made = make(spec(format, codec, Size::Bytes(bytes)));
    let began = Instant::now();
    let reply = made.index(&worker).await;
    let (took, peak) = (began.elapsed(), worker.peak_resident_bytes());
    let (mib, records) = (made.summary.bytes >> 20, made.summary.records);
    println!("{format}, {codec}: {mib} MiB, {records} records: {took:?}, {} MiB resident", peak >> 20);
    check_counts(&made, &reply, &worker);
    check_contents(&made, &reply, &worker);
    assert!(peak < (budget_mib << 20) + BESIDE_BUDGET_BYTES, "{} MiB", peak >> 20);
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_a_chronik_segment_of_250_mb_fits_into_its_budget() {
    check_large(Format::ChronikV2, Codec::Zstd, 250_000_000, 1_536).await;
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_a_kafka_segment_of_1_gib_fits_into_its_budget() {
    check_large(Format::Kafka, Codec::None, 1 << 30, 1_536).await;
}

/// The bundle of compressed logs is about twice as large as the segment, because the index covers the
/// decompressed data. All of it is in memory until it is stored.
#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_a_compressed_kafka_segment_of_1_gib_fits_into_its_budget() {
    check_large(Format::Kafka, Codec::Zstd, 1 << 30, 2_560).await;
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_a_segment_whose_bundle_will_not_fit_is_refused_when_its_first_slices_tell() {
    let worker = Worker::start_with(&["--memory-budget", "512MiB"]);
    let made = make(spec(Format::Kafka, Codec::Zstd, Size::Bytes(512 << 20)));
    let bytes = Bytes::from(made.bytes());
    let sent = Arc::new(AtomicUsize::new(0));
    let (counter, len) = (Arc::clone(&sent), bytes.len());
    let chunks = (0..len).step_by(1 << 20).map(move |at| {
        let end = len.min(at + (1 << 20));
        counter.store(end, Relaxed);
        chunk(bytes.slice(at..end))
    });
    let messages = stream::iter([header(made.header())].into_iter().chain(chunks));
    let refused = worker.client().await.index_segment(messages).await;
    let refusal = Refusal::of(&refused.expect_err("twice its size does not fit"));
    assert_eq!(
        (refusal.code, &*refusal.reason),
        (Code::InvalidArgument, "LARGER_THAN_BUDGET"),
        "{refusal:?}"
    );
    let (sent, peak) = (sent.load(Relaxed), worker.peak_resident_bytes());
    println!("refused after {} MiB, {} MiB resident", sent >> 20, peak >> 20);
    assert!(sent < 192 << 20, "of {len} bytes {sent} were taken");
    assert!(peak < (512 << 20) + BESIDE_BUDGET_BYTES, "{} MiB", peak >> 20);
}
