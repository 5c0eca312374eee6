//! PUTs to a faulty store: what a receipt may rely on, and what it may not. The numbers of lessons are those
//! of the list in `docs/reliability.md`.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tokio::time::{Instant, sleep, timeout};
use url::Url;
use wal_indexer::ids::{LogId, OffsetRange, TopicPartition};
use wal_indexer::store::{
    BundleKey, Cause, Existing, KeyHash, KeyPrefix, NewObject, Put, PutError, Refused, SourceError,
    SourceRoots, Store, StoreErrorKind, Timeouts,
};

use crate::faults::{FOREIGN, Fault, Faults, parts};

const MS: Duration = Duration::from_millis(1);

const IMPATIENT: Timeouts = Timeouts {
    attempt_base: Duration::from_millis(150),
    bytes_per_second_min: 1 << 30,
    pause_first: Duration::from_millis(2),
    pause_max: Duration::from_millis(20),
    read_attempts_max: 3,
};

fn memory() -> (Store, Arc<Faults>) {
    let store = Store::open(&Url::parse("memory:///bundles").unwrap()).unwrap();
    Faults::around(store.with_timeouts(IMPATIENT))
}

/// Returns a store that keeps objects in memory, and confirms them in the way of this URL's store.
fn as_if(url: &Url) -> (Store, Arc<Faults>) {
    let credentials = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let store = Store::open_with(url, if url.scheme() == "s3" { &credentials } else { &[] }).unwrap();
    Faults::around(store.decorated(|_| Arc::new(InMemory::new())).with_timeouts(IMPATIENT))
}

fn key(n: i64) -> BundleKey {
    let (partition, log_id) = (TopicPartition::new("topic", 0).unwrap(), LogId::new(""));
    let hash = KeyHash::new(&[9; 32], &log_id, &partition).hash16();
    BundleKey::new(partition, log_id, OffsetRange::new(n, n).unwrap(), None, hash).unwrap()
}

fn object(text: &str) -> NewObject {
    NewObject {
        parts: parts(text.as_bytes(), 3),
        size_bytes: text.len() as u64,
        crc32c: crc32c::crc32c(text.as_bytes()),
        is_read_back: false,
    }
}

/// Refuses every object with other bytes.
async fn strict(existing: Existing) -> Result<Bytes, Refused> {
    let bytes = existing.get_range(0..existing.size_bytes()).await?;
    Err(Refused::Foreign { reason: String::from_utf8_lossy(&bytes).into_owned() })
}

async fn put(store: &Store, object: &NewObject) -> Result<Put<Bytes>, PutError> {
    store.put(&key(1), object, Instant::now() + Duration::from_secs(20), strict).await
}

const TEXT: &str = "the bytes of a bundle, whole";

/// Puts an object with these faults, and compares the receipt with the stored object. Returns the number of
/// PUTs.
async fn check(faults: impl IntoIterator<Item = Fault> + Clone, already_existed: bool) -> u64 {
    let puts = check_on(memory(), faults.clone(), already_existed).await;
    // S3 verifies the body, so a HEAD confirms it.
    let s3 = as_if(&Url::parse("s3://bucket/bundles").unwrap());
    assert_eq!(check_on(s3, faults, already_existed).await, puts);
    puts
}

async fn check_on(
    (store, plan): (Store, Arc<Faults>),
    faults: impl IntoIterator<Item = Fault>,
    already_existed: bool,
) -> u64 {
    plan.next_puts(faults);
    let stored = put(&store, &object(TEXT)).await.unwrap().stored;
    assert_eq!(store.get(stored.key(), 1_000).await.unwrap(), TEXT);
    assert_eq!(store.list(&KeyPrefix::all()).await.unwrap().len(), 1, "one object");
    assert_eq!(stored.e_tag(), store.head(stored.key()).await.unwrap().e_tag.as_deref());
    assert_eq!((stored.size_bytes(), stored.crc32c()), (28, crc32c::crc32c(TEXT.as_bytes())));
    assert_eq!(stored.already_existed(), already_existed);
    let puts = plan.counts.puts.load(SeqCst);
    assert_eq!(u64::from(stored.attempts()), puts);
    puts
}

#[tokio::test]
async fn lesson_16_a_failed_upload_is_sent_again_from_the_same_bytes_under_the_same_name() {
    let (store, plan) = memory();
    plan.next_puts([Fault::Fail, Fault::SlowDown, Fault::Fail]);
    // These parts are long enough to be sent as they are. Short ones are combined first.
    let object = object(&TEXT.repeat(10_000));
    let stored = put(&store, &object).await.unwrap().stored;
    assert_eq!(stored.attempts(), 4);
    let places: Vec<usize> = object.parts.iter().map(|part| part.as_ptr().addr()).collect();
    for (_, sent) in plan.counts.put_log.lock().unwrap().iter() {
        assert_eq!(sent, &places, "each attempt sends the parts that are there, not copies");
    }
    assert_eq!(store.list(&KeyPrefix::all()).await.unwrap().len(), 1, "no orphans");
}

