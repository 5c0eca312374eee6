use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ids::{LogId, TopicPartition};
use crate::wal::dir::WalDir;
use crate::wal::layout::{self, Folder, Layout, Name};
use crate::wal::{SealedSegments, Segment, Version};

#[track_caller]
fn check(name: &str, expected: Option<(Layout, &str, i32, u64)>) {
    let found = layout::place(name);
    let found = found.as_ref().map(|(folder, position)| {
        (folder.layout, folder.partition.topic(), folder.partition.partition(), *position)
    });
    assert_eq!(found, expected, "{name}");
}

#[test]
fn names_say_whose_segments_they_are() {
    let chronik = |topic, partition, position| Some((Layout::Chronik, topic, partition, position));
    let kafka = |topic, partition, position| Some((Layout::Kafka, topic, partition, position));
    check("orders/3/wal_3_17.log", chronik("orders", 3, 17));
    check("orders/3/wal_3_0.log", chronik("orders", 3, 0));
    check("orders/3/wal_3_0017.log", chronik("orders", 3, 17));
    check("orders-1/3/wal_3_17.log", chronik("orders-1", 3, 17));
    check("größe – %2f/0/wal_0_18446744073709551615.log", chronik("größe – %2f", 0, u64::MAX));
    check("orders-3/00000000000000000017.log", kafka("orders", 3, 17));
    check("a-b--0/00000000000000000000.log", kafka("a-b-", 0, 0));
}

#[test]
fn everything_else_is_no_segment() {
    for name in [
        "",
        "orders",
        "wal_3_17.log",
        "orders/wal_3_17.log",
        "orders/3/wal_4_17.log",
        "orders/3/wal_03_17.log",
        "orders/03/wal_03_17.log",
        "orders/-3/wal_-3_17.log",
        "orders/+3/wal_+3_17.log",
        "orders/2147483648/wal_2147483648_1.log",
        "orders/3/wal_3_.log",
        "orders/3/wal_3.log",
        "orders/3/wal_3_+17.log",
        "orders/3/wal_3_17a.log",
        "orders/3/wal_3_18446744073709551616.log",
        "orders/3/wal_3_17.log.rejected.json",
        "orders/3/wal_3_17.log.tmp",
        "orders/3/x/wal_3_17.log",
        "/3/wal_3_17.log",
        "../3/wal_3_17.log",
        "./3/wal_3_17.log",
        "a/../3/wal_3_17.log",
        "/orders/3/wal_3_17.log",
        "__meta/0/wal_0_1.log",
        "__consumer_offsets-0/00000000000000000000.log",
        "-0/00000000000000000000.log",
        "orders-03/00000000000000000017.log",
        "orders-3/0000000000000000017.log",
        "orders-3/000000000000000000017.log",
        "orders-3/99999999999999999999.log",
        "orders-3/00000000000000000017.log.deleted",
        "orders-3/00000000000000000017.index",
        "orders-3.5f1c-delete/00000000000000000017.log",
        "orders-3.5f1c-future/00000000000000000017.log",
        "orders-3.5f1c-stray/00000000000000000017.log",
    ] {
        check(name, None);
    }
}

#[test]
fn what_nearly_is_a_segment_is_told_from_what_is_something_else() {
    let Name::Is(chronik) = Folder::chronik("orders", "3") else { panic!("a folder") };
    let Name::Is(kafka) = Folder::kafka("orders-3") else { panic!("a folder") };
    for (folder, file) in [
        (&chronik, "wal_4_17.log"),
        (&chronik, "wal_3_x.log"),
        (&chronik, "wal_3.log"),
        (&kafka, "17.log"),
        (&kafka, "0000000000000000001x.log"),
    ] {
        assert!(matches!(folder.position(file), Name::Invalid(_)), "{file}");
    }
    for (folder, file) in [
        (&chronik, "17.log"),
        (&chronik, "wal_3_17.idx"),
        (&kafka, "partition.metadata"),
        (&kafka, ".log.swp"),
    ] {
        assert_eq!(folder.position(file), Name::Other, "{file}");
    }
    assert!(matches!(Folder::chronik("orders", "03"), Name::Invalid(_)));
    assert!(matches!(Folder::chronik(&"x".repeat(250), "3"), Name::Invalid(_)));
}

#[test]
fn workers_are_pointed_to_the_same_file() {
    let url = |seen_at: &str, name: &str| {
        let dir = WalDir::new("/data", LogId::new("")).seen_at(Some(seen_at.parse().expect("a URL")));
        let segment = Segment {
            name: name.to_owned(),
            partition: TopicPartition::new("orders", 3).expect("a partition"),
            log_id: LogId::new(""),
            format: None,
            position: 17,
            version: Version { size_bytes: 1, changed_at: UNIX_EPOCH, identity: 1 },
            may_grow: false,
            broker_deletes: false,
            verdict: None,
            change_time: None,
            bounds: None,
        };
        dir.url(&segment).map(String::from)
    };
    let check = |seen_at, name, expected: &str| assert_eq!(url(seen_at, name).as_deref(), Some(expected));
    check("file:///mnt/wal", "orders/3/wal_3_17.log", "file:///mnt/wal/orders/3/wal_3_17.log");
    check("file:///mnt/wal/", "orders/3/wal_3_17.log", "file:///mnt/wal/orders/3/wal_3_17.log");
    check("file:///", "orders/3/wal_3_17.log", "file:///orders/3/wal_3_17.log");
    check("s3://bucket", "orders/3/wal_3_17.log", "s3://bucket/orders/3/wal_3_17.log");
    check(
        "s3://bucket/a%20b",
        "a b%2f?#\n\\ü/3/wal_3_17.log",
        "s3://bucket/a%20b/a%20b%252f%3F%23%0A%5C%C3%BC/3/wal_3_17.log",
    );
    assert_eq!(url("data:text", "orders/3/wal_3_17.log"), None);
}

#[test]
fn any_time_of_a_file_is_written_down_and_read_back() {
    let ns = Duration::from_nanos(1);
    for time in [
        UNIX_EPOCH,
        UNIX_EPOCH + ns,
        UNIX_EPOCH - ns,
        UNIX_EPOCH - Duration::from_secs(1),
        UNIX_EPOCH - Duration::from_millis(1500),
        UNIX_EPOCH + Duration::new(i64::MAX as u64, 999_999_999),
        UNIX_EPOCH - Duration::from_secs(i64::MIN.unsigned_abs()),
        SystemTime::now(),
    ] {
        let version = Version { size_bytes: 1, changed_at: time, identity: 2 };
        let text = serde_json::to_string(&version).expect("JSON");
        assert_eq!(serde_json::from_str::<Version>(&text).expect("a version"), version, "{text}");
    }
    let text = r#"{"size_bytes":1,"changed_at":{"secs":0,"nanos":1000000000},"identity":2}"#;
    assert!(serde_json::from_str::<Version>(text).is_err());
}
