//! Invalid requests over gRPC. Each is refused with a code that says what to do, and with its own reason.
//! Each is counted. The worker continues, and its memory is freed.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use bytes::Bytes;
use futures::stream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ListServiceResponse, ServerReflectionRequest};
use wal_indexer::generate::{Format, Size, Spec, generate};
use wal_indexer::ids::TopicPartition;
use wal_indexer::proto::v1::segment_header::Source;
use wal_indexer::proto::v1::{
    self, GetStatsRequest, HealthRequest, IndexSegmentRequest, SegmentFormat, SegmentHeader,
};

use crate::truth::{Fixture, check_reply, fixtures};
use crate::worker::{Client, Refusal, Worker, chunk, file_url, header, inline, object, send, send_inline};

fn fixture(file: &str) -> Fixture {
    fixtures().into_iter().find(|fixture| fixture.file == file).expect("a fixture")
}

fn kafka() -> Fixture {
    fixture("kafka/gzip.log")
}

fn chronik() -> Fixture {
    fixture("chronik/v2-gzip.wal")
}

/// A name, a request, and the code and reason that it must get.
type Case = (&'static str, Vec<IndexSegmentRequest>, Code, &'static str);

/// Sends all requests to one worker, one after the other, and then a valid one.
async fn check(worker: &Worker, cases: Vec<Case>) {
    let mut client = worker.client().await;
    let before = rejected(&mut client).await;
    let mut counts = before.clone();
    for (name, messages, code, reason) in cases {
        let status = send(&mut client, messages).await.err().unwrap_or_else(|| panic!("{name}: a receipt"));
        let refusal = Refusal::of(&status);
        assert_eq!((refusal.code, &*refusal.reason), (code, reason), "{name}: {refusal:?}");
        *counts.entry(wal_indexer::internals::formatting::code_name(code).to_owned()).or_default() += 1;
    }
    assert_eq!(rejected(&mut client).await, counts, "GetStats counts them");
    assert_eq!(worker.keys(), Vec::<String>::new(), "nothing is stored");
    check_good(worker, &mut client).await;
}

async fn rejected(client: &mut Client) -> BTreeMap<String, u64> {
    let stats = client.get_stats(GetStatsRequest {}).await.expect("statistics").into_inner();
    assert_eq!(stats.memory.expect("memory").reserved_bytes, 0, "no memory is left reserved");
    assert!(stats.jobs.is_empty(), "no job is left: {:?}", stats.jobs);
    assert_eq!(stats.errors, 0, "no bug");
    stats.rejected.into_iter().collect()
}

/// Checks that a worker still accepts a valid segment.
pub async fn check_good(worker: &Worker, client: &mut Client) {
    let good = chronik();
    let reply = send_inline(client, inline(good.bytes.len() as u64, None), &good.bytes, 5_000).await;
    let reply = reply.expect("a good segment is taken all the same");
    check_reply("a good one", &reply, (&good.bytes, good.format, &good.expected), "", |key| {
        worker.object(key)
    });
}

/// Returns the header, and all bytes in one chunk.
fn whole(first: SegmentHeader, bytes: &Bytes) -> Vec<IndexSegmentRequest> {
    vec![header(first), chunk(bytes.clone())]
}

pub fn sized(bytes: u64) -> SegmentHeader {
    inline(bytes, Some(("t", 0)))
}

pub const INVALID: Code = Code::InvalidArgument;

#[tokio::test]
async fn messages_out_of_order_are_refused() {
    let empty = IndexSegmentRequest { payload: None };
    let no_source = SegmentHeader { source: None, ..sized(5) };
    let cases = vec![
        ("no message", vec![], INVALID, "HEADER_MISSING"),
        ("a chunk first", vec![chunk("abc")], INVALID, "HEADER_MISSING"),
        ("an empty message first", vec![empty.clone()], INVALID, "HEADER_MISSING"),
        ("no source", vec![header(no_source)], INVALID, "SOURCE_MISSING"),
        ("a second header", vec![header(sized(5)), header(sized(5))], INVALID, "NOT_A_CHUNK"),
        ("an empty message later", vec![header(sized(5)), chunk("ab"), empty], INVALID, "NOT_A_CHUNK"),
        (
            "a chunk beyond 4 MiB",
            vec![header(sized(6 << 20)), chunk(vec![0; 5 << 20])],
            INVALID,
            "NOT_A_CHUNK",
        ),
        (
            "a header beyond 4 MiB",
            vec![header(SegmentHeader { segment_id: "x".repeat(5 << 20), ..sized(5) })],
            INVALID,
            "HEADER_MISSING",
        ),
    ];
    check(&Worker::start(), cases).await;
}

