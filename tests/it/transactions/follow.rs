//! `--follow` for callers that read committed records.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use wal_indexer::generate::Format;

use super::script::{Script, State};
use crate::worker::command;
use crate::written::Written;

/// How long to wait for a record that must not come: several looks at the store.
const SILENCE: Duration = Duration::from_millis(2_500);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The running program, and the offsets that it prints. It is killed when dropped.
struct Following {
    process: Child,
    offsets: Receiver<i64>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it ends");
    }
}

impl Following {
    fn start(written: &Written, arguments: &[&str]) -> Self {
        let mut process = command(arguments)
            .args(["--topic", "orders", "--partition", "3", "--follow", "--isolation", "committed"])
            .env("WAL_INDEXER_STORE", written.store().url())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, offsets) = channel();
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let place = line.split(' ').nth(1).and_then(|place| place.strip_prefix("orders/3@"));
                let offset = place.and_then(|offset| offset.parse().ok()).unwrap_or_else(|| panic!("{line}"));
                if sender.send(offset).is_err() {
                    return;
                }
            }
        });
        Self { process, offsets }
    }

    /// Returns the next offsets, and also one that follows too soon.
    fn next(&self, count: usize) -> Vec<i64> {
        let next = (0..count).map(|_| self.offsets.recv_timeout(WAIT_MAX).expect("a line"));
        let mut next: Vec<_> = next.collect();
        next.extend(self.offsets.recv_timeout(SILENCE));
        next
    }
}

fn committed(states: BTreeMap<i64, State>) -> Vec<i64> {
    states.into_iter().filter(|(_, state)| *state == State::Counts).map(|(offset, _)| offset).collect()
}

#[tokio::test]
async fn whoever_follows_what_is_committed_sees_a_transaction_when_its_end_is_stored() {
    let script = Script::parse(". a . b | a a+ . b | b- . c c+");
    let (written, segments) = (Written::new(), script.segments(Format::Kafka));
    written.put("first", &segments[0]).await;
    let search = Following::start(&written, &["search", "--since", "2000-01-01"]);
    let fetch = Following::start(&written, &["fetch"]);
    // A consumer waits at the open transaction. A search continues, and returns to it later.
    assert_eq!(fetch.next(1), [0]);
    assert_eq!(search.next(2), [0, 2]);
    written.put("second", &segments[1]).await;
    assert_eq!(fetch.next(2), [1, 2]);
    assert_eq!(search.next(3), [1, 4, 6]);
    written.put("third", &segments[2]).await;
    let all = committed(script.states(0..3));
    assert_eq!(fetch.next(4), all[3..]);
    assert_eq!(search.next(2), all[5..]);
    // Once more from the start, everything at once.
    assert_eq!(Following::start(&written, &["fetch"]).next(all.len()), all);
}
