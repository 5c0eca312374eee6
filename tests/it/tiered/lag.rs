//! What waits on the brokers' disks is seen by bytes and by age, for each partition.

use std::fs;
use std::time::Duration;

use super::admin::Admin;
use super::cluster::{Cluster, NEWEST, Node, eventually};
use super::workers::Workers;

const SETTINGS: &str = "remote.storage.enable=true segment.bytes=1048576";

const TIMEOUTS: [&str; 2] = ["rsm.config.copy.timeout.ms=3000", "rsm.config.delete.timeout.ms=1000"];

/// Returns the bytes of a topic's sealed segments.
fn sealed_bytes(node: &Node, topic: &str) -> u64 {
    let segments = node.segments(topic);
    let (_, sealed) = segments.split_last().expect("a segment");
    sealed.iter().map(|path| fs::metadata(path).expect("a file").len()).sum()
}

/// Returns the values of the plugin for partition 0 of a topic, or of all together: bytes, and the age in seconds.
fn lag(admin: &mut Admin, node: &Node, topic: Option<&str>) -> Option<(u64, f64)> {
    let (of, age) = match topic {
        Some(topic) => (format!("type=CopyLag,topic={topic},partition=0"), "copy-lag-age-ms"),
        None => ("type=RemoteStorageManager".to_owned(), "copy-lag-age-ms-max"),
    };
    let beans = admin.beans(node, &format!("io.walindexer.kafka:{of},*"));
    let value =
        |attribute: &str| beans.iter().find(|((_, name), _)| name == attribute).map(|(_, value)| *value);
    Some((value("copy-lag-bytes")? as u64, value(age)? / 1_000.0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_lesson_41_what_waits_is_seen_by_bytes_and_by_age_for_each_partition() {
    let store = tempfile::tempdir().expect("a directory");
    let workers = Workers::start_on_disk(1, store.path());
    let cluster = Cluster::start(NEWEST, 1, &workers.addresses, &TIMEOUTS);
    let (mut admin, node) = (cluster.admin(), &cluster.nodes[0]);
    admin.creates("calm", 1, SETTINGS);
    admin.begins_stream("calm", 600, 0);
    admin.streamed("calm");
    eventually("nothing of calm is copied", || lag(&mut admin, node, Some("calm")) == Some((0, 0.0)));
    assert_eq!(workers.bundles("calm").len(), node.segments("calm").len() - 1);

    workers.signal(0, "STOP");
    admin.creates("late", 1, SETTINGS);
    admin.begins_stream("late", 1_000, 0);
    admin.streamed("late");
    let waiting = sealed_bytes(node, "late");
    assert!(waiting > 2 << 20, "{waiting}");
    let waits = |admin: &mut Admin, topic| {
        let mut age = 0.0;
        eventually("the bytes that wait are not seen", || match lag(admin, node, topic) {
            Some((bytes, now)) => {
                age = now;
                bytes == waiting
            }
            None => false,
        });
        age
    };
    let before = waits(&mut admin, Some("late"));
    std::thread::sleep(Duration::from_secs(4));
    // A copy failed meanwhile, and another one began.
    let after = waits(&mut admin, Some("late"));
    assert!(after >= before + 4.0 && after < 120.0, "{before} s, then {after} s");
    assert!(waits(&mut admin, None) >= after);
    assert_eq!(lag(&mut admin, node, Some("calm")), Some((0, 0.0)));
    // Kafka's own has the bytes of each topic, and no age.
    let kafkas = |admin: &mut Admin| {
        let beans = admin.beans(node, "kafka.server:type=BrokerTopicMetrics,name=RemoteCopyLagBytes,*");
        beans.into_iter().filter(|((name, _), _)| name.contains("topic=late")).collect::<Vec<_>>()
    };
    eventually("Kafka shows no lag", || {
        matches!(&kafkas(&mut admin)[..], [((name, _), bytes)]
            if *bytes == waiting as f64 && !name.contains("partition="))
    });

    workers.signal(0, "CONT");
    eventually("a lag stays", || lag(&mut admin, node, Some("late")) == Some((0, 0.0)));
    assert_eq!(lag(&mut admin, node, None), Some((0, 0.0)));
    assert_eq!(workers.bundles("late").len(), node.segments("late").len() - 1);
}
