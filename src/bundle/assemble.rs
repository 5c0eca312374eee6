//! Assembles the parts of a bundle into one object. The object is a list of `Bytes`, so that nothing is
//! copied into one buffer.

use std::ops::Range;

use bytes::Bytes;

use super::footer::{self, FOOTER_BYTES_MAX, Footer, Member};
use super::hot_cache::HotCache;
use super::layout::{
    self, ATTACHMENT_PREFIX, BLOCK_INDEX_NAME, HOT_NAME, INDEX_PREFIX, MANIFEST_NAME, RECORDS_NAME,
    TAR_BLOCK_BYTES, TAR_END_BYTES,
};
use super::manifest::{Disagreement, Manifest, ManifestError};
use super::records::BlockOrderError;
use super::writer::Blocks;

/// A bundle, ready to be stored.
#[derive(Clone, Debug)]
pub struct Built {
    /// The object's bytes, in order.
    pub parts: Vec<Bytes>,
    /// The total length in bytes.
    pub size_bytes: u64,
    /// The CRC-32C of all bytes.
    pub crc32c: u32,
    /// Where the footer starts, in bytes. One ranged read from here to the end opens the bundle.
    pub footer_offset: u64,
    /// The length of `hot.zst` in bytes; 0 if there is none.
    pub hot_bytes: u64,
    /// The blocks among the parts, and what is in them.
    pub blocks: Blocks,
}

