//! What goes up to the workers comes back as it was.

use std::collections::BTreeMap;

use crate::servers::Server;

use super::admin::Notes;
use super::batches::{fetched, on_disk};
use super::cluster::{Cluster, NEWEST, OLDEST};
use super::workers::Workers;

/// The segments of a topic. A batch must fit into one, and an uncompressed one of 8 MiB needs more.
fn settings(codec: &str) -> &'static str {
    match codec {
        "none" => "segment.bytes=9437184 max.message.bytes=16777216",
        _ => "segment.bytes=1572864 max.message.bytes=16777216",
    }
}

/// Writes the same records to a topic that is tiered and to one that is not, waits until only the active segment of the
/// first is on disk, and compares what consumers get.
async fn round_trip(cluster: &Cluster, workers: &Workers, codec: &str, bytes: usize, levels: &[&str]) {
    let (topic, plain) = (&*format!("{codec}tiered"), &*format!("{codec}plain"));
    let (mut admin, node) = (cluster.admin(), &cluster.nodes[0]);
    // All segments stay on disk at first, so that they can be compared.
    admin.creates(topic, 1, &format!("remote.storage.enable=true {}", settings(codec)));
    admin.creates(plain, 1, settings(codec));
    let notes = admin.writes(&[topic, plain], codec, bytes, 7);
    let (written, sealed) = (on_disk(node, topic), node.segments(topic).len() - 1);
    assert!(sealed >= 2, "{codec}: {sealed} sealed segments");
    assert!(notes.values().any(|note| !note.committed), "{codec}: no transaction was aborted");
    admin.does(&format!("alter {topic} local.retention.bytes=1"));
    node.waits_until_copied(topic);
    assert_eq!(workers.bundles(topic).len(), sealed, "{codec}");

    let (_, end) = admin.offsets(topic);
    assert_eq!(fetched(node, topic, end), written, "{codec}: the batches differ");
    for level in levels {
        let expected: BTreeMap<_, _> = notes
            .iter()
            .filter(|(_, note)| note.committed || *level == "read_uncommitted")
            .map(|(offset, note)| (*offset, note.sha256.as_str()))
            .collect();
        let printed = cluster.python(topic, level);
        let read: BTreeMap<_, _> = printed.lines().map(offset_and_value).collect();
        assert_eq!(read, expected, "{codec}, {level}");
        assert_eq!(printed.lines().count(), expected.len(), "{codec}, {level}: some came twice");
        assert!(printed == cluster.python(plain, level), "{codec}, {level}: keys, times or headers differ");
        let printed = cluster.console(topic, level, expected.len());
        assert!(
            printed == cluster.console(plain, level, expected.len()),
            "{codec}, {level}: the console differs"
        );
    }
    let times = |topic| format!("times {topic} {}", notes.len());
    assert_eq!(admin.does(&times(topic)), admin.does(&times(plain)), "{codec}: offsets by time");
    check_search(workers, topic, &notes, node.active(topic)).await;
}

fn offset_and_value(line: &str) -> (i64, &str) {
    let [offset, value, _] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    (offset.parse().expect("an offset"), value)
}

/// Everything before the active segment is found, and nothing of that.
async fn check_search(workers: &Workers, topic: &str, notes: &Notes, active: i64) {
    workers.check_tenths(topic, notes, active).await;
    let sealed = notes.range(..active).count();
    let filter = ["search", "--topic", topic, "--count"];
    assert_eq!(workers.run(&filter).trim(), sealed.to_string(), "{topic}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_gets_back_each_batch_of_each_codec_and_every_tenth_record_is_found() {
    let server = Server::s3();
    let workers = Workers::start(2, &server, server.port());
    let cluster = Cluster::start(NEWEST, 1, &workers.addresses, &[]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let bytes = if codec == "none" { 30_000_000 } else { 16_000_000 };
        round_trip(&cluster, &workers, codec, bytes, &["read_committed"]).await;
    }
    workers.run(&["verify", "--all"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes, needs a JDK and Maven"]
async fn long_kafka_gets_back_two_gigabytes() {
    let server = Server::s3();
    let workers = Workers::start(2, &server, server.port());
    let cluster = Cluster::start(NEWEST, 1, &workers.addresses, &[]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        round_trip(&cluster, &workers, codec, 400_000_000, &["read_committed", "read_uncommitted"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_of_the_oldest_version_gets_back_each_batch() {
    let server = Server::s3();
    let workers = Workers::start(1, &server, server.port());
    let cluster = Cluster::start(OLDEST, 1, &workers.addresses, &[]);
    round_trip(&cluster, &workers, "zstd", 20_000_000, &["read_committed", "read_uncommitted"]).await;
    // Its metadata are printed in the same form.
    assert_eq!(workers.reconcile_a_day_later(&cluster.metadata()), 0);
}
