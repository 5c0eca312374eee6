//! The agent as a process, between a broker's directory and workers that answer by script. The numbers of
//! lessons are those of the list in `docs/reliability.md`.

mod astray;
mod deleting;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tonic::Code;
use wal_indexer::agent::{Agent, Checkpoint, InFlightLimit, Settings};
use wal_indexer::client::{Client, Receipt, Security, Timeouts};
use wal_indexer::ids::LogId;
use wal_indexer::proto::v1::IndexSegmentResponse;
use wal_indexer::wal::dir::WalDir;
use wal_indexer::wal::{Listing, Reading, Rejection, SealedSegments, Segment, WalError};

use crate::scripted_worker::{Answer, ScriptedWorker};
use crate::sidecar::{self, Sidecar, Wal, name, once, segment};
use crate::worker::{Worker, file_url, run};

/// A real worker behind a scripted one, and a WAL directory.
pub struct Scene {
    pub worker: Worker,
    pub scripted: ScriptedWorker,
    pub wal: Wal,
}

impl Scene {
    pub async fn new() -> Self {
        let worker = Worker::start();
        let scripted = ScriptedWorker::start(&worker.endpoint()).await;
        Self { worker, scripted, wal: Wal::new() }
    }

    fn endpoints(&self) -> Vec<String> {
        vec![self.scripted.endpoint()]
    }

    pub fn start(&self, flags: &[&str]) -> Sidecar {
        Sidecar::start(self.wal.path(), &self.endpoints(), flags)
    }

    /// Runs the agent once. Returns its exit code and its log.
    pub fn once(&self, flags: &[&str]) -> (i32, String) {
        let output = once(self.wal.path(), &self.endpoints(), flags);
        (output.status.code().expect("it exits"), String::from_utf8(output.stderr).expect("UTF-8"))
    }

    /// How often each segment was sent.
    pub fn sent(&self) -> BTreeMap<String, usize> {
        let mut sent = BTreeMap::new();
        for call in self.scripted.calls() {
            *sent.entry(call.segment_id).or_default() += 1;
        }
        sent
    }

    /// Checks that the store has these segments of `orders/0` and nothing else: each once, and as its broker
    /// wrote it.
    #[track_caller]
    pub fn check_stored(&self, ids: impl IntoIterator<Item = u64>) {
        let mut restored: Vec<_> = self.worker.keys().iter().map(|key| self.restored(key)).collect();
        let mut written: Vec<_> = ids.into_iter().map(|id| segment("orders", 0, id)).collect();
        restored.sort();
        written.sort();
        assert_eq!(restored.len(), written.len());
        assert!(restored == written, "what is restored is not what was written");
    }

    pub fn restored(&self, key: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("restored");
        run([
            "restore",
            key,
            "--store",
            &file_url(&self.worker.store()),
            "--out",
            out.to_str().expect("UTF-8"),
        ]);
        fs::read(out).expect("it is there")
    }

    pub fn until_ids(&self, agent: &Sidecar, ids: &[u64]) {
        agent.until(&format!("{ids:?} left"), |_| self.wal.ids("orders", 0) == ids);
    }
}

pub fn acknowledged(agent: &Sidecar) -> f64 {
    agent.metric("agent_acknowledged_segments_total").unwrap_or_default()
}

pub fn backlog(agent: &Sidecar) -> (Option<f64>, Option<f64>) {
    (agent.metric("agent_backlog_segments"), agent.metric("agent_backlog_bytes"))
}

