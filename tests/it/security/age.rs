//! Connections are closed after a maximum age.

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use wal_indexer::client::{Client, Security, Timeouts};

use super::*;
use crate::client::{TestPayload, request, segment};
use crate::worker::{chunk, header, inline};
use crate::written::fixture;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_retired_and_no_segment_fails() {
    let flags = ["--max-connection-age", "0.2", "--metrics-listen", "127.0.0.1:0"];
    let worker = Worker::start_with(&flags);
    let opened = || worker.scrape().sum("wal_indexer_worker_connections_total", &[]).unwrap_or_default();
    // A call that takes longer than its connection accepts new calls.
    let source = fixture("kafka/none.log");
    let (messages, sent) = mpsc::unbounded_channel();
    let mut slow = worker.client().await;
    let long = tokio::spawn(async move { slow.index_segment(UnboundedReceiverStream::new(sent)).await });
    messages.send(header(inline(source.len() as u64, Some(("orders", 3))))).expect("it listens");

    let endpoint = worker.endpoint().parse().expect("an endpoint");
    let client = Client::start(vec![endpoint], Security::default(), Timeouts::default()).await;
    let client = client.expect("settings that work");
    let mut attempts = Vec::new();
    until("six connections", async || {
        for _ in 0..20 {
            let receipt =
                client.index(&request(), &TestPayload::new(segment(10))).await.expect("a receipt, each time");
            attempts.push(receipt.attempts());
        }
        (opened() >= 6.0).then_some(())
    })
    .await;
    messages.send(chunk(source)).expect("it listens");
    drop(messages);
    long.await.expect("it ends").expect("a receipt");
    let again = attempts.iter().filter(|attempts| **attempts > 1).count();
    println!("{} calls over {} connections, {again} of them sent again", attempts.len(), opened());
}
