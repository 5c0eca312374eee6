//! Hostile input: messages that are not protobuf, random bytes, batches that decompress to far more than
//! their size. Each is refused, and the worker keeps running within its memory limit.

use bytes::{Buf, BufMut, Bytes};
use futures::stream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};
use wal_indexer::proto::v1::{self, SegmentHeader};

use crate::hostile;
use crate::requests::{INVALID, check_good, sized};
use crate::worker::{Refusal, Worker, inline, send_inline};

/// A codec for messages that are not protobuf.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}

async fn send_raw(worker: &Worker, messages: Vec<Bytes>) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(worker.channel().await);
    grpc.ready().await.expect("it listens");
    let path =
        tonic::codegen::http::uri::PathAndQuery::from_static("/walindexer.v1.IndexerService/IndexSegment");
    let request = tonic::Request::new(stream::iter(messages));
    Ok(grpc.client_streaming(request, path, Raw).await?.into_inner())
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused() {
    let worker = Worker::start();
    // Field 1, a message of 8 bytes: field 5, a message of 6: field 1, the number 2^35.
    let good_header = Bytes::from_static(&[0x0a, 0x08, 0x2a, 0x06, 0x08, 0x80, 0x80, 0x80, 0x80, 0x01]);
    for (name, messages) in [
        ("no tag", vec![Bytes::from_static(&[0xff; 20])]),
        ("a length past the end", vec![Bytes::from_static(&[0x0a, 0x7f, 0x01])]),
        ("a length of 2^63", vec![Bytes::from_static(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")]),
        ("an endless number", vec![Bytes::from_static(&[0x80; 64])]),
        ("a topic that is not UTF-8", vec![Bytes::from_static(&[0x0a, 0x04, 0x1a, 0x02, 0xff, 0xfe])]),
        ("no tag behind a header", vec![good_header.clone(), Bytes::from_static(&[0xff; 20])]),
    ] {
        let status = send_raw(&worker, messages).await.expect_err(name);
        assert_eq!(status.code(), INVALID, "{name}: {status:?}");
        Refusal::of(&status);
    }
    check_good(&worker, &mut worker.client().await).await;
}

/// A fixed sequence of pseudo-random numbers, so that a failure repeats.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// The most resident memory of a worker with a budget of [`BUDGET`] and two threads, for any input: the
/// budget, what each thread decompresses of a batch before it reserves more (32 MiB, twice while the buffer
/// grows), and what the process itself needs.
const RESIDENT_BYTES_MAX: u64 = BUDGET + 2 * (64 << 20) + (96 << 20);
const BUDGET: u64 = 64 << 20;

fn small_worker() -> Worker {
    Worker::start_with(&["--memory-budget", "64MiB", "--threads", "2"])
}

/// Checks that hostile bytes are refused, with one of the codes that fit.
#[track_caller]
fn check_refused(name: &str, result: Result<v1::IndexSegmentResponse, Status>) -> Refusal {
    let refusal = Refusal::of(&result.err().unwrap_or_else(|| panic!("{name}: a receipt")));
    let expected = [Code::DataLoss, INVALID, Code::ResourceExhausted];
    assert!(expected.contains(&refusal.code), "{name}: {refusal:?}");
    refusal
}

#[tokio::test]
async fn random_bytes_are_refused_within_bounded_memory() {
    let worker = small_worker();
    let (mut client, mut numbers) = (worker.client().await, Numbers(7));
    for round in 0..60 {
        let mut bytes: Vec<u8> = (0..1 + numbers.next(40_000)).map(|_| numbers.next(256) as u8).collect();
        match round % 4 {
            0 => {}
            // Chronik's magic, and a version.
            1 => bytes.splice(..0, [0x7e, 0xca, 1 + numbers.next(2) as u8]).for_each(drop),
            // The head of a Kafka batch with any length.
            2 => bytes
                .splice(..0, [&[0; 8][..], &[0; 3], &[numbers.next(256) as u8; 5], &[2]].concat())
                .for_each(drop),
            _ => bytes.splice(..0, [&[0; 8][..], &[0x7f; 8], &[2]].concat()).for_each(drop),
        }
        for torn_tail in [1, 2] {
            let first = SegmentHeader { torn_tail, ..sized(bytes.len() as u64) };
            check_refused(&format!("round {round}"), send_inline(&mut client, first, &bytes, 9_000).await);
        }
    }
    check_good(&worker, &mut client).await;
    let peak = worker.peak_resident_bytes();
    println!("random bytes: {} MiB", peak >> 20);
    assert!(peak < BUDGET + (96 << 20), "{peak} bytes for segments of 40 kB");
}

#[tokio::test]
async fn segments_made_to_hurt_are_refused_within_bounded_memory() {
    let worker = small_worker();
    let mut client = worker.client().await;
    for case in hostile::cases() {
        let told = (!case.name.starts_with("chronik v2")).then_some(("t", 0));
        let first = inline(case.bytes.len() as u64, told);
        let refusal = check_refused(&case.name, send_inline(&mut client, first, &case.bytes, 9_000).await);
        match &*refusal.reason {
            // From the budget: it is smaller than the most that one batch may be decompressed to.
            "LARGER_THAN_BUDGET" => assert!(case.name.ends_with("opens to far more"), "{}", case.name),
            _ => assert_eq!(refusal.position(), Some(case.position), "{}: {refusal:?}", case.name),
        }
    }
    check_good(&worker, &mut client).await;
    let peak = worker.peak_resident_bytes();
    println!("hostile segments: {} MiB", peak >> 20);
    assert!(peak < RESIDENT_BYTES_MAX, "{peak} bytes");
}

#[tokio::test]
async fn bombs_are_refused_within_bounded_memory() {
    let worker = small_worker();
    let bombs: Vec<_> = hostile::bombs(300 << 20).collect();
    let sends = (0..2).flat_map(|_| &bombs).map(async |(codec, bytes)| {
        let mut client = worker.client().await;
        let first = sized(bytes.len() as u64);
        check_refused(codec, send_inline(&mut client, first, bytes, 1 << 20).await)
    });
    futures::future::join_all(sends).await;
    check_good(&worker, &mut worker.client().await).await;
    let peak = worker.peak_resident_bytes();
    println!("{} bombs: {} MiB", 2 * bombs.len(), peak >> 20);
    assert!(peak < RESIDENT_BYTES_MAX, "{peak} bytes");
}

#[tokio::test]
async fn a_worker_that_runs_out_of_file_descriptors_lives_on() {
    let worker = Worker::start();
    let limit = std::process::Command::new("prlimit")
        .args(["--pid", &worker.pid().to_string(), "--nofile=64:64"])
        .status()
        .expect("prlimit runs");
    assert!(limit.success());
    let connections: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(worker.address())).collect();
    assert!(connections.iter().all(Result::is_ok), "the backlog takes them");
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    drop(connections);
    check_good(&worker, &mut worker.client().await).await;
}
