//! Reads one block and adds its items to the reorder buffer.

use std::sync::Arc;

use bytes::Bytes;

use super::large::ItemLocation;
use super::memory::Memory;
use super::plan::Planned;
use super::reorder_buffer::{Missing, MissingReason, ReorderBuffer, Version};
use super::{FetchError, Form, Item};
use crate::archive::{
    Archive, Fault, Omitted, StoredRecord, WorkBounds, block_usage, fault_in_block, split_block,
};
use crate::bundle::BlockEntry;
use crate::ids::{OffsetRange, SegmentFormat};

use crate::segment::{self, Anomaly, Frame, KafkaBatch, NoBatch, SegmentError, Visitor};

/// The block of the items, and the limits for reading it.
struct BlockContext {
    archive: Arc<Archive>,
    entry: BlockEntry,
    bundle: Arc<str>,
    item_bytes_max: u64,
    bounds: WorkBounds,
    /// Whether a record's offset may lie outside of the range in its frame's header.
    has_offsets_outside_header: bool,
}

/// Reads a block and adds its items to `buffer`. Frames that cannot hold a requested item are not decoded. An
/// item that is larger than `item_bytes_max` bytes is added without its contents.
pub(super) async fn read(
    planned: Planned,
    form: Form,
    item_bytes_max: u64,
    mut buffer: ReorderBuffer,
    memory: Memory,
) -> Result<ReorderBuffer, FetchError> {
    let Planned { archive, entry, .. } = planned;
    if entry.is_undecoded && form == Form::Records {
        return Ok(buffer);
    }
    let needed = block_usage(&entry) + memory.work_bytes();
    let bundle = Arc::<str>::from(archive.name());
    if !memory.holds(needed) {
        add_block_outlines(&archive, &entry, &bundle, form, needed, &mut buffer);
        return Ok(buffer);
    }
    let _permit = memory.permit(needed).await?;
    let plain = archive.block(&entry).await?;
    let format = archive.manifest().segment.format;
    let has_offsets_outside_header = archive.manifest().anomalies.contains_key(Anomaly::RecordOffset.name());
    let (archive_of, bounds) = (Arc::clone(&archive), memory.work_bounds());
    let context = BlockContext {
        archive: archive_of,
        entry,
        bundle,
        item_bytes_max,
        bounds,
        has_offsets_outside_header,
    };
    let collected = archive.blocking(move || {
        let entry = &context.entry;
        for frame in split_block(entry, &plain, format)? {
            let range = frame.claimed_range().filter(|_| !context.has_offsets_outside_header);
            if range.is_some_and(|range| !buffer.takes_some(range.first(), range.last())) {
                continue;
            }
            let added = match form {
                Form::Records => context.add_records(&frame, &mut buffer),
                Form::KafkaBatches if entry.is_undecoded => {
                    context.add_undecoded(&frame, &mut buffer);
                    Ok(())
                }
                Form::KafkaBatches => context.add_batch(&frame, &mut buffer),
            };
            match added {
                Err(error) if is_too_large(&error) => context.add_outlines(&frame, form, None, &mut buffer),
                added => added.map_err(|error| fault_in_block(entry, &error))?,
            }
        }
        Ok::<_, Fault>(buffer)
    });
    Ok(collected.await?.map_err(|fault| archive.error(fault))?)
}

