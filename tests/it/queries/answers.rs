//! Right answers about values as producers write them, from whole segments, by the RPC and on the command
//! line.

use std::fmt::Write as _;

use wal_indexer::proto::v1;

use super::hostile::segment;
use super::{Answer, Client, ask, send};
use crate::worker::{Worker, command, file_url};

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/answers/{name}.log", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("a fixture")
}

/// Starts a worker that has indexed a segment as partition 0 of `t`.
async fn indexed(bytes: &[u8]) -> (Worker, Client) {
    let worker = Worker::start();
    send(&worker, "", Some(("t", 0)), bytes).await;
    let client = Client::new(worker.channel().await);
    (worker, client)
}

async fn answer(client: &Client, query: &str) -> Answer {
    let filter = v1::RecordFilter { topic: "t".to_owned(), ..v1::RecordFilter::default() };
    let request = v1::SearchRequest {
        filter: Some(filter),
        query: query.to_owned(),
        limit: 10_000,
        order: v1::search_request::Order::OldestFirst.into(),
        ..v1::SearchRequest::default()
    };
    let counted = v1::SearchRequest { count_only: true, ..request.clone() };
    let counted = ask(client.clone(), counted).await.unwrap_or_else(|status| panic!("{query}: {status}"));
    let answer = ask(client.clone(), request).await.unwrap_or_else(|status| panic!("{query}: {status}"));
    assert_eq!(counted.summary.matched, answer.records.len() as u64, "{query}: counted");
    answer
}

async fn check(client: &Client, queries: &[(&str, &[i64])]) {
    for (query, offsets) in queries {
        let answer = answer(client, query).await;
        let found: Vec<i64> = answer.records.iter().map(|record| record.offset).collect();
        assert_eq!(found, *offsets, "{query}");
        assert_eq!(answer.summary.unsure_bundle_keys, [""; 0], "{query}");
    }
}

#[tokio::test]
async fn ranges_of_whole_numbers_are_exact_beside_negative_ones_and_beyond_a_signed_number() {
    let (_worker, client) = indexed(&fixture("big-integers")).await;
    let queries: [(&str, &[i64]); 12] = [
        ("id:>1768907725507217521", &[1, 2]),
        ("id:>=1768907725507217521", &[0, 1, 2]),
        ("id:<1768907725507217522", &[0, 3]),
        ("id:[1768907725507217521 TO 1768907725507217521]", &[0]),
        ("id:{1768907725507217520 TO 1768907725507217522}", &[0]),
        ("id:1768907725507217521", &[0]),
        ("id:>18446744073709551614", &[2]),
        ("id:<18446744073709551615", &[0, 1, 3]),
        ("id:<0", &[3]),
        ("id:>=-1", &[0, 1, 2, 3]),
        ("id:>1.5", &[0, 1, 2]),
        ("-id:>1768907725507217521", &[0, 3]),
    ];
    check(&client, &queries).await;
}

