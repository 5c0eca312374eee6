//! Distributes frames to slices, and builds these concurrently: each slice is one task, with its work on the
//! CPU threads.

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
use super::spill::SpillDir;

/// The decompressed size of a run, in bytes. Frames are sent to a slice's builder in runs, because a change
/// of thread for each frame would cost too much. A slice that is smaller than one run is built in one task.
const RUN_BYTES: u64 = 1 << 20;

/// The number of source bytes after which every open slice ends, whatever it holds. So a segment of a
/// thousand partitions never has a thousand builders, or all of its bytes, in memory. Like the size of
/// slices, this depends only on the source.
const WINDOW_BYTES: u64 = 256 << 20;

/// The decompressed size of what a request may have sent to builders and is not yet built, in bytes. It is
/// the size of a slice, so that the next slice begins long before a core has finished one.
const READ_AHEAD_BYTES: u64 = SLICE_BYTES;

/// The maximum number of partitions of a segment. With the longest names their receipt takes 44 MB, and this
/// project's client accepts 64 MiB. A receipt that no client accepts is useless.
pub(super) const PARTITIONS_MAX: usize = 20_000;

/// The maximum number of slices that are built as one task. Only slices smaller than a run are built
/// together: a task's overhead takes longer than building a slice of one record.
const BUILT_TOGETHER_MAX: usize = 64;

/// The memory for a partition while its segment comes, in bytes, in addition to its name: its open slice, its
/// entry among the finished slices, and a list entry for each, in trees whose nodes are half full.
const PARTITION_BYTES: usize = 512;

/// The number of built source bytes from which on the memory of the rest is predicted.
const TELLING_BYTES: u64 = 4 << 20;

/// What every slice of a request needs.
#[derive(Clone)]
pub(super) struct SliceContext {
    pub cpu: Cpu,
    pub settings: Arc<Settings>,
    pub account: MemoryAccount,
    /// The segment's size, in bytes.
    pub segment_bytes: u64,
    /// What to do with a frame that cannot be decoded.
    pub undecodable: Undecodable,
    /// Where finished slices go, if the segment is too large to be held in memory.
    pub spill: Option<SpillDir>,
    pub job: Arc<Job>,
}

/// All slices of one segment.
pub(super) struct Slices {
    context: SliceContext,
    partitions: BTreeMap<TopicPartition, OpenSlice>,
    /// The source bytes since all slices last ended.
    window_bytes: u64,
    pending_bytes: usize,
    pending_pieces: usize,
    /// The memory of the partitions' names and entries, in bytes.
    known_bytes: usize,
    /// The number of slices that have a frame and no builder.
    not_begun: usize,
    pending_memory: Share,
    /// The source bytes so far.
    dealt_bytes: u64,
    built: BuiltSoFar,
    /// The partitions with new waiting pieces since the last call of `keep_up`.
    waiting_anew: Vec<TopicPartition>,
    /// The maximum number of slices that are built while their frames still come. The frames of the other
    /// slices wait until their slice ends.
    builders_max: usize,
    /// The number of slices that are built while their frames come.
    builders: usize,
    read_ahead: Arc<Semaphore>,
    /// Limits how many tasks that build whole slices run at the same time.
    in_one_go: Arc<Semaphore>,
    tasks: JoinSet<Vec<Built>>,
    /// The slices of each partition, in the order in which they ended.
    finished: BTreeMap<TopicPartition, Vec<(usize, Slice)>>,
    first_fault: Option<IngestError>,
}

/// The result of building a slice: its partition, its number in the partition, and the slice.
pub(super) type Built = Result<(TopicPartition, usize, Slice), IngestError>;

/// The sizes of the slices that have ended, in bytes: of their source, and of the result.
#[derive(Default)]
struct BuiltSoFar {
    source: u64,
    finished: u64,
}

/// A partition's slice that still takes frames, and the pieces that wait for a run.
#[derive(Default)]
struct OpenSlice {
    /// The number of earlier slices of the partition.
    ordinal: usize,
    /// The decompressed size of its frames, in bytes.
    opened_bytes: u64,
    pending: Pending,
    /// The number of waiting pieces that keep nothing of the chunk that they came in.
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

