//! Receives the segment's bytes: hashes them, splits them into frames, and starts to build the frames at
//! once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::cpu::Cpu;
use crate::ids::{OffsetRange, SegmentFormat, TopicPartition};
use crate::segment::{ErrorKind, Frame, FrameSplitter, SegmentError, Tail, TornTail as TornBytes};
use crate::spans;

use super::attachments::Attachments;
use super::copy::Attachment;
use super::error::{IngestError, ReadError};
use super::memory_account::Share;
use super::sender_check::SenderCheck;
use super::slice::{Piece, Slice};
use super::slices::{SliceContext, Slices};
use super::{Request, Timeouts, TornTail, Undecodable};

/// The minimum rate of a sender, in bytes per second. A slower one only holds memory that others wait for.
pub(super) const SENDER_BYTES_PER_SECOND_MIN: u64 = 256 << 10;

/// What is known of the bytes of a whole segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub format: Option<SegmentFormat>,
    pub bytes_read: u64,
    pub crc32c: u32,
    pub sha256: [u8; 32],
    pub torn_tail_bytes: u64,
}

/// A segment that has come as a whole, with the slices of all partitions built.
pub(super) struct Received {
    pub source: Source,
    pub partitions: BTreeMap<TopicPartition, Vec<Slice>>,
    /// The attachments of a copy, sorted by name, and their memory.
    pub attachments: (Vec<Attachment>, Share),
    /// When the last byte came.
    pub ended: Instant,
}

/// Reads `bytes` to their end. `reserved` bytes of memory are reserved for them. Fails if the sender is silent for too long, or too slow.
pub(super) async fn receive<S>(
    request: &Request,
    context: SliceContext,
    bytes: S,
    reserved: u64,
    timeouts: &Timeouts,
) -> Result<Received, IngestError>
where
    S: Stream<Item = Result<Bytes, ReadError>> + Unpin,
{
    let declared = request.size_bytes + request.attachments_bytes();
    let mut attachments = Attachments::new(request.copy.as_deref(), context.account.share());
    let sender_check = SenderCheck::new(context.account.clone(), declared, reserved, timeouts.admission);
    let mut sender = Sender::new(bytes, sender_check, declared, timeouts);
    let cpu = context.cpu.clone();
    let mut incoming = Incoming::new(request, context.account.share());
    let mut router = FrameRouter::new(request, Slices::new(context));
    while let Some(mut chunk) = sender.next().await? {
        if request.copy.is_some() {
            let behind = attachments.push(incoming.split_off_rest(&mut chunk))? as u64;
            if behind > 0 {
                return Err(IngestError::SizeDiffers { declared, received: declared + behind });
            }
            if chunk.is_empty() {
                continue;
            }
        }
        incoming.expect_room_for(chunk.len())?;
        let split;
        (incoming, split) = incoming.take(&cpu, chunk).await?;
        router.route(&cpu, split.frames).await?;
        match split.fault {
            Some(torn @ IngestError::Torn { .. }) => {
                incoming.expect_rest_of(&mut sender).await?;
                return Err(router.blame(torn).await);
            }
            Some(fault) => return Err(router.blame(fault).await),
            None => {}
        }
    }
    incoming.expect_end()?;
    let Some(attachments) = attachments.finish()? else {
        return Err(IngestError::SizeDiffers { declared, received: sender.received });
    };
    let ended = Instant::now();
    let finished = match incoming.is_split() {
        true => incoming.finish(),
        false => cpu.run(move || incoming.finish()).await?,
    };
    let (mut source, tail) = match finished {
        Ok(finished) => finished,
        Err(error) => return Err(router.blame(IngestError::Segment(error)).await),
    };
    // Zero bytes do not show their format, but the caller may have said it.
    source.format = source.format.or(request.format);
    if let Some(torn) = tail.torn {
        source.torn_tail_bytes = torn.bytes.len() as u64;
        if let Err(refused) = router.keep(torn).await {
            return Err(router.blame(refused).await);
        }
    }
    let partitions = router.slices.finish().await?;
    request.check_against(&source)?;
    for slice in partitions.values().flatten() {
        // Records may lie outside of the range that their frame's header claims.
        request.check_allowed(slice.counts.range, None)?;
    }
    let records = partitions.values().flatten().map(|slice| slice.counts.records).sum();
    spans::record_size(source.bytes_read, records);
    Ok(Received { source, partitions, attachments, ended })
}

/// The maximum time to wait for a sender, all waits together.
pub(super) fn sender_max(size_bytes: u64, timeouts: &Timeouts) -> Duration {
    timeouts.silence + Duration::from_secs(size_bytes / SENDER_BYTES_PER_SECOND_MIN)
}

/// The sender of the bytes. Only the time that is spent waiting for it counts, not the time of the builders.
struct Sender<S> {
    bytes: S,
    sender_check: SenderCheck,
    silence_max: Duration,
    received: u64,
    /// What is left of the time to wait for the whole segment.
    left: Duration,
}

