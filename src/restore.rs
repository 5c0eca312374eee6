//! Restores a segment from its bundles, byte for byte.
//!
//! Before it writes anything, it compares the bundles: they must be of one segment, have each of its
//! partitions once, and have each of its bytes in exactly one block. Then it reads a few blocks at a time and
//! writes them to their positions. At the end it reads the file back. The file gets its name only if the
//! SHA-256 is right.
//!
//! This module knows nothing of records, queries or gRPC.

mod coverage;
mod file;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::{Archive, ArchiveError, Source};
use crate::atomic_file::AtomicFile;
use crate::bundle::SegmentFacts;
use crate::formatting::hex;
use crate::store::{BundleKey, Store};

/// How many blocks are read and in memory at a time. A block has about 1 MiB, or one larger batch.
const BLOCKS_AT_ONCE: usize = 8;

/// How many bundles are opened at a time.
const OPENS_AT_ONCE: usize = 16;

/// Why a segment cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// No bundle was given. (A segment of zero bytes has no bundles.)
    #[error("no bundles to restore from")]
    NoBundles,
    /// A bundle cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Two bundles are of different segments.
    #[error("{bundle} is of another segment than {other}")]
    OtherSegment {
        /// One of them.
        bundle: String,
        /// The other.
        other: String,
    },
    /// Two bundles have the same partition of the segment.
    #[error("{bundle} and {other} hold the same partition")]
    SamePartition {
        /// One of them.
        bundle: String,
        /// The other.
        other: String,
    },
    /// Bundles are missing.
    #[error("the segment has {needed} bundles, {given} were given: `ls --segment` finds them")]
    Missing {
        /// The number of bundles of the segment.
        needed: u32,
        /// The number of bundles given.
        given: usize,
    },
    /// There are more bundles than the segment has: the same bytes were stored under more than one name. If
    /// the bytes do not name the topic, the caller must choose one.
    #[error(
        "the segment has {needed} bundles, {given} were given: name those of one topic, as its receipt does"
    )]
    TooMany {
        /// The number of bundles of the segment.
        needed: u32,
        /// The number of bundles given.
        given: usize,
    },
    /// Some bytes of the segment are in no bundle.
    #[error("the segment's bytes {from}..{to} are in none of its bundles")]
    Hole {
        /// The first such byte.
        from: u64,
        /// The byte after the last one.
        to: u64,
    },
    /// A byte of the segment is in two blocks, or a block extends beyond the end of the segment.
    #[error(
        "{bundle} has bytes from {position} on that another bundle has too, or that are not in the segment"
    )]
    Overlap {
        /// The bundle.
        bundle: String,
        /// The position in the segment.
        position: u64,
    },
    /// The blocks fit together, but the bytes are not those of the segment.
    #[error("the restored bytes have the sha256 {computed}, the segment had {stated}")]
    HashDiffers {
        /// The hash in the manifests.
        stated: String,
        /// The hash of the restored bytes.
        computed: String,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The work panicked: a bug.
    #[error("the work panicked")]
    Panicked,
}

/// A restored segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The facts about it in the manifests.
    pub segment: SegmentFacts,
    /// The number of bundles that it was restored from.
    pub bundles: usize,
}

/// The bundles of one segment, compared with one another: all are there, and together they have each byte
/// once.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    segment: SegmentFacts,
    archives: Vec<Arc<Archive>>,
}

/// Restores the segment of these bundles to the file `out`, which is replaced if it exists. `progress` is
/// called with the number of bytes that were written since the last call, and the total number.
pub async fn restore(
    store: &Store,
    keys: &[BundleKey],
    out: &Path,
    progress: impl Fn(u64, u64),
) -> Result<Restored, RestoreError> {
    let opens = stream::iter(keys)
        .map(async |key| Ok::<_, RestoreError>(Archive::open(Source::of_key(store, key).await?).await?));
    let archives: Vec<Archive> = opens.buffered(OPENS_AT_ONCE).try_collect().await?;
    let plan = Plan::new(archives.into_iter().map(Arc::new).collect())?;
    let failed = |source| RestoreError::Write { path: out.to_owned(), source };
    let partial = AtomicFile::create(out).map_err(failed)?;
    plan.write(partial.file(), out, progress).await?;
    blocking(move || partial.keep()).await?.map_err(failed)?;
    Ok(Restored { segment: plan.segment, bundles: plan.archives.len() })
}

