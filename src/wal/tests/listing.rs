use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use super::{HOUR, Wal, frame};
use crate::ids::{LogId, SegmentFormat, TopicPartition};
use crate::wal::dir::WalDir;
use crate::wal::scan::Oddities;
use crate::wal::{Hold, SealedSegments, WalError};

const TOPIC_ID: &str = "kQzZ0mYyT0iZb8fL-W_3vA";

async fn check(files: &[&str], listed: &[&str]) {
    assert_eq!(Wal::of(files).names().await, listed);
}

#[tokio::test]
async fn all_but_the_newest_of_each_partition_are_sealed() {
    check(
        &["orders/0/wal_0_1.log", "orders/0/wal_0_2.log", "orders/1/wal_1_1.log", "audit/0/wal_0_7.log"],
        &["orders/0/wal_0_1.log"],
    )
    .await;
}

#[tokio::test]
async fn segments_count_by_number_and_not_by_name() {
    check(
        &["orders/0/wal_0_9.log", "orders/0/wal_0_10.log", "orders/0/wal_0_010.log"],
        &["orders/0/wal_0_9.log"],
    )
    .await;
}

#[tokio::test]
async fn whatever_is_no_segment_is_left_alone() {
    let files = [
        "orders/0/wal_0_1.log",
        "orders/0/wal_0_2.log",
        "orders/0/wal_1_9.log",
        "orders/0/wal_0_x.log",
        "orders/0/wal_0_3.log.tmp",
        "orders/00/wal_0_1.log",
        "orders/00/wal_0_2.log",
        "orders/wal_0_1.log",
        "__meta/0/wal_0_1.log",
        "__meta/0/wal_0_2.log",
        "lost+found/0/wal_0_1.log",
        "lost+found/0/wal_0_2.log",
        "wal_0_1.log",
    ];
    let wal = Wal::of(&files);
    assert_eq!(wal.names().await, ["orders/0/wal_0_1.log"]);
    assert_eq!(wal.files().len(), files.len());
}

#[tokio::test]
async fn a_chronik_segment_is_described() {
    let wal = Wal::of(&["orders-1/3/wal_3_17.log", "orders-1/3/wal_3_18.log"]);
    let segment = wal.segment("orders-1/3/wal_3_17.log").await;
    assert_eq!((segment.partition.topic(), segment.partition.partition()), ("orders-1", 3));
    assert_eq!((segment.log_id.as_str(), segment.position), ("first", 17));
    assert_eq!(segment.format, Some(SegmentFormat::ChronikWal));
    assert_eq!((segment.may_grow, segment.broker_deletes, segment.verdict), (false, false, None));
    assert_eq!(segment.version.size_bytes, frame(17).len() as u64);
}

#[tokio::test]
async fn a_kafka_segment_is_described_and_kept() {
    let wal = Wal::of(&["orders-3/00000000000000000017.log", "orders-3/00000000000000000099.log"]);
    let segment = wal.segment("orders-3/00000000000000000017.log").await;
    assert_eq!((segment.partition.topic(), segment.partition.partition()), ("orders", 3));
    assert_eq!((segment.log_id.as_str(), segment.position), ("first", 17));
    assert_eq!(segment.format, Some(SegmentFormat::KafkaLog));
    assert_eq!((segment.may_grow, segment.broker_deletes, segment.verdict), (false, true, None));

    wal.write("orders-3/partition.metadata", format!("version: 0\ntopic_id: {TOPIC_ID}\n").as_bytes());
    let segment = wal.segment("orders-3/00000000000000000017.log").await;
    assert_eq!(segment.log_id.as_str(), TOPIC_ID);
}

