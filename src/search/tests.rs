use std::collections::HashSet;
use std::num::NonZeroU64;

use bytes::Bytes;

use super::*;
use crate::archive::testing::{Packed, fixture, fixtures, pack, put_new, put_segment, store};
use crate::segment::FrameSplitter;
use crate::store::Store;

fn bundle_cache(store: &Store) -> BundleCache {
    BundleCache::new(store.clone(), 64 << 20)
}

fn request(topic: &str, query: &str) -> Request {
    Request {
        filter: Filter { topic: Some(topic.into()), ..Filter::default() },
        query: Query::parse(query).expect(query),
        limit: 1_000,
        order: Order::OldestFirst,
        bucket_ms: None,
        isolation: Isolation::default(),
    }
}

async fn find(store: &Store, request: &Request) -> Answer {
    search(&bundle_cache(store), request).await.expect("an answer")
}

/// The segment's data records as its decoder returns them, with their partitions.
fn records_of(source: &Bytes) -> Vec<(Option<TopicPartition>, StoredRecord)> {
    let (mut frames, mut splitter) = (Vec::new(), FrameSplitter::new(source.len() as u64, None));
    splitter.push(source.clone(), &mut frames).expect("frames");
    let frames = frames.iter().map(|frame| (frame, frame.decode(1 << 30).expect("records")));
    let records = frames.flat_map(|(frame, decoded)| {
        let leader_epoch = frame.leader_epoch();
        let stored = |record: &_| StoredRecord { leader_epoch, ..StoredRecord::new(record) };
        let records: Vec<_> = decoded.records.iter().map(|record| stored(&record)).collect();
        records.into_iter().map(|record| (frame.partition.clone(), record))
    });
    records.collect()
}

#[tokio::test]
async fn every_record_of_every_fixture_comes_back_as_it_was() {
    for name in fixtures() {
        let (store, source) = (store(), fixture(&name));
        put_segment(&store, &source).await;
        let orders = TopicPartition::new("orders", 3).expect("a partition");
        for topic in ["orders", "audit.events_eu"] {
            let wanted: Vec<_> = records_of(&source)
                .into_iter()
                .map(|(partition, record)| (partition.unwrap_or_else(|| orders.clone()), record))
                .filter(|(partition, _)| partition.topic() == topic)
                .collect();
            let answer = find(&store, &request(topic, "")).await;
            assert_eq!(answer.records.len(), wanted.len(), "{name}");
            assert_eq!(answer.summary.matched, wanted.len() as u64, "{name}");
            for found in &answer.records {
                assert!(
                    wanted.contains(&(found.partition.clone(), found.record.clone())),
                    "{name}: {found:?}"
                );
            }
            let ages: Vec<_> =
                answer.records.iter().map(|f| (f.record.timestamp_ms, f.record.offset)).collect();
            assert!(ages.is_sorted_by_key(|age| (age.0.is_none(), *age)), "{name}");
        }
    }
}

#[tokio::test]
async fn newest_come_first_and_the_limit_cuts() {
    let store = store();
    put_segment(&store, &fixture("kafka/times-unordered.log")).await;
    let all = find(&store, &request("orders", "")).await;
    let newest = Request { order: Order::NewestFirst, limit: 7, ..request("orders", "") };
    let newest = find(&store, &newest).await;
    let expected: Vec<_> = all.records.iter().rev().take(7).cloned().collect();
    assert_eq!(newest.records, expected);
    assert_eq!(newest.summary.matched, all.records.len() as u64);
    let counted = find(&store, &Request { limit: 0, ..request("orders", "") }).await;
    assert_eq!((counted.records, counted.summary.matched), (vec![], newest.summary.matched));
}

#[tokio::test]
async fn offsets_and_times_are_bounds_and_prune_bundles() {
    let store = store();
    put_segment(&store, &fixture("kafka/none.log")).await;
    let bounded = |min_offset, max_offset| {
        let mut request = request("orders", "");
        (request.filter.min_offset, request.filter.max_offset) = (min_offset, max_offset);
        request
    };
    let answer = find(&store, &bounded(Some(10), Some(12))).await;
    let offsets: Vec<_> = answer.records.iter().map(|found| found.record.offset).collect();
    assert_eq!(offsets, [10, 11, 12]);
    let answer = find(&store, &bounded(Some(100), None)).await;
    assert_eq!((answer.summary.bundles_pruned, answer.summary.bundles_searched), (1, 0));
    assert_eq!(answer.summary.traffic, Traffic { requests: 1, bytes: 0 });
    let mut later = request("orders", "");
    later.filter.min_timestamp_ms = Some(i64::MAX);
    assert_eq!(find(&store, &later).await.summary.bundles_pruned, 1);
}

/// Two replicas' segments of one log: their borders differ.
async fn put_replicas(store: &Store, first: &Bytes, second: &Bytes) -> (Vec<Packed>, Vec<Packed>) {
    (put_segment(store, first).await, put_segment(store, second).await)
}

#[tokio::test]
async fn where_replicas_overlap_each_offset_is_answered_once() {
    let (store, source) = (store(), fixture("kafka/none.log"));
    // The first batch has 3,960 bytes.
    put_replicas(&store, &source, &source.slice(3_960..)).await;
    for limit in [1, 7, 100, 1_000] {
        let answer = find(&store, &Request { limit, ..request("orders", "") }).await;
        let offsets: Vec<_> = answer.records.iter().map(|found| found.record.offset).collect();
        assert_eq!(offsets, (0..limit.min(100) as i64).collect::<Vec<_>>());
        assert_eq!(answer.summary.matched, if answer.summary.bundles_left == 0 { 100 } else { 50 });
        assert_eq!(answer.summary.conflicts, []);
    }
    for (bucket_ms, order) in [(None, Order::NewestFirst), (NonZeroU64::new(1), Order::ByScore)] {
        let counted = Request { limit: 0, bucket_ms, order, ..request("orders", "") };
        let summary = find(&store, &counted).await.summary;
        assert_eq!((summary.matched, summary.bundles_searched, summary.bundles_left), (100, 2, 0));
        let in_buckets: u64 = summary.buckets.iter().map(|(_, matched)| matched).sum();
        assert_eq!(in_buckets, if bucket_ms.is_some() { 100 } else { 0 });
    }
}

