//! The file that is written: under another name until it is right.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

const READ_BYTES: usize = 1 << 20;

/// A file in the making, beside the one that it will become. Dropped before that, it is removed.
#[derive(Debug)]
pub(super) struct Partial {
    file: Arc<File>,
    path: PathBuf,
    out: PathBuf,
    kept: bool,
}

impl Partial {
    /// Creates a file of a name of its own in the directory of `out`.
    pub fn create(out: &Path) -> io::Result<Self> {
        let name = out.file_name().filter(|_| !out.is_dir()).ok_or(io::ErrorKind::IsADirectory)?;
        let mut number = 0;
        loop {
            let partial = format!(".{}.{}-{number}.partial", name.to_string_lossy(), std::process::id());
            let path = directory(out).join(partial);
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => {
                    return Ok(Self { file: Arc::new(file), path, out: out.to_owned(), kept: false });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 100 => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Makes the file durable, and gives it its name.
    pub fn keep(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.out)?;
        self.kept = true;
        File::open(directory(&self.out))?.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed has a name that says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes pieces where they belong.
pub(super) fn write_pieces(file: &File, pieces: impl Iterator<Item = (u64, Bytes)>) -> io::Result<()> {
    for (position, bytes) in pieces {
        file.write_all_at(&bytes, position)?;
    }
    Ok(())
}

/// The hash of a file that must have `size_bytes`.
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
