//! Compares real segments, written by other programs, with the contents that these programs state.

use serde_json::{Value, json};

use super::*;

fn expected(name: &str) -> Value {
    serde_json::from_slice(&fixture(&format!("kafka/{name}.expected.json")))
        .expect("the expectations are JSON")
}

/// A record in the form of the expectations.
fn record_json(record: crate::record::Record<'_>) -> Value {
    let headers = record.headers().map(|(name, value)| {
        json!([std::str::from_utf8(name).expect("header names are UTF-8"), encode(value)])
    });
    json!({
        "offset": record.offset(),
        "timestamp": record.timestamp_ms().unwrap_or(-1),
        "key": encode(record.key()),
        "value": encode(record.value()),
        "headers": headers.collect::<Vec<_>>(),
    })
}

/// The decoded contents, in the form of the expectations.
fn summary(frames: &[(Frame, DecodedFrame)]) -> Value {
    let range = frames.iter().filter_map(|(_, decoded)| decoded.range).reduce(|a, b| a.cover(&b));
    let records: Vec<_> =
        frames.iter().flat_map(|(_, decoded)| decoded.records.iter().map(record_json)).collect();
    json!({
        "base_offset": range.map(|range| range.first()),
        "last_offset": range.map(|range| range.last()),
        "record_count": records.len(),
        "control_offsets": frames.iter().flat_map(|(_, d)| d.control_offsets.clone()).collect::<Vec<_>>(),
        "batch_count": frames.len(),
        "batch_bytes": frames.iter().map(|(frame, _)| frame.bytes.len()).collect::<Vec<_>>(),
        "records": records,
    })
}

#[track_caller]
fn check_places(name: &str, bytes: &Bytes, frames: &[(Frame, DecodedFrame)]) {
    let mut position = 0;
    for (nth, (frame, decoded)) in frames.iter().enumerate() {
        assert_eq!((frame.position, frame.ordinal), (position, nth as u64), "{name}");
        position += frame.bytes.len() as u64;
        let times = || decoded.records.iter().filter_map(|record| record.timestamp_ms());
        assert_eq!(decoded.min_timestamp_ms, times().min(), "{name}");
        assert_eq!(decoded.max_timestamp_ms, times().max(), "{name}");
    }
    assert_eq!(position, bytes.len() as u64, "{name}");
}

#[track_caller]
fn check_kafka(name: &str) {
    let bytes = fixture(&format!("kafka/{name}.log"));
    let frames = read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (expected, found) = (expected(name), summary(&frames));
    for field in expected.as_object().expect("an object").keys() {
        assert_eq!(found[field], expected[field], "{name}: {field}");
    }
    assert!(frames.iter().all(|(frame, _)| frame.format() == SegmentFormat::KafkaLog));
    assert!(frames.iter().all(|(frame, _)| frame.partition.is_none()));
    check_places(name, &bytes, &frames);
}

#[test]
fn every_kafka_fixture_reads_as_expected() {
    for name in [
        "apache-clients",
        "compacted",
        "gaps",
        "gzip",
        "log-append-time",
        "lz4",
        "no-timestamp",
        "none",
        "one-record",
        "snappy",
        "snappy-raw",
        "times-unordered",
        "transactional",
        "zstd",
    ] {
        check_kafka(name);
    }
}

/// Checks the frames of a Chronik segment that belong to `partition` against a Kafka fixture's expectations.
#[track_caller]
fn check_chronik(segment: &str, partition: Option<(&str, i32)>, name: &str, null_is_empty: bool) {
    let bytes = fixture(&format!("chronik/{segment}.wal"));
    let frames = read(&bytes).unwrap_or_else(|error| panic!("{segment}: {error}"));
    assert!(frames.iter().all(|(frame, _)| frame.format() == SegmentFormat::ChronikWal));
    check_places(segment, &bytes, &frames);
    let partition = partition.map(|(topic, number)| TopicPartition::new(topic, number).expect("valid"));
    let frames: Vec<_> = frames.into_iter().filter(|(frame, _)| frame.partition == partition).collect();
    let (mut expected, mut found) = (expected(name), summary(&frames));
    for summary in [&mut expected, &mut found] {
        let records = summary["records"].as_array_mut().expect("records");
        records.sort_by_key(|record| record["offset"].as_i64());
        let nulls = records.iter_mut().filter(|record| null_is_empty && record["value"].is_null());
        nulls.for_each(|record| record["value"] = json!(""));
    }
    for field in ["base_offset", "last_offset", "record_count", "control_offsets", "records"] {
        assert_eq!(found[field], expected[field], "{segment}: {field}");
    }
    if !null_is_empty {
        assert_eq!(found["batch_count"], expected["batch_count"], "{segment}");
    }
}

#[test]
fn every_chronik_fixture_reads_as_the_batches_it_was_made_of() {
    let orders = Some(("orders", 3));
    for name in ["gaps", "gzip", "none", "one-record", "snappy", "times-unordered", "transactional", "zstd"] {
        check_chronik(&format!("v2-{name}"), orders, name, false);
    }
    check_chronik("v2-frames-out-of-order", orders, "none", false);
    check_chronik("v2-old-shape", orders, "zstd", false);
    check_chronik("v2-zero-length-crc", orders, "gzip", false);
    check_chronik("v2-three-partitions", Some(("orders", 0)), "none", false);
    check_chronik("v2-three-partitions", Some(("orders", 1)), "gzip", false);
    check_chronik("v2-three-partitions", Some(("audit.events_eu", 7)), "zstd", false);
    check_chronik("v1", None, "none", true);
    check_chronik("v1-zero-length-crc", None, "none", true);
    check_chronik("v1-then-v2", None, "none", true);
    check_chronik("v1-then-v2", orders, "gzip", false);
}

#[test]
fn frames_out_of_order_stay_in_the_order_of_the_file() {
    let frames = read(&fixture("chronik/v2-frames-out-of-order.wal")).expect("whole");
    let bases: Vec<_> = frames.iter().map(|(_, decoded)| decoded.base_offset).collect();
    assert_eq!(bases, [50, 75, 0, 25]);
}

#[test]
fn a_segment_of_zero_bytes_has_no_frames_and_no_tail() {
    for name in ["chronik/empty.wal", "kafka/empty.log"] {
        let (frames, tail) = split(&fixture(name)).expect("fine");
        assert!(frames.is_empty() && tail.torn.is_none() && tail.format.is_none());
    }
}

#[test]
fn every_fixture_on_disk_is_read_by_a_test_here() {
    let mut on_disk = Vec::new();
    for folder in ["kafka", "chronik"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
        for entry in std::fs::read_dir(path).expect("the fixtures are there") {
            let name = entry.expect("readable").file_name().into_string().expect("UTF-8");
            on_disk.extend(name.strip_suffix(".log").or(name.strip_suffix(".wal")).map(str::to_owned));
        }
    }
    let source = include_str!("fixtures.rs");
    for name in on_disk {
        let short = name.strip_prefix("v2-").unwrap_or(&name);
        assert!(
            source.contains(&format!("\"{name}\""))
                || source.contains(&format!("\"{short}\""))
                || short == "empty",
            "{name}"
        );
    }
}
