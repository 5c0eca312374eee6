use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use super::{Wal, frame, kind};
use crate::wal::rejection_note::{self, RejectionNote, RejectionNoteError, RejectionNotes};
use crate::wal::{Rejection, SealedSegments, Verdict, WalError};

const NAME: &str = "orders/0/wal_0_1.log";
const NEWEST: &str = "orders/0/wal_0_2.log";
const NOTE: &str = "orders/0/wal_0_1.log.rejected.json";

fn rejection() -> Rejection {
    Rejection {
        code: "DATA_LOSS".to_owned(),
        reason: "CRC_MISMATCH".to_owned(),
        message: "frame 7: the checksum is not that of its bytes".to_owned(),
        position: Some(4096),
    }
}

async fn rejected() -> Wal {
    let wal = Wal::of(&[NAME, NEWEST]);
    wal.dir.reject(&wal.segment(NAME).await, &rejection()).await.expect("a note");
    wal
}

fn note(wal: &Wal) -> RejectionNote {
    serde_json::from_slice(&fs::read(wal.path(NOTE)).expect("a note")).expect("JSON")
}

async fn verdict(wal: &Wal) -> Option<Verdict> {
    wal.segment(NAME).await.verdict
}

#[tokio::test]
async fn a_rejected_segment_stays_and_a_note_says_why() {
    let wal = rejected().await;
    assert_eq!(wal.files(), [NAME, NOTE, NEWEST]);
    assert_eq!(verdict(&wal).await, Some(Verdict::Rejected));
    let note: Value = serde_json::from_slice(&fs::read(wal.path(NOTE)).expect("a note")).expect("JSON");
    assert_eq!(note["verdict"], "rejected");
    assert_eq!(note["code"], "DATA_LOSS");
    assert_eq!(note["reason"], "CRC_MISMATCH");
    assert_eq!(note["message"], "frame 7: the checksum is not that of its bytes");
    assert_eq!(note["position"], 4096);
    assert!(
        note["rejected_at"].as_str().is_some_and(|at| at.starts_with("20") && at.ends_with('Z')),
        "{note}"
    );
    assert_eq!(note["version"]["size_bytes"], frame(1).len());
}

#[tokio::test]
async fn a_note_counts_until_the_segment_changes() {
    let wal = rejected().await;
    wal.write(NAME, b"mended");
    wal.write(NEWEST, &frame(2));
    assert_eq!(verdict(&wal).await, None);
    wal.dir.reject(&wal.segment(NAME).await, &rejection()).await.expect("another note");
    assert_eq!(verdict(&wal).await, Some(Verdict::Rejected));
}

#[tokio::test]
async fn what_has_gone_or_changed_is_not_noted() {
    for (happens, expected) in [(true, "gone"), (false, "changed")] {
        let wal = Wal::of(&[NAME, NEWEST]);
        let segment = wal.segment(NAME).await;
        match happens {
            true => fs::remove_file(wal.path(NAME)).expect("it is there"),
            false => wal.write(NAME, b"something else"),
        }
        let error = wal.dir.reject(&segment, &rejection()).await.expect_err(expected);
        assert_eq!(kind(&error), expected);
        assert!(!wal.path(NOTE).exists());
    }
}

#[tokio::test]
async fn a_note_that_cannot_be_read_counts_as_a_rejection() {
    let wal = Wal::of(&[NAME, NEWEST]);
    for text in ["", "{", "{}", r#"{"verdict":"skipped"}"#, "null"] {
        wal.write(NOTE, text.as_bytes());
        assert_eq!(verdict(&wal).await, Some(Verdict::Rejected), "{text:?}");
    }
    fs::remove_file(wal.path(NOTE)).expect("ours");
    fs::create_dir(wal.path(NOTE)).expect("a directory");
    assert_eq!(verdict(&wal).await, Some(Verdict::Rejected));
    fs::remove_dir(wal.path(NOTE)).expect("ours");
    symlink("/nowhere", wal.path(NOTE)).expect("a link");
    assert_eq!(verdict(&wal).await, Some(Verdict::Rejected));

    fs::remove_file(wal.path(NOTE)).expect("ours");
    wal.write(NOTE, b"{");
    rejection_note::skip(&wal.path(NAME), &RejectionNotes::default())
        .expect("an operator overrules what cannot be read");
    assert_eq!(verdict(&wal).await, Some(Verdict::Skipped));
}

