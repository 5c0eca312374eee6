//! The listener, and what comes before the services: TLS, connection limits, call metrics, authorization,
//! health, reflection and drain. It knows nothing of the stages of the pipeline.

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

use activity::ActivityLayer;
use authorization::AuthorizationLayer;
use connection::{Opening, serve_all};
use limit::ConnectionLimit;

use crate::copies::Copies;
use crate::ingest::Ingest;
use crate::metrics;
use crate::proto::DESCRIPTORS;
use crate::proto::v1::archive_service_server::ArchiveServiceServer;
use crate::proto::v1::indexer_service_server::IndexerServiceServer;
use crate::proto::v1::search_service_server::SearchServiceServer;
use crate::rpc::Indexer;
use crate::rpc::archive::Archiver;
use crate::rpc::body::own_body;
use crate::rpc::search::Reader;
use crate::search::{BundleCache, Searcher};
use crate::store::SourceRoots;

/// The maximum size of a message, in bytes: a chunk of 4 MiB and its protobuf overhead.
const MESSAGE_BYTES_MAX: usize = (4 << 20) + (64 << 10);

/// The flow-control window of a call, in bytes: enough for a fast sender, and small compared with a segment.
/// These bytes are received before a call is admitted, so each connection limits them.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// The flow-control window of a connection, in bytes: the windows of all its calls together. Bytes of calls
/// that wait for memory stay buffered, and must not block the bytes of other calls. The total of all
/// connections is bounded by the limit on waiting calls.
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;

/// The maximum size of an HTTP/2 frame, in bytes. The default is 16 KiB. With it a segment comes in 64 frames
/// for each MiB, and each frame is read and passed on by itself. A fourth as many frames take 4 % less of the
/// worker's time, if each payload comes three times. Still larger frames do not help.
const FRAME_BYTES_MAX: u32 = 64 << 10;

/// The maximum number of calls in flight on one connection. The headers of calls come before the calls are
/// admitted, and may be as large as a message. This limit bounds them.
const STREAMS_MAX: u32 = 64;

/// How long callers have, after the drain timeout, to receive the status of their calls.
const LAST_WORD_MAX: Duration = Duration::from_secs(2);

/// The maximum size of a call's headers, in bytes. HTTP/2 refuses larger headers with a status number and no
/// message.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// The maximum age of a probe's connection. Each probe makes a new connection, so an older one is not a
/// probe.
const PROBES_AGE_MAX: Duration = Duration::from_secs(60);

/// The configuration of a server, besides its listener. A role that the worker does not have is not served at
/// all: its calls get UNIMPLEMENTED, and its health is NOT_FOUND.
#[derive(Debug)]
pub struct Config {
    /// What the server needs for `IndexerService`.
    pub index: Option<IndexRole>,
    /// What the server needs for `SearchService`: the bundles to read, and the limits of searches.
    pub search: Option<Searcher>,
    /// Which connections and calls are accepted.
    pub policy: ConnectionPolicy,
    /// How long calls in flight may take after the signal to stop.
    pub drain_max: Duration,
}

/// The write path, and the identity of the worker that runs it.
#[derive(Debug)]
pub struct IndexRole {
    /// The write path.
    pub ingest: Ingest,
    /// Where object sources may be.
    pub sources: SourceRoots,
    /// The name of this worker in `GetStats`.
    pub worker_id: String,
    /// The cache of the bundles that `ArchiveService` reads.
    pub bundle_cache: BundleCache,
}

/// Why the server ended without a shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors of this build cannot be served.
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves until `shutdown` is ready, then finishes the calls in flight, for up to `drain_max`. Calls that are
/// in flight after that are dropped: their callers get an error and no receipt, and keep their copies.
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
        health.set_serving::<ArchiveServiceServer<Archiver>>().await;
    }
    if searches {
        health.set_serving::<SearchServiceServer<Reader>>().await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let own_bodies = MapResponseLayer::new(own_body);
    let (indexer, archiver) = index
        .map(|role| {
            let IndexRole { ingest, sources, worker_id, bundle_cache } = role;
            let copies = Copies::new(bundle_cache, ingest.budget.clone(), ingest.timeouts.admission);
            let archiver = Archiver::new(ingest.clone(), copies, Arc::clone(&draining));
            let indexer = Indexer::new(ingest, sources, worker_id, Arc::clone(&draining));
            (
                IndexerServiceServer::new(indexer).max_decoding_message_size(MESSAGE_BYTES_MAX),
                ArchiveServiceServer::new(archiver).max_decoding_message_size(MESSAGE_BYTES_MAX),
            )
        })
        .unzip();
    let archiver = archiver.map(|archiver| own_bodies.clone().named_layer(archiver));
    let reader =
        search.map(|searcher| own_bodies.named_layer(SearchServiceServer::new(Reader::new(searcher))));

    let (stopping, stopped) = watch::channel(false);
    let (end_calls, over) = watch::channel(false);
    let drain_is_over = async move {
        shutdown.await;
        // First refuse new work, then report it: a client that calls in between is refused, not served.
        draining.store(true, Ordering::Release);
        metrics::worker::draining(true);
        if indexes {
            health.set_not_serving::<IndexerServiceServer<Indexer>>().await;
            health.set_not_serving::<ArchiveServiceServer<Archiver>>().await;
        }
        if searches {
            health.set_not_serving::<SearchServiceServer<Reader>>().await;
        }
        info!(drain_max_s = drain_max.as_secs(), "draining");
        stopping.send_replace(true);
        sleep(drain_max).await;
        info!("drain timeout: calls in flight end without a receipt");
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
    if let Some(archiver) = archiver {
        routes = routes.add_service(archiver);
    }
    let routes = routes.prepare();
    let opening =
        Opening { tls: policy.tls, age_max: policy.connection_age_max, limit: ConnectionLimit::new() };
    let tokens = policy.tokens;
    let serving = serve_all(listener, opening, stopped, move |connection, retire| {
        let server = server
            .clone()
            // Outermost, so that calls which other layers refuse are counted, too.
            .layer(call_metrics::CallMetricsLayer)
            // Around everything that may take long, so that all of it ends.
            .layer(drain_deadline::DrainDeadline::new(over.clone(), connection.leaving()))
            // Before any of a body is read.
            .layer(AuthorizationLayer(tokens.clone()))
            // Inside of that, because a refused call is no activity.
            .layer(ActivityLayer(connection.activity()));
        server.serve_with_incoming_shutdown(routes.clone(), connection.alone(), retire).map(drop)
    });
    tokio::select! {
        () = serving => {}
        () = drain_is_over => info!("connections that have not ended are cut"),
        () = answer_probes(policy.probes, Routes::new(health_service).prepare()) => {}
    }
    Ok(())
}

/// Answers probes to the end, so that a worker that drains reports it. Never returns.
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
