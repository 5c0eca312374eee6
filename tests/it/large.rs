//! Records larger than a worker's memory for searches and fetches. They make no search and no fetch fail, and
//! a slow reader of them does not stop other callers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::task::JoinSet;
use wal_indexer::client::Connection;
use wal_indexer::generate::{Codec, kafka};
use wal_indexer::internals::record::{RecordBatch, RecordSpans, Span};
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
use wal_indexer::proto::v1::{FetchRequest, Record, RecordFilter, SearchRequest};

use crate::worker::{Worker, command, file_url, inline, send_inline};

const MIB: usize = 1 << 20;

/// Memory that a reader may take beside its memory for searches: connections, code that is read for the first
/// time, and what the allocator has not returned yet. If an answer kept the bytes of one large record, it
/// would exceed this.
const BESIDE_BYTES: u64 = 64 << 20;

/// Returns a batch of values of these sizes, from an offset on. Each value begins with its number. The rest
/// compresses to almost nothing.
pub fn batch_of(base_offset: i64, codec: Codec, sizes: &[usize]) -> Vec<u8> {
    let (mut bytes, mut records) = (Vec::new(), Vec::new());
    for (nth, size) in sizes.iter().enumerate() {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(format!("record {nth} ").as_bytes());
        bytes.resize(start as usize + size, b'a');
        records.push(RecordSpans {
            offset: base_offset + nth as i64,
            timestamp_ms: Some(1_000 + nth as i64),
            key: None,
            value: Some(Span { start, len: *size as u32 }),
            headers: 0..0,
        });
    }
    let batch = RecordBatch { bytes: bytes.into(), records, headers: Vec::new() };
    let mut out = Vec::new();
    kafka::encode(&kafka::BatchHead::default(), &batch, codec, &mut out).expect("compressed");
    out
}

/// A store with these segments of the topic `large`, and a worker on it with limited memory for searches.
struct Stored {
    writer: Worker,
    reader: Worker,
    sizes: BTreeMap<i64, usize>,
}

impl Stored {
    async fn new(segments: &[(Codec, &[usize])], flags: &[&str]) -> Self {
        let writer = Worker::start_with(&["--memory-budget", "2GiB"]);
        let (mut sizes, mut next) = (BTreeMap::new(), 0);
        for (codec, of) in segments {
            let bytes = batch_of(next, *codec, of);
            let first = inline(bytes.len() as u64, Some(("large", 0)));
            send_inline(&mut writer.client().await, first, &bytes, MIB).await.expect("a receipt");
            sizes.extend((next..).zip(of.iter().copied()));
            next += of.len() as i64;
        }
        let reader =
            Worker::start_on(&file_url(&writer.store()), &[], &[&["--roles", "search"], flags].concat());
        Self { writer, reader, sizes }
    }

    async fn search(&self, query: &str) -> Vec<Record> {
        let mut client =
            SearchServiceClient::new(self.reader.channel().await).max_decoding_message_size(1 << 30);
        let filter = Some(RecordFilter { topic: "large".to_owned(), ..Default::default() });
        let asked = SearchRequest { filter, query: query.to_owned(), limit: 100, ..Default::default() };
        let mut messages = client.search(asked).await.expect("an answer").into_inner();
        let mut records = Vec::new();
        while let Some(message) = messages.message().await.expect("a whole answer") {
            records.extend(message.records);
        }
        records.sort_by_key(|record| record.offset);
        records
    }

    /// Fetches the whole partition, in several calls.
    async fn fetch(&self) -> Vec<Record> {
        let mut client =
            SearchServiceClient::new(self.reader.channel().await).max_decoding_message_size(1 << 30);
        let (mut records, mut offset) = (Vec::new(), 0);
        loop {
            let asked = FetchRequest { topic: "large".to_owned(), offset, ..Default::default() };
            let mut messages = client.fetch(asked).await.expect("an answer").into_inner();
            let before = offset;
            while let Some(message) = messages.message().await.expect("a whole answer") {
                offset = message.next_offset.unwrap_or(offset);
                records.extend(message.records);
            }
            if offset == before {
                return records;
            }
        }
    }

    /// Checks that all records were returned, and all values except those of more than `bytes_max` bytes.
    fn check(&self, records: &[Record], bytes_max: usize, what: &str) {
        let offsets: Vec<_> = records.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, self.sizes.keys().copied().collect::<Vec<_>>(), "{what}");
        for record in records {
            let size = self.sizes[&record.offset];
            let value = record.value.as_ref().map(Bytes::len);
            match size <= bytes_max {
                true => {
                    assert_eq!((value, record.omitted_bytes), (Some(size), None), "{what}: {}", record.offset)
                }
                false => {
                    let omitted = record.omitted_bytes.unwrap_or_else(|| panic!("{what}: {}", record.offset));
                    assert!(
                        value.is_none() && omitted.abs_diff(size as u64) < 1_000,
                        "{what}: {omitted} of {size}"
                    );
                }
            }
            assert!(record.timestamp_ms.is_some(), "{what}");
        }
    }
}

