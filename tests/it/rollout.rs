//! A rollout: three workers are stopped and replaced, one after the other, while two agents send all the
//! time. Then the agents are replaced. No segment fails, none is stored twice, and no agent gets an error
//! that it does not recover from by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wal_indexer::client::Connection;
use wal_indexer::store::Store;

use crate::broker::{Broker, Log, Plan, differences};
use crate::processes::Process;
use crate::scale::{HOSTS, NAME, agent as agent_of_its_own_hosts};
use crate::servers::ports_to_come_back_to;
use crate::worker::{command, file_url};

/// How long anything may take before it counts as stuck.
const SOON: Duration = Duration::from_secs(120);

/// Where replacements listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replaced {
    /// At the address of the old process, after that has ended: as when a host restarts a process.
    There,
    /// At a new address, before the old process ends: as the pods of a Deployment behind a name.
    Elsewhere,
}

/// All processes.
struct Scene {
    replaced: Replaced,
    store: Store,
    hosts: PathBuf,
    addresses: Vec<String>,
    workers: Vec<Process>,
    agents: Vec<Process>,
    brokers: Vec<Broker>,
    /// From SIGTERM to the end, and how many segments were acknowledged meanwhile.
    drains: Vec<(Duration, usize)>,
    // Last, so that it is dropped last.
    _directory: TempDir,
}

