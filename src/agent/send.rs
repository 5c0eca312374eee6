//! Sends one segment and returns the outcome.

use std::sync::Arc;

use super::deletable_prefix::wal_error;
use super::{SegmentBytes, Settings};
use crate::client::{Client, IndexError, Mismatch, Receipt, Refusal, Request};
use crate::formatting::chain;
use crate::wal::{Rejection, SealedSegments, Segment, WalError};

/// The outcome of sending a segment.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is stored.
    Stored(Receipt),
    /// Workers reject it permanently. The result says whether this is noted beside the segment.
    Rejected(Refusal, Result<(), WalError>),
    /// No worker takes it until something else is corrected.
    Refused(Refusal),
    /// A worker acknowledged something else.
    Mismatch { worker: String, mismatch: Mismatch },
    /// It no longer exists.
    Gone,
    /// It stays and is tried again later. This is the reason.
    Later(String),
}

impl Outcome {
    /// A name of one word, for traces.
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

/// Sends a segment. If workers reject it permanently, notes that beside the segment.
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
        error @ IndexError::TimedOut { .. } => Outcome::Later(chain(&error)),
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
        // The file that workers rejected no longer exists.
        Err(WalError::Gone { .. }) => Outcome::Gone,
        Err(error @ WalError::Changed { .. }) => Outcome::Later(chain(&error)),
        noted => Outcome::Rejected(refusal, noted),
    }
}
