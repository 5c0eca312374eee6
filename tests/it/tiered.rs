//! Tiered storage, from outside: real Kafka brokers with the plugin of `kafka/`, real workers, a real store.

mod admin;
mod batches;
mod cluster;
mod round_trip;
mod workers;
