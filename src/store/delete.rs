//! The one place where an object is removed: an operator's doing, never a worker's (`tests/it/tidy.rs` holds that).
//!
//! A name that was freed is not taken by anything else: a key is made of its contents' hash. The same segment, sent once more, makes the
//! same bundle again.

use std::io;
use std::path::Path;

use object_store::ObjectStoreExt;

use super::error::{Operation, StoreError, StoreErrorKind};
use super::key::BundleKey;
use super::url::Location;
use super::{Cause, Store, disk};

/// What came of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The object is gone. A store that does not say whether there was one is believed that there was.
    Now,
    /// There was none.
    Before,
}

impl Store {
    /// Removes a bundle, for good as far as the store is concerned: one that keeps versions has it still. On the local file system the
    /// directories that it leaves empty go, too; what lies behind a link there is read like all else, and not deleted.
    pub async fn delete(&self, key: &BundleKey) -> Result<Deleted, StoreError> {
        let (name, url) = (key.to_string(), self.url_of(key));
        self.check_way(&name, &url).await?;
        let deleted = self.read(self.timeouts.attempt_base, Operation::Delete, &url, || async {
            let path = self.path(&name, Operation::Delete, &url)?;
            let deleted = self.objects.delete(&path).await;
            deleted.map_err(|error| StoreError::from_object_store(Operation::Delete, &url, &error))
        });
        let deleted = match deleted.await {
            Ok(()) => Deleted::Now,
            // Another deletion came first, or the answer to an earlier attempt was lost.
            Err(error) if error.kind() == StoreErrorKind::NotFound => Deleted::Before,
            Err(error) => return Err(error),
        };
        self.sync_deletion(&name, &url).await?;
        Ok(deleted)
    }

    /// On the local file system: the object must lie where its name says, and not somewhere else that a link leads to.
    async fn check_way(&self, name: &str, url: &str) -> Result<(), StoreError> {
        let Location::File(root) = &*self.location else { return Ok(()) };
        let (root, file) = (root.clone(), root.join(name));
        match Self::on_disk(Operation::Delete, url, move || is_straight(&root, &file)).await? {
            true => Ok(()),
            false => Err(StoreError::new(Operation::Delete, url, Cause::BehindLink)),
        }
    }

    /// On the local file system: nothing comes back after a power cut.
    async fn sync_deletion(&self, name: &str, url: &str) -> Result<(), StoreError> {
        let Location::File(root) = &*self.location else { return Ok(()) };
        let (root, file) = (root.clone(), root.join(name));
        Self::on_disk(Operation::Sync, url, move || sync_above(&root, &file)).await
    }
}

/// Whether no directory between the root and `file` is a link. One that is gone is none.
fn is_straight(root: &Path, file: &Path) -> io::Result<bool> {
    let directory = file.parent().unwrap_or(root);
    let straight = root.canonicalize()?.join(directory.strip_prefix(root).unwrap_or(directory));
    match directory.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        found => found.map(|found| found == straight),
    }
}

/// Syncs the lowest directory above `file` that is still there: those below it went with the file.
fn sync_above(root: &Path, file: &Path) -> io::Result<()> {
    let above = file.ancestors().skip(1).take_while(|directory| directory.starts_with(root));
    for directory in above {
        match disk::sync_directory(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => return synced,
        }
    }
    Ok(())
}
