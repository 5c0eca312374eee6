//! Reads fields of a stream, and counts how many bytes belong to the current part.

use std::io::{self, BufRead, Read};

use super::super::Fault;
use super::snappy;

/// A part of a stream.
pub struct Source<'a> {
    from: &'a mut dyn BufRead,
    left: u64,
}

/// Maps an error of the stream. `Unsupported` means that a reader needs more bytes than it keeps. Every other
/// error means that the stream ends, or cannot be decompressed, before the end of its contents.
fn fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::Unsupported => Fault::TooLarge { limit: snappy::REACH_BYTES },
        _ => Fault::BadFrame { part: "its records end too soon" },
    }
}

impl<'a> Source<'a> {
    /// A source for all of a stream.
    pub fn new(from: &'a mut dyn BufRead) -> Self {
        Self { from, left: u64::MAX }
    }

    /// A source for the next `len` bytes.
    pub fn take(&mut self, len: u64) -> Source<'_> {
        let left = len.min(self.left);
        self.left -= left;
        Source { from: self.from, left }
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut field = [0; N];
        self.read_exact(&mut field).map_err(|error| fault(&error))?;
        Ok(field)
    }

    /// Reads a zigzag varint of at most five bytes. Bits beyond 32 are lost, as in Kafka's reader.
    pub fn varint(&mut self) -> Result<i32, Fault> {
        let value = self.unsigned::<5>()? as u32;
        Ok((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// Reads a zigzag varint of at most ten bytes.
    pub fn varlong(&mut self) -> Result<i64, Fault> {
        let value = self.unsigned::<10>()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn unsigned<const BYTES_MAX: u32>(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for nth in 0..BYTES_MAX {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << (7 * nth);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::BadFrame { part: "a number in its records" })
    }

    /// Reads the next `len` bytes into a buffer of that size.
    pub fn bytes(&mut self, len: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; len];
        self.read_exact(&mut bytes).map_err(|error| fault(&error))?;
        Ok(bytes)
    }

    /// Passes the next `len` bytes to `each`, piece by piece.
    pub fn pass(&mut self, mut len: u64, mut each: impl FnMut(&[u8])) -> Result<(), Fault> {
        while len > 0 {
            let there = self.fill_buf().map_err(|error| fault(&error))?;
            let take = there.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            if take == 0 {
                return Err(fault(&io::ErrorKind::UnexpectedEof.into()));
            }
            each(&there[..take]);
            self.consume(take);
            len -= take as u64;
        }
        Ok(())
    }

    pub fn skip(&mut self, len: u64) -> Result<(), Fault> {
        self.pass(len, |_| {})
    }

    /// Skips the bytes that were not read.
    pub fn skip_rest(&mut self) -> Result<(), Fault> {
        self.skip(self.left)
    }
}

impl Read for Source<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = to.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.from.read(&mut to[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let there = self.from.fill_buf()?;
        Ok(&there[..there.len().min(usize::try_from(self.left).unwrap_or(usize::MAX))])
    }

    fn consume(&mut self, read: usize) {
        self.left -= read as u64;
        self.from.consume(read);
    }
}
