//! Deals frames out to slices and has them built side by side: each slice by one task, its work on the CPU threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use futures::future::try_join;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::bundle::FrameFacts;
use crate::cpu::Cpu;
use crate::ids::TopicPartition;
use crate::index::{Settings, TopicSettings};
use crate::spans;
use crate::stats::Job;

use super::Undecodable;
use super::error::IngestError;
use super::meter::{Meter, Share};
use super::slice::{self, Packed, Packer, Piece, Read, Reader, SLICE_BYTES, Slice};

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

/// From how many source bytes on those that are built tell what the others will come to.
const TELLING_BYTES: u64 = 4 << 20;

/// The parts that every slice of a request needs.
#[derive(Clone)]
pub(super) struct Workshop {
    pub cpu: Cpu,
    pub settings: Arc<Settings>,
    pub meter: Meter,
    /// The segment's size.
    pub segment_bytes: u64,
    /// What to do with a frame that cannot be decoded.
    pub undecodable: Undecodable,
    pub job: Arc<Job>,
}

/// All slices of one segment.
pub(super) struct Slices {
    workshop: Workshop,
    partitions: BTreeMap<TopicPartition, OpenSlice>,
    /// Source bytes since the last time that all slices ended.
    window_bytes: u64,
    pending_bytes: usize,
    pending_pieces: usize,
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
    tasks: JoinSet<Built>,
    finished: BTreeMap<TopicPartition, BTreeMap<usize, Slice>>,
    first_fault: Option<IngestError>,
}

/// What a slice's task comes to: the slice, and which one of its partition it is.
type Built = Result<(TopicPartition, usize, Slice), IngestError>;

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

/// Consecutive pieces of one slice, and the memory they hold.
struct Run {
    pieces: Vec<Piece>,
    _read_ahead: Option<OwnedSemaphorePermit>,
    _memory: Share,
}

/// A run, and what was found in each of its pieces.
struct ReadRun {
    run: Run,
    facts: Vec<FrameFacts>,
}

impl Slices {
    pub(super) fn new(workshop: Workshop) -> Self {
        let threads = workshop.cpu.threads();
        let pending_memory = workshop.meter.share();
        Self {
            workshop,
            partitions: BTreeMap::new(),
            window_bytes: 0,
            pending_bytes: 0,
            pending_pieces: 0,
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
            None => self.partitions.entry(partition.clone()).or_default(),
        };
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
            self.take_in(ended.unwrap_or(Err(IngestError::Panicked)));
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
        let in_hand = self.workshop.meter.held().saturating_sub(finished);
        let to_finish = self.workshop.segment_bytes.saturating_sub(self.dealt_bytes - source);
        let to_finish = u128::from(finished) * u128::from(to_finish) / u128::from(source);
        let needed = u64::try_from(to_finish).unwrap_or(u64::MAX).saturating_add(in_hand);
        Ok(self.workshop.meter.foresee(needed)?)
    }

    /// The source has ended: builds what is left and returns each partition's slices in order. Where several slices
    /// failed, the fault that comes first in the segment is the one to name.
    pub(super) async fn finish(&mut self) -> Result<BTreeMap<TopicPartition, Vec<Slice>>, IngestError> {
        self.end_all_slices().await?;
        while let Some(ended) = self.tasks.join_next().await {
            self.take_in(ended.unwrap_or(Err(IngestError::Panicked)));
        }
        match self.first_fault.take() {
            Some(fault) => Err(fault),
            None => {
                let in_order = |slices: BTreeMap<usize, Slice>| slices.into_values().collect();
                let finished = std::mem::take(&mut self.finished);
                Ok(finished.into_iter().map(|(partition, slices)| (partition, in_order(slices))).collect())
            }
        }
    }

