//! Splits a segment's bytes into frames as they arrive. Reads only the heads of frames.

use bytes::{Bytes, BytesMut};

use super::order::LogOrder;
use super::torn_tail::{self, Search};
use super::zeros::{ZeroTail, may_cut_frame, may_cut_head};
use super::{Anomalies, Encoding, Fault, Frame, SegmentError, chronik, kafka, message};
use crate::ids::{SegmentFormat, TopicPartition};

/// The result of reading a frame's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Nothing is wrong so far, but the head needs this many bytes.
    Needs(usize),
    /// The whole frame's length in bytes.
    Frame(u64),
}

/// Splits a segment's bytes into frames.
///
/// It does no I/O. It keeps at most one whole frame and one unfinished one, or the tail that turned out to be
/// torn. If a chunk holds a whole frame, the frame is a slice of that chunk.
#[derive(Debug)]
pub struct FrameSplitter {
    size_bytes: u64,
    received: u64,
    announced: Option<SegmentFormat>,
    format: Option<SegmentFormat>,
    /// The position in the segment of the frame that `pending` starts.
    position: u64,
    ordinal: u64,
    pending: BytesMut,
    /// The last frame, until the bytes after it show that zeros did not cut it off.
    held: Option<Frame>,
    torn: Option<Torn>,
    zeros: Option<ZeroTail>,
    partition: Option<TopicPartition>,
    order: LogOrder,
    any_magic: bool,
}

#[derive(Debug)]
struct Torn {
    needed: u64,
    /// The next search for a whole frame starts when the pending bytes reach this size.
    search_at: usize,
}

/// The rest at a segment's end.
#[derive(Clone, Debug)]
pub struct Tail {
    /// The segment's format; `None` if there are too few bytes to recognise it.
    pub format: Option<SegmentFormat>,
    /// The frame that the segment's end cuts off, or the zeros that it ends in.
    pub torn: Option<TornTail>,
}

/// The first bytes of a frame whose rest is missing or replaced by zeros. No whole frame follows after its
/// start.
#[derive(Clone, Debug)]
pub struct TornTail {
    /// Where it starts in the segment, in bytes.
    pub position: u64,
    /// How many whole frames come before it.
    pub ordinal: u64,
    /// All bytes from there to the segment's end.
    pub bytes: Bytes,
    /// The number of bytes that the frame claims, or that its head takes. If zeros replace the rest, it is at
    /// most the number of bytes that are there.
    pub needed: u64,
}

impl TornTail {
    /// Returns the error for a caller that does not keep torn bytes.
    pub fn error(&self) -> SegmentError {
        let (left, needed) = (self.bytes.len() as u64, self.needed);
        let fault =
            if needed > left { Fault::Torn { left, needed } } else { Fault::EndsInZeros { bytes: left } };
        SegmentError::new(self.position, self.ordinal, fault)
    }
}

/// A torn tail is searched for the first time at this size in bytes, and again each time its size has
/// doubled.
const SEARCH_BYTES_FIRST: usize = 1 << 20;
/// The first allocation for a frame that arrives in pieces, in bytes.
const PENDING_BYTES_FIRST: usize = 1 << 20;

impl FrameSplitter {
    /// Makes a splitter for a segment of `size_bytes`. Without a `format`, it recognises the format from the
    /// first bytes.
    pub fn new(size_bytes: u64, format: Option<SegmentFormat>) -> Self {
        Self {
            size_bytes,
            received: 0,
            announced: format,
            format: None,
            position: 0,
            ordinal: 0,
            pending: BytesMut::new(),
            held: None,
            torn: None,
            zeros: None,
            partition: None,
            order: LogOrder::default(),
            any_magic: false,
        }
    }

    /// Sets whether Kafka frames of an unknown magic are accepted too.
    pub fn with_any_magic(self, any_magic: bool) -> Self {
        Self { any_magic, ..self }
    }

    /// The format, once the first bytes show it.
    pub fn format(&self) -> Option<SegmentFormat> {
        self.format
    }

    /// The position where the segment's last, cut-off frame starts, once it is known. A caller that does not
    /// keep torn bytes need not wait for their end. Zeros count as torn only when they reach the segment's
    /// end.
    pub fn torn_at(&self) -> Option<u64> {
        let zeros = self.zeros.as_ref().filter(|_| self.received == self.size_bytes);
        zeros.map(|zeros| zeros.position).or_else(|| self.torn.is_some().then_some(self.position))
    }

