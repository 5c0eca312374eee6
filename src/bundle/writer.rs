//! Writes frames into compressed blocks.

use bytes::Bytes;

use super::compress::BlockCompressor;
use super::records::{
    BLOCK_PLAIN_BYTES_MAX, BlockEntry, BlockIndex, BlockOrderError, RunsBuilder, TimeRange,
};
use crate::ids::OffsetRange;

/// The target size of a block in bytes, decompressed. A block ends before the frame that would make it
/// larger. The size is large enough to find the repetitions of a log, and small enough that one record is
/// read with one short read.
pub const BLOCK_PLAIN_BYTES: usize = 1 << 20;

/// The kind of some bytes of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameKind {
    /// A frame that was decoded.
    #[default]
    Decoded,
    /// A frame that could not be decoded and is kept as it is.
    Undecoded,
    /// The torn tail of a segment, which is not a frame.
    TornTail,
}

/// What the decoder found in a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameFacts {
    /// The kind of the frame.
    pub kind: FrameKind,
    /// The offsets that the frame covers, with control records and emptied ranges. For a frame that was not
    /// decoded, these are the offsets in its head. `None` if the frame covers none, and for the torn tail.
    pub range: Option<OffsetRange>,
    /// The smallest time of its data records; `None` if no record has a time.
    pub min_timestamp_ms: Option<i64>,
    /// The greatest time of its data records.
    pub max_timestamp_ms: Option<i64>,
    /// The number of its data records. The index has as many documents for it.
    pub data_records: u64,
}

impl FrameFacts {
    /// Returns the facts of the torn tail.
    pub fn torn_tail() -> Self {
        Self { kind: FrameKind::TornTail, ..Self::default() }
    }

    fn times(&self) -> Option<TimeRange> {
        Some(TimeRange { min_ms: self.min_timestamp_ms?, max_ms: self.max_timestamp_ms? })
    }
}

/// The reasons why a frame cannot be added, or a block cannot be closed.
#[derive(Debug, thiserror::Error)]
pub enum BlockWriterError {
    /// The frame has no bytes.
    #[error("the frame at source position {position} is empty")]
    EmptyFrame {
        /// The frame's position in the source.
        position: u64,
    },
    /// The frame is larger than a segment can be.
    #[error("the frame at source position {position} has {bytes} bytes, more than {BLOCK_PLAIN_BYTES_MAX}")]
    FrameTooLarge {
        /// The frame's position in the source.
        position: u64,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The frame does not come after the frame before it in the source, or it follows the torn tail.
    #[error("the frame at source position {position} does not follow the one before, which ends at {end}")]
    OutOfOrder {
        /// The frame's position in the source.
        position: u64,
        /// The end of the frame before it.
        end: u64,
    },
    /// The facts contradict one another.
    #[error("the frame at source position {position}: {what}")]
    Facts {
        /// The frame's position in the source.
        position: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// zstd failed, or its output does not decompress to its input.
    #[error("the block from source position {position} cannot be compressed")]
    Compression {
        /// The start of the block in the source.
        position: u64,
        /// The error of zstd.
        source: std::io::Error,
    },
}

/// The compressed blocks of one slice of a segment, or of a whole bundle, in order. Ordinals and positions
/// count from the start of that slice or bundle.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    pub(super) data: Vec<Bytes>,
    pub(super) index: BlockIndex,
}

impl Blocks {
    /// The compressed blocks.
    pub fn data(&self) -> &[Bytes] {
        &self.data
    }

    /// The compressed blocks, to move them to another place.
    pub fn data_mut(&mut self) -> impl Iterator<Item = &mut Bytes> {
        self.data.iter_mut()
    }

    /// The entries of the blocks, in the same order.
    pub fn entries(&self) -> &[BlockEntry] {
        self.index.entries()
    }

    /// The memory used, in bytes.
    pub fn mem_usage(&self) -> usize {
        let entries = self.entries();
        self.data.iter().map(Bytes::len).sum::<usize>()
            + entries.iter().map(|entry| entry.runs.mem_usage()).sum::<usize>()
            + entries.len() * (size_of::<BlockEntry>() + size_of::<Bytes>())
    }
}

/// Collects the frames of one slice, verbatim, into blocks of about [`BLOCK_PLAIN_BYTES`]. The same frames
/// always give the same bytes.
pub struct BlockWriter {
    compressor: BlockCompressor,
    plain: Vec<u8>,
    open: Option<OpenBlock>,
    source_end: u64,
    torn: bool,
    blocks: Blocks,
    blocks_bytes: usize,
}

/// The block that is being filled.
struct OpenBlock {
    kind: FrameKind,
    source_position: u64,
    runs: RunsBuilder,
    frames: u32,
    records: u64,
    offsets: Option<OffsetRange>,
    times: Option<TimeRange>,
}

impl OpenBlock {
    fn new(kind: FrameKind, source_position: u64) -> Self {
        let runs = RunsBuilder::new(source_position);
        Self { kind, source_position, runs, frames: 0, records: 0, offsets: None, times: None }
    }

