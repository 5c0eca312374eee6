//! A segment's bytes become frames, and a frame's bytes become records.
//!
//! [`FrameSplitter`] cuts the bytes, in whatever chunks they come, into [`Frame`]s by reading their heads only. [`Frame::decode`]
//! checks the checksum, opens the compression and finds the records, without copying one. Nothing is ever skipped: what is not
//! understood is a [`SegmentError`] that names the place and the reason; a frame that the segment's end cuts off is a
//! [`TornTail`], and the caller decides about it.
//!
//! Every byte of the formats, and where each fact comes from, stands in `docs/segment-formats.md`.
//! This module refuses to know Tantivy, tokio and gRPC, and where bytes come from or go.

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
use codec::Room;

/// One frame of a segment: a Chronik WAL record or a Kafka record batch, whole, as its head says; nothing in it is verified yet.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Where it starts in the segment, in bytes.
    pub position: u64,
    /// How many frames of the segment come before it.
    pub ordinal: u64,
    /// Whose frame it is, where its bytes say so: only those of Chronik's V2 do.
    pub partition: Option<TopicPartition>,
    /// All its bytes. Where one chunk held the whole frame this is a slice of it, and keeps that chunk alive.
    pub bytes: Bytes,
    /// What is not as the format says where it stands: only the frames in front of it tell.
    pub anomalies: Anomalies,
    encoding: Encoding,
}

/// How a frame is written; one level finer than [`SegmentFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    ChronikV1,
    ChronikV2,
    KafkaBatch,
    KafkaMessage,
    /// A Kafka frame of a magic that nobody knows.
    Unknown,
}

/// What the opened value of a compressed message may take where only its number of records is asked for.
const COUNTED_BYTES_MAX: usize = 256 << 20;

impl Frame {
    /// The format of the segment it comes from.
    pub fn format(&self) -> SegmentFormat {
        match self.encoding {
            Encoding::ChronikV1 | Encoding::ChronikV2 => SegmentFormat::ChronikWal,
            Encoding::KafkaBatch | Encoding::KafkaMessage | Encoding::Unknown => SegmentFormat::KafkaLog,
        }
    }

