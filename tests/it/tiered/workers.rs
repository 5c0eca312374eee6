//! Workers on fixed addresses, in front of one store, and what is found through them.

use std::fs;
use std::path::Path;
use std::process::Command;

use wal_indexer::client::Connection;
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::record::Transaction;

use crate::processes::Process;
use crate::servers::{Server, ports_to_come_back_to, s3_settings};
use crate::worker::{command, file_url};

use super::admin::Notes;

/// Where the bundles are in an S3 store.
pub const PREFIX: &str = "tiered";

/// How many records a transaction of `tests/kafka/Tiered.java` has, at most.
const TRANSACTION_RECORDS_MAX: i64 = 60;

/// A marker, and the bundles that it hides. There may be none yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Marker {
    pub key: String,
    pub bundles: Vec<String>,
}

/// Workers and their store. They stop when dropped.
pub struct Workers {
    pub processes: Vec<Process>,
    /// Of each worker, `HOST:PORT`.
    pub addresses: Vec<String>,
    store: String,
    settings: Vec<(&'static str, String)>,
    logs: tempfile::TempDir,
}

impl Workers {
    /// Starts workers on an S3 store, which they reach at this port.
    pub fn start(count: usize, server: &Server, port: u16) -> Self {
        Self::start_on(count, server.url(PREFIX).to_string(), s3_settings(port))
    }

    /// Starts workers on a directory.
    pub fn start_on_disk(count: usize, directory: &Path) -> Self {
        Self::start_on(count, file_url(directory), Vec::new())
    }

    fn start_on(count: usize, store: String, settings: Vec<(&'static str, String)>) -> Self {
        let logs = tempfile::TempDir::with_prefix("wal-indexer-workers-").expect("a directory");
        let addresses: Vec<_> =
            (0..count).map(|_| format!("127.0.0.1:{}", ports_to_come_back_to::<1>()[0])).collect();
        let process = |(nth, address): (usize, &String)| {
            let (address, store, settings) = (address.clone(), store.clone(), settings.clone());
            Process::new(format!("worker-{nth}"), logs.path(), move || {
                let mut serve = command(["serve", "--listen", &address, "--store", &store]);
                serve.envs(settings.iter().cloned());
                serve
            })
        };
        let processes = addresses.iter().enumerate().map(process).collect();
        let mut workers = Self { processes, addresses, store, settings, logs };
        workers.start_all();
        workers
    }

    /// Starts a worker, and waits until it listens.
    pub fn starts(&mut self, nth: usize) {
        self.processes[nth].start();
        self.processes[nth].listens(&self.addresses[nth]);
    }

    pub fn stop_all(&mut self) {
        self.processes.iter_mut().for_each(|worker| {
            worker.kill();
        });
    }

    pub fn start_all(&mut self) {
        (0..self.processes.len()).for_each(|nth| self.starts(nth));
    }

    /// Sends a worker a signal, by its name.
    pub fn signal(&self, nth: usize, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.processes[nth].pid().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Runs a verb of the program on the store, which must be successful. Returns its output.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let mut command = command(arguments);
        command.args(["--store", &self.store]).envs(self.settings.iter().cloned());
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Returns the keys of all visible bundles of a topic.
    pub fn bundles(&self, topic: &str) -> Vec<String> {
        let listed = self.run(&["ls", "--topic", topic, "--json"]);
        let key = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["bundle"]["key"].as_str().map(str::to_owned)
        };
        listed.lines().filter_map(key).collect()
    }

    /// Returns the number of a topic's bundles that are deleted and not purged yet.
    pub fn deleted(&self, topic: &str) -> usize {
        self.markers(topic).iter().map(|marker| marker.bundles.len()).sum()
    }

    /// Returns what hides a topic's bundles.
    pub fn markers(&self, topic: &str) -> Vec<Marker> {
        let listed = self.run(&["ls", "--topic", topic, "--deleted", "--json"]);
        let marker = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let text = |value: &serde_json::Value| value.as_str().expect("a key").to_owned();
            let bundles = line["bundles"].as_array().expect("a list");
            let bundles = bundles.iter().map(|bundle| text(&bundle["key"])).collect();
            Marker { key: text(&line["marker"]), bundles }
        };
        listed.lines().map(marker).collect()
    }

    /// Compares the store with Kafka's metadata, as they are printed a day later, and hides what Kafka does not
    /// use. Returns how many copies that are.
    pub fn reconcile_a_day_later(&self, metadata: &str) -> usize {
        let name = "eventTimestampMs=";
        let older = |line: &str| {
            let (front, rest) = line.split_once(name).unwrap_or_else(|| panic!("{line}"));
            let digits = rest.find(|c: char| !c.is_ascii_digit()).expect("an end");
            let at_ms: i64 = rest[..digits].parse().expect("a time");
            format!("{front}{name}{}{}\n", at_ms - 25 * 3_600_000, &rest[digits..])
        };
        let file = self.logs.path().join("metadata.txt");
        fs::write(&file, metadata.lines().map(older).collect::<String>()).expect("written");
        let file = file.to_str().expect("UTF-8");
        let printed = self.run(&["reconcile", "--kafka-metadata", file, "--as-of", "1s", "--hide", "--json"]);
        let summary = printed.lines().last().expect("a summary");
        let summary: serde_json::Value = serde_json::from_str(summary).expect("JSON");
        assert_eq!(summary["missing_bundles"], 0, "{summary}");
        summary["hidden_bundles"].as_u64().expect("a number") as usize
    }

    /// Returns the offsets at which a query finds records of a topic.
    pub async fn search(&self, topic: &str, query: &str) -> Vec<(i64, Transaction)> {
        let mut client =
            Connection::connect(&format!("http://{}", self.addresses[0])).await.expect("a worker");
        search(&mut client, topic, query).await
    }

    /// Checks that each tenth record before an offset is found exactly once, and as committed if it is. The last
    /// transaction may still be open there.
    pub async fn check_tenths(&self, topic: &str, notes: &Notes, end: i64) {
        let mut client =
            Connection::connect(&format!("http://{}", self.addresses[0])).await.expect("a worker");
        let tenths: Vec<_> = notes.range(..end).filter(|(_, note)| note.nth % 10 == 0).collect();
        assert!(tenths.len() > 10, "{topic}: {} records to look for", tenths.len());
        for (offset, note) in tenths {
            let found = search(&mut client, topic, &format!("needle{}of{topic}", note.nth)).await;
            let state = match note.committed {
                true => Transaction::Unspecified,
                false => Transaction::Aborted,
            };
            let may_be_open = *offset >= end - TRANSACTION_RECORDS_MAX;
            let as_noted =
                found == [(*offset, state)] || may_be_open && found == [(*offset, Transaction::Open)];
            assert!(as_noted, "record {} of {topic} at {offset}, {state:?}, is found as {found:?}", note.nth);
        }
    }
}

async fn search(client: &mut Connection, topic: &str, query: &str) -> Vec<(i64, Transaction)> {
    let filter = v1::RecordFilter { topic: topic.to_owned(), ..Default::default() };
    let query = query.to_owned();
    let request = v1::SearchRequest { filter: Some(filter), query, limit: 10_000, ..Default::default() };
    let (mut messages, mut found) = (client.search(request).await.expect("an answer"), Vec::new());
    while let Some(message) = messages.message().await.expect("a message") {
        found.extend(message.records.iter().map(|record| (record.offset, record.transaction())));
    }
    found
}