    /// The bytes held here: of the last frame, of an unfinished one, or of a torn tail.
    pub fn mem_usage(&self) -> usize {
        let held = self.held.as_ref().map_or(0, |held| held.bytes.len());
        self.pending.capacity() + held + self.zeros.as_ref().map_or(0, |zeros| zeros.cut.len())
    }

    /// The memory that [`FrameSplitter::finish`] takes in addition, in bytes. Until then zeros are only
    /// counted.
    pub fn finish_usage(&self) -> u64 {
        self.zeros.as_ref().map_or(0, |zeros| zeros.cut.len() as u64 + zeros.zeros)
    }

    /// Takes the next bytes and appends the frames that they complete to `frames`.
    ///
    /// # Errors
    /// What is wrong with the heads. The frames before the fault are appended too, and one of them may be the
    /// cause: a damaged length shows only after its frame. So decode them first. After an error the splitter
    /// cannot be used again.
    pub fn push(&mut self, mut chunk: Bytes, frames: &mut Vec<Frame>) -> Result<(), SegmentError> {
        self.received = self.received.saturating_add(chunk.len() as u64);
        if self.received > self.size_bytes {
            return Err(self.sizes_disagree());
        }
        loop {
            if self.zeros.is_some() {
                return self.take_zeros(&chunk, frames);
            }
            if self.torn.is_some() {
                self.pending.extend_from_slice(&chunk);
                return self.search_if_grown();
            }
            let in_pieces = !self.pending.is_empty();
            let seen: &[u8] = if in_pieces { &self.pending } else { &chunk };
            if seen.is_empty() {
                return Ok(());
            }
            let left = self.size_bytes - self.position;
            let head = match recognise(seen, left, self.announced, self.format, self.any_magic) {
                Ok(head) => head,
                Err(fault) => {
                    let seen = self.take_seen(&mut chunk);
                    self.begin_zeros(fault, &seen, frames)?;
                    continue;
                }
            };
            self.format = head.format;
            if head.needed > left {
                // Zeros that are too few for a head count as zeros, too.
                if seen.len() as u64 == left && seen.iter().all(|byte| *byte == 0) {
                    let seen = self.take_seen(&mut chunk);
                    self.begin_zeros(Fault::Torn { left, needed: head.needed }, &seen, frames)?;
                    continue;
                }
                frames.extend(self.held.take());
                self.torn = Some(Torn { needed: head.needed, search_at: SEARCH_BYTES_FIRST });
                continue;
            }
            let needed = usize::try_from(head.needed)
                .map_err(|_| self.error(Fault::TooLarge { limit: usize::MAX }))?;
            if in_pieces && self.pending.len() < needed {
                if chunk.is_empty() {
                    return Ok(());
                }
                let missing = (needed - self.pending.len()).min(chunk.len());
                self.keep(&chunk.split_to(missing), needed);
            } else if in_pieces {
                let bytes = self.pending.split().freeze();
                self.whole(bytes, frames)?;
            } else if chunk.len() < needed {
                self.keep(&chunk, needed);
                chunk.clear();
            } else {
                self.whole(chunk.split_to(needed), frames)?;
            }
        }
    }

    /// Takes a whole frame. Holds it until the bytes after it show that zeros do not cut it off.
    fn whole(&mut self, bytes: Bytes, frames: &mut Vec<Frame>) -> Result<(), SegmentError> {
        frames.extend(self.held.take());
        let (position, ordinal, encoding) = (self.position, self.ordinal, self.encoding(&bytes));
        let is_last = position + bytes.len() as u64 == self.size_bytes;
        let is_cut = |bytes: &[u8]| ordinal > 0 && may_cut_frame(bytes, encoding, is_last);
        match self.frame(bytes.clone(), encoding) {
            Ok(frame) if !is_last => self.held = Some(frame),
            Ok(frame) if !is_cut(&bytes) => frames.push(frame),
            Err(fault) if !is_cut(&bytes) => return Err(fault),
            framed => {
                let fault = framed.err().unwrap_or_else(|| self.error(Fault::EndsInZeros { bytes: 0 }));
                self.zeros = Some(ZeroTail { position, ordinal, cut: bytes, zeros: 0, frame: None, fault });
            }
        }
        Ok(())
    }

