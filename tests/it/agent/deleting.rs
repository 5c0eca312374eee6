//! What stops a deletion at the last moment.

use super::*;

/// The newest segment disappears after the agent has listed the directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_has_become_the_newest_since_it_was_listed_stays() {
    let scene = Scene::new().await;
    let held = Arc::new(Semaphore::new(0));
    scene.scripted.script([Answer::Held(Arc::clone(&held))]);
    scene.wal.add_all("orders", 0, 1..=2);
    let agent = scene.start(&["--interval", "10000"]);
    scene.scripted.until(|counts| counts.begun == 1).await;
    fs::remove_file(scene.wal.path().join(name("orders", 0, 2))).expect("it is there");
    held.add_permits(1);
    let (refused, deleted) = ("it is stored, and cannot be deleted", "stored, and deleted");
    agent.until("an end", |agent| [refused, deleted].iter().any(|end| agent.log().contains(end)));
    assert_eq!(scene.wal.ids("orders", 0), [1], "{}", agent.log());
    assert!(agent.log().contains("may still grow"), "{}", agent.log());
    scene.check_stored([1]);
}

/// The line is not used at all: its segment counts as not stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_line_of_the_checkpoint_is_no_receipt() {
    let scene = Scene::new().await;
    scene.wal.add_all("orders", 0, 1..=3);
    assert_eq!(scene.once(&["--delete-after-index", "false"]).0, 0);
    let path = scene.wal.path().join(".wal-indexer.checkpoint");
    let text = fs::read_to_string(&path).expect("it is there");
    let damaged = text.replace("\"records\":20", "\"records\":21");
    assert!(text.lines().count() == 3 && damaged != text, "{text}");
    fs::write(&path, damaged).expect("written");
    let (code, log) = scene.once(&[]);
    assert_eq!((code, scene.wal.ids("orders", 0)), (0, vec![3]), "{log}");
    assert!(log.contains("the checkpoint is damaged"), "{log}");
    assert!(scene.sent().values().all(|times| *times == 2), "{:?}", scene.sent());
    scene.check_stored(1..=2);
}
