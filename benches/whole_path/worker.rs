//! Runs the release binary as a worker in a separate process, and a client that sends it segments.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;
use url::Url;
use wal_indexer::internals::bundle::{INDEX_PREFIX, RECORDS_NAME};
use wal_indexer::proto::v1::index_segment_request::Payload;
use wal_indexer::proto::v1::indexer_service_client::IndexerServiceClient;
use wal_indexer::proto::v1::segment_header::Source;
use wal_indexer::proto::v1::{
    Bundle, IndexSegmentRequest, IndexSegmentResponse, InlineSource, ObjectSource, SegmentHeader,
};

use crate::process::Process;

const CHUNK_BYTES: usize = 1 << 20;

/// The maximum size of a store before it is emptied. Files are seldom removed, because for a minute
/// afterwards ext4 examines each freed inode before it makes a new one, and that would slow down the worker.
const STORE_BYTES_MAX: u64 = 4 << 30;

/// The number of workers started so far. Each has its own store.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// A running worker. When dropped, it is stopped and its store is removed.
pub struct Worker {
    child: Child,
    store: PathBuf,
    runtime: Runtime,
    address: String,
    client: IndexerServiceClient<Channel>,
    /// The number of rounds so far. Each round has its own log id, so that each object is new.
    rounds: usize,
    stored_bytes: u64,
}

/// The differences from a worker with the defaults.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// Limits the process to this CPU.
    pub cpu: Option<usize>,
    /// More flags for `wal-indexer serve`.
    pub flags: &'a [&'a str],
    /// A store other than the worker's own directory, and the environment variables for it.
    pub store: Option<(&'a Url, &'a [(&'a str, &'a str)])>,
}

/// The receipts of one round.
#[derive(Clone, Debug)]
pub struct Stored {
    pub replies: Vec<IndexSegmentResponse>,
}

impl Stored {
    pub fn records(&self) -> u64 {
        self.replies.iter().map(|reply| reply.record_count).sum()
    }

    pub fn bundle_bytes(&self) -> u64 {
        self.bundles().map(|bundle| bundle.size_bytes).sum()
    }

    fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.replies
            .iter()
            .flat_map(|reply| &reply.partitions)
            .filter_map(|partition| partition.bundle.as_ref())
    }
}

/// The sizes of the contents of bundles, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Members {
    pub index_bytes: u64,
    pub record_bytes: u64,
    /// The whole objects, including manifests, tables and the tar format.
    pub bundle_bytes: u64,
}

impl Worker {
    /// Starts a worker with its defaults. Its store is a new directory in `directory`.
    pub fn start(directory: &Path) -> Result<Self, Box<dyn Error>> {
        Self::start_with(directory, &Options::default())
    }

    /// Starts a worker with `options`. It may also read segments in `directory`.
    pub fn start_with(directory: &Path, options: &Options<'_>) -> Result<Self, Box<dyn Error>> {
        let directory = directory.canonicalize()?;
        let store =
            directory.join(format!("bench-{}-store-{}", std::process::id(), STARTED.fetch_add(1, Relaxed)));
        fs::create_dir_all(&store)?;
        let url =
            |path: &Path| Url::from_directory_path(path).map(String::from).map_err(|()| "no absolute path");
        let binary = env!("CARGO_BIN_EXE_wal-indexer");
        let mut command = match options.cpu {
            None => Command::new(binary),
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", &cpu.to_string(), binary]);
                command
            }
        };
        let (place, variables) = match options.store {
            Some((place, variables)) => (place.to_string(), variables),
            None => (url(&store)?, &[][..]),
        };
        let mut child = command
            .args(["--log", "error", "serve", "--listen", "127.0.0.1:0"])
            .args(["--store", &place, "--source-root", &url(&directory)?])
            .args(options.flags)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let address =
            line.trim().strip_prefix("listening on ").ok_or("the worker does not say where it listens")?;
        // The thread answers the worker's pings while the other contenders run.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let address = format!("http://{address}");
        let client = runtime.block_on(IndexerServiceClient::connect(address.clone()))?;
        Ok(Self { child, store, runtime, address, client, rounds: 0, stored_bytes: 0 })
    }

    /// Sends segments over gRPC, `at_once` at a time, and waits for all receipts. The segments must be
    /// different.
    pub fn send(
        &mut self,
        segments: impl IntoIterator<Item = Bytes>,
        at_once: usize,
    ) -> Result<Stored, Box<dyn Error>> {
        let log_id = self.log_id();
        let requests: Vec<_> = segments.into_iter().map(|segment| inline(log_id.clone(), segment)).collect();
        let client = &self.client;
        let sent = stream::iter(requests).map(|requests| {
            let mut client = client.clone();
            async move { client.index_segment(stream::iter(requests)).await }
        });
        let replies = self.runtime.block_on(sent.buffer_unordered(at_once).try_collect::<Vec<_>>())?;
        Ok(self.stored(replies.into_iter().map(tonic::Response::into_inner).collect()))
    }

    /// Lets the worker read a segment file itself, so that the client has almost no work.
    pub fn read(&mut self, file: &Path) -> Result<Stored, Box<dyn Error>> {
        let url = Url::from_file_path(file).map_err(|()| "no absolute path")?.into();
        let source = Source::Object(ObjectSource { url, size_bytes: None, crc32c: None });
        let header = IndexSegmentRequest { payload: Some(Payload::Header(header(self.log_id(), source))) };
        let reply = self.runtime.block_on(self.client.index_segment(stream::iter([header])))?;
        Ok(self.stored(vec![reply.into_inner()]))
    }

    fn stored(&mut self, replies: Vec<IndexSegmentResponse>) -> Stored {
        let stored = Stored { replies };
        self.stored_bytes += stored.bundle_bytes();
        stored
    }

    fn log_id(&mut self) -> String {
        self.rounds += 1;
        format!("round-{}", self.rounds)
    }

    /// Reads the sizes of the members in the bundles, which are tar files.
    pub fn members(&self, stored: &Stored) -> Result<Members, Box<dyn Error>> {
        let mut members = Members { bundle_bytes: stored.bundle_bytes(), ..Members::default() };
        for bundle in stored.bundles() {
            let mut archive = tar::Archive::new(fs::File::open(self.store.join(&bundle.key))?);
            for entry in archive.entries_with_seek()? {
                let entry = entry?;
                match entry.path()?.to_str() {
                    Some(RECORDS_NAME) => members.record_bytes += entry.size(),
                    Some(name) if name.starts_with(INDEX_PREFIX) => members.index_bytes += entry.size(),
                    _ => {}
                }
            }
        }
        Ok(members)
    }

    /// Empties the store if it is too large. No object is read later.
    pub fn make_room(&mut self) -> Result<(), Box<dyn Error>> {
        if self.stored_bytes < STORE_BYTES_MAX {
            return Ok(());
        }
        self.stored_bytes = 0;
        for entry in fs::read_dir(&self.store)? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The address that it listens on, as a URL.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The worker's process.
    pub fn process(&self) -> Process {
        Process::of(self.child.id())
    }
}

