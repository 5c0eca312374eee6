use bytes::Bytes;

use super::*;
use crate::archive::testing::{Packed, fixture, fixtures, pack, pack_for, put_new, put_segment, store};
use crate::ids::TopicPartition;
use crate::store::KeyPrefix;

async fn verify_all(store: &Store) -> Outcome {
    let listed = store.list(&KeyPrefix::all()).await.expect("a listing");
    verify(store, &listed, VerifyOptions { all: true, ..VerifyOptions::default() }, |_| {})
        .await
        .expect("an outcome")
}

#[tokio::test]
async fn every_fixture_is_clean_and_every_record_is_found_by_what_it_holds() {
    for name in fixtures() {
        let store = store();
        let packed = put_segment(&store, &fixture(&name)).await;
        let outcome = verify_all(&store).await;
        assert_eq!(outcome.findings, [], "{name}");
        assert_eq!(outcome.bundles.len(), packed.len(), "{name}");
        assert_eq!(outcome.segments_whole, u64::from(!packed.is_empty()), "{name}");
        let (records, terms) = outcome.bundles.iter().fold((0, 0), |(r, t), b| (r + b.records, t + b.terms));
        let stated: u64 = packed.iter().map(|one| one.manifest.record_count).sum();
        assert_eq!(records, stated, "{name}");
        assert!(terms >= records, "{name}: {terms} terms of {records} records");
    }
}

/// Returns the findings for one bundle that may have other bytes than those that were packed.
async fn findings_of(packed: &Packed, object: Bytes) -> Vec<Finding> {
    let store = store();
    put_new(&store, &packed.key, &object).await;
    verify_all(&store).await.findings
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found_by_the_bundles_name() {
    let packed = &pack(&fixture("kafka/one-record.log"), "")[0];
    let sound = packed.object();
    assert_eq!(findings_of(packed, sound.clone()).await, []);
    for position in 0..sound.len() {
        let mut flipped = sound.to_vec();
        flipped[position] ^= 1 << (position % 8);
        let findings = findings_of(packed, flipped.into()).await;
        assert!(!findings.is_empty(), "byte {position} of {}", sound.len());
        assert!(findings.iter().all(|finding| finding.bundle == packed.key.to_string()));
    }
}

#[tokio::test]
async fn a_truncated_bundle_is_a_finding() {
    let packed = &pack(&fixture("kafka/one-record.log"), "")[0];
    for len in [0, 1, 1_000, 1_500, packed.object().len() - 1] {
        let findings = findings_of(packed, packed.object().slice(..len)).await;
        assert_eq!(findings.len(), 1, "{len} bytes: {findings:?}");
    }
}

#[tokio::test]
async fn the_same_bytes_under_two_names_are_two_whole_segments() {
    for name in ["kafka/zstd.log", "chronik/v1-then-v2.wal"] {
        let (store, source) = (store(), fixture(name));
        for topic in ["right", "wrong"] {
            let packed = pack_for(&source, &TopicPartition::new(topic, 0).expect("a partition"));
            for one in &packed {
                // Bundles of frames that name their partition are there already.
                if store.head(&one.key).await.is_err() {
                    put_new(&store, &one.key, &one.object()).await;
                }
            }
        }
        let outcome = verify_all(&store).await;
        assert_eq!((outcome.findings, outcome.segments_whole), (vec![], 2), "{name}");
    }
}

#[tokio::test]
async fn bundles_of_a_segment_that_are_missing_are_a_finding_only_where_all_should_be_there() {
    let store = store();
    let packed = pack(&fixture("chronik/v2-three-partitions.wal"), "");
    for one in &packed[..2] {
        put_new(&store, &one.key, &one.object()).await;
    }
    let outcome = verify_all(&store).await;
    assert!(outcome.findings[0].what.contains("has 3 bundles, 2 were given"), "{:?}", outcome.findings);
    let listed = store.list(&KeyPrefix::all()).await.expect("a listing");
    let outcome = verify(&store, &listed, VerifyOptions::default(), |_| {}).await.expect("an outcome");
    assert_eq!((outcome.findings, outcome.segments_partly), (vec![], 1));
}

#[tokio::test]
async fn a_bundle_that_claims_another_segments_hash_is_a_finding() {
    let forged = &crate::archive::testing::pack_claiming(&fixture("kafka/none.log"), [3; 32])[0];
    let findings = findings_of(forged, forged.object()).await;
    assert_eq!(findings[0].what, "the blocks together do not have the segment's sha256");
}

#[tokio::test]
async fn an_index_of_other_records_with_the_same_count_is_a_finding() {
    // Sound members in a sound tar, but the index is that of another segment.
    let (records, index) = (fixture("kafka/none.log"), fixture("kafka/gzip.log"));
    let packed = &crate::archive::testing::pack_with_index_of(&records, &index);
    let findings = findings_of(packed, packed.object()).await;
    assert!(
        findings.iter().any(|f| f.what.contains("other offsets or times for 100 records")),
        "{findings:?}"
    );
    assert!(findings.iter().any(|f| f.what.contains("not found by their keys")), "{findings:?}");
    assert!(findings.iter().any(|f| f.what.contains("not found by their values")), "{findings:?}");
}

#[tokio::test]
async fn a_bundle_that_is_listed_and_gone_is_a_finding() {
    let (full, empty) = (store(), store());
    put_segment(&full, &fixture("kafka/one-record.log")).await;
    let listed = full.list(&KeyPrefix::all()).await.expect("a listing");
    let outcome = verify(&empty, &listed, VerifyOptions::default(), |_| {}).await.expect("an outcome");
    assert!(outcome.findings[0].what.contains("not found"), "{:?}", outcome.findings);
}
