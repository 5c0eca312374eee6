//! Deals frames out to slices and has them built side by side: each slice by one task, its work on the CPU threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::cpu::Cpu;
use crate::ids::TopicPartition;
use crate::index::{Settings, TopicSettings};
use crate::stats::Job;

use super::error::IngestError;
use super::meter::{Meter, Share};
use super::slice::{Piece, SLICE_BYTES, Slice, SliceBuilder};

/// Frames go to a slice's builder in runs of about this size: a thread hop for each would cost more than it brings.
const RUN_BYTES: usize = 512 << 10;

/// Frames that wait for their run to fill, over all partitions. Beyond it the larger runs are sent early.
const PENDING_BYTES_MAX: usize = 32 << 20;

/// What a request may have read and not yet built: two slices, so that two cores find work in one partition.
const READ_AHEAD_BYTES: usize = 2 * SLICE_BYTES as usize;

/// The parts that every slice of a request needs.
#[derive(Clone)]
pub(super) struct Workshop {
    pub cpu: Cpu,
    pub settings: Arc<Settings>,
    pub meter: Meter,
    pub job: Arc<Job>,
}

/// All slices of one segment.
pub(super) struct Slices {
    workshop: Workshop,
    partitions: BTreeMap<TopicPartition, OpenPartition>,
    pending_bytes: usize,
    pending_memory: Share,
    read_ahead: Arc<Semaphore>,
    /// Bounds how many builders are at work when the source has ended.
    closing: Arc<Semaphore>,
    tasks: JoinSet<Result<(TopicPartition, usize, Slice), IngestError>>,
}

/// A partition's slice that takes frames, and those that wait for a run.
#[derive(Default)]
struct OpenPartition {
    /// How many slices came before.
    ordinal: usize,
    slice_bytes: u64,
    pending: Vec<Piece>,
    pending_bytes: usize,
    feed: Option<mpsc::UnboundedSender<Run>>,
}

/// Consecutive pieces of one slice, and the memory they hold.
struct Run {
    pieces: Vec<Piece>,
    _read_ahead: Option<OwnedSemaphorePermit>,
    _memory: Share,
}

impl Slices {
    pub(super) fn new(workshop: Workshop) -> Self {
        let closing = workshop.cpu.threads() * 2;
        let pending_memory = workshop.meter.share();
        Self {
            workshop,
            partitions: BTreeMap::new(),
            pending_bytes: 0,
            pending_memory,
            read_ahead: Arc::new(Semaphore::new(READ_AHEAD_BYTES)),
            closing: Arc::new(Semaphore::new(closing)),
            tasks: JoinSet::new(),
        }
    }

    /// Gives `piece` to the partition's open slice; waits while too much lies unbuilt.
    pub(super) async fn add(&mut self, partition: &TopicPartition, piece: Piece) -> Result<(), IngestError> {
        let bytes = piece.len();
        let open = match self.partitions.get_mut(partition) {
            Some(open) => open,
            None => self.partitions.entry(partition.clone()).or_default(),
        };
        open.pending.push(piece);
        open.pending_bytes += bytes;
        open.slice_bytes += bytes as u64;
        self.pending_bytes += bytes;
        let slice_ends = open.slice_bytes >= SLICE_BYTES;
        if slice_ends || open.pending_bytes >= RUN_BYTES {
            self.send_run(partition).await?;
        }
        if slice_ends {
            self.end_slice(partition);
        }
        if self.pending_bytes > PENDING_BYTES_MAX {
            self.send_largest_runs().await?;
        }
        Ok(())
    }

    /// What waits for its run has grown or shrunk: keeps its memory in step.
    pub(super) fn account(&mut self) -> Result<(), IngestError> {
        Ok(self.pending_memory.set(self.pending_bytes as u64)?)
    }

    /// The source has ended: builds what is left and returns each partition's slices in order. Where several slices
    /// failed, the fault that comes first in the segment is the one to name.
    pub(super) async fn finish(&mut self) -> Result<BTreeMap<TopicPartition, Vec<Slice>>, IngestError> {
        for (partition, open) in std::mem::take(&mut self.partitions) {
            self.finish_partition(partition, open).await?;
        }
        let mut finished: BTreeMap<TopicPartition, BTreeMap<usize, Slice>> = BTreeMap::new();
        let mut first_fault: Option<IngestError> = None;
        while let Some(ended) = self.tasks.join_next().await {
            match ended.unwrap_or(Err(IngestError::Panicked)) {
                Ok((partition, ordinal, slice)) if first_fault.is_none() => {
                    finished.entry(partition).or_default().insert(ordinal, slice);
                }
                Ok(_) => {}
                Err(fault) => {
                    let earlier = first_fault.take().filter(|first| first.position() <= fault.position());
                    first_fault = Some(earlier.unwrap_or(fault));
                    finished.clear();
                }
            }
        }
        match first_fault {
            Some(fault) => Err(fault),
            None => {
                let in_order = |slices: BTreeMap<usize, Slice>| slices.into_values().collect();
                Ok(finished.into_iter().map(|(partition, slices)| (partition, in_order(slices))).collect())
            }
        }
    }