/// Moves the batches of a Kafka segment to other offsets. No checksum covers these.
fn moved(source: &Bytes, by: i64) -> Bytes {
    let (mut moved, mut at) = (source.to_vec(), 0);
    while at < moved.len() {
        let base = i64::from_be_bytes(moved[at..at + 8].try_into().expect("8 bytes")) + by;
        moved[at..at + 8].copy_from_slice(&base.to_be_bytes());
        at += 12 + u32::from_be_bytes(moved[at + 8..at + 12].try_into().expect("4 bytes")) as usize;
    }
    moved.into()
}

#[tokio::test]
async fn different_records_at_one_offset_are_both_answered_and_reported() {
    let store = store();
    let other = moved(&fixture("kafka/gzip.log"), -1_000);
    let (first, second) = put_replicas(&store, &fixture("kafka/none.log"), &other).await;
    let answer = find(&store, &request("orders", "offset:5")).await;
    assert_eq!(answer.records.len(), 2);
    assert_ne!(answer.records[0].record, answer.records[1].record);
    let [conflict] = &answer.summary.conflicts[..] else { panic!("{:?}", answer.summary) };
    assert_eq!((conflict.partition.to_string(), conflict.offset), ("orders/3".into(), 5));
    let bundles: HashSet<_> = conflict.bundles.iter().cloned().collect();
    assert_eq!(bundles, HashSet::from([first[0].key.to_string(), second[0].key.to_string()]));
}

#[tokio::test]
async fn incarnations_of_a_log_are_told_apart() {
    let (store, source) = (store(), fixture("kafka/one-record.log"));
    for log_id in ["a", "b"] {
        let packed = &pack(&source, log_id)[0];
        put_new(&store, &packed.key, &packed.object()).await;
    }
    assert_eq!(find(&store, &request("orders", "")).await.records.len(), 2);
    let mut one = request("orders", "");
    one.filter.log_id = Some(LogId::new("b"));
    let answer = find(&store, &one).await;
    assert_eq!(answer.records.iter().map(|found| found.log_id.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn a_corrupt_bundle_fails_the_search_by_its_name() {
    for part in ["manifest.json", ".term", "records.zst", "records.idx", "footer"] {
        let store = store();
        let packed = &pack(&fixture("kafka/none.log"), "")[0];
        let mut object = packed.object().to_vec();
        // The members' data follow their headers, which begin with the name or with `index/`.
        let header = object.windows(part.len()).position(|bytes| bytes == part.as_bytes()).expect(part);
        let data =
            if part == "footer" { packed.built.footer_offset as usize } else { header / 512 * 512 + 512 };
        object[data + 10] ^= 4;
        put_new(&store, &packed.key, &object.into()).await;
        let error = search(&bundle_cache(&store), &request("orders", "")).await.expect_err(part);
        assert!(error.to_string().contains(&packed.key.to_string()), "{part}: {error}");
    }
}

#[tokio::test]
async fn a_bundle_under_a_key_that_is_not_its_own_fails_the_search() {
    let store = store();
    let (packed, other) =
        (&pack(&fixture("kafka/none.log"), "")[0], &pack(&fixture("kafka/gaps.log"), "")[0]);
    put_new(&store, &packed.key, &other.object()).await;
    let error = search(&bundle_cache(&store), &request("orders", "")).await.expect_err("another bundle");
    assert!(error.to_string().contains("is not the key's"), "{error}");
}

#[tokio::test]
async fn a_search_without_a_topic_or_with_an_unbounded_limit_is_refused() {
    let mut without = request("orders", "");
    without.filter.topic = None;
    assert!(matches!(search(&bundle_cache(&store()), &without).await, Err(SearchError::NoTopic)));
    let large = Request { limit: LIMIT_MAX + 1, ..request("orders", "") };
    assert!(matches!(search(&bundle_cache(&store()), &large).await, Err(SearchError::LimitTooLarge { .. })));
}

#[tokio::test]
async fn a_topic_that_nobody_wrote_has_no_records() {
    let store = store();
    put_segment(&store, &fixture("kafka/one-record.log")).await;
    let answer = find(&store, &request("order", "")).await;
    assert_eq!((answer.records.len(), answer.summary.bundles_searched), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_that_need_more_than_was_foreseen_wait_for_their_turn() {
    let (store, source) = (store(), fixture("kafka/none.log"));
    // The first batch has 3,960 bytes.
    put_replicas(&store, &source, &source.slice(3_960..)).await;
    // This memory is enough for one search, but not for what the repeated offsets take in addition in each.
    let searcher = Searcher::new(bundle_cache(&store), 6 << 20, Duration::from_secs(60));
    let searches = (0..40).map(|_| {
        let searcher = searcher.clone();
        tokio::spawn(async move {
            let mut answers = searcher.search(request("orders", "*"), None).await?;
            let mut records = 0;
            while let Some(page) = answers.next().await? {
                records += page.records.len();
            }
            Ok::<_, SearchError>(records)
        })
    });
    for search in searches.collect::<Vec<_>>() {
        assert_eq!(search.await.expect("no panic").expect("an answer"), 100);
    }
}
