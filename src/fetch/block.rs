//! One block's contribution to an answer.

use std::sync::Arc;

use bytes::Bytes;

use super::plan::Planned;
use super::window::{Missing, Version, Window};
use super::{Form, Item};
use crate::archive::{ArchiveError, FRAME_BYTES_MAX, Fault, StoredRecord, fault_in_block, split_block};
use crate::segment::{Frame, KafkaBatch, SegmentError};

/// Reads a block and puts what it holds into `window`. Frames that can hold nothing of it are not decoded.
pub(super) async fn read(planned: Planned, form: Form, mut window: Window) -> Result<Window, ArchiveError> {
    let Planned { archive, entry, .. } = planned;
    let plain = archive.block(&entry).await?;
    let (format, bundle) = (archive.manifest().segment.format, Arc::<str>::from(archive.name()));
    let collected = archive.blocking(move || {
        for frame in split_block(&entry, &plain, format)? {
            let range = frame.claimed_range();
            if range.is_some_and(|range| !window.takes_some(range.first(), range.last())) {
                continue;
            }
            let added = match form {
                Form::Records => add_records(&frame, &bundle, &mut window),
                Form::KafkaBatches => add_batch(&frame, &bundle, &mut window),
            };
            added.map_err(|error| fault_in_block(&entry, &error))?;
        }
        Ok::<_, Fault>(window)
    });
    collected.await?.map_err(|fault| archive.error(fault))
}

fn add_records(frame: &Frame, bundle: &Arc<str>, window: &mut Window) -> Result<(), SegmentError> {
    for record in frame.decode(FRAME_BYTES_MAX)?.records.iter() {
        if window.takes(record.offset()) {
            let item = Item::Record(StoredRecord::new(&record));
            window.add(Version { item, bundle: Arc::clone(bundle) });
        }
    }
    Ok(())
}

fn add_batch(frame: &Frame, bundle: &Arc<str>, window: &mut Window) -> Result<(), SegmentError> {
    let bundle = Arc::clone(bundle);
    match frame.kafka_batch(FRAME_BYTES_MAX)? {
        Ok(batch) => {
            // A copy: what waits must not keep its whole block.
            let bytes = Bytes::copy_from_slice(&batch.bytes);
            window.add(Version { item: Item::Batch(KafkaBatch { bytes, ..batch }), bundle });
        }
        Err(why) => {
            // A sound frame has offsets.
            let Some(range) = frame.claimed_range() else { return Ok(()) };
            window.end_at(range.last(), Missing { bundle, offset: range.first(), why });
        }
    }
    Ok(())
}
