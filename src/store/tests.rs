use std::time::Duration;

use tokio::time::Instant;

use super::disk::{FileOrigin, Synced};
use super::*;
use crate::ids::{LogId, OffsetRange, TopicPartition};

fn object(bytes: &'static [u8]) -> NewObject {
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    NewObject {
        parts: vec![Bytes::from_static(first), Bytes::from_static(rest)],
        size_bytes: bytes.len() as u64,
        crc32c: crc32c::crc32c(bytes),
        is_read_back: false,
    }
}

fn key(topic: &str, base: i64) -> BundleKey {
    let partition = TopicPartition::new(topic, 0).unwrap();
    let log_id = LogId::new("");
    let hash = KeyHash::new(&[1; 32], &log_id, &partition).hash16();
    BundleKey::new(partition, log_id, OffsetRange::new(base, base + 9).unwrap(), None, hash).unwrap()
}

async fn put(store: &Store, key: &BundleKey, object: &NewObject) -> Result<Put<()>, PutError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    store
        .put(key, object, deadline, |existing: Existing| async move {
            Err(Refused::Foreign { reason: format!("it has {} bytes", existing.size_bytes()) })
        })
        .await
}

fn open(url: &str) -> Store {
    Store::open(&Url::parse(url).unwrap()).unwrap()
}

#[tokio::test]
async fn what_is_put_is_read_listed_and_told_in_the_receipt() {
    let store = open("memory:///some/prefix");
    let (key, object) = (key("a/b", 10), object(b"0123456789"));
    let stored = put(&store, &key, &object).await.unwrap().stored;
    assert_eq!(stored.key(), &key);
    let (size, crc) = (stored.size_bytes(), stored.crc32c());
    assert_eq!((size, crc), (10, crc32c::crc32c(b"0123456789")));
    assert_eq!((stored.already_existed(), stored.attempts()), (false, 1));
    let url = format!("memory:///some/prefix/{}", key.to_string().replace('%', "%25"));
    assert_eq!(stored.url(), url);
    assert_eq!(store.get_range(&key, 2..5).await.unwrap(), "234");
    assert_eq!(store.get_ranges(&key, &[8..10, 0..1]).await.unwrap(), ["89", "0"]);
    assert_eq!(store.get(&key, 10).await.unwrap(), "0123456789");
    let listed = store.list(&KeyPrefix::all()).await.unwrap();
    assert_eq!(listed, [store.head(&key).await.unwrap()]);
    assert_eq!(listed[0].size_bytes, 10);
}

#[tokio::test]
async fn a_read_past_the_end_or_over_the_limit_is_an_error() {
    let store = open("memory:").with_timeouts(Timeouts { read_attempts_max: 1, ..Timeouts::default() });
    let key = key("t", 0);
    put(&store, &key, &object(b"0123456789")).await.unwrap();
    let cut = store.get_range(&key, 5..11).await.unwrap_err();
    assert_eq!(cut.cause(), &Cause::Length { expected: 6, got: 5 });
    let large = store.get(&key, 9).await.unwrap_err();
    assert_eq!(large.cause(), &Cause::TooLarge { size: 10, limit: 9 });
    let missing = store.get(&self::key("t", 1), 9).await.unwrap_err();
    assert_eq!(missing.kind(), StoreErrorKind::NotFound);
}

#[tokio::test]
async fn a_listing_knows_borders_of_segments_and_the_order_of_offsets() {
    let store = open("memory:///p");
    for (topic, base) in [("t", 100), ("t", 20), ("t", 3), ("tt", 0), ("t/x", 0)] {
        put(&store, &key(topic, base), &object(b"x")).await.unwrap();
    }
    let listed = store.list(&KeyPrefix::topic("t")).await.unwrap();
    let bases: Vec<_> = listed.iter().map(|listed| listed.key.range().first()).collect();
    assert_eq!(bases, [3, 20, 100]);
    assert_eq!(store.list(&KeyPrefix::all()).await.unwrap().len(), 5);
    assert_eq!(store.list(&KeyPrefix::topic("none")).await.unwrap(), []);
}

