//! The agent beside a broker that handles files as a live Chronik does: several first files in a partition,
//! of which it continues with any; a next file that is empty until something is written; a rotation to a file
//! that already exists; files that are closed late or never; partitions that become silent. The broker is a
//! process that is killed and started again. No acknowledged record may be missing, no offset may be given
//! out twice, and no file that the broker has open may be deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use wal_indexer::generate::kafka::BatchHead;
use wal_indexer::generate::logs::Logs;
use wal_indexer::generate::{Codec, chronik};
use wal_indexer::ids::TopicPartition;
use wal_indexer::segment::{Frame, FrameSplitter};

use crate::broker::Rng;
use crate::sidecar::Sidecar;
use crate::truth::{self, Record};
use crate::worker::Worker;

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 12;
/// The last partitions: they get nothing after their first writes.
const SILENT: i32 = 4;
/// The partitions before those: they are written so rarely that their files look sealed in between.
const SLOW: i32 = 4;
const SLOW_EVERY: Duration = Duration::from_millis(500);
const SEGMENT_BYTES: u64 = 8_000;

/// The variables that give the broker's process its directory and its seed.
const DIRECTORY: &str = "WAL_INDEXER_TEST_BROKER_DIRECTORY";
const SEED: &str = "WAL_INDEXER_TEST_BROKER_SEED";

fn folder(directory: &Path, partition: i32) -> PathBuf {
    directory.join(TOPIC).join(partition.to_string())
}

fn path_of(directory: &Path, partition: i32, id: u64) -> PathBuf {
    folder(directory, partition).join(format!("wal_{partition}_{id}.log"))
}

/// Returns the ids of a partition's files, ascending.
fn ids(directory: &Path, partition: i32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(folder(directory, partition)) else { return Vec::new() };
    let prefix = format!("wal_{partition}_");
    let id = |name: String| name.strip_prefix(&prefix)?.strip_suffix(".log")?.parse().ok();
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut ids: Vec<_> = names.filter_map(id).collect();
    ids.sort_unstable();
    ids
}

/// Returns the whole frames of a file; none, if the file is deleted.
fn frames(path: &Path) -> Vec<Frame> {
    let bytes = Bytes::from(fs::read(path).unwrap_or_default());
    let mut splitter = FrameSplitter::new(bytes.len() as u64, None);
    let mut frames = Vec::new();
    // The first bytes that are not a frame end the reading.
    let _ = splitter.push(bytes, &mut frames);
    frames
}

fn last_offset(path: &Path) -> Option<i64> {
    frames(path).iter().filter_map(|frame| Some(frame.claimed_range()?.last())).max()
}

fn fingerprint(record: &Record) -> String {
    wal_indexer::internals::formatting::hex(&Sha256::digest(format!("{record:?}")))
}

/// The broker, in its own process.
struct Live {
    directory: PathBuf,
    rng: Rng,
    logs: Logs,
    partitions: Vec<Partition>,
    /// Replaced writers, and when to close them.
    closing: Vec<(Instant, File)>,
}

#[derive(Default)]
struct Partition {
    next_offset: i64,
    /// All open files with their ids. Chronik never closes those that it does not continue with.
    writers: Vec<(u64, File)>,
    /// The index of the one that it continues with.
    current: usize,
}

impl Live {
    /// Starts as Chronik does: the end of each log is the end of its files. If they hold nothing, the log
    /// begins at 0.
    fn start(directory: PathBuf, seed: u64) -> Self {
        let ends = |partition| {
            let last = ids(&directory, partition)
                .into_iter()
                .filter_map(|id| last_offset(&path_of(&directory, partition, id)));
            Partition { next_offset: last.max().map_or(0, |last| last + 1), ..Partition::default() }
        };
        let partitions = (0..PARTITIONS).map(ends).collect();
        Self { directory, rng: Rng(seed), logs: Logs::new(seed), partitions, closing: Vec::new() }
    }

    fn run(mut self) {
        for partition in 0..PARTITIONS {
            self.write_first(partition);
        }
        let mut slow_at = Instant::now() + SLOW_EVERY;
        loop {
            let partition = self.rng.below((PARTITIONS - SILENT - SLOW) as u64) as i32;
            self.write(partition);
            if Instant::now() >= slow_at {
                (PARTITIONS - SILENT - SLOW..PARTITIONS - SILENT).for_each(|partition| self.write(partition));
                slow_at += SLOW_EVERY;
            }
            self.closing.retain(|(when, _)| Instant::now() < *when);
            std::thread::sleep(Duration::from_millis(1 + self.rng.below(4)));
        }
    }

