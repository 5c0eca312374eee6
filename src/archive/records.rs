//! Splits a decompressed block into frames, and decodes their records.

use bytes::Bytes;

use super::error::Fault;
use crate::bundle::BlockEntry;
use crate::ids::SegmentFormat;
use crate::segment::{DecodedFrame, Frame, FrameSplitter, SegmentError};

/// The largest size to which one frame may decompress, in bytes. No indexed frame is larger, so all indexed
/// frames can be read.
pub const FRAME_BYTES_MAX: usize = 1 << 30;

/// Splits a decompressed block into its frames and calls `each` with every frame and its records, in the
/// order of the file. Positions in errors are positions in the source. The torn tail has no frames. Frames
/// that could not be decoded when they were stored are not decoded here either.
pub fn decode_block<E: From<Fault>>(
    entry: &BlockEntry,
    plain: &Bytes,
    format: SegmentFormat,
    mut each: impl FnMut(&Frame, DecodedFrame) -> Result<(), E>,
) -> Result<(), E> {
    let mut records = 0;
    if entry.is_undecoded {
        return Ok(split_block(entry, plain, format).map(drop)?);
    }
    for frame in split_block(entry, plain, format)? {
        let decoded = frame.decode(FRAME_BYTES_MAX).map_err(|error| fault_in_block(entry, &error))?;
        records += decoded.records.records.len() as u64;
        each(&frame, decoded)?;
    }
    check_count(entry, "records", entry.records, records)?;
    Ok(())
}

/// Splits a decompressed block into its frames, in the order of the file, without decoding them. The torn
/// tail has no frames.
pub fn split_block(entry: &BlockEntry, plain: &Bytes, format: SegmentFormat) -> Result<Vec<Frame>, Fault> {
    if entry.is_torn_tail() {
        return Ok(Vec::new());
    }
    let failed = |error: SegmentError| fault_in_block(entry, &error);
    let mut frames = Vec::with_capacity(1_024);
    let splitter = FrameSplitter::new(plain.len() as u64, Some(format));
    let mut splitter = splitter.with_any_magic(entry.is_undecoded);
    splitter.push(plain.clone(), &mut frames).map_err(failed)?;
    let tail = splitter.finish().map_err(failed)?;
    if let Some(torn) = tail.torn {
        return Err(failed(torn.error()));
    }
    check_count(entry, "frames", entry.frames.into(), frames.len() as u64)?;
    Ok(frames)
}

pub(super) fn check_count(
    entry: &BlockEntry,
    what: &'static str,
    stated: u64,
    found: u64,
) -> Result<(), Fault> {
    let source_position = entry.source_position;
    let fault = Fault::BlockCounts { source_position, what, stated, found };
    if stated == found { Ok(()) } else { Err(fault) }
}

/// Makes the fault for an error in a frame of [`split_block`], with the position in the source.
pub fn fault_in_block(entry: &BlockEntry, error: &SegmentError) -> Fault {
    let position =
        u32::try_from(error.position()).ok().and_then(|position| entry.source_position_of(position));
    let source_position = position.unwrap_or(entry.source_position);
    Fault::Frame { source_position, flaw: error.fault().clone() }
}
