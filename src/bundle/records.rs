//! `records.zst` and `records.idx`: the segment's own frames in blocks, each compressed on its own, and the
//! block index, which finds a block by ordinal, by offset, or by position in the source.
//! `docs/bundle-format.md` shows each byte.

use std::ops::Range;

use bytes::Bytes;

use super::Kind;
use super::cursor::{Cursor, Malformed, put_varint};
use crate::ids::OffsetRange;

/// The largest block in bytes, decompressed. A frame is never larger than a segment, and a segment has at
/// most 2 GiB.
pub const BLOCK_PLAIN_BYTES_MAX: u32 = 1 << 31;

/// The highest compression ratio: a zstd block of four bytes decompresses to 128 KiB, and no encoding is
/// denser (RFC 8878, section 3.1.1.2). Data that state a higher ratio are refused before memory is allocated.
pub(super) const EXPANSION_MAX: u64 = 32 * 1024;

/// The first bytes of `records.idx`.
pub const BLOCK_INDEX_MAGIC: [u8; 8] = *b"WIBLOCKS";

/// The version of the layout of `records.idx`. It is separate from the bundle's format version.
const VERSION: u32 = 1;

const HEAD_BYTES: usize = 16;
const ENTRY_BYTES: usize = 72;
const CHECKSUM_BYTES: usize = 4;

const FLAG_OFFSETS: u32 = 1;
const FLAG_TIMES: u32 = 2;
const FLAG_UNDECODED: u32 = 4;

/// The smallest and the greatest time of some data records, in milliseconds since the Unix epoch, both
/// inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// The smallest time.
    pub min_ms: i64,
    /// The greatest time, not less than `min_ms`.
    pub max_ms: i64,
}

impl TimeRange {
    /// Returns the smallest range that contains both.
    pub fn cover(&self, other: &Self) -> Self {
        Self { min_ms: self.min_ms.min(other.min_ms), max_ms: self.max_ms.max(other.max_ms) }
    }
}

/// The block index entry of one block of `records.zst`: its contents and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    /// The number of data records in all blocks before this one. It is the ordinal of the first record in
    /// this block.
    pub first_ordinal: u64,
    /// The number of data records in the block. It is 0 for control batches, emptied batches and the torn
    /// tail.
    pub records: u64,
    /// The number of whole frames in the block. 0 means that the block is the segment's torn tail.
    pub frames: u32,
    /// Whether the frames of the block could not be decoded. Such frames are stored under the offsets in
    /// their heads and count no data records.
    pub is_undecoded: bool,
    /// The offsets that the frames cover. `None` for the torn tail, and if the frames cover none.
    pub offsets: Option<OffsetRange>,
    /// The time range of the data records that have a time.
    pub times: Option<TimeRange>,
    /// Where the compressed block starts, in bytes from the start of `records.zst`.
    pub position: u64,
    /// The length of the compressed block in bytes.
    pub compressed_len: u32,
    /// The length of the decompressed block in bytes; at most [`BLOCK_PLAIN_BYTES_MAX`].
    pub plain_len: u32,
    /// CRC-32C of the compressed bytes.
    pub crc32c: u32,
    /// The position in the source of the block's first byte.
    pub source_position: u64,
    /// The positions in the source of all bytes of the block.
    pub(super) runs: Runs,
}

/// The reasons why a block cannot be decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The given bytes do not have the length that the entry states.
    #[error("block at byte {position} of records.zst: {given} bytes were given where it has {expected}")]
    Length {
        /// The block's position in `records.zst`.
        position: u64,
        /// The length in the entry, in bytes.
        expected: u32,
        /// The number of bytes given.
        given: usize,
    },
    /// The compressed bytes have changed.
    #[error(
        "block at byte {position} of records.zst: crc32c is {computed:08x} where {stated:08x} was written"
    )]
    Checksum {
        /// The block's position in `records.zst`.
        position: u64,
        /// The checksum in the entry.
        stated: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The checksum is right, but the bytes are not a zstd frame of the stated size.
    #[error("block at byte {position} of records.zst does not decompress to {plain_len} bytes: {reason}")]
    Opening {
        /// The block's position in `records.zst`.
        position: u64,
        /// The length in the entry, in bytes.
        plain_len: u32,
        /// The reason.
        reason: String,
    },
}

