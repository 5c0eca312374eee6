//! Zeros up to a segment's end, as a power cut or preallocation leaves them. They are torn, like a frame that
//! the segment's end cuts off.

use bytes::{Bytes, BytesMut};

use super::codec::Codec;
use super::{Encoding, Frame, SegmentError, chronik, kafka, message};
use crate::ids::SegmentFormat;

/// The size of a sector. If the checksum of the last frame is wrong and it ends in this many zeros, a sector
/// was never written. With fewer zeros, and nothing behind the frame, the cause is not known.
const SECTOR_BYTES: usize = 512;

/// A tail that has only zeros so far. It is torn if the zeros reach the segment's end, and corrupt if other
/// bytes follow.
#[derive(Debug)]
pub(super) struct ZeroTail {
    pub(super) position: u64,
    pub(super) ordinal: u64,
    /// The start of a frame that the zeros cut off; it may end in zeros itself. Empty if the zeros directly
    /// follow a whole frame.
    pub(super) cut: Bytes,
    /// The number of zeros that follow.
    pub(super) zeros: u64,
    /// The frame that was cut off, if its length makes it one.
    pub(super) frame: Option<Frame>,
    /// The error if something other than zeros follows.
    pub(super) fault: SegmentError,
}

impl ZeroTail {
    /// Takes the next bytes. Returns whether they are all zeros.
    pub(super) fn takes(&mut self, bytes: &[u8]) -> bool {
        self.zeros += bytes.len() as u64;
        bytes.iter().all(|byte| *byte == 0)
    }

    /// Whether the zeros, which directly follow this frame, may also replace its end.
    pub(super) fn may_have_cut(&self, frame: &Frame) -> bool {
        frame.ordinal > 0 && may_cut_frame(&frame.bytes, frame.encoding, false)
    }

    /// Makes this frame the start of the tail.
    pub(super) fn take_back(&mut self, frame: Frame) {
        (self.position, self.ordinal, self.cut) = (frame.position, frame.ordinal, frame.bytes.clone());
        self.frame = Some(frame);
    }

    /// Returns all bytes up to the segment's end.
    pub(super) fn into_bytes(self) -> Bytes {
        let mut bytes = BytesMut::zeroed(self.cut.len() + self.zeros as usize);
        bytes[..self.cut.len()].copy_from_slice(&self.cut);
        bytes.freeze()
    }
}

/// Returns how many of the first bytes may be the start of a head, if zeros replace the rest of the frame;
/// `None` if they cannot be one. `prefix` is long enough to tell a frame from other bytes. If no whole frame
/// comes before it, only a prefix of zeros is accepted.
pub(super) fn may_cut_head(prefix: &[u8], format: Option<SegmentFormat>, ordinal: u64) -> Option<usize> {
    let written = prefix.len() - zeros_at_end(prefix);
    let may_be = match format {
        _ if written == 0 => true,
        _ if ordinal == 0 => false,
        Some(SegmentFormat::ChronikWal) => {
            let magic = written.min(chronik::MAGIC.len());
            let version = prefix.get(chronik::MAGIC.len()).copied().unwrap_or_default();
            prefix[..magic] == chronik::MAGIC[..magic] && version <= 2 && written < chronik::PREFIX_BYTES
        }
        Some(SegmentFormat::KafkaLog) => prefix[0] < 0x80 && written <= kafka::MAGIC_AT,
        None => false,
    };
    may_be.then_some(written)
}

/// Whether zeros may replace the rest of this frame: its checksum is wrong, and it ends in more zeros than
/// frames usually do. `is_last` means that no zeros follow it.
pub(super) fn may_cut_frame(frame: &[u8], encoding: Encoding, is_last: bool) -> bool {
    let usual = match encoding {
        Encoding::ChronikV1 | Encoding::ChronikV2 => chronik::USUAL_ZEROS,
        Encoding::KafkaBatch => match kafka::codec(frame) {
            // The header count of the last record.
            Ok(Codec::None) => 1,
            // The upper bytes of the length in gzip's trailer.
            Ok(Codec::Gzip) => 2,
            // The end mark.
            Ok(Codec::Lz4) => 4,
            Ok(Codec::Snappy | Codec::Zstd) | Err(_) => 0,
        },
        Encoding::KafkaMessage => 0,
        Encoding::Unknown => return false,
    };
    let least = if is_last { SECTOR_BYTES } else { usual + 1 };
    zeros_at_end(frame) >= least && !is_sound(frame, encoding)
}

fn is_sound(frame: &[u8], encoding: Encoding) -> bool {
    let checked = match encoding {
        Encoding::ChronikV1 | Encoding::ChronikV2 => chronik::check_crc(frame),
        Encoding::KafkaBatch => kafka::check_crc(frame),
        Encoding::KafkaMessage => message::check_crc(frame),
        Encoding::Unknown => Ok(()),
    };
    checked.is_ok()
}

fn zeros_at_end(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|byte| **byte == 0).count()
}
