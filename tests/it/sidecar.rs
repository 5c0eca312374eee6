//! The agent as a process of its own, and WAL directories for it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wal_indexer::generate::{Format, Size, Spec, generate};
use wal_indexer::ids::TopicPartition;

use crate::metrics::Scrape;
use crate::worker::command;

/// Longer than anything here takes, on any machine.
const SOON: Duration = Duration::from_secs(60);

/// A running agent that looks every tenth of a second and sends segments of any age. Ends with the value.
pub struct Sidecar {
    process: Child,
    metrics: String,
    /// Not read any further.
    _stdout: BufReader<ChildStdout>,
    root: TempDir,
}

/// A user with no rights but everybody's.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("it is there").uid() == 0
}

/// The agent's flags for this directory and these workers, in a hurry.
fn flags(wal: &Path, endpoints: &[String]) -> Vec<String> {
    let endpoints = endpoints.join(",");
    let wal = wal.to_str().expect("UTF-8");
    let flags = ["agent", "--wal-dir", wal, "--endpoint", &endpoints];
    flags.into_iter().map(str::to_owned).collect()
}

/// One run of the agent, to its end.
pub fn once(wal: &Path, endpoints: &[String], more: &[&str]) -> Output {
    let age = unless_given(more, "--min-segment-age", "0");
    command(flags(wal, endpoints)).arg("--once").args(age).args(more).output().expect("the program starts")
}

/// A flag with its value, unless it is among others: flags that are given twice are refused.
fn unless_given(flags: &[&str], flag: &'static str, value: &'static str) -> Vec<&'static str> {
    if flags.contains(&flag) { Vec::new() } else { vec![flag, value] }
}

impl Sidecar {
    pub fn start(wal: &Path, endpoints: &[String], more: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
        Self::spawn(root, command(flags(wal, endpoints)), more)
    }

    /// The same, as a user who may not do everything: root's agent would read what it may not. The directory becomes that user's.
    pub fn start_unprivileged(wal: &Path, endpoints: &[String], more: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
        let mut command = command(flags(wal, endpoints));
        if is_root() {
            let owner = NOBODY.to_string();
            let given = Command::new("chown").arg("-R").arg(format!("{owner}:{owner}")).arg(wal).status();
            assert!(given.expect("chown runs").success());
            // The program may lie below a directory that is root's alone.
            let program = root.path().join("wal-indexer");
            // By a process of its own: a file that this one has open for writing, for however short a time, may be so in a child that another
            // test has just begun, and cannot be executed then.
            let copied = Command::new("cp").arg(command.get_program()).arg(&program).status();
            assert!(copied.expect("cp runs").success());
            fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("ours");
            let mut of_nobody = Command::new(program);
            of_nobody.args(command.get_args()).stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
            command = of_nobody;
        }
        Self::spawn(root, command, more)
    }

    fn spawn(root: TempDir, mut command: Command, more: &[&str]) -> Self {
        let log = File::create(root.path().join("log")).expect("a file");
        let mut process = command
            .args(unless_given(more, "--interval", "0.1"))
            .args(unless_given(more, "--min-segment-age", "0"))
            .args(["--metrics-listen", "127.0.0.1:0"])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        stdout.read_line(&mut line).expect("a line");
        let metrics = line.trim_end().strip_prefix("metrics on ").map(str::to_owned);
        let mut agent = Self { process, metrics: String::new(), _stdout: stdout, root };
        agent.metrics = metrics.unwrap_or_else(|| panic!("the agent said {line:?}\n{}", agent.log()));
        agent
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    /// All measurements, as Prometheus would fetch them.
    pub fn metrics(&self) -> Scrape {
        Scrape::of(&self.metrics)
    }

    /// The sum of all measurements of this name, without `wal_indexer_`; `None` where there is none.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics().sum(&format!("wal_indexer_{name}"), &[])
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "not {what}\n{}\n{}", self.metrics(), self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal, by its name: `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Kills it: nothing it has begun is finished.
    pub fn kill(mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it ends");
    }

    /// Waits for its end, which must come soon.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            match self.process.try_wait().expect("it is ours") {
                Some(status) => return status,
                None => assert!(Instant::now() < deadline, "it goes on\n{}", self.log()),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // Either fails only where the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

/// A broker's directory, in Chronik's layout.
pub struct Wal {
    root: TempDir,
}

impl Wal {
    pub fn new() -> Self {
        Self { root: TempDir::with_prefix("wal-indexer-it-wal-").expect("a directory") }
    }

    pub fn below(directory: &Path) -> Self {
        Self { root: TempDir::with_prefix_in("a wal-", directory).expect("a directory") }
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// A segment of 20 records: those of offset `id * 1000` and on.
    pub fn add(&self, topic: &str, partition: i32, id: u64) -> PathBuf {
        let path = self.path().join(name(topic, partition, id));
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, segment(topic, partition, id)).expect("written");
        path
    }

    /// Segments `ids` of a partition. The last is the one that its broker writes to.
    pub fn add_all(&self, topic: &str, partition: i32, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            self.add(topic, partition, id);
        }
    }

    /// Writes bytes to a segment that is sealed already, and then the segment that its broker writes to anew: the latter is
    /// always the last one written to.
    pub fn rewrite(&self, topic: &str, partition: i32, id: u64, bytes: &[u8]) {
        fs::write(self.path().join(name(topic, partition, id)), bytes).expect("written");
        let newest = *self.ids(topic, partition).last().expect("a segment");
        self.add(topic, partition, newest);
    }

    /// Which segments of a partition are there.
    pub fn ids(&self, topic: &str, partition: i32) -> Vec<u64> {
        let directory = self.path().join(topic).join(partition.to_string());
        let prefix = format!("wal_{partition}_");
        let names =
            fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name());
        let id = |name: std::ffi::OsString| {
            name.to_str()?.strip_prefix(&prefix)?.strip_suffix(".log")?.parse().ok()
        };
        let mut ids: Vec<_> = names.filter_map(id).collect();
        ids.sort_unstable();
        ids
    }
}

/// A segment's name, as the agent says it.
pub fn name(topic: &str, partition: i32, id: u64) -> String {
    format!("{topic}/{partition}/wal_{partition}_{id}.log")
}

/// A segment's bytes.
pub fn segment(topic: &str, partition: i32, id: u64) -> Vec<u8> {
    segment_of(topic, partition, id, 20)
}

pub fn segment_of(topic: &str, partition: i32, id: u64, records: u64) -> Vec<u8> {
    let spec = Spec {
        format: Format::ChronikV2,
        size: Size::Records(records),
        seed: id,
        partition: TopicPartition::new(topic, partition).expect("a name"),
        base_offset: id as i64 * 1_000,
        batch_records: NonZeroU32::new(10).expect("not zero"),
        ..Spec::default()
    };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("a segment");
    bytes
}
