//! One zstd context for many blocks, and the check that each block decompresses again.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use super::writer::BLOCK_PLAIN_BYTES;

/// Level 1 with a larger hash table. On JSON logs the result is 3 % larger than with level 3. On batches that
/// the producer compressed with LZ4 or Snappy it is twice as fast. `docs/bundle-format.md` has the numbers.
const LEVEL: i32 = 1;

/// 64 Ki entries instead of the 16 Ki of level 1. If a frame repeats a payload, zstd finds the repetition up
/// to half a megabyte later.
const HASH_LOG: u32 = 16;

/// zstd limits the window to the size of the block. For blocks larger than this (128 MiB) the window is 128
/// MiB, so that `zstd -d` decompresses them with its default memory limit.
const WINDOW_LOG_MAX: u32 = 27;

/// A block of this size or more consists of one large frame. Its repetitions are too far apart for the hash
/// table, but zstd's long distance matching finds them (2.5 times smaller at 15 MB per frame). In a block of
/// usual size, long distance matching costs a fifth of the speed and gains little.
const LONG_DISTANCE_FROM_BYTES: usize = BLOCK_PLAIN_BYTES + 1;

/// Buffers that grew beyond this for a large frame are freed.
const BUFFER_BYTES_MAX: usize = 4 * BLOCK_PLAIN_BYTES;

thread_local! {
    /// The decompressor of this thread, kept for the thread's lifetime. For a small slice, creating one takes
    /// as long as decompressing its only block.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses blocks one after the other. It keeps its memory, so reuse it.
pub(super) struct BlockCompressor {
    compressor: Compressor<'static>,
    compressed: Vec<u8>,
    opened: Vec<u8>,
    context_bytes: usize,
}

impl BlockCompressor {
    pub(super) fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::HashLog(HASH_LOG))?;
        compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG_MAX))?;
        compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
        // The index holds a CRC-32C of each compressed block.
        compressor.set_parameter(CParameter::ChecksumFlag(false))?;
        let context_bytes = compressor.context_mut().sizeof();
        Ok(Self { compressor, compressed: Vec::new(), opened: Vec::new(), context_bytes })
    }

    /// Compresses one block, decompresses it, and compares the result with `plain`. The source is deleted
    /// once the bundle is stored, and a bug in the compressor would show only then.
    pub(super) fn compress(&mut self, plain: &[u8]) -> io::Result<Bytes> {
        let far_apart = plain.len() >= LONG_DISTANCE_FROM_BYTES;
        self.compressor.set_parameter(CParameter::EnableLongDistanceMatching(far_apart))?;
        self.compressed.clear();
        self.compressed.try_reserve(zstd::zstd_safe::compress_bound(plain.len()))?;
        self.compressor.compress_to_buffer(plain, &mut self.compressed)?;
        self.opened.clear();
        self.opened.try_reserve(plain.len())?;
        open(&self.compressed, &mut self.opened)?;
        if self.opened != plain {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the compressed block does not decompress to its input",
            ));
        }
        let block = Bytes::copy_from_slice(&self.compressed);
        self.context_bytes = self.compressor.context_mut().sizeof();
        for buffer in [&mut self.compressed, &mut self.opened] {
            if buffer.capacity() > BUFFER_BYTES_MAX {
                *buffer = Vec::new();
            }
        }
        Ok(block)
    }

    pub(super) fn mem_usage(&self) -> usize {
        self.context_bytes + self.compressed.capacity() + self.opened.capacity()
    }
}

/// Decompresses a block into the spare capacity of `opened`.
fn open(compressed: &[u8], opened: &mut Vec<u8>) -> io::Result<()> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(compressed, opened).map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::log_lines;
    use super::*;

    #[test]
    fn a_block_is_the_same_whatever_was_compressed_before_it() {
        let (small, usual, large) = (log_lines(1, 1_000), log_lines(2, 1_000_000), log_lines(3, 3_000_000));
        let alone =
            |plain: &[u8]| BlockCompressor::new().expect("a context").compress(plain).expect("a block");
        let mut reused = BlockCompressor::new().expect("a context");
        for plain in [&small, &usual, &large, &small, &large, &usual, &usual] {
            assert!(reused.compress(plain).expect("a block") == alone(plain), "{} bytes", plain.len());
        }
    }

    #[test]
    fn a_payload_that_a_frame_carries_three_times_costs_once() {
        for len in [1_000, 100_000, 340_000, 3_000_000] {
            let once = log_lines(4, len);
            let mut compressor = BlockCompressor::new().expect("a context");
            let single = compressor.compress(&once).expect("a block").len();
            let threefold = compressor.compress(&[&once[..]; 3].concat()).expect("a block").len();
            assert!(threefold < single + single / 4, "{len} bytes: {single} once, {threefold} threefold");
        }
    }

    #[test]
    fn blocks_state_their_size_and_spend_nothing_on_a_second_checksum() {
        let block = BlockCompressor::new().expect("a context").compress(&[b'a'; 1_000]).expect("a block");
        // 28 b5 2f fd is zstd's magic. 60: the content size has two bytes, single segment (the window is the
        // block), no checksum, no dictionary. e8 02 is 1,000 - 256.
        assert_eq!(block[..7], [0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xe8, 0x02]);
    }

    #[test]
    fn a_compressor_that_has_compressed_nothing_holds_next_to_nothing() {
        let mut compressor = BlockCompressor::new().expect("a context");
        assert!((1_000..20_000).contains(&compressor.mem_usage()), "{}", compressor.mem_usage());
        compressor.compress(&log_lines(6, 1_000_000)).expect("a block");
        assert!((2_000_000..5_000_000).contains(&compressor.mem_usage()), "{}", compressor.mem_usage());
    }

    #[test]
    fn large_buffers_are_let_go() {
        let mut compressor = BlockCompressor::new().expect("a context");
        compressor.compress(&log_lines(5, 6 * BLOCK_PLAIN_BYTES)).expect("a block");
        compressor.compress(b"small").expect("a block");
        assert!(compressor.mem_usage() < 6 * BLOCK_PLAIN_BYTES, "{}", compressor.mem_usage());
    }
}
