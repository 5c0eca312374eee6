//! A broker that writes: it appends batches to the active segment of each partition, seals a segment when it
//! is large enough, and logs everything that it acknowledged. Also the check that a store holds exactly that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use wal_indexer::generate::kafka::BatchHead;
use wal_indexer::generate::logs::Logs;
use wal_indexer::generate::{Codec, chronik, kafka};
use wal_indexer::ids::TopicPartition;
use wal_indexer::internals::formatting::hex;
use wal_indexer::internals::record::RecordBatch;
use wal_indexer::store::{KeyPrefix, Store};

use crate::receipts;
use crate::truth::{self, Record, Stored};

/// A SHA-256.
pub type Hash = [u8; 32];

/// Larger than any bundle of these segments.
const BUNDLE_BYTES_MAX: u64 = 1 << 30;

/// A pseudo-random generator, SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): the same numbers for the
/// same seed, everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// Returns true once in `many` times.
    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        from + Duration::from_millis(self.below((to - from).as_millis() as u64 + 1))
    }
}

/// What to write. All bytes follow from it; only the time of writing does not.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Topics, and how many partitions each has.
    pub topics: Vec<(&'static str, i32)>,
    /// The size in bytes at which a segment is sealed. Now and then one is sealed earlier.
    pub segment_bytes: u64,
    /// Batches of all partitions together.
    pub batches: u64,
    /// Records of a batch.
    pub records: RangeInclusive<u64>,
    /// The pause between two batches.
    pub pause: Duration,
}

/// Everything that the broker has acknowledged.
#[derive(Debug, Default)]
pub struct Log {
    /// All segments ever, by their files.
    pub segments: BTreeMap<PathBuf, Segment>,
}

/// A segment's file, and the acknowledged records in it.
#[derive(Clone, Debug)]
pub struct Segment {
    pub partition: TopicPartition,
    /// Its number within the partition.
    pub id: u64,
    pub size_bytes: u64,
    /// The hash of its file, once it is sealed.
    pub sealed: Option<Hash>,
    /// The records' fingerprints by their offsets.
    pub records: BTreeMap<i64, Hash>,
}

impl Log {
    pub fn sealed(&self) -> impl Iterator<Item = (&Path, &Segment)> {
        self.segments.iter().filter(|(_, segment)| segment.sealed.is_some()).map(|(path, one)| (&**path, one))
    }

    /// Returns the files that the broker still writes to.
    pub fn active(&self) -> impl Iterator<Item = &Path> {
        self.segments.iter().filter(|(_, segment)| segment.sealed.is_none()).map(|(path, _)| &**path)
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records: usize = self.sealed().map(|(_, segment)| segment.records.len()).sum();
        let bytes: u64 = self.sealed().map(|(_, segment)| segment.size_bytes).sum();
        write!(f, "{} sealed segments, {bytes} bytes, {records} records", self.sealed().count())
    }
}

/// A broker that writes on its own thread.
pub struct Broker {
    log: Arc<Mutex<Log>>,
    is_over: Arc<AtomicBool>,
    writing: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts to write Chronik segments below this directory.
    pub fn start(directory: &Path, plan: Plan) -> Self {
        let log = Arc::<Mutex<Log>>::default();
        let is_over = Arc::<AtomicBool>::default();
        let mut writer = Writer::new(directory, plan, Arc::clone(&log));
        let stop = Arc::clone(&is_over);
        Self { log, is_over, writing: Some(std::thread::spawn(move || writer.run(&stop))) }
    }

    /// Writes the whole plan before it returns.
    pub fn write(directory: &Path, plan: Plan) -> Log {
        let mut broker = Self::start(directory, plan);
        broker.finish();
        std::mem::take(&mut *broker.log())
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("the writer is well")
    }

    /// Shares the log with another thread.
    pub fn shared_log(&self) -> Arc<Mutex<Log>> {
        Arc::clone(&self.log)
    }

    /// Stops writing, even if the plan is not finished.
    pub fn stop(&mut self) {
        self.is_over.store(true, Relaxed);
        self.finish();
    }

    /// Waits until the whole plan is written.
    pub fn finish(&mut self) {
        if let Some(writing) = self.writing.take() {
            writing.join().expect("the writer is well");
        }
    }
}

