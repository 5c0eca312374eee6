//! The write path: a sealed segment becomes a receipt.
//!
//! Each stage takes what the one before made: a [`Request`] is admitted when its memory is reserved; its bytes are
//! received, split, decoded and indexed as they come; what was built is packed into bundles; the bundles are stored
//! and checked; only then is there a [`Receipt`]. Any error on the way means that the caller keeps its copy.
//!
//! Knows nothing of gRPC or the command line.

mod build;
mod error;
mod memory_account;
mod pack;
mod pledge;
mod receipt;
mod receive;
mod record_counts;
mod slice;
mod slices;
mod upload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use tokio::time::timeout;

use crate::budget::{Budget, Limits};
use crate::cpu::Cpu;
use crate::ids::{CallerId, LogId, OffsetRange, SegmentFormat, SegmentId, TopicPartition};
use crate::index::Settings;
use crate::metrics;
use crate::spans;
use crate::stats::{Phase, Stats};
use crate::store::{BundleKey, KeyHash, Store};

pub use crate::bundle::UndecodedFacts;
pub use error::{IngestError, ReadError, RequestError};
pub use receipt::{IndexedPartition, RECEIPT_GAPS_MAX, Receipt, ReceiptMemory, Timings};

use memory_account::MemoryAccount;
use pack::Packing;
use slices::SliceContext;

/// The largest segment: positions in it fit into 31 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// What a process takes of its budget whatever it does: the program, one connection's windows, and what the allocator has not given
/// back yet.
const PROCESS_BYTES: u64 = 24 << 20;

/// What is set aside for finishing slices, for each thread that may be doing so, and at most as a part of the budget. A slice of
/// 32 MiB of JSON logs takes about this.
const FINISHING_BYTES_PER_THREAD: u64 = 32 << 20;
const FINISHING_PART_MAX: u64 = 8;

/// What one that waits for memory may have sent already: HTTP/2 takes its first bytes before anybody asks for them. Not more wait than
/// make an eighth of the budget, but a few in any case.
const WAITING_BYTES: u64 = 2 << 20;
const WAITING_PART_MAX: u64 = 8;
const WAITING_MIN: u64 = 32;

/// How much longer a large segment may be built: at least so many bytes go by in a second, even where a few others are built beside it.
const BUILD_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// What every request needs beside its bytes: the compressor's and decoder's buffers, and a builder's first tables.
const REQUEST_BASE_BYTES: u64 = 12 << 20;

/// What a request may have in hand at once, read and not yet built, and being built, for a large segment.
const IN_HAND_BYTES_MAX: u64 = 128 << 20;

/// What to do where a segment ends inside a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TornTail {
    /// Refuse the segment.
    #[default]
    Refuse,
    /// Index what is whole and keep the torn bytes.
    Keep,
}

/// What to do with a frame whose bytes are as they were written, and which nobody here can decode: it opens beyond all bounds, or is of a magic
/// or a codec that is not known, or its contents make no sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Undecodable {
    /// Refuse the segment.
    #[default]
    Refuse,
    /// Keep the frame as it is, under the offsets of its head. None of its records is indexed.
    Keep,
}

/// A segment that somebody wants indexed; valid by construction.
#[derive(Clone, Debug)]
pub struct Request {
    segment_id: SegmentId,
    format: Option<SegmentFormat>,
    topic: Option<String>,
    partition: Option<i32>,
    fallback: Option<TopicPartition>,
    log_id: LogId,
    size_bytes: u64,
    crc32c: Option<u32>,
    torn_tail: TornTail,
    undecodable: Undecodable,
    allowed_offsets: Option<OffsetRange>,
    caller_id: CallerId,
}

/// What a caller says of its segment, before any of it is checked.
#[derive(Clone, Debug, Default)]
pub struct RequestParts {
    /// The caller's name for it.
    pub segment_id: String,
    /// `None`: recognised from the first bytes.
    pub format: Option<SegmentFormat>,
    /// Required with `partition` where the bytes don't say it; elsewhere checked.
    pub topic: Option<String>,
    /// See `topic`.
    pub partition: Option<i32>,
    /// The incarnation of the log; empty: `"0"`.
    pub log_id: String,
    /// The segment's size in bytes.
    pub size_bytes: u64,
    /// CRC-32C of the whole segment; checked where given.
    pub crc32c: Option<u32>,
    /// What to do where it ends inside a frame.
    pub torn_tail: TornTail,
    /// What to do with frames that cannot be decoded.
    pub undecodable: Undecodable,
    /// The offsets that it may hold; `None`: any.
    pub allowed_offsets: Option<OffsetRange>,
}

