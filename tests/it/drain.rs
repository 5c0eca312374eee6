//! Answers that are still being sent when a drain times out: their callers get an error that says so.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;

use crate::receipts::Segment;
use crate::worker::{Refusal, Worker, inline, send_inline};

/// Larger than what HTTP/2 buffers of an answer that nobody reads.
const RECORD_BYTES: usize = 1 << 20;
const RECORDS: usize = 24;

/// Reads an answer slowly until it ends with an error.
async fn read<T>(mut answer: tonic::Streaming<T>) -> Status {
    loop {
        match answer.message().await {
            Ok(Some(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(None) => panic!("the answer came to its end"),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_outlast_the_drain_end_with_unavailable() {
    let mut worker = Worker::start_with(&["--drain-timeout", "1"]);
    let segment = Segment::opaque(&[RECORD_BYTES; RECORDS], 0);
    let header = inline(segment.bytes.len() as u64, segment.named_partition);
    send_inline(&mut worker.client().await, header, &segment.bytes, 1 << 20).await.expect("indexed");
    let (topic, partition) = segment.named_partition.expect("it is told");

    let client = SearchServiceClient::new(worker.channel().await);
    let mut client = client.max_decoding_message_size(64 << 20);
    let request =
        v1::FetchRequest { topic: topic.to_owned(), partition, max_bytes: 1 << 30, ..Default::default() };
    let fetched = client.fetch(request).await.expect("an answer").into_inner();
    let filter = Some(v1::RecordFilter { topic: topic.to_owned(), ..Default::default() });
    let request = v1::SearchRequest { filter, ..Default::default() };
    let found = client.search(request).await.expect("an answer").into_inner();
    let mut health = HealthClient::new(worker.channel().await);
    let watched = health.watch(HealthCheckRequest::default()).await.expect("an answer").into_inner();

    worker.signal("TERM");
    let (fetched, found, watched) = tokio::join!(read(fetched), read(found), read(watched));
    for (name, status) in [("fetch", fetched), ("search", found), ("watch", watched)] {
        let refusal = Refusal::of(&status);
        assert_eq!((refusal.code, &*refusal.reason), (Code::Unavailable, "DRAINING"), "{name}");
    }
    assert_eq!(worker.ended().code(), Some(0));
}
