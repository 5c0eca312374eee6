//! One suite for all kinds of stores: each of them must do what the project relies on.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use url::Url;
use wal_indexer::ids::{LogId, OffsetRange, TopicPartition};
use wal_indexer::store::{
    BundleKey, Cause, Deleted, Existing, HiddenReason, KeyHash, KeyPrefix, MarkerKey, NewObject, Put,
    PutError, RANGE_BYTES, Refused, SourceError, SourceRoots, Store, StoreErrorKind,
};

use crate::faults::{Fault, Faults, parts};
use crate::servers::{Server, s3_settings};

fn key(topic: &str, log_id: &str, base: i64) -> BundleKey {
    let (partition, log_id) = (TopicPartition::new(topic, 3).unwrap(), LogId::new(log_id));
    let hash = KeyHash::new(&[7; 32], &log_id, &partition).hash16();
    let range = OffsetRange::new(base, base + 99).unwrap();
    BundleKey::new(partition, log_id, range, Some((1_700_000_000_000, 1_700_000_000_001)), hash).unwrap()
}

fn object(bytes: &[u8]) -> NewObject {
    let crc32c = crc32c::crc32c(bytes);
    NewObject { parts: parts(bytes, 5), size_bytes: bytes.len() as u64, crc32c, is_read_back: false }
}

async fn put(store: &Store, key: &BundleKey, object: &NewObject) -> Result<Put<()>, PutError> {
    let refuse = async |existing: Existing| {
        // The check reads a part of the existing object.
        let bytes = existing.get_range(0..existing.size_bytes().min(5)).await?;
        Err(Refused::Foreign { reason: format!("it begins with {bytes:?}") })
    };
    store.put(key, object, Instant::now() + Duration::from_secs(60), refuse).await
}

/// Returns bytes whose pattern does not repeat at a power of two.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ (i / 7919) as u8).collect()
}

/// Runs the suite. The store must be empty.
async fn check(store: Store) {
    store.probe().await.unwrap();
    store.probe().await.unwrap();
    assert_eq!(store.list(&KeyPrefix::all()).await.unwrap(), [], "a probe is no bundle");

    names_of_all_sorts_come_back_from_a_listing(&store).await;
    large_and_empty_objects_come_back_whole(&store).await;
    a_second_put_makes_no_second_object(&store).await;
    workers_at_the_same_time_make_one_object(&store).await;
    what_is_missing_or_past_the_end_is_an_error(&store).await;
    lost_answers_are_settled(&store).await;
    sources_are_pinned(&store).await;
    what_is_deleted_is_gone_and_can_be_made_again(&store).await;
    bytes_that_are_not_those_of_the_checksum_get_no_receipt(&store).await;
    what_is_hidden_is_not_listed_and_gets_no_receipt(&store).await;
}

async fn names_of_all_sorts_come_back_from_a_listing(store: &Store) {
    let mut keys = BTreeSet::new();
    for topic in
        ["orders", "orders.eu", ".", "..", "a/b", "a%2Fb", "a b+c", "héllo", "#1", "t?x=y&z", "~'()*!"]
    {
        for log_id in ["", "..", "log/1"] {
            for base in [0, 100, 20_000_000_000] {
                let key = key(topic, log_id, base);
                let text = key.to_string();
                let stored = put(store, &key, &object(text.as_bytes())).await.unwrap().stored;
                assert!(!stored.already_existed(), "{text}");
                assert_eq!(store.get(&key, 1_000).await.unwrap(), text);
                keys.insert(key);
            }
        }
    }
    let listed = store.list(&KeyPrefix::all()).await.unwrap();
    assert!(listed.iter().map(|listed| &listed.key).eq(&keys), "all of them, in order, and nothing else");
    for listed in &listed {
        assert_eq!(listed.size_bytes, listed.key.to_string().len() as u64);
        assert_eq!(listed, &store.head(&listed.key).await.unwrap());
    }
    let list = async |prefix| -> Vec<BundleKey> {
        store.list(&prefix).await.unwrap().into_iter().map(|listed| listed.key).collect()
    };
    let of_orders: Vec<_> = keys.iter().filter(|key| key.partition().topic() == "orders").cloned().collect();
    assert_eq!(list(KeyPrefix::topic("orders")).await, of_orders, "whole segments: not orders.eu");
    assert_eq!(list(KeyPrefix::partition(of_orders[0].partition())).await, of_orders);
    let log = list(KeyPrefix::log(of_orders[0].partition(), &LogId::new(".."))).await;
    assert_eq!(log.len(), 3);
    assert_eq!(list(KeyPrefix::topic("order")).await, []);
}

