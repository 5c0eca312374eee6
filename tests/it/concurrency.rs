//! The same segment, sent more than once: by a retry, by several clients to several workers at the same time,
//! in other chunks, by workers with other settings. Each partition gets one object, and every receipt is for
//! it.

use std::collections::BTreeSet;

use futures::future::join_all;
use url::Url;
use wal_indexer::proto::v1::{self, IndexSegmentResponse};
use wal_indexer::store::Store;

use crate::receipts::{Segment, already_existed, check, ingest_with, keys, keys_of, lasting, memory, send};
use crate::servers::Server;
use crate::worker::{self, Worker, file_url};

/// Sends a segment to a worker: in chunks of this size, or, without a size, as an object below its source
/// root.
async fn send_to(worker: &Worker, segment: &Segment, chunk_bytes: Option<usize>) -> IndexSegmentResponse {
    let mut client = worker.client().await;
    let sent = match chunk_bytes {
        Some(chunk_bytes) => {
            let header = worker::inline(segment.bytes.len() as u64, segment.named_partition);
            worker::send_inline(&mut client, header, &segment.bytes, chunk_bytes).await
        }
        None => {
            let path = worker.sources().join(format!("{:08x}", crc32c::crc32c(&segment.bytes)));
            std::fs::write(&path, &segment.bytes).expect("a file");
            let header = worker::object(&file_url(&path), segment.named_partition);
            worker::send(&mut client, vec![worker::header(header)]).await
        }
    };
    sent.expect("a receipt")
}

async fn stats(worker: &Worker) -> v1::GetStatsResponse {
    let stats = worker.client().await.get_stats(v1::GetStatsRequest {}).await;
    stats.expect("statistics").into_inner()
}

/// Eight clients send each of the segments to two workers at once.
async fn eight_at_once(workers: [&Worker; 2], store: &Store) {
    let mut expected_keys = BTreeSet::new();
    let segments = [Segment::of_three_partitions(), Segment::logs(1_500, 7), Segment::opaque(&[3 << 20], 0)];
    for segment in &segments {
        let ways = [Some(5_000), Some(64 << 10), Some(4 << 20), None];
        let sends = (0..8).map(|n| send_to(workers[n % 2], segment, ways[n / 2]));
        let replies = join_all(sends).await;
        for reply in &replies {
            assert_eq!(lasting(reply), lasting(&replies[0]), "one receipt, whoever gets it");
        }
        for nth in 0..replies[0].partitions.len() {
            let created = replies.iter().filter(|reply| !already_existed(reply)[nth]).count();
            assert_eq!(created, 1, "exactly one request made the object, and all others found it");
        }
        check(store, &replies[0], &segment.bytes).await;
        expected_keys.extend(keys_of(&replies[0]));
        assert_eq!(keys(store).await, Vec::from_iter(expected_keys.clone()), "one object for each partition");

        let again = send_to(workers[0], segment, Some(1 << 20)).await;
        assert_eq!(lasting(&again), lasting(&replies[0]));
        assert!(already_existed(&again).into_iter().all(|existed| existed));
    }
    let stats = join_all(workers.map(stats)).await;
    let sum = |count: fn(&v1::GetStatsResponse) -> u64| stats.iter().map(count).sum::<u64>();
    assert_eq!(sum(|stats| stats.indexes_created), expected_keys.len() as u64, "counted where it was made");
    assert_eq!(sum(|stats| stats.segments_processed), 9 * segments.len() as u64);
}

#[tokio::test]
async fn eight_clients_and_two_workers_make_one_object_on_the_local_file_system() {
    let one = Worker::start_with(&["--threads", "1"]);
    let url = file_url(&one.store());
    let other = Worker::start_on(&url, &[], &["--threads", "3"]);
    let store = Store::open(&Url::parse(&url).unwrap()).unwrap();
    eight_at_once([&one, &other], &store).await;
    assert_eq!(one.keys(), keys(&store).await, "no file beside the objects");
}

#[tokio::test]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
async fn eight_clients_and_two_workers_make_one_object_on_s3() {
    let server = Server::s3();
    let (url, settings) = (server.url("shared"), server.settings());
    let start = |threads| Worker::start_on(url.as_str(), &settings, &["--threads", threads]);
    let (one, other) = (start("1"), start("3"));
    eight_at_once([&one, &other], &server.store("shared")).await;
}

