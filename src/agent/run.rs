//! The main loop of an agent. It handles one event after the other, and starts tasks because of them.

mod deleted;
mod listed;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, sleep_until, timeout_at};
use tracing::{Instrument, error, info, warn};

use super::deletable_prefix::{DeletablePrefix, Deletion, Stop, deletable_prefix, is_ours_to_delete};
use super::event::{Event, SegmentOutcome};
use super::in_flight::{InFlightPermit, PermitQueue};
use super::logs::{FirstOffsets, first_offsets};
use super::plan::{Plan, plan};
use super::segment_states::{Now, SegmentState, SegmentStates};
use super::send::{Outcome, send};
use super::{Agent, Retention, Summary};
use crate::client::{Receipt, Refusal};
use crate::formatting::chain;
use crate::ids::TopicPartition;
use crate::metrics;
use crate::spans::{self, Origin};
use crate::wal::{Hold, Listing, SealedSegments, Segment, WalError};

/// The minimum time between two counts of the backlog while many events occur.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// The state of a running agent. It changes only here, one event after the other. Everything that waits is a
/// task, and the end of a task is an event.
pub(super) struct Run<W> {
    agent: Agent<W>,
    states: SegmentStates,
    queue: VecDeque<Segment>,
    permit_queue: PermitQueue,
    tasks: JoinSet<Done>,
    /// What each task does, so that a task that panicked does not count as running for ever.
    works: HashMap<Id, Work>,
    /// Partitions in which segments may be deletable.
    to_delete: BTreeSet<TopicPartition>,
    /// How segments were delivered, by name: those that this process sent and has not deleted.
    traces: HashMap<String, DeliveryTrace>,
    /// Stored segments that could not be deleted, by name, with the reason. Each change of the reason is
    /// logged once.
    stuck: HashMap<String, String>,
    /// The number of the interval. A segment that fails in one interval is not tried again in it.
    round: u64,
    /// Whether more segments are ready than may be sent after one listing.
    is_cut: bool,
    is_closing: bool,
    /// When the backlog may be counted again. The next field says whether it must be.
    report_from: tokio::time::Instant,
    is_unreported: bool,
    summary: Summary,
}

/// How a segment was delivered.
#[derive(Clone, Debug)]
struct DeliveryTrace {
    took: Duration,
    /// The trace of the delivery.
    origin: Option<Origin>,
}

/// The work of a task.
#[derive(Clone, Debug)]
enum Work {
    List,
    Send(Segment),
    Delete(TopicPartition),
}

/// The result of a task.
enum Done {
    Listed { begun: Instant, listing: Result<Listing, WalError>, first_offsets: FirstOffsets },
    Sent { segment: Segment, trace: DeliveryTrace, outcome: Outcome },
    Deleted { partition: TopicPartition, deleted: Vec<Deletion>, stop: Option<(Deletion, Stop)> },
}

/// The next event.
enum Next {
    Tick,
    Report,
    InFlightPermit(InFlightPermit),
    Done(Box<Result<(Id, Done), JoinError>>),
}

impl<W: SealedSegments> Run<W> {
    pub(super) fn new(agent: Agent<W>) -> Self {
        Self {
            states: SegmentStates::new(),
            queue: VecDeque::new(),
            permit_queue: PermitQueue::new(agent.in_flight_limit.clone()),
            tasks: JoinSet::new(),
            works: HashMap::new(),
            to_delete: BTreeSet::new(),
            traces: HashMap::new(),
            stuck: HashMap::new(),
            round: 0,
            is_cut: false,
            is_closing: false,
            report_from: tokio::time::Instant::now(),
            is_unreported: false,
            summary: Summary::default(),
            agent,
        }
    }

    /// Runs until `shutdown`.
    pub(super) async fn until(mut self, shutdown: impl Future<Output = ()>) -> Summary {
        let mut shutdown = pin!(shutdown);
        let mut ticks = tokio::time::interval(self.agent.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = async {
                tokio::select! {
                    _ = ticks.tick() => Next::Tick,
                    next = self.next() => next,
                }
            };
            let next = tokio::select! {
                biased;
                () = &mut shutdown => break,
                next = next => next,
            };
            self.take(next).await;
            if self.is_cut && self.queue.is_empty() {
                self.list();
            }
        }
        self.drain().await
    }

