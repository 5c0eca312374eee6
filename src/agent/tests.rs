//! Tests of what is sent, what may be deleted, and what is remembered.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tempfile::TempDir;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::deletable_prefix::deletable_prefix;
use super::plan::plan;
use super::segment_states::{Now, SegmentStates};
use super::{Retention, Settings};
use crate::client::Receipt;
use crate::ids::{LogId, TopicPartition};
use crate::wal::{ChangeTime, Segment, Verdict, Version};

const SECOND: Duration = Duration::from_secs(1);

fn segment(topic: &str, position: u64) -> Segment {
    let changed_at = SystemTime::UNIX_EPOCH + SECOND * 1_000_000;
    Segment {
        name: format!("{topic}/{position}"),
        partition: TopicPartition::new(topic, 0).expect("a name"),
        log_id: LogId::new("0"),
        format: None,
        position,
        version: Version { size_bytes: 100 + position, changed_at, identity: position },
        may_grow: false,
        broker_deletes: false,
        verdict: None,
        change_time: None,
        bounds: None,
    }
}

fn receipt(segment: &Segment) -> Receipt {
    let digest = json!({
        "size_bytes": segment.version.size_bytes, "crc32c": 1, "sha256": vec![7; 32], "records": 3, "torn_bytes": 0,
    });
    let receipt = json!({
        "digest": digest, "keys": ["key"], "data_records": 3, "stored_bytes": 50, "already_existed": false,
        "worker": "127.0.0.1:1", "attempts": 1,
    });
    serde_json::from_value(receipt).expect("a receipt")
}

fn now() -> Now {
    Now { wall: SystemTime::UNIX_EPOCH + SECOND * 2_000_000, monotonic: Instant::now() }
}

/// Returns states in which these segments were just listed, and a checkpoint without receipts.
async fn listed(segments: &[Segment]) -> (SegmentStates, Checkpoint, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let checkpoint = Checkpoint::open(dir.path(), "test").await.expect("a checkpoint");
    let mut states = SegmentStates::new();
    states.take_listing(segments.to_vec().into(), Instant::now(), now());
    (states, checkpoint, dir)
}

/// Checks which segments of a partition may be deleted (`goes`), and which segment is the first that stays
/// (`stops_at`), by position. Each letter is a segment: `s` stored, `u` unsent, `c` changed since it was
/// stored, `r` rejected by its listing, `R` rejected just now, `k` skipped, `K` stored and then skipped, `g`
/// stored and may grow, `b` stored, and only its broker may delete it.
async fn check_settled(letters: &str, delete_after_index: bool, goes: &[u64], stops_at: Option<u64>) {
    let letters: Vec<char> = letters.chars().collect();
    let described = |(position, letter): (usize, &char)| Segment {
        may_grow: *letter == 'g',
        broker_deletes: *letter == 'b',
        verdict: match letter {
            'r' => Some(Verdict::Rejected),
            'k' | 'K' => Some(Verdict::Skipped),
            _ => None,
        },
        ..segment("topic", position as u64)
    };
    // Listings have no order.
    let segments: Vec<_> = letters.iter().enumerate().rev().map(described).collect();
    let (mut states, mut checkpoint, _dir) = listed(&segments).await;
    for segment in &segments {
        let letter = letters[segment.position as usize];
        let mut of = segment.clone();
        of.version.identity += u64::from(letter == 'c') * 1_000;
        match letter {
            's' | 'c' | 'g' | 'b' | 'K' => checkpoint.remember(&of, receipt(&of)).await.expect("written"),
            'R' => states.rejected(segment, false),
            _ => {}
        }
    }
    let settings = Settings { delete_after_index, ..Settings::default() };
    let partition = TopicPartition::new("topic", 0).expect("a name");
    let prefix = deletable_prefix(states.partition(&partition), &states, &checkpoint, (&settings, now()));
    let may_go: Vec<_> = prefix.may_go.iter().map(|(segment, _)| segment.position).collect();
    assert_eq!(may_go, goes, "{letters:?}");
    assert_eq!(prefix.stops_at.map(|segment| segment.position), stops_at, "{letters:?}");
}

