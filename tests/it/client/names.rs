//! Workers behind a DNS name, whose addresses change.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use wal_indexer::client::Resolve;

use super::*;

/// A resolver with scripted answers.
#[derive(Debug)]
pub struct Scripted {
    answer: Mutex<Result<Vec<SocketAddr>, &'static str>>,
    lookups: watch::Sender<u64>,
}

impl Scripted {
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let answer = Mutex::new(Ok(addresses.into_iter().collect()));
        Self { answer, lookups: watch::Sender::new(0) }
    }

    pub fn set(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        *self.answer.lock().expect("nobody panicked") = Ok(addresses.into_iter().collect());
    }

    fn fail(&self) {
        *self.answer.lock().expect("nobody panicked") = Err("no such host is known here");
    }

    /// Waits until the current answer has been looked up and used: that is so when the lookup after the next
    /// one begins.
    async fn seen(&self) {
        let mut lookups = self.lookups.subscribe();
        let now = *lookups.borrow();
        lookups.wait_for(|lookups| *lookups >= now + 2).await.expect("it is there");
    }
}

impl Resolve for Scripted {
    fn resolve<'a>(&'a self, host: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        assert_eq!(host, "workers.test");
        self.lookups.send_modify(|lookups| *lookups += 1);
        let answer = self.answer.lock().expect("nobody panicked").clone();
        Box::pin(async move { answer.map_err(io::Error::other) })
    }
}

pub async fn client(resolver: &Arc<Scripted>, timeouts: Timeouts) -> Client {
    let endpoint = "http://workers.test:7070".parse().expect("an endpoint");
    let resolver = Arc::clone(resolver);
    let started = Client::start_with(vec![endpoint], Security::default(), timeouts, resolver).await;
    started.expect("settings that work")
}

/// Workers on one port of several addresses, as behind a headless service.
async fn workers(count: u8, truth: &Worker) -> Vec<ScriptedWorker> {
    let mut workers = vec![ScriptedWorker::start(&truth.endpoint()).await];
    let port = workers[0].address().port();
    for host in 2..=count {
        let address = SocketAddr::from(([127, 0, 0, host], port));
        workers.push(ScriptedWorker::start_at(address, &truth.endpoint(), None).await);
    }
    workers
}

fn addresses(workers: &[ScriptedWorker]) -> Vec<SocketAddr> {
    workers.iter().map(ScriptedWorker::address).collect()
}

/// Sends this many segments, one after the other. Returns how many each worker got.
async fn send(client: &Client, workers: &[ScriptedWorker], count: usize) -> Vec<usize> {
    let counts = || workers.iter().map(|worker| worker.calls().len()).collect::<Vec<_>>();
    let before = counts();
    for _ in 0..count {
        client.index(&request(), &TestPayload::new(segment(10))).await.expect("a receipt");
    }
    counts().iter().zip(before).map(|(after, before)| after - before).collect()
}

#[tokio::test]
async fn workers_come_and_go_by_their_name() {
    let truth = Worker::start();
    let workers = workers(4, &truth).await;
    let all = addresses(&workers);
    let resolver = Arc::new(Scripted::new(all[..3].iter().copied()));
    let client = client(&resolver, WAIT_MAX).await;
    assert_eq!(send(&client, &workers, 6).await, [2, 2, 2, 0]);

    resolver.set(all.iter().copied().rev().chain([all[0]]));
    resolver.seen().await;
    assert_eq!(send(&client, &workers, 8).await, [2, 2, 2, 2], "a fourth joins");

    resolver.set(all[1..].iter().copied());
    resolver.seen().await;
    assert_eq!(send(&client, &workers, 6).await, [0, 2, 2, 2], "one leaves");
}

#[tokio::test]
async fn lesson_11_a_lookup_that_fails_takes_nobody_away() {
    let truth = Worker::start();
    let workers = workers(2, &truth).await;
    let resolver = Arc::new(Scripted::new(addresses(&workers)));
    let client = client(&resolver, WAIT_MAX).await;
    resolver.fail();
    resolver.seen().await;
    assert_eq!(send(&client, &workers, 2).await, [1, 1]);
    resolver.set([]);
    resolver.seen().await;
    assert_eq!(send(&client, &workers, 2).await, [1, 1]);
    resolver.set([workers[1].address()]);
    resolver.seen().await;
    assert_eq!(send(&client, &workers, 2).await, [0, 2], "and the next one that succeeds counts");
}

#[tokio::test]
async fn what_a_worker_has_in_hand_goes_on_when_its_address_is_gone() {
    let truth = Worker::start();
    let workers = workers(2, &truth).await;
    let resolver = Arc::new(Scripted::new([workers[0].address()]));
    let client = client(&resolver, WAIT_MAX).await;
    let held = Arc::new(Semaphore::new(0));
    workers[0].script([Answer::Held(Arc::clone(&held))]);
    let (sender, payload) = (client.clone(), TestPayload::new(segment(10)));
    let in_hand = tokio::spawn(async move { sender.index(&request(), &payload).await });
    workers[0].until(|counts| counts.begun == 1).await;

    resolver.set([workers[1].address()]);
    resolver.seen().await;
    assert_eq!(send(&client, &workers, 2).await, [0, 2]);
    // The worker comes back, and its earlier load no longer counts.
    resolver.set(addresses(&workers));
    resolver.seen().await;
    held.add_permits(1);
    let receipt = in_hand.await.expect("it ran").expect("a receipt");
    assert_eq!((receipt.worker(), receipt.attempts()), (&*workers[0].address().to_string(), 1));
    assert_eq!(send(&client, &workers, 4).await, [2, 2]);
}

#[tokio::test]
async fn a_name_without_addresses_may_get_some() {
    let truth = Worker::start();
    let resolver = Arc::new(Scripted::new([]));
    resolver.fail();
    let timeouts = Timeouts { segment: Duration::from_millis(200), ..WAIT_MAX };
    let impatient = client(&resolver, timeouts).await;
    let error = impatient.index(&request(), &TestPayload::new(segment(10))).await.expect_err("nobody");
    assert!(matches!(error, IndexError::TimedOut { attempts: 0, last: None, .. }), "{error:?}");
    let cause = "cannot look up http://workers.test:7070: no such host is known here";
    assert_eq!(error.to_string(), format!("no receipt after 0 attempts: {cause}"));

    let client = client(&resolver, WAIT_MAX).await;
    let waiting = tokio::spawn(async move { client.index(&request(), &TestPayload::new(segment(10))).await });
    resolver.seen().await;
    resolver.set([truth.address().parse().expect("an address")]);
    assert_eq!(waiting.await.expect("it ran").expect("a receipt").worker(), truth.address());
}

#[tokio::test]
async fn nobody_looks_up_names_for_a_client_that_is_gone() {
    let resolver = Arc::new(Scripted::new([]));
    let client = client(&resolver, WAIT_MAX).await;
    resolver.seen().await;
    drop(client);
    while Arc::strong_count(&resolver) > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_systems_names_work() {
    let worker = Worker::start();
    let port = worker.address().rsplit_once(':').expect("a port").1;
    let client = super::client(&[format!("http://localhost:{port}")], WAIT_MAX).await;
    let receipt = client.index(&request(), &TestPayload::new(segment(10))).await.expect("a receipt");
    assert_eq!(receipt.worker(), worker.address());
}
