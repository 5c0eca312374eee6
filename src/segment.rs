//! Splits a segment's bytes into frames, and decodes frames into records.
//!
//! [`FrameSplitter`] takes the bytes in chunks of any size and splits them into [`Frame`]s. It reads only the
//! heads of frames. [`Frame::decode`] verifies the checksum, decompresses the records and finds them, without
//! copying one. Nothing is skipped: bytes that are not understood are a [`SegmentError`] that names the place
//! and the reason. A frame that the segment's end cuts off is a [`TornTail`], and the caller decides about
//! it.
//!
//! `docs/segment-formats.md` describes every byte of the formats, with the source of each fact. This module
//! does not know Tantivy, tokio or gRPC, nor where bytes come from or go.

mod anomaly;
mod batch;
mod canonical;
mod chronik;
mod codec;
mod error;
mod framing;
mod kafka;
mod message;
mod order;
mod record_builder;
mod skim;
#[cfg(test)]
mod tests;
mod torn_tail;
mod transactions;
mod zeros;

use bytes::Bytes;

pub use anomaly::{Anomalies, Anomaly, AnomalyCounts};
pub use batch::{KafkaBatch, NoBatch};
pub use codec::{Codec, CompressionFlaw};
pub use error::{ErrorKind, Fault, SegmentError};
pub use framing::{FrameSplitter, Tail, TornTail};
pub use order::LogOrder;
pub use skim::{Visitor, skim_frame};
pub use transactions::{Outcome, TransactionPart, Transactions};

use crate::ids::{OffsetRange, SegmentFormat, TopicPartition};
use crate::record::{HeaderSpans, RecordBatch, RecordSpans, StoredRecord};
use codec::DecompressLimit;

/// One frame of a segment: a Chronik WAL record, a Kafka record batch or an older Kafka message, whole
/// according to its head. Nothing in it is verified yet.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Where it starts in the segment, in bytes.
    pub position: u64,
    /// How many frames of the segment come before it.
    pub ordinal: u64,
    /// The partition that the frame belongs to, if its bytes name it. Only Chronik's V2 frames do.
    pub partition: Option<TopicPartition>,
    /// All its bytes. If one chunk held the whole frame, this is a slice of that chunk and keeps it alive.
    pub bytes: Bytes,
    /// Deviations from the format that concern the frame's place in the log. Only the frames before it show
    /// them.
    pub anomalies: Anomalies,
    encoding: Encoding,
}

/// How a frame is encoded; finer than [`SegmentFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    ChronikV1,
    ChronikV2,
    KafkaBatch,
    KafkaMessage,
    /// A Kafka frame of an unknown magic.
    Unknown,
}

/// Limits the decompressed bytes of a compressed message when only its number of records is needed.
const COUNTED_BYTES_MAX: usize = 256 << 20;

impl Frame {
    /// The format of the segment it comes from.
    pub fn format(&self) -> SegmentFormat {
        match self.encoding {
            Encoding::ChronikV1 | Encoding::ChronikV2 => SegmentFormat::ChronikWal,
            Encoding::KafkaBatch | Encoding::KafkaMessage | Encoding::Unknown => SegmentFormat::KafkaLog,
        }
    }