    fn add(&mut self, position: u64, len: u64, facts: &FrameFacts) {
        self.runs.push(position, len);
        self.frames += u32::from(facts.kind != FrameKind::TornTail);
        self.records += facts.data_records;
        self.offsets = cover(self.offsets, facts.range, |a, b| a.cover(b));
        self.times = cover(self.times, facts.times(), |a, b| a.cover(b));
    }
}

fn cover<T: Copy>(a: Option<T>, b: Option<T>, both: impl Fn(&T, &T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(both(&a, &b)),
        (a, b) => a.or(b),
    }
}

impl BlockWriter {
    /// Fails if zstd cannot allocate its context.
    pub fn new() -> Result<Self, BlockWriterError> {
        let compressor =
            BlockCompressor::new().map_err(|source| BlockWriterError::Compression { position: 0, source })?;
        Ok(Self {
            compressor,
            plain: Vec::new(),
            open: None,
            source_end: 0,
            torn: false,
            blocks: Blocks::default(),
            blocks_bytes: 0,
        })
    }

    /// Adds the frame that is at `position` in the source, or the torn tail. The torn tail is a block of its
    /// own, and the last one. Decoded and undecoded frames are never in the same block.
    pub fn add(&mut self, position: u64, bytes: &Bytes, facts: FrameFacts) -> Result<(), BlockWriterError> {
        let len = bytes.len() as u64;
        self.check(position, bytes.len(), &facts)?;
        self.torn = facts.kind == FrameKind::TornTail;
        let other_kind = self.open.as_ref().is_some_and(|open| open.kind != facts.kind);
        if other_kind || self.plain.len() + bytes.len() > BLOCK_PLAIN_BYTES {
            self.close()?;
        }
        self.source_end = position + len;
        let open = self.open.get_or_insert_with(|| OpenBlock::new(facts.kind, position));
        open.add(position, len, &facts);
        if bytes.len() >= BLOCK_PLAIN_BYTES {
            // The frame is a block of its own. It is compressed without a copy.
            return self.close_with(bytes);
        }
        self.plain.extend_from_slice(bytes);
        Ok(())
    }

    fn check(&self, position: u64, bytes: usize, facts: &FrameFacts) -> Result<(), BlockWriterError> {
        if bytes == 0 {
            return Err(BlockWriterError::EmptyFrame { position });
        }
        if bytes as u64 > u64::from(BLOCK_PLAIN_BYTES_MAX) {
            return Err(BlockWriterError::FrameTooLarge { position, bytes });
        }
        let ends = position.checked_add(bytes as u64).is_some();
        if self.torn || position < self.source_end || !ends {
            return Err(BlockWriterError::OutOfOrder { position, end: self.source_end });
        }
        let wrong = |what| Err(BlockWriterError::Facts { position, what });
        match (facts.min_timestamp_ms, facts.max_timestamp_ms) {
            (Some(min), Some(max)) if min > max => return wrong("its least time is above its greatest"),
            (Some(_), None) | (None, Some(_)) => return wrong("it has only one of least and greatest time"),
            (Some(_), Some(_)) if facts.data_records == 0 => return wrong("it has times but no records"),
            _ => {}
        }
        if facts.range.is_none() && facts.data_records > 0 {
            return wrong("it has records but no offsets");
        }
        match facts.kind {
            FrameKind::Decoded => {}
            FrameKind::Undecoded if facts.range.is_none() => {
                return wrong("it is not decoded and has no offsets");
            }
            FrameKind::TornTail if facts.range.is_some() => return wrong("it is torn but has offsets"),
            FrameKind::Undecoded | FrameKind::TornTail if facts.data_records > 0 => {
                return wrong("it is not decoded but has records");
            }
            FrameKind::Undecoded | FrameKind::TornTail => {}
        }
        Ok(())
    }

    /// Compresses the collected frames into a block.
    fn close(&mut self) -> Result<(), BlockWriterError> {
        let plain = std::mem::take(&mut self.plain);
        let closed = self.close_with(&plain);
        self.plain = plain;
        self.plain.clear();
        closed
    }

    fn close_with(&mut self, plain: &[u8]) -> Result<(), BlockWriterError> {
        let Some(block) = self.open.take() else { return Ok(()) };
        let position = block.source_position;
        let data = self
            .compressor
            .compress(plain)
            .map_err(|source| BlockWriterError::Compression { position, source })?;
        let runs = block.runs.finish();
        self.blocks_bytes += data.len() + runs.mem_usage() + size_of::<BlockEntry>() + size_of::<Bytes>();
        let entry = BlockEntry {
            first_ordinal: 0,
            records: block.records,
            frames: block.frames,
            is_undecoded: block.kind == FrameKind::Undecoded,
            offsets: block.offsets,
            times: block.times,
            position: 0,
            compressed_len: data.len() as u32,
            plain_len: plain.len() as u32,
            crc32c: crc32c::crc32c(&data),
            source_position: position,
            runs,
        };
        self.blocks.index.push(entry).map_err(|BlockOrderError { source_position }| {
            BlockWriterError::OutOfOrder { position: source_position, end: position }
        })?;
        self.blocks.data.push(data);
        Ok(())
    }

    /// The memory used, in bytes: blocks, buffers and contexts.
    pub fn mem_usage(&self) -> usize {
        self.blocks_bytes
            + self.plain.capacity()
            + self.open.as_ref().map_or(0, |open| open.runs.mem_usage())
            + self.compressor.mem_usage()
    }

    /// Closes the last block and returns all blocks.
    pub fn finish(mut self) -> Result<Blocks, BlockWriterError> {
        self.close()?;
        Ok(self.blocks)
    }
}

#[cfg(test)]
mod tests;
