//! Cuts a segment's bytes into frames as they come, reading heads only.

use bytes::{Bytes, BytesMut};

use super::tail::{self, Search};
use super::{Encoding, Fault, Frame, SegmentError, chronik, kafka};
use crate::ids::{SegmentFormat, TopicPartition};

/// What the first bytes of a frame tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// So far nothing is wrong, but only with this many bytes there is more to say.
    Needs(usize),
    /// The frame's length in bytes, all included.
    Frame(u64),
}

/// Cuts a segment's bytes into frames.
///
/// It does no input or output and keeps no more than one unfinished frame (or the tail that turned out to be torn). Where a
/// chunk holds a whole frame, the frame is a slice of that chunk.
#[derive(Debug)]
pub struct Splitter {
    size_bytes: u64,
    received: u64,
    announced: Option<SegmentFormat>,
    format: Option<SegmentFormat>,
    /// Where the frame that `pending` starts lies in the segment.
    position: u64,
    ordinal: u64,
    pending: BytesMut,
    torn: Option<Torn>,
    partition: Option<TopicPartition>,
    last_offset: Option<i64>,
}

#[derive(Debug)]
struct Torn {
    needed: u64,
    /// The size of the pending bytes at which to look for a whole frame among them the next time.
    search_at: usize,
}

/// What is left at a segment's end.
#[derive(Clone, Debug)]
pub struct Tail {
    /// What the segment is written in; `None` where there are too few bytes to tell.
    pub format: Option<SegmentFormat>,
    /// The frame that the segment's end cuts off.
    pub torn: Option<TornTail>,
}

/// The first bytes of a frame whose rest is missing. No whole frame lies behind its start.
#[derive(Clone, Debug)]
pub struct TornTail {
    /// Where it starts in the segment, in bytes.
    pub position: u64,
    /// How many whole frames come before it.
    pub ordinal: u64,
    /// All bytes from there to the segment's end.
    pub bytes: Bytes,
    /// The bytes that the frame claims, or that its head takes.
    pub needed: u64,
}

impl TornTail {
    /// The error that it is for a caller who does not keep torn bytes.
    pub fn error(&self) -> SegmentError {
        let fault = Fault::Torn { left: self.bytes.len() as u64, needed: self.needed };
        SegmentError::new(self.position, self.ordinal, fault)
    }
}

/// How many bytes of a torn tail are there before it is searched the first time; then at every doubling.
const SEARCH_BYTES_FIRST: usize = 1 << 20;
/// What is set aside at once for a frame that comes in pieces.
const PENDING_BYTES_FIRST: usize = 1 << 20;

impl Splitter {
    /// For a segment of `size_bytes`. Its format is recognised from the first bytes where it is not given.
    pub fn new(size_bytes: u64, format: Option<SegmentFormat>) -> Self {
        Self {
            size_bytes,
            received: 0,
            announced: format,
            format: None,
            position: 0,
            ordinal: 0,
            pending: BytesMut::new(),
            torn: None,
            partition: None,
            last_offset: None,
        }
    }

    /// The format, as soon as the bytes have told it.
    pub fn format(&self) -> Option<SegmentFormat> {
        self.format
    }

    /// Where the segment's last, cut-off frame starts, as soon as that is known: a caller who does not keep torn bytes need
    /// not wait for their end.
    pub fn torn_at(&self) -> Option<u64> {
        self.torn.is_some().then_some(self.position)
    }

    /// The bytes held here: those of an unfinished frame, or of a torn tail.
    pub fn mem_usage(&self) -> usize {
        self.pending.capacity()
    }

    /// Takes the next bytes and appends the frames that they complete to `frames`.
    ///
    /// # Errors
    /// What the heads tell. Frames in front of the fault are appended all the same, and may prove to be what is at fault (a
    /// damaged length is seen only behind its frame): decode them first. After an error the splitter is of no more use.
    pub fn push(&mut self, mut chunk: Bytes, frames: &mut Vec<Frame>) -> Result<(), SegmentError> {
        self.received = self.received.saturating_add(chunk.len() as u64);
        if self.received > self.size_bytes {
            return Err(self.sizes_disagree());
        }
        loop {
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
            let head =
                recognise(seen, left, self.announced, self.format).map_err(|fault| self.error(fault))?;
            self.format = head.format;
            if head.needed > left {
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
                frames.push(self.frame(bytes)?);
            } else if chunk.len() < needed {
                self.keep(&chunk, needed);
                chunk.clear();
            } else {
                frames.push(self.frame(chunk.split_to(needed))?);
            }
        }
    }

