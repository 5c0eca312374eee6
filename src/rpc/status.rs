//! Converts errors to statuses. The code says what the caller should do. The details say why, in words that
//! never change.
//!
//! The details are a `google.rpc.ErrorInfo` with the domain [`DOMAIN`], a stable reason and what is known
//! about the place; and a `google.rpc.RetryInfo` if waiting helps.

mod read;

pub use read::{
    invalid, of_archive, of_copy, of_fetch, of_name, of_partition, of_query, of_search, of_store,
    reader_silent,
};

use std::collections::HashMap;
use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::budget::BudgetError;
use crate::formatting::chain;
use crate::ingest::{IngestError, ReadError, RequestError, SpillError};
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
struct StatusParts {
    code: Code,
    reason: &'static str,
    retry_after: Option<Duration>,
    place: Vec<(&'static str, String)>,
}

impl StatusParts {
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
    status_parts(error).into_status(error)
}

/// Returns the status for an error of `CopySegment`. Another object under the key of a copy means that its
/// caller has used the copy id twice.
pub fn of_ingested_copy(error: &IngestError) -> Status {
    match error {
        IngestError::Put { source: PutError::Taken { .. }, .. } => {
            StatusParts::new(Code::AlreadyExists, "COPY_DIFFERS").into_status(error)
        }
        _ => of_ingest(error),
    }
}

/// Returns the status for a request that is not valid.
pub fn of_request(error: &RequestError) -> Status {
    request_status_parts(error).into_status(error)
}

fn status_parts(error: &IngestError) -> StatusParts {
    match error {
        IngestError::Request(error) => request_status_parts(error),
        IngestError::Budget(error) => budget_status_parts(error),
        IngestError::Read(error) => read_status_parts(error),
        IngestError::Silent { .. } => StatusParts::new(Code::DeadlineExceeded, "SENDER_SILENT"),
        IngestError::Trickles => StatusParts::new(Code::DeadlineExceeded, "SENDER_TRICKLES"),
        IngestError::BuildTooSlow { .. } => StatusParts::new(Code::DeadlineExceeded, "BUILD_TOO_SLOW"),
        IngestError::SizeDiffers { .. } => StatusParts::new(Code::InvalidArgument, "SIZE_DIFFERS"),
        IngestError::ChecksumDiffers { .. } => StatusParts::new(Code::DataLoss, "SEGMENT_CRC32C_DIFFERS"),
        IngestError::AttachmentDiffers { name, .. } => {
            StatusParts::new(Code::DataLoss, "ATTACHMENT_CRC32C_DIFFERS").at("attachment", name)
        }
        IngestError::Segment(error) => segment_status_parts(error),
        IngestError::BatchTooLarge(error) => {
            place(StatusParts::new(Code::InvalidArgument, error.reason()), error)
        }
        IngestError::Torn { position } => {
            StatusParts::new(Code::DataLoss, "TORN_TAIL").at("position", position)
        }
        IngestError::NothingWhole { .. } => {
            StatusParts::new(Code::DataLoss, "NO_WHOLE_FRAME").at("position", 0)
        }
        IngestError::PartitionMissing => StatusParts::new(Code::InvalidArgument, "PARTITION_MISSING"),
        IngestError::TooManyPartitions => StatusParts::new(Code::InvalidArgument, "TOO_MANY_PARTITIONS"),
        IngestError::OtherPartition { position, .. } => {
            StatusParts::new(Code::InvalidArgument, "OTHER_PARTITION").at("position", position)
        }
        IngestError::OffsetsNotAllowed { position, .. } => {
            let status_parts = StatusParts::new(Code::InvalidArgument, "OFFSETS_NOT_ALLOWED");
            position.iter().fold(status_parts, |status_parts, position| status_parts.at("position", position))
        }
        IngestError::Key(_) => StatusParts::new(Code::InvalidArgument, "NAME_DOES_NOT_FIT"),
        IngestError::Put { source, .. } => put_status_parts(source),
        IngestError::CountsDiffer { .. } => StatusParts::new(Code::Internal, "COUNTS_DIFFER"),
        IngestError::BytesDiffer { .. } => StatusParts::new(Code::Internal, "BYTES_DIFFER"),
        IngestError::Index(_) => StatusParts::new(Code::Internal, "INDEX"),
        IngestError::Bundle(_) | IngestError::Blocks(_) => StatusParts::new(Code::Internal, "BUNDLE"),
        IngestError::Spill(SpillError::Full { .. }) => {
            StatusParts::new(Code::ResourceExhausted, "SPILL_FULL").retry_about(RETRY_STORE)
        }
        IngestError::Spill(SpillError::Io { .. } | SpillError::Changed { .. }) => {
            StatusParts::new(Code::Unavailable, "SPILL_FAILED").retry_after(RETRY_STORE)
        }
        IngestError::Panicked => StatusParts::new(Code::Internal, "PANICKED"),
    }
}

fn request_status_parts(error: &RequestError) -> StatusParts {
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
        RequestError::Copy(_) => "COPY",
        RequestError::Url(_) => "URL",
    };
    StatusParts::new(Code::InvalidArgument, reason)
}

