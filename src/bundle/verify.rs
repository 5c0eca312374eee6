//! Verifies a whole bundle: each byte is covered by a checksum or compared.

use bytes::{Bytes, BytesMut};

use super::Kind;
use super::footer::{Footer, Member, MemberError, OpenError, Opened};
use super::hot_cache::{HotCache, HotCacheCheck, HotCacheError};
use super::layout::{self, TAR_END_BYTES};
use super::manifest::{Disagreement, Manifest, ManifestError};
use super::records::{BlockEntry, BlockError, BlockIndex, BlockIndexError};

/// A bundle that was read whole and is correct.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The positions of its members.
    pub footer: Footer,
    /// Its manifest. The counts in it match the blocks.
    pub manifest: Manifest,
    /// Its blocks. Each was decompressed.
    pub blocks: BlockIndex,
    /// CRC-32C of the whole object.
    pub crc32c: u32,
}

/// The reasons why an object is not a sound bundle.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The end of the object is not a footer.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A member's bytes are not those that were written.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// `manifest.json` cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// `records.idx` cannot be read.
    #[error(transparent)]
    BlockIndex(#[from] BlockIndexError),
    /// `hot.zst` cannot be read, or differs from the members that it copies.
    #[error(transparent)]
    HotCache(#[from] HotCacheError),
    /// A block does not decompress.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The members contradict one another.
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    /// A tar header, the footer or padding has changed.
    #[error("the byte at {position} is {found:#04x} where the format has {expected:#04x}")]
    Frame {
        /// The position in the object.
        position: u64,
        /// The byte that the format requires.
        expected: u8,
        /// The byte that is there.
        found: u8,
    },
    /// The object ended before its stated end, or it continues after that.
    #[error("the object has {object_size} bytes, {given} were read")]
    Length {
        /// The size in the footer, in bytes.
        object_size: u64,
        /// The number of bytes given, as far as they were looked at.
        given: u64,
    },
}

impl VerifyError {
    /// Returns whether the bundle is absent, corrupt, or of a later release.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open(error) => error.kind(),
            Self::Manifest(error) => error.kind(),
            Self::HotCache(error) => error.kind(),
            // The footer lists the member and its checksum matches, so it is not absent.
            Self::BlockIndex(BlockIndexError::Absent) => Kind::Corrupt,
            Self::BlockIndex(error) => error.kind(),
            Self::Member(_)
            | Self::Block(_)
            | Self::Disagreement(_)
            | Self::Frame { .. }
            | Self::Length { .. } => Kind::Corrupt,
        }
    }
}

/// Verifies an object that is in memory.
pub fn verify(object: &Bytes) -> Result<Verified, VerifyError> {
    let object_size = object.len() as u64;
    let Opened::Footer(footer) = Footer::open(object, object_size)? else {
        return Err(VerifyError::Length { object_size, given: 0 });
    };
    let within = |member: &Member| {
        member.within(0, object).ok_or(VerifyError::Length { object_size, given: object_size })
    };
    let block_index = within(footer.block_index())?;
    let hot = footer.hot().map(within).transpose()?;
    let mut verifier = Verifier::new(footer, &block_index, hot.as_ref())?;
    let mut left = object.clone();
    while verifier.advance(&mut left)?.is_some() {}
    verifier.finish()
}

/// A block that was read and decompressed during verification.
#[derive(Clone, Debug)]
pub struct OpenedBlock {
    /// Its entry in `records.idx`.
    pub entry: BlockEntry,
    /// The frames in it, verbatim.
    pub plain: Bytes,
}

/// Verifies an object that comes in chunks, from its first byte to its last. Footer, `records.idx` and
/// `hot.zst` must be read before, by range. In memory are these, the manifest and one block.
pub struct Verifier {
    footer: Footer,
    blocks: BlockIndex,
    hot: Option<HotCache>,
    hot_check: HotCacheCheck,
    manifest: Option<Manifest>,
    pieces: std::vec::IntoIter<Piece>,
    piece: Piece,
    /// The number of bytes of `piece` that were looked at, and their CRC-32C.
    piece_read: u64,
    piece_crc32c: u32,
    position: u64,
    crc32c: u32,
    /// The bytes so far of the manifest or the block that is being read.
    buffer: BytesMut,
    next_block: usize,
}

