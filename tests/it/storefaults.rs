//! The whole write path on a store that fails: a receipt relies only on checked objects, after a failure the
//! caller can send again, and no fault of the store causes a second build. The numbers of lessons are those
//! of `docs/reliability.md`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use wal_indexer::ingest::{Ingest, IngestError, ReadError, Request};
use wal_indexer::internals::rpc::{convert, status};
use wal_indexer::proto::v1::IndexSegmentResponse;
use wal_indexer::store::{PutError, Timeouts};

use crate::faults::{FOREIGN, Fault, Faults};
use crate::receipts::{Segment, already_existed, check, ingest, keys, keys_of, lasting, memory, send};

const MS: Duration = Duration::from_millis(1);

const IMPATIENT: Timeouts = Timeouts {
    attempt_base: Duration::from_millis(250),
    bytes_per_second_min: 1 << 30,
    pause_first: Duration::from_millis(2),
    pause_max: Duration::from_millis(20),
    read_attempts_max: 3,
};

/// Returns a write path on a store in memory with scripted faults.
fn faulty() -> (Ingest, Arc<Faults>) {
    let (store, plan) = Faults::around(memory().with_timeouts(IMPATIENT));
    (ingest(store), plan)
}

/// Counts the bytes that were read from it.
struct Counted<S>(S, Arc<AtomicU64>);

impl<S: Stream<Item = Result<Bytes, ReadError>> + Unpin> Stream for Counted<S> {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.0).poll_next(cx);
        if let Poll::Ready(Some(Ok(chunk))) = &next {
            self.1.fetch_add(chunk.len() as u64, SeqCst);
        }
        next
    }
}

/// Sends a segment. Returns also how many of its bytes were read.
async fn send_counted(
    ingest: &Ingest,
    segment: &Segment,
) -> (Result<IndexSegmentResponse, IngestError>, u64) {
    let read = Arc::new(AtomicU64::new(0));
    let chunks: Vec<_> = segment.bytes.chunks(64 << 10).map(|chunk| Ok(chunk.to_vec().into())).collect();
    let request = Request::new(segment.parts()).expect("a request");
    let sent = ingest.run(request, Counted(stream::iter(chunks), Arc::clone(&read))).await;
    (sent.map(|receipt| convert::receipt(&receipt)), read.load(SeqCst))
}

/// Checks that all PUTs of one object sent the same memory: nothing was built again, and nothing was copied.
fn assert_built_once(plan: &Faults, objects: usize) {
    let log = plan.counts.put_log.lock().unwrap();
    let mut built: Vec<_> = log.iter().map(|(_, parts)| parts.clone()).collect();
    built.sort();
    built.dedup();
    assert_eq!(built.len(), objects, "{} PUTs, of objects in so many places of memory", log.len());
}

#[tokio::test]
async fn lesson_16_whichever_put_fails_in_passing_the_receipt_comes_and_nothing_is_built_again() {
    let segment = Segment::of_three_partitions();
    let faults = [
        Fault::Fail,
        Fault::SlowDown,
        Fault::Hang,
        Fault::LandAndHang,
        Fault::LandAndLose,
        Fault::LandLate(100 * MS),
        Fault::LandLate(300 * MS),
        Fault::SayExists,
        Fault::SayCreated,
    ];
    for fault in faults {
        for nth in 0..3 {
            let (ingest, plan) = faulty();
            plan.next_puts(vec![Fault::None; nth].into_iter().chain([fault]));
            let (sent, read) = send_counted(&ingest, &segment).await;
            let reply = sent.unwrap_or_else(|error| panic!("{fault:?} of PUT {nth}: {error:?}"));
            check(&ingest.store, &reply, &segment.bytes).await;
            assert_eq!(already_existed(&reply), [false; 3], "{fault:?} of PUT {nth}: whose objects are they");
            assert_eq!(read, segment.bytes.len() as u64, "{fault:?}: the source was read once");
            assert_eq!(keys(&ingest.store).await.len(), 3, "{fault:?}: no orphans");
            assert_built_once(&plan, 3);
        }
    }
}