#[tokio::test]
async fn lesson_22_a_name_is_never_written_twice_with_other_bytes() {
    let (store, plan) = memory();
    put(&store, &object(TEXT)).await.unwrap();
    let first = store.head(&key(1)).await.unwrap();
    let taken = put(&store, &object("other bytes")).await.unwrap_err();
    assert_eq!(taken, PutError::Taken { url: store.url_of(&key(1)), reason: TEXT.to_owned() });
    // The same if the first attempt's answer was lost, so that it is unknown whose the object is.
    plan.next_puts([Fault::LandAndLose]);
    let taken = put(&store, &object("bytes of a third kind")).await.unwrap_err();
    assert!(matches!(taken, PutError::Taken { .. }), "{taken}");
    assert_eq!(store.head(&key(1)).await.unwrap(), first, "the object is the first one still");
}

#[tokio::test]
async fn lesson_23_an_upload_that_hangs_is_given_up_and_sent_again() {
    assert_eq!(check([Fault::Hang], false).await, 2);
    assert_eq!(check([Fault::Hang, Fault::Hang, Fault::Fail, Fault::Hang], false).await, 5);
}

#[tokio::test]
async fn lesson_23_an_upload_that_always_hangs_ends_at_its_deadline() {
    let (store, plan) = memory();
    plan.each_nth_put(1, Fault::Hang);
    let deadline = Instant::now() + 500 * MS;
    let object = object(TEXT);
    let key = key(1);
    let putting = store.put(&key, &object, deadline, strict);
    let error = timeout(Duration::from_secs(5), putting).await.expect("it ends").unwrap_err();
    let PutError::Deadline { attempts, last: Some(last), .. } = error else { panic!("{error}") };
    assert!(attempts > 1);
    assert_eq!(last.kind(), StoreErrorKind::TimedOut);
    assert!(Instant::now() < deadline + Duration::from_secs(1));
}

#[tokio::test]
async fn lesson_24_there_is_no_receipt_before_the_object_is_checked() {
    // "Created", but nothing is there: it is sent again until something is there.
    assert_eq!(check([Fault::SayCreated, Fault::SayCreated], false).await, 3);
    // "Created", but other bytes are there: an error, never a receipt.
    let (store, plan) = memory();
    plan.next_puts([Fault::Corrupt]);
    let error = put(&store, &object(TEXT)).await.unwrap_err();
    let PutError::Corrupt(error) = error else { panic!("{error}") };
    assert!(matches!(error.cause(), Cause::Checksum { .. }), "{error}");
    // The store answers, but cannot be read: no receipt either. The PUT is not what is retried.
    let (store, plan) = memory();
    plan.next_gets([Fault::Fail; 3]);
    let stored = put(&store, &object(TEXT)).await.unwrap().stored;
    assert_eq!(store.get(stored.key(), 1_000).await.unwrap(), TEXT);
    assert!(plan.counts.gets.load(SeqCst) > 3, "the reads that failed were made up for");
}

#[tokio::test]
async fn lesson_24_no_receipt_without_a_read_back_where_the_store_checks_nothing() {
    let (store, plan) = memory();
    plan.next_gets([Fault::Forbid]);
    let error = put(&store, &object(TEXT)).await.unwrap_err();
    let PutError::Store { source, attempts: 1 } = error else { panic!("{error}") };
    assert_eq!(source.kind(), StoreErrorKind::Denied);
}

#[tokio::test]
async fn lesson_24_what_s3_says_it_took_is_confirmed_by_a_head_and_not_read_again() {
    let (store, plan) = as_if(&Url::parse("s3://bucket").unwrap());
    put(&store, &object(TEXT)).await.unwrap();
    let asked = (plan.counts.heads.load(SeqCst), plan.counts.gets.load(SeqCst));
    assert_eq!(asked, (1, 0));
    // "Created", and the HEAD shows another size, or another ETag of the same size: the object is read, and
    // found to differ.
    for there in ["short", "the bytes of a bundle, wholE"] {
        let (store, plan) = as_if(&Url::parse("s3://bucket").unwrap());
        let path = Path::parse(key(1).to_string()).unwrap();
        plan.inner.put(&path, there.to_owned().into()).await.unwrap();
        plan.next_puts([Fault::SayCreated]);
        let error = put(&store, &object(TEXT)).await.unwrap_err();
        assert!(matches!(error, PutError::Corrupt(_)), "{error}");
    }
    // The HEAD is refused: no receipt.
    let (store, plan) = as_if(&Url::parse("s3://bucket").unwrap());
    plan.next_gets([Fault::Forbid]);
    assert!(matches!(put(&store, &object(TEXT)).await, Err(PutError::Store { attempts: 1, .. })));
}

