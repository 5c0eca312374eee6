//! The offsets that the whole frames of a segment's file cover, as a broker finds them when it starts.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::ControlFlow;
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::scan::unless_gone;
use crate::ids::{OffsetRange, SegmentFormat};
use crate::segment::FrameSplitter;

/// The size of a read.
const CHUNK_BYTES: usize = 256 << 10;

/// No broker writes a larger frame. A larger length is damaged and must not take this much memory.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// Whether the file holds a whole frame that covers a greater offset. A file that is gone holds none. Blocks.
pub(super) fn reach_beyond(path: &Path, format: SegmentFormat, offset: i64) -> io::Result<bool> {
    let Some(file) = unless_gone(File::open(path))? else { return Ok(false) };
    let flow = visit(&file, format, |range| match range.last() > offset {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    })?;
    Ok(flow.is_break())
}

/// The greatest offset that a whole frame of the file covers; `None` if no frame covers one. Blocks.
pub(super) fn last_offset(file: &File, format: SegmentFormat) -> io::Result<Option<i64>> {
    let mut last = None;
    let _ = visit(file, format, |range| {
        last = last.max(Some(range.last()));
        ControlFlow::Continue(())
    })?;
    Ok(last)
}

/// The first offset that the file's first whole frame with offsets covers. Blocks.
pub(super) fn first_offset(path: &Path, format: SegmentFormat) -> io::Result<Option<i64>> {
    let Some(file) = unless_gone(File::open(path))? else { return Ok(None) };
    let mut first = None;
    let _ = visit(&file, format, |range| {
        first = Some(range.first());
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// Visits the offsets of the file's whole frames in order, from its first byte up to the first bytes that are
/// not a whole frame with a correct checksum. Frames without offsets are skipped.
fn visit(
    mut file: &File,
    format: SegmentFormat,
    mut visit: impl FnMut(OffsetRange) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    file.rewind()?;
    let mut left = file.metadata()?.len();
    let mut splitter = FrameSplitter::new(left, Some(format));
    let mut frames = Vec::new();
    while left > 0 && splitter.torn_at().is_none() && splitter.mem_usage() <= FRAME_BYTES_MAX {
        let chunk = read_chunk(file, left)?;
        if chunk.is_empty() {
            break;
        }
        left -= chunk.len() as u64;
        let pushed = splitter.push(chunk, &mut frames);
        for frame in frames.drain(..) {
            if frame.verify_checksum().is_err() {
                return Ok(ControlFlow::Continue(()));
            }
            if let Some(range) = frame.claimed_range()
                && visit(range).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        if pushed.is_err() {
            break;
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn read_chunk(mut file: &File, left: u64) -> io::Result<Bytes> {
    let wanted = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
    let mut chunk = BytesMut::zeroed(wanted);
    let mut len = 0;
    while len < wanted {
        match file.read(&mut chunk[len..])? {
            0 => break,
            read => len += read,
        }
    }
    chunk.truncate(len);
    Ok(chunk.freeze())
}
