//! Converts errors to statuses. The code says what the caller should do. The details say why, in words that
//! never change.
//!
//! The details are a `google.rpc.ErrorInfo` with the domain [`DOMAIN`], a stable reason and what is known
//! about the place; and a `google.rpc.RetryInfo` if waiting helps.

mod read;

pub use read::{
    invalid, of_archive, of_fetch, of_name, of_partition, of_query, of_search, of_store, reader_silent,
};

use std::collections::HashMap;
use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::budget::BudgetError;
use crate::formatting::chain;
use crate::ingest::{IngestError, ReadError, RequestError};
use crate::segment::{ErrorKind, SegmentError};
use crate::spans;
use crate::store::{PutError, SourceError, StoreError, StoreErrorKind};

/// The domain of every reason.
pub const DOMAIN: &str = "wal-indexer";

/// Maximum length of an error's text, in bytes. In a header each byte may take three bytes, and the text is
/// sent twice.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// When a caller may retry if the store is unavailable.
const RETRY_STORE: Duration = Duration::from_secs(5);

/// The code, the reason and the details of an error, before it becomes a [`Status`].
#[derive(Debug)]
struct Verdict {
    code: Code,
    reason: &'static str,
    retry_after: Option<Duration>,
    place: Vec<(&'static str, String)>,
}

impl Verdict {
    fn new(code: Code, reason: &'static str) -> Self {
        Self { code, reason, retry_after: None, place: Vec::new() }
    }

    fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Sets the delay for an error that many callers may get at once. A random part of up to a quarter is
    /// added, so that the callers do not all return at once. Each `RandomState` has other keys.
    fn retry_about(self, delay: Duration) -> Self {
        let chance = RandomState::new().build_hasher().finish() % 1_000;
        self.retry_after(delay + delay.mul_f64(chance as f64 / 4_000.0))
    }

    fn at(mut self, name: &'static str, value: impl ToString) -> Self {
        self.place.push((name, value.to_string()));
        self
    }

    fn into_status(self, error: &dyn Error) -> Status {
        // With the trace id an operator can find later what happened.
        let trace = spans::current().map(|ids| ("trace_id", ids.trace.to_string()));
        let place: HashMap<String, String> =
            self.place.into_iter().chain(trace).map(|(name, value)| (name.to_owned(), value)).collect();
        let mut details = ErrorDetails::with_error_info(self.reason, DOMAIN, place);
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(self.code, shortened(chain(error)), details)
    }
}

/// Shortens a message. Errors are sent in headers, whose size clients limit: an error that repeats much of a
/// request would not arrive at all.
fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}

/// Returns the status for an error of `IndexSegment`.
pub fn of_ingest(error: &IngestError) -> Status {
    verdict(error).into_status(error)
}

/// Returns the status for a request that is not valid.
pub fn of_request(error: &RequestError) -> Status {
    request_verdict(error).into_status(error)
}

