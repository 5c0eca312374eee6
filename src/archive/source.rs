//! Sources of ranged reads: an object in a store, the existing object that a PUT found, or a file.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use super::error::{ArchiveError, Fault};
use crate::store::{BundleKey, Existing, Listed, Store};

/// The place that a bundle's bytes are read from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Source {
    place: Place,
    size_bytes: u64,
    traffic: TrafficCounter,
}

#[derive(Clone, Debug)]
enum Place {
    Object { store: Store, key: BundleKey },
    Existing(Existing),
    File { name: String, file: Arc<File> },
}

/// Counts reads. Clones add to the same counts.
#[derive(Clone, Debug, Default)]
pub struct TrafficCounter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// The amount that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The number of reads, each of one range.
    pub requests: u64,
    /// The number of bytes that were received.
    pub bytes: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }
}

impl TrafficCounter {
    /// Counts a LIST as one request.
    pub fn count_list(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what was read so far.
    pub fn total(&self) -> Traffic {
        Traffic {
            requests: self.0.requests.load(Ordering::Relaxed),
            bytes: self.0.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Source {
    /// A bundle that a LIST found. The LIST gave its size.
    pub fn listed(store: &Store, listed: &Listed) -> Self {
        Self::new(Place::Object { store: store.clone(), key: listed.key.clone() }, listed.size_bytes)
    }

    /// A bundle by its key. Sends a request for its size.
    pub async fn of_key(store: &Store, key: &BundleKey) -> Result<Self, ArchiveError> {
        let listed = store.head(key).await.map_err(|error| ArchiveError::new(key.to_string(), error))?;
        Ok(Self::listed(store, &listed))
    }

    /// The existing object that a PUT found under its key.
    pub fn existing(existing: Existing) -> Self {
        let size_bytes = existing.size_bytes();
        Self::new(Place::Existing(existing), size_bytes)
    }

    /// A bundle in a local file. Reads the file's size, which blocks for a moment.
    pub fn file(path: &Path) -> Result<Self, ArchiveError> {
        let name = path.display().to_string();
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size_bytes, file) = opened.map_err(|error| ArchiveError::new(name.as_str(), error))?;
        Ok(Self::new(Place::File { name, file: Arc::new(file) }, size_bytes))
    }

    fn new(place: Place, size_bytes: u64) -> Self {
        Self { place, size_bytes, traffic: TrafficCounter::default() }
    }

    /// The same source. Later reads are added to `counter`.
    pub fn counted_by(self, counter: &TrafficCounter) -> Self {
        Self { traffic: counter.clone(), ..self }
    }

    /// Returns the bundle's key, if it has one.
    pub fn key(&self) -> Option<&BundleKey> {
        match &self.place {
            Place::Object { key, .. } => Some(key),
            Place::Existing(existing) => Some(existing.key()),
            Place::File { .. } => None,
        }
    }

    /// Returns the bundle's key, or the path of its file. Errors use this name.
    pub fn name(&self) -> String {
        match &self.place {
            Place::Object { key, .. } => key.to_string(),
            Place::Existing(existing) => existing.key().to_string(),
            Place::File { name, .. } => name.clone(),
        }
    }

    /// Returns the size of the object in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns what was read through this source and its clones.
    pub fn traffic(&self) -> Traffic {
        self.traffic.total()
    }

    /// Makes an error that names this bundle.
    pub fn error(&self, fault: impl Into<Fault>) -> ArchiveError {
        ArchiveError::new(self.name(), fault)
    }

    /// Returns all bytes of `range`, or an error.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, ArchiveError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.traffic.0.requests.fetch_add(1, Ordering::Relaxed);
        let bytes = match &self.place {
            Place::Object { store, key } => {
                store.get_range(key, range).await.map_err(|error| self.error(error))?
            }
            Place::Existing(existing) => {
                existing.get_range(range).await.map_err(|error| self.error(error))?
            }
            Place::File { file, .. } => {
                let file = Arc::clone(file);
                let read =
                    blocking(move || read_file(&file, range)).await.map_err(|fault| self.error(fault))?;
                read.map_err(|error| self.error(error))?
            }
        };
        self.traffic.0.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

fn read_file(file: &File, range: Range<u64>) -> std::io::Result<Bytes> {
    // A valid footer has only ranges within the file. A wrong range is found before memory is allocated.
    if range.end > file.metadata()?.len() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let mut buffer = BytesMut::zeroed((range.end - range.start) as usize);
    file.read_exact_at(&mut buffer, range.start)?;
    Ok(buffer.freeze())
}

/// Runs work that may take long on a thread for blocking work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Fault::Panicked)
}
