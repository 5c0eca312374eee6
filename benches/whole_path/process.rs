//! What Linux reports about a process: CPU time and memory.

use std::fs;
use std::io;
use std::ops::Sub;
use std::time::Duration;

/// Linux reports process times in hundredths of a second, whatever the kernel's own tick is
/// (`proc_pid_stat(5)`, `USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Process(u32);

impl Process {
    /// This process.
    pub fn this() -> Self {
        Self(std::process::id())
    }

    /// The process with this id.
    pub fn of(pid: u32) -> Self {
        Self(pid)
    }

    /// The CPU time used so far, by all threads, user and system.
    pub fn cpu(self) -> io::Result<Cpu> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The command's name, in parentheses, may contain any character. utime and stime are the 12th and
        // 13th fields after it.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Ok(Cpu(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)))
    }

    /// The current resident memory, in bytes.
    pub fn rss_bytes(self) -> io::Result<u64> {
        self.status("VmRSS:")
    }

    /// The peak of resident memory so far, in bytes.
    pub fn peak_rss_bytes(self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    fn status(self, name: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let kib = |line: &str| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok();
        let found = status.lines().find_map(kib);
        found.map(|kib| kib * 1_024).ok_or_else(|| io::Error::other(format!("no {name} in /proc/PID/status")))
    }
}

/// The CPU time of a process. The difference of two values is a duration.
#[derive(Clone, Copy, Debug)]
pub struct Cpu(Duration);

impl Sub for Cpu {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The name of the machine's CPU.
pub fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name));
    name.unwrap_or("unknown CPU").trim().to_owned()
}

/// The number of cores.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