    /// Runs until there is nothing left to do, or until `shutdown`.
    pub(super) async fn once(mut self, shutdown: impl Future<Output = ()>) -> Summary {
        let mut shutdown = pin!(shutdown);
        self.take(Next::Tick).await;
        while !self.is_idle() {
            let next = tokio::select! {
                biased;
                () = &mut shutdown => break,
                next = self.next() => next,
            };
            self.take(next).await;
            if self.is_cut && self.queue.is_empty() {
                self.list();
            }
        }
        self.tell_young();
        self.drain().await
    }

    /// Starts nothing new except deletions of stored segments. Waits up to `drain_max` for running tasks.
    async fn drain(mut self) -> Summary {
        self.is_closing = true;
        self.queue.clear();
        self.permit_queue.leave();
        let deadline = tokio::time::Instant::now() + self.agent.settings.drain_max;
        let under_way = self.sending().count();
        if under_way > 0 {
            info!(wal_dir = &*self.agent.name, under_way, "waiting for segments on their way");
        }
        while self.works.values().any(|work| !matches!(work, Work::List)) {
            match timeout_at(deadline, self.next()).await {
                Ok(next) => self.take(next).await,
                Err(_) => break,
            }
        }
        for segment in self.sending() {
            warn!(wal_dir = &*self.agent.name, segment = segment.name, "given up on its way; it stays");
        }
        self.sum_up()
    }

    /// Waits for the next event. Cancelling this loses nothing.
    async fn next(&mut self) -> Next {
        tokio::select! {
            Some(done) = self.tasks.join_next_with_id() => Next::Done(Box::new(done)),
            slot = self.permit_queue.slot(), if !self.queue.is_empty() => Next::InFlightPermit(slot),
            () = sleep_until(self.report_from), if self.is_unreported => Next::Report,
            else => std::future::pending().await,
        }
    }

    async fn take(&mut self, next: Next) {
        match next {
            Next::Tick => {
                self.round += 1;
                self.list();
            }
            Next::Report => {}
            Next::InFlightPermit(slot) => self.send_first(slot),
            Next::Done(done) => match *done {
                Ok((id, done)) => {
                    self.works.remove(&id);
                    self.take_done(done).await;
                }
                Err(error) => self.take_panic(&error),
            },
        }
        if self.queue.is_empty() {
            self.permit_queue.leave();
        }
        self.start_deletions();
        self.report();
    }

    async fn take_done(&mut self, done: Done) {
        match done {
            Done::Listed { begun, listing, first_offsets } => {
                self.take_listing(begun, listing, &first_offsets).await;
            }
            Done::Sent { segment, trace, outcome } => self.take_outcome(&segment, trace, outcome).await,
            Done::Deleted { partition, deleted, stop } => {
                self.take_deleted(partition, &deleted, stop).await;
            }
        }
    }

    /// Handles a task that panicked. This is a bug, but it does not end the agent: the segment or partition
    /// of the task stays as it is.
    fn take_panic(&mut self, error: &JoinError) {
        let work = self.works.remove(&error.id());
        error!(wal_dir = &*self.agent.name, %error, ?work, "a task panicked");
        if let Some(Work::Send(segment)) = work {
            self.states.failed(&segment, self.round);
        }
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.works.is_empty()
    }

    fn sending(&self) -> impl Iterator<Item = &Segment> {
        self.works.values().filter_map(|work| match work {
            Work::Send(segment) => Some(segment),
            Work::List | Work::Delete(_) => None,
        })
    }

    fn spawn(&mut self, work: Work, task: impl Future<Output = Done> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.works.insert(id, work);
    }

    /// Starts a listing, unless one is running.
    fn list(&mut self) {
        if self.is_closing || self.works.values().any(|work| matches!(work, Work::List)) {
            return;
        }
        self.is_cut = false;
        self.states.begin_listing();
        let (wal, begun, known) =
            (Arc::clone(&self.agent.wal), Instant::now(), self.agent.checkpoint.known_logs());
        self.spawn(Work::List, async move {
            let listing = wal.list().await;
            let first_offsets = match &listing {
                Ok(listing) => first_offsets(&*wal, &known, listing).await,
                Err(_) => FirstOffsets::new(),
            };
            Done::Listed { begun, listing, first_offsets }
        });
    }

