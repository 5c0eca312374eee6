//! The integration tests: one binary, so that everything links once.

mod faults;
mod generated;
mod hostile;
mod lost_answers;
mod read_back;
mod servers;
mod stores;
mod written;