    async fn finish_partition(
        &mut self,
        partition: TopicPartition,
        open: OpenPartition,
    ) -> Result<(), IngestError> {
        if open.pending.is_empty() {
            return Ok(());
        }
        let mut memory = self.workshop.meter.share();
        memory.set(open.pending_bytes as u64)?;
        let run = Run { pieces: open.pending, _read_ahead: None, _memory: memory };
        match open.feed {
            Some(feed) => self.feed(&feed, run).await,
            None => {
                let workshop = self.workshop.clone();
                let closing = Arc::clone(&self.closing);
                self.tasks.spawn(async move {
                    let _turn = closing.acquire_owned().await;
                    let slice = build_whole(&workshop, &partition, run).await?;
                    Ok((partition, open.ordinal, slice))
                });
                Ok(())
            }
        }
    }

    /// Sends the pending pieces of `partition` to its slice's task, starting it with the first run.
    async fn send_run(&mut self, partition: &TopicPartition) -> Result<(), IngestError> {
        let Some(open) = self.partitions.get_mut(partition).filter(|open| !open.pending.is_empty()) else {
            return Ok(());
        };
        let bytes = std::mem::take(&mut open.pending_bytes);
        let pieces = std::mem::take(&mut open.pending);
        self.pending_bytes -= bytes;
        // A frame larger than the whole read-ahead takes all of it.
        let units = u32::try_from(bytes.min(READ_AHEAD_BYTES)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.read_ahead).acquire_many_owned(units).await.ok();
        let mut memory = self.workshop.meter.share();
        memory.set(bytes as u64)?;
        let run = Run { pieces, _read_ahead: permit, _memory: memory };
        let feed = match &open.feed {
            Some(feed) => feed.clone(),
            None => {
                let (feed, runs) = mpsc::unbounded_channel();
                let (workshop, partition, ordinal) = (self.workshop.clone(), partition.clone(), open.ordinal);
                self.tasks.spawn(async move {
                    let slice = build_as_it_comes(&workshop, &partition, runs).await?;
                    Ok((partition, ordinal, slice))
                });
                open.feed = Some(feed.clone());
                feed
            }
        };
        self.feed(&feed, run).await
    }

    fn end_slice(&mut self, partition: &TopicPartition) {
        if let Some(open) = self.partitions.get_mut(partition) {
            *open = OpenPartition { ordinal: open.ordinal + 1, ..OpenPartition::default() };
        }
    }

    /// Half of what is pending, at least, lies with partitions that hold their fair share or more.
    async fn send_largest_runs(&mut self) -> Result<(), IngestError> {
        let fair = self.pending_bytes / self.partitions.len().max(1);
        let large: Vec<TopicPartition> = (self.partitions.iter())
            .filter(|(_, open)| open.pending_bytes >= fair.max(1))
            .map(|(partition, _)| partition.clone())
            .collect();
        for partition in large {
            self.send_run(&partition).await?;
        }
        Ok(())
    }

    /// A slice that takes no more runs has failed: its own error, or an earlier slice's, says why.
    async fn feed(&mut self, feed: &mpsc::UnboundedSender<Run>, run: Run) -> Result<(), IngestError> {
        if feed.send(run).is_ok() {
            return Ok(());
        }
        self.partitions.clear();
        match Box::pin(self.finish()).await {
            Err(fault) => Err(fault),
            Ok(_) => Err(IngestError::Panicked),
        }
    }
}

async fn build_as_it_comes(
    workshop: &Workshop,
    partition: &TopicPartition,
    mut runs: mpsc::UnboundedReceiver<Run>,
) -> Result<Slice, IngestError> {
    let mut builder = new_builder(workshop, partition)?;
    while let Some(run) = runs.recv().await {
        builder = workshop.cpu.run(move || add_run(builder, run)).await??;
    }
    workshop.cpu.run(move || builder.finish()).await?
}

async fn build_whole(
    workshop: &Workshop,
    partition: &TopicPartition,
    run: Run,
) -> Result<Slice, IngestError> {
    let builder = new_builder(workshop, partition)?;
    workshop.cpu.run(move || add_run(builder, run)?.finish()).await?
}

fn new_builder(workshop: &Workshop, partition: &TopicPartition) -> Result<SliceBuilder, IngestError> {
    let settings: TopicSettings = workshop.settings.for_topic(partition.topic());
    SliceBuilder::new(&settings, &workshop.meter, &workshop.job)
}

fn add_run(mut builder: SliceBuilder, run: Run) -> Result<SliceBuilder, IngestError> {
    builder.add(run.pieces)?;
    Ok(builder)
}
