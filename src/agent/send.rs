//! One segment on its way, to its end.

use std::sync::Arc;

use super::deletable_prefix::wal_error;
use super::{SegmentBytes, Settings};
use crate::client::{Client, IndexError, Mismatch, Receipt, Refusal, Request};
use crate::formatting::chain;
use crate::wal::{Rejection, SealedSegments, Segment, WalError};

/// What sending a segment came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is stored.
    Stored(Receipt),
    /// No worker will take it, and that is noted beside it; or why it is not.
    Rejected(Refusal, Result<(), WalError>),
    /// Something must be set right before any worker takes it.
    Refused(Refusal),
    /// A worker stored something else.
    Mismatch { worker: String, mismatch: Mismatch },
    /// It is gone.
    Gone,
    /// It stays for another time, for this reason.
    Later(String),
}

impl Outcome {
    /// In a word.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Stored(_) => "stored",
            Self::Rejected(..) => "rejected",
            Self::Refused(_) => "refused",
            Self::Mismatch { .. } => "mismatch",
            Self::Gone => "gone",
            Self::Later(_) => "later",
        }
    }
}

/// Sends a segment, and notes it where no worker will take it.
pub(super) async fn send<W: SealedSegments>(
    wal: Arc<W>,
    client: Client,
    segment: Segment,
    settings: &Settings,
) -> Outcome {
    let request = Request {
        segment_id: segment.name.clone(),
        format: segment.format,
        partition: segment.partition.clone(),
        log_id: segment.log_id.clone(),
        keep_torn_tail: settings.keep_torn_tail,
        keep_undecodable: settings.keep_undecodable,
        allowed_offsets: segment.bounds,
        url: wal.url(&segment),
    };
    let payload = SegmentBytes { wal, segment };
    let error = match client.index(&request, &payload).await {
        Ok(receipt) => return Outcome::Stored(receipt),
        Err(error) => error,
    };
    let SegmentBytes { wal, segment } = payload;
    match error {
        IndexError::Rejected(refusal) => reject(&*wal, &segment, refusal).await,
        IndexError::Refused(refusal) => Outcome::Refused(refusal),
        IndexError::Mismatch { worker, mismatch } => Outcome::Mismatch { worker, mismatch },
        IndexError::Read(error) => match wal_error(error, &segment) {
            WalError::Gone { .. } => Outcome::Gone,
            error => Outcome::Later(chain(&error)),
        },
        error @ IndexError::OutOfPatience { .. } => Outcome::Later(chain(&error)),
    }
}

async fn reject(wal: &impl SealedSegments, segment: &Segment, refusal: Refusal) -> Outcome {
    let rejection = Rejection {
        code: refusal.code.to_owned(),
        reason: refusal.reason.clone(),
        message: refusal.message.clone(),
        position: refusal.position,
    };
    match wal.reject(segment, &rejection).await {
        // What was refused is no longer there.
        Err(WalError::Gone { .. }) => Outcome::Gone,
        Err(error @ WalError::Changed { .. }) => Outcome::Later(chain(&error)),
        noted => Outcome::Rejected(refusal, noted),
    }
}