struct Writer {
    directory: PathBuf,
    plan: Plan,
    rng: Rng,
    logs: Logs,
    open_partitions: Vec<OpenPartition>,
    log: Arc<Mutex<Log>>,
}

/// A partition and its open segment.
struct OpenPartition {
    partition: TopicPartition,
    next_offset: i64,
    id: u64,
    path: PathBuf,
    file: File,
    size_bytes: u64,
    sha256: Sha256,
}

impl Writer {
    fn new(directory: &Path, plan: Plan, log: Arc<Mutex<Log>>) -> Self {
        let partitions = plan.topics.iter().flat_map(|(topic, count)| {
            (0..*count).map(|number| TopicPartition::new(*topic, number).expect("a valid name"))
        });
        let open_partitions =
            partitions.map(|partition| OpenPartition::open(directory, partition, &log)).collect();
        let (rng, logs) = (Rng(plan.seed), Logs::new(plan.seed));
        Self { directory: directory.to_owned(), plan, rng, logs, open_partitions, log }
    }

    fn run(&mut self, is_over: &AtomicBool) {
        for _ in 0..self.plan.batches {
            if is_over.load(Relaxed) {
                break;
            }
            self.turn();
            std::thread::sleep(self.plan.pause);
        }
        self.end();
    }

    /// Writes a batch into every open segment that is empty. If one stayed empty, the end of the log would be
    /// in the segment before it, which would then stay.
    fn end(&mut self) {
        for chosen in 0..self.open_partitions.len() {
            if self.open_partitions[chosen].size_bytes == 0 {
                let batch = self.batch(chosen, 1);
                let bytes = self.encode(chosen, &batch);
                self.open_partitions[chosen].append(&bytes, &batch, &self.log);
            }
        }
    }

    /// Appends to a partition that is chosen at random.
    fn turn(&mut self) {
        let chosen = self.rng.below(self.open_partitions.len() as u64) as usize;
        let (fewest, most) = self.plan.records.clone().into_inner();
        let count = fewest + self.rng.below(most - fewest + 1);
        let mut batches = vec![self.batch(chosen, count)];
        // Offsets are reserved before their batch is appended, so another batch may be appended first.
        if self.rng.one_in(16) {
            let count = 1 + self.rng.below(5);
            batches.insert(0, self.batch(chosen, count));
        }
        for batch in batches {
            let bytes = self.encode(chosen, &batch);
            self.open_partitions[chosen].append(&bytes, &batch, &self.log);
        }
        if self.open_partitions[chosen].size_bytes >= self.plan.segment_bytes || self.rng.one_in(64) {
            self.open_partitions[chosen].roll(&self.directory, &self.log);
        }
    }

    fn batch(&mut self, chosen: usize, records: u64) -> RecordBatch {
        for _ in 0..records {
            self.logs.push(self.open_partitions[chosen].next_offset);
            self.open_partitions[chosen].next_offset += 1;
        }
        self.logs.take()
    }

    /// Encodes one frame, with or without the producer's own batch in it.
    fn encode(&mut self, chosen: usize, batch: &RecordBatch) -> Vec<u8> {
        let (head, mut wire, mut out) = (BatchHead::default(), Vec::new(), Vec::new());
        let codec = Codec::ALL[self.rng.below(Codec::ALL.len() as u64) as usize];
        kafka::encode(&head, batch, codec, &mut wire).expect("a batch");
        let partition = &self.open_partitions[chosen].partition;
        match self.rng.one_in(3) {
            true => chronik::encode_v2(partition, &head, Codec::None, batch, None, &mut out),
            false => chronik::encode_v2(partition, &head, codec, batch, Some(&wire), &mut out),
        }
        out
    }
}

impl OpenPartition {
    fn open(directory: &Path, partition: TopicPartition, log: &Mutex<Log>) -> Self {
        let folder = directory.join(partition.topic()).join(partition.partition().to_string());
        std::fs::create_dir_all(&folder).expect("a directory");
        let (path, file) = create(directory, &partition, 1, log);
        Self { partition, next_offset: 0, id: 1, path, file, size_bytes: 0, sha256: Sha256::new() }
    }

