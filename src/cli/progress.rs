//! A line for each segment, for people.

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

/// When lines are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum When {
    /// On terminals.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl When {
    /// Whether they are now.
    pub fn is_wanted(self) -> bool {
        match self {
            Self::Auto => std::io::stdout().is_terminal(),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Lines that wait for whoever reads them; more are left out.
const LINES_MAX: usize = 1_000;

/// How long the end of the process waits for the last lines.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);

/// Prints what becomes of segments, on a thread of its own: a terminal that is held must not hold the agent.
pub struct Progress {
    lines: Lines,
    /// Told when all lines are printed, and whether they could be.
    ended: Receiver<io::Result<()>>,
}

impl Progress {
    /// Lines say which directory a segment is in only where there are several.
    pub fn start(names_directories: bool) -> io::Result<Self> {
        let (sender, queue) = mpsc::sync_channel(LINES_MAX);
        let (end, ended) = mpsc::channel();
        let left_out = Arc::<AtomicU64>::default();
        let lines = Lines { sender, left_out: Arc::clone(&left_out), names_directories };
        thread::Builder::new().name("progress".to_owned()).spawn(move || {
            // Nobody may wait for it any more.
            let _ = end.send(print(&queue, &left_out));
        })?;
        Ok(Self { lines, ended })
    }

    /// What an agent tells its events to.
    pub fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let lines = self.lines.clone();
        move |event| lines.tell(event)
    }

    /// Waits for the last lines, when all agents have ended.
    pub fn finish(self) -> io::Result<()> {
        drop(self.lines);
        // Either all are printed, or nobody reads them.
        self.ended.recv_timeout(LAST_LINES_MAX).unwrap_or(Ok(()))
    }
}

/// Segments are looked after whatever becomes of the lines: the first failure is told at the end.
fn print(queue: &Receiver<String>, left_out: &AtomicU64) -> io::Result<()> {
    let mut outcome = Ok(());
    for line in queue {
        let mut stdout = io::stdout().lock();
        let lost = left_out.swap(0, Ordering::Relaxed);
        if lost > 0 {
            // Whoever closed standard output does not want lines; segments are looked after all the same.
            let _ = writeln!(stdout, "lines left out: {lost}");
        }
        match writeln!(stdout, "{line}") {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => outcome = outcome.and(Err(error)),
            _ => {}
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
    fn tell(&self, event: &Event<'_>) {
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
        words.push(terminal_escaping::one_line(&event.fate.to_string()).into_owned());
        words.join("  ")
    }
}
