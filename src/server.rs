//! The listener and what stands in front of the services: TLS, limits, counts, access, health, reflection, drain. Knows nothing of
//! stages.

mod activity;
mod authorization;
mod call_metrics;
mod connection;
mod connection_policy;
mod drain_deadline;
mod frames;
mod hot_reload;
mod limit;
mod not_after;
mod preface;
mod tls;
mod tokens;

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::service::{LayerExt, Routes};
use tonic::transport::Server;
use tower::util::MapResponseLayer;
use tracing::info;

pub use connection_policy::ConnectionPolicy;
pub use tls::{TlsError, TlsFile, TlsFiles, TlsProblem};
pub use tokens::{LineError, TokensError};

use activity::InHand;
use authorization::AuthorizationLayer;
use connection::{Opening, serve_all};
use limit::ConnectionLimit;

use crate::ingest::Ingest;
use crate::metrics;
use crate::proto::DESCRIPTORS;
use crate::proto::v1::indexer_service_server::IndexerServiceServer;
use crate::proto::v1::search_service_server::SearchServiceServer;
use crate::rpc::Indexer;
use crate::rpc::body::own_body;
use crate::rpc::search::Reader;
use crate::search::Searcher;
use crate::store::SourceRoots;

/// A chunk of 4 MiB and what protobuf puts around it.
const MESSAGE_BYTES_MAX: usize = (4 << 20) + (64 << 10);

/// What HTTP/2 may have in flight: enough for a fast sender, small beside a segment. These bytes are received before
/// anything is admitted, so they are bounded by connection.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// As much as all of a connection's calls may have: those that wait for memory keep what they have sent, and must not keep the others' bytes
/// from coming. What all calls together may have is bounded by how many of them may wait.
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;

/// What a sender may put into one frame of HTTP/2. By default that is 16 KiB, and a segment comes in 64 pieces a mebibyte, each
/// read and passed on by itself: a quarter as many take 4 % less of the worker's time where payloads come threefold. Still larger
/// ones bring nothing.
const FRAME_BYTES_MAX: u32 = 64 << 10;

/// Calls that one connection may have in flight. Their headers come before anything is admitted, and each may be as large
/// as a message: this bounds them.
const STREAMS_MAX: u32 = 64;

/// How long callers have to take the word that a drain is over for them.
const LAST_WORD_MAX: Duration = Duration::from_secs(2);

/// What HTTP/2 takes in of a call's headers; what is more is refused by their number alone.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// Each probe connects anew; what stays is none.
const PROBES_AGE_MAX: Duration = Duration::from_secs(60);

/// What a server needs beside its listener. A role that it does not have is not served at all: its calls are UNIMPLEMENTED, and its
/// health is NOT_FOUND.
#[derive(Debug)]
pub struct Config {
    /// What serving `IndexerService` takes.
    pub index: Option<IndexRole>,
    /// What serving `SearchService` takes: the bundles to read, and what searches may take.
    pub search: Option<Searcher>,
    /// Who gets in.
    pub policy: ConnectionPolicy,
    /// How long work in hand may take after the signal to stop.
    pub drain_max: Duration,
}

/// The write path, and who runs it.
#[derive(Debug)]
pub struct IndexRole {
    /// The write path.
    pub ingest: Ingest,
    /// Where object sources may lie.
    pub sources: SourceRoots,
    /// How this worker calls itself in `GetStats`.
    pub worker_id: String,
}

/// Why the server ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors of this build cannot be served.
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves until `shutdown` is ready, then finishes the work in hand, for up to `drain_max`. Work that is still in hand
/// then is dropped: its callers are told so, get no receipt, and keep their copies.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let draining = Arc::new(AtomicBool::new(false));
    let (health, health_service) = tonic_health::server::health_reporter();
    let Config { index, search, policy, drain_max } = config;
    let (indexes, searches) = (index.is_some(), search.is_some());
    if indexes {
        health.set_serving::<IndexerServiceServer<Indexer>>().await;
    }
    if searches {
        health.set_serving::<SearchServiceServer<Reader>>().await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let indexer = index.map(|role| {
        let indexer = Indexer::new(role.ingest, role.sources, role.worker_id, Arc::clone(&draining));
        IndexerServiceServer::new(indexer).max_decoding_message_size(MESSAGE_BYTES_MAX)
    });
    let own_bodies = MapResponseLayer::new(own_body);
    let reader =
        search.map(|searcher| own_bodies.named_layer(SearchServiceServer::new(Reader::new(searcher))));

    let (stopping, stopped) = watch::channel(false);
    let (end_calls, over) = watch::channel(false);
    let drain_is_over = async move {
        shutdown.await;
        // First no new work, then word of it: a client that asks in between is told, not served.
        draining.store(true, Ordering::Release);
        metrics::worker::draining(true);
        if indexes {
            health.set_not_serving::<IndexerServiceServer<Indexer>>().await;
        }
        if searches {
            health.set_not_serving::<SearchServiceServer<Reader>>().await;
        }
        info!(drain_max_s = drain_max.as_secs(), "draining");
        stopping.send_replace(true);
        sleep(drain_max).await;
        info!("drain timeout: work still in hand ends without a receipt");
        end_calls.send_replace(true);
        sleep(LAST_WORD_MAX).await;
    };
    let server = Server::builder()
        .max_concurrent_streams(Some(STREAMS_MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(Some(FRAME_BYTES_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(30)));
    let mut routes = Routes::new(health_service.clone())
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    if let Some(reader) = reader {
        routes = routes.add_service(reader);
    }
    if let Some(indexer) = indexer {
        routes = routes.add_service(indexer);
    }
    let routes = routes.prepare();
    let opening =
        Opening { tls: policy.tls, age_max: policy.connection_age_max, limit: ConnectionLimit::new() };
    let tokens = policy.tokens;
    let serving = serve_all(listener, opening, stopped, move |connection, retire| {
        let server = server
            .clone()
            // Outside of all others, so that what they refuse is counted, too.
            .layer(call_metrics::CallMetricsLayer)
            // Around what may take long, so that all of it hears.
            .layer(drain_deadline::DrainDeadline::new(over.clone(), connection.leaving()))
            // Before anything of a body is read.
            .layer(AuthorizationLayer(tokens.clone()))
            // Inside of that: a call that is refused is none.
            .layer(InHand(connection.activity()));
        server.serve_with_incoming_shutdown(routes.clone(), connection.alone(), retire).map(drop)
    });
    tokio::select! {
        () = serving => {}
        () = drain_is_over => info!("callers that do not listen are cut off"),
        () = answer_probes(policy.probes, Routes::new(health_service).prepare()) => {}
    }
    Ok(())
}

/// To the end: a worker that drains says so. Never returns.
async fn answer_probes(listener: Option<TcpListener>, health: Routes) {
    let Some(listener) = listener else { return pending().await };
    let server = Server::builder().max_concurrent_streams(Some(STREAMS_MAX));
    let opening = Opening { tls: None, age_max: PROBES_AGE_MAX, limit: ConnectionLimit::new() };
    let (_going_on, stopped) = watch::channel(false);
    let (_never, over) = watch::channel(false);
    serve_all(listener, opening, stopped, move |connection, retire| {
        let server =
            server.clone().layer(drain_deadline::DrainDeadline::new(over.clone(), connection.leaving()));
        server.serve_with_incoming_shutdown(health.clone(), connection.alone(), retire).map(drop)
    })
    .await;
}
