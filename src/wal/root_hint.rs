//! Finds where the WAL directory may be, if the given directory has no partition: one level above or below
//! it, or two above.

use std::fs;
use std::path::{Path, PathBuf};

use super::layout::{Folder, Name};
use super::scan::{self, Halts, Oddities};

/// Returns a text that names a directory above or below with partitions. A directory that cannot be read
/// counts as empty. Blocks.
pub(super) fn hint(root: &Path) -> Option<String> {
    let root = fs::canonicalize(root).ok()?;
    if let Some(above) = above(&root) {
        return Some(format!("{} holds partitions, and this belongs to one of them", above.display()));
    }
    below(&root).map(|below| format!("{} holds partitions", below.display()))
}

/// Returns the directory in which `root` is a topic or a partition.
fn above(root: &Path) -> Option<PathBuf> {
    let (parent, name) = (root.parent()?, root.file_name()?.to_str()?);
    let is_kafka_partition = || holds_segments(parent, Folder::kafka(name));
    let is_topic = || names_in(root).iter().any(|child| holds_segments(parent, Folder::chronik(name, child)));
    if is_kafka_partition() || is_topic() {
        return Some(parent.to_owned());
    }
    let (above, topic) = (parent.parent()?, parent.file_name()?.to_str()?);
    holds_segments(above, Folder::chronik(topic, name)).then(|| above.to_owned())
}

/// The first directory below that holds partitions.
fn below(root: &Path) -> Option<PathBuf> {
    let mut children: Vec<_> = names_in(root).into_iter().map(|name| root.join(name)).collect();
    children.sort();
    children.into_iter().find(|child| {
        let folders = scan::folders(child, &mut Oddities::new(), &mut Halts::new()).unwrap_or_default();
        folders.into_iter().any(|folder| holds_segments(child, Name::Is(folder)))
    })
}

/// The names of the directories in a directory.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn holds_segments(root: &Path, folder: Name<Folder>) -> bool {
    let contents = folder.is().map(|folder| scan::contents(root, &folder, &mut Oddities::new()));
    contents.is_some_and(|contents| contents.is_ok_and(|contents| !contents.segments.is_empty()))
}
