//! The pool of workers: their addresses, the bytes in flight to each, and which one is next.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::connect::WorkerConnector;
use super::endpoint::Endpoint;
use super::proxy::GrpcChannel;

/// What each segment counts in addition to its bytes, so that a worker with a hundred empty segments does not
/// count as idle.
const SEGMENT_BYTES: u64 = 1 << 20;

/// How long a worker that failed gets no new work. The time doubles with each failure in a row.
const COOL_FIRST: Duration = Duration::from_millis(250);
const COOL_MAX: Duration = Duration::from_secs(15);

/// The same for a worker whose connection was closed before a call began.
const UNSENT_FIRST: Duration = Duration::from_millis(50);

/// The limits of a pause that a worker asks for: attempts must not come too often, and must not stop.
const ASKED_MIN: Duration = Duration::from_millis(50);
const ASKED_MAX: Duration = Duration::from_secs(300);

/// The maximum number of reasons that are reported if no worker can be reached.
const LAST_ERRORS_MAX: usize = 3;

/// How long a worker that gave no receipt gets no new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backoff {
    /// As long as the worker asked for. The worker is not broken.
    Asked(Duration),
    /// A short time, which grows each time in a row. A connection that the worker closed is no fault. But a
    /// worker that always closes at once must not be connected to without a pause.
    Unsent,
    /// A time that grows with each failure in a row.
    Growing,
    /// The maximum time, because the worker let a whole timeout pass.
    Longest,
}

/// All workers.
#[derive(Debug)]
pub(super) struct Pool {
    endpoints: Vec<Endpoint>,
    connector: WorkerConnector,
    state: Mutex<State>,
    /// Notified when a caller that waits for a worker should check again.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The addresses of each endpoint.
    addresses: Vec<Vec<SocketAddr>>,
    /// Why the last look-up of an endpoint's name gave no addresses.
    lookups_failed: BTreeMap<usize, String>,
    members: BTreeMap<SocketAddr, Member>,
    /// A counter of members and picks. A later one has a greater number.
    clock: u64,
}

/// A worker's address, while an endpoint has it.
#[derive(Debug)]
struct Member {
    /// Distinguishes it from an earlier member with the same address.
    born: u64,
    channel: GrpcChannel,
    in_flight_bytes: u64,
    picked: u64,
    failures: u32,
    /// Calls in a row that found their connection closed.
    unsent: u32,
    cool_until: Option<Instant>,
    /// The last failure, if the worker has not succeeded since.
    last_error: Option<String>,
}

/// A worker that was picked for a segment. The segment counts as in flight until this is dropped.
#[derive(Debug)]
pub(super) struct WorkerLease {
    pool: Arc<Pool>,
    born: u64,
    bytes: u64,
    /// The worker's address.
    pub address: SocketAddr,
    /// The connection to the worker.
    pub channel: GrpcChannel,
}

impl Pool {
    /// Creates a pool with the endpoints that are given by address.
    pub(super) fn new(endpoints: Vec<Endpoint>, connector: WorkerConnector) -> Arc<Self> {
        let addresses: Vec<Vec<_>> = endpoints.iter().map(|it| it.address().into_iter().collect()).collect();
        let state = Mutex::new(State { addresses, ..State::default() });
        let pool = Self { endpoints, connector, state, changed: watch::Sender::new(()) };
        pool.settle(&mut pool.lock());
        Arc::new(pool)
    }

    /// Sets the addresses of an endpoint. Calls to removed addresses continue, but these workers get no new
    /// work.
    pub(super) fn update(&self, endpoint: usize, addresses: Vec<SocketAddr>) {
        let mut state = self.lock();
        if let Some(known) = state.addresses.get_mut(endpoint) {
            *known = addresses;
        }
        state.lookups_failed.remove(&endpoint);
        self.settle(&mut state);
        drop(state);
        self.changed.send_replace(());
    }

    /// Records that an endpoint's name could not be looked up, and why.
    pub(super) fn lookup_failed(&self, endpoint: usize, error: String) {
        self.lock().lookups_failed.insert(endpoint, error);
    }

