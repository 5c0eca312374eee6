//! Files that a killed writer left on the local file system: `KEY#1` (or another number), a partial or
//! complete object. `object_store` would have linked it to its key next. Such files are never listed or read.
//! Other kinds of stores have no such files: one request creates an object there, and multipart uploads are
//! never used.
//!
//! To delete such a file frees its name. A writer that was suspended for a long time, say with its machine,
//! may still try to link that name. If the object exists, this does no harm: a link never replaces a file, so
//! the writer finds the object and checks it like any other. If the object does not exist, another writer may
//! have taken the name meanwhile, and a partial file of that writer would be linked. So delete such a file
//! only if no writer can be older than the file.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::{Operation, StoreError};
use super::key::{BundleKey, MarkerKey};
use super::url::Location;
use super::{Cause, Store, probe};

/// A file that a writer may have left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The path of the file.
    pub path: PathBuf,
    /// The size of the file in bytes.
    pub size_bytes: u64,
    /// The time of the last write to the file.
    pub changed_at: SystemTime,
    /// Whether the object exists that the file would have become.
    pub object_is_there: bool,
    /// The inode, which identifies the file.
    inode: u64,
}

impl Store {
    /// Lists all files with such names. Those of active writers are among them; only their age distinguishes
    /// them. `None` if this kind of store has no such files.
    pub async fn orphans(&self) -> Result<Option<Vec<Orphan>>, StoreError> {
        let Location::File(root) = &*self.location else { return Ok(None) };
        let root = root.clone();
        Self::on_disk(Operation::List, self.url(), move || below(&root)).await.map(Some)
    }

    /// Removes the file if it is still the one that was found. Returns whether it was removed.
    pub async fn remove_orphan(&self, orphan: &Orphan) -> Result<bool, StoreError> {
        let orphan = orphan.clone();
        Self::on_disk(Operation::Delete, self.url(), move || remove(&orphan)).await
    }

    /// Runs work that may wait for a disk on a thread for blocking work.
    pub(super) async fn on_disk<T: Send + 'static>(
        operation: Operation,
        url: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let cause = match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => Cause::Io { kind: error.kind(), os_error: error.raw_os_error() },
            Err(_) => Cause::Client("file system"),
        };
        Err(StoreError::new(operation, url, cause))
    }
}

/// The number of parts in a key. Links are not followed: what they point to does not belong to this store.
const DEPTH: usize = 4;

fn below(root: &Path) -> io::Result<Vec<Orphan>> {
    let (mut found, mut folders) = (Vec::new(), vec![(root.to_owned(), String::new(), 1)]);
    while let Some((folder, prefix, depth)) = folders.pop() {
        let Some(entries) = unless_gone(fs::read_dir(&folder))? else { continue };
        for entry in entries {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else {
                continue;
            };
            let kind = entry.file_type()?;
            if kind.is_dir() && depth < DEPTH {
                folders.push((entry.path(), format!("{name}/"), depth + 1));
            } else if kind.is_file()
                && let Some(object) = object_of(&name)
            {
                found.extend(orphan(&entry, &root.join(object))?);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Returns the name that a file with this name would have been linked to: a bundle's or marker's key, or the
/// name of the probe. All other names belong to other programs.
fn object_of(name: &str) -> Option<&str> {
    let (object, number) = name.rsplit_once('#')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let is_ours =
        object == probe::KEY || object.parse::<BundleKey>().is_ok() || object.parse::<MarkerKey>().is_ok();
    (is_number && is_ours).then_some(object)
}

/// Returns `None` if the file was deleted meanwhile.
fn orphan(entry: &DirEntry, object: &Path) -> io::Result<Option<Orphan>> {
    let Some(metadata) = unless_gone(entry.metadata())? else { return Ok(None) };
    let object_is_there = unless_gone(fs::symlink_metadata(object))?.is_some();
    Ok(Some(Orphan {
        path: entry.path(),
        size_bytes: metadata.len(),
        changed_at: metadata.modified()?,
        object_is_there,
        inode: metadata.ino(),
    }))
}

fn remove(orphan: &Orphan) -> io::Result<bool> {
    let is_it = |now: &Metadata| {
        now.is_file()
            && now.ino() == orphan.inode
            && now.len() == orphan.size_bytes
            && now.modified().is_ok_and(|changed_at| changed_at == orphan.changed_at)
    };
    match unless_gone(fs::symlink_metadata(&orphan.path))? {
        Some(now) if is_it(&now) => Ok(unless_gone(fs::remove_file(&orphan.path))?.is_some()),
        _ => Ok(false),
    }
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "orders/3/0/00000000000000000007-00000000000000000007_00000001760000014018-00000001760000014018_41b60b0b5b88602c.tar";

    #[test]
    fn only_numbered_copies_of_keys_are_ours() {
        let marker = "orders/3/0/00000000000000000007_41b60b0b5b88602c.deleted";
        for name in
            [format!("{KEY}#1"), format!("{KEY}#23"), format!("{marker}#1"), format!("{}#1", probe::KEY)]
        {
            assert_eq!(object_of(&name), name.rsplit_once('#').map(|(object, _)| object));
        }
        for name in [
            KEY.to_owned(),
            format!("{KEY}#"),
            format!("{KEY}#1a"),
            format!("{KEY}#-1"),
            format!("{KEY}#1#2"),
            format!("{KEY}.bak#1"),
            format!("{}#1", KEY.replace("orders/3", "orders/03")),
            "orders/3/0/notes.txt#1".to_owned(),
            "wal-indexer-probe/other#1".to_owned(),
            "#1".to_owned(),
        ] {
            assert_eq!(object_of(&name), None, "{name}");
        }
    }
}
