//! Handles a listing that has ended.

use std::collections::HashSet;
use std::time::Instant;

use tracing::{error, info, warn};

use super::Run;
use crate::agent::logs::FirstOffsets;
use crate::agent::segment_states::{Now, SegmentState};
use crate::formatting::chain;
use crate::metrics;
use crate::wal::{Listing, SealedSegments, Segment, WalError};

impl<W: SealedSegments> Run<W> {
    /// Takes over a listing. A listing that failed changes nothing: it does not mean that there are no
    /// segments.
    pub(super) async fn take_listing(
        &mut self,
        begun: Instant,
        listing: Result<Listing, WalError>,
        first_offsets: &FirstOffsets,
    ) {
        let mut listing = match listing {
            Ok(listing) => listing,
            Err(error) => {
                self.summary.is_listed = false;
                metrics::agent::listing_failed(&self.agent.name);
                error!(wal_dir = &*self.agent.name, error = chain(&error), "cannot list the segments");
                return;
            }
        };
        let is_news = self.agent.checkpoint.take_logs(&mut listing, first_offsets);
        if is_news && let Err(error) = self.agent.checkpoint.save_logs().await {
            // This costs only time, unless a log is replaced by another one before the next successful write.
            warn!(wal_dir = &*self.agent.name, %error, "what is known of the logs cannot be written");
        }
        self.summary.is_listed = true;
        self.miss(&listing);
        self.tell_held(&listing);
        self.tell_halted(&listing);
        self.tell_empty(&listing);
        self.states.take_listing(listing, begun, Now::read());
        let states = &self.states;
        self.agent
            .checkpoint
            .retain(|name, partition| states.holds(name) || states.is_unlisted(name, partition));
        self.traces.retain(|name, _| states.holds(name));
        self.stuck.retain(|name, _| states.holds(name));
        self.to_delete = self.states.partitions().map(|(partition, _)| partition.clone()).collect();
        self.plan();
        self.report_from = tokio::time::Instant::now();
    }

    /// Warns of partitions in which nothing may be deleted, once while the reason stays the same.
    fn tell_held(&self, listing: &Listing) {
        for (partition, hold) in &listing.held {
            if self.states.held_partitions().get(partition) != Some(hold) {
                warn!(wal_dir = &*self.agent.name, %partition, %hold, "nothing is deleted in this partition");
            }
        }
    }

    /// Logs which partitions are halted, once while the reason stays the same, and which are no longer
    /// halted.
    fn tell_halted(&self, listing: &Listing) {
        let (wal_dir, before) = (&*self.agent.name, self.states.halted());
        for halted in listing.halted.iter().filter(|halted| !before.contains(halted)) {
            let (partition, halt) = (&halted.name, &halted.halt);
            error!(wal_dir, partition, reason = halt.name(), %halt, "nothing is done with this partition");
        }
        let is_still = |name: &str| listing.halted.iter().any(|halted| halted.name == name);
        for halted in before.iter().filter(|halted| !is_still(&halted.name)) {
            info!(wal_dir, partition = halted.name, "this partition goes on");
        }
    }

    /// Logs the segments that are left because they are too young.
    pub(super) fn tell_young(&self) {
        let (now, age_min) = (Now::read(), self.agent.settings.min_segment_age);
        let segments = self.states.partitions().flat_map(|(_, segments)| segments);
        let is_left = |segment: &&Segment| {
            let state = self.states.state(segment, &self.agent.checkpoint);
            state == SegmentState::Unsent && !self.states.is_old(segment, age_min, now)
        };
        let young: Vec<_> = segments.filter(is_left).collect();
        let Some(first) = young.first() else { return };
        let (wal_dir, segments, name) = (&*self.agent.name, young.len(), &first.name);
        match first.version.changed_at.duration_since(now.wall) {
            Ok(ahead) => {
                let ahead_s = ahead.as_secs();
                warn!(
                    wal_dir,
                    segments,
                    first = name,
                    ahead_s,
                    "left for later: written to in the future, by the file's time"
                );
            }
            Err(_) => info!(wal_dir, segments, first = name, ?age_min, "left for later: changed too lately"),
        }
    }

    /// Logs that a directory has no partitions, once while this lasts: it may be the wrong directory.
    fn tell_empty(&self, listing: &Listing) {
        let was_empty = self.states.partition_count() == Some(0);
        if listing.partitions == Some(0) && listing.halted.is_empty() && !was_empty {
            let (wal_dir, hint) = (&*self.agent.name, listing.hint.as_deref());
            error!(wal_dir, hint, "there is no partition here: is it the right directory?");
        }
    }

    /// Logs which segments are gone before they were stored. Segments in flight are left out, because they
    /// may still be stored: an open file can be read to its end after its name is gone.
    fn miss(&self, listing: &Listing) {
        let on_their_way: HashSet<_> = self.sending().map(|segment| &*segment.name).collect();
        for mut lost in self.states.vanished(listing, &self.agent.checkpoint) {
            lost.retain(|segment| !on_their_way.contains(&*segment.name));
            self.tell_vanished(&lost);
        }
    }

    /// Counts and logs segments of a partition that somebody else deleted before they were stored.
    pub(super) fn tell_vanished(&self, lost: &[Segment]) {
        let (Some(first), Some(last)) = (lost.first(), lost.last()) else { return };
        let (wal_dir, segments) = (&*self.agent.name, lost.len() as u64);
        metrics::agent::vanished(wal_dir, segments);
        warn!(wal_dir, segments, first = first.name, last = last.name, "gone before they were stored");
    }
}
