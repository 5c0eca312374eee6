//! What the write path stored is read back: restored, verified, searched, and opened by other programs.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::Code;
use wal_indexer::client::Connection;
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
use wal_indexer::restore::restore;
use wal_indexer::server::{self, Config, ConnectionPolicy};
use wal_indexer::store::{BundleKey, KeyPrefix};
use wal_indexer::verify::{VerifyOptions, verify};

use crate::written::{
    ExpectedRecord, Written, blocks_at, expected, expected_of, fixture, fixture_path, fixtures,
};

#[tokio::test]
async fn every_fixture_is_restored_verified_and_searched_as_it_was() {
    for (name, partitions) in fixtures() {
        let (written, source) = (Written::new(), fixture(&name));
        let receipt = written.put(&name, &source).await;
        let mut keys: Vec<BundleKey> =
            receipt.partitions.iter().map(|one| one.stored.key().clone()).collect();
        keys.reverse();
        if keys.is_empty() {
            assert!(source.is_empty(), "{name}");
            continue;
        }
        let out = written.path("restored");
        restore(written.store(), &keys, &out, |_, _| {}).await.expect(&name);
        assert_eq!(std::fs::read(&out).expect("a file"), source, "{name}");

        let listed = written.store().list(&KeyPrefix::all()).await.expect("a listing");
        let options = VerifyOptions { all: true, ..VerifyOptions::default() };
        let outcome = verify(written.store(), &listed, options, |_| {}).await.expect(&name);
        assert_eq!((outcome.findings, outcome.segments_whole), (vec![], 1), "{name}");

        let mut wanted = expected_of(&name, &partitions);
        let searches = serve(&written, async |address| {
            let mut client = Connection::connect(&address).await.expect("a worker");
            let mut found = BTreeMap::new();
            for (topic, partition) in wanted.keys() {
                let records = all_records(&mut client, topic, *partition).await;
                found.insert((*topic, *partition), records);
            }
            found
        });
        let mut found = searches.await;
        found.values_mut().chain(wanted.values_mut()).for_each(|records| records.sort());
        assert_eq!(found, wanted, "{name}");
    }
}

/// Runs a test against a worker that serves this store.
pub async fn serve<T>(written: &Written, asks: impl AsyncFnOnce(String) -> T) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let config = Config {
        index: None,
        search: Some(written.searcher()),
        policy: ConnectionPolicy::default(),
        drain_max: Duration::from_secs(5),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server::run(listener, config, async move { _ = stopped.await }));
    let answer = asks(format!("http://{address}")).await;
    stop.send(()).expect("it serves");
    serving.await.expect("no panic").expect("it served");
    answer
}

async fn all_records(client: &mut Connection, topic: &str, partition: i32) -> Vec<ExpectedRecord> {
    let filter =
        v1::RecordFilter { topic: topic.to_owned(), partition: Some(partition), ..Default::default() };
    let request = v1::SearchRequest { filter: Some(filter), limit: 10_000, ..Default::default() };
    let mut messages = client.search(request).await.expect("an answer");
    let (mut records, mut summary) = (Vec::new(), None);
    while let Some(message) = messages.message().await.expect("a message") {
        for record in message.records {
            assert_eq!((record.topic.as_str(), record.partition), (topic, partition));
            records.push(from_wire(record));
        }
        summary = message.summary;
    }
    assert_eq!(summary.expect("a summary at the end").matched, records.len() as u64);
    assert!(records.is_sorted_by_key(|record| std::cmp::Reverse((record.timestamp_ms, record.offset))));
    records
}

pub fn from_wire(record: v1::Record) -> ExpectedRecord {
    let bytes = |bytes: bytes::Bytes| bytes.to_vec();
    ExpectedRecord {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.map(bytes),
        value: record.value.map(bytes),
        headers: record.headers.into_iter().map(|header| (header.name, header.value.map(bytes))).collect(),
    }
}

