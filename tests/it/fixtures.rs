//! Every fixture, through every way to send it: the reply, the objects and the restored segment must match
//! what the fixture's maker recorded.

use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;
use wal_indexer::proto::v1::search_request::Order;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
use wal_indexer::proto::v1::{self, IndexSegmentResponse, RecordFilter, SearchRequest, SegmentHeader};

use crate::truth::{ExpectedPartition, Fixture, Record, check_reply, fixtures};
use crate::worker::{Worker, file_url, inline, object, run, send, send_inline};

/// A log id other than the default.
const LOG_ID: &str = "cl/us ter%1";

fn first_time(reply: &IndexSegmentResponse) -> bool {
    reply.partitions.iter().all(|one| !one.bundle.as_ref().expect("a bundle").already_existed)
}

/// Checks the reply to the same segment a second time: the same objects, which existed already, and no other
/// change.
#[track_caller]
fn check_again(name: &str, first: &IndexSegmentResponse, again: IndexSegmentResponse) {
    let mut expected = first.clone();
    expected.timings = again.timings;
    for one in &mut expected.partitions {
        one.bundle.as_mut().expect("a bundle").already_existed = true;
    }
    assert_eq!(again, expected, "{name}, sent again");
}

#[track_caller]
fn check(fixture: &Fixture, reply: &IndexSegmentResponse, log_id: &str, object: impl Fn(&str) -> Bytes) {
    let Fixture { file, bytes, format, expected: held, .. } = fixture;
    check_reply(file, reply, (bytes, *format, held), log_id, object);
    assert!(first_time(reply), "{file}: nothing was there before");
}

/// Compares the records that a search returned with all records of a partition.
#[track_caller]
fn check_searched(name: &str, answered: Vec<v1::Record>, held: &ExpectedPartition, log_id: &str) {
    let found = answered.into_iter().map(|record| {
        assert_eq!((&record.topic, record.partition), (&held.topic, held.partition), "{name}");
        assert_eq!((&*record.log_id, record.score), (log_id, None), "{name}");
        let headers =
            record.headers.into_iter().map(|header| (header.name.into(), header.value.map(Into::into)));
        Record {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(Into::into),
            value: record.value.map(Into::into),
            headers: headers.collect(),
        }
    });
    let in_order = |mut records: Vec<Record>| {
        records.sort_by_key(|record| record.offset);
        records
    };
    assert_eq!(in_order(found.collect()), in_order(held.records.clone()), "{name}: records that were found");
}

/// Returns all records of a partition, by a search over gRPC.
pub async fn search(
    worker: &Worker,
    filter: RecordFilter,
    query: &str,
) -> (Vec<v1::Record>, v1::SearchSummary) {
    let mut client = SearchServiceClient::new(worker.channel().await);
    let (query, order) = (query.to_owned(), Order::OldestFirst.into());
    let request =
        SearchRequest { filter: Some(filter), query, limit: 10_000, order, ..SearchRequest::default() };
    let mut answers = client.search(request).await.expect("an answer").into_inner();
    let (mut records, mut summary) = (Vec::new(), None);
    while let Some(answer) = answers.message().await.expect("an answer") {
        assert!(summary.is_none(), "the summary is the last");
        records.extend(answer.records);
        summary = answer.summary;
    }
    (records, summary.expect("a summary"))
}

#[tokio::test]
async fn every_fixture_sent_inline_is_what_its_maker_says() {
    let worker = Worker::start();
    let mut client = worker.client().await;
    for fixture in fixtures() {
        let header = || SegmentHeader {
            segment_id: fixture.file.clone(),
            log_id: fixture.file.clone(),
            ..inline(fixture.bytes.len() as u64, fixture.named_partition)
        };
        let reply = send_inline(&mut client, header(), &fixture.bytes, 1_000).await.expect(&fixture.file);
        assert_eq!(reply.segment_id, fixture.file);
        check(&fixture, &reply, &fixture.file, |key| worker.object(key));
        for held in &fixture.expected {
            let filter = RecordFilter {
                topic: held.topic.clone(),
                partition: Some(held.partition),
                log_id: Some(fixture.file.clone()),
                ..RecordFilter::default()
            };
            let (records, summary) = search(&worker, filter, "").await;
            assert_eq!(summary.matched, held.records.len() as u64, "{}", fixture.file);
            check_searched(&fixture.file, records, held, &fixture.file);
        }
        let keys = worker.keys();
        let again = send_inline(&mut client, header(), &fixture.bytes, 4 << 20).await.expect(&fixture.file);
        check_again(&fixture.file, &reply, again);
        assert_eq!(worker.keys(), keys, "no second object");
    }
}

#[tokio::test]
async fn every_fixture_under_a_source_root_is_what_its_maker_says() {
    let worker = Worker::start();
    let mut client = worker.client().await;
    for fixture in fixtures() {
        let path = worker.sources().join("böse namen %41").join(&fixture.file);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("created");
        std::fs::write(&path, &fixture.bytes).expect("written");
        let header = || SegmentHeader {
            segment_id: String::new(),
            log_id: fixture.file.clone(),
            format: fixture.format.into(),
            ..object(&file_url(&path), fixture.named_partition)
        };
        let reply = send(&mut client, vec![crate::worker::header(header())]).await.expect(&fixture.file);
        assert_eq!(reply.segment_id, "");
        check(&fixture, &reply, &fixture.file, |key| worker.object(key));
        let again = send(&mut client, vec![crate::worker::header(header())]).await.expect(&fixture.file);
        check_again(&fixture.file, &reply, again);
    }
}

