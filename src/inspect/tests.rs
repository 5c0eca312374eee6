use std::path::PathBuf;

use super::*;
use crate::archive::Source;
use crate::archive::testing::{fixture, fixtures, pack};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn every_fixture_is_read_to_its_end_with_the_counts_that_its_encoder_states() {
    for name in fixtures() {
        let report = segment(&path(&name), 3, |_| {}).expect(&name);
        assert_eq!((report.error.as_deref(), report.torn_tail_bytes), (None, 0), "{name}");
        assert_eq!(report.size_bytes, fixture(&name).len() as u64);
        let records: u64 = report.partitions.iter().map(|part| part.records).sum();
        assert_eq!(report.first_records.len() as u64, records.min(3), "{name}");
        let Some(kafka) = name.strip_prefix("kafka/").filter(|_| report.size_bytes > 0) else { continue };
        let expected = fixture(&format!("kafka/{}.expected.json", kafka.trim_end_matches(".log")));
        let expected: serde_json::Value = serde_json::from_slice(&expected).expect("JSON");
        assert_eq!(expected["record_count"], records, "{name}");
        assert_eq!(expected["batch_count"], report.frames, "{name}");
        assert_eq!(expected["base_offset"], report.partitions[0].base_offset, "{name}");
        assert_eq!(expected["last_offset"], report.partitions[0].last_offset, "{name}");
    }
}

#[test]
fn codecs_and_kinds_of_frames_are_counted() {
    let report = segment(&path("chronik/v1-then-v2.wal"), 0, |_| {}).expect("a report");
    assert_eq!(report.format, Some("chronik-wal"));
    assert_eq!(report.kinds.keys().copied().collect::<Vec<_>>(), ["chronik-v1", "chronik-v2"]);
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let report = segment(&path(&format!("kafka/{codec}.log")), 0, |_| {}).expect("a report");
        assert_eq!(report.codecs.keys().collect::<Vec<_>>(), [codec]);
    }
}

#[test]
fn damage_is_reported_with_its_place_and_torn_bytes_are_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, source) = (dir.path().join("segment"), fixture("kafka/none.log"));
    std::fs::write(&file, &source[..source.len() - 10]).expect("a file");
    let torn = segment(&file, 0, |_| {}).expect("a report");
    assert_eq!((torn.frames, torn.torn_tail_bytes, torn.error), (3, 5_003 - 10, None));
    let mut damaged = source.to_vec();
    damaged[4_000] ^= 1;
    std::fs::write(&file, &damaged).expect("a file");
    let damaged = segment(&file, 0, |_| {}).expect("a report");
    assert_eq!(damaged.frames, 1);
    assert!(damaged.error.expect("an error").starts_with("CRC_MISMATCH: frame 1 at byte 3960"));
}

#[tokio::test]
async fn a_bundle_in_a_file_is_recognised_and_taken_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, packed) = (dir.path().join("a.tar"), pack(&fixture("kafka/gaps.log"), "").remove(0));
    std::fs::write(&file, packed.object()).expect("a file");
    assert!(is_bundle(&file).expect("a file"));
    assert!(!is_bundle(&path("kafka/gaps.log")).expect("a file"));
    let archive = Archive::open(Source::file(&file).expect("a file")).await.expect("a bundle");
    let report = bundle(&archive);
    assert_eq!(report.manifest, packed.manifest);
    assert_eq!(report.footer_offset, packed.built.footer_offset);
    assert_eq!(report.blocks.iter().map(|block| block.records).sum::<u64>(), packed.manifest.record_count);
    assert_eq!(report.members[0].name, MANIFEST_NAME);
}
