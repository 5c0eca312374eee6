//! Reads a segment's bytes once, and knows in the end what they were.

use std::io;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Payload;
use super::receipt::Digest;
use crate::ids::{OffsetRange, SegmentFormat};
use crate::segment::FrameSplitter;
use crate::spans;

/// What is read at once, and sent as one message.
pub(super) const CHUNK_BYTES: usize = 512 << 10;

/// Frames are counted by their heads, but a splitter holds them whole. One of this size is no broker's: its length is damaged,
/// and is not worth this process's memory.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// Reads all of `payload`, sends nothing, and says what it read: for those who remember a [`Receipt`](super::Receipt) and want
/// to know whether it is about the bytes that are there.
///
/// # Errors
/// The payload's own; [`io::ErrorKind::InvalidData`] where the bytes are no frames, so that nobody can have a receipt for them.
pub async fn digest(payload: &impl Payload) -> io::Result<Digest> {
    // Frames that cannot be decoded may have been kept: whoever remembers a receipt asked for that.
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
    /// The offsets that the heads of all frames claim; `None` where no frame claims any.
    pub offsets: Option<OffsetRange>,
    /// Why the digest's records and torn bytes, and the offsets, are not to be trusted.
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

/// A segment that is being read.
#[derive(Debug)]
pub(super) struct SourceReader<B> {
    bytes: B,
    size_bytes: u64,
    left_bytes: u64,
    /// Away while it works.
    tally: Option<Tally>,
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
        let tally = Some(Tally::new(size_bytes, format, keep_undecodable));
        Ok(Self { bytes, size_bytes, left_bytes: size_bytes, tally })
    }

    /// The next bytes; `None` behind the last one, when the reader has ended without an error and where it should.
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

    /// Hashing takes a millisecond for each chunk: on the runtime it would be in the way of whatever else a broker does there.
    async fn count(&mut self, chunk: Bytes) -> io::Result<()> {
        let tally = self.tally.take();
        let counted = tokio::task::spawn_blocking(move || {
            tally.map(|mut tally| {
                tally.count(chunk);
                tally
            })
        });
        self.tally = counted.await.map_err(io::Error::other)?;
        Ok(())
    }

    /// What was read, all of it.
    pub(super) fn finish(self) -> io::Result<Read> {
        let tally = self.tally.ok_or_else(|| io::Error::other("the segment was not read to its end"))?;
        Ok(tally.finish(self.size_bytes))
    }

    fn other_size(&self, kind: io::ErrorKind, read_bytes: u64) -> io::Error {
        let most = if kind == io::ErrorKind::InvalidData { " at least" } else { "" };
        io::Error::new(kind, format!("{read_bytes} bytes{most} where {} should be", self.size_bytes))
    }
}

/// Checksums and counts so far.
#[derive(Debug)]
struct Tally {
    crc32c: u32,
    sha256: Sha256,
    records: u64,
    offsets: Option<OffsetRange>,
    size_bytes: u64,
    torn_at: Option<u64>,
    /// `None` when it has nothing more to say: the rest is torn, or no frames.
    splitter: Option<FrameSplitter>,
    /// Whether a frame that says no number of records may be one that nobody can decode.
    keep_undecodable: bool,
    flaw: Option<String>,
}

impl Tally {
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
        // Whether a tail is torn or damaged is for workers to find out: holding it would take all its bytes.
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
