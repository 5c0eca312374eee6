//! The statuses of errors of reads.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{DOMAIN, RETRY_STORE, StatusParts, budget_status_parts};
use crate::archive::{ArchiveError, ArchiveErrorKind};
use crate::copies::CopyError;
use crate::fetch::FetchError;
use crate::ids::TopicPartitionError;
use crate::index::QueryError;
use crate::search::SearchError;
use crate::store::{KeyError, StoreError, StoreErrorKind};

/// Returns the status for an error of `Search`.
pub fn of_search(error: &SearchError) -> Status {
    let status_parts = match error {
        SearchError::NoTopic => StatusParts::new(Code::InvalidArgument, "NO_TOPIC"),
        SearchError::LimitTooLarge { .. } => StatusParts::new(Code::InvalidArgument, "LIMIT_TOO_LARGE"),
        SearchError::TooBroad { bundle, .. } | SearchError::PrefixTooBroad { bundle } => {
            StatusParts::new(Code::InvalidArgument, "QUERY_TOO_BROAD").at("bundle", bundle)
        }
        SearchError::TooManyBuckets => StatusParts::new(Code::InvalidArgument, "TOO_MANY_BUCKETS"),
        SearchError::TooLarge { .. } => StatusParts::new(Code::InvalidArgument, "SEARCH_TOO_LARGE"),
        SearchError::NoRoom { retry_after } => {
            StatusParts::new(Code::ResourceExhausted, "NO_ROOM").retry_about(*retry_after)
        }
        SearchError::OutOfTime { .. } => StatusParts::new(Code::DeadlineExceeded, "OUT_OF_TIME"),
        SearchError::List(error) => store_status_parts(error),
        SearchError::Archive(error) => archive_status_parts(error),
    };
    status_parts.into_status(error)
}

/// Returns the status for an error of `Fetch`.
pub fn of_fetch(error: &FetchError) -> Status {
    let status_parts = match error {
        FetchError::NegativeOffset { .. } => StatusParts::new(Code::InvalidArgument, "NEGATIVE_OFFSET"),
        FetchError::List(error) => store_status_parts(error),
        FetchError::Archive(error) => archive_status_parts(error),
        FetchError::NoRoom { retry_after } => {
            StatusParts::new(Code::ResourceExhausted, "NO_ROOM").retry_about(*retry_after)
        }
        FetchError::TooLarge { bundle, offset, .. } => {
            let status_parts = StatusParts::new(Code::FailedPrecondition, "FETCH_TOO_LARGE");
            status_parts.at("bundle", bundle).at("offset", offset)
        }
        FetchError::NoBatch { bundle, offset, .. } => {
            StatusParts::new(Code::FailedPrecondition, "NO_KAFKA_BATCH")
                .at("bundle", bundle)
                .at("offset", offset)
        }
    };
    status_parts.into_status(error)
}

/// Returns the status for an error of `ReadSegment` or `ReadAttachment`.
pub fn of_copy(error: &CopyError) -> Status {
    let status_parts = match error {
        CopyError::NotFound => StatusParts::new(Code::NotFound, "SEGMENT_NOT_FOUND"),
        CopyError::NoAttachment { name } => {
            StatusParts::new(Code::NotFound, "ATTACHMENT_NOT_FOUND").at("attachment", name)
        }
        CopyError::ManyPartitions { .. } => StatusParts::new(Code::FailedPrecondition, "MANY_PARTITIONS"),
        CopyError::BeyondEnd { .. } => StatusParts::new(Code::OutOfRange, "BEYOND_END"),
        CopyError::Budget(error) => budget_status_parts(error),
        CopyError::List(error) => store_status_parts(error),
        CopyError::Archive(error) => archive_status_parts(error),
    };
    status_parts.into_status(error)
}

/// Returns the status for a caller that does not read its response.
pub fn reader_silent() -> Status {
    let details = ErrorDetails::with_error_info("READER_SILENT", DOMAIN, []);
    let line = "the client did not read the response in time";
    Status::with_error_details(Code::DeadlineExceeded, line, details)
}

/// Returns the status for a topic and a partition that are not valid.
pub fn of_partition(error: &TopicPartitionError) -> Status {
    StatusParts::new(Code::InvalidArgument, "NO_PARTITION").into_status(error)
}

/// Returns the status for a name that cannot be in a key.
pub fn of_name(error: &KeyError) -> Status {
    StatusParts::new(Code::InvalidArgument, "NAME_DOES_NOT_FIT").into_status(error)
}

/// Returns the status for a query that is not valid.
pub fn of_query(error: &QueryError) -> Status {
    StatusParts::new(Code::InvalidArgument, "QUERY").at("position", error.position).into_status(error)
}

/// Returns the status for a store that cannot be listed.
pub fn of_store(error: &StoreError) -> Status {
    store_status_parts(error).into_status(error)
}

/// Returns the status for a bundle that cannot be read.
pub fn of_archive(error: &ArchiveError) -> Status {
    archive_status_parts(error).into_status(error)
}

/// Returns the status for a request that is not valid, where the library has no error type for the reason.
pub fn invalid(reason: &'static str, message: String) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, []);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// Returns the parts of the status for a bundle. A listed bundle that is missing or damaged means a loss of
/// data, not a mistake of the caller.
fn archive_status_parts(error: &ArchiveError) -> StatusParts {
    let status_parts = match error.kind() {
        ArchiveErrorKind::NotFound => StatusParts::new(Code::DataLoss, "BUNDLE_MISSING"),
        ArchiveErrorKind::Corrupt => StatusParts::new(Code::DataLoss, "BUNDLE_CORRUPT"),
        ArchiveErrorKind::Denied => StatusParts::new(Code::Unavailable, "STORE_DENIED"),
        ArchiveErrorKind::Unavailable => {
            StatusParts::new(Code::Unavailable, "STORE_UNAVAILABLE").retry_after(RETRY_STORE)
        }
        ArchiveErrorKind::Unsupported => StatusParts::new(Code::Unimplemented, "BUNDLE_NEWER"),
        ArchiveErrorKind::Bug => StatusParts::new(Code::Internal, "PANICKED"),
    };
    status_parts.at("bundle", error.bundle())
}

fn store_status_parts(error: &StoreError) -> StatusParts {
    match error.kind() {
        StoreErrorKind::NotFound
        | StoreErrorKind::Denied
        | StoreErrorKind::Unavailable
        | StoreErrorKind::Changed
        | StoreErrorKind::Corrupt => {
            StatusParts::new(Code::Unavailable, "STORE_UNAVAILABLE").retry_after(RETRY_STORE)
        }
        StoreErrorKind::TimedOut => StatusParts::new(Code::DeadlineExceeded, "STORE_TIMED_OUT"),
        StoreErrorKind::Refused => StatusParts::new(Code::InvalidArgument, "STORE_REFUSED"),
    }
}