/// A piece of the object. Each kind of piece is checked in another way.
#[derive(Clone, Debug)]
enum Piece {
    /// Bytes that are known in advance.
    Literal(Bytes),
    Zeros(u64),
    Manifest,
    /// The index file with this number.
    Index(usize),
    Records,
    /// The member with this number: an attachment, the hot cache or the block index. Only its checksum is
    /// checked here. An attachment has no format, and the others were parsed before.
    Checked(usize),
    End,
}

impl Verifier {
    /// `block_index` has the bytes of `records.idx`, `hot` those of `hot.zst`, if the bundle has one.
    pub fn new(footer: Footer, block_index: &Bytes, hot: Option<&Bytes>) -> Result<Self, VerifyError> {
        footer.block_index().check(block_index)?;
        let hot = match (footer.hot(), hot) {
            (None, _) => None,
            (Some(member), bytes) => {
                let bytes = bytes.map_or(&[][..], |bytes| bytes);
                member.check(bytes)?;
                Some(HotCache::parse(bytes, &footer)?)
            }
        };
        let blocks = BlockIndex::parse(block_index)?;
        let (stated, found) = (footer.records().len.into(), blocks.compressed_bytes().into());
        if stated != found {
            return Err(Disagreement { what: "the length of records.zst", stated, found }.into());
        }
        let mut pieces = Vec::new();
        let (before_index, files) = (footer.before_index(), footer.index_files().len());
        for (number, member) in footer.members().iter().enumerate() {
            pieces
                .push(Piece::Literal(Bytes::copy_from_slice(&layout::tar_header(&member.name, member.len))));
            pieces.push(match number {
                0 => Piece::Manifest,
                _ if number < before_index => Piece::Checked(number),
                _ if number < before_index + files => Piece::Index(number - before_index),
                _ if number == before_index + files => Piece::Records,
                _ => Piece::Checked(number),
            });
            pieces.push(Piece::Zeros(layout::padding(member.len)));
        }
        let (header, _, zeros) = footer.own_header();
        pieces.push(Piece::Literal(Bytes::copy_from_slice(&header)));
        pieces.push(Piece::Zeros(zeros));
        pieces.push(Piece::Literal(footer.encode().into()));
        pieces.push(Piece::Zeros(TAR_END_BYTES));
        let mut pieces = pieces.into_iter();
        Ok(Self {
            footer,
            blocks,
            hot,
            hot_check: HotCacheCheck::default(),
            manifest: None,
            piece: pieces.next().unwrap_or(Piece::End),
            pieces,
            piece_read: 0,
            piece_crc32c: 0,
            position: 0,
            crc32c: 0,
            buffer: BytesMut::new(),
            next_block: 0,
        })
    }

    /// Verifies the next bytes of the object. It removes from `chunk` the bytes that it has verified. It
    /// returns each block as soon as the block is complete. `None` means that the whole chunk is used.
    pub fn advance(&mut self, chunk: &mut Bytes) -> Result<Option<OpenedBlock>, VerifyError> {
        loop {
            if self.piece_read == self.piece_len() {
                if matches!(self.piece, Piece::End) {
                    return if chunk.is_empty() { Ok(None) } else { Err(self.length(chunk.len())) };
                }
                self.close_piece()?;
                continue;
            }
            if chunk.is_empty() {
                return Ok(None);
            }
            let mut wanted = self.piece_len() - self.piece_read;
            let block =
                self.blocks.entries().get(self.next_block).filter(|_| matches!(self.piece, Piece::Records));
            if let Some(block) = block {
                wanted = block.range().end - self.piece_read;
            }
            let taken = chunk.split_to(chunk.len().min(usize::try_from(wanted).unwrap_or(usize::MAX)));
            let whole = taken.len() as u64 == wanted;
            self.compare(&taken)?;
            self.piece_crc32c = crc32c::crc32c_append(self.piece_crc32c, &taken);
            self.piece_read += taken.len() as u64;
            self.position += taken.len() as u64;
            match self.piece {
                Piece::Manifest => self.buffer.extend_from_slice(&taken),
                Piece::Records => {
                    if let Some(opened) = self.collect_block(taken, whole)? {
                        return Ok(Some(opened));
                    }
                }
                Piece::Index(_) => self.compare_hot(&taken)?,
                Piece::Literal(_) | Piece::Zeros(_) | Piece::Checked(_) | Piece::End => {}
            }
        }
    }

