//! Deletes segments, and handles the outcomes.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tracing::{error, info, warn};

use super::{Done, Run, Work};
use crate::agent::deletable_prefix::{Deletion, Stop, delete};
use crate::agent::event::SegmentOutcome;
use crate::agent::segment_states::SegmentState;
use crate::formatting::{chain, hex};
use crate::ids::TopicPartition;
use crate::metrics;
use crate::spans::Origin;
use crate::wal::{Hold, SealedSegments, Segment};

/// The maximum number of partitions in which segments are deleted at the same time.
const DELETING_MAX: usize = 4;

/// The maximum number of segments of a partition that one task deletes before it reports to the agent.
const DELETIONS_MAX: usize = 16;

impl<W: SealedSegments> Run<W> {
    /// Starts to delete segments that may be deleted, in a limited number of partitions at the same time.
    pub(super) fn start_deletions(&mut self) {
        let deleting = self.works.values().filter_map(|work| match work {
            Work::Delete(partition) => Some(partition.clone()),
            Work::List | Work::Send(_) => None,
        });
        let deleting: BTreeSet<_> = deleting.collect();
        let mut slots = DELETING_MAX.saturating_sub(deleting.len());
        let mut free = self.to_delete.difference(&deleting).cloned().collect::<VecDeque<_>>();
        while slots > 0
            && let Some(partition) = free.pop_front()
        {
            self.to_delete.remove(&partition);
            let may_go = self.prefix(&partition).may_go;
            let deletions: Vec<_> = may_go
                .iter()
                .take(DELETIONS_MAX)
                .map(|(segment, entry)| Deletion::new(segment, entry, self.origin(segment)))
                .collect();
            if !deletions.is_empty() {
                self.delete(partition, deletions);
                slots -= 1;
            }
        }
    }

    fn origin(&self, segment: &Segment) -> Option<Origin> {
        self.traces.get(&segment.name)?.origin.clone()
    }

    fn delete(&mut self, partition: TopicPartition, deletions: Vec<Deletion>) {
        let (wal, work) = (Arc::clone(&self.agent.wal), Work::Delete(partition.clone()));
        let is_stored =
            |segment: &&Segment| self.states.state(segment, &self.agent.checkpoint) == SegmentState::Stored;
        let stored: Vec<_> = self.states.partition(&partition).iter().filter(is_stored).cloned().collect();
        self.spawn(work, async move {
            wal.note_stored(&partition, &stored);
            let (deleted, stop) = delete(&wal, deletions).await;
            Done::Deleted { partition, deleted, stop }
        });
    }

    pub(super) async fn take_deleted(
        &mut self,
        partition: TopicPartition,
        deleted: &[Deletion],
        stop: Option<(Deletion, Stop)>,
    ) {
        for Deletion { segment, receipt, .. } in deleted {
            self.summary.deleted += 1;
            metrics::agent::deleted(&self.agent.name);
            self.states.remove(segment);
            self.agent.checkpoint.forget(&segment.name);
            let took = self.traces.remove(&segment.name).map(|trace| trace.took);
            self.notify_observer(segment, Some(receipt), took, SegmentOutcome::Deleted);
        }
        match stop {
            None => {
                self.to_delete.insert(partition);
            }
            Some((deletion, stop)) => self.take_stop(&deletion, stop).await,
        }
    }

    /// Handles a deletion that failed. The next listing tries again if that can help.
    async fn take_stop(&mut self, deletion: &Deletion, stop: Stop) {
        let Deletion { segment, receipt, is_to_be_read, .. } = deletion;
        let (wal_dir, name) = (Arc::clone(&self.agent.name), &segment.name);
        match stop {
            Stop::Changed => {
                info!(%wal_dir, segment = name, "it has changed since it was stored, and is sent again");
                self.agent.checkpoint.forget(name);
            }
            Stop::Different(read) => {
                metrics::agent::mismatched(&wal_dir);
                let (read, stored) = (hex(&read.sha256), hex(&receipt.digest().sha256));
                error!(%wal_dir, segment = name, read, stored, "not what was stored: it stays, and is sent again");
                if let Err(error) = self.agent.checkpoint.invalidate(name).await {
                    warn!(%wal_dir, segment = name, %error, "the checkpoint cannot be written");
                }
            }
            Stop::Held(hold) => self.take_hold(deletion, hold),
            Stop::Touched => {
                info!(%wal_dir, segment = name, "it was touched since it was listed: it is read again before it is deleted");
            }
            Stop::Failed(error) => {
                metrics::agent::deletion_failed(&wal_dir);
                if !is_to_be_read {
                    // Reading the bytes once is enough, although each listing tries the deletion again.
                    self.agent.checkpoint.confirm(segment);
                }
                let why = chain(&error);
                if self.stuck.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                    error!(%wal_dir, segment = name, error = why, "it is stored, and cannot be deleted");
                }
            }
        }
    }

    /// Records that a segment must stay at present. The segments behind it stay, too. The next listing checks
    /// again.
    fn take_hold(&mut self, deletion: &Deletion, hold: Hold) {
        let Deletion { segment, receipt, .. } = deletion;
        let (wal_dir, name) = (Arc::clone(&self.agent.name), &segment.name);
        if !self.states.hold(segment, hold.clone()) {
            return;
        }
        if matches!(hold, Hold::WritersUnknown(_)) {
            warn!(%wal_dir, segment = name, %hold, "it is stored, and stays");
        }
        let took = self.traces.get(name).map(|trace| trace.took);
        self.notify_observer(segment, Some(receipt), took, SegmentOutcome::Held(&hold));
    }
}
