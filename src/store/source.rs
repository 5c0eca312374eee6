//! Segments that a worker reads itself, only from locations under its source roots. The caller names the
//! location, so nothing in it is trusted: not its spelling, not its dots, not the links in its path.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ::url::Url;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange};
use percent_encoding::percent_decode_str;

use super::error::{Cause, Operation, StoreError, StoreErrorKind};
use super::url::{Location, LocationError, key_path, parse_url};
use super::{OpenError, Store, location_url};

mod file;

/// The number of bytes that one request reads.
pub const RANGE_BYTES: u64 = 8 << 20;

/// How many ranges of a segment are read concurrently. With [`RANGE_BYTES`], at most 32 MiB wait in memory.
pub const RANGES_AT_ONCE: usize = 4;

/// The source roots: the places that segments may be read from. Without roots, every location is outside.
#[derive(Clone, Debug, Default)]
pub struct SourceRoots {
    roots: Arc<[Root]>,
}

#[derive(Clone, Debug)]
enum Root {
    /// The directory as it was given, and its path without links. Callers may use either.
    Files {
        given: std::path::PathBuf,
        real: std::path::PathBuf,
    },
    Objects(Store),
}

/// The reasons why a segment cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The location is not valid, or has a form that is always refused. The error does not repeat it, because
    /// it may have credentials.
    #[error("not a location of a segment: {0}")]
    Location(SourceUrlError),
    /// The location is not under any of the worker's source roots.
    #[error("the location is outside this worker's source roots")]
    OutsideRoots,
    /// The location is under a root, but nothing is there.
    #[error("{url} does not exist")]
    NotFound {
        /// The location.
        url: String,
    },
    /// The object changed after the read began.
    #[error("{url} changed while it was read")]
    Changed {
        /// The location.
        url: String,
    },
    /// The size differs from the size in the request.
    #[error("{url} has {actual} bytes, the request said {declared}")]
    SizeMismatch {
        /// The location.
        url: String,
        /// The size in the request, in bytes.
        declared: u64,
        /// The real size in bytes.
        actual: u64,
    },
    /// The store of the segment failed.
    #[error(transparent)]
    Store(StoreError),
}

/// The reasons why the form of a location is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceUrlError {
    /// Not a URL.
    #[error("not a URL")]
    Url,
    /// It has control characters, backslashes, dot segments, or encoded separators.
    #[error("control characters, backslashes, dot segments and encoded separators are refused")]
    Tricks,
    /// It is not a location in a store.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// It is a root, a directory, or something else without bytes.
    #[error("not a file or an object")]
    NotAFile,
}

impl From<SourceUrlError> for SourceError {
    fn from(error: SourceUrlError) -> Self {
        Self::Location(error)
    }
}

/// A segment under a root, as it was when it was opened. All reads are pinned to that state.
#[derive(Clone)]
pub struct Source {
    url: String,
    size_bytes: u64,
    origin: Origin,
}

#[derive(Clone)]
enum Origin {
    File(Arc<file::Opened>),
    Object { store: Store, path: Path, e_tag: Option<String> },
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("url", &self.url).field("size_bytes", &self.size_bytes).finish()
    }
}

impl SourceRoots {
    /// Opens each root: an existing directory, or a bucket with or without a prefix.
    pub fn new(urls: &[Url]) -> Result<Self, OpenError> {
        urls.iter().map(Root::open).collect::<Result<Arc<_>, _>>().map(|roots| Self { roots })
    }

    /// Makes one root of all that is under the URL of an open store. It is read through the store's client
    /// and its decorators.
    pub fn of_store(store: Store) -> Self {
        let root = match &*store.location {
            Location::File(real) => Root::Files { given: real.clone(), real: real.clone() },
            Location::Bucket { .. } | Location::Memory { .. } => Root::Objects(store),
        };
        Self { roots: [root].into() }
    }

    /// Opens a segment. `declared_bytes` is its size from the request, if the request has it.
    pub async fn open(&self, url: &str, declared_bytes: Option<u64>) -> Result<Source, SourceError> {
        let source = match locate(url)? {
            Location::File(path) => self.open_file(path).await?,
            location => self.open_object(location).await?,
        };
        match declared_bytes {
            Some(declared) if declared != source.size_bytes => {
                Err(SourceError::SizeMismatch { url: source.url, declared, actual: source.size_bytes })
            }
            _ => Ok(source),
        }
    }

