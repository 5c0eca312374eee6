//! The broker of examples/chronik_like_broker.rs, as a process that is killed: it deletes nothing that its
//! own recovery needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use wal_indexer::internals::formatting::hex;

use crate::truth::{self, Record};
use crate::worker::Worker;

#[path = "../../examples/chronik_like_broker.rs"]
#[allow(dead_code)]
mod broker;

/// The variables that give the broker's process its directory, its worker and its seed.
const DIRECTORY: &str = "WAL_INDEXER_TEST_EMBEDDED_DIRECTORY";
const ENDPOINT: &str = "WAL_INDEXER_TEST_EMBEDDED_ENDPOINT";
const SEED: &str = "WAL_INDEXER_TEST_EMBEDDED_SEED";

/// Longer than anything here takes, on any machine.
const SOON: Duration = Duration::from_secs(60);

/// The broker's process, which the tests below start. On its own it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is the broker's process, and goes on until it is killed"]
async fn process() {
    let told = [DIRECTORY, ENDPOINT, SEED].map(std::env::var);
    if let [Ok(directory), Ok(endpoint), Ok(seed)] = told {
        let ran = broker::run(Path::new(&directory), &endpoint, seed.parse().expect("a number")).await;
        ran.expect("it goes on until it is killed");
    }
}

/// When a broker is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After this many acknowledged records.
    Acknowledged(usize),
    /// When it begins to continue with another file, for the nth time.
    Rotating(usize),
    /// When it begins to delete a segment, for the nth time.
    Deleting(usize),
    /// When it has deleted a segment, for the nth time.
    Deleted(usize),
}

impl Moment {
    /// Returns the start of the output lines that count, and how many of them are needed.
    fn lines(self) -> (&'static str, usize) {
        match self {
            Self::Acknowledged(count) => ("ack ", count),
            Self::Rotating(count) => ("rotating ", count),
            Self::Deleting(count) => ("deleting ", count),
            Self::Deleted(count) => ("deleted ", count),
        }
    }
}

/// What the brokers have printed so far, one after the other.
#[derive(Default)]
struct Output {
    /// The hashes of acknowledged values, by partition and offset.
    acknowledged: BTreeMap<(i32, i64), String>,
    deleted: usize,
}

impl Output {
    fn take(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            // The kill may cut the last line. Then nobody got that acknowledgement.
            ["ack", partition, offset, value] if value.len() == 64 => {
                let place = (partition.parse().expect("a number"), offset.parse().expect("a number"));
                let before = self.acknowledged.insert(place, value.to_owned());
                assert_eq!(before, None, "offset {offset} of partition {partition} was given out twice");
            }
            ["deleted", _] => self.deleted += 1,
            // The test harness prints, too.
            _ => {}
        }
    }

    /// The last acknowledged offset of each partition.
    fn ends(&self) -> BTreeMap<i32, i64> {
        self.acknowledged.keys().copied().collect()
    }
}

/// Starts the broker, kills it at the moment, and reads everything that it printed.
fn run_until(moment: Moment, (directory, endpoint, seed): (&Path, &str, u64), output: &mut Output) {
    let program = std::env::current_exe().expect("this program");
    let mut process = Command::new(program)
        .args(["embedded::process", "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(ENDPOINT, endpoint)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
    let mut process = Killed(process);
    let ((begins, mut left), deadline) = (moment.lines(), Instant::now() + SOON);
    while left > 0 {
        let line = lines.next().unwrap_or_else(|| panic!("it ended before {moment:?}")).expect("text");
        left -= usize::from(line.starts_with(begins));
        output.take(&line);
        assert!(Instant::now() < deadline, "not {moment:?} in time");
    }
    process.kill();
    lines.map_while(Result::ok).for_each(|line| output.take(&line));
}

/// A process that is killed when the test ends.
struct Killed(Child);

impl Killed {
    fn kill(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the files of all partitions.
fn files(directory: &Path) -> Vec<(i32, PathBuf)> {
    let mut files = Vec::new();
    for partition in 0..3 {
        let entries = fs::read_dir(directory.join(partition.to_string())).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let segments = paths.filter(|path| path.extension().is_some_and(|it| it == "segment"));
        files.extend(segments.map(|path| (partition, path)));
    }
    files
}

/// Returns the hashes of the values in files and bundles, by partition and offset.
fn kept(directory: &Path, worker: &Worker) -> BTreeMap<(i32, i64), BTreeSet<String>> {
    let mut kept = BTreeMap::<_, BTreeSet<_>>::new();
    let mut keep = |partition, record: &Record| {
        let value = hex(&Sha256::digest(record.value.as_deref().unwrap_or_default()));
        kept.entry((partition, record.offset)).or_default().insert(value);
    };
    for (partition, path) in files(directory) {
        for frame in broker::whole_frames(&path).expect("it reads") {
            truth::frame_records(&frame).iter().for_each(|record| keep(partition, record));
        }
    }
    for key in worker.finished_keys() {
        let bundle = truth::open(&fs::read(worker.store().join(&key)).expect("a bundle").into());
        bundle.records.iter().for_each(|record| keep(bundle.manifest.partition, record));
    }
    kept
}

/// Checks that the files hold, for a broker that starts, at least what was acknowledged.
fn check_ends(directory: &Path, output: &Output) {
    let mut ends = BTreeMap::new();
    for (partition, path) in files(directory) {
        let frames = broker::whole_frames(&path).expect("it reads");
        let last = frames.iter().filter_map(|frame| Some(frame.claimed_range()?.last())).max();
        let end = ends.entry(partition).or_insert(None);
        *end = last.max(*end);
    }
    for (partition, acknowledged) in output.ends() {
        assert!(ends[&partition] >= Some(acknowledged), "partition {partition}: {ends:?}, {acknowledged}");
    }
}

fn check_all(moments: &[Moment]) {
    let worker = Worker::start();
    let directory = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    let mut output = Output::default();
    for (round, moment) in moments.iter().enumerate() {
        run_until(*moment, (directory.path(), &worker.endpoint(), round as u64), &mut output);
        check_ends(directory.path(), &output);
    }
    let kept = kept(directory.path(), &worker);
    let lost = output.acknowledged.iter().filter(|(place, value)| {
        kept.get(place).is_none_or(|found| !found.contains(*value) || found.len() > 1)
    });
    assert_eq!(lost.map(|(place, _)| place).collect::<Vec<_>>(), Vec::<&(i32, i64)>::new());
    let (deleted, acknowledged) = (output.deleted, output.acknowledged.len());
    assert!(
        deleted >= moments.len() / 2 && acknowledged > 200,
        "{deleted} deleted, {acknowledged} acknowledged"
    );
}

#[test]
fn the_broker_of_the_examples_deletes_nothing_that_its_recovery_needs() {
    use Moment::*;
    check_all(&[
        Acknowledged(150),
        Deleting(1),
        Rotating(5),
        Deleted(3),
        Deleting(2),
        Acknowledged(90),
        Deleted(1),
    ]);
}

#[test]
#[ignore = "takes a minute"]
fn the_broker_of_the_examples_is_killed_over_and_over() {
    let moments = (0..40).map(|round| match round % 5 {
        0 => Moment::Acknowledged(1 + 7 * round),
        1 => Moment::Deleting(1 + round % 3),
        2 => Moment::Rotating(1 + round % 4),
        3 => Moment::Deleted(1 + round % 3),
        _ => Moment::Acknowledged(1),
    });
    check_all(&moments.collect::<Vec<_>>());
}
