//! `hot.zst`: what readers of a large bundle need before they know what they look for, in one piece near its end: the manifest, the
//! checksum of each chunk of the index's files, and the ranges of them that are read to open the index. All of it is said elsewhere
//! in the bundle, so that nothing is lost with it. `docs/bundle-format.md` shows each byte.

mod check;

use std::ops::Range;

use bytes::Bytes;

use super::Kind;
use super::cursor::{Cursor, Malformed, put_varint};
use super::footer::{Footer, MemberError};
use super::layout::TABLE_BYTES_MAX;
use super::records::EXPANSION_MAX;

pub(super) use check::HotCacheCheck;

/// What it begins with, once opened.
pub const HOT_MAGIC: [u8; 8] = *b"WIBUNHOT";

/// The index's files have a checksum for each so many bytes; the last chunk of a file may be shorter.
pub const CHUNK_BYTES: u64 = 8 * 1024;

const VERSION: u32 = 1;
const SUM_BYTES: usize = 4;

/// The manifest may have 1 GiB; nothing else comes near.
const OPENED_BYTES_MAX: u64 = 2 * TABLE_BYTES_MAX;

/// Level 3: half of it are checksums, which no level makes smaller, and the rest is a few dozen kilobytes.
const LEVEL: i32 = 3;

/// What is read of a large bundle first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotCache {
    manifest: Bytes,
    files: Vec<HotFile>,
    opened_bytes: usize,
}

/// What is known of a file of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HotFile {
    len: u64,
    /// Four bytes a chunk.
    sums: Bytes,
    /// Ascending and apart.
    ranges: Vec<HotRange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HotRange {
    start: u64,
    bytes: Bytes,
}

/// Why a hot part, or what was read with its help, is not to be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HotCacheError {
    /// No zstd frame of a size that can be.
    #[error("hot.zst does not open: {reason}")]
    Opening {
        /// What is wrong.
        reason: String,
    },
    /// There is nothing of the kind in it.
    #[error("no hot part: WIBUNHOT does not stand at its start")]
    Absent,
    /// Written by a later release.
    #[error("hot part version {version} is newer than this build reads ({VERSION})")]
    Newer {
        /// What it states.
        version: u32,
    },
    /// It opens, and its contents cannot be. The position counts from its start once opened.
    #[error("hot part: {0}")]
    Malformed(#[from] Malformed),
    /// Its manifest is not the one that the footer has a checksum of.
    #[error("the hot part's copy of {0}")]
    Manifest(MemberError),
    /// Bytes of an index file have changed.
    #[error("{file}, the chunk at byte {position}: crc32c is {computed:08x} where {stated:08x} was written")]
    Chunk {
        /// The member.
        file: String,
        /// Where the chunk starts in the object.
        position: u64,
        /// What the hot part states.
        stated: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A range of an index file is in the hot part with other bytes.
    #[error("{file} differs from its copy in the hot part at byte {position}")]
    Differs {
        /// The member.
        file: String,
        /// Where in the object.
        position: u64,
    },
}

impl HotCacheError {
    /// Whether it is corrupt or of a later release: where it must be, it is never merely absent.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Newer { .. } => Kind::Unsupported,
            Self::Opening { .. }
            | Self::Absent
            | Self::Malformed(_)
            | Self::Manifest(_)
            | Self::Chunk { .. }
            | Self::Differs { .. } => Kind::Corrupt,
        }
    }
}

impl HotCache {
    /// Of a manifest's bytes and an index's files, of which `ranges` are to be at hand: of each file ascending and apart.
    pub(super) fn new(manifest: Bytes, files: &[(String, Bytes)], ranges: &[Vec<Range<u64>>]) -> Self {
        let ranges = ranges.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
        let files = files.iter().zip(ranges).map(|((_, bytes), ranges)| HotFile::new(bytes, ranges));
        Self { manifest, files: files.collect(), opened_bytes: 0 }
    }

