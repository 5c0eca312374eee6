//! Transactions, from outside: which records are marked, which are left out, and how bundles depend on one
//! another.

mod broker;
mod follow;
mod script;

use std::collections::BTreeMap;

use serde_json::Value;
use wal_indexer::client::Connection;
use wal_indexer::generate::Format;
use wal_indexer::proto::v1;
use wal_indexer::proto::v1::fetch_request::FetchForm;
use wal_indexer::proto::v1::record::Transaction;
use wal_indexer::proto::v1::search_request::Order;

use wal_indexer::restore::restore;
use wal_indexer::store::KeyPrefix;

use crate::read_back::serve;
use crate::written::{Written, fixture, fixture_path};

use script::{Script, State};

const FORMATS: [Format; 2] = [Format::Kafka, Format::ChronikV2];

/// Returns the result of a search: the state of each record by its offset, and the summary.
async fn search(
    client: &mut Connection,
    order: Order,
    change: impl FnOnce(&mut v1::SearchRequest),
) -> (BTreeMap<i64, State>, v1::SearchSummary) {
    let filter = v1::RecordFilter { topic: "orders".to_owned(), ..Default::default() };
    let mut request = v1::SearchRequest { filter: Some(filter), limit: 10_000, ..Default::default() };
    request.set_order(order);
    change(&mut request);
    let mut messages = client.search(request).await.expect("an answer");
    let (mut found, mut summary) = (BTreeMap::new(), None);
    while let Some(message) = messages.message().await.expect("a message") {
        found.extend(message.records.iter().map(|record| (record.offset, state(record))));
        summary = message.summary;
    }
    (found, summary.expect("a summary"))
}

fn state(record: &v1::Record) -> State {
    match record.transaction() {
        Transaction::Unspecified => State::Counts,
        Transaction::Aborted => State::Aborted,
        Transaction::Open => State::Open,
    }
}

/// Fetches from an offset on, again and again, until a fetch makes no progress. Returns everything, and the
/// last message.
async fn fetch(
    client: &mut Connection,
    form: FetchForm,
    offset: i64,
    max_records: u32,
) -> (BTreeMap<i64, State>, Vec<u8>, v1::FetchResponse) {
    let (mut found, mut batches, mut offset) = (BTreeMap::new(), Vec::new(), offset);
    loop {
        let mut request =
            v1::FetchRequest { topic: "orders".to_owned(), partition: 3, offset, ..Default::default() };
        request.set_form(form);
        request.max_records = max_records;
        let mut messages = client.fetch(request).await.expect("an answer");
        let mut last = None;
        while let Some(message) = messages.message().await.expect("a message") {
            found.extend(message.records.iter().map(|record| (record.offset, state(record))));
            batches.extend_from_slice(&message.kafka_batches);
            last = Some(message);
        }
        let last = last.expect("where to go on");
        if last.next_offset() == offset {
            return (found, batches, last);
        }
        offset = last.next_offset();
    }
}

