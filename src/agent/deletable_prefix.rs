//! What may be deleted: of each partition the contiguous prefix that is stored.

use std::io;
use std::sync::Arc;

use tracing::Instrument;

use super::checkpoint::{Checkpoint, Entry};
use super::segment_states::{Now, SegmentState, SegmentStates};
use super::{SegmentBytes, Settings};
use crate::client::{self, Digest, Receipt};
use crate::spans::{self, Origin};
use crate::wal::{Hold, SealedSegments, Segment, WalError};

/// What may go of a partition, in this order and each only after the one before it has gone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DeletablePrefix<'a> {
    pub may_go: Vec<(&'a Segment, &'a Entry)>,
    /// The first one that stays.
    pub stops_at: Option<&'a Segment>,
    /// Whether that one would go, if it were not to stay on disk for longer.
    pub is_retained: bool,
}

/// Goes through a partition's segments from the lowest position on. What is stored, and is nobody else's to delete, may go; what
/// an operator skipped is passed over; anything else ends it, so that the broker's log never has a hole.
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

/// Whether a segment goes once it is stored.
pub(super) fn is_ours_to_delete(segment: &Segment, settings: &Settings) -> bool {
    settings.delete_after_index && !segment.may_grow && !segment.kept
}

/// A segment that goes.
#[derive(Clone, Debug)]
pub(super) struct Deletion {
    pub segment: Segment,
    pub receipt: Receipt,
    /// Whether the bytes must be read again first: [`Entry::is_to_be_read`].
    pub is_to_be_read: bool,
    /// The trace in which it was sent.
    pub origin: Option<Origin>,
}

impl Deletion {
    pub(super) fn new(segment: &Segment, entry: &Entry, origin: Option<Origin>) -> Self {
        let is_to_be_read = entry.is_to_be_read(segment);
        let (segment, receipt) = (segment.clone(), entry.receipt.clone());
        Self { segment, receipt, is_to_be_read, origin }
    }
}

/// Why a deletion, and with it those behind it, did not come about.
#[derive(Debug)]
pub(super) enum Stop {
    /// The segment is no longer what the receipt is for.
    Changed,
    /// The segment's bytes are not those that the receipt is for, although it looks the same.
    Different(Digest),
    /// It must stay at present.
    Held(Hold),
    /// Something was done to the file since it was listed: its bytes must be read again, once it is listed anew.
    Touched,
    /// It could not be read or deleted.
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

/// Deletes one after the other. Those that are gone, and what ended it before the last.
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
        // First of all: what stays need not be read.
        if let Some(hold) = wal.hold(&self.segment, &self.receipt).await? {
            return Err(Stop::Held(hold));
        }
        if self.is_to_be_read {
            self.read_again(wal).await?;
            self.is_to_be_read = false;
        }
        Ok(wal.delete(&self.segment, &self.receipt).await?)
    }

    /// Holds the bytes that are there against the receipt.
    async fn read_again<W: SealedSegments>(&self, wal: &Arc<W>) -> Result<(), Stop> {
        let bytes = SegmentBytes { wal: Arc::clone(wal), segment: self.segment.clone() };
        match client::digest(&bytes).await {
            Ok(digest) if are_the_same_bytes(&digest, self.receipt.digest()) => Ok(()),
            Ok(digest) => Err(Stop::Different(digest)),
            Err(error) => match wal_error(error, &self.segment) {
                // Somebody else deleted it, which is what was wanted; what deletes finds so, too.
                WalError::Gone { .. } => Ok(()),
                error => Err(error.into()),
            },
        }
    }
}

fn are_the_same_bytes(a: &Digest, b: &Digest) -> bool {
    (a.size_bytes, a.crc32c, a.sha256) == (b.size_bytes, b.crc32c, b.sha256)
}

/// What a segment's reader failed with, taken out again.
pub(super) fn wal_error(error: io::Error, segment: &Segment) -> WalError {
    let read = |source| WalError::Io { what: format!("cannot read {segment}"), source };
    error.downcast::<WalError>().unwrap_or_else(read)
}