/// How long a request may take in stages that depend on others.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Waiting for memory.
    pub admission: Duration,
    /// For the header, and between two chunks of a segment.
    pub silence: Duration,
    /// For a segment to be built, beside what its sender takes; a large one gets more.
    pub build: Duration,
    /// For a bundle to be stored and checked, all attempts together; a large one gets more.
    pub upload: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            admission: Duration::from_secs(30),
            silence: Duration::from_secs(30),
            build: Duration::from_secs(60),
            upload: Duration::from_secs(60),
        }
    }
}

impl Timeouts {
    /// From the first byte to the last bundle that is ready to be stored: what the sender may take, and the work.
    fn build_max(&self, size_bytes: u64) -> Duration {
        let work = self.build + Duration::from_secs(size_bytes / BUILD_BYTES_PER_SECOND_MIN);
        receive::sender_max(size_bytes, self) + work
    }
}

/// The least budget that admits anything: below it, not even a small segment fits beside the process.
pub const BUDGET_BYTES_MIN: u64 = 48 << 20;

/// The budget of a process whose resident memory is to stay within `process_bytes`, with `threads` for CPU work.
pub fn budget(process_bytes: u64, threads: usize) -> Budget {
    let finishing = FINISHING_BYTES_PER_THREAD.saturating_mul(threads as u64);
    let finishing = finishing.min(process_bytes / FINISHING_PART_MAX);
    let waiting_max = (process_bytes / WAITING_PART_MAX / WAITING_BYTES).max(WAITING_MIN);
    let budget_bytes = process_bytes.saturating_sub(PROCESS_BYTES + finishing);
    Budget::with_limits(Limits {
        total_bytes: budget_bytes,
        permits_bytes: finishing,
        waiting_max: usize::try_from(waiting_max).unwrap_or(usize::MAX),
        ..Limits::default()
    })
}

/// The write path of one process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// Where the bundles go.
    pub store: Store,
    /// The threads that build them.
    pub cpu: Cpu,
    /// The memory that all requests share.
    pub budget: Budget,
    /// What gets indexed, by topic.
    pub settings: Arc<Settings>,
    /// Where the work is counted.
    pub stats: Stats,
    /// How long to wait for others.
    pub timeouts: Timeouts,
}

impl Ingest {
    /// Turns the segment that `bytes` yields into bundles in the store. `OK` is a receipt.
    pub async fn run<S>(&self, request: Request, bytes: S) -> Result<Receipt, IngestError>
    where
        S: Stream<Item = Result<Bytes, ReadError>> + Unpin,
    {
        let began = Instant::now();
        let job = Arc::new(self.stats.job_started(&request.segment_id, request.size_bytes));

        let (caller_id, wanted) = (&request.caller_id, request.memory_estimate());
        let reserving = self.budget.reserve(caller_id, wanted, self.timeouts.admission);
        let reservation = spans::stage(spans::admit(request.size_bytes), reserving).await?;
        let admitted = Instant::now();
        let account = MemoryAccount::new(reservation);

        job.enter(Phase::Building);
        let context = SliceContext {
            cpu: self.cpu.for_caller(&request.caller_id),
            settings: Arc::clone(&self.settings),
            account: account.clone(),
            segment_bytes: request.size_bytes,
            undecodable: request.undecodable,
            job: Arc::clone(&job),
        };
        let build = async {
            let receiving = receive::receive(&request, context, bytes, &self.timeouts);
            let received = spans::stage(spans::receive(), receiving).await?;
            let ended = received.ended;
            let mut packing = Packing::begin(self, &request, received)?;
            let first = spans::stage(spans::pack(), packing.next()).await?;
            Ok::<_, IngestError>((ended, packing, first))
        };
        let build_max = self.timeouts.build_max(request.size_bytes);
        let built =
            timeout(build_max, build).await.unwrap_or(Err(IngestError::BuildTooSlow { after: build_max }));
        let (ended, packing, first) = built?;
        let (source, bundles) = (packing.source.clone(), packing.bundles);
        account.settle(pack::usage(bundles - first.len()));
        let built = Instant::now();

        job.enter(Phase::Uploading);
        let (packed, mut receipts) = (packing.after(first, build_max), account.share());
        let uploading = upload::upload(&self.store, packed, bundles, self.timeouts.upload, &mut receipts);
        let partitions = uploading.await?;
        // Bundles are made while others are stored: what the receipt speaks for is added up once more.
        let stored: u64 = partitions.iter().map(|one| one.source_bytes).sum();
        if (partitions.len(), stored) != (bundles, source.bytes_read) {
            return Err(IngestError::BytesDiffer { packed: stored, read: source.bytes_read });
        }
        account.settle(0);
        let receipt_span = spans::receipt().entered();
        let mut receipt = Receipt::new(request.segment_id, source, partitions, receipts);
        spans::took(receipt.bytes_read, receipt.records());
        drop(receipt_span);
        receipt.timings = Timings {
            admit: admitted - began,
            receive: ended - admitted,
            build: built - ended,
            upload: built.elapsed(),
            total: began.elapsed(),
        };
        self.count(&receipt);
        Ok(receipt)
    }

