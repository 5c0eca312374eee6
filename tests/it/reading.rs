//! What searches read, and what memory they take. Requests and bytes are counted at the store, memory at the
//! process.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::Code;
use wal_indexer::client::Connection;
use wal_indexer::generate::kafka::{self, BatchHead};
use wal_indexer::generate::{Codec, Format, Size};
use wal_indexer::internals::archive::BundleCache;
use wal_indexer::internals::index::{Order, Query};
use wal_indexer::internals::record::{RecordBatch, RecordSpans, Span};
use wal_indexer::internals::registry::Filter;
use wal_indexer::internals::transactions::Isolation;
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::search_request;
use wal_indexer::search::{Answer, Request, SearchError, Searcher, search};
use wal_indexer::store::{KeyPrefix, Store};

use crate::faults::{Fault, Faults};
use crate::read_back::serve;
use crate::receipts::{Segment, ingest, memory, send};
use crate::sizes::{make, spec};
use crate::worker::{Worker, resident_bytes};
use crate::written::{Written, fixture};

pub const BASE_MS: i64 = 1_760_000_000_000;

/// Returns a segment of one batch of `orders`/3: records from this offset on, a millisecond apart, with this
/// text in each value.
pub fn lines(base: i64, count: i64, text: &str) -> Bytes {
    let mut values = Vec::new();
    let records = (base..base + count).map(|offset| {
        let value = format!("{text} line {offset}");
        let span = Span { start: values.len() as u32, len: value.len() as u32 };
        values.extend_from_slice(value.as_bytes());
        RecordSpans {
            offset,
            timestamp_ms: Some(BASE_MS + offset),
            key: None,
            value: Some(span),
            headers: 0..0,
        }
    });
    let records = records.collect();
    let batch = RecordBatch { bytes: values.into(), records, headers: Vec::new() };
    let mut bytes = Vec::new();
    kafka::encode(&BatchHead::default(), &batch, Codec::None, &mut bytes).expect("a batch");
    bytes.into()
}

fn request(query: &str, limit: usize, order: Order) -> Request {
    Request {
        filter: Filter { topic: Some("orders".to_owned()), ..Filter::default() },
        query: Query::parse(query).expect(query),
        limit,
        order,
        bucket_ms: None,
        isolation: Isolation::default(),
    }
}

fn offsets(answer: &Answer) -> Vec<i64> {
    answer.records.iter().map(|found| found.record.offset).collect()
}

/// Stores five hundred bundles of 30 records each, in sequence. Only the first has the word `rare`. Requests
/// are counted.
async fn five_hundred_bundles() -> (Store, Arc<Faults>) {
    let (store, counted) = Faults::around(memory());
    let ingest = ingest(store.clone());
    for nth in 0..500 {
        let text = if nth == 0 { "rare" } else { "common" };
        let segment = Segment::new(lines(nth * 30, 30, text).to_vec(), Some(("orders", 3)));
        send(&ingest, &segment, 1 << 20).await.expect("a receipt");
    }
    (store, counted)
}