#[tokio::test]
async fn on_a_file_system_there_is_no_receipt_for_what_cannot_be_made_durable() {
    let dir = tempfile::tempdir().unwrap();
    // The objects can be read, but their files do not exist on disk, so they cannot be synced.
    let (store, plan) = as_if(&Url::from_directory_path(dir.path()).unwrap());
    for (fault, puts) in [(Fault::None, 1), (Fault::None, 2), (Fault::LandAndLose, 3)] {
        plan.next_puts([fault]);
        let error = put(&store, &object(TEXT)).await.unwrap_err();
        let PutError::Store { source, .. } = error else { panic!("{error}") };
        assert!(source.to_string().starts_with("sync file:///"), "{source}");
        assert_eq!(plan.counts.puts.load(SeqCst), puts);
        assert_eq!(store.get(&key(1), 1_000).await.unwrap(), TEXT);
    }
}

#[tokio::test]
async fn lesson_25_a_stalled_put_that_lands_late_changes_nothing() {
    let (store, plan) = memory();
    plan.next_puts([Fault::LandLate(400 * MS)]);
    let stored = put(&store, &object(TEXT)).await.unwrap().stored;
    assert_eq!(stored.attempts(), 2, "it did not wait for the stalled one");
    let before = store.head(&key(1)).await.unwrap();
    sleep(500 * MS).await;
    assert_eq!(store.head(&key(1)).await.unwrap(), before, "the late one was refused");
}

#[tokio::test]
async fn lesson_25_a_put_that_lands_between_two_attempts_is_found_to_be_ours() {
    // The attempt is given up after 150 ms. The object appears around that time. The check after it sees
    // nothing or the object; both are right.
    for late in [140, 150, 155, 160, 170] {
        for store in [memory(), as_if(&Url::parse("s3://bucket").unwrap())] {
            check_on(store, [Fault::LandLate(late * MS), Fault::Hang], false).await;
        }
    }
}

#[tokio::test]
async fn lesson_26_a_write_that_landed_is_told_from_somebody_elses_by_reading_back() {
    // Our object, but the answer is lost: found by reading, not sent again.
    assert_eq!(check([Fault::LandAndLose], false).await, 1);
    assert_eq!(check([Fault::LandAndHang], false).await, 1);
    // Somebody else's object at the same moment: refused, and the error has its bytes.
    for lost in [
        vec![Fault::ForeignFirst],
        vec![Fault::Fail, Fault::ForeignFirst],
        vec![Fault::Hang, Fault::ForeignFirst],
    ] {
        let (store, plan) = memory();
        plan.next_puts(lost);
        let error = put(&store, &object(TEXT)).await.unwrap_err();
        let PutError::Taken { reason, .. } = error else { panic!("{error}") };
        assert_eq!(reason.as_bytes(), FOREIGN);
    }
}

#[tokio::test]
async fn lesson_26_already_exists_proves_nothing_where_nothing_is_there() {
    assert_eq!(check([Fault::SayExists; 3], false).await, 4);
}

#[tokio::test]
async fn an_object_that_the_judge_lets_stand_makes_the_receipt() {
    let (store, plan) = memory();
    put(&store, &object("the same records, indexed by another build")).await.unwrap();
    let lenient = async |existing: Existing| Ok(existing.get_range(0..8).await?);
    // The first check cannot read the object. That decides nothing.
    plan.next_gets([Fault::None, Fault::Fail, Fault::Fail, Fault::Fail]);
    let deadline = Instant::now() + Duration::from_secs(10);
    let Put { stored, check_result } = store.put(&key(1), &object(TEXT), deadline, lenient).await.unwrap();
    assert_eq!(check_result.unwrap(), "the same");
    assert!(stored.already_existed());
    assert_eq!(stored.size_bytes(), 42);
    let there = crc32c::crc32c(b"the same records, indexed by another build");
    assert_eq!(stored.crc32c(), there, "the receipt is of the object that is there");
}

#[tokio::test]
async fn what_will_not_pass_is_not_tried_again() {
    let (store, plan) = memory();
    plan.each_nth_put(1, Fault::Forbid);
    let error = put(&store, &object(TEXT)).await.unwrap_err();
    let PutError::Store { source, attempts: 1 } = error else { panic!("{error}") };
    assert_eq!(source.kind(), StoreErrorKind::Denied);
}

