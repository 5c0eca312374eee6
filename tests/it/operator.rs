//! What an operator of an agent sets, sees and decides.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::agent::{Scene, acknowledged, backlog, expected};
use crate::scripted_worker::{Answer, ScriptedWorker};
use crate::sidecar::{Sidecar, Wal, name, once, segment};
use crate::worker::{Worker, command, file_url, run};

fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("it is there");
    bytes[200] ^= 1;
    let written_at = fs::metadata(path).and_then(|file| file.modified()).expect("a time");
    fs::write(path, bytes).expect("written");
    // The damage comes from the disk, not from the broker: it changes no times.
    fs::File::options().write(true).open(path).and_then(|file| file.set_modified(written_at)).expect("set");
}

#[track_caller]
fn decide(what: &str, path: &Path) {
    run(["agent".as_ref(), what.as_ref(), path.as_os_str()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_segment_stays_until_somebody_decides_and_those_behind_it_are_stored() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=5);
    let bad = scene.wal.path().join(name("orders", 0, 2));
    damage(&bad);
    let agent = scene.start(&[]);
    agent.until("three receipts", |agent| acknowledged(agent) == 3.0);
    agent.until("one rejected", |agent| agent.metric("agent_rejected_segments") == Some(1.0));
    scene.until_ids(&agent, &[2, 3, 4, 5]);
    let note = fs::read_to_string(bad.with_extension("log.rejected.json")).expect("a note");
    assert!(note.contains("DATA_LOSS"), "{note}");
    agent.until("all the others gone", |agent| backlog(agent) == (Some(1.0), expected([2]).1));
    assert!(agent.metric("agent_oldest_unsent_age_seconds") > Some(0.0));
    assert_eq!(agent.metric("agent_rejections_total"), Some(1.0));

    // The operator asks for a retry. It is refused again.
    decide("retry", &bad);
    agent.until("rejected again", |agent| agent.metric("agent_rejections_total") == Some(2.0));
    let (code, log) = {
        drop(agent);
        scene.once(&[])
    };
    assert_eq!(code, 3, "{log}");
    let sent = [(1, 1), (2, 2), (3, 1), (4, 1)].map(|(id, times)| (name("orders", 0, id), times));
    assert_eq!(scene.sent(), sent.into(), "rounds and restarts alone try nothing again");

    // The operator accepts the hole.
    decide("skip", &bad);
    let agent = scene.start(&[]);
    scene.until_ids(&agent, &[2, 5]);
    agent.until("no backlog", |agent| backlog(agent) == expected([]));
    assert_eq!(agent.metric("agent_skipped_segments"), Some(1.0));
    scene.check_stored([1, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_segment_that_changes_is_tried_again() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=2);
    damage(&scene.wal.path().join(name("orders", 0, 1)));
    let agent = scene.start(&[]);
    agent.until("rejected", |agent| agent.metric("agent_rejections_total") == Some(1.0));
    scene.wal.rewrite("orders", 0, 1, &segment("orders", 0, 1));
    scene.until_ids(&agent, &[2]);
    scene.check_stored([1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_segment_cannot_be_skipped() {
    let wal = Wal::new();
    wal.add_all("orders", 0, 1..=2);
    let newest = wal.path().join(name("orders", 0, 2));
    let output =
        command(["agent".as_ref(), "skip".as_ref(), newest.as_os_str()]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    decide("skip", &wal.path().join(name("orders", 0, 1)));
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Returns the exit code and the last line of standard error.
fn ending(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), text(&output.stderr).lines().last().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_has_one_agent_at_a_time() {
    let scene = Scene::new().await;
    let first = scene.start(&[]);
    let (code, said) = ending(&once(scene.wal.path(), &[scene.scripted.endpoint()], &[]));
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("another agent looks after this directory"), "{said}");
    first.kill();
    assert_eq!(scene.once(&[]).0, 0, "a killed one holds nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_sends_so_many_segments_and_goes_on_at_once_where_there_are_more() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=6);
    let (code, log) = scene.once(&["--max-segments-per-run", "2"]);
    assert_eq!((code, scene.wal.ids("orders", 0)), (0, vec![6]), "until nothing is left: {log}");
    scene.wal.add_all("orders", 0, 6..=9);
    let agent = scene.start(&["--max-segments-per-run", "1", "--interval", "10000"]);
    scene.until_ids(&agent, &[9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_segments_are_on_their_way_than_told_for_all_directories_together() {
    let (scene, other) = (Scene::new().await, Wal::new());
    let held = Arc::new(Semaphore::new(0));
    scene.scripted.always(Answer::Held(Arc::clone(&held)));
    scene.wal.add_all("orders", 0, 1..=4);
    other.add_all("payments", 0, 1..=4);
    let flags = ["--max-concurrent-tasks", "3", "--wal-dir", other.path().to_str().expect("UTF-8")];
    let agent = scene.start(&flags);
    let on_their_way = || {
        let counts = scene.scripted.counts();
        counts.begun - counts.over
    };
    scene.scripted.until(|counts| counts.begun == 3).await;
    for begun in 4..=6 {
        held.add_permits(1);
        scene.scripted.until(|counts| counts.begun == begun).await;
        assert!(on_their_way() <= 3);
    }
    held.add_permits(3);
    scene.until_ids(&agent, &[4]);
    agent.until("the other directory, too", |_| other.ids("payments", 0) == [4]);
    assert!(agent.metrics().contains(&format!("wal_dir=\"{}\"", other.path().display())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_segment_is_left_alone() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    let old = fs::File::options().append(true).open(scene.wal.path().join(name("orders", 0, 1)));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2_000);
    old.and_then(|file| file.set_modified(long_ago)).expect("set");
    let wal = scene.wal.path().to_str().expect("UTF-8");
    let endpoint = scene.scripted.endpoint();
    let flags = ["agent", "--once", "--wal-dir", wal, "--endpoint", &endpoint, "--min-segment-age", "1000"];
    let output = command(flags).output().expect("it starts");
    // The old segment is stored. It is deleted when the whole partition has been idle long enough.
    assert_eq!(ending(&output), (Some(5), "error: segments that stay for later: 2".to_owned()));
    assert_eq!(scene.wal.ids("orders", 0), [1, 2, 3]);
    scene.check_stored([1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_storage_is_shared_only_urls_are_sent() {
    let worker = Worker::start();
    let scripted = ScriptedWorker::start(&worker.endpoint()).await;
    let wal = Wal::below(&worker.sources());
    wal.add_all("ord ers", 0, 1..=3);
    let url = file_url(wal.path());
    let output = once(wal.path(), &[scripted.endpoint()], &["--point-to", &url]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(wal.ids("ord ers", 0), [3]);
    assert_eq!(worker.keys().len(), 2);
    assert!(scripted.calls().iter().all(|call| call.is_pointed && call.bytes == 0), "{:?}", scripted.calls());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_may_be_kept_elsewhere() {
    let (scene, state) = (Scene::new().await, tempfile::tempdir().expect("a directory"));
    scene.wal.add_all("orders", 0, 1..=3);
    let flags = ["--delete-after-index", "false", "--state-dir", state.path().to_str().expect("UTF-8")];
    for _ in 0..2 {
        assert_eq!(scene.once(&flags).0, 0);
    }
    assert_eq!(scene.scripted.calls().len(), 2);
    let left = fs::read_dir(scene.wal.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(
        left,
        [".wal-indexer.lock", "orders"],
        "nothing but the topic, and what keeps a second agent away"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_tells_what_became_of_each_segment() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=2);
    scene.wal.add_all("orders", 1, 1..=3);
    damage(&scene.wal.path().join(name("orders", 1, 1)));
    let output = once(scene.wal.path(), &[scene.scripted.endpoint()], &["--progress", "always"]);
    let (printed, logged) = (text(&output.stdout), text(&output.stderr));
    let size = bytesize::ByteSize::b(crate::sidecar::segment("orders", 0, 1).len() as u64).display().iec();
    let line_of = |partition, id| {
        let name = name("orders", partition, id);
        let mut lines = printed.lines().filter(|line| line.contains(&format!("  {name}  ")));
        let line = lines.next().unwrap_or_else(|| panic!("no line about {name} in\n{printed}"));
        assert_eq!(lines.next(), None, "one for each");
        line.split("  ").skip(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let line = line_of(0, 1);
    assert_eq!(line[..3], [size.to_string(), "20 records".to_owned(), scene.scripted.address().to_string()]);
    assert_eq!(line.last().map(String::as_str), Some("deleted"));
    assert!(line_of(1, 1).last().expect("words").starts_with("rejected: "), "{printed}");
    assert_eq!(line_of(1, 2).last(), Some(&format!("waits behind {}", name("orders", 1, 1))));
    assert!(!logged.contains(" stored, and "), "not twice\n{logged}");
}

/// As when the terminal does not accept output.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_has_to_read_the_lines() {
    let scene = Scene::new().await;
    // With these names the lines exceed the buffer of a pipe.
    let topic = "x".repeat(249);
    scene.wal.add_all(&topic, 0, 1..=301);
    let mut agent = scene.start(&["--progress", "always"]);
    agent.until("one left", |_| scene.wal.ids(&topic, 0) == [301]);
    agent.signal("TERM");
    assert!(agent.ended().success());
}

/// A worker answers at this address, but it does not index. Its answer has no reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_without_a_reason_is_counted_by_its_code() {
    let searches = Worker::start_with(&["--roles", "search"]);
    let wal = Wal::new();
    wal.add_all("orders", 0, 1..=2);
    let agent = Sidecar::start(wal.path(), &[searches.endpoint()], &[]);
    agent.until("a refusal", |agent| agent.metric("agent_refusals_total") >= Some(1.0));
    assert!(agent.metrics().contains("reason=\"UNIMPLEMENTED\""), "{}", agent.metrics());
}

/// Runs the agent with flags that cannot work.
fn check_refused(flags: &[&str], code: i32, says: &str) {
    let output = command(["agent"]).args(flags).output().expect("it starts");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
    assert!(said.contains(says), "{flags:?}: {said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn what_cannot_work_is_said_at_the_start() {
    let wal = Wal::new();
    let dir = wal.path().to_str().expect("UTF-8");
    let ok = "http://127.0.0.1:1";
    check_refused(&[], 2, "--wal-dir");
    check_refused(&["--wal-dir", dir], 2, "--endpoint");
    check_refused(&["--wal-dir", dir, "--endpoint", "http://me:hunter2@host:1"], 2, "--endpoint");
    check_refused(&["--wal-dir", dir, "--endpoint", "http://host:1/hunter2"], 2, "--endpoint");
    check_refused(&["--wal-dir", dir, "--endpoint", ok, "--interval", "0"], 2, "--interval");
    check_refused(&["--wal-dir", dir, "--endpoint", ok, "--token-file", "/absent"], 2, "/absent");
    check_refused(&["--once", "--wal-dir", "/absent", "--endpoint", ok], 1, "--wal-dir /absent");
    check_refused(
        &["--wal-dir", dir, "--endpoint", ok, "--metrics-listen", "nowhere"],
        2,
        "--metrics-listen",
    );
    check_refused(
        &["--wal-dir", dir, "--wal-dir", "/", "--endpoint", ok, "--point-to", "file:///"],
        2,
        "--point-to",
    );
    for (flag, value, says) in [
        ("--retry-for", "0", "--retry-for"),
        ("--log-id", &"x".repeat(250), "the log id takes 250 bytes"),
        ("--point-to", "nowhere", "--point-to: not a URL"),
        ("--point-to", "http://host/wal", "--point-to: the scheme `http`"),
        ("--point-to", "file:///wal?hunter2", "--point-to: user, password"),
        ("--point-to", "s3://me:hunter2@bucket/wal", "--point-to: user, password"),
        ("--point-to", "file://me:hunter2@:/wal", "--point-to: not a URL"),
        ("--point-to", "mailto:me@host", "--point-to"),
    ] {
        check_refused(&["--wal-dir", dir, "--endpoint", ok, flag, value], 2, says);
    }
    check_refused(&["skip", "/absent/orders/0/wal_0_1.log"], 1, "/absent");
}
