//! The release binary as a worker of its own process, and a client that sends it segments.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use wal_indexer::proto::v1::index_segment_request::Payload;
use wal_indexer::proto::v1::indexer_service_client::IndexerServiceClient;
use wal_indexer::proto::v1::segment_header::Source;
use wal_indexer::proto::v1::{IndexSegmentRequest, InlineSource, SegmentHeader};

use crate::process::{self, Cpu};

const CHUNK_BYTES: usize = 1 << 20;

/// A running worker; stopped and cleaned up after when dropped.
pub struct Worker {
    child: Child,
    store: PathBuf,
    runtime: Runtime,
    client: IndexerServiceClient<Channel>,
}

/// What the receipts of a round say.
pub struct Stored {
    pub records: u64,
    pub bundle_bytes: u64,
}

impl Worker {
    /// Starts a worker whose store is a new directory below `directory`.
    pub fn start(directory: &Path) -> Result<Self, Box<dyn Error>> {
        let store = directory.join(format!("bench-store-{}", std::process::id()));
        fs::create_dir_all(&store)?;
        let store = store.canonicalize()?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_wal-indexer"))
            .args(["--log", "error", "serve", "--listen", "127.0.0.1:0", "--store"])
            .arg(format!("file://{}", store.display()))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let address =
            line.trim().strip_prefix("listening on ").ok_or("the worker does not say where it listens")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(IndexerServiceClient::connect(format!("http://{address}")))?;
        Ok(Self { child, store, runtime, client })
    }

    /// Sends all segments at once and waits for their receipts.
    pub fn index_all(&mut self, segments: &[Bytes], round: usize) -> Result<Stored, Box<dyn Error>> {
        let sent = segments.iter().enumerate().map(|(nth, segment)| {
            let mut client = self.client.clone();
            let requests =
                tokio_stream::iter(requests(format!("bench:{round}:{nth}"), round, segment.clone()));
            async move { client.index_segment(requests).await }
        });
        let replies = self.runtime.block_on(futures::future::try_join_all(sent))?;
        let mut stored = Stored { records: 0, bundle_bytes: 0 };
        for reply in replies {
            let reply = reply.into_inner();
            stored.records += reply.record_count;
            let bundles = reply.partitions.into_iter().filter_map(|partition| partition.bundle);
            stored.bundle_bytes += bundles.map(|bundle| bundle.size_bytes).sum::<u64>();
        }
        Ok(stored)
    }

    /// Makes room: nobody reads the objects.
    pub fn clear_store(&self) -> Result<(), Box<dyn Error>> {
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

    /// CPU time of the worker so far.
    pub fn cpu(&self) -> Result<Cpu, Box<dyn Error>> {
        Ok(Cpu::of(&self.child.id().to_string())?)
    }

    /// Most memory the worker has had so far.
    pub fn peak_rss_bytes(&self) -> Result<u64, Box<dyn Error>> {
        Ok(process::peak_rss_bytes(&self.child.id().to_string())?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Measured already: neither a worker that is gone nor a directory that stays is worth failing for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.store);
    }
}

/// The header, then chunks that share the segment's memory. The log id is the round's: each round's objects are new.
fn requests(segment_id: String, round: usize, segment: Bytes) -> impl Iterator<Item = IndexSegmentRequest> {
    let header = SegmentHeader {
        segment_id,
        topic: Some("logs".to_owned()),
        partition: Some(0),
        log_id: format!("round-{round}"),
        source: Some(Source::Inline(InlineSource { size_bytes: segment.len() as u64, crc32c: None })),
        ..SegmentHeader::default()
    };
    let chunks = (0..segment.len())
        .step_by(CHUNK_BYTES)
        .map(move |at| Payload::Chunk(segment.slice(at..segment.len().min(at + CHUNK_BYTES))));
    std::iter::once(Payload::Header(header))
        .chain(chunks)
        .map(|payload| IndexSegmentRequest { payload: Some(payload) })
}