/// Returns the expected backlog, as segments and bytes, if it consists of these segments of `orders/0`.
pub fn expected(ids: impl IntoIterator<Item = u64>) -> (Option<f64>, Option<f64>) {
    let lengths: Vec<_> = ids.into_iter().map(|id| segment("orders", 0, id).len()).collect();
    (Some(lengths.len() as f64), Some(lengths.iter().sum::<usize>() as f64))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_segments_go_once_they_are_stored_and_the_newest_stays() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=4);
    scene.wal.add_all("__internal", 0, 1..=2);
    let (code, log) = scene.once(&[]);
    assert_eq!(code, 0, "{log}");
    assert_eq!(scene.wal.ids("orders", 0), [4]);
    assert_eq!(scene.wal.ids("__internal", 0), [1, 2]);
    scene.check_stored(1..=3);
    assert_eq!(log.matches("stored, and deleted").count(), 3, "a line for each\n{log}");
    let (code, log) = scene.once(&[]);
    assert_eq!((code, scene.scripted.calls().len()), (0, 3), "there is nothing left to do\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_out_of_order_never_leave_a_hole() {
    let scene = Scene::new().await;
    let held = Arc::new(Semaphore::new(0));
    scene.scripted.script([Answer::Held(Arc::clone(&held))]);
    scene.wal.add_all("orders", 0, 1..=2);
    let agent = scene.start(&[]);
    scene.scripted.until(|counts| counts.begun == 1).await;
    scene.wal.add_all("orders", 0, 3..=6);
    agent.until("four receipts", |agent| acknowledged(agent) == 4.0);
    agent.until("one left to store", |agent| backlog(agent) == expected([1]));
    assert_eq!(scene.wal.ids("orders", 0), [1, 2, 3, 4, 5, 6]);
    agent.until("a line", |agent| agent.log().contains("waits behind orders/0/wal_0_1.log"));
    held.add_permits(1);
    scene.until_ids(&agent, &[6]);
    assert!(scene.sent().values().all(|times| *times == 1), "{:?}", scene.sent());
    scene.check_stored(1..=5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_for_something_else_deletes_nothing_and_is_an_alert() {
    let lies: [fn(&mut IndexSegmentResponse); 4] = [
        |reply| reply.crc32c ^= 1,
        |reply| reply.record_count += 1,
        |reply| reply.bytes_read -= 1,
        |reply| reply.partitions.clear(),
    ];
    for lie in lies {
        let scene = Scene::new().await;
        scene.scripted.always(Answer::Wrong(lie));
        scene.wal.add_all("orders", 0, 1..=2);
        let agent = scene.start(&[]);
        agent.until("two alerts", |agent| agent.metric("agent_mismatches_total") >= Some(2.0));
        assert!(agent.log().contains("ERROR"), "{}", agent.log());
        assert!(agent.log().contains("acknowledged something else"), "{}", agent.log());
        assert_eq!((acknowledged(&agent), backlog(&agent)), (0.0, expected([1])));
        assert_eq!(scene.wal.ids("orders", 0), [1, 2]);
        scene.scripted.always(Answer::True);
        scene.until_ids(&agent, &[2]);
        scene.check_stored([1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_mid_stream_it_sends_again_and_stores_once() {
    let scene = Scene::new().await;
    scene.scripted.always(Answer::Stall);
    scene.wal.add_all("orders", 0, [1, 9]);
    // Far more than is sent ahead before anybody reads it.
    let long = sidecar::segment_of("orders", 0, 1, 5_000);
    scene.wal.rewrite("orders", 0, 1, &long);
    let agent = scene.start(&[]);
    scene.scripted.until(|_| scene.scripted.calls().iter().any(|call| call.bytes > 0)).await;
    agent.kill();
    assert!(!scene.scripted.calls()[0].is_whole());
    assert_eq!(scene.wal.ids("orders", 0), [1, 9]);
    scene.scripted.always(Answer::True);
    let agent = scene.start(&[]);
    scene.until_ids(&agent, &[9]);
    assert!(matches!(&scene.worker.keys()[..], [key] if scene.restored(key) == long));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_the_answer_it_finds_its_segment_stored() {
    let scene = Scene::new().await;
    scene.scripted.always(Answer::Lose);
    scene.wal.add_all("orders", 0, 1..=2);
    let agent = scene.start(&[]);
    agent.until("the segment in the store", |_| scene.worker.keys().len() == 1);
    agent.kill();
    scene.scripted.always(Answer::True);
    let agent = scene.start(&[]);
    scene.until_ids(&agent, &[2]);
    agent.until("a line", |agent| agent.log().contains("already_existed=true"));
    scene.check_stored([1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_receipt_and_deletion_it_sends_nothing_twice() {
    let scene = Scene::new().await;
    scene.scripted.script([Answer::Hang]);
    scene.wal.add_all("orders", 0, 1..=2);
    let agent = scene.start(&[]);
    scene.scripted.until(|counts| counts.begun == 1).await;
    scene.wal.add_all("orders", 0, 3..=5);
    agent.until("three receipts", |agent| acknowledged(agent) == 3.0);
    agent.kill();
    assert_eq!(scene.wal.ids("orders", 0), [1, 2, 3, 4, 5]);
    let agent = scene.start(&[]);
    scene.until_ids(&agent, &[5]);
    let sent = [(1, 2), (2, 1), (3, 1), (4, 1)].map(|(id, times)| (name("orders", 0, id), times));
    assert_eq!(scene.sent(), sent.into());
    scene.check_stored(1..=4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_a_power_cut_undid_is_done_again_without_sending() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    let aside = tempfile::tempdir_in(scene.wal.path()).expect("on the same disk");
    for id in 1..=2 {
        let there = scene.wal.path().join(name("orders", 0, id));
        fs::hard_link(there, aside.path().join(id.to_string())).expect("linked");
    }
    assert_eq!(scene.once(&[]).0, 0);
    assert_eq!(scene.wal.ids("orders", 0), [3]);
    // As if the directory had not been synced before a crash: the same files are there again.
    for id in 1..=2 {
        let there = scene.wal.path().join(name("orders", 0, id));
        fs::rename(aside.path().join(id.to_string()), there).expect("renamed");
    }
    let (code, log) = scene.once(&[]);
    assert_eq!((code, scene.wal.ids("orders", 0)), (0, vec![3]), "{log}");
    assert_eq!(scene.scripted.calls().len(), 2, "{log}");
    scene.check_stored(1..=2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_of_an_earlier_process_counts_only_for_the_bytes_that_it_is_for() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    assert_eq!(scene.once(&["--delete-after-index", "false"]).0, 0);
    assert_eq!(scene.wal.ids("orders", 0), [1, 2, 3]);
    // Other bytes in the same file, of the same length and time.
    let path = scene.wal.path().join(name("orders", 0, 1));
    let changed_at = fs::metadata(&path).and_then(|file| file.modified()).expect("a time");
    let mut bytes = fs::read(&path).expect("it is there");
    bytes[100] ^= 1;
    let file = File::options().write(true).open(&path).expect("it is there");
    std::io::Write::write_all(&mut &file, &bytes).expect("written");
    file.set_modified(changed_at).expect("set");
    drop(file);
    let (code, log) = scene.once(&[]);
    assert_eq!((code, scene.wal.ids("orders", 0)), (5, vec![1, 2, 3]), "{log}");
    assert!(log.contains("ERROR") && log.contains("not what was stored"), "{log}");
    let (code, log) = scene.once(&[]);
    assert_eq!((code, scene.wal.ids("orders", 0)), (3, vec![1, 2, 3]), "sent again, and rejected\n{log}");
    assert_eq!(fs::read(&path).expect("it is there"), bytes);
}

/// Sets the answer of the worker, waits until the agent has met it, and then lets the worker answer truly.
/// Meanwhile the backlog counts what is on disk, also what arrives while nothing can be sent.
async fn check_waits(answer: Answer, dead: Option<&str>) {
    let scene = Scene::new().await;
    scene.scripted.always(answer.clone());
    scene.wal.add_all("orders", 0, 1..=3);
    let mut endpoints = scene.endpoints();
    endpoints.extend(dead.map(str::to_owned));
    let agent = Sidecar::start(scene.wal.path(), &endpoints, &[]);
    scene.scripted.until(|counts| counts.begun >= 2).await;
    agent.until("a backlog of two", |agent| backlog(agent) == expected(1..=2));
    scene.wal.add("orders", 0, 4);
    agent.until("a backlog of three", |agent| backlog(agent) == expected(1..=3));
    agent.until("a retry", |agent| agent.metric("client_retries_total") > Some(0.0));
    let age = agent.metric("agent_oldest_unsent_age_seconds").expect("there is one");
    agent.until("growing older", |agent| agent.metric("agent_oldest_unsent_age_seconds") > Some(age));
    assert_eq!((acknowledged(&agent), scene.wal.ids("orders", 0)), (0.0, vec![1, 2, 3, 4]), "{answer:?}");
    scene.scripted.always(Answer::True);
    scene.until_ids(&agent, &[4]);
    agent.until("no backlog", |agent| backlog(agent) == expected([]));
    assert_eq!(agent.metric("agent_oldest_unsent_age_seconds"), Some(0.0));
    scene.check_stored(1..=3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_room_is_waited_for() {
    let retry_after = Some(Duration::from_millis(100));
    check_waits(Answer::No(Code::ResourceExhausted, retry_after), None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_away_is_waited_for() {
    check_waits(Answer::No(Code::Unavailable, None), None).await;
    check_waits(Answer::Break, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_23_a_worker_that_hangs_is_given_up_and_holds_up_nothing_but_its_segments() {
    let scene = Scene::new().await;
    let other = ScriptedWorker::start(&scene.worker.endpoint()).await;
    scene.scripted.always(Answer::Hang);
    scene.wal.add_all("orders", 0, 1..=9);
    let endpoints = [scene.scripted.endpoint(), other.endpoint()];
    // The interval allows one listing only. More listings follow only because there is more to send.
    let flags = ["--interval", "10000", "--max-segments-per-run", "2"];
    let agent = Sidecar::start(scene.wal.path(), &endpoints, &flags);
    agent.until("a backlog of those that hang", |agent| {
        let hang = scene.scripted.calls().len();
        hang > 0 && backlog(agent).0 == Some(hang as f64)
    });
    agent.kill();
    let agent = Sidecar::start(scene.wal.path(), &endpoints[..1], &["--attempt-timeout", "0.2"]);
    agent.until("given up", |agent| agent.metric("client_retries_total") >= Some(1.0));
    agent.kill();
    let agent = Sidecar::start(scene.wal.path(), &endpoints[1..], &[]);
    scene.until_ids(&agent, &[9]);
    scene.check_stored(1..=8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_address_beside_a_living_one_holds_up_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let dead = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    check_waits(Answer::No(Code::Unavailable, None), Some(&dead)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_takes_in_time_stays_for_the_next_round() {
    let scene = Scene::new().await;
    scene.scripted.always(Answer::No(Code::Unavailable, None));
    scene.wal.add_all("orders", 0, 1..=2);
    let (code, log) = scene.once(&["--retry-for", "0.2"]);
    assert_eq!((code, scene.wal.ids("orders", 0)), (5, vec![1, 2]), "{log}");
    let agent = scene.start(&["--retry-for", "0.2"]);
    agent.until("given up twice", |agent| agent.log().matches("it stays for later").count() >= 2);
    scene.scripted.always(Answer::True);
    scene.until_ids(&agent, &[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_counted_and_changes_nothing() {
    let scene = Scene::new().await;
    scene.scripted.always(Answer::No(Code::Unauthenticated, None));
    scene.wal.add_all("orders", 0, 1..=2);
    let agent = scene.start(&[]);
    agent.until("refused twice", |agent| agent.metric("agent_refusals_total") >= Some(2.0));
    assert_eq!(scene.wal.ids("orders", 0), [1, 2]);
    assert!(agent.log().contains("UNAUTHENTICATED"), "{}", agent.log());
    scene.scripted.always(Answer::True);
    scene.until_ids(&agent, &[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_11_a_listing_that_fails_is_not_one_that_is_empty() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    let agent = scene.start(&["--delete-after-index", "false"]);
    agent.until("two receipts", |agent| acknowledged(agent) == 2.0);
    let (root, away) = (scene.wal.path().to_owned(), scene.wal.path().with_extension("away"));
    fs::rename(&root, &away).expect("renamed");
    agent.until("two failures", |agent| agent.metric("agent_failed_listings_total") >= Some(2.0));
    assert_eq!(agent.metric("agent_sealed_bytes"), expected(1..=2).1, "what was known still is");
    let age = agent.metric("agent_listing_age_seconds");
    agent.until("older", |agent| agent.metric("agent_listing_age_seconds") > age);
    fs::rename(&away, &root).expect("renamed");
    scene.wal.add("orders", 0, 4);
    agent.until("three receipts", |agent| acknowledged(agent) == 3.0);
    assert!(scene.sent().values().all(|times| *times == 1), "nothing was forgotten: {:?}", scene.sent());
    assert_eq!(scene.wal.ids("orders", 0), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_12_after_a_restart_nothing_that_is_still_on_disk_is_sent_again() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=6);
    for _ in 0..3 {
        let agent = scene.start(&["--delete-after-index", "false"]);
        agent.until("no backlog", |agent| backlog(agent) == expected([]));
        agent.kill();
    }
    assert_eq!(scene.wal.ids("orders", 0), [1, 2, 3, 4, 5, 6]);
    assert_eq!(scene.sent().into_values().collect::<Vec<_>>(), [1; 5]);
    // The segments that may be deleted now are deleted, on the receipts of the first run.
    let agent = scene.start(&[]);
    scene.until_ids(&agent, &[6]);
    assert_eq!(scene.scripted.calls().len(), 5);
    scene.check_stored(1..=5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_15_a_quiet_topics_last_segment_is_sent_and_stays() {
    let scene = Scene::new().await;
    scene.wal.add("orders", 0, 1);
    let flags = ["--seal-idle-after", "0.2"];
    let agent = scene.start(&flags);
    agent.until("a receipt", |agent| acknowledged(agent) == 1.0);
    assert_eq!(scene.wal.ids("orders", 0), [1]);
    agent.until("a line", |agent| agent.log().contains("stored, and kept"));
    agent.kill();
    assert_eq!(scene.once(&flags).0, 0, "that is all there is to do");
    // The topic becomes active again: its broker continues in another segment.
    let agent = scene.start(&flags);
    scene.wal.add("orders", 0, 2);
    scene.until_ids(&agent, &[2]);
    agent.until("another receipt", |agent| acknowledged(agent) == 1.0);
    assert_eq!(scene.sent().into_values().collect::<Vec<_>>(), [1, 1]);
    scene.check_stored(1..=2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_27_what_is_on_its_way_is_not_counted_as_if_it_were_there() {
    let scene = Scene::new().await;
    let held = Arc::new(Semaphore::new(0));
    scene.scripted.always(Answer::Held(Arc::clone(&held)));
    scene.wal.add_all("orders", 0, 1..=3);
    let agent = scene.start(&[]);
    scene.scripted.until(|counts| counts.begun == 2).await;
    agent.until("a backlog", |agent| backlog(agent) == expected(1..=2));
    let checkpoint =
        fs::read_to_string(scene.wal.path().join(".wal-indexer.checkpoint")).expect("it is there");
    assert!(!checkpoint.contains("wal_0_"), "{checkpoint}");
    assert_eq!((acknowledged(&agent), scene.wal.ids("orders", 0)), (0.0, vec![1, 2, 3]));
    held.add_permits(2);
    scene.until_ids(&agent, &[3]);
    agent.until("no backlog", |agent| backlog(agent) == expected([]));
    assert_eq!(acknowledged(&agent), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_30_after_sigterm_nothing_is_begun_and_what_is_on_its_way_arrives() {
    let scene = Scene::new().await;
    let held = Arc::new(Semaphore::new(0));
    scene.scripted.always(Answer::Held(Arc::clone(&held)));
    scene.wal.add_all("orders", 0, 1..=4);
    let mut agent = scene.start(&["--max-concurrent-tasks", "2"]);
    scene.scripted.until(|counts| counts.begun == 2).await;
    agent.signal("TERM");
    agent.until("draining", |agent| agent.log().contains("waiting for segments on their way"));
    held.add_permits(10);
    assert_eq!(agent.ended().code(), Some(0));
    assert_eq!((scene.scripted.calls().len(), scene.wal.ids("orders", 0)), (2, vec![3, 4]));
    scene.check_stored(1..=2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_30_what_does_not_arrive_in_time_stays() {
    let scene = Scene::new().await;
    scene.scripted.always(Answer::Hang);
    scene.wal.add_all("orders", 0, 1..=2);
    let mut agent = scene.start(&["--drain-timeout", "0.2"]);
    scene.scripted.until(|counts| counts.begun == 1).await;
    agent.signal("TERM");
    assert_eq!(agent.ended().code(), Some(0));
    assert_eq!(scene.wal.ids("orders", 0), [1, 2]);
    assert!(agent.log().contains("given up on its way"), "{}", agent.log());
    scene.scripted.always(Answer::True);
    assert_eq!(scene.once(&[]).0, 0);
    scene.check_stored([1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    let scene = Scene::new().await;
    scene.scripted.always(Answer::Hang);
    scene.wal.add_all("orders", 0, 1..=2);
    let mut agent = scene.start(&["--drain-timeout", "1000"]);
    scene.scripted.until(|counts| counts.begun == 1).await;
    agent.signal("TERM");
    agent.until("draining", |agent| agent.log().contains("waiting for segments on their way"));
    agent.signal("INT");
    assert_eq!(agent.ended().code(), Some(5));
    assert_eq!(scene.wal.ids("orders", 0), [1, 2]);
}

/// Where a crash happens.
#[derive(Clone, Copy, PartialEq)]
enum Crash {
    BeforeDeletion,
    BeforeSync,
}

/// A WAL directory whose agent gets no further than its first deletion.
struct Crashes {
    wal: WalDir,
    when: Crash,
    reached: Arc<Notify>,
}

impl SealedSegments for Crashes {
    async fn list(&self) -> Result<Listing, WalError> {
        self.wal.list().await
    }

    async fn open(&self, segment: &Segment) -> Result<Reading, WalError> {
        self.wal.open(segment).await
    }

    async fn delete(&self, segment: &Segment, _: &Receipt) -> Result<(), WalError> {
        if self.when == Crash::BeforeSync {
            fs::remove_file(self.wal.path_of(segment)).expect("it is there");
        }
        self.reached.notify_one();
        std::future::pending().await
    }

    async fn reject(&self, segment: &Segment, rejection: &Rejection) -> Result<(), WalError> {
        self.wal.reject(segment, rejection).await
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

/// An agent in this process, with its own client and checkpoint.
async fn agent_on<W: SealedSegments>(scene: &Scene, wal: W, interval: Duration) -> Agent<W> {
    let endpoint = scene.scripted.endpoint().parse().expect("an endpoint");
    let client = Client::start(vec![endpoint], Security::default(), Timeouts::default()).await;
    let checkpoint = Checkpoint::open(scene.wal.path(), ".wal-indexer").await.expect("it is free");
    let (min_segment_age, drain_max) = (Duration::ZERO, Duration::ZERO);
    let settings = Settings { interval, min_segment_age, drain_max, ..Settings::default() };
    let slots = InFlightLimit::new(NonZeroUsize::MIN);
    Agent::new("here", wal, client.expect("a client"), checkpoint, slots, settings)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_a_deletion_or_before_its_sync_loses_nothing_and_sends_nothing_twice() {
    for (when, left) in [(Crash::BeforeDeletion, [1, 2].as_slice()), (Crash::BeforeSync, &[2])] {
        let scene = Scene::new().await;
        scene.wal.add_all("orders", 0, 1..=2);
        let wal = WalDir::new(scene.wal.path(), LogId::new("0"));
        let reached = Arc::new(Notify::new());
        let crashes = Crashes { wal: wal.clone(), when, reached: Arc::clone(&reached) };
        agent_on(&scene, crashes, HOUR).await.run(reached.notified()).await;
        assert_eq!(scene.wal.ids("orders", 0), left);
        scene.wal.add("orders", 0, 3);
        let summary = agent_on(&scene, wal, HOUR).await.run_once(std::future::pending()).await;
        assert_eq!((summary.stored, summary.left, summary.rejected), (1, 0, 0));
        assert_eq!(scene.wal.ids("orders", 0), [3]);
        assert_eq!(scene.sent().into_values().collect::<Vec<_>>(), [1, 1]);
        scene.check_stored(1..=2);
    }
}
