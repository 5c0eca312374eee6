//! Compares the fixtures with their ground truth, and tests what all formats have in common.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::*;

mod chronik;
mod codec;
mod damage;
mod encode;
mod fixtures;
mod generated;
mod kafka;
mod skim;

/// More than any fixture needs.
const DECODED_BYTES_MAX: usize = 64 << 20;

fn fixture(name: &str) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    Bytes::from(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Splits a segment that comes in one chunk.
fn split(bytes: &Bytes) -> Result<(Vec<Frame>, Tail), SegmentError> {
    let mut frames = Vec::new();
    let mut splitter = FrameSplitter::new(bytes.len() as u64, None);
    splitter.push(bytes.clone(), &mut frames)?;
    Ok((frames, splitter.finish()?))
}

/// Splits and decodes a segment; a torn tail is an error.
fn read(bytes: &Bytes) -> Result<Vec<(Frame, DecodedFrame)>, SegmentError> {
    let mut frames = Vec::new();
    let mut splitter = FrameSplitter::new(bytes.len() as u64, None);
    let pushed = splitter.push(bytes.clone(), &mut frames);
    // The frames before the fault are decoded first, as by a caller that decodes while bytes arrive.
    let decode = |frame: Frame| frame.decode(DECODED_BYTES_MAX).map(|decoded| (frame, decoded));
    let decoded = frames.into_iter().map(decode).collect::<Result<_, _>>()?;
    pushed?;
    match splitter.finish()?.torn {
        None => Ok(decoded),
        Some(torn) => Err(torn.error()),
    }
}

fn encode(bytes: Option<&[u8]>) -> serde_json::Value {
    bytes.map_or(serde_json::Value::Null, |bytes| BASE64_STANDARD.encode(bytes).into())
}
