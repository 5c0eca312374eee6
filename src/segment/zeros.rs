//! Zeros to a segment's end, as a power cut or preallocation leaves them: torn, like a frame that the segment's end cuts off.

use bytes::{Bytes, BytesMut};

use super::codec::Codec;
use super::{Encoding, Frame, SegmentError, chronik, kafka, message};
use crate::ids::SegmentFormat;

/// So many zeros at the end of the last frame, whose checksum does not hold, were never written. Fewer of them, and nothing behind the
/// frame, may be anything.
const SECTOR_BYTES: usize = 512;

/// What is zeros as far as it has come, and proves to be torn or corrupt at the segment's end.
#[derive(Debug)]
pub(super) struct ZeroTail {
    pub(super) position: u64,
    pub(super) ordinal: u64,
    /// The start of a frame that the zeros cut off, which may have zeros at its end; empty where they come right behind a frame.
    pub(super) cut: Bytes,
    /// How many zeros follow.
    pub(super) zeros: u64,
    /// The frame that was cut, if it is one by its length.
    pub(super) frame: Option<Frame>,
    /// What it is if something else than zeros follows.
    pub(super) fault: SegmentError,
}

impl ZeroTail {
    /// Takes the next bytes, if they are zeros.
    pub(super) fn takes(&mut self, bytes: &[u8]) -> bool {
        self.zeros += bytes.len() as u64;
        bytes.iter().all(|byte| *byte == 0)
    }

    /// Whether the zeros, which come right behind this frame, may stand in place of its end, too.
    pub(super) fn may_have_cut(&self, frame: &Frame) -> bool {
        frame.ordinal > 0 && may_cut_frame(&frame.bytes, frame.encoding, false)
    }

    /// Begins with this frame.
    pub(super) fn take_back(&mut self, frame: Frame) {
        (self.position, self.ordinal, self.cut) = (frame.position, frame.ordinal, frame.bytes.clone());
        self.frame = Some(frame);
    }

    /// All bytes to the segment's end.
    pub(super) fn into_bytes(self) -> Bytes {
        let mut bytes = BytesMut::zeroed(self.cut.len() + self.zeros as usize);
        bytes[..self.cut.len()].copy_from_slice(&self.cut);
        bytes.freeze()
    }
}

/// How many of a frame's first bytes, which are no head, may be the start of one where zeros stand in place of the rest; `None` where they
/// cannot be that. `prefix` is as much as tells a frame from other bytes. Where no whole frame comes before it, only zeros are zeros.
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

/// Whether zeros may stand where the rest of this frame should: its checksum does not hold, and it ends in more of them than frames do.
/// `is_last`: no zeros follow it.
pub(super) fn may_cut_frame(frame: &[u8], encoding: Encoding, is_last: bool) -> bool {
    let usual = match encoding {
        Encoding::ChronikV1 | Encoding::ChronikV2 => chronik::USUAL_ZEROS,
        Encoding::KafkaBatch => match kafka::codec(frame) {
            // The last record's number of headers.
            Ok(Codec::None) => 1,
            // The upper bytes of its length.
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