    fn plan(&mut self) {
        if self.is_closing {
            return;
        }
        let in_flight: HashSet<_> = self.sending().map(|segment| &*segment.name).collect();
        let when = (&self.agent.settings, self.round, Now::read());
        let Plan { queue, is_cut } = plan(&self.states, &self.agent.checkpoint, &in_flight, when);
        (self.queue, self.is_cut) = (queue.into(), is_cut);
    }

    fn send_first(&mut self, slot: InFlightPermit) {
        let Some(segment) = self.queue.pop_front() else { return };
        let (wal, client) = (Arc::clone(&self.agent.wal), self.agent.client.clone());
        let (work, settings) = (Work::Send(segment.clone()), self.agent.settings.clone());
        let span = spans::segment(&segment.name, &segment.partition, segment.version.size_bytes);
        let sending = async move {
            let begun = Instant::now();
            let outcome = send(wal, client, segment.clone(), &settings).await;
            drop(slot);
            spans::ended(outcome.name());
            let trace = DeliveryTrace { took: begun.elapsed(), origin: Origin::here() };
            Done::Sent { segment, trace, outcome }
        };
        self.spawn(work, sending.instrument(span));
    }

    async fn take_outcome(&mut self, segment: &Segment, trace: DeliveryTrace, outcome: Outcome) {
        let (name, wal_dir, took) = (&segment.name, Arc::clone(&self.agent.name), trace.took);
        let is_lost = match outcome {
            Outcome::Stored(_) => false,
            Outcome::Gone => true,
            // A listing that ended meanwhile did not count the segment as lost, because it could still be
            // stored.
            _ => !segment.may_grow && !self.states.holds(name),
        };
        if is_lost {
            self.tell_vanished(std::slice::from_ref(segment));
        }
        match outcome {
            Outcome::Stored(receipt) => self.take_receipt(segment, trace, receipt).await,
            Outcome::Rejected(refusal, noted) => self.take_rejection(segment, took, &refusal, &noted),
            Outcome::Refused(refusal) => {
                metrics::agent::refused(&wal_dir, refusal.why());
                error!(%wal_dir, segment = name, %refusal, "refused: it stays until the cause is corrected");
                self.take_failure(segment, took, &refusal.to_string());
            }
            Outcome::Mismatch { worker, mismatch } => {
                metrics::agent::mismatched(&wal_dir);
                error!(%wal_dir, segment = name, worker, %mismatch, "a worker acknowledged something else: it stays");
                let why = format!("{worker} acknowledged something else: {mismatch}");
                self.take_failure(segment, took, &why);
            }
            Outcome::Later(why) => {
                warn!(%wal_dir, segment = name, why, "not stored: it stays for later");
                self.take_failure(segment, took, &why);
            }
            Outcome::Gone => self.states.remove(segment),
        }
    }

    /// Records a failure. The segment is tried again in a later round.
    fn take_failure(&mut self, segment: &Segment, took: Duration, why: &str) {
        self.states.failed(segment, self.round);
        self.notify_observer(segment, None, Some(took), SegmentOutcome::Later(why));
    }

    /// Records a rejection. The segment is not tried again until it changes or an operator requests it.
    fn take_rejection(
        &mut self,
        segment: &Segment,
        took: Duration,
        refusal: &Refusal,
        noted: &Result<(), WalError>,
    ) {
        let (name, wal_dir) = (&segment.name, &*self.agent.name);
        metrics::agent::rejected(wal_dir, refusal.why());
        error!(wal_dir, segment = name, %refusal, position = refusal.position, "rejected: it stays");
        if let Err(error) = noted {
            error!(wal_dir, segment = name, error = chain(error), "the rejection cannot be noted");
        }
        self.states.rejected(segment, noted.is_ok());
        self.notify_observer(segment, None, Some(took), SegmentOutcome::Rejected(&refusal.to_string()));
    }