    /// Adds `piece` to the partition's open slice. Waits while too much is not built yet.
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

    /// Must be called after each chunk. Takes over slices that have ended, so that a fault in one of them
    /// ends the segment now and not after its last byte. Accounts for the memory of what waits.
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

    /// Predicts the memory of the rest from what is built: compressed batches grow to twice their size,
    /// others shrink to a fraction. The rest of the memory in use stays about the same until the end. So a
    /// segment that will not fit is refused now, not when most of it has been received and built.
    fn learn(&self) -> Result<(), IngestError> {
        let BuiltSoFar { source, finished } = self.built;
        if source < TELLING_BYTES {
            return Ok(());
        }
        let in_hand = self.context.account.held().saturating_sub(finished);
        let to_finish = self.context.segment_bytes.saturating_sub(self.dealt_bytes - source);
        let to_finish = u128::from(finished) * u128::from(to_finish) / u128::from(source);
        let needed = u64::try_from(to_finish).unwrap_or(u64::MAX).saturating_add(in_hand);
        Ok(self.context.account.reserve_forecast(needed)?)
    }

    /// Ends the source: builds what is left, and returns each partition's slices in order. If several slices
    /// failed, returns the fault that comes first in the segment.
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
                // Most partitions have one slice.
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

    /// Handles a slice that has failed. Lets the other running slices end, because an earlier one may have
    /// failed, too.
    async fn give_up(&mut self) -> IngestError {
        self.partitions.clear();
        match Box::pin(self.finish()).await {
            Err(fault) => fault,
            Ok(_) => IngestError::Panicked,
        }
    }

    /// Accounts for what waits, and for the minimum memory of its results. So a segment with more partitions
    /// than there is memory for is refused before any of them is built.
    fn account(&mut self) -> Result<(), IngestError> {
        let waits = self.pending_bytes + self.pending_pieces * size_of::<Piece>() + self.known_bytes;
        let to_come = self.not_begun as u64 * SLICE_LEAST_BYTES + pack::usage(self.partitions.len());
        Ok(self.pending_memory.set(waits as u64 + to_come)?)
    }

    /// Sends the waiting pieces to the slice's builder. The first run starts the builder, if one more is
    /// allowed.
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

    /// Builds the slice to its end. The partition's next frame begins another slice.
    async fn end_slice(&mut self, partition: &TopicPartition) -> Result<(), IngestError> {
        let mut together = Vec::new();
        self.end_slice_with(partition, &mut together).await?;
        self.build(together);
        Ok(())
    }

    /// The same, but a slice without a builder is built together with others.
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
        // Slices that wait to be built together must not hold permits for which this run waits.
        if together.len() >= BUILT_TOGETHER_MAX || bytes + pending.opened_bytes > RUN_BYTES {
            self.build(std::mem::take(together));
        }
        let (partition, span) = (partition.clone(), spans::build(partition, ordinal));
        let opened_bytes = pending.opened_bytes;
        let run = self.run_of(pending).await?;
        together.push(Unbuilt { partition, ordinal, opened_bytes, span, run });
        Ok(())
    }

    /// Builds whole slices as one task.
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

    /// Makes a run of waiting pieces. Waits while builders have too much to build.
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

    /// Sends a run to a builder. If the builder takes no more runs, its slice has failed. Then its error, or
    /// that of an earlier slice, is returned.
    async fn feed(&mut self, feed: &mpsc::UnboundedSender<Run>, run: Run) -> Result<(), IngestError> {
        if feed.send(run).is_ok() {
            return Ok(());
        }
        Err(self.give_up().await)
    }
}

impl OpenSlice {
    /// Copies waiting frames out of their chunk. A frame is a part of its chunk, and keeps all of it in
    /// memory. Otherwise a partition with a frame of a few bytes in each chunk would keep a whole window of
    /// the segment.
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
