//! What can go wrong at a store. The kind says what to do next; the message names bucket and key, and never holds what a
//! store or its client said verbatim: those texts may carry signed URLs, account keys' ids and strings to sign.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use object_store::Error as ObjectError;
use object_store::client::{HttpError, HttpErrorKind};

/// An operation at a store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {url}: {cause}")]
pub struct StoreError {
    operation: Operation,
    url: String,
    cause: Cause,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creating an object.
    Put,
    /// Reading an object, or part of it.
    Get,
    /// Asking for an object's size and ETag.
    Head,
    /// Listing keys.
    List,
    /// Making a file and its directories durable.
    Sync,
    /// Removing an object.
    Delete,
}

impl Operation {
    /// Its name, for people and for measurements.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Sync => "sync",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// There is no such object (or no such bucket). Fix the request or the configuration.
    NotFound,
    /// The store does not know this worker, does not let it, or cannot make sense of it: an operator's business, another worker
    /// may do better.
    Denied,
    /// The store is away, overloaded, or was cut off: the same again, later.
    Unavailable,
    /// It took too long: the same again, later. A write may have landed.
    TimedOut,
    /// The object is not the one that reading began with.
    Changed,
    /// The bytes are not those that were written.
    Corrupt,
    /// No store of the kind can do what is asked of it: trying again does not help.
    Refused,
}

impl StoreErrorKind {
    /// Its name, for measurements.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Changed => "changed",
            Self::Corrupt => "corrupt",
            Self::Refused => "refused",
        }
    }
}

/// Why, as far as it can be said without repeating what a store answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No such object or bucket.
    #[error("not found")]
    NotFound,
    /// An answer with an HTTP status, and the store's own code where it gave one (`SlowDown`).
    #[error("the store answered {status}{}", CodeSuffix(.code))]
    Status {
        /// The HTTP status.
        status: u16,
        /// The store's own word for it: letters only.
        code: Option<String>,
    },
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Transport(&'static str),
    /// No answer in time.
    #[error("no answer within {0:.0?}")]
    NoAnswer(Duration),
    /// The operating system said no.
    #[error("{kind}{}", OsSuffix(.os_error))]
    Io {
        /// Which kind of error.
        kind: io::ErrorKind,
        /// The system's own number.
        os_error: Option<i32>,
    },
    /// On the local file system: a directory on the way to the object is a link, and what lies behind it may be anybody's.
    #[error("it lies behind a link")]
    BehindLink,
    /// A precondition did not hold: the object has another ETag than it had.
    #[error("the object changed while it was read")]
    Changed,
    /// The object ends before the range that was asked for: it is not the one that was listed.
    #[error("the object ends before the range that was asked for")]
    Ended,
    /// Fewer or more bytes than the object has.
    #[error("{got} bytes where {expected} were expected")]
    Length {
        /// Bytes expected.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A whole that would not fit.
    #[error("{size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Bytes that were written and read back are others.
    #[error("crc32c is {got:08x} where {expected:08x} was written")]
    Checksum {
        /// The checksum of what was written.
        expected: u32,
        /// The checksum of what is there.
        got: u32,
    },
    /// The store's client does not know how to do this.
    #[error("not supported by this store")]
    Unsupported,
    /// A name that is no key.
    #[error("not a valid name for an object")]
    InvalidName,
    /// The client failed in a way it only describes in words, which are not repeated.
    #[error("the {0} client failed")]
    Client(&'static str),
}

struct CodeSuffix<'a>(&'a Option<String>);

impl fmt::Display for CodeSuffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}

struct OsSuffix<'a>(&'a Option<i32>);

impl fmt::Display for OsSuffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |number| write!(f, " (os error {number})"))
    }
}

/// Codes that come with a status of 4xx, but pass.
const PASSING_CODES: [&str; 9] = [
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "IncompleteBody",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "OperationAborted",
    "ConditionalRequestConflict",
    "ExpiredToken",
];

/// Codes of S3's 409 that say nothing of the object: another request for its key was under way.
const CONFLICT_CODES: [&str; 2] = ["OperationAborted", "ConditionalRequestConflict"];

impl StoreError {
    pub(super) fn new(operation: Operation, url: impl Into<String>, cause: Cause) -> Self {
        Self { operation, url: url.into(), cause }
    }

    pub(super) fn from_object_store(
        operation: Operation,
        url: impl Into<String>,
        error: &ObjectError,
    ) -> Self {
        Self::new(operation, url, Cause::from_object_store(error))
    }

