//! `stats --watch` in a real terminal: tmux, whose screen a test can read.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use wal_indexer::proto::v1::{GetStatsRequest, GetStatsResponse};

use crate::sidecar::{segment, segment_of};
use crate::worker::{Client, Worker, chunk, command, header, inline, program, send_inline};

/// Returns the tmux that `tests/install-servers.sh` unpacked, or else the one on the path.
fn tmux() -> Command {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools-terminal/tmux");
    Command::new(if unpacked.exists() { unpacked.as_path() } else { Path::new("tmux") })
}

/// A terminal with a shell in it. It is closed when dropped.
struct Terminal {
    root: TempDir,
}

impl Terminal {
    fn open(width: u32, height: u32) -> Self {
        let terminal = Self { root: TempDir::with_prefix("wal-indexer-it-").expect("a directory") };
        let size = ["-x", &width.to_string(), "-y", &height.to_string()].map(str::to_owned);
        let shell = ["env", "PS1=ready> ", "sh"];
        let begin = ["-f", "/dev/null", "new-session", "-d"].into_iter().map(str::to_owned);
        terminal.tmux(begin.chain(size).chain(shell.map(str::to_owned)));
        terminal
    }

    #[track_caller]
    fn tmux(&self, arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> String {
        let Output { status, stdout, stderr } = tmux()
            .arg("-S")
            .arg(self.root.path().join("socket"))
            .args(arguments)
            .output()
            .expect("tmux is installed");
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("UTF-8")
    }

    /// Returns what the screen shows, once the condition is met.
    #[track_caller]
    fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let screen = self.tmux(["capture-pane", "-p"]);
            if is_so(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "not {what}\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn type_in(&self, keys: &[&str]) {
        self.tmux(["send-keys"].iter().chain(keys));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = tmux().arg("-S").arg(self.root.path().join("socket")).arg("kill-server").output();
    }
}

async fn stats(client: &mut Client) -> GetStatsResponse {
    client.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner()
}

/// Returns what a screen must show of an answer.
fn told(stats: &GetStatsResponse) -> Vec<String> {
    let iec = |bytes: u64| bytesize::ByteSize::b(bytes).display().iec().to_string();
    let memory = stats.memory.expect("it is always there");
    let mut told = vec![
        stats.worker_id.clone(),
        format!(
            "segments {} ({} already there)  records {}  read {}  written {}",
            stats.segments_processed,
            stats.segments_already_indexed,
            stats.records_indexed,
            iec(stats.bytes_read),
            iec(stats.bytes_written)
        ),
        format!("memory {} of {}", iec(memory.reserved_bytes), iec(memory.budget_bytes)),
        format!("waiting {} for {}", memory.waiting_requests, iec(memory.waiting_bytes)),
        format!("waiting 0  building {}  uploading 0", stats.jobs.len()),
    ];
    told.extend(stats.rejected.iter().map(|(code, count)| format!("{code} {count}")));
    told.extend(stats.jobs.iter().map(|job| format!("{} of {}", iec(job.bytes_done), iec(job.bytes_total))));
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tmux (tests/install-servers.sh); make test runs it"]
async fn a_terminal_shows_what_get_stats_says_and_is_left_as_it_was() {
    let mut worker = Worker::start();
    let mut client = worker.client().await;
    for topic in ["orders", "payments"] {
        let bytes = segment(topic, 0, 1);
        send_inline(&mut client, inline(bytes.len() as u64, None), &bytes, 1 << 20).await.expect("a receipt");
    }
    let mut damaged = segment("orders", 0, 2);
    damaged[200] ^= 1;
    let refused = send_inline(&mut client, inline(damaged.len() as u64, None), &damaged, 1 << 20).await;
    refused.expect_err("it is damaged");
    // One segment in flight, whose sender stalls.
    let (sender, messages) = mpsc::unbounded_channel();
    let bytes = segment_of("orders", 0, 3, 6_000);
    for message in
        [header(inline(bytes.len() as u64, None)), chunk(Bytes::copy_from_slice(&bytes[..100_000]))]
    {
        sender.send(message).expect("somebody listens");
    }
    let mut calling = client.clone();
    tokio::spawn(async move { calling.index_segment(UnboundedReceiverStream::new(messages)).await });

    let terminal = Terminal::open(110, 30);
    terminal.until("a prompt", |screen| screen.contains("ready>"));
    let watch = format!("{} stats --watch --every 0.1 --endpoint {}", program().display(), worker.endpoint());
    terminal.type_in(&[&watch, "Enter"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    let screen = loop {
        let (stats, screen) = (stats(&mut client).await, terminal.tmux(["capture-pane", "-p"]));
        let is_told = told(&stats).iter().all(|told| screen.contains(told.as_str()));
        if stats.jobs.len() == 1 && is_told {
            break screen;
        }
        assert!(Instant::now() < deadline, "{:#?}\n{screen}", told(&stats));
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(screen.contains("SERVING") && screen.contains("payments"), "{screen}");

    // Another size, and back again.
    terminal.tmux(["resize-window", "-x", "50", "-y", "12"]);
    terminal.until("narrow", |screen| screen.lines().count() <= 12 && screen.contains("a:segment:1"));
    terminal.tmux(["resize-window", "-x", "110", "-y", "30"]);
    terminal.until("wide again", |screen| screen.contains("payments"));

    // The worker is killed: the screen reports it, and keeps the last values.
    drop(sender);
    worker.signal("KILL");
    worker.ended();
    let screen = terminal.until("gone", |screen| screen.contains("GONE"));
    assert!(screen.contains("no answer, asking again: "), "{screen}");
    terminal.type_in(&["q"]);
    let screen = terminal.until("the shell again", |screen| screen.trim_end().ends_with("ready>"));
    assert!(!screen.contains("GONE"), "the screen is the one from before\n{screen}");
    terminal.type_in(&["echo 'still' $((20 + 1))", "Enter"]);
    terminal.until("what is typed, and its answer", |screen| {
        screen.contains("echo 'still'") && screen.contains("still 21")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tmux (tests/install-servers.sh); make test runs it"]
async fn a_signal_ends_it_as_well_as_keys_do() {
    let worker = Worker::start();
    let terminal = Terminal::open(80, 24);
    let watch = format!("{} stats --watch --endpoint {}", program().display(), worker.endpoint());
    for ending in ["C-c", "TERM", "INT"] {
        terminal.until("a prompt", |screen| screen.trim_end().ends_with("ready>"));
        // The shell writes its process id before it executes the program.
        let begin = format!("sh -c 'echo $$ > {}/pid; exec {watch}'", terminal.root.path().display());
        terminal.type_in(&[&begin, "Enter"]);
        terminal.until("it watches", |screen| screen.contains("SERVING"));
        let pid = std::fs::read_to_string(terminal.root.path().join("pid")).expect("it is told");
        match ending {
            "C-c" => terminal.type_in(&["C-c"]),
            signal => {
                let sent = Command::new("kill").args(["-s", signal, pid.trim()]).status();
                assert!(sent.expect("kill runs").success());
            }
        }
        let screen = terminal.until(ending, |screen| screen.trim_end().ends_with("ready>"));
        assert!(!screen.contains("SERVING"), "{screen}");
        terminal.type_in(&["clear", "Enter"]);
    }
}

#[tokio::test]
async fn without_a_terminal_it_says_what_to_do() {
    let output = command(["stats", "--watch"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--watch needs a terminal") && said.contains("--json"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_only_searches_is_called_that() {
    let store = TempDir::with_prefix("wal-indexer-it-").expect("a directory");
    let worker = Worker::start_on(&crate::worker::file_url(store.path()), &[], &["--roles", "search"]);
    for verb in ["stats", "health"] {
        let output = command([verb, "--endpoint", &worker.endpoint()]).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{verb}: {said}");
        assert!(said.contains("this worker does not index"), "{verb}: {said}");
    }
}