    /// Several producers write to a partition that has no open file yet. Each of them creates one.
    fn write_first(&mut self, partition: i32) {
        fs::create_dir_all(folder(&self.directory, partition)).expect("a directory");
        let next = ids(&self.directory, partition).last().map_or(0, |last| last + 1);
        let count = 1 + self.rng.below(4);
        for id in next..next + count {
            let writer = self.open(partition, id);
            self.partitions[partition as usize].writers.push((id, writer));
        }
        for nth in 0..count as usize {
            self.partitions[partition as usize].current = nth;
            self.write(partition);
        }
        self.partitions[partition as usize].current = self.rng.below(count) as usize;
        if partition >= PARTITIONS - SILENT && self.rng.one_in(2) {
            // The next file is empty, and stays so.
            self.rotate(partition);
        }
    }

    fn open(&self, partition: i32, id: u64) -> File {
        let path = path_of(&self.directory, partition, id);
        File::options().create(true).append(true).open(path).expect("a file")
    }

    /// Appends a batch, acknowledges it, and rotates if the segment is full.
    fn write(&mut self, partition: i32) {
        let (records, rotates_early) = (1 + self.rng.below(5), self.rng.one_in(24));
        let Partition { next_offset, writers, current } = &mut self.partitions[partition as usize];
        for _ in 0..records {
            self.logs.push(*next_offset);
            *next_offset += 1;
        }
        let batch = self.logs.take();
        let name = TopicPartition::new(TOPIC, partition).expect("a name");
        let mut bytes = Vec::new();
        chronik::encode_v2(&name, &BatchHead::default(), Codec::None, &batch, None, &mut bytes);
        let (id, file) = &mut writers[*current];
        file.write_all(&bytes).expect("it is written");
        let metadata = file.metadata().expect("it is open");
        let mut output = String::new();
        if metadata.nlink() == 0 {
            output.push_str(&format!("gone {partition} {id}\n"));
        }
        for record in truth::records_of(&batch) {
            output.push_str(&format!("ack {partition} {} {}\n", record.offset, fingerprint(&record)));
        }
        // In one write, so that an acknowledgement is whole or absent.
        std::io::stdout().write_all(output.as_bytes()).expect("somebody listens");
        if metadata.len() >= SEGMENT_BYTES || (rotates_early && metadata.len() > 0) {
            self.rotate(partition);
        }
    }

    /// Continues with the next id, whether that file exists or not.
    fn rotate(&mut self, partition: i32) {
        let Partition { writers, current, .. } = &self.partitions[partition as usize];
        let id = writers[*current].0 + 1;
        let writer = self.open(partition, id);
        let current = self.partitions[partition as usize].current;
        let (_, old) =
            std::mem::replace(&mut self.partitions[partition as usize].writers[current], (id, writer));
        let late = Duration::from_millis(self.rng.below(300));
        self.closing.push((Instant::now() + late, old));
    }
}

/// The broker's process, which the tests below start. On its own it does nothing.
#[test]
#[ignore = "it is the broker's process, and goes on until it is killed"]
fn process() {
    if let (Ok(directory), Ok(seed)) = (std::env::var(DIRECTORY), std::env::var(SEED)) {
        Live::start(directory.into(), seed.parse().expect("a number")).run();
    }
}

/// What the broker has printed so far.
#[derive(Default)]
struct Output {
    /// The fingerprints of acknowledged records, by partition and offset.
    acknowledged: BTreeMap<(i32, i64), String>,
    /// Violations of the rules above, one line each.
    faults: Vec<String>,
}

impl Output {
    fn take(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["ack", partition, offset, fingerprint] => {
                let place = (partition.parse().expect("a number"), offset.parse().expect("a number"));
                if self.acknowledged.insert(place, fingerprint.to_owned()).is_some() {
                    self.faults.push(format!("offset {offset} of partition {partition} was given out twice"));
                }
            }
            ["gone", partition, id] => {
                self.faults.push(format!("file {id} of partition {partition} went while it was open"));
            }
            // The test harness prints, too.
            _ => {}
        }
    }
}