/// Compares every kind of read with what the script defines.
async fn check(client: &mut Connection, expected: &BTreeMap<i64, State>, next_offset: i64, what: &str) {
    let committed: BTreeMap<i64, State> = expected
        .iter()
        .filter(|(_, state)| **state == State::Counts)
        .map(|(at, state)| (*at, *state))
        .collect();
    for (all, alone) in [
        (Order::Unspecified, Order::NewestFirstCommitted),
        (Order::OldestFirst, Order::OldestFirstCommitted),
        (Order::ByScore, Order::ByScoreCommitted),
    ] {
        let (found, summary) = search(client, all, |_| ()).await;
        assert_eq!(found, *expected, "{what}");
        assert_eq!(
            (summary.matched, summary.bundles_with_open_transactions),
            (expected.len() as u64, 0),
            "{what}"
        );
        let (found, summary) = search(client, alone, |_| ()).await;
        assert_eq!(found, committed, "{what}");
        let has_open = expected.values().any(|state| *state == State::Open);
        assert_eq!(summary.matched, committed.len() as u64, "{what}");
        assert_eq!(summary.bundles_with_open_transactions > 0, has_open, "{what}");
        // A word of every other record, a limit, bounds, a number, and buckets.
        let (found, summary) = search(client, alone, |request| request.query = "even".to_owned()).await;
        let even = committed.keys().filter(|offset| *offset % 2 == 0).count();
        assert_eq!((found.len(), summary.matched), (even, even as u64), "{what}");
        let (found, _) = search(client, alone, |request| request.limit = 2).await;
        assert_eq!(found.len(), committed.len().min(2), "{what}");
        assert!(found.keys().all(|offset| committed.contains_key(offset)), "{what}");
        let (_, summary) = search(client, alone, |request| {
            (request.count_only, request.bucket_ms) = (true, Some(3));
        })
        .await;
        let counted: u64 = summary.buckets.iter().map(|bucket| bucket.matched).sum();
        assert_eq!((summary.matched, counted), (committed.len() as u64, committed.len() as u64), "{what}");
    }
    for offset in [0, next_offset / 2] {
        let (_, summary) = search(client, Order::NewestFirstCommitted, |request| {
            request.filter.as_mut().expect("a filter").max_offset = Some(offset);
            request.count_only = true;
        })
        .await;
        assert_eq!(summary.matched, committed.range(..=offset).count() as u64, "{what}: up to {offset}");
        for max_records in [1, 3, u32::MAX] {
            let (found, _, last) = fetch(client, FetchForm::Records, offset, max_records).await;
            let wanted: BTreeMap<_, _> = expected.range(offset..).map(|(at, state)| (*at, *state)).collect();
            assert_eq!(found, wanted, "{what}: from {offset}");
            assert_eq!((last.next_offset(), last.open_transaction_offset), (next_offset, None), "{what}");
            // A consumer of committed records gets nothing from the first record of an open transaction on.
            let open = wanted.iter().find(|(_, state)| **state == State::Open).map(|(offset, _)| *offset);
            let (found, _, last) = fetch(client, FetchForm::RecordsCommitted, offset, max_records).await;
            let end = open.unwrap_or(next_offset).max(offset);
            let wanted: BTreeMap<_, _> =
                committed.range(offset..end).map(|(at, state)| (*at, *state)).collect();
            assert_eq!(found, wanted, "{what}: from {offset}");
            assert_eq!(
                (last.next_offset(), last.open_transaction_offset),
                (end, open),
                "{what}: from {offset}"
            );
        }
    }
}

/// Returns the name of a segment.
fn name(format: Format) -> &'static str {
    match format {
        Format::Kafka => "kafka/script",
        _ => "chronik/v2-script",
    }
}

/// Stores the first `stored` segments of a script, the last one first, and checks a worker's answers.
async fn check_script(script: &Script, format: Format, stored: usize, what: &str) {
    let written = Written::new();
    for segment in script.segments(format)[..stored].iter().rev() {
        written.put(name(format), segment).await;
    }
    let what = format!("{what}, {format:?}, {stored} segments");
    let asked = serve(&written, async |address| {
        let mut client = Connection::connect(&address).await.expect("a worker");
        check(&mut client, &script.states(0..stored), script.end_of(stored), &what).await;
    });
    asked.await;
    let verified = written.run(&["verify", "--all"]);
    assert_eq!(verified.code, 0, "{what}: {verified:?}");
}

/// A letter is a producer that writes data; `+` behind it is a commit, `-` an abort. `.` is a record outside
/// of transactions, `i` one of an idempotent producer without transactions, `k` a control batch of another
/// kind, and `|` begins a new segment.
const SCRIPTS: &[(&str, &str)] = &[
    ("committed and aborted", "aa a+ . aa a- . a a+"),
    ("producers take turns", "a b a . b b- a b a+ b b+ a a- ."),
    ("one that spans two segments", ". a a | a a- . | b b+"),
    ("one that spans three", "a . | b b+ . | b a- . b | b- ."),
    ("committed in the third", "a . | . a | a . a+ ."),
    ("the end is not stored", ". a a . b b+ a ."),
    ("the end is not stored of two", "a . b | b . b- b . | . b"),
    ("a fenced producer is aborted, and goes on", "a a A- A A+ a | a A- . A A+"),
    ("no transactions", "i i . i | i i"),
    ("an idempotent producer beside one with transactions", "i a i a- i | a i i a+ i"),
    ("other control batches", "a k . a k | k a k a- k"),
    ("markers without data", "a- b+ . | a+ b- . a | a+ a-"),
    ("nothing but a transaction", "a | a | a-"),
];

