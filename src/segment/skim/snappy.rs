//! Snappy as a stream. Snappy's library decompresses a block into one buffer of the block's whole size. This
//! reader keeps only the bytes that copies may refer back to. The known writers compress 64 KiB at a time, so
//! their copies reach back no further.
//!
//! The format is that of Snappy's "compressed format description" (2011-10-05), in Xerial's framing or raw.

use std::io::{self, BufRead, Read};

use super::super::codec::{XERIAL_HEAD, XERIAL_MAGIC};

/// How far back a copy may reach, in bytes.
pub const REACH_BYTES: usize = 256 << 10;
/// The least number of bytes that are decompressed ahead of reading.
const AHEAD_BYTES: usize = 16 << 10;
/// The most bytes of a literal that are read at a time.
const LITERAL_BYTES: u64 = 16 << 10;

/// The decompressed blocks of a section.
pub struct Reader<R> {
    from: R,
    is_framed: bool,
    /// The bytes that are left to decompress in the current block; `None` between blocks.
    block_left: Option<u64>,
    /// The bytes that are left to read of the current literal.
    literal_left: u64,
    /// The last decompressed bytes. Those up to `at` were read, and copies may refer to them.
    opened: Vec<u8>,
    at: usize,
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: BufRead> Reader<R> {
    pub fn new(mut from: R) -> io::Result<Self> {
        let is_framed = from.fill_buf()?.starts_with(&XERIAL_MAGIC);
        Ok(Self { from, is_framed, block_left: None, literal_left: 0, opened: Vec::new(), at: 0 })
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Reads a little-endian number of `N` bytes.
    fn number<const N: usize>(&mut self) -> io::Result<usize> {
        let mut field = [0; 8];
        self.from.read_exact(&mut field[..N])?;
        Ok(u64::from_le_bytes(field) as usize)
    }

    /// Begins the next block; false if none follows.
    fn begin(&mut self) -> io::Result<bool> {
        if self.from.fill_buf()?.is_empty() {
            return Ok(false);
        }
        if self.is_framed {
            let mut len = [0; 4];
            self.from.read_exact(&mut len)?;
            while XERIAL_MAGIC.starts_with(&len) {
                let mut rest = [0; XERIAL_HEAD - 4];
                self.from.read_exact(&mut rest)?;
                self.from.read_exact(&mut len)?;
            }
        }
        // A block starts with its decompressed length, a varint.
        let mut opens_to = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            opens_to |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.opened.clear();
                self.at = 0;
                self.block_left = Some(opens_to);
                return Ok(true);
            }
        }
        Err(broken("a block's length"))
    }

    /// Decompresses the next part of the current block.
    fn part(&mut self, left: u64) -> io::Result<()> {
        let before = self.opened.len();
        if self.literal_left == 0 {
            let tag = self.byte()?;
            let upper = usize::from(tag >> 2);
            match tag & 3 {
                0 => self.literal_left = self.literal_len(upper)?,
                1 => {
                    let reach = (upper >> 3) << 8 | self.number::<1>()?;
                    self.copy(reach, 4 + (upper & 7), left)?;
                }
                2 => {
                    let reach = self.number::<2>()?;
                    self.copy(reach, upper + 1, left)?;
                }
                _ => {
                    let reach = self.number::<4>()?;
                    self.copy(reach, upper + 1, left)?;
                }
            }
        }
        if self.literal_left > left {
            return Err(broken("a literal's length"));
        }
        let literal = self.literal_left.min(LITERAL_BYTES);
        if literal > 0 {
            self.opened.resize(before + literal as usize, 0);
            self.from.read_exact(&mut self.opened[before..])?;
            self.literal_left -= literal;
        }
        self.block_left = Some(left - (self.opened.len() - before) as u64);
        Ok(())
    }

    fn literal_len(&mut self, upper: usize) -> io::Result<u64> {
        let len = match upper {
            60 => self.number::<1>()?,
            61 => self.number::<2>()?,
            62 => self.number::<3>()?,
            63 => self.number::<4>()?,
            _ => upper,
        };
        Ok(len as u64 + 1)
    }

    fn copy(&mut self, reach: usize, len: usize, left: u64) -> io::Result<()> {
        if reach == 0 || len as u64 > left {
            return Err(broken("a copy"));
        }
        // Bytes from further back are not kept.
        let from = self.opened.len().checked_sub(reach);
        let from =
            from.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "a copy refers back too far"))?;
        // A copy may overlap the bytes that it writes.
        for nth in 0..len {
            let byte = self.opened[from + nth];
            self.opened.push(byte);
        }
        Ok(())
    }

    /// Decompresses more, until enough bytes are ready or the section ends.
    fn fill(&mut self) -> io::Result<()> {
        if self.at > 4 * REACH_BYTES {
            let forget = self.at - REACH_BYTES;
            self.opened.drain(..forget);
            self.at -= forget;
        }
        while self.opened.len() - self.at < AHEAD_BYTES {
            match self.block_left {
                Some(0) | None if self.opened.len() > self.at => break,
                Some(0) | None => {
                    if !self.begin()? {
                        break;
                    }
                }
                Some(left) => self.part(left)?,
            }
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let read = (&self.opened[self.at..]).read(to)?;
        self.at += read;
        Ok(read)
    }
}
