//! `demo`: the whole path in one run. It has WAL directories of brokers, the agent and two workers as
//! separate processes, and a local store.

use std::fs::{self, DirEntry, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::{CliError, Exit, output, runtime, store};
use crate::formatting::hex;
use crate::generate::{self, Codec, Format, Size, Spec};
use crate::ids::TopicPartition;
use crate::store::KeyPrefix;

/// The query that the demo runs.
const QUERY: &str = "level:error status:>=500";

/// Generate WAL directories, let the agent empty them into a local store, search the store, and restore a
/// segment.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory to work in. It is kept afterwards. Default: a temporary directory that is removed at the
    /// end.
    #[arg(long, env = "WAL_INDEXER_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the demo.
pub fn run(args: Args) -> Result<(), CliError> {
    let kept = args.dir.is_some();
    let dir = args
        .dir
        .unwrap_or_else(|| std::env::temp_dir().join(format!("wal-indexer-demo-{}", std::process::id())));
    let result = demonstrate(&dir);
    if !kept {
        // If the directory cannot be removed, it stays among other temporary files. Only the result of the
        // demo counts.
        let _ = fs::remove_dir_all(&dir);
    }
    result
}

fn demonstrate(dir: &Path) -> Result<(), CliError> {
    let (wal, kafka, store) = (dir.join("wal"), dir.join("kafka"), dir.join("store"));
    write_chronik(&wal)?;
    write_kafka(&kafka)?;
    print("Two brokers' logs; each partition's newest segment is in use:")?;
    show(&[&wal, &kafka], dir)?;
    let oldest = wal.join("orders/0/wal_0_1.log");
    let sealed = sha256_of(&oldest)?;

    let store_url = url::Url::from_directory_path(&store)
        .map_err(|()| CliError::because(Exit::Usage, "--dir must be an absolute path"))?;
    let workers = [Worker::start(&store_url)?, Worker::start(&store_url)?];
    let began = Instant::now();
    print("\n$ wal-indexer agent --wal-dir wal --wal-dir kafka --endpoint WORKER --endpoint WORKER --once")?;
    let mut flags =
        vec!["--log", "error", "agent", "--once", "--min-segment-age", "0", "--progress", "always"];
    flags.extend(["--wal-dir", "wal", "--wal-dir", "kafka"]);
    workers.iter().for_each(|worker| flags.extend(["--endpoint", &worker.endpoint]));
    verb(dir, &flags)?;
    print(&format!(
        "\nAfter {}, Chronik's stored segments are deleted; Kafka deletes its own:",
        output::duration(began.elapsed())
    ))?;
    show(&[&wal, &kafka], dir)?;

    print(&format!("\n$ wal-indexer search '{QUERY}' --topic orders --limit 3"))?;
    verb(dir, &["search", QUERY, "--topic", "orders", "--limit", "3", "--store", store_url.as_str()])?;

    let key = first_key(&store_url, "orders", 0)?;
    let restored = dir.join("restored.log");
    print("\n$ wal-indexer restore KEY --out restored.log")?;
    verb(dir, &["restore", &key, "--store", store_url.as_str(), "--out", "restored.log"])?;
    let now = sha256_of(&restored)?;
    if sealed != now {
        return Err(CliError::because(Exit::Corrupt, format!("restored {now}, sealed was {sealed}")));
    }
    print(&format!("sha256 of {} as it was sealed: {sealed}: byte for byte the same.", below(&oldest, dir)))
}

/// Runs one of the program's own verbs in `dir`, as a separate process, as a user would.
fn verb(dir: &Path, args: &[&str]) -> Result<(), CliError> {
    let failed = |error: &dyn std::error::Error| CliError::new(Exit::Failed, args[0], error);
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let ended = Command::new(program).args(args).current_dir(dir).status().map_err(|error| failed(&error))?;
    if !ended.success() {
        return Err(CliError::because(Exit::Failed, format!("{}: {ended}", args[0])));
    }
    Ok(())
}

/// Writes two partitions in Chronik's layout, three segments each. The last segment of each is the active
/// one.
fn write_chronik(wal: &Path) -> Result<(), CliError> {
    for partition in [0, 1] {
        let mut base_offset = 0;
        for id in 1..=3 {
            let path = wal.join(format!("orders/{partition}/wal_{partition}_{id}.log"));
            let codec = if partition == 0 { Codec::None } else { Codec::Lz4 };
            let seed = 10 * partition as u64 + id;
            base_offset = write_segment(
                &path,
                &Spec {
                    format: Format::ChronikV2,
                    codec,
                    size: Size::Bytes(if id == 3 { 200 << 10 } else { 1 << 20 }),
                    seed,
                    partition: TopicPartition::new("orders", partition).expect("a valid name"),
                    base_offset,
                    ..Spec::default()
                },
            )?;
        }
    }
    Ok(())
}

/// Writes one partition in Kafka's layout: one sealed segment and the active one.
fn write_kafka(log_dir: &Path) -> Result<(), CliError> {
    let partition = log_dir.join("payments-0");
    let mut base_offset = 0;
    for (seed, bytes) in [(30, 1 << 20), (31, 200 << 10)] {
        let path = partition.join(format!("{base_offset:020}.log"));
        let spec = Spec {
            codec: Codec::Zstd,
            size: Size::Bytes(bytes),
            seed,
            partition: TopicPartition::new("payments", 0).expect("a valid name"),
            base_offset,
            ..Spec::default()
        };
        base_offset = write_segment(&path, &spec)?;
    }
    let metadata = partition.join("partition.metadata");
    fs::write(&metadata, "version: 0\ntopic_id: 5vE5Vl0eRkWxCWq2kmqPpQ\n")
        .map_err(|error| failed(&metadata, &error))
}

/// Writes a segment and returns the offset after its last one.
fn write_segment(path: &Path, spec: &Spec) -> Result<i64, CliError> {
    let failed = |error: &dyn std::error::Error| failed(path, error);
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(|error| failed(&error))?;
    let mut out = BufWriter::new(File::create(path).map_err(|error| failed(&error))?);
    let summary = generate::generate(spec, &mut out).map_err(|error| failed(&error))?;
    out.flush().map_err(|error| failed(&error))?;
    Ok(summary.partitions.first().map_or(0, |partition| partition.range.last() + 1))
}

/// Lists the segments below these directories.
fn show(roots: &[&Path], dir: &Path) -> Result<(), CliError> {
    let mut segments = Vec::new();
    for root in roots {
        find_segments(root, &mut segments)?;
    }
    for path in segments {
        let bytes = fs::metadata(&path).map_err(|error| failed(&path, &error))?.len();
        print(&format!("  {:>10}  {}", output::bytes(bytes), below(&path, dir)))?;
    }
    Ok(())
}

fn find_segments(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut paths: Vec<_> =
        entries.map_err(|error| failed(directory, &error))?.iter().map(DirEntry::path).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            find_segments(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    Ok(())
}

/// Returns the key of the bundle with a partition's first offsets.
fn first_key(store: &url::Url, topic: &str, partition: i32) -> Result<String, CliError> {
    let partition = TopicPartition::new(topic, partition).expect("a valid name");
    let listed = runtime()?.block_on(async {
        let store = store::open(store)?;
        store
            .list(&KeyPrefix::partition(&partition))
            .await
            .map_err(|error| CliError::new(Exit::Failed, "the store", &error))
    })?;
    let first = listed.into_iter().min_by_key(|listed| listed.key.range().first());
    first
        .map(|listed| listed.key.to_string())
        .ok_or_else(|| CliError::because(Exit::NotFound, format!("{partition} is not in the store")))
}

fn failed(path: &Path, error: &dyn std::error::Error) -> CliError {
    CliError::new(Exit::Failed, &path.display().to_string(), error)
}

/// The path relative to `dir`.
fn below(path: &Path, dir: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}

fn print(text: &str) -> Result<(), CliError> {
    output::line(text)
}

fn sha256_of(path: &Path) -> Result<String, CliError> {
    let bytes = fs::read(path).map_err(|error| failed(path, &error))?;
    Ok(hex(&Sha256::digest(&bytes)))
}

/// A worker in a separate process. It is stopped with SIGKILL at the end, because it holds no state.
struct Worker {
    process: Child,
    endpoint: String,
}

impl Worker {
    fn start(store: &url::Url) -> Result<Self, CliError> {
        let failed =
            |error: &dyn std::error::Error| CliError::new(Exit::Failed, "cannot start a worker", error);
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut process = Command::new(program)
            .args(["--log", "error", "serve", "--listen", "127.0.0.1:0", "--store", store.as_str()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        let mut line = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut line).map_err(|error| failed(&error))?;
        }
        let mut worker = Self { process, endpoint: String::new() };
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            let waited = worker.process.wait().map_err(|error| failed(&error))?;
            return Err(CliError::because(Exit::Failed, format!("the worker ended with {waited}")));
        };
        worker.endpoint = format!("http://{address}");
        Ok(worker)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