/// Restores a segment to a temporary file, which is removed, to prove that the segment can be restored.
pub(crate) async fn rehearse(plan: &Plan) -> Result<(), RestoreError> {
    let path = std::env::temp_dir().join("wal-indexer-rehearsal");
    let partial =
        AtomicFile::create(&path).map_err(|source| RestoreError::Write { path: path.clone(), source })?;
    plan.write(partial.file(), &path, |_, _| {}).await
}

impl Plan {
    /// Compares the bundles with one another.
    pub fn new(archives: Vec<Arc<Archive>>) -> Result<Self, RestoreError> {
        let first = archives.first().ok_or(RestoreError::NoBundles)?;
        let segment = first.manifest().segment.clone();
        let mut partitions = BTreeMap::new();
        for archive in &archives {
            if !same_segment(&archive.manifest().segment, &segment) {
                return Err(RestoreError::OtherSegment { bundle: archive.name(), other: first.name() });
            }
            if let Some(other) = partitions.insert(archive.partition().clone(), archive) {
                return Err(RestoreError::SamePartition { bundle: archive.name(), other: other.name() });
            }
        }
        let given = archives.len();
        let needed = segment.partitions;
        match (given as u64).cmp(&u64::from(needed)) {
            Ordering::Less => return Err(RestoreError::Missing { needed, given }),
            Ordering::Equal => {}
            Ordering::Greater => return Err(RestoreError::TooMany { needed, given }),
        }
        coverage::check(&archives, segment.size_bytes)?;
        Ok(Self { segment, archives })
    }

    /// Returns the facts about the segment.
    pub fn segment(&self) -> &SegmentFacts {
        &self.segment
    }

    /// Returns the number of bytes to read from the store for a restore.
    pub fn compressed_bytes(&self) -> u64 {
        self.archives.iter().map(|archive| archive.blocks().compressed_bytes()).sum()
    }

    /// Writes the segment to `file`, reads it back and checks its hash. `path` is the name of the file in
    /// errors.
    pub async fn write(
        &self,
        file: Arc<File>,
        path: &Path,
        progress: impl Fn(u64, u64),
    ) -> Result<(), RestoreError> {
        let failed = |source| RestoreError::Write { path: path.to_owned(), source };
        let blocks = self.archives.iter().flat_map(|archive| {
            archive.blocks().entries().iter().map(move |entry| (Arc::clone(archive), entry.clone()))
        });
        let mut written = stream::iter(blocks)
            .map(|(archive, entry)| {
                let file = Arc::clone(&file);
                async move {
                    let plain = archive.block(&entry).await?;
                    let len = plain.len() as u64;
                    blocking(move || file::write_pieces(&file, entry.pieces(&plain)))
                        .await?
                        .map_err(|source| RestoreError::Write { path: path.to_owned(), source })?;
                    Ok::<_, RestoreError>(len)
                }
            })
            .buffer_unordered(BLOCKS_AT_ONCE);
        while let Some(len) = written.try_next().await? {
            progress(len, self.segment.size_bytes);
        }
        drop(written);
        let size_bytes = self.segment.size_bytes;
        let computed = blocking(move || file::sha256(&file, size_bytes)).await?.map_err(failed)?;
        if computed != self.segment.sha256 {
            let (stated, computed) = (hex(&self.segment.sha256), hex(&computed));
            return Err(RestoreError::HashDiffers { stated, computed });
        }
        Ok(())
    }
}

/// The names that callers gave may differ.
fn same_segment(a: &SegmentFacts, b: &SegmentFacts) -> bool {
    let facts = |s: &SegmentFacts| {
        (s.sha256, s.crc32c, s.size_bytes, s.format.name(), s.partitions, s.torn_tail_bytes)
    };
    facts(a) == facts(b)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RestoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RestoreError::Panicked)
}

#[cfg(test)]
mod tests;
