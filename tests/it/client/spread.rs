//! How the client distributes segments: by the bytes in flight at each worker. A worker that hangs costs one
//! deadline.

use futures::future::join_all;

use super::*;

async fn hanging(count: usize) -> Vec<ScriptedWorker> {
    let workers = join_all((0..count).map(|_| ScriptedWorker::start("http://127.0.0.1:1"))).await;
    workers.iter().for_each(|worker| worker.always(Answer::Hang));
    workers
}

fn endpoints(workers: &[ScriptedWorker]) -> Vec<String> {
    workers.iter().map(ScriptedWorker::endpoint).collect()
}

/// Sends a segment without waiting for the outcome.
fn send(client: &Client, bytes: &Bytes) -> tokio::task::JoinHandle<Result<Receipt, IndexError>> {
    let (client, payload) = (client.clone(), TestPayload::new(bytes.clone()));
    tokio::spawn(async move { client.index(&request(), &payload).await })
}

fn begun(workers: &[ScriptedWorker]) -> Vec<usize> {
    workers.iter().map(|worker| worker.calls().len()).collect()
}

async fn until_begun(workers: &[ScriptedWorker], count: usize) {
    join_all(workers.iter().map(|worker| worker.until(|counts| counts.begun >= count))).await;
}

#[tokio::test]
async fn lesson_29_long_lived_connections_leave_no_worker_idle() {
    let workers = hanging(3).await;
    let client = client(&endpoints(&workers), WAIT_MAX).await;
    let bytes = segment(10);
    for round in 1..=3 {
        (0..3).for_each(|_| drop(send(&client, &bytes)));
        until_begun(&workers, round).await;
        assert_eq!(begun(&workers), [round; 3]);
    }
}

#[tokio::test]
async fn lesson_29_a_segment_weighs_its_bytes() {
    let workers = hanging(3).await;
    let client = client(&endpoints(&workers), WAIT_MAX).await;
    drop(send(&client, &segment(10)));
    until_any(&workers, 1).await;
    // The large segment counts as much as four small ones.
    drop(send(&client, &large_segment()));
    until_any(&workers, 2).await;
    for sent in 3..=7 {
        drop(send(&client, &segment(10)));
        until_any(&workers, sent).await;
    }
    let mut counts = begun(&workers);
    counts.sort_unstable();
    assert_eq!(counts, [1, 3, 3]);
    let large = workers.iter().find(|worker| worker.calls().len() == 1).expect("the first");
    large.until(|_| large.calls()[0].is_whole()).await;
    assert!(large.calls()[0].bytes > 2 << 20);
}

/// Waits until all workers together have had this many calls.
async fn until_any(workers: &[ScriptedWorker], count: usize) {
    let all = || begun(workers).into_iter().sum::<usize>() >= count;
    let waits = workers.iter().map(|worker| Box::pin(worker.until(|_| all())));
    futures::future::select_all(waits).await;
}

#[tokio::test]
async fn lesson_29_a_segment_that_is_given_up_weighs_nothing() {
    let workers = hanging(2).await;
    let client = client(&endpoints(&workers), WAIT_MAX).await;
    let given_up = send(&client, &large_segment());
    until_any(&workers, 1).await;
    let (first, second) = if workers[0].calls().len() == 1 { (0, 1) } else { (1, 0) };
    given_up.abort();
    workers[first].until(|counts| counts.over == 1).await;
    drop(send(&client, &segment(10)));
    workers[second].until(|counts| counts.begun == 1).await;
    drop(send(&client, &segment(10)));
    until_any(&workers, 3).await;
    assert_eq!((workers[first].calls().len(), workers[second].calls().len()), (2, 1));
}

#[tokio::test]
async fn lesson_23_a_worker_that_hangs_costs_one_deadline() {
    let truth = Worker::start();
    let good = ScriptedWorker::start(&truth.endpoint()).await;
    let hanging = ScriptedWorker::start(&truth.endpoint()).await;
    hanging.always(Answer::Hang);
    let timeouts = Timeouts { attempt: Duration::from_secs(3), ..WAIT_MAX };
    let client = client(&[good.endpoint(), hanging.endpoint()], timeouts).await;
    for _ in 0..4 {
        let receipt = client.index(&request(), &TestPayload::new(segment(10))).await.expect("a receipt");
        assert_eq!(receipt.worker(), good.address().to_string());
    }
    // The hanging worker gets the deadline of its call, and then the cancellation. It gets no new call for a
    // while.
    hanging.until(|counts| counts.over == 1).await;
    let calls = hanging.calls();
    assert!(calls.len() == 1 && calls[0].timeout.is_some(), "{calls:?}");
}

#[tokio::test]
async fn lesson_23_a_stopped_process_costs_one_deadline() {
    let [stopped, good] = [Worker::start(), Worker::start()];
    let timeouts = Timeouts { attempt: Duration::from_secs(3), ..WAIT_MAX };
    let client = client(&[stopped.endpoint(), good.endpoint()], timeouts).await;
    stopped.signal("STOP");
    for _ in 0..4 {
        let receipt = client.index(&request(), &TestPayload::new(segment(10))).await.expect("a receipt");
        assert_eq!(receipt.worker(), good.address());
    }
    stopped.signal("CONT");
}

#[tokio::test]
async fn lesson_23_all_attempts_together_have_a_deadline() {
    let workers = hanging(2).await;
    let timeouts =
        Timeouts { attempt: Duration::from_millis(300), segment: Duration::from_millis(500), ..WAIT_MAX };
    let client = client(&endpoints(&workers), timeouts).await;
    let error = client.index(&request(), &TestPayload::new(segment(10))).await.expect_err("they hang");
    let IndexError::TimedOut { attempts: 2, last: Some(last), .. } = &error else { panic!("{error:?}") };
    assert_eq!(last.code, "DEADLINE_EXCEEDED");
}