#[tokio::test]
async fn a_partition_whose_log_id_cannot_be_read_is_halted_and_the_others_go_on() {
    // The user who runs the tests may be allowed to read everything, so these are other kinds of failures.
    for text in ["", "version: 0\n", "topic_id: \n", "topic_id: ../../../../../../../x\n"] {
        let wal = Wal::of(&["orders-3/00000000000000000017.log", "orders-3/00000000000000000099.log"]);
        wal.write("audit/0/wal_0_1.log", b"1");
        wal.write("audit/0/wal_0_2.log", b"2");
        wal.write("orders-3/partition.metadata", text.as_bytes());
        check_halted(&wal, text).await;
    }
    let wal = Wal::of(&["orders-3/00000000000000000017.log", "orders-3/00000000000000000099.log"]);
    wal.write("audit/0/wal_0_1.log", b"1");
    wal.write("audit/0/wal_0_2.log", b"2");
    fs::create_dir(wal.path("orders-3/partition.metadata")).expect("a directory");
    check_halted(&wal, "a directory is not absent").await;
}

async fn check_halted(wal: &Wal, what: &str) {
    let listing = wal.dir.list().await.expect(what);
    let names: Vec<_> = listing.segments.iter().map(|segment| &*segment.name).collect();
    assert_eq!((names, listing.partitions), (vec!["audit/0/wal_0_1.log"], Some(1)), "{what}");
    let [halted] = &listing.halted[..] else { panic!("{what}: {listing:?}") };
    assert_eq!((&*halted.name, halted.halt.name()), ("orders-3", "log_id_unreadable"), "{what}");
    assert!(
        halted
            .covers("orders-3/00000000000000000017.log", &TopicPartition::new("orders", 3).expect("a name"))
    );
    assert!(!halted.covers("orders-30/1", &TopicPartition::new("orders", 30).expect("a name")), "{what}");
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error() {
    let root = Wal::of(&[]).path("missing");
    let error = WalDir::new(&root, LogId::new("")).list().await.expect_err("no directory");
    assert!(matches!(error, WalError::Io { .. }), "{error}");
}

#[tokio::test]
async fn a_partition_that_cannot_be_read_is_not_empty() {
    use std::os::unix::fs::PermissionsExt;
    for closed in ["audit/0", "audit"] {
        let wal = Wal::of(&["orders/0/wal_0_1.log", "orders/0/wal_0_2.log", "audit/0/wal_0_1.log"]);
        let folder = wal.path(closed);
        let allow =
            |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("it is ours");
        allow(0o000);
        // The superuser can read it anyway.
        let readable = fs::read_dir(&folder).is_ok();
        let listing = wal.dir.list().await.expect("a listing");
        allow(0o755);
        let halted: Vec<_> = listing.halted.iter().map(|halted| &*halted.name).collect();
        assert_eq!(halted, if readable { vec![] } else { vec![closed] });
        assert_eq!(listing.segments.len(), 1, "{listing:?}");
    }
}

#[tokio::test]
async fn a_directory_at_the_wrong_level_says_where_the_partitions_are() {
    let wal = Wal::of(&[
        "data/orders/0/wal_0_1.log",
        "data/orders/0/wal_0_2.log",
        "logs/audit-0/00000000000000000000.log",
    ]);
    let root = wal.root.path().canonicalize().expect("it is there");
    for (given, hint) in [
        ("", format!("{}/data holds partitions", root.display())),
        ("data/orders", format!("{}/data holds partitions, and this", root.display())),
        ("data/orders/0", format!("{}/data holds partitions, and this", root.display())),
        ("logs/audit-0", format!("{}/logs holds partitions, and this", root.display())),
    ] {
        let listing = WalDir::new(root.join(given), LogId::new("")).list().await.expect("a listing");
        assert_eq!(listing.partitions, Some(0), "{given}");
        assert!(listing.hint.as_ref().is_some_and(|found| found.starts_with(&hint)), "{given}: {listing:?}");
    }
    let right = WalDir::new(root.join("data"), LogId::new("")).list().await.expect("a listing");
    assert_eq!((right.partitions, right.hint), (Some(1), None));
}

#[tokio::test]
async fn kafkas_names_say_which_offsets_a_segment_may_hold() {
    let wal = Wal::of(&[
        "orders-3/00000000000000000000.log",
        "orders-3/00000000000000000017.log",
        "orders-3/00000000000000000099.log",
        "audit/0/wal_0_1.log",
        "audit/0/wal_0_2.log",
    ]);
    let bounds = |name| {
        let segment = wal.segment(name);
        async { segment.await.bounds.map(|bounds| (bounds.first(), bounds.last())) }
    };
    assert_eq!(bounds("orders-3/00000000000000000000.log").await, Some((0, 16)));
    assert_eq!(bounds("orders-3/00000000000000000017.log").await, Some((17, 98)));
    assert_eq!(bounds("audit/0/wal_0_1.log").await, None);
}

#[tokio::test]
async fn links_are_not_followed_and_names_that_are_no_text_are_left_out() {
    let elsewhere = Wal::of(&["orders/0/wal_0_1.log", "orders/0/wal_0_2.log"]);
    let wal = Wal::of(&["audit/0/wal_0_1.log", "audit/0/wal_0_2.log", "broken/0/wal_0_1.log"]);
    symlink(elsewhere.path("orders"), wal.path("orders")).expect("a link");
    symlink(elsewhere.path("orders/0"), wal.path("audit/1")).expect("a link");
    // If it were followed, the second segment would no longer be the newest.
    symlink(elsewhere.path("orders/0/wal_0_2.log"), wal.path("audit/0/wal_0_3.log")).expect("a link");
    fs::create_dir(wal.path("audit/0/wal_0_4.log")).expect("a directory");
    let name = std::ffi::OsStr::from_bytes(b"or\xffders");
    fs::rename(wal.path("broken"), wal.root.path().join(name)).expect("any name");
    fs::write(wal.path("audit/0").join(name), "x").expect("any name");
    assert_eq!(wal.names().await, ["audit/0/wal_0_1.log"]);

    let root = Wal::of(&[]);
    symlink(elsewhere.root.path(), root.path("wal")).expect("a link");
    let linked = WalDir::new(root.path("wal"), LogId::new("")).list().await.expect("a listing");
    assert_eq!(linked.segments.len(), 1, "the directory itself may be a link");
}

/// Checks whether a newest segment of this age is listed, if it is listed after an idle hour.
async fn check_idle(bytes: &[u8], changed_at: SystemTime, listed: bool) {
    let mut wal = Wal::of(&[]);
    wal.write("orders/0/wal_0_5.log", bytes);
    wal.set_time("orders/0/wal_0_5.log", changed_at);
    assert_eq!(wal.names().await, [""; 0], "without being asked to");
    wal.dir = wal.dir.clone().seal_idle_after(Some(HOUR));
    let segments = wal.list().await;
    assert_eq!(segments.len(), usize::from(listed), "{changed_at:?}");
    assert!(segments.iter().all(|segment| segment.may_grow));
}

#[tokio::test]
async fn an_idle_newest_segment_may_be_sent_but_may_grow() {
    let now = SystemTime::now();
    check_idle(b"bytes", now - HOUR, true).await;
    check_idle(b"bytes", now - 9 * HOUR, true).await;
    check_idle(b"bytes", now - HOUR / 2, false).await;
    check_idle(b"bytes", now + HOUR, false).await;
    check_idle(b"", now - 9 * HOUR, false).await;
}

#[tokio::test]
async fn a_newest_segment_grows_no_more_once_there_is_a_newer_one() {
    let mut wal = Wal::of(&["orders/0/wal_0_5.log"]);
    wal.dir = wal.dir.clone().seal_idle_after(Some(Duration::ZERO));
    let before = wal.segment("orders/0/wal_0_5.log").await;
    wal.write("orders/0/wal_0_6.log", b"");
    let after = wal.segment("orders/0/wal_0_5.log").await;
    assert_eq!((before.may_grow, after.may_grow), (true, false));
    assert_eq!(before.version, after.version);
}

/// The newest segment is the one with the highest number. If it is not the last written one, the broker may
/// continue with another.
#[tokio::test]
async fn a_partition_whose_highest_segment_is_not_the_last_written_is_held() {
    let now = SystemTime::now();
    for (old, new, is_held) in
        [(now + HOUR, now - HOUR, true), (now - HOUR, now + HOUR, false), (now, now, false)]
    {
        let wal = Wal::of(&["orders/0/wal_0_1.log", "orders/0/wal_0_2.log", "orders/0/wal_0_3.log"]);
        wal.set_time("orders/0/wal_0_1.log", now - 2 * HOUR);
        wal.set_time("orders/0/wal_0_2.log", old);
        wal.set_time("orders/0/wal_0_3.log", new);
        let listed = match is_held {
            true => &["orders/0/wal_0_1.log"][..],
            false => &["orders/0/wal_0_1.log", "orders/0/wal_0_2.log"],
        };
        assert_eq!(wal.names().await, listed);
        let held = wal.dir.list().await.expect("a listing").held;
        let expected = [(TopicPartition::new("orders", 0).expect("a name"), Hold::NotLastWritten)];
        assert_eq!(held, expected[..usize::from(is_held)]);
    }
}

#[tokio::test]
async fn another_indexer_at_work_is_odd() {
    let data = tempfile::TempDir::with_prefix("wal-indexer-wal-").expect("a directory");
    let segment = data.path().join("wal/orders/0/wal_0_1.log");
    let output = data.path().join("segments/segments/orders/0");
    fs::create_dir_all(segment.parent().expect("a directory")).expect("directories");
    fs::write(&segment, frame(1)).expect("a file");
    let dir = WalDir::new(data.path().join("wal"), LogId::new("first"));
    dir.list_now().expect("a listing");
    assert!(!dir.is_odd(&output));
    fs::create_dir_all(&output).expect("directories");
    dir.list_now().expect("a listing");
    assert!(dir.is_odd(&output));
    let long_ago = fs::FileTimes::new().set_modified(SystemTime::now() - HOUR);
    fs::File::open(&output).and_then(|output| output.set_times(long_ago)).expect("a time");
    dir.list_now().expect("a listing");
    assert!(!dir.is_odd(&output));
}

#[test]
fn oddities_are_news_only_once() {
    let wal = Wal::of(&[]);
    let odd = |names: &[&str]| names.iter().map(|name| (name.into(), "odd".to_owned())).collect::<Oddities>();
    assert_eq!(wal.dir.new_oddities(odd(&["a"])), odd(&["a"]));
    assert_eq!(wal.dir.new_oddities(odd(&["a", "b"])), odd(&["b"]));
    assert_eq!(wal.dir.clone().new_oddities(odd(&["b"])), odd(&[]));
    assert_eq!(wal.dir.new_oddities(odd(&["a", "b"])), odd(&["a"]), "it had gone");
}

#[test]
fn files_come_and_go_while_they_are_listed() {
    let wal = Wal::of(&["orders/0/wal_0_1000000.log"]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in (0..).take_while(|_| !stop.load(std::sync::atomic::Ordering::Relaxed)) {
                let topic = format!("topic-{}", id % 7);
                wal.write(&format!("{topic}/0/wal_0_{id}.log"), b"x");
                wal.write(&format!("orders/0/wal_0_{id}.log"), b"x");
                fs::remove_file(wal.path(&format!("orders/0/wal_0_{id}.log"))).expect("ours");
                fs::remove_dir_all(wal.path(&topic)).expect("ours");
            }
        });
        let listed: Vec<_> = (0..500).map(|_| wal.dir.list_now()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for listing in listed {
            let segments = listing.expect("nothing fails").segments;
            assert!(segments.iter().all(|segment| segment.name != "orders/0/wal_0_1000000.log"));
        }
    });
}
