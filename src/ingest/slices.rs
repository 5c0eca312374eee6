//! Deals frames out to slices and has them built side by side: each slice by one task, its work on the CPU threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use crate::bundle::FrameFacts;
use crate::cpu::Cpu;
use crate::ids::TopicPartition;
use crate::index::Settings;
use crate::spans;
use crate::stats::Job;

use super::Undecodable;
use super::build::{self, Run, Unbuilt};
use super::error::IngestError;
use super::memory_account::{MemoryAccount, Share};
use super::pack;
use super::slice::{Piece, SLICE_BYTES, SLICE_LEAST_BYTES, Slice};

/// Frames go to a slice's builder in runs that open to about this much: a thread hop for each would cost more than it brings. What is
/// less than one run is built in one go.
const RUN_BYTES: u64 = 1 << 20;

/// Source bytes after which every open slice ends, whatever it holds: a segment of a thousand partitions then never has a
/// thousand builders, nor all of its bytes, in memory. Like the slices' own size this depends on the source alone.
const WINDOW_BYTES: u64 = 256 << 20;

/// What a request may have handed to builders that is not built yet, opened: as much as a slice, so that the next one is begun long
/// before a core is through with one.
const READ_AHEAD_BYTES: u64 = SLICE_BYTES;

/// The most partitions of a segment. With the longest of names their receipt takes 44 MB, and the client here takes 64 MiB: a receipt that
/// nobody takes is none.
pub(super) const PARTITIONS_MAX: usize = 20_000;

/// Slices of less than a run are built together, up to this many by one piece of work: what comes with each piece of work takes longer than to
/// build a slice of one record.
const BUILT_TOGETHER_MAX: usize = 64;

/// What is remembered of a partition while its segment comes, in bytes, beside its name: its open slice, its place among the finished ones, and
/// a place in a list for each, in trees whose nodes are half full.
const PARTITION_BYTES: usize = 512;

/// From how many source bytes on those that are built tell what the others will come to.
const TELLING_BYTES: u64 = 4 << 20;

/// The parts that every slice of a request needs.
#[derive(Clone)]
pub(super) struct SliceContext {
    pub cpu: Cpu,
    pub settings: Arc<Settings>,
    pub account: MemoryAccount,
    /// The segment's size.
    pub segment_bytes: u64,
    /// What to do with a frame that cannot be decoded.
    pub undecodable: Undecodable,
    pub job: Arc<Job>,
}

/// All slices of one segment.
pub(super) struct Slices {
    context: SliceContext,
    partitions: BTreeMap<TopicPartition, OpenSlice>,
    /// Source bytes since the last time that all slices ended.
    window_bytes: u64,
    pending_bytes: usize,
    pending_pieces: usize,
    /// What the partitions' names and places take, in bytes.
    known_bytes: usize,
    /// Slices whose first frame has come and which no builder has begun.
    not_begun: usize,
    pending_memory: Share,
    /// Source bytes so far.
    dealt_bytes: u64,
    built: BuiltSoFar,
    /// The partitions with pieces that wait since the last time that the memory was put in step.
    waiting_anew: Vec<TopicPartition>,
    /// How many slices may be built while their frames still come; the others' frames wait for the slice to end.
    builders_max: usize,
    /// How many are.
    builders: usize,
    read_ahead: Arc<Semaphore>,
    /// Bounds how many of the slices that are built in one go are at work.
    in_one_go: Arc<Semaphore>,
    tasks: JoinSet<Vec<Built>>,
    /// Of each partition, in whatever order they ended.
    finished: BTreeMap<TopicPartition, Vec<(usize, Slice)>>,
    first_fault: Option<IngestError>,
}

/// What a slice comes to: the slice, and which one of its partition it is.
pub(super) type Built = Result<(TopicPartition, usize, Slice), IngestError>;

/// What the slices that have ended were and what they came to, in bytes.
#[derive(Default)]
struct BuiltSoFar {
    source: u64,
    finished: u64,
}

