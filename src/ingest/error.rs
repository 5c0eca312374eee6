//! Why a segment was not acknowledged. Whatever the reason: the caller keeps its copy.

use std::time::Duration;

use crate::budget::BudgetError;
use crate::bundle::{AssembleError, BlockWriterError};
use crate::cpu::Panicked;
use crate::ids::{OffsetRange, SEGMENT_ID_BYTES_MAX, TopicPartition, TopicPartitionError};
use crate::index::IndexError;
use crate::segment::SegmentError;
use crate::store::{KeyError, PutError, SourceError};

use super::slices::PARTITIONS_MAX;

/// Why the source's bytes did not come.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The caller went away, or its connection did.
    #[error("the caller has gone")]
    CallerGone,
    /// The caller sent something other than the next bytes.
    #[error("a chunk was expected: {found}")]
    NotAChunk {
        /// What came instead.
        found: &'static str,
    },
    /// The object pointed to could not be read.
    #[error("cannot read the source")]
    Source(#[from] SourceError),
    /// A local file could not be read.
    #[error("cannot read the file")]
    File(#[from] std::io::Error),
}

/// What the request itself gets wrong, before a byte is read.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The first message has no header.
    #[error("the first message must be the header")]
    HeaderMissing,
    /// Something follows a header whose bytes lie elsewhere.
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
        /// What it holds.
        value: i32,
    },
    /// The segment's id is too long.
    #[error("the segment id has {bytes} bytes, more than {SEGMENT_ID_BYTES_MAX}")]
    SegmentIdTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Topic and partition name nothing.
    #[error(transparent)]
    Partition(#[from] TopicPartitionError),
    /// Topic or log id do not fit into a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The segment is larger than any may be.
    #[error("the segment has {size_bytes} bytes, more than {max_bytes}")]
    SegmentTooLarge {
        /// Its declared size in bytes.
        size_bytes: u64,
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// The offsets that the segment may hold are none.
    #[error("the segment may hold the offsets {first} to {last}, which are none")]
    NoOffsetsAllowed {
        /// The first.
        first: i64,
        /// The last.
        last: i64,
    },
    /// The object source's URL cannot be read.
    #[error("the source's url is not one")]
    Url(#[from] url::ParseError),
}

/// Why a segment was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The request is wrong.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No memory for it, now or ever.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The bytes did not come.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The sender was silent for too long.
    #[error("nothing came for {after:?}")]
    Silent {
        /// How long was waited.
        after: Duration,
    },
    /// The sender is slower than any link that segments should come over.
    #[error("the segment comes too slowly")]
    Trickles,
    /// The work on it took too long.
    #[error("the segment was not built within {after:?}")]
    BuildTooSlow {
        /// How long it was given, its sender's time included.
        after: Duration,
    },
    /// More or fewer bytes came than were declared.
    #[error("{declared} bytes were declared, {received} came")]
    SizeDiffers {
        /// What the header said, in bytes.
        declared: u64,
        /// What came; where it is more, reading stopped there.
        received: u64,
    },
    /// The bytes are not those that the caller meant to send.
    #[error("the crc32c was declared as {declared:08x}, the bytes have {computed:08x}")]
    ChecksumDiffers {
        /// What the header said.
        declared: u32,
        /// What the bytes say.
        computed: u32,
    },
    /// The bytes are corrupt or of a format that is not read.
    #[error(transparent)]
    Segment(SegmentError),
    /// A batch opens to more than is decoded in one piece.
    #[error(transparent)]
    BatchTooLarge(SegmentError),
    /// The segment ends inside a frame.
    #[error("the segment is torn: it ends inside the frame that begins at byte {position}")]
    Torn {
        /// Where the torn frame begins in the segment.
        position: u64,
    },
    /// The torn tail is all there is: it belongs to no partition.
    #[error("the segment holds {bytes} bytes and not one whole frame")]
    NothingWhole {
        /// How many bytes there are.
        bytes: usize,
    },
    /// The bytes don't say their partition, and neither does the request.
    #[error("the format needs topic and partition in the request")]
    PartitionMissing,
    /// The segment has more partitions than a receipt has room for.
    #[error("the segment has more than {PARTITIONS_MAX} partitions")]
    TooManyPartitions,
    /// The bytes name another partition than the request.
    #[error("the frame at byte {position} belongs to {found}, not to the partition that the request names")]
    OtherPartition {
        /// What the bytes say.
        found: TopicPartition,
        /// Where the frame begins in the segment.
        position: u64,
    },
    /// The segment holds offsets that it may not hold: its file has another one's name.
    #[error(
        "offsets {} to {} are not among those that the segment may hold by its name and the next one's, {} to {}",
        found.first(), found.last(), allowed.first(), allowed.last()
    )]
    OffsetsNotAllowed {
        /// What the bytes say.
        found: OffsetRange,
        /// What the request allows.
        allowed: OffsetRange,
        /// Where the frame begins in the segment, if it is known which.
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
    /// The partition cannot be part of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The bundle could not be stored, or not be confirmed.
    #[error("cannot store {key}")]
    Put {
        /// The bundle's key.
        key: String,
        /// Why not.
        #[source]
        source: PutError,
    },
    /// A piece of work panicked: a bug.
    #[error("a piece of work panicked")]
    Panicked,
}

impl IngestError {
    /// Where in the segment the fault lies, in bytes; behind everything where it has no place.
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
            | Self::PartitionMissing
            | Self::TooManyPartitions
            | Self::CountsDiffer { .. }
            | Self::BytesDiffer { .. }
            | Self::Index(_)
            | Self::Bundle(_)
            | Self::Blocks(_)
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