    /// Acknowledges the records once they are in the file. (The machine never crashes in these tests, so what
    /// the kernel has is durable.)
    fn append(&mut self, bytes: &[u8], batch: &RecordBatch, log: &Mutex<Log>) {
        self.file.write_all(bytes).expect("it is written");
        self.sha256.update(bytes);
        self.size_bytes += bytes.len() as u64;
        let records =
            truth::records_of(batch).into_iter().map(|record| (record.offset, fingerprint(&record)));
        let mut log = log.lock().expect("its readers are well");
        let segment = log.segments.get_mut(&self.path).expect("it was created");
        segment.records.extend(records);
        segment.size_bytes = self.size_bytes;
    }

    /// Seals the segment and opens the next one. From now on the sealed one may be deleted at any time.
    fn roll(&mut self, directory: &Path, log: &Mutex<Log>) {
        if self.size_bytes == 0 {
            return;
        }
        let hash = std::mem::take(&mut self.sha256).finalize().into();
        log.lock().expect("its readers are well").segments.get_mut(&self.path).expect("created").sealed =
            Some(hash);
        self.id += 1;
        self.size_bytes = 0;
        (self.path, self.file) = create(directory, &self.partition, self.id, log);
    }
}

/// Creates the next segment of a partition. It is logged before its file is visible.
fn create(directory: &Path, partition: &TopicPartition, id: u64, log: &Mutex<Log>) -> (PathBuf, File) {
    let (topic, number) = (partition.topic(), partition.partition());
    let path = directory.join(format!("{topic}/{number}/wal_{number}_{id}.log"));
    let records = BTreeMap::new();
    let segment = Segment { partition: partition.clone(), id, size_bytes: 0, sealed: None, records };
    log.lock().expect("its readers are well").segments.insert(path.clone(), segment);
    let file = File::create_new(&path).expect("a file");
    (path, file)
}

/// Hashes everything of a record that must be read back.
fn fingerprint(record: &Record) -> Hash {
    Sha256::digest(format!("{record:?}")).into()
}

/// Compares a store with the log: every record of the sealed segments is in it exactly once and unchanged,
/// nothing else is in it, and every sealed segment can be restored. Returns the differences.
pub async fn differences(log: &Log, store: &Store) -> Vec<String> {
    let mut bundles = Vec::new();
    for listed in store.list(&KeyPrefix::all()).await.expect("a list") {
        let object = store.get(&listed.key, BUNDLE_BYTES_MAX).await.expect("an object");
        bundles.push((listed.key.to_string(), truth::open(&object)));
    }
    [records_that_differ(log, &bundles), segments_that_differ(log, &bundles)].concat()
}

fn records_that_differ(log: &Log, bundles: &[(String, Stored)]) -> Vec<String> {
    let mut stored = BTreeMap::<_, Vec<(Hash, &str)>>::new();
    for (key, bundle) in bundles {
        let partition = (bundle.manifest.topic.as_str(), bundle.manifest.partition);
        for record in &bundle.records {
            stored.entry((partition, record.offset)).or_default().push((fingerprint(record), key));
        }
    }
    let mut differences = Vec::new();
    for (path, segment) in log.sealed() {
        let partition = (segment.partition.topic(), segment.partition.partition());
        for (offset, fingerprint) in &segment.records {
            let found = stored.remove(&(partition, *offset)).unwrap_or_default();
            let what = match &found[..] {
                [(found, _)] if found == fingerprint => continue,
                [(_, key)] => format!("is another one in {key}"),
                [] => "is missing".to_owned(),
                more => format!("is there {} times, in {:?}", more.len(), more.iter().map(|one| one.1)),
            };
            differences.push(format!("record {offset} of {} {what}", path.display()));
        }
    }
    let never_sealed =
        stored.into_iter().map(|(place, found)| format!("{place:?} in {} was never sealed", found[0].1));
    differences.into_iter().chain(never_sealed).collect()
}