    /// The kind of frame, as a name: `chronik-v1`, `chronik-v2`, `kafka-batch`, `kafka-message`,
    /// `kafka-unknown`.
    pub fn kind(&self) -> &'static str {
        match self.encoding {
            Encoding::ChronikV1 => "chronik-v1",
            Encoding::ChronikV2 => "chronik-v2",
            Encoding::KafkaBatch => "kafka-batch",
            Encoding::KafkaMessage => "kafka-message",
            Encoding::Unknown => "kafka-unknown",
        }
    }

    /// The number of records that the frame's own head claims, including control records. It is not verified:
    /// a plausible count may still be wrong. `None` if the head states no count, or an impossible one. A
    /// compressed message of magic 0 or 1 is decompressed to count its records.
    pub fn claimed_records(&self) -> Option<u64> {
        match self.encoding {
            Encoding::ChronikV1 => Some(1),
            Encoding::ChronikV2 => chronik::claimed_records(&self.bytes),
            Encoding::KafkaBatch => kafka::claimed_records(&self.bytes),
            Encoding::KafkaMessage => message::claimed_records(&self.bytes, COUNTED_BYTES_MAX),
            Encoding::Unknown => None,
        }
    }

    /// The epoch of the leader that appended the frame; `None` if its head states none. Only Kafka's batches
    /// do.
    pub fn leader_epoch(&self) -> Option<i32> {
        match self.encoding {
            Encoding::KafkaBatch => kafka::leader_epoch(&self.bytes),
            Encoding::ChronikV1 | Encoding::ChronikV2 | Encoding::KafkaMessage | Encoding::Unknown => None,
        }
    }

    /// The number of data records in the frame, by its head alone; `None` if only its records show it. It is
    /// not verified.
    pub fn data_records(&self) -> Option<u64> {
        match self.encoding {
            Encoding::ChronikV1 => Some(1),
            Encoding::KafkaBatch if kafka::is_control(&self.bytes) => Some(0),
            Encoding::KafkaBatch => kafka::claimed_records(&self.bytes),
            Encoding::ChronikV2 | Encoding::KafkaMessage | Encoding::Unknown => None,
        }
    }

    /// Passes its data records to `visitor`, in order. They are decoded at once if that takes no more than
    /// `opened_bytes_max` bytes. If not, they are read one at a time, with up to `work_bytes_max` bytes for a
    /// codec's window. The memory that the visitor takes is not included in these limits.
    ///
    /// # Errors
    /// Those of [`Frame::decode`] and [`skim_frame`].
    pub fn visit(
        &self,
        opened_bytes_max: usize,
        work_bytes_max: usize,
        visitor: &mut dyn Visitor,
    ) -> Result<(), SegmentError> {
        match self.decode(opened_bytes_max) {
            Ok(decoded) => {
                for record in decoded.records.iter() {
                    if visitor.is_done() {
                        break;
                    }
                    if let Some(limit) = visitor.limit(record.offset(), record.timestamp_ms()) {
                        let stored = StoredRecord::within(&record, limit, visitor.shares());
                        visitor.record(StoredRecord { leader_epoch: self.leader_epoch(), ..stored });
                    }
                }
                Ok(())
            }
            Err(error) if matches!(error.fault(), Fault::TooLarge { .. }) => {
                let skimmed = skim_frame(&mut &self.bytes[..], self.format(), work_bytes_max, visitor);
                skimmed.map_err(|fault| SegmentError::new(self.position, self.ordinal, fault))
            }
            Err(error) => Err(error),
        }
    }

    /// Estimates the decompressed size of the frame's records, in bytes. It is the frame's own size if they
    /// are not compressed; else an estimate from the codec and the claimed number of records. Equal bytes
    /// give equal estimates. Nothing is verified.
    pub fn opened_bytes_guess(&self) -> u64 {
        match self.encoding {
            // These frames hold the records uncompressed, also if they hold a compressed copy.
            Encoding::ChronikV1 | Encoding::ChronikV2 => self.bytes.len() as u64,
            Encoding::KafkaBatch => kafka::opened_bytes_guess(&self.bytes),
            Encoding::KafkaMessage => message::opened_bytes_guess(&self.bytes),
            Encoding::Unknown => self.bytes.len() as u64,
        }
    }

    /// The offsets that the frame's own head claims. They are not verified, and a record may lie outside of
    /// them ([`Anomaly::RecordOffset`]). `None` if they are not a valid range, or if the head does not state
    /// the first one.
    pub fn claimed_range(&self) -> Option<OffsetRange> {
        match self.encoding {
            Encoding::ChronikV1 => chronik::v1_range(&self.bytes),
            Encoding::ChronikV2 => chronik::v2_range(&self.bytes),
            Encoding::KafkaBatch => kafka::range(&self.bytes).ok(),
            Encoding::KafkaMessage => message::claimed_range(&self.bytes),
            Encoding::Unknown => None,
        }
    }

    /// The offsets under which the frame is stored if it cannot be decoded: the range that its head claims,
    /// or the only offset that its head states.
    pub fn head_range(&self) -> Option<OffsetRange> {
        let offset = || match self.format() {
            SegmentFormat::ChronikWal => None,
            SegmentFormat::KafkaLog => Some(kafka::base_offset(&self.bytes)),
        };
        let single = |offset| OffsetRange::new(offset, offset).filter(|_| offset >= 0);
        self.claimed_range().or_else(|| offset().and_then(single))
    }

    /// Whether the frame can be stored although it does not decode, for the reason `fault`: its bytes are as
    /// its writer wrote them, and its head states offsets to store it under. A frame with a wrong checksum is
    /// damaged. The checksum of an unknown magic cannot be verified.
    pub fn is_keepable(&self, fault: &Fault) -> bool {
        !matches!(fault, Fault::CrcMismatch { .. }) && self.head_range().is_some()
    }

    /// The number of bytes that its compressed records decompress to, at most `bytes_max`; `None` if there
    /// are more, and 0 if they are not compressed. Takes no more memory than a codec does.
    pub fn decompressed_len(&self, bytes_max: usize) -> Option<usize> {
        match self.compressed() {
            Some((codec, section)) => codec::decompressed_len(codec, section, bytes_max),
            None => Some(0),
        }
    }

    /// The most memory that [`Frame::decode_known`] takes while it runs, in bytes; 0 if its records are not
    /// compressed. `known` is the decompressed size of the records, or 0 if it is not known.
    pub fn decode_usage(&self, decoded_bytes_max: usize, known: usize) -> u64 {
        let Some((codec, section)) = self.compressed() else { return 0 };
        // A buffer that doubles exists twice for a moment: the old half and the new whole.
        let doubled = if known == 0 { decoded_bytes_max / 2 } else { 0 };
        (decoded_bytes_max + doubled + codec::work_bytes(codec, section)) as u64
    }

    /// The memory for the spans of its records, in bytes, in addition to the `opened` bytes that the records
    /// decompress to. It depends on the number of records that the head claims.
    pub fn spans_usage(&self, opened: usize) -> usize {
        let claimed = match self.encoding {
            Encoding::KafkaBatch => kafka::claimed_records(&self.bytes).unwrap_or(0),
            _ => 0,
        };
        (claimed as usize).min(opened / kafka::RECORD_BYTES_MIN) * size_of::<RecordSpans>()
    }

    fn compressed(&self) -> Option<(Codec, &[u8])> {
        match self.encoding {
            Encoding::KafkaBatch => kafka::compressed(&self.bytes),
            Encoding::KafkaMessage => message::compressed(&self.bytes),
            Encoding::ChronikV1 | Encoding::ChronikV2 | Encoding::Unknown => None,
        }
    }

    /// Returns the error that the frame needs more than `limit` bytes.
    pub fn too_large(&self, limit: usize) -> SegmentError {
        SegmentError::new(self.position, self.ordinal, Fault::TooLarge { limit })
    }

    /// Verifies the frame's own checksum and nothing else, as a broker does when it starts.
    ///
    /// # Errors
    /// The frame is not what was written.
    pub fn verify_checksum(&self) -> Result<(), SegmentError> {
        let checked = match self.encoding {
            Encoding::ChronikV1 | Encoding::ChronikV2 => chronik::check_crc(&self.bytes),
            Encoding::KafkaBatch => kafka::check_crc(&self.bytes),
            Encoding::KafkaMessage => message::check_crc(&self.bytes),
            // The place of its checksum is not known.
            Encoding::Unknown => Err(Fault::BadMagic { found: self.bytes[kafka::MAGIC_AT].into() }),
        };
        checked.map_err(|fault| SegmentError::new(self.position, self.ordinal, fault))
    }

    /// Verifies the frame and finds its records.
    ///
    /// `decoded_bytes_max` limits the memory that is allocated for it: decompressed bytes, and the spans of
    /// records and headers. While they work, LZ4 takes up to 13 MiB in addition, and zstd takes a window of
    /// at least 8 MiB and at most the limit.
    ///
    /// # Errors
    /// Corrupt or unsupported bytes, and [`Fault::TooLarge`] if the records need more than the limit.
    pub fn decode(&self, decoded_bytes_max: usize) -> Result<DecodedFrame, SegmentError> {
        self.decode_known(decoded_bytes_max, 0)
    }

    /// Does the same as [`Frame::decode`], for compressed records whose decompressed size is known
    /// ([`Frame::decompressed_len`]). Then it allocates no more than this size.
    ///
    /// # Errors
    /// As [`Frame::decode`].
    pub fn decode_known(&self, decoded_bytes_max: usize, known: usize) -> Result<DecodedFrame, SegmentError> {
        let limit = DecompressLimit { bytes_max: decoded_bytes_max, known };
        if u32::try_from(self.bytes.len()).is_err() {
            // Spans hold 32-bit positions.
            let fault = Fault::TooLarge { limit: u32::MAX as usize };
            return Err(SegmentError::new(self.position, self.ordinal, fault));
        }
        let decoded = match self.encoding {
            Encoding::ChronikV1 => chronik::decode_v1(&self.bytes, decoded_bytes_max),
            Encoding::ChronikV2 => chronik::decode_v2(&self.bytes, decoded_bytes_max),
            Encoding::KafkaBatch => kafka::decode(&self.bytes, limit),
            Encoding::KafkaMessage => message::decode(&self.bytes, limit),
            Encoding::Unknown => Err(Fault::BadMagic { found: self.bytes[kafka::MAGIC_AT].into() }),
        };
        let mut decoded = decoded.map_err(|fault| SegmentError::new(self.position, self.ordinal, fault))?;
        decoded.anomalies.extend(self.anomalies);
        Ok(decoded)
    }
}

