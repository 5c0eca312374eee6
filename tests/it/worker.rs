//! A worker as a process of its own, and what is needed to talk to it as any client would: the generated stubs and the
//! limits that gRPC libraries come with.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use wal_indexer::proto::v1::index_segment_request::Payload;
use wal_indexer::proto::v1::indexer_service_client::IndexerServiceClient;
use wal_indexer::proto::v1::segment_header::Source;
use wal_indexer::proto::v1::{self, IndexSegmentRequest, IndexSegmentResponse, SegmentHeader};

use crate::metrics::Scrape;

/// The client as it is generated, with the limit of 4 MiB on replies that it comes with.
pub type Client = IndexerServiceClient<Channel>;

/// A running worker, with a store and a source root of its own on the local disk. Ends with the value.
pub struct Worker {
    process: Child,
    address: String,
    health: Option<String>,
    metrics: Option<String>,
    root: TempDir,
}

/// The program: this build's, or the one that `WAL_INDEXER_TEST_BINARY` names.
pub fn program() -> PathBuf {
    let named = std::env::var_os("WAL_INDEXER_TEST_BINARY");
    named.map_or_else(|| env!("CARGO_BIN_EXE_wal-indexer").into(), PathBuf::from)
}

/// The program with these arguments and none of the settings of whoever runs the tests.
pub fn command<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if ["WAL_INDEXER_", "OTEL_"].iter().any(|ours| name.to_string_lossy().starts_with(ours)) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a verb to its end, which must be a good one; returns what it printed.
#[track_caller]
pub fn run<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Vec<u8> {
    let Output { status, stdout, stderr } = command(arguments).output().expect("the program starts");
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    stdout
}

/// A directory as a URL.
pub fn file_url(path: &Path) -> String {
    url::Url::from_file_path(path).expect("an absolute path").into()
}

impl Worker {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
        for name in ["store", "sources"] {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        let store = file_url(&root.path().join("store"));
        Self::launch(root, command::<&str>([]), &store, &[], flags)
    }

    /// As a program that is given this program's command line.
    pub fn start_by(mut launcher: Command, flags: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
        for name in ["store", "sources"] {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        let store = file_url(&root.path().join("store"));
        launcher.arg(program());
        Self::launch(root, launcher, &store, &[], flags)
    }

    /// On a store that it shares with others, and with these variables in its environment.
    pub fn start_on(store: &str, variables: &[(&str, &str)], flags: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
        fs::create_dir(root.path().join("sources")).expect("a directory");
        Self::launch(root, command::<&str>([]), store, variables, flags)
    }

    fn launch(
        root: TempDir,
        mut command: Command,
        store: &str,
        variables: &[(&str, &str)],
        flags: &[&str],
    ) -> Self {
        let log = File::create(root.path().join("log")).expect("a file");
        let mut process = command
            .arg("serve")
            .args(if flags.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] })
            .envs(variables.iter().copied())
            .args(["--store", store])
            .args(["--source-root", &file_url(&root.path().join("sources"))])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut told = |what: &str| {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("a line");
            let address = line.trim_end().strip_prefix(what).map(str::to_owned);
            let log = || fs::read_to_string(root.path().join("log")).unwrap_or_default();
            address.unwrap_or_else(|| panic!("the worker said {line:?}\n{}", log()))
        };
        let address = told("listening on ");
        let health = flags.contains(&"--health-listen").then(|| told("health on "));
        let metrics = flags.contains(&"--metrics-listen").then(|| told("metrics on "));
        Self { process, address, health, metrics, root }
    }

    /// What it measures; it must have been started with `--metrics-listen`.
    pub fn scrape(&self) -> Scrape {
        Scrape::of(self.measured())
    }

    /// Where it shows what it measures; it must have been started with `--metrics-listen`.
    pub fn measured(&self) -> &str {
        self.metrics.as_deref().expect("it was told to serve them")
    }

    /// Where it answers probes; it must have been started with `--health-listen`.
    pub fn health(&self) -> &str {
        self.health.as_deref().expect("it was told to answer them")
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.endpoint()).expect("an address").connect().await.expect("it listens")
    }

    /// From an address of this host's: for the worker, another host.
    pub fn channel_from(&self, host: &str) -> impl Future<Output = Channel> + use<> {
        let endpoint = Endpoint::from_shared(self.endpoint()).expect("an address");
        let endpoint = endpoint.local_address(Some(host.parse().expect("an address")));
        async move { endpoint.connect().await.expect("it listens") }
    }

    /// As [`Worker::channel_from`].
    pub fn client_from(&self, host: &str) -> impl Future<Output = Client> + use<> {
        let channel = self.channel_from(host);
        async move { IndexerServiceClient::new(channel.await) }
    }

    pub async fn client(&self) -> Client {
        IndexerServiceClient::new(self.channel().await)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal, by its name: `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for its end, which must come soon.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.process.try_wait().expect("it is ours") {
                Some(status) => return status,
                None => assert!(Instant::now() < deadline, "it goes on"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    pub fn sources(&self) -> PathBuf {
        self.root.path().join("sources")
    }

    /// The bytes of the object under a key.
    pub fn object(&self, key: &str) -> Bytes {
        let path = self.store().join(key);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
    }

    /// The keys of all objects but the one that workers leave when they start.
    pub fn keys(&self) -> Vec<String> {
        let (store, mut files) = (self.store(), Vec::new());
        files_below(&store, &mut files);
        let key = |path: PathBuf| path.strip_prefix(&store).expect("below").to_str().map(str::to_owned);
        let mut keys: Vec<_> = files.into_iter().filter_map(key).collect();
        keys.retain(|key| !key.starts_with("wal-indexer-probe/"));
        keys.sort();
        keys
    }

    /// The same without the files that are being written: they have a `#` behind their names, which no key has.
    pub fn finished_keys(&self) -> Vec<String> {
        let mut keys = self.keys();
        keys.retain(|key| !key.contains('#'));
        keys
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.root.path().join("log")).expect("a file");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The resident bytes of files, see [`resident_file_bytes`].
    pub fn resident_file_bytes(&self) -> u64 {
        resident_file_bytes(self.pid())
    }

    /// The most memory that the process ever had resident, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        peak_resident_bytes(self.pid())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it ends");
        if std::thread::panicking() {
            let log = fs::read_to_string(self.root.path().join("log")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(30).collect();
            eprintln!("the worker's last lines, latest first:\n{}", last.join("\n"));
        }
    }
}

