//! The consumer's read path, over gRPC, from bundles that the write path made.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::Message;
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Status};
use wal_indexer::fetch;
use wal_indexer::generate::{Format, Size, Spec, generate};
use wal_indexer::internals::archive::BundleCache;
use wal_indexer::internals::transactions::Isolation;
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::fetch_request::FetchForm;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;

use crate::read_back::{from_wire, serve};
use crate::worker::{Refusal, Worker, command};
use crate::written::{ExpectedRecord, Written, blocks_at, expected_of, fixture, fixtures};

type Client = SearchServiceClient<Channel>;

/// A whole answer.
#[derive(Debug)]
struct Fetched {
    records: Vec<v1::Record>,
    batches: Vec<Bytes>,
    next_offset: i64,
    conflicts: Vec<v1::Conflict>,
    log_id: String,
    other_logs: Vec<v1::LogRange>,
    /// The length of each message, in bytes.
    messages: Vec<usize>,
}

impl Fetched {
    fn offsets(&self) -> Vec<i64> {
        self.records.iter().map(|record| record.offset).collect()
    }
}

/// Returns a request for everything from an offset of `orders`/3 on.
fn request(offset: i64) -> v1::FetchRequest {
    v1::FetchRequest {
        topic: "orders".to_owned(),
        partition: 3,
        offset,
        max_records: u32::MAX,
        max_bytes: u64::MAX,
        ..v1::FetchRequest::default()
    }
}

fn batches(request: v1::FetchRequest) -> v1::FetchRequest {
    v1::FetchRequest { form: FetchForm::KafkaBatches.into(), ..request }
}

async fn ask(client: &mut Client, request: v1::FetchRequest) -> Result<Fetched, Status> {
    let mut answer = client.fetch(request).await?.into_inner();
    let (mut records, mut batches, mut messages, mut last) = (Vec::new(), Vec::new(), Vec::new(), None);
    while let Some(message) = answer.message().await? {
        assert!(last.is_none(), "nothing follows the message that says where to go on");
        messages.push(message.encoded_len());
        records.extend(message.records.iter().cloned());
        batches.extend(split(&message.kafka_batches));
        last = message.next_offset.is_some().then_some(message);
    }
    let last = last.expect("it ends with where to go on");
    let next_offset = last.next_offset();
    let v1::FetchResponse { conflicts, log_id, other_logs, .. } = last;
    Ok(Fetched { records, batches, next_offset, conflicts, log_id, other_logs, messages })
}

/// Runs a client against a worker that has only the role `search`.
async fn asking<T>(written: &Written, asks: impl AsyncFnOnce(Client) -> T) -> T {
    serve(written, async |address| asks(Client::connect(address).await.expect("a worker")).await).await
}

/// Splits batches by their own lengths.
fn split(bytes: &[u8]) -> Vec<Bytes> {
    let (mut left, mut batches) = (Bytes::copy_from_slice(bytes), Vec::new());
    while !left.is_empty() {
        let len = (&left[8..12]).get_u32() as usize + 12;
        batches.push(left.split_to(len));
    }
    batches
}

/// Returns the first and the last offset of a batch, from its head.
fn offsets(batch: &[u8]) -> (i64, i64) {
    let base = (&batch[..8]).get_i64();
    (base, base + i64::from((&batch[23..27]).get_i32()))
}