/// A caller with its own host address. The address belongs to this machine.
pub struct Caller {
    runtime: Runtime,
    client: IndexerServiceClient<Channel>,
}

impl Caller {
    pub fn new(address: &str, host: &str) -> Result<Self, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let endpoint = Channel::from_shared(address.to_owned())?.local_address(Some(host.parse()?));
        let client = IndexerServiceClient::new(runtime.block_on(endpoint.connect())?);
        Ok(Self { runtime, client })
    }

    /// Sends one segment, which must be accepted at the first attempt.
    pub fn send(&mut self, log_id: &str, segment: &Bytes) -> Result<IndexSegmentResponse, Box<dyn Error>> {
        let requests = stream::iter(inline(log_id.to_owned(), segment.clone()));
        Ok(self.runtime.block_on(self.client.index_segment(requests))?.into_inner())
    }

    /// Sends segments, `at_once` at a time, until `stop`, and counts the receipts. If the worker has no
    /// memory, it waits for the delay that the worker returns.
    pub fn send_always(
        &mut self,
        segment: &Bytes,
        at_once: usize,
        stop: &AtomicBool,
        done: &AtomicU64,
    ) -> Result<(), Box<dyn Error>> {
        let next = AtomicUsize::new(0);
        let sends = (0..at_once).map(|_| {
            let (mut client, next) = (self.client.clone(), &next);
            async move {
                while !stop.load(Relaxed) {
                    let log_id = format!("greedy-{}", next.fetch_add(1, Relaxed));
                    match client.index_segment(stream::iter(inline(log_id, segment.clone()))).await {
                        Ok(_) => _ = done.fetch_add(1, Relaxed),
                        Err(status) if status.code() == Code::ResourceExhausted => {
                            let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
                            tokio::time::sleep(told.unwrap_or(Duration::from_secs(1))).await;
                        }
                        Err(status) => return Err(status),
                    }
                }
                Ok(())
            }
        });
        self.runtime.block_on(try_join_all(sends))?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // All measurements are done. A worker that has ended, or a directory that cannot be removed, is no
        // reason to fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.store);
    }
}

/// Returns the header, then chunks that share the segment's memory.
fn inline(log_id: String, segment: Bytes) -> impl Iterator<Item = IndexSegmentRequest> + Send + 'static {
    let source = Source::Inline(InlineSource { size_bytes: segment.len() as u64, crc32c: None });
    let chunks = (0..segment.len())
        .step_by(CHUNK_BYTES)
        .map(move |at| Payload::Chunk(segment.slice(at..segment.len().min(at + CHUNK_BYTES))));
    std::iter::once(Payload::Header(header(log_id, source)))
        .chain(chunks)
        .map(|payload| IndexSegmentRequest { payload: Some(payload) })
}

fn header(log_id: String, source: Source) -> SegmentHeader {
    SegmentHeader {
        segment_id: format!("bench:{log_id}"),
        topic: Some("logs".to_owned()),
        partition: Some(0),
        log_id,
        source: Some(source),
        ..SegmentHeader::default()
    }
}
