//! `hot.zst`, the hot cache: what readers of a large bundle need before they know what they look for, in one
//! piece near the end of the bundle. It holds the manifest, the checksum of each chunk of the index files,
//! and the ranges of these files that are read to open the index. The rest of the bundle has the same
//! information, so a loss of `hot.zst` loses nothing. `docs/bundle-format.md` shows each byte.

mod check;

use std::ops::Range;

use bytes::Bytes;

use super::Kind;
use super::cursor::{Cursor, Malformed, put_varint};
use super::footer::{Footer, MemberError};
use super::layout::TABLE_BYTES_MAX;
use super::records::EXPANSION_MAX;

pub(super) use check::HotCacheCheck;

/// The first bytes of the decompressed hot cache.
pub const HOT_MAGIC: [u8; 8] = *b"WIBUNHOT";

/// The length of a chunk in bytes. Each chunk of an index file has a checksum. The last chunk of a file may
/// be shorter.
pub const CHUNK_BYTES: u64 = 8 * 1024;

const VERSION: u32 = 1;
const SUM_BYTES: usize = 4;

/// The most bytes that a hot cache may decompress to. The manifest may have 1 GiB; the other parts are much
/// smaller.
const OPENED_BYTES_MAX: u64 = 2 * TABLE_BYTES_MAX;

/// Level 3. Half of the content are checksums, which no level compresses, and the rest is a few dozen
/// kilobytes.
const LEVEL: i32 = 3;

/// The hot cache: the parts of a large bundle that are read first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotCache {
    manifest: Bytes,
    files: Vec<HotFile>,
    opened_bytes: usize,
}

/// What the hot cache has of one index file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HotFile {
    len: u64,
    /// The checksums: four bytes for each chunk.
    sums: Bytes,
    /// Ascending. They neither overlap nor touch.
    ranges: Vec<HotRange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HotRange {
    start: u64,
    bytes: Bytes,
}

/// The reasons why a hot cache, or bytes that it checks, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HotCacheError {
    /// Not a zstd frame, or one that states an impossible size.
    #[error("hot.zst does not decompress: {reason}")]
    Opening {
        /// What is wrong.
        reason: String,
    },
    /// The decompressed bytes are not a hot cache.
    #[error("no hot cache: the contents of hot.zst do not start with WIBUNHOT")]
    Absent,
    /// A later release wrote it.
    #[error("hot.zst version {version} is newer than this build reads ({VERSION})")]
    Newer {
        /// The version that it states.
        version: u32,
    },
    /// It decompresses, but its contents break the format. The position counts from the start of the
    /// decompressed bytes.
    #[error("hot.zst: {0}")]
    Malformed(#[from] Malformed),
    /// Its manifest does not have the length or the checksum that the footer states.
    #[error("the copy in hot.zst of {0}")]
    Manifest(MemberError),
    /// Bytes of an index file have changed.
    #[error("{file}, the chunk at byte {position}: crc32c is {computed:08x} where {stated:08x} was written")]
    Chunk {
        /// The member.
        file: String,
        /// The start of the chunk in the object.
        position: u64,
        /// The checksum in the hot cache.
        stated: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A range of an index file differs from its copy in the hot cache.
    #[error("{file} differs from its copy in hot.zst at byte {position}")]
    Differs {
        /// The member.
        file: String,
        /// The position in the object.
        position: u64,
    },
}

impl HotCacheError {
    /// Returns whether it is corrupt or of a later release. It is never merely absent: the footer says that
    /// it is there.
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
    /// Makes the hot cache of a manifest and index files. `ranges` are the ranges of each file to copy:
    /// ascending, and apart from one another.
    pub(super) fn new(manifest: Bytes, files: &[(String, Bytes)], ranges: &[Vec<Range<u64>>]) -> Self {
        let ranges = ranges.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
        let files = files.iter().zip(ranges).map(|((_, bytes), ranges)| HotFile::new(bytes, ranges));
        Self { manifest, files: files.collect(), opened_bytes: 0 }
    }

    /// Returns the bytes of `hot.zst`.
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

    /// Decompresses the bytes of `hot.zst` and compares them with the footer of the same bundle. The caller
    /// has checked the checksum of `member`. The memory allocated is the size that the zstd frame states, at
    /// most 32,768 times the length of `member`.
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
            return Err(cursor.malformed("it does not have the footer's number of files").into());
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

    /// Returns the bytes of an index file in `range` if the hot cache has all of them.
    pub fn cached(&self, file: usize, range: &Range<u64>) -> Option<Bytes> {
        let ranges = &self.files.get(file)?.ranges;
        let behind = ranges.partition_point(|held| held.start <= range.start);
        let held = ranges[..behind].last()?;
        let (start, end) = (range.start - held.start, range.end.checked_sub(held.start)?);
        (start <= end && end <= held.bytes.len() as u64)
            .then(|| held.bytes.slice(start as usize..end as usize))
    }

    /// Checks a chunk of an index file. `file` is the number of the file, `chunk` the number of the chunk in
    /// it.
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

    /// The memory used, in bytes.
    pub fn mem_usage(&self) -> usize {
        let ranges: usize = self.files.iter().map(|file| file.ranges.len()).sum();
        self.opened_bytes + self.files.len() * size_of::<HotFile>() + ranges * size_of::<HotRange>()
    }
}

/// Returns the member name of an index file, and the position in the object of the file's byte `at`.
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
        Err(_) => return Err(opening("not a zstd frame")),
    };
    if size > OPENED_BYTES_MAX || size > EXPANSION_MAX * member.len() as u64 {
        return Err(opening("its frame states an impossible size"));
    }
    let mut opened = Vec::new();
    opened.try_reserve_exact(size as usize).map_err(|error| opening(&error.to_string()))?;
    zstd::bulk::Decompressor::new()
        .and_then(|mut decompressor| decompressor.decompress_to_buffer(member, &mut opened))
        .map_err(|error| opening(&error.to_string()))?;
    if opened.len() as u64 != size {
        return Err(opening("it does not decompress to the size that its frame states"));
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
            return Err(cursor.malformed("the number of ranges is too large for the bytes"));
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