/// A partition's slice that takes frames, and those that wait for a run.
#[derive(Default)]
struct OpenSlice {
    /// How many slices of the partition came before.
    ordinal: usize,
    /// What its frames open to.
    opened_bytes: u64,
    pending: Pending,
    /// How many of those that wait keep nothing of the chunk that they came in.
    moved_out: usize,
    feed: Option<mpsc::UnboundedSender<Run>>,
}

/// Pieces that wait for a run.
#[derive(Default)]
struct Pending {
    pieces: Vec<Piece>,
    bytes: usize,
    opened_bytes: u64,
}

impl Slices {
    pub(super) fn new(context: SliceContext) -> Self {
        let threads = context.cpu.threads();
        let pending_memory = context.account.share();
        Self {
            context,
            partitions: BTreeMap::new(),
            window_bytes: 0,
            pending_bytes: 0,
            pending_pieces: 0,
            known_bytes: 0,
            not_begun: 0,
            pending_memory,
            dealt_bytes: 0,
            built: BuiltSoFar::default(),
            waiting_anew: Vec::new(),
            builders_max: 2 * threads,
            builders: 0,
            read_ahead: Arc::new(Semaphore::new(READ_AHEAD_BYTES as usize)),
            in_one_go: Arc::new(Semaphore::new(threads)),
            tasks: JoinSet::new(),
            finished: BTreeMap::new(),
            first_fault: None,
        }
    }

    /// Gives `piece` to the partition's open slice; waits while too much lies unbuilt.
    pub(super) async fn add(&mut self, partition: &TopicPartition, piece: Piece) -> Result<(), IngestError> {
        let bytes = piece.len();
        let known = self.partitions.len();
        let open = match self.partitions.get_mut(partition) {
            Some(open) => open,
            None if known >= PARTITIONS_MAX => return Err(IngestError::TooManyPartitions),
            None => {
                self.known_bytes += PARTITION_BYTES + partition.topic().len();
                self.partitions.entry(partition.clone()).or_default()
            }
        };
        self.not_begun += usize::from(open.opened_bytes == 0);
        if open.pending.pieces.len() == open.moved_out {
            self.waiting_anew.push(partition.clone());
        }
        open.opened_bytes += piece.opened_bytes();
        open.pending.push(piece);
        self.pending_bytes += bytes;
        self.pending_pieces += 1;
        self.window_bytes += bytes as u64;
        self.dealt_bytes += bytes as u64;
        if open.opened_bytes >= SLICE_BYTES {
            self.end_slice(partition).await?;
        } else if open.pending.opened_bytes >= RUN_BYTES {
            self.send_run(partition).await?;
        }
        if self.window_bytes >= WINDOW_BYTES {
            self.end_all_slices().await?;
        }
        Ok(())
    }

    /// To be called after each chunk. Takes in slices that have ended, so that a fault in one of them ends the segment now and
    /// not with its last byte; and keeps the memory of what waits in step.
    pub(super) async fn keep_up(&mut self) -> Result<(), IngestError> {
        for partition in self.waiting_anew.drain(..) {
            if let Some(open) = self.partitions.get_mut(&partition) {
                open.move_out();
            }
        }
        let built_before = self.built.source;
        while let Some(ended) = self.tasks.try_join_next() {
            self.take_in_all(ended);
        }
        if self.first_fault.is_some() {
            return Err(self.give_up().await);
        }
        if self.built.source > built_before {
            self.learn()?;
        }
        self.account()
    }

    /// What has been built tells what the rest will come to: compressed batches grow to twice their size, others shrink to a
    /// fraction. What is in hand beside that is about the same until the end. A segment that will not fit is refused now, not when
    /// most of it has been received and built.
    fn learn(&self) -> Result<(), IngestError> {
        let BuiltSoFar { source, finished } = self.built;
        if source < TELLING_BYTES {
            return Ok(());
        }
        let in_hand = self.context.account.held().saturating_sub(finished);
        let to_finish = self.context.segment_bytes.saturating_sub(self.dealt_bytes - source);
        let to_finish = u128::from(finished) * u128::from(to_finish) / u128::from(source);
        let needed = u64::try_from(to_finish).unwrap_or(u64::MAX).saturating_add(in_hand);
        Ok(self.context.account.foresee(needed)?)
    }

