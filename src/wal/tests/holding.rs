use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use super::{HOUR, Wal, frame, kind, receipt};
use crate::wal::dir::WriterCheck;
use crate::wal::{Hold, SealedSegments};

const NAME: &str = "orders/0/wal_0_3.log";

/// Checks why segment 3, whose only record has the offset 3, stays beside these other segments; `None`: it is
/// deleted. `hold` and `delete` must give the same answer.
async fn check(others: &[(u64, Vec<u8>)], expected: Option<Hold>) {
    let wal = Wal::of(&[NAME]);
    for (id, bytes) in others {
        wal.write(&format!("orders/0/wal_0_{id}.log"), bytes);
    }
    check_in(&wal, expected, others).await;
}

async fn check_in(wal: &Wal, expected: Option<Hold>, what: impl std::fmt::Debug) {
    let segment = wal.segment(NAME).await;
    let receipt = receipt(segment.version.size_bytes);
    let hold = wal.dir.hold(&segment, &receipt).await.expect("an answer");
    assert_eq!(hold, expected, "{what:?}");
    let deleted = wal.dir.delete(&segment, &receipt).await.map_err(|error| kind(&error));
    assert_eq!(deleted.err(), expected.as_ref().map(Hold::name), "{what:?}");
    assert_eq!(wal.path(NAME).exists(), expected.is_some(), "{what:?}");
}

#[tokio::test]
async fn the_last_segment_with_a_whole_frame_stays_whatever_lies_behind_it() {
    let torn = frame(4)[..60].to_vec();
    let damaged = || {
        let mut frame = frame(4);
        let last = frame.len() - 1;
        frame[last] ^= 1;
        frame
    };
    let end = Some(Hold::EndOfLog);
    for behind in [vec![], torn.clone(), b"headless".to_vec(), vec![0; 4_096], damaged()] {
        check(&[(4, behind.clone())], end.clone()).await;
        check(&[(4, behind.clone()), (5, vec![])], end.clone()).await;
        // Whole frames after it allow its deletion, wherever they are.
        check(&[(4, behind.clone()), (5, frame(4))], None).await;
        check(&[(4, [frame(4), behind].concat()), (5, vec![])], None).await;
    }
    // Earlier segments do not count.
    check(&[(2, frame(9)), (4, vec![])], end).await;
}

#[tokio::test]
async fn a_later_segment_must_reach_beyond_it() {
    // If several files were created at once, a later one can hold earlier offsets.
    for offset in [0, 2, 3] {
        check(&[(4, frame(offset))], Some(Hold::EndOfLog)).await;
        check(&[(4, [frame(offset), frame(4)].concat())], None).await;
    }
    let frames: Vec<_> = (0..2_000).flat_map(|_| frame(1)).collect();
    check(&[(4, frames.clone())], Some(Hold::EndOfLog)).await;
    check(&[(4, [frames, frame(4)].concat())], None).await;
}

#[tokio::test]
async fn a_segment_without_offsets_is_not_the_end_of_the_log() {
    let wal = Wal::of(&[]);
    wal.write(NAME, b"");
    wal.write("orders/0/wal_0_4.log", b"");
    check_in(&wal, None, "an empty one").await;
}

#[tokio::test]
async fn nothing_goes_while_the_broker_may_go_on_with_a_lower_one() {
    let now = SystemTime::now();
    // The very first segment was last written to.
    for (first, newest, expected) in [
        (now - HOUR, now - 2 * HOUR, Some(Hold::NotLastWritten)),
        (now - HOUR, now - HOUR, None),
        (now - HOUR, now, None),
    ] {
        let wal = Wal::of(&["orders/0/wal_0_0.log", NAME, "orders/0/wal_0_4.log"]);
        wal.set_time(NAME, now - 9 * HOUR);
        wal.set_time("orders/0/wal_0_0.log", first);
        wal.set_time("orders/0/wal_0_4.log", newest);
        check_in(&wal, expected, (first, newest)).await;
    }
}

#[tokio::test]
async fn a_partition_must_have_settled_before_anything_of_it_goes() {
    let now = SystemTime::now();
    let age = Duration::from_secs(10);
    let two = |sealed, newest| {
        let mut wal = Wal::of(&[NAME, "orders/0/wal_0_4.log"]);
        wal.dir = wal.dir.clone().min_segment_age(age);
        wal.set_time(NAME, sealed);
        wal.set_time("orders/0/wal_0_4.log", newest);
        wal
    };
    let old = now - 2 * age;
    check_in(&two(old, old), None, "nothing has changed for long").await;
    check_in(&two(old, now), Some(Hold::Unsettled), "the newest has just appeared").await;
    check_in(&two(now, now), Some(Hold::Unsettled), "both have changed").await;

    // A process that has watched the partition for this time knows it too, however often the newest is
    // written to.
    let mut wal = two(old, now);
    wal.dir = wal.dir.clone().min_segment_age(Duration::from_millis(50));
    drop(wal.list().await);
    wal.set_time("orders/0/wal_0_4.log", now + HOUR);
    std::thread::sleep(Duration::from_millis(60));
    check_in(&wal, None, "watched").await;
}

#[tokio::test]
async fn what_is_open_for_writing_stays() {
    let wal = Wal::of(&[NAME, "orders/0/wal_0_4.log"]);
    let reader = File::open(wal.path(NAME)).expect("a file");
    let writer = File::options().append(true).open(wal.path(NAME)).expect("a file");
    check_in(&wal, Some(Hold::OpenForWriting), "open").await;
    drop(writer);
    check_in(&wal, None, "closed").await;
    drop(reader);
    // Without the check, it is deleted.
    let mut wal = Wal::of(&[NAME, "orders/0/wal_0_4.log"]);
    wal.dir = wal.dir.clone().writer_check(WriterCheck::Off);
    let _writer = fs::OpenOptions::new().append(true).open(wal.path(NAME)).expect("a file");
    check_in(&wal, None, "nobody looks").await;
}
