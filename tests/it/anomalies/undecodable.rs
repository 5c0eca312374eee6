//! Frames that cannot be decoded, although their bytes are as they were written.

use std::fs;

use wal_indexer::generate::kafka;
use wal_indexer::generate::{Codec, Format, Size, Spec, generate};
use wal_indexer::ids::TopicPartition;
use wal_indexer::proto::v1;

use super::*;
use crate::agent::Scene;
use crate::scripted_worker::Answer;
use crate::sidecar::name;

const ORDERS: (&str, i32) = ("orders", 3);
const KEEP: [&str; 2] = ["--undecodable", "keep"];

fn batch(base_offset: i64) -> Vec<u8> {
    let spec = Spec { size: Size::Records(10), base_offset, codec: Codec::None, ..Spec::default() };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("in memory");
    bytes
}

/// Returns a batch of the offsets 10 to 19, changed, with a new valid checksum.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = batch(10);
    change(&mut bytes);
    kafka::seal(&mut bytes);
    bytes
}

/// A reason, a part of the error message, a frame, and the first and the last offset that its head claims.
type Case = (&'static str, &'static str, Vec<u8>, (i64, i64));

/// Returns frames that cannot be decoded.
fn undecodable() -> Vec<Case> {
    vec![
        ("UNKNOWN_CODEC", "codec 6 is unknown", changed(|batch| batch[22] |= 6), (10, 19)),
        ("BAD_COMPRESSION", "does not open", changed(|batch| batch[22] |= 4), (10, 19)),
        (
            "BAD_RECORD_COUNT",
            "records are claimed",
            changed(|batch| batch[57..61].copy_from_slice(&(-1_i32).to_be_bytes())),
            (10, 19),
        ),
        ("BAD_RECORD", "malformed", changed(|batch| batch[61] = 3), (10, 19)),
        (
            "BYTES_LEFT_OVER",
            "left over",
            changed(|batch| batch[57..61].copy_from_slice(&1_i32.to_be_bytes())),
            (10, 19),
        ),
        ("BAD_MAGIC", "the magic is", changed(|batch| batch[16] = 3), (10, 10)),
        ("BAD_MAGIC", "the magic is", changed(|batch| batch[16] = 0xff), (10, 10)),
    ]
}

#[test]
fn a_frame_that_cannot_be_decoded_costs_its_segment_or_is_kept_as_it_is() {
    for (reason, said, frame, (first, last)) in undecodable() {
        let segment = [batch(0), frame.clone(), batch(20)].concat();
        let store = LocalStore::new();
        let refused = store.try_index(&segment, &[]);
        assert!(refused.code != 0 && refused.err.contains(said), "{reason}: {refused:?}");
        let receipt = store.index(&segment, &KEEP);
        assert_eq!(receipt.undecoded(), 1, "{reason}");
        assert_eq!(number(&receipt.0["undecoded"]["reasons"][reason]), 1);
        assert_eq!(number(&receipt.0["undecoded"]["bytes"]), frame.len() as i64);
        assert_eq!(receipt.covers(), (0, 29, 20, 1), "{reason}");
        assert_eq!(store.inspect(&segment)["undecodable"][reason], 1);
        let readable: Vec<_> = (0..10).chain(20..30).collect();
        assert_eq!(store.offsets(ORDERS, 0), readable, "{reason}");
        assert_eq!(store.search("orders", ""), readable, "{reason}");
        assert_eq!(store.batches(ORDERS, first).expect("as it is"), segment[batch(0).len()..], "{reason}");
        if last > first {
            assert_eq!(store.batches(ORDERS, last).expect("as it is"), segment[batch(0).len()..], "{reason}");
        }
    }
}

#[test]
fn a_segment_of_nothing_else_is_kept_too() {
    let store = LocalStore::new();
    let segment = [changed(|batch| batch[22] |= 6), changed(|batch| batch[22] |= 7)].concat();
    let receipt = store.index(&segment, &KEEP);
    assert_eq!((receipt.covers(), receipt.undecoded()), ((10, 19, 0, 1), 2));
    assert!(store.offsets(ORDERS, 0).is_empty());
    assert_eq!(store.batches(ORDERS, 0).expect("as they are").len(), segment.len());
}

#[test]
fn a_batch_that_opens_beyond_all_bounds_is_kept_whatever_the_budget() {
    let store = LocalStore::new();
    let segment = fixture("compressible-300mb.log");
    let refused = store.try_index(&segment, &[]);
    assert!(refused.code != 0 && refused.err.contains("opens to more than"), "{refused:?}");
    let receipt = store.index(&segment, &[&KEEP[..], &["--memory-budget", "64MiB"]].concat());
    assert_eq!((receipt.covers(), receipt.undecoded()), ((0, 599, 0, 1), 1));
    assert_eq!(number(&receipt.0["undecoded"]["claimedRecordCount"]), 600);
    assert!(store.offsets(ORDERS, 0).is_empty());
    assert_eq!(store.batches(ORDERS, 300).expect("as it is"), segment);
}

#[test]
fn a_frame_whose_checksum_does_not_hold_is_damaged_and_never_kept() {
    let store = LocalStore::new();
    let mut damaged = [batch(0), batch(10)].concat();
    let at = damaged.len() - 20;
    damaged[at] ^= 1;
    let refused = store.try_index(&damaged, &KEEP);
    assert!(refused.code == 3 && refused.err.contains("the checksum is"), "{refused:?}");
}

/// Returns a frame of `orders`/3 with a valid checksum and senseless data.
fn chronik_frame() -> Vec<u8> {
    let partition = TopicPartition::new("orders", 3).expect("a partition");
    let spec = Spec { format: Format::ChronikV2, size: Size::Records(10), partition, ..Spec::default() };
    let mut frame = Vec::new();
    generate(&spec, &mut frame).expect("in memory");
    // The producer's codec: there is no codec 9.
    frame[22 + "orders".len() + 28] = 9;
    sealed_v2(frame)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_keep_undecodable_frames_where_that_is_asked_for() {
    let bytes = chronik_frame();
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 3, 1..=2);
    fs::write(scene.wal.path().join(name("orders", 3, 1)), &bytes).expect("written");
    let (code, log) = scene.once(&[]);
    assert_eq!((code, scene.wal.ids("orders", 3)), (3, vec![1, 2]), "{log}");
    assert!(log.contains("malformed"), "{log}");

    let scene = Scene::new().await;
    scene.wal.add_all("orders", 3, 1..=2);
    fs::write(scene.wal.path().join(name("orders", 3, 1)), &bytes).expect("written");
    // Kept first, then remembered across a restart, then deleted.
    let (code, log) = scene.once(&[&KEEP[..], &["--delete-after-index", "false"]].concat());
    assert_eq!((code, scene.wal.ids("orders", 3)), (0, vec![1, 2]), "{log}");
    let (code, log) = scene.once(&KEEP);
    assert_eq!((code, scene.wal.ids("orders", 3)), (0, vec![2]), "{log}");
    assert!(scene.sent().values().all(|times| *times == 1), "{:?}", scene.sent());
}

/// A worker that keeps frames without being asked to has not done what was requested.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_for_frames_that_were_to_be_decoded_is_none() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=2);
    scene.scripted.always(Answer::Wrong(|answer| {
        answer.record_count -= 5;
        answer.partitions[0].record_count -= 5;
        answer.undecoded =
            Some(v1::Undecoded { frames: 1, claimed_record_count: 5, ..v1::Undecoded::default() });
    }));
    let (code, log) = scene.once(&[]);
    assert!(code != 0 && scene.wal.ids("orders", 0) == [1, 2], "{log}");
}
