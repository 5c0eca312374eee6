//! Segments that a broker has from earlier releases, or from unusual producers.

use std::ffi::OsStr;
use std::fs;

use super::batches::{base_offset, fetched, on_disk};
use super::cluster::{Cluster, NEWEST, OLDEST, java, source};
use super::workers::Workers;

const TOPIC: &str = "old";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_gets_back_old_magics_and_a_batch_that_opens_to_300_mb() {
    let store = tempfile::tempdir().expect("a directory");
    let workers = Workers::start_on_disk(1, store.path());
    let mut cluster = Cluster::start(NEWEST, 1, &workers.addresses, &[]);
    let settings = "remote.storage.enable=true segment.bytes=1048576";
    cluster.admin().creates(TOPIC, 1, settings);
    assert!(cluster.nodes[0].process.kill());
    let partition = cluster.nodes[0].partition(TOPIC);
    for entry in fs::read_dir(&partition).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|one| ["log", "index", "timeindex", "snapshot"].map(OsStr::new).contains(&one))
        {
            fs::remove_file(path).expect("it is there");
        }
    }
    // Later clients have other names for the classes that write them.
    let planted =
        java(OLDEST, "-Xmx256m", source("Planted.java")).arg(&partition).output().expect("java runs");
    assert!(planted.status.success(), "{}", String::from_utf8_lossy(&planted.stderr));
    let node = &mut cluster.nodes[0];
    node.process.start();
    node.process.listens(&node.address);

    let (mut admin, node) = (cluster.admin(), &cluster.nodes[0]);
    admin.begins_stream(TOPIC, 10, 0);
    admin.streamed(TOPIC);
    let written = on_disk(node, TOPIC);
    let of_magic =
        |magic| written.iter().filter(|batch| batch[16] == magic && base_offset(batch) < 500).count();
    assert_eq!([0, 1, 2].map(of_magic), [100, 55, 1]);
    admin.does(&format!("alter {TOPIC} local.retention.bytes=1"));
    node.waits_until_copied(TOPIC);
    assert_eq!(workers.bundles(TOPIC).len(), 3);
    assert_eq!(admin.offsets(TOPIC), (0, 510));
    assert_eq!(fetched(node, TOPIC, 510), written);
    workers.run(&["verify", "--all"]);
    for (word, offset) in [("zero0", 0), ("zero99", 99), ("one0", 100), ("one90", 190)] {
        let found: Vec<_> = workers.search(TOPIC, word).await.into_iter().map(|(offset, _)| offset).collect();
        assert!(found.contains(&offset), "{word} is found at {found:?}");
    }
}
