//! Three brokers, while brokers, workers and the store are killed, stopped and cut off.
//!
//! The seed decides what is struck when. It is printed. `WAL_INDEXER_TEST_SEED` sets another seed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::broker::Rng;
use crate::gate::{Gate, Mood};
use crate::servers::Server;

use super::admin::Admin;
use super::cluster::{Cluster, NEWEST, eventually};
use super::copies::{Copies, FINISHED};
use super::workers::Workers;

const TOPIC: &str = "orders";
const SETTINGS: &str =
    "remote.storage.enable=true segment.bytes=1048576 local.retention.bytes=2097152 min.insync.replicas=2";

/// What is struck. Whatever it is comes back after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillBroker(usize),
    /// Kills a broker and deletes its copy of the topic.
    EmptyDisk(usize),
    KillWorker(usize),
    StopWorker(usize),
    KillStore,
    /// The store is there, and answers nothing.
    CutOffStore,
}

/// Returns rounds of what is struck, and for how long each is away. Each round strikes everything, in any order.
fn faults(seed: u64) -> impl Iterator<Item = (Fault, Duration)> {
    let mut rng = Rng(seed);
    let round = move |_| {
        let (broker, worker) = (|rng: &mut Rng| rng.below(3) as usize, |rng: &mut Rng| rng.below(2) as usize);
        let mut left = vec![
            Fault::KillBroker(broker(&mut rng)),
            Fault::KillBroker(broker(&mut rng)),
            Fault::EmptyDisk(broker(&mut rng)),
            Fault::KillWorker(worker(&mut rng)),
            Fault::StopWorker(worker(&mut rng)),
            Fault::KillStore,
            Fault::CutOffStore,
        ];
        let mut faults = Vec::new();
        while !left.is_empty() {
            let fault = left.remove(rng.below(left.len() as u64) as usize);
            faults.push((fault, rng.between(Duration::from_millis(300), Duration::from_secs(4))));
        }
        faults
    };
    (0..).flat_map(round)
}

/// The number of faults in a round.
const ROUND: usize = 7;

struct Scene {
    cluster: Cluster,
    workers: Workers,
    server: Server,
    gate: Gate,
    /// Asks for replicas, while another one writes.
    admin: Admin,
}

impl Scene {
    async fn start() -> Self {
        let server = Server::s3();
        let gate = Gate::start(server.port()).await;
        let workers = Workers::start(2, &server, gate.port());
        let timeouts =
            ["copy", "fetch", "index", "delete"].map(|call| format!("rsm.config.{call}.timeout.ms=10000"));
        let mut settings: Vec<&str> = timeouts.iter().map(String::as_str).collect();
        // A broker that is killed is missed after these times.
        settings.extend(["broker.session.timeout.ms=3000", "broker.heartbeat.interval.ms=500"]);
        settings.extend(["replica.lag.time.max.ms=5000", "default.replication.factor=3"]);
        let cluster = Cluster::start(NEWEST, 3, &workers.addresses, &settings);
        let admin = cluster.admin();
        Self { cluster, workers, server, gate, admin }
    }

    /// Waits until so many replicas of the topic are in sync.
    fn waits_for_replicas(&mut self, count: usize) {
        let admin = &mut self.admin;
        let is = || admin.tries(&format!("replicas {TOPIC}")).is_ok_and(|lines| lines == [count.to_string()]);
        eventually(&format!("there are never {count} replicas in sync"), is);
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::KillBroker(nth) => {
                self.cluster.nodes.iter_mut().for_each(|node| node.process.listens(&node.address));
                assert!(self.cluster.nodes[nth].process.kill(), "broker {nth} runs");
            }
            Fault::EmptyDisk(nth) => {
                // As long as Kafka counts on this copy, its loss is a loss of records.
                self.waits_for_replicas(3);
                let first = |scene: &Self| scene.cluster.nodes[nth].base_offsets(TOPIC)[0];
                eventually("nothing goes from the disk", || first(self) > 0);
                assert!(self.cluster.nodes[nth].process.kill(), "broker {nth} runs");
                self.waits_for_replicas(2);
                self.cluster.nodes[nth].loses(TOPIC);
            }
            Fault::KillWorker(nth) => assert!(self.workers.processes[nth].kill(), "worker {nth} runs"),
            Fault::StopWorker(nth) => self.workers.signal(nth, "STOP"),
            Fault::KillStore => self.server.stop(),
            Fault::CutOffStore => self.gate.turns(Mood::Hang),
        }
    }

    fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::KillBroker(nth) => self.cluster.nodes[nth].process.start(),
            Fault::EmptyDisk(nth) => {
                self.cluster.nodes[nth].process.start();
                self.waits_for_replicas(3);
                // It did not read everything again: what lies before is only in the store.
                assert!(self.cluster.nodes[nth].base_offsets(TOPIC)[0] > 0, "broker {nth} has everything");
            }
            // A worker that finds no store at its start ends. One fault at a time: the store is there.
            Fault::KillWorker(nth) => self.workers.starts(nth),
            Fault::StopWorker(nth) => self.workers.signal(nth, "CONT"),
            Fault::KillStore => {
                self.server.start_again();
                self.server.is_back();
            }
            Fault::CutOffStore => self.gate.turns(Mood::Open),
        }
    }
}