    /// Returns why no worker can be reached, as far as this is known: names without addresses, and the last
    /// failures of workers.
    pub(super) fn last_errors(&self) -> Vec<String> {
        let state = self.lock();
        let lookups = state.lookups_failed.iter().filter_map(|(endpoint, error)| {
            let endpoint = self.endpoints.get(*endpoint)?;
            Some(format!("cannot look up {endpoint}: {error}"))
        });
        let members = state.members.values().filter_map(|member| member.last_error.clone());
        lookups.chain(members).take(LAST_ERRORS_MAX).collect()
    }

    /// Adds and removes members, so that they are the addresses of the endpoints.
    fn settle(&self, state: &mut State) {
        let State { addresses, members, clock, .. } = state;
        members.retain(|address, _| addresses.iter().flatten().any(|known| known == address));
        for (endpoint, address) in
            self.endpoints.iter().zip(addresses).flat_map(|(e, a)| a.iter().map(move |a| (e, a)))
        {
            if members.contains_key(address) {
                continue;
            }
            match self.connector.connect(endpoint, *address) {
                Ok(channel) => {
                    *clock += 1;
                    members.insert(*address, Member::new(*clock, channel));
                }
                Err(error) => error!(%endpoint, %address, %error, "cannot set up connections to a worker"),
            }
        }
    }

    /// Waits for a worker for a segment of `size_bytes`. Of the workers that are not cooling down, it picks
    /// the one with the fewest failures for this segment (`failed`), then the one with the fewest bytes in
    /// flight, then the one that was picked longest ago.
    pub(super) async fn pick(
        self: &Arc<Self>,
        size_bytes: u64,
        failed: &BTreeMap<SocketAddr, u32>,
    ) -> WorkerLease {
        let mut changed = self.changed.subscribe();
        loop {
            let next = match self.try_pick(size_bytes, failed) {
                Ok(lease) => return lease,
                Err(next) => next,
            };
            let wait = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                // The sender belongs to this pool, so the channel is never closed.
                _ = changed.changed() => {}
            }
        }
    }

    /// Picks a worker, or returns when to check again.
    fn try_pick(
        self: &Arc<Self>,
        size_bytes: u64,
        failed: &BTreeMap<SocketAddr, u32>,
    ) -> Result<WorkerLease, Option<Instant>> {
        let now = Instant::now();
        let mut state = self.lock();
        let State { members, clock, .. } = &mut *state;
        let next = members.values().filter_map(|member| member.cool_until).min();
        let ready = members.iter_mut().filter(|(_, member)| !member.is_cooling(now));
        let first = ready.min_by_key(|(address, member)| {
            (failed.get(address).copied(), member.in_flight_bytes, member.picked)
        });
        let (address, member) = first.ok_or(next)?;
        *clock += 1;
        member.picked = *clock;
        let bytes = size_bytes.saturating_add(SEGMENT_BYTES);
        member.in_flight_bytes += bytes;
        let (pool, channel) = (Arc::clone(self), member.channel.clone());
        Ok(WorkerLease { pool, born: member.born, bytes, address: *address, channel })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn new(born: u64, channel: GrpcChannel) -> Self {
        Self {
            born,
            channel,
            in_flight_bytes: 0,
            picked: 0,
            failures: 0,
            unsent: 0,
            cool_until: None,
            last_error: None,
        }
    }

    fn is_cooling(&self, now: Instant) -> bool {
        self.cool_until.is_some_and(|until| now < until)
    }

    fn cool(&mut self, cooling: Backoff, now: Instant) {
        let pause = match cooling {
            Backoff::Asked(pause) => pause.clamp(ASKED_MIN, ASKED_MAX),
            // Several segments that fail at one worker at the same time are one failure.
            Backoff::Growing if self.is_cooling(now) => return,
            Backoff::Unsent => grown(UNSENT_FIRST, &mut self.unsent),
            Backoff::Growing => grown(COOL_FIRST, &mut self.failures),
            Backoff::Longest => COOL_MAX,
        };
        let until = now + pause + part_of(pause / 4);
        self.cool_until = Some(self.cool_until.map_or(until, |known| known.max(until)));
    }
}

