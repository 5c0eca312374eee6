//! Segments that stay on disk although they are stored: beside a broker that may still need them, and if the
//! operator wants it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use crate::agent::{Scene, acknowledged};
use crate::scripted_worker::Answer;
use crate::sidecar::{Sidecar, name, segment};

/// Returns how many segments or partitions are held for a reason.
fn held(agent: &Sidecar, what: &str, reason: &str) -> Option<f64> {
    agent.metrics().sum(&format!("wal_indexer_agent_held_{what}"), &[("reason", reason)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_segment_with_a_frame_stays_however_many_empty_ones_lie_behind_it() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=2);
    for id in 3..=4 {
        fs::write(scene.wal.path().join(name("orders", 0, id)), b"").expect("written");
    }
    let (code, log) = scene.once(&[]);
    assert_eq!((code, scene.wal.ids("orders", 0)), (0, vec![2, 3, 4]), "{log}");
    assert!(log.contains("stays: it holds the end of the log"), "{log}");
    scene.check_stored(1..=2);
    let agent = scene.start(&[]);
    agent.until("held", |agent| held(agent, "segments", "end_of_log") == Some(1.0));
    // The broker continues: the end of the log is in the next segment.
    scene.wal.add("orders", 0, 4);
    scene.until_ids(&agent, &[4]);
    agent.until("none held", |agent| held(agent, "segments", "end_of_log") == Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_segment_that_is_written_to_holds_its_partition() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    scene.wal.add_all("orders", 1, 1..=3);
    // A lower segment is the last one written to, and is closed: the broker opens it for each write.
    let path = scene.wal.path().join(name("orders", 0, 2));
    let append =
        |bytes: &[u8]| File::options().append(true).open(&path).and_then(|mut file| file.write_all(bytes));
    append(&segment("orders", 0, 7)).expect("written");
    let agent = scene.start(&[]);
    agent.until("the other goes", |_| scene.wal.ids("orders", 1) == [3]);
    agent.until("held", |agent| held(agent, "partitions", "not_last_written") == Some(1.0));
    assert_eq!(scene.wal.ids("orders", 0), [1, 2, 3], "{}", agent.log());
    assert_eq!(agent.log().matches("nothing is deleted in this partition").count(), 1, "{}", agent.log());
    // Sealed segments are stored all the same. They are deleted when the broker has continued with the
    // highest one.
    agent.until("stored", |agent| acknowledged(agent) == 3.0);
    let _ = scene.wal.add("orders", 0, 8);
    agent.until("it goes on", |_| scene.wal.ids("orders", 0) == [8]);
    assert_eq!(held(&agent, "partitions", "not_last_written"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_for_writing_stays_until_it_is_closed() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    let writer =
        File::options().append(true).open(scene.wal.path().join(name("orders", 0, 1))).expect("a file");
    let (code, log) = scene.once(&[]);
    assert_eq!((code, scene.wal.ids("orders", 0)), (5, vec![1, 2, 3]), "{log}");
    assert!(log.contains("stays: it is open for writing"), "{log}");
    let agent = scene.start(&[]);
    agent.until("held", |agent| held(agent, "segments", "open_for_writing") == Some(1.0));
    drop(writer);
    scene.until_ids(&agent, &[3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_was_overwritten_while_its_receipt_waited_is_sent_again() {
    let scene = Scene::new().await;
    let gate = Arc::new(Semaphore::new(0));
    scene.scripted.script([Answer::Held(Arc::clone(&gate))]);
    scene.wal.add_all("orders", 0, 1..=1);
    scene.wal.add("orders", 0, 9);
    let agent = scene.start(&[]);
    scene.scripted.until(|counts| counts.begun == 1).await;
    scene.wal.add_all("orders", 0, [2, 3]);
    scene.wal.add("orders", 0, 9);
    agent.until("two receipts", |agent| acknowledged(agent) == 2.0);
    // Other records in the same file, with the same length and the old modification time.
    let path = scene.wal.path().join(name("orders", 0, 2));
    let other = other_of_the_same_length("orders", 0, 2);
    let file = File::options().write(true).open(&path).expect("a file");
    let written_at = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    file.write_all_at(&other, 0).expect("written");
    file.set_modified(written_at).expect("set back");
    drop(file);
    gate.add_permits(1);
    scene.until_ids(&agent, &[9]);
    let stored = scene.worker.keys().len();
    assert_eq!(stored, 4, "each segment, and what the second one was before: {}", agent.log());
    assert!(agent.log().contains("not what was stored"), "{}", agent.log());
}

/// The agent is killed before or after the bytes are replaced, and maybe once more. The receipt that it left
/// is for the old bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overwritten_segment_goes_on_no_receipt_of_before_whoever_is_killed() {
    let other = other_of_the_same_length("orders", 0, 2);
    for (is_killed_first, dies_again) in [(false, false), (true, false), (false, true), (true, true)] {
        let scene = Scene::new().await;
        let gate = Arc::new(Semaphore::new(0));
        scene.scripted.script([Answer::Held(Arc::clone(&gate))]);
        scene.wal.add("orders", 0, 1);
        scene.wal.add("orders", 0, 9);
        let mut agent = Some(scene.start(&[]));
        scene.scripted.until(|counts| counts.begun == 1).await;
        scene.wal.add_all("orders", 0, [2, 3]);
        scene.wal.add("orders", 0, 9);
        agent.as_ref().expect("started").until("two receipts", |agent| acknowledged(agent) == 2.0);
        if is_killed_first {
            agent.take().expect("started").kill();
        }
        let path = scene.wal.path().join(name("orders", 0, 2));
        let file = File::options().write(true).open(&path).expect("a file");
        let written_at = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        file.write_all_at(&other, 0).expect("written");
        file.set_modified(written_at).expect("set back");
        drop(file);
        agent.into_iter().for_each(Sidecar::kill);
        gate.add_permits(1);
        if dies_again {
            let again = scene.start(&[]);
            again.until("the first one gone", |_| !scene.wal.ids("orders", 0).contains(&1));
            again.kill();
        }
        let agent = scene.start(&[]);
        scene.until_ids(&agent, &[9]);
        let restored: Vec<_> = scene.worker.keys().iter().map(|key| scene.restored(key)).collect();
        let is_stored = |bytes: &[u8]| restored.iter().any(|stored| stored == bytes);
        assert!(is_stored(&other), "what was there last: {is_killed_first}, {dies_again}\n{}", agent.log());
        assert!([1, 3].iter().all(|id| is_stored(&segment("orders", 0, *id))));
    }
}

/// Returns a segment with other bytes of the same length and valid checksums, as if its writer had replaced
/// it. The frames are in reverse order.
fn other_of_the_same_length(topic: &str, partition: i32, id: u64) -> Vec<u8> {
    let mut frames = crate::truth::split(&segment(topic, partition, id).into());
    frames.reverse();
    frames.iter().flat_map(|frame| frame.bytes.to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_stay_on_disk_stays() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=6);
    let bytes = segment("orders", 0, 5).len() + 1;
    for (flags, left) in [
        (vec!["--keep-segments", "4"], vec![2, 3, 4, 5, 6]),
        (vec!["--keep-for", "3600"], vec![2, 3, 4, 5, 6]),
        (vec!["--keep-bytes", &*bytes.to_string()], vec![4, 5, 6]),
        (vec!["--keep-segments", "1", "--keep-bytes", "1"], vec![5, 6]),
        (vec![], vec![6]),
    ] {
        let (code, log) = scene.once(&flags);
        assert_eq!((code, scene.wal.ids("orders", 0)), (0, left), "{flags:?}\n{log}");
    }
    assert_eq!(scene.sent().values().sum::<usize>(), 5, "each is sent once");
    let long_ago = SystemTime::now() - Duration::from_secs(100);
    scene.wal.add_all("orders", 1, 1..=2);
    let old = File::options().write(true).open(scene.wal.path().join(name("orders", 1, 1)));
    old.and_then(|file| file.set_modified(long_ago)).expect("set");
    let agent = scene.start(&["--keep-for", "1000"]);
    agent.until("retained", |agent| held(agent, "segments", "retention") == Some(1.0));
    assert_eq!(scene.wal.ids("orders", 1), [1, 2]);
}
