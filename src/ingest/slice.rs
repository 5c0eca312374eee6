//! One slice: frames of one partition that decompress to about [`SLICE_BYTES`], decoded, indexed and packed
//! into record blocks.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::bundle::{BlockWriter, Blocks, FrameFacts, FrameKind};
use crate::index::{IndexBuilder, IndexPart, TopicSettings};
use crate::segment::{DecodedFrame, ErrorKind, Frame, SegmentError};
use crate::stats::Job;

use super::Undecodable;
use super::error::IngestError;
use super::memory_account::{MemoryAccount, Share};
use super::record_counts::RecordCounts;
use super::spill::{SpillDir, Spilled};

/// The decompressed size at which a slice ends, in bytes: it ends with the frame that reaches it
/// ([`Piece::opened_bytes`]). Where a slice ends depends only on the source, never on the number of cores or
/// on timing. So the same segment always makes the same bundle.
pub(super) const SLICE_BYTES: u64 = 32 << 20;

/// The memory of a finished slice in addition to its files, blocks and counts, in bytes.
const SLICE_BASE_BYTES: usize = size_of::<Slice>() + 256;

/// The minimum memory of a finished slice, in bytes: that of one record.
pub(super) const SLICE_LEAST_BYTES: u64 = SLICE_BASE_BYTES as u64 + (2 << 10);

/// The maximum decompressed size of a batch, in bytes: larger ones are not decoded in one piece.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 20;

/// After this many decompressed bytes of a run, at the latest, a slice reports the memory that it holds. A
/// run may be the whole slice, and decompress to many times its size.
const UNACCOUNTED_BYTES_MAX: usize = 2 << 20;

/// The limit to which a batch is decompressed at first: a multiple of its size, between two bounds in bytes.
/// Few batches need more. The lower bound is used on each thread without being accounted for.
const OPENS_TO_TIMES: usize = 16;
const OPENED_BYTES_FIRST: (usize, usize) = (1 << 20, 32 << 20);

/// The same multiple if there is too little memory.
const OPENS_TO_TIMES_SCARCE: usize = 4;

/// The factor by which the limit grows if a batch's records take more than their bytes. Their number of bytes
/// is known then.
const DECODED_GROWTH: usize = 2;

/// The memory of all headers of a batch in addition to their bytes, if there are few, in bytes.
const HEADERS_BYTES: usize = 64 << 10;

/// A part of a slice, in the order of the file.
#[derive(Debug)]
pub(super) enum Piece {
    Frame(Frame),
    /// The segment's torn tail, kept because the caller asked for it.
    Torn {
        position: u64,
        bytes: Bytes,
    },
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.bytes.len(),
            Self::Torn { bytes, .. } => bytes.len(),
        }
    }

    /// The estimated decompressed size, in bytes. A compressed batch takes work and memory for several times
    /// its size. The estimate is never less than the batch's own size.
    pub(super) fn opened_bytes(&self) -> u64 {
        match self {
            Self::Frame(frame) => frame.opened_bytes_guess(),
            Self::Torn { bytes, .. } => bytes.len() as u64,
        }
    }

    /// Moves the bytes to the end of `place`, so that the piece keeps no other bytes of its chunk.
    pub(super) fn move_to(&mut self, place: &mut BytesMut) {
        let (Self::Frame(Frame { bytes, .. }) | Self::Torn { bytes, .. }) = self;
        place.extend_from_slice(bytes);
        *bytes = place.split().freeze();
    }
}

/// A finished slice. Nothing of the source is left but its compressed frames.
#[derive(Debug)]
pub(super) struct Slice {
    pub index: IndexPart,
    pub blocks: Blocks,
    pub counts: RecordCounts,
    /// The memory of the finished parts, until they are stored.
    pub memory: Share,
    /// The files and blocks, if they are on a disk.
    pub spilled: Option<Spilled>,
}

/// The part of a slice builder that makes the records searchable: decodes the frames and indexes their
/// records.
pub(super) struct Reader {
    index: IndexBuilder,
    counts: RecordCounts,
    memory: Share,
    decoding: Share,
    undecodable: Undecodable,
    job: Arc<Job>,
}

/// The part of a slice builder for the restore: packs the frames as they came. It works after the reader,
/// because it needs the facts that the reader finds. The reader needs nothing of it.
pub(super) struct Packer {
    blocks: BlockWriter,
    memory: Share,
}

/// The result of the reader: the slice's records, indexed and counted.
pub(super) struct Read {
    index: IndexPart,
    counts: RecordCounts,
    memory: Share,
}

