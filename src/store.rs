//! The object store. [`Store::open`] makes a [`Store`] from a URL. Keys are made and parsed here.
//! [`Store::put`] returns [`Stored`], the receipt. Only a confirmed create-only PUT can construct one.
//!
//! The interface to a store is `object_store::ObjectStore`. Faults, limits and counters are decorators over
//! it ([`Store::decorated`]). This module knows nothing of records, indexes, the contents of a bundle, or
//! gRPC.
//!
//! How much each kind of store is trusted: S3 verifies the body's checksum itself, and a HEAD confirms size
//! and ETag. From Azure, GCS and memory, every object is read back and its CRC-32C compared. On the local
//! file system, file and directories are synced. Google Cloud Storage uses the same code, but has not been
//! tested with a real server, because no local server implements its preconditions.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ::url::Url;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore};

#[cfg(feature = "clouds")]
mod clouds;
mod delete;
mod disk;
mod error;
#[cfg(feature = "clouds")]
#[cfg(test)]
mod fake_server;
mod find;
mod key;
mod marker;
mod orphans;
mod payload;
mod probe;
mod put;
mod retry;
mod source;
mod url;

pub use delete::Deleted;
pub use error::{Cause, Operation, StoreError, StoreErrorKind};
pub use key::{
    BundleKey, ENCODED_BYTES_MAX, Hash16, KeyError, KeyHash, KeyPrefix, MarkerKey, ParseKeyError,
    check_log_id, check_topic,
};
pub use marker::{Hidden, HiddenReason, ListedMarker, Listing, Marker};
pub use orphans::Orphan;
pub use probe::ProbeError;
pub use put::{Existing, NewObject, OBJECT_BYTES_MAX, Put, PutError, Refused, Stored};
pub use retry::Timeouts;
pub use source::{
    RANGE_BYTES, RANGES_AT_ONCE, Source, SourceError, SourceRoots, SourceUrlError, check_source_root,
};
pub use url::{LocationError, PREFIX_BYTES_MAX, parse_url};

use error::Cause::{Io, Length, TooLarge};
use retry::RateLimit;
use url::{ClientError, Location, Scheme};

/// The limit for a whole listing. Each page of it has a much shorter limit. A store of many bundles has many
/// pages.
const LIST_LIMIT: Duration = Duration::from_secs(3_600);

/// A store for bundles. Clones share its rate limit: if the store asks one of them to slow down, all do.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    location: Arc<Location>,
    /// The path of the root; all keys are below it. Empty for a file store, whose root is its directory.
    prefix: Path,
    /// The root as a URL, without a slash at its end and without credentials.
    url: Arc<str>,
    timeouts: Timeouts,
    rate_limit: Arc<RateLimit>,
    /// On the local file system: the directories that are already synced.
    synced: Arc<disk::Synced>,
}

impl fmt::Debug for Store {
    /// Only the URL: the client's own output has key ids and headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The reasons why a store cannot be opened. A retry does not help with any of them.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not a location of a store.
    #[error("not a store's URL: {0}")]
    Location(#[from] LocationError),
    /// The directory cannot be created or opened.
    #[error(transparent)]
    Directory(StoreError),
    /// The client does not accept its settings.
    #[error("the settings for {url} in the environment are not valid: {hint}")]
    Settings {
        /// The store's URL.
        url: String,
        /// Which settings to check. It never has the value of a setting.
        hint: &'static str,
    },
}

/// A bundle that a LIST found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: BundleKey,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its ETag, if the store has ETags.
    pub e_tag: Option<String>,
    /// When the object was stored, in milliseconds since the Unix epoch; 0 if unknown.
    pub stored_at_ms: i64,
}

impl Store {
    /// Opens `file:///dir` (created if missing), `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix` or `memory:///prefix`. This sends nothing to the store: see [`Store::probe`].
    pub fn open(url: &Url) -> Result<Self, OpenError> {
        Self::open_with(url, &[])
    }

    /// Opens a store with settings that override the environment. They have the names of environment
    /// variables (`AWS_ENDPOINT`).
    pub fn open_with(url: &Url, settings: &[(&str, &str)]) -> Result<Self, OpenError> {
        let location = Location::parse(url)?;
        let name = location_url(&location);
        let open_error = |error: ClientError| match error {
            ClientError::Io(error) => OpenError::Directory(StoreError::new(
                Operation::Sync,
                name.as_str(),
                Io { kind: error.kind(), os_error: error.raw_os_error() },
            )),
            ClientError::Client(_) => {
                OpenError::Settings { url: name.clone(), hint: settings_hint(&location) }
            }
        };
        let prepared = url::prepare(location.clone()).map_err(open_error)?;
        let objects = url::client(&prepared, settings).map_err(open_error)?;
        let prefix = match &prepared {
            Location::File(_) => Path::default(),
            Location::Bucket { prefix, .. } | Location::Memory { prefix } => prefix.clone(),
        };
        Ok(Self {
            objects,
            url: location_url(&prepared).into(),
            location: Arc::new(prepared),
            prefix,
            timeouts: Timeouts::default(),
            rate_limit: Arc::default(),
            synced: Arc::default(),
        })
    }

