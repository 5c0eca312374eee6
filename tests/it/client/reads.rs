//! Fetches and searches by the client library: from any worker that answers, and whole or an error.

use wal_indexer::client::ReadError;
use wal_indexer::proto::v1::fetch_request::FetchForm;
use wal_indexer::proto::v1::{FetchRequest, RecordFilter, SearchRequest};

use super::proxies::{HTML, Proxy};
use super::*;

const SOON: Duration = Duration::from_secs(60);

fn all() -> SearchRequest {
    let filter = RecordFilter { topic: "logs".to_owned(), ..RecordFilter::default() };
    SearchRequest { filter: Some(filter), limit: 10_000, ..SearchRequest::default() }
}

fn from(offset: i64) -> FetchRequest {
    FetchRequest {
        topic: "logs".to_owned(),
        offset,
        max_records: 1_000,
        max_bytes: 100 << 20,
        ..FetchRequest::default()
    }
}

/// Returns the offsets of all fetched records, and the next offset.
async fn fetched(client: &Client, from: FetchRequest) -> Result<(Vec<i64>, Option<i64>), ReadError> {
    let (mut offsets, mut next) = (Vec::new(), None);
    let mut answer = client.fetch(from, SOON).await?;
    while let Some(message) = answer.next().await? {
        offsets.extend(message.records.iter().map(|record| record.offset));
        next = message.next_offset;
    }
    assert!(answer.next().await.expect("it is whole").is_none());
    Ok((offsets, next))
}

#[tokio::test]
async fn what_was_sent_is_fetched_and_found() {
    let worker = Worker::start();
    let client = client(&[worker.endpoint()], WAIT_MAX).await;
    client.index(&request(), &TestPayload::new(segment(500))).await.expect("a receipt");
    assert_eq!(fetched(&client, from(0)).await.expect("an answer"), ((0..500).collect(), Some(500)));
    assert_eq!(fetched(&client, from(498)).await.expect("an answer"), (vec![498, 499], Some(500)));

    let mut answer = client.search(all(), SOON).await.expect("an answer");
    let (mut found, mut summary) = (0, None);
    while let Some(message) = answer.next().await.expect("a message") {
        found += message.records.len();
        summary = message.summary;
    }
    assert_eq!((found, summary.expect("a summary").matched), (500, 500));
    assert_eq!(answer.worker(), worker.address());

    let unreadable = SearchRequest { query: "level:(".to_owned(), ..all() };
    let error = client.search(unreadable, SOON).await.expect_err("no query");
    assert!(matches!(&error, ReadError::Refused(refusal) if refusal.code == "INVALID_ARGUMENT"), "{error:?}");
}

#[tokio::test]
async fn a_question_goes_to_a_worker_that_answers() {
    let worker = Worker::start();
    let proxy = Proxy::start(worker.address()).await;
    let first = client(&[proxy.endpoint()], WAIT_MAX).await;
    first.index(&request(), &TestPayload::new(segment(50))).await.expect("a receipt");
    proxy.says([(503, HTML, "busy"), (429, "", "slow down"), (502, "text/plain", "nobody")]);
    assert_eq!(fetched(&first, from(0)).await.expect("an answer"), ((0..50).collect(), Some(50)));

    // One of two workers is down.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let both = client(&[format!("http://{nobody}"), worker.endpoint()], WAIT_MAX).await;
    for _ in 0..4 {
        assert_eq!(fetched(&both, from(0)).await.expect("an answer").1, Some(50));
    }

    // All workers are down.
    let none = client(&[format!("http://{nobody}")], WAIT_MAX).await;
    let error = none.fetch(from(0), Duration::from_millis(400)).await.expect_err("nobody");
    let ReadError::OutOfTime { attempts, last: Some(last), .. } = &error else { panic!("{error:?}") };
    assert!(*attempts > 0 && last.code == "UNAVAILABLE", "{error:?}");
}

#[tokio::test]
async fn a_proxy_that_asks_for_a_login_is_not_asked_again() {
    let proxy = Proxy::start("").await;
    proxy.always((401, HTML, "<h1>Log in</h1>"));
    let client = client(&[proxy.endpoint()], WAIT_MAX).await;
    let error = client.search(all(), SOON).await.expect_err("no answer");
    assert!(matches!(&error, ReadError::Refused(refusal) if refusal.code == "UNAUTHENTICATED"), "{error:?}");
    assert_eq!(proxy.calls(), 1);
}

#[tokio::test]
async fn a_worker_that_refuses_all_requests_gets_fewer_of_them() {
    let worker = Worker::start();
    let proxy = Proxy::start("").await;
    proxy.always((401, HTML, "<h1>Log in</h1>"));
    let one = client(&[worker.endpoint()], WAIT_MAX).await;
    one.index(&request(), &TestPayload::new(segment(5))).await.expect("a receipt");
    let both = client(&[proxy.endpoint(), worker.endpoint()], WAIT_MAX).await;
    let mut refused = 0;
    for _ in 0..20 {
        refused += usize::from(fetched(&both, from(0)).await.is_err());
    }
    // The pause doubles each time: six refusals would take eight seconds.
    assert!((1..6).contains(&refused), "{refused} of 20 requests were refused");
    assert_eq!(proxy.calls(), refused);
}

#[tokio::test]
async fn a_worker_that_cannot_answer_one_request_gets_the_next_at_once() {
    let worker = Worker::start();
    let client = client(&[worker.endpoint()], WAIT_MAX).await;
    // A segment without the batches of producers.
    let v1 = std::fs::read("tests/fixtures/chronik/v1.wal").expect("a fixture");
    client.index(&request(), &TestPayload::new(v1)).await.expect("a receipt");
    let batches = FetchRequest { form: FetchForm::KafkaBatches.into(), ..from(0) };
    let began = Instant::now();
    for _ in 0..8 {
        let error = fetched(&client, batches.clone()).await.expect_err("no batches");
        assert!(
            matches!(&error, ReadError::Refused(refusal) if refusal.reason == "NO_KAFKA_BATCH"),
            "{error:?}"
        );
    }
    fetched(&client, from(0)).await.expect("records");
    // With a pause after each refusal that doubles, this would take a minute.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
}
