//! `serve`: runs a worker.

use std::time::Duration;

use bytesize::ByteSize;
use clap::ValueEnum;
use tokio::net::TcpListener;
use tracing::info;
use url::Url;

use super::metrics::{Collected, MetricsArgs};
use super::otlp::{OtlpArgs, process_name};
use super::security::{self, ConnectionPolicyArgs};
use super::signals::Signals;
use super::{CliError, Exit, cgroup, output, pipeline, runtime};
use crate::archive::BundleCache;
use crate::ingest::Ingest;
use crate::metrics;
use crate::orphan_cleanup;
use crate::search::{self, Searcher};
use crate::server::{self, Config, IndexRole};
use crate::stats::Phase;
use crate::store::{SourceRoots, Store};
use crate::telemetry::Otlp;

/// Serve the gRPC API: index segments, search and fetch records.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The services to run. index: IndexSegment, the calls that belong to it, and ArchiveService. search: Search, Fetch and
    /// ListBundles; these write nothing to the store and use no memory budget.
    #[arg(
        long,
        env = "WAL_INDEXER_ROLES",
        value_name = "ROLE",
        value_delimiter = ',',
        default_value = "index,search"
    )]
    roles: Vec<Role>,

    /// The address to listen on. Port 0 picks a free port. The line `listening on HOST:PORT` on standard
    /// output shows the address.
    #[arg(long, env = "WAL_INDEXER_LISTEN", default_value = "127.0.0.1:7070", value_name = "HOST:PORT")]
    listen: String,

    /// A URL under which object sources are allowed. May be given several times. Without it, no object source
    /// is read.
    #[arg(long = "source-root", env = "WAL_INDEXER_SOURCE_ROOT", value_name = "URL", value_delimiter = ',',
        value_parser = crate::store::parse_url)]
    source_roots: Vec<Url>,

    /// How long work in flight may take after SIGTERM, in seconds.
    #[arg(long, env = "WAL_INDEXER_DRAIN_TIMEOUT", default_value_t = 30, value_name = "SECONDS")]
    drain_timeout: u64,

    /// The name of this worker. Default: host name and process id.
    #[arg(long, env = "WAL_INDEXER_WORKER_ID", value_name = "NAME")]
    worker_id: Option<String>,

    #[command(flatten)]
    search: SearchLimits,

    #[command(flatten)]
    policy: ConnectionPolicyArgs,

    #[command(flatten)]
    metrics: MetricsArgs,

    #[command(flatten)]
    otlp: OtlpArgs,

    #[command(flatten)]
    pipeline: pipeline::PipelineArgs,
}

/// The maximum of the default size of the bundle cache.
const CACHE_BYTES_DEFAULT: u64 = 64 << 20;

/// The limits for searches.
#[derive(Clone, Copy, Debug, clap::Args)]
struct SearchLimits {
    /// The memory for all searches together, in addition to --memory-budget and --search-cache. Default: 128
    /// MiB, or a quarter of what the cgroup or the machine has if that is less.
    #[arg(long, env = "WAL_INDEXER_SEARCH_MEMORY", value_name = "SIZE")]
    search_memory: Option<ByteSize>,

    /// The memory for parts of bundles that are kept, so that they are not read again. Default: 64 MiB, or a
    /// sixteenth of what the cgroup or the machine has if that is less.
    #[arg(long, env = "WAL_INDEXER_SEARCH_CACHE", value_name = "SIZE")]
    search_cache: Option<ByteSize>,

    /// How long a search may take, in seconds, until the caller has taken the last record. A caller may set a
    /// shorter limit.
    #[arg(long, env = "WAL_INDEXER_SEARCH_TIMEOUT", default_value_t = 30, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    search_timeout: u64,
}

impl SearchLimits {
    fn bundle_cache(self, store: Store) -> BundleCache {
        let cache = self.search_cache.map(|size| size.as_u64());
        BundleCache::new(store, cache.unwrap_or_else(|| cgroup::default_cache_bytes(CACHE_BYTES_DEFAULT)))
    }