/// The result of the packer: the slice's frames.
pub(super) struct Packed {
    blocks: Blocks,
    memory: Share,
}

/// Begins a slice.
pub(super) fn begin(
    settings: &TopicSettings,
    account: &MemoryAccount,
    undecodable: Undecodable,
    job: &Arc<Job>,
) -> Result<(Reader, Packer), IngestError> {
    let (memory, decoding, job) = (account.share(), account.share(), Arc::clone(job));
    let index = IndexBuilder::new(*settings)?;
    let mut reader = Reader { index, counts: RecordCounts::default(), memory, decoding, undecodable, job };
    reader.account()?;
    let mut packer = Packer { blocks: BlockWriter::new()?, memory: account.share() };
    packer.account()?;
    Ok((reader, packer))
}

impl Slice {
    /// Joins both parts, and checks that they hold what was decoded.
    pub(super) fn new(read: Read, packed: Packed) -> Result<Self, IngestError> {
        let Read { index, counts, mut memory } = read;
        let blocks = packed.blocks;
        let stored = blocks.entries().iter().map(|block| block.records).sum();
        if index.documents() != counts.records || stored != counts.records {
            return Err(IngestError::CountsDiffer {
                decoded: counts.records,
                indexed: index.documents(),
                stored,
            });
        }
        drop(packed.memory);
        let bytes = index.mem_usage() + blocks.mem_usage() + counts.mem_usage() + SLICE_BASE_BYTES;
        memory.set(bytes as u64)?;
        Ok(Self { index, blocks, counts, memory, spilled: None })
    }

    /// Moves its files and blocks to a disk. Blocks.
    pub(super) fn spill(&mut self, directory: &SpillDir) -> Result<(), IngestError> {
        let mut parts: Vec<_> = self.index.files_mut().chain(self.blocks.data_mut()).collect();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        self.spilled = Some(directory.spill(&mut parts)?);
        Ok(self.memory.set(self.memory.bytes().saturating_sub(bytes as u64))?)
    }
}

impl Packer {
    /// Packs pieces with the `facts` that the reader has found in them.
    pub(super) fn add(&mut self, pieces: Vec<Piece>, facts: &[FrameFacts]) -> Result<(), IngestError> {
        for (piece, facts) in pieces.into_iter().zip(facts) {
            let (Piece::Frame(Frame { position, bytes, .. }) | Piece::Torn { position, bytes }) = piece;
            self.blocks.add(position, &bytes, *facts)?;
        }
        self.account()
    }

    /// Closes the last block.
    pub(super) fn finish(self) -> Result<Packed, IngestError> {
        Ok(Packed { blocks: self.blocks.finish()?, memory: self.memory })
    }

    fn account(&mut self) -> Result<(), IngestError> {
        Ok(self.memory.set(self.blocks.mem_usage() as u64)?)
    }
}

impl Reader {
    /// Decodes and indexes `pieces`. Returns the facts that were found in each.
    pub(super) fn add(&mut self, pieces: &[Piece]) -> Result<Vec<FrameFacts>, IngestError> {
        let mut facts = Vec::with_capacity(pieces.len());
        let mut unaccounted = 0;
        for piece in pieces {
            facts.push(match piece {
                Piece::Frame(frame) => {
                    let (facts, opened) = self.add_frame(frame)?;
                    unaccounted += opened;
                    facts
                }
                Piece::Torn { bytes, .. } => {
                    self.counts.count_torn(bytes.len());
                    FrameFacts::torn_tail()
                }
            });
            if unaccounted > UNACCOUNTED_BYTES_MAX {
                self.account()?;
                unaccounted = 0;
            }
        }
        self.account()?;
        Ok(facts)
    }

    /// The memory that [`Reader::finish`] takes for a moment in addition to what is accounted for, in bytes.
    pub(super) fn finish_usage(&self) -> u64 {
        self.index.finish_usage() as u64
    }

    /// Finishes the index.
    pub(super) fn finish(self) -> Result<Read, IngestError> {
        let Self { index, counts, mut memory, .. } = self;
        let index = index.finish()?;
        memory.set((index.mem_usage() + counts.mem_usage()) as u64)?;
        Ok(Read { index, counts, memory })
    }

    /// Returns the facts that were found in the frame, and its decompressed size in bytes.
    fn add_frame(&mut self, frame: &Frame) -> Result<(FrameFacts, usize), IngestError> {
        let decoded = match self.decode(frame)? {
            Ok(decoded) => decoded,
            Err(undecodable) => return Ok((self.keep(frame, &undecodable)?, 0)),
        };
        self.counts.count(&decoded, frame.bytes.len());
        self.add_records(&decoded)?;
        let facts = facts_of(&decoded);
        self.job.progressed(frame.bytes.len() as u64, facts.data_records);
        let opened = decoded.records.bytes.len();
        drop(decoded);
        self.decoding.set(0)?;
        Ok((facts, opened))
    }

