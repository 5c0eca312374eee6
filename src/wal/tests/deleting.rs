use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::time::{Duration, SystemTime};

use super::{HOUR, Wal, frame, kind, receipt};
use crate::wal::{Rejection, SealedSegments, Segment};

const NAME: &str = "orders/0/wal_0_1.log";
const NEWEST: &str = "orders/0/wal_0_2.log";

/// Checks the result of deleting a segment after something happened to it since it was listed and read.
async fn check(expected: Result<(), &str>, what_happens: impl Fn(&Wal, &mut Segment)) {
    let wal = Wal::of(&[NAME, NEWEST]);
    let mut segment = wal.segment(NAME).await;
    let receipt = receipt(segment.version.size_bytes);
    what_happens(&wal, &mut segment);
    let before = wal.files();
    let deleted = wal.dir.delete(&segment, &receipt).await;
    assert_eq!(deleted.map_err(|error| kind(&error)), expected);
    let mut left = before;
    left.retain(|name| expected.is_err() || name != &segment.name);
    assert_eq!(wal.files(), left);
}

#[tokio::test]
async fn a_segment_that_is_still_what_was_listed_is_deleted() {
    check(Ok(()), |_, _| ()).await;
    // Other processes read it: the bytes are the same.
    check(Ok(()), |wal, _| drop(fs::read(wal.path(NAME)).expect("bytes"))).await;
    // A broker in this process does not know the time of the last change.
    check(Ok(()), |_, segment| segment.change_time = None).await;
}

#[tokio::test]
async fn a_segment_that_has_changed_is_not_deleted() {
    check(Err("changed"), |wal, _| wal.write(NAME, b"longer than it was before")).await;
    check(Err("changed"), |wal, _| wal.set_time(NAME, SystemTime::now() + HOUR)).await;
    check(Err("changed"), |wal, _| wal.set_time(NAME, SystemTime::now() - HOUR)).await;
    check(Err("changed"), |wal, segment| {
        wal.write("copy", &frame(1));
        wal.set_time("copy", segment.version.changed_at);
        fs::rename(wal.path("copy"), wal.path(NAME)).expect("a name");
    })
    .await;
    check(Err("changed"), |wal, _| {
        fs::rename(wal.path(NAME), wal.path("moved")).expect("a name");
        symlink(wal.path("moved"), wal.path(NAME)).expect("a link");
    })
    .await;
    check(Err("changed"), |wal, _| {
        fs::remove_file(wal.path(NAME)).expect("it is there");
        fs::create_dir(wal.path(NAME)).expect("a directory");
    })
    .await;
}

#[tokio::test]
async fn a_segment_that_was_touched_is_not_deleted_before_it_is_read_again() {
    // Replaced in place, with the same size and the times set back; or given one more name.
    check(Err("touched"), |wal, segment| {
        let file = fs::File::options().write(true).open(wal.path(NAME)).expect("a file");
        file.write_all_at(b"other bytes", 20).expect("written");
        file.set_modified(segment.version.changed_at).expect("set back");
    })
    .await;
    check(Err("touched"), |wal, _| fs::hard_link(wal.path(NAME), wal.path("backup")).expect("a link")).await;
}

#[tokio::test]
async fn one_that_is_gone_is_deleted() {
    check(Ok(()), |wal, _| fs::remove_file(wal.path(NAME)).expect("it is there")).await;
    check(Ok(()), |wal, _| fs::remove_dir_all(wal.path("orders")).expect("it is there")).await;
}