impl BlockEntry {
    /// Returns the range of the compressed block in `records.zst`.
    pub fn range(&self) -> Range<u64> {
        self.position..self.position + u64::from(self.compressed_len)
    }

    /// Returns the ordinals of its data records.
    pub fn ordinals(&self) -> Range<u64> {
        self.first_ordinal..self.first_ordinal + self.records
    }

    /// Returns whether the block is the torn tail of the segment: bytes that are kept, but are not a whole
    /// frame.
    pub fn is_torn_tail(&self) -> bool {
        self.frames == 0
    }

    /// Checks and decompresses the block. It allocates `plain_len` bytes, never more.
    pub fn open(&self, compressed: &[u8]) -> Result<Bytes, BlockError> {
        let Self { position, plain_len, .. } = *self;
        if compressed.len() as u64 != u64::from(self.compressed_len) {
            let (expected, given) = (self.compressed_len, compressed.len());
            return Err(BlockError::Length { position, expected, given });
        }
        let computed = crc32c::crc32c(compressed);
        if computed != self.crc32c {
            return Err(BlockError::Checksum { position, stated: self.crc32c, computed });
        }
        let opening = |reason: String| BlockError::Opening { position, plain_len, reason };
        match zstd::zstd_safe::get_frame_content_size(compressed) {
            Ok(Some(size)) if size == u64::from(plain_len) => {}
            Ok(Some(size)) => return Err(opening(format!("its frame states {size} bytes"))),
            Ok(None) => return Err(opening("its frame states no size".into())),
            Err(_) => return Err(opening("not a zstd frame".into())),
        }
        let mut plain = Vec::new();
        plain.try_reserve_exact(plain_len as usize).map_err(|error| opening(error.to_string()))?;
        zstd::bulk::Decompressor::new()
            .and_then(|mut decompressor| decompressor.decompress_to_buffer(compressed, &mut plain))
            .map_err(|error| opening(error.to_string()))?;
        if plain.len() as u64 != u64::from(plain_len) {
            return Err(opening(format!("it decompresses to {} bytes", plain.len())));
        }
        Ok(plain.into())
    }

    /// Returns where the block's bytes come from: pairs of source position and length, ascending, with gaps
    /// between them.
    pub fn source_runs(&self) -> impl Iterator<Item = (u64, u32)> + Clone {
        self.runs.iter(self.source_position)
    }

    /// Returns the position in the source directly after the block's last byte.
    pub fn source_end(&self) -> u64 {
        self.source_runs().last().map_or(self.source_position, |(position, len)| position + u64::from(len))
    }

    /// Cuts a decompressed block into pieces of the source, each with its position there. `restore` writes
    /// these pieces.
    pub fn pieces<'a>(&'a self, plain: &'a Bytes) -> impl Iterator<Item = (u64, Bytes)> + 'a {
        let mut start = 0;
        self.source_runs().map_while(move |(position, len)| {
            let end = start + len as usize;
            let piece = (end <= plain.len()).then(|| (position, plain.slice(start..end)));
            start = end;
            piece
        })
    }

    /// Returns the source position of a byte of the decompressed block. Errors in the block are reported at
    /// this position.
    pub fn source_position_of(&self, plain_position: u32) -> Option<u64> {
        let mut before = 0u32;
        self.source_runs().find_map(|(position, len)| {
            let inside = plain_position - before;
            before += len;
            (inside < len).then(|| position + u64::from(inside))
        })
    }
}

/// The runs of source bytes of a block, encoded as in `records.idx`: the length of the first run, then for
/// each further run the number of bytes left out before it, and its length. They stay encoded because a block
/// of many small frames has thousands of runs. They are checked when they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(Bytes);

impl Runs {
    /// The memory used, in bytes.
    pub(super) fn mem_usage(&self) -> usize {
        self.0.len()
    }

    fn iter(&self, source_position: u64) -> impl Iterator<Item = (u64, u32)> + Clone {
        RunsIter { bytes: self.0.clone(), read: 0, source_end: source_position, first: true }
    }