    async fn open_file(&self, path: std::path::PathBuf) -> Result<Source, SourceError> {
        // The roots are checked before the file system is, so that callers cannot find out which files exist
        // outside.
        let reals: Vec<_> = (self.roots.iter())
            .filter_map(|root| match root {
                Root::Files { given, real } => {
                    (path.starts_with(given) || path.starts_with(real)).then(|| real.clone())
                }
                Root::Objects(_) => None,
            })
            .collect();
        if reals.is_empty() {
            return Err(SourceError::OutsideRoots);
        }
        let url = location_url(&Location::File(path.clone()));
        let opening = tokio::task::spawn_blocking({
            let url = url.clone();
            move || file::open(&path, &reals, &url)
        });
        let failed = |_| StoreError::new(Operation::Head, url.as_str(), Cause::Client("file system"));
        let opened = opening.await.map_err(|error| SourceError::Store(failed(error)))??;
        Ok(Source { size_bytes: opened.size_bytes(), url, origin: Origin::File(Arc::new(opened)) })
    }

    async fn open_object(&self, location: Location) -> Result<Source, SourceError> {
        let found = self.roots.iter().find_map(|root| match root {
            Root::Objects(store) => key_under(&store.location, &location).map(|path| (store, path)),
            Root::Files { .. } => None,
        });
        let (store, path) = found.ok_or(SourceError::OutsideRoots)?;
        let url = location_url(&location);
        let head = || async {
            let options = GetOptions { head: true, ..GetOptions::default() };
            let got = store.objects.get_opts(&path, options).await;
            got.map_err(|error| StoreError::from_object_store(Operation::Head, &url, &error))
        };
        let got = store.read(store.timeouts.attempt_base, Operation::Head, &url, head).await;
        let meta = got.map_err(|error| named(error, &url))?.meta;
        let origin = Origin::Object { store: store.clone(), path, e_tag: meta.e_tag };
        Ok(Source { url, size_bytes: meta.size, origin })
    }
}

impl Root {
    fn open(url: &Url) -> Result<Self, OpenError> {
        match Location::parse(url)? {
            Location::File(given) => {
                let url = location_url(&Location::File(given.clone()));
                match std::fs::canonicalize(&given) {
                    Ok(real) => Ok(Self::Files { given, real }),
                    Err(error) => {
                        let cause = Cause::Io { kind: error.kind(), os_error: error.raw_os_error() };
                        Err(OpenError::Directory(StoreError::new(Operation::Head, url, cause)))
                    }
                }
            }
            Location::Bucket { .. } | Location::Memory { .. } => Ok(Self::Objects(Store::open(url)?)),
        }
    }
}

impl Source {
    /// Returns its location, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns its bytes in order, in chunks of [`RANGE_BYTES`]. The stream ends after an error. All bytes
    /// are from the object that was opened; if it changed, the last item is an error that says so.
    pub fn read(&self) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let end = self.size_bytes;
        let starts = (0..end.div_ceil(RANGE_BYTES)).map(|n| n * RANGE_BYTES);
        let ranges = starts.map(move |start| start..end.min(start + RANGE_BYTES));
        let source = self.clone();
        let chunks = stream::iter(ranges)
            .map(move |range| {
                let source = source.clone();
                async move { source.range(range).await }
            })
            .buffered(RANGES_AT_ONCE);
        // A file can be changed in place. This check finds it at the end of the read, if no read found it
        // before.
        let source = self.clone();
        let last = stream::once(async move { source.check_unchanged().await.map(|()| Bytes::new()) })
            .try_filter(|bytes| std::future::ready(!bytes.is_empty()));
        let mut failed = false;
        chunks
            .chain(last)
            .take_while(move |item| std::future::ready(!std::mem::replace(&mut failed, item.is_err())))
            .boxed()
    }

    async fn range(&self, range: Range<u64>) -> Result<Bytes, SourceError> {
        match &self.origin {
            Origin::File(opened) => file::read(Arc::clone(opened), range, &self.url).await,
            Origin::Object { store, path, e_tag } => {
                self.object_range(store, path, e_tag.as_deref(), range).await
            }
        }
    }

    async fn object_range(
        &self,
        store: &Store,
        path: &Path,
        e_tag: Option<&str>,
        range: Range<u64>,
    ) -> Result<Bytes, SourceError> {
        let expected = range.end - range.start;
        let url = self.url.as_str();
        let error = |cause| StoreError::new(Operation::Get, url, cause);
        let get = || async {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range.clone())),
                if_match: e_tag.map(str::to_owned),
                ..GetOptions::default()
            };
            let got = store.objects.get_opts(path, options).await;
            let got = got.map_err(|error| StoreError::from_object_store(Operation::Get, url, &error))?;
            // Some stores ignore the condition.
            if got.meta.e_tag.as_deref() != e_tag || got.meta.size != self.size_bytes {
                return Err(error(Cause::Changed));
            }
            let bytes = got
                .bytes()
                .await
                .map_err(|error| StoreError::from_object_store(Operation::Get, url, &error))?;
            match bytes.len() as u64 {
                got if got == expected => Ok(bytes),
                _ => Err(error(Cause::Transport("cut off"))),
            }
        };
        let limit = store.timeouts.attempt(expected);
        store.read(limit, Operation::Get, url, get).await.map_err(|error| match error.kind() {
            // The object existed when it was opened.
            StoreErrorKind::NotFound => SourceError::Changed { url: self.url.clone() },
            _ => named(error, url),
        })
    }

    async fn check_unchanged(&self) -> Result<(), SourceError> {
        match &self.origin {
            Origin::File(opened) => file::check_unchanged(Arc::clone(opened), &self.url).await,
            // Each range was checked.
            Origin::Object { .. } => Ok(()),
        }
    }
}