    /// What it is, in words: `chronik-v1`, `chronik-v2`, `kafka-batch`, `kafka-message`, `kafka-unknown`.
    pub fn kind(&self) -> &'static str {
        match self.encoding {
            Encoding::ChronikV1 => "chronik-v1",
            Encoding::ChronikV2 => "chronik-v2",
            Encoding::KafkaBatch => "kafka-batch",
            Encoding::KafkaMessage => "kafka-message",
            Encoding::Unknown => "kafka-unknown",
        }
    }

    /// How many records the frame's own head claims, control records among them. Nothing has verified it, and a sane count
    /// may still be wrong. `None` where the head says none, or a number that cannot be. A compressed message from before batches is opened
    /// for it.
    pub fn claimed_records(&self) -> Option<u64> {
        match self.encoding {
            Encoding::ChronikV1 => Some(1),
            Encoding::ChronikV2 => chronik::claimed_records(&self.bytes),
            Encoding::KafkaBatch => kafka::claimed_records(&self.bytes),
            Encoding::KafkaMessage => message::claimed_records(&self.bytes, COUNTED_BYTES_MAX),
            Encoding::Unknown => None,
        }
    }

    /// How many data records the frame holds, by its head alone; `None` where only its records tell. Nothing has verified it.
    pub fn data_records(&self) -> Option<u64> {
        match self.encoding {
            Encoding::ChronikV1 => Some(1),
            Encoding::KafkaBatch if kafka::is_control(&self.bytes) => Some(0),
            Encoding::KafkaBatch => kafka::claimed_records(&self.bytes),
            Encoding::ChronikV2 | Encoding::KafkaMessage | Encoding::Unknown => None,
        }
    }

    /// Hands its data records to `visitor`, in order: decoded at once where that takes no more than `opened_bytes_max` bytes, else one at a time, with
    /// up to `work_bytes_max` bytes for a codec's window. What the visitor takes comes on top.
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
                        visitor.record(StoredRecord::within(&record, limit, visitor.shares()));
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

    /// About how many bytes the frame's records are once they are opened: its own size where they are not compressed, else a guess that
    /// goes by codec and claimed records. Equal bytes give equal guesses; nothing has verified them.
    pub fn opened_bytes_guess(&self) -> u64 {
        match self.encoding {
            // Records are there uncompressed, whatever else is.
            Encoding::ChronikV1 | Encoding::ChronikV2 => self.bytes.len() as u64,
            Encoding::KafkaBatch => kafka::opened_bytes_guess(&self.bytes),
            Encoding::KafkaMessage => message::opened_bytes_guess(&self.bytes),
            Encoding::Unknown => self.bytes.len() as u64,
        }
    }

    /// The offsets that the frame's own head claims; nothing has verified them, and a record may lie outside of them
    /// ([`Anomaly::RecordOffset`]). `None` where they are no range, or where the head does not tell the first.
    pub fn claimed_range(&self) -> Option<OffsetRange> {
        match self.encoding {
            Encoding::ChronikV1 => chronik::v1_range(&self.bytes),
            Encoding::ChronikV2 => chronik::v2_range(&self.bytes),
            Encoding::KafkaBatch => kafka::range(&self.bytes).ok(),
            Encoding::KafkaMessage => message::claimed_range(&self.bytes),
            Encoding::Unknown => None,
        }
    }

    /// The offsets under which the frame is kept where it cannot be decoded: those that its head claims, or the only one that it says.
    pub fn head_range(&self) -> Option<OffsetRange> {
        let offset = || match self.format() {
            SegmentFormat::ChronikWal => None,
            SegmentFormat::KafkaLog => Some(kafka::base_offset(&self.bytes)),
        };
        let single = |offset| OffsetRange::new(offset, offset).filter(|_| offset >= 0);
        self.claimed_range().or_else(|| offset().and_then(single))
    }

    /// Whether the frame is as its writer wrote it, and has offsets to be kept under, though it does not decode for this `fault`. A
    /// frame whose checksum does not hold is damaged; of an unknown magic nobody knows the checksum.
    pub fn is_keepable(&self, fault: &Fault) -> bool {
        !matches!(fault, Fault::CrcMismatch { .. }) && self.head_range().is_some()
    }

    /// How many bytes its compressed records open to, at most `bytes_max`; `None` where it is more, and 0 where they are not compressed. Takes no
    /// more memory than a codec does.
    pub fn opened_len(&self, bytes_max: usize) -> Option<usize> {
        match self.compressed() {
            Some((codec, section)) => codec::opened_len(codec, section, bytes_max),
            None => Some(0),
        }
    }

    /// What [`Frame::decode_known`] takes at most, in bytes, until it returns, where its records are compressed. `known` is what they open to, or 0.
    pub fn decode_usage(&self, decoded_bytes_max: usize, known: usize) -> u64 {
        let Some((codec, section)) = self.compressed() else { return 0 };
        // A buffer that is doubled is there twice for a moment: half of it and the whole.
        let doubled = if known == 0 { decoded_bytes_max / 2 } else { 0 };
        (decoded_bytes_max + doubled + codec::work_bytes(codec, section)) as u64
    }

    /// What is set aside for its records once it is opened to so many bytes, beside these, by what its head claims of them.
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

    /// That the frame needs more than `limit` bytes.
    pub fn too_large(&self, limit: usize) -> SegmentError {
        SegmentError::new(self.position, self.ordinal, Fault::TooLarge { limit })
    }

    /// Verifies the frame's own checksum, and nothing else of it: what a broker looks at when it starts.
    ///
    /// # Errors
    /// The frame is not what was written.
    pub fn verify_checksum(&self) -> Result<(), SegmentError> {
        let checked = match self.encoding {
            Encoding::ChronikV1 | Encoding::ChronikV2 => chronik::check_crc(&self.bytes),
            Encoding::KafkaBatch => kafka::check_crc(&self.bytes),
            Encoding::KafkaMessage => message::check_crc(&self.bytes),
            // Nobody knows where it is.
            Encoding::Unknown => Err(Fault::BadMagic { found: self.bytes[kafka::MAGIC_AT].into() }),
        };
        checked.map_err(|fault| SegmentError::new(self.position, self.ordinal, fault))
    }

    /// Verifies the frame and finds its records.
    ///
    /// `decoded_bytes_max` bounds what is allocated for it: decompressed bytes, spans of records and headers. (LZ4 takes up to
    /// 13 MiB, zstd a window of at least 8 MiB and at most the bound, besides, while they work.)
    ///
    /// # Errors
    /// Corrupt or unsupported bytes, and [`Fault::TooLarge`] where the records need more than the bound.
    pub fn decode(&self, decoded_bytes_max: usize) -> Result<DecodedFrame, SegmentError> {
        self.decode_known(decoded_bytes_max, 0)
    }

    /// The same, where its compressed records are known to open to so many bytes ([`Frame::opened_len`]): then no more is set aside for them.
    ///
    /// # Errors
    /// As [`Frame::decode`].
    pub fn decode_known(&self, decoded_bytes_max: usize, known: usize) -> Result<DecodedFrame, SegmentError> {
        let room = Room { bytes_max: decoded_bytes_max, known };
        if u32::try_from(self.bytes.len()).is_err() {
            // Spans hold 32 bits.
            let fault = Fault::TooLarge { limit: u32::MAX as usize };
            return Err(SegmentError::new(self.position, self.ordinal, fault));
        }
        let decoded = match self.encoding {
            Encoding::ChronikV1 => chronik::decode_v1(&self.bytes, decoded_bytes_max),
            Encoding::ChronikV2 => chronik::decode_v2(&self.bytes, decoded_bytes_max),
            Encoding::KafkaBatch => kafka::decode(&self.bytes, room),
            Encoding::KafkaMessage => message::decode(&self.bytes, room),
            Encoding::Unknown => Err(Fault::BadMagic { found: self.bytes[kafka::MAGIC_AT].into() }),
        };
        let mut decoded = decoded.map_err(|fault| SegmentError::new(self.position, self.ordinal, fault))?;
        decoded.anomalies.extend(self.anomalies);
        Ok(decoded)
    }
}

