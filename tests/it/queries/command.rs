//! `search` on the command line.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::worker::{Worker, command};
use crate::written::Written;

use super::{generated, send};

fn output(arguments: &[&str]) -> (i32, String, String) {
    let output = command(arguments).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an end of its own"), text(output.stdout), text(output.stderr))
}

#[test]
fn a_query_that_does_not_read_is_shown_with_a_caret_under_the_place() {
    let written = Written::new();
    let ran = written.run(&["search", "--topic", "t", "level:error AND (a OR"]);
    assert_eq!(ran.code, 2);
    let expected = "error: QUERY: something to search for is missing, at character 21\n  \
                    level:error AND (a OR\n                       ^\n";
    assert_eq!(ran.err, expected);
}

#[tokio::test]
async fn orders_counts_and_errors_are_the_same_whoever_is_asked() {
    let worker = Worker::start();
    let (bytes, held) = generated(1, 0, 50);
    send(&worker, "", Some(("logs", 0)), &bytes).await;
    let store = crate::worker::file_url(&worker.store());
    for place in [["--endpoint", &worker.endpoint()], ["--store", &store]] {
        let search = |arguments: &[&str]| {
            let (code, out, err) = output(&[&["search", "--topic", "logs"], &place[..], arguments].concat());
            assert_eq!(code, 0, "{err}");
            out
        };
        let offsets = |out: &str| -> Vec<i64> {
            let behind = |line: &str| line.split_once('@')?.1.split(' ').next()?.parse().ok();
            out.lines().map(|line| behind(line).expect("an offset")).collect()
        };
        let newest = offsets(&search(&["*"]));
        assert_eq!(newest, (0..50).rev().collect::<Vec<_>>());
        assert_eq!(offsets(&search(&["*", "--order", "newest", "--limit", "3"])), newest[..3]);
        let oldest: Vec<i64> = (0..50).collect();
        assert_eq!(offsets(&search(&["*", "--order", "oldest"])), oldest);
        assert_eq!(offsets(&search(&["*", "--oldest-first"])), oldest);
        let scored = search(&["level:info OR level:error", "--order", "score", "--json"]);
        let scores = scored.lines().map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).expect("JSON");
            record["score"].as_f64().expect("a score")
        });
        assert!(scores.collect::<Vec<_>>().is_sorted_by(|a, b| a >= b));
        let errors = held.iter().filter(|record| {
            let value = record.value.as_deref().expect("a value");
            value.windows(16).any(|part| part == b"\"level\":\"ERROR\",")
        });
        assert_eq!(search(&["level:error", "--count"]).trim(), errors.count().to_string());
        let (code, _, err) = output(
            &[&["search", "--topic", "logs", "--order", "score", "--oldest-first"], &place[..]].concat(),
        );
        assert_eq!(code, 2, "{err}");
    }
}

#[tokio::test]
async fn a_histogram_counts_all_that_match_by_time() {
    let worker = Worker::start();
    let (bytes, held) = generated(1, 0, 400);
    send(&worker, "", Some(("logs", 0)), &bytes).await;
    let store = crate::worker::file_url(&worker.store());
    for place in [["--endpoint", &worker.endpoint()], ["--store", &store]] {
        let search = |arguments: &[&str]| {
            let (code, out, err) = output(&[&["search", "--topic", "logs"], &place[..], arguments].concat());
            assert_eq!(code, 0, "{err}");
            out
        };
        // Four seconds of records, in a terminal of eighty columns.
        let drawn = search(&["*", "--histogram"]);
        let counts = drawn.lines().map(|line| line.split_once(' ').expect("two columns").1);
        assert_eq!(counts.map(|count| count.parse::<usize>().expect("a count")).sum::<usize>(), held.len());
        assert!((30..=80).contains(&drawn.lines().count()), "{drawn}");
        assert!(drawn.starts_with("2025-10-09T08:53:20"), "{drawn}");
        let summary = search(&["level:error", "--histogram", "--json"]);
        let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
        let buckets = summary["buckets"].as_array().expect("buckets").iter();
        let counted = buckets
            .map(|bucket| bucket["matched"].as_str().expect("a count").parse::<u64>().expect("a number"));
        assert_eq!(summary["matched"].as_str(), Some(counted.sum::<u64>().to_string().as_str()), "{summary}");
        assert_eq!(search(&["*", "--histogram", "--min-offset", "1000"]), "no records with a time\n");
    }
}

/// A running `search --follow`. It is killed when dropped.
struct Following {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Following {
    fn start(arguments: &[&str]) -> Self {
        let mut process = command(["search", "--follow", "--topic", "logs"].iter().chain(arguments))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, lines }
    }

    /// Returns the offsets of the next records.
    fn offsets(&mut self, count: usize) -> Vec<i64> {
        let mut next = || {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("a line");
            let behind = line.split_once('@').and_then(|(_, behind)| behind.split(' ').next());
            behind.and_then(|offset| offset.parse().ok()).unwrap_or_else(|| panic!("{line:?}"))
        };
        (0..count).map(|_| next()).collect()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_comes_once_and_in_order_and_the_end_is_a_good_one() {
    let worker = Worker::start();
    let store = crate::worker::file_url(&worker.store());
    let (first, _) = generated(1, 0, 300);
    send(&worker, "", Some(("logs", 0)), &first).await;
    let endpoint = worker.endpoint();
    // Everything from the beginning, through the worker and from the store.
    let mut following = [["--endpoint", &endpoint], ["--store", &store]]
        .map(|place| Following::start(&[&place[..], &["--since", "0", ""]].concat()));
    for one in &mut following {
        assert_eq!(one.offsets(300), (0..300).collect::<Vec<_>>());
    }
    // The segment of another replica that sealed earlier has nothing new. The next segment does. So does a
    // record among known offsets.
    let (again, _) = generated(1, 0, 120);
    send(&worker, "", Some(("logs", 0)), &again).await;
    let (second, held) = generated(2, 300, 40);
    send(&worker, "", Some(("logs", 0)), &second).await;
    for one in &mut following {
        assert_eq!(one.offsets(40), (300..340).collect::<Vec<_>>());
    }
    assert_eq!(held.len(), 40);
    // Nor is it printed later, before the new records.
    let (third, _) = generated(4, 340, 5);
    send(&worker, "", Some(("logs", 0)), &third).await;
    for one in &mut following {
        assert_eq!(one.offsets(5), (340..345).collect::<Vec<_>>());
    }
    for one in &mut following {
        let pid = one.process.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &pid]).status().expect("kill runs").success());
        assert_eq!(one.process.wait().expect("it ends").code(), Some(0));
        assert_eq!(one.lines.fill_buf().expect("the end"), b"");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_time_only_what_arrives_from_now_on_is_followed() {
    let worker = Worker::start();
    let store = crate::worker::file_url(&worker.store());
    let (first, _) = generated(1, 0, 100);
    send(&worker, "", Some(("logs", 0)), &first).await;
    let mut following = Following::start(&["--store", &store, "--json", "level:*"]);
    // The first look is over when a record of a later partition is not skipped. Until then, records are sent
    // one by one.
    let mut line = String::new();
    let reading = std::thread::spawn(move || {
        following.lines.read_line(&mut line).expect("a line");
        (following, line)
    });
    for nth in 0.. {
        let (bytes, _) = generated(2, 1_000 + nth, 1);
        send(&worker, "", Some(("logs", 0)), &bytes).await;
        if reading.is_finished() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    let (_following, line) = reading.join().expect("no panic");
    let record: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let offset: i64 = record["offset"].as_str().expect("an offset").parse().expect("a number");
    assert!(offset >= 1_000, "{line}");
}