#[tokio::test]
async fn a_file_is_known_by_the_tag_that_its_put_was_answered_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&format!("file://{}", dir.path().display()));
    let key = key("topic", 0);
    let stored = put(&store, &key, &object(b"bytes")).await.unwrap().stored;
    let Location::File(root) = &*store.location else { panic!("a file store") };
    let file =
        Synced::default().sync_up_to(root, &root.join(key.to_string()), FileOrigin::SyncedWrite).unwrap();
    // If the two tags differ, every object is read back: then a release of `object_store` makes its tags in
    // another way.
    assert_eq!(Some(&*file.e_tag), stored.e_tag());
    assert_eq!(store.head(&key).await.unwrap().e_tag.as_deref(), stored.e_tag());
}

#[tokio::test]
async fn a_file_store_makes_its_directory_and_lists_no_staging_files() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new/root with space");
    let store = Store::open(&Url::from_directory_path(&root).unwrap()).unwrap();
    assert!(store.url().ends_with("/new/root%20with%20space"), "{}", store.url());
    assert_eq!(store.list(&KeyPrefix::all()).await.unwrap(), []);
    let key = key("..", 0);
    let stored = put(&store, &key, &object(b"bytes")).await.unwrap().stored;
    let file = root.canonicalize().unwrap().join(key.to_string());
    assert_eq!(std::fs::read(&file).unwrap(), b"bytes", "the key is the path");
    // A crash during a write leaves such a file.
    std::fs::write(format!("{}#1", file.display()), b"by").unwrap();
    let listed = store.list(&KeyPrefix::all()).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].e_tag.as_deref(), stored.e_tag());
    assert_eq!(Url::parse(stored.url()).unwrap().to_file_path().unwrap(), file);
}

#[tokio::test]
async fn the_same_again_is_the_same_object_and_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = Store::open(&Url::from_directory_path(dir.path()).unwrap()).unwrap();
    for store in [open("memory:"), file] {
        let key = key("t", 0);
        let first = put(&store, &key, &object(b"bytes")).await.unwrap().stored;
        let second = put(&store, &key, &object(b"bytes")).await.unwrap().stored;
        assert!(!first.already_existed() && second.already_existed());
        assert_eq!(first.e_tag(), second.e_tag(), "no second object");
        let taken = put(&store, &key, &object(b"other bytes")).await.unwrap_err();
        let want = PutError::Taken { url: store.url_of(&key), reason: "it has 5 bytes".to_owned() };
        assert_eq!(taken, want);
        assert_eq!(store.get(&key, 100).await.unwrap(), "bytes", "an object never changes");
    }
}

#[tokio::test]
async fn a_probe_passes_again_and_again_and_is_no_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let file = Store::open(&Url::from_directory_path(dir.path()).unwrap()).unwrap();
    for store in [open("memory:///prefix"), file] {
        store.probe().await.unwrap();
        store.probe().await.unwrap();
        assert_eq!(store.list(&KeyPrefix::all()).await.unwrap(), []);
    }
}

#[tokio::test]
async fn parts_that_do_not_add_up_are_not_stored() {
    let store = open("memory:");
    let object = NewObject { size_bytes: 6, ..object(b"bytes") };
    let refused = put(&store, &key("t", 0), &object).await.unwrap_err();
    assert!(matches!(refused, PutError::Sizes { parts_bytes: 5, size_bytes: 6, .. }), "{refused}");
    assert_eq!(store.list(&KeyPrefix::all()).await.unwrap(), []);
}

#[tokio::test]
async fn a_put_can_be_spawned() {
    let store = open("memory:");
    let stored = tokio::spawn(async move { put(&store, &key("t", 0), &object(b"bytes")).await });
    assert_eq!(stored.await.unwrap().unwrap().stored.attempts(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_a_deletion_takes_away_under_a_put_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Url::from_directory_path(dir.path()).unwrap()).unwrap();
    let store =
        store.with_timeouts(Timeouts { pause_first: Duration::from_millis(1), ..Timeouts::default() });
    let come_and_go = async |base: i64| {
        for round in 0..100 {
            let key = key("t", base);
            let stored =
                put(&store, &key, &object(b"bytes")).await.unwrap_or_else(|e| panic!("{round}: {e}"));
            assert_eq!(stored.stored.size_bytes(), 5);
            assert_eq!(store.delete(&key).await.unwrap(), Deleted::Now, "{round}");
        }
    };
    tokio::join!(come_and_go(0), come_and_go(10), come_and_go(20));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no empty directories are left");
}
