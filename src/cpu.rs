//! A thread pool that decodes, indexes and compresses. It has its own threads and never uses those of the
//! runtime, so that a long build does not stall connections. It is fair: the next work is that of the caller
//! that has used the least time. It does not know what the work is.

mod queue;

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::sync::oneshot;

use crate::ids::CallerId;
use crate::spans;

use queue::Queues;

/// A pool of threads for CPU work; cheap to clone. The threads end after the last clone is dropped and the
/// queue is empty.
#[derive(Clone, Debug)]
pub struct Cpu {
    pool: Arc<Pool>,
    caller_id: CallerId,
}

/// Why a piece of work has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked")]
pub struct Panicked;

/// The error that the threads could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads")]
pub struct StartError {
    threads: usize,
    #[source]
    source: io::Error,
}

type Work = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
struct Pool {
    queue: Arc<Queue>,
    threads: usize,
}

/// The queued work of each caller, in order of arrival. A thread without work sleeps at once. If it kept
/// looking for work, it would take the core from the thread that is about to add some.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    work: Queues<Work>,
    closed: bool,
}

impl Cpu {
    /// Starts `threads` threads.
    pub fn start(threads: NonZeroUsize) -> Result<Self, StartError> {
        let threads = threads.get();
        // Closes the queue when dropped, also if not all threads can be started.
        let pool = Pool { queue: Arc::default(), threads };
        for n in 0..threads {
            let queue = Arc::clone(&pool.queue);
            let thread = thread::Builder::new().name(format!("cpu-{n}"));
            thread.spawn(move || queue.run_worker()).map_err(|source| StartError { threads, source })?;
        }
        Ok(Self { pool: Arc::new(pool), caller_id: CallerId::default() })
    }

    /// The same threads, for work that belongs to `caller_id`.
    pub fn for_caller(&self, caller_id: &CallerId) -> Self {
        Self { pool: Arc::clone(&self.pool), caller_id: caller_id.clone() }
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads
    }

    /// Runs `work` on one of the threads, in the current tracing span. Work of one caller starts in order of
    /// arrival. If the caller is gone before the work starts, it is not started. A panic ends only this piece
    /// of work.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Panicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        let work = spans::carried(work);
        let work = Box::new(move || {
            if reply.is_closed() {
                return;
            }
            // A failed send means that the caller is gone. Then the result is dropped.
            let _ = reply.send(catch_unwind(AssertUnwindSafe(work)));
        });
        self.pool.queue.push(&self.caller_id, work);
        match result.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(_) => Err(Panicked),
        }
    }
}

impl Queue {
    fn push(&self, caller_id: &CallerId, work: Work) {
        self.lock().work.push(caller_id, work);
        self.changed.notify_one();
    }

    fn run_worker(&self) {
        let mut done = None;
        while let Some((caller_id, work)) = self.next(done.take()) {
            let began = Instant::now();
            // The rest of the work may panic when it is dropped. The thread continues.
            let _ = catch_unwind(AssertUnwindSafe(work));
            done = Some((caller_id, began.elapsed()));
        }
    }

    /// Waits for work; `None` if no more can come. `done` is the caller and the duration of the last piece.
    fn next(&self, done: Option<(CallerId, Duration)>) -> Option<(CallerId, Work)> {
        let mut state = self.lock();
        if let Some((caller_id, took)) = done {
            state.work.done(&caller_id, took);
        }
        loop {
            match state.work.pop() {
                Some(work) => return Some(work),
                None if state.closed => return None,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.lock().work.len()).finish_non_exhaustive()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Panics when it is dropped.
    struct Thorn;

    impl Drop for Thorn {
        fn drop(&mut self) {
            panic!("as the test wants it");
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_work_and_not_the_pool() {
        let cpu = Cpu::start(NonZeroUsize::MIN).expect("one thread starts");
        assert_eq!(cpu.run(|| panic!("as the test wants it")).await, Err::<(), _>(Panicked));
        assert_eq!(cpu.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_result_that_nobody_waits_for_may_panic_when_it_is_dropped() {
        let cpu = Cpu::start(NonZeroUsize::MIN).expect("one thread starts");
        let (begun, has_begun) = oneshot::channel();
        let (release, released) = std::sync::mpsc::channel();
        let mut given_up = Box::pin(cpu.run(move || {
            let _ = begun.send(());
            let _ = released.recv();
            Thorn
        }));
        tokio::select! {
            _ = &mut given_up => panic!("it is not released yet"),
            begun = has_begun => begun.expect("it begins"),
        }
        drop(given_up);
        release.send(()).expect("it waits");
        assert_eq!(cpu.run(|| 7).await, Ok(7));
    }

    /// Records the names of the threads that enter spans.
    #[derive(Clone, Default)]
    struct Entered(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Entered {
        fn on_enter(&self, _: &tracing::span::Id, _: tracing_subscriber::layer::Context<'_, S>) {
            let name = thread::current().name().unwrap_or_default().to_owned();
            self.0.lock().expect("no panic").push(name);
        }
    }

    #[test]
    fn work_goes_on_in_the_span_that_it_comes_from() {
        use tracing_subscriber::layer::SubscriberExt;
        let entered = Entered::default();
        let _on = tracing::subscriber::set_default(tracing_subscriber::registry().with(entered.clone()));
        let cpu = Cpu::start(NonZeroUsize::MIN).expect("one thread starts");
        let span = tracing::info_span!("a stage");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        span.in_scope(|| runtime.block_on(cpu.run(|| ()))).expect("no panic");
        let entered = entered.0.lock().expect("no panic");
        assert!(entered.contains(&"cpu-0".to_owned()), "{entered:?}");
    }

    #[tokio::test]
    async fn work_is_done_in_the_order_in_which_it_came_and_not_begun_for_those_who_have_gone() {
        let cpu = Cpu::start(NonZeroUsize::MIN).expect("one thread starts");
        let (release, released) = std::sync::mpsc::channel::<()>();
        let done = Arc::new(Mutex::new(Vec::new()));
        let note = |n| {
            let (cpu, done) = (cpu.clone(), Arc::clone(&done));
            Box::pin(async move { cpu.run(move || done.lock().expect("no panic").push(n)).await })
        };
        let mut first = Box::pin(cpu.run(move || released.recv()));
        let mut others = [note(1), note(2), note(3)];
        let short = Duration::from_millis(1);
        assert!(tokio::time::timeout(short, &mut first).await.is_err(), "it waits");
        for other in &mut others {
            assert!(tokio::time::timeout(short, other).await.is_err(), "it waits for the first");
        }
        let [one, two, three] = others;
        drop(two);
        drop(release);
        let _ = first.await;
        assert_eq!((three.await, one.await), (Ok(()), Ok(())));
        assert_eq!(*done.lock().expect("no panic"), [1, 3]);
    }

    #[test]
    fn the_threads_end_with_the_pool() {
        let cpu = Cpu::start(NonZeroUsize::new(3).expect("three")).expect("three threads start");
        let queue = Arc::downgrade(&cpu.pool.queue);
        drop(cpu);
        while queue.strong_count() > 0 {
            thread::yield_now();
        }
    }
}
