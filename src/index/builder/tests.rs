use super::super::testing::{TestRecord, batch, valued};
use super::*;

fn built(batches: &[RecordBatch]) -> IndexPart {
    let mut builder = IndexBuilder::new(TopicSettings::default()).unwrap();
    for batch in batches {
        builder.add(batch).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn no_records_make_no_tantivy_segment() {
    let part = built(&[RecordBatch::default()]);
    assert_eq!((part.documents(), part.segments.len()), (0, 0));
}

#[test]
fn every_record_becomes_one_document_whatever_it_holds() {
    let values: [Option<&[u8]>; 8] = [
        None,
        Some(b""),
        Some(b"\xff\xfe\x00"),
        Some(b"{\"a\": {\"b\": [1, \"x\", null, {}]}}"),
        Some(b"{broken"),
        Some(b"[1, 2]"),
        Some(b"null"),
        Some("ünïcode 🦀".as_bytes()),
    ];
    let records = values.iter().enumerate().map(|(offset, value)| TestRecord {
        offset: offset as i64,
        value: value.map(<[u8]>::to_vec),
        ..TestRecord::default()
    });
    let part = built(&[batch(&records.collect::<Vec<_>>())]);
    assert_eq!(part.documents(), 8);
    assert_eq!(part.unsearchable.values_not_utf8, 1);
}

#[test]
fn the_next_tantivy_segment_begins_where_the_limit_is_passed() {
    let lines: Vec<String> = (0..60_000).map(|n| format!("{{\"id\": \"word{n} other{n}\"}}")).collect();
    let mut builder = IndexBuilder::with_segment_bytes_max(TopicSettings::default(), 2 << 20).unwrap();
    builder.add(&valued(&lines)).unwrap();
    assert_eq!(builder.documents(), 60_000);
    let part = builder.finish().unwrap();
    assert!(part.segments.len() > 1, "{}", part.segments.len());
    assert_eq!(part.documents(), 60_000);
}

#[test]
fn memory_is_counted_from_the_first_record_on_and_grows_with_them() {
    let mut builder = IndexBuilder::new(TopicSettings::default()).unwrap();
    assert!(builder.mem_usage() < 4_096, "{}", builder.mem_usage());
    builder.add(&valued(&["one"])).unwrap();
    let first = builder.mem_usage();
    assert!((1_024..64 << 10).contains(&first), "{first}");
    let lines: Vec<String> = (0..100_000).map(|n| format!("a{n} b{n} c{n}")).collect();
    builder.add(&valued(&lines)).unwrap();
    assert!(builder.mem_usage() > first + 300_000 * 20, "{}", builder.mem_usage());
}

#[test]
fn what_finishing_takes_is_foreseen() {
    let lines: Vec<String> =
        (0..50_000).map(|n| format!(r#"{{"id": "{n:x}{n:016x}", "n": {n}, "text": "a b c {n}"}}"#)).collect();
    for positions in [false, true] {
        let mut builder = IndexBuilder::new(TopicSettings { positions, ..Default::default() }).unwrap();
        assert_eq!(builder.finish_usage(), 0);
        builder.add(&valued(&lines)).unwrap();
        let (held, foreseen) = (builder.mem_usage(), builder.finish_usage());
        assert!(foreseen < 2 * held, "{held} {foreseen}");
        let files = builder.finish().unwrap().mem_usage();
        assert!(held + foreseen > 2 * files, "{held} {foreseen} {files}");
    }
}
