//! Memory cgroups: they kill a process that exceeds its limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// A memory cgroup. It is removed when the value is dropped, so its processes must have ended by then.
pub struct Cgroup {
    path: PathBuf,
    is_v1: bool,
}

impl Cgroup {
    pub fn new(limit_bytes: u64) -> Self {
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let is_v1 = v1.is_dir();
        let parent = if is_v1 { v1 } else { v2 };
        if !is_v1 {
            fs::write(v2.join("cgroup.subtree_control"), "+memory").expect("root may hand memory out");
        }
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("wal-indexer-it-{}-{}", std::process::id(), MADE.fetch_add(1, SeqCst));
        let path = parent.join(name);
        fs::create_dir(&path).expect("root may make one");
        let limit = if is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(path.join(limit), limit_bytes.to_string()).expect("a limit");
        Self { path, is_v1 }
    }

    /// Returns a shell that enters the cgroup and then executes the command it is given.
    pub fn launcher(&self) -> Command {
        let mut shell = Command::new("sh");
        let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        shell.args(["-c", script]).arg(&self.path);
        shell
    }

    /// Returns how many processes the cgroup has killed.
    pub fn kills(&self) -> u64 {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.path.join(file)).expect("it is there");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).expect("it counts them");
        line.parse().expect("a number")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The cgroup becomes empty a moment after its last process has ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
