//! The client library with workers that answer truly, and with workers that do not.

mod names;
mod payloads;
mod proxies;
mod reads;
mod secure;
mod spread;

use std::io::Cursor;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{io, sync::Mutex};

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tonic::Code;
use url::Url;
use wal_indexer::client::{
    Client, Endpoint, IndexError, Payload, Receipt, Refusal, Request, Security, Timeouts, digest,
};
use wal_indexer::generate::{Codec, Size, Spec, generate};
use wal_indexer::ids::{LogId, OffsetRange, SegmentFormat, TopicPartition};
use wal_indexer::internals::bundle::{Footer, Opened};
use wal_indexer::proto::v1::{self, IndexSegmentResponse};

use crate::scripted_worker::{Answer, ScriptedWorker};
use crate::truth::{Fixture, fixtures};
use crate::worker::{Worker, file_url};

/// Long enough for a machine under load, short enough for a test that fails.
const WAIT_MAX: Timeouts = Timeouts {
    attempt: Duration::from_secs(60),
    segment: Duration::from_secs(90),
    resolve_every: Duration::from_millis(20),
};

type Act = Box<dyn FnOnce() + Send>;

/// A segment's bytes, with possible faults.
pub struct TestPayload {
    bytes: Bytes,
    /// The size that the payload claims.
    size_bytes: u64,
    /// Whether reading fails behind the last byte.
    fails: bool,
    /// An action that runs once, after this many bytes have been read.
    hook: Mutex<Option<(usize, Act)>>,
}

impl TestPayload {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { size_bytes: bytes.len() as u64, bytes, fails: false, hook: Mutex::default() }
    }
}

impl Payload for TestPayload {
    type Bytes = Box<dyn AsyncRead + Send + Unpin>;

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    async fn open(&self) -> io::Result<Self::Bytes> {
        let hook = self.hook.lock().expect("nobody panicked").take();
        let (at, hook) = hook.unwrap_or_else(|| (self.bytes.len(), Box::new(|| {})));
        let (first, rest) = (self.bytes.slice(..at), self.bytes.slice(at..));
        let hook = Hook { hook: Some(hook) };
        let bytes = Cursor::new(first).chain(hook).chain(Cursor::new(rest));
        Ok(if self.fails { Box::new(bytes.chain(Fails)) } else { Box::new(bytes) })
    }
}

struct Hook {
    hook: Option<Act>,
}

impl AsyncRead for Hook {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(hook) = self.hook.take() {
            hook();
        }
        Poll::Ready(Ok(()))
    }
}

struct Fails;

impl AsyncRead for Fails {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::Error::other("it has changed")))
    }
}

fn partition() -> TopicPartition {
    TopicPartition::new("logs", 0).expect("a name")
}

pub fn request() -> Request {
    Request {
        segment_id: "logs/0/17".to_owned(),
        format: None,
        partition: partition(),
        log_id: LogId::new("cluster-7"),
        keep_torn_tail: false,
        keep_undecodable: false,
        allowed_offsets: None,
        url: None,
    }
}

/// Records of the partition, in Kafka batches.
pub fn segment(records: u64) -> Bytes {
    let spec = Spec { size: Size::Records(records), codec: Codec::Zstd, ..Spec::default() };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("a valid description");
    bytes.into()
}

/// About 3 MiB, so that several chunks are in flight.
fn large_segment() -> Bytes {
    let spec = Spec { size: Size::Bytes(3 << 20), ..Spec::default() };
    let mut bytes = Vec::new();
    generate(&spec, &mut bytes).expect("a valid description");
    bytes.into()
}

async fn client(endpoints: &[String], timeouts: Timeouts) -> Client {
    let endpoints = endpoints.iter().map(|endpoint| endpoint.parse::<Endpoint>().expect("an endpoint"));
    Client::start(endpoints.collect(), Security::default(), timeouts).await.expect("settings that work")
}

async fn index(endpoint: String, bytes: &Bytes) -> Result<Receipt, IndexError> {
    client(&[endpoint], WAIT_MAX).await.index(&request(), &TestPayload::new(bytes.clone())).await
}

