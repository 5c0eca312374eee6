//! Where a search runs: on a worker, or in this process with the same code that a worker runs.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tonic::{Request, Status};
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;
use url::Url;

use crate::archive::BundleCache;
use crate::cli::endpoint::{Worker, unusable};
use crate::cli::{CliError, Exit, store};
use crate::client::{Connection, ConnectionError};
use crate::proto::v1;
use crate::proto::v1::search_service_server::SearchService;
use crate::rpc::search::Reader;
use crate::search::{MEMORY_BYTES_DEFAULT, Searcher};

/// The maximum memory for cached parts of bundles.
const CACHE_BYTES_MAX: u64 = 64 << 20;

/// The limit is long because a user at a terminal can stop the search.
const TIME_MAX: Duration = Duration::from_secs(86_400);

/// Answers searches.
pub enum Source {
    /// A worker: its name in messages, and the connection to it.
    Worker(String, Box<Connection>),
    /// The store, read in this process.
    Here(Reader),
}

impl Source {
    /// Connects to the worker, or opens the store.
    pub async fn open(worker: Option<Worker>, store: Option<&Url>) -> Result<Self, CliError> {
        match (worker, store) {
            (Some(worker), _) => {
                let connection = worker.connect().await?;
                Ok(Self::Worker(worker.name().to_owned(), Box::new(connection)))
            }
            (None, Some(url)) => {
                let bundle_cache = BundleCache::new(store::open(url)?, CACHE_BYTES_MAX);
                Ok(Self::Here(Reader::new(Searcher::new(bundle_cache, MEMORY_BYTES_DEFAULT, TIME_MAX))))
            }
            (None, None) => Err(CliError::because(Exit::Usage, "--store or --endpoint is needed")),
        }
    }

    /// Searches, passes each record to `each` as it arrives, and returns the summary.
    pub async fn search(
        &mut self,
        request: v1::SearchRequest,
        mut each: impl FnMut(v1::Record) -> Result<(), CliError>,
    ) -> Result<v1::SearchSummary, CliError> {
        let mut summary = None;
        let mut take = |answer: v1::SearchResponse| {
            summary = answer.summary.or(summary.take());
            answer.records.into_iter().try_for_each(&mut each)
        };
        match self {
            Self::Worker(endpoint, client) => {
                let answers = client.search(request).await;
                let answers = answers.map_err(|error| connection_error(endpoint, error))?;
                drain(endpoint, answers, &mut take).await?;
            }
            Self::Here(reader) => {
                // No log lines: this program prints the same facts.
                let answers = reader.search(Request::new(request)).with_subscriber(NoSubscriber::default());
                let answers = answers.await.map_err(|status| CliError::question("cannot search", &status))?;
                drain("cannot search", answers.into_inner(), &mut take).await?;
            }
        }
        summary.ok_or_else(|| CliError::because(Exit::Again, "the answer was cut off"))
    }

    /// Returns the bundles that may hold matching records.
    pub async fn bundles(
        &mut self,
        filter: &v1::RecordFilter,
    ) -> Result<Vec<v1::ListBundlesResponse>, CliError> {
        let request = v1::ListBundlesRequest { filter: Some(filter.clone()), segment_sha256: None };
        let mut bundles = Vec::new();
        let mut take = |bundle| {
            bundles.push(bundle);
            Ok(())
        };
        match self {
            Self::Worker(endpoint, client) => {
                let listed = client.list_bundles(request).await;
                let listed = listed.map_err(|error| connection_error(endpoint, error))?;
                drain(endpoint, listed, &mut take).await?;
            }
            Self::Here(reader) => {
                let listed =
                    reader.list_bundles(Request::new(request)).with_subscriber(NoSubscriber::default());
                let listed = listed.await.map_err(|status| CliError::question("cannot list", &status))?;
                drain("cannot list", listed.into_inner(), &mut take).await?;
            }
        }
        Ok(bundles)
    }
}

async fn drain<T>(
    what: &str,
    mut messages: impl Stream<Item = Result<T, Status>> + Unpin,
    take: &mut impl FnMut(T) -> Result<(), CliError>,
) -> Result<(), CliError> {
    while let Some(message) = messages.next().with_subscriber(NoSubscriber::default()).await {
        take(message.map_err(|status| CliError::question(what, &status))?)?;
    }
    Ok(())
}

fn connection_error(endpoint: &str, error: ConnectionError) -> CliError {
    match error {
        ConnectionError::Status(status) => CliError::question(endpoint, &status),
        ConnectionError::Connect { .. } => CliError::new(Exit::Again, "no worker", &error),
        ConnectionError::Endpoint(error) => unusable(&error),
        ConnectionError::File(_) => CliError::new(Exit::Failed, endpoint, &error),
    }
}
