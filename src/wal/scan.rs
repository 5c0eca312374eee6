//! What lies in a WAL directory. Links are never followed below it, and what has just gone is not there; any other failure is
//! told of the directory that it happened in: a partition that cannot be seen is not an empty one.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry, FileType, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::layout::{self, Folder, Name};
use super::rejection_note::RejectionNoteFile;
use super::{Birth, ChangeTime, Halt, Halted, Version, WalError};
use crate::formatting::chain;
use crate::ids::TopicPartition;

/// What looks much like a segment or a partition and is none, and why: somebody should know.
pub(super) type Oddities = BTreeMap<PathBuf, String>;

/// The directories that could not be looked into, by their names below the WAL directory.
pub(super) type Halts = BTreeMap<String, Halted>;

/// A segment's file.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) file: String,
    pub(super) position: u64,
    pub(super) version: Version,
    pub(super) change_time: ChangeTime,
    /// When it was created, where the file system knows it.
    pub(super) created_at: Option<SystemTime>,
}

/// What a partition's directory holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) segments: Vec<SegmentFile>,
    pub(super) notes: Vec<RejectionNoteFile>,
}

impl Contents {
    /// The highest position: its segment is the one that the broker writes to.
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

impl Birth {
    /// Of a directory; `None`, if it has just gone.
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

/// The partitions' directories. A topic's directory that cannot be looked into is one of `halts`.
///
/// # Errors
/// The WAL directory itself cannot be looked into.
pub(super) fn folders(
    root: &Path,
    oddities: &mut Oddities,
    halts: &mut Halts,
) -> Result<Vec<Folder>, WalError> {
    let mut folders = Vec::new();
    let entries = fs::read_dir(root).map_err(|error| failed("list", root, error))?;
    for entry in entries {
        let Some(topic) = directory(root, entry, oddities, |name| !layout::left_alone(name))? else {
            continue;
        };
        add(&mut folders, root.join(&topic), Folder::kafka(&topic), oddities);
        match chronik_folders(root, &topic, oddities) {
            Ok(found) => folders.extend(found),
            // No topic of Chronik's can be called so.
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

/// Those in a topic's directory.
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
        Name::Nearly(why) => {
            oddities.insert(path, why.to_owned());
        }
        Name::Other => {}
    }
}

/// The entry's name, if it is a directory whose name is wanted.
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

/// The segments and notes in a partition's directory; nothing, if it has just gone.
pub(super) fn contents(root: &Path, folder: &Folder, oddities: &mut Oddities) -> Result<Contents, WalError> {
    let path = root.join(&folder.path);
    let mut contents = Contents::default();
    for entry in entries_of(&path)? {
        let entry = entry.map_err(|error| failed("list", &path, error))?;
        // What is not UTF-8 is neither.
        let Ok(file) = entry.file_name().into_string() else { continue };
        match folder.position(&file) {
            Name::Is(position) => {
                contents.segments.extend(segment(&entry.path(), file, position, oddities)?);
            }
            Name::Nearly(why) => {
                oddities.insert(entry.path(), why.to_owned());
            }
            Name::Other => {
                let note = RejectionNoteFile::named(file);
                // Somebody else may call his files so too.
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

/// Whether the directory holds a segment of a higher position than this, right now.
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

/// What a path names itself, be it a link; `None`: nothing.
pub(super) fn metadata(path: &Path) -> Result<Option<Metadata>, WalError> {
    unless_gone(fs::symlink_metadata(path)).map_err(|error| failed("look at", path, error))
}

/// A directory's entries; none, if it has just gone.
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

/// An error that says what could not be done.
pub(super) fn failed(what: &str, path: &Path, source: io::Error) -> WalError {
    WalError::Io { what: format!("cannot {what} {}", path.display()), source }
}