impl Scene {
    fn start(replaced: Replaced) -> Self {
        let directory = TempDir::with_prefix("wal-indexer-rollout-").expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("store")).expect("a directory");
        let url = file_url(&path("store"));
        let store = Store::open(&url.parse().expect("a URL")).expect("a store");
        let addresses: Vec<_> = match replaced {
            Replaced::There => {
                ports_to_come_back_to::<3>().iter().map(|port| format!("127.0.0.1:{port}")).collect()
            }
            Replaced::Elsewhere => {
                let [port] = ports_to_come_back_to();
                HOSTS.iter().map(|host| format!("{host}:{port}")).collect()
            }
        };
        let worker = |(nth, address): (usize, &String)| {
            let (address, url) = (address.clone(), url.clone());
            Process::new(format!("worker-{nth}"), directory.path(), move || {
                let mut command = command(["serve", "--listen", &address, "--store", &url]);
                command.args(["--threads", "1", "--memory-budget", "256MiB"]);
                command
            })
        };
        let workers = addresses.iter().enumerate().map(worker).collect();
        let (hosts, agents) = (path("hosts"), Vec::new());
        let (brokers, drains) = (Vec::new(), Vec::new());
        let mut scene = Self {
            replaced,
            store,
            hosts,
            addresses,
            workers,
            agents,
            brokers,
            drains,
            _directory: directory,
        };
        for nth in 0..3 {
            scene.start_worker(nth);
        }
        scene.call_together(&[0, 1, 2]);
        for (nth, topic) in [(0, "orders"), (1, "audit")] {
            scene.start_agent(nth, topic);
        }
        scene
    }

    fn start_worker(&mut self, nth: usize) {
        self.workers[nth].start();
        self.workers[nth].listens(&self.addresses[nth]);
    }

    /// Sets the workers that the name resolves to. The file is overwritten in place, because it is mounted
    /// for the agents.
    fn call_together(&self, workers: &[usize]) {
        let lines = workers.iter().map(|nth| format!("{} {NAME}\n", HOSTS[*nth])).collect::<String>();
        fs::write(&self.hosts, format!("127.0.0.1 localhost\n{lines}")).expect("a file");
    }

    /// Starts an agent, and the broker whose log it empties.
    fn start_agent(&mut self, nth: usize, topic: &'static str) {
        let wal = self.store_sibling(&format!("wal-{nth}"));
        fs::create_dir(&wal).expect("a directory");
        let command: Box<dyn Fn() -> std::process::Command + Send> = match self.replaced {
            Replaced::There => {
                let endpoints = self.addresses.iter().map(|address| format!("http://{address}"));
                let (endpoints, wal) = (endpoints.collect::<Vec<_>>().join(","), wal.clone());
                Box::new(move || {
                    let mut command = command(["agent", "--interval", "0.2", "--min-segment-age", "0"]);
                    command.arg("--wal-dir").arg(&wal).args(["--endpoint", &endpoints]);
                    command
                })
            }
            Replaced::Elsewhere => {
                let port = self.addresses[0].rsplit_once(':').expect("a port").1;
                Box::new(agent_of_its_own_hosts(&self.hosts, &wal, port.parse().expect("a number")))
            }
        };
        let mut agent = Process::new(format!("agent-{nth}"), wal.parent().expect("a directory"), command);
        agent.start();
        self.agents.push(agent);
        let plan = Plan {
            seed: 40 + nth as u64,
            topics: vec![(topic, 3)],
            segment_bytes: 256 << 10,
            batches: u64::MAX,
            records: 20..=120,
            pause: Duration::from_millis(25),
        };
        self.brokers.push(Broker::start(&wal, plan));
    }

    fn store_sibling(&self, name: &str) -> PathBuf {
        self.hosts.with_file_name(name)
    }

    /// Waits until a worker has segments in flight.
    async fn has_work(&self, nth: usize) {
        let endpoint = format!("http://{}", self.addresses[nth]);
        let mut connection = Connection::connect(&endpoint).await.expect("it listens");
        let deadline = Instant::now() + SOON;
        while connection.stats().await.expect("it runs").jobs.is_empty() {
            assert!(Instant::now() < deadline, "nobody sends to worker {nth}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Stops a worker that has work in flight, and waits for its end. If workers share a name, it is removed
    /// from the name first, and `left` are the others: a caller may notice either event first.
    async fn stop(&mut self, nth: usize, left: &[usize]) {
        self.has_work(nth).await;
        self.call_together(left);
        let worker = &mut self.workers[nth];
        let before = worker.said("segment indexed");
        let began = Instant::now();
        worker.terminate();
        let status = worker.end();
        assert_eq!(status.code(), Some(0), "{}: {status}\n{}", worker.name, worker.last_words(10));
        self.drains.push((began.elapsed(), worker.said("segment indexed") - before));
    }

    /// Replaces one worker after the other.
    async fn roll(&mut self) {
        match self.replaced {
            Replaced::There => {
                for nth in 0..3 {
                    self.stop(nth, &[]).await;
                    self.start_worker(nth);
                }
            }
            Replaced::Elsewhere => {
                // The fourth starts first. Each later one listens at an address that has become free.
                let (mut running, mut free) = (vec![0, 1, 2], 3);
                for old in 0..3 {
                    self.start_worker(free);
                    running.push(free);
                    self.call_together(&running);
                    self.has_work(free).await;
                    running.retain(|nth| *nth != old);
                    self.stop(old, &running).await;
                    free = old;
                }
                // Back to the start: the third is there again, and the fourth stops last.
                self.start_worker(free);
                self.call_together(&[0, 1, 2, 3]);
                self.stop(3, &[0, 1, 2]).await;
            }
        }
    }

    /// Stops one agent after the other, and starts it again.
    fn roll_agents(&mut self) {
        for agent in &mut self.agents {
            agent.terminate();
            let status = agent.end();
            assert_eq!(status.code(), Some(0), "{}: {status}\n{}", agent.name, agent.last_words(10));
            agent.start();
        }
    }

    /// Ends the load, and waits until everything sealed is stored.
    fn drain(&mut self) {
        self.brokers.iter_mut().for_each(Broker::stop);
        let deadline = Instant::now() + SOON;
        let sealed = |log: &Log| log.sealed().map(|(path, _)| path.to_owned()).collect::<Vec<_>>();
        let sealed: Vec<_> = self.brokers.iter().flat_map(|broker| sealed(&broker.log())).collect();
        while let Some(path) = sealed.iter().find(|path| path.exists()) {
            assert!(Instant::now() < deadline, "{} stays", path.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops all processes, and compares their logs and the store with what was written.
    async fn check(mut self) {
        self.drain();
        for process in self.agents.iter_mut().chain(&mut self.workers[..3]) {
            process.terminate();
            let status = process.end();
            assert_eq!(status.code(), Some(0), "{}: {status}\n{}", process.name, process.last_words(10));
        }
        let mut again = 0;
        for agent in &self.agents {
            assert_eq!(complaints(&agent.log()), Vec::<String>::new(), "{}", agent.name);
            again += agent.said("no receipt yet");
        }
        for worker in &self.workers {
            let errors = worker.log().lines().filter(|line| line.contains(" ERROR ")).count();
            assert_eq!(errors, 0, "{}\n{}", worker.name, worker.last_words(20));
        }
        let (mut log, mut segments) = (Log::default(), 0);
        for broker in &self.brokers {
            let one = broker.log();
            segments += one.sealed().count();
            assert!(one.active().all(Path::exists));
            log.segments.extend(one.segments.clone());
        }
        assert_eq!(differences(&log, &self.store).await, Vec::<String>::new());
        let with_work = self.drains.iter().filter(|(_, finished)| *finished > 0).count();
        let slowest = self.drains.iter().map(|(took, _)| *took).max().unwrap_or_default();
        println!(
            "{:?}: {log}; {} workers stopped, {with_work} of them while they indexed; {again} calls were tried again, of \
             {segments} segments none failed; drains: {:.2?}, the longest {slowest:.2?}",
            self.replaced,
            self.drains.len(),
            self.drains.iter().map(|(took, _)| *took).collect::<Vec<_>>(),
        );
        assert!(with_work > 0, "no worker was stopped with work in hand");
    }
}

/// Returns the lines of an agent's log that need an operator: errors, and segments that it left for later.
fn complaints(log: &str) -> Vec<String> {
    let words = [" ERROR ", "it stays", "stays for later"];
    log.lines().filter(|line| words.iter().any(|words| line.contains(words))).map(str::to_owned).collect()
}

async fn roll_out(replaced: Replaced, rounds: u32) {
    let mut scene = Scene::start(replaced);
    for _ in 0..rounds {
        scene.roll().await;
        scene.roll_agents();
    }
    scene.check().await;
}

#[test]
fn what_nobody_gets_over_alone_is_a_complaint() {
    let fine = "T  WARN wal_indexer::client: no receipt yet\nT  INFO wal_indexer::agent: stored, and deleted";
    assert_eq!(complaints(fine), Vec::<String>::new());
    for line in ["T ERROR x: rejected: it stays", "T  WARN x: not stored: it stays for later"] {
        assert_eq!(complaints(&format!("{fine}\n{line}")), [line]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_30_workers_are_restarted_one_after_the_other_and_no_agent_notices() {
    roll_out(Replaced::There, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: the agents get an /etc/hosts of their own; make test runs it"]
async fn lesson_30_workers_are_replaced_by_others_at_new_addresses_and_no_agent_notices() {
    roll_out(Replaced::Elsewhere, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, and takes minutes; make test-long runs it"]
async fn long_twenty_rollouts_fail_no_segment() {
    roll_out(Replaced::There, 10).await;
    roll_out(Replaced::Elsewhere, 10).await;
}