    /// Returns the number of bytes verified so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the manifest, if it was already read.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Finishes the verification. It fails if bytes are missing, or if the counts in the manifest differ from
    /// the blocks.
    pub fn finish(mut self) -> Result<Verified, VerifyError> {
        self.advance(&mut Bytes::new())?;
        let given = self.position;
        let object_size = self.footer.object_size();
        let manifest = self.manifest.filter(|_| matches!(self.piece, Piece::End));
        let manifest = manifest.ok_or(VerifyError::Length { object_size, given })?;
        manifest.is_of_version(self.footer.version())?;
        manifest.agrees_with(&self.blocks)?;
        manifest.agrees_with_attachments(&self.footer)?;
        Ok(Verified { footer: self.footer, manifest, blocks: self.blocks, crc32c: self.crc32c })
    }

    fn length(&self, more: usize) -> VerifyError {
        VerifyError::Length { object_size: self.footer.object_size(), given: self.position + more as u64 }
    }

    fn piece_len(&self) -> u64 {
        match &self.piece {
            Piece::Literal(bytes) => bytes.len() as u64,
            Piece::Zeros(len) => *len,
            Piece::Manifest => self.footer.manifest().len,
            Piece::Index(number) => self.footer.index_file(*number).map_or(0, |member| member.len),
            Piece::Records => self.footer.records().len,
            Piece::Checked(number) => self.footer.members()[*number].len,
            Piece::End => 0,
        }
    }

    /// Compares bytes that are known in advance.
    fn compare(&self, taken: &[u8]) -> Result<(), VerifyError> {
        let read = self.piece_read as usize;
        let wrong = match &self.piece {
            Piece::Literal(bytes) => {
                let expected = &bytes[read..read + taken.len()];
                taken.iter().zip(expected).position(|(a, b)| a != b).map(|at| (at, expected[at]))
            }
            Piece::Zeros(_) => taken.iter().position(|byte| *byte != 0).map(|at| (at, 0)),
            Piece::Manifest | Piece::Index(_) | Piece::Records | Piece::Checked(_) | Piece::End => None,
        };
        let Some((at, expected)) = wrong else { return Ok(()) };
        Err(VerifyError::Frame { position: self.position + at as u64, expected, found: taken[at] })
    }

    /// Compares bytes of an index file with the hot cache.
    fn compare_hot(&mut self, taken: &[u8]) -> Result<(), VerifyError> {
        match &self.hot {
            Some(hot) => Ok(self.hot_check.advance(hot, &self.footer, taken)?),
            None => Ok(()),
        }
    }

    /// Decompresses the next block when its last byte was read.
    fn collect_block(&mut self, taken: Bytes, whole: bool) -> Result<Option<OpenedBlock>, VerifyError> {
        let compressed = if self.buffer.is_empty() && whole {
            taken
        } else {
            self.buffer.extend_from_slice(&taken);
            if !whole {
                return Ok(None);
            }
            std::mem::take(&mut self.buffer).freeze()
        };
        let Some(entry) = self.blocks.entries().get(self.next_block) else { return Ok(None) };
        self.next_block += 1;
        let plain = entry.open(&compressed)?;
        Ok(Some(OpenedBlock { entry: entry.clone(), plain }))
    }

    fn close_piece(&mut self) -> Result<(), VerifyError> {
        match self.piece {
            Piece::Manifest => {
                self.footer.manifest().check_crc32c(self.piece_crc32c)?;
                self.manifest = Some(Manifest::parse(&std::mem::take(&mut self.buffer))?);
            }
            Piece::Index(number) => {
                let member = self.footer.index_file(number);
                member.map_or(Ok(()), |member| member.check_crc32c(self.piece_crc32c))?;
            }
            Piece::Checked(number) => self.footer.members()[number].check_crc32c(self.piece_crc32c)?,
            Piece::Records => self.footer.records().check_crc32c(self.piece_crc32c)?,
            Piece::Literal(_) | Piece::Zeros(_) | Piece::End => {}
        }
        self.crc32c = crc32c::crc32c_combine(self.crc32c, self.piece_crc32c, self.piece_read as usize);
        self.piece = self.pieces.next().unwrap_or(Piece::End);
        if let Piece::Index(number) = self.piece {
            self.hot_check = HotCacheCheck::of_file(number);
        }
        (self.piece_read, self.piece_crc32c) = (0, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