#[tokio::test]
async fn sizes_and_checksums_that_disagree_are_refused() {
    let Fixture { bytes, .. } = kafka();
    let len = bytes.len() as u64;
    let told = Some(("t", 0));
    let with_crc = |crc32c| {
        let source = v1::InlineSource { size_bytes: len, crc32c: Some(crc32c) };
        SegmentHeader { source: Some(Source::Inline(source)), ..inline(len, told) }
    };
    let bytewise = |size: u64| {
        let chunks = bytes.chunks(1_000).map(|bytes| chunk(bytes.to_vec()));
        [header(inline(size, told))].into_iter().chain(chunks).collect()
    };
    let last = bytes.slice(..bytes.len() - 1);
    let cases = vec![
        ("no bytes", vec![header(inline(len, told))], INVALID, "SIZE_DIFFERS"),
        ("one byte too few", whole(inline(len, told), &last), INVALID, "SIZE_DIFFERS"),
        ("one byte too many", whole(inline(len - 1, told), &bytes), INVALID, "SIZE_DIFFERS"),
        ("a byte where there should be none", whole(inline(0, told), &bytes), INVALID, "SIZE_DIFFERS"),
        ("one byte too many, in pieces", bytewise(len - 1), INVALID, "SIZE_DIFFERS"),
        ("half of it too many, in pieces", bytewise(len / 2), INVALID, "SIZE_DIFFERS"),
        ("far too few", bytewise(len * 2), INVALID, "SIZE_DIFFERS"),
        (
            "another checksum",
            whole(with_crc(crc32c::crc32c(&bytes) ^ 1), &bytes),
            Code::DataLoss,
            "SEGMENT_CRC32C_DIFFERS",
        ),
    ];
    let worker = Worker::start();
    check(&worker, cases).await;
    let reply = send(&mut worker.client().await, whole(with_crc(crc32c::crc32c(&bytes)), &bytes)).await;
    assert_eq!(reply.expect("the right checksum").crc32c, crc32c::crc32c(&bytes));
}