#[tokio::test]
async fn ranges_are_exact_at_every_place_between_all_whole_numbers_and_fractions() {
    // Ascending. A number with two notations has both.
    let numbers: [&[&str]; 17] = [
        &["-1e300"],
        &["-9223372036854775808"],
        &["-9223372036854775807"],
        &["-9007199254740993"],
        &["-9007199254740992"],
        &["-1", "-1.0"],
        &["-0.5"],
        &["0", "0.0"],
        &["0.5", "5e-1"],
        &["9007199254740992"],
        &["9007199254740993"],
        &["9223372036854775806"],
        &["9223372036854775807"],
        &["9223372036854775808"],
        &["18446744073709551614"],
        &["18446744073709551615"],
        &["1e300"],
    ];
    let values = numbers.iter().enumerate().map(|(nth, forms)| {
        let form = forms[nth % forms.len()];
        // Also at a path that the index does not keep by itself.
        if nth % 2 == 0 { format!(r#"{{"n": {form}}}"#) } else { format!(r#"{{"n": "{form}"}}"#) }
    });
    let (_worker, client) = indexed(&segment(&values.collect::<Vec<_>>())).await;
    let offsets = |range: std::ops::Range<usize>| range.map(|at| at as i64).collect::<Vec<_>>();
    for (nth, forms) in numbers.iter().enumerate() {
        for form in *forms {
            for (query, expected) in [
                (format!("n:>{form}"), offsets(nth + 1..numbers.len())),
                (format!("n:>={form}"), offsets(nth..numbers.len())),
                (format!("n:<{form}"), offsets(0..nth)),
                (format!("n:<={form}"), offsets(0..nth + 1)),
                (format!("n:[{form} TO {form}]"), offsets(nth..nth + 1)),
            ] {
                check(&client, &[(query.as_str(), expected.as_slice())]).await;
            }
        }
    }
}

#[tokio::test]
async fn numbers_written_as_strings_are_found_by_value_and_by_range() {
    let values = [
        r#"{"status": "500", "ok": true}"#,
        r#"{"status": 500, "ok": "True"}"#,
        r#"{"status": "503.5", "ok": false}"#,
        r#"{"status": "5e2"}"#,
        r#"{"status": "-7"}"#,
        r#"{"status": "HTTP 500"}"#,
        r#"{"status": "9007199254740993"}"#,
    ];
    let (_worker, client) = indexed(&segment(&values)).await;
    let queries: [(&str, &[i64]); 9] = [
        ("status:>=500", &[0, 1, 2, 3, 6]),
        ("status:500", &[0, 1, 3, 5]),
        ("status:500.0", &[0, 1, 3]),
        ("status:[500 TO 504]", &[0, 1, 2, 3]),
        ("status:<0", &[4]),
        ("status:>9007199254740992", &[6]),
        ("ok:TRUE", &[0, 1]),
        ("ok:True", &[0, 1]),
        ("ok:FAL*", &[2]),
    ];
    check(&client, &queries).await;
}

#[tokio::test]
async fn what_json_does_not_allow_costs_no_more_than_its_leaf() {
    let (_worker, client) = indexed(&fixture("json-as-it-comes")).await;
    let queries: [(&str, &[i64]); 9] = [
        ("level:error", &[19]),
        ("neg:<0", &[19]),
        ("top:array", &[4]),
        ("line:one", &[13]),
        ("line:two", &[13]),
        ("bom:yes", &[14]),
        ("red", &[16]),
        ("plain", &[17]),
        ("id:9007199254740993", &[0, 1]),
    ];
    check(&client, &queries).await;
    let mut values: Vec<Vec<u8>> = [
        r#"{"level": "ERROR", "n": NaN}"#,
        r#"{"n": -Infinity, "level": "ERROR"}"#,
        r#"{"text": "\ud83d", "level": "ERROR"}"#,
        r#"{"text": "cut \udd80 off", "level": "ERROR"}"#,
        r#"{"\ud800": 1, "level": "ERROR"}"#,
        r#"{"a": 1e400, "b": [1e400, -1e999], "level": "ERROR"}"#,
        r#"{"a": 01, "level": "ERROR"}"#,
        r#"{"level": "ERROR", "level": "WARN", "a": 1, "a": "x"}"#,
        "{\"a\": \"one\ttwo\nthree\", \"level\": \"ERROR\"}",
        "\u{feff}{\"level\": \"ERROR\"}\n\u{feff}{\"level\": \"WARN\"}",
        "[{\"level\": \"INFO\"}, {\"level\": \"ERROR\"}]",
        "{\"level\": \"INFO\"}{\"level\": \"ERROR\"}",
        "{\"level\": \"ERROR\", \"message\": \"cut o",
        "{\"level\": \"ERROR\"} and more",
    ]
    .into_iter()
    .map(|value| value.as_bytes().to_vec())
    .collect();
    values.push(format!(r#"{{"{}": 1, "level": "ERROR"}}"#, "k".repeat(5_000)).into_bytes());
    values.push(
        format!(r#"{{"deep": {}1{}, "level": "ERROR"}}"#, "[".repeat(500), "]".repeat(500)).into_bytes(),
    );
    values.push(b"{\"name\": \"caf\xe9 noir\", \"level\": \"ERROR\"}".to_vec());
    values.push(b"{\"name\": \"\xed\xa0\xbd\", \"level\": \"ERROR\"}".to_vec());
    values.push(b"{\"name\": \"\xf0\x9f\xa6\", \"level\": \"ERROR\"}{\"level\": \"\xff\"}".to_vec());
    let all: Vec<i64> = (0..values.len() as i64).collect();
    let (_worker, client) = indexed(&segment(&values)).await;
    check(&client, &[("level:error", &all), ("-level:error", &[]), ("name:noir", &[16]), ("a:two", &[8])])
        .await;
}

#[tokio::test]
async fn a_path_beyond_the_thousandth_is_found_as_the_others_are() {
    let (_worker, client) = indexed(&fixture("late-path")).await;
    let found: &[i64] = &[1200];
    let all_others: Vec<i64> = (0..1200).collect();
    for query in [
        "error.code:503",
        "error.code:>=500",
        "error.code:[503 TO 503]",
        "error.reason:gone",
        "error.reason:up*",
        "error.reason:\"upstream gone\"",
        "error:*",
        "error.code:*",
        "error.code:(>500 <504)",
        "level:error error.code:503",
    ] {
        check(&client, &[(query, found)]).await;
    }
    for query in [
        "error.code:504",
        "error.code:>503",
        "error.code:<503",
        "error.reason:upstrea",
        "code:503",
        "rror.code:503",
    ] {
        check(&client, &[(query, &[])]).await;
    }
    check(&client, &[("-error.code:503", &all_others)]).await;
}

#[tokio::test]
async fn a_map_whose_keys_are_data_hides_no_other_field() {
    // More keys than an index keeps paths, and more than it keeps in one place for a value.
    let mut values: Vec<String> = (0..40)
        .map(|n| {
            let users = (0..1_000).fold(String::new(), |mut users, user| {
                let _ = write!(users, "\"u{n}x{user}\": {{\"seen\": {user}}}, ");
                users
            });
            format!(r#"{{"users": {{{users} "last": 1}}}}"#)
        })
        .collect();
    values.push(
        r#"{"at": "2024-05-01T12:00:00Z", "ok": true, "id": 1768907725507217521, "f": -0.5, "s": "77", "tags": ["eu", "vip"]}"#
            .to_owned(),
    );
    let (_worker, client) = indexed(&segment(&values)).await;
    let late: &[i64] = &[40];
    let queries: [(&str, &[i64]); 14] = [
        ("at:2024-05-01T12:00:00Z", late),
        ("at:2024-05-01T14:00:00+02:00", late),
        ("at:[2024-05-01 TO 2024-05-02}", late),
        ("at:[2024-05-02 TO *]", &[]),
        ("ok:true", late),
        ("ok:false", &[]),
        ("id:>1768907725507217520", late),
        ("id:>1768907725507217521", &[]),
        ("f:<0", late),
        ("s:>=77", late),
        ("tags:vip", late),
        ("users.u39x999.seen:999", &[39]),
        ("users.u39x999.seen:>998", &[39]),
        ("users.u38x5:*", &[38]),
    ];
    check(&client, &queries).await;
}

#[tokio::test]
async fn escape_sequences_of_terminals_separate_words() {
    let (worker, client) = indexed(&fixture("ansi")).await;
    check(
        &client,
        &[
            ("ERROR", &[0, 1, 2]),
            ("level:error", &[1]),
            ("31mERROR", &[]),
            ("err*", &[0, 1, 2]),
            ("disk", &[0]),
        ],
    )
    .await;
    let url = file_url(&worker.store());
    let found =
        command(["search", "--topic", "t", "--store", &url, "--count", "ERROR"]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), "3");
    let values = [
        "\u{1b}[1;38;5;208mWARN\u{1b}[m slow",
        r#"{"m": "\u001B[38:2::255:0:0mWARN\u001b[K"}"#,
        "\u{1b}]8;;https://x.example\u{7}WARN\u{1b}]8;;\u{7}",
        "\u{1b}(BWARN\u{1b}c",
        r"a \x1b[31mWARN\x1b[0m escaped twice",
        r#"{"m": "\\u001b[31mWARN\\u001b[0m"}"#,
        "broken {\"m\": \"\\u001b[31mWARN\\u001b[0m\"",
    ];
    let (_worker, client) = indexed(&segment(&values)).await;
    check(&client, &[("WARN", &[0, 1, 2, 3, 4, 5, 6]), ("m:warn", &[1, 5])]).await;
}

#[tokio::test]
async fn operators_that_mean_nothing_are_refused_by_name() {
    let (worker, client) = indexed(&segment(&[r#"{"level": "error"}"#])).await;
    for (query, instead) in [
        ("level:!error", "-error"),
        ("level!=error", "-level:error"),
        ("level=error", "level:error"),
        ("level==error", "level:error"),
        ("level:~error", "name:error"),
        ("erro?", "erro*"),
        ("/err.*/", "err*"),
        ("_exists_:level", "level:*"),
        ("status>=500", "status:>=500"),
    ] {
        let filter = v1::RecordFilter { topic: "t".to_owned(), ..v1::RecordFilter::default() };
        let request = v1::SearchRequest {
            filter: Some(filter),
            query: query.to_owned(),
            ..v1::SearchRequest::default()
        };
        let status = ask(client.clone(), request).await.err().expect("it is refused");
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{query}");
        assert!(status.message().contains(&format!("write {instead}")), "{query}: {}", status.message());
        let url = file_url(&worker.store());
        let ran = command(["search", "--topic", "t", "--store", &url, query]).output().expect("it runs");
        assert_eq!(ran.status.code(), Some(2), "{query}");
        assert!(String::from_utf8_lossy(&ran.stderr).contains(&format!("write {instead}")), "{query}");
    }
}

/// Returns what `search` prints on the command line, or its exit code and errors.
fn searched(worker: &Worker, arguments: &[&str]) -> Result<String, (i32, String)> {
    let url = file_url(&worker.store());
    let ran = command([&["search", "--topic", "t", "--store", &url], arguments].concat())
        .output()
        .expect("it runs");
    match ran.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        code => Err((code.unwrap_or(-1), String::from_utf8_lossy(&ran.stderr).into_owned())),
    }
}

#[tokio::test]
async fn a_time_before_1970_is_counted_and_drawn_with_the_others() {
    let (worker, client) = indexed(&fixture("negative-time-one")).await;
    assert_eq!(answer(&client, "timestamp:<0").await.records.len(), 1);
    assert_eq!(answer(&client, "timestamp:*").await.records.len(), 100);
    let lines = searched(&worker, &["--histogram"]).expect("a histogram");
    let counts =
        lines.lines().map(|line| line.rsplit_once(' ').expect("a count").1.parse::<u64>().expect("a number"));
    assert_eq!(counts.sum::<u64>(), 100, "{lines}");
    assert!(lines.starts_with("19"), "{lines}");
}

#[tokio::test]
async fn lines_have_all_that_sorts_them_and_times_that_end_before_they_begin_are_refused() {
    let (worker, _client) = indexed(&segment(&["a", "b"])).await;
    let lines = searched(&worker, &["--json", "--oldest-first"]).expect("records");
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["offset"], &first["partition"]), (&"0".into(), &0.into()), "{first}");
    let lines = searched(&worker, &["--oldest-first"]).expect("records");
    assert!(
        lines.starts_with("2025-10-09T08:53:20.000Z t/0@0 a\n2025-10-09T08:53:20.001Z t/0@1 b\n"),
        "{lines}"
    );
    let (code, error) =
        searched(&worker, &["--since=2025-10-10", "--until=2025-10-09"]).expect_err("no range");
    assert!(code == 2 && error.contains("--since is after --until"), "{code}: {error}");
}

#[tokio::test]
async fn a_time_of_ten_digits_is_in_seconds() {
    let (worker, _client) = indexed(&segment(&["a", "b"])).await;
    let url = file_url(&worker.store());
    let count = |since: &str| {
        let since = format!("--since={since}");
        let ran = command(["search", "--topic", "t", "--store", &url, "--count", &since])
            .output()
            .expect("it runs");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    };
    assert_eq!([count("1760000000"), count("1760000001"), count("1760000000001")], ["2", "0", "1"]);
}
