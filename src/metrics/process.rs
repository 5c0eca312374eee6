//! Metrics of the process itself, with the names that Prometheus' own clients give: memory, processor time,
//! open files. They are read from `/proc`. On systems without it there are none of these.

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// The units of processor time in `/proc`, per second. They are the same on every Linux that this runs on,
/// whatever the tick of its kernel.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counts spans that were sent to a collector (`sent`), could not be sent (`failed`), or were not sent
/// because too many were waiting (`dropped`).
pub fn spans(outcome: &'static str, count: u64) {
    SPANS.add(count, &[KeyValue::new("outcome", outcome)]);
}

/// Starts the counters of spans at zero when there is a collector, so that they exist before a span is lost.
pub fn collected() {
    ["sent", "failed", "dropped"].into_iter().for_each(|outcome| spans(outcome, 0));
}

static SPANS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    super::counter(&super::meter(), "wal_indexer_trace_spans", "Spans of traces, by outcome")
});

/// Counts a log line that could not be written, because standard error was full and nobody read it.
pub fn log_line_dropped() {
    LOG_LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
}

/// Counted here and read with the metrics, because lines may be dropped before the metrics are set up.
static LOG_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Shows this process and the version of its build from now on. Must be called once.
pub fn started(version: &'static str) {
    let meter = super::meter();
    let build = meter.u64_gauge("wal_indexer_build_info").with_description("The version").build();
    build.record(1, &[KeyValue::new("version", version)]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let started = meter.f64_gauge("process_start_time_seconds");
    started.with_description("When it started, in seconds since 1970").build().record(now.as_secs_f64(), &[]);

    meter
        .u64_observable_counter("wal_indexer_log_lines_dropped")
        .with_description("Log lines that could not be written, because nobody read standard error")
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

/// Fields 14 and 15 of proc_pid_stat(5). The second field is the program's name, which may hold anything, so
/// fields are counted from behind it.
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
        // The loop uses the processor time that is counted here.
        while cpu_seconds().expect("it is counted") == before {
            work = std::hint::black_box(work.wrapping_add(1));
        }
    }
}
