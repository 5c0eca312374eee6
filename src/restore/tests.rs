use super::*;
use crate::archive::testing::{fixture, fixtures, pack_for, put_new, put_segment, store};
use crate::ids::TopicPartition;

fn keys(packed: &[crate::archive::testing::Packed]) -> Vec<BundleKey> {
    packed.iter().map(|one| one.key.clone()).collect()
}

#[tokio::test]
async fn every_fixture_is_restored_byte_for_byte() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in fixtures() {
        let (store, source, out) = (store(), fixture(&name), dir.path().join("out"));
        let mut keys = keys(&put_segment(&store, &source).await);
        keys.reverse();
        let restored = restore(&store, &keys, &out, |_, _| {}).await;
        if source.is_empty() {
            assert!(matches!(restored, Err(RestoreError::NoBundles)), "{name}: {restored:?}");
            continue;
        }
        assert_eq!(restored.expect(&name).bundles, keys.len());
        assert_eq!(std::fs::read(&out).expect(&name), source, "{name}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 1, "nothing else is left");
}

#[tokio::test]
async fn a_torn_tail_is_restored_too() {
    let (store, source) = (store(), fixture("chronik/v2-three-partitions.wal"));
    let source = source.slice(..source.len() - 7);
    let keys = keys(&put_segment(&store, &source).await);
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let restored = restore(&store, &keys, &out, |_, _| {}).await.expect("restored");
    assert!(restored.segment.torn_tail_bytes > 0);
    assert_eq!(std::fs::read(&out).expect("a file"), source);
}

#[tokio::test]
async fn missing_foreign_and_repeated_bundles_are_refused_and_leave_no_file() {
    let store = store();
    let three = keys(&put_segment(&store, &fixture("chronik/v2-three-partitions.wal")).await);
    let other = keys(&put_segment(&store, &fixture("kafka/zstd.log")).await);
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let refused =
        async |keys: &[BundleKey]| restore(&store, keys, &out, |_, _| {}).await.expect_err("refused");
    let missing = refused(&three[..2]).await;
    assert!(matches!(missing, RestoreError::Missing { needed: 3, given: 2 }), "{missing}");
    let foreign = refused(&[three[0].clone(), three[1].clone(), other[0].clone()]).await;
    assert!(matches!(foreign, RestoreError::OtherSegment { .. }), "{foreign}");
    let repeated = refused(&[three[0].clone(), three[1].clone(), three[1].clone()]).await;
    assert!(matches!(repeated, RestoreError::SamePartition { .. }), "{repeated}");
    let named_otherwise =
        pack_for(&fixture("kafka/zstd.log"), &TopicPartition::new("other", 0).expect("a name"));
    put_new(&store, &named_otherwise[0].key, &named_otherwise[0].object()).await;
    let twice = refused(&[other[0].clone(), named_otherwise[0].key.clone()]).await;
    assert!(matches!(twice, RestoreError::TooMany { needed: 1, given: 2 }), "{twice}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
}

#[tokio::test]
async fn bytes_that_are_not_the_segments_never_get_the_files_name() {
    let (store, source) = (store(), fixture("kafka/none.log"));
    let forged = &crate::archive::testing::pack_claiming(&source, [9; 32])[0];
    put_new(&store, &forged.key, &forged.object()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    std::fs::write(&out, b"what was there").expect("a file");
    let error =
        restore(&store, std::slice::from_ref(&forged.key), &out, |_, _| {}).await.expect_err("refused");
    assert!(matches!(error, RestoreError::HashDiffers { .. }), "{error}");
    assert_eq!(std::fs::read(&out).expect("a file"), b"what was there");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 1);
}

#[tokio::test]
async fn a_damaged_bundle_is_named() {
    let (store, source) = (store(), fixture("kafka/gzip.log"));
    let packed = &crate::archive::testing::pack(&source, "")[0];
    let mut object = packed.object().to_vec();
    let records =
        object.windows(4).position(|bytes| bytes == [0x28, 0xb5, 0x2f, 0xfd]).expect("a zstd frame");
    object[records + 100] ^= 1;
    put_new(&store, &packed.key, &object.into()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let error = restore(&store, std::slice::from_ref(&packed.key), &dir.path().join("out"), |_, _| {})
        .await
        .expect_err("damaged");
    assert!(error.to_string().contains(&packed.key.to_string()), "{error}");
}
