//! Finds out what an agent would do, without doing it.

use std::path::Path;
use std::time::Instant;

use super::Settings;
use super::checkpoint::{Checkpoint, CheckpointError};
use super::logs::first_offsets;
use super::segment_states::{Now, SegmentState, SegmentStates};
use crate::wal::{Listing, SealedSegments, Segment, WalError};

/// What an agent would do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedAction {
    /// It would be sent.
    Send,
    /// It is stored.
    Stored,
    /// It changed too recently.
    Young,
    /// Workers refused it permanently.
    Rejected,
    /// An operator decided to skip it.
    Skipped,
    /// Its partition is halted: nothing is done with it.
    Halted,
}

/// What an agent would find and do.
#[derive(Debug)]
pub struct Check {
    /// The segments by partition and position, with what the agent would do with each.
    pub segments: Vec<(Segment, PlannedAction)>,
    /// The listing, without its segments.
    pub listing: Listing,
}

/// Why it cannot be said what an agent would do.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The segments cannot be listed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The checkpoint, which says what is stored, cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Lists the segments once, and reads `DIR/NAME.checkpoint`. It sends and deletes no segment, and an agent
/// may run at the same time. It removes notes whose segments are gone, as every listing does.
///
/// # Errors
/// The segments cannot be listed, or the checkpoint cannot be read.
pub async fn check<W: SealedSegments>(
    wal: &W,
    (dir, name): (&Path, &str),
    settings: &Settings,
) -> Result<Check, CheckError> {
    let mut checkpoint = Checkpoint::look_at(dir, name).await?;
    let (begun, mut listing) = (Instant::now(), wal.list().await?);
    let first_offsets = first_offsets(wal, &checkpoint.known_logs(), &listing).await;
    // What this listing shows about logs is not saved.
    let _ = checkpoint.take_logs(&mut listing, &first_offsets);
    let (mut states, now) = (SegmentStates::new(), Now::read());
    states.take_listing(listing.clone(), begun, now);
    let action = |segment: &Segment| match states.state(segment, &checkpoint) {
        _ if states.is_halted(segment) => PlannedAction::Halted,
        SegmentState::Stored => PlannedAction::Stored,
        SegmentState::Rejected => PlannedAction::Rejected,
        SegmentState::Skipped => PlannedAction::Skipped,
        SegmentState::Unsent if states.is_old(segment, settings.min_segment_age, now) => PlannedAction::Send,
        SegmentState::Unsent => PlannedAction::Young,
    };
    let segments = states.partitions().flat_map(|(_, segments)| segments);
    let segments = segments.map(|segment| (segment.clone(), action(segment))).collect();
    listing.segments.clear();
    Ok(Check { segments, listing })
}