#[tokio::test]
async fn names_and_numbers_that_cannot_be_are_refused() {
    let (Fixture { bytes: kafka, .. }, Fixture { bytes: chronik, .. }) = (kafka(), chronik());
    let (of_kafka, of_chronik) =
        (inline(kafka.len() as u64, Some(("t", 0))), inline(chronik.len() as u64, None));
    let k = |header| whole(header, &kafka);
    let c = |header| whole(header, &chronik);
    let topic = |topic: &str| SegmentHeader { topic: Some(topic.to_owned()), ..of_kafka.clone() };
    let log_id = |log_id: String| SegmentHeader { log_id, ..of_kafka.clone() };
    let partition = |partition| SegmentHeader { partition, ..of_kafka.clone() };
    let format = |format: i32, header: &SegmentHeader| SegmentHeader { format, ..header.clone() };
    let (wal, log) = (SegmentFormat::ChronikWal.into(), SegmentFormat::KafkaLog.into());
    let cases = vec![
        ("no topic", k(SegmentHeader { topic: None, ..of_kafka.clone() }), INVALID, "PARTITION_MISSING"),
        ("no partition", k(partition(None)), INVALID, "PARTITION_MISSING"),
        ("an empty topic", k(topic("")), INVALID, "NO_PARTITION"),
        ("a topic of 250 bytes", k(topic(&"x".repeat(250))), INVALID, "NO_PARTITION"),
        (
            "a topic of 84 bytes that takes 252 in a key",
            k(topic(&"ü".repeat(42))),
            INVALID,
            "NAME_DOES_NOT_FIT",
        ),
        ("partition -1", k(partition(Some(-1))), INVALID, "NO_PARTITION"),
        ("the least partition", k(partition(Some(i32::MIN))), INVALID, "NO_PARTITION"),
        ("a log id of 250 bytes", k(log_id("x".repeat(250))), INVALID, "NAME_DOES_NOT_FIT"),
        ("a log id of 84 slashes", k(log_id("/".repeat(84))), INVALID, "NAME_DOES_NOT_FIT"),
        (
            "a segment id of 1,025 bytes",
            k(SegmentHeader { segment_id: "x".repeat(1_025), ..of_kafka.clone() }),
            INVALID,
            "SEGMENT_ID_TOO_LONG",
        ),
        ("an unknown format", k(format(99, &of_kafka)), INVALID, "UNKNOWN_VALUE"),
        ("a negative format", k(format(-1, &of_kafka)), INVALID, "UNKNOWN_VALUE"),
        (
            "an unknown torn_tail",
            k(SegmentHeader { torn_tail: 3, ..of_kafka.clone() }),
            INVALID,
            "UNKNOWN_VALUE",
        ),
        ("a Kafka log called a Chronik WAL", k(format(wal, &of_kafka)), INVALID, "FORMAT_MISMATCH"),
        ("a Chronik WAL called a Kafka log", c(format(log, &of_chronik)), INVALID, "FORMAT_MISMATCH"),
        (
            "another topic than the frames'",
            c(SegmentHeader { topic: Some("Orders".to_owned()), ..of_chronik.clone() }),
            INVALID,
            "OTHER_PARTITION",
        ),
        (
            "another partition than the frames'",
            c(SegmentHeader { partition: Some(4), ..of_chronik.clone() }),
            INVALID,
            "OTHER_PARTITION",
        ),
        ("2 GiB and a byte", vec![header(sized((2 << 30) + 1))], INVALID, "SEGMENT_TOO_LARGE"),
        ("the greatest size", vec![header(sized(u64::MAX))], INVALID, "SEGMENT_TOO_LARGE"),
        ("more than the budget ever has", vec![header(sized(2 << 30))], INVALID, "LARGER_THAN_BUDGET"),
    ];
    check(&Worker::start_with(&["--memory-budget", "256MiB"]), cases).await;
}

#[tokio::test]
async fn odd_names_are_kept_apart_and_stay_below_the_root() {
    let worker = Worker::start();
    let mut client = worker.client().await;
    let Fixture { bytes, format, expected: mut held, .. } = fixture("kafka/one-record.log");
    let long = "x".repeat(249);
    let names = [
        ".",
        "..",
        "...",
        "../..",
        "/",
        "/etc/passwd",
        "a/b",
        "a//b",
        "%",
        "%2e%2e",
        "%2F",
        "nul\0byte",
        "a\nb",
        " ",
        "~",
        "ÄÖÜ",
        "漢字",
        "🦀",
        "\\",
        "C:\\",
        "con",
        "*",
        "?",
        "#",
        "-",
        "--store",
        "\u{202e}",
        &long,
    ];
    for name in names {
        for (topic, log_id) in [(name, "1"), ("t", name)] {
            let first =
                SegmentHeader { log_id: log_id.to_owned(), ..inline(bytes.len() as u64, Some((topic, 0))) };
            let reply = send_inline(&mut client, first, &bytes, 1_000).await;
            let reply = reply.unwrap_or_else(|status| panic!("{name:?}: {status:?}"));
            (held[0].topic, held[0].partition) = (topic.to_owned(), 0);
            check_reply(name, &reply, (&bytes, format, &held), log_id, |key| worker.object(key));
        }
    }
    assert_eq!(worker.keys().len(), 2 * names.len(), "each has an object of its own, below the root");
}

