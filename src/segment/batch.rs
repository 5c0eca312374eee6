//! Gets the producer's own Kafka batch out of a frame, so that a consumer can receive it without a new
//! encoding.

use bytes::{Bytes, BytesMut};

use super::codec::DecompressLimit;
use super::{DecodedFrame, Encoding, Fault, Frame, SegmentError, chronik, kafka, message};
use crate::ids::OffsetRange;

/// A whole Kafka record batch of magic 2, or a message of magic 0 or 1, with a verified checksum. Its records
/// are not verified and may still be compressed. If a frame could not be decoded, these are its unchanged
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaBatch {
    /// The offsets that it covers.
    pub range: OffsetRange,
    /// The number of records that its head claims, including control records.
    pub records: u64,
    /// The epoch of the leader that appended it, if it states one.
    pub leader_epoch: Option<i32>,
    /// All its bytes.
    pub bytes: Bytes,
}

impl KafkaBatch {
    fn new(range: OffsetRange, records: u64, bytes: Bytes) -> Self {
        Self { range, records, leader_epoch: kafka::leader_epoch(&bytes), bytes }
    }
}

/// Why a sound frame has no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBatch {
    /// It is a single record.
    #[error("a chronik wal v1 record is not a batch")]
    SingleRecord,
    /// It covers no offset.
    #[error("the frame covers no offset")]
    Empty,
    /// The producer's batch is damaged in the broker's copy.
    #[error("the producer's batch is damaged: {part}")]
    Damaged {
        /// The part that is wrong.
        part: &'static str,
    },
    /// The frame could not be decoded.
    #[error("the frame was not decoded")]
    Undecoded,
    /// The broker kept only the records.
    #[error("the broker did not keep the producer's batch")]
    NotKept,
    /// The records would have other offsets in the batch than in the log.
    #[error("the producer's batch spans {batch} offsets, the frame {frame}")]
    OffsetCountDiffers {
        /// The number of offsets that the batch covers.
        batch: i64,
        /// The number of offsets that the frame covers.
        frame: i64,
    },
}

impl Frame {
    /// Returns the producer's batch: the frame itself, or the copy that a Chronik frame keeps. Its bytes are
    /// the producer's, except for the base offset: a producer writes 0 there, the log assigns the offset, and
    /// no checksum covers it.
    ///
    /// # Errors
    /// Corrupt bytes, and [`Fault::TooLarge`] as for [`Frame::decode`]. The inner error means that the frame
    /// is sound but has no batch.
    pub fn kafka_batch(&self, decoded_bytes_max: usize) -> Result<Result<KafkaBatch, NoBatch>, SegmentError> {
        let limit = DecompressLimit { bytes_max: decoded_bytes_max, known: 0 };
        let batch = match self.encoding {
            Encoding::ChronikV1 => chronik::check_crc(&self.bytes).map(|()| Err(NoBatch::SingleRecord)),
            Encoding::ChronikV2 => original(&self.bytes, decoded_bytes_max),
            Encoding::KafkaBatch => match kafka::range(&self.bytes) {
                Ok(range) => kafka::check_crc(&self.bytes).map(|()| Ok(batch_of(range, self.bytes.clone()))),
                Err(_) => whole(kafka::decode(&self.bytes, limit), &self.bytes),
            },
            Encoding::KafkaMessage => whole(message::decode(&self.bytes, limit), &self.bytes),
            Encoding::Unknown => Ok(self.undecoded_batch().ok_or(NoBatch::Empty)),
        };
        batch.map_err(|fault| SegmentError::new(self.position, self.ordinal, fault))
    }

    /// Returns the frame as it is, under the offsets of its head, for a frame that cannot be decoded.
    pub fn undecoded_batch(&self) -> Option<KafkaBatch> {
        let records = self.claimed_records().unwrap_or_default();
        self.head_range().map(|range| KafkaBatch::new(range, records, self.bytes.clone()))
    }
}

/// Returns a frame as a batch, if only its records show its offsets.
fn whole(decoded: Result<DecodedFrame, Fault>, bytes: &Bytes) -> Result<Result<KafkaBatch, NoBatch>, Fault> {
    let decoded = decoded?;
    let (records, bytes) = (decoded.records.records.len() + decoded.control_offsets.len(), bytes.clone());
    let batch = decoded.range.map(|range| KafkaBatch::new(range, records as u64, bytes));
    Ok(batch.ok_or(NoBatch::Empty))
}

fn batch_of(range: OffsetRange, bytes: Bytes) -> KafkaBatch {
    KafkaBatch::new(range, kafka::claimed_records(&bytes).unwrap_or_default(), bytes)
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
        return Ok(Err(NoBatch::OffsetCountDiffers { batch, frame }));
    }
    Ok(Ok(batch_of(range, at_base(bytes, base))))
}

/// Returns the batch with this base offset.
fn at_base(batch: Bytes, base: i64) -> Bytes {
    let base = base.to_be_bytes();
    if batch.starts_with(&base) {
        return batch;
    }
    let mut patched = BytesMut::from(&batch[..]);
    patched[..base.len()].copy_from_slice(&base);
    patched.freeze()
}