#[tokio::test]
async fn only_the_contiguous_prefix_that_is_stored_may_go() {
    for (letters, goes, stops_at) in [
        ("", &[][..], None),
        ("s", &[0], None),
        ("sss", &[0, 1, 2], None),
        ("u", &[], Some(0)),
        ("uss", &[], Some(0)),
        ("sus", &[0], Some(1)),
        ("ssu", &[0, 1], Some(2)),
        ("scs", &[0], Some(1)),
        ("srs", &[0], Some(1)),
        ("sRs", &[0], Some(1)),
        ("sks", &[0, 2], None),
        ("ksusk", &[1], Some(2)),
        ("sKs", &[0, 2], None),
        ("krs", &[], Some(1)),
        ("ssg", &[0, 1], Some(2)),
        ("gs", &[], Some(0)),
        ("bbb", &[], Some(0)),
        ("sbs", &[0], Some(1)),
    ] {
        check_settled(letters, true, goes, stops_at).await;
    }
}

#[tokio::test]
async fn nothing_goes_where_nothing_is_to_be_deleted() {
    check_settled("sss", false, &[], Some(0)).await;
    check_settled("kss", false, &[], Some(1)).await;
}

/// Checks which of these sealed segments may be deleted. All are stored and have at least 100 bytes. `ages`
/// says how many seconds ago each one changed.
async fn check_retained(retention: Retention, ages: &[u32], goes: &[u64]) {
    let described = |(position, age): (usize, &u32)| {
        let mut segment = segment("topic", position as u64);
        segment.version.changed_at = now().wall - SECOND * *age;
        segment
    };
    let segments: Vec<_> = ages.iter().enumerate().map(described).collect();
    let (states, mut checkpoint, _dir) = listed(&segments).await;
    for segment in &segments {
        checkpoint.remember(segment, receipt(segment)).await.expect("written");
    }
    let settings = Settings { retention, ..Settings::default() };
    let partition = TopicPartition::new("topic", 0).expect("a name");
    let prefix = deletable_prefix(states.partition(&partition), &states, &checkpoint, (&settings, now()));
    let may_go: Vec<_> = prefix.may_go.iter().map(|(segment, _)| segment.position).collect();
    assert_eq!(may_go, goes, "{retention:?}");
    assert_eq!(prefix.is_retained, goes.len() < ages.len(), "{retention:?}");
}

#[tokio::test]
async fn what_is_to_stay_on_disk_for_longer_stays() {
    let none = Retention::default();
    let ages = [50, 40, 30, 20, 10];
    check_retained(none, &ages, &[0, 1, 2, 3, 4]).await;
    for (segments, goes) in [(1, &[0, 1, 2, 3][..]), (3, &[0, 1]), (5, &[]), (9, &[])] {
        check_retained(Retention { segments, ..none }, &ages, goes).await;
    }
    // The segments have 100 to 104 bytes. One stays while those behind it have fewer bytes than the setting.
    for (bytes, goes) in [(1, &[0, 1, 2, 3][..]), (104, &[0, 1, 2, 3]), (105, &[0, 1, 2]), (411, &[])] {
        check_retained(Retention { bytes, ..none }, &ages, goes).await;
    }
    for (age, goes) in [(10, &[0, 1, 2, 3, 4][..]), (11, &[0, 1, 2, 3]), (45, &[0]), (99, &[])] {
        check_retained(Retention { age: SECOND * age, ..none }, &ages, goes).await;
    }
    // A segment stays if one of the settings requires it. All segments behind it stay, too.
    check_retained(Retention { segments: 1, bytes: 1, age: SECOND * 45 }, &ages, &[0]).await;
    check_retained(Retention { segments: 3, bytes: 1, age: SECOND }, &ages, &[0, 1]).await;
    check_retained(Retention { age: SECOND * 25, ..none }, &[50, 10, 40], &[0]).await;
}

#[tokio::test]
async fn a_receipt_is_believed_only_for_a_file_that_nobody_touched() {
    let (_, mut checkpoint, _dir) = listed(&[]).await;
    let mut one = segment("topic", 0);
    one.change_time = Some(ChangeTime { secs: 7, nanos: 8 });
    checkpoint.remember(&one, receipt(&one)).await.expect("written");
    assert!(!checkpoint.get(&one).expect("a receipt").is_to_be_read(&one));
    for change_time in [Some(ChangeTime { secs: 7, nanos: 9 }), Some(ChangeTime { secs: 6, nanos: 8 }), None]
    {
        let touched = Segment { change_time, ..one.clone() };
        assert!(checkpoint.get(&touched).expect("a receipt").is_to_be_read(&touched), "{change_time:?}");
        checkpoint.confirm(&touched);
        assert!(!checkpoint.get(&touched).expect("a receipt").is_to_be_read(&touched), "{change_time:?}");
    }
}