    /// Checks `bytes`, which start at `at` in `records.idx`: there is at least one run, none is empty, none
    /// touches the next, and the lengths add up to the length of the block.
    fn parse(bytes: Bytes, at: usize, source_position: u64, plain_len: u32) -> Result<Self, Malformed> {
        let moved = |error: Malformed| Malformed { position: error.position + at as u64, ..error };
        let mut cursor = Cursor::new(&bytes);
        let (mut source_end, mut total, mut first) = (source_position, 0u64, true);
        while first || cursor.left() > 0 {
            let gap = if first { 0 } else { cursor.varint().map_err(moved)? };
            if !first && gap == 0 {
                return Err(moved(cursor.malformed("two runs of source bytes touch")));
            }
            let len = cursor.varint().map_err(moved)?;
            total = total.saturating_add(len);
            if len == 0 || total > u64::from(plain_len) {
                return Err(moved(cursor.malformed("a run's length does not fit its block")));
            }
            source_end = source_end
                .checked_add(gap)
                .and_then(|start| start.checked_add(len))
                .ok_or_else(|| moved(cursor.malformed("a run ends beyond 64 bits")))?;
            first = false;
        }
        if total != u64::from(plain_len) {
            return Err(moved(cursor.malformed("the runs are shorter than their block")));
        }
        Ok(Self(bytes))
    }
}

#[derive(Clone)]
struct RunsIter {
    bytes: Bytes,
    read: usize,
    source_end: u64,
    first: bool,
}

impl Iterator for RunsIter {
    type Item = (u64, u32);

    fn next(&mut self) -> Option<Self::Item> {
        let mut cursor = Cursor::new(&self.bytes[self.read..]);
        let gap = if self.first { 0 } else { cursor.varint().ok()? };
        let len = cursor.varint().ok()?;
        self.first = false;
        self.read += cursor.position();
        let position = self.source_end + gap;
        self.source_end = position + len;
        Some((position, len as u32))
    }
}

/// Collects the runs of one block.
#[derive(Debug, Default)]
pub(super) struct RunsBuilder {
    encoded: Vec<u8>,
    start: u64,
    end: u64,
}

impl RunsBuilder {
    pub(super) fn new(source_position: u64) -> Self {
        Self { encoded: Vec::new(), start: source_position, end: source_position }
    }

    /// Adds bytes that directly follow the last ones in the source, or come later there.
    pub(super) fn push(&mut self, position: u64, len: u64) {
        if position != self.end {
            put_varint(&mut self.encoded, self.end - self.start);
            put_varint(&mut self.encoded, position - self.end);
            self.start = position;
        }
        self.end = position + len;
    }

    pub(super) fn finish(mut self) -> Runs {
        put_varint(&mut self.encoded, self.end - self.start);
        Runs(self.encoded.into())
    }

    pub(super) fn mem_usage(&self) -> usize {
        self.encoded.capacity()
    }
}

/// The reasons why bytes are not a `records.idx` that this build reads. Positions count from the start of the
/// member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockIndexError {
    /// The bytes are not a block index.
    #[error("no block index: records.idx does not start with WIBLOCKS")]
    Absent,
    /// The bytes have changed.
    #[error("block index: crc32c is {computed:08x} where {stated:08x} was written")]
    Checksum {
        /// The checksum at its end.
        stated: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A later release wrote it.
    #[error("block index format version {version} is newer than this build reads ({VERSION})")]
    Newer {
        /// The version that it states.
        version: u32,
    },
    /// The checksum is right, but the contents break the format.
    #[error("block index: {0}")]
    Malformed(#[from] Malformed),
}

impl BlockIndexError {
    /// Returns whether it is absent, corrupt, or of a later release.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Absent => Kind::Absent,
            Self::Checksum { .. } | Self::Malformed(_) => Kind::Corrupt,
            Self::Newer { .. } => Kind::Unsupported,
        }
    }
}

/// The block index, `records.idx`: all blocks of a bundle, in the order of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockIndex {
    entries: Vec<BlockEntry>,
}