#[tokio::test]
async fn of_500_bundles_no_more_are_opened_than_may_have_what_comes_first() {
    let (store, counted) = five_hundred_bundles().await;
    let bundle_cache = BundleCache::new(store.clone(), 64 << 20);
    for (query, limit, order, opened, first) in [
        ("line", 20, Order::NewestFirst, 1, 14_999),
        ("line", 30, Order::NewestFirst, 1, 14_999),
        // One more than a bundle has: the second bundle is opened, and no other.
        ("line", 31, Order::NewestFirst, 2, 14_999),
        ("line", 20, Order::OldestFirst, 1, 0),
        ("*", 5, Order::OldestFirst, 1, 0),
        ("rare", 20, Order::OldestFirst, 1, 0),
        // More than the newest bundles contain: all have to be searched.
        ("rare", 20, Order::NewestFirst, 500, 29),
        ("rare", 20, Order::ByScore, 500, 29),
    ] {
        let before = (counted.counts.gets.load(SeqCst), counted.counts.lists.load(SeqCst));
        let cold = BundleCache::new(store.clone(), 64 << 20);
        let answer = search(&cold, &request(query, limit, order)).await.expect("an answer");
        let summary = &answer.summary;
        assert_eq!(
            (answer.records.len(), offsets(&answer)[0]),
            (limit, first),
            "{query}, {limit}, {order:?}"
        );
        assert_eq!(
            (summary.bundles_searched, summary.bundles_left),
            (opened, 500 - opened),
            "{query}, {limit}, {order:?}"
        );
        let gets = counted.counts.gets.load(SeqCst) - before.0;
        assert_eq!(gets, opened, "one request opens a bundle, and this small one has all it holds in it");
        assert_eq!(counted.counts.lists.load(SeqCst) - before.1, 1);
        assert_eq!(summary.traffic.requests, 1 + gets);
    }
    // What was read once is not read again.
    for (nth, gets) in [(0, 1), (1, 0)] {
        let before = counted.counts.gets.load(SeqCst);
        search(&bundle_cache, &request("line", 20, Order::NewestFirst)).await.expect("an answer");
        assert_eq!(counted.counts.gets.load(SeqCst) - before, gets, "search {nth}");
    }
    let count =
        search(&bundle_cache, &request("line", 0, Order::NewestFirst)).await.expect("an answer").summary;
    assert_eq!((count.matched, count.bundles_searched, count.bundles_left), (15_000, 500, 0));
}

#[tokio::test]
async fn lesson_10_what_three_replicas_hold_is_found_and_counted_once() {
    let ingest = ingest(memory());
    // Each replica sealed its segments at other offsets.
    for borders in [&[0, 40, 100][..], &[0, 55, 100], &[0, 10, 70, 100]] {
        for part in borders.windows(2) {
            let bytes = lines(part[0], part[1] - part[0], "a word").to_vec();
            send(&ingest, &Segment::new(bytes, Some(("orders", 3))), 1 << 20).await.expect("a receipt");
        }
    }
    let bundle_cache = BundleCache::new(ingest.store.clone(), 64 << 20);
    for order in [Order::NewestFirst, Order::OldestFirst, Order::ByScore] {
        for (query, matched) in [("word", 100), ("*", 100), ("offset:[30 TO 59]", 30), ("nothing", 0)] {
            let answer = search(&bundle_cache, &request(query, 1_000, order)).await.expect("an answer");
            let mut found = offsets(&answer);
            found.sort_unstable();
            found.dedup();
            let summary = &answer.summary;
            assert_eq!((found.len(), answer.records.len()), (matched, matched), "{query}, {order:?}");
            assert_eq!((summary.matched, summary.conflicts.len()), (matched as u64, 0), "{query}, {order:?}");
            let count = search(&bundle_cache, &request(query, 0, order)).await.expect("an answer").summary;
            assert_eq!((count.matched, count.bundles_searched), (matched as u64, 7), "{query}, {order:?}");
            let timed = Request { bucket_ms: std::num::NonZeroU64::new(7), ..request(query, 0, order) };
            let buckets = search(&bundle_cache, &timed).await.expect("an answer").summary.buckets;
            assert_eq!(buckets.iter().map(|(_, matched)| matched).sum::<u64>(), matched as u64);
        }
        for limit in [1, 35, 60, 99] {
            let answer = search(&bundle_cache, &request("word", limit, order)).await.expect("an answer");
            let mut found = offsets(&answer);
            match order {
                Order::NewestFirst => assert!(found.iter().copied().eq((0..100).rev().take(limit))),
                Order::OldestFirst => assert!(found.iter().copied().eq((0..100).take(limit))),
                Order::ByScore => {
                    found.sort_unstable();
                    found.dedup();
                    assert_eq!(found.len(), limit);
                }
            }
        }
    }
}

#[tokio::test]
async fn lesson_07_values_are_found_by_words_in_the_uploaded_bundles_alone() {
    // Only the store is left of the worker that wrote them.
    let written = Written::new();
    for (nth, word) in ["zebra", "okapi", "tapir"].into_iter().enumerate() {
        written.put("kafka/animals", &lines(nth as i64 * 50, 50, word)).await;
    }
    let bundle_cache =
        BundleCache::new(Store::open(&written.store().url().parse().expect("a url")).expect("a store"), 0);
    for (query, matched, first) in [
        ("okapi", 50, 99),
        ("text:OKAPI", 50, 99),
        ("okapi OR tapir", 100, 149),
        ("tapi*", 50, 149),
        ("\"zebra line 7\"", 1, 7),
        ("line NOT okapi", 100, 149),
    ] {
        let answer = search(&bundle_cache, &request(query, 1, Order::NewestFirst)).await.expect("an answer");
        let all = search(&bundle_cache, &request(query, 0, Order::NewestFirst)).await.expect("an answer");
        assert_eq!((all.summary.matched, offsets(&answer)), (matched, vec![first]), "{query}");
    }
}

