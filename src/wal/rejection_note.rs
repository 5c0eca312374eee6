//! The note about a refused segment: the file `SEGMENT.rejected.json` beside it, for operators and for the
//! next run.
//!
//! A note applies only to the version of the segment for which it was written. A note that cannot be read
//! applies to every version, because a decision was made. If notes cannot be written beside the segments,
//! they are in another directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::layout::{self, Folder};
use super::scan::{self, failed, unless_gone};
use super::{Rejection, Verdict, Version, WalError};
use crate::atomic_file::AtomicFile;

const EXTENSION: &str = ".rejected.json";

/// In a file's name every byte except `[A-Za-z0-9._-]` is encoded.
const NAME_ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// No note is longer: the messages of workers are much shorter.
const NOTE_BYTES_MAX: u64 = 1 << 20;

/// A decision about a segment, with its time and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionNote {
    /// The decision.
    pub verdict: Verdict,
    /// Why a worker refused the segment; empty if no worker refused it.
    #[serde(flatten)]
    pub rejection: Rejection,
    /// When this was written: RFC 3339, UTC.
    pub rejected_at: String,
    /// The version of the segment that the note applies to.
    pub version: Version,
}

/// Why an operator's decision about a segment could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RejectionNoteError {
    /// There is no note to remove.
    #[error("there is no note about {}", path.display())]
    NoNote {
        /// The segment.
        path: PathBuf,
    },
    /// The segment is missing, not a segment, or its partition's newest; or the disk failed.
    #[error(transparent)]
    Segment(#[from] WalError),
}

/// Accepts that the records of a segment will not be stored. The segment stays where it is, and no longer
/// blocks the deletion of later segments. It applies to the present version of the segment. The newest
/// segment of a partition cannot be skipped, because it may still grow.
pub fn skip(path: &Path, notes: &RejectionNotes) -> Result<(), RejectionNoteError> {
    let target = Target::of(path)?;
    let metadata = scan::metadata(&target.path)?.filter(|metadata| metadata.is_file());
    let metadata = metadata.ok_or_else(|| WalError::Gone { name: path.display().to_string() })?;
    if !scan::has_newer(&target.root, &target.folder, target.position)? {
        return Err(WalError::MayGrow { name: path.display().to_string() }.into());
    }
    let version = Version::of(&metadata).map_err(|error| failed("look at", path, error))?;
    // A note that cannot be read has no reason to keep.
    let known = notes.read(&target.root, &target.name).ok().flatten();
    let rejection = known.map_or_else(unasked, |note| note.rejection);
    Ok(notes.write(&target.root, &target.name, Verdict::Skipped, &rejection, version)?)
}

/// Removes the decision about a segment, so that it is tried again.
pub fn retry(path: &Path, notes: &RejectionNotes) -> Result<(), RejectionNoteError> {
    let target = Target::of(path)?;
    match notes.remove(&target.root, &target.name)? {
        true => Ok(()),
        false => Err(RejectionNoteError::NoNote { path: path.to_owned() }),
    }
}

/// The WAL directory of a segment's file.
pub fn root_of(path: &Path) -> Result<PathBuf, RejectionNoteError> {
    Ok(Target::of(path)?.root)
}

fn unasked() -> Rejection {
    Rejection {
        code: String::new(),
        reason: String::new(),
        message: "skipped before a worker refused it".to_owned(),
        position: None,
    }
}

/// A segment that an operator gives as a path.
struct Target {
    root: PathBuf,
    /// Its name, which is its path below the root.
    name: String,
    folder: Folder,
    position: u64,
    path: PathBuf,
}

impl Target {
    fn of(path: &Path) -> Result<Self, WalError> {
        let not_a_segment = || WalError::NotASegment { name: path.display().to_string() };
        let file = path.file_name().and_then(|file| file.to_str()).ok_or_else(not_a_segment)?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The layout depends on the names of the directories, which a relative path may not have.
        let directory = fs::canonicalize(above).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => WalError::Gone { name: path.display().to_string() },
            _ => failed("look at", above, error),
        })?;
        // `TOPIC/PARTITION` or `TOPIC-PARTITION`.
        [2, 1].into_iter().find_map(|depth| Self::below(&directory, depth, file)).ok_or_else(not_a_segment)
    }

    fn below(directory: &Path, depth: usize, file: &str) -> Option<Self> {
        let root = directory.ancestors().nth(depth)?;
        let folder = directory.strip_prefix(root).ok()?.to_str()?;
        let name = format!("{folder}/{file}");
        let (folder, position) = layout::place(&name)?;
        Some(Self { root: root.to_owned(), name, folder, position, path: directory.join(file) })
    }
}

/// A note file in a partition's directory.
#[derive(Debug)]
pub(super) struct RejectionNoteFile {
    /// Its name.
    pub(super) file: String,
    /// The segment that it applies to.
    pub(super) segment: String,
}

