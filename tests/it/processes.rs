//! Processes that are killed and started again, on fixed addresses.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long a process may take until it listens, or ends.
const SOON: Duration = Duration::from_secs(60);

/// A process that can be stopped and started. It is killed when dropped.
pub struct Process {
    pub name: String,
    command: Box<dyn Fn() -> Command + Send>,
    log: PathBuf,
    child: Option<Child>,
    /// How often it was started.
    pub starts: u32,
}

impl Process {
    /// Creates it without starting it. Its output goes to a file in `logs`.
    pub fn new(name: impl Into<String>, logs: &Path, command: impl Fn() -> Command + Send + 'static) -> Self {
        let name = name.into();
        let log = logs.join(format!("{name}.log"));
        Self { name, command: Box::new(command), log, child: None, starts: 0 }
    }

    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).expect("a file");
        let mut command = (self.command)();
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        self.child = Some(command.spawn().expect("the program starts"));
        self.starts += 1;
    }

    /// Sends `SIGKILL`. Returns false if it was not running.
    pub fn kill(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        true
    }

    /// Whether it was started, and nobody has killed it or waited for its end since.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let told = Command::new("kill").args(["-s", "TERM", &self.pid().to_string()]).status();
        assert!(told.expect("kill runs").success());
    }

    /// Waits until it ends, which must be soon.
    pub fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} goes on", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns its exit status if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("it is ours")?;
        self.child = None;
        Some(status)
    }

    /// Waits until something listens at this address.
    pub fn listens(&mut self, address: &str) {
        let deadline = Instant::now() + SOON;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.ended() {
                panic!("{} ended with {status}: {}", self.name, self.last_words(10));
            }
            assert!(Instant::now() < deadline, "nobody listens on {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Returns the number of log lines that contain these words.
    pub fn said(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    /// Returns the last lines of its log.
    pub fn last_words(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Returns its whole log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        crate::worker::resident_bytes(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the last lines of {}:\n{}\n", self.name, self.last_words(10));
        }
    }
}