    /// The bytes of `hot.zst`.
    pub(super) fn encode(&self) -> std::io::Result<Vec<u8>> {
        zstd::bulk::compress(&self.encode_opened(), LEVEL)
    }

    fn encode_opened(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(HOT_MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.manifest.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.manifest);
        out.extend((self.files.len() as u32).to_le_bytes());
        for file in &self.files {
            out.extend(file.len.to_le_bytes());
            out.extend((file.ranges.len() as u32).to_le_bytes());
            let mut end = 0;
            for range in &file.ranges {
                put_varint(&mut out, range.start - end);
                put_varint(&mut out, range.bytes.len() as u64);
                end = range.end();
            }
            out.extend_from_slice(&file.sums);
            file.ranges.iter().for_each(|range| out.extend_from_slice(&range.bytes));
        }
        out
    }

    /// Opens the bytes of `hot.zst`, whose checksum holds, and holds them against the footer that they came with. What is set
    /// aside for them is what they state, at most 32,768 times their length.
    pub fn parse(member: &[u8], footer: &Footer) -> Result<Self, HotCacheError> {
        let opened = Bytes::from(open(member)?);
        if !opened.starts_with(&HOT_MAGIC) {
            return Err(HotCacheError::Absent);
        }
        let mut cursor = Cursor::new(&opened);
        cursor.take(HOT_MAGIC.len())?;
        match cursor.u32()? {
            0 => return Err(cursor.malformed("there is no version 0").into()),
            VERSION => {}
            version => return Err(HotCacheError::Newer { version }),
        }
        let manifest_len = cursor.u32()? as usize;
        let manifest = opened.slice_ref(cursor.take(manifest_len)?);
        footer.manifest().check(&manifest).map_err(HotCacheError::Manifest)?;
        let members = footer.index_files();
        if cursor.u32()? as usize != members.len() {
            return Err(cursor.malformed("it knows of other files than the footer").into());
        }
        let mut files = Vec::with_capacity(members.len());
        for (_, member) in members {
            files.push(HotFile::parse(&mut cursor, &opened, member.len)?);
        }
        if cursor.left() > 0 {
            return Err(cursor.malformed("bytes follow the last file").into());
        }
        Ok(Self { manifest, files, opened_bytes: opened.len() })
    }

    /// The bytes of `manifest.json`.
    pub fn manifest(&self) -> &Bytes {
        &self.manifest
    }

    /// The bytes of a file of the index in `range`, where all of them are at hand.
    pub fn at_hand(&self, file: usize, range: &Range<u64>) -> Option<Bytes> {
        let ranges = &self.files.get(file)?.ranges;
        let behind = ranges.partition_point(|held| held.start <= range.start);
        let held = ranges[..behind].last()?;
        let (start, end) = (range.start - held.start, range.end.checked_sub(held.start)?);
        (start <= end && end <= held.bytes.len() as u64)
            .then(|| held.bytes.slice(start as usize..end as usize))
    }

    /// Checks a chunk of the index: of which file, and which of its chunks.
    pub fn check_chunk(
        &self,
        footer: &Footer,
        file: usize,
        chunk: u64,
        bytes: &[u8],
    ) -> Result<(), HotCacheError> {
        self.check_sum(footer, file, chunk, crc32c::crc32c(bytes))
    }

    fn check_sum(
        &self,
        footer: &Footer,
        file: usize,
        chunk: u64,
        computed: u32,
    ) -> Result<(), HotCacheError> {
        let stated = self.files.get(file).and_then(|file| file.sum(chunk));
        if stated == Some(computed) {
            return Ok(());
        }
        let (file, position) = place(footer, file, chunk * CHUNK_BYTES);
        Err(HotCacheError::Chunk { file, position, stated: stated.unwrap_or_default(), computed })
    }

    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        let ranges: usize = self.files.iter().map(|file| file.ranges.len()).sum();
        self.opened_bytes + self.files.len() * size_of::<HotFile>() + ranges * size_of::<HotRange>()
    }
}

