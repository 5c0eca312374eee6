//! Our files are equal to those of Tantivy's own writer, byte for byte.

use std::path::PathBuf;

use tantivy::columnar::{ColumnType, ColumnarReader};
use tantivy::{DocId, f64_to_u64, u64_to_i64};

use super::super::schema::TERM_BYTES_MAX;
use super::super::testing::stock;
use super::super::testing::{TestRecord, batch, valued};
use super::super::{TopicSettings, ValueMode};
use super::*;
use crate::generate::logs::Logs;
use crate::record::RecordBatch;
use crate::segment::FrameSplitter;

mod nasty;

const MODES: [ValueMode; 4] = [ValueMode::Auto, ValueMode::Json, ValueMode::Text, ValueMode::None];

fn built(settings: TopicSettings, batches: &[RecordBatch]) -> (PartSegment, u64) {
    let (_, fields) = schema::build(settings.positions);
    let mut segment = SegmentBuilder::new(&fields, settings.positions);
    let mut indexed = IndexedRecord::new(settings.value);
    for record in batches.iter().flat_map(RecordBatch::iter) {
        indexed.fill(&record);
        segment.add(&indexed);
    }
    let words_too_long = segment.words_too_long();
    (segment.finish().unwrap(), words_too_long)
}

fn check_with(settings: TopicSettings, batches: &[RecordBatch], what: &str) {
    let (expected, expected_too_long) = stock::segment(settings, batches);
    let (found, too_long) = built(settings, batches);
    assert_eq!(found.documents, expected.documents, "{what} {settings:?}");
    assert_eq!(too_long, expected_too_long, "{what} {settings:?}");
    let names =
        |segment: &PartSegment| segment.files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{what} {settings:?}");
    for ((name, found), (_, expected)) in found.files.iter().zip(&expected.files) {
        let differ = found.iter().zip(expected).position(|(a, b)| a != b);
        let lens = (found.len(), expected.len());
        let same = found == expected || name == "fast" && columns(found) == columns(expected);
        assert!(same, "{what} {settings:?}: {name} differs at {differ:?}, lengths {lens:?}");
    }
}

/// Returns the names of columns with their documents and values. All numbers are rounded as Tantivy rounds
/// whole numbers beside fractions: we set such whole numbers apart, where Tantivy's own writer rounds them.
fn columns(file: &Bytes) -> Vec<(String, bool, DocId, u64)> {
    // After the columns come Tantivy's footer, its length, and its kind.
    let (rest, _) = file.split_at(file.len() - 4);
    let (rest, footer_bytes) = rest.split_last_chunk::<4>().unwrap();
    let columns = &rest[..rest.len() - u32::from_le_bytes(*footer_bytes) as usize];
    let reader = ColumnarReader::open(columns.to_vec()).unwrap();
    let mut values = Vec::new();
    for (name, handle) in reader.list_columns().unwrap() {
        let (kind, column) = (handle.column_type(), handle.open_u64_lenient().unwrap().unwrap());
        for doc in 0..column.num_docs() {
            values.extend(column.values_for_doc(doc).map(|value| {
                let value = match kind {
                    ColumnType::I64 => f64_to_u64(u64_to_i64(value) as f64),
                    ColumnType::U64 => f64_to_u64(value as f64),
                    _ => value,
                };
                (name.clone(), kind == ColumnType::DateTime, doc, value)
            }));
        }
    }
    values.sort();
    values
}

fn check(batches: &[RecordBatch], what: &str) {
    for value in MODES {
        for positions in [false, true] {
            check_with(TopicSettings { value, positions }, batches, what);
        }
    }
}

fn logs(seed: u64, records: i64) -> RecordBatch {
    let mut logs = Logs::new(seed);
    (0..records).for_each(|offset| logs.push(offset));
    logs.take()
}

#[test]
fn generated_logs_are_written_as_tantivy_writes_them() {
    for seed in 1..=5 {
        check(&[logs(seed, 700)], &format!("seed {seed}"));
    }
}

#[test]
fn many_records_are_written_as_tantivy_writes_them() {
    let batches = [logs(77, 20_000), logs(78, 1)];
    for positions in [false, true] {
        check_with(TopicSettings { positions, ..TopicSettings::default() }, &batches, "many");
    }
}

#[test]
fn fixtures_are_written_as_tantivy_writes_them() {
    let mut count = 0;
    for folder in ["kafka", "chronik"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if !path.extension().is_some_and(|extension| extension == "log" || extension == "wal") {
                continue;
            }
            let batches = batches(std::fs::read(&path).unwrap());
            if batches.iter().any(|batch| !batch.records.is_empty()) {
                check(&batches, &path.display().to_string());
                count += 1;
            }
        }
    }
    assert!(count > 15, "{count}");
}

/// Returns all batches that can be read. Some fixtures are damaged segments.
fn batches(segment: Vec<u8>) -> Vec<RecordBatch> {
    let (mut splitter, mut frames) = (FrameSplitter::new(segment.len() as u64, None), Vec::new());
    let _ = splitter.push(segment.into(), &mut frames).map(|_| splitter.finish());
    frames.iter().filter_map(|frame| frame.decode(64 << 20).ok()).map(|decoded| decoded.records).collect()
}

#[test]
fn the_same_records_make_the_same_bytes_each_time() {
    let batches = [logs(3, 2_000)];
    let files = || built(TopicSettings::default(), &batches).0.files;
    let first = files();
    for _ in 0..4 {
        assert!(files() == first);
    }
}

#[test]
fn words_of_all_lengths_are_written_as_tantivy_writes_them() {
    let lens = [1, 2, 7, 8, 9, 15, 16, 17, 24, 39, 40, 41, 255, 256, 32_767, 32_768, 65_500];
    let near = TERM_BYTES_MAX - 2..TERM_BYTES_MAX + 12;
    let words: Vec<String> = lens
        .into_iter()
        .chain(near)
        .flat_map(|len| ["x".repeat(len), format!("{}y", "x".repeat(len - 1)), "É".repeat(len / 2)])
        .collect();
    let one = words.iter().map(|word| format!(r#"{{"a": "b {word} c", "d": "{word}"}}"#));
    let all = words.join(" - ");
    let values: Vec<String> =
        one.chain([all.clone(), format!(r#"{{"a": "{all}", "b": ["{all}"]}}"#)]).collect();
    check(&[valued(&values)], "long");
}

#[test]
fn no_record_at_all_and_no_term_at_all_are_written_as_tantivy_writes_them() {
    check(&[RecordBatch::default()], "none");
    check(&[valued(&["", "{}", "--", r#"{"a": null, "b": []}"#])], "no terms");
    check(&[batch(&[TestRecord::default()])], "empty");
}
