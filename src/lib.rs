//! wal-indexer takes index building off a log broker's back.
//!
//! The story, in the order of the modules: a sealed [`segment`]'s bytes become [`record`]s; the records become an
//! [`index`]; index and frames become a [`bundle`]; the [`store`] keeps it and says so; [`ingest`] tells the whole of it.
//! Back it goes by [`archive`], one bundle, and [`registry`], all of them: [`search`], [`fetch`], [`restore`], [`verify`].

pub mod agent;
pub mod archive;
pub mod atomic_file;
pub mod budget;
pub mod bundle;
pub mod cli;
pub mod client;
pub mod cpu;
pub mod expire;
pub mod export;
pub mod fetch;
pub mod formatting;
pub mod generate;
pub mod ids;
pub mod index;
pub mod ingest;
pub mod inspect;
#[cfg(feature = "delete-records")]
pub mod log_start;
pub mod metrics;
pub mod orphan_cleanup;
pub mod proto;
pub mod rate_limit;
pub mod record;
pub mod registry;
pub mod restore;
pub mod rpc;
pub mod search;
pub mod segment;
pub mod server;
pub mod spans;
pub mod stats;
pub mod store;
pub mod telemetry;
pub mod transactions;
pub mod verify;
pub mod wal;
