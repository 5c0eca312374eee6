//! Decides what to send next. The decision is a pure function of what is known.

use std::collections::HashSet;

use super::Settings;
use super::checkpoint::Checkpoint;
use super::segment_states::{Now, SegmentState, SegmentStates};
use crate::wal::Segment;

/// What to send, in which order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub queue: Vec<Segment>,
    /// Whether more segments are ready than may be sent after one listing.
    pub is_cut: bool,
}

/// Returns the segments that are ready, up to the limit. Segments with the fewest failures come first, then
/// the first segment of each partition before the second of any, then the oldest. So neither a partition with
/// many segments nor segments that fail repeatedly delay the others.
pub(super) fn plan(
    states: &SegmentStates,
    checkpoint: &Checkpoint,
    in_flight: &HashSet<&str>,
    (settings, round, now): (&Settings, u64, Now),
) -> Plan {
    let is_ready = |segment: &&Segment| {
        states.state(segment, checkpoint) == SegmentState::Unsent
            && !states.is_halted(segment)
            && !in_flight.contains(&*segment.name)
            && !states.has_failed_in(segment, round)
            && states.is_old(segment, settings.min_segment_age, now)
    };
    let of_each = states.partitions().map(|(_, segments)| segments.iter().filter(is_ready).enumerate());
    let mut ready: Vec<_> = of_each.flatten().collect();
    ready.sort_by_key(|(rank, segment)| {
        (states.failures(segment), *rank, segment.version.changed_at, &segment.name)
    });
    let queue = ready.iter().take(settings.max_segments_per_run).map(|(_, segment)| (*segment).clone());
    Plan { queue: queue.collect(), is_cut: ready.len() > settings.max_segments_per_run }
}