async fn large_and_empty_objects_come_back_whole(store: &Store) {
    for (base, len) in [(0, 0), (1, 1), (2, 24 << 20)] {
        let (key, bytes) = (key("sizes", "", base), bytes(len));
        let stored = put(store, &key, &object(&bytes)).await.unwrap().stored;
        assert_eq!((stored.size_bytes(), stored.crc32c()), (len as u64, crc32c::crc32c(&bytes)));
        assert_eq!(stored.e_tag(), store.head(&key).await.unwrap().e_tag.as_deref());
        assert!(store.get(&key, len as u64).await.unwrap() == bytes);
    }
    let (key, bytes) = (key("sizes", "", 2), bytes(24 << 20));
    let ranges = [0..10, 5_000_000..9_000_000, (24 << 20) - 1..24 << 20];
    let got = store.get_ranges(&key, &ranges).await.unwrap();
    for (range, got) in ranges.into_iter().zip(got) {
        assert!(got == bytes[range.start as usize..range.end as usize]);
    }
}

async fn a_second_put_makes_no_second_object(store: &Store) {
    let (key, bytes) = (key("twice", "", 0), bytes(3 << 20));
    let first = put(store, &key, &object(&bytes)).await.unwrap().stored;
    let again = put(store, &key, &object(&bytes)).await.unwrap().stored;
    assert!(!first.already_existed() && again.already_existed());
    assert_eq!(first.e_tag(), again.e_tag());
    let taken = put(store, &key, &object(b"others")).await.unwrap_err();
    let PutError::Taken { reason, .. } = taken else { panic!("{taken}") };
    assert_eq!(reason, format!("it begins with {:?}", Bytes::copy_from_slice(&bytes[..5])));
    assert!(store.get(&key, 4 << 20).await.unwrap() == bytes);
    assert_eq!(store.list(&KeyPrefix::topic("twice")).await.unwrap().len(), 1);
}

async fn workers_at_the_same_time_make_one_object(store: &Store) {
    let (key, bytes) = (key("race", "", 0), bytes(2 << 20));
    let object = object(&bytes);
    let puts = futures::future::join_all((0..8).map(|_| put(store, &key, &object))).await;
    let stored: Vec<_> = puts.into_iter().map(|put| put.unwrap().stored).collect();
    let created = stored.iter().filter(|stored| !stored.already_existed()).count();
    assert_eq!(created, 1, "one made it, the others found it");
    let tags: BTreeSet<_> = stored.iter().map(|stored| stored.e_tag()).collect();
    assert_eq!(tags.len(), 1, "and all hold a receipt for it");
}

async fn what_is_missing_or_past_the_end_is_an_error(store: &Store) {
    let (there, missing) = (key("errors", "", 0), key("errors", "", 1));
    put(store, &there, &object(b"0123456789")).await.unwrap();
    assert_eq!(store.head(&missing).await.unwrap_err().kind(), StoreErrorKind::NotFound);
    assert_eq!(store.get(&missing, 9).await.unwrap_err().kind(), StoreErrorKind::NotFound);
    assert_eq!(store.get_range(&missing, 0..9).await.unwrap_err().kind(), StoreErrorKind::NotFound);
    let error = store.get_range(&there, 5..11).await.unwrap_err();
    assert!(matches!(error.cause(), Cause::Length { expected: 6, got: 5 } | Cause::Client(_)), "{error}");
    assert!(store.get_range(&there, 10..11).await.is_err());
}

