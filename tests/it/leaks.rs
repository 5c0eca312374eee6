//! Callers that hang up, stall or send slowly, and a store that hangs or answers 503. In all cases the worker
//! frees what it held for them: memory, descriptors and threads. What it acknowledged is stored, and what it
//! did not can be sent again.

use std::fs;
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::future::join_all;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use url::Url;
use wal_indexer::generate::{Size, Spec};
use wal_indexer::proto::v1::search_service_client::SearchServiceClient;
use wal_indexer::proto::v1::{self, GetStatsResponse, IndexSegmentRequest, IndexSegmentResponse};
use wal_indexer::store::Store;

use crate::broker::Rng;
use crate::gate::{Gate, Mood};
use crate::kill::{Sending, reserved, send, until};
use crate::receipts::{Segment, TOLD, check, generated, keys};
use crate::servers::{Server, s3_settings};
use crate::worker::{self, Client, Refusal, Worker, chunk, file_url, resident_bytes};

/// How long anything here may take before it counts as stuck. The slowest are connections that keep-alive
/// ends (50 s), and idle threads (10 s).
const SOON: Duration = Duration::from_secs(120);

/// The most that a worker may have resident at the end beyond the beginning: pages of the program that were
/// first needed in between, and what the allocator keeps. It is much less than what the callers of one test
/// use.
const KEPT_BYTES_MAX: u64 = 32 << 20;

const MIB: usize = 1 << 20;

/// The resources that a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    resident_bytes: u64,
}

impl Held {
    fn by(worker: &Worker) -> Self {
        let count =
            |what: &str| fs::read_dir(format!("/proc/{}/{what}", worker.pid())).expect("it runs").count();
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            resident_bytes: resident_bytes(worker.pid()),
        }
    }
}

fn is_idle(stats: &GetStatsResponse) -> bool {
    let waiting = stats.memory.as_ref().expect("memory").waiting_requests;
    stats.jobs.is_empty() && reserved(stats) == 0 && waiting == 0
}

/// A worker, a client for its statistics, and what it held after one segment and one fetch.
struct Watched {
    worker: Worker,
    client: Client,
    before: Held,
}

impl Watched {
    async fn begin(worker: Worker) -> Self {
        let mut client = worker.client().await;
        send(&worker, &Segment::fixture("kafka/none.log")).await.expect("a receipt");
        fetch_all(&worker, 0).await;
        until(&mut client, is_idle).await;
        let before = Held::by(&worker);
        Self { worker, client, before }
    }

    /// Waits until all memory is free.
    async fn idle(&mut self) {
        until(&mut self.client, is_idle).await;
    }