struct Broker {
    process: Child,
    listening: Option<JoinHandle<()>>,
}

impl Broker {
    fn start(directory: &Path, seed: u64, output: &Arc<Mutex<Output>>) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut process = Command::new(program)
            .args(["chronik::process", "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory)
            .env(SEED, seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let output = Arc::clone(output);
        let listening = std::thread::spawn(move || {
            // The kill may cut the last line, and inside a character. Then nobody got that acknowledgement.
            lines.map_while(Result::ok).for_each(|line| output.lock().expect("well").take(&line));
        });
        Self { process, listening: Some(listening) }
    }

    fn kill(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(listening) = self.listening.take() {
            listening.join().expect("it ends with the process");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns every record in a bundle or a file, by partition and offset.
fn kept(directory: &Path, worker: &Worker) -> BTreeMap<(i32, i64), BTreeSet<String>> {
    let mut kept = BTreeMap::<_, BTreeSet<_>>::new();
    let mut keep = |partition, record: &Record| {
        kept.entry((partition, record.offset)).or_default().insert(fingerprint(record));
    };
    for partition in 0..PARTITIONS {
        for id in ids(directory, partition) {
            for frame in frames(&path_of(directory, partition, id)) {
                truth::frame_records(&frame).iter().for_each(|record| keep(partition, record));
            }
        }
    }
    for key in worker.finished_keys() {
        let bundle = truth::open(&fs::read(worker.store().join(&key)).expect("a bundle").into());
        bundle.records.iter().for_each(|record| keep(bundle.manifest.partition, record));
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_live_broker_nothing_goes_that_it_still_needs() {
    beside(4, Duration::from_millis(1_500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn long_beside_a_live_broker_nothing_goes_that_it_still_needs() {
    beside(24, Duration::from_secs(5)).await;
}

/// Starts the broker this often and kills it after a while. Kills the agent every other time.
async fn beside(rounds: u64, lasting: Duration) {
    let worker = Worker::start();
    let directory = tempfile::TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    let output = Arc::<Mutex<Output>>::default();
    let start = || {
        Sidecar::start(
            directory.path(),
            &[worker.endpoint()],
            &["--min-segment-age", "0.2", "--max-segments-per-run", "1000"],
        )
    };
    let mut agent = start();
    let mut deleted = 0.0;
    for round in 0..rounds {
        let mut broker = Broker::start(directory.path(), 100 + round, &output);
        std::thread::sleep(lasting);
        broker.kill();
        // The agent continues meanwhile.
        std::thread::sleep(Duration::from_millis(700));
        let faults = output.lock().expect("well").faults.clone();
        assert_eq!(faults, Vec::<String>::new(), "{}", agent.log());
        if round % 2 == 1 {
            deleted += agent.metric("agent_deleted_segments_total").unwrap_or_default();
            agent.kill();
            agent = start();
        }
        check_ends(directory.path(), &output.lock().expect("well"));
    }
    agent.until("the rest settles", |agent| agent.metric("agent_backlog_segments") == Some(0.0));
    deleted += agent.metric("agent_deleted_segments_total").unwrap_or_default();
    agent.kill();
    let kept = kept(directory.path(), &worker);
    let output = output.lock().expect("well");
    let lost = output.acknowledged.iter().filter(|(place, fingerprint)| {
        kept.get(place).is_none_or(|found| !found.contains(*fingerprint) || found.len() > 1)
    });
    assert_eq!(lost.map(|(place, _)| place).collect::<Vec<_>>(), Vec::<&(i32, i64)>::new());
    assert!(
        deleted > 20.0 && output.acknowledged.len() > 1_000,
        "{deleted} deleted, {}",
        output.acknowledged.len()
    );
}

/// Checks that the files hold, for a broker that starts, at least what it acknowledged.
fn check_ends(directory: &Path, output: &Output) {
    for partition in 0..PARTITIONS {
        let ids = ids(directory, partition);
        let last = ids.iter().filter_map(|id| last_offset(&path_of(directory, partition, *id))).max();
        let acknowledged = output.acknowledged.range((partition, 0)..(partition + 1, 0)).next_back();
        let acknowledged = acknowledged.map(|((_, offset), _)| *offset);
        assert!(
            last >= acknowledged,
            "partition {partition} ends at {last:?} for {acknowledged:?}, in {ids:?}"
        );
    }
}
