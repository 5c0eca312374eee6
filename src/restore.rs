//! A segment's bundles become the segment again, byte for byte.
//!
//! Before anything is written, the bundles are held against one another: all of one segment, each of its partitions once, and each of
//! its bytes in exactly one block. Blocks are then read a few at a time and written where they belong; in the end the file is read
//! back, and only with the right SHA-256 does it get its name.
//!
//! Knows nothing of records, queries or gRPC.

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

/// How many blocks are read and in memory at a time: of 1 MiB each, if no batch is larger.
const BLOCKS_AT_ONCE: usize = 8;

/// How many bundles are opened at a time.
const OPENS_AT_ONCE: usize = 16;

/// Why a segment cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// No bundle was named. (A segment of zero bytes has none.)
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
    /// A partition of the segment was given twice.
    #[error("{bundle} and {other} hold the same partition")]
    SamePartition {
        /// One of them.
        bundle: String,
        /// The other.
        other: String,
    },
    /// There are bundles missing.
    #[error("the segment has {needed} bundles, {given} were given: `ls --segment` finds them")]
    Missing {
        /// How many make up the segment.
        needed: u32,
        /// How many were given.
        given: usize,
    },
    /// The same bytes were stored under more than one name: the topic is the caller's to say where the bytes do not.
    #[error(
        "the segment has {needed} bundles, {given} were given: name those of one topic, as its receipt does"
    )]
    TooMany {
        /// How many make up the segment.
        needed: u32,
        /// How many were given.
        given: usize,
    },
    /// Bytes of the segment are in no bundle.
    #[error("the segment's bytes {from}..{to} are in none of its bundles")]
    Hole {
        /// The first byte.
        from: u64,
        /// The one behind the last.
        to: u64,
    },
    /// A byte of the segment is in two blocks, or a block reaches past the segment's end.
    #[error(
        "{bundle} holds bytes from {position} on that another one holds too, or that the segment has not"
    )]
    Overlap {
        /// The bundle.
        bundle: String,
        /// Where in the segment.
        position: u64,
    },
    /// Everything fits, but the bytes are not the segment's.
    #[error("the restored bytes have the sha256 {computed}, the segment had {stated}")]
    HashDiffers {
        /// What the manifests say.
        stated: String,
        /// What was computed.
        computed: String,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The work panicked: a bug.
    #[error("the work panicked")]
    Panicked,
}

/// A segment that is whole again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the manifests say of it.
    pub segment: SegmentFacts,
    /// How many bundles it came from.
    pub bundles: usize,
}

/// The bundles of one segment, held against one another: all are there, and together they hold each byte once.
#[derive(Clone, Debug)]
pub struct Plan {
    segment: SegmentFacts,
    archives: Vec<Arc<Archive>>,
}

/// Restores the segment of these bundles to the file `out`, which is replaced if it exists. `progress` hears how many bytes more were
/// written, and of how many.
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

/// Restores a segment to a file that nobody gets to see, to prove that it can be done.
pub async fn rehearse(plan: &Plan) -> Result<(), RestoreError> {
    let path = std::env::temp_dir().join("wal-indexer-rehearsal");
    let partial =
        AtomicFile::create(&path).map_err(|source| RestoreError::Write { path: path.clone(), source })?;
    plan.write(partial.file(), &path, |_, _| {}).await
}

impl Plan {
    /// Holds the bundles against one another.
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

    /// The segment.
    pub fn segment(&self) -> &SegmentFacts {
        &self.segment
    }

    /// How many bytes of the store are read to write it.
    pub fn compressed_bytes(&self) -> u64 {
        self.archives.iter().map(|archive| archive.blocks().compressed_bytes()).sum()
    }

    /// Writes the segment to `file` and reads it back to check its hash. `path` is what errors call it.
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

/// Names that callers gave may differ.
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
