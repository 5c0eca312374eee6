use super::super::sample::{blocks_of, frames, log_lines, manifest_of};
use super::super::{BlockWriter, FrameFacts};
use super::*;

fn sample() -> Manifest {
    let mut manifest = manifest_of(&[blocks_of(&frames(&[100, 200, 300], 10))]);
    manifest.gaps = [(3, 4), (17, 17), (29, 29)]
        .map(|(first, last)| OffsetRange::new(first, last).expect("a gap"))
        .to_vec();
    manifest
}

#[test]
fn the_manifest_is_this_json() {
    let mut manifest = sample();
    manifest.created_by = "wal-indexer 0.1.0".into();
    let sha256 = "ab".repeat(32);
    let expected = format!(
        r#"{{
            "format_version": 2,
            "created_by": "wal-indexer 0.1.0",
            "tantivy": {{"version": "0.27.0", "dictionary": "sstable"}},
            "topic": "orders", "partition": 3, "log_id": "0",
            "base_offset": 0, "last_offset": 29,
            "record_count": 30, "control_record_count": 0, "batch_count": 3,
            "min_timestamp_ms": 0, "max_timestamp_ms": 29,
            "gaps": [[3, 4], [17, 17], [29, 29]],
            "segment": {{
                "id": "orders:3:17", "format": "kafka-log", "size_bytes": 600, "crc32c": "01234567", "sha256": "{sha256}",
                "torn_tail_bytes": 0, "partitions": 1
            }},
            "index": {{
                "settings": {{"value": "auto"}},
                "fields": [{{"path": "value.level", "types": ["text"]}}],
                "segments": [{{"name": "0a", "documents": 30}}],
                "unsearchable": {{"not UTF-8": 2}}
            }},
            "records": {{"blocks": 1, "frames": 3, "plain_bytes": 600}}
        }}"#
    );
    let expected: serde_json::Value = serde_json::from_str(&expected).expect("JSON");
    let encoded = manifest.encode().expect("bytes");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&encoded).expect("JSON"), expected);
    assert!(encoded.starts_with(b"{\"format_version\":2,\"created_by\":"), "the version comes first");
    assert_eq!(encoded.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
    assert_eq!(encoded.last(), Some(&b'\n'));
    assert_eq!(Manifest::parse(&encoded).expect("a manifest"), manifest);
}

