//! The program `tests/kafka/Tiered.java`, which runs for as long as a test does, because its start takes seconds.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::cluster::{Node, eventually};

/// Settings of each topic. The records' times are in the future, the brokers' own are not: nothing may depend on the
/// difference.
const FOREVER: &str =
    "retention.ms=-1 message.timestamp.after.max.ms=9223372036854775807 segment.ms=9223372036854775807";

/// A running program. It is killed when dropped.
pub struct Admin {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    notes: tempfile::TempDir,
}

/// What the program noted about a record that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub nth: usize,
    pub committed: bool,
    /// SHA-256 of the value, in hexadecimal digits; of `null` if there is none.
    pub sha256: String,
}

/// What was acknowledged, by offset.
pub type Notes = BTreeMap<i64, Note>;

impl Admin {
    pub(super) fn start(mut command: Command, bootstrap: &str) -> Self {
        command.arg(bootstrap).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("java runs");
        let asks = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, asks, answers, notes: tempfile::tempdir().expect("a directory") }
    }

    /// Asks for something, and returns the lines of the answer.
    pub fn tries(&mut self, line: &str) -> Result<Vec<String>, String> {
        self.begins(line);
        self.answer()
    }

    /// Asks for something that must succeed.
    #[track_caller]
    pub fn does(&mut self, line: &str) -> Vec<String> {
        self.tries(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Asks for something without waiting for the answer.
    pub fn begins(&mut self, line: &str) {
        writeln!(self.asks, "{line}").expect("it reads");
    }

    /// Waits for the answer to what was asked.
    pub fn answer(&mut self) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).expect("a line") > 0, "the program ended");
            match line.trim_end() {
                "ok" => return Ok(lines),
                line => match line.strip_prefix("failed ") {
                    Some(error) => return Err(error.to_owned()),
                    None => lines.push(line.to_owned()),
                },
            }
        }
    }

    /// Creates a topic with one partition, and returns its id.
    pub fn creates(&mut self, topic: &str, replicas: usize, settings: &str) -> String {
        self.does(&format!("create {topic} {replicas} {FOREVER} {settings}")).remove(0)
    }

    /// Creates a topic with one partition on these brokers. The first of them leads it.
    pub fn creates_on(&mut self, topic: &str, brokers: [usize; 3], settings: &str) -> String {
        let brokers = brokers.map(|id| id.to_string()).join(",");
        self.does(&format!("assign {topic} {brokers} {FOREVER} {settings}")).remove(0)
    }

    /// Returns the id of the broker that leads a topic.
    pub fn leader(&mut self, topic: &str) -> usize {
        let mut leader = None;
        eventually(&format!("nobody leads {topic}"), || {
            leader = self.tries(&format!("leader {topic}")).ok();
            leader.is_some()
        });
        leader.expect("it was found")[0].parse().expect("an id")
    }

    /// Writes the same records, with the same offsets, to each of these topics.
    pub fn writes(&mut self, topics: &[&str], codec: &str, bytes: usize, seed: u64) -> Notes {
        let path = self.notes(topics[0]);
        self.does(&format!("write {} {codec} {bytes} {seed} {}", topics.join(","), path.display()));
        read(&path)
    }

    /// Returns the earliest and the latest offset that a topic has for consumers.
    pub fn offsets(&mut self, topic: &str) -> (i64, i64) {
        let line = self.does(&format!("offsets {topic}")).remove(0);
        let (earliest, latest) = line.split_once(' ').expect("two");
        (earliest.parse().expect("an offset"), latest.parse().expect("an offset"))
    }

    /// Returns the numbers of a broker's MBeans with such names: the name and the attribute of each, with its value.
    pub fn beans(&mut self, broker: &Node, names: &str) -> BTreeMap<(String, String), f64> {
        let bean = |line: String| {
            let [name, attribute, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            ((name.to_owned(), attribute.to_owned()), value.parse().expect("a number"))
        };
        self.does(&format!("beans {} {names}", broker.process.pid())).into_iter().map(bean).collect()
    }

    /// Begins to write records, whatever fails meanwhile: see [`Admin::streamed`].
    pub fn begins_stream(&mut self, topic: &str, records: usize, pause_ms: u64) {
        let path = self.notes(topic);
        self.begins(&format!("stream {topic} {records} {pause_ms} {}", path.display()));
    }

    /// Waits until all records are acknowledged, and returns them.
    pub fn streamed(&mut self, topic: &str) -> Notes {
        self.answer().expect("all are acknowledged");
        read(&self.notes(topic))
    }

    fn notes(&self, topic: &str) -> PathBuf {
        self.notes.path().join(topic)
    }
}

fn read(path: &Path) -> Notes {
    let text = fs::read_to_string(path).expect("a file");
    let note = |line: &str| {
        let [offset, nth, state, sha256] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let nth = nth.parse().expect("a number");
        let note = Note { nth, committed: state == "committed", sha256: sha256.to_owned() };
        (offset.parse().expect("an offset"), note)
    };
    text.lines().map(note).collect()
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it ends");
    }
}