#[tokio::test]
async fn odd_names_inside_frames_are_kept_apart_too() {
    let worker = Worker::start();
    let mut client = worker.client().await;
    for (topic, code) in [("../../etc", None), ("a\0b", None), (&*"ü".repeat(50), Some("NAME_DOES_NOT_FIT"))]
    {
        let partition = TopicPartition::new(topic, i32::MAX).expect("a partition");
        let spec = Spec { format: Format::ChronikV2, size: Size::Records(3), partition, ..Spec::default() };
        let mut bytes = Vec::new();
        generate(&spec, &mut bytes).expect("generated");
        let result = send_inline(&mut client, inline(bytes.len() as u64, None), &bytes, 1_000).await;
        match (code, result) {
            (None, Ok(reply)) => {
                let [one] = &reply.partitions[..] else { panic!("one partition") };
                assert_eq!((&*one.topic, one.partition, one.record_count), (topic, i32::MAX, 3));
                assert!(worker.keys().contains(&one.bundle.as_ref().expect("a bundle").key));
            }
            (Some(reason), Err(status)) => assert_eq!(Refusal::of(&status).reason, reason, "{status:?}"),
            (_, result) => panic!("{topic:?}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn a_segment_of_zero_bytes_is_a_segment() {
    let mut client = Worker::start().client_and_worker().await;
    for format in [SegmentFormat::Unspecified, SegmentFormat::KafkaLog, SegmentFormat::ChronikWal] {
        let first = SegmentHeader { format: format.into(), ..inline(0, None) };
        for messages in [vec![header(first.clone())], vec![header(first.clone()), chunk(""), chunk("")]] {
            let reply = send(&mut client.0, messages).await.expect("nothing is wrong with it");
            assert_eq!((reply.bytes_read, reply.record_count, reply.partitions.len()), (0, 0, 0));
            assert_eq!(reply.format(), format, "what the caller said, since the bytes say nothing");
        }
    }
    assert_eq!(client.1.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn object_sources_are_read_below_the_roots_and_nowhere_else() {
    let worker = Worker::start();
    let Fixture { bytes, .. } = chronik();
    let (inside, outside) = (worker.sources(), tempfile::tempdir().expect("a directory"));
    std::fs::create_dir(inside.join("dir")).expect("created");
    std::fs::write(inside.join("good"), &bytes).expect("written");
    std::fs::write(inside.join("torn"), &bytes[..bytes.len() - 1]).expect("written");
    std::fs::write(outside.path().join("secret"), &bytes).expect("written");
    symlink(outside.path().join("secret"), inside.join("link")).expect("linked");
    symlink(outside.path(), inside.join("dir/link")).expect("linked");
    symlink("nowhere", inside.join("dangling")).expect("linked");
    symlink("round", inside.join("round")).expect("linked");
    let fifo = std::process::Command::new("mkfifo").arg(inside.join("pipe")).status().expect("mkfifo runs");
    assert!(fifo.success());

    let root = file_url(&inside);
    let from = |url: String| vec![header(object(&url, None))];
    let at = |path: &str| from(format!("{root}/{path}"));
    let sized = |size_bytes, crc32c| {
        let source = v1::ObjectSource { url: format!("{root}/good"), size_bytes, crc32c };
        vec![header(SegmentHeader { source: Some(Source::Object(source)), ..object("", None) })]
    };
    let (url, denied) = (
        |name, messages| (name, messages, INVALID, "URL"),
        |name, messages| (name, messages, Code::PermissionDenied, "OUTSIDE_SOURCE_ROOTS"),
    );
    let mut cases = vec![
        denied("a file elsewhere", from(file_url(&outside.path().join("secret")))),
        denied("what does not exist elsewhere", from(file_url(&outside.path().join("nothing")))),
        denied("a well-known file", from("file:///etc/passwd".to_owned())),
        denied("the root itself", from(root.clone())),
        denied("a link that leaves the root", at("link")),
        denied("a directory's link that leaves the root", at("dir/link/secret")),
        denied("a name that only begins like the root", from(format!("{root}2/good"))),
        denied("a bucket that is no root", from("s3://bucket/good".to_owned())),
        denied("another store's memory", from("memory:///good".to_owned())),
        ("a file that is not there", at("nothing"), Code::NotFound, "SOURCE_NOT_FOUND"),
        ("a link to nothing", at("dangling"), Code::NotFound, "SOURCE_NOT_FOUND"),
        ("a file taken for a directory", at("good/more"), Code::NotFound, "SOURCE_NOT_FOUND"),
        ("another size", sized(Some(bytes.len() as u64 + 1), None), INVALID, "SIZE_DIFFERS"),
        ("another checksum", sized(None, Some(1)), Code::DataLoss, "SEGMENT_CRC32C_DIFFERS"),
        ("a torn file", at("torn"), Code::DataLoss, "TORN_TAIL"),
        url("no location", from(String::new())),
        url("a path", from("/etc/passwd".to_owned())),
        url("a scheme that is none", from("http://169.254.169.254/latest".to_owned())),
        url("a host", from("file://host/good".to_owned())),
        url("a password", from("s3://user:password@bucket/good".to_owned())),
        url("a query", at("good?versionId=1")),
        url("a directory", at("dir")),
        url("a pipe, which must not be waited for", at("pipe")),
        url("a slash at the end", at("good/")),
    ];
    for path in [
        "../good",
        "dir/../good",
        "./good",
        "%2e%2e/good",
        "dir/%2E./good",
        "dir%2f..%2fgood",
        "good%00",
        "go\nod",
    ] {
        cases.push(url("a trick", at(path)));
    }
    cases.push(url("a backslash", at("dir\\..\\good")));
    let followed = |by| at("good").into_iter().chain([by]).collect();
    for by in [chunk(bytes.slice(..9)), header(object(&root, None)), IndexSegmentRequest::default()] {
        cases.push(("something behind the header", followed(by), INVALID, "MORE_THAN_HEADER"));
    }
    check(&worker, cases).await;

    // A symbolic link in a cycle is refused. The reason depends on the file system.
    let status = send(&mut worker.client().await, at("round")).await.expect_err("no file");
    let refusal = Refusal::of(&status);
    assert!(!matches!(refusal.code, Code::Internal | Code::Unknown), "{refusal:?}");
    let status = send(&mut Worker::start().client_and_worker().await.0, at("good")).await;
    assert_eq!(status.expect_err("it is another worker's root").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn what_is_told_of_a_location_holds_no_password() {
    let mut client = Worker::start().client_and_worker().await;
    let from = object("s3://user:hunter2@bucket/good?X-Amz-Signature=hunter2", None);
    let status = send(&mut client.0, vec![header(from)]).await.expect_err("refused");
    assert!(!format!("{status:?}").contains("hunter2"), "{status:?}");
}

impl Worker {
    /// Returns a client, and the worker that must outlive it.
    async fn client_and_worker(self) -> (Client, Self) {
        (self.client().await, self)
    }
}

#[tokio::test]
async fn a_worker_says_how_it_is_in_every_way_there_is() {
    let worker = Worker::start_with(&["--worker-id", "the worker"]);
    let mut client = worker.client().await;
    let health = client.health(HealthRequest {}).await.expect("an answer").into_inner();
    assert_eq!(health.status(), v1::health_response::Status::Serving, "{health:?}");
    let names: Vec<_> = health.checks.iter().map(|check| (&*check.name, check.ok)).collect();
    assert_eq!(names, [("object-store", true), ("memory", true)]);
    assert_eq!(health.version, env!("CARGO_PKG_VERSION"));

    let stats = client.get_stats(GetStatsRequest {}).await.expect("an answer").into_inner();
    assert_eq!((&*stats.worker_id, &*stats.version), ("the worker", env!("CARGO_PKG_VERSION")));
    check_good(&worker, &mut client).await;
    check_good_again(&mut client).await;
    let stats = client.get_stats(GetStatsRequest {}).await.expect("an answer").into_inner();
    let good = chronik();
    let (len, records) = (good.bytes.len() as u64, good.expected[0].records.len() as u64);
    assert_eq!((stats.segments_processed, stats.segments_already_indexed), (2, 1), "{stats:?}");
    assert_eq!((stats.indexes_created, stats.errors), (1, 0), "{stats:?}");
    assert_eq!((stats.bytes_read, stats.records_indexed), (2 * len, 2 * records), "{stats:?}");
    let [topic] = &stats.topics[..] else { panic!("one topic: {stats:?}") };
    assert_eq!((&*topic.topic, topic.segments, topic.records), ("orders", 2, 2 * records), "{stats:?}");
    let latency = stats.latency.expect("latencies");
    assert_eq!(latency.count, 2);
    assert!(latency.p50_us <= latency.p90_us && latency.p99_us <= latency.max_us && latency.max_us > 0);
    assert!(stats.bytes_written > 0 && stats.rejected.is_empty(), "{stats:?}");

    let mut health = HealthClient::new(worker.channel().await);
    for service in ["", "walindexer.v1.IndexerService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.expect("an answer").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "walindexer.v1.Nothing".to_owned() };
    assert_eq!(health.check(unknown).await.expect_err("unknown").code(), Code::NotFound);

    let services = list_services(&worker).await;
    for service in ["walindexer.v1.IndexerService", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|found| found == service), "{services:?}");
    }
}

async fn check_good_again(client: &mut Client) {
    let good = chronik();
    let reply = send_inline(client, inline(good.bytes.len() as u64, None), &good.bytes, 5_000).await;
    assert!(reply.expect("indexed").partitions[0].bundle.as_ref().expect("a bundle").already_existed);
}

async fn list_services(worker: &Worker) -> Vec<String> {
    let mut reflection = ServerReflectionClient::new(worker.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(stream::iter([request])).await.expect("an answer");
    let answer = answers.into_inner().message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(ListServiceResponse { service })) =
        answer.message_response
    else {
        panic!("another answer: {answer:?}");
    };
    service.into_iter().map(|service| service.name).collect()
}

/// Runs `index`. Returns its exit code, standard output, and the lines of its errors.
fn index(store: &std::path::Path, arguments: &[&std::path::Path]) -> (Option<i32>, String, Vec<String>) {
    let output = crate::worker::command(["index", "--json", "--log", "off", "--store", &file_url(store)])
        .args(arguments)
        .output()
        .expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let errors = text(output.stderr).lines().map(str::to_owned).collect();
    (output.status.code(), text(output.stdout), errors)
}

#[test]
fn the_command_line_tries_all_files_and_says_by_its_exit_code_what_to_do() {
    let root = tempfile::tempdir().expect("a directory");
    let at = |name: &str| root.path().join(name);
    let (good, torn, kafka_log, none) = (at("good"), at("torn"), at("kafka"), at("none"));
    std::fs::write(&good, chronik().bytes).expect("written");
    std::fs::write(&torn, &chronik().bytes[..30_000]).expect("written");
    std::fs::write(&kafka_log, kafka().bytes).expect("written");
    for (name, paths, code, receipts, errors) in [
        ("a good one", &[&*good][..], 0, 1, 0),
        ("a good one again", &[&good], 0, 1, 0),
        ("a torn one", &[&torn], 3, 0, 1),
        ("none", &[&none], 4, 0, 1),
        ("a directory", &[root.path()], 1, 0, 1),
        ("one without a topic", &[&kafka_log], 1, 0, 1),
        ("a torn one between good ones", &[&good, &torn, &good], 3, 2, 1),
        ("all of them: the first failure decides", &[&none, &torn, &good], 4, 1, 2),
    ] {
        let (exit, printed, lines) = index(&at("store"), paths);
        assert_eq!(exit, Some(code), "{name}: {lines:?}");
        assert_eq!((printed.lines().count(), lines.len()), (receipts, errors), "{name}: {printed}{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("error: ")), "{name}: {lines:?}");
    }
    let flags = |flags: &[&str]| {
        let good = good.to_str().expect("UTF-8");
        crate::worker::command(["index", good]).args(flags).output().expect("it starts").status.code()
    };
    let store = file_url(&at("store"));
    std::fs::write(at("settings"), "value = 7").expect("written");
    let settings = at("settings").to_str().expect("UTF-8").to_owned();
    assert_eq!(flags(&[]), Some(2), "no store");
    assert_eq!(flags(&["--store", "nonsense"]), Some(2), "no store's URL");
    assert_eq!(flags(&["--store", "ftp://host/path"]), Some(2), "a store of no kind that there is");
    assert_eq!(flags(&["--store", &store, "--threads", "0"]), Some(2), "no threads");
    assert_eq!(flags(&["--store", &store, "--memory-budget", "much"]), Some(2), "no size");
    assert_eq!(flags(&["--store", &store, "--index-settings", &settings]), Some(2), "settings that are none");
    assert_eq!(
        flags(&["--store", &store, "--memory-budget", "1MiB"]),
        Some(2),
        "a budget that holds nothing"
    );
}
