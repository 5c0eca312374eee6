//! Timeouts, retries and the rate limit for requests to a store. The retries of `object_store` are off: they
//! hide a store's 503s from other callers, and never retry a create-only PUT.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

use super::error::{Cause, Operation, StoreError};
use crate::metrics;
use crate::spans;

/// The timeouts and the retry policy for requests to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The base time limit of each attempt, for any size. It is also the longest pause in a body that is
    /// being read.
    pub attempt_base: Duration,
    /// The lowest expected transfer rate. An attempt gets this much more time: its bytes divided by this
    /// rate.
    pub bytes_per_second_min: u64,
    /// The first pause after a failure. Each later pause is twice as long, up to `pause_max`, with random
    /// jitter.
    pub pause_first: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// The most attempts for a request that reads. PUTs are limited only by their deadline.
    pub read_attempts_max: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            attempt_base: Duration::from_secs(20),
            bytes_per_second_min: 2 << 20,
            pause_first: Duration::from_millis(100),
            pause_max: Duration::from_secs(10),
            read_attempts_max: 5,
        }
    }
}

impl Timeouts {
    /// Returns the time limit of one attempt that transfers `bytes` bytes.
    pub fn attempt(&self, bytes: u64) -> Duration {
        self.attempt_base
            + Duration::from_millis(bytes.saturating_mul(1_000) / self.bytes_per_second_min.max(1))
    }

    /// Returns the pause after failure number `failures` in a row: a random time between half of the full
    /// pause and all of it.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let doubled = self.pause_first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let whole = doubled.min(self.pause_max);
        whole / 2 + part_of(whole / 2)
    }
}

/// Returns a random time between zero and `whole`. Each `RandomState` has other keys. That is random enough
/// to keep waiting callers from sending their requests all at once.
fn part_of(whole: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 1_000;
    whole.mul_f64(chance as f64 / 1_000.0)
}

/// The rate limit of a store, shared by all its users in this process. If the store asks one caller to slow
/// down, all wait.
#[derive(Debug, Default)]
pub(super) struct RateLimit(Mutex<RateState>);

#[derive(Debug, Default)]
struct RateState {
    not_before: Option<Instant>,
    /// The last pause. Callers that waited for its end start at random times within the same time after it.
    pause: Duration,
    refusals: u32,
}

impl RateLimit {
    /// Waits until a request to the store is allowed.
    pub(super) async fn wait(&self) {
        // The store may have refused another request during the sleep.
        loop {
            let (not_before, pause) = {
                let paced = self.lock();
                (paced.not_before, paced.pause)
            };
            match not_before {
                Some(at) if at > Instant::now() => sleep_until(at + part_of(pause)).await,
                _ => return,
            }
        }
    }

    fn refused(&self, timeouts: &Timeouts) {
        let now = Instant::now();
        let mut paced = self.lock();
        // Requests that were in flight together are refused together. One pause is enough for all of them.
        if paced.not_before.is_some_and(|at| at > now) {
            return;
        }
        paced.refusals = paced.refusals.saturating_add(1);
        paced.pause = timeouts.pause(paced.refusals);
        paced.not_before = Some(now + paced.pause);
    }

    /// A success halves the number of refusals, so that pauses become shorter step by step, although other
    /// requests may still be refused.
    fn answered(&self) {
        self.lock().refusals /= 2;
    }

    fn lock(&self) -> MutexGuard<'_, RateState> {
        // No code panics while it holds the lock, and the state is always valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs one attempt: waits for the rate limit, applies the time limit, and records whether the store asks to
/// slow down. The current span gets the outcome.
pub(super) async fn attempt<T>(
    rate_limit: &RateLimit,
    timeouts: &Timeouts,
    limit: Duration,
    operation: Operation,
    url: &str,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    rate_limit.wait().await;
    let began = Instant::now();
    let outcome = match timeout(limit, request).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::new(operation, url, Cause::NoAnswer(limit))),
    };
    let kind = outcome.as_ref().err().map_or("ok", |error| error.kind().name());
    metrics::store::asked(operation.name(), kind, began.elapsed());
    spans::ended(kind);
    match &outcome {
        Err(error) if error.is_slow_down() => rate_limit.refused(timeouts),
        Err(_) => {}
        Ok(_) => rate_limit.answered(),
    }
    outcome
}

/// Sends a request that may be repeated safely. It is sent again after each temporary failure, up to the
/// retry limit. Each attempt has the time limit `limit`.
pub(super) async fn read<T, F>(
    rate_limit: &RateLimit,
    timeouts: &Timeouts,
    limit: Duration,
    operation: Operation,
    url: &str,
    mut request: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut failures = 0;
    loop {
        let span = spans::ask(operation.name(), url);
        match attempt(rate_limit, timeouts, limit, operation, url, request()).instrument(span).await {
            Err(error) if error.is_temporary() && failures + 1 < timeouts.read_attempts_max => {
                failures += 1;
                tokio::time::sleep(timeouts.pause(failures)).await;
            }
            outcome => return outcome,
        }
    }
}
