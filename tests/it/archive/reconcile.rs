//! `reconcile` compares copies with Kafka's metadata. The metadata here are written by hand, in the form of
//! Kafka's formatter; `tiered::struck` and `tiered::replicas` have those of a real Kafka.

use std::fs::File;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::worker::command;
use crate::written::Ran;

const HOUR_MS: i64 = 3_600_000;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// What the console consumer prints of one partition of the metadata topic.
struct Metadata {
    lines: Vec<String>,
    first_offset: usize,
}

impl Metadata {
    fn new() -> Self {
        Self { lines: Vec::new(), first_offset: 0 }
    }

    fn push(&mut self, value: &str) {
        let offset = self.first_offset + self.lines.len();
        self.lines.push(format!("partition: 7, offset: {offset}, value: {value}"));
    }

    /// Adds the events of a copy that Kafka began with so many hours ago, up to this state.
    fn copy(&mut self, name: &SegmentName, hours_ago: i64, states: &[&str]) {
        let id = format!(
            "RemoteLogSegmentId{{topicIdPartition={}:{}-{}, id={}}}",
            name.log_id, name.topic, name.partition, name.copy_id
        );
        let at_ms = now_ms() - hours_ago * HOUR_MS;
        let base = name.base_offset;
        self.push(&format!(
            "RemoteLogSegmentMetadata{{remoteLogSegmentId={id}, startOffset={base}, endOffset={}, \
             brokerId=1, maxTimestampMs=1700000000000, eventTimestampMs={at_ms}, \
             segmentLeaderEpochs={{0={base}}}, \
             segmentSizeInBytes=1048576, customMetadata=Optional.empty, state=COPY_SEGMENT_STARTED, \
             txnIdxEmpty=true}}",
            base + 9
        ));
        for state in states {
            self.push(&format!(
                "RemoteLogSegmentMetadataUpdate{{remoteLogSegmentId={id}, \
                 customMetadata=Optional[CustomMetadata{{48 bytes}}], state={state}, \
                 eventTimestampMs={at_ms}, brokerId=1}}"
            ));
        }
    }

    fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }
}

impl Archive {
    /// Runs `reconcile` with this text as the metadata.
    fn reconcile(&self, metadata: &str, arguments: &[&str]) -> Ran {
        let file = self.worker.store().join("../metadata.txt");
        fs::write(&file, metadata).expect("written");
        let store = file_url(&self.worker.store());
        let mut all = vec!["reconcile", "--kafka-metadata", file.to_str().expect("UTF-8"), "--store", &store];
        all.extend(arguments);
        Ran::of(command(all))
    }

    /// Makes a bundle look as if it had been stored hours ago.
    fn age(&self, copied: &Copied, hours: u64) {
        let path = self.worker.store().join(copied.key());
        let file = File::options().write(true).open(path).expect("the bundle");
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3_600)).expect("a new time");
    }

    fn visible(&self) -> Vec<String> {
        let listed =
            worker::run(["ls", "--topic", "orders", "--json", "--store", &file_url(&self.worker.store())]);
        let line = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
        let lines = String::from_utf8(listed).expect("UTF-8");
        lines.lines().map(line).filter_map(|line| line["bundle"]["key"].as_str().map(str::to_owned)).collect()
    }
}

fn json_lines(ran: &Ran) -> Vec<Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

