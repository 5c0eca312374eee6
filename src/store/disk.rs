//! What the local file system needs to be told so that a name survives a power cut. `object_store` syncs nothing unless
//! asked to; asked, it syncs the file, links it, then syncs its directory, and only those directories above it that it
//! made itself. So a name that somebody else made, or that was made just before a crash, may not be durable, although
//! it can be seen: everything up to the store's root is synced here, whoever made it.
//!
//! A write goes to `NAME#1` (or the next free number) and is then linked to its name, so that no name ever shows half an
//! object. A crash in between leaves that file behind. It is never listed nor read, and can be removed by hand.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Makes `file` and each directory from its own up to `root` durable. Returns what was synced, in that order.
pub(super) fn sync_up_to(root: &Path, file: &Path) -> io::Result<Vec<PathBuf>> {
    let mut synced = vec![file.to_path_buf()];
    File::open(file)?.sync_all()?;
    let mut directory = file.parent();
    while let Some(current) = directory {
        File::open(current)?.sync_all()?;
        synced.push(current.to_path_buf());
        if current == root {
            return Ok(synced);
        }
        directory = current.parent();
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "the file does not lie under the store's root"))
}

/// Creates `root` with all above it where it is missing, durably, and returns it without links.
pub(super) fn create_root(root: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut above = Some(root);
    while let Some(directory) = above.filter(|directory| !directory.exists()) {
        missing.push(directory);
        above = directory.parent();
    }
    fs::create_dir_all(root)?;
    // A new directory is an entry in the one above it.
    for directory in missing {
        if let Some(parent) = directory.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    let root = fs::canonicalize(root)?;
    File::open(&root)?.sync_all()?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_up_to_the_root_is_synced_and_none_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = create_root(&dir.path().join("a/b")).unwrap();
        let file = root.join("topic/7/0/name.tar");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, b"bytes").unwrap();
        let want =
            [file.clone(), root.join("topic/7/0"), root.join("topic/7"), root.join("topic"), root.clone()];
        assert_eq!(sync_up_to(&root, &file).unwrap(), want);
    }

    #[test]
    fn a_file_that_is_gone_or_elsewhere_is_not_durable() {
        let dir = tempfile::tempdir().unwrap();
        let root = create_root(&dir.path().join("root")).unwrap();
        let gone = sync_up_to(&root, &root.join("gone")).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, b"bytes").unwrap();
        assert_eq!(sync_up_to(&root, &elsewhere).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