/// Builds the segment in ways that must give the same bytes, each time into a new store.
async fn built_in_all_ways(segment: &Segment, chunk_sizes: &[usize]) {
    let mut objects = BTreeSet::new();
    for (nth, chunk_bytes) in chunk_sizes.iter().enumerate() {
        let ingest = ingest_with(memory(), 1 + nth % 3);
        let reply = send(&ingest, segment, *chunk_bytes).await.expect("a receipt");
        check(&ingest.store, &reply, &segment.bytes).await;
        let mut built = Vec::new();
        for key in keys_of(&reply) {
            let object = ingest.store.get(&key.parse().unwrap(), 1 << 30).await.expect("the object");
            built.push((key, object));
        }
        objects.insert(built);
    }
    for (threads, chunk_bytes) in [("1", Some(100_000)), ("4", None)] {
        let worker = Worker::start_with(&["--threads", threads]);
        let reply = send_to(&worker, segment, chunk_bytes).await;
        objects.insert(keys_of(&reply).into_iter().map(|key| (key.clone(), worker.object(&key))).collect());
    }
    assert_eq!(objects.len(), 1, "the same segment was built into different bytes");
}

#[tokio::test]
async fn a_bundle_is_the_same_to_the_byte_in_whatever_way_it_is_built() {
    built_in_all_ways(&Segment::of_three_partitions(), &[1, 7, 4096, 1 << 20]).await;
    built_in_all_ways(&Segment::logs(1_000, 3), &[777, 64 << 10, 1 << 20]).await;
}

#[tokio::test]
async fn a_bundle_of_several_slices_is_the_same_to_the_byte_in_whatever_way_it_is_built() {
    let segment = Segment::of_two_slices();
    built_in_all_ways(&segment, &[300_000, 4 << 20]).await;
    let ingest = ingest_with(memory(), 2);
    let reply = send(&ingest, &segment, 1 << 20).await.unwrap();
    let object = ingest.store.get(&keys_of(&reply)[0].parse().unwrap(), 1 << 30).await.unwrap();
    let slices = crate::truth::open(&object).manifest.index.segments.len();
    assert!(slices > 1, "the segment must be large enough to be built in parts");
}

#[tokio::test]
async fn a_segment_with_its_torn_tail_and_without_it_are_two_objects_that_restore_what_was_sent() {
    let whole = Segment::of_three_partitions();
    let torn = [&whole.bytes[..], &whole.bytes[..whole.bytes.len() / 9]].concat();
    let torn = Segment::new(torn, None).kept_if_torn();
    let ingest = ingest_with(memory(), 2);
    let kept = send(&ingest, &torn, 4096).await.expect("a receipt");
    let without = send(&ingest, &whole, 4096).await.expect("a receipt");
    assert_eq!(without.torn_tail_bytes, 0);
    assert!(
        kept.torn_tail_bytes > 0 && kept.torn_tail_bytes < kept.bytes_read - whole.bytes.len() as u64 + 1
    );
    check(&ingest.store, &kept, &torn.bytes).await;
    check(&ingest.store, &without, &whole.bytes).await;
    let both: BTreeSet<_> = keys_of(&kept).into_iter().chain(keys_of(&without)).collect();
    assert_eq!(both.len(), 6, "no key is shared: the sources differ");
    assert_eq!(keys(&ingest.store).await, Vec::from_iter(both));
}

#[tokio::test]
async fn a_worker_with_other_settings_finds_the_object_that_is_there_and_leaves_it() {
    let one = Worker::start();
    let settings = one.sources().join("settings.toml");
    std::fs::write(&settings, "[[topic]]\npattern = \"*\"\nvalue = \"none\"\n").unwrap();
    let settings = ["--index-settings", settings.to_str().expect("UTF-8")];
    let url = file_url(&one.store());
    let other = Worker::start_on(&url, &[], &settings);
    let store = Store::open(&Url::parse(&url).unwrap()).unwrap();
    for (segment, first, second) in
        [(Segment::of_three_partitions(), &one, &other), (Segment::logs(500, 2), &other, &one)]
    {
        let made = send_to(first, &segment, Some(1 << 20)).await;
        let found = send_to(second, &segment, Some(1 << 20)).await;
        assert!(already_existed(&made).iter().all(|existed| !existed));
        assert!(already_existed(&found).iter().all(|existed| *existed));
        assert_eq!(lasting(&found), lasting(&made), "the receipt describes the object that is there");
        check(&store, &found, &segment.bytes).await;
    }
}

#[tokio::test]
async fn a_segment_under_another_name_is_the_same_segment() {
    let worker = Worker::start();
    let segment = Segment::of_three_partitions();
    let made = send_to(&worker, &segment, Some(1 << 20)).await;
    let mut client = worker.client().await;
    let header = v1::SegmentHeader {
        segment_id: "what another replica calls it".to_owned(),
        ..worker::inline(segment.bytes.len() as u64, segment.named_partition)
    };
    let found = worker::send_inline(&mut client, header, &segment.bytes, 1 << 20).await.expect("a receipt");
    assert_eq!(found.segment_id, "what another replica calls it", "its own name comes back to each caller");
    let renamed = IndexSegmentResponse { segment_id: made.segment_id.clone(), ..lasting(&found) };
    assert_eq!(renamed, lasting(&made));
    assert_eq!(worker.keys(), {
        let mut keys = keys_of(&made);
        keys.sort();
        keys
    });
}
