//! Why there is no receipt, and what to do about it.

/// A worker's no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{worker} answered {code}: {message}")]
pub struct Refusal {
    /// Its address.
    pub worker: String,
    /// The gRPC code's name, such as `DATA_LOSS`.
    pub code: &'static str,
    /// The stable reason of the error's `google.rpc.ErrorInfo`; empty where there is none.
    pub reason: String,
    /// In words.
    pub message: String,
    /// Where in the segment, in bytes, if that is known.
    pub position: Option<u64>,
}

/// Why there is no receipt for a segment.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The segment itself is at fault (`DATA_LOSS`, `INVALID_ARGUMENT`): no worker will take it as it is.
    #[error("rejected: {0}")]
    Rejected(Refusal),
    /// Something about this client or the workers must be set right first (`UNAUTHENTICATED`, `PERMISSION_DENIED`, …).
    #[error("refused: {0}")]
    Refused(Refusal),
    /// No worker took it in time: again later.
    #[error("no receipt after {attempts} attempts{}", because(unreachable))]
    OutOfPatience {
        /// How many there were; none where no worker could be reached.
        attempts: u32,
        /// Where no worker said no to this segment: why none could be asked, such as a name without addresses.
        unreachable: Vec<String>,
        /// The last no, if there was one.
        #[source]
        last: Option<Refusal>,
    },
    /// A worker said OK, but not of what was read: an alert, and no receipt.
    #[error("{worker} answered OK for something else: {mismatch}")]
    Mismatch {
        /// Its address.
        worker: String,
        /// What is not the same.
        mismatch: Mismatch,
    },
    /// The bytes could not be read, or changed while they were.
    #[error("cannot read the segment")]
    Read(#[from] std::io::Error),
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A worker, or what stands before it, said no.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// No worker answered in time.
    #[error("no answer in time after {attempts} attempts{}", because(unreachable))]
    OutOfTime {
        /// How many there were; none where no worker could be reached.
        attempts: u32,
        /// Where no worker said no: why none could be asked.
        unreachable: Vec<String>,
        /// The last no, if there was one.
        #[source]
        last: Option<Refusal>,
    },
    /// The answer ended without its last message: there may be more.
    #[error("{worker} ended its answer before the last message")]
    CutOff {
        /// Its address.
        worker: String,
    },
}

/// What an OK answer says otherwise than what was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {answered} instead of {read}")]
pub struct Mismatch {
    /// What differs: `bytes_read`, `crc32c`, `sha256`, `records`, `offsets`, `torn_tail_bytes`,
    /// `bundles`.
    pub field: &'static str,
    /// What was read.
    pub read: String,
    /// What the answer says.
    pub answered: String,
}

fn because(reasons: &[String]) -> String {
    if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) }
}
