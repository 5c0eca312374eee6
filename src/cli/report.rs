//! Prints what a verb does to a store while it does it. The work continues to its end, even if standard output
//! fails, so a failure is kept until then.

use std::cell::RefCell;
use std::io::{self, Write};

use serde::Serialize;

use super::{CliError, Exit};

/// Remembers whether printing failed.
pub struct Report(RefCell<io::Result<()>>);

impl Report {
    /// Nothing was printed yet.
    pub fn new() -> Self {
        Self(RefCell::new(Ok(())))
    }

    /// Notes how one line went.
    pub fn note(&self, printed: io::Result<()>) {
        if printed.is_err() {
            *self.0.borrow_mut() = printed;
        }
    }

    /// Fails if a line could not be printed.
    pub fn end(self) -> Result<(), CliError> {
        self.0.into_inner().map_err(|error| CliError::new(Exit::Failed, "standard output", &error))
    }
}

/// Prints a line on standard output. A closed pipe is no error: the exit code still reports the outcome.
pub fn print_line(line: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// The same, for a value as JSON.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    print_line(&serde_json::to_string(value)?)
}

/// `1 bundle`, `2 bundles`.
pub fn bundles(count: u64) -> String {
    format!("{count} bundle{}", if count == 1 { "" } else { "s" })
}