impl<S> Sender<S>
where
    S: Stream<Item = Result<Bytes, ReadError>> + Unpin,
{
    fn new(bytes: S, sender_check: SenderCheck, size_bytes: u64, timeouts: &Timeouts) -> Self {
        let left = sender_max(size_bytes, timeouts);
        Self { bytes, sender_check, silence_max: timeouts.silence, received: 0, left }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, IngestError> {
        let limit = self.silence_max.min(self.left);
        let next = self.next_within(limit).await?;
        if let Some(bytes) = &next {
            self.received += bytes.len() as u64;
            self.sender_check.received(bytes.len()).await?;
        }
        Ok(next)
    }

    async fn next_within(&mut self, limit: Duration) -> Result<Option<Bytes>, IngestError> {
        let asked = Instant::now();
        loop {
            let looked = Instant::now();
            let wait = self.sender_check.look_in().min(limit.saturating_sub(asked.elapsed()));
            let next = timeout(wait, self.bytes.next()).await;
            let took = looked.elapsed();
            self.left = self.left.saturating_sub(took);
            match next {
                Ok(next) => {
                    self.sender_check.waited(took);
                    return Ok(next.transpose()?);
                }
                Err(_) if asked.elapsed() < limit => self.sender_check.waited(took),
                Err(_) if limit < self.silence_max => return Err(IngestError::Trickles),
                Err(_) => return Err(IngestError::Silent { after: limit }),
            }
        }
    }
}

/// The bytes that have come so far, and what is known of them.
struct Incoming {
    splitter: FrameSplitter,
    sha256: Sha256,
    crc32c: u32,
    received: u64,
    declared: u64,
    torn_tail: TornTail,
    /// The memory of the splitter: the start of an incomplete frame, and the list of complete frames.
    unsplit: Share,
}

impl Incoming {
    fn new(request: &Request, unsplit: Share) -> Self {
        Self {
            splitter: FrameSplitter::new(request.size_bytes, request.format)
                .with_any_magic(request.undecodable == Undecodable::Keep),
            sha256: Sha256::new(),
            crc32c: 0,
            received: 0,
            declared: request.size_bytes,
            torn_tail: request.torn_tail,
            unsplit,
        }
    }

    fn expect_room_for(&self, more: usize) -> Result<(), IngestError> {
        let received = self.received + more as u64;
        if received > self.declared {
            return Err(IngestError::SizeDiffers { declared: self.declared, received });
        }
        Ok(())
    }

    /// Splits off what is behind the segment's last byte.
    fn split_off_rest(&self, chunk: &mut Bytes) -> Bytes {
        let lacking = usize::try_from(self.declared - self.received).unwrap_or(usize::MAX);
        chunk.split_off(lacking.min(chunk.len()))
    }

    fn expect_end(&self) -> Result<(), IngestError> {
        if self.received != self.declared {
            return Err(IngestError::SizeDiffers { declared: self.declared, received: self.received });
        }
        Ok(())
    }

    /// Reads the rest, and counts only its size. A segment that seems torn may be declared too small, and
    /// then the request is wrong, not the bytes.
    async fn expect_rest_of<S>(&mut self, sender: &mut Sender<S>) -> Result<(), IngestError>
    where
        S: Stream<Item = Result<Bytes, ReadError>> + Unpin,
    {
        while let Some(chunk) = sender.next().await? {
            self.expect_room_for(chunk.len())?;
            self.received += chunk.len() as u64;
        }
        self.expect_end()
    }

    /// Hashes and splits one chunk on a CPU thread.
    async fn take(self, cpu: &Cpu, chunk: Bytes) -> Result<(Self, Split), IngestError> {
        cpu.run(move || {
            let mut this = self;
            this.received += chunk.len() as u64;
            this.sha256.update(&chunk);
            this.crc32c = crc32c::crc32c_append(this.crc32c, &chunk);
            let mut frames = Vec::new();
            let fault = match this.splitter.push(chunk, &mut frames) {
                Ok(()) => this.refuse_torn(),
                Err(error) => Some(IngestError::Segment(error)),
            };
            let zeros = match this.torn_tail {
                TornTail::Refuse => 0,
                TornTail::Keep => this.splitter.finish_usage(),
            };
            let listed = (frames.capacity() * size_of::<Frame>()) as u64;
            this.unsplit.set(this.splitter.mem_usage() as u64 + zeros + listed)?;
            Ok((this, Split { frames, fault }))
        })
        .await?
    }

    /// Returns the error if a torn tail must be refused. Then its bytes need not be held.
    fn refuse_torn(&self) -> Option<IngestError> {
        let position = self.splitter.torn_at().filter(|_| self.torn_tail == TornTail::Refuse)?;
        Some(IngestError::Torn { position })
    }

    /// Whether nothing is left to parse, so that finishing needs no CPU thread.
    fn is_split(&self) -> bool {
        self.splitter.mem_usage() == 0 && self.splitter.finish_usage() == 0
    }

    fn finish(self) -> Result<(Source, Tail), SegmentError> {
        let mut source = Source {
            format: self.splitter.format(),
            bytes_read: self.received,
            crc32c: self.crc32c,
            sha256: self.sha256.finalize().into(),
            torn_tail_bytes: 0,
        };
        let tail = self.splitter.finish()?;
        source.format = tail.format;
        Ok((source, tail))
    }
}

/// Whole frames, and the fault behind them, if there is one.
struct Split {
    frames: Vec<Frame>,
    fault: Option<IngestError>,
}

/// Gives each frame to the slices of its partition.
struct FrameRouter<'a> {
    request: &'a Request,
    slices: Slices,
    last: Option<TopicPartition>,
}

