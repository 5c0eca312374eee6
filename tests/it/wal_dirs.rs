//! WAL directories of both layouts, with a real agent and a real worker: what is stored, deleted and kept,
//! while files change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;
use wal_indexer::generate::{Codec, Format, Size, Spec, generate};
use wal_indexer::ids::TopicPartition;
use wal_indexer::proto::v1;

use crate::processes::Process;
use crate::worker::{self, Worker, file_url};

const SOON: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// More than the agent reads ahead for a worker that accepts nothing.
const LONG_BYTES: u64 = 4 << 20;

/// Exit codes of `agent --once`.
const DONE: Option<i32> = Some(0);
const REJECTED: Option<i32> = Some(3);
const LEFT: Option<i32> = Some(5);

/// A broker's WAL directory. The worker can read it, too.
struct Site {
    worker: Worker,
    wal: PathBuf,
    logs: TempDir,
}

impl Site {
    fn new() -> Self {
        let worker = Worker::start();
        let wal = worker.sources().join("a wal");
        fs::create_dir(&wal).expect("a directory");
        Self { worker, wal, logs: TempDir::with_prefix("wal-indexer-it-").expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.wal.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, bytes).expect("a file");
    }

    /// Writes Chronik segments into one partition. Returns their bytes.
    fn chronik(&self, partition: i32, ids: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
        let write = |id| {
            let bytes = chronik("logs", partition, id, Size::Records(50));
            self.write(&name(partition, id), &bytes);
            bytes
        };
        ids.into_iter().map(write).collect()
    }

    /// Sets the modification time of a file.
    fn set_time(&self, name: &str, time: SystemTime) {
        File::options()
            .write(true)
            .open(self.path(name))
            .and_then(|file| file.set_modified(time))
            .expect("a file");
    }

    /// Returns the names of all files except the agent's own.
    fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        names_below(&self.wal, &self.wal, &mut files);
        files.retain(|name| !name.starts_with(".wal-indexer."));
        files
    }

    /// Returns an agent that is not started yet. It sends segments of any age.
    fn agent(&self, flags: &[&str]) -> Process {
        let mut arguments = vec!["agent".to_owned(), "--min-segment-age=0".to_owned()];
        arguments.extend(["--wal-dir".to_owned(), self.wal.to_str().expect("UTF-8").to_owned()]);
        arguments.extend(["--endpoint".to_owned(), self.worker.endpoint()]);
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        Process::new("agent", self.logs.path(), move || worker::command(&arguments))
    }

    /// Runs the agent once. Returns the exit code.
    fn once(&self, flags: &[&str]) -> Option<i32> {
        let mut agent = self.agent(&[flags, &["--once"]].concat());
        agent.start();
        end_of(&mut agent)
    }

    async fn stats(&self) -> v1::GetStatsResponse {
        self.worker.client().await.get_stats(v1::GetStatsRequest {}).await.expect("an answer").into_inner()
    }

    /// Restores everything that is stored. Returns the bytes of all segments, sorted.
    fn stored(&self) -> Vec<Vec<u8>> {
        let out = self.logs.path().join("restored");
        let restore = |key: String| {
            let store = file_url(&self.worker.store());
            worker::run(["restore", "--store", &store, "--out", out.to_str().expect("UTF-8"), &key]);
            fs::read(&out).expect("a file")
        };
        let mut stored: Vec<_> = self.worker.keys().into_iter().map(restore).collect();
        stored.sort();
        stored
    }
}

/// Returns a Chronik segment with unique offsets and records.
fn chronik(topic: &str, partition: i32, id: u64, size: Size) -> Vec<u8> {
    let spec = Spec {
        format: Format::ChronikV2,
        codec: Codec::None,
        size,
        seed: id * 100 + partition as u64,
        partition: TopicPartition::new(topic, partition).expect("a name"),
        base_offset: id as i64 * 1_000_000,
        ..Spec::default()
    };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("a segment");
    bytes
}

fn name(partition: i32, id: u64) -> String {
    format!("logs/{partition}/wal_{partition}_{id}.log")
}

fn names(names: impl IntoIterator<Item = (i32, u64)>) -> BTreeSet<String> {
    names.into_iter().map(|(partition, id)| name(partition, id)).collect()
}