/// The contents of the bundles of `tests/fixtures/bundle/transactions`.
const EARLIER: &str = "c c+ a . | b a . c c- | a- b+ .";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_count_as_the_next_marker_of_their_producer_says_in_whichever_segment_it_is() {
    for (what, events) in SCRIPTS {
        let script = Script::parse(events);
        for format in FORMATS {
            for stored in 1..=script.len() {
                check_script(&script, format, stored, what).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_mixture_of_producers_and_segments_is_told_apart() {
    for seed in 0..12 {
        let script = Script::random(seed, 60, 4);
        check_script(&script, FORMATS[seed as usize % 2], script.len(), &format!("seed {seed}")).await;
    }
}

#[tokio::test]
async fn where_a_segment_is_missing_no_later_marker_is_believed() {
    // The end of the first transaction is in the missing segment. The marker in the third segment belongs to
    // another transaction.
    let script = Script::parse("a a . | a a+ a | a a- .");
    let (written, segments) = (Written::new(), script.segments(Format::Kafka));
    written.put("first", &segments[0]).await;
    written.put("third", &segments[2]).await;
    let asked = serve(&written, async |address| {
        let mut client = Connection::connect(&address).await.expect("a worker");
        let (found, _) = search(&mut client, Order::OldestFirst, |_| ()).await;
        let states: Vec<State> = found.values().copied().collect();
        assert_eq!(states, [State::Open, State::Open, State::Counts, State::Aborted, State::Counts]);
    });
    asked.await;
    written.put("second", &segments[1]).await;
    let asked = serve(&written, async |address| {
        let mut client = Connection::connect(&address).await.expect("a worker");
        check(&mut client, &script.states(0..3), script.end_of(3), "all three").await;
    });
    asked.await;
}

#[tokio::test]
async fn replicas_that_sealed_their_segments_elsewhere_tell_the_same() {
    let events = "a b . a b- | a . b a | a- b b+ .";
    let elsewhere = "a b | . a b- a . b | a a- b | b+ .";
    let written = Written::new();
    for script in [events, elsewhere].map(Script::parse) {
        for segment in script.segments(Format::Kafka) {
            written.put("kafka/script", &segment).await;
        }
    }
    let script = Script::parse(events);
    let asked = serve(&written, async |address| {
        let mut client = Connection::connect(&address).await.expect("a worker");
        check(&mut client, &script.states(0..3), script.end_of(3), "replicas").await;
    });
    asked.await;
}

#[tokio::test]
async fn batches_of_aborted_transactions_are_left_out_and_those_of_open_ones_end_the_answer() {
    let script = Script::parse("aa b a- . bb b+ | c . d d+ c");
    for format in FORMATS {
        let written = Written::new();
        for segment in script.segments(format) {
            written.put(name(format), &segment).await;
        }
        let asked = serve(&written, async |address| {
            let mut client = Connection::connect(&address).await.expect("a worker");
            let (_, batches, _) = fetch(&mut client, FetchForm::KafkaBatches, 0, u32::MAX).await;
            assert_eq!(batches, script.batches(|_| true), "{format:?}");
            let (_, batches, last) = fetch(&mut client, FetchForm::KafkaBatchesCommitted, 0, u32::MAX).await;
            // Markers are returned, too. The first record of the open transaction is at offset 8.
            assert_eq!(batches, script.batches(|offset| (2..8).contains(&offset)), "{format:?}");
            assert_eq!((last.next_offset(), last.open_transaction_offset), (8, Some(8)), "{format:?}");
        });
        asked.await;
    }
}

/// The segment was written by Kafka's own classes. It has a committed record and an aborted one.
#[tokio::test]
async fn the_program_marks_an_aborted_record_and_leaves_it_out_where_it_should() {
    let written = Written::new();
    written.put("answers/aborted-transaction.log", &fixture("answers/aborted-transaction.log")).await;
    let search = ["search", "--topic", "orders", "--oldest-first"];
    let fetch = ["fetch", "--topic", "orders", "--partition", "3"];
    for verb in [&search[..], &fetch] {
        let run = |more: &[&str]| written.run(&[verb, more].concat());
        let lines = run(&[]).out;
        let marked: Vec<_> =
            lines.lines().map(|line| line.split_once("orders/3@").expect("a place").1).collect();
        assert_eq!(marked, ["0 committedword", "2 [aborted] abortedword"], "{verb:?}");
        let of = |records: &[Value]| -> Vec<_> {
            records.iter().map(|one| (one["offset"].clone(), one["transaction"].clone())).collect()
        };
        let all = run(&["--json"]).json();
        let aborted = ("2".into(), "TRANSACTION_ABORTED".into());
        assert_eq!(of(&all)[..2], [("0".into(), Value::Null), aborted], "{verb:?}");
        let committed = run(&["--json", "--isolation", "committed"]).json();
        assert_eq!(of(&committed)[0], ("0".into(), Value::Null), "{verb:?}");
        assert!(!run(&["--isolation", "committed"]).out.contains("abortedword"), "{verb:?}");
        assert_eq!(run(&["--isolation", "serializable"]).code, 2, "{verb:?}");
    }
    let query = ["--isolation", "committed", "--count", "abortedword OR committedword"];
    assert_eq!(written.run(&[&search[..3], &query].concat()).out, "1\n");
    let last = written.run(&[&fetch[..], &["--json", "--isolation", "committed"]].concat()).json();
    let next = &last.last().expect("a line")["nextOffset"];
    assert_eq!(
        (last.len(), next),
        (2, &Value::from("4")),
        "the aborted record and its marker are passed over"
    );
}

#[tokio::test]
async fn what_is_left_out_since_its_end_is_not_stored_is_said() {
    let script = Script::parse(". a . | a a+");
    let (written, segments) = (Written::new(), script.segments(Format::Kafka));
    written.put("first", &segments[0]).await;
    let search = ["search", "--topic", "orders", "--isolation", "committed"];
    let fetch = ["fetch", "--topic", "orders", "--partition", "3", "--isolation", "committed", "--json"];
    let found = written.run(&search);
    assert_eq!(
        (found.out.lines().count(), found.err.matches("end is not stored").count()),
        (2, 1),
        "{found:?}"
    );
    let fetched = written.run(&fetch);
    let last = &fetched.json()[1];
    assert_eq!((&last["nextOffset"], &last["openTransactionOffset"]), (&Value::from("1"), &Value::from("1")));
    assert!(fetched.err.contains("offset 1 belongs to a transaction whose end is not stored"), "{fetched:?}");
    assert!(written.run(&["search", "--topic", "orders"]).out.contains("@1 [open] "));
    written.put("second", &segments[1]).await;
    let found = written.run(&search);
    assert_eq!((found.out.lines().count(), found.err.contains("end is not stored")), (4, false), "{found:?}");
    assert_eq!(written.run(&fetch).json().len(), 5);
}

/// Returns a store with the bundles of `script` from an earlier release, whose manifests have no
/// transactions.
fn earlier() -> Written {
    let written = Written::new();
    let folder = written.path("store/orders/3/0");
    std::fs::create_dir_all(&folder).expect("a directory");
    for entry in std::fs::read_dir(fixture_path("bundle/transactions")).expect("the fixtures are there") {
        let bundle = entry.expect("an entry");
        std::fs::copy(bundle.path(), folder.join(bundle.file_name())).expect("a copy");
    }
    written
}

async fn check_stored(written: &Written, script: &Script, what: &str) {
    let asked = serve(written, async |address| {
        let mut client = Connection::connect(&address).await.expect("a worker");
        check(&mut client, &script.states(0..script.len()), script.end_of(script.len()), what).await;
    });
    // On the heap, because tests have small stacks.
    Box::pin(asked).await;
    let verified = written.run(&["verify", "--all"]);
    assert_eq!(verified.code, 0, "{what}: {verified:?}");
}

#[tokio::test]
async fn bundles_of_an_earlier_release_tell_the_same() {
    let script = Script::parse(EARLIER);
    let written = earlier();
    check_stored(&written, &script, "earlier").await;
    // If a segment is indexed again, its bundle exists already and stays unchanged.
    let listed = written.store().list(&KeyPrefix::all()).await.expect("a listing");
    assert_eq!(listed.len(), 3);
    for one in listed {
        let out = written.path("restored");
        let keys = [one.key];
        let restored = restore(written.store(), &keys, &out, |_, _| {});
        Box::pin(restored).await.expect("a segment");
        let segment = std::fs::read(&out).expect("a file").into();
        std::fs::remove_file(&out).expect("a file");
        let receipt = Box::pin(written.put("kafka/script", &segment)).await;
        assert!(receipt.partitions[0].stored.already_existed(), "it was there");
    }
    check_stored(&written, &script, "indexed again").await;
}

#[tokio::test]
async fn a_later_release_ends_what_bundles_of_an_earlier_one_left_open() {
    let (script, written) = (Script::parse(EARLIER), earlier());
    let listed = written.store().list(&KeyPrefix::all()).await.expect("a listing");
    std::fs::remove_file(written.file(&listed[2].key)).expect("it was there");
    Box::pin(written.put("kafka/script", &script.segments(Format::Kafka)[2])).await;
    check_stored(&written, &script, "the last one by this release").await;
}

/// The values are not text, are not compressed, and are so large that a few of them fill a slice.
#[tokio::test]
async fn a_transaction_that_spans_slices_of_a_segment_ends_where_its_marker_is() {
    let mut script = Script::parse("a . b a . a- b a b+ .");
    script.pad(9 << 20);
    let written = Written::new();
    Box::pin(written.put("kafka/script", &script.segments(Format::Kafka)[0])).await;
    let asked = serve(&written, async |address| {
        let mut client = Connection::connect(&address).await.expect("a worker");
        let count = |request: &mut v1::SearchRequest| request.count_only = true;
        let (_, summary) = search(&mut client, Order::NewestFirstCommitted, count).await;
        let states = script.states(0..1);
        let committed = states.values().filter(|state| **state == State::Counts).count();
        assert_eq!(summary.matched, committed as u64);
        assert_eq!(summary.bundles_with_open_transactions, 1);
        let (found, _) = search(&mut client, Order::OldestFirst, |_| ()).await;
        assert_eq!(found, states);
    });
    Box::pin(asked).await;
}

#[tokio::test]
async fn a_topic_without_transactions_and_one_whose_transactions_have_ended_take_no_more_requests() {
    // The LIST, and one request for each bundle. What is in the cache is not read again. If a transaction is
    // open, there is another LIST.
    for (events, requests) in [(". i . | . i", [3, 1]), (". a a- . | b b+", [3, 1]), (". a . | . .", [4, 2])]
    {
        let (script, written) = (Script::parse(events), Written::new());
        for segment in script.segments(Format::Kafka) {
            written.put("kafka/script", &segment).await;
        }
        let asked = serve(&written, async |address| {
            let mut client = Connection::connect(&address).await.expect("a worker");
            let (_, first) = search(&mut client, Order::OldestFirst, |_| ()).await;
            let (_, second) = search(&mut client, Order::OldestFirstCommitted, |_| ()).await;
            assert_eq!([first.requests_to_store, second.requests_to_store], requests, "{events}");
        });
        asked.await;
    }
}
