//! Deletion is hiding first: what is deleted is in no answer and gets no receipt; `undelete` brings it back,
//! and `purge` deletes it for good. Through the RPC and the command line; [`in_process`] has a store that
//! fails.

mod in_process;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::{Code, Status};
use wal_indexer::proto::v1::IndexSegmentResponse;
use wal_indexer::store::{BundleKey, HiddenReason, MarkerKey, Store};

use crate::reading::lines;
use crate::receipts::{already_existed, keys_of};
use crate::sidecar::{Wal, name, once};
use crate::worker::{Refusal, Worker, command, file_url, inline, run, send_inline};
use crate::written::Ran;

/// Offsets in a bundle of these tests.
const COUNT: i64 = 100;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

fn hours_ago(hours: i64) -> i64 {
    now_ms() - hours * 3_600_000
}

/// A worker with its store, and what a caller and an operator do with it.
struct Scene {
    worker: Worker,
    url: String,
}

impl Scene {
    /// Starts a worker with `orders`/3 from 0 to 299 in three bundles, and `orders`/4 from 0 to 99. Returns
    /// the keys in this order, too.
    async fn new() -> (Self, Vec<String>) {
        let scene = Self::empty();
        let mut keys = Vec::new();
        for (partition, base) in [(3, 0), (3, 100), (3, 200), (4, 0)] {
            let receipt = scene.send(partition, base, "").await.expect("a receipt");
            keys.extend(keys_of(&receipt));
        }
        (scene, keys)
    }

    fn empty() -> Self {
        let worker = Worker::start();
        let url = file_url(&worker.store());
        Self { worker, url }
    }

    async fn send(&self, partition: i32, base: i64, log_id: &str) -> Result<IndexSegmentResponse, Status> {
        let bytes = lines(base, COUNT, "common");
        let mut header = inline(bytes.len() as u64, Some(("orders", partition)));
        header.log_id = log_id.to_owned();
        send_inline(&mut self.worker.client().await, header, &bytes, 1 << 16).await
    }

    /// Runs a command on the store itself.
    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(command(arguments.iter().chain(&["--store", self.url.as_str()])))
    }

    /// Runs a command that must succeed. Returns what it printed.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran.out
    }

    /// Runs a command on the worker.
    fn ask(&self, arguments: &[&str]) -> Ran {
        let endpoint = self.worker.endpoint();
        Ran::of(command(arguments.iter().chain(&["--endpoint", endpoint.as_str()])))
    }

    fn file(&self, key: &str) -> PathBuf {
        self.worker.store().join(key)
    }

    /// Checks that a worker and the command line find these records of `orders`/3, and no others.
    #[track_caller]
    fn holds(&self, offsets: impl Iterator<Item = i64>) {
        let offsets: Vec<_> = offsets.collect();
        let orders = ["--topic", "orders", "--partition", "3", "--json"];
        let search = [&["search"], &orders[..], &["--count", "common"]].concat();
        let fetch = [&["fetch"], &orders[..], &["--offset", "0", "--max-records", "1000"]].concat();
        for ran in [self.ask(&search), self.run(&search)] {
            // If nothing is stored of a partition, nothing is counted.
            let matched = ran.json()[0]["matched"].as_str().map(str::to_owned);
            assert_eq!(matched.unwrap_or("0".to_owned()), offsets.len().to_string(), "{ran:?}");
            assert!(!offsets.is_empty() || ran.err.contains("nothing is stored of orders/3"), "{ran:?}");
        }
        for ran in [self.ask(&fetch), self.run(&fetch)] {
            let records = ran.json();
            let fetched = records.iter().filter_map(|one| one["offset"].as_str()?.parse::<i64>().ok());
            assert_eq!(fetched.collect::<Vec<_>>(), offsets);
        }
    }

    /// Checks that a worker and the command line list these bundles, and no others.
    #[track_caller]
    fn lists(&self, keys: &[String]) {
        for ran in [self.ask(&["ls", "--json"]), self.run(&["ls", "--json"])] {
            let lines = ran.json();
            let listed = lines.iter().map(|line| line["bundle"]["key"].as_str().expect("a key"));
            assert_eq!(listed.collect::<Vec<_>>(), keys);
        }
        let verified = self.run(&["verify", "--all"]);
        assert_eq!(verified.code, 0, "{verified:?}");
        let wanted = format!("{} bundles, 0 findings", keys.len());
        assert!(verified.out.contains(&wanted), "{verified:?}");
    }

    /// Returns what `ls --deleted` shows: each marker as JSON.
    #[track_caller]
    fn deleted(&self) -> Vec<Value> {
        self.run(&["ls", "--deleted", "--json"]).json()
    }

    /// Deletes the bundle with this key, as its owner, some hours ago.
    fn delete(&self, key: &str, hours: i64) -> PathBuf {
        let marker = json!({"version": 1, "reason": "deleted", "hidden_at_ms": hours_ago(hours)});
        self.write_marker(key, &marker.to_string())
    }

    fn write_marker(&self, key: &str, contents: &str) -> PathBuf {
        let path = self.file(&marker_of(key).to_string());
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, contents).expect("a marker");
        path
    }
}

