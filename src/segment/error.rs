//! What can be wrong with a segment, where, and what the caller must do.

use super::codec::{Codec, CompressionFlaw};
use crate::ids::{SegmentFormat, TopicPartitionError};

/// The error that a segment cannot be read, with the place and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame {ordinal} at byte {position}: {fault}")]
pub struct SegmentError {
    position: u64,
    ordinal: u64,
    fault: Fault,
}

/// What a caller must do about a [`SegmentError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The bytes are damaged. Keep them, move them aside, and alert.
    Corrupt,
    /// The bytes or the request are of an unsupported kind. Sending them again does not help.
    Unsupported,
    /// A frame decompresses to more than the limit of the decoding.
    TooLarge,
}

/// Why a segment cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The first bytes do not belong to a known format.
    #[error("the first bytes are neither a chronik wal record's nor a kafka record batch's")]
    UnknownFormat,
    /// A frame should start here, but its magic is missing.
    #[error("no frame starts here: the magic is {found:#x}")]
    BadMagic {
        /// The value found instead.
        found: u32,
    },
    /// A Chronik WAL record of a version that no release wrote.
    #[error("chronik wal version {version} is unknown")]
    BadVersion {
        /// The version byte.
        version: u8,
    },
    /// A length that is too small for such a frame.
    #[error("the frame's length field says {length}, at least {least} is needed")]
    BadLength {
        /// The field's value.
        length: i64,
        /// The smallest valid value.
        least: i64,
    },
    /// The frame is not what was written.
    #[error("the checksum is {computed:#010x}, the frame says {stored:#010x}")]
    CrcMismatch {
        /// The checksum in the frame.
        stored: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// Invalid offsets: negative, reversed, or above the largest number.
    #[error("offsets {base} to {last} are not a valid range")]
    BadOffsets {
        /// The first offset that the head claims.
        base: i128,
        /// The last offset that the head claims.
        last: i128,
    },
    /// A record whose offset is above the largest number.
    #[error("record {record} has an invalid offset: {offset} after the frame's first")]
    BadRecordOffset {
        /// Which record of the frame, from 0.
        record: u32,
        /// The offset, relative to the frame's first.
        offset: i64,
    },
    /// More records are claimed than can fit.
    #[error("{claimed} records are claimed where at most {most} fit")]
    BadCount {
        /// The claimed count.
        claimed: i64,
        /// The largest count that the bytes allow.
        most: u64,
    },
    /// A record whose parts do not fit together.
    #[error("record {record} is malformed: {part}")]
    BadRecord {
        /// Which record of the frame, from 0.
        record: u32,
        /// The part that does not fit.
        part: &'static str,
    },
    /// A part of the frame, other than a record, does not fit.
    #[error("the frame is malformed: {part}")]
    BadFrame {
        /// The part that does not fit.
        part: &'static str,
    },
    /// There are bytes after the last record.
    #[error("{bytes} bytes are left over after the frame's contents")]
    LeftOver {
        /// The number of bytes.
        bytes: u64,
    },
    /// A compressed section that cannot be decompressed.
    #[error("the {codec} data does not open: {flaw}")]
    BadCompression {
        /// Its codec.
        codec: Codec,
        /// What is wrong.
        flaw: CompressionFlaw,
    },
    /// A Chronik record's head and contents do not agree.
    #[error("the head says {field} {head}, the contents say {inside}")]
    HeadDisagrees {
        /// The field.
        field: &'static str,
        /// Its value in the frame's head.
        head: i64,
        /// Its value in the canonical record.
        inside: i64,
    },
    /// The segment ends within a frame.
    #[error("the segment ends within a frame: {left} bytes are left, {needed} are needed")]
    Torn {
        /// The bytes from the frame's start to the segment's end.
        left: u64,
        /// The bytes that the frame claims, or that its head takes.
        needed: u64,
    },
    /// The segment ends in zeros, in place of a frame or of the rest of a frame.
    #[error("the segment ends in zeros: its last {bytes} bytes hold no whole frame")]
    EndsInZeros {
        /// The bytes from the end of the last whole frame to the segment's end.
        bytes: u64,
    },
    /// A frame claims more bytes than are left, but whole frames follow after its start, or it is itself
    /// whole. So its length is wrong.
    #[error(
        "the frame's length is wrong: it claims {needed} of {left} bytes left, but a whole frame starts at byte {found}"
    )]
    WrongLength {
        /// The bytes from the frame's start to the segment's end.
        left: u64,
        /// The number of bytes that the frame claims.
        needed: u64,
        /// The position in the segment where a whole frame was found.
        found: u64,
    },
    /// A torn tail with so many possible frames that checking all of them would take too long.
    #[error(
        "the segment ends within a frame of {needed} bytes, and its last {left} bytes look like too many frames"
    )]
    TailUndecided {
        /// The bytes from the frame's start to the segment's end.
        left: u64,
        /// The number of bytes that the frame claims.
        needed: u64,
    },
    /// A Chronik V2 record of the oldest releases, which lacks the last three fields.
    #[error("a chronik v2 record without offsets, as the oldest releases wrote them, is not supported")]
    ChronikV2WithoutOffsets,
    /// A compression codec that no Kafka release knows.
    #[error("compression codec {id} is unknown")]
    UnknownCodec {
        /// Its number in the batch's attributes.
        id: u8,
    },
    /// The bytes are of another format than the caller said.
    #[error("the segment was announced as {announced}, but its bytes are {found}", announced = .announced.name(), found = .found.name())]
    FormatMismatch {
        /// The announced format.
        announced: SegmentFormat,
        /// The format of the bytes.
        found: SegmentFormat,
    },
    /// A whole frame names an invalid topic-partition.
    #[error("the frame's topic and partition are unusable: {0}")]
    UnusablePartition(TopicPartitionError),
    /// More or fewer bytes came than were announced.
    #[error("{announced} bytes were announced, {received} came")]
    SizesDisagree {
        /// The segment's size as announced.
        announced: u64,
        /// The number of bytes that came so far.
        received: u64,
    },
    /// Decoding needs more memory than the limit allows.
    #[error("the frame opens to more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
}

