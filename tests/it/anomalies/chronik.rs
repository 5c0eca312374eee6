//! What a live Chronik writes when a producer sends invalid data.

use std::fs;

use wal_indexer::generate::{Format, Size, Spec, generate};
use wal_indexer::ids::TopicPartition;

use super::*;
use crate::agent::Scene;
use crate::sidecar::{name, segment};

const POISON: (&str, i32) = ("poison", 2);

/// Returns frames of `poison`/2 with records from this offset on, as Chronik writes them.
fn records(base_offset: i64, count: u64) -> Vec<u8> {
    let spec = Spec {
        format: Format::ChronikV2,
        size: Size::Records(count),
        base_offset,
        partition: TopicPartition::new(POISON.0, POISON.1).expect("a partition"),
        ..Spec::default()
    };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("in memory");
    bytes
}

/// Returns the frame without records, at this offset.
fn empty(base_offset: i64) -> Vec<u8> {
    let mut frame = fixture("chronik-empty-batch.wal").to_vec();
    let (data, trailer) = (22 + POISON.0.len(), frame.len() - 20);
    frame[data..data + 8].copy_from_slice(&base_offset.to_le_bytes());
    frame[trailer..trailer + 8].copy_from_slice(&base_offset.to_le_bytes());
    frame[trailer + 8..trailer + 16].copy_from_slice(&(base_offset - 1).to_le_bytes());
    sealed_v2(frame)
}

#[test]
fn a_producers_damaged_batch_is_kept_and_marked_and_never_handed_out() {
    let store = LocalStore::new();
    let segment = fixture("chronik-damaged-original.wal");
    let receipt = store.index(&segment, &[]);
    assert_eq!(receipt.covers(), (0, 0, 1, 0));
    assert_eq!(receipt.anomalies(), anomalies(&[("ORIGINAL_BATCH_DAMAGED", 1)]));
    assert_eq!(store.inspect(&segment)["anomalies"]["ORIGINAL_BATCH_DAMAGED"], 1);
    let partition = ("poison", 1);
    assert_eq!(store.offsets(partition, 0), [0]);
    assert_eq!(store.search("poison", "\"bad crc\""), [0]);
    let refused = store.batches(partition, 0).expect_err("no batch");
    assert!(refused.contains("the producer's batch is damaged: its checksum does not hold"), "{refused}");
    // A frame with a changed byte is damaged, whatever its record is.
    let mut damaged = segment.to_vec();
    damaged[115] ^= 1;
    let refused = store.try_index(&damaged, &["--undecodable", "keep"]);
    assert!(refused.code == 3 && refused.err.contains("the checksum is"), "{refused:?}");
}

#[test]
fn frames_of_no_records_take_no_offsets_wherever_they_stand() {
    for (segment, empties) in [
        ([empty(0), records(0, 30)].concat(), 1),
        ([records(0, 30), empty(30)].concat(), 1),
        ([records(0, 10), empty(10), empty(10), records(10, 20)].concat(), 2),
        ([empty(0), records(0, 30), empty(30)].concat(), 2),
    ] {
        let store = LocalStore::new();
        let receipt = store.index(&segment, &[]);
        assert_eq!(receipt.covers(), (0, 29, 30, 0));
        assert_eq!(receipt.anomalies(), anomalies(&[("EMPTY_FRAME", empties)]));
        assert_eq!(store.offsets(POISON, 0), (0..30).collect::<Vec<_>>());
        assert!(!store.batches(POISON, 0).expect("all of them").is_empty());
    }
}

