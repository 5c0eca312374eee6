//! Unusual records, through Tantivy and back: each is found, or counted.

use super::super::query::Query;
use super::super::reader::{Bounds, IndexReader, Order};
use super::super::schema::{HEADERS_BYTES_MAX, PATHS_MAX, TERM_BYTES_MAX, VALUE_BYTES_MAX};
use super::super::testing::{TestRecord, batch, index, valued};
use super::super::{Index, TopicSettings, Unsearchable, ValueMode};
use crate::record::RecordBatch;

fn built(batches: &[RecordBatch]) -> (Index, IndexReader) {
    let index = index(batches, TopicSettings::default());
    let reader = IndexReader::open(index.files.clone(), &index.fields).unwrap();
    (index, reader)
}

fn found(reader: &IndexReader, query: &str) -> Vec<u64> {
    let hits =
        reader.search(&Query::parse(query).unwrap(), &Bounds::default(), Order::OldestFirst, 9_999).unwrap();
    hits.hits.iter().map(|hit| hit.ordinal).collect()
}

#[test]
fn the_longest_words_are_found_apart_and_longer_ones_counted() {
    let at = |len: usize, last: char| format!("{}{last}", "a".repeat(len - 1));
    let (longest, other) = (at(TERM_BYTES_MAX, 'x'), at(TERM_BYTES_MAX, 'y'));
    let deep = "d".repeat(500);
    let values = [
        longest.clone(),
        other.clone(),
        format!(r#"{{"p": "{longest}", "{deep}": {{"{deep}": "{other}"}}}}"#),
        at(TERM_BYTES_MAX + 1, 'x'),
        format!(r#"{{"p": "{} here"}}"#, at(TERM_BYTES_MAX + 5, 'x')),
        at(TERM_BYTES_MAX + 4, 'x'),
        at(70_000, 'x'),
        "ü".repeat(TERM_BYTES_MAX / 2 + 1),
    ];
    for positions in [false, true] {
        let settings = TopicSettings { positions, ..TopicSettings::default() };
        let index = index(&[valued(&values)], settings);
        let reader = IndexReader::open(index.files, &index.fields).unwrap();
        assert_eq!(reader.documents(), 8);
        assert_eq!(found(&reader, &longest), [0, 2]);
        assert_eq!(found(&reader, &other), [1, 2]);
        assert_eq!(found(&reader, &"a".repeat(TERM_BYTES_MAX)), [0; 0]);
        assert_eq!(found(&reader, "p:here"), [4]);
        assert_eq!(index.unsearchable, Unsearchable { words_too_long: 5, ..Unsearchable::default() });
    }
}

#[test]
fn the_longest_keys_and_headers_are_found_apart_and_longer_ones_counted() {
    let at = |len: usize, last: u8| [vec![b'k'; len - 1], vec![last]].concat();
    let record = |key: Vec<u8>, header: Vec<u8>| TestRecord {
        key: Some(key),
        headers: vec![(b"h".to_vec(), Some(header))],
        ..TestRecord::default()
    };
    let records = [
        record(at(TERM_BYTES_MAX, b'x'), at(TERM_BYTES_MAX, b'x')),
        record(at(TERM_BYTES_MAX, b'y'), at(TERM_BYTES_MAX, b'y')),
        record(at(TERM_BYTES_MAX + 1, b'x'), at(TERM_BYTES_MAX + 1, b'x')),
        record(at(100_000, b'x'), at(100_000, b'x')),
    ];
    let (index, reader) = built(&[batch(&records)]);
    for last in *b"xy" {
        let text = String::from_utf8(at(TERM_BYTES_MAX, last)).unwrap();
        let expected = [u64::from(last - b'x')];
        assert_eq!(found(&reader, &format!("key:{text}")), expected);
        assert_eq!(found(&reader, &format!("header.h:{text}")), expected);
    }
    assert_eq!(index.unsearchable, Unsearchable { keys_too_long: 2, headers: 2, ..Unsearchable::default() });
}

#[test]
fn headers_that_cannot_be_searched_are_counted_and_null_ones_are_not() {
    let header = |name: &[u8], value: Option<&[u8]>| (name.to_vec(), value.map(<[u8]>::to_vec));
    let mut headers = vec![
        header(b"good", Some(b"yes")),
        header(b"null", None),
        header(b"\xff", Some(b"x")),
        header(b"binary", Some(b"\xff\x00")),
        header(b"nul\0name", Some(b"x")),
        header(&[b'n'; 1_025], Some(b"x")),
    ];
    headers.extend((1..PATHS_MAX + 3).map(|n| header(format!("many{n}").as_bytes(), Some(b"x"))));
    let (index, reader) = built(&[batch(&[TestRecord { headers, ..TestRecord::default() }])]);
    assert_eq!(index.unsearchable, Unsearchable { headers: 4 + 3, ..Unsearchable::default() });
    assert_eq!(index.fields.headers().count(), PATHS_MAX);
    assert_eq!(found(&reader, "header.good:yes"), [0]);
    assert_eq!(found(&reader, "header.many999:x"), [0]);
    assert_eq!(found(&reader, "header.many1001:x"), [0; 0]);
}

#[test]
fn the_headers_of_one_record_are_indexed_up_to_their_limit() {
    let value = |n: usize| Some(format!("{n:060000}").into_bytes());
    let fitting = HEADERS_BYTES_MAX / 60_000;
    let headers = (0..fitting + 2).map(|n| (b"h".to_vec(), value(n))).collect();
    let (index, _) = built(&[batch(&[TestRecord { headers, ..TestRecord::default() }])]);
    assert_eq!(index.unsearchable.headers, 2);
}

#[test]
fn a_value_that_is_too_long_is_counted_and_the_rest_of_its_record_is_found() {
    let record = |len: usize| TestRecord {
        key: Some(len.to_string().into_bytes()),
        value: Some([b"word ".to_vec(), vec![b' '; len - 5]].concat()),
        ..TestRecord::default()
    };
    let (index, reader) = built(&[batch(&[record(VALUE_BYTES_MAX), record(VALUE_BYTES_MAX + 1)])]);
    assert_eq!(found(&reader, "word"), [0]);
    assert_eq!(found(&reader, &format!("key:{}", VALUE_BYTES_MAX + 1)), [1]);
    assert_eq!(index.unsearchable, Unsearchable { values_too_long: 1, ..Unsearchable::default() });
}

#[test]
fn what_has_no_path_is_found_as_text() {
    let deep = format!("{}\"deepest\"{}", "{\"a\":".repeat(101), "}".repeat(101));
    let values = [r#"{"nul\u0000": "hidden", "n\u0000": 77}"#.to_owned(), deep];
    let (index, reader) = built(&[valued(&values)]);
    assert_eq!(found(&reader, "hidden"), [0]);
    assert_eq!(found(&reader, "text:77"), [0]);
    assert_eq!(found(&reader, "deepest"), [1]);
    let expected = Unsearchable { leaves_without_path: 2, objects_as_text: 1, ..Unsearchable::default() };
    assert_eq!(index.unsearchable, expected);
}

#[test]
fn deep_leaves_are_found_by_path_and_by_range() {
    let path = vec!["a"; 60].join(".");
    let value = format!("{}42{}", "{\"a\":".repeat(60), "}".repeat(60));
    let (index, reader) = built(&[valued(&[value])]);
    assert_eq!(found(&reader, &format!("{path}:42")), [0]);
    assert_eq!(found(&reader, &format!("{path}:>41")), [0]);
    assert_eq!(index.unsearchable, Unsearchable::default());
}

#[test]
fn each_mode_indexes_what_it_says() {
    let values = ["{\"a\": \"word\"}".as_bytes(), b"word", b"\xffword"];
    for (value, by_word, by_path, unsearchable) in [
        (
            ValueMode::Auto,
            &[0_u64, 1][..],
            &[0_u64][..],
            Unsearchable { values_not_utf8: 1, ..Default::default() },
        ),
        (
            ValueMode::Json,
            &[0],
            &[0],
            Unsearchable { values_not_utf8: 1, values_not_json: 1, ..Default::default() },
        ),
        (ValueMode::Text, &[0, 1], &[], Unsearchable { values_not_utf8: 1, ..Default::default() }),
        (ValueMode::None, &[], &[], Unsearchable::default()),
    ] {
        let index = index(&[valued(&values)], TopicSettings { value, positions: false });
        let reader = IndexReader::open(index.files, &index.fields).unwrap();
        assert_eq!(reader.documents(), 3);
        assert_eq!(found(&reader, "word"), by_word, "{value:?}");
        assert_eq!(found(&reader, "a:word"), by_path, "{value:?}");
        assert_eq!(index.unsearchable, unsearchable, "{value:?}");
    }
}

#[test]
fn the_catalog_lists_every_path_with_its_types() {
    let header = (b"trace.id".to_vec(), Some(b"1".to_vec()));
    let records = [
        TestRecord {
            value: Some(br#"{"a.b": 1, "c": {"d": "x"}, "t": "2024-05-01T00:00:00Z"}"#.to_vec()),
            ..Default::default()
        },
        TestRecord {
            value: Some(br#"{"a": {"b": 1.5}, "c": [true, 18446744073709551615], "n": null}"#.to_vec()),
            ..Default::default()
        },
        TestRecord { headers: vec![header], ..Default::default() },
    ];
    let (index, _) = built(&[batch(&records)]);
    let values: Vec<_> = index.fields.values().map(|(path, types)| format!("{path}: {types:?}")).collect();
    let expected =
        [r#"a.b: ["i64", "f64"]"#, r#"c: ["u64", "bool"]"#, r#"c.d: ["text"]"#, r#"t: ["text", "date"]"#];
    assert_eq!(values, expected);
    assert_eq!(index.fields.headers().collect::<Vec<_>>(), ["trace.id"]);
}

#[test]
fn hostile_timestamps_and_offsets_are_kept_as_they_are() {
    let record =
        |offset, timestamp_ms| TestRecord { offset, timestamp_ms: Some(timestamp_ms), ..Default::default() };
    let (_, reader) =
        built(&[batch(&[record(i64::MIN, i64::MAX), record(i64::MAX, i64::MIN), record(-1, -1)])]);
    let hits = reader.search(&Query::all(), &Bounds::default(), Order::NewestFirst, 9).unwrap().hits;
    let hits: Vec<_> = hits.iter().map(|hit| (hit.offset, hit.timestamp_ms)).collect();
    assert_eq!(hits, [(i64::MIN, Some(i64::MAX)), (-1, Some(-1)), (i64::MAX, Some(i64::MIN))]);
}
