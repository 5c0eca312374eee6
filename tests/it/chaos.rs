//! The whole system while its processes are killed: a broker that writes, an agent and three workers that are
//! killed at random and started again, and a store that goes away and comes back. No acknowledged record may
//! be missing, changed or doubled, and no file may be deleted before it can be restored.
//!
//! The seed decides what is written, and what is killed when. It is printed. `WAL_INDEXER_TEST_SEED` sets
//! another seed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use url::Url;
use wal_indexer::ids::TopicPartition;
use wal_indexer::internals::registry::{self, Filter};
use wal_indexer::restore::{RestoreError, restore};
use wal_indexer::store::{Store, Timeouts};

use crate::broker::{Broker, Hash, Log, Plan, Rng, differences};
use crate::processes::Process;
use crate::servers::{Server, ports_to_come_back_to};
use crate::worker::{command, file_url};

/// How long anything may take after the last kill.
const SOON: Duration = Duration::from_secs(120);

/// How long a process that ended by itself stays down.
const BREATH: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Agent,
    Worker(usize),
    Store,
}

/// One process is killed, and started again later.
#[derive(Clone, Copy, Debug)]
struct Kill {
    at: Duration,
    victim: Victim,
    away: Duration,
}

/// Returns a kill two or three times a second for this duration. Some of them are of the store.
fn kills(seed: u64, lasting: Duration, on_the_store: bool) -> Vec<Kill> {
    let ms = Duration::from_millis;
    let mut rng = Rng(seed);
    let mut kills = Vec::new();
    let mut at = rng.between(ms(200), ms(700));
    while at < lasting {
        let victim = match rng.below(5) {
            nth @ 0..3 => Victim::Worker(nth as usize),
            _ => Victim::Agent,
        };
        kills.push(Kill { at, victim, away: rng.between(ms(0), ms(900)) });
        at += rng.between(ms(50), ms(750));
    }
    let mut at = rng.between(ms(2_000), ms(5_000));
    while on_the_store && at < lasting {
        kills.push(Kill { at, victim: Victim::Store, away: rng.between(ms(300), ms(3_000)) });
        at += rng.between(ms(10_000), ms(20_000));
    }
    kills.sort_by_key(|kill| kill.at);
    kills
}

/// All processes.
struct Scene {
    wal: PathBuf,
    store: Store,
    server: Option<Server>,
    agent: Process,
    workers: Vec<Process>,
    /// When each process that is down is started again.
    back: Vec<(Victim, Instant)>,
    /// How many workers ended by themselves because they found no store.
    own_ends: u32,
    // Last, so that it is dropped last.
    _directory: TempDir,
}

impl Scene {
    /// Starts everything on SeaweedFS, or on the local disk.
    fn start(server: Option<Server>) -> Self {
        let directory = TempDir::with_prefix("wal-indexer-chaos-").expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["wal", "store"] {
            std::fs::create_dir(path(name)).expect("a directory");
        }
        let url = match &server {
            Some(server) => server.url("chaos"),
            None => Url::parse(&file_url(&path("store"))).expect("a URL"),
        };
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let settings: Vec<_> = server.iter().flat_map(|server| server.settings()).map(owned).collect();
        let borrowed: Vec<_> = settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        let store = Store::open_with(&url, &borrowed).expect("a store");

        let addresses = ports_to_come_back_to::<3>().map(|port| format!("127.0.0.1:{port}"));
        let worker = |(nth, address): (usize, &String)| {
            let (address, url, settings) = (address.clone(), url.to_string(), settings.clone());
            Process::new(format!("worker-{nth}"), directory.path(), move || {
                let mut command = command(["serve", "--listen", &address, "--store", &url]);
                command.args(["--threads", "2", "--memory-budget", "256MiB"]).envs(settings.clone());
                command
            })
        };
        let workers = addresses.iter().enumerate().map(worker).collect();
        let endpoints = addresses.each_ref().map(|address| format!("http://{address}")).join(",");
        let wal = path("wal");
        let agent = Process::new("agent", directory.path(), {
            let wal = wal.clone();
            move || {
                let mut command = command(["agent", "--interval", "0.1", "--min-segment-age", "0.1"]);
                command.arg("--wal-dir").arg(&wal).args(["--endpoint", &endpoints]);
                command
            }
        });
        let (back, own_ends) = (Vec::new(), 0);
        let mut scene = Self { wal, store, server, agent, workers, back, own_ends, _directory: directory };
        scene.workers.iter_mut().for_each(Process::start);
        scene.agent.start();
        scene
    }

