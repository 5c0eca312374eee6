//! Many small segments of many partitions, and few workers: memory stays constant, every worker gets its
//! share, and a worker that joins by DNS gets its share without any restart.

use std::fs::{self, File};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wal_indexer::client::Connection;
use wal_indexer::store::Store;

use crate::broker::{Broker, Log, Plan, differences};
use crate::processes::Process;
use crate::servers::ports_to_come_back_to;
use crate::worker::{command, file_url, program};

/// The name of the workers, in the agent's own `/etc/hosts`.
pub const NAME: &str = "workers.test";

/// Where the workers listen, on one port, as pods behind a headless service do.
pub const HOSTS: [&str; 4] = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"];

/// How long a run may take without progress.
const STUCK: Duration = Duration::from_secs(60);

/// The most segments of one worker, relative to another, in a run of ten thousand segments.
const FAIR: f64 = 1.2;

/// The same for the short run. With fewer than two hundred segments for each, chance alone makes a difference
/// of a fifth now and then. A worker that is preferred gets twice as many.
const ROUGHLY_FAIR: f64 = 1.5;

/// Parts of a run. The figures are printed after each.
const PARTS: u64 = 10;

struct Scale {
    wal: PathBuf,
    store: Store,
    hosts: PathBuf,
    addresses: Vec<String>,
    workers: Vec<Process>,
    /// To the running workers.
    connections: Vec<Connection>,
    agent: Process,
    // Last, so that it is dropped last.
    _directory: TempDir,
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    segments: u64,
    bytes: u64,
}

/// A part of a run.
#[derive(Clone, Debug, Default)]
struct Part {
    /// The highest resident memory that was seen: the agent's, then those of the running workers.
    resident_bytes: Vec<u64>,
    /// What each worker had done at the end of the part, since its start.
    done: Vec<Done>,
}

impl Scale {
    fn new() -> Self {
        let id = Command::new("id").arg("-u").output().expect("id runs").stdout;
        let root = String::from_utf8_lossy(&id).trim() == "0";
        assert!(root, "this test gives the agent an /etc/hosts of its own (unshare -m), and that needs root");
        let directory = TempDir::with_prefix("wal-indexer-scale-").expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["wal", "store"] {
            fs::create_dir(path(name)).expect("a directory");
        }
        let [port] = ports_to_come_back_to();
        let url = file_url(&path("store"));
        let store = Store::open(&url.parse().expect("a URL")).expect("a store");
        let addresses = HOSTS.map(|host| format!("{host}:{port}"));
        let worker = |(nth, address): (usize, &String)| {
            let (address, url) = (address.clone(), url.clone());
            Process::new(format!("worker-{nth}"), directory.path(), move || {
                let mut command = command(["serve", "--listen", &address, "--store", &url]);
                command.args(["--threads", "1", "--memory-budget", "256MiB"]);
                command
            })
        };
        let workers = addresses.iter().enumerate().map(worker).collect();
        let (hosts, wal) = (path("hosts"), path("wal"));
        fs::write(&hosts, "127.0.0.1 localhost\n").expect("a file");
        let agent = Process::new("agent", directory.path(), agent(&hosts, &wal, port));
        let (addresses, connections) = (addresses.to_vec(), Vec::new());
        Self { wal, store, hosts, addresses, workers, connections, agent, _directory: directory }
    }

    /// Starts the next worker and adds it to the name that the agent looks up. The line is appended in one
    /// write, so a reader of the file always finds the others.
    async fn join(&mut self) {
        let nth = self.connections.len();
        let address = &self.addresses[nth];
        self.workers[nth].start();
        self.workers[nth].listens(address);
        self.connections.push(Connection::connect(&format!("http://{address}")).await.expect("it listens"));
        let mut hosts = File::options().append(true).open(&self.hosts).expect("a file");
        hosts.write_all(format!("{} {NAME}\n", HOSTS[nth]).as_bytes()).expect("it is written");
    }

    /// Returns what each running worker has done.
    async fn done(&mut self) -> Vec<Done> {
        let mut all = Vec::new();
        for connection in &mut self.connections {
            let stats = connection.stats().await.expect("it runs");
            all.push(Done { segments: stats.segments_processed, bytes: stats.bytes_read });
        }
        all
    }

    fn resident_bytes(&self) -> Vec<u64> {
        let all = [&self.agent].into_iter().chain(&self.workers[..self.connections.len()]);
        all.map(Process::resident_bytes).collect()
    }