fn of(fixture: &Fixture) -> Request {
    let told = fixture
        .named_partition
        .or_else(|| fixture.expected.first().map(|held| (&*held.topic, held.partition)));
    let (topic, partition) = told.unwrap_or(("logs", 0));
    let format = match fixture.format {
        v1::SegmentFormat::KafkaLog => Some(SegmentFormat::KafkaLog),
        v1::SegmentFormat::ChronikWal => Some(SegmentFormat::ChronikWal),
        v1::SegmentFormat::Unspecified => None,
    };
    let partition = TopicPartition::new(topic, partition).expect("a name");
    Request { partition, format, log_id: LogId::new(&fixture.file), ..request() }
}

#[track_caller]
fn check_receipt(fixture: &Fixture, receipt: &Receipt, worker: &Worker) {
    let (file, read) = (&fixture.file, receipt.digest());
    let records = |count: fn(&crate::truth::ExpectedPartition) -> usize| {
        fixture.expected.iter().map(count).sum::<usize>() as u64
    };
    let data = records(|held| held.records.len());
    assert_eq!(read.size_bytes, fixture.bytes.len() as u64, "{file}");
    assert_eq!(read.crc32c, crc32c::crc32c(&fixture.bytes), "{file}");
    assert_eq!(read.sha256[..], Sha256::digest(&fixture.bytes)[..], "{file}");
    assert_eq!(read.records, data + records(|held| held.control_offsets.len()), "{file}");
    assert_eq!((receipt.data_records(), read.torn_bytes), (data, 0), "{file}");
    assert_eq!((receipt.worker(), receipt.attempts()), (worker.address(), 1), "{file}");
    assert_eq!(receipt.keys().len(), fixture.expected.len(), "{file}");
    let stored: usize = receipt.keys().iter().map(|key| worker.object(key).len()).sum();
    assert_eq!(receipt.stored_bytes(), stored as u64, "{file}");
    assert_eq!(receipt.control_records(), records(|held| held.control_offsets.len()), "{file}");
    let request = of(fixture);
    assert_eq!((receipt.partition(), receipt.log_id()), (Some(&request.partition), Some(&request.log_id)));
    let held = fixture.expected.first();
    let offsets = held.map(|held| OffsetRange::new(held.base_offset, held.last_offset).expect("a range"));
    assert_eq!(receipt.offsets(), offsets, "{file}");
    assert_eq!(receipt.bundle().is_some(), held.is_some(), "{file}");
    if let Some(bundle) = receipt.bundle() {
        let object = worker.object(&bundle.key);
        assert_eq!((&*bundle.key, bundle.size_bytes), (&*receipt.keys()[0], object.len() as u64), "{file}");
        assert_eq!(bundle.crc32c, crc32c::crc32c(&object), "{file}");
        let opened = Footer::open(&object[bundle.footer_offset as usize..], bundle.size_bytes);
        let Ok(Opened::Footer(footer)) = opened else { panic!("{file}: {opened:?}") };
        assert_eq!(footer.footer_offset(), bundle.footer_offset, "{file}");
    }
    let written = serde_json::to_string(receipt).expect("JSON");
    assert_eq!(serde_json::from_str::<Receipt>(&written).expect("it reads"), *receipt, "{file}");
}

/// Existing checkpoints were written when receipts had fewer fields.
#[tokio::test]
async fn a_receipt_from_an_older_file_says_what_it_knows() {
    let worker = Worker::start();
    let receipt = index(worker.endpoint(), &segment(500)).await.expect("a receipt");
    let mut json = serde_json::to_value(&receipt).expect("JSON");
    let members = json.as_object_mut().expect("an object");
    for newer in ["partition", "log_id", "offsets", "control_records", "bundle"] {
        members.remove(newer).expect(newer);
    }
    let older: Receipt = serde_json::from_value(json.clone()).expect("it reads");
    assert_eq!(
        (older.partition(), older.log_id(), older.offsets(), older.bundle()),
        (None, None, None, None)
    );
    assert_eq!((older.digest(), older.keys()), (receipt.digest(), receipt.keys()));
    assert_eq!((older.data_records(), older.control_records()), (500, 0));
    assert_eq!(serde_json::to_value(&older).expect("JSON"), json, "it is written as it was");

    for (newer, wrong) in
        [("offsets", json!([7, 3])), ("partition", json!(["", 0])), ("partition", json!(["a", -1]))]
    {
        let mut json = serde_json::to_value(&receipt).expect("JSON");
        json[newer] = wrong;
        serde_json::from_value::<Receipt>(json).expect_err("no receipt says that");
    }
}

