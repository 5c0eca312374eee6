//! An index's files in memory.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tantivy::directory::{FileHandle, FileSlice};

use super::super::directory::Files;

/// The files by name.
#[derive(Clone)]
pub(super) struct InMemory {
    files: Arc<HashMap<PathBuf, FileSlice>>,
}

impl InMemory {
    /// Takes the bytes. Each file becomes a `Vec`, which copies only bytes that are shared: Tantivy requires
    /// an owner with a stable address, and does not know that `Bytes` is one.
    pub fn new(files: Vec<(String, Bytes)>) -> Self {
        let files =
            files.into_iter().map(|(name, bytes)| (PathBuf::from(name), FileSlice::from(Vec::from(bytes))));
        Self { files: Arc::new(files.collect()) }
    }
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

impl Files for InMemory {
    fn file(&self, path: &Path) -> Option<Arc<dyn FileHandle>> {
        Some(Arc::new(self.files.get(path)?.clone()))
    }
}
