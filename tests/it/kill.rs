//! Workers that are killed in the middle of a stream or an upload, workers that are terminated with work in
//! flight, and callers that hang up: what the caller gets, and what is left in the store.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures::{SinkExt, channel::mpsc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use url::Url;
use wal_indexer::ingest::{Ingest, IngestError, Request, Timeouts};
use wal_indexer::internals::rpc::status::of_ingest;
use wal_indexer::proto::v1::{self, IndexSegmentRequest, IndexSegmentResponse};
use wal_indexer::search::BundleCache;
use wal_indexer::server::{self, Config, ConnectionPolicy, IndexRole};
use wal_indexer::store::{SourceRoots, Store};

use crate::receipts::{Segment, already_existed, check, ingest, ingest_with, keys, keys_of, memory};
use crate::servers::{Server, s3_settings};
use crate::worker::{self, Client, Refusal, Worker, chunk, file_url};

/// How long anything here may take before it counts as stuck.
const SOON: Duration = Duration::from_secs(60);

/// A segment that is being sent. The test decides what is sent when.
pub struct Sending {
    messages: mpsc::Sender<IndexSegmentRequest>,
    pub reply: JoinHandle<Result<IndexSegmentResponse, Status>>,
}

impl Sending {
    /// Sends the header only.
    pub async fn begin(mut client: Client, segment: &Segment) -> Self {
        let (mut messages, receiver) = mpsc::channel(0);
        let reply = tokio::spawn(async move { Ok(client.index_segment(receiver).await?.into_inner()) });
        let header = worker::inline(segment.bytes.len() as u64, segment.named_partition);
        messages.send(worker::header(header)).await.expect("the call goes on");
        Self { messages, reply }
    }

    pub async fn bytes(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(256 << 10) {
            self.messages.send(chunk(piece.to_vec())).await.expect("the call goes on");
        }
    }

    /// Ends the stream.
    pub fn close(&mut self) {
        self.messages.close_channel();
    }

    pub async fn end(mut self) -> Result<IndexSegmentResponse, Status> {
        self.close();
        tokio::time::timeout(SOON, self.reply).await.expect("an answer in time").expect("no panic")
    }
}

pub async fn send(worker: &Worker, segment: &Segment) -> Result<IndexSegmentResponse, Status> {
    let header = worker::inline(segment.bytes.len() as u64, segment.named_partition);
    worker::send_inline(&mut worker.client().await, header, &segment.bytes, 256 << 10).await
}

async fn stats(client: &mut Client) -> v1::GetStatsResponse {
    client.get_stats(v1::GetStatsRequest {}).await.expect("statistics").into_inner()
}