    /// Puts a decorator over the store: one that counts, limits, or causes faults in a test.
    pub fn decorated(mut self, decorate: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        self.objects = decorate(self.objects);
        self
    }

    /// The same store with other timeouts.
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Returns the URL of the store's root, without a slash at its end and without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL of an object. A `%` in its key is `%25` in the URL, as in any URL.
    pub fn url_of(&self, key: &BundleKey) -> String {
        join_url(&self.url, &key.to_string())
    }

    /// Lists the visible bundles under `prefix`, in the order of their keys, for every kind of store. Bundles
    /// that a marker hides are left out. Objects whose names are not keys are skipped: probes, staging files
    /// of a crashed worker, objects of other programs.
    pub async fn list(&self, prefix: &KeyPrefix) -> Result<Vec<Listed>, StoreError> {
        Ok(self.list_all(prefix).await?.bundles)
    }

    /// Lists the visible bundles under `prefix`, and the markers with the bundles that they hide. It takes
    /// the same requests as [`Store::list`].
    pub async fn list_all(&self, prefix: &KeyPrefix) -> Result<Listing, StoreError> {
        let url = join_url(&self.url, prefix.as_str());
        let (mut bundles, mut markers) = self
            .read(LIST_LIMIT, Operation::List, &url, || async {
                let path = self.path(prefix.as_str(), Operation::List, &url)?;
                let below = (!path.is_root()).then_some(&path);
                let (mut bundles, mut markers) = (Vec::new(), Vec::new());
                let mut metas = self.objects.list(below);
                while let Some(meta) = self.next(&mut metas, Operation::List, &url).await? {
                    match self.listed_marker(&meta) {
                        Some(marker) => markers.push(marker),
                        None => bundles.extend(self.listed(meta)),
                    }
                }
                Ok((bundles, markers))
            })
            .await?;
        bundles.sort_by(|a, b| a.key.cmp(&b.key));
        markers.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Listing::of(bundles, markers))
    }

    /// Returns a range of a bundle's bytes: all of them, or an error.
    pub async fn get_range(&self, key: &BundleKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.get_range_at(&key.to_string(), range, None).await
    }

    /// Returns several ranges of a bundle's bytes, in the order given. They are read concurrently.
    pub async fn get_ranges(&self, key: &BundleKey, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let key = key.to_string();
        let reads = ranges.iter().map(|range| self.get_range_at(&key, range.clone(), None));
        futures::future::try_join_all(reads).await
    }

    /// Returns a whole bundle, or an error if it is larger than `bytes_max`.
    pub async fn get(&self, key: &BundleKey, bytes_max: u64) -> Result<Bytes, StoreError> {
        let listed = self.head(key).await?;
        if listed.size_bytes > bytes_max {
            let cause = TooLarge { size: listed.size_bytes, limit: bytes_max };
            return Err(StoreError::new(Operation::Get, self.url_of(key), cause));
        }
        self.get_range_at(&key.to_string(), 0..listed.size_bytes, listed.e_tag.as_deref()).await
    }

    /// Returns a bundle's size, ETag and time.
    pub async fn head(&self, key: &BundleKey) -> Result<Listed, StoreError> {
        let meta = self.head_at(&key.to_string()).await?;
        let stored_at_ms = meta.last_modified.timestamp_millis();
        Ok(Listed { key: key.clone(), size_bytes: meta.size, e_tag: meta.e_tag, stored_at_ms })
    }

    async fn head_at(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        let url = join_url(&self.url, key);
        self.read(self.timeouts.attempt_base, Operation::Head, &url, || async {
            let options = GetOptions { head: true, ..GetOptions::default() };
            Ok(self.get_opts(key, options, Operation::Head, &url).await?.meta)
        })
        .await
    }

    async fn get_range_at(
        &self,
        key: &str,
        range: Range<u64>,
        e_tag: Option<&str>,
    ) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let url = join_url(&self.url, key);
        let expected = range.end - range.start;
        self.read(self.timeouts.attempt(expected), Operation::Get, &url, || async {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range.clone())),
                if_match: e_tag.map(str::to_owned),
                ..GetOptions::default()
            };
            let got = self.get_opts(key, options, Operation::Get, &url).await?;
            let bytes =
                got.bytes().await.map_err(|e| StoreError::from_object_store(Operation::Get, &url, &e))?;
            // If a range goes beyond the end of the object, stores return fewer bytes.
            match bytes.len() as u64 {
                got if got == expected => Ok(bytes),
                got => Err(StoreError::new(Operation::Get, &url, Length { expected, got })),
            }
        })
        .await
    }

    async fn get_opts(
        &self,
        key: &str,
        options: GetOptions,
        operation: Operation,
        url: &str,
    ) -> Result<GetResult, StoreError> {
        let path = self.path(key, operation, url)?;
        let got = self.objects.get_opts(&path, options).await;
        got.map_err(|error| StoreError::from_object_store(operation, url, &error))
    }

    fn path(&self, relative: &str, operation: Operation, url: &str) -> Result<Path, StoreError> {
        key::under(&self.prefix, relative).map_err(|_| StoreError::new(operation, url, Cause::InvalidName))
    }

    /// Returns an object's name relative to the store's root.
    fn relative<'a>(&self, meta: &'a ObjectMeta) -> Option<&'a str> {
        let relative = meta.location.as_ref().strip_prefix(self.prefix.as_ref())?;
        Some(relative.strip_prefix('/').unwrap_or(relative))
    }

    fn listed_marker(&self, meta: &ObjectMeta) -> Option<ListedMarker> {
        let key = self.relative(meta)?.parse().ok()?;
        let stored_at_ms = meta.last_modified.timestamp_millis();
        Some(ListedMarker { key, stored_at_ms, hides: Vec::new() })
    }

    fn listed(&self, meta: ObjectMeta) -> Option<Listed> {
        let key = self.relative(&meta)?.parse().ok()?;
        let azure = matches!(*self.location, Location::Bucket { scheme: Scheme::Azure, .. });
        // Azure omits the quotes of an ETag in listings only. Conditions need them.
        let e_tag = meta.e_tag.map(|tag| match azure && !tag.contains('"') {
            true => format!("\"{tag}\""),
            false => tag,
        });
        let stored_at_ms = meta.last_modified.timestamp_millis();
        Some(Listed { key, size_bytes: meta.size, e_tag, stored_at_ms })
    }

    /// Returns the next item of a stream. The limit is the base time of one attempt.
    async fn next<T>(
        &self,
        items: &mut (impl futures::Stream<Item = object_store::Result<T>> + Unpin),
        operation: Operation,
        url: &str,
    ) -> Result<Option<T>, StoreError> {
        let limit = self.timeouts.attempt_base;
        match tokio::time::timeout(limit, items.try_next()).await {
            Ok(next) => next.map_err(|error| StoreError::from_object_store(operation, url, &error)),
            Err(_) => Err(StoreError::new(operation, url, Cause::NoAnswer(limit))),
        }
    }

    async fn read<T, F>(
        &self,
        limit: Duration,
        operation: Operation,
        url: &str,
        request: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        retry::read(&self.rate_limit, &self.timeouts, limit, operation, url, request).await
    }
}

