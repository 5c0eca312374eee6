//! Reads a segment's bytes once, and computes their digest.

use std::io;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Payload;
use super::receipt::Digest;
use crate::ids::{OffsetRange, SegmentFormat};
use crate::segment::FrameSplitter;
use crate::spans;

/// The size of one read and of one message, in bytes.
pub(super) const CHUNK_BYTES: usize = 512 << 10;

/// The maximum size of a frame, in bytes. Frames are counted by their headers, but the splitter holds each
/// frame whole. No broker writes a larger frame: its length is damaged, and must not take this process's
/// memory.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// Reads all of `payload`, sends nothing, and returns the digest of what it read. A caller that remembers a
/// [`Receipt`](super::Receipt) can check with this whether the receipt is about the bytes that are there.
///
/// # Errors
/// The payload's own errors; [`io::ErrorKind::InvalidData`] if the bytes are not frames, so that there can be
/// no receipt for them.
pub async fn digest(payload: &impl Payload) -> io::Result<Digest> {
    // Accept frames that cannot be decoded: if there is a receipt, its caller may have asked to keep them.
    let read = read_all(payload, None, true).await?;
    match read.flaw {
        None => Ok(read.digest),
        Some(flaw) => Err(io::Error::new(io::ErrorKind::InvalidData, flaw)),
    }
}

/// What was read of a segment, and whether its records could be counted.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub digest: Digest,
    /// The offsets that the headers of all frames claim. `None` if no frame claims any.
    pub offsets: Option<OffsetRange>,
    /// Why the records and torn bytes in the digest, and the offsets, cannot be trusted.
    pub flaw: Option<String>,
}

/// Reads all of `payload` and sends nothing.
pub(super) async fn read_all(
    payload: &impl Payload,
    format: Option<SegmentFormat>,
    keep_undecodable: bool,
) -> io::Result<Read> {
    spans::stage(spans::read(payload.size_bytes()), async {
        let mut reader = SourceReader::start(payload, format, keep_undecodable).await?;
        while reader.next().await?.is_some() {}
        reader.finish()
    })
    .await
}

/// A reader of one segment, which counts what it reads.
#[derive(Debug)]
pub(super) struct SourceReader<B> {
    bytes: B,
    size_bytes: u64,
    left_bytes: u64,
    /// `None` while it counts a chunk on another thread.
    builder: Option<DigestBuilder>,
}

impl<B: AsyncRead + Send + Unpin> SourceReader<B> {
    /// Opens a payload at its first byte.
    pub(super) async fn start<P>(
        payload: &P,
        format: Option<SegmentFormat>,
        keep_undecodable: bool,
    ) -> io::Result<Self>
    where
        P: Payload<Bytes = B>,
    {
        let (bytes, size_bytes) = (payload.open().await?, payload.size_bytes());
        let builder = Some(DigestBuilder::new(size_bytes, format, keep_undecodable));
        Ok(Self { bytes, size_bytes, left_bytes: size_bytes, builder })
    }

