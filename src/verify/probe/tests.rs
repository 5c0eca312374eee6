use bytes::Bytes;

use super::*;
use crate::archive::catalog;
use crate::bundle::{FieldFacts, IndexFacts, RecordsFacts, SegmentFacts, TantivyFacts, UndecodedFacts};
use crate::ids::SegmentFormat;
use crate::index::{IndexBuilder, TopicSettings, assemble};
use crate::record::{HeaderSpans, RecordBatch, RecordSpans, Span};

type Header<'a> = (&'a [u8], &'a [u8]);

/// Records at offsets from 0, with these keys and values, and all with the same headers.
fn batch(records: &[(&[u8], &[u8])], headers: &[Header<'_>]) -> RecordBatch {
    let mut bytes = Vec::new();
    let mut keep = |part: &[u8]| {
        let span = Span { start: bytes.len() as u32, len: part.len() as u32 };
        bytes.extend_from_slice(part);
        span
    };
    let mut batch = RecordBatch::default();
    for (offset, (key, value)) in records.iter().enumerate() {
        let first = batch.headers.len() as u32;
        let kept = headers.iter().map(|(name, of)| HeaderSpans { name: keep(name), value: Some(keep(of)) });
        batch.headers.extend(kept);
        batch.records.push(RecordSpans {
            offset: offset as i64,
            timestamp_ms: Some(offset as i64),
            key: Some(keep(key)),
            value: Some(keep(value)),
            headers: first..batch.headers.len() as u32,
        });
    }
    batch.bytes = Bytes::from(bytes);
    batch
}

/// Returns which records are not found in an index with these settings, and how many terms were found.
fn look_up(batch: &RecordBatch, settings: TopicSettings) -> (Vec<String>, u64) {
    let mut builder = IndexBuilder::new(settings).expect("an index");
    builder.add(batch).expect("documents");
    let index = assemble(vec![builder.finish().expect("a part")], &[1; 32], &settings).expect("an index");
    let values = index.fields.values().map(|(path, types)| FieldFacts {
        path: format!("value.{path}"),
        types: types.names().map(str::to_owned).collect(),
    });
    let headers =
        index.fields.headers().map(|name| FieldFacts { path: format!("header.{name}"), types: vec![] });
    let manifest = manifest(IndexFacts {
        settings: [("value".to_owned(), settings.value.name().to_owned())].into(),
        fields: values.chain(headers).collect(),
        segments: vec![],
        unsearchable: index.unsearchable.counts().map(|(name, count)| (name.to_owned(), count)).into(),
        rest_leaves: Some(index.fields.rest_leaves()),
    });
    let reader = IndexReader::open(index.files, &catalog(&manifest)).expect("a reader");
    let (mut terms, mut group) = (Terms::new(&manifest), Group::default());
    batch.iter().for_each(|record| group.add(&record, &terms));
    let wrong = group.take().look_up(&reader, &mut terms).expect("an answer");
    assert_eq!(wrong, Vec::<String>::new());
    (terms.missed(), terms.found())
}

fn manifest(index: IndexFacts) -> Manifest {
    Manifest {
        format_version: 2,
        created_by: String::new(),
        tantivy: TantivyFacts { version: String::new(), dictionary: String::new() },
        topic: "t".to_owned(),
        partition: 0,
        log_id: "0".to_owned(),
        base_offset: 0,
        last_offset: 0,
        record_count: 0,
        control_record_count: 0,
        batch_count: 0,
        min_timestamp_ms: None,
        max_timestamp_ms: None,
        gaps: vec![],
        anomalies: std::collections::BTreeMap::new(),
        undecoded: UndecodedFacts::default(),
        transactions: None,
        copy: None,
        segment: SegmentFacts {
            id: String::new(),
            format: SegmentFormat::KafkaLog,
            size_bytes: 0,
            crc32c: 0,
            sha256: [0; 32],
            torn_tail_bytes: 0,
            partitions: 1,
        },
        index,
        records: RecordsFacts::default(),
    }
}

const ODD_VALUES: &[&[u8]] = &[
    br#"{"a.b": {"c d": "x y"}}"#,
    br#"{"": "empty name"}"#,
    br#"{"": {"": "empty names"}}"#,
    br#"{"a": "first", "a": "second"}"#,
    br#"{"AND": "OR NOT TO", "x:y": "key:z"}"#,
    br#"{"quo\"te\\s": "with \"quotes\" and \\ slashes"}"#,
    br#"{"new\nline\u0000nul": "after nul"}"#,
    br#"{"n": 1, "f": 1.5, "b": true, "z": null, "s": [["deep"]]}"#,
    br#"{"n": 12345678901234567890, "s": "-17"}"#,
    br#"{"at": "2024-05-01T12:00:00Z", "t": "true"}"#,
    br#"{"at": "9999-05-01T12:00:00Z"}"#,
    "{\"Straße\": \"ΣΊΣΥΦΟΣ İstanbul ǅ 12\"}".as_bytes(),
    "{\"e\": \"e\u{301}t\u{e9} \u{1f600}x\"}".as_bytes(),
    b"{\"a\": \"  \\t\\n  leading\"}",
    b"[\"no\", \"object\"]",
    b"{\"broken\": ",
    b"\"just a string\"",
    b"12 \xf0\x9f\x98\x80 words_with-marks,and:colons",
    b"* ( ) [a TO b] \\ \"open",
    b"\xff\xfe not utf-8",
    b"",
    b"   ",
    b"---",
    b"\x00a\x00",
];

fn all_settings() -> impl Iterator<Item = TopicSettings> {
    let modes = [ValueMode::Auto, ValueMode::Json, ValueMode::Text, ValueMode::None];
    modes.into_iter().flat_map(|value| [false, true].map(|positions| TopicSettings { value, positions }))
}

#[test]
fn odd_records_in_a_sound_index_are_found_whatever_the_settings() {
    let records: Vec<_> = ODD_VALUES.iter().map(|value| (*value, *value)).collect();
    let headers: [Header<'_>; 1] = [(b"tr ace:\"id\\.x", b"a \"b\" \\ c")];
    for settings in all_settings() {
        let (missed, found) = look_up(&batch(&records, &headers), settings);
        assert_eq!(missed, Vec::<String>::new(), "{settings:?}");
        let least = if settings.value == ValueMode::None { 40 } else { 50 };
        assert!(found >= least, "{settings:?}: {found}");
    }
}

#[test]
fn what_the_index_counts_as_not_searchable_is_excused() {
    // More paths than an index can have, and a word that is longer than any term.
    let many: Vec<String> = (0..1_500).map(|n| format!("{{\"path{n}\": \"w{n}\"}}")).collect();
    let mut records: Vec<(&[u8], &[u8])> =
        many.iter().map(|value| (b"k" as &[u8], value.as_bytes())).collect();
    let long = format!("{} tail", "x".repeat(70_000));
    records.push((long.as_bytes(), long.as_bytes()));
    for settings in all_settings() {
        let (missed, _) = look_up(&batch(&records, &[(b"nul\0name", b"value"), (b"n", b"v")]), settings);
        assert_eq!(missed, Vec::<String>::new(), "{settings:?}");
    }
}