/// Gives some store errors their own variant.
fn named(error: StoreError, url: &str) -> SourceError {
    match error.kind() {
        StoreErrorKind::NotFound => SourceError::NotFound { url: url.to_owned() },
        StoreErrorKind::Changed => SourceError::Changed { url: url.to_owned() },
        _ => SourceError::Store(error),
    }
}

/// Checks the location of a source root, a directory or prefix that segments are below. It is better to
/// refuse a setting than to refuse segments later. The error does not repeat the location.
pub fn check_source_root(url: &str) -> Result<Url, SourceUrlError> {
    let any_below = format!("{}/segment", url.trim_end_matches('/'));
    locate(&any_below)?;
    parse(url)
}

fn parse(url: &str) -> Result<Url, SourceUrlError> {
    parse_url(url).map_err(|error| match error {
        LocationError::Url => SourceUrlError::Url,
        other => SourceUrlError::Location(other),
    })
}

/// Parses a caller's location. URL parsers silently correct dots, backslashes and control characters. Here
/// they are refused, in the text as it was given, before a parser sees it.
fn locate(url: &str) -> Result<Location, SourceUrlError> {
    let lower = url.to_ascii_lowercase();
    let tricks = url.chars().any(|c| c.is_control() || c == '\\')
        || url.trim() != url
        || ["%2f", "%5c", "%00"].iter().any(|encoded| lower.contains(encoded))
        || url.split('/').any(|segment| {
            matches!(percent_decode_str(segment).collect::<Vec<_>>()[..], [b'.'] | [b'.', b'.'])
        });
    if tricks {
        return Err(SourceUrlError::Tricks);
    }
    let url = parse(url)?;
    let key = key_path(&url)?;
    if key.is_root() || url.path().ends_with('/') {
        return Err(SourceUrlError::NotAFile);
    }
    if url.scheme() == "file" {
        return Ok(Location::parse(&url)?);
    }
    // The location without its path: the limit for the length of prefixes does not apply to sources.
    let mut bare = url.clone();
    bare.set_path("");
    Ok(match Location::parse(&bare)? {
        file @ Location::File(_) => file,
        Location::Bucket { scheme, bucket, .. } => Location::Bucket { scheme, bucket, prefix: key },
        Location::Memory { .. } => Location::Memory { prefix: key },
    })
}

/// Returns the object's path in the bucket if it is under the root: same bucket, and whole segments of the
/// path match the prefix.
fn key_under(root: &Location, location: &Location) -> Option<Path> {
    let (root, key) = match (root, location) {
        (
            Location::Bucket { scheme, bucket, prefix },
            Location::Bucket { scheme: s, bucket: b, prefix: key },
        ) if scheme == s && bucket == b => (prefix, key),
        (Location::Memory { prefix }, Location::Memory { prefix: key }) => (prefix, key),
        _ => return None,
    };
    (key.prefix_matches(root) && key != root).then(|| key.clone())
}

#[cfg(test)]
mod tests;