impl SegmentError {
    pub(super) fn new(position: u64, ordinal: u64, fault: Fault) -> Self {
        Self { position, ordinal, fault }
    }

    /// Where the frame starts in the segment, in bytes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many frames of the segment come before it.
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// What is wrong.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        self.fault.kind()
    }

    /// The reason's stable name.
    pub fn reason(&self) -> &'static str {
        self.fault.reason()
    }
}

impl Fault {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownFormat
            | Self::BadMagic { .. }
            | Self::BadVersion { .. }
            | Self::BadLength { .. }
            | Self::CrcMismatch { .. }
            | Self::BadOffsets { .. }
            | Self::BadRecordOffset { .. }
            | Self::BadCount { .. }
            | Self::BadRecord { .. }
            | Self::BadFrame { .. }
            | Self::LeftOver { .. }
            | Self::BadCompression { .. }
            | Self::HeadDisagrees { .. }
            | Self::Torn { .. }
            | Self::EndsInZeros { .. }
            | Self::WrongLength { .. }
            | Self::TailUndecided { .. } => ErrorKind::Corrupt,
            Self::ChronikV2WithoutOffsets
            | Self::UnknownCodec { .. }
            | Self::FormatMismatch { .. }
            | Self::UnusablePartition(_)
            | Self::SizesDisagree { .. } => ErrorKind::Unsupported,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
        }
    }

    /// The reason's stable name. It is part of the contract and never changes.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownFormat => "UNKNOWN_FORMAT",
            Self::BadMagic { .. } => "BAD_MAGIC",
            Self::BadVersion { .. } => "BAD_VERSION",
            Self::BadLength { .. } => "BAD_LENGTH",
            Self::CrcMismatch { .. } => "CRC_MISMATCH",
            Self::BadOffsets { .. } => "BAD_OFFSETS",
            Self::BadRecordOffset { .. } => "BAD_RECORD_OFFSET",
            Self::BadCount { .. } => "BAD_RECORD_COUNT",
            Self::BadRecord { .. } => "BAD_RECORD",
            Self::BadFrame { .. } => "BAD_FRAME",
            Self::LeftOver { .. } => "BYTES_LEFT_OVER",
            Self::BadCompression { .. } => "BAD_COMPRESSION",
            Self::HeadDisagrees { .. } => "HEAD_DISAGREES",
            Self::Torn { .. } | Self::EndsInZeros { .. } => "TORN",
            Self::WrongLength { .. } => "WRONG_LENGTH",
            Self::TailUndecided { .. } => "TAIL_UNDECIDED",
            Self::ChronikV2WithoutOffsets => "CHRONIK_V2_WITHOUT_OFFSETS",
            Self::UnknownCodec { .. } => "UNKNOWN_CODEC",
            Self::FormatMismatch { .. } => "FORMAT_MISMATCH",
            Self::UnusablePartition(_) => "UNUSABLE_PARTITION",
            Self::SizesDisagree { .. } => "SIZES_DISAGREE",
            Self::TooLarge { .. } => "OPENS_TOO_LARGE",
        }
    }
}
