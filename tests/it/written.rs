//! Bundles to read: the fixtures, stored in a directory by the write path.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use base64::prelude::*;
use bytes::Bytes;
use futures::stream;
use serde_json::Value;
use url::Url;
use wal_indexer::ingest::{Ingest, Receipt, Request, RequestParts, Timeouts, TornTail};
use wal_indexer::internals::archive::BundleCache;
use wal_indexer::internals::budget::Budget;
use wal_indexer::internals::cpu::Cpu;
use wal_indexer::internals::index::Settings;
use wal_indexer::internals::stats::Stats;
use wal_indexer::search::{self, Searcher};
use wal_indexer::store::{BundleKey, KeyPrefix, Store};

/// A directory with a store in it, and space for files beside it.
pub struct Written {
    pub dir: tempfile::TempDir,
    pub ingest: Ingest,
}

impl Written {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let url = Url::from_directory_path(dir.path().join("store")).expect("a url");
        let ingest = Ingest {
            store: Store::open(&url).expect("a store"),
            cpu: Cpu::start(NonZeroUsize::MIN.saturating_add(1)).expect("threads"),
            budget: Budget::new(1 << 30),
            settings: Arc::new(Settings::default()),
            stats: Stats::default(),
            timeouts: Timeouts::default(),
            spill: None,
        };
        Self { dir, ingest }
    }

    /// Indexes a segment. Frames that do not name their partition belong to `orders`/3.
    pub async fn put(&self, name: &str, source: &Bytes) -> Receipt {
        self.put_as(name, source, "").await
    }

    /// The same, as part of the log with this id.
    pub async fn put_as(&self, name: &str, source: &Bytes, log_id: &str) -> Receipt {
        let is_named = name.contains("chronik/v2");
        let parts = RequestParts {
            segment_id: name.to_owned(),
            topic: (!is_named).then(|| "orders".to_owned()),
            partition: (!is_named).then_some(3),
            size_bytes: source.len() as u64,
            torn_tail: TornTail::Keep,
            log_id: log_id.to_owned(),
            ..RequestParts::default()
        };
        let chunks: Vec<_> = source.chunks(1_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let request = Request::new(parts).expect("a request");
        self.ingest.run(request, stream::iter(chunks)).await.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn store(&self) -> &Store {
        &self.ingest.store
    }

    /// Returns a searcher of the store.
    pub fn searcher(&self) -> Searcher {
        let bundle_cache = BundleCache::new(self.store().clone(), 64 << 20);
        Searcher::new(bundle_cache, search::MEMORY_BYTES_DEFAULT, search::TIME_MAX_DEFAULT)
    }

    /// Returns the keys of all bundles, in order.
    pub async fn keys(&self) -> Vec<String> {
        let listed = self.store().list(&KeyPrefix::all()).await.expect("a listing");
        listed.iter().map(|one| one.key.to_string()).collect()
    }

    /// Returns the file of a bundle.
    pub fn file(&self, key: &BundleKey) -> PathBuf {
        self.dir.path().join("store").join(key.to_string())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program with this store.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_wal-indexer"))
            .args(arguments)
            .env("WAL_INDEXER_STORE", self.store().url())
            .output()
            .expect("the program runs");
        Ran::new(output)
    }
}

/// The exit code and the output of the program.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Runs a command to its end.
    pub fn of(mut command: Command) -> Self {
        Self::new(command.output().expect("the program runs"))
    }

    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let code = output.status.code().expect("it was not killed");
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// Returns standard output as JSON, line by line.
    pub fn json(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Returns where the first block begins in a bundle's bytes: behind the tar header that names `records.zst`.
pub fn blocks_at(object: &[u8]) -> usize {
    let header = object.windows(11).position(|bytes| bytes == b"records.zst").expect("a member");
    header + 512
}

pub fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn fixture(name: &str) -> Bytes {
    std::fs::read(fixture_path(name)).unwrap_or_else(|error| panic!("{name}: {error}")).into()
}

/// A topic, a partition, and the file with their expected records.
pub type Part<'a> = (&'a str, i32, String);

/// Returns every fixture, with its parts.
pub fn fixtures() -> Vec<(String, Vec<Part<'static>>)> {
    let mut names = Vec::new();
    for (folder, extension) in [("chronik", ".wal"), ("kafka", ".log")] {
        for entry in std::fs::read_dir(fixture_path(folder)).expect("the fixtures are there") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            if let Some(stem) = name.strip_suffix(extension) {
                names.push((format!("{folder}/{name}"), partitions(stem)));
            }
        }
    }
    names.sort();
    assert!(names.len() >= 30, "{names:?}");
    names
}

/// Returns the parts of a fixture, by the fixtures' README.
fn partitions(stem: &str) -> Vec<Part<'static>> {
    let of = |topic, partition, name: &str| (topic, partition, format!("kafka/{name}.expected.json"));
    match stem {
        "empty" => vec![],
        "v2-three-partitions" => {
            vec![of("audit.events_eu", 7, "zstd"), of("orders", 0, "none"), of("orders", 1, "gzip")]
        }
        "v1" | "v1-zero-length-crc" | "v2-frames-out-of-order" => vec![of("orders", 3, "none")],
        "v2-zero-length-crc" => vec![of("orders", 3, "gzip")],
        "v2-old-shape" => vec![of("orders", 3, "zstd")],
        "v1-then-v2" => vec![of("orders", 3, "none"), of("orders", 3, "gzip")],
        name => vec![of("orders", 3, name.strip_prefix("v2-").unwrap_or(name))],
    }
}

/// Returns what an independent reader found in a fixture: offset, time, key, value, headers.
pub fn expected(name: &str) -> Vec<ExpectedRecord> {
    let expected: Value = serde_json::from_slice(&fixture(name)).expect("JSON");
    let records = expected["records"].as_array().expect("records");
    records.iter().map(ExpectedRecord::new).collect()
}

/// Returns the expected contents of a fixture, by topic and partition, in the order of its parts.
pub fn expected_of<'a>(name: &str, parts: &[Part<'a>]) -> BTreeMap<(&'a str, i32), Vec<ExpectedRecord>> {
    let mut wanted: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (nth, (topic, partition, file)) in parts.iter().enumerate() {
        let is_v1 = name.starts_with("chronik/v1") && nth == 0;
        let records = expected(file).into_iter();
        let records = records.map(|record| if is_v1 { record.through_v1() } else { record });
        wanted.entry((*topic, *partition)).or_default().extend(records);
    }
    wanted
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExpectedRecord {
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl ExpectedRecord {
    fn new(record: &Value) -> Self {
        let bytes = |value: &Value| value.as_str().map(|text| BASE64_STANDARD.decode(text).expect("base64"));
        let headers = record["headers"].as_array().expect("headers").iter();
        Self {
            offset: record["offset"].as_i64().expect("an offset"),
            timestamp_ms: record["timestamp"].as_i64().filter(|time| *time != -1),
            key: bytes(&record["key"]),
            value: bytes(&record["value"]),
            headers: headers
                .map(|header| (header[0].as_str().expect("a name").to_owned(), bytes(&header[1])))
                .collect(),
        }
    }

    /// Converts a record to what a V1 frame can hold: V1 has no null value.
    pub fn through_v1(mut self) -> Self {
        self.value.get_or_insert_default();
        self.headers.iter_mut().for_each(|(_, value)| {
            value.get_or_insert_default();
        });
        self
    }
}
