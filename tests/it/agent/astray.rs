//! Segments that disappear before they are deleted, and segments that cannot be deleted.

use std::io;
use std::sync::Mutex;

use tokio::sync::watch;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_that_vanish_before_they_are_stored_are_warned_of_and_counted() {
    let scene = Scene::new().await;
    let held = Arc::new(Semaphore::new(0));
    scene.scripted.script([Answer::Held(Arc::clone(&held))]);
    scene.wal.add_all("orders", 0, 1..=5);
    let agent = scene.start(&["--max-concurrent-tasks", "1"]);
    scene.scripted.until(|counts| counts.begun == 1).await;
    agent.until("a backlog", |agent| backlog(agent) == expected([1, 2, 3, 4]));
    assert_eq!(agent.metric("agent_vanished_segments_total"), Some(0.0));
    for id in 1..=3 {
        fs::remove_file(scene.wal.path().join(name("orders", 0, id))).expect("it is there");
    }
    agent.until("two are missed", |agent| agent.metric("agent_vanished_segments_total") > Some(0.0));
    let warning =
        agent.log().lines().find(|line| line.contains("gone before they were stored")).map(str::to_owned);
    let warning = warning.expect("a warning");
    for part in ["WARN", "segments=2", &name("orders", 0, 2), &name("orders", 0, 3)] {
        assert!(warning.contains(part), "{part}: {warning}");
    }
    // The first segment was read before its name was removed, so it is stored. The fourth is deleted after it
    // is stored.
    held.add_permits(1);
    scene.until_ids(&agent, &[5]);
    agent.until("no backlog", |agent| backlog(agent) == expected([]));
    assert_eq!((agent.metric("agent_vanished_segments_total"), acknowledged(&agent)), (Some(2.0), 2.0));
    scene.check_stored([1, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_vanishes_while_workers_refuse_it_is_counted_once() {
    let scene = Scene::new().await;
    scene.scripted.always(Answer::No(Code::Unavailable, None));
    scene.wal.add_all("orders", 0, 1..=3);
    let agent = scene.start(&[]);
    scene.scripted.until(|counts| counts.over >= 2).await;
    for id in 1..=2 {
        fs::remove_file(scene.wal.path().join(name("orders", 0, id))).expect("it is there");
    }
    agent.until("both are missed", |agent| agent.metric("agent_vanished_segments_total") == Some(2.0));
    scene.wal.add("orders", 0, 4);
    scene.scripted.always(Answer::True);
    scene.until_ids(&agent, &[4]);
    assert_eq!(agent.metric("agent_vanished_segments_total"), Some(2.0));
}

/// A directory in which nothing can be deleted.
struct Undeletable {
    wal: WalDir,
    opened: Arc<Mutex<Vec<String>>>,
    attempts: watch::Sender<usize>,
}

impl SealedSegments for Undeletable {
    async fn list(&self) -> Result<Listing, WalError> {
        self.wal.list().await
    }

    async fn open(&self, segment: &Segment) -> Result<Reading, WalError> {
        self.opened.lock().expect("nobody panicked").push(segment.name.clone());
        self.wal.open(segment).await
    }

    async fn delete(&self, segment: &Segment, _: &Receipt) -> Result<(), WalError> {
        self.attempts.send_modify(|attempts| *attempts += 1);
        let source = io::ErrorKind::ReadOnlyFilesystem.into();
        Err(WalError::Io { what: format!("cannot delete {segment}"), source })
    }

    async fn reject(&self, segment: &Segment, rejection: &Rejection) -> Result<(), WalError> {
        self.wal.reject(segment, rejection).await
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the agent's log, so the agent runs on the test's own thread.
#[tokio::test]
async fn what_cannot_be_deleted_is_read_and_said_once_and_tried_again() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    let (attempts, mut attempted) = watch::channel(0);
    let (opened, log) = (Arc::<Mutex<Vec<String>>>::default(), Log::default());
    let undeletable = || {
        let wal = WalDir::new(scene.wal.path(), LogId::new("0"));
        Undeletable { wal, opened: Arc::clone(&opened), attempts: attempts.clone() }
    };
    agent_on(&scene, undeletable(), HOUR).await.run_once(std::future::pending()).await;
    assert_eq!((opened.lock().expect("nobody panicked").drain(..).count(), scene.sent().len()), (2, 2));

    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let again = agent_on(&scene, undeletable(), Duration::from_millis(10)).await;
    let tried = async { drop(attempted.wait_for(|attempts| *attempts >= 6).await.expect("it goes on")) };
    again.run(tried).await;
    assert_eq!(*opened.lock().expect("nobody panicked"), [name("orders", 0, 1)]);
    let log = String::from_utf8_lossy(&log.0.lock().expect("nobody panicked")).into_owned();
    assert_eq!(log.matches("it is stored, and cannot be deleted").count(), 1, "{log}");
    assert_eq!(scene.wal.ids("orders", 0), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_id_may_be_that_of_some_topics_and_leave_all_others_where_they_are() {
    let scene = Scene::new().await;
    let topics = ["orders", "orders-eu", "carts"];
    topics.iter().for_each(|topic| scene.wal.add_all(topic, 0, 1..=2));
    let given = ["--log-id", "orders=again", "--log-id", "orders-*=eu", "--log-id", "cluster-7"];
    let (code, log) = scene.once(&given);
    assert_eq!(code, 0, "{log}");
    let keys = scene.worker.keys();
    for log in ["orders/0/again/", "orders-eu/0/eu/", "carts/0/cluster-7/"] {
        assert_eq!(keys.iter().filter(|key| key.starts_with(log)).count(), 1, "{log}: {keys:?}");
    }
    for refused in ["=1", "orders=", "a,b"] {
        assert_eq!(scene.once(&["--log-id", refused]).0, 2, "{refused}");
    }
}
