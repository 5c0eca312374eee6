//! Retention and deletion: what an operator deletes is hidden, and nothing else is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;
use wal_indexer::expire::{Limit, Plan, Progress, Scope};
use wal_indexer::store::{BundleKey, KeyPrefix, MarkerKey, StoreErrorKind};

use crate::faults::{Fault, Faults};
use crate::reading::{BASE_MS, lines};
use crate::receipts::{Segment, ingest, keys, memory, send};
use crate::worker::command;
use crate::written::{Ran, Written, fixture};

/// Offsets in a bundle of these tests. The time of each record is `BASE_MS` plus its offset, in milliseconds.
const COUNT: i64 = 100;

async fn put(written: &Written, topic: &'static str, partition: i32, bases: impl IntoIterator<Item = i64>) {
    for base in bases {
        let segment = Segment::new(lines(base, COUNT, "common"), Some((topic, partition)));
        send(&written.ingest, &segment, 1 << 20).await.expect("a receipt");
    }
}

/// Returns a store with `orders`/3 from 0 to 499, in five bundles, and with similar names that must not be
/// deleted.
async fn store() -> Written {
    let written = Written::new();
    put(&written, "orders", 3, [0, 100, 200, 300, 400]).await;
    put(&written, "orders", 30, [0]).await;
    put(&written, "orders.eu", 3, [0]).await;
    put(&written, "order", 3, [0]).await;
    written
}

/// Creates files beside the first bundle of `orders`/3 whose names are not those of bundles. No run may touch
/// them.
async fn strangers(written: &Written) -> Vec<PathBuf> {
    let first = written.keys().await.into_iter().find(|key| key.starts_with("orders/3/")).expect("a bundle");
    let (folder, name) = first.rsplit_once('/').expect("a folder");
    let upper = name.to_uppercase().replace(".TAR", ".tar");
    let names = [
        format!("{folder}/notes.txt"),
        format!("{first}.bak"),
        format!("{first}#1"),
        format!("{first}.gz"),
        format!("{folder}/deeper/{name}"),
        format!("{folder}/0{name}"),
        format!("{folder}/{upper}"),
        format!("orders/03/0/{name}"),
        format!("orders/{name}"),
        "orders/3/readme".to_owned(),
    ];
    let paths = names.map(|name| written.path("store").join(name));
    for path in &paths {
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, b"not a bundle").expect("written");
    }
    paths.into()
}

/// Returns every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    found
}

/// Returns the file of the marker that hides a bundle.
fn marker(store: &Path, key: &str) -> PathBuf {
    store.join(MarkerKey::of(&key.parse::<BundleKey>().expect("a key")).to_string())
}

/// Runs `expire` on `orders` with these flags, checks that it does what it prints, and returns the deleted
/// keys. They are hidden by markers; nothing else changes.
#[track_caller]
fn expire(written: &Written, flags: &[&str]) -> Vec<String> {
    let (store, planned) = (written.path("store"), [&["expire", "--json", "--bundles"], flags].concat());
    let before = files(&store);
    let plan = written.run(&planned).json();
    assert_eq!(files(&store), before, "nothing was touched");
    let (dry, plan) = plan.split_last().expect("a summary");
    assert_eq!((&dry["dry_run"], &dry["deleted_bundles"]), (&Value::from(true), &Value::from(0)));

    let ran = written.run(&[&planned[..], &["--delete"]].concat()).json();
    let (summary, said) = ran.split_last().expect("a summary");
    let named = |lines: &[Value], name: &str| -> Vec<String> {
        lines.iter().filter_map(|line| Some(line[name].as_str()?.to_owned())).collect()
    };
    let (planned, deleted) = (named(plan, "expires"), named(said, "deleted"));
    let log = |key: &String| key.rsplit_once('/').map(|(log, _)| log.to_owned());
    let (mut by_log, mut wanted) = (deleted.clone(), planned);
    by_log.sort_by_key(log);
    wanted.sort();
    assert_eq!(by_log, wanted, "what was shown; of each log the oldest first");
    assert_eq!(summary["deleted_bundles"], Value::from(deleted.len()), "{summary}");
    assert_eq!(summary["left_bundles"], Value::from(0));

    let mut after = before;
    for key in &deleted {
        assert!(after.contains_key(&store.join(key)), "{key} was there");
        let path = marker(&store, key);
        let contents = fs::read(&path).expect("a marker");
        let parsed: Value = serde_json::from_slice(&contents).expect("JSON");
        assert_eq!((&parsed["version"], &parsed["reason"]), (&Value::from(1), &Value::from("expired")));
        assert!(after.insert(path, contents).is_none(), "{key} was visible");
    }
    assert_eq!(files(&store), after, "and nothing else has changed");
    by_log
}

