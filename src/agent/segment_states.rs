//! The state of each segment: what is on disk, and what this process knows about it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use super::checkpoint::Checkpoint;
use crate::ids::TopicPartition;
use crate::metrics::agent::{Backlog, Waiting};
use crate::wal::{Halted, Hold, Listing, Segment, Verdict, Version};

/// The last successful listing, and what is known of its segments.
#[derive(Debug)]
pub(super) struct SegmentStates {
    partitions: BTreeMap<TopicPartition, Vec<Segment>>,
    memory: HashMap<String, Memory>,
    /// `None`: there has been no listing yet.
    listed_at: Option<Instant>,
    /// Segments deleted since the start of the current listing. That listing may still contain them.
    deleted: HashSet<(String, Version)>,
    /// Why stored segments that the agent wanted to delete must stay at present.
    holds: HashMap<String, Hold>,
    /// The partitions in which nothing may be deleted at present.
    held_partitions: BTreeMap<TopicPartition, Hold>,
    /// The halted parts of the log: the agent does nothing with them at present.
    halted: Vec<Halted>,
    idle: Parts,
    /// The halted parts whose segments are unknown.
    unlisted: Parts,
    /// The number of partitions in the last listing.
    partition_count: Option<u64>,
}

/// Parts of the log, indexed for look-ups.
#[derive(Debug, Default)]
struct Parts {
    partitions: HashSet<TopicPartition>,
    names: HashSet<String>,
}

impl Parts {
    fn of<'a>(halted: impl IntoIterator<Item = &'a Halted>) -> Self {
        let mut parts = Self::default();
        for Halted { name, partition, .. } in halted {
            parts.names.insert(name.clone());
            parts.partitions.extend(partition.clone());
        }
        parts
    }

    fn unlisted_of(halted: &[Halted]) -> Self {
        Self::of(halted.iter().filter(|halted| halted.halt.is_unlisted()))
    }

    /// Whether [`Halted::covers`] is true for any of the parts.
    fn cover(&self, name: &str, partition: &TopicPartition) -> bool {
        let is_below = || name.match_indices('/').any(|(end, _)| self.names.contains(&name[..end]));
        self.partitions.contains(partition) || is_below()
    }
}

/// What is known of one version of a segment.
#[derive(Clone, Copy, Debug)]
struct Memory {
    version: Version,
    seen_at: Instant,
    failures: u32,
    /// The round in which it last failed.
    failed_in: Option<u64>,
    rejected: Option<Rejected>,
}

/// A worker's rejection that no listing has shown yet.
#[derive(Clone, Copy, Debug)]
struct Rejected {
    at: Instant,
    /// Whether later listings will show it. If not, the rejection counts until the segment changes.
    is_noted: bool,
}

/// The state of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentState {
    /// It is not stored yet.
    Unsent,
    /// There is a receipt for it.
    Stored,
    /// Workers reject it.
    Rejected,
    /// It is not sent, because an operator skipped it. Segments behind it may be deleted.
    Skipped,
}

/// The time by two clocks. Times of files are compared with the wall clock. Everything else uses the
/// monotonic clock, which never jumps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub wall: SystemTime,
    pub monotonic: Instant,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }
}

impl SegmentStates {
    pub(super) fn new() -> Self {
        Self {
            partitions: BTreeMap::new(),
            memory: HashMap::new(),
            listed_at: None,
            deleted: HashSet::new(),
            holds: HashMap::new(),
            held_partitions: BTreeMap::new(),
            halted: Vec::new(),
            idle: Parts::default(),
            unlisted: Parts::default(),
            partition_count: None,
        }
    }

    /// Starts a listing. Segments that are deleted from now on may still be in it.
    pub(super) fn begin_listing(&mut self) {
        self.deleted.clear();
    }

