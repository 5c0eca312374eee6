use bytes::Bytes;

use super::*;
use crate::archive::testing::{Packed, fixture, pack, put, put_new, store};
use crate::store::PutError;

/// What becomes of a put where `object` has the key of `packed`.
async fn settle(packed: &Packed, object: &Bytes, built: &Manifest) -> Result<Option<u64>, PutError> {
    let store = store();
    put_new(&store, &packed.key, object).await;
    // Other bytes than those that lie there, so that the judge is asked.
    let sent = Bytes::from_static(b"what another version of this program would have made of the segment");
    put(&store, &packed.key, &sent, |existing| judge(existing, built)).await
}

#[tokio::test]
async fn a_sound_bundle_of_the_same_source_stands_and_its_footer_is_found() {
    for name in ["kafka/transactional.log", "chronik/v2-three-partitions.wal", "chronik/v1-then-v2.wal"] {
        for packed in pack(&fixture(name), "log") {
            let settled = settle(&packed, &packed.object(), &packed.manifest).await;
            assert_eq!(settled, Ok(Some(packed.built.footer_offset)), "{name}");
        }
    }
}

#[tokio::test]
async fn a_bundle_with_a_changed_byte_does_not_stand() {
    let packed = &pack(&fixture("kafka/one-record.log"), "")[0];
    let sound = packed.object();
    for position in (0..sound.len()).step_by(61).chain(sound.len() - 1_100..sound.len()) {
        let mut changed = sound.to_vec();
        changed[position] ^= 0x10;
        let settled = settle(packed, &changed.into(), &packed.manifest).await;
        assert!(matches!(settled, Err(PutError::Taken { .. })), "byte {position}: {settled:?}");
    }
    for len in [0, 1, 512, sound.len() - 512, sound.len() - 1] {
        let settled = settle(packed, &sound.slice(..len), &packed.manifest).await;
        assert!(matches!(settled, Err(PutError::Taken { .. })), "{len} bytes: {settled:?}");
    }
}

#[tokio::test]
async fn a_sound_bundle_that_counts_otherwise_does_not_stand() {
    let packed = &pack(&fixture("kafka/transactional.log"), "")[0];
    type Change = fn(&mut Manifest);
    let changes: [(&str, Change); 8] = [
        ("records", |e| e.record_count += 1),
        ("control records", |e| e.control_record_count -= 1),
        ("batches", |e| e.batch_count += 1),
        ("torn bytes", |e| e.segment.torn_tail_bytes += 1),
        ("bytes of the source", |e| e.records.plain_bytes -= 1),
        ("times", |e| e.max_timestamp_ms = None),
        ("sha256", |e| e.segment.sha256[31] ^= 1),
        ("log id", |e| e.log_id = "another".into()),
    ];
    for (what, change) in changes {
        let mut built = packed.manifest.clone();
        change(&mut built);
        let settled = settle(packed, &packed.object(), &built).await;
        assert!(
            matches!(&settled, Err(PutError::Taken { reason, .. }) if reason.contains(what)),
            "{what}: {settled:?}"
        );
    }
}

#[tokio::test]
async fn a_bundle_whose_manifest_claims_the_hash_of_other_bytes_does_not_stand() {
    let source = fixture("kafka/none.log");
    let packed = &pack(&source, "")[0];
    let mut built = packed.manifest.clone();
    built.segment.sha256 = [0; 32];
    let forged = crate::archive::testing::pack_claiming(&source, [0; 32]);
    let settled = settle(packed, &forged[0].object(), &built).await;
    let Err(PutError::Taken { reason, .. }) = settled else { panic!("{settled:?}") };
    assert_eq!(reason, "its blocks hold other bytes than the segment");
}