impl<'a> FrameRouter<'a> {
    fn new(request: &'a Request, slices: Slices) -> Self {
        Self { request, slices, last: None }
    }

    async fn route(&mut self, cpu: &Cpu, frames: Vec<Frame>) -> Result<(), IngestError> {
        for frame in frames {
            let partition = match self.request.partition_of(&frame) {
                Ok(partition) => partition,
                Err(error) => return Err(self.blame(or_corrupt(cpu, frame, error).await).await),
            };
            if let Err(error) = self.request.check_allowed(frame.claimed_range(), Some(frame.position)) {
                return Err(self.blame(or_corrupt(cpu, frame, error).await).await);
            }
            self.slices.add(&partition, Piece::Frame(frame)).await?;
            if self.last.as_ref() != Some(&partition) {
                self.last = Some(partition);
            }
        }
        self.slices.keep_up().await
    }

    /// Keeps the torn tail with the last frame's partition, or refuses it.
    async fn keep(&mut self, torn: TornBytes) -> Result<(), IngestError> {
        match (self.request.torn_tail, self.last.clone()) {
            (TornTail::Refuse, _) => Err(IngestError::Torn { position: torn.position }),
            (TornTail::Keep, None) => Err(IngestError::NothingWhole { bytes: torn.bytes.len() }),
            (TornTail::Keep, Some(partition)) => {
                let piece = Piece::Torn { position: torn.position, bytes: torn.bytes };
                self.slices.add(&partition, piece).await
            }
        }
    }

    /// Returns the fault to report. Some faults show late, because only headers are checked at first: a
    /// damaged length is noticed only after its frame. So the frames before `noticed` are decoded first, and
    /// a fault in one of them is reported instead.
    async fn blame(&mut self, noticed: IngestError) -> IngestError {
        match self.slices.finish().await {
            Ok(_) => noticed,
            Err(earlier) => earlier,
        }
    }
}

/// Returns the error for a frame that names the wrong partition or offsets. If the frame is damaged, this is
/// the error instead. A frame that decompresses to much is not checked, because this memory is not accounted
/// for.
async fn or_corrupt(cpu: &Cpu, frame: Frame, error: IngestError) -> IngestError {
    let bytes_max = (1 << 20).max(frame.bytes.len());
    let decoded = cpu.run(move || frame.verify_checksum().and_then(|()| frame.decode(bytes_max).map(drop)));
    match decoded.await {
        Ok(Ok(())) => error,
        Ok(Err(corrupt)) if corrupt.kind() == ErrorKind::TooLarge => error,
        Ok(Err(corrupt)) => IngestError::Segment(corrupt),
        Err(panicked) => panicked.into(),
    }
}

impl Request {
    /// The partition of a frame: by its bytes, which must agree with the request, or else by the request.
    fn partition_of(&self, frame: &Frame) -> Result<TopicPartition, IngestError> {
        match &frame.partition {
            Some(found) => {
                let topic_agrees = self.topic.as_deref().is_none_or(|topic| topic == found.topic());
                if !topic_agrees || self.partition.is_some_and(|number| number != found.partition()) {
                    return Err(IngestError::OtherPartition {
                        found: found.clone(),
                        position: frame.position,
                    });
                }
                Ok(found.clone())
            }
            None => self.fallback_partition().cloned().ok_or(IngestError::PartitionMissing),
        }
    }

    fn check_allowed(&self, found: Option<OffsetRange>, position: Option<u64>) -> Result<(), IngestError> {
        match (found, self.allowed_offsets) {
            (Some(found), Some(allowed)) if allowed.cover(&found) != allowed => {
                Err(IngestError::OffsetsNotAllowed { found, allowed, position })
            }
            _ => Ok(()),
        }
    }

    fn check_against(&self, source: &Source) -> Result<(), IngestError> {
        match self.crc32c {
            Some(declared) if declared != source.crc32c => {
                Err(IngestError::ChecksumDiffers { declared, computed: source.crc32c })
            }
            Some(_) | None => Ok(()),
        }
    }
}
