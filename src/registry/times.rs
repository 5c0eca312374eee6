//! Bundles with the times of their records, also if their keys do not have them.

use futures::{Stream, StreamExt, stream};

use super::{Filter, find};
use crate::archive::{ArchiveError, ArchiveErrorKind, BundleCache};
use crate::store::{Listed, StoreError};

/// How many bundles are opened concurrently.
const OPENS_AT_ONCE: usize = 8;

/// The times of a bundle's records, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Times {
    /// The range of the times, in milliseconds since the Unix epoch. Some records may have no time.
    Range {
        /// The smallest time.
        min_ms: i64,
        /// The greatest time.
        max_ms: i64,
    },
    /// No record has a time.
    Absent,
    /// The key does not have the times, and the manifest was not read.
    Unknown {
        /// The reason.
        why: String,
    },
}

/// A bundle that a LIST found, and the times of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// The bundle.
    pub listed: Listed,
    /// The times.
    pub times: Times,
}

impl Times {
    /// Returns the smallest and the greatest time, if they are known.
    pub fn range_ms(&self) -> Option<(i64, i64)> {
        match self {
            Self::Range { min_ms, max_ms } => Some((*min_ms, *max_ms)),
            Self::Absent | Self::Unknown { .. } => None,
        }
    }
}

impl From<Option<(i64, i64)>> for Times {
    fn from(times_ms: Option<(i64, i64)>) -> Self {
        times_ms.map_or(Self::Absent, |(min_ms, max_ms)| Self::Range { min_ms, max_ms })
    }
}

impl Timed {
    /// Takes the times from the key only, for callers that do not use times.
    pub fn by_key(listed: Listed) -> Self {
        let unknown = || Times::Unknown { why: "the key does not have them".to_owned() };
        let times = listed.key.times_ms().map_or_else(unknown, |times_ms| Some(times_ms).into());
        Self { listed, times }
    }
}

/// Lists the bundles that may have records that match `filter`, with their times. Opens the bundles whose
/// keys have zeros for times. A bundle that is damaged, missing or of a later release is listed with unknown
/// times. If the store is not available, the result is an error.
pub async fn find_timed(
    bundle_cache: &BundleCache,
    filter: &Filter,
) -> Result<impl Stream<Item = Result<Timed, ArchiveError>> + Send + use<>, StoreError> {
    let bundles = find(bundle_cache.store(), filter).await?.bundles;
    let filter = filter.clone();
    let may_hold = move |timed: &Result<Timed, ArchiveError>| {
        let times_ms = timed.as_ref().ok().and_then(|timed| timed.times.range_ms());
        std::future::ready(times_ms.is_none_or(|(min_ms, max_ms)| filter.may_hold_times(min_ms, max_ms)))
    };
    Ok(timed(bundle_cache, bundles).filter(may_hold))
}

/// Returns the same bundles in the same order, with their times.
pub fn timed(
    bundle_cache: &BundleCache,
    bundles: Vec<Listed>,
) -> impl Stream<Item = Result<Timed, ArchiveError>> + Send + use<> {
    let bundle_cache = bundle_cache.clone();
    let looks = stream::iter(bundles).map(move |listed| {
        let bundle_cache = bundle_cache.clone();
        async move { look(&bundle_cache, listed).await }
    });
    looks.buffered(OPENS_AT_ONCE)
}

async fn look(bundle_cache: &BundleCache, listed: Listed) -> Result<Timed, ArchiveError> {
    let times = match bundle_cache.times_ms(&listed).await {
        Ok(times_ms) => times_ms.into(),
        Err(error) => match error.kind() {
            ArchiveErrorKind::Corrupt | ArchiveErrorKind::NotFound | ArchiveErrorKind::Unsupported => {
                Times::Unknown { why: error.to_string() }
            }
            ArchiveErrorKind::Denied | ArchiveErrorKind::Unavailable | ArchiveErrorKind::Bug => {
                return Err(error);
            }
        },
    };
    Ok(Timed { listed, times })
}