async fn lost_answers_are_settled(store: &Store) {
    let (store, plan) = Faults::around(store.clone());
    for (base, fault, attempts) in [
        (0, Fault::LandAndLose, 1),
        (1, Fault::SayExists, 2),
        (2, Fault::SayCreated, 2),
        (3, Fault::SlowDown, 2),
    ] {
        plan.next_puts([fault]);
        let key = key("lost", "", base);
        let stored = put(&store, &key, &object(b"bytes")).await.unwrap().stored;
        assert_eq!((stored.already_existed(), stored.attempts()), (false, attempts), "{fault:?}");
        assert_eq!(store.get(&key, 5).await.unwrap(), "bytes");
    }
    plan.next_puts([Fault::ForeignFirst]);
    let taken = put(&store, &key("lost", "", 4), &object(b"bytes")).await.unwrap_err();
    assert!(matches!(taken, PutError::Taken { .. }), "{taken}");
}

async fn sources_are_pinned(store: &Store) {
    let (key, bytes) = (key("source", "", 0), bytes(5 * RANGE_BYTES as usize / 2));
    put(store, &key, &object(&bytes)).await.unwrap();
    let roots = SourceRoots::of_store(store.clone());
    let url = store.url_of(&key);
    let source = roots.open(&url, Some(bytes.len() as u64)).await.unwrap();
    let chunks: Vec<Bytes> = source.read().try_collect().await.unwrap();
    assert!(chunks.concat() == bytes);
    let error = roots.open(&url, Some(1)).await.unwrap_err();
    assert!(matches!(error, SourceError::SizeMismatch { declared: 1, .. }), "{error}");
    let missing = roots.open(&format!("{url}x"), None).await.unwrap_err();
    assert_eq!(missing, SourceError::NotFound { url: format!("{url}x") });
    let (parent, _) = store.url().rsplit_once('/').unwrap();
    let outside = roots.open(&format!("{parent}/another/object"), None).await.unwrap_err();
    assert_eq!(outside, SourceError::OutsideRoots);
}

async fn what_is_deleted_is_gone_and_can_be_made_again(store: &Store) {
    let keys = [0, 1].map(|base| key("a%2Fb c", "gone", base));
    for key in &keys {
        put(store, key, &object(b"bytes")).await.unwrap();
    }
    assert_eq!(store.delete(&keys[0]).await.unwrap(), Deleted::Now);
    assert_eq!(store.head(&keys[0]).await.unwrap_err().kind(), StoreErrorKind::NotFound);
    // Some stores do not report that the object did not exist.
    store.delete(&keys[0]).await.unwrap();
    let left = store.list(&KeyPrefix::topic("a%2Fb c")).await.unwrap();
    assert_eq!(left.iter().map(|one| &one.key).collect::<Vec<_>>(), [&keys[1]]);
    let again = put(store, &keys[0], &object(b"bytes")).await.unwrap().stored;
    assert!(!again.already_existed());
    assert_eq!(store.get(&keys[0], 5).await.unwrap(), "bytes");
}

async fn bytes_that_are_not_those_of_the_checksum_get_no_receipt(store: &Store) {
    let sent = NewObject { crc32c: 1, is_read_back: true, ..object(b"bytes") };
    let refused = put(store, &key("orders", "read-back", 0), &sent).await.unwrap_err();
    assert!(matches!(refused, PutError::Corrupt(_)), "{refused}");
}

async fn what_is_hidden_is_not_listed_and_gets_no_receipt(store: &Store) {
    let keys = [0, 1, 2].map(|base| key("a%2Fb #c", "hidden/..", base));
    for key in &keys[..2] {
        put(store, key, &object(b"bytes")).await.unwrap();
    }
    // The last one does not exist yet. Workers at the same time make one marker.
    for key in &keys[1..] {
        let marker = MarkerKey::of(key);
        assert_eq!(store.hidden(&marker).await.unwrap(), None);
        let hides = (0..8).map(|_| store.hide(&marker, HiddenReason::Deleted));
        let hidden = futures::future::try_join_all(hides).await.unwrap();
        assert_eq!(hidden.iter().filter(|hidden| !hidden.already).count(), 1, "{hidden:?}");
        let found = store.hidden(&marker).await.unwrap().unwrap();
        assert!(
            hidden.iter().all(|hidden| hidden.hidden_at_ms == found.hidden_at_ms),
            "{hidden:?} {found:?}"
        );
        let PutError::Hidden { hidden_at_ms, .. } = put(store, key, &object(b"bytes")).await.unwrap_err()
        else {
            panic!("a receipt for what is hidden")
        };
        assert_eq!(hidden_at_ms, found.hidden_at_ms);
    }
    let listing = store.list_all(&KeyPrefix::topic("a%2Fb #c")).await.unwrap();
    assert_eq!(listing.bundles.iter().map(|one| &one.key).collect::<Vec<_>>(), [&keys[0]]);
    let hidden = listing.markers.iter().flat_map(|marker| &marker.hides).map(|one| &one.key);
    assert_eq!(hidden.collect::<Vec<_>>(), [&keys[1], &keys[2]]);
    let found = |key: &BundleKey| {
        let marker = MarkerKey::of(key);
        async move { store.find(&marker).await.unwrap().map(|found| found.key) }
    };
    assert_eq!(found(&keys[0]).await.as_ref(), Some(&keys[0]), "by the front of its key");
    assert_eq!(found(&keys[1]).await, None, "it is hidden");
    assert_eq!(found(&key("a%2Fb #c", "another log", 0)).await, None);
    for key in &keys[1..] {
        store.unhide(&MarkerKey::of(key)).await.unwrap();
        assert_eq!(found(key).await.as_ref(), Some(key));
        assert!(put(store, key, &object(b"bytes")).await.unwrap().stored.already_existed());
    }
    assert_eq!(store.list(&KeyPrefix::topic("a%2Fb #c")).await.unwrap().len(), 3);
}

