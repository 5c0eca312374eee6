//! Directories with faults: each fault is reported by a log line and a metric, and everything else continues.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use wal_indexer::generate::{Format, Size, Spec, generate};
use wal_indexer::ids::TopicPartition;

use crate::sidecar::{Sidecar, Wal, once, segment};
use crate::worker::{Worker, command, file_url, run};

const TOPIC_ID: &str = "kQzZ0mYyT0iZb8fL-W_3vA";

/// Returns a Kafka segment of 20 records.
fn kafka(topic: &str, base_offset: i64) -> Vec<u8> {
    let spec = Spec {
        format: Format::Kafka,
        size: Size::Records(20),
        seed: base_offset as u64,
        partition: TopicPartition::new(topic, 0).expect("a name"),
        base_offset,
        ..Spec::default()
    };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("a segment");
    bytes
}

fn write(path: PathBuf, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(path, bytes).expect("written");
}

/// Writes a partition in Kafka's layout: two sealed segments and the newest one.
fn add_kafka(wal: &Path, topic: &str) {
    for base in [0, 1_000, 2_000] {
        write(wal.join(format!("{topic}-0/{base:020}.log")), kafka(topic, base));
    }
    write(wal.join(format!("{topic}-0/partition.metadata")), metadata());
}

fn metadata() -> String {
    format!("version: 0\ntopic_id: {TOPIC_ID}\n")
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
}

/// A fault of a partition.
struct Fault {
    topic: &'static str,
    /// How the agent reports it: as halted, with the name below the WAL directory and the reason; or as
    /// rejected, with the worker's reason.
    told: Told,
    break_it: fn(&Path),
    mend_it: fn(&Path),
}

