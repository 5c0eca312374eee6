//! Kafka brokers with tiered storage: KRaft, each a controller and a broker in one process, on fixed ports. The
//! jars of Kafka are from `tests/install-servers.sh`, the plugin's is from `make kafka`, or the one that
//! `WAL_INDEXER_TEST_KAFKA_JAR` names.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::processes::Process;
use crate::servers::ports_to_come_back_to;

use super::admin::{Admin, Notes};

/// How long anything that is sure to come may take.
pub const SOON: Duration = Duration::from_secs(120);

/// Versions of Kafka, as in `tests/install-servers.sh`.
pub const OLDEST: &str = "3.9.2";
pub const NEWEST: &str = "4.4.0";

/// The plugin's class, as [`Node::threads_in`] finds it.
pub const PLUGIN: &str = "WalIndexerRemoteStorageManager";

/// Running brokers. They stop when dropped.
pub struct Cluster {
    pub nodes: Vec<Node>,
    version: &'static str,
    _directory: tempfile::TempDir,
}

/// One broker. Its id is its place in the cluster, from 1 on.
pub struct Node {
    pub process: Process,
    /// `HOST:PORT`.
    pub address: String,
    data: PathBuf,
}

/// Returns a command that runs a class or a source file with Kafka's jars.
pub fn java(version: &str, heap: &str, main: impl AsRef<OsStr>) -> Command {
    let jars = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools-kafka").join(version);
    assert!(jars.exists(), "{} is missing: run tests/install-servers.sh", jars.display());
    let mut java = Command::new("java");
    // Short runs: the compiler that starts fastest. Warnings only, but what the plugin and its callers say.
    java.args([
        heap,
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    ]);
    java.args([
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    ]);
    for package in ["io.walindexer", "org.apache.kafka.server.log.remote", "kafka.server.KafkaRaftServer"] {
        java.arg(format!("-Dorg.slf4j.simpleLogger.log.{package}=info"));
    }
    java.arg("-cp").arg(jars.join("*")).arg(main.as_ref());
    java
}

/// Returns the plugin's jar.
pub fn plugin() -> PathBuf {
    if let Some(named) = std::env::var_os("WAL_INDEXER_TEST_KAFKA_JAR") {
        return named.into();
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/target");
    let entries = fs::read_dir(&built).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let is_plugin = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        name.starts_with("wal-indexer-kafka-") && name.ends_with(".jar")
    };
    entries.filter(is_plugin).min().expect("the plugin's jar: run make kafka")
}

impl Cluster {
    /// Starts empty brokers whose plugin calls these workers, with more settings, and waits until all take part.
    pub fn start(version: &'static str, brokers: usize, workers: &[String], settings: &[&str]) -> Self {
        let directory = tempfile::TempDir::with_prefix("wal-indexer-tiered-").expect("a directory");
        let ports: Vec<[u16; 2]> = (0..brokers).map(|_| ports_to_come_back_to()).collect();
        let voters: Vec<_> = ports
            .iter()
            .enumerate()
            .map(|(nth, [_, port])| format!("{}@127.0.0.1:{port}", nth + 1))
            .collect();
        let node = |(nth, [broker, controller]): (usize, &[u16; 2])| {
            let id = nth + 1;
            let data = directory.path().join(format!("data-{id}"));
            let path = directory.path().join(format!("{id}.properties"));
            let lines = [
                "process.roles=broker,controller".to_owned(),
                format!("node.id={id}"),
                format!("listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}"),
                "controller.listener.names=CONTROLLER".to_owned(),
                format!("controller.quorum.voters={}", voters.join(",")),
                format!("log.dirs={}", data.display()),
                format!("remote.log.storage.manager.class.path={}", plugin().display()),
                format!("rsm.config.workers={}", workers.join(",")),
                format!("offsets.topic.replication.factor={brokers}"),
                format!("transaction.state.log.replication.factor={brokers}"),
                format!("rlmm.config.remote.log.metadata.topic.replication.factor={brokers}"),
                SETTINGS.to_owned(),
                settings.join("\n"),
            ];
            fs::write(&path, lines.join("\n")).expect("written");
            let formatted = java(version, "-Xmx128m", "kafka.tools.StorageTool")
                .args(["format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c"])
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            assert!(formatted.expect("java runs").success(), "the broker's directory cannot be formatted");
            let process = Process::new(format!("broker-{id}"), directory.path(), move || {
                let mut java = java(version, "-Xmx512m", "kafka.Kafka");
                java.arg(&path);
                java
            });
            Node { process, address: format!("127.0.0.1:{broker}"), data }
        };
        let nodes = ports.iter().enumerate().map(node).collect();
        let mut cluster = Self { nodes, version, _directory: directory };
        cluster.nodes.iter_mut().for_each(|node| node.process.start());
        cluster.nodes.iter_mut().for_each(|node| node.process.listens(&node.address));
        cluster
    }

