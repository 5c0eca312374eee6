//! Makes files and names on the local file system survive a power failure.
//!
//! `object_store` syncs only on request. Then it syncs the file, links it, and syncs its directory, and of
//! the directories above only those that it created itself. A name that another program created, or that was
//! created just before a crash, is visible but may not be durable. So this module syncs every directory up to
//! the store's root, no matter what created it. A directory that has not changed since its last sync is not
//! synced again. With many bundles below one root, that is true for most directories.
//!
//! A write goes to `NAME#1` (or the next free number) and is then linked to its name, so that no name ever
//! shows a partial object. A crash between the two leaves that file behind: see `orphans`.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Two changes of a directory within this time may have the same time of change: kernels record it in steps
/// of some milliseconds, and file servers in larger ones. A directory that changed this recently is synced
/// again.
const CHANGE_TIME_STEP_MAX: Duration = Duration::from_secs(2);

/// The most directories that are remembered. Beyond this number all are forgotten and synced again.
const REMEMBERED_MAX: usize = 10_000;

/// How a file was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileOrigin {
    /// This process just wrote it with `object_store`, which synced the file and then the directory with its
    /// name.
    SyncedWrite,
    /// In an unknown way.
    Unknown,
}

/// The directories that were synced, with their version just before the sync.
#[derive(Debug, Default)]
pub(super) struct Synced(Mutex<HashMap<PathBuf, Version>>);

/// The version of a directory: device, inode, and time of change. It changes with every change of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version(u64, u64, i64, i64);

impl Version {
    /// Returns `None` if the directory changed so recently that another change might not be visible.
    fn of(directory: &Metadata) -> Option<Self> {
        let changed =
            Duration::new(directory.ctime().try_into().ok()?, directory.ctime_nsec().try_into().ok()?);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed).ok()?;
        let version = Self(directory.dev(), directory.ino(), directory.ctime(), directory.ctime_nsec());
        (age > CHANGE_TIME_STEP_MAX).then_some(version)
    }
}

/// A file that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Durable {
    pub size_bytes: u64,
    /// The ETag as `object_store` makes it for a file: inode, time of modification and size.
    pub e_tag: String,
    /// The file and directories that had to be synced, in that order.
    pub synced: Vec<PathBuf>,
}

fn e_tag_of(file: &Metadata) -> String {
    let changed = file.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let micros = changed.unwrap_or_default().as_micros();
    format!("\"{:x}-{micros:x}-{:x}\"", file.ino(), file.len())
}

impl Synced {
    /// Makes `file` durable, and each directory from that of the file up to `root`.
    pub(super) fn sync_up_to(&self, root: &Path, file: &Path, origin: FileOrigin) -> io::Result<Durable> {
        let mut synced = Vec::new();
        let opened = File::open(file)?;
        let metadata = opened.metadata()?;
        if origin != FileOrigin::SyncedWrite {
            opened.sync_all()?;
            synced.push(file.to_path_buf());
        }
        let mut directory = file.parent();
        while let Some(current) = directory {
            let done = origin == FileOrigin::SyncedWrite && Some(current) == file.parent();
            if !done && self.sync(current)? {
                synced.push(current.to_path_buf());
            }
            if current == root {
                return Ok(Durable { size_bytes: metadata.len(), e_tag: e_tag_of(&metadata), synced });
            }
            directory = current.parent();
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "the file does not lie under the store's root"))
    }

    /// Syncs a directory, unless it has not changed since its last sync. Returns whether it was synced.
    fn sync(&self, directory: &Path) -> io::Result<bool> {
        let opened = File::open(directory)?;
        // Read before the sync: a change during the sync counts as a later change.
        let version = Version::of(&opened.metadata()?);
        if version.is_some() && self.lock().get(directory) == version.as_ref() {
            return Ok(false);
        }
        opened.sync_all()?;
        let mut remembered = self.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        match version {
            Some(version) => remembered.insert(directory.to_path_buf(), version),
            None => remembered.remove(directory),
        };
        Ok(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Version>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a directory's entries durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Creates `root` and all missing directories above it, durably. Returns the path without links.
pub(super) fn create_root(root: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut above = Some(root);
    while let Some(directory) = above.filter(|directory| !directory.exists()) {
        missing.push(directory);
        above = directory.parent();
    }
    fs::create_dir_all(root)?;
    // A new directory is an entry in its parent directory.
    for directory in missing {
        if let Some(parent) = directory.parent() {
            sync_directory(parent)?;
        }
    }
    let root = fs::canonicalize(root)?;
    sync_directory(&root)?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a root with a file in a directory three levels below it. Returns both, and the directories from
    /// that of the file up.
    fn file_below(dir: &Path) -> (PathBuf, PathBuf, [PathBuf; 4]) {
        let root = create_root(&dir.join("a/b")).unwrap();
        let file = root.join("topic/7/0/name.tar");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, b"bytes").unwrap();
        let above = [root.join("topic/7/0"), root.join("topic/7"), root.join("topic"), root.clone()];
        (root, file, above)
    }

    #[test]
    fn every_directory_up_to_the_root_is_synced_and_none_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let (root, file, above) = file_below(dir.path());
        let synced = Synced::default().sync_up_to(&root, &file, FileOrigin::Unknown).unwrap().synced;
        assert_eq!((&synced[0], &synced[1..]), (&file, &above[..]));
    }

    #[test]
    fn a_file_that_came_with_a_sync_is_not_synced_again_nor_is_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (root, file, above) = file_below(dir.path());
        let synced = Synced::default().sync_up_to(&root, &file, FileOrigin::SyncedWrite).unwrap();
        assert_eq!((&*synced.synced, synced.size_bytes), (&above[1..], 5));
    }

    #[test]
    fn a_directory_is_synced_again_once_it_has_changed_or_may_have() {
        let dir = tempfile::tempdir().unwrap();
        let (root, file, above) = file_below(dir.path());
        let synced = Synced::default();
        let dirs = || synced.sync_up_to(&root, &file, FileOrigin::Unknown).unwrap().synced[1..].to_vec();
        assert_eq!((dirs(), dirs()), (above.to_vec(), above.to_vec()), "they changed a moment ago");
        std::thread::sleep(CHANGE_TIME_STEP_MAX + Duration::from_millis(50));
        assert_eq!((dirs(), dirs()), (above.to_vec(), vec![]));
        fs::write(root.join("topic/other"), b"").unwrap();
        assert_eq!(dirs(), above[2..3]);
        fs::rename(root.join("topic/7"), root.join("topic/8")).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, b"bytes").unwrap();
        assert_eq!(dirs(), above[..3], "others of the same names");
    }

    #[test]
    fn a_file_that_is_gone_or_elsewhere_is_not_durable() {
        let dir = tempfile::tempdir().unwrap();
        let root = create_root(&dir.path().join("root")).unwrap();
        for origin in [FileOrigin::SyncedWrite, FileOrigin::Unknown] {
            let synced = Synced::default();
            let gone = synced.sync_up_to(&root, &root.join("gone"), origin).unwrap_err();
            assert_eq!(gone.kind(), io::ErrorKind::NotFound);
            let elsewhere = dir.path().join("elsewhere");
            fs::write(&elsewhere, b"bytes").unwrap();
            let elsewhere = synced.sync_up_to(&root, &elsewhere, origin).unwrap_err();
            assert_eq!(elsewhere.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
