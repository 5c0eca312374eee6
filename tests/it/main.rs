//! The integration tests: one binary, so that everything links once.

mod faults;
mod generated;
mod hostile;
mod lost_answers;
mod servers;
mod stores;
