//! Workers that are away, or that hang.

use std::time::{Duration, Instant};

use crate::servers::Server;

use super::batches::{fetched, on_disk};
use super::cluster::{Cluster, NEWEST, PLUGIN, SOON, eventually};
use super::workers::Workers;

const SMALL: &str = "remote.storage.enable=true segment.bytes=1048576";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_goes_on_without_workers_and_copies_the_backlog_when_they_are_back() {
    let server = Server::s3();
    let mut workers = Workers::start(2, &server, server.port());
    let cluster = Cluster::start(NEWEST, 1, &workers.addresses, &[]);
    let (mut admin, node) = (cluster.admin(), &cluster.nodes[0]);
    admin.creates("orders", 1, &format!("{SMALL} local.retention.bytes=1"));
    workers.stop_all();
    admin.begins_stream("orders", 1500, 0);
    let notes = admin.streamed("orders");
    // Nothing goes from the disk that is not copied, and everything is read.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(workers.bundles("orders"), Vec::<String>::new());
    assert!(node.segments("orders").len() >= 4);
    assert_eq!(cluster.python("orders", "read_committed").lines().count(), notes.len());
    let written = on_disk(node, "orders");

    workers.start_all();
    node.waits_until_copied("orders");
    assert_eq!(node.process.starts, 1);
    let (_, end) = admin.offsets("orders");
    assert_eq!(fetched(node, "orders", end), written);
    workers.check_tenths("orders", &notes, node.active("orders")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_waits_no_longer_than_told_for_workers_that_hang() {
    const TIMEOUTS: &[&str] = &[
        "rsm.config.copy.timeout.ms=3000",
        "rsm.config.fetch.timeout.ms=3000",
        "rsm.config.index.timeout.ms=3000",
        "rsm.config.delete.timeout.ms=3000",
    ];
    let server = Server::s3();
    let workers = Workers::start(2, &server, server.port());
    let cluster = Cluster::start(NEWEST, 1, &workers.addresses, TIMEOUTS);
    let (mut admin, node) = (cluster.admin(), &cluster.nodes[0]);
    admin.creates("orders", 1, SMALL);
    admin.begins_stream("orders", 1000, 0);
    let mut notes = admin.streamed("orders");
    let written = on_disk(node, "orders");
    admin.does("alter orders local.retention.bytes=1");
    node.waits_until_copied("orders");
    let copied = workers.bundles("orders").len();

    (0..2).for_each(|nth| workers.signal(nth, "STOP"));
    // Copies begin and end at their deadline, again and again; so do fetches of what is not on disk any more.
    admin.creates("others", 1, SMALL);
    admin.begins_stream("others", 1000, 0);
    notes.extend(admin.streamed("others").into_iter().map(|(offset, note)| (offset + 1_000_000, note)));
    let began = Instant::now();
    let consuming = std::thread::spawn({
        let mut reader = cluster.reader("orders");
        move || {
            std::thread::sleep(Duration::from_secs(12));
            reader.kill().expect("it is ours");
            reader.wait().expect("it ends");
        }
    });
    eventually("no thread calls a worker", || !node.threads_in(PLUGIN).is_empty());
    eventually("no copy ends", || node.process.said("deadline") + node.process.said("DEADLINE") >= 2);
    assert!(began.elapsed() < SOON);
    consuming.join().expect("it ends");
    assert_eq!(cluster.python("others", "read_committed").lines().count(), 1000, "local data are read");
    assert_eq!(node.segments("orders").len(), 1);

    (0..2).for_each(|nth| workers.signal(nth, "CONT"));
    admin.does("alter others local.retention.bytes=1");
    node.waits_until_copied("others");
    eventually("threads stay in calls", || node.threads_in(PLUGIN).is_empty());
    let (_, end) = admin.offsets("orders");
    assert_eq!(fetched(node, "orders", end), written);
    assert_eq!(workers.bundles("orders").len(), copied);
    assert_eq!(cluster.python("others", "read_committed").lines().count(), 1000);
    assert_eq!(notes.len(), 2000);
}