/// Asks for the statistics until they meet `wanted`.
pub async fn until(
    client: &mut Client,
    wanted: impl Fn(&v1::GetStatsResponse) -> bool,
) -> v1::GetStatsResponse {
    let deadline = Instant::now() + SOON;
    loop {
        let stats = stats(client).await;
        if wanted(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "it never came: {stats:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn reserved(stats: &v1::GetStatsResponse) -> u64 {
    stats.memory.as_ref().expect("memory").reserved_bytes
}

/// Returns two workers on one local store, and that store.
fn two_workers() -> (Worker, Worker, Store) {
    let one = Worker::start();
    let url = file_url(&one.store());
    let other = Worker::start_on(&url, &[], &[]);
    let store = Store::open(&Url::parse(&url).expect("a URL")).expect("a store");
    (one, other, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_30_a_worker_killed_in_mid_stream_gives_an_error_and_another_a_receipt() {
    let (one, other, store) = two_workers();
    let segment = Segment::opaque(&[1 << 20; 6], 0);
    let mut sending = Sending::begin(one.client().await, &segment).await;
    sending.bytes(&segment.bytes[..segment.bytes.len() / 2]).await;
    until(&mut one.client().await, |stats| stats.jobs.iter().any(|job| job.bytes_done > 0)).await;
    one.signal("KILL");
    let error = sending.end().await.expect_err("it was killed");
    assert_ne!(error.code(), Code::Ok);
    assert_eq!(keys(&store).await, Vec::<String>::new(), "nothing is there");
    assert_eq!(one.keys(), Vec::<String>::new(), "not even a file");

    let reply = send(&other, &segment).await.expect("a receipt");
    assert_eq!(already_existed(&reply), [false]);
    check(&store, &reply, &segment.bytes).await;
    assert_eq!(keys(&store).await, keys_of(&reply));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_30_a_worker_killed_at_any_moment_leaves_nothing_that_a_second_one_cannot_finish() {
    let segment = Segment::of_three_partitions();
    for after_ms in [0, 5, 10, 20, 40, 60, 80, 120] {
        let (one, other, store) = two_workers();
        let mut sending = Sending::begin(one.client().await, &segment).await;
        sending.bytes(&segment.bytes).await;
        sending.close();
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        one.signal("KILL");
        let first = sending.end().await;
        let left = keys(&store).await;
        let reply = send(&other, &segment).await.expect("a receipt");
        // What the store lists was whole, and is what the second worker found.
        check(&store, &reply, &segment.bytes).await;
        let found = keys_of(&reply).into_iter().zip(already_existed(&reply));
        let found: Vec<_> = found.filter_map(|(key, existed)| existed.then_some(key)).collect();
        assert!(
            left.iter().all(|key| found.contains(key)) && left.len() == found.len(),
            "{left:?} {found:?}"
        );
        assert!(first.is_err() || left.len() == 3, "a receipt means that all of it is there");
        assert_eq!(keys(&store).await.len(), 3, "no second object");
    }
}

/// A mode of the proxy in front of a store: it passes everything.
const PASS: u8 = 0;
/// It passes [`BODY_BYTES_MAX`] of the requests, then no more: the rest of a body is held back.
const STOP_BODIES: u8 = 1;
const BODY_BYTES_MAX: usize = 100_000;
/// It passes requests, but no answers.
const STOP_ANSWERS: u8 = 2;

/// Starts a proxy in front of a local port. It signals `stopped` when it first holds something back.
async fn proxy(server: u16, mode: Arc<AtomicU8>, stopped: Arc<Notify>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", server)).await.expect("the server listens");
            tokio::spawn(pass(client, server, Arc::clone(&mode), Arc::clone(&stopped)));
        }
    });
    port
}

async fn pass(client: TcpStream, server: TcpStream, mode: Arc<AtomicU8>, stopped: Arc<Notify>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let (mut buffer, mut passed) = (vec![0; 16 << 10], 0);
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            if mode.load(SeqCst) == STOP_BODIES {
                passed += n;
            }
            if passed > BODY_BYTES_MAX {
                stopped.notify_one();
            } else if to_server.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            if mode.load(SeqCst) == STOP_ANSWERS {
                stopped.notify_one();
            } else if to_client.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
        // The end of a connection is not held back.
    };
    // If one side closes, the other side is closed too. So a killed worker's connection ends here.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// Kills a worker while the proxy holds up its upload to S3, and sends the segment to another worker.
async fn killed_in_mid_upload(mode_of_proxy: u8) -> (IndexSegmentResponse, Vec<String>) {
    let server = Server::s3();
    let (mode, stopped) = (Arc::new(AtomicU8::new(PASS)), Arc::new(Notify::new()));
    let port = proxy(server.port(), Arc::clone(&mode), Arc::clone(&stopped)).await;
    let settings = s3_settings(port);
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let one = Worker::start_on(server.url("x").as_str(), &settings, &[]);
    let other = Worker::start_on(server.url("x").as_str(), &server.settings(), &[]);
    let (store, segment) = (server.store("x"), Segment::opaque(&[4 << 20], 0));

    mode.store(mode_of_proxy, SeqCst);
    let mut sending = Sending::begin(one.client().await, &segment).await;
    sending.bytes(&segment.bytes).await;
    sending.close();
    tokio::time::timeout(SOON, stopped.notified()).await.expect("an upload");
    let uploading = |job: &v1::Job| job.phase() == v1::job::Phase::Uploading;
    until(&mut one.client().await, |stats| stats.jobs.iter().any(uploading)).await;
    one.signal("KILL");
    sending.end().await.expect_err("it was killed");
    // The store needs a moment to notice the broken connection.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let left = keys(&store).await;

    let reply = send(&other, &segment).await.expect("a receipt");
    check(&store, &reply, &segment.bytes).await;
    assert_eq!(keys(&store).await, keys_of(&reply), "one object");
    (reply, left)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
async fn lesson_27_an_upload_cut_off_by_the_workers_death_leaves_nothing_to_list() {
    let (reply, left) = killed_in_mid_upload(STOP_BODIES).await;
    assert_eq!(left, Vec::<String>::new(), "half an object is none");
    assert_eq!(already_existed(&reply), [false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
async fn lesson_26_an_upload_that_landed_before_the_worker_died_is_what_the_next_one_finds() {
    let (reply, left) = killed_in_mid_upload(STOP_ANSWERS).await;
    assert_eq!(left, keys_of(&reply), "it had landed");
    assert_eq!(already_existed(&reply), [true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_13_sigterm_with_nothing_in_hand_ends_the_process_with_code_0() {
    for name in ["TERM", "INT"] {
        let mut worker = Worker::start();
        worker.signal(name);
        assert_eq!(worker.ended().code(), Some(0), "SIG{name}: an exit code, and not a signal's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_30_sigterm_lets_work_in_hand_finish_and_takes_no_more() {
    let mut worker = Worker::start();
    let store = Store::open(&Url::parse(&file_url(&worker.store())).unwrap()).unwrap();
    let segment = Segment::logs(2_000, 22);
    let half = segment.bytes.len() / 2;
    let mut idle_client = worker.client().await;
    stats(&mut idle_client).await;
    let mut sending = Sending::begin(worker.client().await, &segment).await;
    sending.bytes(&segment.bytes[..half]).await;
    until(&mut idle_client, |stats| !stats.jobs.is_empty()).await;

    worker.signal("TERM");
    // New calls, on an existing or a new connection, are refused, so that the caller tries another worker.
    let mut refused_since = None;
    let deadline = Instant::now() + SOON;
    while refused_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
        let other = Segment::of_three_partitions();
        let header = worker::inline(other.bytes.len() as u64, other.named_partition);
        let sent = worker::send_inline(&mut idle_client, header, &other.bytes, 256 << 10);
        match tokio::time::timeout(Duration::from_secs(10), sent).await.expect("an answer at once") {
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                refused_since.get_or_insert_with(Instant::now);
            }
            Ok(_) => assert!(refused_since.is_none(), "it took work after it had refused some"),
        }
        assert!(Instant::now() < deadline, "it takes work for ever");
    }

    sending.bytes(&segment.bytes[half..]).await;
    let reply = sending.end().await.expect("a receipt for the work that was in hand");
    check(&store, &reply, &segment.bytes).await;
    assert_eq!(worker.ended().code(), Some(0));
    let own = keys_of(&reply);
    assert!(keys(&store).await.iter().all(|key| own.contains(key) || !key.starts_with("orders/3")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lesson_30_work_that_outlasts_the_drain_is_dropped_with_an_error_and_the_process_ends_with_code_0() {
    let mut worker = Worker::start_with(&["--drain-timeout", "1"]);
    let segment = Segment::logs(500, 23);
    let mut sending = Sending::begin(worker.client().await, &segment).await;
    sending.bytes(&segment.bytes[..1_000]).await;
    until(&mut worker.client().await, |stats| !stats.jobs.is_empty()).await;
    worker.signal("TERM");
    let ended = worker.ended();
    assert_eq!(ended.code(), Some(0));
    let reply = tokio::time::timeout(SOON, sending.reply).await.expect("an answer").expect("no panic");
    let status = reply.expect_err("no receipt");
    // The caller gets an error with a reason, not a broken connection: it knows that another worker can do
    // it.
    let refusal = Refusal::of(&status);
    assert_eq!((refusal.code, &*refusal.reason), (Code::Unavailable, "DRAINING"));
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
    assert_eq!(worker.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_do_not_hold_up_the_end() {
    let mut worker = Worker::start();
    let address = worker.endpoint();
    let address = address.strip_prefix("http://").expect("an endpoint");
    let mut silent = std::net::TcpStream::connect(address).expect("it listens");
    let idle = worker.channel().await;
    let began = Instant::now();
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0));
    // The drain may take 30 s by default. Here it has nothing to wait for.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_hangs_up_gives_its_memory_back_at_once() {
    let worker = Worker::start();
    let segment = Segment::opaque(&[1 << 20; 12], 0);
    let mut client = worker.client().await;
    let half = segment.bytes.len() / 2;
    // One call is dropped, and one connection is dropped. Each has its own connection.
    for cut in [false, true] {
        let mut sending = Sending::begin(worker.client().await, &segment).await;
        sending.bytes(&segment.bytes[..half]).await;
        let in_hand = until(&mut client, |stats| stats.jobs.iter().any(|job| job.bytes_done > 0)).await;
        assert!(reserved(&in_hand) > segment.bytes.len() as u64, "{in_hand:?}");
        if cut {
            sending.reply.abort();
        } else {
            // A stream that ends too early also counts as a caller that hung up.
            sending.end().await.expect_err("bytes are missing");
        }
        let after = until(&mut client, |stats| stats.jobs.is_empty() && reserved(stats) == 0).await;
        assert_eq!(after.segments_processed, 0);
        assert_eq!(after.errors, 0, "none of it is the worker's fault");
    }
    assert_eq!(stats(&mut client).await.rejected.values().sum::<u64>(), 2);
    let reply = send(&worker, &segment).await.expect("a receipt");
    assert_eq!(already_existed(&reply), [false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_never_sends_its_header_is_told_in_time() {
    let timeouts = Timeouts { silence: Duration::from_millis(200), ..Timeouts::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let store = memory();
    let role = IndexRole {
        ingest: Ingest { timeouts, ..ingest(store.clone()) },
        sources: SourceRoots::new(&[]).expect("none"),
        worker_id: "here".to_owned(),
        bundle_cache: BundleCache::new(store, 1 << 20),
    };
    let config = Config {
        index: Some(role),
        search: None,
        policy: ConnectionPolicy::default(),
        drain_max: Duration::ZERO,
    };
    let serving = tokio::spawn(server::run(listener, config, std::future::pending()));
    let mut client = Client::connect(endpoint).await.expect("it listens");
    let (_messages, never) = mpsc::channel::<IndexSegmentRequest>(0);
    let answer = tokio::time::timeout(SOON, client.index_segment(never)).await.expect("an answer in time");
    assert_eq!(answer.expect_err("no header").code(), Code::DeadlineExceeded);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_trickles_loses_its_place_and_its_memory() {
    let timeouts = Timeouts { silence: Duration::from_millis(100), ..Timeouts::default() };
    let ingest = Ingest { timeouts, ..ingest(memory()) };
    let segment = Segment::opaque(&[1 << 10; 12], 0);
    let trickle = futures::stream::unfold(segment.bytes.clone(), |mut rest| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok(rest.split_to(1)), rest))
    });
    let request = Request::new(segment.parts()).expect("a request");
    let run = ingest.run(request, Box::pin(trickle));
    let ended = tokio::time::timeout(SOON, run).await.expect("an answer in time");
    assert!(matches!(ended, Err(IngestError::Trickles)), "{ended:?}");
    assert_eq!(ingest.budget.usage().reserved_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_whose_work_stands_still_loses_its_place_and_its_memory() {
    let (silence, build) = (Duration::from_millis(50), Duration::from_millis(50));
    let timeouts = Timeouts { silence, build, ..Timeouts::default() };
    let ingest = Ingest { timeouts, ..ingest_with(memory(), 1) };
    let (release, released) = std::sync::mpsc::channel::<()>();
    let cpu = ingest.cpu.clone();
    let stuck = tokio::spawn(async move { cpu.run(move || released.recv()).await });
    let segment = Segment::opaque(&[1 << 10; 12], 0);
    let sent = crate::receipts::send(&ingest, &segment, 1 << 10);
    let ended = tokio::time::timeout(SOON, sent).await.expect("an answer in time");
    assert!(matches!(ended, Err(IngestError::BuildTooSlow { .. })), "{ended:?}");
    assert_eq!(of_ingest(&ended.expect_err("none")).code(), Code::DeadlineExceeded);
    drop(release);
    stuck.await.expect("no panic").expect("no panic").expect_err("it was let go of");
    // The queued work is dropped with its caller.
    while ingest.budget.usage().reserved_bytes > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_when_its_callers_own_time_is_over() {
    let worker = Worker::start();
    let segment = Segment::opaque(&[1 << 20; 12], 0);
    let header = worker::header(worker::inline(segment.bytes.len() as u64, segment.named_partition));
    let (mut messages, receiver) = mpsc::channel(0);
    let mut request = tonic::Request::new(receiver);
    request.set_timeout(Duration::from_secs(2));
    let mut client = worker.client().await;
    let call = tokio::spawn(async move { client.index_segment(request).await });
    messages.send(header).await.expect("the call goes on");
    let mut client = worker.client().await;
    until(&mut client, |stats| reserved(stats) > 0).await;
    let ended = tokio::time::timeout(SOON, call).await.expect("in time").expect("no panic");
    let status = ended.expect_err("its time is over");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    until(&mut client, |stats| stats.jobs.is_empty() && reserved(stats) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_reaches_a_caller_that_is_still_sending_and_its_connection_goes_on() {
    let worker = Worker::start_with(&["--memory-budget", "64MiB"]);
    let segment = Segment::opaque(&[1 << 20; 12], 0);
    let mut damaged = segment.bytes.to_vec();
    damaged[300] ^= 1;
    let mut client = worker.client().await;
    let header = worker::inline(segment.bytes.len() as u64, segment.named_partition);
    // More than fits into the connection's window, if unread bytes stayed in it.
    for _ in 0..6 {
        let sent = worker::send_inline(&mut client, header.clone(), &damaged, 256 << 10).await;
        assert_eq!(sent.expect_err("damaged").code(), Code::DataLoss);
        let too_large = worker::inline(1 << 30, segment.named_partition);
        let sent = worker::send_inline(&mut client, too_large, &segment.bytes, 256 << 10).await;
        assert_eq!(sent.expect_err("more than the budget").code(), Code::InvalidArgument);
    }
    let sent = worker::send_inline(&mut client, header, &segment.bytes, 256 << 10).await;
    assert_eq!(already_existed(&sent.expect("a receipt")), [false]);
}