/// Returns the location as a URL, without a slash at its end.
fn location_url(location: &Location) -> String {
    let (root, path) = match location {
        Location::File(root) => {
            let url = Url::from_directory_path(root).map(String::from);
            return url.unwrap_or_else(|()| "file:".to_owned()).trim_end_matches('/').to_owned();
        }
        Location::Memory { prefix } => ("memory://".to_owned(), prefix),
        Location::Bucket { scheme, bucket, prefix } => (format!("{}://{bucket}", scheme.name()), prefix),
    };
    join_url(&root, path.as_ref())
}

/// Appends a key to a URL. Of the characters in keys, only `%` has a meaning in URLs; prefixes may have
/// others.
fn join_url(root: &str, key: &str) -> String {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
    const IN_URL: &AsciiSet =
        &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'`').add(b'%');
    match key {
        "" => root.to_owned(),
        key => format!("{root}/{}", utf8_percent_encode(key, IN_URL)),
    }
}

fn settings_hint(location: &Location) -> &'static str {
    match location {
        Location::Bucket { scheme: Scheme::S3, .. } => "look at the AWS_… variables",
        Location::Bucket { scheme: Scheme::Gcs, .. } => "look at the GOOGLE_… variables",
        Location::Bucket { scheme: Scheme::Azure, .. } => {
            "look at the AZURE_… variables (AZURE_STORAGE_ACCOUNT_NAME is needed)"
        }
        Location::File(_) | Location::Memory { .. } => "there are none to set",
    }
}

#[cfg(test)]
mod tests;
