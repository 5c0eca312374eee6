//! The flags that say where to read: from a store in this process, or from a worker.

use url::Url;

use super::endpoint::Worker;
use super::security::SecurityArgs;
use super::{CliError, Exit, store};
use crate::archive::BundleCache;

/// The maximum memory for cached parts of bundles.
const CACHE_BYTES_MAX: u64 = 64 << 20;

/// Where to read.
#[derive(Debug, clap::Args)]
pub struct StoreOrEndpointArgs {
    /// Where the bundles are, to read them in this process.
    #[arg(long, env = "WAL_INDEXER_STORE", value_name = "URL", value_parser = crate::store::parse_url, required_unless_present = "endpoint")]
    store: Option<Url>,

    /// Ask this worker instead, such as http://127.0.0.1:7070.
    #[arg(long, env = "WAL_INDEXER_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,

    #[command(flatten)]
    security: SecurityArgs,
}

/// Where to read.
#[derive(Debug)]
pub enum StoreOrEndpoint {
    /// A store.
    Store(BundleCache),
    /// A worker.
    Worker(Worker),
}

impl StoreOrEndpointArgs {
    /// Opens the store, or prepares calls to the worker.
    pub fn open(&self) -> Result<StoreOrEndpoint, CliError> {
        match (&self.endpoint, &self.store) {
            (Some(endpoint), _) => Ok(StoreOrEndpoint::Worker(Worker::new(endpoint, &self.security)?)),
            (None, Some(url)) => {
                Ok(StoreOrEndpoint::Store(BundleCache::new(store::open(url)?, CACHE_BYTES_MAX)))
            }
            (None, None) => Err(CliError::because(Exit::Usage, "--store or --endpoint is needed")),
        }
    }
}

impl StoreOrEndpoint {
    /// The name in messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Store(bundle_cache) => bundle_cache.store().url(),
            Self::Worker(worker) => worker.name(),
        }
    }
}
