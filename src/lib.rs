//! wal-indexer takes index building off a log broker's back.
//!
//! The story, in the order of the modules: a sealed [`segment`]'s bytes become [`record`]s; the records become an
//! [`index`]; index and frames become a [`bundle`]; the [`store`] keeps it and says so; [`ingest`] tells the whole of it.

pub mod bundle;
pub mod generate;
pub mod ids;
pub mod index;
pub mod proto;
pub mod record;
pub mod segment;
pub mod store;
