//! The failure of a verb: one line on standard error, and an exit code that a script can act on.

use std::error::Error;
use std::process::ExitCode;

use tonic::{Code, Status};

use super::stderr;
use crate::formatting::{chain, code_name};
use crate::ingest::IngestError;
use crate::rpc::status::of_ingest;

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The verb failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Data is corrupt or not as expected.
    Corrupt = 3,
    /// Not found.
    NotFound = 4,
    /// Not possible now. A retry may succeed.
    Again = 5,
}

/// A verb's failure.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    line: String,
}

impl CliError {
    /// `what` failed because of `cause`.
    pub fn new(exit: Exit, what: &str, cause: &dyn Error) -> Self {
        Self { exit, line: format!("{what}: {}", chain(cause)) }
    }

    /// A failure that has no error value as its cause.
    pub fn because(exit: Exit, line: impl Into<String>) -> Self {
        Self { exit, line: line.into() }
    }

    /// The value of `flag` cannot be used.
    pub fn flag(flag: &str, cause: &dyn Error) -> Self {
        Self::new(Exit::Usage, flag, cause)
    }

    /// A worker answered with an error status.
    pub fn status(what: &str, status: &Status) -> Self {
        let line = format!("{what}: {}: {}", code_name(status.code()), status.message());
        // Failures of the connection have their cause as a source, for example "certificate required".
        let line = match status.source() {
            Some(cause) => format!("{line}: {}", chain(cause)),
            None => line,
        };
        Self { exit: exit_of(status.code()), line }
    }

    /// Like [`CliError::status`], for a query. The query is on the command line, so `INVALID_ARGUMENT` means
    /// that the command line is wrong.
    pub fn question(what: &str, status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument => Self::because(Exit::Usage, format!("{what}: {}", status.message())),
            _ => Self::status(what, status),
        }
    }

    /// A segment was not indexed.
    pub fn ingest(what: &str, error: &IngestError) -> Self {
        Self::status(what, &of_ingest(error))
    }

    /// The exit code of the process.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// The line for standard error.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Prints the line and returns the code.
    pub fn report(&self) -> ExitCode {
        stderr::last_line(&format!("error: {}", self.line));
        ExitCode::from(self.exit as u8)
    }
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::DataLoss => Exit::Corrupt,
        Code::NotFound => Exit::NotFound,
        Code::ResourceExhausted
        | Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted => Exit::Again,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => Exit::Failed,
    }
}
