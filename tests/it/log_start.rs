//! The agent moves the start of the broker's log before it deletes a segment. Chronik answers the same
//! requests. Here the broker is Kafka, and the segments are in a separate directory.

use std::num::NonZeroU32;
use std::time::Duration;

use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{OffsetAt, PartitionClient};
use wal_indexer::generate::{Format, Size, Spec, generate};
use wal_indexer::ids::TopicPartition;

use crate::kafka::Kafka;
use crate::sidecar::{Sidecar, Wal, name, once};
use crate::worker::Worker;

const TOPIC: &str = "orders";
const RECORDS: u64 = 20;

/// Writes segments `ids` of 20 records each, in sequence from offset 0 on. The last one is in use.
fn segments(wal: &Wal, ids: std::ops::RangeInclusive<u64>) {
    for id in ids {
        let spec = Spec {
            format: Format::ChronikV2,
            size: Size::Records(RECORDS),
            seed: id,
            partition: TopicPartition::new(TOPIC, 0).expect("a name"),
            base_offset: ((id - 1) * RECORDS) as i64,
            batch_records: NonZeroU32::new(7).expect("not zero"),
            ..Spec::default()
        };
        let mut bytes = Vec::new();
        generate(&spec, &mut bytes).expect("a segment");
        let path = wal.path().join(name(TOPIC, 0, id));
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(path, bytes).expect("written");
    }
}

/// Checks the start of the log: by the broker's answer, and by what a consumer gets at the offset before it.
async fn check_start(log: &PartitionClient, start: i64) {
    assert_eq!(log.get_offset(OffsetAt::Earliest).await.expect("an answer"), start);
    if start > 0 {
        let error = log.fetch_records(start - 1, 1..1_000_000, 1_000).await.expect_err("it is gone");
        let is_out_of_range =
            matches!(error, Error::ServerError { protocol_error: ProtocolError::OffsetOutOfRange, .. });
        assert!(is_out_of_range, "{error}");
    }
    let (records, _) = log.fetch_records(start, 1..1_000_000, 1_000).await.expect("records");
    assert_eq!(records.first().map(|record| record.offset), Some(start));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Kafka: tests/install-servers.sh"]
async fn kafka_consumers_are_told_where_the_log_starts_before_a_segment_goes() {
    let (mut kafka, worker, wal) = (Kafka::start(), Worker::start(), Wal::new());
    let log = kafka.topic(TOPIC, 100).await;
    segments(&wal, 1..=3);
    let bootstrap = kafka.bootstrap();
    let flags = ["--delete-records-on", &bootstrap];
    let run = |wal: &Wal, flags: &[&str]| {
        let output = once(wal.path(), &[worker.endpoint()], flags);
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    // What stays on disk longer stays readable.
    let (code, said) = run(&wal, &[&flags[..], &["--keep-segments", "1"]].concat());
    assert_eq!((code, wal.ids(TOPIC, 0)), (Some(0), vec![2, 3]), "{said}");
    check_start(&log, 20).await;
    let (code, said) = run(&wal, &flags);
    assert_eq!((code, wal.ids(TOPIC, 0)), (Some(0), vec![3]), "{said}");
    check_start(&log, 40).await;

    // If the broker cannot be reached, nothing is deleted.
    segments(&wal, 4..=4);
    kafka.stop();
    let (code, said) = run(&wal, &flags);
    assert_eq!((code, wal.ids(TOPIC, 0)), (Some(5), vec![3, 4]), "{said}");
    assert!(said.contains("stays: the broker is not ready"), "{said}");

    // A broker that has lost its log start gets it again, also from an agent that deleted nothing itself.
    kafka.start_anew();
    let log = kafka.topic(TOPIC, 100).await;
    check_start(&log, 0).await;
    let agent = Sidecar::start(
        wal.path(),
        &[worker.endpoint()],
        &["--delete-records-on", &bootstrap, "--keep-segments", "1"],
    );
    eventually(&log, 40).await;
    kafka.start_anew();
    let log = kafka.topic(TOPIC, 100).await;
    eventually(&log, 40).await;
    assert_eq!(wal.ids(TOPIC, 0), [3, 4], "{}", agent.log());
    check_start(&log, 40).await;
}

async fn eventually(log: &PartitionClient, start: i64) {
    for _ in 0..600 {
        if log.get_offset(OffsetAt::Earliest).await.is_ok_and(|earliest| earliest == start) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the log does not start at {start}");
}
