//! Builds slices: a slice whose frames still come, run by run, or several small slices in one task.

use futures::future::try_join;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::Span;

use crate::bundle::FrameFacts;
use crate::ids::TopicPartition;
use crate::index::TopicSettings;
use crate::spans;

use super::error::IngestError;
use super::memory_account::Share;
use super::slice::{self, Packed, Packer, Piece, Read, Reader, Slice};
use super::slices::{Built, SliceContext};

/// Consecutive pieces of one slice, and the memory that they hold.
pub(super) struct Run {
    pub pieces: Vec<Piece>,
    pub _read_ahead: Option<OwnedSemaphorePermit>,
    pub _memory: Share,
}

/// A slice whose frames have all come before its building begins.
pub(super) struct Unbuilt {
    pub partition: TopicPartition,
    /// The number of earlier slices of its partition.
    pub ordinal: usize,
    /// The estimated decompressed size, in bytes.
    pub opened_bytes: u64,
    pub span: Span,
    pub run: Run,
}

/// A run, and the facts that were found in each of its pieces.
struct ReadRun {
    run: Run,
    facts: Vec<FrameFacts>,
}

/// Builds a slice from its runs as they come. A run is read while the runs before it are packed: a slice may
/// be alone on its worker, and can then use two cores.
pub(super) async fn as_it_comes(
    context: &SliceContext,
    partition: &TopicPartition,
    runs: mpsc::UnboundedReceiver<Run>,
) -> Result<Slice, IngestError> {
    let (reader, packer) = context.begin(partition)?;
    let (feed, read) = mpsc::unbounded_channel();
    let reading = read_all(context, reader, runs, feed);
    let (read, packed) = try_join(reading, pack_all(context, packer, read)).await?;
    spilled(context, put_together(read, packed)?).await
}

/// Moves the slice to a disk, if those of this segment go there.
async fn spilled(context: &SliceContext, mut slice: Slice) -> Result<Slice, IngestError> {
    let Some(directory) = context.spill.clone() else { return Ok(slice) };
    let moved = tokio::task::spawn_blocking(move || slice.spill(&directory).map(|()| slice));
    moved.await.map_err(|_| IngestError::Panicked)?
}

/// Reads runs as they come, and sends each one on to be packed.
async fn read_all(
    context: &SliceContext,
    mut reader: Reader,
    mut runs: mpsc::UnboundedReceiver<Run>,
    feed: mpsc::UnboundedSender<ReadRun>,
) -> Result<Read, IngestError> {
    while let Some(run) = runs.recv().await {
        let read;
        (reader, read) = context.cpu.run(move || read_run(reader, run)).await??;
        if feed.send(read).is_err() {
            // The packer has failed, and returns the reason.
            return std::future::pending().await;
        }
    }
    drop(feed);
    finish(context, reader).await
}

/// Finishes a slice's index. For a moment, this takes much of the memory that a slice ever takes, so there is
/// memory for only a few slices at a time.
async fn finish(context: &SliceContext, reader: Reader) -> Result<Read, IngestError> {
    let memory = context.account.work_memory(reader.finish_usage()).await?;
    let finished = context.cpu.run(move || {
        let finished = reader.finish();
        drop(memory);
        finished
    });
    finished.await?
}

/// Packs runs after they are read.
async fn pack_all(
    context: &SliceContext,
    mut packer: Packer,
    mut read: mpsc::UnboundedReceiver<ReadRun>,
) -> Result<Packed, IngestError> {
    while let Some(run) = read.recv().await {
        packer = context.cpu.run(move || pack_run(packer, run)).await??;
    }
    context.cpu.run(move || packer.finish()).await?
}

/// Builds several slices as one task on a CPU thread, because slices that end before their first run is full
/// are too small for a task of their own. Each of them is built even if others fail: the fault that comes
/// first in the segment may be the last one here.
pub(super) async fn whole(context: &SliceContext, together: Vec<Unbuilt>) -> Vec<Built> {
    let work = context.clone();
    let built = context.cpu.run(move || {
        together
            .into_iter()
            .map(|one| spans::work(&one.span.clone(), || one.build(&work)))
            .collect::<Vec<_>>()
    });
    let Ok(built) = built.await else { return vec![Err(IngestError::Panicked)] };
    let mut ended = Vec::with_capacity(built.len());
    for one in built {
        ended.push(match one {
            Ok(Attempt::Built(built)) => {
                let (partition, ordinal, slice) = *built;
                spilled(context, slice).await.map(|slice| (partition, ordinal, slice))
            }
            Ok(Attempt::Waits(waits)) => waits.finish(context).await,
            Err(error) => Err(error),
        });
    }
    ended
}

/// The result of building a slice without waiting for anything.
enum Attempt {
    Built(Box<(TopicPartition, usize, Slice)>),
    /// The memory to finish its index is not free.
    Waits(Box<Waits>),
}

struct Waits {
    partition: TopicPartition,
    ordinal: usize,
    span: Span,
    reader: Reader,
    packed: Packed,
}

impl Unbuilt {
    fn build(self, context: &SliceContext) -> Result<Attempt, IngestError> {
        let Self { partition, ordinal, span, run, .. } = self;
        let (mut reader, mut packer) = context.begin(&partition)?;
        let Run { pieces, _read_ahead, _memory } = run;
        let facts = reader.add(&pieces)?;
        packer.add(pieces, &facts)?;
        let packed = packer.finish()?;
        // Finish at once if there is memory: a slice that waits in the queue holds memory meanwhile.
        match context.account.try_work_memory(reader.finish_usage()) {
            Some(_room) => {
                let slice = put_together(reader.finish()?, packed)?;
                Ok(Attempt::Built(Box::new((partition, ordinal, slice))))
            }
            None => Ok(Attempt::Waits(Box::new(Waits { partition, ordinal, span, reader, packed }))),
        }
    }
}

impl Waits {
    async fn finish(self, context: &SliceContext) -> Built {
        let Self { partition, ordinal, span, reader, packed } = self;
        let ended = async { put_together(finish(context, reader).await?, packed) };
        let slice = spans::stage(span, ended).await?;
        Ok((partition, ordinal, spilled(context, slice).await?))
    }
}

fn put_together(read: Read, packed: Packed) -> Result<Slice, IngestError> {
    let slice = Slice::new(read, packed)?;
    spans::record_size(slice.counts.source_bytes, slice.counts.records);
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

impl SliceContext {
    fn begin(&self, partition: &TopicPartition) -> Result<(Reader, Packer), IngestError> {
        let settings: TopicSettings = self.settings.for_topic(partition.topic());
        slice::begin(&settings, &self.account, self.undecodable, &self.job)
    }
}
