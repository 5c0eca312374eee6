//! Decides what may be deleted: in each partition, the contiguous prefix of stored segments.

use std::io;
use std::sync::Arc;

use tracing::Instrument;

use super::checkpoint::{Checkpoint, Entry};
use super::segment_states::{Now, SegmentState, SegmentStates};
use super::{SegmentBytes, Settings};
use crate::client::{self, Digest, Receipt};
use crate::spans::{self, Origin};
use crate::wal::{Hold, SealedSegments, Segment, WalError};

/// The segments of a partition that may be deleted, in this order. Each may be deleted only after the one
/// before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DeletablePrefix<'a> {
    pub may_go: Vec<(&'a Segment, &'a Entry)>,
    /// The first segment that stays.
    pub stops_at: Option<&'a Segment>,
    /// Whether that segment stays only because of the retention settings.
    pub is_retained: bool,
}

/// Returns the segments of a partition that may be deleted, from the lowest position on. A stored segment may
/// be deleted if the agent is the one to delete it. A segment that an operator skipped is passed over. Any
/// other segment ends the prefix, so that the broker's log never has a hole.
pub(super) fn deletable_prefix<'a>(
    segments: &'a [Segment],
    states: &SegmentStates,
    checkpoint: &'a Checkpoint,
    (settings, now): (&Settings, Now),
) -> DeletablePrefix<'a> {
    let mut prefix = DeletablePrefix::default();
    for (nth, segment) in segments.iter().enumerate() {
        if states.is_halted(segment) {
            prefix.stops_at = Some(segment);
            break;
        }
        let is_young = || !states.is_old(segment, settings.retention.age, now);
        match (states.state(segment, checkpoint), checkpoint.get(segment)) {
            (SegmentState::Skipped, _) => {}
            (SegmentState::Stored, Some(entry)) if is_ours_to_delete(segment, settings) => {
                if settings.retention.keeps(&segments[nth + 1..]) || is_young() {
                    (prefix.stops_at, prefix.is_retained) = (Some(segment), true);
                    break;
                }
                prefix.may_go.push((segment, entry));
            }
            (SegmentState::Stored | SegmentState::Unsent | SegmentState::Rejected, _) => {
                prefix.stops_at = Some(segment);
                break;
            }
        }
    }
    prefix
}

/// Whether the agent deletes a segment once it is stored.
pub(super) fn is_ours_to_delete(segment: &Segment, settings: &Settings) -> bool {
    settings.delete_after_index && !segment.may_grow && !segment.broker_deletes
}

/// The deletion of one segment.
#[derive(Clone, Debug)]
pub(super) struct Deletion {
    pub segment: Segment,
    pub receipt: Receipt,
    /// Whether the bytes must be read again first: [`Entry::is_to_be_read`].
    pub is_to_be_read: bool,
    /// The trace in which the segment was sent.
    pub origin: Option<Origin>,
}

impl Deletion {
    pub(super) fn new(segment: &Segment, entry: &Entry, origin: Option<Origin>) -> Self {
        let is_to_be_read = entry.is_to_be_read(segment);
        let (segment, receipt) = (segment.clone(), entry.receipt.clone());
        Self { segment, receipt, is_to_be_read, origin }
    }
}

/// Why a segment was not deleted. The segments behind it are not deleted either.
#[derive(Debug)]
pub(super) enum Stop {
    /// The segment is no longer what the receipt is for.
    Changed,
    /// The segment's bytes are not those that the receipt is for, although it looks the same.
    Different(Digest),
    /// The segment must stay at present.
    Held(Hold),
    /// The file was touched since it was listed. Its bytes must be read again after the next listing.
    Touched,
    /// The segment could not be read or deleted.
    Failed(WalError),
}

impl Stop {
    fn name(&self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Different(_) => "different",
            Self::Held(_) => "held",
            Self::Touched => "touched",
            Self::Failed(_) => "failed",
        }
    }
}

impl From<WalError> for Stop {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Changed { .. } => Self::Changed,
            WalError::Held { hold, .. } => Self::Held(hold),
            WalError::Touched { .. } => Self::Touched,
            error => Self::Failed(error),
        }
    }
}

/// Deletes segments one after the other. Returns those that are deleted, and the first that is not, with the
/// reason.
pub(super) async fn delete<W: SealedSegments>(
    wal: &Arc<W>,
    deletions: Vec<Deletion>,
) -> (Vec<Deletion>, Option<(Deletion, Stop)>) {
    let mut deleted = Vec::new();
    for mut deletion in deletions {
        let Deletion { segment, origin, .. } = &deletion;
        let span = spans::delete(&segment.name, segment.version.size_bytes, origin.as_ref());
        let carrying_out = async {
            let ended = deletion.carry_out(wal).await;
            spans::ended(ended.as_ref().err().map_or("deleted", Stop::name));
            ended
        };
        match carrying_out.instrument(span).await {
            Ok(()) => deleted.push(deletion),
            Err(stop) => return (deleted, Some((deletion, stop))),
        }
    }
    (deleted, None)
}

impl Deletion {
    async fn carry_out<W: SealedSegments>(&mut self, wal: &Arc<W>) -> Result<(), Stop> {
        // Check this first: a segment that stays need not be read.
        if let Some(hold) = wal.hold(&self.segment, &self.receipt).await? {
            return Err(Stop::Held(hold));
        }
        if self.is_to_be_read {
            self.read_again(wal).await?;
            self.is_to_be_read = false;
        }
        Ok(wal.delete(&self.segment, &self.receipt).await?)
    }

    /// Compares the bytes on disk with the receipt.
    async fn read_again<W: SealedSegments>(&self, wal: &Arc<W>) -> Result<(), Stop> {
        let bytes = SegmentBytes { wal: Arc::clone(wal), segment: self.segment.clone() };
        match client::digest(&bytes).await {
            Ok(digest) if are_the_same_bytes(&digest, self.receipt.digest()) => Ok(()),
            Ok(digest) => Err(Stop::Different(digest)),
            Err(error) => match wal_error(error, &self.segment) {
                // Somebody else deleted the file, which is the wanted result. `delete` accepts a missing
                // file, too.
                WalError::Gone { .. } => Ok(()),
                error => Err(error.into()),
            },
        }
    }
}

fn are_the_same_bytes(a: &Digest, b: &Digest) -> bool {
    (a.size_bytes, a.crc32c, a.sha256) == (b.size_bytes, b.crc32c, b.sha256)
}

/// Returns the WAL error inside an error of a segment's reader.
pub(super) fn wal_error(error: io::Error, segment: &Segment) -> WalError {
    let read = |source| WalError::Io { what: format!("cannot read {segment}"), source };
    error.downcast::<WalError>().unwrap_or_else(read)
}
