//! Files as sources. A file is opened once, checked, and read through that handle.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{SourceError, SourceUrlError};
use crate::store::error::{Cause, Operation, StoreError};

/// An open file and its state when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    state: State,
}

/// The visible signs that a file was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    size_bytes: u64,
    modified: (i64, i64),
}

impl State {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { size_bytes: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

impl Opened {
    pub(super) fn size_bytes(&self) -> u64 {
        self.state.size_bytes
    }
}

/// Opens a file whose real path is under one of `roots`, which must be without links. Blocks.
pub(super) fn open(path: &Path, roots: &[PathBuf], url: &str) -> Result<Opened, SourceError> {
    let io_error = |error| io_error(Operation::Head, url, error);
    let real = fs::canonicalize(path).map_err(io_error)?;
    if !under(&real, roots) {
        return Err(SourceError::OutsideRoots);
    }
    // Opening a pipe would wait for a writer.
    if !fs::symlink_metadata(&real).map_err(io_error)?.is_file() {
        return Err(SourceUrlError::NotAFile.into());
    }
    let file = File::open(&real).map_err(io_error)?;
    let metadata = file.metadata().map_err(io_error)?;
    if !metadata.is_file() {
        return Err(SourceUrlError::NotAFile.into());
    }
    // A directory in the path may have been replaced by a link since the path was checked. So check where the
    // open handle leads.
    if !leads_to(&file, &metadata, &real, roots) {
        return Err(SourceError::OutsideRoots);
    }
    Ok(Opened { file, state: State::of(&metadata) })
}

fn under(real: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().any(|root| real.starts_with(root) && real != root)
}

/// Returns whether the open file is the one that has the name `real` now. On Linux, the file itself must also
/// be under a root.
pub(super) fn leads_to(file: &File, metadata: &fs::Metadata, real: &Path, roots: &[PathBuf]) -> bool {
    let same = fs::canonicalize(real).is_ok_and(|again| again == real)
        && fs::symlink_metadata(real)
            .is_ok_and(|named| (named.dev(), named.ino()) == (metadata.dev(), metadata.ino()));
    match fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(handle) => same && under(&handle, roots),
        Err(_) => same && !cfg!(target_os = "linux"),
    }
}

/// Reads a range on a thread for blocking work.
pub(super) async fn read(opened: Arc<Opened>, range: Range<u64>, url: &str) -> Result<Bytes, SourceError> {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    blocking(opened, url, move |opened| {
        let mut bytes = vec![0; len];
        opened.file.read_exact_at(&mut bytes, range.start)?;
        Ok(Bytes::from(bytes))
    })
    .await
}

/// Checks that the file is still as it was when it was opened.
pub(super) async fn check_unchanged(opened: Arc<Opened>, url: &str) -> Result<(), SourceError> {
    let before = opened.state;
    let now = blocking(opened, url, |opened| Ok(State::of(&opened.file.metadata()?))).await?;
    match now == before {
        true => Ok(()),
        false => Err(SourceError::Changed { url: url.to_owned() }),
    }
}

async fn blocking<T: Send + 'static>(
    opened: Arc<Opened>,
    url: &str,
    work: impl FnOnce(&Opened) -> io::Result<T> + Send + 'static,
) -> Result<T, SourceError> {
    match tokio::task::spawn_blocking(move || work(&opened)).await {
        Ok(Ok(done)) => Ok(done),
        // The file was longer when it was opened.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(SourceError::Changed { url: url.to_owned() })
        }
        Ok(Err(error)) => Err(io_error(Operation::Get, url, error)),
        Err(_) => Err(SourceError::Store(StoreError::new(Operation::Get, url, Cause::Client("file system")))),
    }
}

fn io_error(operation: Operation, url: &str, error: io::Error) -> SourceError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            SourceError::NotFound { url: url.to_owned() }
        }
        kind => {
            let cause = Cause::Io { kind, os_error: error.raw_os_error() };
            SourceError::Store(StoreError::new(operation, url, cause))
        }
    }
}