/// Writes while one thing after the other is struck, at least one round of them. Mends everything, and compares.
async fn survive(seed: u64, lasting: Duration, records: usize) {
    println!("seed {seed} (WAL_INDEXER_TEST_SEED={seed} does it again), {lasting:?} of faults");
    let mut scene = Scene::start().await;
    let mut admin = scene.cluster.admin();
    let log_id = admin.creates(TOPIC, 3, SETTINGS);
    admin.begins_stream(TOPIC, records, 4);
    let began = Instant::now();
    for (nth, (fault, away)) in faults(seed).enumerate() {
        if nth >= ROUND && began.elapsed() > lasting {
            break;
        }
        println!("{:6.1?} {fault:?} for {away:.1?}", began.elapsed());
        scene.strike(fault);
        tokio::time::sleep(away).await;
        scene.mend(fault);
        tokio::time::sleep(Duration::from_millis(1000)).await;
    }
    scene.waits_for_replicas(3);
    println!("{:6.1?} all are back", began.elapsed());
    let notes = admin.streamed(TOPIC);
    println!("{:6.1?} all is written", began.elapsed());
    assert_eq!(notes.len(), records, "each record is acknowledged at an offset of its own");

    // Everything that is sealed is copied, and the disks are within their retention: 2 MiB, and the active segment.
    for node in &scene.cluster.nodes {
        eventually(&format!("{} keeps {:?}", node.address, node.segments(TOPIC)), || {
            node.segments(TOPIC).len() <= 4
        });
    }
    let first = |node: &super::cluster::Node| node.base_offsets(TOPIC)[0];
    let copied = scene.cluster.nodes.iter().map(first).min().expect("three");
    scene.cluster.check_consumed(TOPIC, &notes);
    scene.workers.check_tenths(TOPIC, &notes, copied).await;

    let (copies, bundles) = (Copies::of(&scene.cluster, TOPIC, &log_id), scene.workers.bundles(TOPIC));
    copies.check(&bundles);
    let started = copies.unused(&bundles).len();
    println!(
        "{records} records, {} copies visible, {started} of them not used by Kafka; {} copies known; \
         {:.1?} after the start",
        bundles.len(),
        copies.len(),
        began.elapsed()
    );
    assert!(bundles.len() - started >= 5);

    // A day later, nothing is visible but what Kafka uses.
    assert_eq!(scene.workers.reconcile_a_day_later(&copies.metadata), started);
    let bundles = scene.workers.bundles(TOPIC);
    assert_eq!((bundles.len(), copies.unused(&bundles)), (copies.in_state(FINISHED).len(), vec![]));
    copies.check(&bundles);
    scene.workers.check_tenths(TOPIC, &notes, copied).await;
}

fn seed() -> u64 {
    std::env::var("WAL_INDEXER_TEST_SEED")
        .map_or(1, |seed| seed.parse().expect("WAL_INDEXER_TEST_SEED is a number"))
}

#[test]
fn the_seed_decides_what_is_struck() {
    let of = |seed| faults(seed).take(10 * ROUND).collect::<Vec<_>>();
    assert_eq!(of(3), of(3));
    assert_ne!(of(3), of(4));
    let all: BTreeSet<_> = of(3).into_iter().map(|(fault, _)| fault).collect();
    assert_eq!(all.len(), 12, "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a JDK and Maven"]
async fn kafka_loses_and_doubles_nothing_while_brokers_workers_and_store_are_struck() {
    survive(seed(), Duration::ZERO, 8_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, needs a JDK and Maven"]
async fn long_kafka_loses_and_doubles_nothing_in_five_minutes_of_faults() {
    survive(seed(), Duration::from_secs(300), 75_000).await;
}