#[test]
fn absent_times_are_null_and_come_back_absent() {
    let manifest = manifest_of(&[blocks_of(&frames(&[100], 0))]);
    let encoded = manifest.encode().expect("bytes");
    assert!(String::from_utf8_lossy(&encoded).contains(r#""min_timestamp_ms":null,"max_timestamp_ms":null"#));
    assert_eq!(Manifest::parse(&encoded).expect("a manifest"), manifest);
}

#[test]
fn a_later_version_is_refused_by_name_whatever_else_it_holds() {
    let check = |json: &str, kind, message: &str| {
        let error = Manifest::parse(json.as_bytes()).expect_err(json);
        assert_eq!((error.kind(), error.to_string()), (kind, message.to_owned()));
    };
    let newer = "bundle format version 7 is newer than this build reads (3)";
    check(r#"{"format_version": 7, "nothing": "known"}"#, Kind::Unsupported, newer);
    check(r#"{"format_version": 0}"#, Kind::Corrupt, "manifest: format_version is 0");
    let missing = "manifest at line 1, column 2: missing field `format_version` at line 1 column 2";
    check("{}", Kind::Corrupt, missing);
    let empty = "manifest at line 1, column 0: EOF while parsing a value at line 1 column 0";
    check("", Kind::Corrupt, empty);
}

#[test]
fn a_manifest_that_contradicts_itself_is_neither_written_nor_read() {
    let check = |field: &str, what: &str, change: &dyn Fn(&mut Manifest)| {
        let mut manifest = sample();
        change(&mut manifest);
        let expected = format!("manifest: {field} {what}");
        assert_eq!(manifest.encode().expect_err(&expected).to_string(), expected);
        let bytes = serde_json::to_vec(&manifest).expect("JSON");
        assert_eq!(Manifest::parse(&bytes).expect_err(&expected).to_string(), expected);
    };
    let gap = |first, last| OffsetRange::new(first, last).expect("a gap");
    check("topic", "is empty", &|manifest| manifest.topic.clear());
    check("partition", "is negative", &|manifest| manifest.partition = -1);
    check("base_offset", "is above last_offset", &|manifest| manifest.base_offset = 30);
    check("min_timestamp_ms", "is above max_timestamp_ms", &|manifest| manifest.min_timestamp_ms = Some(30));
    let only_min = "is absent, though min_timestamp_ms is not";
    check("max_timestamp_ms", only_min, &|manifest| manifest.max_timestamp_ms = None);
    let only_max = "is absent, though max_timestamp_ms is not";
    check("min_timestamp_ms", only_max, &|manifest| manifest.min_timestamp_ms = None);
    let beyond = "reach beyond the bundle's offsets";
    check("gaps", beyond, &|manifest| manifest.gaps.push(gap(30, 30)));
    check("gaps", beyond, &|manifest| manifest.gaps.insert(0, gap(-1, 0)));
    let unmerged = "are not ascending and merged";
    check("gaps", unmerged, &|manifest| manifest.gaps.reverse());
    check("gaps", unmerged, &|manifest| manifest.gaps = vec![gap(1, 3), gap(3, 4)]);
    check("gaps", unmerged, &|manifest| manifest.gaps = vec![gap(1, 3), gap(4, 4)]);
}

#[test]
fn hexadecimal_and_names_are_read_only_as_they_are_written() {
    let json = String::from_utf8(sample().encode().expect("bytes")).expect("UTF-8");
    let check = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}");
        let error = Manifest::parse(json.replace(from, to).as_bytes()).expect_err(to);
        assert!(matches!(error, ManifestError::Json { .. }), "{error}");
    };
    check("01234567", "0123456");
    check("01234567", "0123456G");
    check("01234567", "+1234567");
    check("abababab\"", "abababAB\"");
    check("abababab\"", "ababababab\"");
    check("kafka-log", "kafka");
    check("[3,4]", "[4,3]");
    check("[3,4]", "[3]");
    check("\"record_count\":30", "\"record_count\":-30");
    check("\"partition\":3", "\"partition\":3000000000");
}

/// The manifest and the block index of 600 bytes in two blocks. The second block is the torn tail.
fn torn() -> (Manifest, BlockIndex) {
    let mut writer = BlockWriter::new().expect("a context");
    for frame in frames(&[100, 200, 250], 10) {
        writer.add(frame.position, &frame.bytes, frame.facts).expect("a frame");
    }
    writer.add(550, &log_lines(0, 50), FrameFacts::torn_tail()).expect("the torn tail");
    let blocks = writer.finish().expect("blocks");
    (manifest_of(std::slice::from_ref(&blocks)), blocks.index)
}

#[test]
fn the_manifest_is_held_against_the_blocks_number_by_number() {
    let (manifest, blocks) = torn();
    assert_eq!(manifest.agrees_with(&blocks), Ok(()));
    let check = |what: &str, stated: i128, found: i128, change: &dyn Fn(&mut Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        let error = changed.agrees_with(&blocks).expect_err(what);
        assert_eq!((error.what, error.stated, error.found), (what, stated, found));
    };
    check("blocks", 3, 2, &|manifest| manifest.records.blocks += 1);
    check("frames", 2, 3, &|manifest| manifest.records.frames -= 1);
    check("batches", 4, 3, &|manifest| manifest.batch_count += 1);
    check("bytes of the source", 599, 600, &|manifest| manifest.records.plain_bytes -= 1);
    check("records", 31, 30, &|manifest| manifest.record_count += 1);
    check("documents", 29, 30, &|manifest| manifest.index.segments[0].documents -= 1);
    check("documents", 0, 30, &|manifest| manifest.index.segments.clear());
    check("base_offset", 1, 0, &|manifest| manifest.base_offset += 1);
    check("last_offset", 30, 29, &|manifest| manifest.last_offset += 1);
    check("min_timestamp_ms", -1, 0, &|manifest| manifest.min_timestamp_ms = Some(-1));
    check("max_timestamp_ms", 30, 29, &|manifest| manifest.max_timestamp_ms = Some(30));
    check("torn bytes", 0, 50, &|manifest| manifest.segment.torn_tail_bytes = 0);
    check("the segment's end", 599, 600, &|manifest| manifest.segment.size_bytes = 599);
    check("the segment's size", 601, 600, &|manifest| manifest.segment.size_bytes = 601);
    let mut changed = manifest.clone();
    (changed.min_timestamp_ms, changed.max_timestamp_ms) = (None, None);
    assert_eq!(changed.agrees_with(&blocks).expect_err("no times").what, "min_timestamp_ms");
}

#[test]
fn a_segment_of_several_partitions_is_larger_than_its_bundles_and_its_tail_is_in_one_of_them() {
    let (mut manifest, blocks) = torn();
    manifest.segment.partitions = 2;
    manifest.segment.size_bytes = 10_000;
    assert_eq!(manifest.agrees_with(&blocks), Ok(()));
    let without_tail = blocks_of(&frames(&[100, 200], 10));
    let mut other = manifest_of(std::slice::from_ref(&without_tail));
    other.segment.torn_tail_bytes = 50;
    assert_eq!(
        other.agrees_with(&without_tail.index).expect_err("no other bundle has it").what,
        "torn bytes"
    );
    (other.segment.partitions, other.segment.size_bytes) = (2, 10_000);
    assert_eq!(other.agrees_with(&without_tail.index), Ok(()));
}
