//! An opened block's frames, and their records.

use bytes::Bytes;

use super::error::Fault;
use crate::bundle::BlockEntry;
use crate::ids::SegmentFormat;
use crate::segment::{DecodedFrame, Frame, SegmentError, Splitter};

/// What one frame may open to, in bytes: what was indexed had to fit into a worker's memory, so this only bounds nonsense.
pub const RECORD_BYTES_MAX: usize = 4 << 30;

/// Splits an opened block into its frames and hands each, decoded, to `each`, in the order of the file. Positions in errors are those
/// of the source. The torn tail holds none.
pub fn decode_block<E: From<Fault>>(
    entry: &BlockEntry,
    plain: &Bytes,
    format: SegmentFormat,
    mut each: impl FnMut(&Frame, DecodedFrame) -> Result<(), E>,
) -> Result<(), E> {
    if entry.is_torn_tail() {
        return Ok(());
    }
    let failed = |error: SegmentError| in_source(entry, &error);
    let counts = |what, stated: u64, found: u64| {
        let source_position = entry.source_position;
        let fault = Fault::BlockCounts { source_position, what, stated, found };
        if stated == found { Ok(()) } else { Err(fault) }
    };
    let mut frames = Vec::with_capacity(1_024);
    let mut splitter = Splitter::new(plain.len() as u64, Some(format));
    splitter.push(plain.clone(), &mut frames).map_err(failed)?;
    let tail = splitter.finish().map_err(failed)?;
    if let Some(torn) = tail.torn {
        return Err(failed(torn.error()).into());
    }
    counts("frames", entry.frames.into(), frames.len() as u64)?;
    let mut records = 0;
    for frame in frames {
        let decoded = frame.decode(RECORD_BYTES_MAX).map_err(failed)?;
        records += decoded.records.records.len() as u64;
        each(&frame, decoded)?;
    }
    counts("records", entry.records, records)?;
    Ok(())
}

fn in_source(entry: &BlockEntry, error: &SegmentError) -> Fault {
    let position =
        u32::try_from(error.position()).ok().and_then(|position| entry.source_position_of(position));
    let source_position = position.unwrap_or(entry.source_position);
    Fault::Frame { source_position, flaw: error.fault().clone() }
}