const FINISHED: &[&str] = &["COPY_SEGMENT_FINISHED"];
const DELETING: &[&str] = &["COPY_SEGMENT_FINISHED", "DELETE_SEGMENT_STARTED"];
const DELETED: &[&str] = &["COPY_SEGMENT_FINISHED", "DELETE_SEGMENT_STARTED", "DELETE_SEGMENT_FINISHED"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_40_what_kafka_knows_is_compared_with_what_is_stored() {
    let mut archive = Archive::start().await;
    let mut metadata = Metadata::new();
    let mut keys = Vec::new();
    // Ten records each, so that each has offsets of its own.
    for (nth, (id, hours_ago, states)) in [
        ("used", Some(40), FINISHED),
        ("unfinished", Some(30), &[][..]),
        ("being-deleted", Some(30), DELETING),
        ("undeleted", Some(30), DELETED),
        ("not-in-metadata", None, &[]),
        ("recent-not-in-metadata", None, &[]),
        ("recent", Some(1), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let base = 10 * nth as i64;
        let copied = archive.copy(name(base, id), &logs(Codec::None, 10, base)).await;
        match hours_ago {
            Some(hours) => metadata.copy(&copied.name, hours, states),
            None if id.starts_with("recent") => {}
            None => archive.age(&copied, 30),
        }
        keys.push(copied.key().to_owned());
    }
    // What is not of Kafka's making, or of another cluster.
    let line = logs(Codec::None, 10, 500);
    let mut header = worker::inline(line.len() as u64, Some(("orders", 3)));
    header.log_id = "kX9".to_owned();
    worker::send_inline(&mut archive.worker.client().await, header, &line, 1 << 16).await.expect("a receipt");
    let foreign = SegmentName { log_id: "another-topic-id".to_owned(), ..name(0, "of-another-cluster") };
    let foreign = archive.copy(foreign, &logs(Codec::None, 10, 0)).await;
    archive.age(&foreign, 99);
    let before = archive.visible();
    assert_eq!(before.len(), 9);

    let compared = archive.reconcile(&metadata.text(), &["--json"]);
    assert_eq!(compared.code, 0, "{compared:?}");
    let [log, summary] = &json_lines(&compared)[..] else { panic!("{compared:?}") };
    assert_eq!(
        (&log["topic"], &log["partition"], &log["log_id"]),
        (&json!("orders"), &json!(3), &json!("kX9"))
    );
    let count = |what: &str| log[what]["bundles"].as_u64().expect("a number");
    assert_eq!(
        (count("used"), count("undecided"), count("undeleted"), count("others")),
        (1, 2, 1, 1),
        "{log}"
    );
    let unused: Vec<_> = log["unused"].as_array().expect("a list").iter().collect();
    let of = |one: &Value| {
        (one["key"].as_str().expect("a key").to_owned(), one["state"].as_str().map(str::to_owned))
    };
    let expected = [
        (keys[1].clone(), Some("COPY_SEGMENT_STARTED".to_owned())),
        (keys[2].clone(), Some("DELETE_SEGMENT_STARTED".to_owned())),
        (keys[4].clone(), None),
    ];
    assert_eq!(unused.into_iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!((&summary["dry_run"], &summary["hidden_bundles"]), (&json!(true), &json!(0)));
    assert_eq!(archive.visible(), before, "nothing is changed without --hide");

    let hidden = archive.reconcile(&metadata.text(), &["--hide"]);
    assert_eq!(hidden.code, 0, "{hidden:?}");
    let gone = [&keys[1], &keys[2], &keys[4]];
    gone.iter().for_each(|key| assert!(hidden.out.contains(&format!("hidden   {key}")), "{hidden:?}"));
    let left: Vec<_> = before.iter().filter(|key| !gone.contains(key)).cloned().collect();
    assert_eq!(archive.visible(), left);
    let again = archive.reconcile(&metadata.text(), &["--hide", "--json"]);
    assert_eq!((again.code, &json_lines(&again)[1]["hidden_bundles"]), (0, &json!(0)));
    // It can be undone.
    let store = file_url(&archive.worker.store());
    worker::run(["undelete", "--topic", "orders", "--store", &store]);
    assert_eq!(archive.visible(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_40_a_copy_that_kafka_needs_and_that_is_missing_is_named() {
    let mut archive = Archive::start().await;
    let mut metadata = Metadata::new();
    let mut copied = Vec::new();
    for (nth, id) in ["here", "expired", "deleted-since"].into_iter().enumerate() {
        let base = 10 * nth as i64;
        copied.push(archive.copy(name(base, id), &logs(Codec::None, 10, base)).await);
        metadata.copy(&copied[nth].name, 30, FINISHED);
    }
    metadata.copy(&name(30, "never-stored"), 30, FINISHED);
    // Kafka deleted this one after the metadata were read, so it is not missed.
    archive.delete(copied[2].name.clone()).await;
    let store = file_url(&archive.worker.store());
    let compared = archive.reconcile(&metadata.text(), &["--json"]);
    let missing = json!([{"copy_id": "never-stored", "base_offset": 30}]);
    assert_eq!((compared.code, &json_lines(&compared)[0]["missing"]), (3, &missing), "{compared:?}");

    worker::run(["expire", "--topic", "orders", "--offset", "20", "--delete", "--store", &store]);
    let compared = archive.reconcile(&metadata.text(), &["--json"]);
    let missing = json!([
        {"copy_id": "here", "base_offset": 0, "hidden": "expired"},
        {"copy_id": "expired", "base_offset": 10, "hidden": "expired"},
        {"copy_id": "never-stored", "base_offset": 30},
    ]);
    assert_eq!((compared.code, &json_lines(&compared)[0]["missing"]), (3, &missing), "{compared:?}");
    let printed = archive.reconcile(&metadata.text(), &[]);
    let line = "missing  orders/3 from offset 30, copy never-stored: it is not in the store";
    assert!(printed.out.contains(line) && printed.err.contains("3 copies that Kafka needs"), "{printed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_may_still_finish_as_long_as_the_metadata_are_silent() {
    let mut archive = Archive::start().await;
    let copied = archive.copy(name(0, "unfinished"), &logs(Codec::None, 10, 0)).await;
    let unused = |archive: &Archive, metadata: &Metadata, arguments: &[&str]| {
        let ran = archive.reconcile(&metadata.text(), &[&["--json"], arguments].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        json_lines(&ran)[0]["unused"].as_array().expect("a list").len()
    };
    // The metadata may be as old as their last event: who knows what came after it?
    let mut metadata = Metadata::new();
    metadata.copy(&copied.name, 30, &[]);
    assert_eq!(unused(&archive, &metadata, &[]), 0);
    assert_eq!(unused(&archive, &metadata, &["--as-of", "7h"]), 0);
    assert_eq!(unused(&archive, &metadata, &["--as-of", "5m"]), 1);
    assert_eq!(unused(&archive, &metadata, &["--as-of", "7h", "--after", "20h"]), 1);
    // An event of any log in the same partition shows that nothing is missing before it.
    metadata.copy(&SegmentName { partition: 4, ..name(0, "other") }, 1, &[]);
    assert_eq!(unused(&archive, &metadata, &[]), 1);
    assert_eq!(unused(&archive, &metadata, &["--after", "30h"]), 0);
    assert_eq!(archive.reconcile(&metadata.text(), &["--after", "5h"]).code, 2);
    assert_eq!(archive.reconcile(&metadata.text(), &["--as-of", "2999-01-01"]).code, 2);
    // Where the first events are gone, a copy without events need not be unknown to Kafka.
    let stranger = archive.copy(name(10, "stranger"), &logs(Codec::None, 10, 10)).await;
    archive.age(&stranger, 99);
    assert_eq!(unused(&archive, &metadata, &[]), 2);
    let mut later = Metadata { first_offset: 3, ..Metadata::new() };
    later.copy(&copied.name, 30, &[]);
    assert_eq!(unused(&archive, &later, &["--as-of", "5m"]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_are_incomplete_or_something_else_hide_nothing() {
    let mut archive = Archive::start().await;
    let mut metadata = Metadata::new();
    for base in [0, 10, 20] {
        let copied = archive.copy(name(base, &format!("c-{base}")), &logs(Codec::None, 10, base)).await;
        metadata.copy(&copied.name, 30, FINISHED);
    }
    let text = metadata.text();
    let without_a_line = metadata.lines.iter().filter(|line| !line.contains("offset: 3,"));
    let without_a_line = without_a_line.cloned().collect::<Vec<_>>().join("\n");
    let cut = &text[..text.len() - 40];
    let another_state = text.replace("COPY_SEGMENT_FINISHED", "COPY_SEGMENT_POSTPONED");
    let delete_partition = "partition: 7, offset: 6, value: RemotePartitionDeleteMetadata{\
                            topicPartition=kX9:orders-3, \
                            state=DELETE_PARTITION_MARKED, eventTimestampMs=1700000000000, brokerId=1}\n";
    for (broken, why) in [
        ("", "has no events"),
        ("\n\n", "has no events"),
        ("Processed a total of 6 messages\n", "line 1 is not an event"),
        (without_a_line.as_str(), "line 4 has offset 4 of partition 7, 3 is expected"),
        (cut, "line 6 is not an event"),
        (&another_state, "it has no known state"),
        (&delete_partition.replace("offset: 6", "offset: 0"), "has no events"),
    ] {
        let ran = archive.reconcile(broken, &["--hide", "--as-of", "1s"]);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.err.contains(why), "{why}: {ran:?}");
        assert_eq!(archive.visible().len(), 3);
    }
    assert_eq!(archive.reconcile(&(text + delete_partition), &["--hide", "--as-of", "1s"]).code, 0);
    assert_eq!(archive.visible().len(), 3);
    let absent = command(["reconcile", "--kafka-metadata", "/nowhere", "--store", "memory:///"]);
    assert_eq!(Ran::of(absent).code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_that_cannot_be_read_is_named_and_stays() {
    let mut archive = Archive::start().await;
    let mut metadata = Metadata::new();
    let copied = archive.copy(name(0, "used"), &logs(Codec::None, 10, 0)).await;
    metadata.copy(&copied.name, 30, FINISHED);
    let damaged = archive.copy(name(10, "damaged"), &logs(Codec::None, 10, 10)).await;
    let path = archive.worker.store().join(damaged.key());
    let length = fs::metadata(&path).expect("the bundle").len();
    File::options().write(true).open(&path).expect("it").set_len(length / 2).expect("half of it");
    archive.age(&damaged, 30);
    let ran = archive.reconcile(&metadata.text(), &["--hide", "--json", "--as-of", "1s"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let lines = json_lines(&ran);
    assert_eq!(lines[0]["unreadable"][0]["key"], json!(damaged.key()));
    assert_eq!(lines[1]["hidden_bundles"], json!(0));
    assert_eq!(archive.visible().len(), 2);
}

/// The hash in the key of a copy's bundle, as `docs/bundle-format.md` defines it: so the keys that the test
/// compares are not made by the code that it tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_copy_follows_from_its_id() {
    let mut archive = Archive::start().await;
    let copied = archive.copy(name(0, "-_m3VTYKQwmvlc-zNPcVFA"), &logs(Codec::None, 10, 0)).await;
    let hash = Sha256::digest("copy\0-_m3VTYKQwmvlc-zNPcVFA\0kX9\0orders\x003");
    let hash16: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(copied.key().ends_with(&format!("_{hash16}.tar")), "{}", copied.key());
}
