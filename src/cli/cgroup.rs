//! The memory limit of the process: the lowest of its cgroup, the parent cgroups and the machine.

use std::fs;
use std::path::{Path, PathBuf};

/// The memory that is assumed if no limit can be read.
const MEMORY_BYTES_DEFAULT: u64 = 1 << 30;

/// The default memory budget for segments: half of the limit up to 256 MiB and from 1 GiB on, and two fifths
/// between. What is not counted comes on top: bytes of calls that wait, batches before their size is known,
/// and what the allocator keeps. Half of 512 MiB leaves too little for that beside searches and the cache; a
/// smaller worker refuses most of what needs it.
pub fn default_budget_bytes() -> u64 {
    budget_share(memory_bytes())
}

fn budget_share(limit_bytes: u64) -> u64 {
    (limit_bytes / 5 * 2).max(128 << 20).max(limit_bytes.saturating_sub(512 << 20)).min(limit_bytes / 2)
}

/// The default memory for searches and fetches: a quarter of the limit, at most `most`. Together with the
/// budget for segments and the bundle cache, this leaves some memory for the process itself.
pub fn default_search_bytes(most: u64) -> u64 {
    most.min(memory_bytes() / 4)
}

/// The default size of the bundle cache: a sixteenth of the limit, at most `most`.
pub fn default_cache_bytes(most: u64) -> u64 {
    most.min(memory_bytes() / 16)
}

/// Returns the lowest limit.
fn memory_bytes() -> u64 {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limits(&cgroups, Path::new("/sys/fs/cgroup"), |path| fs::read_to_string(path).ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_bytes(&text));
    limits.into_iter().chain(machine).min().unwrap_or(MEMORY_BYTES_DEFAULT)
}

/// Returns the limits of all cgroups that `/proc/self/cgroup` names: the process's own cgroup and its
/// parents. In a container, its own cgroup is the root of the visible tree. `max` and a missing file are no
/// limit.
fn limits(cgroups: &str, root: &Path, read: impl Fn(PathBuf) -> Option<String>) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A path from outside the container does not exist inside it. There, only the limit at the root
        // counts.
        let inside = Path::new(path.trim_start_matches('/'));
        let here = inside.ancestors().map(|cgroup| root.join(cgroup).join(file));
        limits.extend(here.filter_map(|path| read(path)?.trim().parse::<u64>().ok()));
    }
    limits
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cgroups: &str, files: &[(&str, &str)], expected: &[u64]) {
        let read = |path: PathBuf| {
            let file = files.iter().find(|(name, _)| path == Path::new("/c").join(name));
            file.map(|(_, text)| (*text).to_owned())
        };
        assert_eq!(limits(cgroups, Path::new("/c"), read), expected);
    }

    #[test]
    fn the_limits_of_all_cgroups_above_count() {
        let limits = [
            ("a.slice/b.service/memory.max", "700\n"),
            ("a.slice/memory.max", "max\n"),
            ("memory.max", "900\n"),
        ];
        check("0::/a.slice/b.service\n", &limits, &[700, 900]);
        let limits = [
            ("memory/x/y/memory.limit_in_bytes", "500\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        check("8:pids:/\n4:memory:/x/y\n0::/\n", &limits, &[500, 9_223_372_036_854_771_712]);
    }

    #[test]
    fn in_a_container_the_root_is_its_own() {
        check("0::/\n", &[("memory.max", "123\n")], &[123]);
        check("0::/docker/of/the/host\n", &[("memory.max", "123\n")], &[123]);
        check("", &[("memory.max", "123\n")], &[]);
        check("nonsense\n0\n", &[], &[]);
    }

    #[test]
    fn the_budget_is_two_fifths_of_a_limit_between_256_mib_and_1_gib_and_otherwise_half() {
        for (limit_mib, budget_mib) in [
            (100, 50),
            (256, 128),
            (300, 128),
            (500, 200),
            (800, 320),
            (1_000, 488),
            (1_024, 512),
            (4_096, 2_048),
        ] {
            assert_eq!(budget_share(limit_mib << 20) >> 20, budget_mib, "{limit_mib}");
        }
    }

    #[test]
    fn the_machine_says_what_it_has() {
        assert_eq!(machine_bytes("MemTotal:       24684328 kB\nMemFree: 1 kB\n"), Some(24_684_328 * 1024));
        assert_eq!(machine_bytes("MemTotal: much\n"), None);
    }
}
