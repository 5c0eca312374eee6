//! The metrics of workers and agents: right numbers, under names that others rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
use wal_indexer::proto::v1::{self, GetStatsRequest, GetStatsResponse, IndexSegmentRequest};

use crate::authority::Authority;
use crate::sidecar::{Sidecar, Wal, name, segment, segment_of};
use crate::worker::{Client, Worker, chunk, header, inline, send_inline};

/// All metrics of a process at one moment, in Prometheus' text format.
pub struct Scrape(String);

impl Scrape {
    /// Fetches them as Prometheus does.
    #[track_caller]
    pub fn of(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("it listens");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
        Self(body.to_owned())
    }

    /// Whether the text contains these words.
    pub fn contains(&self, words: &str) -> bool {
        self.0.contains(words)
    }

    /// Returns each series: name, labels, value.
    fn series(&self) -> impl Iterator<Item = (&str, &str, f64)> {
        self.0.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            (name, labels, value.parse().expect("a number"))
        })
    }

    /// Returns the sum over all series of this name that have all of these labels; `None` if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let of_name = self.series().filter(|(found, ..)| *found == name);
        let matching = of_name.filter(|(_, labels, _)| wanted.iter().all(|pair| labels.contains(pair)));
        matching.map(|(.., value)| value).reduce(|sum, value| sum + value)
    }

    fn worker(&self, name: &str) -> Option<f64> {
        self.sum(&format!("wal_indexer_worker_{name}"), &[])
    }

    /// Returns the sums of a metric for each value of a label.
    fn by(&self, label: &str, name: &str, labels: &[(&str, &str)]) -> BTreeMap<String, f64> {
        let values = self.series().filter(|(found, ..)| *found == name).filter_map(|(_, labels, _)| {
            Some(labels.split_once(&format!("{label}=\""))?.1.split_once('"')?.0.to_owned())
        });
        let values: BTreeSet<String> = values.collect();
        let sum = |value: String| {
            let all: Vec<_> = labels.iter().copied().chain([(label, value.as_str())]).collect();
            let sum = self.sum(name, &all)?;
            Some((value, sum))
        };
        values.into_iter().filter_map(sum).collect()
    }

    /// Returns the names of all metrics, as declared: a histogram counts as one.
    fn families(&self) -> BTreeSet<String> {
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|line| line.split(' ').next().expect("a name").to_owned()).collect()
    }
}

impl fmt::Display for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const MEASURED: [&str; 2] = ["--metrics-listen", "127.0.0.1:0"];

async fn stats(client: &mut Client) -> GetStatsResponse {
    client.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner()
}

