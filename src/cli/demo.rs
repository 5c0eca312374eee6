//! `demo`: the main job on one screen. A broker's WAL directory, a real worker in a process of its own, a local store.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::{CliError, Exit, output, runtime};
use crate::client::Connection;
use crate::generate::{self, Codec, Format, Size, Spec};
use crate::ids::TopicPartition;
use crate::proto::v1;

/// What is searched for in the demo.
const QUERY: &str = "level:error status:>=500";

/// Generate a WAL directory, index it with a worker on a free port, delete it, search it, and restore a segment.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to work; kept afterwards. Default: a directory that is removed in the end.
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
        // What cannot be removed lies among other temporary files; the demo's own result is what counts.
        let _ = fs::remove_dir_all(&dir);
    }
    result
}

fn demonstrate(dir: &Path) -> Result<(), CliError> {
    let failed = |what: &str, error: &dyn std::error::Error| CliError::new(Exit::Failed, what, error);
    let (wal, store) = (dir.join("wal"), dir.join("store"));
    fs::create_dir_all(&wal).map_err(|error| failed("the WAL directory", &error))?;
    let segments = write_segments(&wal)?;
    let total: u64 = segments.iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len()).sum();
    say(&format!("A broker sealed {} segments, {}:", segments.len(), output::bytes(total)))?;

    let store_url = url::Url::from_directory_path(&store)
        .map_err(|()| CliError::because(Exit::Usage, "--dir must be an absolute path"))?;
    let worker = Worker::start(&store_url)?;
    let began = Instant::now();
    let (receipts, took) = runtime()?.block_on(async {
        let mut client =
            Connection::connect(&worker.endpoint).await.map_err(|error| failed("the worker", &error))?;
        let mut receipts = Vec::new();
        for path in &segments {
            let header = v1::SegmentHeader { segment_id: name(path), ..Default::default() };
            let header =
                v1::SegmentHeader { topic: topic_of(path), partition: topic_of(path).map(|_| 0), ..header };
            receipts
                .push(client.index_file(header, path).await.map_err(|error| failed(&name(path), &error))?);
        }
        Ok::<_, CliError>((receipts, began.elapsed()))
    })?;
    output::line(&indented(&output::receipts_in_short(&receipts)))?;
    let records: u64 = receipts.iter().map(|receipt| receipt.record_count).sum();
    let stored: u64 = receipts
        .iter()
        .flat_map(|receipt| &receipt.partitions)
        .filter_map(|one| one.bundle.as_ref())
        .map(|bundle| bundle.size_bytes)
        .sum();
    say(&format!(
        "{records} records are searchable and durable, in {} of bundles, after {}. The broker deletes its copies:",
        output::bytes(stored),
        output::duration(took)
    ))?;

    let sealed = sha256_of(&segments[0])?;
    for path in &segments {
        fs::remove_file(path).map_err(|error| failed(&name(path), &error))?;
        say(&format!("  rm wal/{}", name(path)))?;
    }
    say(&format!("\n$ wal-indexer search '{QUERY}' --topic orders --limit 3"))?;
    verb(&["search", QUERY, "--topic", "orders", "--limit", "3", "--store", store_url.as_str()])?;

    let keys = receipts[0].partitions.iter().filter_map(|one| Some(one.bundle.as_ref()?.key.as_str()));
    let restored = dir.join("restored.log");
    let out = restored.to_string_lossy();
    say(&format!(
        "\n$ wal-indexer restore {} --out restored.log",
        "KEY ".repeat(keys.clone().count()).trim_end()
    ))?;
    let flags = ["--store", store_url.as_str(), "--out", &out];
    verb(&["restore"].into_iter().chain(keys).chain(flags).collect::<Vec<_>>())?;
    let now = sha256_of(&restored)?;
    if sealed != now {
        return Err(CliError::because(Exit::Corrupt, format!("restored {now}, sealed was {sealed}")));
    }
    say(&format!(
        "sha256 of {} as the broker sealed it: {sealed}: byte for byte the same.",
        name(&segments[0])
    ))
}

/// Runs one of the program's own verbs in a process of its own, as anybody would.
fn verb(args: &[&str]) -> Result<(), CliError> {
    let failed = |error: &dyn std::error::Error| CliError::new(Exit::Failed, args[0], error);
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let ended = Command::new(program).args(args).status().map_err(|error| failed(&error))?;
    if !ended.success() {
        return Err(CliError::because(Exit::Failed, format!("{}: {ended}", args[0])));
    }
    Ok(())
}

/// Four segments as two brokers would leave them.
fn write_segments(wal: &Path) -> Result<Vec<PathBuf>, CliError> {
    let one = NonZeroU32::MIN;
    let spec = |format, codec, topic: &str, seed| {
        let partition = TopicPartition::new(topic, 0).expect("the demo's topics are valid");
        Spec {
            format,
            codec,
            size: Size::Bytes(2 << 20),
            seed,
            partition,
            partitions: one,
            ..Spec::default()
        }
    };
    let three = NonZeroU32::new(3).unwrap_or(one);
    let specs = [
        ("wal_0_1.log", Spec { partitions: three, ..spec(Format::ChronikV2, Codec::None, "orders", 1) }),
        (
            "wal_0_2.log",
            Spec {
                partitions: three,
                base_offset: 5_000,
                ..spec(Format::ChronikV2, Codec::Lz4, "orders", 2)
            },
        ),
        ("payments-00000000000000000000.log", spec(Format::Kafka, Codec::Zstd, "payments", 3)),
        ("clicks-00000000000000000000.log", spec(Format::Kafka, Codec::None, "clicks", 4)),
    ];
    let mut paths = Vec::new();
    for (name, spec) in specs {
        let path = wal.join(name);
        let file = File::create(&path).map_err(|error| CliError::new(Exit::Failed, name, &error))?;
        let mut out = BufWriter::new(file);
        generate::generate(&spec, &mut out).map_err(|error| CliError::new(Exit::Failed, name, &error))?;
        std::io::Write::flush(&mut out).map_err(|error| CliError::new(Exit::Failed, name, &error))?;
        paths.push(path);
    }
    Ok(paths)
}

/// Kafka's segments don't say their topic: their files' names do. Chronik's frames do.
fn topic_of(path: &Path) -> Option<String> {
    let name = name(path);
    let (topic, _) = name.split_once('-')?;
    Some(topic.to_owned())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn say(text: &str) -> Result<(), CliError> {
    output::line(text)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!(" {line}")).collect::<Vec<_>>().join("\n")
}

fn sha256_of(path: &Path) -> Result<String, CliError> {
    let bytes = fs::read(path).map_err(|error| CliError::new(Exit::Failed, &name(path), &error))?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A worker in a process of its own, stopped with SIGKILL in the end: it holds no state.
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
        // Either fails only where the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
