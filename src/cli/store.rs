//! The flag that names a store to read from, and the exit codes for errors of reading.

use url::Url;

use super::{CliError, Exit};
use crate::archive::{ArchiveError, ArchiveErrorKind};
use crate::store::{BundleKey, Store, StoreError, StoreErrorKind};

/// The store that bundles are read from.
#[derive(Debug, clap::Args)]
pub struct StoreArgs {
    /// Where the bundles are: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX.
    /// Credentials come from the environment variables that the cloud's own tools read.
    #[arg(long, env = "WAL_INDEXER_STORE", value_name = "URL", value_parser = crate::store::parse_url)]
    store: Url,
}

impl StoreArgs {
    /// Opens the store. Unlike the write path, it creates no directory.
    pub fn open(&self) -> Result<Store, CliError> {
        open(&self.store)
    }
}

/// Opens the store at `url` for reading.
pub fn open(url: &Url) -> Result<Store, CliError> {
    let directory = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        let line = format!("--store {url}: {} is no directory", directory.display());
        return Err(CliError::because(Exit::NotFound, line));
    }
    Store::open(url).map_err(|error| CliError::flag("--store", &error))
}

/// Parses a key from the command line.
pub fn key(text: &str) -> Result<BundleKey, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// Returns the exit code for an error of a store.
pub fn exit_of_store(error: &StoreError) -> Exit {
    match error.kind() {
        StoreErrorKind::NotFound => Exit::NotFound,
        StoreErrorKind::Unavailable | StoreErrorKind::TimedOut => Exit::Again,
        StoreErrorKind::Changed | StoreErrorKind::Corrupt => Exit::Corrupt,
        StoreErrorKind::Denied | StoreErrorKind::Refused => Exit::Failed,
    }
}

/// Returns the exit code for an error of a bundle.
pub fn exit_of_archive(error: &ArchiveError) -> Exit {
    match error.kind() {
        ArchiveErrorKind::NotFound => Exit::NotFound,
        ArchiveErrorKind::Unavailable => Exit::Again,
        ArchiveErrorKind::Corrupt => Exit::Corrupt,
        ArchiveErrorKind::Denied | ArchiveErrorKind::Unsupported | ArchiveErrorKind::Bug => Exit::Failed,
    }
}