#[track_caller]
fn until(worker: &Worker, what: &str, is_so: impl Fn(&Scrape) -> bool) -> Scrape {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let scrape = worker.scrape();
        if is_so(&scrape) {
            return scrape;
        }
        assert!(Instant::now() < deadline, "not {what}\n{scrape}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends two segments, one of them twice, one that is damaged and one without a partition, and asks for
/// statistics.
async fn some_work(worker: &Worker) {
    let mut client = worker.client().await;
    let (one, other) = (segment("orders", 0, 1), segment("orders", 1, 2));
    for bytes in [&one, &other, &one] {
        send_inline(&mut client, inline(bytes.len() as u64, None), bytes, 1_000).await.expect("a receipt");
    }
    let mut damaged = one.clone();
    damaged[200] ^= 1;
    let refused = send_inline(&mut client, inline(damaged.len() as u64, None), &damaged, 1_000).await;
    assert_eq!(refused.expect_err("it is damaged").code(), tonic::Code::DataLoss);
    let kafka = std::fs::read("tests/fixtures/kafka/none.log").expect("the fixture is there");
    let refused = send_inline(&mut client, inline(kafka.len() as u64, None), &kafka, 1_000).await;
    assert_eq!(refused.expect_err("whose is it?").code(), tonic::Code::InvalidArgument);
    let mut reader = SearchServiceClient::new(worker.channel().await);
    let filter = Some(v1::RecordFilter { topic: "orders".to_owned(), ..v1::RecordFilter::default() });
    let request = v1::SearchRequest { query: "*".to_owned(), filter, ..v1::SearchRequest::default() };
    let mut answer = reader.search(request).await.expect("it answers").into_inner();
    while answer.message().await.expect("it goes on").is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_is_told_what_get_stats_says() {
    let worker = Worker::start_with(&MEASURED);
    let idle = worker.scrape();
    for name in ["segments_total", "records_total", "read_bytes_total", "bundles_total", "draining"] {
        assert_eq!(idle.worker(name), Some(0.0), "{name} starts from zero");
    }
    some_work(&worker).await;
    let stats = stats(&mut worker.client().await).await;
    // An answer is counted as ended when its last bytes are sent.
    let all = |scrape: &Scrape| scrape.by("method", "wal_indexer_worker_requests_total", &[]);
    let scrape = until(&worker, "all counted", |scrape| {
        let counted = all(scrape);
        (counted.get("IndexSegment"), counted.get("Search"), counted.get("GetStats"))
            == (Some(&5.0), Some(&1.0), Some(&1.0))
    });

    let memory = stats.memory.expect("it is always there");
    for (name, number) in [
        ("segments_total", stats.segments_processed),
        ("segments_already_indexed_total", stats.segments_already_indexed),
        ("records_total", stats.records_indexed),
        ("bundles_total", stats.indexes_created),
        ("read_bytes_total", stats.bytes_read),
        ("written_bytes_total", stats.bytes_written),
        ("memory_budget_bytes", memory.budget_bytes),
        ("memory_reserved_bytes", memory.reserved_bytes),
        ("memory_waiting_bytes", memory.waiting_bytes),
        ("waiting_requests", memory.waiting_requests),
        ("building_segments", 0),
        ("uploading_segments", 0),
        ("backlog_bytes", 0),
    ] {
        assert_eq!(scrape.worker(name), Some(number as f64), "{name}\n{scrape}");
    }
    assert_eq!(
        (stats.segments_processed, stats.segments_already_indexed, stats.indexes_created),
        (3, 1, 2),
        "what it was told to do"
    );

    let method = ("method", "IndexSegment");
    let mut codes = scrape.by("code", "wal_indexer_worker_requests_total", &[method]);
    assert_eq!(codes.remove("OK"), Some(stats.segments_processed as f64));
    let rejected: BTreeMap<_, _> = stats.rejected.into_iter().map(|(code, n)| (code, n as f64)).collect();
    assert_eq!(codes, rejected);
    let why =
        scrape.by("reason", "wal_indexer_worker_requests_total", &[method, ("code", "INVALID_ARGUMENT")]);
    assert_eq!(why, BTreeMap::from([("PARTITION_MISSING".to_owned(), 1.0)]));

    let count = |name: &str, labels: &[(&str, &str)]| scrape.sum(&format!("wal_indexer_{name}"), labels);
    assert_eq!(count("worker_request_duration_seconds_count", &[method]), Some(5.0));
    for phase in ["admit", "receive", "build", "upload"] {
        let times = count("worker_phase_duration_seconds_count", &[("phase", phase)]);
        assert_eq!(times, Some(stats.segments_processed as f64), "{phase}");
    }
    assert!(count("store_requests_total", &[("operation", "put"), ("outcome", "ok")]) >= Some(3.0));
    assert!(count("worker_fetched_bytes_total", &[("method", "Search")]) > Some(0.0), "{scrape}");
    assert_eq!(count("build_info", &[("version", &stats.version)]), Some(1.0));

    let resident = crate::worker::resident_bytes(worker.pid()) as f64;
    let told = scrape.sum("process_resident_memory_bytes", &[]).expect("it is measured");
    assert!(told > resident / 4.0 && told < resident * 4.0, "{told} where it has {resident}");
    assert!(!scrape.contains("orders"), "topics are no labels\n{scrape}");
}

/// Starts a segment whose sender stalls after the first bytes, until the sender is dropped.
fn stalled(client: &Client, bytes: &[u8]) -> mpsc::UnboundedSender<IndexSegmentRequest> {
    let (sender, messages) = mpsc::unbounded_channel();
    for message in [header(inline(bytes.len() as u64, None)), chunk(Bytes::copy_from_slice(&bytes[..100]))] {
        sender.send(message).expect("somebody listens");
    }
    let mut client = client.clone();
    tokio::spawn(async move { client.index_segment(UnboundedReceiverStream::new(messages)).await });
    sender
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_in_hand_and_work_that_waits_is_the_backlog() {
    // Memory for one of them.
    let flags = ["--memory-budget", "80MiB", "--threads", "1", MEASURED[0], MEASURED[1]];
    let worker = Worker::start_with(&flags);
    let client = worker.client().await;
    let bytes = segment_of("orders", 0, 1, 6_000);
    let size = bytes.len() as f64;
    let first = stalled(&client, &bytes);
    let busy = until(&worker, "one in hand", |scrape| scrape.worker("building_segments") == Some(1.0));
    assert_eq!(busy.worker("backlog_bytes"), Some(size));
    assert!(busy.worker("memory_reserved_bytes") > Some(size), "{busy}");
    assert_eq!(busy.worker("waiting_requests"), Some(0.0));

    let second = stalled(&client, &bytes);
    let full = until(&worker, "one that waits", |scrape| scrape.worker("waiting_requests") == Some(1.0));
    assert_eq!(full.worker("backlog_bytes"), Some(2.0 * size));
    // Reserved memory is rounded up to pages.
    let (waits, holds) = (full.worker("memory_waiting_bytes"), busy.worker("memory_reserved_bytes"));
    assert!(waits > Some(size) && waits <= holds, "{full}");

    worker.signal("TERM");
    until(&worker, "draining", |scrape| scrape.worker("draining") == Some(1.0));
    // A caller that hangs up is cancelled, and leaves nothing behind.
    drop((first, second));
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_hang_up_are_counted_as_cancelled() {
    let worker = Worker::start_with(&MEASURED);
    let bytes = segment("orders", 0, 1);
    // For the worker this is another process: its connection breaks when this runtime ends.
    let caller = tokio::runtime::Runtime::new().expect("a runtime");
    let endpoint = worker.endpoint();
    caller.spawn(async move {
        let mut client = Client::connect(endpoint).await.expect("it listens");
        let first = header(inline(bytes.len() as u64, None));
        let messages = futures::StreamExt::chain(stream::iter([first]), stream::pending());
        client.index_segment(messages).await
    });
    until(&worker, "one in hand", |scrape| scrape.worker("building_segments") == Some(1.0));
    caller.shutdown_background();
    let cancelled = [("method", "IndexSegment"), ("code", "CANCELLED")];
    let scrape = until(&worker, "one cancelled", |scrape| {
        scrape.sum("wal_indexer_worker_requests_total", &cancelled) == Some(1.0)
    });
    assert_eq!(scrape.worker("memory_reserved_bytes"), Some(0.0));
    assert_eq!(stats(&mut worker.client().await).await.rejected.get("CANCELLED"), Some(&1));
}

/// Returns the metrics of a worker that has handled requests of many kinds.
async fn of_a_busy_worker() -> Scrape {
    // The collector need not exist.
    let worker = Worker::start_with(&[&MEASURED[..], &["--otlp-endpoint", "http://127.0.0.1:1"]].concat());
    some_work(&worker).await;
    until(&worker, "all answered", |scrape| scrape.worker("fetched_bytes_total") > Some(0.0))
}

/// Returns the metrics of a worker that requires certificates and tokens.
fn of_a_guarded_worker() -> Scrape {
    let authority = Authority::new();
    let pair = authority.sign("worker");
    let flags = ["--tls-cert", pair.certificate.to_str().expect("UTF-8")];
    let flags = [flags, ["--tls-key", pair.key.to_str().expect("UTF-8")], MEASURED];
    Worker::start_with(flags.as_flattened()).scrape()
}

/// Returns the metrics of three agents: one with a damaged segment, one whose worker only searches, one
/// without a worker.
async fn of_busy_agents() -> [Scrape; 3] {
    let (worker, wals) = (Worker::start(), [Wal::new(), Wal::new(), Wal::new()]);
    for wal in &wals {
        wal.add_all("orders", 0, 1..=3);
    }
    let bad = wals[0].path().join(name("orders", 0, 2));
    let mut bytes = std::fs::read(&bad).expect("it is there");
    bytes[200] ^= 1;
    wals[0].rewrite("orders", 0, 2, &bytes);
    let halted = wals[0].path().join("audit-0");
    std::fs::create_dir(&halted).expect("a directory");
    for file in ["00000000000000000000.log", "00000000000000000001.log", "partition.metadata"] {
        std::fs::write(halted.join(file), "").expect("a file");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let sends = Sidecar::start(wals[0].path(), &[worker.endpoint()], &[]);
    let searches = Worker::start_with(&["--roles", "search"]);
    let refused = Sidecar::start(wals[1].path(), &[searches.endpoint()], &[]);
    let alone = Sidecar::start(wals[2].path(), &[format!("http://{nobody}")], &[]);
    for (agent, name) in [
        (&sends, "agent_rejections_total"),
        (&sends, "agent_halted_partition"),
        (&refused, "agent_refusals_total"),
        (&alone, "client_retries_total"),
    ] {
        agent.until(name, |agent| agent.metric(name) > Some(0.0));
    }
    [sends, refused, alone].map(|agent| agent.metrics())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs promtool (tests/install-servers.sh); make test runs it"]
async fn promtool_finds_nothing_to_say_about_the_names() {
    let [sends, refused, alone] = of_busy_agents().await;
    for scrape in [of_a_busy_worker().await, of_a_guarded_worker(), sends, refused, alone] {
        let promtool = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/promtool");
        let mut check = Command::new(promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tests/install-servers.sh installs it");
        check.stdin.take().expect("it is piped").write_all(scrape.0.as_bytes()).expect("it reads");
        let output = check.wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
}

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the words of a text that look like names of our metrics.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    let ours = |word: &&str| word.starts_with("wal_indexer_") || word.starts_with("process_");
    words.filter(ours).filter(|word| !word.ends_with('_')).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_rules_and_dashboard_name_what_is_measured() {
    let mut measured = of_a_busy_worker().await.families();
    measured.append(&mut of_a_guarded_worker().families());
    let agents: BTreeSet<_> = of_busy_agents().await.iter().flat_map(Scrape::families).collect();
    let named = names_in(&text("docs/operations.md"));
    assert_eq!(named.symmetric_difference(&measured).collect::<Vec<_>>(), [""; 0]);
    let manual = text("docs/agent.md");
    let all: BTreeSet<_> = measured.union(&agents).collect();
    for place in ["rules.yaml", "dashboard.json", "prometheus-adapter.yaml"] {
        for asked in names_in(&text(&format!("deploy/monitoring/{place}"))) {
            let family = ["_bucket", "_count", "_sum"].iter().find_map(|part| asked.strip_suffix(part));
            let is_there = |name: &str| all.contains(&name.to_owned());
            assert!(is_there(&asked) || family.is_some_and(is_there), "{place} asks for {asked}");
        }
    }
    for name in agents {
        let short = name.trim_start_matches("wal_indexer_agent_");
        assert!(
            named.contains(&name) || manual.contains(short) || manual.contains("_segments_total"),
            "{name}"
        );
    }
}
