//! Probes, which use no TLS and have no token.

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use wal_indexer::proto::v1::GetStatsRequest;
use wal_indexer::proto::v1::indexer_service_client::IndexerServiceClient;

use super::*;
use crate::worker::{header, inline};

async fn plain(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .connect()
        .await
        .expect("it listens")
}

async fn probe(address: &str, service: &str) -> Result<ServingStatus, Code> {
    let mut client = HealthClient::new(plain(address).await);
    let asked = client.check(HealthCheckRequest { service: service.to_owned() }).await;
    asked.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_beside_mutual_tls_until_the_end_of_the_drain() {
    let (authority, service) = (Authority::new(), "walindexer.v1.IndexerService");
    let flags = ["--health-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let mut worker = secure(&authority.sign("worker"), Some(&authority), &flags);
    assert_eq!(probe(worker.health(), "").await, Ok(ServingStatus::Serving));
    assert_eq!(probe(worker.health(), service).await, Ok(ServingStatus::Serving));
    let mut stranger = IndexerServiceClient::new(plain(worker.health()).await);
    let refused = stranger.get_stats(GetStatsRequest {}).await;
    assert_eq!(refused.expect_err("probes only").code(), Code::Unimplemented);

    let tls = trust(&authority).identity(authority.sign("agent").identity());
    let mut client = IndexerServiceClient::new(connect(&worker, tls).await.expect("all fits"));
    let (messages, sent) = tokio::sync::mpsc::unbounded_channel();
    messages.send(header(inline(1 << 20, Some(("orders", 3))))).expect("it listens");
    let sent = tokio_stream::wrappers::UnboundedReceiverStream::new(sent);
    let call = tokio::spawn(async move { client.index_segment(sent).await });
    let building = || worker.scrape().sum("wal_indexer_worker_building_segments", &[]);
    until("a segment is in hand", async || (building() == Some(1.0)).then_some(())).await;
    worker.signal("TERM");
    let drains =
        async || (probe(worker.health(), service).await == Ok(ServingStatus::NotServing)).then_some(());
    until("it says that it drains", drains).await;
    drop(messages);
    call.await.expect("it ends").expect_err("it was cut short");
    assert!(worker.ended().success());
}
