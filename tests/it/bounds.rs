//! Small input that needs much memory, and callers that reserve much and send little: a worker stays within
//! its memory, and others are served.

mod siege;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, stream};
use tonic::Code;
use tonic_types::StatusExt;
use wal_indexer::generate::{Codec, Format, Size, Spec, generate};
use wal_indexer::proto::v1::SegmentHeader;

use crate::cgroup::Cgroup;
use crate::receipts::{Segment, TOLD};
use crate::sizes::dense_batch;
use crate::worker::{Client, Refusal, Worker, header, inline, send_inline};

/// Returns a segment with this many partitions of one record each.
fn of_partitions(partitions: u32) -> Vec<u8> {
    let spec = Spec {
        format: Format::ChronikV2,
        size: Size::Records(partitions.into()),
        partitions: partitions.try_into().expect("not zero"),
        batch_records: 1.try_into().expect("not zero"),
        ..Spec::default()
    };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("in memory");
    bytes
}

/// Sends a segment with this many partitions to a worker in a cgroup. Its receipt must name all of them.
async fn check_partitions(partitions: u32, limit_mib: u64, flags: &[&str]) {
    let cgroup = Cgroup::new(limit_mib << 20);
    let worker = Worker::start_by(cgroup.launcher(), flags);
    let bytes = of_partitions(partitions);
    let mut client = worker.client().await.max_decoding_message_size(64 << 20);
    let began = Instant::now();
    let reply = send_inline(&mut client, inline(bytes.len() as u64, None), &bytes, 1 << 20).await;
    let took = began.elapsed();
    assert_eq!(cgroup.kills(), 0, "nobody is killed");
    let reply = reply.expect("a receipt");
    let peak = worker.peak_resident_bytes() >> 20;
    println!("{partitions} partitions in a cgroup of {limit_mib} MiB: {took:.1?}, {peak} MiB resident");
    assert_eq!(reply.partitions.len(), partitions as usize);
    assert_eq!(worker.keys().len(), partitions as usize);
}

#[tokio::test]
async fn a_segment_of_more_partitions_than_are_packed_together_is_stored_whole() {
    let (worker, bytes) = (Worker::start(), of_partitions(200));
    let reply =
        send_inline(&mut worker.client().await, inline(bytes.len() as u64, None), &bytes, 1 << 20).await;
    let reply = reply.expect("a receipt");
    assert_eq!((reply.partitions.len(), worker.keys().len()), (200, 200));
    assert_eq!(reply.partitions.iter().map(|one| one.record_count).sum::<u64>(), 200);
}

#[tokio::test]
#[ignore = "needs root and cgroups; make test runs it"]
async fn thousands_of_partitions_of_one_record_go_through_a_small_worker() {
    check_partitions(4_000, 96, &["--memory-budget", "64MiB"]).await;
}

#[tokio::test]
#[ignore = "needs root and cgroups, and takes a minute; make test-long runs it"]
async fn long_as_many_partitions_as_a_segment_may_have_go_through_a_worker_with_256_mib() {
    check_partitions(20_000, 256, &["--memory-budget", "160MiB"]).await;
}

#[tokio::test]
#[ignore = "needs root and cgroups; make test runs it"]
async fn more_partitions_than_there_is_memory_for_are_refused_for_good_before_any_is_built() {
    let cgroup = Cgroup::new(96 << 20);
    let worker = Worker::start_by(cgroup.launcher(), &["--memory-budget", "64MiB"]);
    let bytes = of_partitions(20_000);
    let sent =
        send_inline(&mut worker.client().await, inline(bytes.len() as u64, None), &bytes, 1 << 20).await;
    assert_eq!(cgroup.kills(), 0, "nobody is killed");
    let status = sent.expect_err("there is no room for it, ever");
    let refusal = Refusal::of(&status);
    assert_eq!(
        (refusal.code, &*refusal.reason),
        (Code::InvalidArgument, "LARGER_THAN_BUDGET"),
        "{refusal:?}"
    );
    assert!(status.get_details_retry_info().is_none(), "nobody need try again: {status:?}");
    assert!(worker.keys().is_empty(), "none is built");
    check_served(&worker).await;
}

async fn check_served(worker: &Worker) {
    let segment = Segment::fixture("chronik/v2-three-partitions.wal");
    let first = inline(segment.bytes.len() as u64, segment.named_partition);
    send_inline(&mut worker.client().await, first, &segment.bytes, 1 << 20).await.expect("a receipt");
}

#[tokio::test]
#[ignore = "needs root and cgroups; make test runs it"]
async fn what_a_batch_opens_to_is_reserved_before_it_is_opened() {
    let cgroup = Cgroup::new(352 << 20);
    let worker = Worker::start_by(cgroup.launcher(), &["--memory-budget", "320MiB"]);
    for codec in [Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        let bytes = dense_batch(codec, 200 << 20);
        let told = inline(bytes.len() as u64, Some(TOLD));
        let told = SegmentHeader { log_id: codec.to_string(), ..told };
        let sent = send_inline(&mut worker.client().await, told, &bytes, 1 << 20).await;
        assert_eq!(cgroup.kills(), 0, "{codec}: nobody is killed");
        sent.unwrap_or_else(|status| panic!("{codec}: it fits: {status:?}"));
        println!("{codec}: {} MiB resident", worker.peak_resident_bytes() >> 20);
    }
    check_served(&worker).await;
}

/// Declares a segment again and again, and never sends its bytes.
async fn reserve_only(mut client: Client, size_bytes: u64) {
    loop {
        let messages = stream::iter([header(inline(size_bytes, Some(TOLD)))]).chain(stream::pending());
        let _ = client.index_segment(messages).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns how long it takes until a segment is indexed.
async fn time_to_index(worker: &Worker, bytes: &Bytes, log_id: &str) -> Duration {
    let (began, mut client) = (Instant::now(), worker.client().await);
    let first = SegmentHeader { log_id: log_id.to_owned(), ..inline(bytes.len() as u64, Some(TOLD)) };
    send_inline(&mut client, first, bytes, 1 << 20).await.expect("a receipt");
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_declares_much_and_sends_nothing_keeps_no_memory_from_others() {
    let worker = Worker::start_with(&["--memory-budget", "96MiB"]);
    let mut bytes = Vec::new();
    generate(&Spec { size: Size::Bytes(4_000_000), ..Spec::default() }, &mut bytes).expect("in memory");
    let bytes = Bytes::from(bytes);
    let alone = time_to_index(&worker, &bytes, "alone").await;
    let mut reserving = Vec::new();
    for host in 2..6 {
        let client = worker.client_from(&format!("127.0.0.{host}")).await;
        reserving.extend((0..4).map(|_| tokio::spawn(reserve_only(client.clone(), 24 << 20))));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut beside = Vec::new();
    for nth in 0..4 {
        beside.push(time_to_index(&worker, &bytes, &nth.to_string()).await);
    }
    reserving.iter().for_each(|reserving| reserving.abort());
    join_all(reserving).await;
    println!("alone {alone:.2?}, beside others {beside:.2?}");
    let most = beside.iter().max().expect("some");
    assert!(*most < 2 * alone + Duration::from_secs(1), "alone {alone:?}, beside others {beside:?}");
}
