//! Index files with a checksum for each chunk. Reads take whole chunks, in few requests.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::iter;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::super::cached_parts::{CacheLookup, FillGuard, Part};
use super::super::error::{ArchiveError, Fault};
use super::super::read::LARGE_BYTES;
use super::{Files, io_error, slice};
use crate::bundle::CHUNK_BYTES;
use crate::index::IndexParts;

/// The largest gap between two chunks that are read with one request, in bytes. To read such a gap takes less
/// time than another request.
const GAP_BYTES_MAX: u64 = 64 * 1024;

/// The largest read of one request, in bytes. Above this, two requests at the same time are faster.
const RUN_BYTES_MAX: u64 = 4 << 20;

/// How many requests of one read are in flight at most.
const RUNS_AT_ONCE: usize = 8;

/// A chunk: number of the file, number of the chunk in it. Chunks are in the object in this order.
type Chunk = (usize, u64);

/// The chunks that one request reads, and the range of that request in the object.
struct Run<'a> {
    range: Range<u64>,
    chunks: Vec<(Chunk, Range<u64>, Option<FillGuard<'a>>)>,
}

/// The index files of a bundle with a hot cache.
#[derive(Debug)]
pub(super) struct Chunked {
    files: Files,
}

impl Chunked {
    pub fn new(files: Files) -> Self {
        Self { files }
    }

    /// Returns the bytes of the ranges, in the order given.
    async fn parts(&self, wanted: &[(usize, Range<u64>)]) -> Result<Vec<Bytes>, ArchiveError> {
        let mut chunks = BTreeSet::new();
        for (file, range) in wanted {
            self.files.member(*file, range)?;
            if self.hot(*file, range).is_none() {
                chunks.extend(chunks_of(range).map(|chunk| (*file, chunk)));
            }
        }
        let chunks = self.chunks(chunks).await?;
        let part = |(file, range): &(usize, Range<u64>)| match self.hot(*file, range) {
            Some(bytes) => Some(bytes),
            None => join(range, |chunk| chunks.get(&(*file, chunk)).cloned()),
        };
        let parts: Option<Vec<Bytes>> = wanted.iter().map(part).collect();
        // All chunks of the ranges were read, so this does not fail.
        parts.ok_or_else(|| self.files.archive.error(Fault::Panicked))
    }

    /// Returns the range if it is in the hot cache, or if it is empty.
    fn hot(&self, file: usize, range: &Range<u64>) -> Option<Bytes> {
        if range.is_empty() {
            return Some(Bytes::new());
        }
        self.files.archive.opened().hot.as_ref()?.cached(file, range)
    }

