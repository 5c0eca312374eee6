//! Makes a client of an object store from a URL.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use url::Url;

use super::disk;

/// The longest prefix in a store's URL, in bytes. With the longest key below it, the length is at most 1,024,
/// the limit of S3, GCS and Azure.
pub const PREFIX_BYTES_MAX: usize = 400;

/// The parts of a store's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// An absolute path of a directory.
    File(PathBuf),
    /// A bucket or container, and a prefix in it.
    Bucket { scheme: Scheme, bucket: String, prefix: Path },
    /// The memory of this process.
    Memory { prefix: Path },
}

/// The stores that need the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    S3,
    Gcs,
    Azure,
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

/// The reasons why a URL is not a location in a store. The error does not repeat the URL if it may have a
/// password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// The scheme is not one of those in the message.
    #[error("the scheme `{scheme}` is not one of file, s3, gs, az and memory")]
    Scheme {
        /// The scheme given.
        scheme: String,
    },
    /// The program was built without the feature `clouds`.
    #[error("this build has no client for {scheme}: it was built without the feature `clouds`")]
    NotBuilt {
        /// The scheme given.
        scheme: &'static str,
    },
    /// The URL has user, password, port, query or fragment. Credentials come from the environment, so that
    /// they do not appear in logs and process lists.
    #[error("user, password, port, query and fragment have no meaning in a store's URL")]
    Extra,
    /// The bucket or container is missing.
    #[error("no bucket in the URL")]
    NoBucket,
    /// A file URL has a host.
    #[error("a file URL has no host: write file:///directory")]
    Host,
    /// The text is not a URL.
    #[error("not a URL such as file:///DIR or s3://BUCKET/PREFIX")]
    Url,
    /// `file:DIR` and `file:./DIR` would be parsed as `file:///DIR`.
    #[error("a file URL is absolute: write file:///DIR")]
    Relative,
    /// `.` and `..` would be resolved as text, without regard to links.
    #[error("dot segments are refused: write the path without them")]
    Dots,
    /// The path does not decode to a valid key or file path.
    #[error("the URL's path is no valid prefix: empty, dotted, control or undecodable segments")]
    Path,
    /// The prefix is so long that keys would be too long.
    #[error("the prefix has {bytes} bytes, more than {PREFIX_BYTES_MAX}")]
    PrefixTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
}

/// Parses a URL from a command line or a request. Refuses URLs that the usual parser would silently change to
/// another location.
///
/// # Errors The text is not a URL, or the URL is relative or has dot segments.
pub fn parse_url(text: &str) -> Result<Url, LocationError> {
    let is_dots = |segment: &str| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    };
    let (scheme, rest) = text.split_once(':').ok_or(LocationError::Url)?;
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    // The URL parser would treat a backslash as a slash.
    if scheme.trim().eq_ignore_ascii_case("file") && !path.starts_with('/') || path.contains('\\') {
        return Err(LocationError::Relative);
    }
    if path.split('/').any(is_dots) {
        return Err(LocationError::Dots);
    }
    Url::parse(text).map_err(|_| LocationError::Url)
}

impl Location {
    /// Parses a URL: `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`,
    /// `memory:///prefix`. Its path is percent-decoded once.
    pub(super) fn parse(url: &Url) -> Result<Self, LocationError> {
        let extra = !url.username().is_empty()
            || url.password().is_some()
            || url.port().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        if extra {
            return Err(LocationError::Extra);
        }
        let scheme = match url.scheme() {
            "file" => return Self::parse_file(url),
            "memory" if url.has_host() && url.host_str() != Some("") => return Err(LocationError::Host),
            "memory" => return Ok(Self::Memory { prefix: prefix(url)? }),
            "s3" => Scheme::S3,
            "gs" => Scheme::Gcs,
            "az" => Scheme::Azure,
            other => return Err(LocationError::Scheme { scheme: other.to_owned() }),
        };
        if cfg!(not(feature = "clouds")) {
            return Err(LocationError::NotBuilt { scheme: scheme.name() });
        }
        let bucket = url.host_str().filter(|host| !host.is_empty()).ok_or(LocationError::NoBucket)?;
        Ok(Self::Bucket { scheme, bucket: bucket.to_owned(), prefix: prefix(url)? })
    }

    fn parse_file(url: &Url) -> Result<Self, LocationError> {
        if url.host_str().is_some_and(|host| !host.is_empty()) {
            return Err(LocationError::Host);
        }
        let encoded_tricks = url.path().to_ascii_lowercase();
        if encoded_tricks.contains("%2f") || encoded_tricks.contains("%00") {
            return Err(LocationError::Path);
        }
        let path = url.to_file_path().map_err(|()| LocationError::Path)?;
        let plain = path
            .components()
            .all(|part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_)));
        if !plain || path.to_str().is_none() {
            return Err(LocationError::Path);
        }
        Ok(Self::File(path))
    }
}

fn prefix(url: &Url) -> Result<Path, LocationError> {
    let prefix = key_path(url)?;
    let bytes = prefix.as_ref().len();
    if bytes > PREFIX_BYTES_MAX {
        return Err(LocationError::PrefixTooLong { bytes });
    }
    Ok(prefix)
}

/// Returns the URL's path as a key, percent-decoded once, segment by segment. An encoded slash is refused,
/// because it would change the segments.
pub(super) fn key_path(url: &Url) -> Result<Path, LocationError> {
    let path = url.path();
    if path.to_ascii_lowercase().contains("%2f") {
        return Err(LocationError::Path);
    }
    Path::from_url_path(path.trim_end_matches('/')).map_err(|_| LocationError::Path)
}

/// Settings that override the environment, with the names of the environment variables (`AWS_ENDPOINT`).
pub(super) type Settings<'a> = &'a [(&'a str, &'a str)];

/// Makes the client for a store's location.
pub(super) fn client(
    location: &Location,
    #[cfg_attr(not(feature = "clouds"), allow(unused_variables))] settings: Settings<'_>,
) -> Result<Arc<dyn ObjectStore>, ClientError> {
    match location {
        Location::File(root) => Ok(Arc::new(
            LocalFileSystem::new_with_prefix(root)?.with_fsync(true).with_automatic_cleanup(true),
        )),
        Location::Memory { .. } => Ok(Arc::new(InMemory::new())),
        #[cfg(feature = "clouds")]
        Location::Bucket { scheme, bucket, .. } => super::clouds::client(*scheme, bucket, settings),
        // `Location::parse` makes none of these.
        #[cfg(not(feature = "clouds"))]
        Location::Bucket { .. } => Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into()),
    }
}

/// The reasons why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Client(#[from] object_store::Error),
}

/// Creates the directory of a file store. Returns its location without links.
pub(super) fn prepare(location: Location) -> Result<Location, ClientError> {
    match location {
        Location::File(root) => Ok(Location::File(disk::create_root(&root)?)),
        bucket => Ok(bucket),
    }
}

#[cfg(feature = "clouds")]
#[cfg(test)]
mod tests;

#[cfg(not(feature = "clouds"))]
#[cfg(test)]
mod without_clouds {
    use super::*;

    #[test]
    fn a_build_without_clouds_says_so_and_knows_directories() {
        let parse = |text| Location::parse(&Url::parse(text).expect("a URL"));
        for (url, scheme) in [("s3://b/x", "s3"), ("gs://b", "gs"), ("az://c", "az")] {
            assert_eq!(parse(url), Err(LocationError::NotBuilt { scheme }));
        }
        assert_eq!(parse("file:///x"), Ok(Location::File("/x".into())));
    }
}
