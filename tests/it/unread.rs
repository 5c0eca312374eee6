//! Signals that do not mean stop, log lines that nobody reads, and a full disk behind the output.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wal_indexer::proto::v1::indexer_service_client::IndexerServiceClient;
use wal_indexer::proto::v1::{GetStatsRequest, HealthRequest};

use crate::metrics::Scrape;
use crate::sidecar::Wal;
use crate::worker::{Worker, command, file_url, inline, send_inline};
use crate::written::fixture;

const SOON: Duration = Duration::from_secs(30);

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// Waits until a process ends, which must be soon. Returns its exit code, unless a signal ended it.
fn ended(process: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + SOON;
    loop {
        match process.try_wait().expect("it is ours") {
            Some(status) => return status.code(),
            None if Instant::now() > deadline => {
                process.kill().expect("it is ours");
                panic!("it goes on");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_works_on_after_signals_that_do_not_stop_it_and_sigquit_drains_it() {
    let mut worker = Worker::start();
    for name in ["HUP", "USR1", "USR2", "ALRM"] {
        worker.signal(name);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let source = fixture("kafka/none.log");
    let header = inline(source.len() as u64, Some(("orders", 3)));
    send_inline(&mut worker.client().await, header, &source, 9_000).await.expect("a receipt");
    worker.signal("QUIT");
    assert_eq!(worker.ended().code(), Some(0));
    assert!(worker.log().contains("draining"), "{}", worker.log());
}

#[test]
fn an_agent_works_on_after_signals_that_do_not_stop_it_and_sigquit_stops_it() {
    let wal = Wal::new();
    let mut agent = command(["agent", "--endpoint", "http://127.0.0.1:1", "--log", "info", "--wal-dir"])
        .arg(wal.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(agent.stderr.take().expect("it is piped")).lines();
    // Before it logs this, it has installed its signal handlers.
    assert!(lines.any(|line| line.expect("a line").contains("looking after")));
    for name in ["HUP", "USR1", "USR2", "ALRM"] {
        signal(&agent, name);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(agent.try_wait().expect("it is ours").is_none());
    signal(&agent, "QUIT");
    drop(lines);
    assert_eq!(ended(&mut agent), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_has_tokens_looked_at_at_once() {
    let directory = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "one stats first-token-0123456789\n").expect("a file");
    let worker = Worker::start_with(&["--tokens", tokens.to_str().expect("UTF-8")]);
    let mut client = worker.client().await;
    let mut knows = async |token: &str| {
        let mut request = tonic::Request::new(GetStatsRequest {});
        let bearer = format!("Bearer {token}").parse().expect("a header");
        request.metadata_mut().insert("authorization", bearer);
        client.get_stats(request).await.is_ok()
    };
    assert!(knows("first-token-0123456789").await);
    let mut fastest = SOON;
    // Three times, because the worker may look at the file by itself just then.
    for number in 0..3 {
        let token = format!("token-{number}-0123456789");
        std::fs::write(&tokens, format!("one stats {token}\n")).expect("a file");
        worker.signal("HUP");
        let began = Instant::now();
        while !knows(&token).await {
            assert!(began.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fastest = fastest.min(began.elapsed());
    }
    assert!(fastest < Duration::from_secs(2), "{fastest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_that_nobody_reads_are_dropped_and_counted_and_hold_up_nothing() {
    let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    let mut worker = command(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
        .args(["--log", "trace", "--store", &file_url(&root.path().join("store"))])
        .stdout(Stdio::piped())
        // Nobody reads it, and nobody closes it.
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(worker.stdout.take().expect("it is piped")).lines();
    let mut told = |what: &str| {
        let line = lines.next().expect("a line").expect("a line");
        line.strip_prefix(what).expect("an address").to_owned()
    };
    let (address, metrics) = (told("listening on "), told("metrics on "));
    let source = fixture("kafka/none.log");
    let mut client = IndexerServiceClient::connect(format!("http://{address}")).await.expect("it listens");
    let dropped = || Scrape::of(&metrics).sum("wal_indexer_log_lines_dropped_total", &[]);
    let deadline = Instant::now() + SOON;
    while dropped().unwrap_or_default() == 0.0 {
        assert!(Instant::now() < deadline, "{:?} lines were dropped", dropped());
        for _ in 0..20 {
            let header = inline(source.len() as u64, Some(("orders", 3)));
            let sent = send_inline(&mut client, header, &source, 500);
            tokio::time::timeout(SOON, sent).await.expect("in time").expect("a receipt");
        }
    }
    let asked = async {
        client.get_stats(GetStatsRequest {}).await.expect("an answer");
        client.health(HealthRequest {}).await.expect("an answer")
    };
    tokio::time::timeout(SOON, asked).await.expect("in time");
    drop(client);
    signal(&worker, "TERM");
    assert_eq!(ended(&mut worker), Some(0));
}

#[test]
fn a_full_disk_under_what_is_printed_is_exit_code_1() {
    let root = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    let (store, log) = (file_url(&root.path().join("store")), root.path().join("log"));
    std::fs::write(&log, fixture("kafka/none.log")).expect("a file");
    let log = log.to_str().expect("UTF-8");
    let full = || -> File { OpenOptions::new().write(true).open("/dev/full").expect("Linux has it") };
    let verbs: [&[&str]; 14] = [
        &["index", log, "--topic", "orders", "--partition", "3", "--store", &store],
        &["ls", "--store", &store],
        &["ls", "--topic", "none", "--store", &store],
        &["search", "*", "--topic", "orders", "--store", &store],
        &["search", "*", "--topic", "none", "--store", &store],
        &["fetch", "--topic", "orders", "--partition", "3", "--store", &store],
        &["verify", "--all", "--store", &store],
        &["inspect", log],
        &["expire", "--topic", "orders", "--before", "1d", "--store", &store],
        &["sweep", "--store", &store],
        &["generate", "--records", "10", "--out", "-"],
        &["serve", "--listen", "127.0.0.1:0", "--store", &store],
        &["--help"],
        &["--version"],
    ];
    for verb in verbs {
        let mut process = command(verb).stdout(full()).stderr(full()).spawn().expect("it starts");
        assert_eq!(ended(&mut process), Some(1), "{verb:?}");
    }
    let wal = Wal::new();
    wal.add_all("orders", 3, 1..=2);
    let worker = Worker::start();
    let mut agent = command(["agent", "--once", "--progress", "always", "--min-segment-age", "0"])
        .args(["--endpoint", &worker.endpoint(), "--wal-dir", wal.path().to_str().expect("UTF-8")])
        .stdout(full())
        .stderr(full())
        .spawn()
        .expect("it starts");
    assert_eq!(ended(&mut agent), Some(1));
    // Other failures have their exit code, even if their message cannot be printed.
    for (verb, code) in [(&["ls", "--store", "file:///no/such/directory"][..], 4), (&["no-such-verb"], 2)] {
        let mut process = command(verb).stdout(full()).stderr(full()).spawn().expect("it starts");
        assert_eq!(ended(&mut process), Some(code), "{verb:?}");
    }
}
