//! wal-indexer builds search indexes for a log broker. It turns sealed segments of a write-ahead log into
//! searchable and restorable objects in S3, GCS, Azure or on a local disk.
//!
//! # What to use for what
//!
//! | To | use | feature |
//! |---|---|---|
//! | send segments to workers from a broker | [`client::Client`] | `client` |
//! | watch a broker's sealed segments, send them, and delete what is stored | [`agent::Agent`] over a [`wal::SealedSegments`] | `agent` |
//! | search and fetch records of bundles | [`search::Searcher`], [`fetch::fetch`] | `search` |
//! | restore a segment's bytes, or check a bundle | [`restore::restore`], [`verify::verify`] | `search` |
//! | build bundles in this process | [`ingest::Ingest`] | `worker` |
//! | serve the gRPC API | [`server::run`] | `worker` |
//! | make segments for the tests of a broker | [`generate::generate`] | `cli` |
//! | split segments into frames and records | [`segment::FrameSplitter`] | any |
//!
//! The default feature `full` has all of them, the command line, and the clients of clouds (`clouds`). A
//! broker that only sends segments takes `default-features = false, features = ["client"]`, and builds
//! neither Tantivy nor object_store.
//!
//! # Index a file
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let home = std::env::temp_dir().join(format!("wal-indexer-doc-index-{}", std::process::id()));
//! # std::fs::create_dir_all(&home)?;
//! # let path = home.join("00000000000000000000.log");
//! # let mut bytes = Vec::new();
//! # wal_indexer::generate::generate(&Default::default(), &mut bytes)?;
//! # std::fs::write(&path, bytes)?;
//! use wal_indexer::ingest::{Ingest, Request, RequestParts, file_chunks};
//! use wal_indexer::store::Store;
//!
//! let store = Store::open(&url::Url::from_directory_path(&home).expect("an absolute path"))?;
//! // Up to 512 MiB of memory for all segments together.
//! let ingest = Ingest::start(store, 512 << 20)?;
//! let file = tokio::fs::File::open(&path).await?;
//! let request = Request::new(RequestParts {
//!     segment_id: "00000000000000000000.log".to_owned(),
//!     size_bytes: file.metadata().await?.len(),
//!     topic: Some("orders".to_owned()),
//!     partition: Some(0),
//!     ..RequestParts::default()
//! })?;
//! let receipt = ingest.run(request, Box::pin(file_chunks(file))).await?;
//! // From here on the bundles are a whole copy of the segment.
//! for one in &receipt.partitions {
//!     println!("{} records are in {}", one.records, one.stored.key());
//! }
//! # std::fs::remove_dir_all(&home)?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # Send a segment to workers
//!
//! ```no_run
//! # async fn send() -> Result<(), Box<dyn std::error::Error>> {
//! use std::path::PathBuf;
//!
//! use wal_indexer::client::{Client, Payload, Request, Security, Timeouts};
//! use wal_indexer::ids::{LogId, TopicPartition};
//!
//! /// A segment in a file. Each attempt reads it from its start.
//! struct Segment {
//!     path: PathBuf,
//!     size_bytes: u64,
//! }
//!
//! impl Payload for Segment {
//!     type Bytes = tokio::fs::File;
//!
//!     fn size_bytes(&self) -> u64 {
//!         self.size_bytes
//!     }
//!
//!     async fn open(&self) -> std::io::Result<tokio::fs::File> {
//!         tokio::fs::File::open(&self.path).await
//!     }
//! }
//!
//! let workers = vec!["http://indexer:50070".parse()?];
//! let client = Client::start(workers, Security::default(), Timeouts::default()).await?;
//! let request = Request::new("00000000000000000000.log", TopicPartition::new("orders", 0)?, LogId::new("1"));
//! let path = PathBuf::from("/var/lib/broker/orders-0/00000000000000000000.log");
//! let segment = Segment { size_bytes: std::fs::metadata(&path)?.len(), path };
//! let receipt = client.index(&request, &segment).await?;
//! // The receipt is about exactly these bytes. The broker may delete its copy now.
//! println!("{} records are stored", receipt.digest().records);
//! # Ok(())
//! # }
//! ```
//!
//! # Search
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let home = std::env::temp_dir().join(format!("wal-indexer-doc-search-{}", std::process::id()));
//! # std::fs::create_dir_all(&home)?;
//! use wal_indexer::search::{self, BundleCache, Request};
//! use wal_indexer::store::Store;
//!
//! let store = Store::open(&url::Url::from_directory_path(&home).expect("an absolute path"))?;
//! // Keeps up to 64 MiB of what it read of bundles.
//! let bundle_cache = BundleCache::new(store, 64 << 20);
//! let answer = search::search(&bundle_cache, &Request::new("orders", "level:error")?).await?;
//! for found in &answer.records {
//!     println!("{}/{}@{}", found.partition.topic(), found.partition.partition(), found.record.offset);
//! }
//! # std::fs::remove_dir_all(&home)?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! A worker, which searches for many callers at a time, uses a [`search::Searcher`]: it bounds memory and
//! time.
// Some functions of the shared modules have no caller in a smaller set of features.
#![cfg_attr(not(feature = "full"), allow(dead_code, unused_imports))]

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "search")]
pub mod expire;
#[cfg(feature = "search")]
pub mod fetch;
#[cfg(any(test, feature = "cli"))]
pub mod generate;
#[cfg(feature = "search")]
pub mod hidden;
pub mod ids;
#[cfg(feature = "worker")]
pub mod ingest;
#[cfg(feature = "api")]
pub mod proto;
#[cfg(feature = "search")]
pub mod reconcile;
#[cfg(feature = "search")]
pub mod restore;
#[cfg(feature = "search")]
pub mod search;
pub mod segment;
#[cfg(feature = "worker")]
pub mod server;
#[cfg(feature = "search")]
pub mod store;
#[cfg(feature = "search")]
pub mod verify;
#[cfg(feature = "agent")]
pub mod wal;

#[cfg(feature = "search")]
mod archive;
#[cfg(any(feature = "agent", feature = "search"))]
mod atomic_file;
#[cfg(feature = "search")]
mod budget;
#[cfg(feature = "search")]
mod bundle;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "worker")]
mod copies;
#[cfg(feature = "worker")]
mod cpu;
#[cfg(feature = "search")]
mod export;
mod formatting;
#[cfg(feature = "search")]
mod index;
#[cfg(feature = "search")]
mod inspect;
#[cfg(feature = "search")]
mod log_by_log;
#[cfg(feature = "delete-records")]
mod log_start;
#[cfg(any(feature = "client", feature = "search"))]
mod metrics;
#[cfg(feature = "worker")]
mod orphan_cleanup;
#[cfg(feature = "search")]
mod rate_limit;
mod record;
#[cfg(feature = "search")]
mod registry;
#[cfg(feature = "worker")]
mod rpc;
#[cfg(any(feature = "client", feature = "search"))]
mod spans;
#[cfg(feature = "worker")]
mod stats;
#[cfg(feature = "cli")]
mod telemetry;
#[cfg(feature = "search")]
mod transactions;

/// The private modules, for the tests, benches and examples of this project. They may change in any version.
#[cfg(feature = "full")]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod internals {
    macro_rules! internals {
        ($($name:ident)+) => { $(pub mod $name { pub use super::super::$name::*; })+ };
    }
    internals!(archive budget bundle cpu formatting index record registry rpc stats transactions);
}
