//! At start: does this store keep the promise that everything here rests on, that a key is created once?

use object_store::PutPayload;

use super::error::{Operation, StoreError};
use super::key::KeyPrefix;
use super::put::Answer;
use super::{Store, join_url, retry};

/// The probe's name below the store's root: two segments, so no bundle's key. It stays: a name is never freed.
pub(super) const KEY: &str = "wal-indexer-probe/create-only";
const FOLDER: &str = "wal-indexer-probe";

/// What lies there.
const TEXT: &str = "A wal-indexer worker creates this object when it starts, twice, to see that the second try is refused.\n";

/// Why a store is not fit for use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// It cannot be written to, or read from.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It created the same key twice: here, two workers would overwrite each other's objects.
    #[error("{url} was created twice: this store does not honour create-only PUTs")]
    NotCreateOnly {
        /// The probe's URL.
        url: String,
    },
    /// What was written does not come back.
    #[error("{url} does not read as it was written")]
    Differs {
        /// The probe's URL.
        url: String,
    },
}

impl Store {
    /// Creates the probe's key twice and reads it. The first may find it there from an earlier start; the second must.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        let url = join_url(self.url(), KEY);
        self.create_probe(&url).await?;
        match self.create_probe(&url).await? {
            Answer::Exists => {}
            Answer::Created { .. } => return Err(ProbeError::NotCreateOnly { url }),
        }
        match self.read_back(KEY, &url).await? {
            Some(found) if found.crc32c == crc32c::crc32c(TEXT.as_bytes()) => Ok(()),
            _ => Err(ProbeError::Differs { url }),
        }
    }

    /// For those who only read: whether the store can be listed. Lists where the probe lies, which is little.
    pub async fn probe_listing(&self) -> Result<(), StoreError> {
        self.list(&KeyPrefix::topic(FOLDER)).await.map(|_| ())
    }

    async fn create_probe(&self, url: &str) -> Result<Answer, StoreError> {
        let create = || self.create(KEY, PutPayload::from_static(TEXT.as_bytes()), url);
        let limit = self.patience.attempt_base;
        retry::read(&self.pace, &self.patience, limit, Operation::Put, url, create).await
    }
}
