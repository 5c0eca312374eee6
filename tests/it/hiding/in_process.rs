//! The same with a store that fails, so in this process.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use object_store::ObjectStoreExt;
use serde_json::json;
use wal_indexer::hidden::purge::{Outcome, Plan, Progress, Purged};
use wal_indexer::hidden::{Scope, find};
use wal_indexer::ingest::{Ingest, IngestError};
use wal_indexer::proto::v1::IndexSegmentResponse;
use wal_indexer::store::{Deleted, HiddenReason, KeyPrefix, PutError, Store, StoreErrorKind};

use super::{COUNT, hours_ago, marker_of};
use crate::faults::{Fault, Faults};
use crate::reading::lines;
use crate::receipts::{self, Segment, already_existed, ingest, keys_of, memory};

const DAY: Duration = Duration::from_secs(86_400);

/// A write path in this process, on a store in memory with scripted faults.
struct InProcess {
    ingest: Ingest,
    store: Store,
    faults: Arc<Faults>,
}

impl InProcess {
    /// Stores a segment. Returns its key, too.
    async fn new() -> (Self, String) {
        let (store, faults) = Faults::around(memory());
        let here = Self { ingest: ingest(store.clone()), store, faults };
        let key = keys_of(&here.send().await.expect("a receipt")).remove(0);
        (here, key)
    }

    async fn send(&self) -> Result<IndexSegmentResponse, IngestError> {
        let segment = Segment::new(lines(0, COUNT, "common"), Some(("orders", 3)));
        receipts::send(&self.ingest, &segment, 1 << 20).await
    }

    /// Writes a marker that is this many hours old.
    async fn delete(&self, key: &str, hours: i64) {
        let path = format!("bundles/{}", marker_of(key)).into();
        let contents = json!({"reason": "deleted", "hidden_at_ms": hours_ago(hours)}).to_string();
        self.faults.inner.put(&path, contents.into()).await.expect("a marker");
    }

    /// Returns the names of all objects.
    async fn names(&self) -> Vec<String> {
        let listing = self.store.list_all(&KeyPrefix::all()).await.expect("a listing");
        let bundles = listing.markers.iter().flat_map(|marker| &marker.hides).chain(&listing.bundles);
        let bundles = bundles.map(|bundle| bundle.key.to_string());
        bundles.chain(listing.markers.iter().map(|marker| marker.key.to_string())).collect()
    }

    async fn plan(&self) -> Plan {
        Plan::new(&self.store, &Scope::default(), DAY).await.expect("a listing")
    }
}

#[tokio::test]
async fn purge_deletes_the_bundle_then_the_marker_and_a_failure_between_shows_nothing_again() {
    let (here, key) = InProcess::new().await;
    here.delete(&key, 30).await;
    let marker = marker_of(&key).to_string();
    // The bundle cannot be deleted. Both stay.
    here.faults.next_deletes([Fault::Forbid]);
    let plan = here.plan().await;
    let failed = plan.apply(&here.store, None, |progress| {
        assert!(matches!(progress, Progress::Failed(..)), "{progress:?}");
    });
    let failed = failed.await;
    assert_eq!((failed.left, failed.markers, failed.failures[0].kind()), (1, 0, StoreErrorKind::Denied));
    assert_eq!(here.names().await, [key.clone(), marker.clone()]);
    // The marker cannot be deleted.
    here.faults.next_deletes([Fault::None, Fault::Forbid]);
    let failed = here.plan().await.apply(&here.store, None, |_| {}).await;
    assert_eq!((failed.left, failed.markers), (1, 0));
    assert_eq!(here.names().await, [marker], "first the bundle, last the marker");
    // The next run continues.
    let plan = here.plan().await;
    let outcome = plan.apply(&here.store, None, |progress| {
        let Progress::Done(_, Purged::Deleted { bundles, .. }) = progress else { panic!("{progress:?}") };
        assert_eq!(bundles, 0);
    });
    assert_eq!(outcome.await, Outcome { markers: 1, ..Outcome::default() });
    assert_eq!(here.names().await, [""; 0]);
}