fn verdict(error: &IngestError) -> Verdict {
    match error {
        IngestError::Request(error) => request_verdict(error),
        IngestError::Budget(error) => budget_verdict(error),
        IngestError::Read(error) => read_verdict(error),
        IngestError::Silent { .. } => Verdict::new(Code::DeadlineExceeded, "SENDER_SILENT"),
        IngestError::Trickles => Verdict::new(Code::DeadlineExceeded, "SENDER_TRICKLES"),
        IngestError::BuildTooSlow { .. } => Verdict::new(Code::DeadlineExceeded, "BUILD_TOO_SLOW"),
        IngestError::SizeDiffers { .. } => Verdict::new(Code::InvalidArgument, "SIZE_DIFFERS"),
        IngestError::ChecksumDiffers { .. } => Verdict::new(Code::DataLoss, "SEGMENT_CRC32C_DIFFERS"),
        IngestError::Segment(error) => segment_verdict(error),
        IngestError::BatchTooLarge(error) => {
            place(Verdict::new(Code::InvalidArgument, error.reason()), error)
        }
        IngestError::Torn { position } => Verdict::new(Code::DataLoss, "TORN_TAIL").at("position", position),
        IngestError::NothingWhole { .. } => Verdict::new(Code::DataLoss, "NO_WHOLE_FRAME").at("position", 0),
        IngestError::PartitionMissing => Verdict::new(Code::InvalidArgument, "PARTITION_MISSING"),
        IngestError::TooManyPartitions => Verdict::new(Code::InvalidArgument, "TOO_MANY_PARTITIONS"),
        IngestError::OtherPartition { position, .. } => {
            Verdict::new(Code::InvalidArgument, "OTHER_PARTITION").at("position", position)
        }
        IngestError::OffsetsNotAllowed { position, .. } => {
            let verdict = Verdict::new(Code::InvalidArgument, "OFFSETS_NOT_ALLOWED");
            position.iter().fold(verdict, |verdict, position| verdict.at("position", position))
        }
        IngestError::Key(_) => Verdict::new(Code::InvalidArgument, "NAME_DOES_NOT_FIT"),
        IngestError::Put { source, .. } => put_verdict(source),
        IngestError::CountsDiffer { .. } => Verdict::new(Code::Internal, "COUNTS_DIFFER"),
        IngestError::BytesDiffer { .. } => Verdict::new(Code::Internal, "BYTES_DIFFER"),
        IngestError::Index(_) => Verdict::new(Code::Internal, "INDEX"),
        IngestError::Bundle(_) | IngestError::Blocks(_) => Verdict::new(Code::Internal, "BUNDLE"),
        IngestError::Panicked => Verdict::new(Code::Internal, "PANICKED"),
    }
}

fn request_verdict(error: &RequestError) -> Verdict {
    let reason = match error {
        RequestError::HeaderMissing => "HEADER_MISSING",
        RequestError::SourceMissing => "SOURCE_MISSING",
        RequestError::MoreThanHeader => "MORE_THAN_HEADER",
        RequestError::UnknownValue { .. } => "UNKNOWN_VALUE",
        RequestError::NoOffsetsAllowed { .. } => "NO_OFFSETS_ALLOWED",
        RequestError::SegmentIdTooLong { .. } => "SEGMENT_ID_TOO_LONG",
        RequestError::Partition(_) => "NO_PARTITION",
        RequestError::Key(_) => "NAME_DOES_NOT_FIT",
        RequestError::SegmentTooLarge { .. } => "SEGMENT_TOO_LARGE",
        RequestError::Url(_) => "URL",
    };
    Verdict::new(Code::InvalidArgument, reason)
}

fn budget_verdict(error: &BudgetError) -> Verdict {
    match error {
        BudgetError::NeverFits { wanted_bytes, budget_bytes } => {
            Verdict::new(Code::InvalidArgument, "LARGER_THAN_BUDGET")
                .at("wanted_bytes", wanted_bytes)
                .at("budget_bytes", budget_bytes)
        }
        BudgetError::NoRoom { retry_after, .. } => {
            Verdict::new(Code::ResourceExhausted, "NO_ROOM").retry_about(*retry_after)
        }
        BudgetError::TooManyWait { retry_after, .. } => {
            Verdict::new(Code::ResourceExhausted, "TOO_MANY_WAIT").retry_about(*retry_after)
        }
    }
}

fn read_verdict(error: &ReadError) -> Verdict {
    match error {
        ReadError::CallerGone => Verdict::new(Code::Cancelled, "CALLER_GONE"),
        ReadError::NotAChunk { .. } => Verdict::new(Code::InvalidArgument, "NOT_A_CHUNK"),
        ReadError::File(_) => Verdict::new(Code::Unavailable, "FILE").retry_after(RETRY_STORE),
        ReadError::Source(error) => source_verdict(error),
    }
}

