//! The agent as its own process, and WAL directories for it.

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

/// A running agent that lists every tenth of a second and sends segments of any age. It is killed when
/// dropped.
pub struct Sidecar {
    process: Child,
    metrics: String,
    /// Kept open, and not read any further.
    _stdout: BufReader<ChildStdout>,
    root: TempDir,
}

/// The id of the user `nobody`, who has no special rights.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("it is there").uid() == 0
}

/// Returns the agent's flags for this directory and these workers, with short intervals.
fn flags(wal: &Path, endpoints: &[String]) -> Vec<String> {
    let endpoints = endpoints.join(",");
    let wal = wal.to_str().expect("UTF-8");
    let flags = ["agent", "--wal-dir", wal, "--endpoint", &endpoints];
    flags.into_iter().map(str::to_owned).collect()
}

/// Runs the agent once, to its end.
pub fn once(wal: &Path, endpoints: &[String], more: &[&str]) -> Output {
    let age = unless_given(more, "--min-segment-age", "0");
    command(flags(wal, endpoints)).arg("--once").args(age).args(more).output().expect("the program starts")
}

/// Returns a flag with its value, unless it is among the others: a flag that is given twice is refused.
fn unless_given(flags: &[&str], flag: &'static str, value: &'static str) -> Vec<&'static str> {
    if flags.contains(&flag) { Vec::new() } else { vec![flag, value] }
}

impl Sidecar {
    pub fn start(wal: &Path, endpoints: &[String], more: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
        Self::spawn(root, command(flags(wal, endpoints)), more)
    }

    /// Starts the agent as an unprivileged user, because root's agent could read everything. The directory
    /// becomes that user's.
    pub fn start_unprivileged(wal: &Path, endpoints: &[String], more: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
        let mut command = command(flags(wal, endpoints));
        if is_root() {
            let owner = NOBODY.to_string();
            let given = Command::new("chown").arg("-R").arg(format!("{owner}:{owner}")).arg(wal).status();
            assert!(given.expect("chown runs").success());
            // The program may be below a directory that only root can read.
            let program = root.path().join("wal-indexer");
            // Copied by another process. If this process had the copy open for writing, even for a moment, a
            // child that another test starts just then could inherit the handle, and the copy could not be
            // executed.
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

    /// Returns its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    /// Returns all metrics, as Prometheus fetches them.
    pub fn metrics(&self) -> Scrape {
        Scrape::of(&self.metrics)
    }

    /// Returns the sum of all series of this metric, named without `wal_indexer_`; `None` if there is none.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics().sum(&format!("wal_indexer_{name}"), &[])
    }

    /// Waits until the condition is met.
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

    /// Kills it, so that nothing it has begun is finished.
    pub fn kill(mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it ends");
    }

    /// Waits for its end, which must be soon.
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
        // Both fail only if the process has already ended.
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

    /// Writes a segment of 20 records, whose offsets begin at `id * 1000`.
    pub fn add(&self, topic: &str, partition: i32, id: u64) -> PathBuf {
        let path = self.path().join(name(topic, partition, id));
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, segment(topic, partition, id)).expect("written");
        path
    }

    /// Writes the segments `ids` of a partition. The last one is in use by the broker.
    pub fn add_all(&self, topic: &str, partition: i32, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            self.add(topic, partition, id);
        }
    }

    /// Writes bytes to a sealed segment, and then writes the newest segment again: the broker's segment is
    /// always the one that was last written to.
    pub fn rewrite(&self, topic: &str, partition: i32, id: u64, bytes: &[u8]) {
        fs::write(self.path().join(name(topic, partition, id)), bytes).expect("written");
        let newest = *self.ids(topic, partition).last().expect("a segment");
        self.add(topic, partition, newest);
    }

    /// Returns the ids of a partition's segments on disk.
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

/// Returns a segment's name, as the agent prints it.
pub fn name(topic: &str, partition: i32, id: u64) -> String {
    format!("{topic}/{partition}/wal_{partition}_{id}.log")
}

/// Returns a segment's bytes.
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
