//! How long segments stay on disk after they are stored, for consumers and programs that read them there.

use std::time::Duration;

use crate::wal::Segment;

/// What of each partition stays on disk although it is stored. A segment stays as long as any of the three wants it. The default
/// keeps nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest sealed segments: so many.
    pub segments: usize,
    /// The newest sealed segments, until they have this many bytes together: a segment stays while those behind it have fewer.
    pub bytes: u64,
    /// Segments that have changed within this time.
    pub age: Duration,
}

impl Retention {
    /// Whether a segment stays that has these behind it in its partition.
    pub(super) fn keeps(&self, behind: &[Segment]) -> bool {
        let mut sealed = behind.iter().filter(|segment| !segment.may_grow);
        let enough_segments =
            self.segments.checked_sub(1).is_none_or(|nth| sealed.clone().nth(nth).is_some());
        let mut bytes = 0_u64;
        let enough_bytes = self.bytes == 0
            || sealed.any(|segment| {
                bytes = bytes.saturating_add(segment.version.size_bytes);
                bytes >= self.bytes
            });
        !(enough_segments && enough_bytes)
    }
}