#[tokio::test]
async fn what_is_brought_back_between_a_purges_plan_and_its_deletion_stays() {
    let (here, key) = InProcess::new().await;
    here.delete(&key, 30).await;
    let plan = here.plan().await;
    let marker = marker_of(&key);
    assert_eq!(here.store.unhide(&marker).await.expect("an answer"), Deleted::Now);
    let outcome = plan.apply(&here.store, None, |_| {}).await;
    assert_eq!(outcome, Outcome { changed: 1, ..Outcome::default() });
    // Hidden again, it has all of its time again.
    here.store.hide(&marker, HiddenReason::Deleted).await.expect("a marker");
    let outcome = plan.apply(&here.store, None, |_| {}).await;
    assert_eq!(outcome, Outcome { changed: 1, ..Outcome::default() });
    assert_eq!(here.names().await, [key, marker.to_string()]);
    let found = find(&here.store, &Scope::default()).await.expect("a listing");
    assert_eq!(found[0].marker.reason, HiddenReason::Deleted);
}

#[tokio::test]
async fn a_receipt_is_given_only_after_the_store_said_that_there_is_no_marker() {
    let (here, key) = InProcess::new().await;
    assert_eq!(here.faults.counts.marker_gets.load(SeqCst), 1, "one request for each bundle");
    // A temporary failure is retried.
    here.faults.next_marker_gets([Fault::Fail, Fault::SlowDown]);
    assert_eq!(already_existed(&here.send().await.expect("a receipt")), [true]);
    // The marker is looked up before the object. Between the two a purge may delete both, never the reverse.
    let reads = here.faults.counts.gets.load(SeqCst);
    here.faults.next_marker_gets([Fault::Forbid]);
    let IngestError::Put { source: PutError::Store { source, .. }, .. } =
        here.send().await.expect_err("no receipt")
    else {
        panic!("another error")
    };
    assert_eq!(source.kind(), StoreErrorKind::Denied);
    assert!(source.to_string().contains(&marker_of(&key).to_string()), "{source}");
    assert_eq!(here.faults.counts.gets.load(SeqCst), reads);
}

#[tokio::test]
async fn a_marker_whose_put_was_not_answered_clearly_is_settled_by_reading() {
    for (faults, already) in [
        (&[][..], false),
        (&[Fault::SlowDown, Fault::Fail], false),
        (&[Fault::LandAndLose], false),
        (&[Fault::Fail, Fault::LandAndLose], false),
        (&[Fault::SayExists], false),
        (&[Fault::SayCreated], false),
        (&[Fault::ForeignFirst], true),
    ] {
        let (here, key) = InProcess::new().await;
        here.faults.next_puts(faults.iter().copied());
        let hidden = here.store.hide(&marker_of(&key), HiddenReason::Deleted).await;
        let hidden = hidden.unwrap_or_else(|error| panic!("{faults:?}: {error}"));
        assert_eq!(hidden.already, already, "{faults:?}");
        let found = here.store.hidden(&marker_of(&key)).await.expect("an answer").expect("a marker");
        assert_eq!(found.hidden_at_ms, hidden.hidden_at_ms, "{faults:?}");
        assert_eq!(found.reason == HiddenReason::Deleted, !already, "{faults:?}");
        assert_eq!(here.store.list(&KeyPrefix::all()).await.expect("a listing"), [], "{faults:?}");
    }
    let (here, key) = InProcess::new().await;
    here.faults.next_puts([Fault::Forbid]);
    let denied = here.store.hide(&marker_of(&key), HiddenReason::Deleted).await.expect_err("no marker");
    assert_eq!(denied.kind(), StoreErrorKind::Denied);
    // Nothing says that it is hidden, so nothing may be told to have been deleted.
    here.faults.next_puts([Fault::SayCreated; 5]);
    let denied = here.store.hide(&marker_of(&key), HiddenReason::Deleted).await.expect_err("no marker");
    assert_eq!(denied.kind(), StoreErrorKind::NotFound);
    assert_eq!(here.names().await, [key]);
}

#[tokio::test]
async fn a_segment_of_several_partitions_gets_no_receipt_if_one_of_them_is_hidden() {
    let (store, _) = Faults::around(memory());
    let ingest = ingest(store.clone());
    let segment = Segment::of_three_partitions();
    let keys = keys_of(&receipts::send(&ingest, &segment, 1 << 20).await.expect("a receipt"));
    store.hide(&marker_of(&keys[1]), HiddenReason::Expired).await.expect("a marker");
    let error = receipts::send(&ingest, &segment, 1 << 20).await.expect_err("no receipt");
    let IngestError::Put { key, source: PutError::Hidden { reason, .. } } = error else {
        panic!("{error}");
    };
    assert_eq!((key, reason), (keys[1].clone(), HiddenReason::Expired));
}
