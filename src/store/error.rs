//! Errors of stores. The kind says what to do next. The message has bucket and key, but never the text of a
//! store or its client: such texts may have signed URLs, ids of account keys and strings to sign.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use object_store::Error as ObjectError;
#[cfg(feature = "clouds")]
use object_store::client::{HttpError, HttpErrorKind};

/// An operation at a store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {url}: {cause}")]
pub struct StoreError {
    operation: Operation,
    url: String,
    cause: Cause,
}

/// The operation that failed.
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
    /// Returns its name, for people and for metrics.
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

/// What the caller can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// The object or the bucket does not exist. Fix the request or the configuration.
    NotFound,
    /// The store does not know this worker, does not permit the request, or does not understand it. An
    /// operator must fix this; another worker may succeed.
    Denied,
    /// The store is not available or overloaded, or the connection failed. Try again later.
    Unavailable,
    /// The store took too long. Try again later. A write may have succeeded.
    TimedOut,
    /// The object was replaced after the read began.
    Changed,
    /// The bytes are not those that were written.
    Corrupt,
    /// This kind of store cannot do what was requested. A retry does not help.
    Refused,
}

impl StoreErrorKind {
    /// Returns its name, for metrics.
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

/// The cause of an error, without the text of the store's response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No such object or bucket.
    #[error("not found")]
    NotFound,
    /// A response with an HTTP status, and the store's own error code if it gave one (`SlowDown`).
    #[error("the store answered {status}{}", CodeSuffix(.code))]
    Status {
        /// The HTTP status.
        status: u16,
        /// The store's own error code: letters and digits only.
        code: Option<String>,
    },
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Transport(&'static str),
    /// No response in time.
    #[error("no answer within {0:.0?}")]
    NoAnswer(Duration),
    /// The operating system returned an error.
    #[error("{kind}{}", OsSuffix(.os_error))]
    Io {
        /// Which kind of error.
        kind: io::ErrorKind,
        /// The operating system's error number.
        os_error: Option<i32>,
    },
    /// On the local file system: a directory in the path of the object is a link. What it points to may not
    /// belong to this store.
    #[error("it is behind a link to a directory")]
    BehindLink,
    /// A precondition failed: the ETag of the object has changed.
    #[error("the object changed while it was read")]
    Changed,
    /// The object ends before the requested range: it is not the object that was listed.
    #[error("the object ends before the range that was asked for")]
    Ended,
    /// The number of bytes differs from the size of the object.
    #[error("{got} bytes where {expected} were expected")]
    Length {
        /// Bytes expected.
        expected: u64,
        /// The number of bytes received.
        got: u64,
    },
    /// The object is larger than the limit.
    #[error("{size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The bytes that were read back differ from those that were written.
    #[error("crc32c is {got:08x} where {expected:08x} was written")]
    Checksum {
        /// The checksum of what was written.
        expected: u32,
        /// The checksum of the bytes that were read.
        got: u32,
    },
    /// The store's client does not support this operation.
    #[error("not supported by this store")]
    Unsupported,
    /// The name is not a valid key.
    #[error("not a valid name for an object")]
    InvalidName,
    /// The client failed and gives only a text as the reason. The text is not repeated here.
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

/// Error codes that are temporary although their status is 4xx.
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

/// Codes of S3's status 409 that say nothing about the object: another request for its key was in progress.
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

    /// Returns what the caller can do next.
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
                // An error inside of a response with status 200.
                200..=299 => Unavailable,
                // Any other error of the client is caused by the worker's settings (its region, its token),
                // not by the bundle.
                _ => Denied,
            },
            Cause::Transport(_) | Cause::Client(_) => Unavailable,
            Cause::NoAnswer(_) => TimedOut,
            // A directory or the staging file was deleted during the PUT. The object does not exist yet.
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
                // A full disk is temporary too: an operator frees space.
                _ => Unavailable,
            },
            Cause::Changed => Changed,
            Cause::Ended | Cause::Length { .. } | Cause::Checksum { .. } => Corrupt,
            Cause::TooLarge { .. } | Cause::Unsupported | Cause::InvalidName | Cause::BehindLink => Refused,
        }
    }

    /// Returns whether the same request may succeed a little later.
    pub fn is_temporary(&self) -> bool {
        matches!(self.kind(), StoreErrorKind::Unavailable | StoreErrorKind::TimedOut)
    }

    /// Returns whether the store asks all callers to slow down.
    pub fn is_slow_down(&self) -> bool {
        match &self.cause {
            Cause::Status { status, code } => {
                matches!(status, 429 | 503) || code.as_deref() == Some("SlowDown")
            }
            _ => false,
        }
    }

    /// Returns whether the cause was another request for the same key.
    pub(super) fn is_conflict(&self) -> bool {
        match &self.cause {
            Cause::Status { code: Some(code), .. } => CONFLICT_CODES.contains(&code.as_str()),
            _ => false,
        }
    }

    /// Returns whether a write that failed with this error may have succeeded, or may still succeed.
    pub(super) fn may_have_landed(&self) -> bool {
        self.is_temporary() && !self.is_slow_down() && self.cause != Cause::Transport(NOT_CONNECTED)
    }

    /// Returns the cause.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Returns the URL of the object or listing, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }
}

const RANGE_NOT_SATISFIABLE: u16 = 416;

const NOT_CONNECTED: &str = "no connection";

impl Cause {
    fn from_object_store(error: &ObjectError) -> Self {
        // Variants that the client has classified. It uses "already exists" for every conflict.
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
            #[cfg(feature = "clouds")]
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

    /// The types that hold the status of a response, or an invalid range, are private to the client. So this
    /// function parses their text. Tests compare it with a server and a disk, and fail if a release changes
    /// the text.
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

/// Returns the store's own error code in an XML response: `<Code>SlowDown</Code>`.
fn code(body: &str) -> Option<String> {
    let code = body.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let plain = !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| code.to_owned())
}

#[cfg(feature = "clouds")]
fn transport(kind: HttpErrorKind) -> &'static str {
    match kind {
        HttpErrorKind::Connect => NOT_CONNECTED,
        HttpErrorKind::Timeout => "timed out",
        HttpErrorKind::Interrupted => "interrupted",
        HttpErrorKind::Decode => "the answer could not be read",
        _ => "cut off",
    }
}

#[cfg(feature = "clouds")]
#[cfg(test)]
mod tests;