fn budget_status_parts(error: &BudgetError) -> StatusParts {
    match error {
        BudgetError::NeverFits { wanted_bytes, budget_bytes } => {
            StatusParts::new(Code::InvalidArgument, "LARGER_THAN_BUDGET")
                .at("wanted_bytes", wanted_bytes)
                .at("budget_bytes", budget_bytes)
        }
        BudgetError::NoRoom { retry_after, .. } => {
            StatusParts::new(Code::ResourceExhausted, "NO_ROOM").retry_about(*retry_after)
        }
        BudgetError::TooManyWait { retry_after, .. } => {
            StatusParts::new(Code::ResourceExhausted, "TOO_MANY_WAIT").retry_about(*retry_after)
        }
    }
}

fn read_status_parts(error: &ReadError) -> StatusParts {
    match error {
        ReadError::CallerGone => StatusParts::new(Code::Cancelled, "CALLER_GONE"),
        ReadError::NotAChunk { .. } => StatusParts::new(Code::InvalidArgument, "NOT_A_CHUNK"),
        ReadError::File(_) => StatusParts::new(Code::Unavailable, "FILE").retry_after(RETRY_STORE),
        ReadError::Source(error) => source_status_parts(error),
    }
}

fn source_status_parts(error: &SourceError) -> StatusParts {
    match error {
        SourceError::Location(_) => StatusParts::new(Code::InvalidArgument, "URL"),
        SourceError::OutsideRoots => StatusParts::new(Code::PermissionDenied, "OUTSIDE_SOURCE_ROOTS"),
        SourceError::NotFound { .. } => StatusParts::new(Code::NotFound, "SOURCE_NOT_FOUND"),
        SourceError::Changed { .. } => source_changed(),
        SourceError::SizeMismatch { .. } => StatusParts::new(Code::InvalidArgument, "SIZE_DIFFERS"),
        SourceError::Store(error) => match error.kind() {
            StoreErrorKind::NotFound => StatusParts::new(Code::NotFound, "SOURCE_NOT_FOUND"),
            StoreErrorKind::Denied => StatusParts::new(Code::PermissionDenied, "SOURCE_DENIED"),
            StoreErrorKind::Unavailable => {
                StatusParts::new(Code::Unavailable, "SOURCE_UNAVAILABLE").retry_after(RETRY_STORE)
            }
            StoreErrorKind::TimedOut => StatusParts::new(Code::DeadlineExceeded, "SOURCE_TIMED_OUT"),
            StoreErrorKind::Changed => source_changed(),
            StoreErrorKind::Corrupt => StatusParts::new(Code::DataLoss, "SOURCE_CORRUPT"),
            StoreErrorKind::Refused => StatusParts::new(Code::InvalidArgument, "SOURCE_REFUSED"),
        },
    }
}

fn segment_status_parts(error: &SegmentError) -> StatusParts {
    let code = match error.kind() {
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Unsupported | ErrorKind::TooLarge => Code::InvalidArgument,
    };
    place(StatusParts::new(code, error.reason()), error)
}

fn place(status_parts: StatusParts, error: &SegmentError) -> StatusParts {
    status_parts.at("position", error.position()).at("frame", error.ordinal())
}

/// Returns the parts of the status for a source that changed. A sealed segment does not change: a later read
/// may find it complete.
fn source_changed() -> StatusParts {
    StatusParts::new(Code::Unavailable, "SOURCE_CHANGED").retry_after(RETRY_STORE)
}

fn put_status_parts(error: &PutError) -> StatusParts {
    match error {
        PutError::Store { source, .. } => store_status_parts(source),
        // A store that answered "not now" until the deadline is unavailable. A store that did not answer may
        // have stored the object.
        PutError::Deadline { last: Some(last), .. } => store_status_parts(last),
        PutError::Deadline { last: None, .. } => StatusParts::new(Code::DeadlineExceeded, "STORE_TIMED_OUT"),
        PutError::Taken { .. } => StatusParts::new(Code::Internal, "KEY_TAKEN"),
        PutError::Hidden { hidden_at_ms, reason, .. } => {
            StatusParts::new(Code::FailedPrecondition, "DELETED")
                .at("hidden_at_ms", hidden_at_ms)
                .at("hidden_because", reason)
        }
        PutError::Corrupt(_) => StatusParts::new(Code::Internal, "STORED_BYTES_DIFFER"),
        PutError::Sizes { .. } => StatusParts::new(Code::Internal, "SIZES"),
    }
}

/// Returns the parts of the status for an error of the store. If this worker cannot use its store, another
/// worker or a later retry may succeed. Only a bundle that no store accepts is the fault of the request.
fn store_status_parts(error: &StoreError) -> StatusParts {
    match error.kind() {
        StoreErrorKind::NotFound | StoreErrorKind::Denied | StoreErrorKind::Unavailable => {
            StatusParts::new(Code::Unavailable, "STORE_UNAVAILABLE").retry_after(RETRY_STORE)
        }
        StoreErrorKind::TimedOut => StatusParts::new(Code::DeadlineExceeded, "STORE_TIMED_OUT"),
        StoreErrorKind::Changed => StatusParts::new(Code::Internal, "STORED_OBJECT_CHANGED"),
        StoreErrorKind::Corrupt => StatusParts::new(Code::Internal, "STORED_BYTES_DIFFER"),
        StoreErrorKind::Refused => StatusParts::new(Code::InvalidArgument, "STORE_REFUSED"),
    }
}

/// Returns the status for a request that arrives after the signal to stop.
pub fn draining() -> Status {
    let mut details = ErrorDetails::with_error_info("DRAINING", DOMAIN, HashMap::new());
    details.set_retry_info(Some(RETRY_STORE));
    Status::with_error_details(Code::Unavailable, "this worker is draining", details)
}