/// Name of an index file's member, and where in the object a byte of it lies.
fn place(footer: &Footer, file: usize, at: u64) -> (String, u64) {
    match footer.index_file(file) {
        Some(member) => (member.name.clone(), member.position + at),
        None => (format!("file {file}"), at),
    }
}

fn open(member: &[u8]) -> Result<Vec<u8>, HotCacheError> {
    let opening = |reason: &str| HotCacheError::Opening { reason: reason.to_owned() };
    let size = match zstd::zstd_safe::get_frame_content_size(member) {
        Ok(Some(size)) => size,
        Ok(None) => return Err(opening("its frame states no size")),
        Err(_) => return Err(opening("no zstd frame")),
    };
    if size > OPENED_BYTES_MAX || size > EXPANSION_MAX * member.len() as u64 {
        return Err(opening("its frame states more than can be"));
    }
    let mut opened = Vec::new();
    opened.try_reserve_exact(size as usize).map_err(|error| opening(&error.to_string()))?;
    zstd::bulk::Decompressor::new()
        .and_then(|mut decompressor| decompressor.decompress_to_buffer(member, &mut opened))
        .map_err(|error| opening(&error.to_string()))?;
    if opened.len() as u64 != size {
        return Err(opening("it opens to other than its frame states"));
    }
    Ok(opened)
}

impl HotFile {
    fn new(bytes: &Bytes, ranges: &[Range<u64>]) -> Self {
        let sums = bytes.chunks(CHUNK_BYTES as usize).flat_map(|chunk| crc32c::crc32c(chunk).to_le_bytes());
        let range = |range: &Range<u64>| HotRange {
            start: range.start,
            bytes: bytes.slice(range.start as usize..range.end as usize),
        };
        Self { len: bytes.len() as u64, sums: sums.collect(), ranges: ranges.iter().map(range).collect() }
    }

    fn parse(cursor: &mut Cursor<'_>, opened: &Bytes, len: u64) -> Result<Self, Malformed> {
        let start = cursor.clone();
        if cursor.u64()? != len {
            return Err(start.malformed("a file's length is not the footer's"));
        }
        let count = cursor.u32()? as usize;
        if count > cursor.left() / 3 {
            return Err(cursor.malformed("more ranges are stated than there are bytes for"));
        }
        let mut places = Vec::with_capacity(count);
        let mut end = 0u64;
        for number in 0..count {
            let here = cursor.clone();
            let (gap, range_len) = (cursor.varint()?, cursor.varint()?);
            if range_len == 0 || (gap == 0 && number > 0) {
                return Err(here.malformed("a range is empty or touches the one before it"));
            }
            let start = end.checked_add(gap);
            let range = start.and_then(|start| Some(start..start.checked_add(range_len)?));
            let range = range.filter(|range| range.end <= len);
            let range = range.ok_or_else(|| here.malformed("a range runs past its file's end"))?;
            end = range.end;
            places.push(range);
        }
        let chunks = len.div_ceil(CHUNK_BYTES);
        let sums = usize::try_from(chunks).ok().and_then(|chunks| chunks.checked_mul(SUM_BYTES));
        let sums = sums.ok_or_else(|| cursor.malformed("a file has more chunks than there are bytes for"))?;
        let sums = opened.slice_ref(cursor.take(sums)?);
        let mut ranges = Vec::with_capacity(count);
        for Range { start, end } in places {
            ranges.push(HotRange { start, bytes: opened.slice_ref(cursor.take((end - start) as usize)?) });
        }
        Ok(Self { len, sums, ranges })
    }

    fn sum(&self, chunk: u64) -> Option<u32> {
        let start = usize::try_from(chunk).ok()?.checked_mul(SUM_BYTES)?;
        let sum = self.sums.get(start..start + SUM_BYTES)?;
        Some(u32::from_le_bytes(sum.try_into().ok()?))
    }
}

impl HotRange {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

#[cfg(test)]
mod tests;
