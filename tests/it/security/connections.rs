//! Connections at a low level: those that stop anywhere, that never end, that are many, and that send frames
//! without content.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wal_indexer::proto::v1::GetStatsRequest;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

async fn say(worker: &Worker, words: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(worker.address()).await.expect("it listens");
    stream.write_all(words).await.expect("it takes them");
    stream
}

/// Reads until the worker closes the connection. Returns how long that took.
async fn closed(stream: &mut (impl AsyncReadExt + Unpin), limit: Duration) -> Duration {
    let began = Instant::now();
    let reading = async {
        let mut buffer = [0; 4096];
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    };
    tokio::time::timeout(limit, reading).await.expect("the worker closes it");
    began.elapsed()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_stops_inside_the_first_words_of_http2_is_closed_like_a_silent_one() {
    let worker = Worker::start();
    let whole = [PREFACE, SETTINGS].concat();
    let stops = [1, 23, 24, 25, 32].map(|end| whole[..end].to_vec());
    let half_of_settings = [PREFACE, &[0, 0, 12], &SETTINGS[3..], &[0; 7]].concat();
    let waits = stops.into_iter().chain([half_of_settings]).map(async |words| {
        let mut stream = say(&worker, &words).await;
        (words.len(), closed(&mut stream, Duration::from_secs(13)).await)
    });
    for (bytes, waited) in futures::future::join_all(waits).await {
        assert!(waited > Duration::from_secs(8), "{bytes} bytes: {waited:?}");
    }
    worker.client().await.get_stats(GetStatsRequest {}).await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_stops_after_the_tls_handshake_is_closed_like_a_silent_one() {
    let authority = Authority::new();
    let worker = secure(&authority.sign("worker"), None, &[]);
    let mut roots = tokio_rustls::rustls::RootCertStore::empty();
    let file = std::fs::read(authority.file()).expect("a file");
    let certificates = CertificateDer::pem_slice_iter(&file);
    certificates.for_each(|one| roots.add(one.expect("PEM")).expect("an authority"));
    let config = tokio_rustls::rustls::ClientConfig::builder().with_root_certificates(roots);
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config.with_no_client_auth()));
    let waits = [0, 1, 23].map(async |bytes| {
        let stream = TcpStream::connect(worker.address()).await.expect("it listens");
        let name = "localhost".try_into().expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("TLS");
        stream.write_all(&PREFACE[..bytes]).await.expect("it takes them");
        stream.flush().await.expect("it takes them");
        closed(&mut stream, Duration::from_secs(13)).await
    });
    let waited = futures::future::join_all(waits).await;
    assert!(waited.iter().all(|waited| *waited > Duration::from_secs(8)), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_without_work_holds_up_a_drain() {
    let mut worker = Worker::start_with(&["--drain-timeout", "50"]);
    let whole = [PREFACE, SETTINGS].concat();
    let mut open = Vec::new();
    for end in [0, 1, 23, 24, 33] {
        open.push(say(&worker, &whole[..end]).await);
    }
    let mut health = HealthClient::new(worker.channel().await);
    let mut watched = health.watch(HealthCheckRequest::default()).await.expect("an answer").into_inner();
    watched.message().await.expect("an answer").expect("a state");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    worker.signal("TERM");
    assert_eq!(worker.ended().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_without_work_outlives_its_age() {
    let worker = Worker::start_with(&["--max-connection-age", "1"]);
    let mut silent = say(&worker, &[PREFACE, SETTINGS].concat()).await;
    let mut pinging = say(&worker, &[PREFACE, SETTINGS].concat()).await;
    let pings = async {
        let mut buffer = [0; 4096];
        for _ in 0..200 {
            let sent = pinging.write_all(&frame(6, 0, 0, &[7; 8])).await;
            let read = pinging.try_read(&mut buffer);
            if sent.is_err() || !matches!(&read, Ok(1..)) && read.is_ok() {
                return;
            }
            if matches!(&read, Err(error) if error.kind() != ErrorKind::WouldBlock) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it is never closed");
    };
    let limit = Duration::from_secs(20);
    let (_, pinged) = tokio::join!(closed(&mut silent, limit), tokio::time::timeout(limit, pings));
    pinged.expect("in time");
    worker.client().await.get_stats(GetStatsRequest {}).await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_connections_of_six_hosts_leave_room_for_honest_callers() {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -n 512 && exec "$0" "$@""#]);
    let worker = Worker::start_by(shell, &["--metrics-listen", "127.0.0.1:0"]);
    let mut honest = worker.client_from("127.0.0.9").await;
    honest.get_stats(GetStatsRequest {}).await.expect("an answer");
    let address: SocketAddr = worker.address().parse().expect("an address");
    let mut crowd = Vec::new();
    for number in 0..1_000_u32 {
        let socket = TcpSocket::new_v4().expect("a socket");
        let host = SocketAddr::from(([127, 0, 0, 2 + (number % 6) as u8], 0));
        socket.bind(host).expect("an address of this host");
        let mut stream = socket.connect(address).await.expect("it listens");
        // A connection that is already closed accepts no more.
        let words = if number % 2 == 0 { [PREFACE, SETTINGS].concat() } else { Vec::new() };
        let _ = stream.write_all(&words).await;
        crowd.push(stream);
    }
    let limit = Duration::from_secs(5);
    for host in ["127.0.0.20", "127.0.0.2", "127.0.0.21"] {
        let asked = async {
            worker.client_from(host).await.get_stats(GetStatsRequest {}).await.expect("an answer");
        };
        tokio::time::timeout(limit, asked).await.expect("a newcomer gets in");
    }
    let asked = tokio::time::timeout(limit, honest.get_stats(GetStatsRequest {})).await;
    asked.expect("in time").expect("who has few connections keeps them");
    let evicted = evicted(&worker);
    assert!(evicted > 500.0, "{evicted}");
}

/// Returns how many connections a new one has taken the place of. Of what was closed, all was counted as open.
pub fn evicted(worker: &Worker) -> f64 {
    let scraped = worker.scrape();
    let count = |name: &str, labels: &[(&str, &str)]| {
        scraped.sum(&format!("wal_indexer_worker_{name}_total"), labels).expect("it is measured")
    };
    let (opened, closed) = (count("connections", &[]), count("connections_closed", &[]));
    assert!(closed <= opened, "{closed} of {opened} were closed");
    let evicted = [("why", "evicted")];
    count("connections_refused", &evicted) + count("connections_closed", &evicted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_frames_that_carry_nothing_ends_its_connection() {
    let worker = Worker::start();
    let mut honest = worker.client().await;
    let kinds = [
        ("PING", frame(6, 0, 0, &[1; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 0, 16])),
        ("unknown", frame(0x42, 0, 0, &[9; 5])),
    ];
    for (name, one) in kinds {
        let stream = say(&worker, &[PREFACE, SETTINGS].concat()).await;
        let (mut reads, mut writes) = stream.into_split();
        let reading = tokio::spawn(async move { closed(&mut reads, Duration::from_secs(20)).await });
        let many = one.repeat(1_000);
        let mut sent = 0;
        while sent < 200_000 && !reading.is_finished() && writes.write_all(&many).await.is_ok() {
            sent += 1_000;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(sent < 200_000, "{name}: {sent} frames were taken");
        reading.await.expect("it was closed");
    }
    honest.get_stats(GetStatsRequest {}).await.expect("others are served");
}