fn offsets(keys: &[String]) -> Vec<i64> {
    let name = |key: &String| key.rsplit('/').next().map(str::to_owned).expect("a name");
    keys.iter().map(|key| name(key)[..20].parse().expect("an offset")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_bundles_that_lie_wholly_before_the_line_go_and_only_those_that_are_meant() {
    let written = store().await;
    strangers(&written).await;
    let at = |offset: i64| (BASE_MS + offset).to_string();
    let orders = ["--topic", "orders", "--partition", "3"];
    // The latest record of the second bundle is at 199.
    assert_eq!(offsets(&expire(&written, &[&orders[..], &["--before", &at(199)]].concat())), [0]);
    assert_eq!(offsets(&expire(&written, &[&orders[..], &["--before", &at(200)]].concat())), [100]);
    assert_eq!(offsets(&expire(&written, &[&orders[..], &["--offset", "299"]].concat())), [0; 0]);
    assert_eq!(offsets(&expire(&written, &[&orders[..], &["--offset", "300"]].concat())), [200]);
    let other_log = [&orders[..], &["--log-id", "another", "--offset", "1000"]].concat();
    assert_eq!(expire(&written, &other_log), [""; 0]);
    // The newest bundle is deleted, too. Then nothing is left to delete.
    assert_eq!(offsets(&expire(&written, &[&orders[..], &["--before", "2100-01-01"]].concat())), [300, 400]);
    assert_eq!(expire(&written, &[&orders[..], &["--before", "2100-01-01"]].concat()), [""; 0]);
    // Without a partition: all partitions of the topic, and no topic with a similar name.
    let rest = expire(&written, &["--topic", "orders", "--before", "0s"]);
    assert!(rest.len() == 1 && rest[0].starts_with("orders/30/"), "{rest:?}");
    let left = written.keys().await;
    assert_eq!(
        left.iter().map(|key| key.split('/').next().expect("a topic")).collect::<Vec<_>>(),
        ["order", "orders.eu"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundles_without_times_go_by_offset_only() {
    let written = Written::new();
    written.put("kafka/no-timestamp.log", &fixture("kafka/no-timestamp.log")).await;
    assert_eq!(expire(&written, &["--topic", "orders", "--before", "2100-01-01"]), [""; 0]);
    let ran = written.run(&["expire", "--topic", "orders", "--before", "2100-01-01"]);
    assert!(ran.out.contains("stay, having no times: 1"), "{ran:?}");
    assert_eq!(expire(&written, &["--topic", "orders", "--offset", "1000000"]).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_logs_and_replicas_go_each_for_itself() {
    let written = store().await;
    let segment: Bytes = lines(0, 2 * COUNT, "common");
    for log_id in ["b", "c"] {
        written.put_as("replica", &segment, log_id).await;
    }
    // The replica overlaps with two bundles of log 0, and extends beyond the limit.
    let gone =
        expire(&written, &["--topic", "orders", "--partition", "3", "--partition", "30", "--offset", "150"]);
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(gone[0].starts_with("orders/3/0/") && gone[1].starts_with("orders/30/0/"), "{gone:?}");
    let gone = expire(&written, &["--topic", "orders", "--log-id", "b", "--offset", "200"]);
    assert!(gone.len() == 1 && gone[0].starts_with("orders/3/b/"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_is_read_as_if_nothing_else_had_been() {
    let written = store().await;
    expire(&written, &["--topic", "orders", "--partition", "3", "--offset", "200"]);
    let orders = ["--topic", "orders", "--partition", "3", "--json"];
    let search = written.run(&[&["search"], &orders[..], &["--count", "common"]].concat()).json();
    assert_eq!(search[0]["matched"], "300", "{search:?}");
    // A consumer in the middle of deleted offsets continues with the first record that is left.
    let fetched =
        written.run(&[&["fetch"], &orders[..], &["--offset", "50", "--max-records", "1000"]].concat());
    let records = fetched.json();
    let offsets: Vec<_> =
        records.iter().filter_map(|one| one["offset"].as_str()?.parse::<i64>().ok()).collect();
    assert_eq!(offsets, (200..500).collect::<Vec<_>>());
    let listed = written.run(&["ls", "--topic", "orders"]);
    assert!(listed.code == 0 && listed.out.contains("200..499"), "{listed:?}");
    let verified = written.run(&["verify", "--all"]);
    assert_eq!(verified.code, 0, "{verified:?}");

    // If nothing of the partition is left, it reads like one that never existed.
    expire(&written, &["--topic", "orders", "--partition", "3", "--offset", "500"]);
    let fetched = written.run(&["fetch", "--topic", "orders", "--partition", "3", "--offset", "50"]);
    assert!(fetched.code == 0 && fetched.err.contains("next offset: 50"), "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_lost_a_partition_is_told_apart_from_one_that_is_damaged() {
    let written = Written::new();
    let name = "chronik/v2-three-partitions.wal";
    let receipt = written.put(name, &fixture(name)).await;
    expire(&written, &["--topic", "audit.events_eu", "--before", "0s"]);
    let strict = written.run(&["verify", "--all"]);
    assert_eq!(strict.code, 3, "somebody deleted a bundle, for all that it knows: {strict:?}");
    let told = written.run(&["verify", "--all", "--expired"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains("1 not all of whose bundles"), "{told:?}");
    let damaged = written.file(receipt.partitions[1].stored.key());
    let mut bytes = fs::read(&damaged).expect("a bundle");
    bytes[1_000] ^= 1;
    fs::write(&damaged, bytes).expect("written");
    assert_eq!(written.run(&["verify", "--all", "--expired"]).code, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_25_a_segment_that_is_sent_again_makes_the_same_object_under_the_same_name() {
    let written = Written::new();
    let segment = lines(0, COUNT, "common");
    let first = written.put("orders:3:1", &segment).await;
    let file = written.file(first.partitions[0].stored.key());
    let bytes = fs::read(&file).expect("a bundle");
    let expired = expire(&written, &["--topic", "orders", "--before", "0s"]);
    assert_eq!(expired.len(), 1);
    let old = br#"{"version":1,"reason":"expired","hidden_at_ms":1}"#;
    fs::write(marker(&written.path("store"), &expired[0]), old).expect("written");
    assert_eq!(written.run(&["purge", "--after", "1d"]).code, 0);
    assert_eq!(files(&written.path("store")), BTreeMap::new());
    assert!(!written.path("store").join("orders").exists(), "no empty directories are left");
    let again = written.put("orders:3:1", &segment).await;
    assert_eq!(again.partitions[0].stored.key(), first.partitions[0].stored.key());
    assert!(!again.partitions[0].stored.already_existed());
    assert!(fs::read(&file).expect("a bundle") == bytes);
}

fn run(written: &Written, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let variables = variables.iter().copied().chain([("WAL_INDEXER_STORE", written.store().url())]);
    let output = command(arguments).envs(variables).output().expect("it starts");
    (output.status.code().expect("it was not killed"), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_to_delete_is_said_on_the_command_line_and_nowhere_else() {
    let written = store().await;
    let before = files(&written.path("store"));
    let everything = [
        ("WAL_INDEXER_DELETE", "true"),
        ("WAL_INDEXER_TOPIC", "orders"),
        ("WAL_INDEXER_BEFORE", "0s"),
        ("WAL_INDEXER_OFFSET", "1000"),
        ("WAL_INDEXER_PARTITION", "3"),
    ];
    for (arguments, code) in [
        (&["expire"][..], 2),
        (&["expire", "--delete"], 2),
        (&["expire", "--topic", "orders", "--delete"], 2),
        (&["expire", "--before", "0s", "--delete"], 2),
        (&["expire", "--topic", "orders", "--before", "0s", "--offset", "7", "--delete"], 2),
        (&["expire", "--topic", "orders", "--offset", "-1", "--delete"], 2),
        (&["expire", "--topic", "orders", "--before", "soon", "--delete"], 2),
        (&["expire", "--topic", "orders", "--before", "0s"], 0),
    ] {
        let (exit, said) = run(&written, arguments, &everything);
        assert_eq!(exit, code, "{arguments:?}: {said}");
        assert_eq!(files(&written.path("store")), before, "{arguments:?}");
    }
    let missing = Ran::of(command([
        "expire",
        "--topic",
        "t",
        "--offset",
        "1",
        "--delete",
        "--store",
        "file:///nowhere",
    ]));
    assert_eq!(missing.code, 4, "{missing:?}");
}

#[tokio::test]
async fn a_bundle_that_cannot_be_hidden_keeps_those_behind_it_and_the_next_run_goes_on() {
    let (store, plan) = Faults::around(memory());
    let ingest = ingest(store.clone());
    for (partition, bases) in [(3, vec![0, 100, 200, 300]), (4, vec![0])] {
        for base in bases {
            let segment = Segment::new(lines(base, COUNT, "common"), Some(("orders", partition)));
            send(&ingest, &segment, 1 << 20).await.expect("a receipt");
        }
    }
    let (scope, limit) = (Scope { topic: "orders".to_owned(), ..Scope::default() }, Limit::BelowOffset(300));
    let three = Scope { partitions: vec![3], ..scope.clone() };
    let all = keys(&store).await;

    // A transient failure is retried. A permanent one ends the work in this log.
    plan.next_puts([Fault::SlowDown, Fault::None, Fault::Fail, Fault::Forbid]);
    let heard = RefCell::new(Vec::new());
    let expiry = Plan::new(&store, &three, limit).await.expect("a listing");
    let outcome = expiry.apply(&store, None, |progress| {
        heard.borrow_mut().push(match progress {
            Progress::Hidden(one) | Progress::HiddenBefore(one) => (one.key.to_string(), None),
            Progress::Failed(one, error) => (one.key.to_string(), Some(error.kind())),
        });
    });
    let outcome = outcome.await;
    assert_eq!((outcome.hidden, outcome.left, outcome.failures.len()), (1, 2, 1));
    let denied = (all[1].clone(), Some(StoreErrorKind::Denied));
    assert_eq!(heard.into_inner(), [(all[0].clone(), None), denied]);
    let marker = MarkerKey::of(&all[1].parse().expect("a key")).to_string();
    assert!(outcome.failures[0].to_string().contains(&marker), "{}", outcome.failures[0]);
    assert_eq!(keys(&store).await, all[1..], "no hole");

    // The work in another log continues.
    plan.next_puts([Fault::Forbid]);
    let expiry = Plan::new(&store, &scope, limit).await.expect("a listing");
    let outcome = expiry.apply(&store, None, |_| {}).await;
    assert_eq!((outcome.hidden, outcome.left), (1, 2), "{outcome:?}");

    let expiry = Plan::new(&store, &scope, limit).await.expect("a listing");
    let outcome = expiry.apply(&store, None, |_| {}).await;
    assert_eq!((outcome.hidden, outcome.left, outcome.hidden_before), (2, 0, 0));
    assert_eq!(keys(&store).await, all[3..4]);
    assert_eq!(store.list(&KeyPrefix::all()).await.expect("a listing").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_behind_a_link_is_somebody_elses() {
    let written = store().await;
    let (partition, outside) = (written.path("store").join("orders/3"), written.path("outside"));
    fs::rename(&partition, &outside).expect("moved");
    std::os::unix::fs::symlink(&outside, &partition).expect("a link");
    let before = files(&outside);
    let ran = written.run(&["expire", "--topic", "orders", "--before", "2100-01-01", "--delete"]);
    assert!(ran.code != 0 && ran.err.contains("behind a link"), "{ran:?}");
    assert!(before.len() >= 5 && files(&outside) == before, "all is still there");
    let left = written.keys().await;
    assert!(!left.iter().any(|key| key.starts_with("orders/30/")), "what lies beside it is hidden: {left:?}");
}
