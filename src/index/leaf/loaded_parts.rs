//! The loaded parts of an index's files.
//!
//! A read of bytes that are not loaded fails, and is noted. The searcher then has them fetched, and searches
//! again. So Tantivy, which reads synchronously, never waits, and the memory that it takes is known before
//! anything is read.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use tantivy::HasLen;
use tantivy::directory::{FileHandle, OwnedBytes};

use super::super::directory::Files;
use super::super::parts::IndexParts;

/// A range of a file, by the file's number.
pub(super) type Part = (usize, Range<u64>);

/// The numbers and lengths of an index's files, by name.
pub(super) type Names = HashMap<PathBuf, (usize, u64)>;

/// The loaded parts. Clones share them.
#[derive(Clone)]
pub(super) struct LoadedParts {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Arc<dyn IndexParts>,
    names: Arc<Names>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the file's number and the range's start.
    ranges: BTreeMap<(usize, u64), OwnedBytes>,
    held_bytes: u64,
    /// How many bytes may be loaded without asking.
    bytes_max: u64,
    missing: Vec<Part>,
}

pub(super) fn names(parts: &dyn IndexParts) -> Names {
    let files = parts.files().into_iter().enumerate();
    files.map(|(number, (name, len))| (PathBuf::from(name), (number, len))).collect()
}

impl LoadedParts {
    /// Creates an object that has loaded nothing. It loads up to `bytes_max` bytes of what is at hand without
    /// asking.
    pub fn new(parts: Arc<dyn IndexParts>, names: Arc<Names>, bytes_max: u64) -> Self {
        let state = Mutex::new(State { bytes_max, ..State::default() });
        Self { shared: Arc::new(Shared { parts, names, state }) }
    }

    /// Takes the list of ranges that were needed but not loaded, each once.
    pub fn missing(&self) -> Vec<Part> {
        let mut missing = std::mem::take(&mut self.shared.state().missing);
        missing.sort_by_key(|(file, range)| (*file, range.start, range.end));
        missing.dedup();
        missing
    }

    /// Returns whether a range was needed but not loaded.
    pub fn has_missing(&self) -> bool {
        !self.shared.state().missing.is_empty()
    }

    /// Returns how many bytes are loaded.
    pub fn bytes(&self) -> u64 {
        self.shared.state().held_bytes
    }

    /// Sets how many bytes may be loaded without asking.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.shared.state().bytes_max = bytes_max;
    }

    /// Fetches what was missing, and keeps it.
    pub fn fetch(&self, missing: Vec<Part>) -> BoxFuture<'_, io::Result<()>> {
        let fetched = self.shared.parts.read_many(missing.clone());
        let hold = |fetched: Vec<Bytes>| {
            let mut state = self.shared.state();
            for ((file, range), bytes) in missing.into_iter().zip(fetched) {
                state.hold(file, range.start, &bytes);
            }
        };
        fetched.map_ok(hold).boxed()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, file: usize, range: Range<u64>) -> io::Result<OwnedBytes> {
        if range.is_empty() {
            return Ok(OwnedBytes::empty());
        }
        let mut state = self.state();
        if let Some(loaded) = state.find(file, &range) {
            return Ok(loaded);
        }
        if state.held_bytes + (range.end - range.start) <= state.bytes_max
            && let Some(bytes) = self.parts.cached(file, range.clone())
        {
            return Ok(state.hold(file, range.start, &bytes));
        }
        state.missing.push((file, range));
        Err(io::Error::new(io::ErrorKind::WouldBlock, "not loaded yet"))
    }
}

impl State {
    fn find(&self, file: usize, range: &Range<u64>) -> Option<OwnedBytes> {
        let ((_, start), loaded) = self.ranges.range((file, 0)..=(file, range.start)).next_back()?;
        let from = (range.start - start) as usize;
        let to = (range.end - start) as usize;
        (to <= loaded.len()).then(|| loaded.slice(from..to))
    }

    /// Keeps a copy of the bytes. Tantivy requires an owner with a stable address, and does not know that
    /// `Bytes` is one.
    fn hold(&mut self, file: usize, start: u64, bytes: &Bytes) -> OwnedBytes {
        let loaded = OwnedBytes::new(bytes.to_vec());
        self.held_bytes += loaded.len() as u64;
        self.ranges.insert((file, start), loaded.clone());
        loaded
    }
}

/// One file.
struct LoadedFile {
    loaded: LoadedParts,
    number: usize,
    len: usize,
}

impl HasLen for LoadedFile {
    fn len(&self) -> usize {
        self.len
    }
}

impl FileHandle for LoadedFile {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        self.loaded.shared.read(self.number, range.start as u64..range.end as u64)
    }
}

impl fmt::Debug for LoadedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedFile").field("number", &self.number).field("len", &self.len).finish()
    }
}

impl fmt::Debug for LoadedParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedParts").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Files for LoadedParts {
    fn file(&self, path: &Path) -> Option<Arc<dyn FileHandle>> {
        let &(number, len) = self.shared.names.get(path)?;
        Some(Arc::new(LoadedFile { loaded: self.clone(), number, len: len as usize }))
    }
}
