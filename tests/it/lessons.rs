//! What went wrong in earlier systems of this kind, tested from outside. The number of a test is that of the
//! list in `docs/reliability.md`. Lessons about stores and about killed processes are in `storefaults`,
//! `lost_answers` and `kill`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use tokio::sync::Notify;
use tonic::Code;
use wal_indexer::generate::kafka::{self, BatchHead, HEAD_BYTES};
use wal_indexer::generate::{Codec, Size, Spec};
use wal_indexer::ingest::{Ingest, IngestError, Request};
use wal_indexer::internals::archive::{Archive, Source, open_index};
use wal_indexer::internals::budget::Budget;
use wal_indexer::internals::index::{
    Bounds, IndexBuilder, IndexReader, Order, Query, Settings, TopicSettings,
};
use wal_indexer::internals::record::{RecordBatch, RecordSpans};
use wal_indexer::internals::rpc::{convert, status};
use wal_indexer::internals::stats::Phase;
use wal_indexer::proto::v1::{self, IndexSegmentResponse};
use wal_indexer::store::BundleKey;

use crate::faults::{Fault, Faults};
use crate::receipts::{
    Segment, TOLD, already_existed, check, generated, ingest, ingest_with, keys, keys_of, lasting, memory,
    send,
};
use crate::sidecar::{Sidecar, Wal, name, segment_of};
use crate::truth::{self, Fixture};
use crate::worker::{self, Worker};

/// Sends a fixture through the write path, and compares receipt and objects with what the fixture's maker
/// recorded.
async fn check_fixture(fixture: &Fixture) -> (Ingest, IndexSegmentResponse) {
    let ingest = ingest(memory());
    let segment = Segment::new(fixture.bytes.clone(), fixture.named_partition);
    let reply =
        send(&ingest, &segment, 4_096).await.unwrap_or_else(|error| panic!("{}: {error:?}", fixture.file));
    let objects = objects(&ingest, &reply).await;
    let sent = (&fixture.bytes[..], fixture.format, &fixture.expected[..]);
    truth::check_reply(&fixture.file, &reply, sent, "", |key| objects[key].clone());
    (ingest, reply)
}

async fn objects(ingest: &Ingest, reply: &IndexSegmentResponse) -> BTreeMap<String, Bytes> {
    let mut objects = BTreeMap::new();
    for key in keys_of(reply) {
        let object = ingest.store.get(&key.parse().expect("a key"), 1 << 30).await.expect("the object");
        objects.insert(key, object);
    }
    objects
}

fn fixtures(folder: &str) -> Vec<Fixture> {
    let fixtures: Vec<_> =
        truth::fixtures().into_iter().filter(|fixture| fixture.file.starts_with(folder)).collect();
    assert!(!fixtures.is_empty());
    fixtures
}

/// Opens the stored index of one partition of the reply, as a search does.
async fn stored_index(ingest: &Ingest, one: &v1::IndexedPartition) -> IndexReader {
    let key: BundleKey = one.bundle.as_ref().expect("a bundle").key.parse().expect("a key");
    let source = Source::of_key(&ingest.store, &key).await.expect("the object");
    open_index(&Archive::open(source).await.expect("a bundle")).await.expect("an index")
}

/// Returns the offsets that a query finds, once for each match.
fn found(index: &IndexReader, query: &str) -> Vec<i64> {
    let query = Query::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let found = index.search(&query, &Bounds::default(), Order::OldestFirst, 2_000_000).expect("a search");
    assert_eq!(found.matched, found.hits.len() as u64);
    let mut offsets: Vec<_> = found.hits.iter().map(|hit| hit.offset).collect();
    offsets.sort_unstable();
    offsets
}

/// Sends a segment that must be refused, checks that nothing is stored, and returns the error.
async fn refused(segment: &Segment) -> IngestError {
    let ingest = ingest(memory());
    let error = send(&ingest, segment, 1_000).await.expect_err("the segment is damaged");
    assert_eq!(
        keys(&ingest.store).await,
        Vec::<String>::new(),
        "nothing is stored of a segment that is refused"
    );
    error
}

