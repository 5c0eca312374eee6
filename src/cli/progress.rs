//! The agent's progress output: one line for each segment.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use time::OffsetDateTime;
use time::macros::format_description;

use super::{output, terminal_escaping};
use crate::agent::Event;

/// When to print lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum When {
    /// Only if standard output is a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl When {
    /// Returns whether lines are to be printed.
    pub fn is_wanted(self) -> bool {
        match self {
            Self::Auto => std::io::stdout().is_terminal(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// The maximum number of lines that wait to be printed. Further lines are dropped and counted.
const LINES_MAX: usize = 1_000;

/// How long the process waits for the last lines when it ends.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);

/// Prints the outcome of each segment, on a thread of its own. A terminal that blocks must not block the
/// agent.
pub struct Progress {
    lines: Lines,
    /// Receives the outcome when all lines are printed.
    ended: Receiver<io::Result<()>>,
}

impl Progress {
    /// Starts the thread. With `names_directories`, each line names the segment's directory too.
    pub fn start(names_directories: bool) -> io::Result<Self> {
        let (sender, queue) = mpsc::sync_channel(LINES_MAX);
        let (end, ended) = mpsc::channel();
        let left_out = Arc::<AtomicU64>::default();
        let lines = Lines { sender, left_out: Arc::clone(&left_out), names_directories };
        thread::Builder::new().name("progress".to_owned()).spawn(move || {
            // The receiver may be gone: `finish` waits for a limited time only.
            let _ = end.send(print(&queue, &left_out, io::stdout()));
        })?;
        Ok(Self { lines, ended })
    }

    /// Returns the observer that receives an agent's events.
    pub fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let lines = self.lines.clone();
        move |event| lines.report(event)
    }

    /// Waits for the last lines after all agents have ended.
    pub fn finish(self) -> io::Result<()> {
        drop(self.lines);
        // On a timeout nobody reads the lines, and that is no error.
        self.ended.recv_timeout(LAST_LINES_MAX).unwrap_or(Ok(()))
    }
}

/// Prints the queued lines, and returns the first failure at the end. A failure to print does not stop the
/// agent: a line that cannot be printed counts as left out.
fn print(queue: &Receiver<String>, left_out: &AtomicU64, mut out: impl Write) -> io::Result<()> {
    let mut outcome = Ok(());
    for line in queue {
        let lost = left_out.swap(0, Ordering::Relaxed);
        let text = match lost {
            0 => format!("{line}\n"),
            _ => format!("lines left out: {lost}\n{line}\n"),
        };
        // Standard output's own buffer keeps nothing of whole lines whose write fails.
        if let Err(error) = out.write_all(text.as_bytes()) {
            left_out.fetch_add(lost + 1, Ordering::Relaxed);
            if error.kind() != io::ErrorKind::BrokenPipe {
                outcome = outcome.and(Err(error));
            }
        }
    }
    outcome
}

#[derive(Clone)]
struct Lines {
    sender: SyncSender<String>,
    left_out: Arc<AtomicU64>,
    names_directories: bool,
}

impl Lines {
    fn report(&self, event: &Event<'_>) {
        let line = self.describe(event, OffsetDateTime::now_utc());
        if self.sender.try_send(line).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn describe(&self, event: &Event<'_>, now: OffsetDateTime) -> String {
        let time = now.format(format_description!("[hour]:[minute]:[second]Z")).unwrap_or_default();
        let name = terminal_escaping::one_line(&event.segment.name);
        let name = match self.names_directories {
            true => format!("{}/{name}", terminal_escaping::one_line(event.agent)),
            false => name.into_owned(),
        };
        let mut words = vec![time, name, output::bytes(event.segment.version.size_bytes)];
        if let Some(receipt) = event.receipt {
            words.push(format!("{} records", receipt.digest().records));
            words.push(receipt.worker().to_owned());
        }
        words.extend(event.took.map(output::duration));
        words.push(terminal_escaping::one_line(&event.outcome.to_string()).into_owned());
        words.join("  ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a write only where the script says so.
    struct Scripted<'a> {
        takes: &'a [bool],
        text: Vec<u8>,
    }

    impl Write for &mut Scripted<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (takes, rest) = self.takes.split_first().expect("no more writes");
            self.takes = rest;
            if !takes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_left_out_stay_counted_until_their_number_is_printed() {
        let (sender, queue) = mpsc::channel();
        ["one", "two", "three", "four"]
            .into_iter()
            .for_each(|line| sender.send(line.to_owned()).expect("sent"));
        drop(sender);
        let mut out = Scripted { takes: &[false, false, true, true], text: Vec::new() };
        let outcome = print(&queue, &AtomicU64::new(5), &mut out);
        assert_eq!(outcome.expect_err("the first failure").kind(), io::ErrorKind::StorageFull);
        assert_eq!(String::from_utf8(out.text).expect("text"), "lines left out: 7\nthree\nfour\n");
    }
}