#[tokio::test]
async fn lesson_01_a_put_that_is_refused_gives_an_error_and_the_same_request_a_receipt_once_it_is_not() {
    let segment = Segment::of_three_partitions();
    for nth in 0..3 {
        let (ingest, plan) = faulty();
        plan.next_puts(vec![Fault::None; nth].into_iter().chain([Fault::Forbid]));
        let error = send(&ingest, &segment, 64 << 10).await.expect_err("a PUT was refused");
        assert!(matches!(error, IngestError::Put { source: PutError::Store { .. }, .. }), "{error:?}");
        assert_eq!(
            status::of_ingest(&error).code(),
            tonic::Code::Unavailable,
            "another worker may do better"
        );
        let left = keys(&ingest.store).await;
        assert!(left.len() < 3, "{left:?}");

        let reply = send(&ingest, &segment, 64 << 10).await.expect("the store has recovered");
        check(&ingest.store, &reply, &segment.bytes).await;
        let existed = keys_of(&reply).into_iter().filter(|key| left.contains(key)).count();
        assert_eq!(already_existed(&reply).into_iter().filter(|existed| *existed).count(), existed);
        assert_eq!(keys(&ingest.store).await.len(), 3, "what was left is what was found");
    }
}

#[tokio::test]
async fn lesson_01_a_store_that_stays_away_gives_an_error_in_time_and_no_receipt() {
    let segment = Segment::of_three_partitions();
    for fault in [Fault::Fail, Fault::Hang, Fault::SlowDown, Fault::SayExists, Fault::SayCreated] {
        let (mut ingest, plan) = faulty();
        ingest.timeouts.upload = 400 * MS;
        plan.each_nth_put(1, fault);
        let sent = tokio::time::timeout(Duration::from_secs(30), send(&ingest, &segment, 64 << 10)).await;
        let error = sent.expect("every stage has a deadline").expect_err("nothing was stored");
        let in_time = matches!(&error, IngestError::Put { source: PutError::Deadline { .. }, .. });
        assert!(in_time, "{fault:?}: {error:?}");
        assert_eq!(keys(&ingest.store).await, Vec::<String>::new());
        assert_eq!(ingest.budget.usage().reserved_bytes, 0, "a failure gives its memory back");
        assert_eq!(ingest.stats.snapshot().totals.segments, 0, "and counts as none that was acknowledged");

        plan.each_nth_put(u64::MAX, Fault::None);
        ingest.timeouts.upload = Duration::from_secs(20);
        let reply = send(&ingest, &segment, 64 << 10).await.expect("the store is back");
        check(&ingest.store, &reply, &segment.bytes).await;
    }
}

#[tokio::test]
async fn lesson_28_a_segment_outlasts_a_store_that_says_503_for_a_while() {
    let (ingest, plan) = faulty();
    let segment = Segment::logs(600, 5);
    // A number of faults, not a duration: on a slow machine the duration could be over before the first PUT.
    plan.next_puts([Fault::SlowDown; 12]);
    let (sent, read) = send_counted(&ingest, &segment).await;
    check(&ingest.store, &sent.expect("it passed"), &segment.bytes).await;
    assert_eq!(read, segment.bytes.len() as u64);
    assert_eq!(plan.counts.puts.load(SeqCst), 13);
    assert_built_once(&plan, 1);
}

#[tokio::test]
async fn lesson_24_what_cannot_be_checked_is_not_acknowledged() {
    let segment = Segment::of_three_partitions();
    // The stored object has a flipped bit. Its key is taken for good, so there is never a receipt for it.
    for nth in 0..3 {
        let (ingest, plan) = faulty();
        plan.next_puts(vec![Fault::None; nth].into_iter().chain([Fault::Corrupt]));
        let error = send(&ingest, &segment, 64 << 10).await.expect_err("the object is damaged");
        assert!(matches!(error, IngestError::Put { source: PutError::Corrupt(_), .. }), "{error:?}");
        let error = send(&ingest, &segment, 64 << 10).await.expect_err("and stays so");
        assert!(matches!(error, IngestError::Put { source: PutError::Taken { .. }, .. }), "{error:?}");
    }
    // The object cannot be read back for the moment: an error first, and a receipt later.
    for nth in 0..3 {
        let (ingest, plan) = faulty();
        plan.next_gets(vec![Fault::None; nth].into_iter().chain([Fault::Forbid]));
        let error = send(&ingest, &segment, 64 << 10).await.expect_err("an object was not checked");
        assert!(matches!(error, IngestError::Put { source: PutError::Store { .. }, .. }), "{error:?}");
        let reply = send(&ingest, &segment, 64 << 10).await.expect("it can be read now");
        check(&ingest.store, &reply, &segment.bytes).await;
    }
}