/// The names of the planned segments, in order. Some segments are in flight.
fn planned(
    states: &SegmentStates,
    checkpoint: &Checkpoint,
    on_their_way: &[&str],
    when: (u64, Now),
) -> Vec<String> {
    let settings = Settings { max_segments_per_run: 4, ..Settings::default() };
    let in_flight: HashSet<_> = on_their_way.iter().copied().collect();
    let (round, now) = when;
    let plan = plan(states, checkpoint, &in_flight, (&settings, round, now));
    assert!(!plan.is_cut || plan.queue.len() == 4);
    let mut names: Vec<_> = plan.queue.into_iter().map(|segment| segment.name).collect();
    names.extend(plan.is_cut.then(|| "…".to_owned()));
    names
}

#[tokio::test]
async fn each_partition_has_its_turn_and_the_oldest_comes_first() {
    let old = |topic, position, age: u32| {
        let mut segment = segment(topic, position);
        segment.version.changed_at -= SECOND * age;
        segment
    };
    let segments = [
        old("busy", 3, 7),
        old("busy", 1, 9),
        old("busy", 2, 8),
        old("quiet", 1, 1),
        old("odd", 5, 30),
        old("odd", 6, 40),
    ];
    let (states, checkpoint, _dir) = listed(&segments).await;
    let names = planned(&states, &checkpoint, &[], (1, now()));
    assert_eq!(names, ["odd/5", "busy/1", "quiet/1", "odd/6", "…"]);
    let names = planned(&states, &checkpoint, &["odd/5", "busy/1", "quiet/1"], (1, now()));
    assert_eq!(names, ["odd/6", "busy/2", "busy/3"], "what is on its way is not sent twice");
}

#[tokio::test]
async fn what_is_stored_rejected_or_skipped_is_not_sent() {
    let mut segments: Vec<_> = (0..6).map(|position| segment("topic", position)).collect();
    segments[1].verdict = Some(Verdict::Rejected);
    segments[2].verdict = Some(Verdict::Skipped);
    segments[5].may_grow = true;
    let (mut states, mut checkpoint, _dir) = listed(&segments).await;
    checkpoint.remember(&segments[0], receipt(&segments[0])).await.expect("written");
    states.rejected(&segments[3], true);
    assert_eq!(planned(&states, &checkpoint, &[], (1, now())), ["topic/4", "topic/5"]);
}

#[tokio::test]
async fn what_failed_waits_for_the_next_round_and_then_for_those_that_did_not() {
    let segments: Vec<_> = (0..6).map(|position| segment("topic", position)).collect();
    let (mut states, checkpoint, _dir) = listed(&segments).await;
    for position in [0, 1, 1] {
        states.failed(&segments[position], 1);
    }
    let names = planned(&states, &checkpoint, &[], (1, now()));
    assert_eq!(names, ["topic/2", "topic/3", "topic/4", "topic/5"]);
    let names = planned(&states, &checkpoint, &["topic/2", "topic/3", "topic/4"], (2, now()));
    assert_eq!(names, ["topic/5", "topic/0", "topic/1"]);
    // Another version has not failed.
    let mut changed = segments.clone();
    changed[1].version.size_bytes += 1;
    states.take_listing(changed.into(), Instant::now(), now());
    assert_eq!(planned(&states, &checkpoint, &[], (2, now()))[..2], ["topic/1", "topic/2"]);
}

#[tokio::test]
async fn a_segment_is_old_enough_by_its_files_clock_or_by_ours() {
    let begin = now();
    let mut fresh = segment("topic", 0);
    for (changed_at, watched, is_sent) in [
        (begin.wall - SECOND * 11, Duration::ZERO, true),
        (begin.wall - SECOND * 9, Duration::ZERO, false),
        (begin.wall - SECOND * 9, SECOND * 9, true),
        (begin.wall + SECOND * 3_600, SECOND * 9, false),
        (begin.wall + SECOND * 3_600, SECOND * 10, true),
    ] {
        fresh.version.changed_at = changed_at;
        let (mut states, checkpoint, _dir) = listed(&[]).await;
        states.take_listing(vec![fresh.clone()].into(), begin.monotonic, begin);
        let later = Now { wall: begin.wall + watched, monotonic: begin.monotonic + watched };
        states.take_listing(vec![fresh.clone()].into(), later.monotonic, later);
        let names = planned(&states, &checkpoint, &[], (1, later));
        assert_eq!(names.len(), usize::from(is_sent), "{changed_at:?} {watched:?}");
    }
    // A change starts the age anew.
    let (mut states, checkpoint, _dir) = listed(&[]).await;
    states.take_listing(vec![fresh.clone()].into(), begin.monotonic, begin);
    let later = Now { wall: begin.wall, monotonic: begin.monotonic + SECOND * 20 };
    fresh.version.size_bytes += 1;
    states.take_listing(vec![fresh].into(), later.monotonic, later);
    assert_eq!(planned(&states, &checkpoint, &[], (1, later)), Vec::<String>::new());
}