#[tokio::test]
async fn gnu_tar_and_stock_tantivy_open_a_bundle() {
    let written = Written::new();
    let receipt = written.put("kafka/none.log", &fixture("kafka/none.log")).await;
    let bundle = written.file(receipt.partitions[0].stored.key());
    let into = written.path("unpacked");
    std::fs::create_dir(&into).expect("a directory");
    let tar = Command::new("tar").arg("-xvf").arg(&bundle).arg("-C").arg(&into).output().expect("GNU tar");
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    let names = String::from_utf8(tar.stdout).expect("UTF-8");
    assert!(names.starts_with("manifest.json\nindex/"), "{names}");
    assert!(names.ends_with("records.zst\nrecords.idx\nfooter\n"), "{names}");

    let index = tantivy::Index::open_in_dir(into.join("index")).expect("an index");
    let searcher = index.reader().expect("a reader").searcher();
    assert_eq!(searcher.num_docs(), 100);
    let key = index.schema().get_field("key").expect("a field");
    let term = tantivy::Term::from_field_bytes(key, b"user-36");
    let query = tantivy::query::TermQuery::new(term, tantivy::schema::IndexRecordOption::Basic);
    let found = searcher.search(&query, &tantivy::collector::Count).expect("a count");
    let wanted = expected("kafka/none.expected.json");
    let wanted = wanted.iter().filter(|record| record.key.as_deref() == Some(b"user-36")).count();
    assert_eq!((found, found > 0), (wanted, true));
}

#[tokio::test]
async fn a_flipped_byte_in_a_stored_file_is_found_by_verify_search_and_restore_by_the_bundles_name() {
    let written = Written::new();
    let receipt = written.put("kafka/gzip.log", &fixture("kafka/gzip.log")).await;
    let key = receipt.partitions[0].stored.key().to_string();
    let file = written.file(receipt.partitions[0].stored.key());
    assert_eq!(written.run(&["verify", &key]).code, 0);
    let sound = std::fs::read(&file).expect("a bundle");
    for position in [0, 600, 3_000, sound.len() / 2, sound.len() - 1_030, sound.len() - 1] {
        let mut flipped = sound.clone();
        flipped[position] ^= 0x20;
        std::fs::write(&file, flipped).expect("a file");
        for arguments in [&["verify", &key][..], &["verify", "--all"]] {
            let ran = written.run(arguments);
            assert_eq!(ran.code, 3, "byte {position}: {ran:?}");
            assert!(ran.out.contains(&format!("{key}: ")), "byte {position}: {ran:?}");
        }
    }
    // In the middle of the blocks: every way to read them notices it.
    let mut flipped = sound.clone();
    flipped[blocks_at(&sound) + 60] ^= 1;
    std::fs::write(&file, flipped).expect("a file");
    let out = written.path("out");
    for arguments in
        [&["search", "--topic", "orders", ""][..], &["restore", &key, "--out", out.to_str().expect("UTF-8")]]
    {
        let ran = written.run(arguments);
        assert!(ran.code == 3 && ran.err.contains(&key), "{ran:?}");
    }
    assert!(!out.exists());
}

#[tokio::test]
async fn the_verbs_read_what_was_written_and_their_exit_codes_say_what_to_do() {
    let (written, name) = (Written::new(), "chronik/v2-three-partitions.wal");
    let receipt = written.put(name, &fixture(name)).await;
    let sha256: String = receipt.sha256.iter().map(|byte| format!("{byte:02x}")).collect();

    let listed = written.run(&["ls", "--segment", &sha256, "--json"]).json();
    let keys: Vec<&str> = listed.iter().map(|one| one["bundle"]["key"].as_str().expect("a key")).collect();
    assert_eq!(keys.len(), 3);
    assert_eq!(written.run(&["ls", "--topic", "orders", "--json"]).json().len(), 2);
    assert!(written.run(&["ls", "--topic", "nothing"]).err.starts_with("no bundles of topic nothing"));

    let out = written.path("out");
    let out = out.to_str().expect("UTF-8");
    assert_eq!(written.run(&[&["restore"], &keys[..], &["--out", out]].concat()).code, 0);
    assert_eq!(std::fs::read(out).expect("a file"), fixture(name));
    let partly = written.run(&["restore", keys[0], "--out", out]);
    assert!(partly.code == 2 && partly.err.contains("has 3 bundles"), "{partly:?}");

    let found = written.run(&["search", "level:error", "--topic", "orders", "--limit", "7", "--json"]).json();
    assert_eq!(found.len(), 7);
    let count = written.run(&["search", "level:error", "--topic", "orders", "--count"]);
    let count: usize = count.out.trim().parse().expect("a number");
    let all = written.run(&["search", "level:error", "--topic", "orders", "--oldest-first"]);
    assert_eq!(all.out.lines().count(), count);
    assert!(all.out.lines().all(|line| line.contains("ERROR") && line.contains(" orders/")), "{all:?}");

    let exported = written.path("index.tar.gz");
    let exported = exported.to_str().expect("UTF-8");
    assert_eq!(written.run(&["export", keys[0], "--out", exported]).code, 0);
    let tar = Command::new("tar").args(["-tzf", exported]).output().expect("GNU tar");
    assert!(String::from_utf8_lossy(&tar.stdout).starts_with("manifest.json\n"), "{tar:?}");

    let segment = fixture_path(name);
    let inspected = written.run(&["inspect", segment.to_str().expect("UTF-8"), "--json"]).json();
    assert_eq!(inspected[0]["partitions"].as_array().expect("partitions").len(), 3);
    assert_eq!(written.run(&["inspect", keys[1], "--json"]).json()[0]["manifest"]["partition"], 0);

    let absent = keys[0].replace("audit", "nobody");
    for (code, arguments) in [
        (4, &["verify", &absent][..]),
        (4, &["inspect", &absent]),
        (4, &["export", &absent, "--out", exported]),
        (4, &["restore", &absent, "--out", out]),
        (2, &["verify", "no-key"]),
        (2, &["verify"]),
        (2, &["search", "--topic", "orders", "level:("]),
        (2, &["search", "level:error"]),
        (5, &["search", "--topic", "orders", "--endpoint", "http://127.0.0.1:1"]),
        (4, &["ls", "--store", "file:///nonexistent/store"]),
    ] {
        let ran = written.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(ran.err.starts_with("error: "), "{ran:?}");
    }
}

