//! The process itself, under the names that Prometheus' own clients give: memory, processor time, files. Read from `/proc`; on
//! systems without it there are none of these.

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// What `/proc` counts processor time in, a second: the same on every Linux that this runs on, whatever its kernel ticks in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Spans have left for a collector (`sent`), or did not get there: `failed`, or `dropped`, since too many were waiting.
pub fn spans(outcome: &'static str, count: u64) {
    SPANS.add(count, &[KeyValue::new("outcome", outcome)]);
}

/// Spans go to a collector from now on: their counts start from zero, rather than from the first one that is lost.
pub fn collected() {
    ["sent", "failed", "dropped"].into_iter().for_each(|outcome| spans(outcome, 0));
}

static SPANS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    super::counter(&super::meter(), "wal_indexer_trace_spans", "Spans of traces, by what became of them")
});

/// A log line could not be written: standard error was full, and nobody read it.
pub fn log_line_dropped() {
    LOG_LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
}

/// Counted here, and read when somebody asks: lines may be dropped before anything is measured.
static LOG_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Shows this process, and as which build of the program, from now on. To be called once.
pub fn started(version: &'static str) {
    let meter = super::meter();
    let build = meter.u64_gauge("wal_indexer_build_info").with_description("What runs here").build();
    build.record(1, &[KeyValue::new("version", version)]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started = meter.f64_gauge("process_start_time_seconds");
    started.with_description("When it started, in seconds since 1970").build().record(now.as_secs_f64(), &[]);

    meter
        .u64_observable_counter("wal_indexer_log_lines_dropped")
        .with_description("Log lines that could not be written, since nobody read standard error")
        .with_callback(|observer| observer.observe(LOG_LINES_DROPPED.load(Ordering::Relaxed), &[]))
        .build();
    meter
        .u64_observable_gauge("process_resident_memory_bytes")
        .with_description("Resident memory")
        .with_callback(|observer| {
            resident_bytes().into_iter().for_each(|bytes| observer.observe(bytes, &[]));
        })
        .build();
    meter
        .f64_observable_counter("process_cpu_seconds")
        .with_description("Processor time, user and system")
        .with_callback(|observer| {
            cpu_seconds().into_iter().for_each(|seconds| observer.observe(seconds, &[]));
        })
        .build();
    meter
        .u64_observable_gauge("process_open_fds")
        .with_description("Open files and connections")
        .with_callback(|observer| {
            open_files().into_iter().for_each(|files| observer.observe(files, &[]));
        })
        .build();
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Fields 14 and 15 of proc_pid_stat(5). The second is the program's name, which may hold anything: count from behind it.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS_PER_SECOND)
}

fn open_files() -> Option<u64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_seen() {
        assert!(resident_bytes().expect("it is resident") > 1 << 20);
        assert!(open_files().expect("they are listed") >= 3);
        let before = cpu_seconds().expect("it is counted");
        let mut work = 0_u64;
        // Time itself is what is counted here.
        while cpu_seconds().expect("it is counted") == before {
            work = std::hint::black_box(work.wrapping_add(1));
        }
    }
}
