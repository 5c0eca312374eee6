//! Tiered storage, from outside: real Kafka brokers with the plugin of `kafka/`, real workers, a real store.

mod absence;
mod admin;
mod batches;
mod cluster;
mod copies;
mod lag;
mod late;
mod lifecycle;
mod planted;
mod replicas;
mod round_trip;
mod struck;
mod workers;
