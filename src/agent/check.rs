//! What an agent would do, without doing it.

use std::path::Path;
use std::time::Instant;

use super::Settings;
use super::checkpoint::{Checkpoint, CheckpointError};
use super::logs::first_offsets;
use super::segment_states::{Now, SegmentState, SegmentStates};
use crate::wal::{Listing, SealedSegments, Segment, WalError};

/// What would become of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It would be sent.
    Send,
    /// It is stored.
    Stored,
    /// It has changed too lately.
    Young,
    /// Workers have refused it for good.
    Rejected,
    /// An operator has decided to skip it.
    Skipped,
    /// Nothing is done with its partition.
    Halted,
}

/// What an agent would find, and do.
#[derive(Debug)]
pub struct Check {
    /// The segments, by partition and position, with what would become of them.
    pub segments: Vec<(Segment, Prospect)>,
    /// What was found, without its segments.
    pub listing: Listing,
}

/// Why nobody can tell what an agent would do.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The segments cannot be listed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// It cannot be read what is stored.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Looks at the segments once, and at `DIR/NAME.checkpoint`. Sends and deletes no segment; an agent may be at work meanwhile. Notes whose segments
/// are gone are removed, as by every listing.
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
    // What is learned of logs here is not kept.
    let _ = checkpoint.take_logs(&mut listing, &first_offsets);
    let (mut states, now) = (SegmentStates::new(), Now::read());
    states.take_listing(listing.clone(), begun, now);
    let prospect = |segment: &Segment| match states.state(segment, &checkpoint) {
        _ if states.is_halted(segment) => Prospect::Halted,
        SegmentState::Stored => Prospect::Stored,
        SegmentState::Rejected => Prospect::Rejected,
        SegmentState::Skipped => Prospect::Skipped,
        SegmentState::Unsent if states.is_old(segment, settings.min_segment_age, now) => Prospect::Send,
        SegmentState::Unsent => Prospect::Young,
    };
    let segments = states.partitions().flat_map(|(_, segments)| segments);
    let segments = segments.map(|segment| (segment.clone(), prospect(segment))).collect();
    listing.segments.clear();
    Ok(Check { segments, listing })
}
