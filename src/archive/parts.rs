//! Reads the files of a bundle's index by range. Every byte is checked.

mod chunked;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use chunked::Chunked;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::cached_parts::Part;
use super::error::{ArchiveError, ArchiveErrorKind, Fault};
use super::read::Archive;
use crate::bundle::Member;
use crate::index::IndexParts;

impl Archive {
    /// Returns the files of the index, to be read by range. If the bundle has a hot cache, reads are extended
    /// to whole chunks, which have checksums. If not, each file is read whole on its first use, and stays in
    /// memory as long as the returned value exists: a small bundle is in memory already, and a bundle of
    /// version 1 has checksums of whole files only.
    ///
    /// Errors have the [`ArchiveError`] as their source.
    pub fn index_parts(&self) -> Arc<dyn IndexParts> {
        let files = Files { archive: self.clone() };
        if self.opened().hot.is_some() {
            return Arc::new(Chunked::new(files));
        }
        let held = self.footer().index_files().map(|_| OnceCell::new()).collect();
        Arc::new(Whole { files, held })
    }
}

/// The files of a bundle's index.
#[derive(Debug)]
struct Files {
    archive: Archive,
}

impl Files {
    fn list(&self) -> Vec<(String, u64)> {
        self.archive.footer().index_files().map(|(name, member)| (name.to_owned(), member.len)).collect()
    }

    /// Returns the file with this number. Fails if the file does not have all of `range`.
    fn member(&self, file: usize, range: &Range<u64>) -> Result<&Member, ArchiveError> {
        let found = self.archive.footer().index_file(file);
        if let Some(member) = found.filter(|member| range.start <= range.end && range.end <= member.len) {
            return Ok(member);
        }
        let (file, len) =
            found.map_or((format!("file {file}"), 0), |member| (member.name.clone(), member.len));
        Err(self.archive.error(Fault::Beyond { file, len, start: range.start, end: range.end }))
    }
}

/// Index files that can be checked only as a whole.
#[derive(Debug)]
struct Whole {
    files: Files,
    held: Vec<OnceCell<Bytes>>,
}

impl Whole {
    async fn part(&self, file: usize, range: Range<u64>) -> Result<Bytes, ArchiveError> {
        let (member, archive) = (self.files.member(file, &range)?, &self.files.archive);
        let read = || async {
            match archive.cached().filter(|_| !archive.has_all()) {
                Some(cached) => cached.part(Part::Chunk { file, chunk: 0 }, archive.member(member)).await,
                None => archive.member(member).await,
            }
        };
        Ok(slice(self.held[file].get_or_try_init(read).await?, &range))
    }
}

impl IndexParts for Whole {
    fn files(&self) -> Vec<(String, u64)> {
        self.files.list()
    }

    fn read(&self, file: usize, range: Range<u64>) -> BoxFuture<'_, io::Result<Bytes>> {
        async move { self.part(file, range).await.map_err(io_error) }.boxed()
    }

    fn cached(&self, file: usize, range: Range<u64>) -> Option<Bytes> {
        let member = self.files.member(file, &range).ok()?;
        if let Some(bytes) = self.held[file].get() {
            return Some(slice(bytes, &range));
        }
        // Only small bundles are in memory, so the checksum takes no time.
        let bytes = self.files.archive.in_memory(&member.range())?;
        member.check(&bytes).ok()?;
        Some(slice(&bytes, &range))
    }
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    bytes.slice(range.start as usize..range.end as usize)
}

/// Converts an error to the type that Tantivy passes on.
fn io_error(error: ArchiveError) -> io::Error {
    let kind = match error.kind() {
        ArchiveErrorKind::NotFound => io::ErrorKind::NotFound,
        ArchiveErrorKind::Denied => io::ErrorKind::PermissionDenied,
        ArchiveErrorKind::Unavailable => io::ErrorKind::NotConnected,
        ArchiveErrorKind::Corrupt => io::ErrorKind::InvalidData,
        ArchiveErrorKind::Unsupported => io::ErrorKind::Unsupported,
        ArchiveErrorKind::Bug => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests;