    /// Carries out the kills at their times, and starts each process again at its time.
    fn run_kills(&mut self, kills: &[Kill]) {
        let began = Instant::now();
        let mut kills = kills.iter().peekable();
        while kills.peek().is_some() || !self.back.is_empty() {
            if let Some(kill) = kills.next_if(|kill| began.elapsed() >= kill.at) {
                self.take(kill);
            }
            self.come_back();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn take(&mut self, kill: &Kill) {
        match (kill.victim, &mut self.server) {
            (Victim::Agent, _) => _ = self.agent.kill(),
            (Victim::Worker(nth), _) => _ = self.workers[nth].kill(),
            (Victim::Store, Some(server)) => server.stop(),
            (Victim::Store, None) => {}
        }
        self.back.retain(|(victim, _)| *victim != kill.victim);
        self.back.push((kill.victim, Instant::now() + kill.away));
    }

    /// Starts the processes whose pause is over, and notes those that ended by themselves.
    fn come_back(&mut self) {
        let due: Vec<_> = self.back.extract_if(.., |(_, at)| *at <= Instant::now()).collect();
        for (victim, _) in due {
            match (victim, &mut self.server) {
                (Victim::Agent, _) => self.agent.start(),
                (Victim::Worker(nth), _) => self.workers[nth].start(),
                (Victim::Store, Some(server)) => server.start_again(),
                (Victim::Store, None) => {}
            }
        }
        if let Some(status) = self.agent.ended() {
            panic!("the agent ended by itself: {status}");
        }
        for (nth, worker) in self.workers.iter_mut().enumerate() {
            let Some(status) = worker.ended() else { continue };
            // A worker that finds no store at its start ends like this. Its supervisor starts it again.
            let no_store = worker.last_words(1).contains("the store cannot be used");
            let expected = status.code() == Some(1) && no_store && self.server.is_some();
            assert!(expected, "{} ended by itself: {status}\n{}", worker.name, worker.last_words(5));
            self.own_ends += 1;
            self.back.push((Victim::Worker(nth), Instant::now() + BREATH));
        }
    }

    /// Waits until the agent has sent and deleted all sealed segments.
    fn drain(&mut self, broker: &Broker) {
        let deadline = Instant::now() + SOON;
        let sealed: Vec<_> = broker.log().sealed().map(|(path, _)| path.to_owned()).collect();
        while let Some(path) = sealed.iter().find(|path| path.exists()) {
            assert!(Instant::now() < deadline, "{} stays", path.display());
            self.come_back();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Watches the sealed segments' files all the time. As soon as one is deleted, checks that its segment is
/// stored.
struct Watch {
    over: Arc<AtomicBool>,
    looking: JoinHandle<Vec<String>>,
    proving: JoinHandle<Proofs>,
}

/// A deleted file.
struct Gone {
    path: PathBuf,
    partition: TopicPartition,
    sha256: Hash,
    seen: Instant,
}

#[derive(Debug, Default)]
struct Proofs {
    restored: usize,
    /// The longest time between a deletion and its proof.
    latest: Duration,
    failed: Vec<String>,
}

impl Watch {
    fn start(log: Arc<Mutex<Log>>, store: Store) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (gone, to_prove) = mpsc::channel();
        let stop = Arc::clone(&over);
        let looking = std::thread::spawn(move || look(&log, &gone, &stop));
        // One attempt at a time, so that the next one finds the store as soon as it is back.
        let once =
            Timeouts { attempt_base: Duration::from_secs(2), read_attempts_max: 1, ..Timeouts::default() };
        let store = store.with_timeouts(once);
        let proving = std::thread::spawn(move || prove_all(&store, &to_prove));
        Self { over, looking, proving }
    }

    fn finish(self) -> (Vec<String>, Proofs) {
        self.over.store(true, SeqCst);
        (self.looking.join().expect("it looks"), self.proving.join().expect("it proves"))
    }
}

/// Reports each sealed file that is deleted. Returns the deletions that left a hole.
fn look(log: &Mutex<Log>, gone: &mpsc::Sender<Gone>, over: &AtomicBool) -> Vec<String> {
    let (mut known, mut holes) = (BTreeSet::new(), Vec::new());
    loop {
        // Read before the last look, so that nothing at the end is missed.
        let last = over.load(SeqCst);
        let mut there: Vec<_> = {
            let log = log.lock().expect("the writer is well");
            let sealed = log.sealed().filter(|(path, _)| !known.contains(*path));
            sealed.map(|(path, one)| (one.partition.clone(), one.id, path.to_owned(), one.sealed)).collect()
        };
        // Latest first: a file that still exists after a later one was deleted is before a hole.
        there.sort_by(|a, b| (&b.0, b.1).cmp(&(&a.0, a.1)));
        let mut later: Option<Gone> = None;
        for (partition, _, path, sha256) in there {
            if path.exists() {
                let hole = later.iter().filter(|later| later.partition == partition);
                holes.extend(hole.map(|later| format!("{} went before {path:?}", later.path.display())));
                continue;
            }
            known.insert(path.clone());
            let sha256 = sha256.expect("it is sealed");
            let one =
                || Gone { path: path.clone(), partition: partition.clone(), sha256, seen: Instant::now() };
            later = Some(one());
            gone.send(one()).expect("it is heard");
        }
        if last {
            return holes;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn prove_all(store: &Store, to_prove: &mpsc::Receiver<Gone>) -> Proofs {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let mut proofs = Proofs::default();
    for gone in to_prove {
        match runtime.block_on(prove(store, &gone, &directory.path().join("restored"))) {
            Ok(()) => proofs.restored += 1,
            Err(why) => proofs.failed.push(format!("{} went: {why}", gone.path.display())),
        }
        proofs.latest = proofs.latest.max(gone.seen.elapsed());
    }
    proofs
}

/// Restores a segment whose file is deleted. The store may be down; but if it is up, the segment must be
/// there.
async fn prove(store: &Store, gone: &Gone, out: &Path) -> Result<(), String> {
    let filter = Filter {
        topic: Some(gone.partition.topic().to_owned()),
        partition: Some(gone.partition.partition()),
        segment_sha256: Some(gone.sha256),
        ..Filter::default()
    };
    let deadline = Instant::now() + SOON;
    loop {
        let away = match registry::find(store, &filter).await {
            Ok(found) if found.bundles.is_empty() => return Err("no bundle was there".to_owned()),
            Ok(found) => {
                let keys: Vec<_> = found.bundles.into_iter().map(|bundle| bundle.key).collect();
                match restore(store, &keys, out, |_, _| {}).await {
                    Ok(restored) if restored.segment.sha256 == gone.sha256 => return Ok(()),
                    Ok(restored) => return Err(format!("it came back as {:?}", restored.segment)),
                    Err(RestoreError::Archive(error)) => error.to_string(),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            return Err(away);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the seed from the environment, or else these seeds.
fn seeds(usual: &[u64]) -> Vec<u64> {
    let asked = std::env::var("WAL_INDEXER_TEST_SEED").ok();
    asked
        .map_or_else(|| usual.to_vec(), |seed| vec![seed.parse().expect("WAL_INDEXER_TEST_SEED is a number")])
}

/// Writes, kills, waits, and compares the store with the log.
fn survive(seed: u64, lasting: Duration, server: Option<Server>) {
    println!("seed {seed} (WAL_INDEXER_TEST_SEED={seed} does it again), {lasting:?} of faults");
    let kills = kills(seed, lasting, server.is_some());
    let began = Instant::now();
    let mut scene = Scene::start(server);
    let pause = Duration::from_millis(25);
    let batches = lasting.as_millis() as u64 / 25;
    let topics = vec![("orders", 3), ("audit.events_eu", 2), ("Zürich", 1)];
    let plan = Plan { seed, topics, segment_bytes: 24 << 10, batches, records: 1..=40, pause };
    let mut broker = Broker::start(&scene.wal, plan);
    let watch = Watch::start(broker.shared_log(), scene.store.clone());
    scene.run_kills(&kills);
    broker.finish();
    let written_in = began.elapsed();
    scene.drain(&broker);
    let drained_in = began.elapsed() - written_in;
    let (holes, proofs) = watch.finish();
    scene.agent.kill();

    let log = broker.log();
    let struck = |victim: &dyn Fn(&Victim) -> bool| kills.iter().filter(|kill| victim(&kill.victim)).count();
    println!(
        "{log}; written in {written_in:.1?}, drained {drained_in:.1?} later; {} kills to the agent, {} to workers, {} to the store; \
         workers found no store {} times; {} calls failed, {} segments had been stored before; {} files went, each \
         restored, at the latest {:.1?} after it was seen to be gone",
        struck(&|victim| *victim == Victim::Agent),
        struck(&|victim| matches!(victim, Victim::Worker(_))),
        struck(&|victim| *victim == Victim::Store),
        scene.own_ends,
        scene.agent.said("no receipt yet"),
        scene.agent.said("already_existed=true"),
        proofs.restored,
        proofs.latest,
    );
    assert_eq!(holes, Vec::<String>::new(), "holes");
    assert_eq!(proofs.failed, Vec::<String>::new(), "segments that went before they were stored");
    assert_eq!(proofs.restored, log.sealed().count());
    let active: BTreeSet<_> = log.active().map(Path::to_owned).collect();
    assert_eq!(files_below(&scene.wal), active, "only active segments are on disk");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let found = runtime.block_on(differences(&log, &scene.store));
    assert!(found.is_empty(), "{} differences, such as {:#?}", found.len(), &found[..found.len().min(20)]);
}

/// Returns all files except the agent's own.
fn files_below(directory: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let own = entry.file_name().to_string_lossy().starts_with(".wal-indexer.");
        match entry.file_type().expect("a type").is_dir() {
            true => files.extend(files_below(&entry.path())),
            false if own => {}
            false => _ = files.insert(entry.path()),
        }
    }
    files
}

#[test]
fn the_seed_decides_who_is_hit_and_when() {
    let told = |seed| format!("{:?}", kills(seed, Duration::from_secs(60), true));
    assert_eq!(told(3), told(3));
    assert_ne!(told(3), told(4));
    for victim in [Victim::Agent, Victim::Worker(0), Victim::Worker(1), Victim::Worker(2), Victim::Store] {
        assert!(kills(3, Duration::from_secs(60), true).iter().any(|kill| kill.victim == victim));
    }
}

#[test]
fn nothing_is_lost_or_doubled_while_agent_and_workers_are_killed() {
    for seed in seeds(&[1]) {
        survive(seed, Duration::from_secs(5), None);
    }
}

#[test]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
fn nothing_is_lost_or_doubled_while_agent_and_workers_are_killed_and_the_store_goes_away() {
    for seed in seeds(&[1]) {
        survive(seed, Duration::from_secs(12), Some(Server::s3()));
    }
}

#[test]
#[ignore = "needs SeaweedFS, and takes minutes; make test-long runs it"]
fn long_nothing_is_lost_or_doubled_in_two_minutes_of_faults() {
    for seed in seeds(&[1, 2, 3]) {
        survive(seed, Duration::from_secs(120), Some(Server::s3()));
    }
}