/// The reasons why parts do not make a bundle. Each, except a lack of memory, is a bug of the caller, found
/// before anything is stored.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The manifest cannot be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The counts in the manifest differ from those of the blocks.
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    /// The slices are not in the order of the source.
    #[error(transparent)]
    Order(#[from] BlockOrderError),
    /// The name of an index file is not a valid member name, or two index files have the same name.
    #[error("an index file cannot be called {name:?}")]
    IndexName {
        /// The name given.
        name: String,
    },
    /// The attachments are not those of the manifest.
    #[error("the attachments are not those of the manifest")]
    Attachments,
    /// A member is larger than a tar header can say, or larger than readers accept.
    #[error("{name} has {bytes} bytes, more than {bytes_max}")]
    MemberTooLarge {
        /// The member.
        name: String,
        /// Its length in bytes.
        bytes: u64,
        /// The largest length that is allowed, in bytes.
        bytes_max: u64,
    },
    /// zstd cannot compress the hot cache: there is no memory.
    #[error("hot.zst cannot be compressed")]
    Compressing(#[source] std::io::Error),
    /// There are so many members that readers would refuse the footer.
    #[error("the footer has {bytes} bytes, more than {FOOTER_BYTES_MAX}")]
    FooterTooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
}

/// Lays out a bundle without attachments. See [`assemble_with`].
pub fn assemble<E: From<AssembleError>>(
    manifest: &Manifest,
    index: Vec<(String, Bytes)>,
    slices: Vec<Blocks>,
    hot_ranges: impl FnOnce(&[(String, Bytes)]) -> Result<Vec<Vec<Range<u64>>>, E>,
) -> Result<Built, E> {
    assemble_with(manifest, &[], index, slices, hot_ranges)
}

/// Lays out a bundle: manifest, attachments in the order of the manifest, index files sorted by name, the
/// blocks of all slices, hot cache, block index, footer. Compares the manifest with the blocks first, as
/// every reader does.
///
/// `hot_ranges` is called only for a large bundle. It gets the index files, sorted by name, and returns for
/// each file the ranges that are read to open the index. The ranges of a file must be ascending; none may be
/// empty or touch the next one.
pub fn assemble_with<E: From<AssembleError>>(
    manifest: &Manifest,
    attachments: &[Bytes],
    index: Vec<(String, Bytes)>,
    slices: Vec<Blocks>,
    hot_ranges: impl FnOnce(&[(String, Bytes)]) -> Result<Vec<Vec<Range<u64>>>, E>,
) -> Result<Built, E> {
    let (mut tar, parts) = lay_out(manifest, attachments, index, slices)?;
    let block_index = Bytes::from(parts.blocks.index.encode());
    if tar.needs_hot(manifest.format_version, &block_index) {
        let ranges = hot_ranges(&parts.index)?;
        tar.hot(&HotCache::new(parts.manifest, &parts.index, &ranges))?;
    }
    let table = [(crc32c::crc32c(&block_index), block_index)];
    tar.member(BLOCK_INDEX_NAME.to_owned(), table)?;
    Ok(tar.finish(manifest.format_version, parts.blocks)?)
}

/// Parts that are in the tar already and are needed again.
struct Parts {
    manifest: Bytes,
    index: Vec<(String, Bytes)>,
    blocks: Blocks,
}

/// Lays out all members that do not depend on the bundle's size.
fn lay_out(
    manifest: &Manifest,
    attachments: &[Bytes],
    mut index: Vec<(String, Bytes)>,
    slices: Vec<Blocks>,
) -> Result<(TarWriter, Parts), AssembleError> {
    let mut blocks = Blocks::default();
    for slice in slices {
        slice.index.into_entries().try_for_each(|entry| blocks.index.push(entry))?;
        blocks.data.extend(slice.data);
    }
    manifest.agrees_with(&blocks.index)?;
    let crc32c_of = |bytes: &Bytes| crc32c::crc32c(bytes);

    let mut tar = TarWriter::default();
    let listed = manifest.attachments();
    if listed.len() != attachments.len() {
        return Err(AssembleError::Attachments);
    }
    let manifest = Bytes::from(manifest.encode()?);
    tar.member(MANIFEST_NAME.to_owned(), [(crc32c_of(&manifest), manifest.clone())])?;
    for (facts, bytes) in listed.iter().zip(attachments) {
        if facts.size_bytes != bytes.len() as u64 {
            return Err(AssembleError::Attachments);
        }
        tar.member(format!("{ATTACHMENT_PREFIX}{}", facts.name), [(facts.crc32c, bytes.clone())])?;
    }
    index.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    for (file, bytes) in &index {
        let name = format!("{INDEX_PREFIX}{file}");
        let taken = tar.members.last().is_some_and(|last| last.name == name);
        if taken || !layout::is_index_name(&name) {
            return Err(AssembleError::IndexName { name: file.clone() });
        }
        tar.member(name, [(crc32c_of(bytes), bytes.clone())])?;
    }
    // The checksums of the blocks are known. They are combined, not computed again.
    let checksums = blocks.entries().iter().map(|entry| entry.crc32c);
    tar.member(RECORDS_NAME.to_owned(), checksums.zip(blocks.data.iter().cloned()))?;
    Ok((tar, Parts { manifest, index, blocks }))
}

/// Below this length, it is faster to checksum the bytes again than to combine two checksums: combining takes
/// some 20 µs for any length. A small bundle consists of about thirty parts.
const COMBINED_BYTES_MIN: usize = 256 << 10;

/// Returns the checksum of some bytes with the checksum `before`, followed by `bytes`, whose checksum is
/// `crc32c`.
fn append(before: u32, crc32c: u32, bytes: &[u8]) -> u32 {
    match bytes.len() {
        // Nothing came before, or bytes whose checksum is 0, which do not change the result.
        _ if before == 0 => crc32c,
        ..COMBINED_BYTES_MIN => crc32c::crc32c_append(before, bytes),
        len => crc32c::crc32c_combine(before, crc32c, len),
    }
}

/// The object as far as it is written.
#[derive(Default)]
struct TarWriter {
    parts: Vec<Bytes>,
    size_bytes: u64,
    crc32c: u32,
    hot_bytes: u64,
    members: Vec<Member>,
}

impl TarWriter {
    /// Appends bytes with a known checksum.
    fn push(&mut self, crc32c: u32, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.crc32c = append(self.crc32c, crc32c, &bytes);
        self.size_bytes += bytes.len() as u64;
        self.parts.push(bytes);
    }

    /// Appends headers and padding.
    fn push_plain(&mut self, bytes: Bytes) {
        self.push(crc32c::crc32c(&bytes), bytes);
    }

    fn member(
        &mut self,
        name: String,
        data: impl IntoIterator<Item = (u32, Bytes), IntoIter: Clone>,
    ) -> Result<(), AssembleError> {
        let data = data.into_iter();
        let len = data.clone().map(|(_, bytes)| bytes.len() as u64).sum();
        let bytes_max = layout::member_bytes_max(&name);
        if len > bytes_max {
            return Err(AssembleError::MemberTooLarge { name, bytes: len, bytes_max });
        }
        self.push_plain(Bytes::copy_from_slice(&layout::tar_header(&name, len)));
        let position = self.size_bytes;
        let mut member_crc32c = 0;
        for (crc32c, bytes) in data {
            member_crc32c = append(member_crc32c, crc32c, &bytes);
            self.push(crc32c, bytes);
        }
        self.push_plain(layout::zeros(layout::padding(len)));
        self.members.push(Member { name, position, len, crc32c: member_crc32c });
        Ok(())
    }

    /// Tells whether the object needs a hot cache. The size of the object without one decides.
    fn needs_hot(&self, version: u32, block_index: &[u8]) -> bool {
        let (position, len) = (self.size_bytes + TAR_BLOCK_BYTES, block_index.len() as u64);
        let last = Member { name: BLOCK_INDEX_NAME.to_owned(), position, len, crc32c: 0 };
        let members = self.members.iter().cloned().chain([last]).collect();
        footer::needs_hot(version, Footer::new(version, members).object_size())
    }

    fn hot(&mut self, hot: &HotCache) -> Result<(), AssembleError> {
        let encoded = Bytes::from(hot.encode().map_err(AssembleError::Compressing)?);
        self.hot_bytes = encoded.len() as u64;
        self.member(HOT_NAME.to_owned(), [(crc32c::crc32c(&encoded), encoded)])
    }

    fn finish(mut self, version: u32, blocks: Blocks) -> Result<Built, AssembleError> {
        let footer = Footer::new(version, std::mem::take(&mut self.members));
        let encoded = footer.encode();
        if encoded.len() > FOOTER_BYTES_MAX as usize {
            return Err(AssembleError::FooterTooLarge { bytes: encoded.len() });
        }
        let (header, position, zeros) = footer.own_header();
        debug_assert_eq!(position, self.size_bytes);
        debug_assert_eq!(position % TAR_BLOCK_BYTES, 0);
        self.push_plain(Bytes::copy_from_slice(&header));
        self.push_plain(layout::zeros(zeros));
        self.push_plain(encoded.into());
        self.push_plain(layout::zeros(TAR_END_BYTES));
        debug_assert_eq!(footer.object_size(), self.size_bytes);
        Ok(Built {
            parts: self.parts,
            size_bytes: self.size_bytes,
            crc32c: self.crc32c,
            footer_offset: footer.footer_offset(),
            hot_bytes: self.hot_bytes,
            blocks,
        })
    }
}

#[cfg(test)]
mod tests;
