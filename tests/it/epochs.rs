//! Leader epochs in answers. After an unclean election, two leaders have appended different records at the same offsets.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::anomalies::fixture;
use crate::reading::lines;
use crate::written::{Ran, Written};

/// Returns a segment of one batch: records from this offset on, with this text, appended in this epoch.
fn batch(base: i64, count: i64, text: &str, leader_epoch: i32) -> Vec<u8> {
    let mut batch = lines(base, count, text).to_vec();
    // No checksum covers it.
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
    batch
}

/// Stores what two leaders of `orders`/3 have: the first one offsets 0 to 9, the second one 5 to 9. Offset 5 is the
/// same record. Returns the keys of the two bundles.
async fn two_lineages() -> (Written, [String; 2]) {
    let written = Written::new();
    let lost = [batch(0, 5, "old", 7), batch(5, 1, "same", 7), batch(6, 4, "lost", 7)].concat();
    let kept = [batch(5, 1, "same", 9), batch(6, 4, "kept", 9)].concat();
    let mut keys = Vec::new();
    for (name, bytes) in [("lost", lost), ("kept", kept)] {
        let receipt = written.put(name, &Bytes::from(bytes)).await;
        keys.push(receipt.partitions[0].stored.key().to_string());
    }
    (written, keys.try_into().expect("two"))
}

/// Offset, value and leader epoch of each printed record.
fn records(ran: &Ran) -> Vec<(i64, String, Option<i64>)> {
    let record = |line: Value| {
        let offset = line["offset"].as_str()?.parse().expect("an offset");
        Some((offset, line["value"].as_str().expect("a text").to_owned(), line["leaderEpoch"].as_i64()))
    };
    ran.json().into_iter().filter_map(record).collect()
}

/// Checks that records of both leaders are answered, each with the epoch of its own.
#[track_caller]
fn check(records: &[(i64, String, Option<i64>)]) {
    let differ = (6..10).flat_map(|offset| [(offset, "lost", 7), (offset, "kept", 9)]);
    let old = (0..5).map(|offset| (offset, "old", 7));
    let expected: BTreeSet<_> = old
        .chain(differ)
        .map(|(offset, text, epoch)| (offset, format!("{text} line {offset}"), Some(epoch)))
        .collect();
    let (same, others): (Vec<_>, BTreeSet<_>) = {
        let (same, others): (Vec<_>, Vec<_>) = records.iter().cloned().partition(|(offset, ..)| *offset == 5);
        (same, others.into_iter().collect())
    };
    assert_eq!(others, expected);
    let [(_, value, Some(7 | 9))] = &same[..] else { panic!("what both have is answered once: {same:?}") };
    assert_eq!((value.as_str(), records.len()), ("same line 5", 5 + 1 + 2 * 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_44_different_records_at_one_offset_come_with_the_epochs_of_their_leaders() {
    let (written, keys) = two_lineages().await;
    let partition = ["--topic", "orders", "--partition", "3"];
    let fetch = [&["fetch"], &partition[..]].concat();
    let search = [&["search"], &partition[..], &["line"]].concat();

    let ran = written.run(&[&fetch[..], &["--json"]].concat());
    check(&records(&ran));
    let last = ran.json().pop().expect("a last line");
    let conflicts = last["conflicts"].as_array().expect("a list");
    let offsets: Vec<_> = conflicts.iter().map(|conflict| conflict["offset"].clone()).collect();
    assert_eq!(offsets, ["6", "7", "8", "9"]);
    for conflict in conflicts {
        let of = |nth: usize| &conflict["versions"][nth];
        assert_eq!(of(0), &json!({"bundleKey": keys[0], "leaderEpoch": 7}));
        assert_eq!(of(1), &json!({"bundleKey": keys[1], "leaderEpoch": 9}));
    }
    for order in ["newest", "oldest", "score"] {
        check(&records(&written.run(&[&search[..], &["--json", "--order", order]].concat())));
    }

    // In text, the warning has the epochs in the order of the lines.
    for arguments in [&fetch, &search] {
        let ran = written.run(arguments);
        let at = |offset: i64| ran.out.lines().filter(move |line| line.contains(&format!("@{offset} ")));
        let epoch = |line: &str| if line.contains("lost") { "7" } else { "9" };
        for offset in 6..10 {
            let epochs = at(offset).map(epoch).collect::<Vec<_>>().join(" ");
            let warning = ran.err.lines().find(|line| line.contains(&format!("offset={offset} ")));
            let warning = warning.unwrap_or_else(|| panic!("no warning of offset {offset}: {ran:?}"));
            assert!(warning.contains(&format!(r#"leader_epochs="{epochs}""#)), "{epochs}: {warning}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_44_batches_that_overlap_come_with_their_epochs() {
    let (written, keys) = two_lineages().await;
    let out = written.path("batches");
    let fetch = ["fetch", "--topic", "orders", "--partition", "3", "--kafka-batches", "--json", "--out"];
    let ran = written.run(&[&fetch[..], &[out.to_str().expect("UTF-8")]].concat());
    let last = ran.json().pop().expect("a last line");
    let versions = |bundles: [usize; 2]| {
        let epochs = [7, 9];
        let version = |nth: usize| json!({"bundleKey": keys[nth], "leaderEpoch": epochs[nth]});
        Value::from(bundles.map(version).to_vec())
    };
    let conflicts = last["conflicts"].as_array().expect("a list");
    // Offset 5 is the same record in two batches that differ in their epochs.
    let found: Vec<_> =
        conflicts.iter().map(|one| (one["offset"].as_str(), one["versions"].clone())).collect();
    assert_eq!(found, [(Some("5"), versions([0, 1])), (Some("6"), versions([0, 1]))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_formats_without_epochs_have_none() {
    for (name, bytes, epochs) in [
        ("a batch of a producer", Bytes::from(batch(0, 3, "some", -1)), vec![None; 3]),
        ("a batch of the first leader", Bytes::from(batch(0, 2, "some", 0)), vec![Some(0); 2]),
        ("messages of magic 0 and 1", fixture("kafka-old-messages.log"), vec![]),
    ] {
        let written = Written::new();
        written.put(name, &bytes).await;
        let ran = written.run(&["search", "--topic", "orders", "--json", "--limit", "1000", ""]);
        let lines = ran.json();
        let found: Vec<_> = lines.iter().map(|line| line["leaderEpoch"].as_i64()).collect();
        assert!(!found.is_empty(), "{name}: {ran:?}");
        match epochs[..] {
            [] => assert!(found.iter().all(Option::is_none), "{name}: {found:?}"),
            _ => assert_eq!(found, epochs, "{name}"),
        }
    }
}
