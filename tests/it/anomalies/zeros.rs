//! Segments that end in zeros, as after a power cut, or as with a broker that preallocates space.

use std::fs;

use super::*;
use crate::agent::Scene;
use crate::sidecar::{name, segment};

/// Returns segments, each with the position where its torn tail of zeros begins. In some, zeros replace the
/// end of a frame.
fn torn() -> Vec<(&'static str, Bytes, usize)> {
    let kafka = fixture("zero-tail-4096.log");
    let chronik = fixture("chronik-zero-tail.wal");
    let chronik_end = 55_923;
    let whole = crate::written::fixture("kafka/none.log");
    let first = 12 + u32::from_be_bytes(whole[8..12].try_into().expect("four bytes")) as usize;
    let cut = |at: usize, zeros: usize| Bytes::from([&whole[..at], &vec![0; zeros]].concat());
    vec![
        ("kafka", kafka, 521),
        ("chronik", chronik, chronik_end),
        ("kafka, cut in a record", cut(first + 300, 100_000), first),
        ("kafka, cut in a head", cut(first + 11, 100_000), first),
        ("kafka, few zeros", cut(first, 5), first),
    ]
}

#[test]
fn zeros_to_the_end_are_a_torn_tail_like_any_other() {
    for (what, segment, at) in torn() {
        let store = LocalStore::new();
        let refused = store.try_index(&segment, &[]);
        assert!(refused.code == 3 && refused.err.contains("the segment is torn"), "{what}: {refused:?}");
        let receipt = store.index(&segment, &["--torn-tail", "keep"]);
        assert_eq!(receipt.torn_bytes(), (segment.len() - at) as i64, "{what}");
        assert!(receipt.covers().2 > 0 && receipt.anomalies().is_empty(), "{what}");
        assert_eq!(store.inspect(&segment)["torn_tail_bytes"], segment.len() - at, "{what}");
    }
}

#[test]
fn zeros_that_something_follows_and_zeros_alone_are_refused() {
    // Fewer zeros than the length of a head may be the start of a frame, whatever follows.
    for (what, segment, _) in torn().into_iter().filter(|(what, ..)| !what.contains("few")) {
        let store = LocalStore::new();
        for flags in [&[][..], &["--torn-tail", "keep", "--undecodable", "keep"]] {
            let followed = store.try_index(&[&segment[..], &[1]].concat(), flags);
            assert_eq!(followed.code, 3, "{what}: {followed:?}");
            let zeros = store.try_index(&vec![0; 5_000], flags);
            assert_eq!(zeros.code, 3, "{zeros:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_keep_torn_tails_keep_zeros() {
    for (what, bytes, _) in torn().into_iter().filter(|(what, ..)| what.starts_with("chronik")) {
        let scene = Scene::new().await;
        let partition = ("orders", 3);
        scene.wal.add_all(partition.0, partition.1, 1..=2);
        fs::write(scene.wal.path().join(name("orders", 3, 1)), &bytes).expect("written");
        fs::write(scene.wal.path().join(name("orders", 3, 2)), segment("orders", 3, 2)).expect("written");
        let (code, log) = scene.once(&["--torn-tail", "keep"]);
        assert_eq!((code, scene.wal.ids("orders", 3)), (0, vec![2]), "{what}: {log}");
    }
}
