//! Large compressed segments on a small worker: their finished parts wait on a local disk.

use std::fs;
use std::path::Path;

use wal_indexer::generate::{Codec, Size, Spec};

use crate::cgroup::Cgroup;
use crate::receipts::generated;
use crate::worker::{self, Refusal, Worker, file_url};

const PARTITION: (&str, i32) = ("orders", 3);
const CHUNK_BYTES: usize = 1 << 20;

fn compressed(bytes: u64) -> Vec<u8> {
    generated(&Spec { codec: Codec::Zstd, size: Size::Bytes(bytes), ..Spec::default() })
}

/// Sends the segment, and checks that it is restored byte for byte.
async fn store(worker: &Worker, segment: &[u8]) -> Result<(), tonic::Status> {
    let header = worker::inline(segment.len() as u64, Some(PARTITION));
    let mut client = worker.client().await;
    let receipt = worker::send_inline(&mut client, header, segment, CHUNK_BYTES).await?;
    let key = receipt.partitions[0].bundle.as_ref().expect("a bundle").key.clone();
    let directory = tempfile::tempdir().expect("a directory");
    let restored = directory.path().join("segment");
    let (url, path) = (file_url(&worker.store()), restored.to_str().expect("UTF-8").to_owned());
    worker::run(["restore", &key, "--out", &path, "--store", &url]);
    assert!(fs::read(&restored).expect("a file") == segment);
    Ok(())
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).expect("a directory").next().is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_larger_than_the_memory_goes_by_way_of_the_disk() {
    let segment = compressed(48 << 20);
    let small = ["--memory-budget", "192MiB"];
    let in_memory = Worker::start_with(&small);
    let refusal = Refusal::of(&store(&in_memory, &segment).await.expect_err("it does not fit"));
    assert!(["LARGER_THAN_BUDGET", "NO_ROOM"].contains(&refusal.reason.as_str()), "{refusal:?}");
    drop(in_memory);

    let directory = tempfile::tempdir().expect("a directory");
    let spill = ["--spill-dir", directory.path().to_str().expect("UTF-8")];
    let worker = Worker::start_with(&[&small[..], &spill].concat());
    store(&worker, &segment).await.expect("a receipt");
    // The bundle has more than 96 MiB.
    let peak = worker.peak_resident_bytes();
    assert!(peak < 300 << 20, "{peak}");
    assert!(is_empty(directory.path()), "nothing stays there");
    drop(worker);

    let full = Worker::start_with(&[&small[..], &spill, &["--spill-max", "8MiB"]].concat());
    let refusal = Refusal::of(&store(&full, &segment).await.expect_err("the directory is full"));
    assert_eq!((refusal.code, refusal.reason.as_str()), (tonic::Code::ResourceExhausted, "SPILL_FULL"));
    // The directory is free again.
    store(&full, &compressed(3 << 20)).await.expect("a receipt");
}

#[test]
fn a_directory_that_is_not_there_ends_the_start() {
    let store = tempfile::tempdir().expect("a directory");
    let started = worker::command(["serve", "--listen", "127.0.0.1:0", "--spill-dir", "/not/there"])
        .args(["--store", &file_url(store.path())])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&started.stderr);
    assert!(
        !started.status.success() && said.contains("--spill-dir") && said.contains("/not/there"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and cgroups, and takes minutes; make test-long runs it"]
async fn long_a_compressed_segment_of_1_gib_is_stored_within_768_mib() {
    let segment = compressed(1 << 30);
    let directory = tempfile::tempdir().expect("a directory");
    let cgroup = Cgroup::new(768 << 20);
    let spill = ["--memory-budget", "600MiB", "--spill-dir", directory.path().to_str().expect("UTF-8")];
    let worker = Worker::start_by(cgroup.launcher(), &spill);
    store(&worker, &segment).await.expect("a receipt");
    println!(
        "{} MiB of segment: peak of resident memory {} MiB; {} kills",
        segment.len() >> 20,
        worker.peak_resident_bytes() >> 20,
        cgroup.kills()
    );
    assert_eq!(cgroup.kills(), 0);
    assert!(worker.peak_resident_bytes() < 768 << 20);
    drop(worker);
}