    fn take_in(&mut self, ended: Built) {
        match ended {
            Ok((partition, ordinal, slice)) if self.first_fault.is_none() => {
                self.built.source += slice.tally.source_bytes;
                self.built.finished += slice.memory.bytes();
                self.finished.entry(partition).or_default().insert(ordinal, slice);
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

    fn account(&mut self) -> Result<(), IngestError> {
        let bytes = self.pending_bytes + self.pending_pieces * size_of::<Piece>();
        Ok(self.pending_memory.set(bytes as u64)?)
    }

    /// Sends the pending pieces to the slice's builder, which starts with the first run where one may still be started.
    async fn send_run(&mut self, partition: &TopicPartition) -> Result<(), IngestError> {
        let Some(open) = self.partitions.get_mut(partition) else { return Ok(()) };
        let feed = match &open.feed {
            Some(feed) => feed.clone(),
            None if self.builders >= self.builders_max => return Ok(()),
            None => {
                let (feed, runs) = mpsc::unbounded_channel();
                let (workshop, partition, ordinal) = (self.workshop.clone(), partition.clone(), open.ordinal);
                let span = spans::build(&partition, ordinal);
                self.tasks.spawn(spans::stage(span, async move {
                    let slice = build_as_it_comes(&workshop, &partition, runs).await?;
                    Ok((partition, ordinal, slice))
                }));
                open.feed = Some(feed.clone());
                self.builders += 1;
                feed
            }
        };
        let pending = open.take_pending();
        let run = self.run_of(pending).await?;
        self.feed(&feed, run).await
    }

    /// Has the slice built to its end; the partition's next frame begins another.
    async fn end_slice(&mut self, partition: &TopicPartition) -> Result<(), IngestError> {
        let Some(open) = self.partitions.get_mut(partition).filter(|open| open.opened_bytes > 0) else {
            return Ok(());
        };
        let (ordinal, feed) = (open.ordinal, open.feed.take());
        let pending = open.take_pending();
        *open = OpenSlice { ordinal: ordinal + 1, ..OpenSlice::default() };
        let run = self.run_of(pending).await?;
        if let Some(feed) = feed {
            self.builders -= 1;
            return self.feed(&feed, run).await;
        }
        let (workshop, in_one_go) = (self.workshop.clone(), Arc::clone(&self.in_one_go));
        let (partition, span) = (partition.clone(), spans::build(partition, ordinal));
        self.tasks.spawn(spans::stage(span, async move {
            let _turn = in_one_go.acquire_owned().await;
            let slice = build_whole(&workshop, &partition, run).await?;
            Ok((partition, ordinal, slice))
        }));
        Ok(())
    }

    async fn end_all_slices(&mut self) -> Result<(), IngestError> {
        self.window_bytes = 0;
        let partitions: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
        for partition in partitions {
            self.end_slice(&partition).await?;
        }
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
        let mut memory = self.workshop.meter.share();
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

/// Reads a run while those before it are packed: a slice may be alone on its worker, and then finds two cores.
async fn build_as_it_comes(
    workshop: &Workshop,
    partition: &TopicPartition,
    runs: mpsc::UnboundedReceiver<Run>,
) -> Result<Slice, IngestError> {
    let (reader, packer) = workshop.begin(partition)?;
    let (feed, read) = mpsc::unbounded_channel();
    let reading = read_all(workshop, reader, runs, feed);
    let (read, packed) = try_join(reading, pack_all(workshop, packer, read)).await?;
    put_together(read, packed)
}

/// Reads runs as they come, and hands each on to be packed.
async fn read_all(
    workshop: &Workshop,
    mut reader: Reader,
    mut runs: mpsc::UnboundedReceiver<Run>,
    feed: mpsc::UnboundedSender<ReadRun>,
) -> Result<Read, IngestError> {
    while let Some(run) = runs.recv().await {
        let read;
        (reader, read) = workshop.cpu.run(move || read_run(reader, run)).await??;
        if feed.send(read).is_err() {
            // The packer has failed, and says why.
            return std::future::pending().await;
        }
    }
    drop(feed);
    finish(workshop, reader).await
}

/// Ends a slice's index. What that takes for a moment is much of what a slice ever takes: there is room for a few at a time.
async fn finish(workshop: &Workshop, reader: Reader) -> Result<Read, IngestError> {
    let room = workshop.meter.room(reader.finish_usage()).await?;
    let finished = workshop.cpu.run(move || {
        let finished = reader.finish();
        drop(room);
        finished
    });
    finished.await?
}

/// Packs runs as they have been read.
async fn pack_all(
    workshop: &Workshop,
    mut packer: Packer,
    mut read: mpsc::UnboundedReceiver<ReadRun>,
) -> Result<Packed, IngestError> {
    while let Some(run) = read.recv().await {
        packer = workshop.cpu.run(move || pack_run(packer, run)).await??;
    }
    workshop.cpu.run(move || packer.finish()).await?
}

/// One piece of work: a slice that ends before its first run is full is not worth more.
async fn build_whole(
    workshop: &Workshop,
    partition: &TopicPartition,
    run: Run,
) -> Result<Slice, IngestError> {
    let (mut reader, mut packer) = workshop.begin(partition)?;
    let meter = workshop.meter.clone();
    let built = workshop.cpu.run(move || -> Result<_, IngestError> {
        let Run { pieces, _read_ahead, _memory } = run;
        let facts = reader.add(&pieces)?;
        packer.add(pieces, &facts)?;
        let packed = packer.finish()?;
        // At once where there is room: what waits for its turn holds memory meanwhile.
        match meter.room_now(reader.finish_usage()) {
            Some(_room) => Ok((Ok(reader.finish()?), packed)),
            None => Ok((Err(reader), packed)),
        }
    });
    let (read, packed) = built.await??;
    let read = match read {
        Ok(read) => read,
        Err(reader) => finish(workshop, reader).await?,
    };
    put_together(read, packed)
}

fn put_together(read: Read, packed: Packed) -> Result<Slice, IngestError> {
    let slice = Slice::new(read, packed)?;
    spans::took(slice.tally.source_bytes, slice.tally.records);
    Ok(slice)
}

fn read_run(mut reader: Reader, run: Run) -> Result<(Reader, ReadRun), IngestError> {
    let facts = reader.add(&run.pieces)?;
    Ok((reader, ReadRun { run, facts }))
}

fn pack_run(mut packer: Packer, ReadRun { run, facts }: ReadRun) -> Result<Packer, IngestError> {
    packer.add(run.pieces, &facts)?;
    Ok(packer)
}

impl Workshop {
    fn begin(&self, partition: &TopicPartition) -> Result<(Reader, Packer), IngestError> {
        let settings: TopicSettings = self.settings.for_topic(partition.topic());
        slice::begin(&settings, &self.meter, self.undecodable, &self.job)
    }
}

#[cfg(test)]
mod tests;
