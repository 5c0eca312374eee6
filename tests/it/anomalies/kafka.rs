//! Kafka batches and messages that differ from the documentation, and that Kafka's own reader reads.

use std::collections::BTreeMap;

use super::*;
use crate::written;

const ORDERS: (&str, i32) = ("orders", 3);

#[test]
fn batches_that_start_before_the_one_in_front_of_them_ends_are_read() {
    let store = LocalStore::new();
    let receipt = store.index(&fixture("kafka-7866-duplicate-offsets.log"), &[]);
    assert_eq!(receipt.covers(), (0, 21, 27, 0));
    assert_eq!(receipt.anomalies(), anomalies(&[("OFFSETS_OUT_OF_ORDER", 1)]));
    let twice = (0..15).chain(10..22);
    let mut expected: Vec<_> = twice.collect();
    expected.sort_unstable();
    assert_eq!(store.offsets(ORDERS, 0), expected, "both records of an offset");
    assert_eq!(store.batches(ORDERS, 0).expect("all").len(), 1_198);
}

#[test]
fn records_behind_the_last_offset_that_their_batch_claims_are_read_and_found() {
    let store = LocalStore::new();
    let segment = fixture("sarama-1026-last-offset-delta.log");
    let receipt = store.index(&segment, &[]);
    assert_eq!(receipt.covers(), (9, 48, 40, 0));
    assert_eq!(receipt.anomalies(), anomalies(&[("BAD_RECORD_OFFSET", 4)]));
    assert_eq!(store.inspect(&segment)["anomalies"]["BAD_RECORD_OFFSET"], 4);
    for offset in [0, 9, 10, 18, 19, 25, 48] {
        assert_eq!(store.offsets(ORDERS, offset), (offset.max(9)..49).collect::<Vec<_>>(), "from {offset}");
    }
    // The second batch: its head covers 19 to 19.
    assert_eq!(store.batches(ORDERS, 20).expect("batches"), segment[401..]);
    assert_eq!(store.search("orders", "offset:[12 TO 14]"), [12, 13, 14]);
}

#[test]
fn bytes_behind_a_compressed_streams_end_are_kept_and_passed_over() {
    let store = LocalStore::new();
    let segment = fixture("gzip-padded-8.log");
    let receipt = store.index(&segment, &[]);
    assert_eq!(receipt.covers(), (0, 22, 23, 0));
    assert_eq!(receipt.anomalies(), anomalies(&[("BYTES_LEFT_OVER", 1)]));
    assert_eq!(store.offsets(ORDERS, 0), (0..23).collect::<Vec<_>>());
    assert_eq!(store.batches(ORDERS, 0).expect("batches"), segment);
}

/// Messages of magic 0 and 1 with every codec of these versions, and a batch behind them, written and read by
/// Kafka's own classes.
#[test]
fn messages_from_before_batches_are_read() {
    let expected: Value = serde_json::from_slice(&fixture("kafka-old-messages.expected.json")).expect("JSON");
    let records = expected["records"].as_array().expect("records");
    let store = LocalStore::new();
    let segment = fixture("kafka-old-messages.log");
    let receipt = store.index(&segment, &[]);
    let count = records.len() as i64;
    assert_eq!((receipt.covers().0, receipt.covers().2), (0, count));
    let kinds: Vec<_> = receipt.anomalies().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["KAFKA_MAGIC_0", "KAFKA_MAGIC_1"]);

    let found = store.records(ORDERS, 0);
    assert_eq!(found.len(), records.len());
    for (found, expected) in found.iter().zip(records) {
        let offset = expected["offset"].as_i64().expect("an offset");
        assert_eq!(offset_of(found), offset);
        for part in ["key", "value"] {
            assert_eq!(found[part], expected[part], "{part} of {offset}");
        }
        let time = expected["timestamp"].as_i64().filter(|time| *time != -1);
        assert_eq!(found["timestampMs"].as_str().map(|ms| ms.parse().expect("a number")), time, "{offset}");
    }
    let errors = records.iter().filter(|one| value(one).is_some_and(|value| value.contains("error")));
    let errors: Vec<_> = errors.map(|one| one["offset"].as_i64().expect("an offset")).collect();
    assert_eq!(store.search("orders", "level:error"), errors);
    // Consumers get them unchanged.
    assert_eq!(store.batches(ORDERS, 0).expect("all"), segment);
    let last = records.last().expect("some")["offset"].as_i64().expect("an offset");
    assert_eq!(store.offsets(ORDERS, last), [last]);
    // A changed byte is found, except in what no checksum covers: offsets, and the leader epoch of a batch.
    let mut starts = vec![0];
    while let Some(head) = segment.get(starts[starts.len() - 1]..).and_then(|rest| rest.first_chunk::<12>()) {
        let len = u32::from_be_bytes(head[8..].try_into().expect("four bytes")) as usize;
        starts.push(starts[starts.len() - 1] + 12 + len);
    }
    let mut found = 0;
    for at in (0..segment.len()).step_by(29) {
        let start = *starts.iter().rfind(|start| **start <= at).expect("a frame");
        let (within, is_batch) = (at - start, segment[start + 16] == 2);
        if within < 8 || is_batch && (12..16).contains(&within) {
            continue;
        }
        let mut damaged = segment.to_vec();
        damaged[at] ^= 4;
        let ran = store.inspect(&damaged);
        assert!(!ran["error"].is_null(), "byte {at}: {ran}");
        found += 1;
    }
    assert!(found > 100, "{found}");
}

fn value(record: &Value) -> Option<String> {
    use base64::prelude::*;
    let value = BASE64_STANDARD.decode(record["value"].as_str()?).expect("base64");
    Some(String::from_utf8(value).expect("UTF-8"))
}

/// Earlier releases and this one make the same bundle of a segment without anomalies.
#[test]
fn a_bundle_of_a_segment_without_anomalies_is_of_the_version_that_earlier_releases_read() {
    let store = LocalStore::new();
    for (name, parts) in written::fixtures().into_iter().filter(|(_, parts)| parts.len() == 1) {
        let segment = written::fixture(&name);
        let receipt = store.index(&segment, &[]);
        assert!(receipt.anomalies().is_empty() && receipt.undecoded() == 0, "{name}");
        let counts: BTreeMap<_, usize> = BTreeMap::from([(parts[0].0, 1)]);
        assert_eq!(counts.len(), 1);
    }
}