impl RejectionNoteFile {
    /// Recognises notes, and partial files of notes whose writing was interrupted.
    pub(super) fn named(file: String) -> Option<Self> {
        let segment = match file.strip_suffix(EXTENSION) {
            Some(segment) => segment,
            None => file.strip_prefix('.')?.strip_suffix(".partial")?.rsplit_once(EXTENSION)?.0,
        };
        Some(Self { segment: segment.to_owned(), file })
    }
}

/// The places of notes: beside their segments or, if nothing can be written there, in another directory.
#[derive(Clone, Debug, Default)]
pub struct RejectionNotes {
    elsewhere: Option<PathBuf>,
}

impl RejectionNotes {
    /// Sets a directory for notes that cannot be written beside their segments. It need not exist.
    pub fn or_in(directory: PathBuf) -> Self {
        Self { elsewhere: Some(directory) }
    }

    /// The note's file in the other directory, for a segment of this name.
    fn elsewhere(&self, name: &str) -> Option<PathBuf> {
        let file = format!("{}{EXTENSION}", utf8_percent_encode(name, NAME_ENCODED));
        self.elsewhere.as_ref().map(|directory| directory.join(file))
    }

    /// The segments that have notes in the other directory. A directory that cannot be read counts as empty:
    /// then its segments are only sent again.
    pub(super) fn names_elsewhere(&self) -> BTreeSet<String> {
        let entries =
            self.elsewhere.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
        let name = |entry: fs::DirEntry| {
            let file = entry.file_name().into_string().ok()?;
            let name = percent_decode_str(file.strip_suffix(EXTENSION)?).decode_utf8().ok()?.into_owned();
            layout::place(&name).is_some().then_some(name)
        };
        entries.filter_map(name).collect()
    }

    /// The note about a segment, if there is one.
    pub(super) fn read(&self, root: &Path, name: &str) -> io::Result<Option<RejectionNote>> {
        match (read(&path_of(&root.join(name)))?, self.elsewhere(name)) {
            (None, Some(elsewhere)) => read(&elsewhere),
            (note, _) => Ok(note),
        }
    }

    /// Writes a decision durably and atomically. It replaces an earlier decision.
    pub(super) fn write(
        &self,
        root: &Path,
        name: &str,
        verdict: Verdict,
        rejection: &Rejection,
        version: Version,
    ) -> Result<(), WalError> {
        let note = RejectionNote { verdict, rejection: rejection.clone(), rejected_at: now(), version };
        let beside = path_of(&root.join(name));
        match (write(&beside, &note), &self.elsewhere, self.elsewhere(name)) {
            (Err(error), Some(directory), Some(elsewhere)) if takes_no_files(&error) => {
                let written = fs::create_dir_all(directory).and_then(|()| write(&elsewhere, &note));
                written.map_err(|error| failed("write", &elsewhere, error))
            }
            (written, ..) => written.map_err(|error| failed("write", &beside, error)),
        }
    }

    /// Removes the decision about a segment durably. Returns whether there was one.
    pub(super) fn remove(&self, root: &Path, name: &str) -> Result<bool, WalError> {
        let paths = [Some(path_of(&root.join(name))), self.elsewhere(name)];
        let mut is_removed = false;
        for path in paths.into_iter().flatten() {
            let removed =
                unless_gone(fs::remove_file(&path)).map_err(|error| failed("remove", &path, error))?;
            if removed.is_some() {
                sync_directory_of(&path)?;
                is_removed = true;
            }
        }
        Ok(is_removed)
    }

    /// Removes the note about a segment that is gone. A note that stays does no harm.
    pub(super) fn drop(&self, root: &Path, name: &str) {
        for path in [Some(path_of(&root.join(name))), self.elsewhere(name)].into_iter().flatten() {
            let _ = fs::remove_file(path);
        }
    }
}

fn takes_no_files(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// The path of a segment's note beside it.
fn path_of(segment: &Path) -> PathBuf {
    let mut path = segment.as_os_str().to_owned();
    path.push(EXTENSION);
    path.into()
}

fn read(path: &Path) -> io::Result<Option<RejectionNote>> {
    let Some(metadata) = unless_gone(fs::symlink_metadata(path))? else { return Ok(None) };
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
    }
    let Some(file) = unless_gone(File::open(path))? else { return Ok(None) };
    let mut text = Vec::new();
    file.take(NOTE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(Some(serde_json::from_slice(&text)?))
}

fn write(path: &Path, note: &RejectionNote) -> io::Result<()> {
    let partial = AtomicFile::create(path)?;
    serde_json::to_writer_pretty(&*partial.file(), note)?;
    partial.keep()
}

fn now() -> String {
    OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default()
}

/// Makes the names in this path's directory durable, both added and removed ones. Does nothing if the
/// directory is gone.
pub(super) fn sync_directory_of(path: &Path) -> Result<(), WalError> {
    let Some(directory) = path.parent() else { return Ok(()) };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    unless_gone(synced).map_err(|error| failed("sync", directory, error))?;
    Ok(())
}
