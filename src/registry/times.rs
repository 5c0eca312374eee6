//! Bundles with the times of their records, also where keys do not say them.

use futures::{Stream, StreamExt, stream};

use super::{Filter, find};
use crate::archive::{ArchiveError, ArchiveErrorKind, BundleCache};
use crate::store::{Listed, StoreError};

/// How many bundles are opened side by side.
const OPENS_AT_ONCE: usize = 8;

/// What is known of the times of a bundle's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Times {
    /// From the least to the greatest, in milliseconds since the Unix epoch. Records without a time may be among them.
    Range {
        /// The least.
        min_ms: i64,
        /// The greatest.
        max_ms: i64,
    },
    /// No record has a time.
    Absent,
    /// Its key does not say them, and its manifest was not read.
    Unknown {
        /// Why not.
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
    /// The least and the greatest, where they are known.
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
    /// What the key alone says: for those who do not look at times.
    pub fn by_key(listed: Listed) -> Self {
        let unknown = || Times::Unknown { why: "the key does not say them".to_owned() };
        let times = listed.key.times_ms().map_or_else(unknown, |times_ms| Some(times_ms).into());
        Self { listed, times }
    }
}

/// Lists the bundles that may hold what `filter` asks for, with their times. Those whose keys have zeros for times are opened. One that
/// is damaged, gone or of a later release is in the list all the same, with unknown times; a store that is away is an error.
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

/// The same bundles in the same order, with their times.
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