#[tokio::test]
async fn a_record_is_found_by_the_first_search_after_its_receipt() {
    let ingest = ingest(memory());
    let bundle_cache = BundleCache::new(ingest.store.clone(), 64 << 20);
    for nth in 0..20 {
        let segment = Segment::new(lines(nth, 1, "new").to_vec(), Some(("orders", 3)));
        send(&ingest, &segment, 1 << 20).await.expect("a receipt");
        let answer = search(&bundle_cache, &request("new", 1, Order::NewestFirst)).await.expect("an answer");
        assert_eq!(offsets(&answer), [nth]);
    }
}

#[tokio::test]
async fn a_bundle_that_is_damaged_cut_or_gone_fails_the_search_by_its_name_and_nothing_is_answered() {
    let written = Written::new();
    // Large enough to be read in parts.
    let segment = crate::receipts::Segment::logs(4_000, 5).bytes;
    let receipt = written.put("kafka/logs", &segment).await;
    written.put("kafka/other", &lines(1_000_000, 10, "timeout")).await;
    let key = receipt.partitions[0].stored.key();
    let (file, name) = (written.file(key), key.to_string());
    let sound = std::fs::read(&file).expect("a bundle");
    assert!(sound.len() > 128 << 10, "{}", sound.len());
    // This search needs some of these bytes, but not all. It must never return fewer records.
    let asked = v1::SearchRequest {
        filter: Some(v1::RecordFilter { topic: "orders".to_owned(), ..Default::default() }),
        query: "level:error OR timeout".to_owned(),
        limit: 10_000,
        ..Default::default()
    };
    let whole = ask(&written, &asked).await.expect("an answer");
    assert!(whole.len() > 10 + 10, "{}", whole.len());
    let (mut failed, step) = (0, sound.len() / 61);
    for position in (0..sound.len()).step_by(step).chain([sound.len() - 1_030, sound.len() - 1_025]) {
        let mut flipped = sound.clone();
        flipped[position] ^= 0x08;
        std::fs::write(&file, flipped).expect("a file");
        match ask(&written, &asked).await {
            Ok(records) => assert!(records == whole, "byte {position}"),
            Err(status) => {
                failed += 1;
                assert_eq!(status.code(), Code::DataLoss, "byte {position}: {status:?}");
                assert!(status.message().contains(&name), "byte {position}: {status:?}");
            }
        }
    }
    assert!(failed > 10, "{failed}");
    for len in [0, 512, sound.len() / 2, sound.len() - 1] {
        std::fs::write(&file, &sound[..len]).expect("a file");
        let status = ask(&written, &asked).await.expect_err("it is cut");
        assert_eq!(status.code(), Code::DataLoss, "{len}: {status:?}");
        assert!(status.message().contains(&name), "{len}: {status:?}");
    }
    std::fs::write(&file, &sound).expect("a file");
    assert!(ask(&written, &asked).await.expect("an answer") == whole);
}

/// Returns all records of an answer, or the error.
async fn ask(written: &Written, request: &v1::SearchRequest) -> Result<Vec<v1::Record>, tonic::Status> {
    serve(written, async |address| {
        let mut client = Connection::connect(&address).await.expect("a worker");
        let mut messages = match client.search(request.clone()).await {
            Ok(messages) => messages,
            Err(wal_indexer::client::ConnectionError::Status(status)) => return Err(*status),
            Err(error) => panic!("{error}"),
        };
        let (mut records, mut ended) = (Vec::new(), false);
        while let Some(message) = messages.message().await? {
            records.extend(message.records);
            ended |= message.summary.is_some();
        }
        assert!(ended, "an answer ends with its summary");
        Ok(records)
    })
    .await
}

