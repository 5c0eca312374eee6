//! Traces: a caller's trace continues through all stages and arrives at a collector, together with the
//! metrics. A slow collector delays nothing.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use tonic::{Request, Status};
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
use wal_indexer::proto::v1::{self, GetStatsRequest, IndexSegmentRequest, IndexSegmentResponse};

use crate::collector::{Collector, Span};
use crate::sidecar::{Sidecar, Wal, segment, segment_of};
use crate::worker::{Refusal, Worker, chunk, header, inline};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

const INDEX: &str = "walindexer.v1.IndexerService/IndexSegment";

/// Returns a request with a trace context that is sampled.
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{CALLER}-01");
    request.metadata_mut().insert("traceparent", parent.parse().expect("ASCII"));
    request.metadata_mut().insert("tracestate", "caller=there".parse().expect("ASCII"));
    request
}

fn messages(bytes: &[u8]) -> Vec<IndexSegmentRequest> {
    let chunks = bytes.chunks(256 << 10).map(|bytes| chunk(Bytes::copy_from_slice(bytes)));
    [header(inline(bytes.len() as u64, None))].into_iter().chain(chunks).collect()
}

async fn index(worker: &Worker, bytes: &[u8]) -> Result<IndexSegmentResponse, Status> {
    let mut client = worker.client().await;
    Ok(client.index_segment(traced(stream::iter(messages(bytes)))).await?.into_inner())
}

/// Starts a worker that samples this ratio of its own traces: none or all.
fn worker(collector: &Collector, ratio: &str, more: &[&str]) -> Worker {
    let endpoint = collector.endpoint();
    let flags = ["--otlp-endpoint", &endpoint, "--trace-ratio", ratio];
    Worker::start_with(&[&flags, more].concat())
}

/// Returns the spans with this name, in the order in which they began.
fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    let mut found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    found.sort_by_key(|span| span.begun_ns);
    found
}

/// Returns the only span with this name. Its parent must be `parent`.
#[track_caller]
fn below<'a>(spans: &'a [Span], name: &str, parent: &str) -> &'a Span {
    let found = named(spans, name);
    let [span] = found[..] else { panic!("{} spans of the name {name} in {spans:#?}", found.len()) };
    assert_eq!(span.parent, parent, "{span:?}");
    span
}