    /// Ends the segment, and says what is left of it.
    ///
    /// # Errors
    /// Fewer bytes came than were announced; or what seemed torn is damaged: whole frames lie behind it.
    pub fn finish(mut self) -> Result<Tail, SegmentError> {
        if self.received < self.size_bytes {
            return Err(self.sizes_disagree());
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

    /// Keeps a part of a frame of `needed` bytes. What a frame claims is set aside as its bytes come, not at once: a claim is
    /// cheap.
    fn keep(&mut self, part: &[u8], needed: usize) {
        let len = self.pending.len() + part.len();
        if len > self.pending.capacity() {
            let room = len.saturating_mul(2).max(PENDING_BYTES_FIRST).min(needed).max(len);
            self.pending.reserve(room - self.pending.len());
        }
        self.pending.extend_from_slice(part);
    }

    /// Makes a frame of its bytes, and goes on behind it.
    fn frame(&mut self, bytes: Bytes) -> Result<Frame, SegmentError> {
        let encoding = match self.format {
            Some(SegmentFormat::KafkaLog) => Encoding::KafkaBatch,
            _ if chronik::is_v1(&bytes) => Encoding::ChronikV1,
            _ => Encoding::ChronikV2,
        };
        let partition = match encoding {
            Encoding::KafkaBatch => {
                self.check_order(&bytes).map_err(|fault| self.error(fault))?;
                None
            }
            Encoding::ChronikV1 => None,
            Encoding::ChronikV2 => {
                let before = self.partition.take();
                let partition = chronik::partition(&bytes, before).map_err(|fault| self.error(fault))?;
                self.partition = Some(partition.clone());
                Some(partition)
            }
        };
        let frame = Frame { position: self.position, ordinal: self.ordinal, partition, bytes, encoding };
        self.position += frame.bytes.len() as u64;
        self.ordinal += 1;
        Ok(frame)
    }

    /// A batch's base offset is under no checksum. A Kafka log's offsets only ever rise, so this is what can be checked.
    fn check_order(&mut self, batch: &[u8]) -> Result<(), Fault> {
        let range = kafka::range(batch)?;
        match self.last_offset.replace(range.last()) {
            Some(previous_last) if range.first() <= previous_last => {
                Err(Fault::OffsetsOutOfOrder { base: range.first(), previous_last })
            }
            _ => Ok(()),
        }
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

    /// Looks whether the tail is torn indeed: no whole frame may lie behind its start.
    fn search(&self, torn: &Torn, is_all: bool) -> Result<(), SegmentError> {
        let Some(format) = self.format else { return Ok(()) };
        let (left, needed) = (self.size_bytes - self.position, torn.needed);
        let found = if is_all && tail::is_whole(&self.pending, format) {
            Search::Found(0)
        } else {
            tail::later_frame(&self.pending, format)
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

/// What is known from a frame's first bytes.
struct Recognised {
    format: Option<SegmentFormat>,
    /// The frame's length; where the head is not all there, the bytes that it takes.
    needed: u64,
}

/// Reads the head of a frame that starts with `bytes`, `left` bytes before the segment's end, and recognises the format while
/// it is not `known`. It judges by a whole prefix, or by all that is left: never by where a chunk happens to end.
fn recognise(
    bytes: &[u8],
    left: u64,
    announced: Option<SegmentFormat>,
    known: Option<SegmentFormat>,
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
        Some(SegmentFormat::KafkaLog) => kafka::head(bytes)?,
    };
    let needed = match head {
        Head::Needs(bytes) => bytes as u64,
        Head::Frame(len) => len,
    };
    Ok(Recognised { format, needed })
}

/// The format of a segment that starts with `bytes`; `None` where they are too few to tell.
fn format_of(bytes: &[u8], announced: Option<SegmentFormat>) -> Result<Option<SegmentFormat>, Fault> {
    use SegmentFormat::{ChronikWal, KafkaLog};
    // A Kafka batch that started with Chronik's magic would have an offset beyond 9 * 10^18. The reverse proves nothing: what
    // stands where Kafka has length and magic may be anything in a Chronik record.
    let is_chronik = bytes.starts_with(&chronik::MAGIC);
    match announced {
        Some(KafkaLog) if is_chronik => Err(Fault::FormatMismatch { announced: KafkaLog, found: ChronikWal }),
        Some(ChronikWal) if !is_chronik && matches!(kafka::head(bytes), Ok(Head::Frame(_))) => {
            Err(Fault::FormatMismatch { announced: ChronikWal, found: KafkaLog })
        }
        Some(format) => Ok(Some(format)),
        None if is_chronik => Ok(Some(ChronikWal)),
        None if bytes.len() < kafka::PREFIX_BYTES => Ok(None),
        None if bytes[16] == kafka::MAGIC => Ok(Some(KafkaLog)),
        // Two byte values are weak evidence of an older message: the rest of its head must bear it out.
        None => match kafka::head(bytes) {
            Err(fault @ Fault::KafkaMagic { .. }) => Err(fault),
            _ => Err(Fault::UnknownFormat),
        },
    }
}
