//! Limits how long a response that is made only when it is asked for may wait for its reader.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::rpc::status;

/// A stream that waits for its reader.
struct Waiting<T> {
    /// `None` while the next message is made, at the end, and after the reader has lost the rest.
    messages: Option<BoxStream<'static, Result<T, Status>>>,
    since: Instant,
    given_up: bool,
}

type Shared<T> = Mutex<Waiting<T>>;

/// Returns `messages`, each one made when the reader asks for it. If the reader asks for nothing for
/// `idle_max`, everything that the rest holds is dropped, and the response ends with an error.
pub(super) fn bounded<T: Send + 'static>(
    messages: BoxStream<'static, Result<T, Status>>,
    idle_max: Duration,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let waiting = Waiting { messages: Some(messages), since: Instant::now(), given_up: false };
    let shared = Arc::new(Mutex::new(waiting));
    tokio::spawn(watch(Arc::downgrade(&shared), idle_max));
    stream::unfold(shared, async |shared| {
        let messages = lock(&shared).messages.take();
        let Some(mut messages) = messages else {
            let given_up = std::mem::take(&mut lock(&shared).given_up);
            return given_up.then(|| (Err(status::reader_silent()), shared));
        };
        let message = messages.next().await?;
        let mut waiting = lock(&shared);
        waiting.messages = Some(messages);
        waiting.since = Instant::now();
        drop(waiting);
        Some((message, shared))
    })
}

/// Drops the stream if it waits for too long. Ends with the response.
async fn watch<T>(shared: Weak<Shared<T>>, idle_max: Duration) {
    loop {
        let Some(due) = shared.upgrade().map(|shared| lock(&shared).since + idle_max) else { return };
        sleep_until(due.max(Instant::now() + idle_max / 8)).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut waiting = lock(&shared);
        if waiting.messages.is_some() && waiting.since.elapsed() >= idle_max {
            waiting.given_up = true;
            let messages = waiting.messages.take();
            drop(waiting);
            drop(messages);
            return;
        }
    }
}

/// A panic cannot leave it half changed, so a poisoned lock is used on.
fn lock<T>(shared: &Shared<T>) -> MutexGuard<'_, Waiting<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const SHORT: Duration = Duration::from_millis(40);

    /// Drops with the stream that owns it.
    fn held() -> (Arc<()>, BoxStream<'static, Result<u32, Status>>) {
        let held = Arc::new(());
        let holder = Arc::clone(&held);
        let messages = stream::iter(0..9).map(move |nth| {
            let _held = &holder;
            Ok(nth)
        });
        (held, messages.boxed())
    }

    #[tokio::test]
    async fn a_reader_that_asks_for_nothing_loses_the_rest() {
        let (held, messages) = held();
        let mut messages = Box::pin(bounded(messages, SHORT));
        assert_eq!(messages.next().await.map(Result::ok), Some(Some(0)));
        while Arc::strong_count(&held) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rest: Vec<_> = messages.collect().await;
        let [Err(status)] = &rest[..] else { panic!("{rest:?}") };
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_reader_that_reads_on_gets_everything() {
        let (_held, messages) = held();
        let messages = bounded(messages, SHORT).then(|one| async {
            tokio::time::sleep(SHORT / 4).await;
            one
        });
        let all: Vec<_> = messages.map(Result::unwrap).collect().await;
        assert_eq!(all, Vec::from_iter(0..9));
    }

    #[tokio::test]
    async fn whoever_hangs_up_frees_what_is_held() {
        let (held, messages) = held();
        drop(bounded(messages, Duration::MAX / 4));
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