fn end(worker: &mut Worker) {
    worker.signal("TERM");
    assert!(worker.ended().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_trace_goes_on_through_all_stages_with_bytes_and_records() {
    let collector = Collector::start().await;
    // The segment has two slices of 32 MiB. Only the caller's own trace is collected.
    let mut worker = worker(&collector, "0", &[]);
    let bytes = segment_of("orders", 3, 1, 30_000);
    let receipt = index(&worker, &bytes).await.expect("a receipt");
    let again = worker.client().await.index_segment(stream::iter(messages(&bytes))).await;
    assert_eq!(again.expect("a receipt").into_inner().sha256, receipt.sha256);
    // The remaining spans are sent when the worker ends.
    end(&mut worker);

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == TRACE && span.service == "wal-indexer"), "{spans:#?}");
    let call = below(&spans, INDEX, CALLER);
    assert_eq!(call.kind, 2, "a server's");
    assert_eq!(
        ["rpc.system.name", "rpc.method", "rpc.response.status_code"].map(|name| call.text(name)),
        ["grpc", INDEX, "OK"]
    );
    let (size, records) = (receipt.bytes_read, receipt.record_count);
    assert_eq!((size, records), (bytes.len() as u64, 30_000));
    assert_eq!(below(&spans, "admit", &call.id).number("bytes"), size);
    let receive = below(&spans, "receive", &call.id);
    let told = below(&spans, "receipt", &call.id);
    for stage in [receive, told] {
        assert_eq!((stage.number("bytes"), stage.number("records")), (size, records), "{stage:?}");
    }

    let slices = named(&spans, "build");
    assert!(slices.len() > 1, "{}", slices.len());
    assert!(slices.iter().all(|slice| slice.parent == receive.id && slice.text("partition") == "orders/3"));
    let sum = |name: &str| slices.iter().map(|slice| slice.number(name)).sum::<u64>();
    assert_eq!((sum("bytes"), sum("records")), (size, records));
    let numbers: std::collections::BTreeSet<_> = slices.iter().map(|slice| slice.number("slice")).collect();
    assert_eq!(numbers, (0..slices.len() as u64).collect());

    let bundle = receipt.partitions[0].bundle.as_ref().expect("a bundle");
    let pack = below(&spans, "pack", &call.id);
    let upload = below(&spans, "upload", &call.id);
    for stage in [pack, upload] {
        assert_eq!(
            (stage.number("bytes"), stage.number("records")),
            (bundle.size_bytes, records),
            "{stage:?}"
        );
    }
    assert_eq!((upload.text("key"), upload.text("outcome")), (&*bundle.key, "created"));
    let put = below(&spans, "store put", &upload.id);
    assert_eq!((put.text("key"), put.text("outcome")), (&*bundle.key, "ok"));
    assert_eq!((put.number("bytes"), put.number("attempt"), put.kind), (bundle.size_bytes, 1, 3));
    for span in &spans {
        assert!(!span.is_error, "{span:?}");
        assert!(call.begun_ns <= span.begun_ns && span.ended_ns <= call.ended_ns, "{span:?} within {call:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_says_so_in_its_trace_and_the_caller_is_told_which_that_is() {
    let collector = Collector::start().await;
    let mut worker = worker(&collector, "0", &[]);
    let mut bytes = segment("orders", 0, 1);
    bytes[200] ^= 1;
    let refusal = Refusal::of(&index(&worker, &bytes).await.expect_err("it is damaged"));
    assert_eq!(refusal.facts.get("trace_id").map(String::as_str), Some(TRACE));
    end(&mut worker);
    let spans = collector.spans();
    let call = below(&spans, INDEX, CALLER);
    assert_eq!((call.text("rpc.response.status_code"), call.is_error), ("DATA_LOSS", true));
    assert!(below(&spans, "receive", &call.id).is_error);
    assert!(!below(&spans, "admit", &call.id).is_error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_and_a_fetch_tell_their_stages() {
    let collector = Collector::start().await;
    let mut worker = worker(&collector, "0", &[]);
    let bytes = segment("orders", 0, 1);
    let mut client = worker.client().await;
    client.index_segment(stream::iter(messages(&bytes))).await.expect("a receipt");
    let mut reader = SearchServiceClient::new(worker.channel().await);
    let filter = Some(v1::RecordFilter { topic: "orders".to_owned(), ..v1::RecordFilter::default() });
    let search = v1::SearchRequest { query: "*".to_owned(), filter, ..v1::SearchRequest::default() };
    let mut answer = reader.search(traced(search)).await.expect("it answers").into_inner();
    while answer.message().await.expect("it goes on").is_some() {}
    let fetch = v1::FetchRequest { topic: "orders".to_owned(), ..v1::FetchRequest::default() };
    let mut answer = reader.fetch(traced(fetch)).await.expect("it answers").into_inner();
    while answer.message().await.expect("it goes on").is_some() {}
    end(&mut worker);

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == TRACE), "{spans:#?}");
    let search = below(&spans, "walindexer.v1.SearchService/Search", CALLER);
    assert_eq!(below(&spans, "list", &search.id).number("bundles"), 1);
    let bundle = below(&spans, "bundle", &search.id);
    below(&spans, "leaf", &bundle.id);
    let of = |name: &str, parent: &Span| {
        named(&spans, name).into_iter().filter(|span| span.parent == parent.id).cloned().collect::<Vec<_>>()
    };
    assert_eq!(of("open", bundle).len(), 1);
    assert_eq!(below(&spans, "take", &search.id).number("records"), 20);
    let fetch = below(&spans, "walindexer.v1.SearchService/Fetch", CALLER);
    assert_eq!(below(&spans, "plan", &fetch.id).number("bundles"), 1);
    assert!(!of("block", fetch).is_empty(), "{spans:#?}");
    for call in [search, fetch] {
        assert_eq!(call.text("rpc.response.status_code"), "OK");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_segment_and_a_workers_call_are_one_trace() {
    let collector = Collector::start().await;
    // The agent decides what is sampled.
    let mut worker = worker(&collector, "0", &[]);
    let wal = Wal::new();
    wal.add_all("orders", 0, 1..=2);
    let endpoint = collector.endpoint();
    let flags = ["--otlp-endpoint", &endpoint, "--trace-ratio", "1"];
    let mut agent = Sidecar::start(wal.path(), &[worker.endpoint()], &flags);
    agent.until("the first is gone", |_| wal.ids("orders", 0) == [2]);
    agent.signal("TERM");
    assert!(agent.ended().success());
    end(&mut worker);

    let spans = collector.spans();
    let segment = below(&spans, "segment", "");
    assert!(spans.iter().all(|span| span.trace_id == segment.trace_id), "{spans:#?}");
    assert_eq!(segment.text("segment_id"), "orders/0/wal_0_1.log");
    assert_eq!(segment.text("outcome"), "stored");
    let of = |service: &str| spans.iter().filter(|span| span.service == service).cloned().collect::<Vec<_>>();
    let (agents, workers) = (of("wal-indexer-agent"), of("wal-indexer"));
    let attempt = below(&agents, INDEX, &segment.id);
    assert_eq!((attempt.kind, attempt.number("attempt")), (3, 1));
    assert_eq!(attempt.text("server.address"), worker.address());
    below(&agents, "read", &attempt.id);
    let call = below(&workers, INDEX, &attempt.id);
    below(&workers, "upload", &call.id);
    below(&agents, "remember", &segment.id);
    assert_eq!(below(&agents, "delete", &segment.id).text("outcome"), "deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_is_told_what_prometheus_is() {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let store = tempfile::tempdir().expect("a directory");
    let worker = Worker::start_on(
        &crate::worker::file_url(store.path()),
        &[
            ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_SERVICE_NAME", "by another name"),
        ],
        &["--metrics-listen", "127.0.0.1:0"],
    );
    let receipt = index(&worker, &segment("orders", 0, 1)).await.expect("a receipt");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (told, scrape) = (collector.measured("by another name"), worker.scrape());
        // Other metrics change by themselves.
        let ours = told.iter().filter(|(name, _)| {
            name.starts_with("wal_indexer_worker_") || name.starts_with("wal_indexer_store_")
        });
        let differ: Vec<_> = ours
            .filter(|(name, value)| {
                let names = [(*name).clone(), format!("{name}_total"), format!("{name}_count")];
                !names.iter().any(|name| scrape.sum(name, &[]) == Some(**value))
            })
            .collect();
        let records = told.get("wal_indexer_worker_records").copied();
        if records == Some(receipt.record_count as f64) && differ.is_empty() {
            assert!(told.len() > 15, "{told:?}");
            return;
        }
        assert!(Instant::now() < deadline, "{differ:?}\n{scrape}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Makes more calls than there is room for spans, with a collector that takes none. Each call is answered,
/// and the worker ends normally.
async fn check_in_nobodys_way(endpoint: &str, outcome: &str) {
    let flags = ["--otlp-endpoint", endpoint, "--trace-ratio", "1", "--metrics-listen", "127.0.0.1:0"];
    let mut worker = Worker::start_with(&flags);
    let mut client = worker.client().await;
    for id in 1..=5 {
        index(&worker, &segment("orders", 0, id)).await.expect("a receipt");
    }
    for _ in 0..3_000 {
        client.get_stats(GetStatsRequest {}).await.expect("it answers");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let lost = [("outcome", outcome)];
    while worker.scrape().sum("wal_indexer_trace_spans_total", &lost).is_none_or(|lost| lost == 0.0) {
        assert!(Instant::now() < deadline, "{}", worker.scrape());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(worker.scrape().sum("wal_indexer_worker_segments_total", &[]), Some(5.0));
    drop(client);
    end(&mut worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_in_nobodys_way() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    check_in_nobodys_way(&format!("http://{nobody}"), "failed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_is_in_nobodys_way() {
    // It accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound");
    check_in_nobodys_way(&format!("http://{address}"), "dropped").await;
}

/// Returns the lines that a worker logs about a segment.
async fn lines(flags: &[&str], is_traced: bool) -> Vec<String> {
    let worker = Worker::start_with(flags);
    let bytes = segment("orders", 0, 1);
    match is_traced {
        true => drop(index(&worker, &bytes).await.expect("a receipt")),
        false => drop(
            worker.client().await.index_segment(stream::iter(messages(&bytes))).await.expect("a receipt"),
        ),
    }
    let log = worker.log();
    log.lines().filter(|line| line.contains("segment indexed")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_of_a_trace_say_which() {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let collected = ["--otlp-endpoint", &endpoint];
    // The caller's trace id is logged also without a collector.
    for flags in [&[][..], &collected] {
        let text = lines(flags, true).await;
        assert!(text.len() == 1 && text[0].contains(&format!(" trace_id={TRACE} span_id=")), "{text:?}");
        assert!(text[0].contains("index_segment{segment_id=\"a:segment:1\"}: wal_indexer"), "{text:?}");
        let json = lines(&[flags, &["--log-format", "json"]].concat(), true).await;
        let line: serde_json::Value = serde_json::from_str(&json[0]).expect("JSON");
        assert_eq!(line["trace_id"], TRACE, "{line}");
        assert_eq!(line["span_id"].as_str().map(str::len), Some(16), "{line}");
        assert_eq!(line["message"], "segment indexed", "{line}");
    }
    let plain = lines(&[], false).await;
    assert!(plain.len() == 1 && !plain[0].contains("trace_id"), "{plain:?}");
}

#[test]
#[ignore = "needs Python with grpcio and opentelemetry-sdk; make test runs it"]
fn a_python_clients_trace_arrives() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let collector = runtime.block_on(Collector::start());
    let mut worker = worker(&collector, "0", &[]);
    let python =
        std::env::var("WAL_INDEXER_TEST_PYTHON").expect("a Python with tests/client/requirements.txt");
    let output = Command::new(python)
        .args(["tests/client/traced.py", worker.address()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("Python starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    end(&mut worker);
    let [trace_id, span_id] = said.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{said:?}") };
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == trace_id), "{spans:#?}");
    let call = below(&spans, INDEX, span_id);
    for stage in ["admit", "receive", "pack", "upload", "receipt"] {
        below(&spans, stage, &call.id);
    }
    assert!(!named(&spans, "build").is_empty() && !named(&spans, "store put").is_empty(), "{spans:#?}");
}