#[tokio::test]
async fn memory_keeps_what_a_store_must_keep() {
    check(Store::open(&Url::parse("memory:///some/prefix").unwrap()).unwrap()).await;
}

#[tokio::test]
async fn the_local_file_system_keeps_what_a_store_must_keep() {
    let dir = tempfile::tempdir().unwrap();
    let url = Url::from_directory_path(dir.path().join("new/root")).unwrap();
    check(Store::open(&url).unwrap()).await;
}

#[tokio::test]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
async fn s3_keeps_what_a_store_must_keep() {
    let server = Server::s3();
    check(server.store("some/prefix")).await;
    check(server.store("")).await;
}

#[tokio::test]
#[ignore = "needs Azurite (tests/install-servers.sh); make test runs it"]
async fn azure_keeps_what_a_store_must_keep() {
    let server = Server::azure();
    check(server.store("some/prefix")).await;
}

#[tokio::test]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
async fn wrong_credentials_are_an_error_at_once_and_stay_out_of_it() {
    let server = Server::s3();
    let mut settings = s3_settings(server.port());
    settings.push(("AWS_SECRET_ACCESS_KEY", "wrong-and-not-to-be-seen".to_owned()));
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let store = Store::open_with(&server.url("x"), &settings).unwrap();
    let error = put(&store, &key("t", "", 0), &object(b"bytes")).await.unwrap_err();
    let PutError::Store { ref source, attempts: 1 } = error else { panic!("{error}") };
    assert_eq!(source.kind(), StoreErrorKind::Denied);
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("not-to-be-seen") && !text.contains("test-id"), "{text}");
    }
}

/// A bit of the first body with these bytes is flipped on its way to the server.
const MARK: &[u8] = b"flip a bit of this, once!";

#[tokio::test]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
async fn a_bit_that_flips_on_the_way_to_s3_is_noticed_by_the_store_and_sent_again() {
    let server = Server::s3();
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = proxy.local_addr().unwrap().port();
    tokio::spawn(flip_once(proxy, server.port()));
    let settings = s3_settings(port);
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let store = Store::open_with(&server.url("flip"), &settings).unwrap();
    let bytes = MARK.repeat(1_000);
    let stored = put(&store, &key("t", "", 0), &object(&bytes)).await.unwrap().stored;
    assert_eq!(stored.attempts(), 2, "the first was refused for its checksum");
    assert!(store.get(stored.key(), 1 << 20).await.unwrap() == bytes);
}

async fn flip_once(proxy: TcpListener, server: u16) {
    let mut flipped = false;
    loop {
        let (mut client, _) = proxy.accept().await.unwrap();
        let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = async {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                let found = buffer[..n].windows(MARK.len()).position(|window| window == MARK);
                if let Some(at) = found.filter(|_| !flipped) {
                    buffer[at] ^= 1;
                    flipped = true;
                }
                if to_server.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
        };
        // One connection after the other is enough for one PUT.
        tokio::select! {
            () = up => {}
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
    }
}