    /// Handles the bytes `seen`, which should start a frame but do not, for the reason `fault`. They may be
    /// zeros, or the start of a head and then zeros.
    fn begin_zeros(
        &mut self,
        fault: Fault,
        seen: &Bytes,
        frames: &mut Vec<Frame>,
    ) -> Result<(), SegmentError> {
        let (position, ordinal, fault) = (self.position, self.ordinal, self.error(fault));
        let prefix = seen.slice(..seen.len().min(kafka::PREFIX_BYTES));
        let held = self.held.take();
        let Some(written) = may_cut_head(&prefix, self.format, ordinal) else {
            frames.extend(held);
            return Err(fault);
        };
        let cut = prefix.slice(..written);
        let mut tail = ZeroTail { position, ordinal, cut, zeros: 0, frame: None, fault };
        match held {
            Some(held) if written == 0 && tail.may_have_cut(&held) => tail.take_back(held),
            held => frames.extend(held),
        }
        self.zeros = Some(tail);
        self.take_zeros(&seen[written..], frames)
    }

    /// Adds bytes to a tail that is all zeros so far. Any other byte is an error.
    fn take_zeros(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), SegmentError> {
        if let Some(mut tail) = self.zeros.take() {
            if !tail.takes(bytes) {
                frames.extend(tail.frame);
                return Err(tail.fault);
            }
            self.zeros = Some(tail);
        }
        Ok(())
    }

    /// Ends the segment and returns what is left of it.
    ///
    /// # Errors
    /// Fewer bytes came than were announced; or a tail that seemed torn is damaged, because whole frames
    /// follow it.
    pub fn finish(mut self) -> Result<Tail, SegmentError> {
        if self.received < self.size_bytes {
            return Err(self.sizes_disagree());
        }
        if let Some(zeros) = self.zeros.take() {
            let (position, ordinal, bytes) = (zeros.position, zeros.ordinal, zeros.into_bytes());
            let torn = Some(TornTail { position, ordinal, needed: bytes.len() as u64, bytes });
            return Ok(Tail { format: self.format, torn });
        }
        let torn = match self.torn.take() {
            None => None,
            Some(torn) => {
                self.search(&torn, true)?;
                let bytes = self.pending.split().freeze();
                Some(TornTail { position: self.position, ordinal: self.ordinal, bytes, needed: torn.needed })
            }
        };
        Ok(Tail { format: self.format, torn })
    }

    /// Keeps a part of a frame of `needed` bytes. The buffer grows as bytes arrive and is not allocated at
    /// once, because any head can claim a large size.
    fn keep(&mut self, part: &[u8], needed: usize) {
        let len = self.pending.len() + part.len();
        if len > self.pending.capacity() {
            let capacity = len.saturating_mul(2).max(PENDING_BYTES_FIRST).min(needed).max(len);
            self.pending.reserve(capacity - self.pending.len());
        }
        self.pending.extend_from_slice(part);
    }

    /// Takes the bytes of a frame that have arrived so far.
    fn take_seen(&mut self, chunk: &mut Bytes) -> Bytes {
        if self.pending.is_empty() { std::mem::take(chunk) } else { self.pending.split().freeze() }
    }

    fn encoding(&self, frame: &[u8]) -> Encoding {
        match self.format {
            Some(SegmentFormat::KafkaLog) if message::is_legacy_message(frame) => Encoding::KafkaMessage,
            Some(SegmentFormat::KafkaLog) if kafka::is_of_unknown_magic(frame) => Encoding::Unknown,
            Some(SegmentFormat::KafkaLog) => Encoding::KafkaBatch,
            _ if chronik::is_v1(frame) => Encoding::ChronikV1,
            _ => Encoding::ChronikV2,
        }
    }

    /// Makes a frame of its bytes, and moves the position behind it.
    fn frame(&mut self, bytes: Bytes, encoding: Encoding) -> Result<Frame, SegmentError> {
        let partition = match encoding {
            Encoding::KafkaBatch | Encoding::KafkaMessage | Encoding::Unknown | Encoding::ChronikV1 => None,
            Encoding::ChronikV2 => {
                let before = self.partition.take();
                let partition = chronik::partition(&bytes, before).map_err(|fault| self.error(fault))?;
                self.partition = Some(partition.clone());
                Some(partition)
            }
        };
        let (position, ordinal, anomalies) = (self.position, self.ordinal, Anomalies::default());
        let mut frame = Frame { position, ordinal, partition, bytes, anomalies, encoding };
        frame.anomalies = self.order.next(&frame);
        self.position += frame.bytes.len() as u64;
        self.ordinal += 1;
        Ok(frame)
    }

