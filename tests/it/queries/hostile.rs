//! Queries that are made to do harm. Each one ends with an answer, or with an error that names the cause, and
//! the worker continues.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;
use wal_indexer::internals::index::query::{QUERY_BYTES_MAX, QUERY_CLAUSES_MAX, QUERY_DEPTH_MAX};
use wal_indexer::proto::v1;

use super::{Client, ask, send};
use crate::worker::{Refusal, Worker};

const RECORDS: usize = 20_000;
const PATHS: usize = 900;

/// Far more than any of them needs.
const ENDS_WITHIN: Duration = Duration::from_secs(300);

/// Returns values as Chronik V1 records, which have the simplest frame.
pub fn segment<T: AsRef<[u8]>>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (offset, value) in values.iter().map(AsRef::as_ref).enumerate() {
        let (key_len, value_len, headers) = (-1_i32, value.len() as i32, 0_i32);
        let body = [&key_len.to_le_bytes()[..], &value_len.to_le_bytes(), value, &headers.to_le_bytes()];
        let body = body.concat();
        let head = [&[0x7e, 0xca, 1, 0][..], &(28 + body.len() as u32).to_le_bytes()].concat();
        let place =
            [(offset as i64).to_le_bytes(), (1_760_000_000_000 + offset as i64).to_le_bytes()].concat();
        let crc = crc32fast::hash(&[&head[..], &place, &body].concat());
        [&head[..], &place, &crc.to_le_bytes(), &body].iter().for_each(|part| bytes.extend_from_slice(part));
    }
    bytes
}

/// Returns many different words, most of which occur once, and many paths.
fn values() -> Vec<String> {
    let words = |n: usize| {
        (0..5).map(|m| format!("w{:x}", (n * 5 + m) * 2_654_435_761 % 0xffff_ffff)).collect::<Vec<_>>()
    };
    let lines = (0..RECORDS).map(|n| match n % 2 {
        0 => words(n).join(" "),
        _ => format!(r#"{{"id": "{}", "p{}": "w{n} common", "n": {n}}}"#, words(n).join(" "), n % PATHS),
    });
    lines.collect()
}

fn many(clause: &str, joined: &str) -> String {
    vec![clause; QUERY_CLAUSES_MAX].join(joined)
}

fn nested(open: &str, depth: usize, close: &str) -> String {
    format!("{}w1{}", open.repeat(depth), close.repeat(depth))
}

fn hostile() -> Vec<String> {
    let full = |text: &str| text.repeat(QUERY_BYTES_MAX / text.len());
    let mut queries = [
        "a", "!", "*", "\\", "\"", "(", ")", "-", "a ", "* ", "a* ", "NOT ", "n:", "\u{0}", "🦀", "ß",
        "\u{202e}", "w ", "[", "a:(", "-(",
    ]
    .map(full)
    .to_vec();
    queries.extend([
        "a".repeat(QUERY_BYTES_MAX + 1),
        "a".repeat(3 << 20),
        format!("n:{}", "9".repeat(60_000)),
        format!("n:>{}", "9".repeat(60_000)),
        format!("n:[{0} TO {0}]", "1".repeat(30_000)),
        format!("{}:x", "k".repeat(60_000)),
        format!("header.{}:*", "k.".repeat(30_000)),
        format!("{}:*", "k.".repeat(30_000)),
        format!("key:{}*", "k".repeat(60_000)),
        format!("\"{}\"", "w ".repeat(30_000)),
        format!("\"{}\"*", "w1 ".repeat(20_000)),
        format!("w{}", "-w".repeat(30_000)),
        nested("(", QUERY_DEPTH_MAX, ")"),
        nested("(", QUERY_DEPTH_MAX + 1, ")"),
        nested("(", 30_000, ")"),
        nested("NOT ", QUERY_DEPTH_MAX, ""),
        nested("-", QUERY_DEPTH_MAX, ""),
        nested("-(w* OR ", QUERY_DEPTH_MAX / 2, ")"),
        nested("id:(w* ", QUERY_DEPTH_MAX, ")"),
    ]);
    for clause in [
        "w1",
        "w*",
        "id:w*",
        "id:*",
        "\"w1 w2\"",
        "\"w1 w2\"*",
        "n:>5",
        "n:[* TO *]",
        "timestamp:*",
        "key:*",
        "-w*",
        "NOT n:>5",
        "nowhere:*",
        "common",
    ] {
        queries.extend([many(clause, " "), many(clause, " OR ")]);
    }
    queries
}

#[tokio::test]
async fn whatever_is_asked_ends_and_the_worker_goes_on() {
    let worker = Worker::start();
    send(&worker, "", Some(("t", 0)), &segment(&values())).await;
    let client = Client::new(worker.channel().await);
    let request = |query: &str| v1::SearchRequest {
        filter: Some(v1::RecordFilter { topic: "t".to_owned(), ..Default::default() }),
        query: query.to_owned(),
        ..Default::default()
    };
    let (mut answered, mut refused) = (0, 0);
    for query in hostile() {
        let shown: String = query.chars().take(40).collect();
        let told = format!("{shown:?}… of {} bytes", query.len());
        let ended = timeout(ENDS_WITHIN, ask(client.clone(), request(&query))).await;
        match ended.unwrap_or_else(|_| panic!("{told} has no end")) {
            Ok(_) => answered += 1,
            Err(status) => {
                let codes = [Code::InvalidArgument, Code::ResourceExhausted, Code::DeadlineExceeded];
                assert!(codes.contains(&status.code()), "{told}: {status:?}");
                assert!(status.message().len() < 1_000, "{told}: {} bytes", status.message().len());
                let refusal = Refusal::of(&status);
                if refusal.reason == "QUERY" {
                    assert!(refusal.position().is_some(), "{told}: {refusal:?}");
                }
                refused += 1;
            }
        }
    }
    assert!(answered >= 20 && refused >= 20, "{answered} answered, {refused} refused");
    // One prefix over all these words is allowed, and misses none.
    let all = ask(client, v1::SearchRequest { count_only: true, ..request("w*") }).await.expect("an answer");
    assert_eq!(all.summary.matched, RECORDS as u64);
}
