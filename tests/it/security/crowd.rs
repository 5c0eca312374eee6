//! A host that opens as many connections as it can.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

use wal_indexer::proto::v1::GetStatsRequest;

use super::*;

/// HTTP/2's preface and empty settings: more than the first bytes, and less than a call.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn crowd(address: &str, count: usize, word: &[u8]) -> Vec<TcpStream> {
    let one = |_| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        // A connection that was refused accepts no more.
        let _ = stream.write_all(word);
        stream
    };
    (0..count).map(one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_with_many_connections_leaves_files_to_others() {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -n 256 && exec "$0" "$@""#]);
    let worker = Worker::start_by(shell, &["--metrics-listen", "127.0.0.1:0"]);
    let idle = crowd(worker.address(), 300, PREFACE);
    let silent = crowd(worker.measured(), 300, b"");
    let mut other = worker.client_from("127.0.0.2").await;
    other.get_stats(GetStatsRequest {}).await.expect("there is room for others");

    drop(silent);
    let evicted = connections::evicted(&worker);
    assert_eq!(evicted, 300.0 - 64.0, "a fourth of the files is a host's, and the latest have it");
    drop(idle);
    until("the first host gets in again", async || {
        worker.client_from("127.0.0.1").await.get_stats(GetStatsRequest {}).await.ok()
    })
    .await;
}
