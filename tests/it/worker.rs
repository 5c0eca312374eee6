//! A worker as its own process, and what is needed to call it like any client: the generated stubs, with the
//! default limits of gRPC libraries.

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

/// The generated client, with its default limit of 4 MiB on replies.
pub type Client = IndexerServiceClient<Channel>;

/// A running worker, with its own store and source root on the local disk. It is killed when dropped.
pub struct Worker {
    process: Child,
    address: String,
    health: Option<String>,
    metrics: Option<String>,
    root: TempDir,
}

/// Returns the program: this build's, or the one in `WAL_INDEXER_TEST_BINARY`.
pub fn program() -> PathBuf {
    let named = std::env::var_os("WAL_INDEXER_TEST_BINARY");
    named.map_or_else(|| env!("CARGO_BIN_EXE_wal-indexer").into(), PathBuf::from)
}

/// Returns the program with these arguments, without any `WAL_INDEXER_…` variables of the user.
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

/// Runs a command to its end, which must be successful. Returns its standard output.
#[track_caller]
pub fn run<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Vec<u8> {
    let Output { status, stdout, stderr } = command(arguments).output().expect("the program starts");
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    stdout
}

/// Returns a directory as a URL.
pub fn file_url(path: &Path) -> String {
    url::Url::from_file_path(path).expect("an absolute path").into()
}

impl Worker {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a worker with more flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
        for name in ["store", "sources"] {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        let store = file_url(&root.path().join("store"));
        Self::launch(root, command::<&str>([]), &store, &[], flags)
    }

    /// Starts it through a launcher, which gets the worker's command line as arguments.
    pub fn start_by(mut launcher: Command, flags: &[&str]) -> Self {
        let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
        for name in ["store", "sources"] {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        let store = file_url(&root.path().join("store"));
        launcher.arg(program());
        Self::launch(root, launcher, &store, &[], flags)
    }

    /// Starts it on a shared store, with these environment variables.
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
        let mut printed = |what: &str| {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("a line");
            let address = line.trim_end().strip_prefix(what).map(str::to_owned);
            let log = || fs::read_to_string(root.path().join("log")).unwrap_or_default();
            address.unwrap_or_else(|| panic!("the worker said {line:?}\n{}", log()))
        };
        let address = printed("listening on ");
        let health = flags.contains(&"--health-listen").then(|| printed("health on "));
        let metrics = flags.contains(&"--metrics-listen").then(|| printed("metrics on "));
        Self { process, address, health, metrics, root }
    }

    /// Returns its metrics. It must have been started with `--metrics-listen`.
    pub fn scrape(&self) -> Scrape {
        Scrape::of(self.measured())
    }

    /// Returns the address of its metrics. It must have been started with `--metrics-listen`.
    pub fn measured(&self) -> &str {
        self.metrics.as_deref().expect("it was told to serve them")
    }

    /// Returns the address for probes. It must have been started with `--health-listen`.
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

    /// Connects from another address of this machine: for the worker, that is another host.
    pub fn channel_from(&self, host: &str) -> impl Future<Output = Channel> + use<> {
        let endpoint = Endpoint::from_shared(self.endpoint()).expect("an address");
        let endpoint = endpoint.local_address(Some(host.parse().expect("an address")));
        async move { endpoint.connect().await.expect("it listens") }
    }

    /// Returns a client on a connection as of [`Worker::channel_from`].
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

    /// Waits for its end, which must be soon.
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

    /// Returns the bytes of the object under a key.
    pub fn object(&self, key: &str) -> Bytes {
        let path = self.store().join(key);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
    }

    /// Returns the keys of all objects, except the one that workers create at their start.
    pub fn keys(&self) -> Vec<String> {
        let (store, mut files) = (self.store(), Vec::new());
        files_below(&store, &mut files);
        let key = |path: PathBuf| path.strip_prefix(&store).expect("below").to_str().map(str::to_owned);
        let mut keys: Vec<_> = files.into_iter().filter_map(key).collect();
        keys.retain(|key| !key.starts_with("wal-indexer-probe/"));
        keys.sort();
        keys
    }

    /// Returns the keys without files that are being written: those have a `#` behind their names, which no
    /// key has.
    pub fn finished_keys(&self) -> Vec<String> {
        let mut keys = self.keys();
        keys.retain(|key| !key.contains('#'));
        keys
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        let log = fs::read(self.root.path().join("log")).expect("a file");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Returns the resident bytes of files, see [`resident_file_bytes`].
    pub fn resident_file_bytes(&self) -> u64 {
        resident_file_bytes(self.pid())
    }

    /// Returns the peak of its resident memory, in bytes.
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

/// Returns `VmHWM` of a process, in bytes: the peak of its resident memory.
pub fn peak_resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

/// Returns `VmRSS` of a process, in bytes: its resident memory.
pub fn resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// Returns `RssFile` of a process, in bytes: resident pages of files, mostly the program's own file. All
/// processes that run it share them.
pub fn resident_file_bytes(pid: u32) -> u64 {
    status_bytes(pid, "RssFile:")
}

fn status_bytes(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says it");
    let kib = line.trim().strip_suffix(" kB").expect("in KiB");
    kib.parse::<u64>().expect("a number") * 1024
}

/// Returns a header for an inline source. Kafka segments and Chronik V1 segments need `named_partition`, the
/// partition.
pub fn inline(size_bytes: u64, named_partition: Option<(&str, i32)>) -> SegmentHeader {
    SegmentHeader {
        segment_id: "a:segment:1".to_owned(),
        topic: named_partition.map(|(topic, _)| topic.to_owned()),
        partition: named_partition.map(|(_, partition)| partition),
        source: Some(Source::Inline(v1::InlineSource { size_bytes, crc32c: None })),
        ..SegmentHeader::default()
    }
}

/// Returns a header for an object source.
pub fn object(url: &str, named_partition: Option<(&str, i32)>) -> SegmentHeader {
    let source = v1::ObjectSource { url: url.to_owned(), size_bytes: None, crc32c: None };
    SegmentHeader { source: Some(Source::Object(source)), ..inline(0, named_partition) }
}

pub fn header(header: SegmentHeader) -> IndexSegmentRequest {
    IndexSegmentRequest { payload: Some(Payload::Header(header)) }
}

pub fn chunk(bytes: impl Into<Bytes>) -> IndexSegmentRequest {
    IndexSegmentRequest { payload: Some(Payload::Chunk(bytes.into())) }
}

/// Sends these messages without any checks.
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

/// What a caller that uses codes and reasons gets from an error.
#[derive(Debug)]
pub struct Refusal {
    pub code: Code,
    pub reason: String,
    pub facts: HashMap<String, String>,
}

impl Refusal {
    /// Reads an error. Every error of a worker must have a reason and the domain.
    #[track_caller]
    pub fn of(status: &Status) -> Self {
        let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
        assert_eq!(info.domain, "wal-indexer", "{status:?}");
        let upper_snake = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        assert!(!info.reason.is_empty() && info.reason.chars().all(upper_snake), "{status:?}");
        assert!(!status.message().is_empty(), "{status:?}");
        Self { code: status.code(), reason: info.reason, facts: info.metadata }
    }

    /// Returns where in the segment the fault is.
    pub fn position(&self) -> Option<u64> {
        self.facts.get("position")?.parse().ok()
    }
}