#[tokio::test]
async fn a_record_too_large_for_a_search_comes_without_its_value_and_all_others_whole() {
    let sizes = [100, 5 * MIB, 12 * MIB, 200, 3 * MIB, 13 * MIB, 300];
    for codec in [Codec::Zstd, Codec::None, Codec::Lz4, Codec::Snappy] {
        let stored =
            Stored::new(&[(codec, &sizes), (Codec::Zstd, &[50, 60])], &["--search-memory", "32MiB"]).await;
        // Without a codec the batch is its own block of 33 MiB, which no search can hold.
        let bytes_max = if codec == Codec::None { 0 } else { 6 * MIB };
        if bytes_max > 0 {
            stored.check(&stored.search("record").await, bytes_max, &format!("search, {codec}"));
            stored.check(&stored.fetch().await, bytes_max, &format!("fetch, {codec}"));
        } else {
            let found = stored.search("record").await;
            assert_eq!(found.len(), 9, "{codec}");
            assert!(
                found.iter().all(|record| record.omitted_bytes.is_some() == (record.offset < 7)),
                "{codec}"
            );
            assert_eq!(stored.fetch().await.len(), 9, "{codec}");
        }
        assert!(stored.search("record AND 3").await.len() == 1, "{codec}: each is found");
    }
}