    /// Waits until the workers have done as much as `wanted` asks, and samples memory meanwhile.
    async fn go_on_until(&mut self, wanted: impl Fn(&[Done]) -> bool) -> Part {
        let (mut part, mut got_on) = (Part::default(), (0, Instant::now()));
        loop {
            let resident = self.resident_bytes();
            part.resident_bytes.resize(resident.len(), 0);
            part.resident_bytes.iter_mut().zip(resident).for_each(|(most, now)| *most = now.max(*most));
            part.done = self.done().await;
            if wanted(&part.done) {
                return part;
            }
            let done = sum(&part.done);
            if done > got_on.0 {
                got_on = (done, Instant::now());
            }
            assert!(got_on.1.elapsed() < STUCK, "it stands still: {part:?}");
            assert!(self.agent.ended().is_none(), "the agent ended: {}", self.agent.last_words(10));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Scale {
    /// Waits until only active segments are on disk, and compares the store with the log.
    async fn stored(&mut self, log: &Log) {
        let began = Instant::now();
        while log.sealed().any(|(path, _)| path.exists()) {
            assert!(began.elapsed() < STUCK, "some stay: {}", self.agent.last_words(10));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(log.active().all(Path::exists));
        assert_eq!(differences(log, &self.store).await, Vec::<String>::new());
    }
}

/// Returns the command of an agent that has its own `/etc/hosts`.
pub fn agent(hosts: &Path, wal: &Path, port: u16) -> impl Fn() -> Command + Send + use<> {
    let (hosts, wal) = (hosts.to_owned(), wal.to_owned());
    move || {
        let mut agent = Command::new("unshare");
        agent.args(["-m", "sh", "-euc", "mount --bind \"$1\" /etc/hosts; shift; exec \"$@\"", "sh"]);
        agent.arg(&hosts).arg(program()).arg("agent").arg("--wal-dir").arg(&wal);
        agent.args(["--endpoint", &format!("http://{NAME}:{port}"), "--resolve-every", "0.2"]);
        agent.args(["--interval", "1", "--min-segment-age", "0"]);
        // Only the environment that the program needs.
        agent.env_clear().envs(std::env::var("PATH").map(|path| ("PATH", path)));
        agent
    }
}

fn sum(done: &[Done]) -> u64 {
    done.iter().map(|one| one.segments).sum()
}

/// Compares what the workers have done with one another.
#[track_caller]
fn fair(when: &str, shares: &[Done], within: f64) {
    for (what, of) in [("segments", (|one| one.segments) as fn(&Done) -> u64), ("bytes", |one| one.bytes)] {
        let shares: Vec<_> = shares.iter().map(of).collect();
        let (least, most) = (shares.iter().min().expect("some"), shares.iter().max().expect("some"));
        println!("{when}: {what} {shares:?}, the most {:.3} of the least", *most as f64 / *least as f64);
        assert!(*most as f64 <= *least as f64 * within, "{when}: {what} {shares:?}");
    }
}

/// Returns the highest resident memory of each process in these parts. Processes that came later are left
/// out.
fn most(parts: &[Part]) -> Vec<u64> {
    let columns = parts.iter().map(|part| part.resident_bytes.len()).min().unwrap_or_default();
    let most = |column: usize| parts.iter().map(|part| part.resident_bytes[column]).max();
    (0..columns).filter_map(most).collect()
}

/// Sends this many segments of this many partitions. Half-way, a worker joins.
async fn send_all(segments: u64, partitions: i32, records: RangeInclusive<u64>, within: f64) {
    let mut scale = Scale::new();
    let topics = ["cart", "checkout", "ledger", "search", "sessions"];
    let topics = topics.map(|topic| (topic, partitions / topics.len() as i32)).to_vec();
    // Each batch is its own segment.
    let plan = Plan { seed: 6, topics, segment_bytes: 1, batches: segments, records, pause: Duration::ZERO };
    let log = Broker::write(&scale.wal, plan);
    println!("{log}, {} partitions", log.active().count());
    assert_eq!((log.sealed().count() as u64, log.active().count() as i32), (segments, partitions));
    for _ in 0..3 {
        scale.join().await;
    }
    scale.agent.start();
    let (began, mut parts, mut at_first) = (Instant::now(), Vec::new(), vec![]);
    for nth in 1..=PARTS {
        let part = scale.go_on_until(|done| sum(done) >= segments * nth / PARTS).await;
        let mib = part.resident_bytes.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>();
        let done = part.done.iter().map(|one| one.segments).collect::<Vec<_>>();
        println!("part {nth}, {:.1?}: agent and workers {mib:?} MiB, segments {done:?}", began.elapsed());
        if nth == PARTS / 2 {
            fair("three workers", &part.done, within);
            scale.join().await;
            at_first = scale.go_on_until(|done| done[3].segments > 0).await.done;
        }
        parts.push(part);
    }
    let last = parts.last().expect("parts").done.iter();
    let since = last.zip(&at_first).map(|(last, first)| Done {
        segments: last.segments - first.segments,
        bytes: last.bytes - first.bytes,
    });
    fair("since the fourth joined", &since.collect::<Vec<_>>(), within);
    let third = parts.len() / 3;
    let (first, last) = (most(&parts[..third]), most(&parts[parts.len() - third..]));
    for (first, last) in first.iter().zip(&last) {
        assert!(*last <= first + first / 4 + (16 << 20), "it grows from {first} to {last} bytes");
    }
    scale.stored(&log).await;
}

#[tokio::test]
#[ignore = "needs root: the agent gets an /etc/hosts of its own; make test runs it"]
async fn three_workers_have_like_shares_and_a_fourth_that_joins_by_dns_gets_its_own() {
    send_all(1_500, 50, 20..=20, ROUGHLY_FAIR).await;
}

#[tokio::test]
#[ignore = "needs root, and takes minutes; make test-long runs it"]
async fn long_memory_is_steady_and_shares_are_equal_over_ten_thousand_segments() {
    send_all(10_000, 500, 1..=40, FAIR).await;
}
