//! Moves the finished parts of large segments to a local disk, until they are uploaded.
//!
//! A compressed segment of 1 GiB becomes bundles of about that size, and all of their parts are finished
//! before the upload: the key needs the last byte. The parts are written to a file without a name, and mapped
//! into memory instead. The kernel reads them when they are uploaded. What was read is released every now and
//! then ([`SpillDir::release_regularly`]), so that it does not count as the memory of this process. If the
//! process ends, the kernel removes the file.

#![expect(
    unsafe_code,
    reason = "a file is mapped: nobody else can change or shorten it, because it has no name"
)]

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use memmap2::{Mmap, UncheckedAdvice};
use tokio::task::JoinSet;

/// How often pages that were read are released. A disk reads some 100 MB in this time.
const RELEASE_EVERY: Duration = Duration::from_millis(50);

/// Why parts could not be moved to the disk.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// Other segments have taken what the directory may hold.
    #[error("{wanted_bytes} bytes do not fit into the spill directory, which may hold {bytes_max}")]
    Full {
        /// The size of the parts, in bytes.
        wanted_bytes: u64,
        /// The limit of the directory, in bytes.
        bytes_max: u64,
    },
    /// The disk returns other bytes than were written to it.
    #[error(
        "the spill directory returns other bytes than were written: crc32c is {computed:08x}, not {written:08x}"
    )]
    Changed {
        /// The checksum before the bytes were written.
        written: u32,
        /// The checksum of the bytes that were read.
        computed: u32,
    },
    /// The file cannot be written or mapped.
    #[error("cannot write to the spill directory {}", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// A directory for the finished parts of large segments. Clones share its limit.
#[derive(Clone, Debug)]
pub struct SpillDir(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    bytes_max: u64,
    used_bytes: AtomicU64,
    /// All files, as long as they are used.
    mapped: Mutex<Vec<Weak<Mapped>>>,
}

/// Parts that were moved, and their checksum from before.
#[derive(Debug)]
pub(super) struct Spilled {
    parts: Vec<Bytes>,
    crc32c: u32,
}

impl Spilled {
    /// Checks that the disk still returns what was written.
    pub fn check(&self) -> Result<(), SpillError> {
        let computed = crc32c_of(&self.parts);
        match computed == self.crc32c {
            true => Ok(()),
            false => Err(SpillError::Changed { written: self.crc32c, computed }),
        }
    }
}

fn crc32c_of<'a>(parts: impl IntoIterator<Item = &'a Bytes>) -> u32 {
    parts.into_iter().fold(0, |crc32c, part| crc32c::crc32c_append(crc32c, part))
}

