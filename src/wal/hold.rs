//! Finds which stored segments must stay in a partition's directory, because the broker may still need them
//! there.
//!
//! Names and times show a part of it, the frames show where the log ends, and the kernel shows who writes.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::layout::Folder;
use super::scan::{Contents, SegmentFile, failed};
use super::{Hold, WalError, frames};

/// For each partition: since when its highest segment has also been the last written one, as far as this
/// process has observed.
#[derive(Clone, Debug, Default)]
pub(super) struct Watches(Arc<Mutex<HashMap<String, Instant>>>);

impl Watches {
    /// Records the state of a partition's directory.
    pub(super) fn see(&self, folder: &Folder, contents: &Contents) {
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match is_highest_last_written(contents) {
            true => _ = watches.entry(folder.path.clone()).or_insert_with(Instant::now),
            false => _ = watches.remove(&folder.path),
        }
    }

    /// Forgets all other directories, because they are gone.
    pub(super) fn retain(&self, folders: &[Folder]) {
        let there: HashSet<_> = folders.iter().map(|folder| &*folder.path).collect();
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|path, _| there.contains(&**path));
    }

    fn watched_for(&self, folder: &Folder) -> Option<Duration> {
        let watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watches.get(&folder.path).map(Instant::elapsed)
    }

    /// Returns why no segment of a partition may be deleted.
    pub(super) fn hold(&self, folder: &Folder, contents: &Contents, age_min: Duration) -> Option<Hold> {
        if !is_highest_last_written(contents) {
            return Some(Hold::NotLastWritten);
        }
        let is_watched = self.watched_for(folder).is_some_and(|watched| watched >= age_min);
        match is_watched || is_settled(contents, age_min) {
            true => None,
            false => Some(Hold::Unsettled),
        }
    }
}

/// Returns the position of the segment that was last written to, by the files' times. If several have the
/// same time, it is the highest of them.
pub(super) fn last_written(contents: &Contents) -> Option<u64> {
    let last = contents.segments.iter().max_by_key(|file| (file.version.changed_at, file.position));
    last.map(|file| file.position)
}

fn is_highest_last_written(contents: &Contents) -> bool {
    last_written(contents) == contents.newest()
}

/// Whether the files alone show that the broker has used only the highest segment for this time: the highest
/// one has existed for this time, and no other one has changed since then.
fn is_settled(contents: &Contents, age_min: Duration) -> bool {
    let now = SystemTime::now();
    let newest = contents.newest();
    let is_old = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age >= age_min);
    contents.segments.iter().all(|file| {
        let is_old_newest = Some(file.position) == newest && file.created_at.is_some_and(is_old);
        age_min.is_zero() || is_old(file.version.changed_at) || is_old_newest
    })
}

/// Whether a later segment of the partition holds a whole frame beyond this offset. Then the end of the log
/// is not here. Blocks.
pub(super) fn is_log_longer(
    root: &Path,
    folder: &Folder,
    contents: &Contents,
    position: u64,
    last_offset: i64,
) -> Result<bool, WalError> {
    let mut later: Vec<&SegmentFile> = contents
        .segments
        .iter()
        .filter(|file| file.position > position && file.version.size_bytes > 0)
        .collect();
    later.sort_by_key(|file| file.position);
    for file in later {
        let path = root.join(folder.name_of(&file.file));
        let reaches = frames::reach_beyond(&path, folder.layout.format(), last_offset);
        if reaches.map_err(|error| failed("read", &path, error))? {
            return Ok(true);
        }
    }
    Ok(false)
}
