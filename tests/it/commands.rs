//! Output of commands if nothing is stored, if a name is not allowed, or if a bundle has another key than its
//! own.

use std::fs;

use crate::queries::hostile::segment as segment_of_values;
use crate::worker::{Worker, command, file_url, inline, send_inline};
use crate::written::fixture;

/// Returns exit code, standard output and standard error.
fn said(arguments: &[&str]) -> (i32, String, String) {
    let output = command(arguments).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
}

/// Starts a worker that holds `orders/3`. Returns it with the flags for its endpoint and for its store.
async fn with_orders() -> (Worker, [[String; 2]; 2]) {
    let worker = Worker::start();
    let source = fixture("kafka/none.log");
    let header = inline(source.len() as u64, Some(("orders", 3)));
    send_inline(&mut worker.client().await, header, &source, 1 << 20).await.expect("a receipt");
    let places =
        [["--store".to_owned(), file_url(&worker.store())], ["--endpoint".to_owned(), worker.endpoint()]];
    (worker, places)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_of_which_nothing_is_stored_is_an_empty_answer_and_a_word_about_it() {
    let (_worker, places) = with_orders().await;
    for place in &places {
        let place = place.each_ref().map(String::as_str);
        for (arguments, out, err) in [
            (&["search", "x", "--topic", "none"][..], "", "nothing is stored of topic none\n"),
            (&["search", "x", "--topic", "none", "--count"], "0\n", "nothing is stored of topic none\n"),
            (
                &["search", "x", "--topic", "orders", "--partition", "9"],
                "",
                "nothing is stored of orders/9\n",
            ),
            (
                &["fetch", "--topic", "none", "--partition", "0"],
                "",
                "nothing is stored of none/0\nnext offset: 0\n",
            ),
            (&["ls", "--topic", "none"], "", "no bundles of topic none in "),
            (&["ls", "--partition", "9", "--json"], "", "no bundles of partition 9 of any topic in "),
        ] {
            let (code, printed, told) = said(&[arguments, &place].concat());
            assert_eq!((code, &*printed), (0, out), "{arguments:?} {place:?}: {told}");
            assert!(told.starts_with(err), "{arguments:?} {place:?}: {told}");
        }
        // A word that does not occur differs from a topic that does not exist.
        for arguments in [
            &["search", "no-such-word", "--topic", "orders"][..],
            &["search", "*", "--topic", "orders", "--min-offset", "1000"],
            &["fetch", "--topic", "orders", "--partition", "3", "--offset", "1000"],
        ] {
            let (code, printed, told) = said(&[arguments, &place].concat());
            assert_eq!((code, &*printed), (0, ""), "{told}");
            assert!(!told.contains("nothing is stored"), "{arguments:?} {place:?}: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_cannot_be_is_the_command_lines_fault() {
    let (worker, places) = with_orders().await;
    let file = worker.sources().join("a segment");
    fs::write(&file, fixture("kafka/none.log")).expect("written");
    let (file, long) = (file.to_str().expect("UTF-8"), "x".repeat(250));
    let place = places[0].each_ref().map(String::as_str);
    for (arguments, names) in [
        (&["index", file, "--partition", "0", "--topic", ""][..], "--topic"),
        (&["index", file, "--partition", "0", "--topic", &long], "--topic"),
        (&["index", file, "--topic", "t", "--partition=-1"], "--partition"),
        (&["index", file, "--topic", "t", "--partition", "0", "--log-id", &long], "--log-id"),
        (&["search", "x", "--topic", ""], "--topic"),
        (&["search", "x", "--topic", "t", "--partition=-1"], "--partition"),
        (&["fetch", "--topic", "", "--partition", "0"], "--topic"),
        (&["fetch", "--topic", "t", "--partition=-1"], "--partition"),
        (&["ls", "--topic", ""], "--topic"),
        (&["ls", "--partition=-1"], "--partition"),
    ] {
        let (code, printed, told) = said(&[arguments, &place].concat());
        assert_eq!((code, &*printed), (2, ""), "{arguments:?}: {told}");
        assert!(told.contains(names), "{arguments:?}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_under_another_key_tells_its_own() {
    let (worker, places) = with_orders().await;
    let (key, store) = (worker.keys().remove(0), &places[0][1]);
    let moved = key.replacen("orders/3/", "payments/4/", 1);
    let path = |key: &str| worker.store().join(key);
    fs::create_dir_all(path(&moved).parent().expect("a directory")).expect("a directory");
    fs::rename(path(&key), path(&moved)).expect("renamed");
    for arguments in [&["verify", "--all"][..], &["verify", &moved], &["inspect", &moved]] {
        let (code, out, err) = said(&[arguments, &["--store", store]].concat());
        assert_eq!(code, 3, "{arguments:?}: {out}{err}");
        let own = format!("the bundle belongs under {key}");
        assert!(out.contains(&own) || err.contains(&own), "{arguments:?}: {out}{err}");
    }
    // Under its own key the bundle is sound.
    fs::rename(path(&moved), path(&key)).expect("renamed");
    assert_eq!(said(&["verify", "--all", "--store", store]).0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_dates_are_no_phrases_and_a_query_may_begin_with_a_minus() {
    let worker = Worker::start();
    let store = file_url(&worker.store());
    let log = worker.sources().join("log");
    let values =
        [r#"{"n":5.0,"at":"2024-05-01T12:00:00Z","said":"a b"}"#, r#"{"n":7,"at":"2024-06-01T12:00:00Z"}"#];
    fs::write(&log, segment_of_values(&values.map(str::to_owned))).expect("written");
    let log = log.to_str().expect("UTF-8");
    let (code, _, err) = said(&["index", log, "--topic", "t", "--partition", "0", "--store", &store]);
    assert_eq!(code, 0, "{err}");
    let search = |query: &[&str]| {
        let (code, out, err) = said(&[&["search", "--topic", "t", "--store", &store], query].concat());
        assert_eq!(code, 0, "{err}");
        (out.lines().count(), err.contains("phrases were looked for as words"))
    };
    assert_eq!(search(&["n:5.0"]), (1, false));
    assert_eq!(search(&["at:\"2024-05-01T12:00:00Z\""]), (1, false));
    assert_eq!(search(&["said:\"b a\""]), (1, true), "here they were");
    assert_eq!(search(&["--", "-n:7"]), (1, false));
}

#[test]
fn what_a_worker_cannot_start_with_is_the_command_lines_fault() {
    let directory = tempfile::TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    let (store, pipe) = (file_url(&directory.path().join("store")), directory.path().join("a pipe"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("it starts").success());
    let pipe = pipe.to_str().expect("UTF-8");
    for (flags, names) in [
        // A reader of the pipe waits for ever for a writer.
        (&["--tokens", pipe][..], "--tokens"),
        (&["--tls-cert", pipe, "--tls-key", pipe], "--tls-cert"),
        (&["--threads", "100000"], "--threads"),
        (&["--threads", "0"], "--threads"),
        (&["--memory-budget", "1MiB"], "--memory-budget"),
    ] {
        let (code, printed, told) =
            said(&[&["serve", "--listen", "127.0.0.1:0", "--store", &store], flags].concat());
        assert_eq!((code, &*printed), (2, ""), "{flags:?}: {told}");
        assert!(told.contains(names), "{flags:?}: {told}");
    }
}

#[test]
fn a_url_that_would_be_read_as_another_place_is_refused() {
    let directory = tempfile::TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/kafka/none.log");
    for url in [
        "file:./bundles",
        "file:bundles",
        "FILE:./bundles",
        "file:../bundles",
        "file:.",
        r"file:\bundles",
        "file:///tmp/../bundles",
        "file:///tmp/%2e%2E/bundles",
        "s3://bucket/../other",
        "bundles",
        "./bundles",
    ] {
        let index = ["index", file, "--topic", "t", "--partition", "0", "--store", url];
        let serve = ["serve", "--listen", "127.0.0.1:0", "--store", url];
        let search = ["search", "x", "--topic", "t", "--store", url];
        for arguments in
            [&index[..], &serve, &search, &["ls", "--store", url], &["inspect", "x", "--store", url]]
        {
            let output = command(arguments).current_dir(directory.path()).output().expect("it starts");
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
            assert!(told.contains("--store"), "{arguments:?}: {told}");
        }
    }
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0);
}

#[test]
fn bundles_and_state_files_have_the_permissions_that_are_set_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;

    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/kafka/none.log");
    let modes = |directory: &std::path::Path| {
        let (mut left, mut modes) = (vec![directory.to_owned()], std::collections::BTreeSet::new());
        while let Some(path) = left.pop() {
            let metadata = fs::symlink_metadata(&path).expect("it is there");
            modes.insert((metadata.is_dir(), metadata.permissions().mode() & 0o777));
            if metadata.is_dir() {
                left.extend(
                    fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()),
                );
            }
        }
        modes.into_iter().collect::<Vec<_>>()
    };
    for (flags, file_mode, directory_mode) in [
        (&[][..], 0o640, 0o750),
        (&["--file-mode", "600"], 0o600, 0o700),
        (&["--file-mode=0644"], 0o644, 0o755),
    ] {
        for umask in ["000", "077"] {
            let root = tempfile::TempDir::with_prefix("wal-indexer-it-").expect("a directory");
            let (store, state, wal) =
                (root.path().join("store"), root.path().join("state"), root.path().join("wal"));
            fs::create_dir(&wal).expect("a directory");
            let script = format!(r#"umask {umask}; exec "$0" "$@""#);
            let run = |arguments: &[&str]| {
                let mut shell = std::process::Command::new("sh");
                shell.args(["-c", &script]).arg(crate::worker::program()).args(arguments).args(flags);
                let output = shell.output().expect("it starts");
                assert!(
                    output.status.success(),
                    "{arguments:?}: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
            };
            run(&["index", file, "--topic", "t", "--partition", "0", "--store", &file_url(&store)]);
            let (wal, state_dir) = (wal.to_str().expect("UTF-8"), state.to_str().expect("UTF-8"));
            run(&[
                "agent",
                "--once",
                "--endpoint",
                "http://127.0.0.1:1",
                "--wal-dir",
                wal,
                "--state-dir",
                state_dir,
            ]);
            for directory in [&store, &state] {
                let want = [(false, file_mode), (true, directory_mode)];
                assert_eq!(modes(directory), want, "{flags:?} umask {umask}: {}", directory.display());
            }
        }
    }
    for mode in ["0740", "400", "rw"] {
        let (code, _, told) = said(&["serve", "--store", "file:///tmp/x", "--file-mode", mode]);
        assert_eq!(code, 2, "{mode}: {told}");
    }
}