    /// Waits until it holds no more than at the beginning.
    async fn at_rest(&mut self) {
        let (deadline, before) = (Instant::now() + SOON, self.before);
        loop {
            self.idle().await;
            let now = Held::by(&self.worker);
            if now.descriptors <= before.descriptors
                && now.threads <= before.threads
                && now.resident_bytes <= before.resident_bytes + KEPT_BYTES_MAX
            {
                println!("before: {before:?}; at rest again: {now:?}");
                return;
            }
            assert!(Instant::now() < deadline, "before: {before:?}; still: {now:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn store(&self) -> Store {
        Store::open(&Url::parse(&file_url(&self.worker.store())).expect("a URL")).expect("a store")
    }
}

/// How a caller hangs up.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Only the call ends, by RST_STREAM. The connection stays.
    Call,
    /// The connection is closed: FIN.
    Close,
    /// The connection is reset: RST.
    Reset,
}

const WAYS: [Way; 3] = [Way::Call, Way::Close, Way::Reset];

/// A connection to a worker through a proxy that can cut it.
struct Wire {
    channel: Channel,
    end: oneshot::Sender<End>,
    between: JoinHandle<()>,
}

/// How a connection ends.
enum End {
    Close,
    Reset,
    /// Nothing passes any more, and neither side is notified: as when a machine loses power.
    Vanish,
}

impl Wire {
    async fn to(worker: &Worker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut outside = TcpStream::connect(worker.address()).await.expect("it listens");
        let (end, mut ended) = oneshot::channel();
        let between = tokio::spawn(async move {
            let (mut inside, _) = listener.accept().await.expect("the client");
            let how = tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut inside, &mut outside) => return,
                how = &mut ended => how,
            };
            match how {
                Ok(End::Reset) => outside.set_zero_linger().expect("a socket"),
                Ok(End::Vanish) => std::future::pending().await,
                Ok(End::Close) | Err(_) => {}
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        Self { channel: endpoint.connect().await.expect("it listens"), end, between }
    }

    fn client(&self) -> Client {
        Client::new(self.channel.clone())
    }

    /// Hangs up. If only the call ends, checks that its connection still works.
    async fn hang_up<T>(self, call: &JoinHandle<T>, way: Way) {
        match way {
            Way::Call => {
                call.abort();
                let asked = self.client().get_stats(v1::GetStatsRequest {}).await;
                asked.expect("the connection goes on");
            }
            Way::Close | Way::Reset => {
                let end = if let Way::Reset = way { End::Reset } else { End::Close };
                assert!(self.end.send(end).is_ok(), "it goes on until then");
                self.between.await.expect("it ends");
                call.abort();
            }
        }
    }
}

/// How far a call has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Its header has not been sent.
    Begun,
    /// It waits for memory.
    Waiting,
    /// Half of it has been received.
    Receiving,
    /// All of it has been received, and it is being indexed.
    Building,
}

/// Brings a call to this stage, and hangs up.
async fn hang_up_at(watched: &mut Watched, stage: Stage, way: Way, segment: &Segment) {
    let wire = Wire::to(&watched.worker).await;
    if let Stage::Begun = stage {
        let (_messages, never) = mpsc::channel::<IndexSegmentRequest>(0);
        let mut client = wire.client();
        let call = tokio::spawn(async move { client.index_segment(never).await });
        // Requests on one connection are handled in order: when this one is answered, the call has arrived.
        tokio::time::sleep(Duration::from_millis(20)).await;
        wire.client().get_stats(v1::GetStatsRequest {}).await.expect("statistics");
        return wire.hang_up(&call, way).await;
    }
    let mut sending = Sending::begin(wire.client(), segment).await;
    let (share, wanted): (usize, fn(&GetStatsResponse) -> bool) = match stage {
        Stage::Begun => unreachable!("it is over"),
        Stage::Waiting => (0, |stats| stats.memory.as_ref().expect("memory").waiting_requests == 1),
        Stage::Receiving => {
            (segment.bytes.len() / 2, |stats| stats.jobs.iter().any(|job| job.bytes_done > 0))
        }
        Stage::Building => (segment.bytes.len(), |stats| stats.jobs.iter().any(|job| job.bytes_done > 0)),
    };
    sending.bytes(&segment.bytes[..share]).await;
    if let Stage::Building = stage {
        sending.close();
    }
    until(&mut watched.client, |stats| wanted(stats) || is_idle(stats) && matches!(stage, Stage::Building))
        .await;
    wire.hang_up(&sending.reply, way).await;
}

/// A budget that a few segments fill.
const FLAGS: [&str; 4] = ["--memory-budget", "96MiB", "--threads", "2"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_hangs_up_at_any_stage_leaves_nothing_behind() {
    let mut watched = Watched::begin(Worker::start_with(&FLAGS)).await;
    let mut sent = Vec::new();
    for round in 0..3 {
        for (nth, stage) in
            [Stage::Begun, Stage::Waiting, Stage::Receiving, Stage::Building].into_iter().enumerate()
        {
            for way in WAYS {
                let segment = match stage {
                    Stage::Building => Segment::logs(2_000, 100 + sent.len() as u64),
                    _ => Segment::opaque(&[MIB; 4], (sent.len() * 1_000) as i64),
                };
                let reserving = match stage {
                    Stage::Waiting => Some(reserve_only(&watched).await),
                    _ => None,
                };
                hang_up_at(&mut watched, stage, way, &segment).await;
                if let Some(reserving) = reserving {
                    until(&mut watched.client, |stats| {
                        stats.memory.as_ref().expect("memory").waiting_requests == 0
                    })
                    .await;
                    reserving.end().await.expect_err("its bytes never came");
                }
                watched.idle().await;
                if round == 0 && nth > 0 {
                    sent.push(segment);
                }
            }
        }
    }
    watched.at_rest().await;
    for segment in &sent {
        let reply = send(&watched.worker, segment).await.expect("what was not stored can be sent again");
        check(&watched.store(), &reply, &segment.bytes).await;
    }
    watched.at_rest().await;
}

/// Starts a call that declares almost the whole budget.
async fn reserve_only(watched: &Watched) -> Sending {
    let large = Segment::new(vec![0; 30 << 20], Some(("orders", 3)));
    let reserving = Sending::begin(watched.worker.client().await, &large).await;
    until(&mut watched.client.clone(), |stats| reserved(stats) > 0).await;
    reserving
}

/// Sends a random part of a segment and hangs up in a random way. Returns the receipt, if it came first.
async fn come_and_go(worker: &Worker, segment: &Segment, mut rng: Rng) -> Option<IndexSegmentResponse> {
    let wire = Wire::to(worker).await;
    let sending = tokio::spawn({
        let (client, segment) = (wire.client(), segment.clone());
        async move { send_to(client, &segment).await }
    });
    tokio::time::sleep(rng.between(Duration::ZERO, Duration::from_millis(400))).await;
    wire.hang_up(&sending, WAYS[rng.below(3) as usize]).await;
    sending.await.ok()?.ok()
}

async fn send_to(mut client: Client, segment: &Segment) -> Result<IndexSegmentResponse, Status> {
    let header = worker::inline(segment.bytes.len() as u64, segment.named_partition);
    worker::send_inline(&mut client, header, &segment.bytes, 64 << 10).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_hangs_up_at_any_moment_leaves_nothing_behind() {
    let mut watched = Watched::begin(Worker::start_with(&FLAGS)).await;
    let segments: Vec<_> = (0..48).map(|nth| Segment::opaque(&[MIB, MIB, MIB], 10_000 * nth)).collect();
    let mut came = Vec::new();
    for crowd in segments.chunks(16) {
        let seed = came.len() as u64;
        let callers = crowd.iter().zip(seed..);
        let callers = callers.map(|(segment, seed)| come_and_go(&watched.worker, segment, Rng(seed)));
        came.extend(join_all(callers).await);
        watched.idle().await;
    }
    println!("{} of {} had their receipt before they hung up", came.iter().flatten().count(), came.len());
    let store = watched.store();
    let there = keys(&store).await.len();
    for (segment, came) in segments.iter().zip(came) {
        if let Some(reply) = came {
            check(&store, &reply, &segment.bytes).await;
        }
        let reply = send(&watched.worker, segment).await.expect("it can be sent again");
        check(&store, &reply, &segment.bytes).await;
    }
    // The fixture is in the store, too.
    assert_eq!(keys(&store).await.len(), segments.len() + 1, "one object each; {there} of them before");
    watched.at_rest().await;
}

async fn reader(worker: &Worker) -> SearchServiceClient<Channel> {
    SearchServiceClient::new(worker.channel().await)
}

fn all_from(offset: i64) -> v1::FetchRequest {
    let (max_records, max_bytes) = (100_000, 64 << 20);
    let topic = "orders".to_owned();
    v1::FetchRequest { topic, partition: 3, offset, max_records, max_bytes, ..v1::FetchRequest::default() }
}

/// Reads the answer to its end. Returns the number of records.
async fn fetch_all(worker: &Worker, offset: i64) -> usize {
    let mut answer = reader(worker).await.fetch(all_from(offset)).await.expect("an answer").into_inner();
    let mut records = 0;
    while let Some(message) = answer.message().await.expect("a message") {
        records += message.records.len();
    }
    records
}

/// Sends both requests, takes this many messages of the answers, signals it, and takes no more.
async fn read_some(channel: Channel, messages: usize, taken: oneshot::Sender<()>) {
    let mut reader = SearchServiceClient::new(channel);
    let filter = Some(v1::RecordFilter { topic: "orders".to_owned(), ..v1::RecordFilter::default() });
    let (query, limit) = ("*".to_owned(), 10_000);
    let search = v1::SearchRequest { filter, query, limit, ..v1::SearchRequest::default() };
    let mut fetched = reader.fetch(all_from(0)).await.expect("an answer").into_inner();
    let mut found = reader.search(search).await.expect("an answer").into_inner();
    for _ in 0..messages {
        fetched.message().await.expect("a message");
        found.message().await.expect("a message");
    }
    // The test may be over.
    let _ = taken.send(());
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_hang_up_leave_nothing_behind() {
    // The cache is not a leak, but could not be distinguished from one. So it is small.
    let worker = Worker::start_with(&[&FLAGS[..], &["--search-cache", "1MiB"]].concat());
    let mut watched = Watched::begin(worker).await;
    for nth in 1..4 {
        let spec = Spec { size: Size::Records(3_000), base_offset: nth * 10_000, ..Spec::default() };
        let logs = Segment::new(generated(&spec), Some(TOLD));
        for segment in [logs, Segment::opaque(&[MIB; 8], nth * 10_000 + 5_000)] {
            send(&watched.worker, &segment).await.expect("a receipt");
        }
    }
    let whole = fetch_all(&watched.worker, 0).await;
    for _ in 0..3 {
        for way in WAYS {
            for messages in 0..3 {
                let wire = Wire::to(&watched.worker).await;
                let (first, seen) = oneshot::channel();
                let call = tokio::spawn(read_some(wire.channel.clone(), messages, first));
                seen.await.expect("it has begun");
                wire.hang_up(&call, way).await;
            }
        }
    }
    watched.at_rest().await;
    assert_eq!(fetch_all(&watched.worker, 0).await, whole, "and whoever stays has all of it");
    watched.at_rest().await;
}

/// A call that makes no progress, and the reason that it must get.
struct Stalled {
    what: &'static str,
    reason: &'static str,
    sending: Sending,
}

impl Stalled {
    async fn at(worker: &Worker, what: &'static str, share: usize) -> Self {
        let segment = Segment::opaque(&[MIB; 2], share as i64);
        let mut sending = Sending::begin(worker.client().await, &segment).await;
        sending.bytes(&segment.bytes[..share]).await;
        Self { what, reason: "SENDER_SILENT", sending }
    }

    async fn check(self) {
        let Self { what, reason, sending } = self;
        let answer = tokio::time::timeout(SOON, sending.reply).await.expect("an answer in time");
        let refusal = Refusal::of(&answer.expect("no panic").expect_err(what));
        assert_eq!((refusal.code, &*refusal.reason), (Code::DeadlineExceeded, reason), "{what}");
    }
}

/// Sends one byte now and then.
async fn trickle(worker: &Worker) -> Status {
    let segment = Segment::opaque(&[MIB], 50_000);
    let header = worker::header(worker::inline(segment.bytes.len() as u64, segment.named_partition));
    let bytes = futures::stream::unfold(segment.bytes.clone(), |mut rest| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((chunk(rest.split_to(1)), rest))
    });
    let messages = futures::StreamExt::chain(futures::stream::iter([header]), bytes);
    worker.client().await.index_segment(messages).await.expect_err("it trickles")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute of waiting; make test runs it"]
async fn callers_that_stall_trickle_or_vanish_are_told_so_and_leave_nothing_behind() {
    let mut watched =
        Watched::begin(Worker::start_with(&["--memory-budget", "256MiB", "--threads", "2"])).await;
    let worker = &watched.worker;
    let stalled = [
        Stalled::at(worker, "after its header", 0).await,
        Stalled::at(worker, "after a byte", 1).await,
        Stalled::at(worker, "in the middle", MIB).await,
        Stalled::at(worker, "before the end of its stream", Segment::opaque(&[MIB; 2], 0).bytes.len()).await,
    ];
    let (_messages, never) = mpsc::channel::<IndexSegmentRequest>(0);
    let mut client = worker.client().await;
    let no_header = tokio::spawn(async move { client.index_segment(never).await.expect_err("no header") });
    let silent = TcpStream::connect(worker.address()).await.expect("it listens");

    let wire = Wire::to(worker).await;
    let segment = Segment::opaque(&[MIB; 4], 90_000);
    let mut vanishing = Sending::begin(wire.client(), &segment).await;
    vanishing.bytes(&segment.bytes[..2 * MIB]).await;
    until(&mut watched.client, |stats| stats.jobs.iter().any(|job| job.bytes_done >= 1)).await;
    assert!(wire.end.send(End::Vanish).is_ok(), "it goes on until then");

    let trickles = Refusal::of(&trickle(worker).await);
    assert_eq!((trickles.code, &*trickles.reason), (Code::DeadlineExceeded, "SENDER_TRICKLES"));
    for one in stalled {
        one.check().await;
    }
    let no_header = Refusal::of(&no_header.await.expect("no panic"));
    assert_eq!((no_header.code, &*no_header.reason), (Code::DeadlineExceeded, "SENDER_SILENT"));
    // The vanished caller still holds its end of the connection, and so does the silent one.
    watched.at_rest().await;
    drop((silent, vanishing));
    let reply = send(&watched.worker, &segment).await.expect("it can be sent again");
    check(&watched.store(), &reply, &segment.bytes).await;
}

/// Starts a worker on S3, with a gate between them.
async fn behind_a_gate(server: &Server) -> (Watched, Gate) {
    let gate = Gate::start(server.port()).await;
    let settings = s3_settings(gate.port());
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let worker = Worker::start_on(server.url("x").as_str(), &settings, &FLAGS);
    (Watched::begin(worker).await, gate)
}

/// Returns the number of uploads in progress.
fn uploading(stats: &GetStatsResponse) -> usize {
    stats.jobs.iter().filter(|job| job.phase() == v1::job::Phase::Uploading).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
async fn a_store_that_hangs_holds_no_more_than_those_who_still_wait() {
    let server = Server::s3();
    let (mut watched, gate) = behind_a_gate(&server).await;
    gate.turns(Mood::Hang);
    let segments: Vec<_> = (1..7).map(|nth| Segment::opaque(&[MIB, MIB], nth * 1_000)).collect();
    let (mut gone, mut waiting) = (Vec::new(), Vec::new());
    for (nth, segment) in segments.iter().enumerate() {
        let wire = Wire::to(&watched.worker).await;
        let mut sending = Sending::begin(wire.client(), segment).await;
        sending.bytes(&segment.bytes).await;
        sending.close();
        until(&mut watched.client, |stats| uploading(stats) == nth + 1).await;
        match nth % 2 {
            0 => gone.push((wire, sending)),
            _ => waiting.push((wire, sending)),
        }
    }
    let all = until(&mut watched.client, |stats| uploading(stats) == 6).await;
    for ((wire, sending), way) in gone.into_iter().zip(WAYS) {
        wire.hang_up(&sending.reply, way).await;
    }
    let half = until(&mut watched.client, |stats| stats.jobs.len() == 3).await;
    assert!(reserved(&half) <= reserved(&all) / 2 + MIB as u64, "{} of {}", reserved(&half), reserved(&all));
    let store = server.store("x");
    assert_eq!(keys(&store).await.len(), 1, "no more than the fixture: nothing has reached the store");

    gate.turns(Mood::Open);
    for (nth, (_, sending)) in waiting.into_iter().enumerate() {
        let reply = sending.end().await.expect("the store is back");
        check(&store, &reply, &segments[2 * nth + 1].bytes).await;
    }
    for segment in &segments {
        let reply = send(&watched.worker, segment).await.expect("a receipt");
        check(&store, &reply, &segment.bytes).await;
    }
    assert_eq!(keys(&store).await.len(), segments.len() + 1);
    watched.at_rest().await;
}

/// Sends segments at once while the store refuses everything for a while, twice. Checks that nothing is
/// acknowledged that is not stored, and that refused segments can be sent again. Returns the numbers of
/// refused PUTs and of refused callers.
async fn refused_for(while_: Duration, callers: i64) -> (u64, usize) {
    let server = Server::s3();
    let (mut watched, gate) = behind_a_gate(&server).await;
    let (store, mut refused) = (server.store("x"), Vec::new());
    for (nth, status) in [503, 429].into_iter().enumerate() {
        let first = nth as i64 * callers;
        let segments: Vec<_> =
            (first..first + callers).map(|nth| Segment::opaque(&[MIB / 4], 1_000 * (nth + 1))).collect();
        gate.turns(Mood::Refuse(status));
        let sending = join_all(segments.iter().map(|segment| send(&watched.worker, segment)));
        let passes = async {
            tokio::time::sleep(while_).await;
            assert_eq!(keys(&store).await.len(), 1 + first as usize, "nothing new is there");
            gate.turns(Mood::Open);
        };
        let (sent, ()) = futures::future::join(sending, passes).await;
        for (segment, sent) in segments.iter().zip(sent) {
            match sent {
                Ok(reply) => check(&store, &reply, &segment.bytes).await,
                Err(status) => {
                    let refusal = Refusal::of(&status);
                    let codes = [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted];
                    assert!(codes.contains(&refusal.code), "{refusal:?}");
                    refused.push(refusal);
                    let reply = send(&watched.worker, segment).await.expect("the store is back");
                    check(&store, &reply, &segment.bytes).await;
                }
            }
        }
    }
    assert_eq!(keys(&store).await.len(), 1 + 2 * callers as usize, "one object each");
    watched.at_rest().await;
    println!(
        "{} PUTs refused in two times {while_:?}, {} of {} callers",
        gate.refused_puts(),
        refused.len(),
        2 * callers
    );
    (gate.refused_puts(), refused.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs SeaweedFS (tests/install-servers.sh); make test runs it"]
async fn lesson_28_a_store_that_says_503_or_429_for_a_while_is_outlasted_and_asked_ever_more_seldom() {
    let callers = 10;
    let (puts, refused) = refused_for(Duration::from_secs(4), callers).await;
    assert_eq!(refused, 0, "it passed well before they give up");
    // All of them at once first. Then one or a few after each of about six pauses, each longer than the one
    // before.
    assert!(puts >= 2 && puts <= 2 * (callers as u64 + 12), "{puts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs SeaweedFS, and takes minutes; make test-long runs it"]
async fn long_a_store_that_says_503_for_a_minute_costs_no_segment_and_no_memory() {
    let callers = 24;
    let (puts, _) = refused_for(Duration::from_secs(60), callers).await;
    assert!(puts <= 2 * (callers as u64 + 60), "{puts}");
}
