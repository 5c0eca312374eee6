//! Why a segment was not acknowledged. After any of these errors the caller keeps its copy.

use std::time::Duration;

use crate::budget::BudgetError;
use crate::bundle::{AssembleError, BlockWriterError};
use crate::cpu::Panicked;
use crate::ids::{OffsetRange, SEGMENT_ID_BYTES_MAX, TopicPartition, TopicPartitionError};
use crate::index::IndexError;
use crate::segment::SegmentError;
use crate::store::{KeyError, PutError, SourceError};

use super::copy::CopyError;
use super::slices::PARTITIONS_MAX;
use super::spill::SpillError;

/// Why the source's bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The caller went away, or its connection failed.
    #[error("the caller has gone")]
    CallerGone,
    /// The caller sent something other than the next bytes.
    #[error("a chunk was expected: {found}")]
    NotAChunk {
        /// What came instead.
        found: &'static str,
    },
    /// The object that the request names could not be read.
    #[error("cannot read the source")]
    Source(#[from] SourceError),
    /// A local file could not be read.
    #[error("cannot read the file")]
    File(#[from] std::io::Error),
}

/// What is wrong with the request itself, found before a byte is read.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The first message has no header.
    #[error("the first message must be the header")]
    HeaderMissing,
    /// A message follows a header that names an object.
    #[error("the header names an object: nothing may follow it")]
    MoreThanHeader,
    /// The header names neither an inline nor an object source.
    #[error("the header names no source")]
    SourceMissing,
    /// An enum field holds a number that this build does not know.
    #[error("{field} has the unknown value {value}")]
    UnknownValue {
        /// The field's name in the proto.
        field: &'static str,
        /// The value of the field.
        value: i32,
    },
    /// The segment's id is too long.
    #[error("the segment id has {bytes} bytes, more than {SEGMENT_ID_BYTES_MAX}")]
    SegmentIdTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The topic or the partition is not valid.
    #[error(transparent)]
    Partition(#[from] TopicPartitionError),
    /// The topic or the log id does not fit into a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The segment is larger than the limit.
    #[error("the segment has {size_bytes} bytes, more than {max_bytes}")]
    SegmentTooLarge {
        /// Its declared size in bytes.
        size_bytes: u64,
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// The offsets that the segment may hold are not a valid range.
    #[error("the segment may hold the offsets {first} to {last}, which is not a valid range")]
    NoOffsetsAllowed {
        /// The first.
        first: i64,
        /// The last.
        last: i64,
    },
    /// The description of the copy is not valid.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The object source's URL is not valid.
    #[error("the source's url is not a URL")]
    Url(#[from] url::ParseError),
}

/// Why a segment was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The request is wrong.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// There is no memory for it now, or it can never fit.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The bytes did not come.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The sender was silent for too long.
    #[error("nothing came for {after:?}")]
    Silent {
        /// How long the worker waited.
        after: Duration,
    },
    /// The sender is slower than the minimum rate.
    #[error("the segment comes too slowly")]
    Trickles,
    /// Building the segment took too long.
    #[error("the segment was not built within {after:?}")]
    BuildTooSlow {
        /// The time that it was given, with the time of its sender.
        after: Duration,
    },
    /// More or fewer bytes came than were declared.
    #[error("{declared} bytes were declared, {received} came")]
    SizeDiffers {
        /// The size in the header, in bytes.
        declared: u64,
        /// The size of what came, in bytes. If it is larger, reading stopped there.
        received: u64,
    },
    /// The bytes are not those that the caller meant to send.
    #[error("the crc32c was declared as {declared:08x}, the bytes have {computed:08x}")]
    ChecksumDiffers {
        /// The checksum in the header.
        declared: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// An attachment is not what the caller meant to send.
    #[error(
        "the crc32c of the attachment {name} was declared as {declared:08x}, its bytes have {computed:08x}"
    )]
    AttachmentDiffers {
        /// The name of the attachment.
        name: String,
        /// The checksum in the header.
        declared: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The bytes are corrupt, or their format is not supported.
    #[error(transparent)]
    Segment(SegmentError),
    /// A batch decompresses to more than is decoded in one piece.
    #[error(transparent)]
    BatchTooLarge(SegmentError),
    /// The segment ends inside a frame.
    #[error("the segment is torn: it ends inside the frame that begins at byte {position}")]
    Torn {
        /// Where the torn frame begins in the segment.
        position: u64,
    },
    /// The segment is nothing but a torn tail, which belongs to no partition.
    #[error("the segment holds {bytes} bytes and not one whole frame")]
    NothingWhole {
        /// The number of bytes.
        bytes: usize,
    },
    /// Neither the bytes nor the request name the partition.
    #[error("the format needs topic and partition in the request")]
    PartitionMissing,
    /// The segment has more partitions than fit into a receipt.
    #[error("the segment has more than {PARTITIONS_MAX} partitions")]
    TooManyPartitions,
    /// The bytes name another partition than the request.
    #[error("the frame at byte {position} belongs to {found}, not to the partition that the request names")]
    OtherPartition {
        /// The partition that the bytes name.
        found: TopicPartition,
        /// Where the frame begins in the segment.
        position: u64,
    },
    /// The segment holds offsets that it may not hold: its file has the name of another segment.
    #[error(
        "offsets {} to {} are not among those that the segment may hold by its name and the next segment's: {} to {}",
        found.first(), found.last(), allowed.first(), allowed.last()
    )]
    OffsetsNotAllowed {
        /// The offsets in the bytes.
        found: OffsetRange,
        /// The offsets that the request allows.
        allowed: OffsetRange,
        /// Where the frame begins in the segment, if it is known which frame it is.
        position: Option<u64>,
    },
    /// Decoded, indexed and stored records differ in number: a bug, caught before anything is stored.
    #[error("decoded {decoded} records, indexed {indexed}, stored {stored}")]
    CountsDiffer {
        /// Data records decoded.
        decoded: u64,
        /// Documents in the index.
        indexed: u64,
        /// Data records in the record blocks.
        stored: u64,
    },
    /// The partitions' frames do not add up to the segment: a bug, caught before anything is stored.
    #[error("{packed} of the segment's {read} bytes were packed")]
    BytesDiffer {
        /// Bytes in record blocks.
        packed: u64,
        /// Bytes of the segment.
        read: u64,
    },
    /// The index could not be built.
    #[error("cannot build the index")]
    Index(#[from] IndexError),
    /// The bundle could not be laid out.
    #[error("cannot build the bundle")]
    Bundle(#[from] AssembleError),
    /// A frame could not be packed.
    #[error("cannot pack the records")]
    Blocks(#[from] BlockWriterError),
    /// The finished parts of the segment could not be moved to the disk.
    #[error(transparent)]
    Spill(#[from] SpillError),
    /// The partition cannot be part of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The bundle could not be stored, or not be confirmed.
    #[error("cannot store {key}")]
    Put {
        /// The bundle's key.
        key: String,
        /// The cause.
        #[source]
        source: PutError,
    },
    /// A task panicked: a bug.
    #[error("a piece of work panicked")]
    Panicked,
}

impl IngestError {
    /// The position of the fault in the segment, in bytes. `u64::MAX` if the fault has no position.
    pub fn position(&self) -> u64 {
        match self {
            Self::Segment(error) | Self::BatchTooLarge(error) => error.position(),
            Self::Torn { position } | Self::OtherPartition { position, .. } => *position,
            Self::OffsetsNotAllowed { position, .. } => position.unwrap_or(u64::MAX),
            Self::NothingWhole { .. } => 0,
            Self::Request(_)
            | Self::Budget(_)
            | Self::Read(_)
            | Self::Silent { .. }
            | Self::Trickles
            | Self::BuildTooSlow { .. }
            | Self::SizeDiffers { .. }
            | Self::ChecksumDiffers { .. }
            | Self::AttachmentDiffers { .. }
            | Self::PartitionMissing
            | Self::TooManyPartitions
            | Self::CountsDiffer { .. }
            | Self::BytesDiffer { .. }
            | Self::Index(_)
            | Self::Bundle(_)
            | Self::Blocks(_)
            | Self::Spill(_)
            | Self::Key(_)
            | Self::Put { .. }
            | Self::Panicked => u64::MAX,
        }
    }
}

impl From<Panicked> for IngestError {
    fn from(_: Panicked) -> Self {
        Self::Panicked
    }
}
