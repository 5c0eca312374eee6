//! The integration tests: one binary, so that everything links once.

mod generated;
mod hostile;
