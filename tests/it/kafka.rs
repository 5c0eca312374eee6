//! A Kafka broker for tests: one process, started from the jars that `tests/install-servers.sh` fetches. It
//! is controller and broker in one, on fixed ports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;

use crate::processes::Process;
use crate::servers::ports_to_come_back_to;

/// A running broker. It stops when dropped.
pub struct Kafka {
    process: Process,
    directory: tempfile::TempDir,
    ports: [u16; 2],
}

fn class_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools-kafka/jars/*")
}

fn java(main_class: &str) -> Command {
    let mut java = Command::new("java");
    java.arg("-Xmx256m").arg("-cp").arg(class_path()).arg(main_class);
    java
}

impl Kafka {
    /// Starts an empty broker, and waits until it listens.
    pub fn start() -> Self {
        let directory = tempfile::TempDir::with_prefix("wal-indexer-kafka-").expect("a directory");
        let settings = directory.path().join("server.properties");
        let process = Process::new("kafka", directory.path(), move || {
            let mut java = java("kafka.Kafka");
            java.arg(&settings);
            java
        });
        let mut kafka = Self { process, directory, ports: ports_to_come_back_to::<2>() };
        kafka.begin();
        kafka
    }

    /// Deletes all its data, and starts it again at the same address.
    pub fn start_anew(&mut self) {
        self.stop();
        fs::remove_dir_all(self.directory.path().join("data")).expect("it is there");
        self.begin();
    }

    /// Stops it.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    fn begin(&mut self) {
        let ([broker, controller], data) = (self.ports, self.directory.path().join("data"));
        let settings = self.directory.path().join("server.properties");
        let lines = [
            "process.roles=broker,controller".to_owned(),
            "node.id=1".to_owned(),
            format!("listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}"),
            "controller.listener.names=CONTROLLER".to_owned(),
            format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
            format!("log.dirs={}", data.display()),
            "offsets.topic.replication.factor=1".to_owned(),
            "transaction.state.log.replication.factor=1".to_owned(),
            "transaction.state.log.min.isr=1".to_owned(),
            "transaction.state.log.num.partitions=1".to_owned(),
            // Otherwise a client that asks for a topic would create it before the test does.
            "auto.create.topics.enable=false".to_owned(),
        ];
        fs::write(&settings, lines.join("\n")).expect("written");
        let formatted = java("kafka.tools.StorageTool")
            .args(["format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c"])
            .arg(&settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(formatted.expect("java runs").success(), "the broker's directory cannot be formatted");
        self.process.start();
        self.process.listens(&self.bootstrap());
    }

    /// Returns its address, `HOST:PORT`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Runs a program of `tests/kafka` to its end, and returns its output.
    pub fn run(&self, source: &str, arguments: &[&str]) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka").join(source);
        let output = java(path.to_str().expect("UTF-8")).args(arguments).output().expect("java runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Returns the current segments of partition 0 of a topic, in order.
    pub fn segments(&self, topic: &str) -> Vec<Bytes> {
        let partition = self.directory.path().join("data").join(format!("{topic}-0"));
        let entries =
            fs::read_dir(partition).expect("a directory").map(|entry| entry.expect("an entry").path());
        let mut paths: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|one| one == "log")).collect();
        paths.sort();
        paths.into_iter().map(|path| fs::read(path).expect("a file").into()).collect()
    }

    async fn client(&self) -> Client {
        ClientBuilder::new(vec![self.bootstrap()]).build().await.expect("a connection")
    }

    /// Creates a topic and returns its partition 0, with this many records.
    pub async fn topic(&self, name: &str, records: usize) -> PartitionClient {
        let client = self.client().await;
        let controller = client.controller_client().expect("a controller");
        controller.create_topic(name, 1, 1, 10_000).await.expect("a topic");
        let partition =
            client.partition_client(name, 0, UnknownTopicHandling::Retry).await.expect("a partition");
        let record = |nth: usize| Record {
            key: None,
            value: Some(format!("record {nth}").into_bytes()),
            headers: Default::default(),
            timestamp: Default::default(),
        };
        let records = (0..records).map(record).collect();
        partition.produce(records, Compression::NoCompression).await.expect("they are written");
        partition
    }
}