fn files_below(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true => files_below(&entry.path(), files),
            false => files.push(entry.path()),
        }
    }
}

/// `VmHWM` of a process, in bytes: the most that it ever had resident.
pub fn peak_resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

/// `VmRSS` of a process, in bytes: what it has resident now.
pub fn resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// `RssFile` of a process, in bytes: what of files it has resident, above all the program's own. All who run it share that.
pub fn resident_file_bytes(pid: u32) -> u64 {
    status_bytes(pid, "RssFile:")
}

fn status_bytes(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says it");
    let kib = line.trim().strip_suffix(" kB").expect("in KiB");
    kib.parse::<u64>().expect("a number") * 1024
}

/// A header for an inline source; Kafka's and V1's need the partition.
pub fn inline(size_bytes: u64, told: Option<(&str, i32)>) -> SegmentHeader {
    SegmentHeader {
        segment_id: "a:segment:1".to_owned(),
        topic: told.map(|(topic, _)| topic.to_owned()),
        partition: told.map(|(_, partition)| partition),
        source: Some(Source::Inline(v1::InlineSource { size_bytes, crc32c: None })),
        ..SegmentHeader::default()
    }
}

/// A header for an object source.
pub fn object(url: &str, told: Option<(&str, i32)>) -> SegmentHeader {
    let source = v1::ObjectSource { url: url.to_owned(), size_bytes: None, crc32c: None };
    SegmentHeader { source: Some(Source::Object(source)), ..inline(0, told) }
}

pub fn header(header: SegmentHeader) -> IndexSegmentRequest {
    IndexSegmentRequest { payload: Some(Payload::Header(header)) }
}

pub fn chunk(bytes: impl Into<Bytes>) -> IndexSegmentRequest {
    IndexSegmentRequest { payload: Some(Payload::Chunk(bytes.into())) }
}

/// Sends these messages, whatever they are.
pub async fn send(
    client: &mut Client,
    messages: Vec<IndexSegmentRequest>,
) -> Result<IndexSegmentResponse, Status> {
    Ok(client.index_segment(stream::iter(messages)).await?.into_inner())
}

/// Sends a segment as a header and chunks of `chunk_bytes`.
pub async fn send_inline(
    client: &mut Client,
    first: SegmentHeader,
    bytes: &[u8],
    chunk_bytes: usize,
) -> Result<IndexSegmentResponse, Status> {
    let chunks = bytes.chunks(chunk_bytes).map(|bytes| chunk(bytes.to_vec()));
    send(client, [header(first)].into_iter().chain(chunks).collect()).await
}

/// What a caller that acts on codes and reasons learns from an error.
#[derive(Debug)]
pub struct Refusal {
    pub code: Code,
    pub reason: String,
    pub facts: HashMap<String, String>,
}

impl Refusal {
    /// Every error of a worker says its reason, and who says so.
    #[track_caller]
    pub fn of(status: &Status) -> Self {
        let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
        assert_eq!(info.domain, "wal-indexer", "{status:?}");
        let upper_snake = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        assert!(!info.reason.is_empty() && info.reason.chars().all(upper_snake), "{status:?}");
        assert!(!status.message().is_empty(), "{status:?}");
        Self { code: status.code(), reason: info.reason, facts: info.metadata }
    }

    /// Where in the segment the fault lies.
    pub fn position(&self) -> Option<u64> {
        self.facts.get("position")?.parse().ok()
    }
}
