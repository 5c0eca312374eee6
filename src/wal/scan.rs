//! Finds the files in a WAL directory. It never follows links below the directory, and treats an entry that
//! has just disappeared as missing. Every other failure is reported for its directory: a partition that
//! cannot be read is not an empty one.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry, FileType, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::layout::{self, Folder, Name};
use super::rejection_note::RejectionNoteFile;
use super::{ChangeTime, DirectoryIdentity, Halt, Halted, Version, WalError};
use crate::formatting::chain;
use crate::ids::TopicPartition;

/// Paths that look like a segment or a partition but are not, each with the reason. They are logged.
pub(super) type Oddities = BTreeMap<PathBuf, String>;

/// The directories that could not be read, by their names below the WAL directory.
pub(super) type Halts = BTreeMap<String, Halted>;

/// A segment's file.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) file: String,
    pub(super) position: u64,
    pub(super) version: Version,
    pub(super) change_time: ChangeTime,
    /// When it was created, if the file system records it.
    pub(super) created_at: Option<SystemTime>,
}

/// The contents of a partition's directory.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) segments: Vec<SegmentFile>,
    pub(super) notes: Vec<RejectionNoteFile>,
}

impl Contents {
    /// The highest position. The broker usually writes to this segment.
    pub(super) fn newest(&self) -> Option<u64> {
        self.segments.iter().map(|segment| segment.position).max()
    }
}

impl Version {
    /// The version of a file.
    pub(super) fn of(metadata: &Metadata) -> io::Result<Self> {
        Ok(Self { size_bytes: metadata.len(), changed_at: metadata.modified()?, identity: metadata.ino() })
    }
}

impl ChangeTime {
    /// The time of a file's last change.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { secs: metadata.ctime(), nanos: metadata.ctime_nsec() }
    }
}

impl DirectoryIdentity {
    /// Reads it from a directory; `None` if the directory has just disappeared.
    pub(super) fn of(directory: &Path) -> Result<Option<Self>, WalError> {
        let Some(metadata) = metadata(directory)? else { return Ok(None) };
        let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
        let nanos = metadata.created().ok().and_then(since_epoch);
        Ok(Some(Self {
            inode: metadata.ino(),
            nanos: nanos.and_then(|nanos| i64::try_from(nanos.as_nanos()).ok()),
        }))
    }
}

/// Returns the partitions' directories. A topic's directory that cannot be read is added to `halts`.
///
/// # Errors
/// The WAL directory itself cannot be read.
pub(super) fn folders(
    root: &Path,
    oddities: &mut Oddities,
    halts: &mut Halts,
) -> Result<Vec<Folder>, WalError> {
    let mut folders = Vec::new();
    let entries = fs::read_dir(root).map_err(|error| failed("list", root, error))?;
    for entry in entries {
        let Some(topic) = directory(root, entry, oddities, |name| !layout::is_ignored(name))? else {
            continue;
        };
        add(&mut folders, root.join(&topic), Folder::kafka(&topic), oddities);
        match chronik_folders(root, &topic, oddities) {
            Ok(found) => folders.extend(found),
            // No topic of Chronik can have this name.
            Err(_) if TopicPartition::new(&*topic, 0).is_err() => {}
            Err(error) => {
                let partition = Folder::kafka(&topic).is().map(|folder| folder.partition);
                let halt = Halt::Unreadable(chain(&error));
                halts.insert(topic.clone(), Halted { name: topic, partition, halt });
            }
        }
    }
    Ok(folders)
}

/// Returns the partitions' directories in a topic's directory.
fn chronik_folders(root: &Path, topic: &str, oddities: &mut Oddities) -> Result<Vec<Folder>, WalError> {
    let (path, mut folders) = (root.join(topic), Vec::new());
    for entry in entries_of(&path)? {
        let in_layout = |name: &str| Folder::chronik(topic, name) != Name::Other;
        if let Some(partition) = directory(&path, entry, oddities, in_layout)? {
            add(&mut folders, path.join(&partition), Folder::chronik(topic, &partition), oddities);
        }
    }
    Ok(folders)
}

fn add(folders: &mut Vec<Folder>, path: PathBuf, found: Name<Folder>, oddities: &mut Oddities) {
    match found {
        Name::Is(folder) => folders.push(folder),
        Name::Invalid(why) => {
            oddities.insert(path, why.to_owned());
        }
        Name::Other => {}
    }
}

