//! Names in read requests that point to other paths. `requests` tests the same for indexing and its sources.

use std::fs;

use tonic::{Code, Status, Streaming};
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;

use super::*;
use crate::worker::{Refusal, file_url, inline, send_inline};
use crate::written::fixture;

/// Returns how many messages of an answer contain something.
async fn holds<T>(
    answer: Result<tonic::Response<Streaming<T>>, Status>,
    is_something: impl Fn(&T) -> bool,
) -> Result<usize, Status> {
    let (mut messages, mut count) = (answer?.into_inner(), 0);
    while let Some(message) = messages.message().await? {
        count += usize::from(is_something(&message));
    }
    Ok(count)
}

#[tokio::test]
async fn readers_are_told_of_nothing_outside_of_the_store() {
    let root = tempfile::tempdir().expect("a directory");
    let (store, beside) = (root.path().join("store"), root.path().join("beside"));
    fs::create_dir(&store).expect("a directory");
    fs::create_dir(&beside).expect("a directory");
    // Another store beside this one, which has records.
    let source = fixture("kafka/none.log");
    let first = || inline(source.len() as u64, Some(("orders", 3)));
    let other = Worker::start_on(&file_url(&beside), &[], &[]);
    send_inline(&mut other.client().await, first(), &source, 9_000).await.expect("a receipt");
    let worker = Worker::start_on(&file_url(&store), &[], &[]);
    send_inline(&mut worker.client().await, first(), &source, 9_000).await.expect("a receipt");

    let mut client = SearchServiceClient::new(worker.channel().await);
    let long = "x".repeat(10_000);
    for name in [
        "../beside/orders",
        "../../beside/orders",
        "../beside",
        "..",
        ".",
        "/",
        "//",
        "/etc",
        "%2e%2e/beside/orders",
        "%2e%2e%2fbeside%2forders",
        "orders/../../beside/orders",
        "orders/3",
        "orders\0",
        "*",
        &long,
    ] {
        for (topic, log_id) in [(name, "0"), ("orders", name)] {
            let filter = v1::RecordFilter {
                topic: topic.to_owned(),
                log_id: Some(log_id.to_owned()),
                ..v1::RecordFilter::default()
            };
            let search = v1::SearchRequest { filter: Some(filter.clone()), ..v1::SearchRequest::default() };
            let list = v1::ListBundlesRequest { filter: Some(filter), segment_sha256: None };
            let fetch = v1::FetchRequest {
                topic: topic.to_owned(),
                partition: 3,
                log_id: Some(log_id.to_owned()),
                ..v1::FetchRequest::default()
            };
            for (what, found) in [
                ("Search", holds(client.search(search).await, |it| !it.records.is_empty()).await),
                ("ListBundles", holds(client.list_bundles(list).await, |it| it.bundle.is_some()).await),
                ("Fetch", holds(client.fetch(fetch).await, |it| !it.records.is_empty()).await),
            ] {
                match found {
                    Ok(found) => assert_eq!(found, 0, "{what} of {topic:.40?}, {log_id:.40?}"),
                    Err(status) => {
                        let refusal = Refusal::of(&status);
                        let expected = [Code::InvalidArgument, Code::NotFound];
                        assert!(expected.contains(&refusal.code), "{what} of {topic:.40?}: {refusal:?}");
                    }
                }
            }
        }
    }
    // An error that repeats part of the request still arrives.
    let filter = v1::RecordFilter { topic: "orders".to_owned(), ..v1::RecordFilter::default() };
    for query in [format!("({long}"), format!("{long}:[1 TO"), format!("\"{long}")] {
        let search =
            v1::SearchRequest { query, filter: Some(filter.clone()), ..v1::SearchRequest::default() };
        let status = client.search(search).await.expect_err("it does not read");
        assert_eq!(Refusal::of(&status).code, Code::InvalidArgument);
    }
    let fetch = v1::FetchRequest { topic: "orders".to_owned(), partition: 3, ..v1::FetchRequest::default() };
    let found = holds(client.fetch(fetch).await, |it| !it.records.is_empty()).await;
    assert!(found.expect("what is in the store is answered") > 0);
}
