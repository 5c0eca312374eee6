//! Sends a segment until there is a receipt: to one worker, to another, and again, until no attempt can help.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use tracing::{Instrument, debug, warn};

use super::attempt::{Attempt, Failure};
use super::error::{IndexError, Mismatch, Refusal};
use super::pool::{Backoff, WorkerLease};
use super::receipt::Receipt;
use super::retry_policy::RetryPolicy;
use super::source_reader::{Read, read_all};
use super::{Payload, Request, Timeouts, Workers};
use crate::metrics;
use crate::spans;

/// How often faults of workers may occur for a segment before it is refused. They are then not expected to
/// pass.
const INTERNAL_MAX: u32 = 3;

/// The maximum of all timeouts. Sums of settings and sizes must stay within what clocks and the wire format
/// can hold.
pub(super) const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A segment that is being sent.
pub(super) struct Sending<'a, P> {
    workers: &'a Workers,
    request: &'a Request,
    payload: &'a P,
    /// The time for the bytes alone.
    transfer: Duration,
    until: Instant,
    attempts: u32,
    internal: u32,
    failed: BTreeMap<SocketAddr, u32>,
    last: Option<Refusal>,
}

impl<'a, P: Payload> Sending<'a, P> {
    pub(super) fn new(workers: &'a Workers, request: &'a Request, payload: &'a P) -> Self {
        let transfer = Duration::from_secs(payload.size_bytes() / Timeouts::BYTES_PER_SECOND);
        let until = Instant::now() + workers.timeouts.segment.saturating_add(transfer).min(TIME_MAX);
        let failed = BTreeMap::new();
        Self { workers, request, payload, transfer, until, attempts: 0, internal: 0, failed, last: None }
    }

    /// Makes attempts until one succeeds, none can succeed, or the time is over.
    pub(super) async fn run(mut self) -> Result<Receipt, IndexError> {
        let pointed = match self.request.url {
            Some(_) => Some(self.read_all().await?),
            None => None,
        };
        loop {
            let picking = self.workers.pool.pick(self.payload.size_bytes(), &self.failed);
            let Ok(lease) = timeout_at(self.until, picking).await else {
                return Err(self.out_of_patience());
            };
            if let Some(receipt) = self.attempt(&lease, pointed.as_ref()).await? {
                return Ok(receipt);
            }
        }
    }

    /// Makes one attempt. Returns `None` if another attempt may succeed.
    async fn attempt(
        &mut self,
        lease: &WorkerLease,
        pointed: Option<&Read>,
    ) -> Result<Option<Receipt>, IndexError> {
        self.attempts += 1;
        let authorization = match &self.workers.token {
            Some(token) => Some(token.authorization().await),
            None => None,
        };
        let whole = self.workers.timeouts.attempt.saturating_add(self.transfer).min(TIME_MAX);
        let allowed = whole.min(self.until.saturating_duration_since(Instant::now()));
        let attempt =
            Attempt { request: self.request, payload: self.payload, pointed, authorization, allowed };
        let worker = lease.address.to_string();
        let sending = attempt.run(lease.channel.clone()).instrument(spans::attempt(&worker, self.attempts));
        match timeout(allowed, sending).await {
            Ok(Ok((answer, read))) => {
                match Receipt::new(&answer, &read, self.request, &worker, self.attempts) {
                    Ok(receipt) => {
                        lease.succeeded();
                        Ok(Some(receipt))
                    }
                    Err(mismatch) => Err(mismatched(lease, mismatch)),
                }
            }
            Ok(Err(Failure::Read(error))) => Err(error.into()),
            Ok(Err(Failure::Early { bytes_read })) => {
                Err(mismatched(lease, Mismatch::early(bytes_read, self.payload.size_bytes())))
            }
            Ok(Err(Failure::No { status, was_read })) => {
                self.decide(lease, &status, was_read).await.map(|()| None)
            }
            Err(_) => {
                let refusal = Refusal::silence(&worker, allowed);
                if allowed < whole {
                    // The worker had less time than it may take, so this is not its fault. An earlier error
                    // says more.
                    self.last.get_or_insert(refusal);
                    return Err(self.out_of_patience());
                }
                self.again(lease, refusal, Backoff::Longest);
                Ok(None)
            }
        }
    }

    /// Decides after an error whether to try again. Returns `Ok` to try again.
    async fn decide(
        &mut self,
        lease: &WorkerLease,
        status: &Status,
        was_read: bool,
    ) -> Result<(), IndexError> {
        let refusal = Refusal::of(status, &lease.address.to_string());
        match RetryPolicy::of(status) {
            RetryPolicy::Reject => {
                lease.succeeded();
                if !was_read {
                    // The worker may find a fault before this side finds that the bytes have changed.
                    self.read_all().await?;
                }
                Err(IndexError::Rejected(refusal))
            }
            RetryPolicy::Refuse(cooling) => {
                cooling.into_iter().for_each(|cooling| lease.failed(cooling, &refusal));
                Err(IndexError::Refused(refusal))
            }
            RetryPolicy::AgainAFewTimes(cooling) if self.internal + 1 == INTERNAL_MAX => {
                lease.failed(cooling, &refusal);
                Err(IndexError::Refused(refusal))
            }
            RetryPolicy::AgainAFewTimes(cooling) => {
                self.internal += 1;
                self.again(lease, refusal, cooling);
                Ok(())
            }
            RetryPolicy::Again(cooling) => {
                self.again(lease, refusal, cooling);
                Ok(())
            }
        }
    }

    fn again(&mut self, lease: &WorkerLease, refusal: Refusal, cooling: Backoff) {
        let (segment, attempt, why) = (&self.request.segment_id, self.attempts, refusal.why());
        match cooling {
            // A pause that a worker asks for under load is no fault, and neither is a connection that it
            // closes.
            Backoff::Asked(_) | Backoff::Unsent => {
                debug!(segment, attempt, why, ?cooling, %refusal, "no receipt yet")
            }
            Backoff::Growing | Backoff::Longest => warn!(segment, attempt, why, %refusal, "no receipt yet"),
        }
        metrics::client::retried(why);
        lease.failed(cooling, &refusal);
        *self.failed.entry(lease.address).or_default() += 1;
        self.last = Some(refusal);
    }

    async fn read_all(&mut self) -> Result<Read, IndexError> {
        match timeout_at(
            self.until,
            read_all(self.payload, self.request.format, self.request.keep_undecodable),
        )
        .await
        {
            Ok(read) => Ok(read?),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "reading took too long").into()),
        }
    }

    fn out_of_patience(&mut self) -> IndexError {
        let unreachable = if self.last.is_none() { self.workers.pool.last_errors() } else { Vec::new() };
        IndexError::TimedOut { attempts: self.attempts, unreachable, last: self.last.take() }
    }
}

/// Handles a worker that acknowledged something else than it was sent. It is broken, and gets no new work for
/// a while.
fn mismatched(lease: &WorkerLease, mismatch: Mismatch) -> IndexError {
    lease.failed(Backoff::Growing, &mismatch);
    IndexError::Mismatch { worker: lease.address.to_string(), mismatch }
}
