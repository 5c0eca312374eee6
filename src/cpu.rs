//! The threads that decode, index and compress: as many as there are cores, and never the runtime's own, so that a
//! long build stalls no connection. Knows nothing of what it runs.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::oneshot;

/// A pool of threads for CPU work; cheap to clone.
#[derive(Clone, Debug)]
pub struct Cpu {
    pool: Arc<rayon::ThreadPool>,
}

/// Why a piece of work has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked")]
pub struct Panicked;

/// The threads could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} threads")]
pub struct StartError {
    threads: usize,
    #[source]
    source: rayon::ThreadPoolBuildError,
}

impl Cpu {
    /// Starts `threads` threads.
    pub fn start(threads: NonZeroUsize) -> Result<Self, StartError> {
        let threads = threads.get();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("cpu-{n}"))
            .build()
            .map_err(|source| StartError { threads, source })?;
        Ok(Self { pool: Arc::new(pool) })
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on one of the threads, first come first served. Work whose caller has gone before its turn is not
    /// started; a panic inside it ends nothing but this piece of work.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Panicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        self.pool.spawn_fifo(move || {
            if reply.is_closed() {
                return;
            }
            // A failed send means that the caller has gone; what it asked for is dropped with it.
            let _ = reply.send(catch_unwind(AssertUnwindSafe(work)));
        });
        match result.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(_) => Err(Panicked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_work_and_not_the_pool() {
        let cpu = Cpu::start(NonZeroUsize::MIN).expect("one thread starts");
        assert_eq!(cpu.run(|| panic!("as the test wants it")).await, Err::<(), _>(Panicked));
        assert_eq!(cpu.run(|| 7).await, Ok(7));
    }
}