    /// Returns chunks, checked. Takes those in the cache first, then reads those that no other caller reads,
    /// and at last waits for those that others read.
    async fn chunks(&self, mut missing: BTreeSet<Chunk>) -> Result<BTreeMap<Chunk, Bytes>, ArchiveError> {
        let mut found = BTreeMap::new();
        let Some(cached) = self.files.archive.cached() else {
            self.read(missing.into_iter().map(|chunk| (chunk, None)), &mut found).await?;
            return Ok(found);
        };
        while !missing.is_empty() {
            let (mut fills, mut pending) = (Vec::new(), Vec::new());
            for chunk in std::mem::take(&mut missing) {
                match cached.look(part(chunk)) {
                    CacheLookup::Hit(bytes) => drop(found.insert(chunk, bytes)),
                    CacheLookup::Fill(fill_guard) => fills.push((chunk, Some(fill_guard))),
                    CacheLookup::Pending => pending.push(chunk),
                }
            }
            self.read(fills.into_iter(), &mut found).await?;
            let mut pending = pending.into_iter();
            while let Some(chunk) = pending.next() {
                match cached.wait(part(chunk)).await {
                    CacheLookup::Hit(bytes) => drop(found.insert(chunk, bytes)),
                    // The other caller failed. This chunk is looked up again, with all others that are
                    // missing.
                    CacheLookup::Fill(_) => drop(missing.insert(chunk)),
                    // The wait took too long: this chunk and the rest are read here.
                    CacheLookup::Pending => {
                        let rest = iter::once(chunk).chain(pending.by_ref()).map(|chunk| (chunk, None));
                        self.read(rest, &mut found).await?;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Reads chunks in few requests. The chunks must ascend.
    async fn read<'a>(
        &self,
        chunks: impl Iterator<Item = (Chunk, Option<FillGuard<'a>>)>,
        found: &mut BTreeMap<Chunk, Bytes>,
    ) -> Result<(), ArchiveError> {
        let mut runs: Vec<Run<'a>> = Vec::new();
        for (chunk, fill_guard) in chunks {
            let range = self.place(chunk)?;
            match runs.last_mut().filter(|run| run.takes(&range)) {
                Some(run) => {
                    run.range.end = range.end;
                    run.chunks.push((chunk, range, fill_guard));
                }
                None => runs.push(Run { range: range.clone(), chunks: vec![(chunk, range, fill_guard)] }),
            }
        }
        let reads: Vec<_> = runs.into_iter().map(|run| self.read_run(run)).collect();
        let mut reads = stream::iter(reads).buffer_unordered(RUNS_AT_ONCE);
        while let Some(chunks) = reads.try_next().await? {
            found.extend(chunks);
        }
        Ok(())
    }

    /// Returns the range of a chunk in the object.
    fn place(&self, (file, chunk): Chunk) -> Result<Range<u64>, ArchiveError> {
        let start = chunk * CHUNK_BYTES;
        let member = self.files.member(file, &(start..start))?;
        Ok(member.position + start..member.position + member.len.min(start + CHUNK_BYTES))
    }

    async fn read_run(&self, run: Run<'_>) -> Result<Vec<(Chunk, Bytes)>, ArchiveError> {
        let archive = &self.files.archive;
        let bytes = archive.read(run.range.clone()).await?;
        let cut =
            |range: &Range<u64>| slice(&bytes, &(range.start - run.range.start..range.end - run.range.start));
        // Each chunk is copied: a cached chunk must not keep the whole read in memory.
        let copies = run.chunks.iter().map(|(chunk, range, _)| (*chunk, cut(range))).collect::<Vec<_>>();
        let opened = Arc::clone(archive.opened());
        let check = move || {
            let check = |(chunk, bytes): (Chunk, Bytes)| {
                opened.check_chunk(chunk.0, chunk.1, &bytes)?;
                Ok((chunk, Bytes::copy_from_slice(&bytes)))
            };
            copies.into_iter().map(check).collect::<Result<Vec<_>, Fault>>()
        };
        let checked = if bytes.len() < LARGE_BYTES { check() } else { archive.blocking(check).await? };
        let checked = checked.map_err(|fault| archive.error(fault))?;
        for ((_, _, fill_guard), (_, bytes)) in run.chunks.into_iter().zip(&checked) {
            if let Some(fill_guard) = fill_guard {
                fill_guard.keep(bytes.clone());
            }
        }
        Ok(checked)
    }
}

impl Run<'_> {
    fn takes(&self, range: &Range<u64>) -> bool {
        range.start - self.range.end <= GAP_BYTES_MAX && range.end - self.range.start <= RUN_BYTES_MAX
    }
}

fn part((file, chunk): Chunk) -> Part {
    Part::Chunk { file, chunk }
}

/// Returns the numbers of the chunks that overlap `range`, which must not be empty.
fn chunks_of(range: &Range<u64>) -> Range<u64> {
    range.start / CHUNK_BYTES..range.end.div_ceil(CHUNK_BYTES)
}

/// Joins a range from its chunks. A range within one chunk is not copied.
fn join(range: &Range<u64>, chunk: impl Fn(u64) -> Option<Bytes>) -> Option<Bytes> {
    let chunks = chunks_of(range);
    let first = chunks.start * CHUNK_BYTES;
    let within = range.start - first..range.end - first;
    if chunks.end - chunks.start == 1 {
        return Some(slice(&chunk(chunks.start)?, &within));
    }
    let mut joined = BytesMut::with_capacity((within.end - within.start) as usize);
    for number in chunks {
        let bytes = chunk(number)?;
        let position = number * CHUNK_BYTES;
        let start = range.start.saturating_sub(position);
        joined.extend_from_slice(&slice(&bytes, &(start..(range.end - position).min(bytes.len() as u64))));
    }
    Some(joined.freeze())
}

impl IndexParts for Chunked {
    fn files(&self) -> Vec<(String, u64)> {
        self.files.list()
    }

    fn read(&self, file: usize, range: Range<u64>) -> BoxFuture<'_, io::Result<Bytes>> {
        async move {
            let mut parts = self.parts(&[(file, range)]).await.map_err(io_error)?;
            Ok(parts.pop().unwrap_or_default())
        }
        .boxed()
    }

    fn read_many(&self, ranges: Vec<(usize, Range<u64>)>) -> BoxFuture<'_, io::Result<Vec<Bytes>>> {
        async move { self.parts(&ranges).await.map_err(io_error) }.boxed()
    }

    fn cached(&self, file: usize, range: Range<u64>) -> Option<Bytes> {
        self.files.member(file, &range).ok()?;
        if let Some(bytes) = self.hot(file, &range) {
            return Some(bytes);
        }
        let cached = self.files.archive.cached()?;
        join(&range, |chunk| cached.get(part((file, chunk))))
    }
}
