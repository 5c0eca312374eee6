//! The leader of three brokers is killed at a chosen moment: in mid-copy, between a copy and Kafka's metadata, and in
//! mid-deletion. Workers are stopped, so that its calls hang, and its threads show when it is there.

use std::time::Instant;

use super::admin::{Admin, Notes};
use super::cluster::{Cluster, NEWEST, Node, eventually};
use super::copies::{Copies, DELETED, STARTED};
use super::workers::Workers;

const TOPIC: &str = "orders";

/// The topic of Kafka's remote log metadata.
const METADATA: &str = "__remote_log_metadata";

/// Only the segment that is written to stays on the disks.
const SETTINGS: &str = "remote.storage.enable=true local.retention.bytes=1 min.insync.replicas=2";

/// How long Kafka does not miss a broker that is killed. Between the two kills of the second test, a bundle must arrive.
const MISSED: &str = "broker.session.timeout.ms=6000";

struct Scene {
    cluster: Cluster,
    workers: Workers,
    admin: Admin,
    log_id: String,
    /// Where the broker that leads the topic is in the cluster, and the one that leads Kafka's metadata.
    leader: usize,
    keeper: usize,
    notes: Notes,
    began: Instant,
    _store: tempfile::TempDir,
}

impl Scene {
    /// Starts brokers and a worker, and creates the topic, with segments of this size. Another broker than its leader
    /// leads Kafka's metadata.
    fn start(segment_bytes: usize) -> Self {
        let began = Instant::now();
        let store = tempfile::tempdir().expect("a directory");
        let workers = Workers::start_on_disk(1, store.path());
        let timeouts =
            ["copy", "fetch", "index", "delete"].map(|call| format!("rsm.config.{call}.timeout.ms=30000"));
        let mut settings: Vec<&str> = timeouts.iter().map(String::as_str).collect();
        settings.extend([MISSED, "broker.heartbeat.interval.ms=500", "default.replication.factor=3"]);
        let cluster = Cluster::start(NEWEST, 3, &workers.addresses, &settings);
        let mut admin = cluster.admin();
        let keeper = admin.leader(METADATA);
        let on = [keeper % 3 + 1, (keeper + 1) % 3 + 1, keeper];
        let log_id = admin.creates_on(TOPIC, on, &format!("{SETTINGS} segment.bytes={segment_bytes}"));
        let (leader, keeper) = (admin.leader(TOPIC) - 1, keeper - 1);
        assert_ne!(leader, keeper);
        let notes = Notes::new();
        Self { cluster, workers, admin, log_id, leader, keeper, notes, began, _store: store }
    }

    /// Writes records, all of which are acknowledged.
    fn write(&mut self, records: usize) {
        self.admin.begins_stream(TOPIC, records, 0);
        self.notes = self.admin.streamed(TOPIC);
        assert_eq!(self.notes.len(), records);
    }

    /// Waits until the leader is in a call of the plugin.
    fn waits_for_leader_in(&self, call: &str) {
        let leader = &self.cluster.nodes[self.leader];
        eventually(&format!("the leader is never in {call}"), || !leader.threads_in(call).is_empty());
        self.says(&format!("the leader is in {call}"));
    }

    fn kill(&mut self, nth: usize) {
        assert!(self.cluster.nodes[nth].process.kill(), "broker {nth} runs");
        self.says(&format!("broker {nth} is killed"));
    }

    fn says(&self, what: &str) {
        println!("{:6.1?} {what}", self.began.elapsed());
    }

    /// Starts all brokers that were killed. Waits until each has all records, and only the last ones on its disk: the
    /// segment that it writes to, and the one before, if the leader's segments end elsewhere.
    fn comes_back(&mut self) {
        let is_away = |node: &&mut Node| !node.process.is_running();
        self.cluster.nodes.iter_mut().filter(is_away).for_each(|node| node.process.start());
        self.cluster.nodes.iter_mut().for_each(|node| node.process.listens(&node.address));
        let admin = &mut self.admin;
        let are_three = || admin.tries(&format!("replicas {TOPIC}")).is_ok_and(|lines| lines == ["3"]);
        eventually("there are never three replicas in sync", are_three);
        self.says("three replicas are in sync");
        for node in &self.cluster.nodes {
            eventually("a disk exceeds its retention", || node.segments(TOPIC).len() <= 2);
        }
        self.says("all is copied");
    }