#[tokio::test]
async fn a_note_without_a_segment_is_removed() {
    let torn = "orders/0/.wal_0_1.log.rejected.json.4711-0.partial";
    let others = ["orders/0/other.rejected.json", "orders/0/wal_0_1.log.rejected.json.bak"];
    for kafka in [false, true] {
        let wal = match kafka {
            false => Wal::of(&[NAME, NEWEST, NOTE, torn, others[0], others[1]]),
            true => Wal::of(&[
                "orders-0/00000000000000000001.log.rejected.json",
                "orders-0/00000000000000000002.log",
                "orders-0/partition.metadata",
                "orders-0/leader-epoch-checkpoint",
            ]),
        };
        wal.list().await;
        if !kafka {
            assert_eq!(wal.files().len(), 6, "the segment is there");
            fs::remove_file(wal.path(NAME)).expect("it is there");
            wal.list().await;
            assert_eq!(wal.files(), [others[0], others[1], NEWEST]);
        } else {
            assert_eq!(
                wal.files(),
                [
                    "orders-0/00000000000000000002.log",
                    "orders-0/leader-epoch-checkpoint",
                    "orders-0/partition.metadata"
                ]
            );
        }
    }
}

#[tokio::test]
async fn an_operator_skips_a_segment_and_takes_it_back() {
    let wal = rejected().await;
    rejection_note::skip(&wal.path(NAME), &RejectionNotes::default()).expect("a decision");
    assert_eq!(verdict(&wal).await, Some(Verdict::Skipped));
    assert_eq!(note(&wal).rejection, rejection(), "why it was rejected is still said");
    rejection_note::retry(&wal.path(NAME), &RejectionNotes::default()).expect("a decision");
    assert_eq!(verdict(&wal).await, None);
    assert_eq!(wal.files(), [NAME, NEWEST]);
    rejection_note::skip(&wal.path(NAME), &RejectionNotes::default())
        .expect("nobody needs to have rejected it");
    assert_eq!(verdict(&wal).await, Some(Verdict::Skipped));
    wal.write(NAME, b"changed");
    wal.write(NEWEST, &frame(2));
    assert_eq!(verdict(&wal).await, None, "it was skipped as it was");
}

#[tokio::test]
async fn a_rejection_does_not_overrule_an_operator() {
    let wal = Wal::of(&[NAME, NEWEST]);
    let in_flight = wal.segment(NAME).await;
    rejection_note::skip(&wal.path(NAME), &RejectionNotes::default()).expect("a decision");
    wal.dir.reject(&in_flight, &rejection()).await.expect("nothing to do");
    assert_eq!(verdict(&wal).await, Some(Verdict::Skipped));
}

fn refused(result: Result<(), RejectionNoteError>) -> &'static str {
    match result.expect_err("no decision") {
        RejectionNoteError::NoNote { .. } => "no note",
        RejectionNoteError::Segment(error) => kind(&error),
    }
}

#[test]
fn an_operator_may_err() {
    let wal = Wal::of(&[NAME, NEWEST, "orders/0/other.log", "__meta/0/wal_0_1.log", "orders/1/wal_0_1.log"]);
    for (name, expected) in [
        (NEWEST, "may grow"),
        ("orders/0/wal_0_0.log", "gone"),
        ("orders/7/wal_7_0.log", "gone"),
        ("orders/0/other.log", "not a segment"),
        ("orders/0/..", "not a segment"),
        ("orders", "not a segment"),
        ("__meta/0/wal_0_1.log", "not a segment"),
        ("orders/1/wal_0_1.log", "not a segment"),
    ] {
        let path = wal.path(name);
        assert_eq!(refused(rejection_note::skip(&path, &RejectionNotes::default())), expected, "{name}");
    }
    assert_eq!(refused(rejection_note::retry(&wal.path(NAME), &RejectionNotes::default())), "no note");
    assert_eq!(refused(rejection_note::retry(Path::new("/"), &RejectionNotes::default())), "not a segment");
    assert!(matches!(
        rejection_note::skip(Path::new("nothing.log"), &RejectionNotes::default()),
        Err(RejectionNoteError::Segment(WalError::NotASegment { .. }))
    ));
    assert_eq!(wal.files().len(), 5);
}

#[tokio::test]
async fn a_path_leads_over_links_and_dots() {
    let wal =
        Wal::of(&[NAME, NEWEST, "orders-3/00000000000000000001.log", "orders-3/00000000000000000002.log"]);
    let elsewhere = Wal::of(&[]);
    symlink(wal.path("orders/0"), elsewhere.path("link")).expect("a link");
    rejection_note::skip(&elsewhere.path("link/wal_0_1.log"), &RejectionNotes::default()).expect("a segment");
    assert_eq!(verdict(&wal).await, Some(Verdict::Skipped));
    rejection_note::retry(&wal.path("orders/0/../../orders/0/wal_0_1.log"), &RejectionNotes::default())
        .expect("a note");
    assert_eq!(verdict(&wal).await, None);
    rejection_note::skip(&wal.path("orders-3/00000000000000000001.log"), &RejectionNotes::default())
        .expect("Kafka's too");
    assert_eq!(wal.segment("orders-3/00000000000000000001.log").await.verdict, Some(Verdict::Skipped));
}
