//! This project's own callers: each command that calls a worker, the agent, and the library.

use std::fs;

use wal_indexer::client::{CertificateFiles, Client, Security, Timeouts};

use super::*;
use crate::authority::replace;
use crate::client::{TestPayload, request, segment};
use crate::sidecar::Wal;
use crate::worker::{command, inline, send_inline};
use crate::written::fixture;

const TOKEN: &str = "not-to-be-seen-0123456789";

/// Starts a worker that requires a client certificate and a token. Returns it with the flags that provide
/// both.
fn scene(authority: &Authority, flags: &[&str]) -> (Worker, Vec<String>) {
    let file = |name: &str, contents: String| {
        let path = authority.directory().join(name);
        fs::write(&path, contents).expect("a file");
        text(&path)
    };
    let tokens = file("tokens", format!("all index,search,stats {TOKEN}\n"));
    let flags: Vec<_> = ["--tokens", &tokens].into_iter().chain(flags.iter().copied()).collect();
    let worker = secure(&authority.sign("worker"), Some(authority), &flags);
    let caller = authority.sign("caller");
    let flags = [
        ("--endpoint", format!("https://{}", worker.address())),
        ("--tls-ca", text(&authority.file())),
        ("--tls-cert", text(&caller.certificate)),
        ("--tls-key", text(&caller.key)),
        ("--token-file", file("token", format!("{TOKEN}\n"))),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    (worker, flags)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verb_that_asks_a_worker_can_show_what_it_asks_for() {
    let authority = Authority::new();
    let (worker, flags) = scene(&authority, &[]);
    let wal = Wal::new();
    wal.add_all("orders", 3, 1..=3);
    let directory = text(wal.path());
    let verbs: [(&str, Vec<&str>, i32); 6] = [
        ("agent", vec!["--wal-dir", &directory, "--once", "--min-segment-age", "0"], 0),
        ("stats", vec![], 0),
        ("health", vec![], 0),
        ("ls", vec![], 0),
        ("search", vec!["--topic", "orders"], 0),
        ("fetch", vec!["--topic", "orders", "--partition", "3"], 0),
    ];
    for (verb, arguments, code) in &verbs {
        let output = command([verb]).args(arguments).args(&flags).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{verb}: {said}");
        assert!(!said.contains(TOKEN), "{verb}: {said}");
    }
    // Without the token, each command reports that, and none hangs.
    let flags = &flags[..flags.len() - 2];
    for (verb, arguments, _) in verbs.iter().skip(1) {
        let output = command([verb]).args(arguments).args(flags).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{verb}: {said}");
        assert!(said.contains("UNAUTHENTICATED"), "{verb}: {said}");
    }
    // Without the certificate, no command can connect.
    for (verb, arguments, _) in verbs.iter().skip(1) {
        let output = command([verb]).args(arguments).args(&flags[..4]).output().expect("it starts");
        assert!(matches!(output.status.code(), Some(1 | 5)), "{verb}: {:?}", output.status);
    }
    drop(worker);
}

#[test]
fn what_cannot_be_used_is_said_so_with_the_flags_name() {
    let authority = Authority::new();
    let caller = authority.sign("caller");
    let (certificate, key, ca) = (text(&caller.certificate), text(&caller.key), text(&authority.file()));
    for (flag, flags) in [
        ("--endpoint", vec!["--endpoint", "nonsense"]),
        ("--endpoint", vec!["--endpoint", "ftp://127.0.0.1:1"]),
        ("--endpoint", vec!["--endpoint", "http://user:not-to-be-seen@127.0.0.1:1"]),
        ("--tls-ca", vec!["--endpoint", "https://127.0.0.1:1", "--tls-ca", "/nowhere"]),
        ("--tls-ca", vec!["--endpoint", "https://127.0.0.1:1", "--tls-ca", &key]),
        ("--tls-key", vec!["--endpoint", "https://127.0.0.1:1", "--tls-cert", &certificate]),
        (
            "--tls-key",
            vec!["--endpoint", "https://127.0.0.1:1", "--tls-cert", &certificate, "--tls-key", &ca],
        ),
        ("--token-file", vec!["--endpoint", "http://127.0.0.1:1", "--token-file", "/nowhere"]),
    ] {
        for verb in [
            &["stats"][..],
            &["health"],
            &["ls"],
            &["search", "--topic", "orders"],
            &["fetch", "--topic", "orders", "--partition", "0"],
        ] {
            let output = command(verb).args(&flags).output().expect("it starts");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{verb:?} {flags:?}: {said}");
            assert!(said.contains(flag) && !said.contains("not-to-be-seen"), "{verb:?} {flags:?}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_shows_its_renewed_certificate_on_the_next_connection() {
    let (authority, renewed) = (Authority::new(), Authority::new());
    let flags = ["--max-connection-age", "0.2", "--metrics-listen", "127.0.0.1:0"];
    let (worker, _) = scene(&authority, &flags);
    let caller = authority.sign("caller");
    let security = Security {
        ca_file: Some(authority.file()),
        certificate: Some(CertificateFiles {
            certificate: caller.certificate.clone(),
            key: caller.key.clone(),
        }),
        token_file: Some(authority.directory().join("token")),
    };
    let endpoint = format!("https://{}", worker.address()).parse().expect("an endpoint");
    let client = Client::start(vec![endpoint], security, Timeouts::default()).await;
    let client = client.expect("settings that work");
    let send = async || client.index(&request(), &TestPayload::new(segment(10))).await;
    send().await.expect("a receipt");

    // From now on, workers accept callers of another authority only, and this client gets a certificate of
    // that one.
    let ca = authority.file();
    let old_ca = fs::read(&ca).expect("it is there");
    caller.become_like(&renewed.sign("caller"));
    let own = authority.directory().join("own-ca.pem");
    fs::write(&own, &old_ca).expect("a file");
    replace(&ca, &[old_ca, fs::read(renewed.file()).expect("it is there")].concat());
    let known = trust(&authority).identity(renewed.sign("another").identity());
    until("the worker knows the other ones", async || connect(&worker, known.clone()).await.ok()).await;
    let opened = || worker.scrape().sum("wal_indexer_worker_connections_total", &[]).unwrap_or_default();
    let before = opened();
    until("new connections", async || {
        send().await.expect("a receipt, each time");
        (opened() > before + 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_over_a_line_that_is_not_encrypted_is_warned_of() {
    let directory = tempfile::tempdir().expect("a directory");
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, format!("all index,search,stats {TOKEN}\n")).expect("a file");
    let warned = async |listen: &str| {
        let worker = Worker::start_with(&["--tokens", &text(&tokens), "--listen", listen]);
        // When it answers, it has logged everything.
        let source = fixture("kafka/none.log");
        let first = inline(source.len() as u64, Some(("orders", 3)));
        let refused = send_inline(&mut worker.client().await, first, &source, 9_000).await;
        assert_eq!(refused.expect_err("no token").code(), tonic::Code::Unauthenticated);
        worker.log().contains("not encrypted")
    };
    assert!(warned("0.0.0.0:0").await);
    assert!(!warned("127.0.0.1:0").await);
}
