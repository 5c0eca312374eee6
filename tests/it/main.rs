//! The integration tests: one binary, so that everything links once.

mod abuse;
mod corruption;
mod faults;
mod fixtures;
mod generated;
mod hostile;
mod lost_answers;
mod read_back;
mod requests;
mod servers;
mod sizes;
mod stores;
mod tidy;
mod truth;
mod worker;
mod written;
