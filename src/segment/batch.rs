//! The producer's own Kafka batch, out of a frame: what a consumer can be given without anything being encoded anew.

use bytes::{Bytes, BytesMut};

use super::codec::Room;
use super::{DecodedFrame, Encoding, Fault, Frame, SegmentError, chronik, kafka, message};
use crate::ids::OffsetRange;

/// A Kafka record batch of magic 2, whole, its checksum verified; or a message from before batches. Its records are not verified: they may be
/// compressed still. Of a frame that nobody could decode these are the bytes as they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaBatch {
    /// The offsets that it covers.
    pub range: OffsetRange,
    /// How many records its head claims, control records among them.
    pub records: u64,
    /// All its bytes.
    pub bytes: Bytes,
}

/// Why there is no batch to be had from a sound frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBatch {
    /// A record of its own.
    #[error("a chronik wal v1 record is no batch")]
    SingleRecord,
    /// It covers no offset: there is nothing to be had.
    #[error("the frame covers no offset")]
    Empty,
    /// What the broker kept of the producer's batch is damaged.
    #[error("the producer's batch is damaged: {part}")]
    Damaged {
        /// What does not fit.
        part: &'static str,
    },
    /// The frame could not be decoded.
    #[error("the frame was not decoded")]
    Undecoded,
    /// The broker kept the records only.
    #[error("the broker did not keep the producer's batch")]
    NotKept,
    /// The batch in it would give its records other offsets than the log does.
    #[error("the producer's batch spans {batch} offsets, the frame {frame}")]
    OtherSpan {
        /// How many offsets the batch covers.
        batch: i64,
        /// How many the frame covers.
        frame: i64,
    },
}

impl Frame {
    /// The producer's batch: the frame itself, or what a Chronik frame keeps of it. Its bytes are the producer's but for the base offset,
    /// which the log assigns and no checksum covers: a producer writes 0 there.
    ///
    /// # Errors
    /// Corrupt bytes, and [`Fault::TooLarge`] as for [`Frame::decode`]; the inner one where the frame is sound and has no batch.
    pub fn kafka_batch(&self, decoded_bytes_max: usize) -> Result<Result<KafkaBatch, NoBatch>, SegmentError> {
        let room = Room { bytes_max: decoded_bytes_max, known: 0 };
        let batch = match self.encoding {
            Encoding::ChronikV1 => chronik::check_crc(&self.bytes).map(|()| Err(NoBatch::SingleRecord)),
            Encoding::ChronikV2 => original(&self.bytes, decoded_bytes_max),
            Encoding::KafkaBatch => match kafka::range(&self.bytes) {
                Ok(range) => kafka::check_crc(&self.bytes).map(|()| Ok(batch_of(range, self.bytes.clone()))),
                Err(_) => whole(kafka::decode(&self.bytes, room), &self.bytes),
            },
            Encoding::KafkaMessage => whole(message::decode(&self.bytes, room), &self.bytes),
            Encoding::Unknown => Ok(self.undecoded_batch().ok_or(NoBatch::Empty)),
        };
        batch.map_err(|fault| SegmentError::new(self.position, self.ordinal, fault))
    }

    /// The frame as it is, for one that nobody could decode: under the offsets of its head.
    pub fn undecoded_batch(&self) -> Option<KafkaBatch> {
        let records = self.claimed_records().unwrap_or_default();
        self.head_range().map(|range| KafkaBatch { range, records, bytes: self.bytes.clone() })
    }
}

/// A frame that only its records give offsets to.
fn whole(decoded: Result<DecodedFrame, Fault>, bytes: &Bytes) -> Result<Result<KafkaBatch, NoBatch>, Fault> {
    let decoded = decoded?;
    let (records, bytes) = (decoded.records.records.len() + decoded.control_offsets.len(), bytes.clone());
    let batch = decoded.range.map(|range| KafkaBatch { range, records: records as u64, bytes });
    Ok(batch.ok_or(NoBatch::Empty))
}

fn batch_of(range: OffsetRange, bytes: Bytes) -> KafkaBatch {
    KafkaBatch { range, records: kafka::claimed_records(&bytes).unwrap_or_default(), bytes }
}

fn original(frame: &Bytes, decoded_bytes_max: usize) -> Result<Result<KafkaBatch, NoBatch>, Fault> {
    let (head, mut canonical) = chronik::open_v2(frame, decoded_bytes_max)?;
    let (base, original, damage) =
        (canonical.base_offset, canonical.original.take(), canonical.original_damage);
    let Some(range) = canonical.builder.finish(base, head, frame.clone())?.range else {
        return Ok(Err(NoBatch::Empty));
    };
    let Some(original) = original else { return Ok(Err(NoBatch::NotKept)) };
    if let Some(part) = damage {
        return Ok(Err(NoBatch::Damaged { part }));
    }
    let bytes = frame.slice(original);
    let (batch, frame) =
        (kafka::last_delta(&bytes).saturating_add(1), range.last().saturating_sub(base).saturating_add(1));
    if batch != frame {
        return Ok(Err(NoBatch::OtherSpan { batch, frame }));
    }
    Ok(Ok(batch_of(range, at_base(bytes, base))))
}

/// The batch with this base offset.
fn at_base(batch: Bytes, base: i64) -> Bytes {
    let base = base.to_be_bytes();
    if batch.starts_with(&base) {
        return batch;
    }
    let mut patched = BytesMut::from(&batch[..]);
    patched[..base.len()].copy_from_slice(&base);
    patched.freeze()
}
