//! The integration tests: one binary, so that everything links once.

mod abuse;
mod broker;
mod chaos;
mod concurrency;
mod corruption;
mod faults;
mod fixtures;
mod generated;
mod hostile;
mod kill;
mod lessons;
mod lost_answers;
mod processes;
mod python;
mod read_back;
mod receipts;
mod requests;
mod servers;
mod sizes;
mod storefaults;
mod stores;
mod tidy;
mod truth;
mod worker;
mod written;
