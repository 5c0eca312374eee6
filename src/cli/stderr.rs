//! Standard error. The reader of a pipe or a terminal may block it. So lines for these go through a bounded
//! queue to a thread of their own. A line that does not fit into the queue is dropped and counted. So a log
//! that nobody reads blocks no work, no answer, and not the end of the process.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use tracing::warn;

use crate::metrics;

/// The limits of the queue.
const WAITING_BYTES_MAX: usize = 1 << 20;
const WAITING_LINES_MAX: usize = 8_192;

/// How long to wait for the queued lines when the process ends, and before a line that must come after them.
const FLUSH_MAX: Duration = Duration::from_secs(1);

static QUEUE: OnceLock<Queue> = OnceLock::new();

struct Queue {
    entries: SyncSender<Entry>,
    waiting_bytes: AtomicUsize,
    /// Dropped lines that are not reported in the log yet.
    dropped: AtomicU64,
}

enum Entry {
    Lines(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Writes log lines to standard error, one whole line at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWriter;

/// Starts the queue, if one is needed, and sends the messages of panics through it.
pub fn start() -> io::Result<()> {
    // A file never blocks, and without a queue each line is in the file at once.
    if !is_file() {
        let (entries, received) = mpsc::sync_channel(WAITING_LINES_MAX);
        let queue = Queue { entries, waiting_bytes: AtomicUsize::new(0), dropped: AtomicU64::new(0) };
        if QUEUE.set(queue).is_ok() {
            thread::Builder::new().name("log".to_owned()).spawn(move || write_queued(&received))?;
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("{backtrace}\n"),
            _ => String::new(),
        };
        let name = thread.name().unwrap_or("unnamed");
        let _ = LogWriter.write(format!("thread '{name}' {panic}\n{backtrace}").as_bytes());
        if name == "main" {
            flush();
        }
    }));
    Ok(())
}

/// Waits until the queued lines are written, but not longer than `FLUSH_MAX`.
pub fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (written, flushed) = mpsc::sync_channel(1);
    let mut entry = Entry::Flush(written);
    let deadline = std::time::Instant::now() + FLUSH_MAX;
    while let Err(mpsc::TrySendError::Full(back)) = queue.entries.try_send(entry) {
        if std::time::Instant::now() > deadline {
            return;
        }
        entry = back;
        thread::sleep(Duration::from_millis(5));
    }
    let _ = flushed.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now()));
}

/// Prints a line beside a verb's answer, after the log lines before it.
pub fn line(text: &str) -> io::Result<()> {
    flush();
    match io::stderr().lock().write_all(format!("{text}\n").as_bytes()) {
        // If the reader has closed the pipe, nobody waits for the line.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Prints the last line of a process that fails. A failure to write it changes nothing.
pub fn last_line(text: &str) {
    let line = format!("{text}\n");
    match QUEUE.get() {
        Some(queue) => {
            queue.push(line.into_bytes());
            flush();
        }
        None => drop(io::stderr().lock().write_all(line.as_bytes())),
    }
}

impl Write for LogWriter {
    /// Takes all bytes or drops them all. It never fails, because the caller cannot handle it.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => queue.push(lines.to_vec()),
            None if io::stderr().lock().write_all(lines).is_err() => metrics::process::log_line_dropped(),
            None => {}
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn push(&self, lines: Vec<u8>) {
        let bytes = lines.len();
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // If nothing waits, a line of any length is accepted.
        let has_room = waiting == 0 || waiting + bytes <= WAITING_BYTES_MAX;
        if !has_room || self.entries.try_send(Entry::Lines(lines)).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.drop_one();
        }
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        metrics::process::log_line_dropped();
    }

    fn write(&self, lines: &[u8]) {
        let written = io::stderr().lock().write_all(lines);
        self.waiting_bytes.fetch_sub(lines.len(), Ordering::Relaxed);
        match written {
            Err(_) => self.drop_one(),
            Ok(()) => {
                let dropped = self.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    warn!(
                        lines = dropped,
                        "log lines were dropped: standard error was not read, or not writable"
                    );
                }
            }
        }
    }
}

fn write_queued(entries: &Receiver<Entry>) {
    let Some(queue) = QUEUE.get() else { return };
    for entry in entries {
        match entry {
            Entry::Lines(lines) => queue.write(&lines),
            // The caller of `flush` may have stopped waiting.
            Entry::Flush(written) => drop(written.try_send(())),
        }
    }
}

fn is_file() -> bool {
    let stderr = io::stderr();
    let cloned = stderr.as_fd().try_clone_to_owned().map(File::from);
    cloned.and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.is_file())
}