/// A part of the limit. It is given back when this is dropped.
#[derive(Debug)]
struct Taken {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.shared.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A mapped file, and its part of the limit.
#[derive(Debug)]
struct Mapped {
    map: Mmap,
    _taken: Taken,
}

/// The owner of the bytes of a mapped file.
struct Owner(Arc<Mapped>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

impl Mapped {
    /// Releases the pages that were read. The next reader gets them from the file again.
    fn release(&self) {
        // SAFETY: nobody writes to the pages, so nothing is lost: they are read from the file again. An error
        // means that they stay, which is harmless.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

impl SpillDir {
    /// Uses `directory`, which must exist, for at most `bytes_max` bytes.
    ///
    /// # Errors
    /// No file can be created there.
    pub fn open(directory: &Path, bytes_max: u64) -> Result<Self, SpillError> {
        let shared = Shared {
            directory: directory.to_owned(),
            bytes_max,
            used_bytes: AtomicU64::new(0),
            mapped: Mutex::default(),
        };
        let opened = Self(Arc::new(shared));
        opened.file().map(drop)?;
        Ok(opened)
    }

    /// The bytes that the directory holds now.
    pub fn used_bytes(&self) -> u64 {
        self.0.used_bytes.load(Ordering::Relaxed)
    }

    /// Moves the bytes of all `parts` to the disk. Blocks.
    pub(super) fn spill(&self, parts: &mut [&mut Bytes]) -> Result<Spilled, SpillError> {
        let crc32c = crc32c_of(parts.iter().map(|part| &**part));
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        if bytes == 0 {
            return Ok(Spilled { parts: Vec::new(), crc32c });
        }
        let taken = self.take(bytes)?;
        let file = self.file()?;
        let mut writer = BufWriter::with_capacity(1 << 20, &file);
        let written = parts.iter().try_for_each(|part| writer.write_all(part)).and_then(|()| writer.flush());
        drop(writer);
        written.map_err(|source| self.failed(source))?;
        // SAFETY: the file has no name and this is its only descriptor, so no process changes it while it is
        // mapped. It is as long as what was written.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| self.failed(source))?;
        let mapped = Arc::new(Mapped { map, _taken: taken });
        self.with_mapped(|all| all.push(Arc::downgrade(&mapped)));
        let mut rest = Bytes::from_owner(Owner(mapped));
        for part in parts.iter_mut() {
            **part = rest.split_to(part.len());
        }
        Ok(Spilled { parts: parts.iter().map(|part| (**part).clone()).collect(), crc32c })
    }

    /// Releases the pages that were read of all files, every [`RELEASE_EVERY`], until the result is dropped.
    pub(super) fn release_regularly(&self) -> JoinSet<()> {
        let (this, mut releasing) = (self.clone(), JoinSet::new());
        releasing.spawn(async move {
            loop {
                tokio::time::sleep(RELEASE_EVERY).await;
                let mut used = Vec::new();
                this.with_mapped(|all| {
                    all.retain(|mapped| mapped.strong_count() > 0);
                    used.extend(all.iter().filter_map(Weak::upgrade));
                });
                used.iter().for_each(|mapped| mapped.release());
            }
        });
        releasing
    }

    /// A panic cannot leave the list half changed, so a poisoned lock is used on.
    fn with_mapped(&self, act: impl FnOnce(&mut Vec<Weak<Mapped>>)) {
        act(&mut self.0.mapped.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn take(&self, bytes: u64) -> Result<Taken, SpillError> {
        let bytes_max = self.0.bytes_max;
        let taken = self.0.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|used| *used <= bytes_max)
        });
        match taken {
            Ok(_) => Ok(Taken { shared: Arc::clone(&self.0), bytes }),
            Err(_) => Err(SpillError::Full { wanted_bytes: bytes, bytes_max }),
        }
    }

    /// Creates a file without a name.
    fn file(&self) -> Result<File, SpillError> {
        tempfile::tempfile_in(&self.0.directory).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> SpillError {
        SpillError::Io { directory: self.0.directory.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_same_on_disk_and_give_their_room_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let spill = SpillDir::open(directory.path(), 1_000).expect("it can be written");
        let (mut a, mut b, mut c) =
            (Bytes::from(vec![1; 600]), Bytes::new(), Bytes::from_static(b"the last one"));
        let spilled = spill.spill(&mut [&mut a, &mut b, &mut c]).expect("there is room");
        assert_eq!((&a[..], &b[..], &c[..]), (&[1; 600][..], &b""[..], &b"the last one"[..]));
        assert_eq!(spill.used_bytes(), 612);
        let mut more = Bytes::from(vec![2; 389]);
        let full = spill.spill(&mut [&mut more]).map(drop).expect_err("one byte too many");
        assert!(matches!(full, SpillError::Full { wanted_bytes: 389, bytes_max: 1_000 }), "{full}");
        assert_eq!(more, vec![2; 389]);
        let mut spilled = spilled;
        spilled.check().expect("the same bytes");
        spilled.crc32c ^= 1;
        assert!(matches!(spilled.check(), Err(SpillError::Changed { .. })));
        drop((a, spilled));
        assert_eq!(spill.used_bytes(), 612, "a part of the file is still used");
        drop((b, c));
        assert_eq!(spill.used_bytes(), 0);
        drop(spill.spill(&mut [&mut more]).expect("there is room"));
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0, "it has no name");
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_at_once() {
        let error = SpillDir::open(Path::new("/not/there"), 1).expect_err("no such directory");
        assert!(matches!(error, SpillError::Io { .. }), "{error}");
    }
}