impl WorkerLease {
    /// Records that the worker did its work.
    pub(super) fn succeeded(&self) {
        let waited = self.with_member(|member| {
            (member.failures, member.unsent, member.last_error) = (0, 0, None);
            member.cool_until.take().is_some()
        });
        if waited == Some(true) {
            self.pool.changed.send_replace(());
        }
    }

    /// Records that the worker failed, and why. It gets no new work for a while.
    pub(super) fn failed(&self, cooling: Backoff, why: &dyn Display) {
        self.with_member(|member| {
            member.cool(cooling, Instant::now());
            member.last_error = Some(why.to_string());
        });
    }

    /// Returns `None` if the worker is no longer in the pool.
    fn with_member<T>(&self, act: impl FnOnce(&mut Member) -> T) -> Option<T> {
        let mut state = self.pool.lock();
        let member = state.members.get_mut(&self.address).filter(|member| member.born == self.born);
        member.map(act)
    }
}

impl Drop for WorkerLease {
    fn drop(&mut self) {
        self.with_member(|member| member.in_flight_bytes -= self.bytes);
    }
}

/// Returns a pause that doubles each time, up to a limit.
fn grown(first: Duration, times: &mut u32) -> Duration {
    let pause = first.saturating_mul(1 << (*times).min(20)).min(COOL_MAX);
    *times += 1;
    pause
}

/// Returns a random part of a duration, so that callers that wait for one worker do not all come at the same
/// time. Each `RandomState` has other keys, which is random enough.
fn part_of(whole: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 1_000;
    whole.mul_f64(chance as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        Member::new(1, GrpcChannel::new(channel))
    }

    /// How long the member gets no new work from `now` on.
    fn pause(member: &Member, now: Instant) -> Duration {
        member.cool_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    #[track_caller]
    fn check(pause: Duration, least: Duration) {
        assert!(pause >= least && pause <= least.mul_f64(1.25), "{pause:?} for {least:?}");
    }

    #[tokio::test]
    async fn each_failure_in_a_row_cools_twice_as_long_up_to_a_limit() {
        let (mut member, mut now) = (member(), Instant::now());
        for least_ms in [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000] {
            member.cool(Backoff::Growing, now);
            check(pause(&member, now), Duration::from_millis(least_ms));
            now += pause(&member, now);
            assert!(!member.is_cooling(now));
        }
    }

    #[tokio::test]
    async fn a_connection_that_closes_again_and_again_is_dialled_less_and_less_often() {
        let (mut member, mut now) = (member(), Instant::now());
        for least_ms in [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 15_000, 15_000] {
            member.cool(Backoff::Unsent, now);
            check(pause(&member, now), Duration::from_millis(least_ms));
            now += pause(&member, now);
        }
        assert_eq!(member.failures, 0, "it has not failed at anything");
    }

    #[tokio::test]
    async fn failures_at_the_same_time_are_one() {
        let (mut member, now) = (member(), Instant::now());
        (0..5).for_each(|_| member.cool(Backoff::Growing, now));
        check(pause(&member, now), COOL_FIRST);
        assert_eq!(member.failures, 1);
    }

    #[tokio::test]
    async fn what_a_worker_asks_for_is_heard_within_reason() {
        for (asked, least) in [
            (Duration::ZERO, ASKED_MIN),
            (Duration::from_secs(2), Duration::from_secs(2)),
            (Duration::MAX, ASKED_MAX),
        ] {
            let (mut member, now) = (member(), Instant::now());
            member.cool(Backoff::Asked(asked), now);
            check(pause(&member, now), least);
            assert_eq!(member.failures, 0, "it is not broken");
            // A shorter pause does not shorten a longer one.
            member.cool(Backoff::Asked(Duration::ZERO), now);
            assert!(pause(&member, now) >= least);
        }
    }
}