/// Returns the entry's name, if it is a directory with a wanted name.
fn directory(
    above: &Path,
    entry: io::Result<DirEntry>,
    oddities: &mut Oddities,
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<String>, WalError> {
    let entry = entry.map_err(|error| failed("list", above, error))?;
    let Some(kind) = kind_of(&entry)? else { return Ok(None) };
    let name = entry.file_name();
    match name.to_str() {
        Some(name) if !wanted(name) => Ok(None),
        Some(name) if kind.is_dir() => Ok(Some(name.to_owned())),
        Some(_) if kind.is_symlink() && entry.path().is_dir() => {
            oddities.insert(entry.path(), "it is a link, and links are not followed".to_owned());
            Ok(None)
        }
        None if kind.is_dir() => {
            oddities.insert(entry.path(), "its name is not UTF-8".to_owned());
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Returns the segments and notes in a partition's directory; none if it has just disappeared.
pub(super) fn contents(root: &Path, folder: &Folder, oddities: &mut Oddities) -> Result<Contents, WalError> {
    let path = root.join(&folder.path);
    let mut contents = Contents::default();
    for entry in entries_of(&path)? {
        let entry = entry.map_err(|error| failed("list", &path, error))?;
        // A name that is not UTF-8 is neither a segment nor a note.
        let Ok(file) = entry.file_name().into_string() else { continue };
        match folder.position(&file) {
            Name::Is(position) => {
                contents.segments.extend(segment(&entry.path(), file, position, oddities)?);
            }
            Name::Invalid(why) => {
                oddities.insert(entry.path(), why.to_owned());
            }
            Name::Other => {
                let note = RejectionNoteFile::named(file);
                // Other programs may use the same ending for their files.
                let is_ours =
                    |note: &RejectionNoteFile| matches!(folder.position(&note.segment), Name::Is(_));
                contents.notes.extend(note.filter(is_ours));
            }
        }
    }
    Ok(contents)
}

fn segment(
    path: &Path,
    file: String,
    position: u64,
    oddities: &mut Oddities,
) -> Result<Option<SegmentFile>, WalError> {
    let Some(metadata) = metadata(path)? else { return Ok(None) };
    if !metadata.is_file() {
        oddities.insert(path.to_owned(), "it is not a file".to_owned());
        return Ok(None);
    }
    let version = Version::of(&metadata).map_err(|error| failed("look at", path, error))?;
    let (change_time, created_at) = (ChangeTime::of(&metadata), metadata.created().ok());
    Ok(Some(SegmentFile { file, position, version, change_time, created_at }))
}

/// Whether the directory has a segment with a higher position now.
pub(super) fn has_newer(root: &Path, folder: &Folder, position: u64) -> Result<bool, WalError> {
    let path = root.join(&folder.path);
    for entry in entries_of(&path)? {
        let entry = entry.map_err(|error| failed("list", &path, error))?;
        let newer = entry
            .file_name()
            .to_str()
            .is_some_and(|file| matches!(folder.position(file), Name::Is(its) if its > position));
        if newer && kind_of(&entry)?.is_some_and(|kind| kind.is_file()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The metadata of a path, of a link itself if it is one; `None`: there is nothing.
pub(super) fn metadata(path: &Path) -> Result<Option<Metadata>, WalError> {
    unless_gone(fs::symlink_metadata(path)).map_err(|error| failed("look at", path, error))
}

/// A directory's entries; none if it has just disappeared.
fn entries_of(path: &Path) -> Result<impl Iterator<Item = io::Result<DirEntry>> + use<>, WalError> {
    let entries = unless_gone(fs::read_dir(path)).map_err(|error| failed("list", path, error))?;
    Ok(entries.into_iter().flatten())
}

fn kind_of(entry: &DirEntry) -> Result<Option<FileType>, WalError> {
    unless_gone(entry.file_type()).map_err(|error| failed("look at", &entry.path(), error))
}

pub(super) fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(it) => Ok(Some(it)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes an error that names the failed operation.
pub(super) fn failed(what: &str, path: &Path, source: io::Error) -> WalError {
    WalError::Io { what: format!("cannot {what} {}", path.display()), source }
}