/// What a verified frame holds.
#[derive(Clone, Debug)]
pub struct DecodedFrame {
    /// The first offset that its head claims: where it stands in its log, also where it covers none.
    pub base_offset: i64,
    /// The offsets that the frame covers: those that its own head claims, also of control records, and of records that compaction
    /// removed; and those of records that lie outside of them. `None` where it covers none.
    pub range: Option<OffsetRange>,
    /// How the producer compressed the records. Chronik's V1 frames do not say, and V2 frames hold them uncompressed besides.
    pub codec: Codec,
    /// What is not as the format says. The records are those that Kafka's own reader gives.
    pub anomalies: Anomalies,
    /// The data records, in the order of the file. Control records are not among them.
    pub records: RecordBatch,
    /// The offsets of the control records: a frame holds these or data, never both.
    pub control_offsets: Vec<i64>,
    /// What it has to do with transactions.
    pub transaction: Option<TransactionPart>,
    /// The earliest time of a data record, in milliseconds since the epoch; `None` where none carries one.
    pub min_timestamp_ms: Option<i64>,
    /// The latest time of a data record, likewise.
    pub max_timestamp_ms: Option<i64>,
}

impl DecodedFrame {
    /// The bytes that this holds beside the frame's own: what was decompressed, and the spans.
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
