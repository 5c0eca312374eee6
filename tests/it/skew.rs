//! Agents, workers and files of different releases: the rules of docs/compatibility.md.

mod contract;
mod later;
mod words;

use std::fs;
use std::path::Path;

use bytes::Bytes;
use futures::stream;
use prost::Message;
use serde_json::Value;
use tonic::{Code, Request, Status};
use wal_indexer::proto::v1::{self, IndexSegmentResponse};

use crate::agent::Scene;
use crate::scripted_worker::Answer;
use crate::sidecar::{Wal, name, once};
use crate::worker::{Refusal, Worker, chunk, command, header, inline, run, send};
use crate::written::Ran;

use later::{Later, Raw, Skew};

/// Runs a command against an endpoint.
fn ask(endpoint: &str, arguments: &[&str]) -> Ran {
    let mut asked = command(arguments);
    asked.args(["--endpoint", endpoint]);
    Ran::of(asked)
}

/// The requests of a caller to a worker that has `orders/0`. The answers must be the same for every peer.
const READS: [&[&str]; 4] = [
    &["ls", "--json"],
    &["search", "--topic", "orders", "--json", "--oldest-first", ""],
    &["search", "--topic", "orders", "--count", "--json", "level:error"],
    &["fetch", "--topic", "orders", "--partition", "0", "--offset", "1000", "--json"],
];

/// Removes the fields that differ from call to call.
fn lasting(ran: &Ran) -> Vec<Value> {
    let mut lines = ran.json();
    for line in lines.iter_mut().filter_map(Value::as_object_mut) {
        for name in ["totalUs", "bytesFetched", "requestsToStore"] {
            line.remove(name);
        }
    }
    lines
}

