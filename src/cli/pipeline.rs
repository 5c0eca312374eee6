//! The flags of the write path, shared by `serve` and `index`, and how they start it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::Instant;
use url::Url;

use super::file_mode::FileModeArgs;
use super::{CliError, Exit, cgroup, store};
use crate::cpu::Cpu;
use crate::index::Settings;
use crate::ingest::{self, Ingest, SpillDir, Timeouts};
use crate::stats::Stats;
use crate::store::{ProbeError, Store};

/// How long the start retries on a store with temporary failures. It is longer than one attempt that gets no
/// answer.
const PROBE_MAX: Duration = Duration::from_secs(30);

/// Where bundles go, and which resources the write path may use.
#[derive(Debug, clap::Args)]
pub struct PipelineArgs {
    /// Where bundles are stored: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX.
    /// Credentials come from the environment variables that the cloud's own tools read.
    #[arg(long, env = "WAL_INDEXER_STORE", value_name = "URL", value_parser = crate::store::parse_url)]
    store: Url,

    /// The memory that this process may use for segments: received bytes, indexes under construction, bundles
    /// in upload, and the process itself. Default: half of what the cgroup or the machine has; some two
    /// fifths if that is between 256 MiB and 1 GiB.
    #[arg(long, env = "WAL_INDEXER_MEMORY_BUDGET", value_name = "SIZE")]
    memory_budget: Option<ByteSize>,

    /// The number of threads that decode and index, at most 1,024. Default: one for each core.
    #[arg(long, env = "WAL_INDEXER_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,

    /// A TOML file that defines, by topic, what is indexed.
    #[arg(long, env = "WAL_INDEXER_INDEX_SETTINGS", value_name = "FILE")]
    index_settings: Option<PathBuf>,

    /// A directory on a local disk for the finished parts of large segments, until they are uploaded. With it,
    /// a segment of 1 GiB needs some 200 MiB of memory. Nothing stays there.
    #[arg(long, env = "WAL_INDEXER_SPILL_DIR", value_name = "DIR")]
    spill_dir: Option<PathBuf>,

    /// How much --spill-dir may hold. A segment that does not fit is refused until there is room.
    #[arg(long, env = "WAL_INDEXER_SPILL_MAX", value_name = "SIZE", default_value = "16GiB")]
    spill_max: ByteSize,

    #[command(flatten)]
    file_mode: FileModeArgs,
}

impl PipelineArgs {
    /// Opens the store, checks that its PUTs are create-only and readable as receipts promise, and starts the
    /// threads.
    pub async fn start(&self) -> Result<Ingest, CliError> {
        self.file_mode.apply();
        let settings = match &self.index_settings {
            Some(path) => read_settings(path)?,
            None => Settings::default(),
        };
        if self.store.scheme() == "memory" {
            // The library offers this scheme for tests. Here, a caller would get a receipt and delete its
            // copy, but the data ends with this process.
            let line = "--store memory: data in memory is not durable, so no receipt can be given for it";
            return Err(CliError::because(Exit::Usage, line));
        }
        let budget_bytes = self.memory_budget.map_or_else(cgroup::default_budget_bytes, |size| size.as_u64());
        if budget_bytes < ingest::BUDGET_BYTES_MIN {
            let (given, least) = (ByteSize(budget_bytes), ByteSize(ingest::BUDGET_BYTES_MIN));
            let line = format!("--memory-budget {given}: no segment fits into less than {least}");
            return Err(CliError::because(Exit::Usage, line));
        }
        let store = Store::open(&self.store).map_err(|error| CliError::flag("--store", &error))?;
        let probed = store.probe_until(Instant::now() + PROBE_MAX).await;
        probed.map_err(|error| {
            let exit = match &error {
                ProbeError::Store(error) => store::exit_of_store(error),
                ProbeError::NotCreateOnly { .. } | ProbeError::Differs { .. } => Exit::Failed,
            };
            CliError::new(exit, "the store cannot be used", &error)
        })?;
        let open_spill = |directory: &PathBuf| SpillDir::open(directory, self.spill_max.as_u64());
        let spill = self.spill_dir.as_ref().map(open_spill).transpose();
        let spill = spill.map_err(|error| CliError::flag("--spill-dir", &error))?;
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let cpu =
            Cpu::start(self.threads.and_then(|threads| NonZeroUsize::new(threads.into())).unwrap_or(cores))
                .map_err(|error| CliError::new(Exit::Failed, "cannot start", &error))?;
        Ok(Ingest {
            store,
            budget: ingest::budget(budget_bytes, cpu.threads()),
            cpu,
            settings: Arc::new(settings),
            stats: Stats::default(),
            timeouts: Timeouts::default(),
            spill,
        })
    }
}

impl PipelineArgs {
    /// Opens the store for reading, and checks that it answers. Nothing is written to it.
    pub async fn open_to_read(&self) -> Result<Store, CliError> {
        let store = store::open(&self.store)?;
        store.probe_listing().await.map_err(|error| {
            CliError::new(store::exit_of_store(&error), "the store cannot be read", &error)
        })?;
        Ok(store)
    }
}

fn read_settings(path: &Path) -> Result<Settings, CliError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::new(Exit::Usage, &format!("--index-settings {}", path.display()), &error)
    })?;
    Settings::parse(&text)
        .map_err(|error| CliError::new(Exit::Usage, &format!("--index-settings {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[tokio::test]
    async fn nothing_is_acknowledged_that_is_only_in_memory() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            pipeline: PipelineArgs,
        }
        let args = Line::parse_from(["index", "--store", "memory:///bundles"]).pipeline;
        let refused = args.start().await.expect_err("no place for bundles");
        assert_eq!(refused.exit(), Exit::Usage);
        assert!(refused.line().contains("not durable"), "{}", refused.line());
    }
}