#[tokio::test]
async fn a_bundle_that_goes_between_listing_and_reading_fails_the_search_by_its_name() {
    let written = Written::new();
    let receipt = written.put("kafka/none.log", &fixture("kafka/none.log")).await;
    written.put("kafka/other", &lines(1_000_000, 10, "timeout")).await;
    let key = receipt.partitions[0].stored.key();
    let listed = written.store().list(&KeyPrefix::all()).await.expect("a listing");
    assert_eq!(listed.len(), 2);
    let (store, faults) = Faults::around(written.store().clone());
    // The bundle is listed, but reading it hangs.
    faults.next_gets([Fault::Hang]);
    let searcher = Searcher::new(BundleCache::new(store, 0), 64 << 20, Duration::from_secs(60));
    let asked = request("", 1_000, Order::OldestFirst);
    let searching = searcher.search(asked, None);
    let removed = async {
        while faults.counts.gets.load(SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::fs::remove_file(written.file(key)).expect("it was there");
    };
    let (answered, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(45), searching), removed);
    let Ok(Err(error)) = answered else { panic!("{answered:?}") };
    assert!(error.to_string().contains(&key.to_string()), "{error}");
}

#[tokio::test]
async fn a_search_that_takes_too_long_ends_and_leaves_its_memory_to_others() {
    let ingest = ingest(memory());
    send(&ingest, &Segment::new(lines(0, 10, "a").to_vec(), Some(("orders", 3))), 1 << 20)
        .await
        .expect("stored");
    let (store, faults) = Faults::around(ingest.store.clone());
    // Memory for one search at a time.
    let searcher = Searcher::new(BundleCache::new(store, 0), 4 << 20, Duration::from_millis(300));
    for callers in [None, Some(Duration::from_millis(10)), Some(Duration::from_secs(3_600))] {
        faults.next_gets([Fault::Hang]);
        let error =
            searcher.search(request("a", 10, Order::NewestFirst), callers).await.expect_err("it hangs");
        assert!(matches!(error, SearchError::OutOfTime { .. }), "{error}");
    }
    let mut answers = searcher.search(request("a", 10, Order::NewestFirst), None).await.expect("an answer");
    assert_eq!(answers.next().await.expect("records").expect("records").records.len(), 10);
}

#[tokio::test]
async fn what_needs_more_memory_than_there_is_for_all_is_refused_with_the_reason() {
    let ingest = ingest(memory());
    send(&ingest, &Segment::new(lines(0, 10, "a").to_vec(), Some(("orders", 3))), 1 << 20)
        .await
        .expect("stored");
    let bundle_cache = BundleCache::new(ingest.store.clone(), 0);
    let searcher = Searcher::new(bundle_cache, 4 << 20, Duration::from_secs(30));
    let error = searcher.search(request("a", 100_000, Order::NewestFirst), None).await.expect_err("too much");
    assert!(matches!(error, SearchError::TooLarge { .. }), "{error}");
    assert!(searcher.search(request("a", 100, Order::NewestFirst), None).await.is_ok());
}

const MB: u64 = 1_000_000;

/// Runs a hundred searches of all kinds at once, in a worker with this much memory for them. Returns the
/// additional memory that it took, in bytes.
async fn check_memory(size: Size, search_memory: u64, search_cache: u64) -> u64 {
    let flags = [format!("{search_memory}"), format!("{search_cache}")];
    let worker = Worker::start_with(&["--search-memory", &flags[0], "--search-cache", &flags[1]]);
    make(spec(Format::Kafka, Codec::None, size)).index(&worker).await;
    let settled = Instant::now() + Duration::from_secs(10);
    while resident_bytes(worker.pid()) > 60 * MB && Instant::now() < settled {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let before = resident_bytes(worker.pid());
    let topic = "logs";
    let queries = [
        "",
        "level:error",
        "timeout OR user*",
        "latency_ms:>1 OR NOT info",
        "error AND payment",
        "u* OR s* OR t*",
    ];
    let address = worker.endpoint();
    let searches = (0..100).map(|nth| {
        let (query, address) = (queries[nth % queries.len()], address.clone());
        async move {
            let order = [search_request::Order::NewestFirst, search_request::Order::ByScore][nth % 2];
            let request = v1::SearchRequest {
                filter: Some(v1::RecordFilter { topic: topic.to_owned(), ..Default::default() }),
                query: query.to_owned(),
                limit: [100, 10_000][nth % 2],
                order: order.into(),
                ..Default::default()
            };
            let mut client = Connection::connect(&address).await.expect("a worker");
            let mut messages = client.search(request).await.expect("an answer");
            let mut records = 0;
            while let Some(message) = messages.message().await.expect("a message") {
                records += message.records.len();
            }
            records
        }
    });
    let sampled = async {
        let mut peak = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            peak = peak.max(resident_bytes(worker.pid()));
            PEAK.store(peak, SeqCst);
        }
    };
    static PEAK: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    PEAK.store(0, SeqCst);
    tokio::select! {
        found = futures::future::join_all(searches) => assert!(found.iter().filter(|found| **found > 0).count() > 50),
        () = sampled => {}
    }
    PEAK.load(SeqCst).saturating_sub(before)
}

