//! Checks that the blocks of several bundles together have each byte of a segment once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::RestoreError;
use crate::archive::Archive;

/// Goes through the runs of all bundles in the order of the source. Within a bundle they ascend: that was
/// checked when the bundle was opened.
pub(super) fn check(archives: &[Arc<Archive>], size_bytes: u64) -> Result<(), RestoreError> {
    let mut runs: Vec<_> = archives
        .iter()
        .map(|archive| archive.blocks().entries().iter().flat_map(|entry| entry.source_runs()))
        .collect();
    let mut next = BinaryHeap::new();
    for (number, runs) in runs.iter_mut().enumerate() {
        next.extend(runs.next().map(|(position, len)| Reverse((position, number, len))));
    }
    let mut end = 0;
    while let Some(Reverse((position, number, len))) = next.pop() {
        if position > end {
            return Err(RestoreError::Hole { from: end, to: position });
        }
        if position < end || u64::from(len) > size_bytes.saturating_sub(position) {
            return Err(RestoreError::Overlap { bundle: archives[number].name(), position });
        }
        end = position + u64::from(len);
        next.extend(runs[number].next().map(|(position, len)| Reverse((position, number, len))));
    }
    if end < size_bytes {
        return Err(RestoreError::Hole { from: end, to: size_bytes });
    }
    Ok(())
}
