//! How long, how often and how fast a store is asked. `object_store`'s own retries are off: they hide a store's 503s from
//! everybody else, and never retry a create-only PUT.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

use super::error::{Cause, Operation, StoreError};
use crate::metrics;
use crate::spans;

/// How long a store may take, and how often it is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// What each attempt may take, whatever its size. Also how long a body that is being read may stand still.
    pub attempt_base: Duration,
    /// An attempt may take this much longer for each second that its bytes need at this pace.
    pub bytes_per_second_min: u64,
    /// The first pause after a failure; each later one is twice as long, up to `pause_max`, and jittered.
    pub pause_first: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Attempts at a request that reads. Attempts at a PUT are bounded by its deadline only.
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
    /// How long one attempt at `bytes` bytes may take.
    pub fn attempt(&self, bytes: u64) -> Duration {
        self.attempt_base
            + Duration::from_millis(bytes.saturating_mul(1_000) / self.bytes_per_second_min.max(1))
    }

    /// The pause after the `failures`th failure in a row: between half of it and the whole, by chance.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let doubled = self.pause_first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let whole = doubled.min(self.pause_max);
        whole / 2 + part_of(whole / 2)
    }
}

/// Between nothing and the whole, by chance. Each `RandomState` has other keys: chance enough to keep those who wait from
/// knocking all at once.
fn part_of(whole: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 1_000;
    whole.mul_f64(chance as f64 / 1_000.0)
}

/// When a store asks one caller to slow down, all wait: shared by everything that uses the store in this process.
#[derive(Debug, Default)]
pub(super) struct RateLimit(Mutex<Paced>);

#[derive(Debug, Default)]
struct Paced {
    not_before: Option<Instant>,
    /// The last pause: those who waited for its end set out within as long again.
    pause: Duration,
    refusals: u32,
}

impl RateLimit {
    /// Waits until the store may be asked.
    pub(super) async fn wait(&self) {
        // Another refusal may have come in while this one slept.
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
        // Those that were under way together are refused together: one pause for all of them.
        if paced.not_before.is_some_and(|at| at > now) {
            return;
        }
        paced.refusals = paced.refusals.saturating_add(1);
        paced.pause = timeouts.pause(paced.refusals);
        paced.not_before = Some(now + paced.pause);
    }

    /// Some are answered while others are refused: the pauses grow shorter by and by.
    fn answered(&self) {
        self.lock().refusals /= 2;
    }

    fn lock(&self) -> MutexGuard<'_, Paced> {
        // Nothing panics while it holds the lock, and the state is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt: waits for the store's pace, bounds the time, and notes whether the store asks to slow down. Goes on in a span of its
/// own, which is told the outcome.
pub(super) async fn attempt<T>(
    pace: &RateLimit,
    timeouts: &Timeouts,
    limit: Duration,
    operation: Operation,
    url: &str,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    pace.wait().await;
    let began = Instant::now();
    let outcome = match timeout(limit, request).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::new(operation, url, Cause::NoAnswer(limit))),
    };
    let kind = outcome.as_ref().err().map_or("ok", |error| error.kind().name());
    metrics::store::asked(operation.name(), kind, began.elapsed());
    spans::ended(kind);
    match &outcome {
        Err(error) if error.is_slow_down() => pace.refused(timeouts),
        Err(_) => {}
        Ok(_) => pace.answered(),
    }
    outcome
}

/// A request that may be sent any number of times: again after each passing failure, up to the limit. Each attempt may
/// take `limit`.
pub(super) async fn read<T, F>(
    pace: &RateLimit,
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
        match attempt(pace, timeouts, limit, operation, url, request()).instrument(span).await {
            Err(error) if error.is_passing() && failures + 1 < timeouts.read_attempts_max => {
                failures += 1;
                tokio::time::sleep(timeouts.pause(failures)).await;
            }
            outcome => return outcome,
        }
    }
}
