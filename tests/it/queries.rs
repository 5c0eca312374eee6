//! Queries: the result of a worker is compared with that of a plain scan of the records. Also hostile
//! queries.

mod adversary;
mod answers;
mod command;
mod compose;
pub mod hostile;
mod oracle;
mod scan;

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use tonic::Status;
use tonic::transport::Channel;
use wal_indexer::generate::{self, Size, Spec, logs::Logs};
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::search_request::Order;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;

use crate::truth::{self, Record};
use crate::worker::{self, Worker};
use compose::Rng;
use oracle::{Doc, Query};

/// How many queries run on each corpus.
const QUERIES: usize = 200;

/// How many run at a time.
const AT_ONCE: usize = 4;

const SEED: u64 = 20_261_123;

type Client = SearchServiceClient<Channel>;

/// Records of one partition of one log.
struct Corpus {
    name: String,
    topic: String,
    partition: i32,
    log_id: String,
    docs: Vec<Doc>,
}

/// Starts a worker whose indexes store the positions of words, or do not.
fn worker(positions: bool) -> (Worker, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = dir.path().join("settings.toml");
    std::fs::write(&settings, format!("[[topic]]\npattern = \"*\"\npositions = {positions}\n"))
        .expect("a file");
    let worker = Worker::start_with(&["--index-settings", settings.to_str().expect("UTF-8")]);
    (worker, dir)
}

async fn send(worker: &Worker, log_id: &str, told: Option<(&str, i32)>, bytes: &[u8]) {
    let mut first = worker::inline(bytes.len() as u64, told);
    first.log_id = log_id.to_owned();
    let mut client = worker.client().await;
    worker::send_inline(&mut client, first, bytes, 256 << 10).await.expect(log_id);
}

/// An answer, assembled from its messages.
struct Answer {
    records: Vec<v1::Record>,
    summary: v1::SearchSummary,
}

async fn ask(mut client: Client, request: v1::SearchRequest) -> Result<Answer, Status> {
    let mut messages = client.search(request).await?.into_inner();
    let (mut records, mut summary) = (Vec::new(), None);
    while let Some(message) = messages.message().await? {
        records.extend(message.records);
        summary = message.summary;
    }
    Ok(Answer { records, summary: summary.expect("a summary at the end") })
}

/// Runs a random query on a corpus, counted and in each order. Returns how many records match.
async fn check(client: &Client, corpus: &Corpus, positions: bool, nth: usize) -> usize {
    let mut rng = Rng(SEED.wrapping_add(nth as u64));
    let (text, query) = compose::query(&corpus.docs, &mut rng, 3);
    let filter = filter(corpus, &mut rng);
    let expected = expected(corpus, &query, &filter, positions);
    let offsets: BTreeSet<i64> = expected.iter().map(|record| record.offset).collect();
    let order = [Order::NewestFirst, Order::OldestFirst, Order::ByScore][nth % 3];
    let limit = if nth.is_multiple_of(2) { 10_000 } else { 1 + rng.below(20) };
    let told = format!("seed {SEED}, {} with positions {positions}, query {nth}: {text}", corpus.name);

    let request = v1::SearchRequest {
        filter: Some(filter),
        query: text,
        limit: limit as u32,
        order: order.into(),
        ..v1::SearchRequest::default()
    };
    let counted = v1::SearchRequest { count_only: true, ..request.clone() };
    let counted = ask(client.clone(), counted).await.unwrap_or_else(|status| panic!("{told}: {status}"));
    assert_eq!(counted.records.len(), 0, "{told}");
    assert_eq!(counted.summary.matched, offsets.len() as u64, "{told}: counted");
    let answer = ask(client.clone(), request).await.unwrap_or_else(|status| panic!("{told}: {status}"));
    check_answer(&told, answer, &expected, order, limit);
    expected.len()
}

#[track_caller]
fn check_answer(told: &str, answer: Answer, expected: &[&Record], order: Order, limit: usize) {
    let scores: Vec<f32> = answer.records.iter().filter_map(|record| record.score).collect();
    let found: Vec<Record> = answer.records.into_iter().map(of_wire).collect();
    assert_eq!(found.len(), expected.len().min(limit), "{told}: how many");
    let age = |record: &Record| (record.timestamp_ms, record.offset);
    let mut ages: Vec<_> = expected.iter().map(|record| age(record)).collect();
    // Records without a time come last in both orders.
    ages.sort_unstable_by_key(|(time, offset)| match order {
        Order::OldestFirst => (time.is_none(), *time, *offset),
        _ => (time.is_none(), time.map(|time| -time), -offset),
    });
    match order {
        Order::ByScore => {
            assert_eq!(scores.len(), found.len(), "{told}: scores");
            assert!(scores.is_sorted_by(|a, b| a >= b), "{told}: {scores:?}");
        }
        _ => assert_eq!(found.iter().map(age).collect::<Vec<_>>(), ages[..found.len()], "{told}: order"),
    }
    let mut left: Vec<&Record> = expected.to_vec();
    for record in &found {
        let at = left.iter().position(|one| *one == record);
        left.swap_remove(at.unwrap_or_else(|| panic!("{told}: {record:?} is not to be found, or not again")));
    }
    let offsets: BTreeSet<i64> = expected.iter().map(|record| record.offset).collect();
    let matched = answer.summary.matched as usize;
    if answer.summary.bundles_left == 0 {
        assert_eq!(matched, offsets.len(), "{told}: matched");
    } else {
        assert!((limit..=offsets.len()).contains(&matched), "{told}: {matched} matched");
    }
}

