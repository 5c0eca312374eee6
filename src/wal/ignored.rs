//! Explains to operators which names in a WAL directory are not listed, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::layout;
use super::scan::{self, Halts, Oddities, failed};
use super::{Segment, WalError};

/// Returns the names below the directory that are ignored, each with the reason. Blocks.
pub(super) fn names(
    root: &Path,
    listed: &[Segment],
    seal_idle: bool,
) -> Result<BTreeMap<String, String>, WalError> {
    let (mut left, mut oddities, mut halts) = (BTreeMap::new(), Oddities::new(), Halts::new());
    let listed: BTreeSet<&str> = listed.iter().map(|segment| &*segment.name).collect();
    let folders = scan::folders(root, &mut oddities, &mut halts)?;
    let mut used = BTreeSet::new();
    for folder in &folders {
        used.insert(folder.path.split('/').next().unwrap_or_default().to_owned());
        let Ok(contents) = scan::contents(root, folder, &mut oddities) else { continue };
        if contents.segments.is_empty() {
            left.insert(folder.path.clone(), "there is no segment in it".to_owned());
        }
        for file in &contents.segments {
            let name = folder.name_of(&file.file);
            if !listed.contains(&*name) {
                let why = match seal_idle {
                    true => "the broker writes to it, or it is empty",
                    false => "the broker writes to it (--seal-idle-after sends an idle segment)",
                };
                left.insert(name, why.to_owned());
            }
        }
    }
    let entries = fs::read_dir(root).map_err(|error| failed("list", root, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| failed("list", root, error))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_directory || used.contains(&name) || halts.contains_key(&name) {
            continue;
        }
        let why = if layout::is_ignored(&name) {
            "the broker's own, or the file system's"
        } else {
            "no partition's"
        };
        left.insert(name, why.to_owned());
    }
    for (path, why) in oddities {
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        left.insert(name, why);
    }
    Ok(left)
}
