//! Reading a whole bundle, byte for byte: nothing in it escapes a checksum or a comparison.

use bytes::{Bytes, BytesMut};

use super::Kind;
use super::footer::{Footer, Member, MemberError, OpenError, Opened};
use super::hot_cache::{HotCache, HotCacheCheck, HotCacheError};
use super::layout::{self, TAR_END_BYTES};
use super::manifest::{Disagreement, Manifest, ManifestError};
use super::records::{BlockEntry, BlockError, BlockIndex, BlockIndexError};

/// A bundle in which everything was read and found to be right.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Where its members lie.
    pub footer: Footer,
    /// What it says of itself; its counts were held against the blocks.
    pub manifest: Manifest,
    /// Its blocks; each was opened.
    pub blocks: BlockIndex,
    /// CRC-32C of the whole object.
    pub crc32c: u32,
}

/// Why an object is no sound bundle.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Its end is no footer.
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
    /// `hot.zst` cannot be read, or says otherwise than the members that it repeats.
    #[error(transparent)]
    HotCache(#[from] HotCacheError),
    /// A block does not open.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The members contradict one another.
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    /// A tar header, a footer or a padding between the members has changed.
    #[error("the byte at {position} is {found:#04x} where the format has {expected:#04x}")]
    Frame {
        /// Where in the object.
        position: u64,
        /// What must be there.
        expected: u8,
        /// What is there.
        found: u8,
    },
    /// The object ended before its stated end, or went on behind it.
    #[error("the object has {object_size} bytes, {given} were read")]
    Length {
        /// What the footer states.
        object_size: u64,
        /// What was given, as far as it was looked at.
        given: u64,
    },
}

impl VerifyError {
    /// Whether the bundle is absent, corrupt, or of a later release.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open(error) => error.kind(),
            Self::Manifest(error) => error.kind(),
            Self::HotCache(error) => error.kind(),
            // The footer vouched for the member, so it is there.
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

/// A block that was read and opened on the way.
#[derive(Clone, Debug)]
pub struct OpenedBlock {
    /// Its entry in `records.idx`.
    pub entry: BlockEntry,
    /// The frames in it, verbatim.
    pub plain: Bytes,
}

/// Verifies an object that comes in chunks, from its first byte to its last. Footer, `records.idx` and `hot.zst`
/// are read before, by range. Holds these, the manifest and one block.
pub struct Verifier {
    footer: Footer,
    blocks: BlockIndex,
    hot: Option<HotCache>,
    hot_check: HotCacheCheck,
    manifest: Option<Manifest>,
    pieces: std::vec::IntoIter<Piece>,
    piece: Piece,
    /// Bytes of `piece` that were looked at, and their CRC-32C.
    piece_read: u64,
    piece_crc32c: u32,
    position: u64,
    crc32c: u32,
    /// Of the manifest or the block that is being read.
    buffer: BytesMut,
    next_block: usize,
}

/// The object, cut where the way of checking changes.
#[derive(Clone, Debug)]
enum Piece {
    /// Known bytes.
    Literal(Bytes),
    Zeros(u64),
    Manifest,
    /// The index's file of this number.
    Index(usize),
    Records,
    /// Was read before, as the hot part and the blocks' table are: it only has a checksum to meet.
    Tables(usize),
    End,
}

impl Verifier {
    /// `block_index` and `hot` hold the bytes of `records.idx` and, where there is one, of `hot.zst`.
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
        let files = footer.index_files().len();
        for (number, member) in footer.members().iter().enumerate() {
            pieces
                .push(Piece::Literal(Bytes::copy_from_slice(&layout::tar_header(&member.name, member.len))));
            pieces.push(match number {
                0 => Piece::Manifest,
                _ if number <= files => Piece::Index(number - 1),
                _ if number == files + 1 => Piece::Records,
                _ => Piece::Tables(number),
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

    /// Goes on through `chunk`, the object's next bytes, and takes from it what was looked at. A block comes
    /// back as soon as it is whole; `None` says that the chunk is used up.
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
                Piece::Literal(_) | Piece::Zeros(_) | Piece::Tables(_) | Piece::End => {}
            }
        }
    }

    /// Bytes looked at so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The manifest, once it went by.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Fails where bytes are missing, or where the counts do not agree.
    pub fn finish(mut self) -> Result<Verified, VerifyError> {
        self.advance(&mut Bytes::new())?;
        let given = self.position;
        let object_size = self.footer.object_size();
        let manifest = self.manifest.filter(|_| matches!(self.piece, Piece::End));
        let manifest = manifest.ok_or(VerifyError::Length { object_size, given })?;
        manifest.is_of_version(self.footer.version())?;
        manifest.agrees_with(&self.blocks)?;
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
            Piece::Index(number) => self.footer.members()[number + 1].len,
            Piece::Records => self.footer.records().len,
            Piece::Tables(number) => self.footer.members()[*number].len,
            Piece::End => 0,
        }
    }

    /// Compares bytes that are known beforehand.
    fn compare(&self, taken: &[u8]) -> Result<(), VerifyError> {
        let read = self.piece_read as usize;
        let wrong = match &self.piece {
            Piece::Literal(bytes) => {
                let expected = &bytes[read..read + taken.len()];
                taken.iter().zip(expected).position(|(a, b)| a != b).map(|at| (at, expected[at]))
            }
            Piece::Zeros(_) => taken.iter().position(|byte| *byte != 0).map(|at| (at, 0)),
            Piece::Manifest | Piece::Index(_) | Piece::Records | Piece::Tables(_) | Piece::End => None,
        };
        let Some((at, expected)) = wrong else { return Ok(()) };
        Err(VerifyError::Frame { position: self.position + at as u64, expected, found: taken[at] })
    }

    /// Compares bytes of the index with what the hot part has of them.
    fn compare_hot(&mut self, taken: &[u8]) -> Result<(), VerifyError> {
        match &self.hot {
            Some(hot) => Ok(self.hot_check.advance(hot, &self.footer, taken)?),
            None => Ok(()),
        }
    }

    /// Opens the next block when its last byte has come.
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
            Piece::Index(number) => self.footer.members()[number + 1].check_crc32c(self.piece_crc32c)?,
            Piece::Tables(number) => self.footer.members()[number].check_crc32c(self.piece_crc32c)?,
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