    fn count(&self, receipt: &Receipt) {
        let (already, took) = (receipt.already_existed(), receipt.timings.total);
        self.stats.segment_acknowledged(receipt.bytes_read, receipt.records(), already, took);
        receipt
            .timings
            .phases()
            .into_iter()
            .for_each(|(phase, took)| metrics::worker::phase_took(phase, took));
        for one in &receipt.partitions {
            let created = (!one.stored.already_existed()).then(|| one.stored.size_bytes());
            let topic = one.partition.topic();
            self.stats.partition_acknowledged(topic, one.source_bytes, one.records, created);
        }
    }
}

impl Request {
    /// Checks what a caller says of its segment.
    pub fn new(parts: RequestParts) -> Result<Self, RequestError> {
        let RequestParts { segment_id, format, topic, partition, log_id, size_bytes, crc32c, .. } = parts;
        let (torn_tail, undecodable, allowed_offsets) =
            (parts.torn_tail, parts.undecodable, parts.allowed_offsets);
        if size_bytes > SEGMENT_BYTES_MAX {
            return Err(RequestError::SegmentTooLarge { size_bytes, max_bytes: SEGMENT_BYTES_MAX });
        }
        let bytes = segment_id.len();
        let segment_id = SegmentId::new(&segment_id).ok_or(RequestError::SegmentIdTooLong { bytes })?;
        let log_id = LogId::new(&log_id);
        // What is not given is checked with a stand-in, so that nonsense is refused before a byte is read.
        let named = TopicPartition::new(topic.as_deref().unwrap_or("-"), partition.unwrap_or(0))?;
        let any_hash = KeyHash::new(&[0; 32], &log_id, &named).hash16();
        let any_range = OffsetRange::new(0, 0).expect("zero is not after zero");
        BundleKey::new(named.clone(), log_id.clone(), any_range, None, any_hash)?;
        let fallback = (topic.is_some() && partition.is_some()).then_some(named);
        let caller_id = CallerId::default();
        Ok(Self {
            segment_id,
            format,
            topic,
            partition,
            fallback,
            log_id,
            size_bytes,
            crc32c,
            torn_tail,
            undecodable,
            allowed_offsets,
            caller_id,
        })
    }

    /// The same for somebody who shares memory and threads with others.
    pub fn claimed_by(self, caller_id: CallerId) -> Self {
        Self { caller_id, ..self }
    }

    /// The caller's name for the segment.
    pub fn segment_id(&self) -> &SegmentId {
        &self.segment_id
    }

    /// What a segment of this size needs, in bytes: what is in hand while it is built, and the bundles of a segment that
    /// is not compressed. The reservation grows when the first slices show that it is.
    fn memory_estimate(&self) -> u64 {
        REQUEST_BASE_BYTES + self.size_bytes.min(IN_HAND_BYTES_MAX) + self.size_bytes / 2
    }

    fn fallback_partition(&self) -> Option<&TopicPartition> {
        self.fallback.as_ref()
    }
}