/// Returns a filter for the corpus. One in three has bounds.
fn filter(corpus: &Corpus, rng: &mut Rng) -> v1::RecordFilter {
    let mut filter = v1::RecordFilter {
        topic: corpus.topic.clone(),
        partition: Some(corpus.partition),
        log_id: Some(corpus.log_id.clone()),
        ..v1::RecordFilter::default()
    };
    let (a, b) = (rng.below(corpus.docs.len()), rng.below(corpus.docs.len()));
    let (a, b) = (&corpus.docs[a].record, &corpus.docs[b].record);
    match rng.below(9) {
        0 => filter.min_offset = Some(a.offset.min(b.offset)),
        1 => {
            filter.min_offset = Some(a.offset.min(b.offset));
            filter.max_offset = Some(a.offset.max(b.offset));
        }
        2 => {
            filter.min_timestamp_ms = a.timestamp_ms.min(b.timestamp_ms);
            filter.max_timestamp_ms = a.timestamp_ms.max(b.timestamp_ms);
        }
        _ => {}
    }
    filter
}

fn expected<'a>(
    corpus: &'a Corpus,
    query: &Query,
    filter: &v1::RecordFilter,
    positions: bool,
) -> Vec<&'a Record> {
    let is_between = |value: i64, min: Option<i64>, max: Option<i64>| {
        min.is_none_or(|min| min <= value) && max.is_none_or(|max| value <= max)
    };
    let (min, max) = (filter.min_timestamp_ms, filter.max_timestamp_ms);
    let in_time = |record: &Record| match record.timestamp_ms {
        Some(ms) => is_between(ms, min, max),
        None => min.is_none() && max.is_none(),
    };
    let in_question =
        |record: &Record| is_between(record.offset, filter.min_offset, filter.max_offset) && in_time(record);
    let found = corpus.docs.iter().filter(|doc| in_question(&doc.record) && query.finds(doc, positions));
    let mut records: Vec<&Record> = found.map(|doc| &doc.record).collect();
    // The same record twice counts once.
    records.sort_by(|a, b| (a.offset, &a.value, &a.key).cmp(&(b.offset, &b.value, &b.key)));
    records.dedup();
    records
}

fn of_wire(record: v1::Record) -> Record {
    let bytes = |bytes: bytes::Bytes| bytes.to_vec();
    let headers = record.headers.into_iter();
    Record {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.map(bytes),
        value: record.value.map(bytes),
        headers: headers.map(|header| (header.name.into_bytes(), header.value.map(bytes))).collect(),
    }
}

/// Runs [`QUERIES`] queries on each corpus. At least a third of them must find something; otherwise they
/// would prove little.
async fn check_all(worker: &Worker, corpora: &[Corpus], positions: bool) {
    let client = Client::new(worker.channel().await);
    let mut hits = BTreeMap::new();
    for corpus in corpora {
        let checks = (0..QUERIES).map(|nth| check(&client, corpus, positions, nth));
        let found: Vec<usize> = stream::iter(checks).buffer_unordered(AT_ONCE).collect().await;
        let with_hits = found.iter().filter(|found| **found > 0).count();
        assert!(with_hits * 3 >= QUERIES, "{}: only {with_hits} queries find anything", corpus.name);
        hits.insert(&corpus.name, with_hits);
    }
    println!("seed {SEED}: {QUERIES} queries each, so many of them with hits: {hits:?}");
}

async fn check_fixtures(positions: bool) {
    let (worker, _settings) = worker(positions);
    let mut corpora = Vec::new();
    for fixture in truth::fixtures() {
        let log_id = fixture.file.replace('/', "-");
        send(&worker, &log_id, fixture.named_partition, &fixture.bytes).await;
        corpora.extend(fixture.expected.into_iter().map(|held| Corpus {
            name: format!("{} {}/{}", fixture.file, held.topic, held.partition),
            topic: held.topic,
            partition: held.partition,
            log_id: log_id.clone(),
            docs: held.records.into_iter().map(Doc::new).collect(),
        }));
    }
    assert!(corpora.len() >= 30);
    check_all(&worker, &corpora, positions).await;
}

#[tokio::test]
async fn queries_of_every_fixture_find_what_a_scan_finds_and_nothing_else() {
    check_fixtures(false).await;
}

#[tokio::test]
async fn so_they_do_where_words_know_their_places() {
    check_fixtures(true).await;
}

/// Returns a generated segment: its bytes and its records.
fn generated(seed: u64, base_offset: i64, records: u64) -> (Vec<u8>, Vec<Record>) {
    let mut bytes = Vec::new();
    let spec = Spec { seed, base_offset, size: Size::Records(records), ..Spec::default() };
    generate::generate(&spec, &mut bytes).expect("a valid description");
    let mut logs = Logs::new(seed);
    (base_offset..base_offset + records as i64).for_each(|offset| logs.push(offset));
    (bytes, truth::records_of(&logs.take()))
}

#[tokio::test]
async fn queries_of_several_bundles_some_of_which_overlap_find_each_record_once() {
    for positions in [false, true] {
        let (worker, _settings) = worker(positions);
        let mut docs = Vec::new();
        for (seed, base_offset, records) in [(1, 0, 400), (2, 400, 400), (3, 800, 1)] {
            let (bytes, held) = generated(seed, base_offset, records);
            send(&worker, "a", Some(("logs", 0)), &bytes).await;
            docs.extend(held.into_iter().map(Doc::new));
        }
        // As from a replica that sealed its segment earlier.
        let (bytes, again) = generated(1, 0, 250);
        assert!(again.iter().zip(&docs).all(|(again, doc)| *again == doc.record));
        send(&worker, "a", Some(("logs", 0)), &bytes).await;
        assert_eq!(worker.keys().len(), 4);
        let name = "generated logs".to_owned();
        let corpus = Corpus { name, topic: "logs".into(), partition: 0, log_id: "a".into(), docs };
        check_all(&worker, &[corpus], positions).await;
    }
}
