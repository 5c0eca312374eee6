//! The bytes of a segment's file.

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::ReadError;

/// The size of one read, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// The bytes of a file from its current position to its end, for [`Ingest::run`](super::Ingest::run).
pub fn file_chunks(file: File) -> impl Stream<Item = Result<Bytes, ReadError>> {
    stream::try_unfold(file, |mut file| async move {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        while buffer.len() < CHUNK_BYTES && file.read_buf(&mut buffer).await? > 0 {}
        Ok((!buffer.is_empty()).then(|| (buffer.freeze(), file)))
    })
}
