//! What Kafka deletes, and what its users do with topics, reaches the bundles.

use std::fs;
use std::path::{Path, PathBuf};

use crate::worker;

use super::cluster::{Cluster, NEWEST, eventually};
use super::workers::Workers;

/// Segments as small as Kafka allows; those that were copied go from the disk at once.
const SMALL: &str = "remote.storage.enable=true segment.bytes=1048576 local.retention.bytes=1";

/// Four times as many MiB, about.
const RECORDS: usize = 2000;

/// Returns the offsets of a bundle, from its key.
pub fn offsets(key: &str) -> (i64, i64) {
    let (first, rest) = key.rsplit_once('/').expect("a path").1.split_once('-').expect("two offsets");
    let last = rest.split('_').next().expect("an offset");
    (first.parse().expect("an offset"), last.parse().expect("an offset"))
}

/// Returns all objects of a log of partition 0. Without any, it has no directory.
fn objects(store: &Path, topic: &str, log_id: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join(topic).join("0").join(log_id));
    entries.into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect()
}

/// Makes all that a log has deleted older than any time that `purge` waits.
fn age_markers(objects: &[PathBuf]) -> usize {
    let is_marker = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "deleted");
    let markers = objects.iter().filter(is_marker);
    let write = |path: &PathBuf| {
        let json = r#"{"hidden_at_ms":1600000000000,"reason":"deleted","version":1}"#;
        fs::write(path, json).expect("written");
    };
    markers.map(write).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_deletes_bundles_and_a_topic_made_again_shares_nothing_with_the_old_one() {
    let store = tempfile::tempdir().expect("a directory");
    let workers = Workers::start_on_disk(2, store.path());
    let cluster = Cluster::start(NEWEST, 1, &workers.addresses, &[]);
    let (mut admin, node, topic) = (cluster.admin(), &cluster.nodes[0], "orders");
    let old_id = admin.creates(topic, 1, SMALL);
    admin.begins_stream(topic, RECORDS, 0);
    let notes = admin.streamed(topic);
    node.waits_until_copied(topic);
    let all = workers.bundles(topic);
    assert!(all.len() >= 5 && all.iter().all(|key| key.contains(&old_id)), "{all:?}");
    workers.check_tenths(topic, &notes, node.active(topic)).await;

    // DeleteRecords: the bundles that lie before the new start go, the one around it stays.
    let start = offsets(&all[2]).0 + 1;
    admin.does(&format!("truncate {topic} {start}"));
    eventually("records that were deleted stay in bundles", || workers.bundles(topic) == all[2..]);
    assert_eq!((workers.deleted(topic), admin.offsets(topic).0), (2, start));
    let gone = notes.iter().find(|(_, note)| note.nth == 10).expect("it was written");
    assert!(*gone.0 < offsets(&all[2]).0);
    assert_eq!(workers.search(topic, "needle10oforders").await, []);
    let left: super::admin::Notes =
        notes.range(start..).map(|(offset, note)| (*offset, note.clone())).collect();
    workers.check_tenths(topic, &left, node.active(topic)).await;

    // Retention by size.
    admin.does(&format!("alter {topic} retention.bytes=3000000"));
    eventually("retention does not reach bundles", || workers.bundles(topic).len() <= 3);
    eventually("the start of the log is not that of its first bundle", || {
        let bundles = workers.bundles(topic);
        bundles.first().is_some_and(|key| offsets(key).0 == admin.offsets(topic).0)
    });
    assert_eq!(workers.bundles(topic).len() + workers.deleted(topic), all.len());

    // The topic goes, and comes again under its name.
    admin.does(&format!("delete {topic}"));
    eventually("a deleted topic has bundles", || workers.bundles(topic).is_empty());
    assert_eq!(workers.deleted(topic), all.len());
    assert_eq!(workers.run(&["search", "--topic", topic, "--count"]).trim(), "0");
    let new_id = admin.creates(topic, 1, SMALL);
    assert_ne!(new_id, old_id);
    admin.begins_stream(topic, RECORDS / 2, 0);
    let new_notes = admin.streamed(topic);
    node.waits_until_copied(topic);
    workers.check_tenths(topic, &new_notes, node.active(topic)).await;
    let read = cluster.python(topic, "read_committed");
    let values = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    assert!(read.lines().filter_map(values).eq(new_notes.values().map(|note| note.sha256.clone())));
    assert!(workers.bundles(topic).iter().all(|key| key.contains(&new_id)));

    // Until the purge, an operator brings the old one back.
    workers.run(&["undelete", "--topic", topic, "--log-id", &old_id]);
    let old = workers.bundles(topic).into_iter().filter(|key| key.contains(&old_id)).collect::<Vec<_>>();
    assert_eq!(old, all);
    let last = offsets(&all[all.len() - 1]).1;
    let count = ["search", "--topic", topic, "--log-id", &old_id, "--count"];
    assert_eq!(workers.run(&count).trim(), notes.range(..=last).count().to_string());
    let fetch =
        ["fetch", "--topic", topic, "--partition", "0", "--log-id", &old_id, "--offset", "0", "--json"];
    assert!(workers.run(&fetch).lines().count() > 1);

    // What stays deleted for longer than the window is purged, and nothing else.
    admin.does(&format!("delete {topic}"));
    eventually("a deleted topic has bundles", || {
        workers.deleted(topic) > 0 && workers.bundles(topic).len() == all.len()
    });
    assert!(age_markers(&objects(store.path(), topic, &new_id)) > 0);
    let after = worker::run(["purge", "--after", "6h", "--store", &worker::file_url(store.path())]);
    assert_eq!(
        objects(store.path(), topic, &new_id),
        Vec::<PathBuf>::new(),
        "{}",
        String::from_utf8_lossy(&after)
    );
    assert_eq!(workers.bundles(topic), all);
}