    fn search_if_grown(&mut self) -> Result<(), SegmentError> {
        match self.torn.take() {
            Some(mut torn) if self.pending.len() >= torn.search_at => {
                self.search(&torn, false)?;
                torn.search_at = self.pending.len().saturating_mul(2);
                self.torn = Some(torn);
            }
            torn => self.torn = torn,
        }
        Ok(())
    }

    /// Checks that the tail is really torn: no whole frame may follow after its start.
    fn search(&self, torn: &Torn, is_all: bool) -> Result<(), SegmentError> {
        let Some(format) = self.format else { return Ok(()) };
        let (left, needed) = (self.size_bytes - self.position, torn.needed);
        let found = if is_all && torn_tail::is_whole(&self.pending, format) {
            Search::Found(0)
        } else {
            torn_tail::later_frame(&self.pending, format)
        };
        match found {
            Search::Found(at) => {
                Err(self.error(Fault::WrongLength { left, needed, found: self.position + at as u64 }))
            }
            Search::Undecided if is_all => Err(self.error(Fault::TailUndecided { left, needed })),
            Search::Nothing | Search::Undecided => Ok(()),
        }
    }

    fn sizes_disagree(&self) -> SegmentError {
        self.error(Fault::SizesDisagree { announced: self.size_bytes, received: self.received })
    }

    fn error(&self, fault: Fault) -> SegmentError {
        SegmentError::new(self.position, self.ordinal, fault)
    }
}

/// The facts known from a frame's first bytes.
struct Recognised {
    format: Option<SegmentFormat>,
    /// The frame's length; if the head is incomplete, the bytes that the head takes.
    needed: u64,
}

/// Reads the head of a frame that starts with `bytes`, `left` bytes before the segment's end. Recognises the
/// format if it is not `known`. It decides from a whole prefix, or from all bytes that are left, never from
/// where a chunk ends.
fn recognise(
    bytes: &[u8],
    left: u64,
    announced: Option<SegmentFormat>,
    known: Option<SegmentFormat>,
    any_magic: bool,
) -> Result<Recognised, Fault> {
    // The shortest Chronik frame is longer than the prefix of a Kafka batch.
    let prefix = match known {
        Some(SegmentFormat::ChronikWal) => chronik::PREFIX_BYTES as u64,
        Some(SegmentFormat::KafkaLog) | None => kafka::PREFIX_BYTES as u64,
    };
    if (bytes.len() as u64) < prefix.min(left) {
        return Ok(Recognised { format: known, needed: prefix.min(left) });
    }
    let format = match known {
        Some(format) => Some(format),
        None => format_of(bytes, announced)?,
    };
    let head = match format {
        None => Head::Needs(kafka::PREFIX_BYTES),
        Some(SegmentFormat::ChronikWal) => chronik::head(bytes)?,
        Some(SegmentFormat::KafkaLog) => kafka::head(bytes, any_magic)?,
    };
    let needed = match head {
        Head::Needs(bytes) => bytes as u64,
        Head::Frame(len) => len,
    };
    Ok(Recognised { format, needed })
}

/// The format of a segment that starts with `bytes`; `None` if they are too few to recognise it.
fn format_of(bytes: &[u8], announced: Option<SegmentFormat>) -> Result<Option<SegmentFormat>, Fault> {
    use SegmentFormat::{ChronikWal, KafkaLog};
    // A Kafka batch that started with Chronik's magic would have an offset above 9 * 10^18. The reverse
    // proves nothing: a Chronik record may hold any bytes where Kafka has length and magic.
    let is_chronik = bytes.starts_with(&chronik::MAGIC);
    let is_head = || matches!(kafka::head(bytes, false), Ok(Head::Frame(_)));
    match announced {
        Some(KafkaLog) if is_chronik => Err(Fault::FormatMismatch { announced: KafkaLog, found: ChronikWal }),
        Some(ChronikWal) if !is_chronik && bytes.get(kafka::MAGIC_AT) == Some(&kafka::MAGIC) && is_head() => {
            Err(Fault::FormatMismatch { announced: ChronikWal, found: KafkaLog })
        }
        Some(format) => Ok(Some(format)),
        None if is_chronik => Ok(Some(ChronikWal)),
        None if bytes.len() < kafka::PREFIX_BYTES => Ok(None),
        None if bytes[kafka::MAGIC_AT] == kafka::MAGIC => Ok(Some(KafkaLog)),
        // A magic of 0 or 1 alone is weak evidence of an older message. The rest of its head must confirm it.
        None if is_head() => Ok(Some(KafkaLog)),
        None => Err(Fault::UnknownFormat),
    }
}