/// Returns records without key and value, with offsets and times only.
fn bare_records(offsets: std::ops::Range<i64>) -> RecordBatch {
    let record = |offset| RecordSpans {
        offset,
        timestamp_ms: Some(1_760_000_000_000 + offset),
        key: None,
        value: None,
        headers: 0..0,
    };
    RecordBatch { bytes: Bytes::new(), records: offsets.map(record).collect(), headers: Vec::new() }
}

#[tokio::test]
async fn lesson_02_bytes_that_cannot_be_parsed_fail_the_segment() {
    let segment = Segment::logs(1_000, 31);
    let frames = truth::split(&segment.bytes);
    let damaged = |frames_hit: &[usize]| {
        let mut bytes = segment.bytes.to_vec();
        for nth in frames_hit {
            let frame = &frames[*nth];
            bytes[frame.position as usize + frame.bytes.len() / 2] ^= 0x10;
        }
        Segment::new(bytes, segment.named_partition)
    };
    assert!(frames.len() > 4, "room for more damage than a reader could give up after");
    let all: Vec<usize> = (0..frames.len()).collect();
    for frames_hit in [&all[..1], &all[2..3], &all[frames.len() - 1..], &all[..4], &all[1..]] {
        let status = status::of_ingest(&refused(&damaged(frames_hit)).await);
        assert_eq!(status.code(), Code::DataLoss, "{status:?}");
        let first = frames[frames_hit[0]].position;
        assert!(status.message().contains(&format!("byte {first}")), "the first damage is named: {status:?}");
    }
    // Bytes between frames are not skipped either, whatever follows them.
    let (before, after) = segment.bytes.split_at(frames[2].position as usize);
    for rubbish in [
        &[0][..],
        &[0xff; 7],
        &[0; 61],
        b"not a frame at all, for more than a batch's head is long. Really not.",
    ] {
        let error = refused(&Segment::new([before, rubbish, after].concat(), segment.named_partition)).await;
        assert_eq!(status::of_ingest(&error).code(), Code::DataLoss, "{error:?}");
    }
}

#[tokio::test]
async fn lesson_03_records_of_the_older_format_are_indexed_like_all_others() {
    for fixture in fixtures("chronik/v1") {
        let (ingest, reply) = check_fixture(&fixture).await;
        for (one, held) in reply.partitions.iter().zip(&fixture.expected) {
            let mut offsets: Vec<_> = held.records.iter().map(|record| record.offset).collect();
            offsets.sort_unstable();
            assert_eq!(found(&stored_index(&ingest, one).await, "*"), offsets, "{}", fixture.file);
        }
    }
}

#[tokio::test]
async fn lesson_04_an_index_goes_on_past_a_million_documents() {
    let mut bytes = Vec::new();
    const RECORDS: i64 = 1_000_001;
    for base in (0..RECORDS).step_by(100_000) {
        let batch = bare_records(base..RECORDS.min(base + 100_000));
        kafka::encode(&BatchHead::default(), &batch, Codec::None, &mut bytes).expect("a batch");
    }
    let ingest = ingest(memory());
    let reply = send(&ingest, &Segment::new(bytes, Some(TOLD)), 4 << 20).await.expect("a receipt");
    assert_eq!(reply.record_count, RECORDS as u64);
    let index = stored_index(&ingest, &reply.partitions[0]).await;
    assert_eq!(index.documents(), RECORDS as u64);
    assert_eq!(found(&index, "offset:[999999 TO *]"), [999_999, 1_000_000]);
}

#[tokio::test]
async fn lesson_05_the_latest_timestamp_is_the_greatest_wherever_in_the_segment_it_stands() {
    let mut unordered = 0;
    for fixture in truth::fixtures() {
        let (_, reply) = check_fixture(&fixture).await;
        for (one, held) in reply.partitions.iter().zip(&fixture.expected) {
            let times: Vec<i64> = held.records.iter().filter_map(|record| record.timestamp_ms).collect();
            unordered += u32::from(times.last() != times.iter().max() && times.first() != times.iter().min());
            assert_eq!(one.min_timestamp_ms, times.iter().min().copied(), "{}", fixture.file);
            assert_eq!(one.max_timestamp_ms, times.iter().max().copied(), "{}", fixture.file);
        }
    }
    assert!(unordered > 1, "some must have neither their first record first in time nor their last one last");
}