#[tokio::test]
async fn lesson_28_when_one_put_is_told_to_slow_down_all_do() {
    let store = Store::open(&Url::parse("memory:").unwrap()).unwrap();
    let timeouts = Timeouts { pause_first: 400 * MS, pause_max: 400 * MS, ..IMPATIENT };
    let (store, plan) = Faults::around(store.with_timeouts(timeouts));
    plan.next_puts([Fault::SlowDown]);
    let (object, deadline) = (object(TEXT), Instant::now() + Duration::from_secs(20));
    let key_of_first = key(1);
    let first = store.put(&key_of_first, &object, deadline, strict);
    let others = async {
        sleep(50 * MS).await;
        let puts = (2..20).map(|n| {
            let (store, object) = (&store, &object);
            async move { store.put(&key(n), object, deadline, strict).await }
        });
        futures::future::try_join_all(puts).await
    };
    let (first, others) = futures::future::join(first, others).await;
    assert_eq!((first.unwrap().stored.attempts(), others.unwrap().len()), (2, 18));
    let log = plan.counts.put_log.lock().unwrap();
    let (start, _) = log[0];
    let early = log.iter().skip(1).filter(|(at, _)| *at < start + 190 * MS).count();
    assert_eq!(early, 0, "nobody asks again before the pause is over, although only one was refused");
}

#[tokio::test]
async fn many_workers_that_store_the_same_make_one_object() {
    let (store, plan) = memory();
    plan.each_nth_put(3, Fault::LandAndLose);
    plan.puts_for(20 * MS, Fault::SlowDown);
    let object = object(TEXT);
    let puts = (0..16).map(|_| put(&store, &object));
    let stored = futures::future::try_join_all(puts).await.unwrap();
    let tags: std::collections::BTreeSet<_> = stored.iter().map(|put| put.stored.e_tag()).collect();
    assert_eq!(tags.len(), 1, "all hold a receipt for the same object");
    assert!(stored.iter().filter(|put| !put.stored.already_existed()).count() >= 1);
}

#[tokio::test]
async fn a_store_that_creates_a_key_twice_is_refused_at_the_start() {
    let (store, plan) = memory();
    store.probe().await.unwrap();
    plan.next_puts([Fault::None, Fault::SayCreated]);
    let refused = store.probe().await.unwrap_err().to_string();
    let want = "memory:///bundles/wal-indexer-probe/create-only was created twice: \
                this store does not honour create-only PUTs";
    assert_eq!(refused, want);
    plan.next_puts([Fault::Forbid]);
    assert!(store.probe().await.unwrap_err().to_string().contains("403"));
}

#[tokio::test]
async fn a_put_that_nobody_waits_for_any_more_sends_nothing_more() {
    let (store, plan) = memory();
    plan.each_nth_put(1, Fault::Fail);
    let given_up = timeout(60 * MS, put(&store, &object(TEXT))).await;
    assert!(given_up.is_err());
    let sent = plan.counts.puts.load(SeqCst);
    sleep(100 * MS).await;
    assert_eq!(plan.counts.puts.load(SeqCst), sent);
}

#[tokio::test]
async fn a_source_that_is_replaced_in_a_store_that_heeds_no_conditions_is_an_error() {
    let (store, plan) = memory();
    let path = Path::parse("bundles/segment").unwrap();
    let url = "memory:///bundles/segment";
    let roots = SourceRoots::of_store(store);
    for (replacement, size) in [("01234567XX", "the same size"), ("0123456789, longer", "longer")] {
        plan.inner.put(&path, PutPayload::from_static(b"0123456789")).await.unwrap();
        let source = roots.open(url, Some(10)).await.unwrap();
        plan.inner.put(&path, PutPayload::from(replacement.to_owned())).await.unwrap();
        plan.next_gets([Fault::Heedless]);
        let read: Result<Vec<Bytes>, SourceError> = source.read().try_collect().await;
        assert_eq!(read, Err(SourceError::Changed { url: url.to_owned() }), "{size}");
    }
}

#[tokio::test]
async fn a_source_is_read_to_its_end_although_some_answers_fail() {
    let (store, plan) = memory();
    let bytes: Vec<u8> = (0..20 << 20).map(|i: u32| (i >> 9) as u8).collect();
    let path = Path::parse("bundles/segment").unwrap();
    plan.inner.put(&path, bytes.clone().into()).await.unwrap();
    plan.next_gets([Fault::Fail, Fault::None, Fault::SlowDown, Fault::Hang, Fault::None, Fault::Fail]);
    let source = SourceRoots::of_store(store).open("memory:///bundles/segment", None).await.unwrap();
    let chunks: Vec<Bytes> = source.read().try_collect().await.unwrap();
    assert!(chunks.concat() == bytes, "in order, each byte once");
}