/// Adds what is known about a block that does not fit into the memory. If its offsets have no gaps, each
/// record is added without its contents. Otherwise the response ends at the first offset of the block.
fn add_block_outlines(
    archive: &Arc<Archive>,
    entry: &BlockEntry,
    bundle: &Arc<str>,
    form: Form,
    needed: u64,
    buffer: &mut ReorderBuffer,
) {
    let Some(offsets) = entry.offsets else { return };
    let missing =
        Missing { bundle: Arc::clone(bundle), offset: offsets.first(), why: MissingReason::TooLarge(needed) };
    let count = offsets.last().abs_diff(offsets.first()).saturating_add(1);
    if form == Form::KafkaBatches || entry.records != count {
        buffer.end_at(offsets.first().max(buffer.from()), missing);
        return;
    }
    let timestamp_ms = entry.times.filter(|times| times.min_ms == times.max_ms).map(|times| times.min_ms);
    let bytes = u64::from(entry.plain_len);
    let omitted = Some(Omitted { bytes, needed_bytes: bytes, fingerprint: Omitted::UNREAD });
    for offset in offsets.first().max(buffer.from())..=offsets.last() {
        if !buffer.takes(offset) {
            break;
        }
        let record = StoredRecord { timestamp_ms, omitted, ..StoredRecord::empty(offset) };
        let location =
            Some(ItemLocation { archive: Arc::clone(archive), entry: entry.clone(), bytes, crc32c: 0 });
        buffer.add(Version { item: Item::Record(record), bundle: Arc::clone(bundle), location });
    }
}

/// Returns the producer's batch of a frame; `None` if there is none.
pub(super) fn batch_of(
    entry: &BlockEntry,
    frame: &Frame,
    bounds: WorkBounds,
) -> Result<Option<KafkaBatch>, Fault> {
    if entry.is_undecoded {
        return Ok(frame.undecoded_batch().filter(|_| frame.format() == SegmentFormat::KafkaLog));
    }
    let batch = frame.kafka_batch(spans_bytes_max(frame, bounds));
    Ok(batch.map_err(|error| fault_in_block(entry, &error))?.ok())
}

/// The memory limit for a frame whose records are not opened. [`block_usage`] already counts the frames of a
/// block twice.
fn spans_bytes_max(frame: &Frame, bounds: WorkBounds) -> usize {
    2 * frame.bytes.len() + bounds.opened_bytes
}

fn is_too_large(error: &SegmentError) -> bool {
    matches!(error.fault(), segment::Fault::TooLarge { .. })
}

/// Collects the range of the offsets of a frame's records.
struct Offsets(Option<OffsetRange>);

impl Visitor for Offsets {
    fn limit(&mut self, offset: i64, _: Option<i64>) -> Option<usize> {
        let one = OffsetRange::new(offset, offset);
        self.0 = self.0.into_iter().chain(one).reduce(|a, b| a.cover(&b));
        None
    }

    fn record(&mut self, _: StoredRecord) {}
}

/// Adds records to the reorder buffer.
struct Records<'a> {
    buffer: &'a mut ReorderBuffer,
    context: &'a BlockContext,
    /// The offset of the last visited record; `None` if later records may have lower offsets.
    offset: Option<i64>,
}

impl Visitor for Records<'_> {
    fn limit(&mut self, offset: i64, _: Option<i64>) -> Option<usize> {
        self.offset = Some(offset).filter(|_| !self.context.has_offsets_outside_header);
        self.buffer.takes(offset).then_some(self.context.item_bytes_max as usize)
    }

    fn record(&mut self, record: StoredRecord) {
        let location = record.omitted.map(|omitted| self.context.location(omitted.needed_bytes, 0));
        let bundle = Arc::clone(&self.context.bundle);
        self.buffer.add(Version { item: Item::Record(record), bundle, location });
    }

    fn is_done(&self) -> bool {
        let end = self.buffer.end();
        self.offset.zip(end).is_some_and(|(offset, end)| end <= offset)
    }
}

impl BlockContext {
    fn location(&self, bytes: u64, crc32c: u32) -> ItemLocation {
        ItemLocation { archive: Arc::clone(&self.archive), entry: self.entry.clone(), bytes, crc32c }
    }

    fn missing(&self, offset: i64, why: MissingReason) -> Missing {
        Missing { bundle: Arc::clone(&self.bundle), offset, why }
    }

    fn add_records(&self, frame: &Frame, buffer: &mut ReorderBuffer) -> Result<(), SegmentError> {
        let mut records = Records { buffer, context: self, offset: None };
        match frame.visit(self.bounds.opened_bytes, self.bounds.window_bytes, &mut records) {
            Err(error) if is_too_large(&error) => {
                let after = records.offset;
                self.add_outlines(frame, Form::Records, after, buffer);
                Ok(())
            }
            visited => visited,
        }
    }