#[tokio::test]
async fn a_rejection_counts_until_a_later_listing_can_tell_better() {
    let one = [segment("topic", 0)];
    let (mut states, checkpoint, _dir) = listed(&one).await;
    let before = Instant::now();
    states.rejected(&one[0], true);
    states.take_listing(one.to_vec().into(), before, now());
    assert!(planned(&states, &checkpoint, &[], (1, now())).is_empty(), "that listing began before the note");
    states.take_listing(one.to_vec().into(), Instant::now(), now());
    assert_eq!(planned(&states, &checkpoint, &[], (1, now())), ["topic/0"], "somebody took the note away");
    states.rejected(&one[0], false);
    states.take_listing(one.to_vec().into(), Instant::now(), now());
    assert!(planned(&states, &checkpoint, &[], (1, now())).is_empty(), "no listing will ever tell");
}

#[tokio::test]
async fn what_was_deleted_while_a_listing_was_under_way_is_not_there() {
    let segments = [segment("topic", 0), segment("topic", 1)];
    let (mut states, checkpoint, _dir) = listed(&segments).await;
    states.begin_listing();
    states.remove(&segments[0]);
    let backlog = states.backlog(&checkpoint).expect("listed");
    assert_eq!((backlog.segments, backlog.bytes), (1, 101));
    let mut again = segments[0].clone();
    again.version.identity = 77;
    states.take_listing(segments.to_vec().into(), Instant::now(), now());
    assert!(!states.holds("topic/0"));
    states.take_listing([again, segments[1].clone()].to_vec().into(), Instant::now(), now());
    assert!(states.holds("topic/0"), "another one of the same name");
}

#[tokio::test]
async fn the_backlog_is_what_has_no_receipt_and_is_not_given_up() {
    let mut segments: Vec<_> = (0..5).map(|position| segment("topic", position)).collect();
    segments[1].verdict = Some(Verdict::Rejected);
    segments[2].verdict = Some(Verdict::Skipped);
    segments[2].version.changed_at -= SECOND * 100;
    segments[3].version.changed_at -= SECOND * 50;
    segments[4].may_grow = true;
    assert_eq!(SegmentStates::new().backlog(&listed(&[]).await.1), None, "nobody has seen what is there");
    let (states, mut checkpoint, _dir) = listed(&segments).await;
    checkpoint.remember(&segments[0], receipt(&segments[0])).await.expect("written");
    let backlog = states.backlog(&checkpoint).expect("listed");
    assert_eq!((backlog.segments, backlog.bytes), (3, 101 + 103 + 104));
    assert_eq!((backlog.sealed_bytes, backlog.rejected, backlog.skipped), (100 + 101 + 102 + 103, 1, 1));
    assert_eq!(backlog.oldest.expect("one").changed_at, segments[3].version.changed_at);
}

#[tokio::test]
async fn what_is_missed_was_sealed_and_is_in_no_store() {
    let mut segments: Vec<_> = (0..6).map(|position| segment("topic", position)).collect();
    segments[1].verdict = Some(Verdict::Rejected);
    segments[2].verdict = Some(Verdict::Skipped);
    segments[5].may_grow = true;
    let (states, mut checkpoint, _dir) = listed(&segments).await;
    checkpoint.remember(&segments[0], receipt(&segments[0])).await.expect("written");
    let mut changed = segments[4].clone();
    changed.version.size_bytes += 1;
    assert_eq!(
        states.vanished(&vec![changed].into(), &checkpoint),
        [[segments[1].clone(), segments[3].clone()]]
    );
    assert!(states.vanished(&segments.clone().into(), &checkpoint).is_empty());
}

/// A checkpoint with a receipt for each of `0..count`.
async fn remembered(dir: &TempDir, count: u64) -> Vec<Segment> {
    let mut checkpoint = Checkpoint::open(dir.path(), "test").await.expect("a checkpoint");
    let segments: Vec<_> = (0..count).map(|position| segment("topic", position)).collect();
    for segment in &segments {
        checkpoint.remember(segment, receipt(segment)).await.expect("written");
    }
    segments
}