/// Sorts records as they must be returned: by offset, with each different record once.
fn in_order(mut records: Vec<ExpectedRecord>) -> Vec<ExpectedRecord> {
    records.sort();
    records.dedup();
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_every_offset_of_every_fixture_exactly_the_records_come() {
    for (name, parts) in fixtures() {
        let written = Written::new();
        let receipt = written.put(&name, &fixture(&name)).await;
        asking(&written, async |mut client| {
            for ((topic, partition), wanted) in expected_of(&name, &parts) {
                let one = receipt
                    .partitions
                    .iter()
                    .find(|one| (one.partition.topic(), one.partition.partition()) == (topic, partition));
                let range = one.expect("a bundle").stored.key().range();
                let wanted = in_order(wanted);
                let beyond = [0, range.last() + 1_000_000, i64::MAX];
                for offset in (range.first().max(1) - 1..=range.last() + 2).chain(beyond) {
                    let request = v1::FetchRequest { topic: topic.to_owned(), partition, ..request(offset) };
                    check_from(&mut client, request, &wanted, range.last(), &name).await;
                }
                let before = v1::FetchRequest { topic: topic.to_owned(), partition, ..request(-1) };
                let refused = Refusal::of(&ask(&mut client, before).await.expect_err("no offset"));
                assert_eq!((refused.code, &*refused.reason), (Code::InvalidArgument, "NEGATIVE_OFFSET"));
            }
        })
        .await;
    }
}

async fn check_from(
    client: &mut Client,
    request: v1::FetchRequest,
    wanted: &[ExpectedRecord],
    last_offset: i64,
    name: &str,
) {
    let offset = request.offset;
    let wanted: Vec<_> = wanted.iter().filter(|record| record.offset >= offset).cloned().collect();
    let all = ask(client, request.clone()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(all.next_offset, offset.max(last_offset + 1), "{name} from {offset}");
    assert_eq!(all.log_id, "0", "{name}");
    assert!(all.offsets().is_sorted(), "{name} from {offset}");
    let conflicts: BTreeSet<_> = all.conflicts.iter().map(|conflict| conflict.offset).collect();
    let twice: BTreeSet<_> =
        wanted.windows(2).filter(|two| two[0].offset == two[1].offset).map(|two| two[0].offset).collect();
    assert_eq!(conflicts, twice, "{name} from {offset}");
    let found = all.records.into_iter().map(from_wire).collect();
    assert_eq!(in_order(found), wanted, "{name} from {offset}");

    // Two records, but all records of an offset or none.
    let page = ask(client, v1::FetchRequest { max_records: 2, ..request }).await.expect("an answer");
    let mut count = 0;
    for same in wanted.chunk_by(|a, b| a.offset == b.offset) {
        if count == 0 || count + same.len() <= 2 {
            count += same.len();
        } else {
            break;
        }
    }
    let behind = wanted[..count].last().map_or(offset, |record| record.offset + 1);
    let next = if count < wanted.len() { behind..=behind } else { behind..=offset.max(last_offset + 1) };
    assert!(next.contains(&page.next_offset), "{name} from {offset}: {}", page.next_offset);
    let found = page.records.into_iter().map(from_wire).collect();
    assert_eq!(in_order(found), wanted[..count], "{name} from {offset}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_every_offset_of_every_fixture_the_producers_own_batches_come() {
    for (name, parts) in fixtures() {
        let written = Written::new();
        written.put(&name, &fixture(&name)).await;
        let mut logs: BTreeMap<_, Log> = BTreeMap::new();
        for (nth, (topic, partition, file)) in parts.iter().enumerate() {
            let batches = split(&fixture(&file.replace(".expected.json", ".log")));
            let log = logs.entry((*topic, *partition)).or_default();
            // V1 frames are single records, and old V2 frames have no producer's batch.
            if (name.starts_with("chronik/v1") && nth == 0) || name == "chronik/v2-old-shape.wal" {
                log.refused_to = offsets(&batches[batches.len() - 1]).1;
            }
            log.batches.extend(batches);
        }
        asking(&written, async |mut client| {
            for ((topic, partition), Log { batches: log, refused_to }) in logs {
                let (first, last) = (offsets(&log[0]).0, offsets(&log[log.len() - 1]).1);
                for offset in first.max(1) - 1..=last + 2 {
                    let request = v1::FetchRequest { topic: topic.to_owned(), partition, ..request(offset) };
                    let answer = ask(&mut client, batches(request.clone())).await;
                    if offset <= refused_to {
                        let refused = Refusal::of(&answer.expect_err("no batch"));
                        assert_eq!(
                            (refused.code, &*refused.reason),
                            (Code::FailedPrecondition, "NO_KAFKA_BATCH")
                        );
                        assert!(refused.facts["bundle"].starts_with("orders/3/"), "{name}: {refused:?}");
                        continue;
                    }
                    let answer = answer.unwrap_or_else(|error| panic!("{name} from {offset}: {error}"));
                    let wanted: Vec<_> =
                        log.iter().filter(|batch| offsets(batch).1 >= offset).cloned().collect();
                    assert_eq!(answer.batches, wanted, "{name} from {offset}");
                    assert_eq!(answer.next_offset, offset.max(last + 1), "{name} from {offset}");
                    assert!(answer.conflicts.is_empty() && answer.records.is_empty(), "{name} from {offset}");

                    let one = v1::FetchRequest { max_bytes: 1, ..request };
                    let one = ask(&mut client, batches(one)).await.expect("an answer");
                    assert_eq!(one.batches, wanted[..wanted.len().min(1)], "{name} from {offset}");
                }
            }
        })
        .await;
    }
}

/// The batches of the producers, and the last offset for which the batch was not kept.
struct Log {
    batches: Vec<Bytes>,
    refused_to: i64,
}

impl Default for Log {
    fn default() -> Self {
        Self { batches: Vec::new(), refused_to: -1 }
    }
}

/// Returns segments of `orders`/3, each continuing the one before.
fn segments(count: usize, format: Format) -> Vec<Bytes> {
    let mut base_offset = 0;
    let segments = (0..count as u64).map(|seed| {
        let spec = Spec { format, seed, base_offset, size: Size::Records(400), ..orders() };
        let mut bytes = Vec::new();
        // A gap, as compaction or a lost segment leaves it.
        base_offset = generate(&spec, &mut bytes).expect("in memory").partitions[0].range.last() + 18;
        Bytes::from(bytes)
    });
    segments.collect()
}

fn orders() -> Spec {
    let partition = wal_indexer::ids::TopicPartition::new("orders", 3).expect("a name");
    Spec { partition, batch_records: 30.try_into().expect("not zero"), ..Spec::default() }
}

async fn put_all(written: &Written, segments: &[Bytes]) {
    for (nth, segment) in segments.iter().enumerate() {
        written.put(&format!("{nth}"), segment).await;
    }
}

fn records_of(segments: &[Bytes]) -> BTreeMap<i64, crate::truth::Record> {
    let frames = segments.iter().flat_map(crate::truth::split);
    let records = frames.flat_map(|frame| crate::truth::frame_records(&frame));
    records.map(|record| (record.offset, record)).collect()
}

#[tokio::test]
async fn following_next_offset_yields_every_record_once() {
    for format in Format::ALL {
        let (written, segments) = (Written::new(), segments(4, format));
        put_all(&written, &segments).await;
        let wanted: Vec<_> = records_of(&segments).into_keys().collect();
        let found = asking(&written, async |mut client| {
            let (mut next, mut found) = (0, Vec::new());
            loop {
                // The default number of records, and a number of bytes that ends in the middle of blocks.
                let page = v1::FetchRequest { max_records: 0, max_bytes: 40_000, ..request(next) };
                let page = ask(&mut client, page).await.expect("an answer");
                found.extend(page.offsets());
                if page.records.is_empty() {
                    return found;
                }
                assert!(page.next_offset > next);
                next = page.next_offset;
            }
        });
        assert_eq!(found.await, wanted, "{}", format.name());
    }
}

#[tokio::test]
async fn lesson_10_replicas_and_segments_that_were_sent_again_answer_each_offset_once() {
    // Three replicas that sealed their segments at different offsets. One of them was stored twice.
    let log = split(&fixture("kafka/none.log"));
    let written = Written::new();
    for (nth, range) in [0..3, 1..4, 0..4, 2..3].into_iter().enumerate() {
        written.put(&format!("{nth}"), &log[range].concat().into()).await;
    }
    let wanted = expected_of("kafka/none.log", &[("orders", 3, "kafka/none.expected.json".to_owned())]);
    asking(&written, async |mut client| {
        let all = ask(&mut client, request(0)).await.expect("an answer");
        assert_eq!(all.records.into_iter().map(from_wire).collect::<Vec<_>>(), wanted[&("orders", 3)]);
        assert!(all.conflicts.is_empty());
        let all = ask(&mut client, batches(request(0))).await.expect("an answer");
        assert_eq!((all.batches, all.conflicts), (log, vec![]));
    })
    .await;
}

#[tokio::test]
async fn different_records_for_one_offset_are_all_answered_and_reported() {
    let (written, mut bundles) = (Written::new(), Vec::new());
    for seed in [1, 2] {
        let mut bytes = Vec::new();
        let spec = Spec { seed, size: Size::Records(10 * seed), ..orders() };
        generate(&spec, &mut bytes).expect("in memory");
        let receipt = written.put(&format!("{seed}"), &bytes.into()).await;
        bundles.push(receipt.partitions[0].stored.key().to_string());
    }
    asking(&written, async |mut client| {
        let page = v1::FetchRequest { max_records: 7, ..request(3) };
        let page = ask(&mut client, page).await.expect("an answer");
        assert_eq!((page.offsets(), page.next_offset), (vec![3, 3, 4, 4, 5, 5], 6));
        let conflicts: Vec<_> = page.conflicts.iter().map(|conflict| conflict.offset).collect();
        assert_eq!(conflicts, [3, 4, 5]);
        assert_eq!(page.conflicts[0].bundle_keys, bundles);
        let all = ask(&mut client, batches(request(0))).await.expect("an answer");
        let ranges: Vec<_> = all.batches.iter().map(|batch| offsets(batch)).collect();
        assert_eq!((ranges, all.next_offset), (vec![(0, 9), (0, 19)], 20));
        assert_eq!(all.conflicts.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn without_a_log_id_the_log_is_read_that_was_stored_to_last_whatever_the_times_of_its_records_are() {
    let names = [("a", "kafka/none.log"), ("b", "kafka/log-append-time.log")];
    // One of the two has the later records.
    for [older, newer] in [names, [names[1], names[0]]] {
        let written = Written::new();
        for (log_id, name) in [older, newer] {
            written.put_as(name, &fixture(name), log_id).await;
            // Longer than the resolution of a file system's clock.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (older, newer) = (older.0, newer.0);
        asking(&written, async |mut client| {
            assert_eq!(ask(&mut client, request(0)).await.expect("an answer").log_id, newer);
            for (asked, read, others) in [
                (None, newer, vec![older]),
                (Some(older), older, vec![newer]),
                (Some("c"), "", vec![newer, older]),
            ] {
                let asked = v1::FetchRequest { log_id: asked.map(str::to_owned), ..request(0) };
                let answer = ask(&mut client, asked).await.expect("an answer");
                let told: Vec<_> = answer.other_logs.iter().map(|log| &*log.log_id).collect();
                assert_eq!((&*answer.log_id, told), (read, others));
                assert!(
                    answer
                        .other_logs
                        .iter()
                        .all(|log| log.base_offset.is_some() && log.last_offset.is_some())
                );
            }
        })
        .await;
    }
}

#[tokio::test]
async fn the_verbs_say_that_a_partition_has_other_logs_and_where_they_begin_and_end() {
    let written = Written::new();
    let alone = ["fetch", "--topic", "orders", "--partition", "3", "--max-records", "1"];
    written.put_as("one", &fixture("kafka/none.log"), "0").await;
    assert_eq!(written.run(&alone).err, "next offset: 1\n");
    tokio::time::sleep(Duration::from_millis(50)).await;
    written.put_as("another", &fixture("kafka/gzip.log"), "1").await;
    let ran = written.run(&alone);
    let told = "this is log 1; other logs of the partition: 0 (offsets 0..99); --log-id says which is read\n";
    assert!(ran.code == 0 && ran.err.starts_with(told), "{ran:?}");
    let lines = written.run(&[&alone[..], &["--json"]].concat()).json();
    let other = serde_json::json!([{"logId": "0", "baseOffset": "0", "lastOffset": "99"}]);
    assert_eq!(lines.last().expect("a line")["otherLogs"], other);
    let ran = written.run(&["ls", "--log-id", "1"]);
    assert!(ran.err.contains("there are more logs than 1: orders/3 log 0, offsets 0..99"), "{ran:?}");
    assert_eq!(written.run(&["ls"]).err, "");
}

#[tokio::test]
async fn a_log_that_is_asked_for_is_read_and_no_other() {
    let written = Written::new();
    for (log_id, name) in [("old", "kafka/none.log"), ("new", "kafka/log-append-time.log")] {
        written.put_as(name, &fixture(name), log_id).await;
    }
    asking(&written, async |mut client| {
        for log_id in ["old", "new"] {
            let asked = v1::FetchRequest { log_id: Some(log_id.to_owned()), ..request(0) };
            let answer = ask(&mut client, asked).await.expect("an answer");
            assert!(answer.log_id == log_id && answer.records.iter().all(|record| record.log_id == log_id));
        }
        let nothing = v1::FetchRequest { log_id: Some("other".to_owned()), ..request(7) };
        let nothing = ask(&mut client, nothing).await.expect("an answer");
        assert_eq!((nothing.next_offset, &*nothing.log_id, nothing.records.len()), (7, "", 0));
    })
    .await;
}

#[tokio::test]
async fn messages_are_small_and_a_large_record_has_one_of_its_own() {
    const MIB: usize = 1 << 20;
    let written = Written::new();
    let mut source = segments(1, Format::Kafka).remove(0).to_vec();
    let mut large = Vec::new();
    let spec = Spec {
        base_offset: 10_000,
        size: Size::Records(9_800),
        batch_records: 9_800.try_into().expect("not zero"),
        ..orders()
    };
    generate(&spec, &mut large).expect("in memory");
    assert!(large.len() > 2 * MIB);
    source.extend(&large);
    written.put("large", &source.into()).await;
    asking(&written, async |client| {
        let mut client = client.max_decoding_message_size(64 * MIB);
        let all = ask(&mut client, request(0)).await.expect("an answer");
        assert_eq!(all.records.len(), 10_200);
        // A record counts for more bytes than it has on the wire.
        assert!(all.messages.iter().all(|len| *len < 600 << 10), "{:?}", all.messages);
        let all = ask(&mut client, batches(request(0))).await.expect("an answer");
        let (last, before) = all.messages[..all.messages.len() - 1].split_last().expect("messages");
        assert!(*last > large.len() && *last < large.len() + 100);
        assert!(before.iter().all(|len| *len < 600 << 10), "{before:?}");
    })
    .await;
}

#[tokio::test]
async fn a_bundle_that_is_missing_cut_or_damaged_is_an_error_that_names_it() {
    let (written, segments) = (Written::new(), segments(3, Format::ChronikV2));
    put_all(&written, &segments).await;
    let keys = written.keys().await;
    let broken = written.path("store").join(&keys[1]);
    let sound = std::fs::read(&broken).expect("a bundle");
    let mut flipped = sound.clone();
    flipped[blocks_at(&sound) + 60] ^= 1;
    for bytes in [flipped, sound[..sound.len() - 700].to_vec(), Vec::new()] {
        std::fs::write(&broken, bytes).expect("a file");
        asking(&written, async |mut client| {
            for request in [request(0), batches(request(0))] {
                let refused = Refusal::of(&ask(&mut client, request.clone()).await.expect_err("a hole"));
                assert_eq!(
                    (refused.code, &*refused.reason),
                    (Code::DataLoss, "BUNDLE_CORRUPT"),
                    "{refused:?}"
                );
                assert_eq!(refused.facts["bundle"], keys[1]);
                // Offsets that do not need the broken bundle are returned.
                let before = v1::FetchRequest { max_records: 100, ..request };
                assert!(ask(&mut client, before).await.is_ok());
            }
        })
        .await;
    }
    // The bundle is listed, but deleted before it is read.
    std::fs::write(&broken, sound).expect("a file");
    let bundle_cache = BundleCache::new(written.store().clone(), 64 << 20);
    let asked = fetch::Request {
        partition: orders().partition,
        log_id: None,
        offset: 0,
        max_records: u64::MAX,
        max_bytes: u64::MAX,
        buffer_bytes_max: fetch::BUFFER_BYTES_MAX,
        form: fetch::Form::Records,
        isolation: Isolation::default(),
    };
    let mut answer = fetch::fetch(&bundle_cache, &asked, fetch::Memory::default()).await.expect("a listing");
    std::fs::remove_file(&broken).expect("a file");
    let error = loop {
        match answer.next().await {
            Ok(items) => assert!(items.is_some(), "an answer with a hole"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().starts_with(&keys[1]) && error.to_string().contains("not found"), "{error}");
}

#[tokio::test]
async fn the_verb_prints_records_and_where_to_go_on_and_writes_batches() {
    let written = Written::new();
    let log = fixture("kafka/none.log");
    written.put("kafka/none.log", &log).await;
    let fetch = |arguments: &[&str]| {
        let place = ["fetch", "--topic", "orders", "--partition", "3"];
        written.run(&[&place[..], arguments].concat())
    };
    let ran = fetch(&["--offset", "95"]);
    let starts: Vec<_> = ran.out.lines().map(|line| line.split(' ').nth(1).expect("a place")).collect();
    assert_eq!(starts, ["orders/3@95", "orders/3@96", "orders/3@97", "orders/3@98", "orders/3@99"]);
    assert!(ran.err.ends_with("next offset: 100\n"), "{ran:?}");

    let lines = fetch(&["--max-records", "2", "--json"]).json();
    assert_eq!((lines[1]["offset"].as_str(), lines[2]["nextOffset"].as_str()), (Some("1"), Some("2")));
    assert_eq!((lines.len(), lines[2]["logId"].as_str()), (3, Some("0")));

    let out = written.path("batches");
    let out = out.to_str().expect("UTF-8");
    let ran = fetch(&["--kafka-batches", "--out", out]);
    assert!(ran.code == 0 && ran.err.ends_with("next offset: 100\n"), "{ran:?}");
    assert_eq!(std::fs::read(out).expect("a file"), log);
    std::fs::remove_file(out).expect("it is there");

    written.put_as("chronik/v1.wal", &fixture("chronik/v1.wal"), "v1").await;
    for (code, arguments) in [
        (1, &["--kafka-batches", "--out", out, "--log-id", "v1"][..]),
        (2, &["--kafka-batches"]),
        (2, &["--offset", "-1"]),
        (2, &["--max-records", "0"]),
        (5, &["--endpoint", "http://127.0.0.1:1"]),
    ] {
        let ran = fetch(arguments);
        assert!(ran.code == code && ran.err.starts_with("error: "), "{arguments:?}: {ran:?}");
    }
    assert!(!std::path::Path::new(out).exists(), "what is not whole has not its name");
}

#[tokio::test]
async fn the_verb_follows_what_is_stored_later() {
    let written = Written::new();
    written.put("kafka/none.log", &fixture("kafka/none.log")).await;
    let following = ["fetch", "--topic", "orders", "--partition", "3", "--follow", "--offset", "98"];
    let mut process = command(following)
        .env("WAL_INDEXER_STORE", written.store().url())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
    let mut offset = || -> i64 {
        let line = lines.next().expect("it goes on").expect("UTF-8");
        let place = line.split(' ').nth(1).and_then(|place| place.strip_prefix("orders/3@"));
        place.and_then(|offset| offset.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    assert_eq!([offset(), offset()], [98, 99]);
    written.put("kafka/gzip.log", &fixture("kafka/gzip.log")).await;
    assert_eq!([offset(), offset()], [1_000, 1_001]);
    process.kill().expect("it is ours");
    process.wait().expect("it ends");
}

#[tokio::test]
async fn ls_sums_up_logs_and_says_which_offsets_no_bundle_covers() {
    let (written, segments) = (Written::new(), segments(3, Format::Kafka));
    put_all(&written, &segments).await;
    let ends: Vec<_> = segments.iter().map(|one| records_of(std::slice::from_ref(one))).collect();
    let last = |nth: usize| *ends[nth].keys().next_back().expect("records");
    let gap = |nth| format!("{}..{}", last(nth) + 1, last(nth) + 17);
    let out = written.run(&["ls"]).out;
    let line = out.lines().nth(1).expect("a log");
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..4], ["orders/3", "0", "3", &format!("0..{}", last(2))], "{out}");
    assert!(line.trim_end().ends_with(&format!("{}, {}", gap(0), gap(1))), "{out}");
    assert_eq!(written.run(&["ls", "--bundles"]).out.lines().count(), 4);

    let bundles = written.run(&["ls", "--json"]).json();
    let worker = Worker::start_on(written.store().url(), &[], &["--roles", "search"]);
    let endpoint = worker.endpoint();
    assert_eq!(written.run(&["ls", "--json", "--endpoint", &endpoint]).json(), bundles);
    assert_eq!(written.run(&["ls", "--endpoint", &endpoint]).out, out);
    let asked = ["fetch", "--topic", "orders", "--partition", "3", "--json"];
    let here = written.run(&asked).json();
    assert_eq!(written.run(&[&asked[..], &["--endpoint", &endpoint]].concat()).json(), here);
}

#[tokio::test]
async fn a_scrub_goes_on_behind_a_corrupt_bundle_and_tells_gaps_and_overlaps() {
    let (written, segments) = (Written::new(), segments(3, Format::Kafka));
    put_all(&written, &segments).await;
    // From a replica that sealed its segment earlier.
    written.put("replica", &split(&segments[2])[..4].concat().into()).await;
    let keys = written.keys().await;
    let clean = written.run(&["verify", "--all", "--rate", "1GiB", "--json"]).json();
    let borders = |lines: &[Value]| -> Vec<Value> {
        lines.iter().filter(|line| line.get("what").is_some()).cloned().collect()
    };
    let told = borders(&clean);
    let words: Vec<_> = told.iter().map(|line| line["what"].as_str().expect("a word")).collect();
    assert_eq!(words, ["gap", "gap", "overlap"]);
    assert_eq!(told[0]["bundles"], serde_json::json!([keys[0], keys[1]]));
    assert_eq!(told[2]["bundles"], serde_json::json!([keys[2], keys[3]]));

    let broken = written.path("store").join(&keys[1]);
    let mut bytes = std::fs::read(&broken).expect("a bundle");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&broken, bytes).expect("a file");
    let ran = written.run(&["verify", "--all"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    for (key, mark) in [(&keys[0], "ok"), (&keys[1], "WRONG"), (&keys[2], "ok"), (&keys[3], "ok")] {
        let is_told = |line: &&str| line.starts_with(mark) && line.ends_with(key.as_str());
        assert_eq!(ran.out.lines().filter(is_told).count(), 1, "{key}: {ran:?}");
    }
    assert!(ran.out.lines().any(|line| line.starts_with("overlap: orders/3 log 0, offsets ")), "{ran:?}");
    assert_eq!(written.run(&["verify", "--all", "--rate", "0"]).code, 2);
}