fn names_below(root: &Path, directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => names_below(root, &path, names),
            false => {
                _ = names.insert(path.strip_prefix(root).expect("below").to_str().expect("UTF-8").to_owned())
            }
        }
    }
}

fn sorted<'a>(segments: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Vec<u8>> {
    let mut sorted: Vec<_> = segments.into_iter().cloned().collect();
    sorted.sort();
    sorted
}

#[track_caller]
fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !happened() {
        assert!(Instant::now() < deadline, "{what}: it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn end_of(agent: &mut Process) -> Option<i32> {
    let mut end = None;
    eventually("the agent's end", || {
        end = agent.ended();
        end.is_some()
    });
    end.and_then(|status| status.code())
}

/// Whether a process has this file open.
fn is_open(pid: u32, path: &Path) -> bool {
    let Ok(handles) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    handles.flatten().any(|handle| fs::read_link(handle.path()).is_ok_and(|target| target == path))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_segment_is_never_deleted_whatever_the_clocks_say() {
    let (site, now) = (Site::new(), SystemTime::now());
    let times = [now - HOUR, now, now + HOUR];
    let (mut sealed, mut newest_ones, mut in_use) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (nth, (older, newest)) in times.iter().flat_map(|a| times.iter().map(move |b| (*a, *b))).enumerate() {
        let bytes = site.chronik(nth as i32, [7, 8]);
        site.set_time(&name(nth as i32, 7), older);
        site.set_time(&name(nth as i32, 8), newest);
        newest_ones.push((newest, bytes[1].clone()));
        match older <= newest {
            true => sealed.push(bytes[0].clone()),
            // The broker may continue with the lower segment, so that one is in use, too.
            false => {
                in_use.insert(name(nth as i32, 7));
                newest_ones.push((older, bytes[0].clone()));
            }
        }
    }
    // Partitions of one segment.
    for (nth, time) in (9..).zip(times) {
        newest_ones.push((time, site.chronik(nth, [8]).remove(0)));
        site.set_time(&name(nth, 8), time);
    }
    let mut newest = names((0..12).map(|partition| (partition, 8)));
    newest.append(&mut in_use);

    assert_eq!(site.once(&[]), DONE);
    assert_eq!(site.files(), newest);
    assert_eq!(site.stored(), sorted(&sealed));

    // With `--seal-idle-after` the agent also sends newest segments that have been idle for long. It does not
    // delete them.
    let idle = newest_ones.iter().filter(|(time, _)| *time < now).map(|(_, bytes)| bytes);
    let expected = sorted(sealed.iter().chain(idle));
    for _ in 0..2 {
        assert_eq!(site.once(&["--seal-idle-after=60"]), DONE);
        assert_eq!(site.files(), newest);
        assert_eq!(site.stored(), expected);
    }
    assert_eq!(site.stats().await.segments_processed, expected.len() as u64, "nothing is sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_segment_that_grows_is_sent_again_and_goes_when_it_is_no_longer_the_newest() {
    let site = Site::new();
    let (file, flags) = (name(0, 7), ["--seal-idle-after=60"]);
    let first = chronik("logs", 0, 7, Size::Records(50));
    let grown = [first.clone(), chronik("logs", 0, 8, Size::Records(50))].concat();
    for bytes in [&first, &grown] {
        site.write(&file, bytes);
        assert_eq!(site.once(&flags), DONE, "it has just been written to");
        site.set_time(&file, SystemTime::now() - HOUR);
        assert_eq!(site.once(&flags), DONE);
        assert_eq!(site.files(), names([(0, 7)]));
    }
    assert_eq!(site.stored(), sorted([&first, &grown]));
    // Chronik creates the next file at once. It stays empty until something is written.
    site.write(&name(0, 8), b"");
    assert_eq!(site.once(&flags), DONE);
    assert_eq!(site.files(), names([(0, 7), (0, 8)]), "the end of the log is in the first one");
    site.write(&name(0, 8), &chronik("logs", 0, 9, Size::Records(50)));
    assert_eq!(site.once(&[]), DONE);
    assert_eq!(site.files(), names([(0, 8)]));
    assert_eq!(site.stats().await.segments_processed, 2, "it went on the receipt that was remembered");
}

/// What happens to a segment while it is read, and which segments are stored in the end. The partition's
/// newest segment, number 9, always stays.
struct InMidStream {
    happens: fn(&Site, &Path),
    /// The exit code of that run, and whether the sealed segment still exists then.
    exits: Option<i32>,
    leaves: bool,
    /// Whether the old bytes are stored.
    stores_old: bool,
    stores_new: Option<fn() -> Vec<u8>>,
}

fn long() -> Vec<u8> {
    chronik("logs", 0, 7, Size::Bytes(LONG_BYTES))
}

fn more() -> Vec<u8> {
    chronik("logs", 0, 8, Size::Records(50))
}

fn grown() -> Vec<u8> {
    [long(), more()].concat()
}

async fn check_in_mid_stream(case: InMidStream) {
    let site = Site::new();
    let path = site.path(&name(0, 7));
    site.write(&name(0, 7), &long());
    site.chronik(0, [9]);
    let mut agent = site.agent(&["--once"]);
    site.worker.signal("STOP");
    agent.start();
    let pid = agent.pid();
    eventually("the segment is read", || is_open(pid, &path));
    (case.happens)(&site, &path);
    site.worker.signal("CONT");
    assert_eq!(end_of(&mut agent), case.exits);
    assert_eq!(path.exists(), case.leaves);
    let old = case.stores_old.then(long);
    assert!(site.stored() == sorted(&old), "what was acknowledged is stored, and nothing else");
    // In the next run the segment does not change, and the newest segment is again the last one written to.
    site.chronik(0, [9]);
    assert_eq!(site.once(&[]), DONE);
    assert!(!path.exists());
    assert!(site.stored() == sorted(old.iter().chain(&case.stores_new.map(|bytes| bytes()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_grows_while_it_is_read_is_not_acknowledged() {
    check_in_mid_stream(InMidStream {
        happens: |_, path| {
            let mut file = File::options().append(true).open(path).expect("a file");
            file.write_all(&more()).expect("it grows");
        },
        exits: LEFT,
        leaves: true,
        stores_old: false,
        stores_new: Some(grown),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_shrinks_while_it_is_read_is_not_acknowledged() {
    check_in_mid_stream(InMidStream {
        happens: |_, path| {
            let file = File::options().write(true).open(path).expect("a file");
            file.set_len(0).expect("it shrinks");
            fs::write(path, more()).expect("to another one");
        },
        exits: LEFT,
        leaves: true,
        stores_old: false,
        stores_new: Some(more),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_written_over_while_it_is_read_is_not_acknowledged() {
    check_in_mid_stream(InMidStream {
        happens: |_, path| {
            let mut file = File::options().write(true).open(path).expect("a file");
            file.rewind().expect("its begin");
            file.write_all(&long()[..100]).expect("the same bytes, but who knows");
        },
        exits: LEFT,
        leaves: true,
        stores_old: false,
        stores_new: Some(long),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_vanishes_while_it_is_read_is_stored_and_gone() {
    for happens in [(|_, path| fs::remove_file(path).expect("it is there")) as fn(&Site, &Path), |site, _| {
        fs::remove_dir_all(site.path("logs")).expect("it is there")
    }] {
        let case = InMidStream { happens, exits: DONE, leaves: false, stores_old: true, stores_new: None };
        check_in_mid_stream(case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_segment_of_the_same_name_is_not_deleted_on_the_receipt_of_the_first() {
    check_in_mid_stream(InMidStream {
        happens: |site, path| {
            site.write("new", &more());
            // Its time is set back: if it were the last one written to, its partition would be held.
            site.set_time("new", SystemTime::now() - HOUR);
            fs::rename(site.path("new"), path).expect("a name");
        },
        exits: LEFT,
        leaves: true,
        stores_old: true,
        stores_new: Some(more),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_share_the_storage_are_pointed_to_the_segments() {
    let site = Site::new();
    let topic = "größe? 50% #1";
    let sealed = chronik(topic, 3, 1, Size::Records(50));
    site.write(&format!("{topic}/3/wal_3_1.log"), &sealed);
    site.write(&format!("{topic}/3/wal_3_2.log"), &chronik(topic, 3, 2, Size::Records(50)));
    let at = file_url(&site.wal);
    assert_eq!(site.once(&["--point-to", &at]), DONE);
    assert_eq!(site.files(), [format!("{topic}/3/wal_3_2.log")].into());
    assert_eq!(site.stored(), [sealed]);
    // Without a root that contains the URL, a worker refuses. That is no fault of the segment.
    site.chronik(0, [1, 2]);
    assert_eq!(site.once(&["--point-to", "file:///elsewhere"]), LEFT);
    assert!(site.files().is_superset(&names([(0, 1), (0, 2)])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_grows_while_a_worker_is_pointed_to_it_stays() {
    let site = Site::new();
    let (old, grown) = (chronik("logs", 0, 7, Size::Records(50)), [long(), more()].concat());
    site.write(&name(0, 7), &old);
    site.chronik(0, [9]);
    let at = file_url(&site.wal);
    let mut agent = site.agent(&["--once", "--point-to", &at]);
    site.worker.signal("STOP");
    agent.start();
    let port = site.worker.address().rsplit_once(':').expect("a port").1.parse().expect("a number");
    // It connects after it has read the segment and knows what a receipt must contain.
    eventually("the agent has a connection", || is_connected(port));
    site.write(&name(0, 7), &grown);
    site.worker.signal("CONT");
    assert_ne!(end_of(&mut agent), DONE);
    assert_eq!(site.files(), names([(0, 7), (0, 9)]), "without a note: it is another segment now");
    assert!(site.stored().is_empty());
    site.chronik(0, [9]);
    assert_eq!(site.once(&["--point-to", &at]), DONE);
    assert!(site.stored() == [grown]);
}

/// Whether a process on this machine has a connection to this port.
fn is_connected(port: u16) -> bool {
    let connections = fs::read_to_string("/proc/net/tcp").expect("Linux says it");
    let remote = format!(":{port:04X}");
    connections.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.len() > 3 && fields[2].ends_with(&remote) && fields[3] == "01"
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_segment_holds_up_deletion_until_somebody_decides() {
    let site = Site::new();
    let bytes = site.chronik(0, 1..=5);
    let (bad, note) = (name(0, 2), format!("{}.rejected.json", name(0, 2)));
    let mut damaged = bytes[1].clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    site.write(&bad, &damaged);
    site.chronik(0, [5]);
    let with_note = |ids: &[u64]| {
        let mut files = names(ids.iter().map(|id| (0, *id)));
        files.insert(note.clone());
        files
    };
    let decide = |decision, name: &str| {
        let path = site.path(name);
        worker::command([std::ffi::OsStr::new("agent"), decision, path.as_os_str()])
            .status()
            .expect("it runs")
            .code()
    };
    let (skip, retry) = (std::ffi::OsStr::new("skip"), std::ffi::OsStr::new("retry"));

    // Segments before the rejected one are deleted. Segments behind it are stored and stay.
    assert_eq!(site.once(&[]), REJECTED);
    assert_eq!(site.files(), with_note(&[2, 3, 4, 5]));
    assert_eq!(site.stored(), sorted([&bytes[0], &bytes[2], &bytes[3]]));
    let said: serde_json::Value =
        serde_json::from_slice(&fs::read(site.path(&note)).expect("a note")).expect("JSON");
    assert_eq!((&said["verdict"], &said["code"]), (&"rejected".into(), &"DATA_LOSS".into()), "{said}");
    assert_eq!(site.once(&[]), REJECTED);
    assert_eq!(site.stats().await.rejected["DATA_LOSS"], 1, "nothing is sent again");

    // The operator asks for a retry.
    assert_eq!(decide(retry, &bad), DONE);
    assert_eq!(site.files(), names([2, 3, 4, 5].map(|id| (0, id))));
    assert_eq!(site.once(&[]), REJECTED);
    assert_eq!(site.files(), with_note(&[2, 3, 4, 5]));
    assert_eq!(site.stats().await.rejected["DATA_LOSS"], 2);

    // The operator accepts the hole: segments behind it are deleted.
    assert_eq!(decide(skip, &bad), DONE);
    assert_eq!(site.once(&[]), DONE);
    assert_eq!(site.files(), with_note(&[2, 5]));
    for (decision, name) in [(skip, name(0, 5)), (skip, name(0, 7)), (retry, name(0, 5))] {
        assert_ne!(decide(decision, &name), DONE, "{name}");
    }

    // The file is repaired. That is another version, which is deleted like any other after the newest segment
    // has been written to again.
    site.write(&bad, &bytes[1]);
    site.chronik(0, [5]);
    assert_eq!(site.once(&[]), DONE);
    assert_eq!(site.files(), names([(0, 5)]));
    assert_eq!(site.stored(), sorted(&bytes[..4]));
}

/// Everything that can be seen of a file, except when it was last read.
#[derive(Debug, PartialEq)]
struct Seen {
    bytes: Vec<u8>,
    inode: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

fn seen(site: &Site) -> BTreeMap<String, Seen> {
    let look = |name: String| {
        let path = site.path(&name);
        let metadata = fs::metadata(&path).expect("a file");
        let seen = Seen {
            bytes: fs::read(&path).expect("a file"),
            inode: metadata.ino(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        (name, seen)
    };
    site.files().into_iter().map(look).collect()
}

const TOPIC_ID: &str = "kQzZ0mYyT0iZb8fL-W_3vA";

/// Writes a log directory in Kafka's layout, with a segment that Kafka's own classes wrote.
fn kafka_directory(site: &Site) -> Vec<u8> {
    let fixture = |name: &str| fs::read(Path::new("tests/fixtures/kafka").join(name)).expect("a fixture");
    let segment = fixture("apache-clients.log");
    site.write("orders-3/00000000000000123456.log", &segment);
    let spec = Spec { size: Size::Records(50), base_offset: 123_628, ..Spec::default() };
    let mut next = Vec::new();
    generate(&spec, &mut next).expect("a segment");
    site.write("orders-3/00000000000000123628.log", &next);
    for (file, bytes) in [
        ("00000000000000123456.index", &[0; 8][..]),
        ("00000000000000123456.timeindex", &[0; 12]),
        ("00000000000000123628.snapshot", &[1; 40]),
        ("00000000000000123400.log.deleted", &segment),
        ("leader-epoch-checkpoint", b"0\n1\n0 123456\n"),
        ("partition.metadata", format!("version: 0\ntopic_id: {TOPIC_ID}").as_bytes()),
    ] {
        site.write(&format!("orders-3/{file}"), bytes);
    }
    // Directories and files that must not be sent: a partition with only an active segment, a broker's own
    // topic, a directory being deleted, and files of the root.
    site.write("orders-4/00000000000000000000.log", &segment);
    for other in [
        "__consumer_offsets-0",
        "orders-5.0f6d3c1e-delete",
        "orders-6.0f6d3c1e-future",
        "orders-7.0f6d3c1e-stray",
    ] {
        site.write(&format!("{other}/00000000000000000000.log"), &segment);
        site.write(&format!("{other}/00000000000000000999.log"), &segment);
    }
    site.write("meta.properties", b"version=1\n");
    site.write("recovery-point-offset-checkpoint", b"0\n0\n");
    segment
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_directory_goes_up_once_and_its_files_are_untouched() {
    let site = Site::new();
    let segment = kafka_directory(&site);
    let before = seen(&site);
    for _ in 0..2 {
        assert_eq!(site.once(&[]), DONE);
        assert_eq!(seen(&site), before);
    }
    // A permanent agent, killed and started again. A deletion in the other layout shows that it has listed
    // both.
    let mut agent = site.agent(&["--interval=0.05"]);
    let mut others = site.chronik(0, [1]);
    for newest in 2..=4 {
        agent.start();
        others.extend(site.chronik(0, [newest]));
        eventually("a segment goes", || site.files().is_disjoint(&names([(0, newest - 1)])));
        agent.kill();
    }
    fs::remove_dir_all(site.path("logs")).expect("it is there");
    assert_eq!(seen(&site), before);
    assert_eq!(site.stats().await.segments_processed, 1 + 3);
    assert_eq!(site.stored(), sorted(others[..3].iter().chain([&segment])));
    let keys = site.worker.keys();
    let log = format!("orders/3/{TOPIC_ID}/");
    assert_eq!(keys.iter().filter(|key| key.starts_with(&log)).count(), 1, "{keys:?}");

    // Kafka rolls: the newest segment is sealed. Kafka itself deletes the one before.
    site.write("orders-3/00000000000000123900.log", b"");
    fs::remove_file(site.path("orders-3/00000000000000123456.log")).expect("it is there");
    let before = seen(&site);
    assert_eq!(site.once(&[]), DONE);
    assert_eq!(seen(&site), before);
    assert_eq!(site.stats().await.segments_processed, 1 + 3 + 1);
    let rolled = &before["orders-3/00000000000000123628.log"].bytes;
    assert_eq!(site.stored(), sorted(others[..3].iter().chain([&segment, rolled])));
}