/// The number of segments that a newly started agent remembers. Each must be read again before it is deleted.
async fn recalled(dir: &TempDir, segments: &[Segment]) -> usize {
    let checkpoint = Checkpoint::open(dir.path(), "test").await.expect("a checkpoint");
    let entries = segments.iter().filter_map(|segment| Some((segment, checkpoint.get(segment)?)));
    let of_them = |(segment, entry): &(&Segment, &super::checkpoint::Entry)| {
        assert!(entry.is_to_be_read(segment) && entry.receipt == receipt(segment));
    };
    entries.inspect(of_them).count()
}

#[tokio::test]
async fn receipts_outlive_the_process_for_exactly_what_they_are_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let segments = remembered(&dir, 3).await;
    assert_eq!(recalled(&dir, &segments).await, 3);
    let alter: [fn(&mut Segment); 6] = [
        |it| it.name.push('x'),
        |it| it.version.size_bytes += 1,
        |it| it.version.changed_at += Duration::from_nanos(1),
        |it| it.version.identity += 1,
        |it| it.log_id = LogId::new("other"),
        |it| it.partition = TopicPartition::new("topic", 1).expect("a name"),
    ];
    for alter in alter {
        let mut other = segments[1].clone();
        alter(&mut other);
        assert_eq!(recalled(&dir, &[other.clone()]).await, 0, "{other:?}");
    }
}

#[tokio::test]
async fn a_receipt_of_another_length_is_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut checkpoint = Checkpoint::open(dir.path(), "test").await.expect("a checkpoint");
    let (one, two) = (segment("topic", 1), segment("topic", 2));
    checkpoint.remember(&one, receipt(&two)).await.expect("written");
    assert_eq!(checkpoint.get(&one), None);
}

#[tokio::test]
async fn a_checkpoint_cut_anywhere_loses_only_the_lines_that_are_not_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let segments = remembered(&dir, 3).await;
    let path = dir.path().join("test.checkpoint");
    let whole = std::fs::read(&path).expect("it is there");
    for cut in (0..=whole.len()).rev() {
        std::fs::write(&path, &whole[..cut]).expect("written");
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(recalled(&dir, &segments).await, lines.saturating_sub(1), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_damaged_line_ends_what_is_believed_and_new_lines_are_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let segments = remembered(&dir, 3).await;
    let path = dir.path().join("test.checkpoint");
    let whole = std::fs::read(&path).expect("it is there");
    let second_line = whole.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    for at in second_line..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).expect("written");
        let lines = whole[second_line..at].iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(recalled(&dir, &segments).await, lines, "damaged at {at}");
    }
    let mut checkpoint = Checkpoint::open(dir.path(), "test").await.expect("a checkpoint");
    checkpoint.remember(&segments[2], receipt(&segments[2])).await.expect("written");
    drop(checkpoint);
    assert_eq!(recalled(&dir, &segments).await, 3, "what was behind the damage was written anew");
}

#[tokio::test]
async fn what_is_no_checkpoint_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.checkpoint");
    for text in ["wal-indexer checkpoint 2\n", "something else", "wal-indexer checkpoint 1 "] {
        std::fs::write(&path, text).expect("written");
        let opened = Checkpoint::open(dir.path(), "test").await;
        assert!(matches!(opened, Err(CheckpointError::Foreign { .. })), "{text:?}: {opened:?}");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), text);
    }
}

#[tokio::test]
async fn a_checkpoint_is_one_agents_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Checkpoint::open(dir.path(), "test").await.expect("a checkpoint");
    let second = Checkpoint::open(dir.path(), "test").await;
    assert!(matches!(second, Err(CheckpointError::Locked { .. })), "{second:?}");
    Checkpoint::open(dir.path(), "other").await.expect("that of another directory");
    drop(first);
    Checkpoint::open(dir.path(), "test").await.expect("it is free again");
}

#[tokio::test]
async fn a_checkpoint_does_not_grow_with_what_is_gone_and_keeps_what_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut checkpoint = Checkpoint::open(dir.path(), "test").await.expect("a checkpoint");
    let stays = segment("topic", 0);
    checkpoint.remember(&stays, receipt(&stays)).await.expect("written");
    let mut longest = 0;
    for position in 1..1_000 {
        let goes = segment("topic", position);
        checkpoint.remember(&goes, receipt(&goes)).await.expect("written");
        match position % 2 {
            0 => checkpoint.forget(&goes.name),
            _ => checkpoint.retain(|name, _| name == stays.name),
        }
        let text = std::fs::read_to_string(dir.path().join("test.checkpoint")).expect("it is there");
        longest = longest.max(text.lines().count());
    }
    assert!((100..300).contains(&longest), "{longest} lines");
    drop(checkpoint);
    assert_eq!(recalled(&dir, &[stays]).await, 1);
}
