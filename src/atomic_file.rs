//! Writes a file under a temporary name, and gives it its final name only when it is complete. Does not know
//! the file's content.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A temporary file beside the file that it will become. If it is dropped before [`AtomicFile::keep`], it is
/// removed.
#[derive(Debug)]
pub struct AtomicFile {
    file: Arc<File>,
    path: PathBuf,
    out: PathBuf,
    kept: bool,
}

impl AtomicFile {
    /// Creates a temporary file with a unique name in the directory of `out`. If `out` is a link, the
    /// directory is that of its target. A device, a pipe or a directory is refused: it would be replaced, not
    /// written to.
    pub fn create(out: &Path) -> io::Result<Self> {
        let out = &match fs::metadata(out) {
            Ok(there) if there.is_file() => fs::canonicalize(out)?,
            Ok(there) if there.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => out.to_owned(),
            Err(error) => return Err(error),
        };
        let name = out.file_name().ok_or(io::ErrorKind::IsADirectory)?;
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

    /// The file, open for reading and writing.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Makes the file durable, and renames it to its final name.
    pub fn keep(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.out)?;
        self.kept = true;
        File::open(directory(&self.out))?.sync_all()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.kept {
            // If the removal fails, the name of the file still shows that it is partial.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_not_replaced_and_a_link_stays_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let _socket = UnixListener::bind(path("socket")).expect("a socket");
        let refused = AtomicFile::create(&path("socket")).expect_err("no file");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(AtomicFile::create(dir.path()).expect_err("no file").kind(), io::ErrorKind::IsADirectory);

        fs::write(path("target"), "before").expect("a file");
        symlink("target", path("link")).expect("a link");
        let partial = AtomicFile::create(&path("link")).expect("a file");
        (&*partial.file()).write_all(b"after").expect("written");
        partial.keep().expect("kept");
        assert_eq!(fs::read(path("target")).expect("a file"), b"after");
        assert!(fs::symlink_metadata(path("link")).expect("it is there").is_symlink());
    }
}