/// Finds segments that cannot be restored. Bundles with the same source hash belong to the same segment.
fn segments_that_differ(log: &Log, bundles: &[(String, Stored)]) -> Vec<String> {
    let mut pieces: BTreeMap<Hash, Vec<(u64, Bytes)>> = BTreeMap::new();
    for (_, bundle) in bundles {
        pieces.entry(bundle.manifest.segment.sha256).or_default().extend(bundle.pieces.iter().cloned());
    }
    let mut restored = BTreeSet::new();
    for (stated, mut pieces) in pieces {
        pieces.sort_by_key(|(position, _)| *position);
        let mut hash = Sha256::new();
        pieces.iter().for_each(|(_, piece)| hash.update(piece));
        let hash: Hash = hash.finalize().into();
        if hash == stated {
            restored.insert(hash);
        }
    }
    let lost = log.sealed().filter(|(_, segment)| !restored.contains(&segment.sealed.expect("sealed")));
    lost.map(|(path, segment)| {
        format!("{} with {} does not come back", path.display(), hex(&segment.sealed.expect("sealed")))
    })
    .collect()
}

/// Returns the log of a broker that wrote everything at once.
fn written(directory: &Path) -> Log {
    let topics = vec![("orders", 2), ("audit", 1)];
    let (records, pause) = (1..=40, Duration::ZERO);
    Broker::write(directory, Plan { seed: 5, topics, segment_bytes: 20_000, batches: 60, records, pause })
}

async fn store_all<'a>(segments: impl Iterator<Item = (&'a Path, &'a Segment)>) -> Store {
    let store = receipts::memory();
    for (path, _) in segments {
        index(&store, std::fs::read(path).expect("a segment")).await;
    }
    store
}

async fn index(store: &Store, bytes: Vec<u8>) {
    let ingest = receipts::ingest(store.clone());
    receipts::send(&ingest, &receipts::Segment::new(bytes, None), 64 << 10).await.expect("a receipt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_holds_what_was_acknowledged_differs_from_the_log_in_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = written(directory.path());
    let store = store_all(log.sealed()).await;
    assert!(log.sealed().count() > 10 && log.active().count() == 3, "{log}");
    assert_eq!(differences(&log, &store).await, Vec::<String>::new());
}

#[test]
fn the_seed_alone_decides_what_is_written() {
    let hashes = |log: Log| log.sealed().map(|(_, segment)| segment.sealed).collect::<Vec<_>>();
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let [one, other] = directories.each_ref().map(|directory| hashes(written(directory.path())));
    assert_eq!(one, other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_missing_is_seen_and_each_of_its_records() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = written(directory.path());
    let store = store_all(log.sealed().skip(1)).await;
    let (path, first) = log.sealed().next().expect("a segment");
    let found = differences(&log, &store).await;
    let missing = |offset: &i64| format!("record {offset} of {} is missing", path.display());
    let (records, segments) = found.split_at(first.records.len());
    assert!(first.records.keys().map(missing).eq(records.iter().cloned()), "{found:#?}");
    assert!(segments.len() == 1 && segments[0].ends_with("does not come back"), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_there_twice_are_seen() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = written(directory.path());
    let store = store_all(log.sealed()).await;
    // One frame again, as its own segment.
    let frames = log.sealed().map(|(path, _)| truth::split(&std::fs::read(path).expect("its bytes").into()));
    let frame = frames.filter(|frames| frames.len() > 1).map(|mut frames| frames.remove(0)).next();
    let frame = frame.expect("a segment of several frames");
    index(&store, frame.bytes.to_vec()).await;
    let found = differences(&log, &store).await;
    assert_eq!(found.len(), truth::frame_records(&frame).len(), "{found:#?}");
    assert!(found.iter().all(|difference| difference.contains("is there 2 times")), "{found:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_otherwise_than_acknowledged_is_seen() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = written(directory.path());
    let store = store_all(log.sealed()).await;
    let (path, segment) = log.sealed().next().expect("a segment");
    let offset = *segment.records.keys().next().expect("a record");
    let check = async |wanted: &str, change: &dyn Fn(&mut Segment)| {
        let mut log = Log { segments: log.segments.clone() };
        change(log.segments.get_mut(path).expect("a segment"));
        let found = differences(&log, &store).await;
        assert!(found.len() == 1 && found[0].contains(wanted), "{found:#?}");
    };
    check("was never sealed", &|segment| _ = segment.records.remove(&offset)).await;
    check("is another one in", &|segment| _ = segment.records.insert(offset, [0; 32])).await;
    check("does not come back", &|segment| segment.sealed = Some([0; 32])).await;
}