    /// Adds what is known about a frame that needs more memory than the limits of this fetch allow. If its
    /// offsets have no gaps, each record after `after` is added without its contents, and is read separately
    /// later. Otherwise the response ends at the first offset of the frame. The records up to `after` were
    /// added before.
    fn add_outlines(&self, frame: &Frame, form: Form, after: Option<i64>, buffer: &mut ReorderBuffer) {
        let range = frame.claimed_range().or(frame.head_range());
        let first = range.map_or(0, |range| range.first());
        let count = range.map(|range| range.last().abs_diff(range.first()).saturating_add(1));
        if form == Form::KafkaBatches || count.is_none() || frame.data_records() != count {
            let why = MissingReason::TooLarge(2 * self.bounds.window_bytes as u64);
            buffer.end_at(first.max(buffer.from()), self.missing(first, why));
            return;
        }
        let bytes = frame.bytes.len() as u64;
        let omitted =
            Some(Omitted { bytes, needed_bytes: ItemLocation::UNKNOWN, fingerprint: Omitted::UNREAD });
        let from = after.map_or(first, |after| after.saturating_add(1)).max(buffer.from());
        for offset in from..=range.map_or(first, |range| range.last()) {
            if !buffer.takes(offset) {
                break;
            }
            let leader_epoch = frame.leader_epoch();
            let item = Item::Record(StoredRecord { omitted, leader_epoch, ..StoredRecord::empty(offset) });
            let (bundle, location) =
                (Arc::clone(&self.bundle), Some(self.location(ItemLocation::UNKNOWN, 0)));
            buffer.add(Version { item, bundle, location });
        }
    }

    /// Adds a frame that the worker could not decode, as it is. If it has offsets but is no Kafka batch, the
    /// response ends there.
    fn add_undecoded(&self, frame: &Frame, buffer: &mut ReorderBuffer) {
        let batch = frame.undecoded_batch().filter(|_| frame.format() == SegmentFormat::KafkaLog);
        match (batch, frame.head_range()) {
            (Some(batch), _) => buffer.add(self.version_of(batch)),
            (None, Some(range)) => {
                let why = MissingReason::NoBatch(NoBatch::Undecoded);
                buffer.end_at(range.last(), self.missing(range.first(), why));
            }
            (None, None) => {}
        }
    }

    /// Makes a version with a copy of the batch, because a shared buffer would keep the whole block in
    /// memory.
    fn version_of(&self, batch: KafkaBatch) -> Version {
        let bytes = batch.bytes.len() as u64;
        let location =
            (bytes > self.item_bytes_max).then(|| self.location(bytes, crc32c::crc32c(&batch.bytes)));
        let copy = if location.is_some() { Bytes::new() } else { Bytes::copy_from_slice(&batch.bytes) };
        let item = Item::Batch(KafkaBatch { bytes: copy, ..batch });
        Version { item, bundle: Arc::clone(&self.bundle), location }
    }

    fn add_batch(&self, frame: &Frame, buffer: &mut ReorderBuffer) -> Result<(), SegmentError> {
        match frame.kafka_batch(spans_bytes_max(frame, self.bounds))? {
            Ok(mut batch) => {
                if self.has_offsets_outside_header {
                    let mut offsets = Offsets(Some(batch.range));
                    frame.visit(self.bounds.opened_bytes, self.bounds.window_bytes, &mut offsets)?;
                    batch.range = offsets.0.unwrap_or(batch.range);
                }
                buffer.add(self.version_of(batch));
            }
            Err(NoBatch::Empty) => {}
            Err(why) => {
                // A valid frame has offsets.
                let Some(range) = frame.claimed_range() else { return Ok(()) };
                buffer.end_at(range.last(), self.missing(range.first(), MissingReason::NoBatch(why)));
            }
        }
        Ok(())
    }
}