/// An agent empties a directory through the later peer, and callers read the same as from the worker itself.
async fn works_through(later: &Later, worker: &Worker) {
    let wal = Wal::new();
    wal.add_all("orders", 0, 1..=4);
    let output = once(wal.path(), std::slice::from_ref(&later.endpoint), &[]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), wal.ids("orders", 0)), (Some(0), vec![4]), "{log}");
    assert_eq!(worker.keys().len(), 3);
    for arguments in READS {
        let (through, direct) = (ask(&later.endpoint, arguments), ask(&worker.endpoint(), arguments));
        assert_eq!(lasting(&through), lasting(&direct), "{arguments:?}");
        assert!(!direct.out.is_empty(), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_takes_what_agents_of_later_releases_say() {
    let worker = Worker::start();
    let later = Later::start(&worker.endpoint(), Skew { requests: true, ..Skew::default() }).await;
    works_through(&later, &worker).await;
    for arguments in [["stats"], ["health"]] {
        assert_eq!(ask(&later.endpoint, &arguments).code, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_callers_take_what_workers_of_later_releases_say() {
    let worker = Worker::start();
    let skew = Skew { answers: true, enums: true, refusals: 2, ..Skew::default() };
    let later = Later::start(&worker.endpoint(), skew).await;
    works_through(&later, &worker).await;
    for arguments in [&["stats"][..], &["stats", "--json"]] {
        let ran = ask(&later.endpoint, arguments);
        assert!(ran.code == 0 && ran.out.contains('3'), "{ran:?}");
    }
    // An unknown health status does not count as serving.
    for arguments in [&["health"][..], &["health", "--json"]] {
        let ran = ask(&later.endpoint, arguments);
        assert!(ran.code == 5 && ran.out.contains("object-store"), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_a_reason_that_nobody_knows_is_acted_on_by_its_code() {
    let worker = Worker::start();
    let later = Later::start(&worker.endpoint(), Skew { refusals: 1, ..Skew::default() }).await;
    let refused = ask(&later.endpoint, &["ls"]);
    assert!(refused.code == 5 && refused.err.contains("said by a later worker"), "{refused:?}");
    assert_eq!(ask(&later.endpoint, &["ls"]).code, 0);
}

/// Makes a call with these bytes as its messages.
async fn call(worker: &Worker, path: &'static str, messages: Vec<Vec<u8>>) -> Status {
    let mut client = tonic::client::Grpc::new(worker.channel().await);
    client.ready().await.expect("it listens");
    let messages = stream::iter(messages.into_iter().map(Bytes::from));
    let path = path.parse().expect("a path");
    client.client_streaming(Request::new(messages), path, Raw).await.expect_err("a refusal")
}

/// Field 1000 with the value 1, which is unknown today.
const LATER: [u8; 3] = [0xc0, 0x3e, 1];

/// What may change the meaning of a request is never ignored. A later release sends it in one of these ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_cannot_know_and_must_not_pass_over_it_refuses_by_name() {
    let worker = Worker::start();
    let index = "/walindexer.v1.IndexerService/IndexSegment";
    let no_source = v1::SegmentHeader { source: None, ..inline(3, Some(("t", 0))) };
    // In the header, in the place of another source.
    let mut other_source = header(no_source).encode_to_vec();
    other_source.extend(LATER);
    other_source[1] += LATER.len() as u8;
    assert!(other_source[1] < 128, "the header's length takes one byte");
    for (messages, reason) in [
        (vec![LATER.to_vec()], "HEADER_MISSING"),
        (vec![other_source], "SOURCE_MISSING"),
        (
            vec![
                header(inline(3, Some(("t", 0)))).encode_to_vec(),
                LATER.to_vec(),
                chunk(vec![1; 3]).encode_to_vec(),
            ],
            "NOT_A_CHUNK",
        ),
        (
            vec![header(v1::SegmentHeader { torn_tail: later::UNKNOWN, ..inline(3, None) }).encode_to_vec()],
            "UNKNOWN_VALUE",
        ),
    ] {
        let refusal = Refusal::of(&call(&worker, index, messages).await);
        assert_eq!((refusal.code, &*refusal.reason), (Code::InvalidArgument, reason));
    }
    let search = v1::SearchRequest { order: later::UNKNOWN, ..v1::SearchRequest::default() };
    let fetch =
        v1::FetchRequest { topic: "t".to_owned(), form: later::UNKNOWN, ..v1::FetchRequest::default() };
    for (path, message) in [
        ("/walindexer.v1.SearchService/Search", search.encode_to_vec()),
        ("/walindexer.v1.SearchService/Fetch", fetch.encode_to_vec()),
    ] {
        let refusal = Refusal::of(&call(&worker, path, vec![message]).await);
        assert_eq!((refusal.code, &*refusal.reason), (Code::InvalidArgument, "UNKNOWN_VALUE"), "{path}");
    }
    let later = call(&worker, "/walindexer.v1.IndexerService/IndexManySegments", vec![]).await;
    assert_eq!(later.code(), Code::Unimplemented);
}

/// A header with the fields that the first release's agents had to send, and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_takes_a_header_with_nothing_in_it_but_what_was_always_needed() {
    let worker = Worker::start();
    let bytes = crate::sidecar::segment("orders", 0, 1);
    let source = v1::InlineSource { size_bytes: bytes.len() as u64, crc32c: None };
    let bare = v1::SegmentHeader {
        source: Some(v1::segment_header::Source::Inline(source)),
        ..v1::SegmentHeader::default()
    };
    let reply = send(&mut worker.client().await, vec![header(bare), chunk(bytes)]).await.expect("a receipt");
    assert_eq!((reply.record_count, &*reply.partitions[0].log_id), (20, "0"));
}

/// Removes something from an answer.
type Lack = fn(&mut IndexSegmentResponse);

/// What a receipt relies on must be in the answer: an absent field matches nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_lacks_what_a_receipt_rests_on_deletes_nothing() {
    let lacks: [(&str, Lack); 9] = [
        ("bytes_read", |answer| answer.bytes_read = 0),
        ("crc32c", |answer| answer.crc32c = 0),
        ("sha256", |answer| answer.sha256.clear()),
        ("record_count", |answer| answer.record_count = 0),
        ("partitions", |answer| answer.partitions.clear()),
        ("a partition's record_count", |answer| answer.partitions[0].record_count = 0),
        ("log_id", |answer| answer.partitions[0].log_id.clear()),
        ("bundle", |answer| answer.partitions[0].bundle = None),
        ("key", |answer| answer.partitions[0].bundle.as_mut().expect("a bundle").key.clear()),
    ];
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=2);
    for (name, lack) in lacks {
        scene.scripted.always(Answer::Wrong(lack));
        let (code, log) = scene.once(&[]);
        assert_ne!(code, 0, "{name}: {log}");
        assert_eq!(scene.wal.ids("orders", 0), [1, 2], "{name}: {log}");
    }
    // All other fields may be absent.
    scene.scripted.always(Answer::Wrong(|answer| {
        answer.timings = None;
        answer.format = 0;
        answer.batch_count = 0;
        answer.segment_id.clear();
        let partition = &mut answer.partitions[0];
        (partition.min_timestamp_ms, partition.max_timestamp_ms) = (None, None);
        let key = partition.bundle.take().expect("a bundle").key;
        partition.bundle = Some(v1::Bundle { key, ..v1::Bundle::default() });
    }));
    let (code, log) = scene.once(&[]);
    assert_eq!((code, scene.wal.ids("orders", 0)), (0, vec![2]), "{log}");
}

/// Returns the line of a checkpoint or a note with a field of a later release.
fn with_more(json: &str) -> String {
    let mut value: Value = serde_json::from_str(json).expect("JSON");
    value["later"] = serde_json::json!({ "what": ["nobody", "knows"] });
    value.to_string()
}

/// Checkpoints as the first release wrote them, and with fields of a later release: both are read, and
/// nothing is sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_agents_of_other_releases_remembered_counts() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    assert_eq!(scene.once(&["--delete-after-index", "false"]).0, 0);
    let path = scene.wal.path().join(".wal-indexer.checkpoint");
    let text = fs::read_to_string(&path).expect("it is there");
    let (first, lines) = text.split_once('\n').expect("lines");
    assert_eq!(first, "wal-indexer checkpoint 1");
    let sum = |json: &str| format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));

    let (mut later, mut earlier) = (format!("{first}\n"), format!("{first}\n"));
    for line in lines.lines() {
        let json = &line[9..];
        assert_eq!(format!("{line}\n"), sum(json), "a checksum and JSON");
        let now = serde_json::from_str(json).expect("JSON");
        earlier.push_str(&sum(&as_first_release(&now, &first_release("checkpoint-line.json")).to_string()));
        later.push_str(&sum(&with_more(json)));
    }
    for (text, flags) in [(earlier, &["--delete-after-index", "false"][..]), (later, &[])] {
        fs::write(&path, text).expect("written");
        let (code, log) = scene.once(flags);
        assert_eq!(code, 0, "{log}");
        assert!(!log.contains("damaged"), "{log}");
        assert!(scene.sent().values().all(|times| *times == 1), "{:?}", scene.sent());
    }
    assert_eq!(scene.wal.ids("orders", 0), [3]);

    // A checkpoint of an unknown kind is refused.
    fs::write(&path, "wal-indexer checkpoint 2\nwhatever\n").expect("written");
    let (code, log) = scene.once(&[]);
    assert!(code != 0 && log.contains("no checkpoint that this version can read"), "{code}: {log}");
}

/// Returns what the first release wrote: its names, with values of the right types.
fn first_release(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/skew/v0.1").join(file);
    serde_json::from_slice(&fs::read(path).expect("it is there")).expect("JSON")
}

/// Returns the part of `now` that the first release would have written. All of its names must exist, with the
/// same types.
fn as_first_release(now: &Value, then: &Value) -> Value {
    assert_eq!(std::mem::discriminant(now), std::mem::discriminant(then), "{now} was {then}");
    let Value::Object(then) = then else { return now.clone() };
    let kept = then.iter().map(|(name, then)| {
        let now = now.get(name).unwrap_or_else(|| panic!("{name} is not in {now}"));
        (name.clone(), as_first_release(now, then))
    });
    Value::Object(kept.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_decided_with_other_releases_counts() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    let bad = scene.wal.path().join(name("orders", 0, 1));
    let mut bytes = fs::read(&bad).expect("it is there");
    bytes[200] ^= 1;
    fs::write(&bad, bytes).expect("written");
    assert_eq!(scene.once(&[]).0, 3);
    let note = bad.with_extension("log.rejected.json");
    let text = fs::read_to_string(&note).expect("a note");
    let earlier = as_first_release(&serde_json::from_str(&text).expect("JSON"), &first_release("note.json"));
    let sent = scene.sent();
    for text in [earlier.to_string(), with_more(&text)] {
        fs::write(&note, text).expect("written");
        assert_eq!(scene.once(&[]).0, 3);
        assert_eq!(scene.sent(), sent, "it is not tried again");
    }
    run(["agent".as_ref(), "skip".as_ref(), bad.as_os_str()]);
    assert_eq!((scene.once(&[]).0, scene.wal.ids("orders", 0)), (0, vec![1, 3]));
}
