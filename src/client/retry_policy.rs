//! Decides what to do after an error of a worker, by its code.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::error::Refusal;
use super::pool::Backoff;
use super::proxy::ProxyAnswer;
use crate::formatting::code_name;

/// The reason of a worker whose store has a marker that hides the segment's bundle. The only reason that this
/// decision knows: the code alone may also be an error of the worker's settings.
const DELETED: &str = "DELETED";

/// What to do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryPolicy {
    /// No worker will take the segment.
    Reject,
    /// The segment is not taken until something else is corrected. If the problem is in the worker, the
    /// worker cools down, because it cannot take other segments either: it answers faster than workers that
    /// accept, so it would be picked again and again.
    Refuse(Option<Backoff>),
    /// Another worker may take it, or the same one later.
    Again(Backoff),
    /// The same, but only a few times: it is a fault in the worker.
    AgainAFewTimes(Backoff),
}

impl RetryPolicy {
    /// Decides by the code. An error of the connection is not a worker's decision: such a status has a
    /// source, while a status that a worker sent has none. A proxy's response is also an error of the
    /// connection, and never rejects a segment.
    pub(super) fn of(status: &Status) -> Self {
        if never_sent(status) {
            return Self::Again(Backoff::Unsent);
        }
        let proxy = ProxyAnswer::behind(status);
        if proxy.is_some_and(ProxyAnswer::is_body_limit) {
            // The proxy still accepts smaller segments.
            return Self::Refuse(None);
        }
        if proxy.is_none() && status.source().is_some() {
            return Self::Again(Backoff::Growing);
        }
        let asked = || match asked(status) {
            Some(pause) => Backoff::Asked(pause),
            None => Backoff::Growing,
        };
        match status.code() {
            Code::InvalidArgument | Code::DataLoss => Self::Reject,
            Code::FailedPrecondition if is_deleted(status) => Self::Reject,
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::FailedPrecondition => Self::Refuse(Some(Backoff::Growing)),
            Code::NotFound | Code::OutOfRange | Code::AlreadyExists => Self::Refuse(None),
            Code::Unavailable | Code::ResourceExhausted => Self::Again(asked()),
            // A worker cannot mean "OK" as an error.
            Code::Cancelled | Code::Aborted | Code::Unknown | Code::Ok => Self::Again(Backoff::Growing),
            Code::DeadlineExceeded => Self::Again(Backoff::Longest),
            Code::Internal => Self::AgainAFewTimes(Backoff::Growing),
        }
    }
}

/// Whether a call found its connection closed and sent nothing. Workers close connections after some time,
/// and accept new ones.
pub(super) fn never_sent(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.source().is_some()
}

/// Whether what the segment would be stored as was deleted. No worker takes it until somebody brings that
/// back.
fn is_deleted(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == DELETED)
}

/// The pause that the worker asks for.
fn asked(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

impl Refusal {
    /// Describes an error of a worker, or of the connection to it.
    pub(super) fn of(status: &Status, worker: &str) -> Self {
        let info = status.get_details_error_info();
        let position = info.as_ref().and_then(|info| info.metadata.get("position")?.parse().ok());
        Self {
            worker: worker.to_owned(),
            code: code_name(status.code()),
            reason: match ProxyAnswer::behind(status) {
                Some(proxy) => proxy.reason().to_owned(),
                None => info.map(|info| info.reason).unwrap_or_default(),
            },
            message: chain(status),
            position,
        }
    }

    /// Describes a worker that did not answer within this time.
    pub(super) fn silence(worker: &str, waited: Duration) -> Self {
        Self {
            worker: worker.to_owned(),
            code: code_name(Code::DeadlineExceeded),
            reason: String::new(),
            message: format!("no answer within {waited:?}"),
            position: None,
        }
    }

    /// The stable reason, or the code if there is no reason.
    pub fn why(&self) -> &str {
        if self.reason.is_empty() { self.code } else { &self.reason }
    }
}

/// The message, with the causes that are known on this side.
fn chain(status: &Status) -> String {
    let mut line = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_breaks_on_the_way_is_no_workers_verdict() {
        for code in [Code::Internal, Code::PermissionDenied, Code::ResourceExhausted, Code::Unknown] {
            let mut status = Status::new(code, "h2 protocol error");
            assert_ne!(RetryPolicy::of(&status), RetryPolicy::Reject);
            status.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
            assert_eq!(RetryPolicy::of(&status), RetryPolicy::Again(Backoff::Growing), "{code:?}");
            assert_eq!(Refusal::of(&status, "w").message, "h2 protocol error: connection reset");
        }
    }

    #[test]
    fn what_was_deleted_is_rejected_and_other_preconditions_are_not() {
        use std::collections::HashMap;

        use tonic_types::ErrorDetails;

        let answered = |code, reason: &str| {
            let details = ErrorDetails::with_error_info(reason, "wal-indexer", HashMap::new());
            RetryPolicy::of(&Status::with_error_details(code, "no", details))
        };
        assert_eq!(answered(Code::FailedPrecondition, "DELETED"), RetryPolicy::Reject);
        let refuse = RetryPolicy::Refuse(Some(Backoff::Growing));
        assert_eq!(answered(Code::FailedPrecondition, "ANOTHER"), refuse);
        assert_eq!(RetryPolicy::of(&Status::failed_precondition("no")), refuse);
        assert_eq!(answered(Code::Unavailable, "DELETED"), RetryPolicy::Again(Backoff::Growing));
    }

    #[test]
    fn a_connection_that_was_retired_is_no_fault_of_the_workers() {
        let mut status = Status::cancelled("operation was canceled");
        status.set_source(Arc::new(std::io::Error::other("connection closed")));
        assert_eq!(RetryPolicy::of(&status), RetryPolicy::Again(Backoff::Unsent));
        // If a worker itself sends this code, the status has no source.
        assert_eq!(RetryPolicy::of(&Status::cancelled("")), RetryPolicy::Again(Backoff::Growing));
    }
}
