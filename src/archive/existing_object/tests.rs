use bytes::Bytes;

use super::*;
use crate::archive::testing::{Packed, fixture, pack, pack_claiming, put, put_new, store};
use crate::generate::chronik::seal;
use crate::segment::{Frame, FrameSplitter};
use crate::store::PutError;

/// The outcome of a put if `object` exists under the key of `packed`.
async fn settle(packed: &Packed, object: &Bytes, built: &Manifest) -> Result<Option<u64>, PutError> {
    let store = store();
    put_new(&store, &packed.key, object).await;
    // These bytes differ from those that are there, so that the check is called.
    let sent = Bytes::from_static(b"what another version of this program would have made of the segment");
    put(&store, &packed.key, &sent, |existing| check_existing(existing, built, &packed.built.blocks)).await
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
    let forged = pack_claiming(&source, [0; 32]);
    let settled = settle(packed, &forged[0].object(), &built).await;
    let Err(PutError::Taken { reason, .. }) = settled else { panic!("{settled:?}") };
    assert_eq!(reason, "its blocks hold other bytes than the segment");
}

fn frames_of(source: &Bytes) -> Vec<Frame> {
    let mut frames = Vec::new();
    FrameSplitter::new(source.len() as u64, None).push(source.clone(), &mut frames).expect("frames");
    frames
}

/// The segment with one bit of the first record's value flipped, and the right checksums.
fn with_another_value(source: &Bytes) -> Vec<u8> {
    let frame = &frames_of(source)[0];
    let value = frame.decode(1 << 20).expect("records").records.records[0].value.expect("a value");
    let mut changed = source.to_vec();
    changed[value.start as usize] ^= 1;
    seal(&mut changed[..frame.bytes.len()]);
    changed
}

/// The segment with its first frame moved after the first one of another partition.
fn with_frames_elsewhere(source: &Bytes) -> Vec<u8> {
    let mut frames = frames_of(source);
    let other = frames.iter().position(|frame| frame.partition != frames[0].partition).expect("another");
    frames[..=other].rotate_left(1);
    frames.iter().flat_map(|frame| frame.bytes.to_vec()).collect()
}

#[tokio::test]
async fn a_bundle_of_a_segment_of_several_does_not_stand_for_other_bytes_nor_for_bytes_from_elsewhere() {
    let source = fixture("chronik/v2-three-partitions.wal");
    let packed = pack(&source, "");
    let of = packed.iter().find(|one| Some(one.key.partition()) == frames_of(&source)[0].partition.as_ref());
    let packed = of.expect("the first frame's bundle");
    for changed in [with_another_value(&source), with_frames_elsewhere(&source)] {
        // The manifests are equal, as they would be if a writer had taken one frame for another.
        let mut built = packed.manifest.clone();
        built.segment.crc32c = crc32c::crc32c(&changed);
        let forged = pack_claiming(&changed.into(), built.segment.sha256);
        let forged = forged.iter().find(|one| one.key == packed.key).expect("a bundle of the same key");
        let settled = settle(packed, &forged.object(), &built).await;
        let Err(PutError::Taken { reason, .. }) = settled else { panic!("{settled:?}") };
        assert_eq!(reason, "its blocks hold other bytes of the segment");
    }
}