fn marker_of(key: &str) -> MarkerKey {
    MarkerKey::of(&key.parse::<BundleKey>().expect("a key"))
}

/// The bundles of these lines of JSON.
fn bundles(lines: &[Value]) -> Vec<&str> {
    let bundles = lines.iter().flat_map(|line| line["bundles"].as_array().into_iter().flatten());
    bundles.map(|bundle| bundle["key"].as_str().expect("a key")).collect()
}

#[track_caller]
fn refused_as_deleted(sent: Result<IndexSegmentResponse, Status>, hidden_at_ms: i64) {
    let status = sent.expect_err("no receipt");
    let refusal = Refusal::of(&status);
    assert_eq!((refusal.code, &*refusal.reason), (Code::FailedPrecondition, "DELETED"), "{status:?}");
    assert_eq!(refusal.facts["hidden_at_ms"], hidden_at_ms.to_string());
    assert_eq!(refusal.facts["hidden_because"], "deleted");
    for way_back in ["wal-indexer undelete", "log id"] {
        assert!(status.message().contains(way_back), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_hidden_is_in_no_answer() {
    let (scene, keys) = Scene::new().await;
    // The worker's cache of bundles holds all of them now.
    scene.holds(0..300);
    scene.lists(&keys);
    let (before, object) = (now_ms(), fs::read(scene.file(&keys[0])).expect("a bundle"));
    let orders = ["expire", "--topic", "orders", "--partition", "3", "--offset", "200"];
    let said = scene.ok(&[&orders[..], &["--delete"]].concat());
    assert!(said.contains("deleted: 2 bundles") && said.contains("purge"), "{said}");

    scene.holds(200..300);
    scene.lists(&keys[2..]);
    let sha256: String =
        Sha256::digest(lines(0, COUNT, "common")).iter().map(|byte| format!("{byte:02x}")).collect();
    let of_segment = ["ls", "--topic", "orders", "--partition", "3", "--segment", &sha256];
    for ran in [scene.ask(&of_segment), scene.run(&of_segment)] {
        assert!(ran.code == 0 && ran.out.is_empty() && ran.err.contains("no bundles"), "{ran:?}");
    }
    let again = scene.ok(&[&orders[..], &["--delete"]].concat());
    assert!(again.contains("nothing of orders lies wholly below offset 200"), "{again}");

    let deleted = scene.deleted();
    assert_eq!(bundles(&deleted), [&*keys[0], &*keys[1]]);
    for (line, key) in deleted.iter().zip(&keys) {
        let facts = [&line["topic"], &line["partition"], &line["log_id"], &line["reason"]];
        assert_eq!(facts, [&json!("orders"), &json!(3), &json!("0"), &json!("expired")]);
        let hidden_at_ms = line["hidden_at_ms"].as_i64().expect("a time");
        assert!((before..=now_ms()).contains(&hidden_at_ms), "{line}");
        assert_eq!(line["marker"], json!(marker_of(key).to_string()));
        let size = fs::metadata(scene.file(key)).expect("it is still there").len();
        assert_eq!(line["bundles"][0]["size_bytes"], json!(size));
    }
    let table = scene.ok(&["ls", "--deleted", "--topic", "orders"]);
    assert!(table.contains("0..99") && table.contains("expired") && table.contains(&keys[1]), "{table}");
    let none = scene.run(&["ls", "--deleted", "--topic", "orders", "--partition", "4"]);
    assert!(none.code == 0 && none.out.is_empty() && none.err.contains("nothing"), "{none:?}");
    assert_eq!(scene.ask(&["ls", "--deleted"]).code, 2, "a worker does not list what is hidden");

    // An operator who names a hidden bundle may look at it before deciding.
    let out = scene.worker.sources().join("restored");
    scene.ok(&["restore", "--out", out.to_str().expect("UTF-8"), &keys[0]]);
    assert!(fs::read(&out).expect("a segment") == lines(0, COUNT, "common"));
    assert_eq!(scene.run(&["verify", &keys[0]]).code, 0);
    assert!(fs::read(scene.file(&keys[0])).expect("a bundle") == object, "nothing was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undelete_brings_back_what_is_selected() {
    let (scene, keys) = Scene::new().await;
    let all = scene.worker.keys();
    for (key, hours) in keys.iter().zip([10, 8, 6, 4]) {
        scene.delete(key, hours);
    }
    scene.lists(&[]);
    let undelete = ["undelete", "--topic", "orders"];
    let dry = scene.ok(&[&undelete[..], &["--dry-run"]].concat());
    assert!(dry.contains("would come back: 4 bundles") && keys.iter().all(|key| dry.contains(key)), "{dry}");
    scene.lists(&[]);
    for nothing in [&["--log-id", "another"][..], &["--base-offset", "1"], &["--since", "2h"]] {
        let said = scene.ok(&[&undelete[..], nothing].concat());
        assert!(said.contains("nothing of orders that is selected is hidden"), "{said}");
    }
    assert!(scene.ok(&["undelete", "--topic", "order"]).contains("nothing of order "));
    scene.lists(&[]);

    let said = scene.ok(&[&undelete[..], &["--base-offset", "100", "--base-offset", "7"]].concat());
    assert!(said.contains(&format!("undeleted {}\n", keys[1])), "{said}");
    assert!(said.contains("undeleted: 1 bundle, "), "{said}");
    scene.lists(&keys[1..2]);
    scene.holds(100..200);
    scene.ok(&[&undelete[..], &["--partition", "3", "--since", "7h"]].concat());
    scene.lists(&keys[1..3]);
    let lines = scene.run(&[&undelete[..], &["--partition", "4", "--partition", "5", "--json"]].concat());
    let lines = lines.json();
    let (summary, lines) = lines.split_last().expect("a summary");
    assert_eq!((bundles(lines), &lines[0]["outcome"]), (vec![&*keys[3]], &json!("undeleted")));
    assert_eq!([&summary["undeleted_bundles"], &summary["left_markers"]], [&json!(1), &json!(0)]);
    scene.ok(&undelete);
    scene.lists(&keys);
    scene.holds(0..300);
    assert_eq!(scene.worker.keys(), all, "no marker is left, and nothing is missing");
    assert!(scene.deleted().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_39_a_deletion_can_be_undone() {
    let (scene, keys) = Scene::new().await;
    // The caller deletes everything, by mistake.
    let store = Store::open(&scene.url.parse().expect("a URL")).expect("a store");
    for key in &keys {
        store.hide(&marker_of(key), HiddenReason::Deleted).await.expect("a marker");
    }
    scene.lists(&[]);
    // A purge of what is a day old frees nothing of it.
    let said = scene.ok(&["purge", "--after", "24h"]);
    assert!(said.contains("nothing is due") && said.contains("younger, and left: 4 bundles"), "{said}");
    scene.ok(&["undelete", "--topic", "orders", "--since", "1h"]);
    scene.lists(&keys);
    let out = scene.worker.sources().join("restored");
    for (key, base) in keys.iter().zip([0, 100, 200, 0]) {
        scene.ok(&["restore", "--out", out.to_str().expect("UTF-8"), key]);
        assert!(fs::read(&out).expect("a segment") == lines(base, COUNT, "common"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purge_deletes_bundles_and_markers_that_are_old_enough_and_nothing_else() {
    let (scene, keys) = Scene::new().await;
    scene.delete(&keys[0], 7);
    scene.delete(&keys[1], 5);
    scene.delete(&keys[3], 7);
    let all = scene.worker.keys();
    let dry = scene.ok(&["purge", "--after", "6h", "--dry-run"]);
    assert!(dry.contains("would be purged: 2 bundles") && dry.contains("left: 1 bundle"), "{dry}");
    assert_eq!(scene.worker.keys(), all);
    let other = scene.ok(&["purge", "--after", "6h", "--topic", "orders", "--partition", "5"]);
    assert!(other.contains("nothing is due"), "{other}");

    let lines = scene.run(&["purge", "--after", "6h", "--json", "--per-second", "100"]).json();
    let (summary, lines) = lines.split_last().expect("a summary");
    assert_eq!(bundles(lines), [&*keys[0], &*keys[3]]);
    assert!(lines.iter().all(|line| line["outcome"] == json!("purged")), "{lines:?}");
    let counts = ["due_markers", "younger_markers", "purged_bundles", "purged_markers", "left_markers"];
    assert_eq!(counts.map(|name| summary[name].as_i64().expect("a number")), [2, 1, 2, 2, 0]);
    let left = [keys[1].clone(), marker_of(&keys[1]).to_string(), keys[2].clone()];
    assert_eq!(scene.worker.keys(), left);
    assert!(!scene.file("orders/4").exists(), "no empty directories are left");
    scene.lists(&keys[2..3]);
    let again = scene.ok(&["purge", "--after", "6h"]);
    assert!(again.contains("nothing is due"), "{again}");
}

fn set_modified(path: &Path, hours: i64) {
    let at = UNIX_EPOCH + Duration::from_millis(hours_ago(hours) as u64);
    fs::File::options().write(true).open(path).and_then(|file| file.set_modified(at)).expect("set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purge_takes_the_age_from_the_marker_and_otherwise_from_the_store() {
    let (scene, keys) = Scene::new().await;
    let future = json!({"reason": "deleted", "hidden_at_ms": hours_ago(-5)}).to_string();
    // The contents, and how many hours ago the file was written to.
    for (contents, written, is_due) in [
        (json!({"hidden_at_ms": hours_ago(7)}).to_string(), 0, true),
        (json!({"hidden_at_ms": hours_ago(1)}).to_string(), 9, false),
        (future.clone(), 9, true),
        (future.clone(), 1, false),
        (String::new(), 9, true),
        (String::new(), 1, false),
        ("not JSON".to_owned(), 9, true),
        (future, -9, false),
    ] {
        // A marker without a bundle goes by the same rule.
        let missing = keys[0].replace("orders/3/", "orders/9/");
        for key in [&keys[0], &missing] {
            set_modified(&scene.write_marker(key, &contents), written);
        }
        scene.ok(&["purge", "--after", "6h"]);
        let files = [keys[0].clone(), marker_of(&keys[0]).to_string(), marker_of(&missing).to_string()];
        assert_eq!(files.map(|file| scene.file(&file).exists()), [!is_due; 3], "{contents} {written}");
        if is_due {
            scene.send(3, 0, "").await.expect("a receipt: it is stored again");
        }
    }
}

#[test]
fn purge_refuses_to_be_faster_than_a_request_and_reads_no_variables() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = file_url(directory.path());
    let variables = [
        ("WAL_INDEXER_AFTER", "24h"),
        ("WAL_INDEXER_TOPIC", "orders"),
        ("WAL_INDEXER_SINCE", "24h"),
        ("WAL_INDEXER_STORE", &store),
    ];
    for (arguments, code, said) in [
        (&["purge"][..], 2, "--after"),
        (&["purge", "--after", "359m"], 2, "a request"),
        (&["purge", "--after", "0s"], 2, "a request"),
        (&["purge", "--after", "soon"], 2, "an age"),
        (&["purge", "--after", "6h", "--partition", "3"], 2, "--topic"),
        (&["purge", "--after", "6h", "--log-id", "a"], 2, "--topic"),
        (&["undelete"], 2, "--topic"),
        (&["undelete", "--topic", "orders", "--since", "soon"], 2, "--since"),
        (&["purge", "--after", "6h"], 0, ""),
    ] {
        let mut command = command(arguments);
        let ran = Ran::of({
            command.envs(variables);
            command
        });
        assert!(ran.code == code && ran.err.contains(said), "{arguments:?}: {ran:?}");
    }
    for verb in [&["purge", "--after", "6h"][..], &["undelete", "--topic", "t"], &["ls", "--deleted"]] {
        let ran = Ran::of(command(verb.iter().chain(&["--store", "file:///nowhere"])));
        assert_eq!(ran.code, 4, "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_was_deleted_gets_no_receipt_until_it_is_undeleted_or_purged() {
    let scene = Scene::empty();
    let key = keys_of(&scene.send(3, 0, "").await.expect("a receipt")).remove(0);
    let object = scene.worker.object(&key);
    let hidden_at_ms = hours_ago(1);
    let marker = json!({"version": 1, "reason": "deleted", "hidden_at_ms": hidden_at_ms});
    scene.write_marker(&key, &marker.to_string());
    for _ in 0..2 {
        refused_as_deleted(scene.send(3, 0, "").await, hidden_at_ms);
    }
    scene.lists(&[]);
    let other = scene.send(3, 0, "another").await.expect("another log is another object");
    assert_eq!(already_existed(&other), [false]);
    assert!(scene.send(3, 100, "").await.is_ok(), "so is another segment");

    scene.ok(&["undelete", "--topic", "orders"]);
    let back = scene.send(3, 0, "").await.expect("a receipt");
    assert_eq!((keys_of(&back), already_existed(&back)), (vec![key.clone()], vec![true]));

    scene.delete(&key, 30);
    scene.ok(&["purge", "--after", "24h"]);
    assert!(!scene.file(&key).exists());
    let anew = scene.send(3, 0, "").await.expect("a receipt");
    assert_eq!((keys_of(&anew), already_existed(&anew)), (vec![key.clone()], vec![false]));
    assert!(scene.worker.object(&key) == object, "the same name has the same contents");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_before_the_bundle_hides_it_from_its_first_moment() {
    let (elsewhere, keys) = Scene::new().await;
    drop(elsewhere);
    let scene = Scene::empty();
    let store = Store::open(&scene.url.parse().expect("a URL")).expect("a store");
    let hidden = store.hide(&marker_of(&keys[0]), HiddenReason::Deleted).await.expect("a marker");
    assert_eq!(scene.deleted()[0]["bundles"], json!([]));
    refused_as_deleted(scene.send(3, 0, "").await, hidden.hidden_at_ms);
    scene.lists(&[]);
    scene.holds(0..0);
    assert_eq!(bundles(&scene.deleted()), [&*keys[0]], "it did arrive");
    let said = scene.ok(&["undelete", "--topic", "orders"]);
    assert!(said.contains("undeleted: 1 bundle"), "{said}");
    scene.lists(&keys[..1]);
    scene.holds(0..100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_keeps_a_segment_that_was_deleted_until_somebody_decides() {
    let (scene, wal) = (Scene::empty(), Wal::new());
    wal.add_all("orders", 0, 1..=3);
    let endpoints = [scene.worker.endpoint()];
    let stay = ["--delete-after-index", "false"];
    assert!(once(wal.path(), &endpoints, &stay).status.success());
    let all = scene.worker.keys();
    scene.delete(&all[0], 1);
    // Without its checkpoint the agent sends everything again.
    let hidden_files = fs::read_dir(wal.path()).expect("a directory").map(|entry| entry.expect("one").path());
    for path in hidden_files.filter(|path| path.is_file()) {
        fs::remove_file(path).expect("the agent's file");
    }
    let ran = once(wal.path(), &endpoints, &[]);
    assert_eq!(ran.status.code(), Some(3), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(wal.ids("orders", 0), [1, 2, 3], "nothing goes behind a segment that has no receipt");
    let path = wal.path().join(name("orders", 0, 1));
    let note = fs::read_to_string(path.with_extension("log.rejected.json")).expect("a note");
    assert!(note.contains("\"DELETED\"") && note.contains("wal-indexer undelete"), "{note}");

    scene.ok(&["undelete", "--topic", "orders"]);
    run(["agent".as_ref(), "retry".as_ref(), path.as_os_str()]);
    let ran = once(wal.path(), &endpoints, &[]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(wal.ids("orders", 0), [3]);
    assert_eq!(scene.worker.keys(), all);
}
