//! Deletes objects: bundles and markers. This is the only code that does so. Only an operator's command may
//! call it, never a worker (`tests/it/tidy.rs` checks that).
//!
//! After a deletion, no other contents can get the same key: a key includes the hash of its contents. If the
//! same segment is sent again, it makes the same bundle again.

use std::io;
use std::path::Path;

use object_store::ObjectStoreExt;

use super::error::{Operation, StoreError, StoreErrorKind};
use super::key::{BundleKey, MarkerKey};
use super::url::Location;
use super::{Cause, Store, disk};

/// The outcome of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The object was deleted. Some stores do not report whether the object existed; then this is returned
    /// too.
    Now,
    /// The object did not exist.
    Before,
}

impl Store {
    /// Deletes a bundle for good, except in a store that keeps versions. On the local file system,
    /// directories that become empty are deleted too. Bundles behind a link to a directory can be read, but
    /// not deleted.
    pub async fn delete(&self, key: &BundleKey) -> Result<Deleted, StoreError> {
        self.delete_named(&key.to_string(), &self.url_of(key)).await
    }

    /// Deletes a marker. If its bundle is still there, it is visible again.
    pub async fn unhide(&self, key: &MarkerKey) -> Result<Deleted, StoreError> {
        self.delete_named(&key.to_string(), &self.url_of_marker(key)).await
    }

    async fn delete_named(&self, name: &str, url: &str) -> Result<Deleted, StoreError> {
        self.check_path(Operation::Delete, name, url).await?;
        let deleted = self.read(self.timeouts.attempt_base, Operation::Delete, url, || async {
            let path = self.path(name, Operation::Delete, url)?;
            let deleted = self.objects.delete(&path).await;
            deleted.map_err(|error| StoreError::from_object_store(Operation::Delete, url, &error))
        });
        let deleted = match deleted.await {
            Ok(()) => Deleted::Now,
            // Another deletion was first, or the response to an earlier attempt was lost.
            Err(error) if error.kind() == StoreErrorKind::NotFound => Deleted::Before,
            Err(error) => return Err(error),
        };
        self.sync_deletion(name, url).await?;
        Ok(deleted)
    }

    /// On the local file system, checks that the object is where its name says, and not in a directory that a
    /// link points to.
    pub(super) async fn check_path(
        &self,
        operation: Operation,
        name: &str,
        url: &str,
    ) -> Result<(), StoreError> {
        let Location::File(root) = &*self.location else { return Ok(()) };
        let (root, file) = (root.clone(), root.join(name));
        match Self::on_disk(operation, url, move || is_straight(&root, &file)).await? {
            true => Ok(()),
            false => Err(StoreError::new(operation, url, Cause::BehindLink)),
        }
    }

    /// On the local file system, makes sure that the object does not come back after a power failure.
    async fn sync_deletion(&self, name: &str, url: &str) -> Result<(), StoreError> {
        let Location::File(root) = &*self.location else { return Ok(()) };
        let (root, file) = (root.clone(), root.join(name));
        Self::on_disk(Operation::Sync, url, move || sync_above(&root, &file)).await
    }
}

/// Returns whether no directory between the root and `file` is a link. A missing directory is not a link.
fn is_straight(root: &Path, file: &Path) -> io::Result<bool> {
    let directory = file.parent().unwrap_or(root);
    let straight = root.canonicalize()?.join(directory.strip_prefix(root).unwrap_or(directory));
    match directory.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        found => found.map(|found| found == straight),
    }
}

/// Syncs the lowest directory above `file` that still exists. The directories below it were deleted with the
/// file.
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
