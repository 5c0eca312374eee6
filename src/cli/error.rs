//! How a verb fails: one line on standard error, and an exit code that a script can act on.

use std::error::Error;
use std::process::ExitCode;

use tonic::{Code, Status};

use super::stderr;
use crate::formatting::{chain, code_name};
use crate::ingest::IngestError;
use crate::rpc::status::of_ingest;

/// What an exit code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Data is corrupt, or not what it should be.
    Corrupt = 3,
    /// There is no such thing.
    NotFound = 4,
    /// Not now; the same again later may do.
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

    /// Failed for a reason that is no error of the library's.
    pub fn because(exit: Exit, line: impl Into<String>) -> Self {
        Self { exit, line: line.into() }
    }

    /// The value of `flag` cannot be used.
    pub fn flag(flag: &str, cause: &dyn Error) -> Self {
        Self::new(Exit::Usage, flag, cause)
    }

    /// A worker said no.
    pub fn status(what: &str, status: &Status) -> Self {
        let line = format!("{what}: {}: {}", code_name(status.code()), status.message());
        // What came in the place of an answer says why further down: "certificate required", say.
        let line = match status.source() {
            Some(cause) => format!("{line}: {}", chain(cause)),
            None => line,
        };
        Self { exit: exit_of(status.code()), line }
    }

    /// The same, to a question: what is asked stands on the command line, and where it cannot be answered, that is what is wrong.
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

    /// What the process will exit with.
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