/// Runs `index --json` on one file.
fn index(store: &Path, fixture: &Fixture, path: &Path, log_id: &str, flags: &[&str]) -> IndexSegmentResponse {
    let store = file_url(store);
    let path = path.to_str().expect("UTF-8");
    let mut arguments = vec!["index", "--json", "--store", &store, "--log-id", log_id, path];
    let partition = fixture.named_partition.map(|(_, partition)| partition.to_string());
    if let (Some((topic, _)), Some(partition)) = (fixture.named_partition, &partition) {
        arguments.extend(["--topic", topic, "--partition", partition]);
    }
    arguments.extend(flags);
    let printed = run(arguments);
    serde_json::from_slice(&printed).expect("the reply's JSON, and nothing else")
}

fn file(fixture: &Fixture) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(&fixture.file)
}

#[test]
fn every_fixture_indexed_on_the_command_line_is_what_its_maker_says() {
    let store = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    let object = |key: &str| std::fs::read(store.path().join(key)).expect("the object").into();
    for fixture in fixtures() {
        let log_id = fixture.file.as_str();
        let reply = index(store.path(), &fixture, &file(&fixture), log_id, &[]);
        check(&fixture, &reply, log_id, object);
        check_read_back(store.path(), &fixture, &reply, log_id);
    }
    run(["verify", "--all", "--store", &file_url(store.path())]);
}

/// Restores, verifies and searches with the commands for that.
fn check_read_back(store: &Path, fixture: &Fixture, reply: &IndexSegmentResponse, log_id: &str) {
    let (url, out) = (file_url(store), TempDir::with_prefix("wal-indexer-it-").expect("a directory"));
    let keys: Vec<_> =
        reply.partitions.iter().map(|one| &*one.bundle.as_ref().expect("a bundle").key).collect();
    if !keys.is_empty() {
        let restored = out.path().join("restored");
        let flags = ["--store", &url, "--out", restored.to_str().expect("UTF-8")];
        run(["restore"].into_iter().chain(keys.iter().rev().copied()).chain(flags));
        let bytes = std::fs::read(&restored).expect("the restored file");
        assert!(bytes == fixture.bytes, "{}: {} bytes restored", fixture.file, bytes.len());
        run(["verify", "--store", &url].into_iter().chain(keys));
    }
    for held in &fixture.expected {
        let partition = held.partition.to_string();
        let place = ["--store", &url, "--topic", &held.topic, "--partition", &partition, "--log-id", log_id];
        let printed = run(["search", "--json", "--base64", "--limit", "1000"].into_iter().chain(place));
        let lines = printed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let records = lines.map(|line| serde_json::from_slice(line).expect("a record's JSON"));
        check_searched(&fixture.file, records.collect(), held, log_id);
    }
}

#[test]
fn a_fixture_indexed_on_the_command_line_again_yields_the_same_object() {
    let store = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    for fixture in fixtures().iter().filter(|fixture| fixture.file.contains("three-partitions")) {
        let reply = index(store.path(), fixture, &file(fixture), LOG_ID, &[]);
        check_again(&fixture.file, &reply, index(store.path(), fixture, &file(fixture), LOG_ID, &[]));
    }
}

#[tokio::test]
async fn the_same_segment_by_another_name_is_the_same_objects() {
    let worker = Worker::start();
    let mut client = worker.client().await;
    for fixture in fixtures().iter().filter(|fixture| fixture.file.contains("v2-three-partitions")) {
        let header = |segment_id: &str| SegmentHeader {
            segment_id: segment_id.to_owned(),
            ..inline(fixture.bytes.len() as u64, fixture.named_partition)
        };
        let first = send_inline(&mut client, header("the leader's"), &fixture.bytes, 9_999).await;
        let mut first = first.expect("indexed");
        check(fixture, &first, "", |key| worker.object(key));
        let again = send_inline(&mut client, header("a replica's"), &fixture.bytes, 9_999).await;
        first.segment_id = "a replica's".to_owned();
        check_again(&fixture.file, &first, again.expect("the objects that are there serve as well"));
    }
}

#[test]
fn the_number_of_threads_leaves_no_trace_in_an_object() {
    for fixture in fixtures().iter().filter(|fixture| fixture.file.contains("v2-three-partitions")) {
        let objects = ["1", "5"].map(|threads| {
            let store = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
            let reply = index(store.path(), fixture, &file(fixture), LOG_ID, &["--threads", threads]);
            let bundles = reply.partitions.into_iter().map(|one| one.bundle.expect("a bundle"));
            bundles.map(|bundle| (bundle.key, bundle.size_bytes, bundle.crc32c)).collect::<Vec<_>>()
        });
        assert_eq!(objects[0], objects[1]);
    }
}

#[tokio::test]
async fn a_segment_that_comes_byte_by_byte_is_the_same_segment() {
    let worker = Worker::start();
    let mut client = worker.client().await;
    for fixture in fixtures().iter().filter(|fixture| fixture.bytes.len() < 4_000) {
        let header = inline(fixture.bytes.len() as u64, fixture.named_partition);
        let header = SegmentHeader { log_id: fixture.file.clone(), ..header };
        let reply = send_inline(&mut client, header, &fixture.bytes, 1).await.expect(&fixture.file);
        check(fixture, &reply, &fixture.file, |key| worker.object(key));
    }
}
