//! How long segments stay on disk after they are stored, for consumers and programs that read them there.

use std::time::Duration;

use crate::wal::Segment;

/// Which stored segments of each partition stay on disk. A segment stays as long as any of the three settings
/// requires it. By default no segment stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// This number of the newest sealed segments stays.
    pub segments: usize,
    /// The newest sealed segments stay until they have this many bytes together: a segment stays while those
    /// behind it have fewer.
    pub bytes: u64,
    /// Segments stay that changed within this time.
    pub age: Duration,
}

impl Retention {
    /// Whether a segment stays, given the segments behind it in its partition. Does not consider its age.
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