    /// The source has ended: builds what is left and returns each partition's slices in order. Where several slices
    /// failed, the fault that comes first in the segment is the one to name.
    pub(super) async fn finish(&mut self) -> Result<BTreeMap<TopicPartition, Vec<Slice>>, IngestError> {
        self.end_all_slices().await?;
        while let Some(ended) = self.tasks.join_next().await {
            self.take_in_all(ended);
        }
        match self.first_fault.take() {
            Some(fault) => Err(fault),
            None => {
                let in_order = |mut slices: Vec<(usize, Slice)>| {
                    slices.sort_unstable_by_key(|(ordinal, _)| *ordinal);
                    slices.into_iter().map(|(_, slice)| slice).collect()
                };
                let finished = std::mem::take(&mut self.finished);
                Ok(finished.into_iter().map(|(partition, slices)| (partition, in_order(slices))).collect())
            }
        }
    }

    fn take_in_all(&mut self, ended: Result<Vec<Built>, JoinError>) {
        match ended {
            Ok(built) => built.into_iter().for_each(|one| self.take_in(one)),
            Err(_) => self.take_in(Err(IngestError::Panicked)),
        }
    }

    fn take_in(&mut self, ended: Built) {
        match ended {
            Ok((partition, ordinal, slice)) if self.first_fault.is_none() => {
                self.built.source += slice.counts.source_bytes;
                self.built.finished += slice.memory.bytes();
                // Most partitions have one.
                let slices = self.finished.entry(partition).or_default();
                if slices.is_empty() {
                    slices.reserve_exact(1);
                }
                slices.push((ordinal, slice));
            }
            Ok(_) => {}
            Err(fault) => {
                let earlier = self.first_fault.take().filter(|first| first.position() <= fault.position());
                self.first_fault = Some(earlier.unwrap_or(fault));
                self.finished.clear();
            }
        }
    }

    /// A slice has failed: lets the others that are under way end, for an earlier one may have failed too.
    async fn give_up(&mut self) -> IngestError {
        self.partitions.clear();
        match Box::pin(self.finish()).await {
            Err(fault) => fault,
            Ok(_) => IngestError::Panicked,
        }
    }

    /// What waits, and the least that will come of it: a segment of more partitions than there is memory for is refused before any of them is
    /// built.
    fn account(&mut self) -> Result<(), IngestError> {
        let waits = self.pending_bytes + self.pending_pieces * size_of::<Piece>() + self.known_bytes;
        let to_come = self.not_begun as u64 * SLICE_LEAST_BYTES + pack::usage(self.partitions.len());
        Ok(self.pending_memory.set(waits as u64 + to_come)?)
    }

    /// Sends the pending pieces to the slice's builder, which starts with the first run where one may still be started.
    async fn send_run(&mut self, partition: &TopicPartition) -> Result<(), IngestError> {
        let Some(open) = self.partitions.get_mut(partition) else { return Ok(()) };
        let feed = match &open.feed {
            Some(feed) => feed.clone(),
            None if self.builders >= self.builders_max => return Ok(()),
            None => {
                let (feed, runs) = mpsc::unbounded_channel();
                let (context, partition, ordinal) = (self.context.clone(), partition.clone(), open.ordinal);
                let span = spans::build(&partition, ordinal);
                self.tasks.spawn(async move {
                    let slice = spans::stage(span, build::as_it_comes(&context, &partition, runs)).await;
                    vec![slice.map(|slice| (partition, ordinal, slice))]
                });
                open.feed = Some(feed.clone());
                self.builders += 1;
                self.not_begun -= 1;
                feed
            }
        };
        let pending = open.take_pending();
        let run = self.run_of(pending).await?;
        self.feed(&feed, run).await
    }

    /// Has the slice built to its end; the partition's next frame begins another.
    async fn end_slice(&mut self, partition: &TopicPartition) -> Result<(), IngestError> {
        let mut together = Vec::new();
        self.end_slice_with(partition, &mut together).await?;
        self.build(together);
        Ok(())
    }