    /// Writes the receipt to the checkpoint first, and then acts on it.
    async fn take_receipt(&mut self, segment: &Segment, trace: DeliveryTrace, receipt: Receipt) {
        self.summary.stored += 1;
        metrics::agent::acknowledged(&self.agent.name, receipt.digest().size_bytes, receipt.digest().records);
        let remembering = self.agent.checkpoint.remember(segment, receipt.clone());
        let remembered = spans::stage(spans::remember(trace.origin.as_ref()), remembering).await;
        if let Err(error) = remembered {
            // This costs only time: after a restart the segment is sent again.
            warn!(wal_dir = &*self.agent.name, segment = segment.name, %error, "the checkpoint cannot be written");
        }
        let took = trace.took;
        self.traces.insert(segment.name.clone(), trace);
        self.to_delete.insert(segment.partition.clone());
        if let Some(outcome) = self.outcome_of_stored(segment) {
            self.notify_observer(segment, Some(&receipt), Some(took), outcome);
        }
    }

    /// The outcome of a stored segment. `None`: the segment is to be deleted, and the outcome is known later.
    fn outcome_of_stored(&self, segment: &Segment) -> Option<SegmentOutcome<'_>> {
        let prefix = self.prefix(&segment.partition);
        if !is_ours_to_delete(segment, &self.agent.settings) {
            return Some(SegmentOutcome::Kept);
        }
        if !self.states.partition(&segment.partition).contains(segment) {
            return Some(SegmentOutcome::Later("it has changed or gone since it was read"));
        }
        let goes = prefix.may_go.iter().any(|(goes, _)| *goes == segment);
        match prefix.stops_at {
            Some(stays) if prefix.is_retained && stays == segment => {
                Some(SegmentOutcome::Held(&Hold::Retention))
            }
            Some(before) if !goes => Some(SegmentOutcome::WaitsBehind(&before.name)),
            _ => None,
        }
    }

    fn prefix(&self, partition: &TopicPartition) -> DeletablePrefix<'_> {
        let segments = self.states.partition(partition);
        deletable_prefix(segments, &self.states, &self.agent.checkpoint, (&self.agent.settings, Now::read()))
    }

    fn notify_observer(
        &self,
        segment: &Segment,
        receipt: Option<&Receipt>,
        took: Option<Duration>,
        outcome: SegmentOutcome<'_>,
    ) {
        let agent = &self.agent.name;
        (self.agent.observer)(&Event { agent, segment, receipt, took, outcome });
    }

    /// Reports what is not stored yet. If the last report was a moment ago, the next one follows soon.
    fn report(&mut self) {
        let now = tokio::time::Instant::now();
        self.is_unreported = now < self.report_from;
        if self.is_unreported {
            return;
        }
        if let Some(mut backlog) = self.states.backlog(&self.agent.checkpoint) {
            *backlog.held.entry(Hold::Retention.name()).or_default() += self.retained();
            metrics::agent::backlog(&self.agent.name, backlog);
            self.report_from = now + REPORT_EVERY;
        }
    }

    /// The number of stored segments that stay because of the retention settings.
    fn retained(&self) -> u64 {
        if self.agent.settings.retention == Retention::default() {
            return 0;
        }
        let of_partition = |(partition, segments): (&TopicPartition, &[Segment])| {
            let prefix = self.prefix(partition);
            let Some(first) = prefix.stops_at.filter(|_| prefix.is_retained) else { return 0 };
            let stays = |segment: &&Segment| {
                segment.position >= first.position
                    && is_ours_to_delete(segment, &self.agent.settings)
                    && self.states.state(segment, &self.agent.checkpoint) == SegmentState::Stored
            };
            segments.iter().filter(stays).count() as u64
        };
        self.states.partitions().map(of_partition).sum()
    }

    fn sum_up(&self) -> Summary {
        let mut summary = Summary { halted: self.states.halted().len() as u64, ..self.summary };
        for (partition, segments) in self.states.partitions() {
            // All segments behind a segment at rest are at rest, too.
            let mut is_at_rest = false;
            let stays = self.prefix(partition);
            for segment in segments {
                let is_retained = stays.is_retained && stays.stops_at == Some(segment);
                is_at_rest |= is_retained || self.states.hold_of(segment).is_some_and(Hold::is_steady);
                match self.states.state(segment, &self.agent.checkpoint) {
                    SegmentState::Unsent => summary.left += 1,
                    SegmentState::Stored if is_at_rest => {}
                    SegmentState::Stored => {
                        summary.left += u64::from(is_ours_to_delete(segment, &self.agent.settings));
                    }
                    SegmentState::Rejected => summary.rejected += 1,
                    SegmentState::Skipped => {}
                }
            }
        }
        summary
    }
}
