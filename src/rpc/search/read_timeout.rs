//! Limits how long a response waits for its reader. A response that waits holds memory that other requests
//! wait for. So it does not wait for ever, and it holds little memory once all its messages have been made.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;
use tracing::Instrument;
use tracing::instrument::WithSubscriber;

use super::MESSAGE_BYTES;
use crate::budget::Reservation;
use crate::rpc::status;

/// How long a reader may take no message before it loses the rest.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The memory that a response keeps for a slow reader when all of it has been made, in bytes: one message
/// here, and one that is being sent.
const LEFT_BYTES: u64 = 2 * MESSAGE_BYTES as u64;

/// Returns `messages` as the reader takes them. A task makes them one ahead, so that a response also ends if
/// nobody asks for the next message. When the last message has been made, `held` is released except for
/// `LEFT_BYTES`. The rest is released with the response.
pub fn in_time<T: Send + 'static>(
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
    held: Option<Reservation>,
    silence_max: Duration,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let (sender, receiver) = mpsc::channel(1);
    let (held_to_the_end, held) = held.map(|mut held| (held.split(LEFT_BYTES), held)).unzip();
    let given_up = Arc::new(AtomicBool::new(false));
    let giving_up = Arc::clone(&given_up);
    let making = async move {
        let _held = held;
        let mut messages = pin!(messages);
        loop {
            let message = tokio::select! {
                () = sender.closed() => return,
                message = messages.next() => message,
            };
            let Some(message) = message else { return };
            match timeout(silence_max, sender.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    giving_up.store(true, Ordering::Release);
                    return;
                }
            }
        }
    };
    tokio::spawn(making.in_current_span().with_current_subscriber());
    stream::unfold((receiver, held_to_the_end, given_up), |(mut receiver, held, given_up)| async move {
        let message = match receiver.recv().await {
            Some(message) => message,
            None if given_up.swap(false, Ordering::AcqRel) => Err(status::reader_silent()),
            None => return None,
        };
        Some((message, (receiver, held, given_up)))
    })
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::budget::Budget;
    use crate::ids::CallerId;

    const SHORT: Duration = Duration::from_millis(20);

    async fn held(budget: &Budget) -> Option<Reservation> {
        let held = budget.reserve(&CallerId::default(), 8 << 20, Duration::ZERO).await;
        Some(held.expect("the budget is free"))
    }

    async fn until_reserved(budget: &Budget, bytes: u64) {
        while budget.usage().reserved_bytes != bytes {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_loses_the_rest_and_the_memory_is_free_before_it_looks() {
        let budget = Budget::new(8 << 20);
        let endless = stream::iter(0..).map(Ok);
        let mut answer = Box::pin(in_time(endless, held(&budget).await, SHORT));
        assert_eq!(answer.next().await.map(Result::ok), Some(Some(0)));
        until_reserved(&budget, LEFT_BYTES).await;
        let rest: Vec<_> = answer.by_ref().collect().await;
        let [Ok(1), Err(status)] = &rest[..] else { panic!("{rest:?}") };
        assert_eq!(status.code(), Code::DeadlineExceeded);
        drop(answer);
        assert_eq!(budget.usage().reserved_bytes, 0);
    }

    #[tokio::test]
    async fn an_answer_is_whole_and_holds_little_when_its_end_has_been_made() {
        let budget = Budget::new(8 << 20);
        let answer = Box::pin(in_time(stream::iter((0..1).map(Ok)), held(&budget).await, Duration::MAX));
        until_reserved(&budget, LEFT_BYTES).await;
        assert_eq!(answer.map(Result::ok).collect::<Vec<_>>().await, [Some(0)]);
        let answer = Box::pin(in_time(stream::iter((0..99).map(Ok)), held(&budget).await, Duration::MAX));
        assert_eq!(answer.map(Result::unwrap).collect::<Vec<_>>().await, Vec::from_iter(0..99));
        until_reserved(&budget, 0).await;
    }

    #[tokio::test]
    async fn whoever_hangs_up_ends_what_is_being_made() {
        let budget = Budget::new(8 << 20);
        let never = stream::pending::<Result<(), Status>>();
        drop(in_time(never, held(&budget).await, Duration::MAX));
        until_reserved(&budget, 0).await;
    }
}
