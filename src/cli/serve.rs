//! `serve`: a worker.

use std::time::Duration;

use bytesize::ByteSize;
use clap::ValueEnum;
use tokio::net::TcpListener;
use tracing::info;
use url::Url;

use super::metrics::{Collected, MetricsArgs};
use super::otlp::{OtlpArgs, process_name};
use super::security::{self, EntranceArgs};
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

/// Serve IndexSegment and friends over gRPC.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to serve: index is IndexSegment and what goes with it; search is Search, Fetch and ListBundles, which write nothing to the
    /// store and take no memory budget.
    #[arg(
        long,
        env = "WAL_INDEXER_ROLES",
        value_name = "ROLE",
        value_delimiter = ',',
        default_value = "index,search"
    )]
    roles: Vec<Role>,

    /// Where to listen; port 0 picks a free one. `listening on HOST:PORT` on standard output says which.
    #[arg(long, env = "WAL_INDEXER_LISTEN", default_value = "127.0.0.1:7070", value_name = "HOST:PORT")]
    listen: String,

    /// A place that object sources may lie under; may be given several times. Without one, none is read.
    #[arg(long = "source-root", env = "WAL_INDEXER_SOURCE_ROOT", value_name = "URL", value_delimiter = ',',
        value_parser = crate::store::parse_url)]
    source_roots: Vec<Url>,

    /// How long work in hand may take after SIGTERM, in seconds.
    #[arg(long, env = "WAL_INDEXER_DRAIN_TIMEOUT", default_value_t = 30, value_name = "SECONDS")]
    drain_timeout: u64,

    /// How this worker calls itself. Default: host name and process id.
    #[arg(long, env = "WAL_INDEXER_WORKER_ID", value_name = "NAME")]
    worker_id: Option<String>,

    #[command(flatten)]
    search: SearchLimits,

    #[command(flatten)]
    policy: EntranceArgs,

    #[command(flatten)]
    metrics: MetricsArgs,

    #[command(flatten)]
    otlp: OtlpArgs,

    #[command(flatten)]
    pipeline: pipeline::PipelineArgs,
}

/// What is kept of bundles where nothing else is said, and there is memory for it.
const CACHE_BYTES_DEFAULT: u64 = 64 << 20;

/// What searches may take.
#[derive(Clone, Copy, Debug, clap::Args)]
struct SearchLimits {
    /// Memory that all searches together may take, beside --memory-budget and --search-cache. Default: 128 MiB, or a quarter of what the
    /// cgroup or the machine has.
    #[arg(long, env = "WAL_INDEXER_SEARCH_MEMORY", value_name = "SIZE")]
    search_memory: Option<ByteSize>,

    /// Memory in which what was read of bundles is kept, so that it need not be read again. Default: 64 MiB, or a sixteenth of what the cgroup
    /// or the machine has.
    #[arg(long, env = "WAL_INDEXER_SEARCH_CACHE", value_name = "SIZE")]
    search_cache: Option<ByteSize>,

    /// How long a search may take, in seconds, until its last record has been taken. A caller may want it sooner.
    #[arg(long, env = "WAL_INDEXER_SEARCH_TIMEOUT", default_value_t = 30, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    search_timeout: u64,
}

impl SearchLimits {
    fn searcher(self, store: Store) -> Searcher {
        let cache = self.search_cache.map(|size| size.as_u64());
        let memory = self.search_memory.map(|size| size.as_u64());
        let bundle_cache = BundleCache::new(
            store,
            cache.unwrap_or_else(|| cgroup::default_cache_bytes(CACHE_BYTES_DEFAULT)),
        );
        let memory = memory.unwrap_or_else(|| cgroup::default_search_bytes(search::MEMORY_BYTES_DEFAULT));
        Searcher::new(bundle_cache, memory, Duration::from_secs(self.search_timeout))
    }
}

/// A part of what a worker can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Segments in.
    Index,
    /// Records out.
    Search,
}

impl Args {
    /// Where traces and measurements go.
    pub fn otlp(&self) -> Result<Option<Otlp>, CliError> {
        self.otlp.start("wal-indexer", self.worker_id())
    }

    fn worker_id(&self) -> String {
        self.worker_id.clone().unwrap_or_else(process_name)
    }

    /// The store, and what writes to it, where that is wanted.
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
    // Work that the drain left in hand must not hold up the end of the process: nobody waits for it any more.
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
        // Nothing has been begun yet.
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
    // Before the first scrape, so that an alert never sees it absent.
    metrics::worker::draining(false);
    metrics::listener::started();
    metrics.map(Collected::serve).transpose()?;
    let config = Config {
        index: ingest.map(|ingest| IndexRole { ingest, sources, worker_id }),
        search: args.roles.contains(&Role::Search).then(|| args.search.searcher(store)),
        policy,
        drain_max: Duration::from_secs(args.drain_timeout),
    };
    server::run(listener, config, signals.nth(1)).await.map_err(|error| failed("cannot serve", &error))
}

/// Shows how the write path stands, whenever somebody asks.
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
