//! One slice: up to [`SLICE_BYTES`] of one partition's frames, decoded, indexed and packed into record blocks.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::bundle::{BlockWriter, Blocks, FrameFacts};
use crate::index::{IndexBuilder, IndexPart, TopicSettings};
use crate::segment::{DecodedFrame, ErrorKind, Frame};
use crate::stats::Job;

use super::error::IngestError;
use super::meter::{Meter, Share};
use super::tally::Tally;

/// A slice ends with the frame that takes it to this many source bytes. Where a slice ends depends on the bytes alone,
/// never on the number of cores or on when they arrive: the same segment always makes the same bundle.
pub(super) const SLICE_BYTES: u64 = 32 << 20;

/// No batch may open to more than this: the largest that is decoded in one piece.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 20;

/// After this many opened bytes of a run, at the latest, a slice says what it holds: a run may be the whole slice, and open to
/// many times its size.
const UNACCOUNTED_BYTES_MAX: usize = 2 << 20;

/// What a batch is first opened to, as a multiple of its size and in bytes: few open to more. This much is in use on each
/// thread before it is accounted for.
const OPENS_TO_TIMES: usize = 16;
const OPENED_BYTES_FIRST: (usize, usize) = (1 << 20, 32 << 20);

/// What is tried next, as a multiple of what was not enough.
const OPENED_GROWTH: usize = 8;

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
    pub tally: Tally,
    /// What the finished parts hold, until they are stored.
    pub memory: Share,
}

/// A slice under construction.
pub(super) struct SliceBuilder {
    index: IndexBuilder,
    blocks: BlockWriter,
    tally: Tally,
    memory: Share,
    decoding: Share,
    job: Arc<Job>,
}

impl SliceBuilder {
    pub(super) fn new(settings: &TopicSettings, meter: &Meter, job: &Arc<Job>) -> Result<Self, IngestError> {
        let mut builder = Self {
            index: IndexBuilder::new(*settings)?,
            blocks: BlockWriter::new()?,
            tally: Tally::default(),
            memory: meter.share(),
            decoding: meter.share(),
            job: Arc::clone(job),
        };
        builder.account()?;
        Ok(builder)
    }

    /// Decodes and indexes `pieces` and packs their bytes.
    pub(super) fn add(&mut self, pieces: Vec<Piece>) -> Result<(), IngestError> {
        let mut unaccounted = 0;
        for piece in pieces {
            match piece {
                Piece::Frame(frame) => unaccounted += self.add_frame(&frame)?,
                Piece::Torn { position, bytes } => {
                    self.tally.count_torn(bytes.len());
                    self.blocks.add(position, &bytes, FrameFacts::default())?;
                }
            }
            if unaccounted > UNACCOUNTED_BYTES_MAX {
                self.account()?;
                unaccounted = 0;
            }
        }
        self.account()
    }

    /// Finishes the index and the blocks and checks that they hold what was decoded.
    pub(super) fn finish(mut self) -> Result<Slice, IngestError> {
        let index = self.index.finish()?;
        let blocks = self.blocks.finish()?;
        let stored = blocks.entries().iter().map(|block| block.records).sum();
        if index.documents() != self.tally.records || stored != self.tally.records {
            return Err(IngestError::CountsDiffer {
                decoded: self.tally.records,
                indexed: index.documents(),
                stored,
            });
        }
        let bytes = index.mem_usage() + blocks.mem_usage() + self.tally.mem_usage();
        self.memory.set(bytes as u64)?;
        Ok(Slice { index, blocks, tally: self.tally, memory: self.memory })
    }

    /// Returns how many bytes the frame opened to.
    fn add_frame(&mut self, frame: &Frame) -> Result<usize, IngestError> {
        let decoded = self.decode(frame)?;
        self.tally.count(&decoded, frame.bytes.len());
        self.index.add(&decoded.records)?;
        let facts = facts_of(&decoded);
        self.blocks.add(frame.position, &frame.bytes, facts)?;
        self.job.progressed(frame.bytes.len() as u64, facts.data_records);
        let opened = decoded.records.bytes.len();
        drop(decoded);
        self.decoding.set(0)?;
        Ok(opened)
    }

    /// Opens a batch to what batches open to; where that is not enough, the memory for more is reserved before it is tried.
    fn decode(&mut self, frame: &Frame) -> Result<DecodedFrame, IngestError> {
        let mut bound = frame.bytes.len().saturating_mul(OPENS_TO_TIMES);
        bound = bound.clamp(OPENED_BYTES_FIRST.0, OPENED_BYTES_FIRST.1).max(frame.bytes.len());
        bound = bound.min(BATCH_BYTES_MAX);
        loop {
            let error = match frame.decode(bound) {
                Ok(decoded) => {
                    self.decoding.set(decoded.mem_usage(frame) as u64)?;
                    return Ok(decoded);
                }
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::TooLarge if bound < BATCH_BYTES_MAX => {
                    bound = bound.saturating_mul(OPENED_GROWTH).min(BATCH_BYTES_MAX);
                    self.decoding.set(bound as u64)?;
                }
                ErrorKind::TooLarge => return Err(IngestError::BatchTooLarge(error)),
                ErrorKind::Corrupt | ErrorKind::Unsupported => return Err(IngestError::Segment(error)),
            }
        }
    }

    fn account(&mut self) -> Result<(), IngestError> {
        let bytes = self.index.mem_usage() + self.blocks.mem_usage() + self.tally.mem_usage();
        Ok(self.memory.set(bytes as u64)?)
    }
}

fn facts_of(decoded: &DecodedFrame) -> FrameFacts {
    FrameFacts {
        range: Some(decoded.range),
        min_timestamp_ms: decoded.min_timestamp_ms,
        max_timestamp_ms: decoded.max_timestamp_ms,
        data_records: decoded.records.records.len() as u64,
    }
}

#[cfg(test)]
mod tests;