    /// Takes over a listing that began at `begun` and has just ended.
    pub(super) fn take_listing(&mut self, listing: Listing, begun: Instant, now: Now) {
        let Listing { segments: mut listing, held, halted, logs: _, partitions, hint: _ } = listing;
        self.held_partitions = held.into_iter().collect();
        (self.idle, self.unlisted) = (Parts::of(&halted), Parts::unlisted_of(&halted));
        (self.halted, self.partition_count) = (halted, partitions);
        self.keep_unlisted(&mut listing);
        listing.retain(|segment| !self.deleted.contains(&(segment.name.clone(), segment.version)));
        let mut known = std::mem::take(&mut self.memory);
        for segment in &listing {
            let memory = known.remove(&segment.name).filter(|memory| memory.version == segment.version);
            let mut memory = memory.unwrap_or(Memory::first(segment.version, now));
            memory.rejected = memory.rejected.filter(|no| !no.is_noted || begun < no.at);
            self.memory.insert(segment.name.clone(), memory);
        }
        self.partitions.clear();
        for segment in listing {
            self.partitions.entry(segment.partition.clone()).or_default().push(segment);
        }
        self.holds.retain(|name, _| self.memory.contains_key(name));
        for segments in self.partitions.values_mut() {
            segments.sort_by(|a, b| a.position.cmp(&b.position).then_with(|| a.name.cmp(&b.name)));
        }
        self.listed_at = Some(now.monotonic);
    }

    /// Adds the segments that were last seen in parts which this listing could not read.
    fn keep_unlisted(&self, listing: &mut Vec<Segment>) {
        if self.halted.is_empty() {
            return;
        }
        let listed: HashSet<_> = listing.iter().map(|segment| segment.name.clone()).collect();
        let before = self.partitions.values().flatten();
        let is_unlisted = |segment: &Segment| self.is_unlisted(&segment.name, &segment.partition);
        let unlisted = before.filter(|segment| !listed.contains(&segment.name) && is_unlisted(segment));
        listing.extend(unlisted.cloned());
    }

    /// Whether the segment is in a halted part of the log.
    pub(super) fn is_halted(&self, segment: &Segment) -> bool {
        self.idle.cover(&segment.name, &segment.partition)
    }

    /// Whether it is unknown if a segment of this name exists.
    pub(super) fn is_unlisted(&self, name: &str, partition: &TopicPartition) -> bool {
        self.unlisted.cover(name, partition)
    }

    /// The halted parts of the log.
    pub(super) fn halted(&self) -> &[Halted] {
        &self.halted
    }

    /// The number of partitions. `None`: it is unknown.
    pub(super) fn partition_count(&self) -> Option<u64> {
        self.partition_count
    }

    /// Returns segments that are missing in a listing although they are not stored, in ascending order for
    /// each partition. The listing is not taken over yet. Segments that the broker may append to are left
    /// out, because the broker may be using them again.
    pub(super) fn vanished(&self, listing: &Listing, checkpoint: &Checkpoint) -> Vec<Vec<Segment>> {
        let listed: HashSet<_> = listing.segments.iter().map(|segment| &*segment.name).collect();
        let unlisted = Parts::unlisted_of(&listing.halted);
        let is_lost = |segment: &&Segment| {
            !segment.may_grow
                && !listed.contains(&*segment.name)
                && !unlisted.cover(&segment.name, &segment.partition)
                && matches!(self.state(segment, checkpoint), SegmentState::Unsent | SegmentState::Rejected)
        };
        let of_each = |segments: &Vec<Segment>| segments.iter().filter(is_lost).cloned().collect::<Vec<_>>();
        self.partitions.values().map(of_each).filter(|lost| !lost.is_empty()).collect()
    }

