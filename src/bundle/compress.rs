//! One zstd context for many blocks, and the proof that each block opens again.

use std::io;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

/// Measured on JSON logs in Kafka batches and in Chronik frames, see `docs/bundle-format.md`.
const LEVEL: i32 = 1;

/// zstd shrinks the window to the block; a block larger than this (128 MiB) is matched within it, so that `zstd -d` opens it
/// without being told to use more memory than it does by itself.
const WINDOW_LOG_MAX: u32 = 27;

/// Compresses blocks one after the other. Its memory stays: reuse it.
pub(super) struct BlockCompressor {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
    compressed: Vec<u8>,
    opened: Vec<u8>,
    context_bytes: usize,
}

/// What is needed beside the buffers by a context that has opened a block.
const OPENING_CONTEXT_BYTES: usize = 160 * 1024;

impl BlockCompressor {
    pub(super) fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG_MAX))?;
        compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
        // The index holds a CRC-32C of each compressed block.
        compressor.set_parameter(CParameter::ChecksumFlag(false))?;
        Ok(Self {
            compressor,
            decompressor: Decompressor::new()?,
            compressed: Vec::new(),
            opened: Vec::new(),
            context_bytes: 0,
        })
    }

    /// Compresses one block, opens it again, and compares: what is handed back is known to hold `plain`. The source is
    /// deleted once the bundle is stored, and a compressor's bug would show only then.
    pub(super) fn compress(&mut self, plain: &[u8]) -> io::Result<Bytes> {
        self.compressed.clear();
        self.compressed.reserve(zstd::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.compressed)?;
        self.opened.clear();
        self.opened.reserve(plain.len());
        self.decompressor.decompress_to_buffer(&self.compressed, &mut self.opened)?;
        if self.opened != plain {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the block does not open to what went in",
            ));
        }
        self.context_bytes = self.compressor.context_mut().sizeof() + OPENING_CONTEXT_BYTES;
        Ok(Bytes::copy_from_slice(&self.compressed))
    }

    pub(super) fn mem_usage(&self) -> usize {
        self.context_bytes + self.compressed.capacity() + self.opened.capacity()
    }
}
