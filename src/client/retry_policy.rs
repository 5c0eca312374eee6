//! What a worker's no asks for: the code says what to do next.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::error::Refusal;
use super::pool::Cooling;
use super::proxy::ProxyAnswer;
use crate::formatting::code_name;

/// What to do about a no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryPolicy {
    /// Nobody will take the segment.
    Reject,
    /// It will not be taken before something else is set right. Where that is the worker's trouble, it has no use for other
    /// segments either: it says no faster than others say yes, and would be picked again and again.
    Refuse(Option<Cooling>),
    /// Another worker may take it, or the same one later.
    Again(Cooling),
    /// Likewise, but not for ever: it is a fault in the worker.
    AgainAFewTimes(Cooling),
}

impl RetryPolicy {
    /// By the code. What broke on the way here is nobody's verdict: then there is a cause, which none has that came by wire. A
    /// proxy's answer is one about the way: it never rejects a segment.
    pub(super) fn of(status: &Status) -> Self {
        if never_sent(status) {
            return Self::Again(Cooling::Unsent);
        }
        let proxy = ProxyAnswer::behind(status);
        if proxy.is_some_and(ProxyAnswer::is_body_limit) {
            // Smaller segments still go through.
            return Self::Refuse(None);
        }
        if proxy.is_none() && status.source().is_some() {
            return Self::Again(Cooling::Growing);
        }
        let asked = || match asked(status) {
            Some(pause) => Cooling::Asked(pause),
            None => Cooling::Growing,
        };
        match status.code() {
            Code::InvalidArgument | Code::DataLoss => Self::Reject,
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::FailedPrecondition => Self::Refuse(Some(Cooling::Growing)),
            Code::NotFound | Code::OutOfRange | Code::AlreadyExists => Self::Refuse(None),
            Code::Unavailable | Code::ResourceExhausted => Self::Again(asked()),
            // "OK" as an error is nothing that a worker can mean.
            Code::Cancelled | Code::Aborted | Code::Unknown | Code::Ok => Self::Again(Cooling::Growing),
            Code::DeadlineExceeded => Self::Again(Cooling::Longest),
            Code::Internal => Self::AgainAFewTimes(Cooling::Growing),
        }
    }
}

/// Whether a call found its connection closed, and nothing of it has left this side: workers retire connections, and take new ones.
pub(super) fn never_sent(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.source().is_some()
}

/// How long the worker wants to be left alone.
fn asked(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

impl Refusal {
    /// What a worker, or the way to it, said.
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

    /// That a worker said nothing for so long.
    pub(super) fn silence(worker: &str, waited: Duration) -> Self {
        Self {
            worker: worker.to_owned(),
            code: code_name(Code::DeadlineExceeded),
            reason: String::new(),
            message: format!("no answer within {waited:?}"),
            position: None,
        }
    }

    /// The stable reason, or the code where there is none.
    pub fn why(&self) -> &str {
        if self.reason.is_empty() { self.code } else { &self.reason }
    }
}

/// The message, and the causes that are known on this side.
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
            assert_eq!(RetryPolicy::of(&status), RetryPolicy::Again(Cooling::Growing), "{code:?}");
            assert_eq!(Refusal::of(&status, "w").message, "h2 protocol error: connection reset");
        }
    }

    #[test]
    fn a_connection_that_was_retired_is_no_fault_of_the_workers() {
        let mut status = Status::cancelled("operation was canceled");
        status.set_source(Arc::new(std::io::Error::other("connection closed")));
        assert_eq!(RetryPolicy::of(&status), RetryPolicy::Again(Cooling::Unsent));
        // A worker that says so itself has a reason.
        assert_eq!(RetryPolicy::of(&Status::cancelled("")), RetryPolicy::Again(Cooling::Growing));
    }
}
