//! Standard output: at once, or in blocks where a verb prints many lines that nobody watches.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cli::{CliError, Exit, stderr};

/// How much is written at once, in bytes.
const BLOCK_BYTES: usize = 64 << 10;

/// What waits to be written; `None`: nothing waits, each text is written at once.
static WAITING: Mutex<Option<Vec<u8>>> = Mutex::new(None);

/// From now on, what is printed is written in blocks, and the last one by [`end`]. On a terminal somebody watches: there all is written
/// at once.
pub fn in_blocks() {
    if !io::stdout().is_terminal() {
        waiting().get_or_insert_default();
    }
}

/// Text on standard output. A reader that has gone (`| head`) ends the program quietly, as it would end `cat`.
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

/// Writes what waits.
pub fn write_waiting() -> Result<(), CliError> {
    match &mut *waiting() {
        None => Ok(()),
        Some(block) => write(&std::mem::take(block)),
    }
}

/// Writes what waits, before the program ends as `result` says. Its own failure counts where nothing else has failed.
pub fn end(result: Result<(), CliError>) -> Result<(), CliError> {
    let block = waiting().take().unwrap_or_default();
    match result {
        Ok(()) => write(&block),
        Err(error) => {
            // Why it ends is told anyway.
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
