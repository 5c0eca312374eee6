//! What Linux says about a process: CPU time and peak memory.

use std::fs;
use std::io;
use std::ops::Sub;
use std::time::Duration;

/// Linux counts process times in hundredths of a second, whatever the kernel's own tick is (`proc_pid_stat(5)`, `USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// The CPU time that a process has used, all threads, user and system.
#[derive(Clone, Copy)]
pub struct Cpu(Duration);

impl Cpu {
    /// Of this process.
    pub fn of_self() -> io::Result<Self> {
        Self::of("self")
    }

    /// Of the process with this id, or `self`.
    pub fn of(pid: &str) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The command's name, in parentheses, may hold anything; utime and stime are the 12th and 13th fields behind it.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        Ok(Self(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)))
    }
}

impl Sub for Cpu {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The most memory that a process has had resident so far, in bytes.
pub fn peak_rss_bytes(pid: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1_024).ok_or_else(|| io::Error::other("no VmHWM in /proc/PID/status"))
}

/// The name of the machine's CPU.
pub fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name));
    name.unwrap_or("unknown CPU").trim().to_owned()
}