#[tokio::test]
async fn lesson_06_each_record_is_indexed_once() {
    let segment = Segment::logs(2_345, 32);
    let ingest = ingest(memory());
    let reply = send(&ingest, &segment, 10_000).await.expect("a receipt");
    let index = stored_index(&ingest, &reply.partitions[0]).await;
    assert_eq!(index.documents(), 2_345);
    assert_eq!(found(&index, "*"), Vec::from_iter(0..2_345));
}

/// Decodes a segment and builds its index, on this thread. Returns the CPU time of both.
fn cpu_time_to_index(bytes: &Bytes) -> Duration {
    let before = thread_cpu_time("thread-self");
    let mut builder = IndexBuilder::new(TopicSettings::default()).expect("a builder");
    for frame in truth::split(bytes) {
        builder.add(&frame.decode(1 << 30).expect("a frame").records).expect("documents");
    }
    assert_eq!(builder.finish().expect("an index").documents(), RECORDS_TO_TIME as u64);
    thread_cpu_time("thread-self") - before
}

/// Returns the CPU time of a thread: the first number of `schedstat`.
fn thread_cpu_time(thread: &str) -> Duration {
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

const RECORDS_TO_TIME: i64 = 60_000;

#[test]
fn lesson_06_the_time_for_a_record_does_not_grow_with_its_batch() {
    let in_batches_of = |size: i64| {
        let mut bytes = Vec::new();
        for base in (0..RECORDS_TO_TIME).step_by(size as usize) {
            let batch = bare_records(base..base + size);
            kafka::encode(&BatchHead::default(), &batch, Codec::None, &mut bytes).expect("a batch");
        }
        Bytes::from(bytes)
    };
    let (small, large) = (in_batches_of(100), in_batches_of(RECORDS_TO_TIME));
    cpu_time_to_index(&small);
    let (small, large) = (cpu_time_to_index(&small), cpu_time_to_index(&large));
    // A scan of the whole batch for each of its records would take a hundred times as long.
    assert!(large < small * 5, "batches of 100: {small:?}; one of {RECORDS_TO_TIME}: {large:?}");
}

#[tokio::test]
async fn lesson_07_what_is_in_the_values_is_found_in_the_stored_object() {
    let fixture = fixtures("kafka/none").remove(0);
    let (ingest, reply) = check_fixture(&fixture).await;
    let index = stored_index(&ingest, &reply.partitions[0]).await;
    let (mut words, mut leaves) = (0, 0);
    for record in &fixture.expected[0].records {
        let Some(Ok(value)) = record.value.as_deref().map(std::str::from_utf8) else { continue };
        match serde_json::from_str::<serde_json::Value>(value) {
            Ok(serde_json::Value::Object(object)) => {
                for (name, leaf) in object.iter().filter(|(_, leaf)| leaf.is_i64()) {
                    leaves += 1;
                    let query = format!("value.{name}:{leaf}");
                    assert!(found(&index, &query).contains(&record.offset), "{query} at {}", record.offset);
                }
            }
            _ => {
                let plain = |word: &&str| word.chars().all(char::is_alphanumeric);
                for word in value.split_whitespace().filter(plain) {
                    words += 1;
                    assert!(found(&index, &format!("text:{word}")).contains(&record.offset), "{word}");
                    assert!(found(&index, word).contains(&record.offset), "{word}");
                }
            }
        }
    }
    assert!(words > 0 && leaves > 0, "{words} words, {leaves} leaves looked for");
}

#[tokio::test]
async fn lesson_08_a_segment_of_many_partitions_needs_no_writer_for_each_at_once() {
    // A Tantivy writer takes some nine MiB with its first record. One for each partition would be 2.7 GiB.
    let partitions = 300;
    let spec = Spec {
        format: wal_indexer::generate::Format::ChronikV2,
        size: Size::Records(600),
        partitions: partitions.try_into().expect("not zero"),
        batch_records: 2.try_into().expect("not zero"),
        ..Spec::default()
    };
    let mut bytes = Vec::new();
    wal_indexer::generate::generate(&spec, &mut bytes).expect("a segment");
    let segment = Segment::new(bytes, None);
    let budget = Budget::new(96 << 20);
    let ingest = Ingest { budget, ..ingest(memory()) };
    let reply = send(&ingest, &segment, 64 << 10).await.expect("it fits");
    assert_eq!(reply.partitions.len(), partitions as usize);
    check(&ingest.store, &reply, &segment.bytes).await;
}

/// Returns the CPU time of a process, by the names of its threads: those that index, and all others.
fn cpu_times(pid: u32) -> (Duration, Duration) {
    let (mut indexing, mut others) = (Duration::ZERO, Duration::ZERO);
    for thread in fs::read_dir(format!("/proc/{pid}/task")).expect("it runs") {
        let thread = format!("{pid}/task/{}", thread.expect("an entry").file_name().to_string_lossy());
        let name = fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default();
        *if name.starts_with("cpu-") { &mut indexing } else { &mut others } += thread_cpu_time(&thread);
    }
    (indexing, others)
}

#[tokio::test]
async fn lesson_09_indexing_keeps_no_thread_of_the_runtime_from_its_work() {
    let worker = Worker::start_with(&["--threads", "1"]);
    let size = Size::Records(12_000);
    let segment = Segment::new(generated(&Spec { size, ..Spec::default() }), Some(TOLD));
    let (mut client, mut asking) = (worker.client().await, worker.client().await);
    let header = worker::inline(segment.bytes.len() as u64, segment.named_partition);
    let (_, others_before) = cpu_times(worker.pid());
    let sending = worker::send_inline(&mut client, header, &segment.bytes, 1 << 20);
    tokio::pin!(sending);
    let mut answers = 0;
    let reply = loop {
        tokio::select! {
            reply = &mut sending => break reply.expect("a receipt"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                let stats = asking.get_stats(v1::GetStatsRequest {}).await.expect("an answer").into_inner();
                answers += u32::from(!stats.jobs.is_empty());
            }
        }
    };
    assert_eq!(reply.record_count, 12_000);
    assert!(answers > 2, "it answers while it indexes");
    let (indexing, others) = cpu_times(worker.pid());
    let others = others - others_before;
    // The runtime's threads only receive, answer, and write the file.
    assert!(indexing > others * 2, "threads that index: {indexing:?}; all others: {others:?}");
}

#[tokio::test]
async fn lesson_14_lz4_is_read_as_frames_as_kafka_writes_it() {
    for fixture in fixtures("kafka/lz4").into_iter().chain(fixtures("kafka/apache-clients")) {
        check_fixture(&fixture).await;
    }
    // A size and one raw block behind it is another layout. It is refused.
    let fixture = fixtures("kafka/lz4").remove(0);
    let first = truth::split(&fixture.bytes).remove(0);
    let mut plain = Vec::new();
    let framed = lz4_flex::frame::FrameDecoder::new(&first.bytes[HEAD_BYTES..]);
    std::io::Read::read_to_end(&mut { framed }, &mut plain).expect("a frame of LZ4");
    let mut batch =
        [&first.bytes[..HEAD_BYTES], &lz4_flex::block::compress_prepend_size(&plain)[..]].concat();
    let length = (batch.len() - 12) as u32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    kafka::seal(&mut batch);
    let error = refused(&Segment::new(batch, fixture.named_partition)).await;
    assert_eq!(status::of_ingest(&error).code(), Code::DataLoss, "{error:?}");
}

#[tokio::test]
async fn lesson_17_key_headers_timestamp_and_offset_come_back_and_gaps_are_told() {
    let (mut with_key, mut with_header, mut with_gap) = (0, 0, 0);
    for fixture in truth::fixtures() {
        // Compares each record of the objects completely.
        let (ingest, reply) = check_fixture(&fixture).await;
        for (one, held) in reply.partitions.iter().zip(&fixture.expected) {
            with_gap += usize::from(!held.gaps().is_empty());
            assert_eq!(one.gap_count, held.gaps().len() as u64, "{}", fixture.file);
            let index = stored_index(&ingest, one).await;
            for record in held.records.iter().take(30) {
                let offset = record.offset;
                let mut queries = vec![format!("offset:{offset}")];
                queries.extend(record.timestamp_ms.map(|time| format!("timestamp:{time}")));
                if let Some(key) = plain(record.key.as_deref()) {
                    with_key += 1;
                    queries.push(format!("key:{key}"));
                }
                for (name, value) in &record.headers {
                    if let (Some(name), Some(value)) = (plain(Some(name)), plain(value.as_deref())) {
                        with_header += 1;
                        queries.push(format!("header.{name}:{value}"));
                    }
                }
                for query in queries {
                    assert!(found(&index, &query).contains(&offset), "{}: {query} at {offset}", fixture.file);
                }
            }
        }
    }
    assert!(with_key > 100 && with_header > 100 && with_gap > 1, "{with_key} {with_header} {with_gap}");
}

/// Returns text that a query may contain without quotation marks.
fn plain(bytes: Option<&[u8]>) -> Option<&str> {
    let text = std::str::from_utf8(bytes?).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (!text.is_empty() && text.chars().all(plain)).then_some(text)
}

#[tokio::test]
async fn lesson_18_a_bundle_is_uploaded_from_where_it_was_built_and_nothing_else_is_in_memory_then() {
    let (store, plan) = Faults::around(memory());
    let ingest = ingest(store);
    let segment = Segment::opaque(&[1 << 20; 24], 0);
    plan.next_puts([Fault::Hang]);
    let sending = send(&ingest, &segment, 1 << 20);
    let uploading = async {
        let deadline = Instant::now() + Duration::from_secs(60);
        while plan.counts.puts.load(SeqCst) == 0 {
            assert!(Instant::now() < deadline, "no upload");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ingest.budget.usage().reserved_bytes
    };
    let reserved = tokio::select! {
        sent = sending => panic!("the upload hangs: {sent:?}"),
        reserved = uploading => reserved,
    };
    let object_bytes = plan.counts.put_bytes.load(SeqCst);
    assert!(object_bytes > 24 << 20, "{object_bytes}");
    let log = plan.counts.put_log.lock().expect("no panic");
    let (_, parts) = &log[0];
    assert!(parts.len() > 24, "the blocks are sent as they are, not copied into one buffer: {}", parts.len());
    // The object itself, and some slack in its buffers. Neither the segment nor a copy is in memory.
    assert!(reserved >= object_bytes / 2 && reserved < object_bytes * 5 / 4, "{reserved} for {object_bytes}");
}

/// Sends the header of a segment, and its bytes after `word` is notified.
async fn announce(ingest: &Ingest, segment: &Segment, word: &Notify) -> IndexSegmentResponse {
    let request = Request::new(segment.parts()).expect("a request");
    let bytes = stream::once(async {
        word.notified().await;
        Ok(segment.bytes.clone())
    });
    convert::receipt(&ingest.run(request, Box::pin(bytes)).await.expect("a receipt"))
}

/// Returns how many segments are admitted at once, by their declared sizes. Then sends the bytes of all.
async fn let_in(segments: &[Segment]) -> usize {
    let ingest = Ingest { budget: Budget::new(LESSON_19_BUDGET), ..ingest(memory()) };
    let word = Notify::new();
    let sending = segments.iter().map(|segment| announce(&ingest, segment, &word));
    let sending = futures::future::join_all(sending);
    let looking = async {
        let usage = || ingest.budget.usage();
        let deadline = Instant::now() + Duration::from_secs(60);
        while ingest.stats.jobs().len() < segments.len() || usage().waiting_requests == 0 {
            assert!(Instant::now() < deadline, "{:?}", usage());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let jobs = ingest.stats.jobs();
        let (inside, outside): (Vec<_>, Vec<_>) = jobs.iter().partition(|job| job.phase == Phase::Building);
        let announced: u64 = inside.iter().map(|job| job.bytes_total).sum();
        assert!(usage().reserved_bytes >= announced, "{announced} bytes announced, {:?}", usage());
        assert!(usage().reserved_bytes <= usage().total_bytes, "{:?}", usage());
        assert_eq!(outside.len() as u64, usage().waiting_requests);
        // Notifies all that are admitted, and each that is admitted later.
        while !ingest.stats.jobs().is_empty() {
            word.notify_waiters();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        inside.len()
    };
    let (replies, inside) = futures::future::join(sending, looking).await;
    for (reply, segment) in replies.iter().zip(segments) {
        check(&ingest.store, reply, &segment.bytes).await;
    }
    assert_eq!(ingest.budget.usage().reserved_bytes, 0);
    inside
}

const LESSON_19_BUDGET: u64 = 96 << 20;

#[tokio::test]
async fn lesson_19_work_is_admitted_by_its_bytes_whatever_its_number() {
    let small = |nth: i64| Segment::opaque(&[1_000], 10_000 + nth);
    let smalls: Vec<_> = (0..12).map(small).collect();
    let larges: Vec<_> = (0..3).map(|nth| Segment::opaque(&[1 << 20; 36], 100 * nth)).collect();
    let mixed: Vec<_> = larges[..1].iter().chain(&smalls).cloned().collect();
    let [of_smalls, of_larges, of_both] =
        [let_in(&smalls).await, let_in(&larges).await, let_in(&mixed).await];
    assert_eq!(of_larges, 1, "two of them do not fit");
    assert!(of_smalls > 4, "{of_smalls} small ones");
    assert!(of_both > 1 && of_both < of_smalls / 2 + 1, "{of_both} with a large one, {of_smalls} without");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_19_a_segment_that_can_never_fit_is_set_aside_with_a_note_and_not_tried_for_ever() {
    let worker = Worker::start_with(&["--memory-budget", "48MiB", "--threads", "1"]);
    let wal = Wal::new();
    wal.add_all("orders", 0, 1..=4);
    let large = wal.path().join(name("orders", 0, 2));
    wal.rewrite("orders", 0, 2, &segment_of("orders", 0, 2, 60_000));
    let agent = Sidecar::start(wal.path(), &[worker.endpoint()], &[]);
    agent.until("two receipts", |agent| agent.metric("agent_acknowledged_segments_total") == Some(2.0));
    agent.until("one set aside", |agent| agent.metric("agent_rejected_segments") == Some(1.0));
    let note = fs::read_to_string(large.with_extension("log.rejected.json")).expect("a note");
    assert!(note.contains("LARGER_THAN_BUDGET"), "{note}");
    // Further rounds follow, a tenth of a second apart. None of them tries it again.
    wal.add("orders", 0, 5);
    agent.until("one more", |agent| agent.metric("agent_acknowledged_segments_total") == Some(3.0));
    assert_eq!(agent.metric("agent_rejections_total"), Some(1.0));
    let stats = worker.client().await.get_stats(v1::GetStatsRequest {}).await.expect("it answers");
    assert_eq!(stats.into_inner().rejected.values().sum::<u64>(), 1, "it was sent once");
    assert_eq!(wal.ids("orders", 0), [2, 3, 4, 5], "it stays, and what is behind it");
}

#[tokio::test]
async fn lesson_21_empty_segments_and_those_of_one_record_are_what_they_are() {
    for fixture in truth::fixtures() {
        let records: usize = fixture.expected.iter().map(|held| held.records.len()).sum();
        let (ingest, reply) = match records {
            0 | 1 => check_fixture(&fixture).await,
            _ => continue,
        };
        assert_eq!(reply.partitions.len(), records, "{}", fixture.file);
        for one in &reply.partitions {
            assert_eq!((one.record_count, one.base_offset), (1, one.last_offset), "{}", fixture.file);
            assert_eq!(found(&stored_index(&ingest, one).await, "*"), [one.base_offset]);
        }
    }
}

#[tokio::test]
async fn lesson_21_a_partition_of_markers_only_is_kept_with_an_empty_index() {
    let fixture = fixtures("kafka/transactional").remove(0);
    let control: BTreeSet<i64> = fixture.expected[0].control_offsets.iter().copied().collect();
    let markers: Vec<u8> = (truth::split(&fixture.bytes).iter())
        .filter(|frame| !frame.decode(1 << 30).expect("a frame").control_offsets.is_empty())
        .flat_map(|frame| frame.bytes.to_vec())
        .collect();
    let ingest = ingest(memory());
    let segment = Segment::new(markers, fixture.named_partition);
    let reply = send(&ingest, &segment, 100).await.expect("a receipt");
    assert_eq!((reply.record_count, reply.control_record_count), (0, control.len() as u64));
    assert_eq!(reply.partitions.len(), 1);
    check(&ingest.store, &reply, &segment.bytes).await;
    assert_eq!(found(&stored_index(&ingest, &reply.partitions[0]).await, "*"), Vec::<i64>::new());
}

#[tokio::test]
async fn lesson_21_the_first_record_behind_a_full_slice_is_not_lost_nor_the_torn_bytes_there() {
    // A slice ends with the batch that brings it to 32 MiB of the segment.
    let full = 32 << 20;
    let mut lengths = [1 << 20; 32];
    // Twice, because a shorter record has a shorter length field.
    for _ in 0..2 {
        lengths[31] = lengths[31] + full - Segment::opaque(&lengths, 0).bytes.len();
    }
    let slice = Segment::opaque(&lengths, 0);
    assert_eq!(slice.bytes.len(), full, "to the byte");
    let one_more = Segment::opaque(&[5], 32);
    let cases = [
        (slice.bytes.to_vec(), 32, 1),
        ([&slice.bytes[..], &one_more.bytes].concat(), 33, 2),
        ([&slice.bytes[..], &one_more.bytes[..40]].concat(), 32, 1),
    ];
    for (bytes, records, index_segments) in cases {
        let ingest = ingest(memory());
        let segment = Segment::new(bytes, Some(TOLD)).kept_if_torn();
        let reply = send(&ingest, &segment, 4 << 20).await.expect("a receipt");
        assert_eq!(reply.record_count, records);
        check(&ingest.store, &reply, &segment.bytes).await;
        let object = objects(&ingest, &reply).await.into_values().next().expect("one object");
        assert_eq!(truth::open(&object).manifest.index.segments.len(), index_segments);
        let index = stored_index(&ingest, &reply.partitions[0]).await;
        assert_eq!(found(&index, "*"), Vec::from_iter(0..records as i64));
    }
}

#[tokio::test]
async fn lesson_22_an_object_stays_as_it_is_whoever_sends_the_segment_again() {
    let segment = Segment::of_three_partitions();
    let first = ingest(memory());
    let made = send(&first, &segment, 4_096).await.expect("a receipt");
    let before = objects(&first, &made).await;
    for (text, threads) in [
        ("[[topic]]\npattern = \"*\"\nvalue = \"none\"\n", 1),
        ("[[topic]]\npattern = \"*\"\npositions = true\n", 3),
        ("", 2),
    ] {
        let settings = Settings::parse(text).expect("settings").into();
        let other = Ingest { settings, ..ingest_with(first.store.clone(), threads) };
        let found = send(&other, &segment, 1_000).await.expect("a receipt");
        assert_eq!(lasting(&found), lasting(&made));
        assert_eq!(already_existed(&found), [true; 3]);
        assert_eq!(objects(&first, &found).await, before, "not a byte is written again");
        // With these settings it is built into other bytes, which could have overwritten the object.
        let apart = Ingest { store: memory(), ..other };
        let alone = send(&apart, &segment, 1_000).await.expect("a receipt");
        assert_eq!(objects(&apart, &alone).await == before, text.is_empty());
    }
}
