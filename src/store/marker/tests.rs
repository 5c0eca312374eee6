use bytes::Bytes;
use object_store::ObjectStoreExt;
use tokio::time::{Duration, Instant};
use url::Url;

use super::*;
use crate::ids::{LogId, OffsetRange, TopicPartition};
use crate::store::{Deleted, Existing, KeyHash, KeyPrefix, NewObject, Put, Refused};

const NOW_MS: i64 = 1_800_000_000_000;

/// The key of a bundle. `last` is not part of its marker's key.
fn key(base: i64, last: i64, log_id: &str) -> BundleKey {
    let (partition, log_id) = (TopicPartition::new("a/b", 7).unwrap(), LogId::new(log_id));
    let hash = KeyHash::new(&[1; 32], &log_id, &partition).hash16();
    BundleKey::new(partition, log_id, OffsetRange::new(base, last).unwrap(), None, hash).unwrap()
}

async fn put(store: &Store, key: &BundleKey) -> Result<Put<()>, PutError> {
    let object = NewObject {
        parts: vec![Bytes::from_static(b"bytes")],
        size_bytes: 5,
        crc32c: crc32c::crc32c(b"bytes"),
        is_read_back: false,
    };
    let refuse = async |_: Existing| Err(Refused::Foreign { reason: "another".to_owned() });
    store.put(key, &object, Instant::now() + Duration::from_secs(30), refuse).await
}

async fn listing(store: &Store) -> Listing {
    store.list_all(&KeyPrefix::all()).await.unwrap()
}

