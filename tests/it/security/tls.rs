//! Certificates: the worker's and its callers'.

use std::fs;
use std::io::Write;
use std::net::TcpStream;

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::ClientTlsConfig;
use wal_indexer::proto::v1::GetStatsRequest;
use wal_indexer::proto::v1::indexer_service_client::IndexerServiceClient;

use super::*;
use crate::authority::replace;
use crate::worker::{chunk, command, file_url, header, inline, send_inline};
use crate::written::fixture;

#[tokio::test]
async fn callers_that_know_its_authority_speak_tls_with_a_worker_and_others_do_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    let worker = secure(&authority.sign("worker"), None, &[]);
    let channel = connect(&worker, trust(&authority)).await.expect("all fits");
    let source = fixture("kafka/none.log");
    let first = inline(source.len() as u64, Some(("orders", 3)));
    let mut client = IndexerServiceClient::new(channel);
    send_inline(&mut client, first, &source, 9_000).await.expect("a receipt");

    for (what, tls, expected) in [
        ("another authority", trust(&other), "certificate"),
        ("another name", trust(&authority).domain_name("else.test"), "certificate"),
    ] {
        let error = connect(&worker, tls).await.expect_err(what);
        assert!(error.contains(expected), "{what}: {error}");
    }
    let plain = worker.client().await.get_stats(GetStatsRequest {}).await;
    plain.expect_err("it speaks TLS only");
}

#[tokio::test]
async fn a_worker_without_tls_gets_no_client_that_wants_it() {
    let (authority, worker) = (Authority::new(), Worker::start());
    connect(&worker, trust(&authority)).await.expect_err("it speaks no TLS");
    assert!(worker.client().await.get_stats(GetStatsRequest {}).await.is_ok());
}

#[tokio::test]
async fn a_workers_certificate_that_has_expired_is_not_taken() {
    let authority = Authority::new();
    let worker = secure(&authority.sign_expired("worker"), None, &[]);
    let error = connect(&worker, trust(&authority)).await.expect_err("it has expired");
    assert!(error.contains("expired"), "{error}");
}

#[tokio::test]
async fn with_mutual_tls_only_those_with_a_certificate_of_the_authority_get_in() {
    let (authority, clients, other) = (Authority::new(), Authority::new(), Authority::new());
    let flags = ["--metrics-listen", "127.0.0.1:0"];
    let worker = secure(&authority.sign("worker"), Some(&clients), &flags);
    let with = |pair: Pair| trust(&authority).identity(pair.identity());
    connect(&worker, with(clients.sign("agent"))).await.expect("it is one of them");
    let refused: [(&str, ClientTlsConfig); 4] = [
        ("none", trust(&authority)),
        ("another authority's", with(other.sign("agent"))),
        ("one of the authority for workers", with(authority.sign("agent"))),
        ("an expired one", with(clients.sign_expired("agent"))),
    ];
    let count = refused.len() as f64;
    for (what, tls) in refused {
        connect(&worker, tls).await.expect_err(what);
    }
    let counted = || worker.scrape().sum("wal_indexer_worker_connections_refused_total", &[("why", "tls")]);
    until("all are counted", async || (counted() >= Some(count)).then_some(())).await;
    connect(&worker, with(clients.sign("agent"))).await.expect("it still gets in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_to_new_connections_and_calls_in_flight_go_on() {
    let (authority, renewed) = (Authority::new(), Authority::new());
    let pair = authority.sign("worker");
    let worker = secure(&pair, None, &["--metrics-listen", "127.0.0.1:0"]);
    let ends = || worker.scrape().sum("wal_indexer_worker_certificate_not_after_seconds", &[]);
    assert_eq!(ends(), Some(64_060_588_800.0), "4000-01-01");

    let source = fixture("kafka/none.log");
    let (messages, sent) = mpsc::unbounded_channel();
    let mut client = IndexerServiceClient::new(connect(&worker, trust(&authority)).await.expect("all fits"));
    messages.send(header(inline(source.len() as u64, Some(("orders", 3))))).expect("it listens");
    let call = tokio::spawn(async move { client.index_segment(UnboundedReceiverStream::new(sent)).await });

    pair.become_like(&renewed.sign_for("worker", &["127.0.0.1"], (2020, 3000)));
    until("the new one is shown", async || connect(&worker, trust(&renewed)).await.ok()).await;
    connect(&worker, trust(&authority)).await.expect_err("the old one is not shown any more");
    assert_eq!(ends(), Some(32_503_680_000.0), "3000-01-01");
    messages.send(chunk(source)).expect("it listens");
    drop(messages);
    call.await.expect("it ends").expect("a receipt");
}

#[tokio::test]
async fn authorities_of_callers_can_be_replaced() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let worker = secure(&authority.sign("worker"), Some(&clients), &[]);
    let with = |pair: Pair| trust(&authority).identity(pair.identity());
    let (first, second) = (clients.sign("agent"), others.sign("agent"));
    connect(&worker, with(first)).await.expect("it is known");
    replace(&clients.file(), &fs::read(others.file()).expect("it is there"));
    let pair = second.identity();
    let tls = || trust(&authority).identity(pair.clone());
    until("the other one's get in", async || connect(&worker, tls()).await.ok()).await;
    connect(&worker, with(clients.sign("agent"))).await.expect_err("it is no longer known");
}

