//! The write path: makes a receipt from a sealed segment.
//!
//! Each stage takes the result of the stage before. A [`Request`] is admitted when its memory is reserved.
//! Its bytes are received, split, decoded and indexed as they come. The results are packed into bundles. The
//! bundles are stored and checked. Only then is there a [`Receipt`]. After any error the caller keeps its
//! copy.
//!
//! The write path knows nothing of gRPC or the command line.

mod attachments;
mod build;
mod copy;
mod error;
mod file;
mod memory_account;
mod pack;
mod receipt;
mod receive;
mod record_counts;
mod sender_check;
mod slice;
mod slices;
mod spill;
mod upload;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use tokio::time::timeout;

use crate::budget::Limits;
use crate::ids::{CallerId, LogId, OffsetRange, SegmentFormat, SegmentId, TopicPartition};
use crate::metrics;
use crate::spans;
use crate::stats::Phase;
use crate::store::{BundleKey, KeyHash, Store};

pub use crate::budget::Budget;
pub use crate::bundle::{AttachmentFacts, UndecodedFacts};
pub use crate::cpu::{Cpu, StartError};
pub use crate::index::Settings;
pub use crate::stats::Stats;
pub use copy::{ATTACHMENTS_BYTES_MAX, ATTACHMENTS_MAX, AttachmentParts, CopyError, CopyParts};
pub use error::{IngestError, ReadError, RequestError};
pub use file::file_chunks;
pub use receipt::{IndexedPartition, RECEIPT_GAPS_MAX, Receipt, ReceiptMemory, Timings};
pub use spill::{SpillDir, SpillError};

use copy::Copy;
use memory_account::MemoryAccount;
use pack::Packing;
use slices::SliceContext;

/// The maximum size of a segment, in bytes. Positions in it fit into 31 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// The memory that a process always needs, in bytes: the program, one connection's windows, and what the
/// allocator has not returned yet.
const PROCESS_BYTES: u64 = 24 << 20;

/// The memory that is set aside for finishing slices: bytes for each thread that may do so, and at most this
/// part of the process's memory. A slice of 32 MiB of JSON logs takes about this.
const FINISHING_BYTES_PER_THREAD: u64 = 32 << 20;
const FINISHING_PART_MAX: u64 = 8;

/// What a request that waits for memory may have sent already, in bytes: HTTP/2 receives its first bytes
/// before it is admitted. All waiting requests together may take an eighth of the process's memory, but a few
/// may wait in any case.
const WAITING_BYTES: u64 = 2 << 20;
const WAITING_PART_MAX: u64 = 8;
const WAITING_MIN: u64 = 32;

/// The minimum rate at which a segment is built, in bytes per second, even while a few others are built. A
/// large segment gets more time by this rate.
const BUILD_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// What every request needs in addition to its bytes: the buffers of compressor and decoder, and the first
/// tables of a builder.
const REQUEST_BASE_BYTES: u64 = 12 << 20;

/// The maximum memory of a large segment while it is built, in bytes: what is read and not yet built, and
/// what is being built.
const IN_FLIGHT_BYTES_MAX: u64 = 128 << 20;

/// A segment of more than this part of the memory for all segments is moved to the disk slice by slice, if
/// there is one.
const SPILLED_PART: u64 = 5;

/// What to do if a segment ends inside a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TornTail {
    /// Refuse the segment.
    #[default]
    Refuse,
    /// Index the whole frames, and keep the torn bytes.
    Keep,
}

/// What to do with a frame whose bytes are intact but which this build cannot decode: it decompresses to more
/// than any limit, its magic or codec is not known, or its contents make no sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Undecodable {
    /// Refuse the segment.
    #[default]
    Refuse,
    /// Keep the frame as it is, under the offsets of its header. None of its records is indexed.
    Keep,
}

/// A request to index a segment. It is checked when it is made.
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
    copy: Option<Arc<Copy>>,
    caller_id: CallerId,
}

