//! Reading an object from its first byte to its last: nothing in it escapes a checksum or a comparison.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::error::{ArchiveError, Fault};
use super::source::{Source, blocking};
use super::tail::Tail;
use crate::bundle::{OpenedBlock, Verified, Verifier};

/// How much is read at once, in bytes; two of these are in memory.
const CHUNK_BYTES: u64 = 4 << 20;
const CHUNKS_AHEAD: usize = 2;

/// Looks at each block of a bundle in turn, on a thread where that may take its time.
pub trait ScanVisitor: Send + 'static {
    /// The next block, opened; its checksum holds.
    fn block(&mut self, block: OpenedBlock) -> Result<(), Fault>;
}

/// Reads all of a bundle, in order and in bounded memory: two chunks, the blocks' table, and one block. `progress` hears how many
/// bytes more were checked, and may take its time: so much later the next are read.
pub async fn full_scan<V: ScanVisitor>(
    source: &Source,
    mut visit: V,
    progress: impl AsyncFn(u64),
) -> Result<(Verified, V), ArchiveError> {
    let failed = |fault: Fault| source.error(fault);
    let end = Tail::read(source).await?;
    let start = move || {
        let (block_index, hot) = (end.block_index(), end.hot());
        Verifier::new(end.footer, &block_index, hot.as_ref()).map_err(Fault::from)
    };
    let mut verifier = blocking(start).await.and_then(|verifier| verifier).map_err(failed)?;

    let size_bytes = source.size_bytes();
    let starts = (0..size_bytes).step_by(CHUNK_BYTES as usize);
    let mut chunks = stream::iter(starts)
        .map(|start| source.read(start..size_bytes.min(start + CHUNK_BYTES)))
        .buffered(CHUNKS_AHEAD);
    while let Some(chunk) = chunks.try_next().await? {
        let len = chunk.len() as u64;
        let work = move || advance(verifier, visit, chunk);
        (verifier, visit) = blocking(work).await.and_then(|done| done).map_err(failed)?;
        progress(len).await;
    }
    let verified = blocking(move || verifier.finish().map_err(Fault::from)).await.and_then(|done| done);
    Ok((verified.map_err(failed)?, visit))
}

fn advance<V: ScanVisitor>(
    mut verifier: Verifier,
    mut visit: V,
    mut chunk: Bytes,
) -> Result<(Verifier, V), Fault> {
    while let Some(block) = verifier.advance(&mut chunk)? {
        visit.block(block)?;
    }
    Ok((verifier, visit))
}
