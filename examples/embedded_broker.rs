//! A broker in Rust that sends its sealed segments to the workers itself: without a sidecar, and without
//! reading its directory to find them.
//!
//!     cargo run --example embedded_broker                           # with a worker in this process
//!     cargo run --example embedded_broker -- http://127.0.0.1:7070  # with workers that run elsewhere
//!
//! The broker must implement [`SealedSegments`]: which segments there are, their bytes, and their deletion.
//! The agent decides what to send when and to which worker, and when a segment may be deleted.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use wal_indexer::agent::{Agent, Checkpoint, InFlightLimit, Settings};
use wal_indexer::client::{Client, Receipt, Security, Timeouts};
use wal_indexer::generate::{Size, Spec, generate};
use wal_indexer::ids::{LogId, SegmentFormat, TopicPartition};
use wal_indexer::ingest::Ingest;
use wal_indexer::search::{self, BundleCache, Searcher};
use wal_indexer::server;
use wal_indexer::store::{KeyPrefix, SourceRoots, Store};
use wal_indexer::wal::{Listing, Reading, Rejection, SealedSegments, Segment, Verdict, Version, WalError};

/// A broker with one partition. Its log is a series of sealed files.
struct Broker {
    directory: PathBuf,
    partition: TopicPartition,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    next_offset: i64,
    next_segment: u64,
    sealed: BTreeMap<u64, Sealed>,
}

#[derive(Clone)]
struct Sealed {
    size_bytes: u64,
    sealed_at: SystemTime,
    rejected: Option<Rejection>,
}

impl Broker {
    fn new(directory: PathBuf) -> Result<Self, Box<dyn Error>> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, partition: TopicPartition::new("orders", 0)?, log: Mutex::default() })
    }

    /// Writes new records as a segment, and seals it.
    fn append_and_seal(&self, records: u64) -> Result<(), Box<dyn Error>> {
        let mut log = self.log();
        let spec = Spec {
            partition: self.partition.clone(),
            size: Size::Records(records),
            seed: log.next_segment,
            base_offset: log.next_offset,
            ..Spec::default()
        };
        let mut bytes = Vec::new();
        generate(&spec, &mut bytes)?;
        let mut file = File::create(self.path(log.next_segment))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        let sealed = Sealed { size_bytes: bytes.len() as u64, sealed_at: SystemTime::now(), rejected: None };
        let id = log.next_segment;
        log.sealed.insert(id, sealed);
        log.next_segment += 1;
        log.next_offset += records as i64;
        Ok(())
    }

    fn sealed_segments(&self) -> usize {
        self.log().sealed.len()
    }

    fn path(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{id}.segment"))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The broker as the agent sees it.
struct Offered(Arc<Broker>);

impl SealedSegments for Offered {
    async fn list(&self) -> Result<Listing, WalError> {
        let broker = &self.0;
        let segment = |(id, sealed): (&u64, &Sealed)| Segment {
            name: id.to_string(),
            partition: broker.partition.clone(),
            log_id: LogId::new("example"),
            format: Some(SegmentFormat::KafkaLog),
            position: *id,
            version: Version { size_bytes: sealed.size_bytes, changed_at: sealed.sealed_at, identity: *id },
            may_grow: false,
            broker_deletes: false,
            verdict: sealed.rejected.as_ref().map(|_| Verdict::Rejected),
            change_time: None,
            bounds: None,
        };
        Ok(broker.log().sealed.iter().map(segment).collect::<Vec<_>>().into())
    }

    async fn open(&self, segment: &Segment) -> Result<Reading, WalError> {
        let file = tokio::fs::File::open(self.0.path(segment.position)).await;
        Ok(Box::pin(file.map_err(|source| failed("open", segment, source))?))
    }

    async fn delete(&self, segment: &Segment, receipt: &Receipt) -> Result<(), WalError> {
        // A real broker would store the new place of the records in its metadata, so that it can serve them
        // from there.
        println!("segment {segment}: {} records are in {}", receipt.data_records(), receipt.keys().join(" "));
        let removed = match fs::remove_file(self.0.path(segment.position)) {
            // The file may be gone already. The sync of the directory makes that durable.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        let synced = removed.and_then(|()| File::open(&self.0.directory)?.sync_all());
        synced.map_err(|source| failed("delete", segment, source))?;
        self.0.log().sealed.remove(&segment.position);
        Ok(())
    }

    async fn reject(&self, segment: &Segment, rejection: &Rejection) -> Result<(), WalError> {
        if let Some(sealed) = self.0.log().sealed.get_mut(&segment.position) {
            sealed.rejected = Some(rejection.clone());
        }
        Ok(())
    }
}

fn failed(what: &str, segment: &Segment, source: std::io::Error) -> WalError {
    WalError::Io { what: format!("{what} segment {segment}"), source }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let home = std::env::temp_dir().join(format!("wal-indexer-example-{}", std::process::id()));
    let result = embed(&home).await;
    fs::remove_dir_all(&home)?;
    result
}

async fn embed(home: &Path) -> Result<(), Box<dyn Error>> {
    let broker = Arc::new(Broker::new(home.join("log"))?);
    let store = home.join("store");
    let endpoint = match std::env::args().nth(1) {
        Some(endpoint) => endpoint,
        None => start_worker(&store).await?,
    };

    let client = Client::start(vec![endpoint.parse()?], Security::default(), Timeouts::default()).await?;
    let checkpoint = Checkpoint::open(home, "orders").await?;
    let settings = Settings {
        interval: Duration::from_millis(200),
        min_segment_age: Duration::ZERO,
        ..Settings::default()
    };
    let in_flight_limit = InFlightLimit::new(NonZeroUsize::new(4).ok_or("no slots")?);
    let agent =
        Agent::new("broker", Offered(Arc::clone(&broker)), client, checkpoint, in_flight_limit, settings);
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = tokio::spawn(agent.run(async {
        // An error means that the sender is gone, which also stops the agent.
        let _ = stopped.await;
    }));

    for _ in 0..5 {
        broker.append_and_seal(400)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while broker.sealed_segments() > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The send fails only if the agent has already ended.
    let _ = stop.send(());
    let summary = agent.await?;
    println!("{} segments are stored and deleted", summary.deleted);
    Ok(())
}

/// Starts a worker on a free port in this process, as `wal-indexer serve` does.
async fn start_worker(store: &Path) -> Result<String, Box<dyn Error>> {
    fs::create_dir_all(store)?;
    let url = url::Url::from_directory_path(store).map_err(|()| "the store needs an absolute path")?;
    let store = Store::open(&url)?;
    store.probe().await?;
    println!("bundles go to {url}{}", KeyPrefix::topic("orders").as_str());
    let bundle_cache = BundleCache::new(store.clone(), 64 << 20);
    let searcher =
        Searcher::new(bundle_cache.clone(), search::MEMORY_BYTES_DEFAULT, search::TIME_MAX_DEFAULT);
    let role = server::IndexRole {
        ingest: Ingest::start(store, 512 << 20)?,
        sources: SourceRoots::default(),
        worker_id: "embedded".to_owned(),
        bundle_cache,
    };
    let config = server::Config {
        index: Some(role),
        search: Some(searcher),
        policy: server::ConnectionPolicy::default(),
        drain_max: Duration::from_secs(5),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(server::run(listener, config, std::future::pending()));
    Ok(format!("http://{address}"))
}