impl BlockIndex {
    /// Parses `records.idx`. The memory that it allocates is bounded by the length of `bytes`.
    pub fn parse(bytes: &Bytes) -> Result<Self, BlockIndexError> {
        if !bytes.starts_with(&BLOCK_INDEX_MAGIC) {
            return Err(BlockIndexError::Absent);
        }
        if bytes.len() < HEAD_BYTES + CHECKSUM_BYTES {
            return Err(
                Malformed { position: bytes.len() as u64, what: "the index ends within its head" }.into()
            );
        }
        let (body, end) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        let (stated, computed) = (Cursor::new(end).u32()?, crc32c::crc32c(body));
        if stated != computed {
            return Err(BlockIndexError::Checksum { stated, computed });
        }
        let mut cursor = Cursor::new(body);
        cursor.take(BLOCK_INDEX_MAGIC.len())?;
        let version = cursor.u32()?;
        match version {
            0 => return Err(cursor.malformed("there is no format version 0").into()),
            VERSION => {}
            _ => return Err(BlockIndexError::Newer { version }),
        }
        let count = cursor.u32()? as usize;
        if count > cursor.left() / (ENTRY_BYTES + 1) {
            return Err(cursor.malformed("the number of blocks is too large for the bytes").into());
        }
        let mut index = Self { entries: Vec::with_capacity(count) };
        for _ in 0..count {
            let out_of_order = cursor.malformed("a block does not follow the one before it in the source");
            let entry = parse_entry(&mut cursor, bytes)?;
            index.push(entry).map_err(|_| out_of_order)?;
        }
        if cursor.left() > 0 {
            return Err(cursor.malformed("bytes follow the last block").into());
        }
        Ok(index)
    }

    /// Appends a block and sets its ordinal and its position, which follow from the blocks before it.
    pub(super) fn push(&mut self, mut entry: BlockEntry) -> Result<(), BlockOrderError> {
        let (mut ordinal, mut position) = (0, 0);
        if let Some(last) = self.entries.last() {
            (ordinal, position) = (last.ordinals().end, last.range().end);
            if last.is_torn_tail() || entry.source_position < last.source_end() {
                return Err(BlockOrderError { source_position: entry.source_position });
            }
        }
        let fits = ordinal.checked_add(entry.records).is_some()
            && position.checked_add(u64::from(entry.compressed_len)).is_some();
        if !fits {
            return Err(BlockOrderError { source_position: entry.source_position });
        }
        (entry.first_ordinal, entry.position) = (ordinal, position);
        self.entries.push(entry);
        Ok(())
    }

    /// Returns the bytes of `records.idx`.
    pub fn encode(&self) -> Vec<u8> {
        let runs: usize = self.entries.iter().map(|entry| entry.runs.mem_usage()).sum();
        let mut out =
            Vec::with_capacity(HEAD_BYTES + self.entries.len() * ENTRY_BYTES + runs + CHECKSUM_BYTES);
        out.extend(BLOCK_INDEX_MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            encode_entry(entry, &mut out);
        }
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// The memory used, in bytes, without the bytes that the index was parsed from.
    pub fn mem_usage(&self) -> usize {
        self.entries.len() * size_of::<BlockEntry>()
    }

    pub(super) fn into_entries(self) -> std::vec::IntoIter<BlockEntry> {
        self.entries.into_iter()
    }

    /// The blocks, in the order of the source.
    pub fn entries(&self) -> &[BlockEntry] {
        &self.entries
    }

    /// Returns the block that holds the data record with this ordinal.
    pub fn by_ordinal(&self, ordinal: u64) -> Option<&BlockEntry> {
        let behind = self.entries.partition_point(|entry| entry.ordinals().end <= ordinal);
        self.entries.get(behind)
    }

    /// Returns the blocks whose frames cover an offset of `range`, in the order of the source. Frames may
    /// overlap and may be out of order, so a block that covers an offset need not have a record at it.
    pub fn by_offsets(&self, range: OffsetRange) -> impl Iterator<Item = &BlockEntry> {
        self.entries.iter().filter(move |entry| entry.offsets.is_some_and(|offsets| offsets.overlaps(&range)))
    }

    /// Returns the number of data records.
    pub fn records(&self) -> u64 {
        self.entries.last().map_or(0, |last| last.ordinals().end)
    }

    /// Returns the number of whole frames.
    pub fn frames(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.frames)).sum()
    }

    /// Returns the number of whole frames that were not decoded.
    pub fn undecoded_frames(&self) -> u64 {
        let undecoded = self.entries.iter().filter(|entry| entry.is_undecoded);
        undecoded.map(|entry| u64::from(entry.frames)).sum()
    }

    /// Returns the number of bytes of the source in the blocks, with the torn tail.
    pub fn plain_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.plain_len)).sum()
    }

    /// Returns the length of `records.zst` in bytes.
    pub fn compressed_bytes(&self) -> u64 {
        self.entries.last().map_or(0, |last| last.range().end)
    }
}

