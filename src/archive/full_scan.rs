//! Reads an object from its first byte to its last. Each byte is covered by a checksum or compared.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::error::{ArchiveError, Fault};
use super::source::{Source, blocking};
use super::tail::Tail;
use crate::bundle::{OpenedBlock, Verified, Verifier};

/// The length of one read in bytes. Two of them are in memory.
const CHUNK_BYTES: u64 = 4 << 20;
const CHUNKS_AHEAD: usize = 2;

/// Gets each block of a bundle in turn. It is called on a thread for blocking work, so it may take its time.
pub trait ScanVisitor: Send + 'static {
    /// Takes the next block, decompressed. Its checksum is right.
    fn block(&mut self, block: OpenedBlock) -> Result<(), Fault>;
}

/// Reads a whole bundle, in order and in bounded memory: two chunks, the block index, and one block.
/// `progress` is called with the number of bytes that were checked since the last call. The next read waits
/// for it.
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
