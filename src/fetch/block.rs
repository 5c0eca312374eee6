//! One block's contribution to an answer.

use std::sync::Arc;

use bytes::Bytes;

use super::plan::Planned;
use super::window::{Missing, Version, Window};
use super::{Form, Item};
use crate::archive::{ArchiveError, FRAME_BYTES_MAX, Fault, StoredRecord, fault_in_block, split_block};
use crate::ids::SegmentFormat;
use crate::segment::{Anomaly, Frame, KafkaBatch, NoBatch, SegmentError};

/// Reads a block and puts what it holds into `window`. Frames that can hold nothing of it are not decoded.
pub(super) async fn read(planned: Planned, form: Form, mut window: Window) -> Result<Window, ArchiveError> {
    let Planned { archive, entry, .. } = planned;
    if entry.is_undecoded && form == Form::Records {
        return Ok(window);
    }
    let plain = archive.block(&entry).await?;
    let (format, bundle) = (archive.manifest().segment.format, Arc::<str>::from(archive.name()));
    // Then a record may lie outside of what its frame's head says.
    let heads_lie = archive.manifest().anomalies.contains_key(Anomaly::RecordOffset.name());
    let collected = archive.blocking(move || {
        for frame in split_block(&entry, &plain, format)? {
            let range = frame.claimed_range().filter(|_| !heads_lie);
            if range.is_some_and(|range| !window.takes_some(range.first(), range.last())) {
                continue;
            }
            let added = match form {
                Form::Records => add_records(&frame, &bundle, &mut window),
                Form::KafkaBatches if entry.is_undecoded => {
                    add_undecoded(&frame, &bundle, &mut window);
                    Ok(())
                }
                Form::KafkaBatches => add_batch(&frame, heads_lie, &bundle, &mut window),
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

/// A frame that nobody could decode is answered as it is.
fn add_undecoded(frame: &Frame, bundle: &Arc<str>, window: &mut Window) {
    let batch = frame.undecoded_batch().filter(|_| frame.format() == SegmentFormat::KafkaLog);
    match (batch, frame.head_range()) {
        (Some(batch), _) => window.add(version_of(batch, bundle)),
        (None, Some(range)) => {
            let (bundle, why) = (Arc::clone(bundle), NoBatch::Undecoded);
            window.end_at(range.last(), Missing { bundle, offset: range.first(), why });
        }
        (None, None) => {}
    }
}

/// A copy: what waits must not keep its whole block.
fn version_of(batch: KafkaBatch, bundle: &Arc<str>) -> Version {
    let bytes = Bytes::copy_from_slice(&batch.bytes);
    Version { item: Item::Batch(KafkaBatch { bytes, ..batch }), bundle: Arc::clone(bundle) }
}

fn add_batch(
    frame: &Frame,
    head_lies: bool,
    bundle: &Arc<str>,
    window: &mut Window,
) -> Result<(), SegmentError> {
    match frame.kafka_batch(FRAME_BYTES_MAX)? {
        Ok(mut batch) => {
            if head_lies && let Some(range) = frame.decode(FRAME_BYTES_MAX)?.range {
                batch.range = range;
            }
            window.add(version_of(batch, bundle));
        }
        Err(NoBatch::Empty) => {}
        Err(why) => {
            let bundle = Arc::clone(bundle);
            // A sound frame has offsets.
            let Some(range) = frame.claimed_range() else { return Ok(()) };
            window.end_at(range.last(), Missing { bundle, offset: range.first(), why });
        }
    }
    Ok(())
}
