//! The checks of the `Health` call. The store is checked rarely, however often `Health` is called: each check
//! writes to the store.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::convert;
use crate::budget::Budget;
use crate::formatting;
use crate::proto::v1;
use crate::store::Store;

/// How long a health check waits for the store.
const STORE_CHECK_MAX: Duration = Duration::from_secs(2);

/// How long a result of the store check is used again.
const STORE_CHECK_LASTS: Duration = Duration::from_secs(5);

/// Percentage of reserved memory above which the memory check fails: only a small segment would still be
/// admitted.
const MEMORY_FULL_PERCENT: u64 = 95;

/// The last result of the store check. A call that arrives during a check waits for its result.
#[derive(Debug, Default)]
pub(super) struct StoreCheck {
    last: Mutex<Option<(Instant, v1::Check)>>,
}

impl StoreCheck {
    pub(super) async fn of(&self, store: &Store) -> v1::Check {
        let mut last = self.last.lock().await;
        if let Some((_, check)) = last.as_ref().filter(|(asked, _)| asked.elapsed() < STORE_CHECK_LASTS) {
            return check.clone();
        }
        let check = ask(store).await;
        *last = Some((Instant::now(), check.clone()));
        check
    }
}

async fn ask(store: &Store) -> v1::Check {
    let began = Instant::now();
    let (ok, message) = match timeout(STORE_CHECK_MAX, store.probe()).await {
        Ok(Ok(())) => (true, format!("{} answers", store.url())),
        Ok(Err(error)) => (false, formatting::chain(&error)),
        Err(_) => (false, format!("no answer within {STORE_CHECK_MAX:?}")),
    };
    let latency_us = convert::micros(began.elapsed());
    v1::Check { name: "object-store".to_owned(), ok, message, latency_us }
}

pub(super) fn check_memory(budget: &Budget) -> v1::Check {
    let usage = budget.usage();
    let ok = usage.reserved_bytes * 100 <= usage.total_bytes * MEMORY_FULL_PERCENT;
    let message = format!("{} of {} bytes are reserved", usage.reserved_bytes, usage.total_bytes);
    v1::Check { name: "memory".to_owned(), ok, message, latency_us: 0 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use url::Url;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_flood_of_checks_is_one_for_the_store() {
        let directory = tempfile::tempdir().expect("a directory");
        let url = Url::from_directory_path(directory.path()).expect("absolute");
        let (store, checks) = (Store::open(&url).expect("a store"), Arc::new(StoreCheck::default()));
        let floods = (0..200).map(|_| {
            let (store, checks) = (store.clone(), Arc::clone(&checks));
            tokio::spawn(async move { checks.of(&store).await })
        });
        let mut answers = Vec::new();
        for flood in floods.collect::<Vec<_>>() {
            answers.push(flood.await.expect("no panic"));
        }
        assert!(answers[0].ok, "{:?}", answers[0]);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "one answer for all, to its latency");
    }
}
