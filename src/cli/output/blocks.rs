//! Standard output. Text is written at once, or in blocks if a verb prints many lines and standard output is
//! not a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cli::{CliError, Exit, stderr};

/// The size of a block in bytes.
const BLOCK_BYTES: usize = 64 << 10;

/// The text that waits to be written. `None`: each text is written at once.
static WAITING: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// Switches to writing in blocks; [`end`] writes the last one. On a terminal nothing changes, because a user
/// watches it.
pub fn in_blocks() {
    if !io::stdout().is_terminal() {
        waiting().get_or_insert_default();
    }
}

/// Prints text on standard output. If the reader has closed the pipe (`| head`), the program ends without an
/// error, as `cat` does.
pub fn print(text: &[u8]) -> Result<(), CliError> {
    let mut waiting = waiting();
    match &mut *waiting {
        None => write(text),
        Some(block) => {
            block.extend_from_slice(text);
            if block.len() < BLOCK_BYTES {
                return Ok(());
            }
            let written = write(block);
            block.clear();
            written
        }
    }
}

/// Writes the waiting text.
pub fn write_waiting() -> Result<(), CliError> {
    match &mut *waiting() {
        None => Ok(()),
        Some(block) => write(&std::mem::take(block)),
    }
}

/// Writes the waiting text before the program ends. A failure to write it is returned only if `result` is no
/// error.
pub fn end(result: Result<(), CliError>) -> Result<(), CliError> {
    let block = waiting().take().unwrap_or_default();
    match result {
        Ok(()) => write(&block),
        Err(error) => {
            // The first error is reported. A second one would add nothing.
            let _ = write_all(&block);
            Err(error)
        }
    }
}

fn write(text: &[u8]) -> Result<(), CliError> {
    match write_all(text) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            stderr::flush();
            std::process::exit(0)
        }
        Err(error) => Err(CliError::new(Exit::Failed, "standard output", &error)),
    }
}

fn write_all(text: &[u8]) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush())
}

fn waiting() -> MutexGuard<'static, Option<Vec<u8>>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}
