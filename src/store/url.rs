//! A URL becomes a client of an object store. Credentials, endpoints and regions come from the environment variables
//! that `object_store`'s builders define (`AWS_…`, `AZURE_…`, `GOOGLE_…`): those builders read them themselves, the one
//! exception to the rule that only the command line reads the environment.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;

use super::disk;

/// The longest prefix in a store's URL, in bytes: with the longest key below it, 1,024 are not exceeded, the limit of S3,
/// GCS and Azure.
pub const PREFIX_BYTES_MAX: usize = 400;

/// Where a store is, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// A directory, absolute.
    File(PathBuf),
    /// A bucket or container, and the prefix in it.
    Bucket { scheme: Scheme, bucket: String, prefix: Path },
    /// This process's memory.
    Memory { prefix: Path },
}

/// The stores that are reached over the network.
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

/// Why a URL is no location in a store. The URL itself is not repeated where it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// None of the schemes in the message.
    #[error("the scheme `{scheme}` is none of file, s3, gs, az and memory")]
    Scheme {
        /// The scheme given.
        scheme: String,
    },
    /// Credentials come from the environment, so that they stay out of logs and listings of processes.
    #[error("user, password, port, query and fragment have no meaning in a store's URL")]
    Extra,
    /// A bucket or container is missing.
    #[error("no bucket in the URL")]
    NoBucket,
    /// A file URL with a host.
    #[error("a file URL has no host: write file:///directory")]
    Host,
    /// Not a URL at all.
    #[error("not a URL such as file:///DIR or s3://BUCKET/PREFIX")]
    Url,
    /// `file:DIR` and `file:./DIR` would be read as `file:///DIR`.
    #[error("a file URL is absolute: write file:///DIR")]
    Relative,
    /// `.` and `..` would be resolved as text, whatever links there are.
    #[error("dot segments are refused: write the path without them")]
    Dots,
    /// The path does not decode to something that can be a key, or a file's path.
    #[error("the URL's path is no valid prefix: empty, dotted, control or undecodable segments")]
    Path,
    /// The prefix leaves too little room for keys.
    #[error("the prefix has {bytes} bytes, more than {PREFIX_BYTES_MAX}")]
    PrefixTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
}

/// Reads a URL as it stands on a command line or in a request. What the usual reading would silently change to another place is
/// refused.
///
/// # Errors
/// It is no URL, a relative one, or one with dot segments.
pub fn parse_url(text: &str) -> Result<Url, LocationError> {
    let is_dots = |segment: &str| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    };
    let (scheme, rest) = text.split_once(':').ok_or(LocationError::Url)?;
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    // A backslash would be read as a slash.
    if scheme.trim().eq_ignore_ascii_case("file") && !path.starts_with('/') || path.contains('\\') {
        return Err(LocationError::Relative);
    }
    if path.split('/').any(is_dots) {
        return Err(LocationError::Dots);
    }
    Url::parse(text).map_err(|_| LocationError::Url)
}

impl Location {
    /// Takes a URL apart: `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`,
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

/// The URL's path as a key, percent-decoded once, segment by segment: an encoded slash is refused, for it would move
/// the borders of segments.
pub(super) fn key_path(url: &Url) -> Result<Path, LocationError> {
    let path = url.path();
    if path.to_ascii_lowercase().contains("%2f") {
        return Err(LocationError::Path);
    }
    Path::from_url_path(path.trim_end_matches('/')).map_err(|_| LocationError::Path)
}

/// Settings beyond the environment's, named as they would be there (`AWS_ENDPOINT`), which they overrule.
pub(super) type Settings<'a> = &'a [(&'a str, &'a str)];

/// Opens what a store's URL names.
pub(super) fn client(
    location: &Location,
    settings: Settings<'_>,
) -> Result<Arc<dyn ObjectStore>, ClientError> {
    match location {
        Location::File(root) => Ok(Arc::new(
            LocalFileSystem::new_with_prefix(root)?.with_fsync(true).with_automatic_cleanup(true),
        )),
        Location::Memory { .. } => Ok(Arc::new(InMemory::new())),
        Location::Bucket { scheme: Scheme::S3, bucket, .. } => s3(bucket, settings),
        Location::Bucket { scheme: Scheme::Gcs, bucket, .. } => gcs(bucket, settings),
        Location::Bucket { scheme: Scheme::Azure, bucket, .. } => azure(bucket, settings),
    }
}

/// Why a client could not be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Client(#[from] object_store::Error),
}

/// Creates the directory of a file store; returns its location without links.
pub(super) fn prepare(location: Location) -> Result<Location, ClientError> {
    match location {
        Location::File(root) => Ok(Location::File(disk::create_root(&root)?)),
        bucket => Ok(bucket),
    }
}

/// The client's limit on a whole request, body included, defaults to 30 s, too short for a large object on a slow line.
/// Ours grow with the size and bound each attempt from outside. It is set as a configuration key because
/// `with_client_options` would drop what the environment says of the client (`AWS_ALLOW_HTTP`).
const REQUEST_LIMIT: &str = "7 days";

fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// S3 verifies the body twice: the signature covers its SHA-256 (unless unsigned payloads were asked for, which is
/// overruled here), and `x-amz-checksum-sha256` is stored with the object.
fn s3(bucket: &str, settings: Settings<'_>) -> Result<Arc<dyn ObjectStore>, ClientError> {
    let mut builder = AmazonS3Builder::from_env();
    for (name, value) in settings {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, *value);
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_LIMIT)
        .with_retry(no_retries())
        .with_unsigned_payload(false)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One object a request: its answer is the object's own, and every server knows it.
        .with_disable_bulk_delete(true)
        .build()?;
    Ok(Arc::new(store))
}

fn gcs(bucket: &str, settings: Settings<'_>) -> Result<Arc<dyn ObjectStore>, ClientError> {
    let mut builder = GoogleCloudStorageBuilder::from_env();
    for (name, value) in settings {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, *value);
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), REQUEST_LIMIT)
        .with_retry(no_retries())
        .build()?;
    Ok(Arc::new(store))
}

fn azure(container: &str, settings: Settings<'_>) -> Result<Arc<dyn ObjectStore>, ClientError> {
    let mut builder = MicrosoftAzureBuilder::from_env();
    for (name, value) in settings {
        builder = builder.with_config(name.to_ascii_lowercase().parse()?, *value);
    }
    let store = builder
        .with_container_name(container)
        .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), REQUEST_LIMIT)
        .with_retry(no_retries())
        .build()?;
    Ok(Arc::new(store))
}

#[cfg(test)]
mod tests;
