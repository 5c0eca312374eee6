//! The probe at start: it checks that the store creates a key only once. Everything else relies on that.

use object_store::PutPayload;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Instrument, info};

use super::error::{Cause, Operation, StoreError};
use super::key::KeyPrefix;
use super::put::Answer;
use super::{Store, join_url, retry};
use crate::spans;

/// The key of the probe, relative to the store's root. It has two segments, so it is not a bundle's key. The
/// probe object is never deleted, because a name is never freed.
pub(super) const KEY: &str = "wal-indexer-probe/create-only";

/// A key that is never created.
const ABSENT_KEY: &str = "wal-indexer-probe/absent";
const FOLDER: &str = "wal-indexer-probe";

/// The contents of the probe object.
const TEXT: &str = "A wal-indexer worker creates this object when it starts, twice, to see that the second try is refused.\n";

/// The reasons why a store cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The store cannot be written to, or cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store created the same key twice. In this store, two workers would overwrite each other's objects.
    #[error("{url} was created twice: this store does not honour create-only PUTs")]
    NotCreateOnly {
        /// The probe's URL.
        url: String,
    },
    /// The bytes that were read back differ from those that were written.
    #[error("{url} does not read as it was written")]
    Differs {
        /// The probe's URL.
        url: String,
    },
}

/// The result of one round of requests.
enum Round {
    /// The store keeps the create-only rule.
    Fit,
    /// The result is not known: there was a temporary error.
    Unclear(StoreError),
}

impl Store {
    /// Reads a key that is not there, then creates the probe's key twice and reads it in between. The first PUT may find the key from an earlier
    /// start; the second must find it. Temporary failures are retried a few times.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        self.probe_rounds(self.timeouts.read_attempts_max, &mut None).await
    }

    /// The probe at the start of a worker. Temporary failures are retried until `deadline`, as they are for
    /// the PUT of a bundle.
    pub async fn probe_until(&self, deadline: Instant) -> Result<(), ProbeError> {
        let mut last = None;
        match timeout_at(deadline, self.probe_rounds(u32::MAX, &mut last)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let no_answer = Cause::NoAnswer(self.timeouts.attempt_base);
                let silent = || StoreError::new(Operation::Put, join_url(self.url(), KEY), no_answer);
                Err(ProbeError::Store(last.unwrap_or_else(silent)))
            }
        }
    }

    /// Checks that the store can be listed, for workers that only read. It lists the folder of the probe,
    /// which is small.
    pub async fn probe_listing(&self) -> Result<(), StoreError> {
        self.list(&KeyPrefix::topic(FOLDER)).await.map(|_| ())
    }

    async fn probe_rounds(&self, rounds_max: u32, last: &mut Option<StoreError>) -> Result<(), ProbeError> {
        let url = join_url(self.url(), KEY);
        let mut rounds = 0;
        loop {
            rounds += 1;
            let error = match self.probe_once(&url).await {
                Ok(Round::Fit) => return Ok(()),
                Ok(Round::Unclear(error)) => error,
                Err(ProbeError::Store(error)) if error.is_temporary() => error,
                Err(error) => return Err(error),
            };
            if rounds >= rounds_max {
                return Err(ProbeError::Store(error));
            }
            if last.replace(error.clone()).is_none() {
                info!(%error, "the store is not ready yet: trying again");
            }
            sleep(self.timeouts.pause(rounds)).await;
        }
    }

    /// A conflict proves nothing, as for a bundle: S3 sends 409 to a PUT that lost a race, and stores
    /// nothing. So the object is read before the second PUT, and only "it exists" counts.
    async fn probe_once(&self, url: &str) -> Result<Round, ProbeError> {
        // Each put looks for a marker, which is rarely there. S3 answers that with "not found" only if the
        // caller may list the bucket, and with "denied" if not.
        self.read_back(ABSENT_KEY, &join_url(self.url(), ABSENT_KEY)).await?;
        let first = self.create_probe(url).await?;
        match self.read_back(KEY, url).await? {
            None => return Ok(Round::Unclear(first.without_object(url))),
            Some(found) if found.crc32c == crc32c::crc32c(TEXT.as_bytes()) => {}
            Some(_) => return Err(ProbeError::Differs { url: url.to_owned() }),
        }
        match self.create_probe(url).await? {
            Answer::Exists => Ok(Round::Fit),
            Answer::Conflict(error) => Ok(Round::Unclear(error)),
            Answer::Created { .. } => Err(ProbeError::NotCreateOnly { url: url.to_owned() }),
        }
    }

    async fn create_probe(&self, url: &str) -> Result<Answer, StoreError> {
        let create = self.create(KEY, PutPayload::from_static(TEXT.as_bytes()), url);
        let span = spans::ask(Operation::Put.name(), url);
        let limit = self.timeouts.attempt_base;
        retry::attempt(&self.rate_limit, &self.timeouts, limit, Operation::Put, url, create)
            .instrument(span)
            .await
    }
}

impl Answer {
    /// Returns the error if no object is there after this response.
    fn without_object(self, url: &str) -> StoreError {
        match self {
            Self::Conflict(error) => error,
            Self::Created { .. } | Self::Exists => StoreError::new(Operation::Get, url, Cause::NotFound),
        }
    }
}
