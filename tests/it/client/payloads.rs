//! Segments that differ from what their payload claims: no worker may accept them as whole, and there is no
//! receipt for them.

use std::sync::Arc;

use super::*;

#[track_caller]
fn check_read_error(what: &str, sent: Result<Receipt, IndexError>) -> String {
    match sent.expect_err(what) {
        IndexError::Read(error) => error.to_string(),
        error => panic!("{what}: {error:?}"),
    }
}

/// Returns payloads that differ from their claimed size, or fail.
fn broken(bytes: &Bytes) -> [(&'static str, TestPayload); 5] {
    let said = bytes.len() as u64;
    let given = |bytes: Bytes, fails| TestPayload { size_bytes: said, fails, ..TestPayload::new(bytes) };
    let longer = Bytes::from([bytes, &bytes[..1]].concat());
    [
        ("it shrinks", given(bytes.slice(..bytes.len() - 1), false)),
        ("it is emptied", given(Bytes::new(), false)),
        ("it grows", given(longer, false)),
        ("it fails in the middle", given(bytes.slice(..bytes.len() / 2), true)),
        ("it fails behind its last byte", given(bytes.clone(), true)),
    ]
}

#[tokio::test]
async fn a_segment_that_changes_is_broken_off() {
    let worker = Worker::start();
    let scripted = ScriptedWorker::start(&worker.endpoint()).await;
    for bytes in [segment(50), large_segment()] {
        for (what, payload) in broken(&bytes) {
            let client = client(&[scripted.endpoint()], WAIT_MAX).await;
            let before = scripted.calls().len();
            check_read_error(what, client.index(&request(), &payload).await);
            scripted.until(|counts| counts.over == counts.begun).await;
            for call in &scripted.calls()[before..] {
                assert!(!call.is_whole(), "{what}: the last bytes must not go: {call:?}");
            }
        }
    }
    assert_eq!(worker.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn an_empty_segment_that_grows_is_broken_off() {
    let worker = Worker::start();
    let scripted = ScriptedWorker::start(&worker.endpoint()).await;
    let payload = TestPayload { size_bytes: 0, ..TestPayload::new(segment(10)) };
    let client = client(&[scripted.endpoint()], WAIT_MAX).await;
    check_read_error("it grows", client.index(&request(), &payload).await);
    scripted.until(|counts| counts.over == counts.begun).await;
    assert!(scripted.calls().iter().all(|call| !call.is_whole()));
    assert!(
        client
            .index(&request(), &TestPayload::new(Bytes::new()))
            .await
            .expect("empty is fine")
            .keys()
            .is_empty()
    );
}

#[tokio::test]
async fn bytes_that_change_are_not_rejected_for_what_a_worker_saw_of_them() {
    let scripted = ScriptedWorker::start("http://127.0.0.1:1").await;
    scripted.always(Answer::NoAtOnce(Code::DataLoss));
    let bytes = large_segment();
    for (what, payload) in broken(&bytes) {
        let client = client(&[scripted.endpoint()], WAIT_MAX).await;
        check_read_error(what, client.index(&request(), &payload).await);
    }
    let client = client(&[scripted.endpoint()], WAIT_MAX).await;
    let error = client.index(&request(), &TestPayload::new(bytes)).await.expect_err("damaged, it says");
    assert!(matches!(error, IndexError::Rejected(_)), "{error:?}");
}

#[tokio::test]
async fn bytes_that_change_are_not_pointed_to() {
    let scripted = ScriptedWorker::start("http://127.0.0.1:1").await;
    let client = client(&[scripted.endpoint()], WAIT_MAX).await;
    let url = Some(Url::parse("file:///segment").expect("a URL"));
    for (what, payload) in broken(&segment(50)) {
        check_read_error(what, client.index(&Request { url: url.clone(), ..request() }, &payload).await);
        digest(&payload).await.expect_err(what);
    }
    assert!(scripted.calls().is_empty());
}

#[tokio::test]
async fn a_digest_of_what_is_no_segment_is_an_error() {
    let error =
        digest(&TestPayload::new(&b"certainly no frame, but long enough"[..])).await.expect_err("no frames");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

/// A worker dies in the middle of a segment, and another one takes its place. They share no state. Nothing is
/// lost, and nothing is stored twice.
#[tokio::test]
async fn lesson_20_a_segment_whose_worker_was_restarted_is_sent_again() {
    let truth = Worker::start();
    let store = file_url(&truth.store());
    let [first, second] = [(); 2].map(|()| Arc::new(Worker::start_on(&store, &[], &[])));
    let resolver = Arc::new(names::Scripted::new([first.address().parse().expect("an address")]));
    let client = names::client(&resolver, WAIT_MAX).await;
    let bytes = large_segment();
    let (killed, names) = (Arc::clone(&first), Arc::clone(&resolver));
    let next = second.address().parse().expect("an address");
    let restart = move || {
        killed.signal("KILL");
        names.set([next]);
    };
    let payload = TestPayload {
        hook: Mutex::new(Some((2 << 20, Box::new(restart)))),
        ..TestPayload::new(bytes.clone())
    };
    let receipt = client.index(&request(), &payload).await.expect("a receipt");
    assert_eq!(receipt.worker(), second.address());
    assert!(receipt.attempts() > 1);
    assert_eq!(truth.keys(), receipt.keys());

    // The answer is lost, but the work is done.
    let scripted = ScriptedWorker::start(&second.endpoint()).await;
    scripted.script([Answer::Break]);
    let again = index(scripted.endpoint(), &bytes).await.expect("a receipt");
    assert_eq!((again.attempts(), again.keys(), again.already_existed()), (2, receipt.keys(), true));
    assert_eq!(truth.keys(), receipt.keys());
}
