//! Two callers and one worker: one caller with much work does not make the other one wait until all of it is
//! done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use wal_indexer::generate::{Codec, Format, Size};
use wal_indexer::proto::v1::{self, SegmentHeader};

use crate::sizes::{make, spec};
use crate::worker::{Client, Worker, send_inline};

/// The segments of the greedy caller. The budget has memory for six of them at a time, and the queue has
/// places for the others.
const GREEDY: u64 = 30;

async fn memory(client: &mut Client) -> v1::Memory {
    let stats = client.get_stats(v1::GetStatsRequest {}).await.expect("statistics").into_inner();
    stats.memory.expect("it says")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_with_a_long_queue_does_not_keep_another_one_waiting_behind_it() {
    let worker = Worker::start_with(&["--memory-budget", "128MiB"]);
    let made = make(spec(Format::Kafka, Codec::None, Size::Bytes(1_000_000)));
    let bytes: Arc<[u8]> = std::fs::read(made.file.path()).expect("the segment").into();
    let named = |log_id: String| SegmentHeader { log_id, ..made.header() };
    let greedy_done = Arc::new(AtomicU64::new(0));
    let mut greedy: FuturesUnordered<_> = (0..GREEDY)
        .map(|nth| {
            let (first, bytes, done) =
                (named(format!("greedy-{nth}")), Arc::clone(&bytes), Arc::clone(&greedy_done));
            let client = worker.client_from("127.0.0.1");
            tokio::spawn(async move {
                let sent = send_inline(&mut client.await, first, &bytes, 64 << 10).await;
                sent.expect("in time");
                done.fetch_add(1, SeqCst);
            })
        })
        .collect();
    let mut other = worker.client_from("127.0.0.2").await;
    while memory(&mut other).await.waiting_requests < GREEDY / 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = greedy_done.load(SeqCst);
    for nth in 0..3 {
        send_inline(&mut other, named(format!("other-{nth}")), &bytes, 64 << 10).await.expect("in its turn");
    }
    let passed = greedy_done.load(SeqCst) - before;
    let waits = memory(&mut other).await.waiting_requests;
    println!("{passed} of the greedy one's were done before three of the other's, {waits} still wait");
    assert!(waits > 0, "the greedy one's queue was done first");
    while let Some(done) = greedy.next().await {
        done.expect("each is done in the end");
    }
}
