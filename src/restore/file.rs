//! The bytes of the restored file: writes pieces to their positions, and reads them back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

const READ_BYTES: usize = 1 << 20;

/// Writes pieces to their positions.
pub(super) fn write_pieces(file: &File, pieces: impl Iterator<Item = (u64, Bytes)>) -> io::Result<()> {
    for (position, bytes) in pieces {
        file.write_all_at(&bytes, position)?;
    }
    Ok(())
}

/// Returns the hash of a file, which must have `size_bytes` bytes.
pub(super) fn sha256(file: &File, size_bytes: u64) -> io::Result<[u8; 32]> {
    if file.metadata()?.len() != size_bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (mut hash, mut buffer, mut position) = (Sha256::new(), vec![0; READ_BYTES], 0);
    loop {
        match file.read_at(&mut buffer, position)? {
            0 => return Ok(hash.finalize().into()),
            read => {
                hash.update(&buffer[..read]);
                position += read as u64;
            }
        }
    }
}