/// The bundle records its position in the log, but covers no offset: a consumer at that offset gets the
/// records that are stored there later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_of_frames_without_records_covers_nothing() {
    use crate::worker::{Worker, inline, send_inline};
    use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
    use wal_indexer::proto::v1::{FetchRequest, FetchResponse};
    for place in [0, 70] {
        let store = LocalStore::new();
        let receipt = store.index(&[empty(place), empty(place)].concat(), &[]);
        assert_eq!(receipt.covers(), (place, place - 1, 0, 0));
        assert_eq!(receipt.anomalies(), anomalies(&[("EMPTY_FRAME", 2)]));
        let range = format!("/{place:020}-{place:020}_");
        assert!(receipt.key().contains(&range), "{}", receipt.key());
        assert_eq!(store.inspect(&empty(place))["partitions"][0]["last_offset"], place - 1);

        let worker = Worker::start();
        let send = async |segment: &[u8]| {
            let header = inline(segment.len() as u64, None);
            send_inline(&mut worker.client().await, header, segment, 100).await.expect("a receipt")
        };
        let answered = send(&empty(place)).await;
        let one = &answered.partitions[0];
        assert_eq!((one.base_offset, one.last_offset, one.record_count), (place, place - 1, 0));
        assert_eq!(answered.anomalies["EMPTY_FRAME"], 1);
        let fetch = async |offset| {
            let (topic, partition) = (POISON.0.to_owned(), POISON.1);
            let request = FetchRequest { topic, partition, offset, ..FetchRequest::default() };
            let mut client = SearchServiceClient::new(worker.channel().await);
            let mut answer = client.fetch(request).await.expect("an answer").into_inner();
            let (mut offsets, mut next) = (Vec::new(), None);
            while let Some(FetchResponse { records, next_offset, .. }) =
                answer.message().await.expect("whole")
            {
                offsets.extend(records.iter().map(|record| record.offset));
                next = next_offset.or(next);
            }
            (offsets, next)
        };
        assert_eq!(fetch(place).await, (vec![], Some(place)), "nothing is there yet");
        send(&records(place, 5)).await;
        assert_eq!(fetch(place).await, ((place..place + 5).collect(), Some(place + 5)));
    }
}

#[test]
fn a_producers_deltas_with_gaps_are_gaps() {
    // The broker adds the producer's deltas to the base offset, but computes the last offset from the number
    // of records.
    let spec = Spec {
        format: Format::ChronikV2,
        size: Size::Records(20),
        partition: TopicPartition::new(POISON.0, POISON.1).expect("a partition"),
        gap_every: std::num::NonZeroU64::new(4),
        ..Spec::default()
    };
    let mut frame = Vec::new();
    generate(&spec, &mut frame).expect("in memory");
    let trailer = frame.len() - 20;
    frame[trailer + 8..trailer + 16].copy_from_slice(&19_i64.to_le_bytes());
    let segment = sealed_v2(frame);
    let store = LocalStore::new();
    let receipt = store.index(&segment, &[]);
    assert_eq!(receipt.anomalies(), anomalies(&[("BAD_RECORD_OFFSET", 1)]));
    let (first, last, records, gaps) = receipt.covers();
    assert!(first == 0 && last > 19 && records == 20 && gaps > 0, "{:?}", receipt.covers());
    let offsets = store.offsets(POISON, 0);
    assert_eq!((offsets.len(), offsets.last()), (20, Some(&last)));
    assert_eq!(store.offsets(POISON, last), [last], "beyond what the frame's head says");
    assert!(store.batches(POISON, last).expect("the producer's batch says the same").len() > 61);
}

/// The agent's client counts records by frame heads. It must accept the worker's answer as a receipt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_get_receipts_for_what_one_client_sent() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=2);
    for (partition, bytes) in [
        (1, fixture("chronik-damaged-original.wal").to_vec()),
        (2, [empty(0), records(0, 30), empty(30)].concat()),
    ] {
        scene.wal.add_all("poison", partition, 1..=1);
        fs::write(scene.wal.path().join(name("poison", partition, 1)), bytes).expect("written");
        fs::write(scene.wal.path().join(name("poison", partition, 2)), segment("poison", partition, 2))
            .expect("written");
    }
    let (code, log) = scene.once(&[]);
    assert_eq!(code, 0, "{log}");
    assert_eq!(
        (scene.wal.ids("poison", 1), scene.wal.ids("poison", 2), scene.wal.ids("orders", 0)),
        (vec![2], vec![2], vec![2])
    );
}
