//! Distinguishes a torn tail, whose frame the segment's end cuts off, from a damaged length in the middle of
//! a segment.

use super::framing::Head;
use super::{chronik, kafka, message};
use crate::ids::SegmentFormat;

/// The result of a search for a whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Search {
    /// A whole frame with a correct checksum starts here.
    Found(usize),
    /// There is none.
    Nothing,
    /// There were too many possible frames to check them all.
    Undecided,
}

/// Limits the bytes over which checksums are computed, to this many times the size of the tail. Without the
/// limit, heads that each claim all the rest would take time that grows with the square of their number.
const WORK_PER_BYTE_MAX: usize = 8;
/// The limit for small tails, in bytes.
const WORK_BYTES_MIN: usize = 1 << 20;

/// Searches for a whole frame after the tail's first byte.
pub(super) fn later_frame(tail: &[u8], format: SegmentFormat) -> Search {
    let mut work_left = tail.len().saturating_mul(WORK_PER_BYTE_MAX).max(WORK_BYTES_MIN);
    for at in 1..tail.len() {
        let rest = &tail[at..];
        let head = match format {
            SegmentFormat::ChronikWal if !rest.starts_with(&chronik::MAGIC) => continue,
            SegmentFormat::ChronikWal => chronik::head(rest),
            SegmentFormat::KafkaLog
                if rest.get(kafka::MAGIC_AT).is_none_or(|magic| *magic > kafka::MAGIC) =>
            {
                continue;
            }
            SegmentFormat::KafkaLog => kafka::head(rest, false),
        };
        let Ok(Head::Frame(len)) = head else { continue };
        let Some(frame) = usize::try_from(len).ok().and_then(|len| rest.get(..len)) else { continue };
        let is_message = format == SegmentFormat::KafkaLog && message::is_legacy_message(frame);
        let is_plausible = match format {
            SegmentFormat::ChronikWal => true,
            SegmentFormat::KafkaLog if is_message => message::is_plausible(frame),
            SegmentFormat::KafkaLog => kafka::is_plausible(frame),
        };
        if !is_plausible {
            continue;
        }
        let Some(left) = work_left.checked_sub(frame.len()) else { return Search::Undecided };
        work_left = left;
        let holds = match format {
            SegmentFormat::ChronikWal => chronik::check_crc(frame),
            SegmentFormat::KafkaLog if is_message => message::check_crc(frame),
            SegmentFormat::KafkaLog => kafka::check_crc(frame),
        };
        if holds.is_ok() {
            return Search::Found(at);
        }
    }
    Search::Nothing
}

/// Whether the tail is a whole frame: its checksum is correct, and only its length is wrong.
pub(super) fn is_whole(tail: &[u8], format: SegmentFormat) -> bool {
    match format {
        SegmentFormat::ChronikWal => chronik::is_whole_but_for_its_length(tail),
        SegmentFormat::KafkaLog if tail.len() < message::HEAD_BYTES => false,
        SegmentFormat::KafkaLog if message::is_legacy_message(tail) => message::check_crc(tail).is_ok(),
        SegmentFormat::KafkaLog => tail.len() >= kafka::HEAD_BYTES && kafka::check_crc(tail).is_ok(),
    }
}
