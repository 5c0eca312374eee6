//! Far more work than there is memory for, in a cgroup that kills a process that exceeds its limit: nothing
//! is killed, every call succeeds or gets a retry delay, and in the end all segments are stored.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use tonic::Code;
use tonic_types::StatusExt;
use wal_indexer::generate::{Size, Spec, generate};
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
use wal_indexer::proto::v1::{self, IndexSegmentResponse, SegmentHeader};

use crate::cgroup::Cgroup;
use crate::receipts::Segment;
use crate::worker::{Client, Worker, chunk, header, inline, resident_bytes, send_inline};

/// How many segments are sent at once.
const SEGMENTS: usize = 64;

/// Sends a segment until it is accepted, with the pauses that the worker asks for. Returns also how often it
/// was refused.
async fn send(mut client: Client, first: SegmentHeader, bytes: Bytes) -> (IndexSegmentResponse, u32) {
    for refused in 0.. {
        let (bytes, len) = (bytes.clone(), bytes.len());
        let chunks = (0..len).step_by(1 << 20).map(move |at| chunk(bytes.slice(at..len.min(at + (1 << 20)))));
        let messages = stream::iter([header(first.clone())].into_iter().chain(chunks));
        match client.index_segment(messages).await {
            Ok(reply) => return (reply.into_inner(), refused),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
                tokio::time::sleep(retry.expect("it says when to come back")).await;
            }
        }
    }
    unreachable!("it counts for long")
}

/// Returns the resident memory at intervals, in MiB, until `ends`.
async fn watch(worker: &Worker, ends: impl Future<Output = ()>) -> Vec<(Duration, u64)> {
    let (began, mut seen) = (Instant::now(), Vec::new());
    tokio::pin!(ends);
    loop {
        seen.push((began.elapsed(), resident_bytes(worker.pid()) >> 20));
        tokio::select! {
            () = &mut ends => return seen,
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
}

/// Prints a table of about twenty moments with the resident memory.
fn print(seen: &[(Duration, u64)]) {
    println!("| after | resident |\n|---|---|");
    for moments in seen.chunks(seen.len().div_ceil(20)) {
        let most = moments.iter().map(|(_, mib)| mib).max().expect("one at least");
        println!("| {:.0} s | {most} MiB |", moments[0].0.as_secs_f64());
    }
}

/// Sends all segments over this many connections.
async fn check(connections: usize, segment_bytes: u64, budget_mib: u64, limit_mib: u64) {
    let cgroup = Cgroup::new(limit_mib << 20);
    let worker = Worker::start_by(cgroup.launcher(), &["--memory-budget", &format!("{budget_mib}MiB")]);
    let mut bytes = Vec::new();
    generate(&Spec { size: Size::Bytes(segment_bytes), ..Spec::default() }, &mut bytes).expect("in memory");
    let bytes = Bytes::from(bytes);
    let clients: Vec<_> = join_all((0..connections).map(|_| worker.client())).await;
    // The log id is part of the key, so each is a different segment.
    let sends = (0..SEGMENTS).map(|nth| {
        let first = inline(bytes.len() as u64, Some(("logs", 0)));
        let (first, bytes) = (SegmentHeader { log_id: nth.to_string(), ..first }, bytes.clone());
        send(clients[nth % connections].clone(), first, bytes)
    });
    let (mut receipts, began) = (Vec::new(), Instant::now());
    let seen = watch(&worker, async { receipts = join_all(sends).await }).await;
    let took = began.elapsed();
    let (refused, peak) =
        (receipts.iter().map(|(_, refused)| refused).sum::<u32>(), worker.peak_resident_bytes());
    println!(
        "{SEGMENTS} of {} MB at once over {connections} connections, {budget_mib} MiB in a cgroup of {limit_mib} MiB: {took:.1?}, told to wait {refused} \
         times, peak {} MiB, {} of them the program",
        segment_bytes / 1_000_000,
        peak >> 20,
        worker.resident_file_bytes() >> 20
    );
    print(&seen);
    assert_eq!(cgroup.kills(), 0, "nobody is killed");
    assert!(receipts.iter().all(|(reply, _)| reply.bytes_read == bytes.len() as u64));
    assert_eq!(worker.keys().len(), SEGMENTS, "each is stored");
    let own = peak - worker.resident_file_bytes();
    assert!(own <= limit_mib << 20, "{} MiB, {} of them its own", peak >> 20, own >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and cgroups; make test runs it"]
async fn sixty_four_segments_at_once_go_through_a_worker_with_room_for_a_few() {
    check(SEGMENTS, 2_000_000, 96, 144).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and cgroups, and takes minutes; make test-long runs it"]
async fn long_sixty_four_segments_of_50_mb_at_once_go_through_a_worker_with_512_mib() {
    for connections in [SEGMENTS, 1] {
        check(connections, 50_000_000, 512, 768).await;
    }
}

/// Calls that wait keep what they have sent, and with it a part of the connection's window. If they held the
/// whole window, nothing would arrive for the calls that do not wait, and none of those would end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and cgroups; make test runs it"]
async fn calls_that_wait_leave_room_on_their_connection_for_those_that_do_not() {
    check(1, 4_000_000, 96, 192).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetches_wait_for_the_memory_that_slow_readers_hold() {
    // Three eighths of it are for whole searches and fetches: enough for one fetch.
    let worker = Worker::start_with(&["--search-memory", "64MiB"]);
    let segment = Segment::opaque(&[1 << 20; 24], 0);
    let first = inline(segment.bytes.len() as u64, segment.named_partition);
    send_inline(&mut worker.client().await, first, &segment.bytes, 1 << 20).await.expect("indexed");
    let fetch = async || {
        let (topic, partition) = segment.named_partition.expect("it is told");
        let client = SearchServiceClient::new(worker.channel().await);
        let asked = v1::FetchRequest { max_bytes: 1 << 30, partition, ..Default::default() };
        let asked = v1::FetchRequest { topic: topic.to_owned(), ..asked };
        let answer = client.max_decoding_message_size(64 << 20).fetch(asked).await;
        answer.expect("in its turn").into_inner()
    };
    let slow = fetch().await;
    let mut second = Box::pin(fetch());
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut second).await.is_err(), "no room");
    drop(slow);
    let mut second = tokio::time::timeout(Duration::from_secs(60), second).await.expect("there is room now");
    let mut bytes = 0;
    while let Some(message) = second.message().await.expect("a whole answer") {
        bytes +=
            message.records.iter().filter_map(|record| record.value.as_ref()).map(Bytes::len).sum::<usize>();
    }
    assert_eq!(bytes, 24 << 20);
}
