//! What to send next: a function of what is known, and nothing else.

use std::collections::HashSet;

use super::Settings;
use super::checkpoint::Checkpoint;
use super::segment_states::{Now, SegmentState, SegmentStates};
use crate::wal::Segment;

/// What to send, and in which order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub queue: Vec<Segment>,
    /// Whether there was more to send than a run may.
    pub is_cut: bool,
}

/// All that are ready, those that have not failed before first; then one of each partition before the second of any; then
/// the oldest first. So neither a partition with many segments nor segments that fail again and again hold up the others.
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
