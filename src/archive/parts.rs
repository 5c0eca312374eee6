//! A bundle's index, file by file and range by range; each byte checked.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use super::error::{ArchiveError, ArchiveErrorKind, Fault};
use super::read::Archive;
use crate::bundle::{CHUNK_BYTES, Hot, Member};
use crate::index::IndexParts;

impl Archive {
    /// The files of its index, to be read by range. Where the bundle has a hot part, reads are widened to the chunks that have
    /// checksums; else each file is read whole when something of it is asked for, and kept as long as what is returned here: small
    /// bundles have all of it at hand, those of the first version have checksums of whole files only.
    ///
    /// Errors have the [`ArchiveError`] as their source.
    pub fn index_parts(&self) -> Arc<dyn IndexParts> {
        let files = Files { archive: self.clone() };
        match self.opened().hot {
            Some(_) => Arc::new(Chunked { files }),
            None => Arc::new(Whole {
                held: self.footer().index_files().map(|_| OnceCell::new()).collect(),
                files,
            }),
        }
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

    /// The file of this number, which has all of `range`.
    fn member(&self, file: usize, range: &Range<u64>) -> Result<&Member, ArchiveError> {
        let found = self.archive.footer().index_files().nth(file);
        let (name, len) =
            found.map_or((format!("file {file}"), 0), |(_, file)| (file.name.clone(), file.len));
        match found.filter(|(_, member)| range.start <= range.end && range.end <= member.len) {
            Some((_, member)) => Ok(member),
            None => {
                let (start, end) = (range.start, range.end);
                Err(self.archive.error(Fault::Beyond { file: name, len, start, end }))
            }
        }
    }
}

/// Files of which only the whole can be checked.
#[derive(Debug)]
struct Whole {
    files: Files,
    held: Vec<OnceCell<Bytes>>,
}

impl Whole {
    async fn part(&self, file: usize, range: Range<u64>) -> Result<Bytes, ArchiveError> {
        let member = self.files.member(file, &range)?;
        let bytes = self.held[file].get_or_try_init(|| self.files.archive.member(member)).await?;
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }
}

impl IndexParts for Whole {
    fn files(&self) -> Vec<(String, u64)> {
        self.files.list()
    }

    fn read(&self, file: usize, range: Range<u64>) -> BoxFuture<'_, io::Result<Bytes>> {
        async move { self.part(file, range).await.map_err(io_error) }.boxed()
    }
}

/// Files that have a checksum for each chunk.
#[derive(Debug)]
struct Chunked {
    files: Files,
}

impl Chunked {
    async fn part(&self, file: usize, range: Range<u64>) -> Result<Bytes, ArchiveError> {
        let (member, archive) = (self.files.member(file, &range)?, &self.files.archive);
        let Some(hot) = &archive.opened().hot else { return Ok(Bytes::new()) };
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = hot.at_hand(file, &range) {
            return Ok(bytes);
        }
        let first = range.start / CHUNK_BYTES;
        let wide = first * CHUNK_BYTES..range.end.next_multiple_of(CHUNK_BYTES).min(member.len);
        let bytes = archive.read(member.position + wide.start..member.position + wide.end).await?;
        self.check(hot, file, first, &bytes)?;
        Ok(bytes.slice((range.start - wide.start) as usize..(range.end - wide.start) as usize))
    }

    fn check(&self, hot: &Hot, file: usize, first: u64, bytes: &[u8]) -> Result<(), ArchiveError> {
        let archive = &self.files.archive;
        hot.check_chunks(archive.footer(), file, first, bytes).map_err(|error| archive.error(error))
    }
}

impl IndexParts for Chunked {
    fn files(&self) -> Vec<(String, u64)> {
        self.files.list()
    }

    fn read(&self, file: usize, range: Range<u64>) -> BoxFuture<'_, io::Result<Bytes>> {
        async move { self.part(file, range).await.map_err(io_error) }.boxed()
    }
}

/// The error as Tantivy hands it through.
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