/// The error of a block that does not come after the block before it in the source, or that follows the torn
/// tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the block from source position {source_position} does not follow the one before it")]
pub struct BlockOrderError {
    /// The start of the block in the source.
    pub source_position: u64,
}

fn encode_entry(entry: &BlockEntry, out: &mut Vec<u8>) {
    let mut flags = 0;
    let mut put = |flag: u32, present: bool| flags |= if present { flag } else { 0 };
    put(FLAG_OFFSETS, entry.offsets.is_some());
    put(FLAG_TIMES, entry.times.is_some());
    put(FLAG_UNDECODED, entry.is_undecoded);
    let (first, last) = entry.offsets.map_or((0, 0), |offsets| (offsets.first(), offsets.last()));
    let (min_ms, max_ms) = entry.times.map_or((0, 0), |times| (times.min_ms, times.max_ms));
    out.extend(entry.compressed_len.to_le_bytes());
    out.extend(entry.crc32c.to_le_bytes());
    out.extend(entry.plain_len.to_le_bytes());
    out.extend(entry.frames.to_le_bytes());
    out.extend(entry.records.to_le_bytes());
    out.extend(first.to_le_bytes());
    out.extend(last.to_le_bytes());
    out.extend(min_ms.to_le_bytes());
    out.extend(max_ms.to_le_bytes());
    out.extend(entry.source_position.to_le_bytes());
    out.extend(flags.to_le_bytes());
    out.extend((entry.runs.0.len() as u32).to_le_bytes());
    out.extend(&entry.runs.0);
}

/// Parses one entry. `whole` are the bytes that the cursor reads; the runs are a slice of them, not a copy.
fn parse_entry(cursor: &mut Cursor<'_>, whole: &Bytes) -> Result<BlockEntry, Malformed> {
    let start = cursor.clone();
    let wrong = |what| Err(start.malformed(what));
    let (compressed_len, crc32c) = (cursor.u32()?, cursor.u32()?);
    let (plain_len, frames, records) = (cursor.u32()?, cursor.u32()?, cursor.u64()?);
    let (first, last, min_ms, max_ms) = (cursor.i64()?, cursor.i64()?, cursor.i64()?, cursor.i64()?);
    let source_position = cursor.u64()?;
    let (flags, runs_len) = (cursor.u32()?, cursor.u32()?);
    if plain_len == 0 || plain_len > BLOCK_PLAIN_BYTES_MAX {
        return wrong("a block's plain length is zero or above 2 GiB");
    }
    if u64::from(plain_len) > u64::from(compressed_len) * EXPANSION_MAX {
        return wrong("no zstd frame can decompress to that length");
    }
    if flags & !(FLAG_OFFSETS | FLAG_TIMES | FLAG_UNDECODED) != 0 {
        return wrong("a block has unknown flags");
    }
    let (has_offsets, has_times) = (flags & FLAG_OFFSETS != 0, flags & FLAG_TIMES != 0);
    if first > last || (!has_offsets && (first, last) != (0, 0)) {
        return wrong("a block's offsets are no range");
    }
    if min_ms > max_ms || (!has_times && (min_ms, max_ms) != (0, 0)) {
        return wrong("a block's times are no range");
    }
    let is_undecoded = flags & FLAG_UNDECODED != 0;
    // Records have offsets, so a block with records covers offsets. An undecoded block covers them too.
    let needs_offsets = records > 0 || is_undecoded;
    let wrong_offsets = (has_offsets && frames == 0) || (needs_offsets && !has_offsets);
    if wrong_offsets || (has_times && records == 0) || (is_undecoded && records > 0) {
        return wrong("a block's counts contradict one another");
    }
    let runs_at = cursor.position();
    cursor.take(runs_len as usize)?;
    let runs = whole.slice(runs_at..cursor.position());
    Ok(BlockEntry {
        first_ordinal: 0,
        records,
        frames,
        is_undecoded,
        offsets: if has_offsets { OffsetRange::new(first, last) } else { None },
        times: has_times.then_some(TimeRange { min_ms, max_ms }),
        position: 0,
        compressed_len,
        plain_len,
        crc32c,
        source_position,
        runs: Runs::parse(runs, runs_at, source_position, plain_len)?,
    })
}

#[cfg(test)]
mod tests;