/// The contents of a verified frame.
#[derive(Clone, Debug)]
pub struct DecodedFrame {
    /// The first offset that its head claims. It is the frame's place in its log, also if the frame covers no
    /// offset.
    pub base_offset: i64,
    /// The offsets that the frame covers: those that its own head claims, including those of control records
    /// and of records that compaction removed; and those of records outside of the head's range. `None` if it
    /// covers none.
    pub range: Option<OffsetRange>,
    /// The codec that the producer used. Chronik's V1 frames do not state it. V2 frames state it, but also
    /// hold the records uncompressed.
    pub codec: Codec,
    /// Deviations from the format. The records are those that Kafka's own reader returns.
    pub anomalies: Anomalies,
    /// The data records, in the order of the file, without control records.
    pub records: RecordBatch,
    /// The offsets of the control records. A frame holds control records or data records, never both.
    pub control_offsets: Vec<i64>,
    /// The frame's part in a transaction, if it has one.
    pub transaction: Option<TransactionPart>,
    /// The earliest time of a data record, in milliseconds since the Unix epoch; `None` if no record has a
    /// time.
    pub min_timestamp_ms: Option<i64>,
    /// The latest time of a data record, in milliseconds since the Unix epoch; `None` if no record has a
    /// time.
    pub max_timestamp_ms: Option<i64>,
}

impl DecodedFrame {
    /// The memory that this holds in addition to the frame's own bytes: decompressed bytes and spans.
    pub fn mem_usage(&self, frame: &Frame) -> usize {
        let opened =
            if shares_memory(&self.records.bytes, &frame.bytes) { 0 } else { self.records.bytes.len() };
        opened
            + self.records.records.capacity() * size_of::<RecordSpans>()
            + self.records.headers.capacity() * size_of::<HeaderSpans>()
            + self.control_offsets.capacity() * size_of::<i64>()
    }
}

/// Whether `part` lies within `whole`'s memory.
fn shares_memory(part: &Bytes, whole: &Bytes) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}