fn source_verdict(error: &SourceError) -> Verdict {
    match error {
        SourceError::Location(_) => Verdict::new(Code::InvalidArgument, "URL"),
        SourceError::OutsideRoots => Verdict::new(Code::PermissionDenied, "OUTSIDE_SOURCE_ROOTS"),
        SourceError::NotFound { .. } => Verdict::new(Code::NotFound, "SOURCE_NOT_FOUND"),
        SourceError::Changed { .. } => source_changed(),
        SourceError::SizeMismatch { .. } => Verdict::new(Code::InvalidArgument, "SIZE_DIFFERS"),
        SourceError::Store(error) => match error.kind() {
            StoreErrorKind::NotFound => Verdict::new(Code::NotFound, "SOURCE_NOT_FOUND"),
            StoreErrorKind::Denied => Verdict::new(Code::PermissionDenied, "SOURCE_DENIED"),
            StoreErrorKind::Unavailable => {
                Verdict::new(Code::Unavailable, "SOURCE_UNAVAILABLE").retry_after(RETRY_STORE)
            }
            StoreErrorKind::TimedOut => Verdict::new(Code::DeadlineExceeded, "SOURCE_TIMED_OUT"),
            StoreErrorKind::Changed => source_changed(),
            StoreErrorKind::Corrupt => Verdict::new(Code::DataLoss, "SOURCE_CORRUPT"),
            StoreErrorKind::Refused => Verdict::new(Code::InvalidArgument, "SOURCE_REFUSED"),
        },
    }
}

fn segment_verdict(error: &SegmentError) -> Verdict {
    let code = match error.kind() {
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Unsupported | ErrorKind::TooLarge => Code::InvalidArgument,
    };
    place(Verdict::new(code, error.reason()), error)
}

fn place(verdict: Verdict, error: &SegmentError) -> Verdict {
    verdict.at("position", error.position()).at("frame", error.ordinal())
}

/// Returns the verdict on a source that changed. A sealed segment does not change: a later read may find it
/// complete.
fn source_changed() -> Verdict {
    Verdict::new(Code::Unavailable, "SOURCE_CHANGED").retry_after(RETRY_STORE)
}

fn put_verdict(error: &PutError) -> Verdict {
    match error {
        PutError::Store { source, .. } => store_verdict(source),
        // A store that answered "not now" until the deadline is unavailable. A store that did not answer may
        // have stored the object.
        PutError::Deadline { last: Some(last), .. } => store_verdict(last),
        PutError::Deadline { last: None, .. } => Verdict::new(Code::DeadlineExceeded, "STORE_TIMED_OUT"),
        PutError::Taken { .. } => Verdict::new(Code::Internal, "KEY_TAKEN"),
        PutError::Corrupt(_) => Verdict::new(Code::Internal, "STORED_BYTES_DIFFER"),
        PutError::Sizes { .. } => Verdict::new(Code::Internal, "SIZES"),
    }
}

/// Returns the verdict on an error of the store. If this worker cannot use its store, another worker or a
/// later retry may succeed. Only a bundle that no store accepts is the fault of the request.
fn store_verdict(error: &StoreError) -> Verdict {
    match error.kind() {
        StoreErrorKind::NotFound | StoreErrorKind::Denied | StoreErrorKind::Unavailable => {
            Verdict::new(Code::Unavailable, "STORE_UNAVAILABLE").retry_after(RETRY_STORE)
        }
        StoreErrorKind::TimedOut => Verdict::new(Code::DeadlineExceeded, "STORE_TIMED_OUT"),
        StoreErrorKind::Changed => Verdict::new(Code::Internal, "STORED_OBJECT_CHANGED"),
        StoreErrorKind::Corrupt => Verdict::new(Code::Internal, "STORED_BYTES_DIFFER"),
        StoreErrorKind::Refused => Verdict::new(Code::InvalidArgument, "STORE_REFUSED"),
    }
}

/// Returns the status for a request that arrives after the signal to stop.
pub fn draining() -> Status {
    let mut details = ErrorDetails::with_error_info("DRAINING", DOMAIN, HashMap::new());
    details.set_retry_info(Some(RETRY_STORE));
    Status::with_error_details(Code::Unavailable, "this worker is draining", details)
}