    /// What to do next.
    pub fn kind(&self) -> StoreErrorKind {
        use StoreErrorKind::*;
        match &self.cause {
            Cause::NotFound => NotFound,
            Cause::Status { status, code } => match status {
                _ if code.as_deref().is_some_and(|code| PASSING_CODES.contains(&code)) => Unavailable,
                401 | 403 => Denied,
                404 => NotFound,
                412 => Changed,
                408 | 409 | 425 | 429 | 500..=599 => Unavailable,
                // Errors inside a 200.
                200..=299 => Unavailable,
                // What else a store finds wrong with a request is the worker's settings (its region, its token), not the bundle.
                _ => Denied,
            },
            Cause::Transport(_) | Cause::Client(_) => Unavailable,
            Cause::NoAnswer(_) => TimedOut,
            // A directory, or what was written so far, went away while an object was made: there is none yet.
            Cause::Io { kind: io::ErrorKind::NotFound, .. } if self.operation == Operation::Put => {
                Unavailable
            }
            Cause::Io { kind, .. } => match kind {
                io::ErrorKind::NotFound => NotFound,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Denied,
                io::ErrorKind::InvalidInput
                | io::ErrorKind::InvalidFilename
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory => Refused,
                // A full disk passes, too: somebody makes room.
                _ => Unavailable,
            },
            Cause::Changed => Changed,
            Cause::Ended | Cause::Length { .. } | Cause::Checksum { .. } => Corrupt,
            Cause::TooLarge { .. } | Cause::Unsupported | Cause::InvalidName | Cause::BehindLink => Refused,
        }
    }

    /// Whether the same may succeed a little later.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind(), StoreErrorKind::Unavailable | StoreErrorKind::TimedOut)
    }

    /// Whether the store asks everybody to slow down.
    pub fn is_slow_down(&self) -> bool {
        match &self.cause {
            Cause::Status { status, code } => {
                matches!(status, 429 | 503) || code.as_deref() == Some("SlowDown")
            }
            _ => false,
        }
    }

    /// Whether another request for the same key was in the way.
    pub(super) fn is_conflict(&self) -> bool {
        match &self.cause {
            Cause::Status { code: Some(code), .. } => CONFLICT_CODES.contains(&code.as_str()),
            _ => false,
        }
    }

    /// Whether a write that ended so may have landed all the same, or land yet.
    pub(super) fn may_have_landed(&self) -> bool {
        self.is_passing() && !self.is_slow_down() && self.cause != Cause::Transport(NOT_CONNECTED)
    }

    /// Why.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The object's or listing's URL, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }
}

const RANGE_NOT_SATISFIABLE: u16 = 416;

const NOT_CONNECTED: &str = "no connection";

impl Cause {
    fn from_object_store(error: &ObjectError) -> Self {
        // The variants that the client sorted out already. What it calls "already exists" is any conflict.
        match error {
            ObjectError::NotFound { .. } => return Self::NotFound,
            ObjectError::Precondition { .. } | ObjectError::NotModified { .. } => return Self::Changed,
            ObjectError::NotSupported { .. } | ObjectError::NotImplemented { .. } => {
                return Self::Unsupported;
            }
            ObjectError::InvalidPath { .. } => return Self::InvalidName,
            _ => {}
        }
        let mut link: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(current) = link {
            if let Some(http) = current.downcast_ref::<HttpError>() {
                return Self::Transport(transport(http.kind()));
            }
            if let Some(io) = current.downcast_ref::<io::Error>() {
                return Self::Io { kind: io.kind(), os_error: io.raw_os_error() };
            }
            if let Some(cause) = Self::from_text(current) {
                return cause;
            }
            link = current.source();
        }
        match error {
            ObjectError::PermissionDenied { .. } => Self::Status { status: 403, code: None },
            ObjectError::Unauthenticated { .. } => Self::Status { status: 401, code: None },
            ObjectError::AlreadyExists { .. } => Self::Status { status: 409, code: None },
            ObjectError::Generic { store, .. } => Self::Client(store),
            _ => Self::Client("store"),
        }
    }

    /// The client keeps the types that hold an answer's status, or a range that is none, to itself; their text is what there is to go
    /// by. Tests hold this against a server and a disk, so that a release that words it otherwise is noticed.
    fn from_text(error: &(dyn StdError + 'static)) -> Option<Self> {
        let text = error.to_string();
        if text.starts_with("Wanted range starting at ") {
            return Some(Self::Ended);
        }
        if let Some(rest) = text.strip_prefix("Server returned non-2xx status code: ") {
            return Some(match rest.get(..3)?.parse().ok()? {
                RANGE_NOT_SATISFIABLE => Self::Ended,
                status => Self::Status { status, code: code(rest) },
            });
        }
        let body = text.strip_prefix("Server returned error response: ")?;
        Some(Self::Status { status: 200, code: code(body) })
    }
}

/// The store's own code in an XML answer: `<Code>SlowDown</Code>`.
fn code(body: &str) -> Option<String> {
    let code = body.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let plain = !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| code.to_owned())
}

fn transport(kind: HttpErrorKind) -> &'static str {
    match kind {
        HttpErrorKind::Connect => NOT_CONNECTED,
        HttpErrorKind::Timeout => "timed out",
        HttpErrorKind::Interrupted => "interrupted",
        HttpErrorKind::Decode => "the answer could not be read",
        _ => "cut off",
    }
}

#[cfg(test)]
mod tests;
