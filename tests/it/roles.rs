//! A worker with some of its roles: the services of other roles do not exist, and it needs nothing for them.

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;

use crate::worker::{Worker, command, file_url, inline, send_inline};
use crate::written::fixture;

const INDEXER: &str = "walindexer.v1.IndexerService";
const SEARCH: &str = "walindexer.v1.SearchService";

/// Returns the health of a service, or the error.
async fn health(worker: &Worker, service: &str) -> Result<ServingStatus, Code> {
    let mut client = HealthClient::new(worker.channel().await);
    let asked = client.check(HealthCheckRequest { service: service.to_owned() }).await;
    asked.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

fn fetch_request() -> v1::FetchRequest {
    v1::FetchRequest { topic: "orders".to_owned(), partition: 3, ..v1::FetchRequest::default() }
}

#[tokio::test]
async fn what_a_worker_has_no_role_for_is_unimplemented_and_has_no_health() {
    let root = tempfile::tempdir().expect("a directory");
    let store = file_url(root.path());
    let searches = Worker::start_on(&store, &[], &["--roles", "search"]);
    assert_eq!(std::fs::read_dir(root.path()).expect("a directory").count(), 0, "it writes nothing");
    assert_eq!(health(&searches, INDEXER).await, Err(Code::NotFound));
    assert_eq!(health(&searches, SEARCH).await, Ok(ServingStatus::Serving));
    assert_eq!(health(&searches, "").await, Ok(ServingStatus::Serving));

    let indexes = Worker::start_on(&store, &[], &["--roles", "index"]);
    assert_eq!(health(&indexes, SEARCH).await, Err(Code::NotFound));
    assert_eq!(health(&indexes, INDEXER).await, Ok(ServingStatus::Serving));

    let source = fixture("kafka/none.log");
    let header = || inline(source.len() as u64, Some(("orders", 3)));
    let refused = send_inline(&mut searches.client().await, header(), &source, 1 << 20).await;
    assert_eq!(refused.expect_err("no such role").code(), Code::Unimplemented);
    send_inline(&mut indexes.client().await, header(), &source, 1 << 20).await.expect("a receipt");

    let refused = SearchServiceClient::new(indexes.channel().await).fetch(fetch_request()).await;
    assert_eq!(refused.expect_err("no such role").code(), Code::Unimplemented);
    let found = SearchServiceClient::new(searches.channel().await).fetch(fetch_request()).await;
    let first = found.expect("an answer").into_inner().message().await.expect("a message");
    assert_eq!(first.expect("records").records.len(), 100, "from the first fetch after the receipt on");
}

#[test]
fn roles_are_checked_at_the_start() {
    let root = tempfile::tempdir().expect("a directory");
    let missing = file_url(&root.path().join("missing"));
    for (code, roles, store) in
        [(2, "index,sleep", &file_url(root.path())), (2, "", &file_url(root.path())), (4, "search", &missing)]
    {
        let output = command(["serve", "--listen", "127.0.0.1:0", "--roles", roles, "--store", store]);
        let output = { output }.output().expect("the program starts");
        assert_eq!(output.status.code(), Some(code), "{roles}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!root.path().join("missing").exists(), "a reader makes no directory");
}