enum Told {
    Halted(&'static str, &'static str),
    Rejected(&'static str),
}

fn swap_names(wal: &Path, a: &str, b: &str) {
    let (a, b, between) = (wal.join(a), wal.join(b), wal.join("between"));
    fs::rename(&a, &between).expect("renamed");
    fs::rename(&b, &a).expect("renamed");
    fs::rename(&between, &b).expect("renamed");
}

const FAULTS: [Fault; 10] = [
    Fault {
        topic: "kafka-empty",
        told: Told::Halted("kafka-empty-0", "log_id_unreadable"),
        break_it: |wal| write(wal.join("kafka-empty-0/partition.metadata"), ""),
        mend_it: |wal| write(wal.join("kafka-empty-0/partition.metadata"), metadata()),
    },
    Fault {
        topic: "kafka-torn",
        told: Told::Halted("kafka-torn-0", "log_id_unreadable"),
        break_it: |wal| write(wal.join("kafka-torn-0/partition.metadata"), &metadata()[..20]),
        mend_it: |wal| write(wal.join("kafka-torn-0/partition.metadata"), metadata()),
    },
    Fault {
        topic: "kafka-no-text",
        told: Told::Halted("kafka-no-text-0", "log_id_unreadable"),
        break_it: |wal| write(wal.join("kafka-no-text-0/partition.metadata"), [0xff; 40]),
        mend_it: |wal| write(wal.join("kafka-no-text-0/partition.metadata"), metadata()),
    },
    Fault {
        topic: "kafka-closed-id",
        told: Told::Halted("kafka-closed-id-0", "log_id_unreadable"),
        break_it: |wal| allow(&wal.join("kafka-closed-id-0/partition.metadata"), 0o000),
        mend_it: |wal| allow(&wal.join("kafka-closed-id-0/partition.metadata"), 0o644),
    },
    Fault {
        topic: "kafka-closed",
        told: Told::Halted("kafka-closed-0", "unreadable"),
        break_it: |wal| allow(&wal.join("kafka-closed-0"), 0o000),
        mend_it: |wal| allow(&wal.join("kafka-closed-0"), 0o755),
    },
    // Each of the two files has the other's name: one begins too early, the other ends too late.
    Fault {
        topic: "kafka-names",
        told: Told::Rejected("OFFSETS_NOT_ALLOWED"),
        break_it: |wal| {
            let name = |base: u64| format!("kafka-names-0/{base:020}.log");
            swap_names(wal, &name(0), &name(1_000));
        },
        mend_it: |wal| {
            let name = |base: u64| format!("kafka-names-0/{base:020}.log");
            swap_names(wal, &name(0), &name(1_000));
        },
    },
    Fault {
        topic: "closed-topic",
        told: Told::Halted("closed-topic", "unreadable"),
        break_it: |wal| allow(&wal.join("closed-topic"), 0o000),
        mend_it: |wal| allow(&wal.join("closed-topic"), 0o755),
    },
    Fault {
        topic: "closed-partition",
        told: Told::Halted("closed-partition/0", "unreadable"),
        break_it: |wal| allow(&wal.join("closed-partition/0"), 0o000),
        mend_it: |wal| allow(&wal.join("closed-partition/0"), 0o755),
    },
    Fault {
        topic: "another",
        told: Told::Rejected("OTHER_PARTITION"),
        break_it: |wal| write(wal.join("another/0/wal_0_1.log"), segment("orders", 0, 1)),
        mend_it: |wal| write(wal.join("another/0/wal_0_1.log"), segment("another", 0, 1)),
    },
    Fault {
        topic: "damaged",
        told: Told::Rejected("CRC_MISMATCH"),
        break_it: |wal| {
            let mut bytes = segment("damaged", 0, 1);
            bytes[500] ^= 1;
            write(wal.join("damaged/0/wal_0_1.log"), bytes);
        },
        mend_it: |wal| write(wal.join("damaged/0/wal_0_1.log"), segment("damaged", 0, 1)),
    },
];

/// Returns how many sealed segments of a topic exist. Kafka's are never deleted.
fn sealed(wal: &Path, topic: &str) -> usize {
    let Ok(entries) = fs::read_dir(wal.join(topic).join("0")) else { return 0 };
    entries.flatten().filter(|entry| entry.path().extension().is_some_and(|it| it == "log")).count() - 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_broken_partitions_of_fifty_are_told_of_and_forty_are_emptied() {
    let (worker, wal) = (Worker::start(), Wal::new());
    let sound: Vec<String> = (0..40).map(|nth| format!("sound-{nth:02}-x")).collect();
    for topic in &sound {
        wal.add_all(topic, 0, 1..=3);
    }
    for fault in &FAULTS {
        match fault.topic.starts_with("kafka-") {
            true => add_kafka(wal.path(), fault.topic),
            false => wal.add_all(fault.topic, 0, 1..=3),
        }
    }
    // The first start gives the files to the agent's user. Then they are broken.
    let agent =
        Sidecar::start_unprivileged(wal.path(), &[worker.endpoint()], &["--wal-dir", "/nowhere/at/all"]);
    drop(agent);
    for fault in &FAULTS {
        (fault.break_it)(wal.path());
        if !fault.topic.starts_with("kafka-") && matches!(fault.told, Told::Rejected(_)) {
            // So that the newest segment is the one that was last written to.
            wal.add(fault.topic, 0, 3);
        }
    }
    let agent = Sidecar::start_unprivileged(wal.path(), &[worker.endpoint()], &[]);
    let halts: Vec<_> = FAULTS
        .iter()
        .filter_map(|fault| match fault.told {
            Told::Halted(name, reason) => Some((name, reason)),
            Told::Rejected(_) => None,
        })
        .collect();
    let rejections: Vec<_> = FAULTS
        .iter()
        .filter_map(|fault| match fault.told {
            Told::Rejected(reason) => Some(reason),
            Told::Halted(..) => None,
        })
        .collect();
    agent.until("all sound partitions emptied", |_| sound.iter().all(|topic| sealed(wal.path(), topic) == 0));
    agent.until("each fault told", |agent| {
        let log = agent.log();
        let metrics = agent.metrics();
        let is_halted = |(name, reason): &(&str, &str)| {
            let labels = [("partition", *name), ("reason", *reason)];
            let is_told = log
                .lines()
                .any(|line| line.contains("ERROR") && line.contains(name) && line.contains(reason));
            is_told && metrics.sum("wal_indexer_agent_halted_partition", &labels) == Some(1.0)
        };
        let is_rejected = |reason: &&str| {
            metrics.sum("wal_indexer_agent_rejections_total", &[("reason", *reason)]) >= Some(1.0)
        };
        halts.iter().all(is_halted) && rejections.iter().all(is_rejected)
    });
    assert_eq!(agent.metric("agent_halted_partitions"), Some(halts.len() as f64));
    let stored_before = worker.finished_keys();
    for fault in &FAULTS {
        (fault.mend_it)(wal.path());
        if !fault.topic.starts_with("kafka-") && matches!(fault.told, Told::Rejected(_)) {
            wal.add(fault.topic, 0, 3);
        }
    }
    let stored =
        |topic: &str| worker.finished_keys().iter().filter(|key| key.contains(&format!("{topic}/"))).count();
    agent.until("each mended partition stored", |_| FAULTS.iter().all(|fault| stored(fault.topic) == 2));
    agent.until("nothing halted", |agent| agent.metric("agent_halted_partitions") == Some(0.0));
    assert_eq!(agent.metric("agent_halted_partition"), None, "{}", agent.metrics());
    assert_eq!(agent.metric("agent_rejected_segments"), Some(0.0), "{}", agent.metrics());
    assert!(agent.log().contains("this partition goes on"), "{}", agent.log());
    let emptied = FAULTS.iter().filter(|fault| !fault.topic.starts_with("kafka-"));
    agent.until("Chronik's emptied", |_| emptied.clone().all(|fault| sealed(wal.path(), fault.topic) == 0));
    // Nothing else has changed.
    let stored_now = worker.finished_keys();
    assert!(stored_before.iter().all(|key| stored_now.contains(key)));
    assert_eq!(stored_now.len(), sound.len() * 2 + FAULTS.len() * 2);
    assert!(sound.iter().all(|topic| sealed(wal.path(), topic) == 0));
}

#[test]
fn a_partition_that_cannot_be_seen_for_a_while_is_not_gone() {
    let (worker, wal) = (Worker::start(), Wal::new());
    wal.add_all("orders", 0, 1..=3);
    let (folder, endpoints, keep) =
        (wal.path().join("orders/0"), [worker.endpoint()], ["--delete-after-index", "false"]);
    let is_halted = |agent: &Sidecar| agent.metric("agent_halted_partitions") == Some(1.0);
    let agent = Sidecar::start_unprivileged(wal.path(), &endpoints, &keep);
    agent.until("two receipts", |agent| agent.metric("agent_acknowledged_segments_total") == Some(2.0));
    allow(&folder, 0o000);
    agent.until("it is halted", is_halted);
    assert_eq!(agent.metric("agent_vanished_segments_total"), Some(0.0));
    drop(agent);
    // A later process, which has never seen the partition, does not forget either what is stored of it.
    let agent = Sidecar::start_unprivileged(wal.path(), &endpoints, &keep);
    agent.until("it is halted again", is_halted);
    allow(&folder, 0o755);
    agent.until("it goes on", |agent| agent.log().contains("this partition goes on"));
    agent.until("nothing to send", |agent| agent.metric("agent_backlog_segments") == Some(0.0));
    assert_eq!(agent.metric("agent_acknowledged_segments_total"), Some(0.0), "{}", agent.log());
    drop(agent);
    let agent = Sidecar::start_unprivileged(wal.path(), &endpoints, &[]);
    agent.until("both deleted on their receipts", |_| wal.ids("orders", 0) == [3]);
    assert_eq!(agent.metric("agent_acknowledged_segments_total"), Some(0.0), "{}", agent.log());
}

#[test]
fn a_directory_that_is_not_there_yet_keeps_none_of_the_others_from_being_looked_after() {
    let (worker, wal, late) = (Worker::start(), Wal::new(), Wal::new());
    let data = late.path().join("data");
    wal.add_all("orders", 0, 1..=2);
    let flags = ["--wal-dir", data.to_str().expect("UTF-8")];
    let agent = Sidecar::start(wal.path(), &[worker.endpoint()], &flags);
    agent.until("the directory emptied", |_| wal.ids("orders", 0) == [2]);
    agent.until("the missing one told of", |agent| {
        let labels = [("wal_dir", data.to_str().expect("UTF-8"))];
        let failed = agent.metrics().sum("wal_indexer_agent_failed_listings_total", &labels);
        failed >= Some(2.0) && agent.log().contains("nothing is done with this directory")
    });
    for id in 1..=2 {
        write(data.join(format!("orders/0/wal_0_{id}.log")), segment("orders", 0, id));
    }
    let left = || fs::read_dir(data.join("orders/0")).expect("a directory").count();
    agent.until("the late one emptied, too", |_| left() == 1);
    // A single run reports the directory that it could not read.
    let missing = late.path().join("missing");
    wal.add_all("orders", 0, 2..=3);
    drop(agent);
    let output = once(wal.path(), &[worker.endpoint()], &["--wal-dir", missing.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(wal.ids("orders", 0), [3]);
}

/// Runs `agent --check`. Returns its exit code, standard output and standard error.
fn check(wal: &Path, flags: &[&str]) -> (Option<i32>, String, String) {
    let output = command(["agent", "--check", "--wal-dir", wal.to_str().expect("UTF-8")])
        .args(flags)
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_check_says_what_would_be_sent_and_what_is_left_alone_and_changes_nothing() {
    let (worker, wal) = (Worker::start(), Wal::new());
    wal.add_all("orders", 0, 1..=3);
    add_kafka(wal.path(), "audit");
    add_kafka(wal.path(), "broken");
    write(wal.path().join("broken-0/partition.metadata"), "");
    wal.add_all("__meta", 0, 1..=2);
    fs::create_dir(wal.path().join("snapshots")).expect("a directory");
    let (code, told, _) = check(wal.path(), &["--min-segment-age", "0"]);
    assert_eq!(code, Some(0), "{told}");
    for line in [
        "send\torders/0/wal_0_1.log\t",
        "send\torders/0/wal_0_2.log\t",
        "leave\torders/0/wal_0_3.log\tthe broker writes to it",
        "send\taudit-0/00000000000000001000.log\t",
        "leave\taudit-0/00000000000000002000.log\t",
        "halted\tbroken-0\t",
        "leave\t__meta\tthe broker's own",
        "leave\tsnapshots\tno partition's",
        "2 partitions; 4 segments, ",
    ] {
        assert!(told.lines().any(|told| told.starts_with(line)), "{line:?} is not in\n{told}");
    }
    let young = check(wal.path(), &["--min-segment-age", "1000"]).1;
    assert!(young.contains("wait\torders/0/wal_0_1.log\t"), "{young}");
    assert_eq!(wal.ids("orders", 0), [1, 2, 3]);
    assert!(!wal.path().join(".wal-indexer.checkpoint").exists());
    once(wal.path(), &[worker.endpoint()], &["--delete-after-index", "false"]);
    let stored = check(wal.path(), &["--min-segment-age", "0"]).1;
    assert!(stored.contains("stored\torders/0/wal_0_1.log\t"), "{stored}");
    // One level too high, one level too low, and an empty directory.
    let above = wal.path().parent().expect("a directory above");
    let empty = Wal::new();
    for (given, said) in [
        (wal.path().join("orders"), "holds partitions, and this belongs to one of them"),
        (wal.path().join("orders/0"), "holds partitions, and this belongs to one of them"),
        (wal.path().join("audit-0"), "holds partitions, and this belongs to one of them"),
        (empty.path().to_owned(), "there is no partition in"),
        (above.join("missing"), "there is no directory"),
    ] {
        let (code, told, error) = check(&given, &[]);
        assert_eq!(code, Some(2), "{}: {told}{error}", given.display());
        assert!(error.contains(said), "{}: {error}", given.display());
    }
}

#[test]
fn a_directory_without_a_partition_is_told_of_loudly() {
    let (worker, wal) = (Worker::start(), Wal::new());
    for id in 1..=2 {
        write(wal.path().join(format!("wal/orders/0/wal_0_{id}.log")), segment("orders", 0, id));
    }
    let agent = Sidecar::start(wal.path(), &[worker.endpoint()], &[]);
    let partitions = |agent: &Sidecar| agent.metric("agent_partitions");
    agent.until("no partition", |agent| {
        let line =
            agent.log().lines().find(|line| line.contains("there is no partition here")).map(str::to_owned);
        let is_told =
            line.is_some_and(|line| line.contains("ERROR") && line.contains("/wal holds partitions"));
        is_told && partitions(agent) == Some(0.0)
    });
    wal.add_all("orders", 0, 1..=2);
    agent.until("a partition", |agent| partitions(agent) == Some(1.0));
}

/// Returns the stored logs of a topic, from `ls --json`: log ids and last offsets, sorted.
fn logs(worker: &Worker, topic: &str) -> Vec<(String, i64)> {
    let printed = run(["ls", "--json", "--store", &file_url(&worker.store()), "--topic", topic]);
    let printed = String::from_utf8(printed).expect("UTF-8");
    let one = |line: &str| {
        let found: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let last = found["bundle"]["lastOffset"].as_str().and_then(|last| last.parse().ok());
        (found["logId"].as_str().expect("a log id").to_owned(), last.expect("an offset"))
    };
    let mut logs: Vec<_> = printed.lines().map(one).collect();
    logs.sort();
    logs
}

#[test]
fn a_log_that_gets_its_id_later_or_loses_it_is_stored_once() {
    let (worker, wal) = (Worker::start(), Wal::new());
    let endpoints = [worker.endpoint()];
    let file = |base: i64| wal.path().join(format!("orders-0/{base:020}.log"));
    let metadata_file = wal.path().join("orders-0/partition.metadata");
    for base in [0, 1_000, 2_000] {
        write(file(base), kafka("orders", base));
    }
    let code = |output: std::process::Output| output.status.code();
    assert_eq!(code(once(wal.path(), &endpoints, &[])), Some(0));
    assert_eq!(logs(&worker, "orders"), [("0".to_owned(), 19), ("0".to_owned(), 1_019)]);
    // The broker is upgraded: it writes the metadata file, and continues the log.
    write(metadata_file.clone(), metadata());
    write(file(3_000), kafka("orders", 3_000));
    for _ in 0..2 {
        assert_eq!(code(once(wal.path(), &endpoints, &[])), Some(0));
        let expected = [19, 1_019, 2_019].map(|last| ("0".to_owned(), last));
        assert_eq!(logs(&worker, "orders"), expected, "it is the log that it was");
    }
    // Another topic with the same name: it has another id, and its offsets begin at 0.
    fs::remove_dir_all(wal.path().join("orders-0")).expect("removed");
    write(metadata_file.clone(), "version: 0\ntopic_id: AAAAAAAAQACAAAAAAAAAAQ\n");
    for base in [0, 1_000] {
        write(file(base), kafka("orders", base));
    }
    assert_eq!(code(once(wal.path(), &endpoints, &[])), Some(0));
    let another = ("AAAAAAAAQACAAAAAAAAAAQ".to_owned(), 19);
    assert!(logs(&worker, "orders").contains(&another), "{:?}", logs(&worker, "orders"));
    // The metadata file is lost, and the log continues.
    fs::remove_file(&metadata_file).expect("removed");
    write(file(2_000), kafka("orders", 2_000));
    assert_eq!(code(once(wal.path(), &endpoints, &[])), Some(0));
    let of_it: Vec<_> = logs(&worker, "orders").into_iter().filter(|(id, _)| *id == another.0).collect();
    assert_eq!(of_it, [another.clone(), (another.0.clone(), 1_019)]);
    assert_eq!(logs(&worker, "orders").len(), 5);
}

#[test]
fn a_topic_that_was_deleted_and_created_again_is_not_mixed_with_what_it_was() {
    let (worker, wal) = (Worker::start(), Wal::new());
    let endpoints = [worker.endpoint()];
    let folder = wal.path().join("orders/0");
    wal.add_all("orders", 0, 1..=4);
    wal.add_all("audit", 0, 1..=2);
    let agent = Sidecar::start(wal.path(), &endpoints, &[]);
    agent.until("all stored", |_| wal.ids("orders", 0) == [4] && wal.ids("audit", 0) == [2]);
    agent.until("nothing left", |agent| agent.metric("agent_backlog_segments") == Some(0.0));
    fs::remove_dir_all(wal.path().join("orders")).expect("removed");
    // Its offsets begin at zero again.
    wal.add_all("orders", 0, 0..=2);
    let is_halted = |agent: &Sidecar| {
        let labels = [("partition", "orders/0"), ("reason", "created_again")];
        agent.metrics().sum("wal_indexer_agent_halted_partition", &labels) == Some(1.0)
    };
    agent.until("it is halted", is_halted);
    agent.until("the flag is named", |agent| agent.log().contains("--log-id"));
    agent.until("what is there now waits, and no more", |agent| {
        agent.metric("agent_backlog_segments") == Some(2.0)
    });
    assert_eq!(wal.ids("orders", 0), [0, 1, 2], "nothing of it goes");
    assert_eq!(logs(&worker, "orders").len(), 3, "and nothing is stored");
    // Everything else continues, and a restart changes nothing.
    drop(agent);
    wal.add("audit", 0, 3);
    let output = once(wal.path(), &endpoints, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!((wal.ids("orders", 0), wal.ids("audit", 0)), (vec![0, 1, 2], vec![3]));
    // With another id it is another log.
    let output = once(wal.path(), &endpoints, &["--log-id", "second"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(wal.ids("orders", 0), [2]);
    let expected = [("0", 1_019), ("0", 2_019), ("0", 3_019), ("second", 19), ("second", 1_019)];
    assert_eq!(logs(&worker, "orders"), expected.map(|(id, last)| (id.to_owned(), last)));
    assert!(folder.exists());
}

#[test]
fn a_directory_that_was_copied_is_the_log_that_it_was() {
    let (worker, wal, moved) = (Worker::start(), Wal::new(), Wal::new());
    let endpoints = [worker.endpoint()];
    wal.add_all("orders", 0, 1..=4);
    let keep = ["--delete-after-index", "false"];
    assert_eq!(once(wal.path(), &endpoints, &keep).status.code(), Some(0));
    let from = format!("{}/.", wal.path().display());
    let copied = Command::new("cp").args(["-a", &from]).arg(moved.path()).status();
    assert!(copied.expect("cp runs").success());
    wal.add("orders", 0, 5);
    moved.add("orders", 0, 5);
    let output = once(moved.path(), &endpoints, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(moved.ids("orders", 0), [5]);
    assert_eq!(logs(&worker, "orders").len(), 4);
}

#[test]
fn a_run_goes_on_until_nothing_is_left_and_says_why_something_is() {
    let (worker, wal) = (Worker::start(), Wal::new());
    let endpoints = [worker.endpoint()];
    wal.add_all("orders", 0, 1..=8);
    let output = once(wal.path(), &endpoints, &["--max-segments-per-run", "3"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(wal.ids("orders", 0), [8]);
    wal.add_all("orders", 0, 8..=9);
    let output = once(wal.path(), &endpoints, &["--min-segment-age", "1000"]);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("left for later: changed too lately"), "{said}");
    let (from, to) = (wal.path().join("orders/0/wal_0_8.log"), wal.path().join("orders/0/wal_0_9.log"));
    let ahead = SystemTime::now() + std::time::Duration::from_secs(3_600);
    for path in [from, to] {
        fs::File::options().write(true).open(path).expect("a file").set_modified(ahead).expect("any time");
    }
    let output = once(wal.path(), &endpoints, &["--min-segment-age", "10"]);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("left for later: written to in the future"), "{said}");
}

#[test]
fn two_agents_on_one_directory_see_one_another_wherever_their_state_is() {
    let (worker, wal, state) = (Worker::start(), Wal::new(), Wal::new());
    let endpoints = [worker.endpoint()];
    let (one, two) = (state.path().join("one"), state.path().join("two"));
    let flags = |dir: &PathBuf| ["--state-dir".to_owned(), dir.to_str().expect("UTF-8").to_owned()];
    let of_one = flags(&one);
    wal.add_all("orders", 0, 1..=2);
    let agent = Sidecar::start(wal.path(), &endpoints, &[&of_one[0], &of_one[1]]);
    let of_two = flags(&two);
    for second in [&[&*of_two[0], &*of_two[1]][..], &[]] {
        let output = once(wal.path(), &endpoints, second);
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("another agent looks after this directory"), "{said}");
    }
    drop(agent);
    assert_eq!(once(wal.path(), &endpoints, &[]).status.code(), Some(0));
}

#[test]
fn a_rejection_on_a_read_only_directory_is_remembered_with_the_agents_state() {
    let (worker, wal, state) = (Worker::start(), Wal::new(), Wal::new());
    wal.add_all("orders", 0, 1..=3);
    wal.rewrite("orders", 0, 1, &segment("audit", 0, 1));
    allow(state.path(), 0o777);
    let directories = ["orders/0", "orders", ""].map(|name| wal.path().join(name));
    let flags = ["--state-dir", state.path().to_str().expect("UTF-8")];
    // The first start gives the files to the agent's user. Then the directories become read-only.
    drop(Sidecar::start_unprivileged(wal.path(), &["http://127.0.0.1:1".to_owned()], &flags));
    directories.iter().for_each(|directory| allow(directory, 0o555));
    for rejections in [1.0, 0.0] {
        let agent = Sidecar::start_unprivileged(wal.path(), &[worker.endpoint()], &flags);
        agent.until("a rejected segment", |agent| agent.metric("agent_rejected_segments") == Some(1.0));
        agent.until("the others stored", |agent| agent.metric("agent_backlog_segments") == Some(1.0));
        assert_eq!(agent.metric("agent_rejections_total").unwrap_or_default(), rejections, "{}", agent.log());
        assert!(!agent.log().contains("cannot be noted"), "{}", agent.log());
    }
    directories.iter().for_each(|directory| allow(directory, 0o755));
    let retry = |flags: &[&str]| {
        let path = wal.path().join("orders/0/wal_0_1.log");
        command(["agent", "retry", path.to_str().expect("UTF-8")])
            .args(flags)
            .status()
            .expect("it starts")
            .success()
    };
    assert!(!retry(&[]), "there is no note beside it");
    assert!(retry(&flags));
    assert!(!retry(&flags), "it is taken back");
    wal.rewrite("orders", 0, 1, &segment("orders", 0, 1));
    let agent = Sidecar::start_unprivileged(wal.path(), &[worker.endpoint()], &flags);
    agent.until("the directory emptied", |_| wal.ids("orders", 0) == [3]);
}
