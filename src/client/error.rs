//! Why there is no receipt, and what to do about it.

/// An error that a worker answered with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{worker} answered {code}: {message}")]
pub struct Refusal {
    /// The worker's address.
    pub worker: String,
    /// The gRPC code's name, such as `DATA_LOSS`.
    pub code: &'static str,
    /// The stable reason in the error's `google.rpc.ErrorInfo`. Empty if there is none.
    pub reason: String,
    /// The message for people.
    pub message: String,
    /// The position in the segment, in bytes, if it is known.
    pub position: Option<u64>,
}

/// Why there is no receipt for a segment.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The segment itself is invalid (`DATA_LOSS`, `INVALID_ARGUMENT`), or its bundle was deleted
    /// (`FAILED_PRECONDITION` with the reason `DELETED`). No worker will take it as it is. Keep it.
    #[error("rejected: {0}")]
    Rejected(Refusal),
    /// Something in this client or in the workers must be corrected first (`UNAUTHENTICATED`,
    /// `PERMISSION_DENIED`, …).
    #[error("refused: {0}")]
    Refused(Refusal),
    /// No worker took the segment in time. Try again later.
    #[error("no receipt after {attempts} attempts{}", because(unreachable))]
    TimedOut {
        /// The number of attempts. It is 0 if no worker could be reached.
        attempts: u32,
        /// If no worker answered with an error: why none could be reached, such as a name without addresses.
        unreachable: Vec<String>,
        /// The last error of a worker, if there was one.
        #[source]
        last: Option<Refusal>,
    },
    /// A worker answered OK, but for something other than what was read. This needs an alert, and is no
    /// receipt.
    #[error("{worker} answered OK for something else: {mismatch}")]
    Mismatch {
        /// The worker's address.
        worker: String,
        /// What differs.
        mismatch: Mismatch,
    },
    /// The bytes could not be read, or changed while they were read.
    #[error("cannot read the segment")]
    Read(#[from] std::io::Error),
}

/// Why there is no response, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A worker, or a proxy in front of it, answered with an error.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// No worker answered in time.
    #[error("no answer in time after {attempts} attempts{}", because(unreachable))]
    OutOfTime {
        /// The number of attempts. It is 0 if no worker could be reached.
        attempts: u32,
        /// If no worker answered with an error: why none could be reached.
        unreachable: Vec<String>,
        /// The last error of a worker, if there was one.
        #[source]
        last: Option<Refusal>,
    },
    /// The response ended without its last message. Records may be missing.
    #[error("{worker} ended its answer before the last message")]
    CutOff {
        /// The worker's address.
        worker: String,
    },
}

/// The difference between an OK response and what was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {answered} instead of {read}")]
pub struct Mismatch {
    /// The field that differs: `bytes_read`, `crc32c`, `sha256`, `records`, `undecoded`, `offsets`,
    /// `torn_tail_bytes`, `bundles`.
    pub field: &'static str,
    /// The value that was read.
    pub read: String,
    /// The value in the response.
    pub answered: String,
}

fn because(reasons: &[String]) -> String {
    if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) }
}