#[tokio::test]
async fn a_worker_lists_bundles_and_refuses_what_names_no_topic() {
    let (written, name) = (Written::new(), "chronik/v2-three-partitions.wal");
    let receipt = written.put(name, &fixture(name)).await;
    let (listed, no_topic, fetched) = serve(&written, async |address| {
        let mut client = SearchServiceClient::connect(address).await.expect("a worker");
        let request = v1::ListBundlesRequest {
            segment_sha256: Some(receipt.sha256.to_vec().into()),
            ..Default::default()
        };
        let mut messages = client.list_bundles(request).await.expect("a listing").into_inner();
        let mut listed = Vec::new();
        while let Some(message) = messages.message().await.expect("a message") {
            listed.push(message);
        }
        let no_topic = client.search(v1::SearchRequest::default()).await.map(|_| ());
        let fetched = client.fetch(v1::FetchRequest::default()).await.map(|_| ());
        (listed, no_topic.expect_err("no topic"), fetched.expect_err("no topic"))
    })
    .await;
    assert_eq!(listed.len(), 3);
    for (listed, one) in listed.iter().zip(&receipt.partitions) {
        let bundle = listed.bundle.as_ref().expect("a bundle");
        assert_eq!((bundle.url.as_str(), bundle.size_bytes), (one.stored.url(), one.stored.size_bytes()));
        assert_eq!(
            (listed.topic.as_str(), listed.partition),
            (one.partition.topic(), one.partition.partition())
        );
        assert_eq!((bundle.base_offset, bundle.last_offset), (one.base_offset, one.last_offset));
    }
    assert_eq!((no_topic.code(), no_topic.message()), (Code::InvalidArgument, "a topic is needed"));
    assert_eq!((fetched.code(), fetched.message()), (Code::InvalidArgument, "the topic is empty"));
}

#[tokio::test]
async fn a_worker_names_the_bundle_that_it_cannot_read() {
    let written = Written::new();
    let receipt = written.put("kafka/gzip.log", &fixture("kafka/gzip.log")).await;
    let key = receipt.partitions[0].stored.key();
    std::fs::write(written.file(key), b"not a bundle any more").expect("a file");
    let refused = serve(&written, async |address| {
        let filter = v1::RecordFilter { topic: "orders".to_owned(), ..Default::default() };
        let request = v1::SearchRequest { filter: Some(filter), ..Default::default() };
        let mut client = SearchServiceClient::connect(address).await.expect("a worker");
        client.search(request).await.map(|_| ()).expect_err("a broken bundle")
    })
    .await;
    assert_eq!(refused.code(), Code::DataLoss);
    assert!(refused.message().contains(&key.to_string()), "{}", refused.message());
}