#[tokio::test]
async fn a_receipt_is_about_what_was_read() {
    let worker = Worker::start();
    let client = client(&[worker.endpoint()], WAIT_MAX).await;
    for fixture in fixtures().iter().filter(|fixture| fixture.expected.len() < 2) {
        let (request, payload) = (of(fixture), TestPayload::new(fixture.bytes.clone()));
        let receipt = client.index(&request, &payload).await.expect(&fixture.file);
        check_receipt(fixture, &receipt, &worker);
        assert!(!receipt.already_existed(), "{}", fixture.file);
        assert_eq!(digest(&payload).await.expect("it reads"), *receipt.digest(), "{}", fixture.file);

        let path = worker.sources().join("a segment %41");
        std::fs::write(&path, &fixture.bytes).expect("a file");
        let url = Url::parse(&file_url(&path)).expect("a URL");
        let pointed = client.index(&Request { url: Some(url), ..request }, &payload).await;
        let pointed = pointed.expect(&fixture.file);
        check_receipt(fixture, &pointed, &worker);
        assert_eq!(pointed.already_existed(), !fixture.expected.is_empty(), "{}", fixture.file);
        assert_eq!(pointed.keys(), receipt.keys(), "{}", fixture.file);
    }
}

#[tokio::test]
async fn only_a_header_goes_to_a_worker_that_sees_the_bytes() {
    let worker = Worker::start();
    let scripted = ScriptedWorker::start(&worker.endpoint()).await;
    let (bytes, path) = (segment(100), worker.sources().join("0.log"));
    std::fs::write(&path, &bytes).expect("a file");
    let request = Request { url: Some(Url::parse(&file_url(&path)).expect("a URL")), ..request() };
    let client = client(&[scripted.endpoint()], WAIT_MAX).await;
    client.index(&request, &TestPayload::new(bytes.clone())).await.expect("a receipt");
    let calls = scripted.calls();
    assert!(calls[0].is_pointed && calls[0].bytes == 0, "{calls:?}");

    // The worker reads other bytes than this side does.
    std::fs::write(&path, segment(101)).expect("a file");
    let error = client.index(&request, &TestPayload::new(bytes)).await.expect_err("other bytes");
    assert!(matches!(error, IndexError::Rejected(_)), "{error:?}");
}

#[tokio::test]
async fn torn_bytes_are_kept_only_where_that_is_asked_for() {
    let worker = Worker::start();
    let client = client(&[worker.endpoint()], WAIT_MAX).await;
    let bytes = segment(500);
    let whole = digest(&TestPayload::new(bytes.clone())).await.expect("it reads");
    let torn = TestPayload::new(bytes.slice(..bytes.len() - 3));
    let error = client.index(&request(), &torn).await.expect_err("it is torn");
    let IndexError::Rejected(refusal) = &error else { panic!("{error:?}") };
    assert_eq!((refusal.code, &*refusal.reason), ("DATA_LOSS", "TORN_TAIL"));
    assert_eq!(refusal.position.expect("where") as usize, bytes.len() - last_frame_bytes(&bytes));

    let request = Request { keep_torn_tail: true, ..request() };
    let receipt = client.index(&request, &torn).await.expect("a receipt");
    let read = receipt.digest();
    assert_eq!(read.torn_bytes as usize, last_frame_bytes(&bytes) - 3);
    assert!(read.records < whole.records && read.records == receipt.data_records());
}

fn last_frame_bytes(segment: &Bytes) -> usize {
    let (mut at, mut last) = (0, 0);
    while at < segment.len() {
        let length: [u8; 4] = segment[at + 8..at + 12].try_into().expect("four bytes");
        last = 12 + u32::from_be_bytes(length) as usize;
        at += last;
    }
    last
}

