//! One slice: one partition's frames that open to some [`SLICE_BYTES`], decoded, indexed and packed into record blocks.

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

/// A slice ends with the frame that takes it to this many bytes, opened ([`Piece::opened_bytes`]). Where a slice ends depends on
/// the source alone, never on the number of cores or on when it arrives: the same segment always makes the same bundle.
pub(super) const SLICE_BYTES: u64 = 32 << 20;

/// What a finished slice takes beside its files, blocks and counts, in bytes.
const SLICE_BASE_BYTES: usize = size_of::<Slice>() + 256;

/// The least that a finished slice takes, in bytes: that of one record.
pub(super) const SLICE_LEAST_BYTES: u64 = SLICE_BASE_BYTES as u64 + (2 << 10);

/// No batch may open to more than this: the largest that is decoded in one piece.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 20;

/// After this many opened bytes of a run, at the latest, a slice says what it holds: a run may be the whole slice, and open to
/// many times its size.
const UNACCOUNTED_BYTES_MAX: usize = 2 << 20;

/// What a batch is first opened to, as a multiple of its size and in bytes: few open to more. The least of it is in use on each
/// thread without being accounted for.
const OPENS_TO_TIMES: usize = 16;
const OPENED_BYTES_FIRST: (usize, usize) = (1 << 20, 32 << 20);

/// The same where there is no memory for as much.
const OPENS_TO_TIMES_SCARCE: usize = 4;

/// What is tried where a batch's records take more than their bytes, which are known then, as a multiple of what was not enough.
const DECODED_GROWTH: usize = 2;

/// What all headers of a batch take beside their bytes, where there are few.
const HEADERS_BYTES: usize = 64 << 10;

/// What a slice is made of, in the order of the file.
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

    /// What there is to index in it, about: a compressed batch is work and memory for several times its size. No fewer than its own bytes.
    pub(super) fn opened_bytes(&self) -> u64 {
        match self {
            Self::Frame(frame) => frame.opened_bytes_guess(),
            Self::Torn { bytes, .. } => bytes.len() as u64,
        }
    }

    /// Its bytes are moved to the end of `place`, so that it keeps nothing else of what they came in.
    pub(super) fn move_to(&mut self, place: &mut BytesMut) {
        let (Self::Frame(Frame { bytes, .. }) | Self::Torn { bytes, .. }) = self;
        place.extend_from_slice(bytes);
        *bytes = place.split().freeze();
    }
}

/// A slice that is finished: nothing of the source is left but its compressed frames.
#[derive(Debug)]
pub(super) struct Slice {
    pub index: IndexPart,
    pub blocks: Blocks,
    pub counts: RecordCounts,
    /// What the finished parts hold, until they are stored.
    pub memory: Share,
}

/// The half of a slice under construction that is searched: decodes its frames and indexes their records.
pub(super) struct Reader {
    index: IndexBuilder,
    counts: RecordCounts,
    memory: Share,
    decoding: Share,
    undecodable: Undecodable,
    job: Arc<Job>,
}

/// The half that is restored: packs the frames as they came. It comes behind the reader, for it has to know what was found in them;
/// the reader needs nothing of it.
pub(super) struct Packer {
    blocks: BlockWriter,
    memory: Share,
}

/// What the reader comes to: the slice's records, indexed and counted.
pub(super) struct Read {
    index: IndexPart,
    counts: RecordCounts,
    memory: Share,
}

/// What the packer comes to: the slice's frames.
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
    /// Puts both halves together, and checks that they hold what was decoded.
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
        Ok(Self { index, blocks, counts, memory })
    }
}

impl Packer {
    /// Packs what the reader has found `facts` in, one by one.
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
    /// Decodes and indexes `pieces`, and says what was found in each.
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

    /// What [`Reader::finish`] takes for a moment beside what is accounted for, in bytes.
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

    /// Returns what was found in the frame, and how many bytes it opened to.
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

    /// Indexes a batch's records, and says what that takes after every few of them: one batch may open to many times what a slice is.
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

    /// Opens a batch to what batches open to; where that is not enough, it is found out what it opens to. Memory is reserved before it is
    /// taken. The inner error is that of a frame which is to be kept as it is.
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
                    match frame.opened_len(BATCH_BYTES_MAX).filter(|opened| *opened <= BATCH_BYTES_MAX) {
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

    /// What a batch is first opened to. Little of it need not be reserved.
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