    /// The partitions with their segments, ascending.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (&TopicPartition, &[Segment])> {
        self.partitions.iter().map(|(partition, segments)| (partition, segments.as_slice()))
    }

    /// A partition's segments, ascending.
    pub(super) fn partition(&self, partition: &TopicPartition) -> &[Segment] {
        self.partitions.get(partition).map_or(&[], Vec::as_slice)
    }

    /// Whether there is a segment of this name, in any version.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.memory.contains_key(name)
    }

    /// Removes a segment that was deleted or is gone.
    pub(super) fn remove(&mut self, segment: &Segment) {
        self.deleted.insert((segment.name.clone(), segment.version));
        self.memory.remove(&segment.name);
        self.holds.remove(&segment.name);
        if let Some(segments) = self.partitions.get_mut(&segment.partition) {
            segments.retain(|other| other.name != segment.name);
        }
    }

    /// Records that a stored segment must stay at present. Returns whether this is new.
    pub(super) fn hold(&mut self, segment: &Segment, hold: Hold) -> bool {
        self.holds.insert(segment.name.clone(), hold.clone()) != Some(hold)
    }

    /// Why a stored segment stays at present.
    pub(super) fn hold_of(&self, segment: &Segment) -> Option<&Hold> {
        self.holds.get(&segment.name)
    }

    /// The partitions in which nothing may be deleted at present.
    pub(super) fn held_partitions(&self) -> &BTreeMap<TopicPartition, Hold> {
        &self.held_partitions
    }

    /// Records that a segment was not stored in this round. It may be stored in a later round.
    pub(super) fn failed(&mut self, segment: &Segment, round: u64) {
        if let Some(memory) = self.recall_mut(segment) {
            memory.failures = memory.failures.saturating_add(1);
            memory.failed_in = Some(round);
        }
    }

    /// Records that workers reject a segment. `is_noted`: later listings will show it.
    pub(super) fn rejected(&mut self, segment: &Segment, is_noted: bool) {
        if let Some(memory) = self.recall_mut(segment) {
            memory.rejected = Some(Rejected { at: Instant::now(), is_noted });
        }
    }

    pub(super) fn state(&self, segment: &Segment, checkpoint: &Checkpoint) -> SegmentState {
        match segment.verdict {
            // An operator's decision comes before everything that was found out since.
            Some(Verdict::Skipped) => SegmentState::Skipped,
            Some(Verdict::Rejected) => SegmentState::Rejected,
            None if self.recall(segment).is_some_and(|memory| memory.rejected.is_some()) => {
                SegmentState::Rejected
            }
            None if checkpoint.get(segment).is_some() => SegmentState::Stored,
            None => SegmentState::Unsent,
        }
    }

    /// How often a segment has failed.
    pub(super) fn failures(&self, segment: &Segment) -> u32 {
        self.recall(segment).map_or(0, |memory| memory.failures)
    }

    /// Whether a segment has failed in this round.
    pub(super) fn has_failed_in(&self, segment: &Segment, round: u64) -> bool {
        self.recall(segment).is_some_and(|memory| memory.failed_in == Some(round))
    }

    /// Whether a segment is unchanged for `age_min`, by the wall clock or by the monotonic clock. The wall
    /// clock and the time of the file may be wrong.
    pub(super) fn is_old(&self, segment: &Segment, age_min: Duration, now: Now) -> bool {
        let by_the_file = now.wall.duration_since(segment.version.changed_at);
        let watched = self.recall(segment).map(|memory| now.monotonic.duration_since(memory.seen_at));
        by_the_file.is_ok_and(|age| age >= age_min) || watched.is_some_and(|age| age >= age_min)
    }

    /// Counts what is not stored yet. `None`: there has been no listing yet.
    pub(super) fn backlog(&self, checkpoint: &Checkpoint) -> Option<Backlog> {
        let listed_at = self.listed_at?;
        let mut backlog = Backlog {
            listed_at,
            segments: 0,
            bytes: 0,
            sealed_bytes: 0,
            rejected: 0,
            skipped: 0,
            oldest: None,
            held: BTreeMap::new(),
            held_partitions: BTreeMap::new(),
            partitions: self.partition_count,
            halted: self.halted.iter().map(|it| (it.name.clone(), it.halt.name())).collect(),
        };
        for hold in self.holds.values() {
            *backlog.held.entry(hold.name()).or_default() += 1;
        }
        for hold in self.held_partitions.values() {
            *backlog.held_partitions.entry(hold.name()).or_default() += 1;
        }
        for segment in self.partitions.values().flatten() {
            let state = self.state(segment, checkpoint);
            backlog.rejected += u64::from(state == SegmentState::Rejected);
            backlog.skipped += u64::from(state == SegmentState::Skipped);
            if !segment.may_grow {
                backlog.sealed_bytes += segment.version.size_bytes;
            }
            if matches!(state, SegmentState::Unsent | SegmentState::Rejected) {
                backlog.segments += 1;
                backlog.bytes += segment.version.size_bytes;
                let seen_at = self.recall(segment).map_or(listed_at, |memory| memory.seen_at);
                let waiting = Waiting { changed_at: segment.version.changed_at, seen_at };
                backlog.oldest = Some(backlog.oldest.map_or(waiting, |oldest| oldest.longer(waiting)));
            }
        }
        Some(backlog)
    }

    fn recall(&self, segment: &Segment) -> Option<&Memory> {
        self.memory.get(&segment.name).filter(|memory| memory.version == segment.version)
    }

    fn recall_mut(&mut self, segment: &Segment) -> Option<&mut Memory> {
        self.memory.get_mut(&segment.name).filter(|memory| memory.version == segment.version)
    }
}

impl Memory {
    fn first(version: Version, now: Now) -> Self {
        Self { version, seen_at: now.monotonic, failures: 0, failed_in: None, rejected: None }
    }
}