    /// Returns the addresses of all brokers, separated by commas.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(|node| node.address.as_str()).collect();
        addresses.join(",")
    }

    /// Starts a program that administers topics and writes records.
    pub fn admin(&self) -> Admin {
        Admin::start(java(self.version, "-Xmx512m", source("Tiered.java")), &self.bootstrap())
    }

    /// Runs Kafka's own console consumer from offset 0 until it has this many records. Returns its output.
    pub fn console(&self, topic: &str, isolation: &str, records: usize) -> Vec<u8> {
        let mut command = self.console_command(topic);
        command.args(["--isolation-level", isolation, "--timeout-ms", "60000"]);
        command.args(["--max-messages", &records.to_string()]);
        for what in ["timestamp", "key", "offset", "headers"] {
            command.args(["--property", &format!("print.{what}=true")]);
        }
        let output = command.output().expect("java runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Returns what the topic of Kafka's remote log metadata holds, a line for each.
    pub fn metadata(&self) -> String {
        let serde =
            "org.apache.kafka.server.log.remote.metadata.storage.serialization.RemoteLogMetadataSerde";
        let mut command = self.console_command("__remote_log_metadata");
        command.args(["--formatter", &format!("{serde}$RemoteLogMetadataFormatter"), "--timeout-ms", "5000"]);
        let output = command.output().expect("java runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Starts a console consumer that reads from offset 0 until it is killed.
    pub fn reader(&self, topic: &str) -> Child {
        let mut command = self.console_command(topic);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("java runs")
    }

    fn console_command(&self, topic: &str) -> Command {
        let mut command = java(self.version, "-Xmx512m", "org.apache.kafka.tools.consumer.ConsoleConsumer");
        command.args(["--bootstrap-server", &self.bootstrap(), "--topic", topic]);
        command.args(["--partition", "0", "--offset", "earliest"]);
        command
    }

    /// Runs kafka-python from offset 0 to the end. Returns a line for each record: offset, SHA-256 of the value,
    /// SHA-256 of everything else.
    pub fn python(&self, topic: &str, isolation: &str) -> String {
        let python =
            std::env::var_os("WAL_INDEXER_TEST_PYTHON").expect("WAL_INDEXER_TEST_PYTHON, as in the Makefile");
        let output = Command::new(python)
            .arg(source("consume.py"))
            .args([&self.bootstrap(), topic, isolation])
            .output()
            .expect("Python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Checks that consumers get each of these records exactly once, in order, and nothing else.
    #[track_caller]
    pub fn check_consumed(&self, topic: &str, notes: &Notes) {
        let read = self.python(topic, "read_committed");
        let value = |line: &str| {
            let [offset, value, _] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            (offset.parse::<i64>().expect("an offset"), value.to_owned())
        };
        let expected = notes.iter().map(|(offset, note)| (*offset, note.sha256.clone()));
        assert!(read.lines().map(value).eq(expected), "not each record of {topic} is consumed exactly once");
    }
}

impl Node {
    /// Returns the directory of partition 0 of a topic.
    pub fn partition(&self, topic: &str) -> PathBuf {
        self.data.join(format!("{topic}-0"))
    }

    /// Returns the segments of partition 0 of a topic that are on its disk, in order.
    pub fn segments(&self, topic: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.partition(topic)).into_iter().flatten();
        // A file can go while it is listed.
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut logs: Vec<_> = paths.filter(|path| path.extension() == Some(OsStr::new("log"))).collect();
        logs.sort();
        logs
    }

    /// Returns the base offsets of [`Node::segments`].
    pub fn base_offsets(&self, topic: &str) -> Vec<i64> {
        let offset = |path: PathBuf| path.file_stem().and_then(OsStr::to_str)?.parse().ok();
        self.segments(topic).into_iter().filter_map(offset).collect()
    }

    /// Returns the base offset of the segment that is written to.
    pub fn active(&self, topic: &str) -> i64 {
        self.base_offsets(topic).pop().expect("a segment")
    }

    /// Waits until only the segment that is written to is on its disk.
    pub fn waits_until_copied(&self, topic: &str) {
        eventually(&format!("{topic} stays on disk"), || self.segments(topic).len() == 1);
    }

    /// Returns the names of its threads that are in a method, or in any method of a class.
    pub fn threads_in(&self, method: &str) -> Vec<String> {
        let dump = Command::new("jcmd").args([&self.process.pid().to_string(), "Thread.print"]).output();
        let dump = String::from_utf8(dump.expect("jcmd runs").stdout).expect("UTF-8");
        assert!(dump.contains("kafka-rlm"), "a dump has no threads of Kafka's");
        let threads = dump.split("\n\n").filter(|thread| thread.contains(method));
        threads.map(|thread| thread.lines().next().unwrap_or_default().to_owned()).collect()
    }

    /// Deletes its copy of a topic. It must have been stopped.
    pub fn loses(&self, topic: &str) {
        fs::remove_dir_all(self.partition(topic)).expect("it is there");
    }
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(otherwise: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{otherwise}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka").join(name)
}

/// What all brokers have. The times are short, so that tests are.
const SETTINGS: &str = "\
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
offsets.topic.num.partitions=1
auto.create.topics.enable=false
remote.log.storage.system.enable=true
remote.log.storage.manager.class.name=io.walindexer.kafka.WalIndexerRemoteStorageManager
remote.log.metadata.manager.listener.name=PLAINTEXT
rlmm.config.remote.log.metadata.topic.num.partitions=1
rlmm.config.remote.log.metadata.initialization.retry.interval.ms=100
remote.log.manager.task.interval.ms=500
remote.log.manager.task.retry.backoff.max.ms=1000
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=500
group.initial.rebalance.delay.ms=0";
