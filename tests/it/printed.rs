//! Output of `search` and `fetch`: JSON that a program can use directly, written in blocks, and without
//! escape sequences when they are not wanted.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::prelude::*;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::queries::hostile::segment;
use crate::reading::{BASE_MS, lines};
use crate::worker::{command, program};
use crate::written::{Written, fixture};

const SEARCH: [&str; 6] = ["search", "--topic", "orders", "--oldest-first", "--limit", "10000"];

const FETCH: [&str; 7] = ["fetch", "--topic", "orders", "--partition", "3", "--max-records", "10000"];

/// Returns the records of `orders`/3 from each command that prints them, as lines of JSON.
fn printed(written: &Written, flags: &[&str]) -> [Vec<Value>; 2] {
    let search = written.run(&[&SEARCH[..], &["--json"], flags].concat()).json();
    let mut fetch = written.run(&[&FETCH[..], &["--json"], flags].concat()).json();
    let last = fetch.pop().expect("the rest of the answer");
    assert!(last["nextOffset"].is_string(), "{last}");
    [search, fetch]
}

/// Returns a field of a record, decoded from its line.
fn stored(line: &Value, name: &str) -> Option<Vec<u8>> {
    match (&line[name], &line[format!("{name}Base64")]) {
        (Value::String(text), Value::Null) => Some(text.clone().into_bytes()),
        (Value::Null, Value::String(text)) => Some(BASE64_STANDARD.decode(text).expect("base64")),
        (Value::Null, Value::Null) => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_json_or_text_where_they_are_and_base64_where_they_are_not() {
    let values: [(&[u8], Value); 10] = [
        (b"plain text", json!({"value": "plain text"})),
        (b"{\"level\": \"ERROR\",\n \"n\": [1, 2.5]}", json!({"value": {"level": "ERROR", "n": [1, 2.5]}})),
        (b"42", json!({"value": "42"})),
        (b"\"quoted\"", json!({"value": "\"quoted\""})),
        (b"null", json!({"value": "null"})),
        (b"", json!({"value": ""})),
        (b"two\nlines \x1b[31m", json!({"value": "two\nlines \u{1b}[31m"})),
        (b"{\"big\":1e400}", json!({"value": "{\"big\":1e400}"})),
        (b"{\"a\":1,\"a\":2}", json!({"value": "{\"a\":1,\"a\":2}"})),
        (b"caf\xe9", json!({"valueBase64": "Y2Fm6Q=="})),
    ];
    let written = Written::new();
    written.put("values", &segment(&values.each_ref().map(|(value, _)| *value)).into()).await;
    for lines in printed(&written, &[]) {
        assert_eq!(lines.len(), values.len());
        for (offset, (line, (_, wanted))) in lines.iter().zip(&values).enumerate() {
            let mut line = line.as_object().expect("an object").clone();
            line.retain(|name, _| name.starts_with("value"));
            assert_eq!(Value::Object(line), *wanted, "{offset}");
        }
        assert_eq!((&lines[0]["offset"], &lines[0]["partition"]), (&json!("0"), &json!(3)));
    }
    for lines in printed(&written, &["--base64"]) {
        for (line, (value, _)) in lines.iter().zip(&values) {
            // Protobuf's JSON mapping leaves out no field that is set, not even an empty one.
            assert_eq!(line["value"], BASE64_STANDARD.encode(value), "{line}");
        }
    }
    let alone = written.run(&[&SEARCH[..], &["--base64"]].concat());
    assert_eq!(alone.code, 2, "{alone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_printed_as_they_were_written() {
    let value = r#"{"id":18446744073709551615,"more":123456789012345678901234567890,"price":1.50,"e":1E3}"#;
    let written = Written::new();
    written.put("numbers", &segment(&[value]).into()).await;
    for flags in [&SEARCH[..], &FETCH[..]] {
        let ran = written.run(&[flags, &["--json"]].concat());
        let line = ran.out.lines().next().expect("a line");
        assert!(line.contains(&format!(r#""value":{value}"#)), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_producers_write_reads_back_and_equals_what_base64_says() {
    for name in
        ["answers/json-as-it-comes.log", "kafka/zstd.log", "kafka/apache-clients.log", "kafka/compacted.log"]
    {
        let written = Written::new();
        written.put("segment", &fixture(name)).await;
        let [search, fetch] = printed(&written, &[]);
        let [exact, _] = printed(&written, &["--base64"]);
        assert!(!exact.is_empty() && search.len() == fetch.len(), "{name}");
        let mut json = 0;
        for (line, exact) in search.iter().zip(&exact) {
            let bytes =
                |value: &Value| value.as_str().map(|text| BASE64_STANDARD.decode(text).expect("base64"));
            for part in ["key", "value"] {
                match &line[part] {
                    readable @ (Value::Object(_) | Value::Array(_)) => {
                        let value: Value =
                            serde_json::from_slice(&bytes(&exact[part]).expect("there")).expect("JSON");
                        assert_eq!(*readable, value, "{name}");
                        json += 1;
                    }
                    _ => assert_eq!(stored(line, part), bytes(&exact[part]), "{name}: {line}"),
                }
            }
            let headers = |line: &Value| line["headers"].as_array().cloned().unwrap_or_default();
            for (header, exact) in headers(line).iter().zip(headers(exact)) {
                assert_eq!(
                    (&header["name"], stored(header, "value")),
                    (&exact["name"], bytes(&exact["value"]))
                );
            }
        }
        assert!(json > 0 || name != "answers/json-as-it-comes.log", "{name}");
    }
}

/// Stores ten thousand records, one of them with `rare`.
async fn many() -> Written {
    let written = Written::new();
    written.put("many", &lines(0, 10_000, "common")).await;
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_written_in_blocks() {
    let written = many().await;
    for (arguments, bytes_min) in [
        (&SEARCH[..], 400_000),
        (&[&SEARCH[..], &["--json"]].concat(), 1_000_000),
        (&[&FETCH[..], &["--max-bytes", "100MiB"]].concat(), 400_000),
    ] {
        // A datagram socket keeps each write as its own message.
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        ours.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let mut running = command(arguments)
            .env("WAL_INDEXER_STORE", written.store().url())
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("it starts");
        let (mut writes, mut text, mut buffer) = (0, Vec::new(), vec![0; 1 << 20]);
        while text.iter().filter(|byte| **byte == b'\n').count() < 10_000 {
            let count = ours.recv(&mut buffer).expect("all lines come");
            text.extend_from_slice(&buffer[..count]);
            writes += 1;
        }
        assert!(running.wait().expect("it ends").success());
        assert!(
            text.len() > bytes_min && writes <= text.len() / 60_000 + 2,
            "{writes} writes of {} bytes",
            text.len()
        );
        assert!(text.ends_with(b"\n") || arguments.contains(&"fetch"), "all of it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_ends_it_quietly() {
    let written = many().await;
    for arguments in [
        &[&SEARCH[..], &["--json"]].concat()[..],
        &[&FETCH[..], &["--json", "--max-bytes", "100MiB"]].concat(),
    ] {
        let mut running = command(arguments)
            .env("WAL_INDEXER_STORE", written.store().url())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut first = String::new();
        BufReader::with_capacity(100, running.stdout.take().expect("a pipe"))
            .read_line(&mut first)
            .expect("a line");
        assert!(first.starts_with('{'), "{first}");
        let mut said = String::new();
        running.stderr.take().expect("a pipe").read_to_string(&mut said).expect("UTF-8");
        assert_eq!((running.wait().expect("it ends").code(), said.as_str()), (Some(0), ""));
    }
}

/// Returns what the program prints on a terminal.
fn on_a_terminal(written: &Written, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let quoted = arguments.iter().map(|argument| format!("'{argument}'"));
    let line = format!("{} {}", program().display(), quoted.collect::<Vec<_>>().join(" "));
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("WAL_INDEXER_STORE", written.store().url())
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("script, of util-linux, is installed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8").replace('\r', "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_gets_escape_sequences_only_where_it_knows_them_and_wants_them() {
    let written = Written::new();
    written.put("lines", &lines(0, 3, "common \u{1b}[31m")).await;
    // With a warning, which is a log line.
    let search = ["search", "--topic", "orders", "\"common 31m\" OR line"];
    let coloured = on_a_terminal(&written, &search, &[]);
    assert!(coloured.contains("\u{1b}[1;31mline\u{1b}[0m"), "{coloured:?}");
    // In the rules of libraries, `CI` and `CLICOLOR_FORCE` ask for colours. `NO_COLOR` and `TERM=dumb` have
    // priority.
    for variables in [
        &[("NO_COLOR", "1")][..],
        &[("TERM", "dumb")],
        &[("TERM", "dumb"), ("CI", "true")],
        &[("NO_COLOR", "1"), ("CI", "true"), ("CLICOLOR_FORCE", "1")],
    ] {
        for arguments in [
            &search[..],
            &["search", "--topic", "orders", "--json"],
            &["search", "--topic", "orders", "--histogram"],
            &["fetch", "--topic", "orders", "--partition", "3"],
            &["ls"],
            &["--help"],
        ] {
            let plain = on_a_terminal(&written, arguments, variables);
            assert!(!plain.contains('\u{1b}') && plain.lines().count() >= 2, "{variables:?}: {plain:?}");
        }
    }
    // An empty value counts as not set, by https://no-color.org.
    assert!(on_a_terminal(&written, &search, &[("NO_COLOR", "")]).contains('\u{1b}'));
    let verify = on_a_terminal(&written, &["verify", "--all"], &[("TERM", "dumb"), ("CI", "true")]);
    assert!(!verify.contains('\u{1b}'), "{verify:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_histogram_has_one_absurd_time_as_an_outlier_and_not_as_its_scale() {
    let histogram = ["search", "--topic", "orders", "--histogram"];
    let written = Written::new();
    written.put("negative", &fixture("answers/negative-time-one.log")).await;
    let mut usual = 0;
    for line in written.run(&histogram).out.lines() {
        let (time, count) = line.rsplit_once(' ').expect("a count");
        match time {
            "1969-12-31T23:59:58.000Z" => assert_eq!(count, "1"),
            _ => usual += 1,
        }
    }
    assert!(usual > 20, "{usual} steps");
    let drawn = on_a_terminal(&written, &histogram, &[]);
    assert!(drawn.contains("outlier: 1969-12-31T23:59:58.000Z 1\n100 records match; a bar is "), "{drawn}");
    assert!(!drawn.contains("day") && !drawn.contains("hour"), "{drawn}");

    // Each outlier in its own bundle, and the usual times in several.
    let at = |offset: i64, times: &[i64]| -> Bytes {
        let bytes = times.iter().zip(offset..).flat_map(|(time, offset)| chronik(offset, *time));
        bytes.collect::<Vec<_>>().into()
    };
    let written = Written::new();
    for nth in 0..5 {
        let times: Vec<i64> = (0..40).map(|second| BASE_MS + nth * 40_000 + second * 1_000).collect();
        written.put("usual", &at(nth * 100, &times)).await;
    }
    for (nth, time) in [i64::MIN, 0, i64::MAX].iter().enumerate() {
        written.put("absurd", &at(1_000 + 100 * nth as i64, &[*time, -1])).await;
    }
    let lines = written.run(&histogram).out;
    let counts =
        lines.lines().map(|line| line.rsplit_once(' ').expect("a count").1.parse::<u64>().expect("a number"));
    assert_eq!(counts.sum::<u64>(), 206, "{lines}");
    assert!(lines.contains("2025-10-09T08:53:20.000Z ") && lines.ends_with("\n- 3\n"), "{lines}");
    assert!(lines.lines().count() > 30, "{lines}");
    let summary = &written.run(&[&histogram[..], &["--json"]].concat()).json()[0];
    let buckets = summary["buckets"].as_array().expect("buckets");
    assert_eq!((buckets.len() + 1, &summary["matched"]), (lines.lines().count(), &json!("206")), "{summary}");
    // If half of them are far away, they are not outliers.
    let written = Written::new();
    written.put("half", &at(0, &[0, 1_000, BASE_MS, BASE_MS + 1])).await;
    let drawn = on_a_terminal(&written, &histogram, &[]);
    assert!(!drawn.contains("outlier") && drawn.contains("4 records match"), "{drawn}");
}

/// Returns a Chronik V1 record.
fn chronik(offset: i64, time: i64) -> Vec<u8> {
    let mut bytes = segment(&["text"]);
    bytes[8..16].copy_from_slice(&offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&time.to_le_bytes());
    let sum = crc32fast::hash(&[&bytes[..24], &bytes[28..]].concat());
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    bytes
}