    /// Returns the next bytes. `None` after the last byte, if the reader ended without an error and at the
    /// expected size.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let chunk = self.read_chunk().await?;
        if chunk.is_empty() {
            return match self.left_bytes {
                0 => Ok(None),
                left => Err(self.other_size(io::ErrorKind::UnexpectedEof, self.size_bytes - left)),
            };
        }
        let Some(left_bytes) = self.left_bytes.checked_sub(chunk.len() as u64) else {
            let read_bytes = self.size_bytes - self.left_bytes + chunk.len() as u64;
            return Err(self.other_size(io::ErrorKind::InvalidData, read_bytes));
        };
        self.left_bytes = left_bytes;
        self.count(chunk.clone()).await?;
        Ok(Some(chunk))
    }

    async fn read_chunk(&mut self) -> io::Result<Bytes> {
        let wanted = usize::try_from(self.left_bytes).unwrap_or(CHUNK_BYTES).clamp(1, CHUNK_BYTES);
        let mut chunk = BytesMut::with_capacity(wanted);
        while chunk.len() < wanted && self.bytes.read_buf(&mut chunk).await? > 0 {}
        Ok(chunk.freeze())
    }

    /// Counts a chunk on a blocking thread. Hashing takes a millisecond for each chunk, and would delay other
    /// tasks on a broker's runtime.
    async fn count(&mut self, chunk: Bytes) -> io::Result<()> {
        let builder = self.builder.take();
        let counted = tokio::task::spawn_blocking(move || {
            builder.map(|mut builder| {
                builder.count(chunk);
                builder
            })
        });
        self.builder = counted.await.map_err(io::Error::other)?;
        Ok(())
    }

    /// Returns the result, after all bytes were read.
    pub(super) fn finish(self) -> io::Result<Read> {
        let builder = self.builder.ok_or_else(|| io::Error::other("the segment was not read to its end"))?;
        Ok(builder.finish(self.size_bytes))
    }

    fn other_size(&self, kind: io::ErrorKind, read_bytes: u64) -> io::Error {
        let most = if kind == io::ErrorKind::InvalidData { " at least" } else { "" };
        io::Error::new(kind, format!("{read_bytes} bytes{most} where {} should be", self.size_bytes))
    }
}

/// The checksums and counts so far.
#[derive(Debug)]
struct DigestBuilder {
    crc32c: u32,
    sha256: Sha256,
    records: u64,
    offsets: Option<OffsetRange>,
    size_bytes: u64,
    torn_at: Option<u64>,
    /// `None` when there is nothing more to split: the rest is torn, or is not frames.
    splitter: Option<FrameSplitter>,
    /// Whether a frame may claim no number of records, because frames that cannot be decoded are kept.
    keep_undecodable: bool,
    flaw: Option<String>,
}

impl DigestBuilder {
    fn new(size_bytes: u64, format: Option<SegmentFormat>, keep_undecodable: bool) -> Self {
        let splitter = FrameSplitter::new(size_bytes, format).with_any_magic(keep_undecodable);
        Self {
            crc32c: 0,
            sha256: Sha256::new(),
            records: 0,
            offsets: None,
            size_bytes,
            torn_at: None,
            splitter: Some(splitter),
            keep_undecodable,
            flaw: None,
        }
    }

    fn count(&mut self, chunk: Bytes) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, &chunk);
        self.sha256.update(&chunk);
        if let Some(splitter) = self.splitter.take() {
            self.splitter = self.split(splitter, chunk);
        }
    }

    fn split(&mut self, mut splitter: FrameSplitter, chunk: Bytes) -> Option<FrameSplitter> {
        let mut frames = Vec::new();
        let pushed = splitter.push(chunk, &mut frames);
        for frame in &frames {
            self.offsets = match (self.offsets, frame.claimed_range()) {
                (Some(known), Some(claimed)) => Some(known.cover(&claimed)),
                (known, claimed) => known.or(claimed),
            };
            match frame.claimed_records() {
                Some(records) => self.records = self.records.saturating_add(records),
                None if self.keep_undecodable => {}
                None => {
                    self.flaw =
                        Some(format!("the frame at byte {} claims no count of records", frame.position));
                }
            }
        }
        if let Err(error) = pushed {
            self.flaw = Some(error.to_string());
        } else if splitter.mem_usage() > FRAME_BYTES_MAX {
            self.flaw = Some(format!("a frame of more than {FRAME_BYTES_MAX} bytes"));
        }
        // Workers find out whether a tail is torn or damaged. To find out here, the splitter would have to
        // hold all its bytes.
        self.torn_at = splitter.torn_at();
        (self.flaw.is_none() && self.torn_at.is_none()).then_some(splitter)
    }

    fn finish(self, size_bytes: u64) -> Read {
        let digest = Digest {
            size_bytes,
            crc32c: self.crc32c,
            sha256: self.sha256.finalize().into(),
            records: self.records,
            torn_bytes: self.torn_at.map_or(0, |at| self.size_bytes - at),
        };
        Read { digest, offsets: self.offsets, flaw: self.flaw }
    }
}