#[tokio::test]
async fn an_ok_for_something_else_is_no_receipt() {
    let worker = Worker::start();
    let scripted = ScriptedWorker::start(&worker.endpoint()).await;
    let bytes = segment(500);
    type Change = fn(&mut IndexSegmentResponse);
    let wrong: &[(&str, Change)] = &[
        ("bytes_read", |reply| reply.bytes_read -= 1),
        ("crc32c", |reply| reply.crc32c ^= 1),
        ("sha256", |reply| reply.sha256 = vec![7; 32].into()),
        ("sha256", |reply| reply.sha256 = Bytes::new()),
        ("records", |reply| reply.record_count -= 1),
        ("records", |reply| reply.control_record_count += 1),
        ("records", |reply| reply.record_count = u64::MAX),
        ("records", |reply| reply.partitions[0].record_count += 1),
        ("torn_tail_bytes", |reply| reply.torn_tail_bytes = 1),
        ("offsets", |reply| reply.partitions[0].base_offset += 1),
        ("offsets", |reply| reply.partitions[0].base_offset = i64::MIN),
        ("offsets", |reply| reply.partitions[0].last_offset -= 1),
        ("offsets", |reply| reply.partitions[0].last_offset = -1),
        ("offsets", |reply| reply.partitions[0].last_offset = i64::MAX),
        ("offsets", |reply| reply.partitions[0].bundle.as_mut().expect("a bundle").last_offset += 1),
        ("bundles", |reply| reply.partitions.push(v1::IndexedPartition::default())),
        ("bundles", |reply| reply.partitions[0].bundle = None),
        ("bundles", |reply| reply.partitions[0].bundle = Some(v1::Bundle::default())),
        ("bundles", |reply| reply.partitions[0].topic.push('s')),
        ("bundles", |reply| reply.partitions[0].partition += 1),
        ("bundles", |reply| reply.partitions[0].log_id = String::new()),
        ("records", |reply| reply.partitions.clear()),
    ];
    for (nth, (field, change)) in wrong.iter().enumerate() {
        scripted.script([Answer::Wrong(*change)]);
        let error = index(scripted.endpoint(), &bytes).await.expect_err("something else");
        let IndexError::Mismatch { worker, mismatch } = &error else { panic!("{nth}: {error:?}") };
        assert_eq!((&**worker, mismatch.field), (&*scripted.address().to_string(), *field), "{nth}: {error}");
        assert_eq!(scripted.calls().len(), nth + 1, "it is not tried again");
    }
    index(scripted.endpoint(), &bytes).await.expect("the truth");
}

#[tokio::test]
async fn an_ok_before_the_last_byte_is_no_receipt() {
    let scripted = ScriptedWorker::start("http://127.0.0.1:1").await;
    scripted.script([Answer::Early]);
    let error = index(scripted.endpoint(), &large_segment()).await.expect_err("nothing was read");
    assert!(
        matches!(&error, IndexError::Mismatch { mismatch, .. } if mismatch.field == "bytes_read"),
        "{error:?}"
    );
}

/// Bytes whose records cannot be counted, and a worker that claims to have stored them all.
#[tokio::test]
async fn an_ok_for_what_cannot_be_counted_is_no_receipt() {
    let scripted = ScriptedWorker::start("http://127.0.0.1:1").await;
    for bytes in [&b"certainly no frame, but long enough"[..], &[0xca; 3 << 20]] {
        let reply = IndexSegmentResponse {
            bytes_read: bytes.len() as u64,
            crc32c: crc32c::crc32c(bytes),
            sha256: Sha256::digest(bytes).to_vec().into(),
            ..IndexSegmentResponse::default()
        };
        scripted.script([Answer::Say(Box::new(reply))]);
        let error = index(scripted.endpoint(), &Bytes::from(bytes)).await.expect_err("no frames");
        assert!(
            matches!(&error, IndexError::Mismatch { mismatch, .. } if mismatch.field == "records"),
            "{error:?}"
        );
        assert_eq!(scripted.calls().last().expect("a call").bytes, bytes.len() as u64, "workers judge");
    }
}