#[tokio::test]
async fn lesson_26_somebody_elses_object_under_the_key_is_neither_acknowledged_nor_touched() {
    let segment = Segment::of_three_partitions();
    for nth in 0..3 {
        let (ingest, plan) = faulty();
        plan.next_puts(vec![Fault::None; nth].into_iter().chain([Fault::ForeignFirst]));
        let error = send(&ingest, &segment, 64 << 10).await.expect_err("a key is taken");
        let IngestError::Put { key, source: PutError::Taken { .. } } = &error else { panic!("{error:?}") };
        assert_eq!(status::of_ingest(&error).code(), tonic::Code::Internal);
        for _ in 0..2 {
            let there = ingest.store.get(&key.parse().unwrap(), 1_000).await.expect("an object");
            assert_eq!(there, FOREIGN, "it is the stranger's still");
            send(&ingest, &segment, 64 << 10).await.expect_err("however often it is sent");
        }
    }
}

#[tokio::test]
async fn lesson_25_a_put_that_was_given_up_and_lands_after_the_receipt_changes_nothing() {
    let (ingest, plan) = faulty();
    let segment = Segment::logs(300, 11);
    plan.next_puts([Fault::LandLate(600 * MS)]);
    let reply = send(&ingest, &segment, 64 << 10).await.expect("a second attempt");
    check(&ingest.store, &reply, &segment.bytes).await;
    tokio::time::sleep(700 * MS).await;
    // The object still has the ETag of the receipt, too.
    check(&ingest.store, &reply, &segment.bytes).await;
    let again = send(&ingest, &segment, 64 << 10).await.expect("a receipt");
    assert_eq!(lasting(&again), lasting(&reply));
}

#[tokio::test]
async fn lesson_25_a_put_that_lands_after_the_request_failed_is_what_the_next_request_finds() {
    let (mut ingest, plan) = faulty();
    let segment = Segment::logs(300, 12);
    ingest.timeouts.upload = 100 * MS;
    plan.next_puts([Fault::LandLate(1_500 * MS)]);
    send(&ingest, &segment, 64 << 10).await.expect_err("out of time");
    assert_eq!(keys(&ingest.store).await.len(), 0);
    while keys(&ingest.store).await.is_empty() {
        tokio::time::sleep(50 * MS).await;
    }
    ingest.timeouts.upload = Duration::from_secs(20);
    let reply = send(&ingest, &segment, 64 << 10).await.expect("a receipt");
    assert_eq!(already_existed(&reply), [true]);
    check(&ingest.store, &reply, &segment.bytes).await;
    assert_eq!(keys(&ingest.store).await.len(), 1, "no second object");
}

#[tokio::test]
async fn on_disk_too_whichever_put_fails_the_receipt_is_for_what_is_there() {
    let segment = Segment::of_three_partitions();
    for fault in [Fault::Fail, Fault::LandAndLose, Fault::LandAndHang, Fault::SayExists, Fault::SayCreated] {
        for nth in 0..3 {
            let root = tempfile::tempdir().unwrap();
            let url = url::Url::from_directory_path(root.path()).unwrap();
            let store = wal_indexer::store::Store::open(&url).unwrap().with_timeouts(IMPATIENT);
            let (store, plan) = Faults::around(store);
            let ingest = ingest(store);
            plan.next_puts(vec![Fault::None; nth].into_iter().chain([fault]));
            let reply = send(&ingest, &segment, 64 << 10).await.expect("a receipt");
            check(&ingest.store, &reply, &segment.bytes).await;
            assert_eq!(keys(&ingest.store).await.len(), 3);
        }
    }
}