#[tokio::test]
async fn a_pair_that_does_not_fit_leaves_the_one_before_in_use() {
    let authority = Authority::new();
    let (pair, renewed) = (authority.sign("worker"), authority.sign("renewed"));
    let worker = secure(&pair, None, &["--metrics-listen", "127.0.0.1:0"]);
    let what = [("what", "certificate")];
    let failing = || worker.scrape().sum("wal_indexer_worker_reload_failing", &what);
    assert_eq!(failing(), Some(0.0));
    // Half of a renewal: only the certificate.
    replace(&pair.certificate, &fs::read(&renewed.certificate).expect("it is there"));
    until("it says so", async || (failing() == Some(1.0)).then_some(())).await;
    connect(&worker, trust(&authority)).await.expect("with the old one");
    replace(&pair.key, &fs::read(&renewed.key).expect("it is there"));
    until("all is well", async || (failing() == Some(0.0)).then_some(())).await;
    fs::remove_file(&pair.key).expect("it is there");
    until("it says so again", async || (failing() == Some(1.0)).then_some(())).await;
    connect(&worker, trust(&authority)).await.expect("with what it has read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stop_half_way_hold_nobody_up() {
    let authority = Authority::new();
    let worker = secure(&authority.sign("worker"), None, &["--metrics-listen", "127.0.0.1:0"]);
    let stuck: Vec<_> = (0..1_000)
        .map(|number| {
            let mut stream = TcpStream::connect(worker.address()).expect("it listens");
            match number % 3 {
                0 => {}
                // The head of a TLS record with a handshake of 512 bytes.
                1 => stream.write_all(&[0x16, 3, 1, 2, 0]).expect("it takes them"),
                _ => stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).expect("it takes them"),
            }
            stream
        })
        .collect();
    connect(&worker, trust(&authority)).await.expect("there is room for others");
    let counted =
        || worker.scrape().sum("wal_indexer_worker_connections_refused_total", &[("why", "timed_out")]);
    until("all are let go", async || (counted() == Some(stuck.len() as f64)).then_some(())).await;
}

#[tokio::test]
async fn something_else_than_tls_is_let_go_at_once() {
    let authority = Authority::new();
    let worker = secure(&authority.sign("worker"), None, &["--metrics-listen", "127.0.0.1:0"]);
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 4_096]] {
        let mut stream = TcpStream::connect(worker.address()).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("a time");
        stream.write_all(noise).expect("it takes them");
        // The worker sends an alert or nothing, and closes.
        let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
    }
    let counted = || worker.scrape().sum("wal_indexer_worker_connections_refused_total", &[("why", "tls")]);
    until("they are counted", async || (counted() == Some(3.0)).then_some(())).await;
    connect(&worker, trust(&authority)).await.expect("it lives on");
}

#[test]
fn files_that_make_no_tls_are_said_so_at_the_start() {
    let authority = Authority::new();
    let (pair, other) = (authority.sign("worker"), authority.sign("other"));
    let store = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = authority.directory().join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    let certificate = || text(&pair.certificate);
    let key = || text(&pair.key);
    let missing = || text(&authority.directory().join("missing"));
    let nothing = || text(&file("nothing.pem", "nothing of the kind"));
    let cut = fs::read_to_string(&pair.certificate).expect("it is there");
    let cut = || text(&file("cut.pem", &cut[..cut.len() / 2]));
    let broken =
        || text(&file("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    for (flag, flags) in [
        ("--tls-key", vec!["--tls-cert", &certificate()]),
        ("--tls-cert", vec!["--tls-key", &key()]),
        ("--tls-cert", vec!["--tls-client-ca", &text(&authority.file())]),
        ("--tls-cert", vec!["--tls-cert", &missing(), "--tls-key", &key()]),
        ("--tls-cert", vec!["--tls-cert", &nothing(), "--tls-key", &key()]),
        ("--tls-cert", vec!["--tls-cert", &cut(), "--tls-key", &key()]),
        ("--tls-key", vec!["--tls-cert", &certificate(), "--tls-key", &missing()]),
        ("--tls-key", vec!["--tls-cert", &certificate(), "--tls-key", &nothing()]),
        ("--tls-key", vec!["--tls-cert", &certificate(), "--tls-key", &certificate()]),
        ("--tls-key", vec!["--tls-cert", &certificate(), "--tls-key", &text(&other.key)]),
        (
            "--tls-client-ca",
            vec!["--tls-cert", &certificate(), "--tls-key", &key(), "--tls-client-ca", &missing()],
        ),
        (
            "--tls-client-ca",
            vec!["--tls-cert", &certificate(), "--tls-key", &key(), "--tls-client-ca", &nothing()],
        ),
        (
            "--tls-client-ca",
            vec!["--tls-cert", &certificate(), "--tls-key", &key(), "--tls-client-ca", &broken()],
        ),
    ] {
        let store = file_url(store.path());
        let mut serve = command(["serve", "--listen", "127.0.0.1:0", "--store", &store]);
        let output = serve.args(&flags).output().expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(flag), "{flags:?}: {said}");
        assert!(!said.contains("BEGIN") && !said.contains("nothing of the kind"), "{said}");
    }
}
