//! Files that a killed worker leaves on a local disk, and what removes them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;
use tonic::Status;
use wal_indexer::proto::v1::IndexSegmentResponse;

use crate::sidecar::segment_of;
use crate::worker::{Worker, command, file_url, inline, send_inline};
use crate::written::Ran;

const SOON: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// All files below, by their paths from there.
fn files(root: &Path) -> BTreeSet<String> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeSet<String>) {
        // A file may be deleted during the walk.
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => walk(&entry.path(), root, found),
                false => {
                    let path = entry.path().strip_prefix(root).expect("below").to_owned();
                    found.insert(path.to_str().expect("UTF-8").to_owned());
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(root, root, &mut found);
    found
}

fn staged(root: &Path) -> Option<String> {
    files(root).into_iter().find(|name| name.starts_with("orders/") && name.ends_with("#1"))
}

fn grow_old(path: &Path, age: Duration) {
    let file = File::options().append(true).open(path).expect("it is there");
    file.set_modified(SystemTime::now() - age).expect("it is ours");
}

/// Starts to send a segment that takes a while to store.
fn sending(worker: &Worker, id: u64) -> JoinHandle<Result<IndexSegmentResponse, Status>> {
    let endpoint = worker.endpoint();
    tokio::spawn(async move {
        let bytes = segment_of("orders", 0, id, 5_000);
        let channel = tonic::transport::Endpoint::from_shared(endpoint).expect("an address").connect().await;
        let mut client = crate::worker::Client::new(channel.expect("it listens"));
        send_inline(&mut client, inline(bytes.len() as u64, None), &bytes, 1 << 20).await
    })
}

/// Sends segments until a worker is seen to write an object, and sends it this signal at that moment. Returns
/// the name of the unfinished file, and the answer in progress. After `STOP` the file still exists.
async fn caught(worker: &Worker, signal: &str) -> (String, JoinHandle<Result<IndexSegmentResponse, Status>>) {
    let deadline = Instant::now() + SOON;
    for id in 1.. {
        assert!(Instant::now() < deadline, "it is always too fast");
        let answer = sending(worker, id);
        let store = worker.store();
        let name = loop {
            match staged(&store) {
                Some(name) => break Some(name),
                None if answer.is_finished() => break None,
                None => {}
            }
        };
        if let Some(name) = name {
            worker.signal(signal);
            if signal == "STOP" && fs::exists(store.join(&name)).expect("readable") {
                return (name, answer);
            }
            if signal == "KILL" {
                return (name, answer);
            }
            worker.signal("CONT");
        }
        answer.await.expect("no panic").expect("a receipt");
    }
    unreachable!("the deadline comes first");
}

fn sweep(store: &Path, flags: &[&str]) -> Ran {
    let mut sweep = command(["sweep", "--store", &file_url(store)]);
    sweep.args(flags);
    Ran::of(sweep)
}

/// Waits until the file is deleted, which must be soon.
fn until_gone(path: &Path) {
    let deadline = Instant::now() + SOON;
    while fs::exists(path).expect("readable") {
        assert!(Instant::now() < deadline, "{} stays", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_was_writing_is_left_and_goes_when_it_is_old() {
    let root = tempfile::tempdir().expect("a directory");
    let mut left = None;
    for _ in 0..20 {
        let mut worker = Worker::start();
        let (name, _) = caught(&worker, "KILL").await;
        worker.ended();
        let (from, to) = (worker.store().join(&name), root.path().join(&name));
        if fs::exists(&from).expect("readable") {
            fs::create_dir_all(to.parent().expect("a folder")).expect("made");
            fs::copy(&from, &to).expect("copied");
            left = Some(to);
            break;
        }
    }
    let left = left.expect("one of twenty was killed in time");
    // It may be half an object. No reader sees it.
    let listed = Ran::of(command(["ls", "--bundles", "--store", &file_url(root.path())]));
    assert!(listed.code == 0 && !listed.out.contains("orders"), "{listed:?}");

    let young = sweep(root.path(), &["--delete"]);
    assert!(young.code == 0 && young.out.starts_with("nothing was left"), "{young:?}");
    grow_old(&left, 25 * DAY / 24);
    assert!(sweep(root.path(), &["--older-than", "2d", "--delete"]).out.starts_with("nothing was left"));
    let shown = sweep(root.path(), &[]);
    assert!(shown.out.contains("left: 1,") && fs::exists(&left).expect("readable"), "{shown:?}");
    let removed = sweep(root.path(), &["--delete"]);
    assert!(removed.out.contains("removed: 1 of 1") && !fs::exists(&left).expect("readable"), "{removed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_25_a_writer_that_was_stopped_while_its_file_was_swept_stores_the_segment_all_the_same() {
    let worker = Worker::start();
    let (name, answer) = caught(&worker, "STOP").await;
    let path = worker.store().join(&name);
    // As a sweep would do a day later.
    fs::remove_file(&path).expect("it is there");
    worker.signal("CONT");
    let receipt = answer.await.expect("no panic").expect("a receipt");
    let key = &receipt.partitions[0].bundle.as_ref().expect("a bundle").key;
    assert_eq!(&name, &format!("{key}#1"));
    let verified = Ran::of(command(["verify", key, "--store", &file_url(&worker.store())]));
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_eq!(staged(&worker.store()), None);
}

/// Returns a worker whose store has one bundle, and the bundle's key.
async fn with_bundle() -> (Worker, String) {
    let worker = Worker::start();
    let bytes = segment_of("orders", 0, 1, 20);
    let sent =
        send_inline(&mut worker.client().await, inline(bytes.len() as u64, None), &bytes, 1 << 20).await;
    sent.expect("a receipt");
    let key = worker.keys().pop().expect("a bundle");
    (worker, key)
}

fn put(store: &Path, name: &str, age: Duration) -> PathBuf {
    let path = store.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(&path, b"half an object").expect("written");
    grow_old(&path, age);
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_removes_at_its_start_what_lies_by_an_object_for_a_day_and_nothing_else() {
    let (first, key) = with_bundle().await;
    let store = first.store();
    // An offset at which no bundle begins.
    let other = key.replace("/0000", "/0009");
    assert_ne!(other, key);
    let stay = [
        put(&store, &format!("{key}#3"), DAY / 2),
        put(&store, &format!("{other}#1"), 2 * DAY),
        put(&store, &format!("{key}.bak"), 2 * DAY),
        put(&store, &format!("{key}#1a"), 2 * DAY),
    ];
    let goes = [1, 2].map(|nth| put(&store, &format!("{key}#{nth}"), 2 * DAY));
    let before = files(&store);
    let second = Worker::start_on(&file_url(&store), &[], &[]);
    goes.iter().for_each(|path| until_gone(path));
    let mut after = before;
    after.retain(|name| goes.iter().all(|path| *path != store.join(name)));
    assert_eq!(files(&store), after);
    assert!(stay.iter().all(|path| fs::exists(path).expect("readable")));
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_named_like_a_bundle_with_a_number_behind_it_is_swept() {
    let (worker, key) = with_bundle().await;
    let store = worker.store();
    let elsewhere = tempfile::tempdir().expect("a directory");
    let linked = put(elsewhere.path(), &format!("{key}#1"), 2 * DAY);
    symlink(elsewhere.path().join("orders"), store.join("linked")).expect("a link");
    for name in [
        format!("{key}#"),
        format!("{key}#x"),
        format!("{key}#1.bak"),
        format!("{key}.bak#1"),
        format!("{}#1", key.replace("/0/0/0", "/0/0/00")),
        format!("deeper/{key}#1"),
        format!("orders/{}#1", key.rsplit('/').next().expect("a name")),
        "notes#1".to_owned(),
        "orders/0/0/notes#1".to_owned(),
        "wal-indexer-probe/notes#1".to_owned(),
    ] {
        put(&store, &name, 2 * DAY);
    }
    fs::create_dir(store.join(format!("{key}#4"))).expect("made");
    symlink(&linked, store.join(format!("{key}#5"))).expect("a link");
    let before = files(&store);
    let goes = [format!("{key}#12"), "wal-indexer-probe/create-only#1".to_owned()];
    for name in &goes {
        put(&store, name, 2 * DAY);
    }
    let swept = sweep(&store, &["--delete", "--json"]);
    let lines = swept.json();
    assert!(lines.len() == 2 && lines.iter().all(|line| line["removed"] == true), "{swept:?}");
    assert_eq!(files(&store), before);
    assert!(fs::exists(&linked).expect("readable"));
    for age in ["59m", "0s", "1", "soon"] {
        assert_eq!(sweep(&store, &["--older-than", age]).code, 2, "{age}");
    }
}