/// What a caller says about its segment, before any of it is checked.
#[derive(Clone, Debug, Default)]
pub struct RequestParts {
    /// The caller's name for the segment.
    pub segment_id: String,
    /// The format. `None`: it is recognised from the first bytes.
    pub format: Option<SegmentFormat>,
    /// The topic. Required, with `partition`, if the bytes do not name it. If they do, both must agree.
    pub topic: Option<String>,
    /// See `topic`.
    pub partition: Option<i32>,
    /// The incarnation of the log. Empty means `"0"`.
    pub log_id: String,
    /// The segment's size in bytes.
    pub size_bytes: u64,
    /// The CRC-32C of the whole segment. It is checked if it is given.
    pub crc32c: Option<u32>,
    /// What to do if the segment ends inside a frame.
    pub torn_tail: TornTail,
    /// What to do with frames that cannot be decoded.
    pub undecodable: Undecodable,
    /// The offsets that the segment may hold. `None`: any.
    pub allowed_offsets: Option<OffsetRange>,
    /// The copy that is to be stored. `None`: the key follows from the bytes. Required with it: `topic` and
    /// `partition`, and the offsets that are allowed must not begin before its base offset.
    pub copy: Option<CopyParts>,
}

/// The timeouts of a request in the stages that depend on others.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For memory to become free.
    pub admission: Duration,
    /// For the header, and between two chunks of a segment.
    pub silence: Duration,
    /// For a segment to be built, in addition to the time of its sender. A large one gets more.
    pub build: Duration,
    /// For a bundle to be stored and checked, with all attempts. A large one gets more.
    pub upload: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            admission: Duration::from_secs(DEFAULT_WAIT_SECONDS),
            silence: Duration::from_secs(DEFAULT_WAIT_SECONDS),
            build: Duration::from_secs(DEFAULT_BUILD_SECONDS),
            upload: upload::UPLOAD_BASE,
        }
    }
}

impl Timeouts {
    /// The time from the first byte to the bundles that are ready to be stored: the time of the sender, and
    /// of the work.
    fn build_max(&self, size_bytes: u64) -> Duration {
        let work = self.build + Duration::from_secs(size_bytes / BUILD_BYTES_PER_SECOND_MIN);
        receive::sender_max(size_bytes, self) + work
    }
}

/// The minimum memory limit of a process, in bytes. Below it, not even a small segment fits beside the
/// process.
pub const BUDGET_BYTES_MIN: u64 = 48 << 20;

/// Returns the budget of a process whose resident memory must stay within `process_bytes`, with `threads` for
/// CPU work.
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

/// The longest time from a request's first byte to the last PUT of a bundle, if there is one bundle, with the
/// default timeouts: for the header, for memory, for the sender, for the work and for the upload.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(
    4 * DEFAULT_WAIT_SECONDS
        + SEGMENT_BYTES_MAX / receive::SENDER_BYTES_PER_SECOND_MIN
        + SEGMENT_BYTES_MAX / BUILD_BYTES_PER_SECOND_MIN
        + DEFAULT_BUILD_SECONDS
        + upload::UPLOAD_TIME_MAX.as_secs(),
);

/// The default timeouts, in seconds: for memory and for silence, and for work.
const DEFAULT_WAIT_SECONDS: u64 = 30;
const DEFAULT_BUILD_SECONDS: u64 = 60;

/// The write path of one process. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// The store for the bundles.
    pub store: Store,
    /// The threads that build them.
    pub cpu: Cpu,
    /// The memory that all requests share.
    pub budget: Budget,
    /// What is indexed, by topic.
    pub settings: Arc<Settings>,
    /// The counters of the work.
    pub stats: Stats,
    /// The timeouts of requests.
    pub timeouts: Timeouts,
    /// Where the finished parts of large segments go. `None`: they stay in memory.
    pub spill: Option<SpillDir>,
}