/// A store in memory and one on the disk.
fn stores() -> (tempfile::TempDir, [Store; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let file = Store::open(&Url::from_directory_path(dir.path()).unwrap()).unwrap();
    (dir, [Store::open(&Url::parse("memory:///p").unwrap()).unwrap(), file])
}

#[tokio::test]
async fn a_marker_hides_its_bundle_and_no_other_until_it_is_removed() {
    let (_dir, stores) = stores();
    for store in stores {
        let (hidden, others) = (key(10, 19, ""), [key(11, 19, ""), key(10, 19, "another")]);
        let marker = MarkerKey::of(&hidden);
        for key in [&hidden, &others[0], &others[1]] {
            put(&store, key).await.unwrap();
        }
        assert_eq!(store.hidden(&marker).await.unwrap(), None);
        let before = now_ms();
        let first = store.hide(&marker, HiddenReason::Expired).await.unwrap();
        assert!(!first.already && (before..=now_ms()).contains(&first.hidden_at_ms), "{first:?}");
        let again = store.hide(&marker, HiddenReason::Deleted).await.unwrap();
        assert_eq!(again, Hidden { already: true, ..first }, "the first one counts");
        let found = store.hidden(&marker).await.unwrap().unwrap();
        let wanted = Marker { reason: HiddenReason::Expired, hidden_at_ms: first.hidden_at_ms };
        assert_eq!(found, wanted);

        let listing = listing(&store).await;
        let listed = |bundles: &[Listed]| bundles.iter().map(|one| one.key.clone()).collect::<Vec<_>>();
        assert_eq!(listed(&listing.bundles), others);
        assert_eq!(store.list(&KeyPrefix::all()).await.unwrap(), listing.bundles);
        let [only] = &listing.markers[..] else { panic!("{listing:?}") };
        assert_eq!((&only.key, listed(&only.hides)), (&marker, vec![hidden.clone()]));
        assert!((only.stored_at_ms - first.hidden_at_ms).abs() < 60_000, "{only:?}");

        assert_eq!(store.unhide(&marker).await.unwrap(), Deleted::Now);
        assert_eq!(store.list(&KeyPrefix::all()).await.unwrap().len(), 3);
        assert!(!store.hide(&marker, HiddenReason::Deleted).await.unwrap().already);
    }
}

#[tokio::test]
async fn what_is_hidden_gets_no_receipt_whether_it_comes_before_or_after_the_marker() {
    let (_dir, stores) = stores();
    for store in stores {
        let (late, early) = (key(0, 9, ""), key(10, 19, ""));
        put(&store, &early).await.unwrap();
        for key in [&late, &early] {
            let hidden = store.hide(&MarkerKey::of(key), HiddenReason::Deleted).await.unwrap();
            let wanted = PutError::Hidden {
                url: store.url_of(key),
                hidden_at_ms: hidden.hidden_at_ms,
                reason: HiddenReason::Deleted,
            };
            assert_eq!(put(&store, key).await.unwrap_err(), wanted);
            assert_eq!(put(&store, key).await.unwrap_err(), wanted, "however often it is sent");
        }
        assert_eq!(listing(&store).await.bundles, []);
        for (key, existed) in [(&late, true), (&early, true)] {
            store.unhide(&MarkerKey::of(key)).await.unwrap();
            assert_eq!(put(&store, key).await.unwrap().stored.already_existed(), existed);
        }
    }
}

#[tokio::test]
async fn one_marker_hides_all_bundles_that_differ_only_in_what_it_does_not_name() {
    let store = Store::open(&Url::parse("memory:").unwrap()).unwrap();
    for last in [19, 29] {
        put(&store, &key(10, last, "")).await.unwrap();
    }
    store.hide(&MarkerKey::of(&key(10, 19, "")), HiddenReason::Deleted).await.unwrap();
    let listing = listing(&store).await;
    assert_eq!((listing.bundles.len(), listing.markers[0].hides.len()), (0, 2));
}

#[tokio::test]
async fn a_marker_of_any_contents_hides() {
    let store = Store::open(&Url::parse("memory:").unwrap()).unwrap();
    let large = vec![b' '; MARKER_BYTES_MAX as usize + 1];
    for (nth, contents) in [&b""[..], b"\xff", b"[1]", &large].into_iter().enumerate() {
        let key = key(nth as i64, 100, "");
        let marker = MarkerKey::of(&key);
        let path = store.path(&marker.to_string(), Operation::Put, "").unwrap();
        store.objects.put(&path, PutPayload::from(contents.to_vec())).await.unwrap();
        let found = store.hidden(&marker).await.unwrap().unwrap();
        assert_eq!(found.reason, HiddenReason::Other("unknown".to_owned()));
        assert!((now_ms() - found.hidden_at_ms).abs() < 60_000, "the store's time: {found:?}");
        let hidden = PutError::Hidden {
            url: store.url_of(&key),
            hidden_at_ms: found.hidden_at_ms,
            reason: found.reason,
        };
        assert_eq!(put(&store, &key).await.unwrap_err(), hidden);
    }
    assert_eq!(listing(&store).await.bundles, []);
}

#[test]
fn contents_of_later_releases_are_read_as_far_as_they_are_known() {
    const STORED_MS: i64 = NOW_MS - 5;
    let other = |name: &str| HiddenReason::Other(name.to_owned());
    for (contents, reason, hidden_at_ms) in [
        (r#"{"version":1,"reason":"deleted","hidden_at_ms":1700}"#, HiddenReason::Deleted, 1_700),
        (r#"{"version":1,"reason":"expired","hidden_at_ms":1700}"#, HiddenReason::Expired, 1_700),
        (r#"{"version":2,"reason":"merged","into":"a/b","hidden_at_ms":1700}"#, other("merged"), 1_700),
        (r#"{"reason":"deleted"}"#, HiddenReason::Deleted, STORED_MS),
        (r#"{"reason":"deleted","hidden_at_ms":1800000000000}"#, HiddenReason::Deleted, NOW_MS),
        (r#"{"reason":"deleted","hidden_at_ms":1800000000001}"#, HiddenReason::Deleted, STORED_MS),
        (r#"{"reason":"deleted","hidden_at_ms":-1}"#, HiddenReason::Deleted, STORED_MS),
        (r#"{"reason":"deleted","hidden_at_ms":"1700"}"#, HiddenReason::Deleted, STORED_MS),
        (r#"{"reason":"\u001b[31m","hidden_at_ms":1700}"#, other("unknown"), 1_700),
        (r#"{"hidden_at_ms":1700}"#, other("unknown"), 1_700),
        ("{", other("unknown"), STORED_MS),
    ] {
        let marker = Marker { reason, hidden_at_ms };
        assert_eq!(Marker::read(contents.as_bytes(), STORED_MS, NOW_MS), marker, "{contents}");
    }
    let written = Marker { reason: HiddenReason::Expired, hidden_at_ms: 1_700 };
    assert_eq!(Marker::read(written.to_json().as_bytes(), STORED_MS, NOW_MS), written);
}