    fn searcher(self, bundle_cache: BundleCache) -> Searcher {
        let memory = self.search_memory.map(|size| size.as_u64());
        let memory = memory.unwrap_or_else(|| cgroup::default_search_bytes(search::MEMORY_BYTES_DEFAULT));
        Searcher::new(bundle_cache, memory, Duration::from_secs(self.search_timeout))
    }
}

/// A group of services that a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Takes segments and indexes them.
    Index,
    /// Answers searches and fetches.
    Search,
}

impl Args {
    /// Starts to send traces and measurements to a collector, if one is configured.
    pub fn otlp(&self) -> Result<Option<Otlp>, CliError> {
        self.otlp.start("wal-indexer", self.worker_id())
    }

    fn worker_id(&self) -> String {
        self.worker_id.clone().unwrap_or_else(process_name)
    }

    /// Opens the store, and starts the write path if the worker has the role `index`.
    async fn open_store(&self) -> Result<(Store, Option<Ingest>), CliError> {
        if !self.roles.contains(&Role::Index) {
            return Ok((self.pipeline.open_to_read().await?, None));
        }
        let ingest = self.pipeline.start().await?;
        tokio::spawn(orphan_cleanup::beside_objects(ingest.store.clone()));
        Ok((ingest.store.clone(), Some(ingest)))
    }
}

/// Serves until SIGTERM, SIGINT or SIGQUIT.
pub fn run(args: Args, otlp: Option<&Otlp>) -> Result<(), CliError> {
    let runtime = runtime()?;
    let result = runtime.block_on(serve(args, otlp));
    // Work that is left after the drain must not delay the end of the process. No caller waits for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(args: Args, otlp: Option<&Otlp>) -> Result<(), CliError> {
    let failed = |what: &str, error: &dyn std::error::Error| CliError::new(Exit::Failed, what, error);
    let sources =
        SourceRoots::new(&args.source_roots).map_err(|error| CliError::flag("--source-root", &error))?;
    let signals = Signals::listen()?;
    let (metrics, worker_id) = (args.metrics.collect(otlp).await?, args.worker_id());
    let policy = args.policy.open(signals.reloads()).await?;
    let opened = tokio::select! {
        opened = args.open_store() => opened?,
        // No work has begun yet.
        () = signals.nth(1) => return Ok(()),
    };
    let (store, ingest) = opened;
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| CliError::flag(&format!("--listen {}", args.listen), &error))?;
    let address = listener.local_addr().map_err(|error| failed("the listener has no address", &error))?;
    info!(%address, store = store.url(), roles = ?args.roles, "serving");
    output::line(&format!("listening on {address}"))?;
    security::announce(&policy, address.ip())?;
    if let Some(ingest) = &ingest {
        measure(ingest);
    }
    // The metric is set before the first scrape, so that an alert never sees it absent.
    metrics::worker::draining(false);
    metrics::listener::started();
    metrics.map(Collected::serve).transpose()?;
    let bundle_cache = args.search.bundle_cache(store);
    let searcher = args.roles.contains(&Role::Search).then(|| args.search.searcher(bundle_cache.clone()));
    let config = Config {
        index: ingest.map(|ingest| IndexRole { ingest, sources, worker_id, bundle_cache }),
        search: searcher,
        policy,
        drain_max: Duration::from_secs(args.drain_timeout),
    };
    server::run(listener, config, signals.nth(1)).await.map_err(|error| failed("cannot serve", &error))
}

/// Registers the function that reports the state of the write path at each scrape.
fn measure(ingest: &Ingest) {
    let (budget, stats) = (ingest.budget.clone(), ingest.stats.clone());
    metrics::worker::started(move || {
        let (memory, jobs) = (budget.usage(), stats.jobs());
        let in_phase = |phase| jobs.iter().filter(|job| job.phase == phase).count() as u64;
        metrics::worker::State {
            budget_bytes: memory.total_bytes,
            reserved_bytes: memory.reserved_bytes,
            waiting_requests: memory.waiting_requests,
            waiting_bytes: memory.waiting_bytes,
            building_segments: in_phase(Phase::Building),
            uploading_segments: in_phase(Phase::Uploading),
            backlog_bytes: jobs.iter().map(|job| job.bytes_total.saturating_sub(job.bytes_done)).sum(),
        }
    });
}