    /// Checks that each acknowledged record from the start of the log on is consumed and found exactly once, and that
    /// of the visible bundles Kafka knows each and has deleted none. Returns what Kafka knows, and the bundles.
    async fn check(&mut self) -> (Copies, Vec<String>) {
        let (start, _) = self.admin.offsets(TOPIC);
        let notes = self.notes.split_off(&start);
        self.cluster.check_consumed(TOPIC, &notes);
        self.says("all is consumed");
        let on_disk = self.cluster.nodes.iter().map(|node| node.base_offsets(TOPIC)[0]).min().expect("three");
        self.workers.check_tenths(TOPIC, &notes, on_disk).await;
        self.says("all is found");
        let copies = Copies::of(&self.cluster, TOPIC, &self.log_id);
        let bundles = self.workers.bundles(TOPIC);
        copies.check(&bundles);
        self.says(&format!("{} copies are known, {} bundles are visible", copies.len(), bundles.len()));
        (copies, bundles)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_copies_again_what_its_leader_was_killed_in_the_middle_of_copying() {
    // A worker takes 2 MiB of a call before it reads them, so no whole segment is on its way when the leader dies.
    let mut scene = Scene::start(5 << 20);
    scene.workers.signal(0, "STOP");
    scene.write(3_000);
    scene.waits_for_leader_in("copyLogSegmentData");
    scene.kill(scene.leader);
    scene.workers.signal(0, "CONT");
    scene.comes_back();
    let (copies, bundles) = scene.check().await;
    let [aimed] = copies.in_state(STARTED)[..] else { panic!("{copies:?}") };
    assert_eq!(aimed.base_offset, 0);
    assert!(bundles.len() >= 2, "{bundles:?}");
    assert_eq!(copies.unused(&bundles), [""; 0], "what was cut off landed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_copies_again_what_its_leader_was_killed_after_copying_and_before_its_metadata_said_so() {
    let mut scene = Scene::start(1 << 20);
    scene.workers.signal(0, "STOP");
    scene.write(1_000);
    scene.waits_for_leader_in("copyLogSegmentData");
    // Nobody takes the leader's metadata until Kafka misses this broker.
    scene.kill(scene.keeper);
    scene.workers.signal(0, "CONT");
    eventually("no copy is finished", || !scene.workers.bundles(TOPIC).is_empty());
    scene.kill(scene.leader);
    let aimed = scene.workers.bundles(TOPIC);
    assert_eq!(aimed.len(), 1, "Kafka goes on to the next segment before its metadata have the first");
    scene.comes_back();
    let (copies, bundles) = scene.check().await;
    // It is visible, and Kafka does not use it until it deletes it.
    assert_eq!(copies.unused(&bundles), aimed.iter().collect::<Vec<_>>());
    let same_segment = bundles.iter().filter_map(|key| copies.of_bundle(key));
    assert_eq!(same_segment.filter(|copy| copy.base_offset == 0).count(), 2, "{bundles:?}");
    // An operator hides it, and brings it back.
    assert_eq!(scene.workers.reconcile_a_day_later(&copies.metadata), 1);
    assert!(!scene.workers.bundles(TOPIC).contains(&aimed[0]));
    scene.workers.run(&["undelete", "--topic", TOPIC]);
    assert!(scene.workers.bundles(TOPIC).contains(&aimed[0]));
    scene.admin.does(&format!("alter {TOPIC} retention.bytes=1"));
    eventually("retention leaves it", || !scene.workers.bundles(TOPIC).contains(&aimed[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_deletes_again_what_its_leader_was_killed_in_the_middle_of_deleting() {
    let mut scene = Scene::start(1 << 20);
    scene.write(1_500);
    scene.comes_back();
    let all = scene.workers.bundles(TOPIC);
    assert!(all.len() >= 4, "{all:?}");
    scene.workers.signal(0, "STOP");
    // The first offset of the third segment: two are deleted.
    let start = super::lifecycle::offsets(&all[2]).0;
    scene.admin.does(&format!("truncate {TOPIC} {start}"));
    scene.waits_for_leader_in("deleteLogSegmentData");
    assert_eq!(scene.workers.bundles(TOPIC), all, "nothing is deleted yet");
    scene.kill(scene.leader);
    scene.workers.signal(0, "CONT");
    scene.comes_back();
    eventually("what Kafka deletes is visible", || scene.workers.bundles(TOPIC).first() == Some(&all[2]));
    assert_eq!((scene.workers.deleted(TOPIC), scene.admin.offsets(TOPIC).0), (2, start));
    eventually("Kafka does not know that it deleted", || {
        Copies::of(&scene.cluster, TOPIC, &scene.log_id).in_state(DELETED).len() == 2
    });
    let (copies, bundles) = scene.check().await;
    let aimed: Vec<_> = all[..2].iter().map(|key| copies.of_bundle(key).expect("it is known")).collect();
    assert_eq!(copies.in_state(DELETED), aimed);
    assert_eq!(copies.unused(&bundles), [""; 0]);
}