#[tokio::test]
async fn a_damaged_segment_is_rejected_with_its_place() {
    let worker = Worker::start();
    let mut bytes = segment(500).to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let error = index(worker.endpoint(), &bytes.clone().into()).await.expect_err("it is damaged");
    let IndexError::Rejected(refusal) = &error else { panic!("{error:?}") };
    assert_eq!((refusal.code, &*refusal.reason), ("DATA_LOSS", "CRC_MISMATCH"));
    assert_eq!(refusal.position, Some((bytes.len() - last_frame_bytes(&bytes.into())) as u64));
    assert_eq!(refusal.worker, worker.address());
}

/// What happens to a segment whose first answer is this code.
#[derive(Debug, PartialEq)]
enum Fate {
    Rejected,
    Refused,
    SentAgain,
}

#[tokio::test]
async fn the_code_says_what_to_do() {
    let worker = Worker::start();
    let bytes = segment(10);
    for (code, expected) in [
        (Code::InvalidArgument, Fate::Rejected),
        (Code::DataLoss, Fate::Rejected),
        (Code::Unauthenticated, Fate::Refused),
        (Code::PermissionDenied, Fate::Refused),
        (Code::NotFound, Fate::Refused),
        (Code::Unimplemented, Fate::Refused),
        (Code::FailedPrecondition, Fate::Refused),
        (Code::OutOfRange, Fate::Refused),
        (Code::AlreadyExists, Fate::Refused),
        (Code::Unavailable, Fate::SentAgain),
        (Code::ResourceExhausted, Fate::SentAgain),
        (Code::DeadlineExceeded, Fate::SentAgain),
        (Code::Cancelled, Fate::SentAgain),
        (Code::Aborted, Fate::SentAgain),
        (Code::Unknown, Fate::SentAgain),
        (Code::Internal, Fate::SentAgain),
    ] {
        // Two, so that no call has to wait for the refusing worker.
        let [first, second] = [
            ScriptedWorker::start(&worker.endpoint()).await,
            ScriptedWorker::start(&worker.endpoint()).await,
        ];
        for scripted in [&first, &second] {
            scripted.always(Answer::No(code, None));
        }
        let endpoints = [first.endpoint(), second.endpoint()];
        let timeouts = Timeouts { segment: Duration::from_millis(200), ..WAIT_MAX };
        let sent =
            client(&endpoints, timeouts).await.index(&request(), &TestPayload::new(bytes.clone())).await;
        let calls = first.calls().len() + second.calls().len();
        let refusal = Refusal {
            worker: String::new(),
            code: "",
            reason: "CROOKED".to_owned(),
            message: "so it is written".to_owned(),
            position: Some(61),
        };
        let (fate, said) = match sent.expect_err("it never says yes") {
            IndexError::Rejected(refusal) => (Fate::Rejected, refusal),
            IndexError::Refused(refusal) => (Fate::Refused, refusal),
            IndexError::TimedOut { last, attempts, .. } => {
                assert_eq!(attempts as usize, calls, "{code:?}");
                (Fate::SentAgain, last.expect("it said no"))
            }
            error => panic!("{code:?}: {error:?}"),
        };
        assert_eq!(fate, expected, "{code:?}");
        assert_eq!(Refusal { worker: String::new(), code: "", ..said }, refusal, "{code:?}");
        assert!(if fate == Fate::SentAgain { calls >= 2 } else { calls == 1 }, "{code:?}: {calls} calls");
    }
}

#[tokio::test]
async fn a_fault_that_shows_three_times_is_for_somebody_to_look_at() {
    let worker = Worker::start();
    let scripted = ScriptedWorker::start(&worker.endpoint()).await;
    let faults = |count| std::iter::repeat_n(Answer::No(Code::Internal, None), count);
    scripted.script(faults(2));
    let receipt = index(scripted.endpoint(), &segment(10)).await.expect("the third time");
    assert_eq!(receipt.attempts(), 3);
    scripted.script(faults(3));
    let error = index(scripted.endpoint(), &segment(10)).await.expect_err("a fault");
    assert!(matches!(&error, IndexError::Refused(refusal) if refusal.code == "INTERNAL"), "{error:?}");
}