#[tokio::test]
async fn searches_and_fetches_of_large_records_side_by_side_are_answered_whole() {
    let sizes = [3 * MIB; 6];
    let stored = Stored::new(
        &[(Codec::Zstd, &sizes), (Codec::Gzip, &sizes)],
        &["--search-memory", "24MiB", "--search-cache", "8MiB"],
    )
    .await;
    let before = stored.reader.peak_resident_bytes();
    let searches = join_all((0..4).map(|_| stored.search("record")));
    let (found, fetched) = tokio::join!(searches, join_all((0..2).map(|_| stored.fetch())));
    for records in found.iter().chain(&fetched) {
        stored.check(records, 3 * MIB, "side by side");
    }
    let took = stored.reader.peak_resident_bytes() - before;
    println!("four searches and two fetches of 12 records of 3 MiB, with 24 MiB: {} MiB", took >> 20);
    assert!(took < BESIDE_BYTES + (32 << 20), "{took} bytes");
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_records_of_30_and_200_mib_fail_no_search_and_no_fetch_at_the_default_memory() {
    // A frame may decompress to at most 256 MiB, so each record is its own frame.
    let segments: Vec<_> =
        [30 * MIB; 12].into_iter().chain([200 * MIB]).map(|size| (Codec::Zstd, [size])).collect();
    let segments: Vec<_> = segments.iter().map(|(codec, sizes)| (*codec, &sizes[..])).collect();
    let stored = Stored::new(&segments, &[]).await;
    let before = stored.reader.peak_resident_bytes();
    let searches = join_all((0..6).map(|_| stored.search(""))).await;
    let fetched = stored.fetch().await;
    for records in searches.iter().chain([&fetched]) {
        stored.check(records, 30 * MIB, "of 30 and of 200 MiB");
    }
    let took = stored.reader.peak_resident_bytes() - before;
    println!("six searches and a fetch of 12 records of 30 MiB and one of 200 MiB: {} MiB", took >> 20);
    assert!(took < BESIDE_BYTES + (128 << 20), "{took} bytes");
}

/// A caller that takes a large answer and stops reading leaves others enough memory.
#[tokio::test]
async fn slow_readers_of_large_records_keep_nobody_else_from_searching() {
    let stored = Stored::new(
        &[(Codec::Zstd, &[12 * MIB; 4]), (Codec::Zstd, &[3 * MIB; 4])],
        &["--search-memory", "64MiB"],
    )
    .await;
    let bytes = batch_of(0, Codec::Zstd, &[100; 50]);
    let first = inline(bytes.len() as u64, Some(("small", 0)));
    send_inline(&mut stored.writer.client().await, first, &bytes, MIB).await.expect("a receipt");
    fn search(topic: &str) -> SearchRequest {
        let filter = Some(RecordFilter { topic: topic.to_owned(), ..Default::default() });
        SearchRequest { filter, limit: 100, ..Default::default() }
    }
    // For the whole test, each of these has begun its answer, or waits for it.
    let mut slow = JoinSet::new();
    for nth in 0..6 {
        let channel = stored.reader.channel().await;
        slow.spawn(async move {
            let mut client = SearchServiceClient::new(channel).max_decoding_message_size(1 << 30);
            if nth % 3 < 2 {
                let _begun = client.search(search("large")).await.expect("an answer");
                return std::future::pending().await;
            }
            let asked = FetchRequest { topic: "large".to_owned(), max_bytes: 1 << 30, ..Default::default() };
            let _begun = client.fetch(asked).await.expect("an answer");
            std::future::pending::<()>().await;
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..5 {
        let mut client = SearchServiceClient::new(stored.reader.channel().await);
        let mut request = tonic::Request::new(search("small"));
        request.set_timeout(Duration::from_secs(15));
        let mut messages = client.search(request).await.expect("an answer in time").into_inner();
        let mut found = 0;
        while let Some(message) = messages.message().await.expect("a whole answer") {
            found += message.records.len();
        }
        assert_eq!(found, 50);
    }
    slow.shutdown().await;
}

#[tokio::test]
async fn the_verbs_name_the_size_of_what_they_cannot_show() {
    let stored = Stored::new(&[(Codec::Zstd, &[10, 13 * MIB, 20])], &["--search-memory", "32MiB"]).await;
    let ask = |arguments: &[&str]| {
        let worker = ["--endpoint", &stored.reader.endpoint()].map(str::to_owned);
        let arguments = arguments.iter().map(ToString::to_string).chain(worker);
        let ran = command(arguments).output().expect("it runs");
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).expect("UTF-8")
    };
    for verb in [
        &["search", "--topic", "large", "record"][..],
        &["fetch", "--topic", "large", "--partition", "0", "--offset", "1"],
    ] {
        let printed = ask(verb);
        assert!(
            printed.contains("large/0@1 (13631488 bytes, more than --search-memory allows)"),
            "{printed}"
        );
    }
    let json = ask(&["search", "--topic", "large", "record", "--json"]);
    assert!(json.contains("\"omittedBytes\":\"13631488\""), "{json}");
}

#[tokio::test]
async fn following_goes_on_behind_records_that_are_too_large_or_too_many_to_be_kept() {
    let stored = Stored::new(&[(Codec::None, &[10])], &["--search-memory", "32MiB"]).await;
    let endpoint = stored.reader.endpoint();
    let followed = [
        &["search", "--topic", "large", "--since", "1970-01-01"][..],
        &["fetch", "--topic", "large", "--partition", "0"],
    ];
    let mut following = followed.map(|verb| {
        let mut process = command(verb)
            .args(["--follow", "--endpoint", &endpoint])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        (process, lines.map(|line| line.expect("UTF-8")))
    });
    // The records of 5 MiB together exceed the memory for one answer.
    let sizes: Vec<_> = [13 * MIB].into_iter().chain([5 * MIB; 14]).chain([20]).collect();
    for (base_offset, sizes) in (1..).step_by(8).zip(sizes.chunks(8)) {
        let bytes = batch_of(base_offset, Codec::Zstd, sizes);
        let first = inline(bytes.len() as u64, Some(("large", 0)));
        send_inline(&mut stored.writer.client().await, first, &bytes, MIB).await.expect("a receipt");
    }
    for (process, lines) in &mut following {
        for offset in 0..=16 {
            let line = lines.next().expect("it goes on");
            let is_large = line.contains("large/0@1 (13631488 bytes, more than --search-memory allows)");
            assert!(
                line.contains(&format!(" large/0@{offset} ")) && is_large == (offset == 1),
                "{offset}: {:.200}",
                line
            );
        }
        process.kill().expect("it is ours");
        process.wait().expect("it ends");
    }
}

#[tokio::test]
async fn a_batch_that_no_fetch_can_hold_is_refused_by_its_offset() {
    let stored =
        Stored::new(&[(Codec::None, &[100]), (Codec::None, &[30 * MIB])], &["--search-memory", "32MiB"])
            .await;
    let mut client = Connection::connect(&stored.reader.endpoint()).await.expect("a worker");
    let asked = |offset| FetchRequest { topic: "large".to_owned(), offset, form: 2, ..Default::default() };
    let mut messages = client.fetch(asked(0)).await.expect("an answer");
    let mut next_offset = None;
    while let Some(message) = messages.message().await.expect("a message") {
        next_offset = message.next_offset.or(next_offset);
    }
    assert_eq!(next_offset, Some(1), "what comes before it is answered");
    let ended = async {
        let mut messages = client.fetch(asked(1)).await.expect("it begins");
        while messages.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    };
    let status =
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("at once").expect_err("too large");
    assert!(status.message().contains("offset 1 needs"), "{status:?}");
}