    /// Indexes a batch's records, and reports the memory after every few of them: one batch may decompress to
    /// many times the size of a slice.
    fn add_records(&mut self, decoded: &DecodedFrame) -> Result<(), IngestError> {
        let (batch, mut next) = (&decoded.records, 0);
        loop {
            next = self.index.add_from(batch, next, UNACCOUNTED_BYTES_MAX)?;
            if next == batch.records.len() {
                return Ok(());
            }
            self.account()?;
        }
    }

    /// Keeps a frame as it is.
    fn keep(&mut self, frame: &Frame, undecodable: &SegmentError) -> Result<FrameFacts, IngestError> {
        self.decoding.set(0)?;
        self.counts.count_undecoded(frame, undecodable.reason());
        self.job.progressed(frame.bytes.len() as u64, 0);
        Ok(FrameFacts { kind: FrameKind::Undecoded, range: frame.head_range(), ..FrameFacts::default() })
    }

    /// Decodes a batch with the usual limit for its decompressed size. If this is not enough, determines the
    /// size first. Memory is reserved before it is taken. The inner error is that of a frame which is to be
    /// kept as it is.
    fn decode(&mut self, frame: &Frame) -> Result<Result<DecodedFrame, SegmentError>, IngestError> {
        let (mut bound, mut known) = (self.first_bound(frame)?, 0);
        loop {
            let error = match frame.decode_known(bound, known) {
                Ok(decoded) => {
                    self.decoding.set(decoded.mem_usage(frame) as u64)?;
                    return Ok(Ok(decoded));
                }
                Err(error) => error,
            };
            let is_kept = self.undecodable == Undecodable::Keep && frame.is_keepable(error.fault());
            let beyond = match error.kind() {
                ErrorKind::TooLarge if bound < BATCH_BYTES_MAX => {
                    match frame.decompressed_len(BATCH_BYTES_MAX).filter(|opened| *opened <= BATCH_BYTES_MAX)
                    {
                        Some(opened) => {
                            let least = opened + frame.spans_usage(opened) + HEADERS_BYTES;
                            let more = if known == 0 && opened > 0 {
                                0
                            } else {
                                bound.saturating_mul(DECODED_GROWTH)
                            };
                            (bound, known) = (least.max(more).min(BATCH_BYTES_MAX), opened);
                            self.decoding.set(frame.decode_usage(bound, known).max(bound as u64))?;
                            continue;
                        }
                        None => frame.too_large(BATCH_BYTES_MAX),
                    }
                }
                _ => error,
            };
            return match beyond.kind() {
                _ if is_kept => Ok(Err(beyond)),
                ErrorKind::TooLarge => Err(IngestError::BatchTooLarge(beyond)),
                ErrorKind::Corrupt | ErrorKind::Unsupported => Err(IngestError::Segment(beyond)),
            };
        }
    }

    /// Returns the first limit for the decompressed size of a batch. A small amount need not be reserved.
    fn first_bound(&mut self, frame: &Frame) -> Result<usize, IngestError> {
        let times = |times: usize| {
            let bound = frame.bytes.len().saturating_mul(times);
            let bound = bound.clamp(OPENED_BYTES_FIRST.0, OPENED_BYTES_FIRST.1).max(frame.bytes.len());
            bound.min(BATCH_BYTES_MAX)
        };
        let usual = times(OPENS_TO_TIMES);
        let usage = frame.decode_usage(usual, 0);
        if usage <= UNACCOUNTED_BYTES_MAX as u64 || self.decoding.set(usage).is_ok() {
            return Ok(usual);
        }
        let scarce = times(OPENS_TO_TIMES_SCARCE);
        self.decoding.set(frame.decode_usage(scarce, 0))?;
        Ok(scarce)
    }

    fn account(&mut self) -> Result<(), IngestError> {
        let bytes = self.index.mem_usage() + self.counts.mem_usage();
        Ok(self.memory.set(bytes as u64)?)
    }
}

fn facts_of(decoded: &DecodedFrame) -> FrameFacts {
    FrameFacts {
        kind: FrameKind::Decoded,
        range: decoded.range,
        min_timestamp_ms: decoded.min_timestamp_ms,
        max_timestamp_ms: decoded.max_timestamp_ms,
        data_records: decoded.records.records.len() as u64,
    }
}

#[cfg(test)]
mod tests;