#[tokio::test]
async fn a_hundred_searches_at_once_stay_within_their_memory() {
    let (memory, cache) = (48 << 20, 8 << 20);
    let took = check_memory(Size::Bytes(6 * MB), memory, cache).await;
    println!("100 searches with 48 MiB and 8 MiB of cache: {} MB", took / MB);
    // A hundred connections and calls, and the stacks of threads, come on top.
    assert!(took < memory + cache + 60 * MB, "{} MB", took / MB);
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_a_hundred_searches_of_a_large_bundle_stay_within_their_memory() {
    let (memory, cache) = (128 << 20, 64 << 20);
    let took = check_memory(Size::Bytes(250 * MB), memory, cache).await;
    println!("100 searches of 250 MB with 128 MiB and 64 MiB of cache: {} MB", took / MB);
    assert!(took < memory + cache + 60 * MB, "{} MB", took / MB);
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_a_rare_word_reads_less_than_three_percent_of_a_bundle_of_100_mb() {
    let worker = Worker::start_with(&["--search-cache", "0"]);
    let reply = make(spec(Format::Kafka, Codec::None, Size::Bytes(200 * MB))).index(&worker).await;
    let bundle = reply.partitions[0].bundle.as_ref().expect("a bundle");
    assert!(bundle.size_bytes >= 100 * MB, "{}", bundle.size_bytes);
    let mut client = Connection::connect(&worker.endpoint()).await.expect("a worker");
    let mut search = async |query: &str, limit: u32| {
        let request = v1::SearchRequest {
            filter: Some(v1::RecordFilter { topic: "logs".to_owned(), ..Default::default() }),
            query: query.to_owned(),
            limit,
            count_only: limit == 0,
            ..Default::default()
        };
        let mut messages = client.search(request).await.expect("an answer");
        let (mut records, mut summary) = (Vec::new(), None);
        while let Some(message) = messages.message().await.expect("a message") {
            records.extend(message.records);
            summary = message.summary;
        }
        (records, summary.expect("a summary"))
    };
    // A word that only one record has: its trace id, or another unique word in it.
    let (sample, _) = search("offset:77777", 1).await;
    let text = String::from_utf8_lossy(sample[0].value.as_deref().expect("a value")).into_owned();
    let mut words: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| w.len() > 5).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let mut rare = None;
    for word in words.into_iter().take(8) {
        let (_, counted) = search(word, 0).await;
        if (1..=5).contains(&counted.matched) {
            rare = Some(word.to_owned());
            break;
        }
    }
    let rare = rare.unwrap_or_else(|| panic!("no rare word in {text}"));
    for (query, limit) in [(rare.clone(), 20), (rare, 0), ("wordthatnobodywrote".to_owned(), 20)] {
        let (records, summary) = search(&query, limit).await;
        println!(
            "{query:?}, limit {limit}: {} records, {} of {} bytes ({:.2} %) in {} requests, {} ms",
            records.len(),
            summary.bytes_fetched,
            bundle.size_bytes,
            summary.bytes_fetched as f64 * 100.0 / bundle.size_bytes as f64,
            summary.requests_to_store,
            summary.total_us / 1_000,
        );
        assert!(summary.bytes_fetched * 100 < bundle.size_bytes * 3, "{summary:?}");
    }
}