#[tokio::test]
async fn the_newest_is_not_deleted_whoever_says_so() {
    let newest = |wal: &Wal, segment: &mut Segment| {
        fs::remove_file(wal.path(NEWEST)).expect("it is there");
        segment.may_grow = false;
    };
    check(Err("may grow"), newest).await;
    // A link, a directory and another partition's file are not newer segments.
    check(Err("may grow"), |wal, segment| {
        newest(wal, segment);
        symlink("wal_0_1.log", wal.path(NEWEST)).expect("a link");
        fs::create_dir(wal.path("orders/0/wal_0_3.log")).expect("a directory");
        wal.write("orders/0/wal_1_4.log", b"x");
        wal.write("orders/0/wal_0_5.log.tmp", b"x");
        wal.write("orders/1/wal_1_6.log", b"x");
        wal.write("orders/0/wal_0_0.log", b"x");
    })
    .await;
    for time in [SystemTime::now() - HOUR, SystemTime::now() + HOUR] {
        check(Err("may grow"), |wal, segment| {
            wal.set_time(NAME, time);
            segment.version.changed_at = fs::metadata(wal.path(NAME)).unwrap().modified().unwrap();
            segment.change_time = None;
            newest(wal, segment);
        })
        .await;
    }
    check(Err("may grow"), |_, segment| segment.may_grow = true).await;
}

#[tokio::test]
async fn a_newest_segment_that_was_idle_is_deleted_once_it_is_no_longer_the_newest() {
    let mut wal = Wal::of(&[NAME]);
    wal.dir = wal.dir.clone().seal_idle_after(Some(Duration::ZERO));
    let segment = wal.segment(NAME).await;
    let receipt = receipt(segment.version.size_bytes);
    let error = wal.dir.delete(&segment, &receipt).await.expect_err("it is the only one");
    assert_eq!(kind(&error), "may grow");
    wal.write(NEWEST, &frame(2));
    wal.dir.delete(&wal.segment(NAME).await, &receipt).await.expect("there is a newer one");
    assert_eq!(wal.files(), [NEWEST]);
}

#[tokio::test]
async fn a_receipt_for_other_bytes_deletes_nothing() {
    let wal = Wal::of(&[NAME, NEWEST]);
    let segment = wal.segment(NAME).await;
    for size in [0, segment.version.size_bytes - 1, segment.version.size_bytes + 1] {
        let error = wal.dir.delete(&segment, &receipt(size)).await.expect_err("another size");
        assert_eq!(kind(&error), "other receipt");
    }
    assert_eq!(wal.files(), [NAME, NEWEST]);
}

#[tokio::test]
async fn kafka_deletes_its_files_itself() {
    let wal = Wal::of(&["orders-3/00000000000000000017.log", "orders-3/00000000000000000099.log"]);
    let mut segment = wal.segment("orders-3/00000000000000000017.log").await;
    for kept in [true, false] {
        segment.broker_deletes = kept;
        let error = wal.dir.delete(&segment, &receipt(segment.version.size_bytes)).await.expect_err("kept");
        assert_eq!(kind(&error), "kept");
    }
    assert_eq!(wal.files().len(), 2);
    check(Err("kept"), |_, segment| segment.broker_deletes = true).await;
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_deletes_nothing() {
    for name in ["elsewhere", "../elsewhere", "orders/0/../../elsewhere", "__meta/0/wal_0_1.log"] {
        check(Err("not a segment"), |wal, segment| {
            wal.write("elsewhere", NAME.as_bytes());
            wal.write("__meta/0/wal_0_1.log", NAME.as_bytes());
            segment.name = name.to_owned();
        })
        .await;
    }
}

#[tokio::test]
async fn the_note_goes_with_its_segment() {
    let wal = Wal::of(&[NAME, NEWEST]);
    let segment = wal.segment(NAME).await;
    let rejection = Rejection {
        code: "DATA_LOSS".to_owned(),
        reason: "TORN".to_owned(),
        message: String::new(),
        position: None,
    };
    wal.dir.reject(&segment, &rejection).await.expect("a note");
    assert_eq!(wal.files().len(), 3);
    wal.dir.delete(&segment, &receipt(segment.version.size_bytes)).await.expect("a receipt came after all");
    assert_eq!(wal.files(), [NEWEST]);
}