#[tokio::test]
async fn a_worker_without_room_is_left_alone_as_long_as_it_says() {
    let worker = Worker::start();
    let scripted = ScriptedWorker::start(&worker.endpoint()).await;
    for code in [Code::ResourceExhausted, Code::Unavailable] {
        let pause = Duration::from_millis(1_100);
        scripted.script([Answer::No(code, Some(pause))]);
        let began = Instant::now();
        let receipt = index(scripted.endpoint(), &segment(10)).await.expect("a receipt");
        assert_eq!(receipt.attempts(), 2);
        assert!(began.elapsed() >= pause, "{code:?}: after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn others_are_asked_at_once() {
    let worker = Worker::start();
    let [full, away, good] = [
        ScriptedWorker::start(&worker.endpoint()).await,
        ScriptedWorker::start(&worker.endpoint()).await,
        ScriptedWorker::start(&worker.endpoint()).await,
    ];
    let hour = Some(Duration::from_secs(3_600));
    full.always(Answer::No(Code::ResourceExhausted, hour));
    away.always(Answer::No(Code::Unavailable, hour));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let endpoints = [full.endpoint(), away.endpoint(), format!("http://{nobody}"), good.endpoint()];
    let client = client(&endpoints, WAIT_MAX).await;
    for _ in 0..6 {
        let receipt = client.index(&request(), &TestPayload::new(segment(10))).await.expect("a receipt");
        assert_eq!(receipt.worker(), good.address().to_string());
    }
    // The workers that asked for a pause get no more calls. The good one does all the work.
    assert_eq!((full.calls().len(), away.calls().len(), good.calls().len()), (1, 1, 6));
}

/// Returns how many of 40 segments go to a worker with this answer, and how many to another one that accepts
/// all.
async fn shares(answer: Answer) -> (usize, usize) {
    let worker = Worker::start();
    let [bad, good] =
        [ScriptedWorker::start(&worker.endpoint()).await, ScriptedWorker::start(&worker.endpoint()).await];
    bad.always(answer);
    let client = client(&[bad.endpoint(), good.endpoint()], WAIT_MAX).await;
    for _ in 0..40 {
        // A call at the bad worker is refused. Its caller would have to handle that.
        let _ = client.index(&request(), &TestPayload::new(segment(10))).await;
    }
    (bad.calls().len(), good.calls().len())
}

#[tokio::test]
async fn a_worker_that_is_set_up_wrongly_does_not_draw_the_segments_away_from_others() {
    for answer in [
        Answer::No(Code::Unauthenticated, None),
        Answer::No(Code::PermissionDenied, None),
        Answer::No(Code::Unimplemented, None),
        Answer::No(Code::FailedPrecondition, None),
        Answer::Wrong(|reply| reply.crc32c ^= 1),
        Answer::Early,
    ] {
        let (bad, good) = shares(answer.clone()).await;
        assert!((1..good / 2).contains(&bad), "{answer:?}: {bad} to {good}");
    }
}

#[tokio::test]
async fn a_worker_is_not_to_blame_for_what_is_not_there() {
    assert_eq!(shares(Answer::No(Code::NotFound, None)).await, (20, 20));
}

#[tokio::test]
async fn without_a_worker_patience_ends() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let timeouts = Timeouts { segment: Duration::from_millis(400), ..WAIT_MAX };
    let client = client(&[format!("http://{nobody}")], timeouts).await;
    let error = client.index(&request(), &TestPayload::new(segment(10))).await.expect_err("nobody");
    let IndexError::TimedOut { attempts, last: Some(last), .. } = &error else { panic!("{error:?}") };
    assert!(*attempts > 0 && last.code == "UNAVAILABLE" && last.worker == nobody.to_string(), "{error:?}");
    assert!(last.message.to_lowercase().contains("refused"), "{last}");
}

#[tokio::test]
async fn patience_may_be_endless() {
    let worker = Worker::start();
    let endless = Timeouts { attempt: Duration::MAX, segment: Duration::MAX, resolve_every: Duration::MAX };
    let port = worker.address().rsplit_once(':').expect("a port").1;
    for endpoint in [worker.endpoint(), format!("http://localhost:{port}")] {
        let client = client(&[endpoint], endless.clone()).await;
        client.index(&request(), &TestPayload::new(segment(10))).await.expect("a receipt");
    }
}