impl Ingest {
    /// A write path to `store` with as many threads as there are cores. Its memory, with that of the process, stays within
    /// `process_bytes`, at least [`BUDGET_BYTES_MIN`]. The rest are the defaults, which its fields change.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn start(store: Store, process_bytes: u64) -> Result<Self, StartError> {
        let cpu = Cpu::start(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))?;
        Ok(Self {
            store,
            budget: budget(process_bytes.max(BUDGET_BYTES_MIN), cpu.threads()),
            cpu,
            settings: Arc::default(),
            stats: Stats::default(),
            timeouts: Timeouts::default(),
            spill: None,
        })
    }

    /// Stores the segment that `bytes` yields as bundles. `Ok` is a receipt.
    pub async fn run<S>(&self, request: Request, bytes: S) -> Result<Receipt, IngestError>
    where
        S: Stream<Item = Result<Bytes, ReadError>> + Unpin,
    {
        let began = Instant::now();
        let job = Arc::new(self.stats.job_started(&request.segment_id, request.size_bytes));

        let spill = self.spill.clone().filter(|_| self.is_large(&request));
        let wanted = request.memory_estimate(spill.is_some());
        let _releasing = spill.as_ref().map(SpillDir::release_regularly);
        let caller_id = &request.caller_id;
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
            spill,
            job: Arc::clone(&job),
        };
        let build = async {
            let receiving = receive::receive(&request, context, bytes, wanted, &self.timeouts);
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
        account.shrink_to_held(pack::usage(bundles - first.len()));
        let built = Instant::now();

        job.enter(Phase::Uploading);
        let (packed, mut receipts) = (packing.after(first, build_max), account.share());
        let uploading = upload::upload(&self.store, packed, bundles, self.timeouts.upload, &mut receipts);
        let partitions = uploading.await?;
        // Some bundles are made while others are stored, so check here that the receipt covers all bytes.
        let stored: u64 = partitions.iter().map(|one| one.source_bytes).sum();
        if (partitions.len(), stored) != (bundles, source.bytes_read) {
            return Err(IngestError::BytesDiffer { packed: stored, read: source.bytes_read });
        }
        account.shrink_to_held(0);
        let receipt_span = spans::receipt().entered();
        let mut receipt = Receipt::new(request.segment_id, source, partitions, receipts);
        spans::record_size(receipt.bytes_read, receipt.records());
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

    /// Whether the finished parts of the segment might take too much of the memory. If its batches are
    /// compressed, they take twice its size.
    fn is_large(&self, request: &Request) -> bool {
        request.size_bytes > self.budget.usage().total_bytes / SPILLED_PART
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
    /// Checks what a caller says about its segment.
    pub fn new(parts: RequestParts) -> Result<Self, RequestError> {
        let (torn_tail, undecodable, allowed_offsets) =
            (parts.torn_tail, parts.undecodable, parts.allowed_offsets);
        let copy = parts.copy.map(|copy| Copy::new(copy, parts.size_bytes).map(Arc::new)).transpose()?;
        let RequestParts { segment_id, format, topic, partition, log_id, size_bytes, crc32c, .. } = parts;
        if size_bytes > SEGMENT_BYTES_MAX {
            return Err(RequestError::SegmentTooLarge { size_bytes, max_bytes: SEGMENT_BYTES_MAX });
        }
        let bytes = segment_id.len();
        let segment_id = SegmentId::new(&segment_id).ok_or(RequestError::SegmentIdTooLong { bytes })?;
        let log_id = LogId::new(&log_id);
        // A stand-in replaces what is not given, so that invalid names are refused before a byte is read.
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
            copy,
            caller_id,
        })
    }

    /// Sets the caller. Memory and threads are shared between callers.
    pub fn claimed_by(self, caller_id: CallerId) -> Self {
        Self { caller_id, ..self }
    }

    /// The caller's name for the segment.
    pub fn segment_id(&self) -> &SegmentId {
        &self.segment_id
    }

    /// The memory that the request needs, in bytes: what is in flight while it is built, and, unless these go
    /// to a disk, the bundles of a segment that is not compressed. The reservation grows when the first slices
    /// show that the segment is compressed.
    fn memory_estimate(&self, is_spilled: bool) -> u64 {
        let in_flight = self.size_bytes.min(IN_FLIGHT_BYTES_MAX);
        let finished = if is_spilled { 0 } else { self.size_bytes / 2 };
        REQUEST_BASE_BYTES + in_flight + finished + self.attachments_bytes()
    }

    /// The size of all attachments together, in bytes.
    fn attachments_bytes(&self) -> u64 {
        self.copy.as_ref().map_or(0, |copy| copy.attachments_bytes())
    }

    fn fallback_partition(&self) -> Option<&TopicPartition> {
        self.fallback.as_ref()
    }
}