    /// The same, where a slice that nobody has begun is built together with others.
    async fn end_slice_with(
        &mut self,
        partition: &TopicPartition,
        together: &mut Vec<Unbuilt>,
    ) -> Result<(), IngestError> {
        let Some(open) = self.partitions.get_mut(partition).filter(|open| open.opened_bytes > 0) else {
            return Ok(());
        };
        let (ordinal, feed) = (open.ordinal, open.feed.take());
        let pending = open.take_pending();
        *open = OpenSlice { ordinal: ordinal + 1, ..OpenSlice::default() };
        if let Some(feed) = feed {
            let run = self.run_of(pending).await?;
            self.builders -= 1;
            return self.feed(&feed, run).await;
        }
        self.not_begun -= 1;
        let bytes: u64 = together.iter().map(|one| one.opened_bytes).sum();
        // Those that wait for others must not hold what a run of its own waits for.
        if together.len() >= BUILT_TOGETHER_MAX || bytes + pending.opened_bytes > RUN_BYTES {
            self.build(std::mem::take(together));
        }
        let (partition, span) = (partition.clone(), spans::build(partition, ordinal));
        let opened_bytes = pending.opened_bytes;
        let run = self.run_of(pending).await?;
        together.push(Unbuilt { partition, ordinal, opened_bytes, span, run });
        Ok(())
    }

    /// Has whole slices built by one piece of work.
    fn build(&mut self, together: Vec<Unbuilt>) {
        if together.is_empty() {
            return;
        }
        let (context, in_one_go) = (self.context.clone(), Arc::clone(&self.in_one_go));
        self.tasks.spawn(async move {
            let _turn = in_one_go.acquire_owned().await;
            build::whole(&context, together).await
        });
    }

    async fn end_all_slices(&mut self) -> Result<(), IngestError> {
        self.window_bytes = 0;
        let partitions: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
        let mut together = Vec::new();
        for partition in partitions {
            self.end_slice_with(&partition, &mut together).await?;
            while let Some(ended) = self.tasks.try_join_next() {
                self.take_in_all(ended);
            }
        }
        self.build(together);
        Ok(())
    }

    /// Makes a run of what waited; waits itself while builders have too much before them.
    async fn run_of(&mut self, pending: Pending) -> Result<Run, IngestError> {
        let Pending { pieces, bytes, opened_bytes } = pending;
        // A run larger than the whole read-ahead takes all of it.
        let units = opened_bytes.min(READ_AHEAD_BYTES) as u32;
        let permit = Arc::clone(&self.read_ahead).acquire_many_owned(units).await.ok();
        self.pending_bytes -= bytes;
        self.pending_pieces -= pieces.len();
        self.account()?;
        let mut memory = self.context.account.share();
        let each = size_of::<Piece>() + size_of::<FrameFacts>();
        memory.set((bytes + pieces.len() * each) as u64)?;
        Ok(Run { pieces, _read_ahead: permit, _memory: memory })
    }

    /// A slice that takes no more runs has failed: its own error, or an earlier slice's, says why.
    async fn feed(&mut self, feed: &mpsc::UnboundedSender<Run>, run: Run) -> Result<(), IngestError> {
        if feed.send(run).is_ok() {
            return Ok(());
        }
        Err(self.give_up().await)
    }
}

impl OpenSlice {
    /// A frame is a slice of its chunk and keeps all of that in memory: one that waits for others is copied out. A partition with a
    /// frame of a few bytes in each chunk would otherwise keep a whole window of the segment.
    fn move_out(&mut self) {
        let pieces = &mut self.pending.pieces[self.moved_out..];
        let mut place = BytesMut::with_capacity(pieces.iter().map(Piece::len).sum());
        pieces.iter_mut().for_each(|piece| piece.move_to(&mut place));
        self.moved_out = self.pending.pieces.len();
    }

    fn take_pending(&mut self) -> Pending {
        self.moved_out = 0;
        std::mem::take(&mut self.pending)
    }
}

impl Pending {
    fn push(&mut self, piece: Piece) {
        self.bytes += piece.len();
        self.opened_bytes += piece.opened_bytes();
        self.pieces.push(piece);
    }
}

#[cfg(test)]
mod tests;
