//! The resident memory of a worker: idle, at its peak with one segment, and with as many large segments as
//! its budget admits. The long tests print the figures of release builds. `--memory-budget` limits the
//! process, not only what it counts.

use std::time::{Duration, Instant};

use tonic::Code;
use wal_indexer::client::{Connection, ConnectionError};
use wal_indexer::generate::{Codec, Format, Size};

use crate::sizes::{Made, make, spec};
use crate::worker::{Worker, peak_resident_bytes, resident_bytes, resident_file_bytes};

const MB: u64 = 1_000_000;

/// The limit for an idle worker.
const IDLE_BYTES_MAX: u64 = 30 * MB;

/// The limit for a worker that is idle again after work: with what the allocator keeps, and the pages of the
/// program that were needed.
const IDLE_AGAIN_BYTES_MAX: u64 = 45 * MB;

/// Returns a worker's resident memory in bytes. Pages of the program's own file count in release builds only:
/// a debug build has tens of megabytes of them, and more with each line of code.
fn counted_bytes(pid: u32) -> u64 {
    resident_bytes(pid) - if cfg!(debug_assertions) { resident_file_bytes(pid) } else { 0 }
}

/// How soon the memory must be returned.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(5);

/// Waits until little is left. Returns how much.
async fn idle_again(pid: u32) -> u64 {
    let deadline = Instant::now() + GIVEN_BACK_WITHIN;
    loop {
        let resident = counted_bytes(pid);
        if resident <= IDLE_AGAIN_BYTES_MAX {
            return resident;
        }
        assert!(Instant::now() < deadline, "{} MB are still resident", resident / MB);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sends one segment to a new worker with default flags. Returns the peak.
async fn check_one(format: Format, size: u64) -> u64 {
    let worker = Worker::start();
    let made = make(spec(format, Codec::None, Size::Bytes(size)));
    let idle = counted_bytes(worker.pid());
    assert!(idle <= IDLE_BYTES_MAX, "{} MB before any work", idle / MB);
    made.index(&worker).await;
    let peak = worker.peak_resident_bytes();
    let again = idle_again(worker.pid()).await;
    println!(
        "{format}, {} MB: idle {} MB, peak {} MB, idle again {} MB",
        size / MB,
        idle / MB,
        peak / MB,
        again / MB
    );
    peak
}

#[tokio::test]
async fn an_idle_worker_is_small_and_small_again_soon_after_a_segment() {
    let peak = check_one(Format::Kafka, 6 * MB).await;
    assert!(peak < 90 * MB, "{} MB", peak / MB);
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_a_segment_of_64_mb_takes_no_more_than_250_mb() {
    for format in [Format::Kafka, Format::ChronikV2] {
        let peak = check_one(format, 64 * MB).await;
        assert!(peak <= 250 * MB, "{format}: {} MB", peak / MB);
    }
}

/// Sends a segment until it is accepted, as the agent does. Returns how often there was no room.
async fn send(made: &Made, worker: &Worker) -> u32 {
    let mut refused = 0;
    loop {
        let mut client = Connection::connect(&worker.endpoint()).await.expect("it listens");
        match client.index_file(made.header(), made.file.path()).await {
            Ok(_) => return refused,
            Err(ConnectionError::Status(status)) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                refused += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
#[ignore = "minutes; make test-long runs it"]
async fn long_four_segments_of_250_mb_at_once_stay_within_the_budget() {
    for (format, codec, budget_mib) in [
        (Format::Kafka, Codec::None, 1_024),
        (Format::Kafka, Codec::None, 512),
        (Format::ChronikV2, Codec::None, 1_024),
        (Format::ChronikV2, Codec::None, 384),
        (Format::Kafka, Codec::Zstd, 1_536),
    ] {
        let worker = Worker::start_with(&["--memory-budget", &format!("{budget_mib}MiB")]);
        let segments = [1, 2, 3, 4].map(|seed| {
            let spec = spec(format, codec, Size::Bytes(250 * MB));
            make(wal_indexer::generate::Spec { seed, ..spec })
        });
        let began = Instant::now();
        let refused = futures::future::join_all(segments.iter().map(|made| send(made, &worker))).await;
        let peak = peak_resident_bytes(worker.pid());
        println!(
            "four of 250 MB, {format}, {codec}, {budget_mib} MiB: peak {} MiB in {:.1?}, refused {} times",
            peak >> 20,
            began.elapsed(),
            refused.iter().sum::<u32>(),
        );
        assert!(peak <= budget_mib << 20, "{format}, {codec}: {} of {budget_mib} MiB", peak >> 20);
        idle_again(worker.pid()).await;
    }
}
