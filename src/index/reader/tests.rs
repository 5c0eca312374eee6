use super::super::leaf::tests::ByParts;
use super::super::query::Query;
use super::super::testing::{TestRecord, batch, index, valued};
use super::super::{Index, IndexBuilder, TopicSettings, assemble};
use super::*;
use crate::record::RecordBatch;

mod prefixes;

/// An index that is read whole, and the same index read by parts. Both must find the same.
struct Both {
    whole: IndexReader,
    parts: ByParts,
}

impl std::ops::Deref for Both {
    type Target = IndexReader;

    fn deref(&self) -> &IndexReader {
        &self.whole
    }
}

fn both(index: Index) -> Both {
    let parts = ByParts::open(&index);
    Both { whole: IndexReader::open(index.files, &index.fields).unwrap(), parts }
}

fn opened(batches: &[RecordBatch], settings: TopicSettings) -> Both {
    both(index(batches, settings))
}

fn words() -> TopicSettings {
    TopicSettings::default()
}

fn positions() -> TopicSettings {
    TopicSettings { positions: true, ..TopicSettings::default() }
}

fn ordinals(reader: &Both, text: &str) -> Vec<u64> {
    let query = Query::parse(text).unwrap();
    let hits = reader.search(&query, &Bounds::default(), Order::OldestFirst, 1_000).unwrap();
    assert_eq!(hits.matched, hits.hits.len() as u64);
    assert_eq!(reader.search(&query, &Bounds::default(), Order::ByScore, 0).unwrap().matched, hits.matched);
    let scored = reader.search(&query, &Bounds::default(), Order::ByScore, 1_000).unwrap();
    let mut by_score: Vec<_> = scored.hits.iter().map(|hit| hit.ordinal).collect();
    by_score.sort();
    let mut ordinals: Vec<_> = hits.hits.iter().map(|hit| hit.ordinal).collect();
    ordinals.sort();
    assert_eq!(by_score, ordinals);
    assert_eq!(reader.parts.ordinals(text), ordinals, "{text}");
    ordinals
}

/// Compares each query's hits with the expected ordinals.
fn check(values: &[&str], expected: &[(&str, &[u64])]) {
    for settings in [words(), positions()] {
        let reader = opened(&[valued(values)], settings);
        for (query, ordinals_expected) in expected {
            assert_eq!(ordinals(&reader, query), *ordinals_expected, "{query:?} with {settings:?}");
        }
    }
}

#[test]
fn an_index_without_records_is_searched_in_vain() {
    let reader = opened(&[], words());
    assert_eq!(reader.documents(), 0);
    for query in ["", "a", "a.b:c", "n:>1", "offset:[1 TO 2]", "NOT a"] {
        assert_eq!(ordinals(&reader, query), [0; 0], "{query}");
    }
}

#[test]
fn an_index_of_one_record_finds_it() {
    check(
        &["hello"],
        &[("hello", &[0]), ("", &[0]), ("NOT hello", &[]), ("other", &[]), ("NOT other", &[0])],
    );
}

#[test]
fn bare_words_are_found_in_text_and_at_every_path() {
    check(
        &[
            "plain text about a Timeout",
            r#"{"message": "Timeout of payment", "level": "error"}"#,
            r#"{"a": {"b": ["x", {"c": "timeout"}]}}"#,
            r#"{"message": "all is well"}"#,
            r#"["timeout", 7]"#,
            "7",
        ],
        &[
            ("timeout", &[0, 1, 2, 4]),
            ("TIMEOUT", &[0, 1, 2, 4]),
            ("timeout error", &[1]),
            ("timeout AND error", &[1]),
            ("error OR well", &[1, 3]),
            ("timeout NOT error", &[0, 2, 4]),
            ("NOT timeout", &[3, 5]),
            ("NOT (timeout OR well)", &[5]),
            ("timeout (error OR x)", &[1, 2]),
            ("message:timeout", &[1]),
            ("value.message:timeout", &[1]),
            ("a.b.c:timeout", &[2]),
            ("a.b:x", &[2]),
            ("text:timeout", &[0, 4]),
            ("7", &[4, 5]),
            ("message:nowhere", &[]),
            ("nowhere:timeout", &[]),
        ],
    );
}

#[test]
fn numbers_are_found_however_they_are_written() {
    check(
        &[
            r#"{"n": 1}"#,
            r#"{"n": 1.0}"#,
            r#"{"n": "1"}"#,
            r#"{"n": [5, 1e0]}"#,
            r#"{"n": 10}"#,
            r#"{"n": -1}"#,
            r#"{"n": 1.5}"#,
            r#"{"n": 18446744073709551615}"#,
            r#"{"n": 9223372036854775808}"#,
            r#"{"n": 9223372036854775808.0}"#,
            r#"{"n": 123456789012345678901234567890}"#,
        ],
        &[
            ("n:1", &[0, 1, 2, 3]),
            ("n:1.0", &[0, 1, 2, 3]),
            ("n:10e-1", &[0, 1, 2, 3]),
            ("1", &[0, 1, 2, 3]),
            ("n:1.5", &[6]),
            ("n:18446744073709551615", &[7]),
            ("n:9223372036854775808", &[8, 9]),
            ("n:123456789012345678901234567890", &[10]),
            ("n:1.2345678901234568e29", &[10]),
        ],
    );
    // `n:-1` is also the word `1`, at a path that holds text too.
    check(&[r#"{"n": 1}"#, r#"{"n": -1}"#], &[("n:-1", &[1]), ("n:1", &[0])]);
}

#[test]
fn ranges_find_numbers_of_every_type_at_a_path() {
    check(
        &[
            r#"{"n": 1}"#,
            r#"{"n": 1.5}"#,
            r#"{"n": "text 2"}"#,
            r#"{"n": 18446744073709551615}"#,
            r#"{"n": -3}"#,
            r#"{"n": [100, 0.25]}"#,
            r#"{"n": true}"#,
        ],
        &[
            ("n:>1", &[1, 3, 5]),
            ("n:>=1", &[0, 1, 3, 5]),
            ("n:<0", &[4]),
            ("n:<=1.5", &[0, 1, 4, 5]),
            ("n:[1 TO 1.5]", &[0, 1]),
            ("n:{1 TO 1.5]", &[1]),
            ("n:[1 TO 1.5}", &[0]),
            ("n:{1 TO 1.5}", &[]),
            ("n:[* TO *]", &[0, 1, 3, 4, 5]),
            ("n:[0.2 TO 0.3]", &[5]),
            ("n:>1e300", &[]),
            ("n:<-1e300", &[]),
            ("n:>-1e300", &[0, 1, 3, 4, 5]),
            ("NOT n:>1", &[0, 2, 4, 6]),
        ],
    );
}

#[test]
fn ranges_over_whole_numbers_do_not_overflow_at_their_ends() {
    check(
        &[r#"{"n": 9223372036854775807}"#, r#"{"n": -9223372036854775808}"#, r#"{"n": 0}"#],
        &[
            ("n:>9223372036854775807", &[]),
            ("n:>9223372036854775806", &[0]),
            ("n:<-9223372036854775808", &[]),
            ("n:<=-9223372036854775808", &[1]),
            ("n:>18446744073709551615", &[]),
            ("n:<18446744073709551615", &[0, 1, 2]),
            ("n:<-1e300", &[]),
            ("n:<1e300", &[0, 1, 2]),
            ("n:>1e300", &[]),
            ("n:{-0.5 TO 0.5}", &[2]),
        ],
    );
    check(
        &[r#"{"n": 18446744073709551615}"#, r#"{"n": 0}"#],
        &[
            ("n:>18446744073709551614", &[0]),
            ("n:>18446744073709551615", &[]),
            ("n:<0", &[]),
            ("n:<=0", &[1]),
            ("n:>-5", &[0, 1]),
            ("n:<-5", &[]),
            ("n:<1e300", &[0, 1]),
            ("n:>1e300", &[]),
        ],
    );
}

#[test]
fn a_range_over_rounded_numbers_misses_none() {
    // 2^53 + 1 has no `f64` of its own, so it is not in the column of the fraction.
    check(
        &[r#"{"n": 9007199254740993}"#, r#"{"n": 0.5}"#],
        &[("n:>9007199254740992", &[0]), ("n:>=9007199254740993", &[0]), ("n:<1", &[1])],
    );
}

#[test]
fn a_path_may_change_its_type_from_one_tantivy_segment_to_the_next() {
    let settings = words();
    let parts =
        [r#"{"n": 7}"#, r#"{"n": 7.5}"#, r#"{"n": "7"}"#, r#"{"n": 18446744073709551615}"#].map(|value| {
            let mut builder = IndexBuilder::new(settings).unwrap();
            builder.add(&valued(&[value])).unwrap();
            builder.finish().unwrap()
        });
    let index = assemble(parts.to_vec(), &[3; 32], &settings).unwrap();
    let reader = both(index);
    assert_eq!(ordinals(&reader, "n:7"), [0, 2]);
    assert_eq!(ordinals(&reader, "n:7.5"), [1]);
    assert_eq!(ordinals(&reader, "n:>=7"), [0, 1, 2, 3]);
    assert_eq!(ordinals(&reader, "n:[7 TO 8]"), [0, 1, 2]);
}

#[test]
fn dates_are_found_by_range_by_instant_and_by_word() {
    check(
        &[
            r#"{"at": "2024-05-01T12:00:00Z"}"#,
            r#"{"at": "2024-05-01T14:00:00+02:00"}"#,
            r#"{"at": "2024-05-02T00:00:00.000000001Z"}"#,
            r#"{"at": "1500-01-01T00:00:00Z"}"#,
            r#"{"at": 1714564800}"#,
        ],
        &[
            ("at:2024-05-01T12:00:00Z", &[0, 1]),
            ("at:[2024-05-01 TO 2024-05-02]", &[0, 1]),
            ("at:>2024-05-02", &[2]),
            ("at:>=2024-05-01T12:00:00Z", &[0, 1, 2]),
            ("at:<1990-01-01", &[]),
            ("at:1500", &[3]),
            ("at:>1000", &[4]),
        ],
    );
}

#[test]
fn booleans_are_words() {
    check(
        &[r#"{"ok": true}"#, r#"{"ok": false}"#, r#"{"ok": "true"}"#, r#"{"ok": null}"#],
        &[("ok:true", &[0, 2]), ("ok:false", &[1]), ("true", &[0, 2])],
    );
}

#[test]
fn phrases_are_exact_with_positions_and_words_without_and_say_so() {
    let values =
        ["the quick brown fox", "brown quick the", r#"{"a": ["quick", "brown"]}"#, r#"{"a": "Quick-Brown"}"#];
    let query = Query::parse("\"quick brown\"").unwrap();
    for (settings, expected) in [(positions(), vec![0, 3]), (words(), vec![0, 1, 2, 3])] {
        let reader = opened(&[valued(&values)], settings);
        assert_eq!(ordinals(&reader, "\"quick brown\""), expected, "{settings:?}");
        let hits = reader.search(&query, &Bounds::default(), Order::OldestFirst, 9).unwrap();
        assert_eq!(hits.phrases_as_words, !settings.positions);
        assert_eq!(ordinals(&reader, "quick-brown"), expected);
        let one_word =
            reader.search(&Query::parse("quick").unwrap(), &Bounds::default(), Order::OldestFirst, 9);
        assert!(!one_word.unwrap().phrases_as_words);
    }
}

#[test]
fn a_phrase_that_comes_late_is_excluded_as_others_are() {
    let reader = opened(&[valued(&["a", "b", "a c", "x the fox y", "fox the", "the fox"])], positions());
    assert_eq!(ordinals(&reader, "NOT \"the fox\""), [0, 1, 2, 4]);
    assert_eq!(ordinals(&reader, "NOT (\"the fox\" y)"), [0, 1, 2, 4, 5]);
    assert_eq!(ordinals(&reader, "NOT (\"the fox\" OR b)"), [0, 2, 4]);
    assert_eq!(ordinals(&reader, "fox NOT \"the fox\""), [4]);
}

#[test]
fn words_of_logs_are_found_in_parts_and_whole() {
    check(
        &["id user-30 at 10.0.0.1 ÜNÏCODE trace_id=9f", "user 31"],
        &[
            ("user-30", &[0]),
            ("user", &[0, 1]),
            ("10.0.0.1", &[0]),
            ("ünïcode", &[0]),
            ("trace_id", &[0]),
            ("\"trace_id=9F\"", &[0]),
            ("\"user 31\"", &[1]),
        ],
    );
}

#[test]
fn keys_and_headers_are_found_exactly() {
    let header = |name: &str, value: &str| (name.as_bytes().to_vec(), Some(value.as_bytes().to_vec()));
    let records = [
        TestRecord { key: Some(b"User-30".to_vec()), ..TestRecord::default() },
        TestRecord {
            key: Some(b"user-30".to_vec()),
            headers: vec![header("trace.id", "A b")],
            ..TestRecord::default()
        },
        TestRecord { key: Some(Vec::new()), headers: vec![header("trace", "id")], ..TestRecord::default() },
        TestRecord {
            headers: vec![header("x\\y", "1"), header("x\\y", "2"), header("", "3")],
            ..TestRecord::default()
        },
        TestRecord { key: Some(b"\xff\x00".to_vec()), ..TestRecord::default() },
    ];
    let reader = opened(&[batch(&records)], words());
    assert_eq!(ordinals(&reader, "key:User-30"), [0]);
    assert_eq!(ordinals(&reader, "key:\"user-30\""), [1]);
    assert_eq!(ordinals(&reader, "key:user"), [0; 0]);
    assert_eq!(ordinals(&reader, "key:\"\""), [2]);
    assert_eq!(ordinals(&reader, "header.trace.id:\"A b\""), [1]);
    assert_eq!(ordinals(&reader, "header.trace.id:\"a b\""), [0; 0]);
    assert_eq!(ordinals(&reader, "header.trace:id"), [2]);
    assert_eq!(ordinals(&reader, r"header.x\\y:2"), [3]);
    assert_eq!(ordinals(&reader, "user"), [0; 0]);
    assert_eq!(ordinals(&reader, "key:user*"), [1]);
    assert_eq!(ordinals(&reader, "key:*"), [0, 1, 2, 4]);
    assert_eq!(ordinals(&reader, "NOT key:*"), [3]);
    assert_eq!(ordinals(&reader, "header.trace.id:\"A \"*"), [1]);
    assert_eq!(ordinals(&reader, "header.trace.id:a*"), [0; 0]);
    assert_eq!(ordinals(&reader, "header.trace:*"), [2]);
}

#[test]
fn unusual_keys_of_objects_are_found_at_their_paths() {
    check(
        &[
            r#"{"a.b": "one", "with space": "two", "": "three"}"#,
            r#"{"a": {"b": "one", "": "four"}}"#,
            r#"{"back\\slash": 5, "col:on": "six", "ключ": "Семь"}"#,
            r#"{"offset": "eight", "key": 9, "value": {"x": "ten"}}"#,
            r#"{"dup": "eleven", "dup": 12}"#,
            r#"{"": 3}"#,
        ],
        &[
            ("a.b:one", &[0, 1]),
            (r"with\ space:two", &[0]),
            ("value.:three", &[0]),
            ("three", &[0]),
            ("a.:four", &[1]),
            ("value.:>2", &[5]),
            ("value.:[1 TO 3]", &[5]),
            ("value.:3", &[5]),
            (r"back\\slash:5", &[2]),
            (r"back\\slash:>4", &[2]),
            (r"col\:on:six", &[2]),
            ("ключ:семь", &[2]),
            ("value.offset:eight", &[3]),
            ("value.key:9", &[3]),
            ("value.key:>8", &[3]),
            ("value.value.x:ten", &[3]),
            ("dup:eleven", &[4]),
            ("dup:>11", &[4]),
        ],
    );
}

#[test]
fn offsets_and_timestamps_are_ranges_and_bounds() {
    let record = |offset, timestamp_ms| TestRecord { offset, timestamp_ms, ..TestRecord::default() };
    let records = [
        record(5, Some(1_000)),
        record(3, None),
        record(7, Some(i64::MIN)),
        record(i64::MAX, Some(1_714_564_800_500)),
    ];
    let reader = opened(&[batch(&records)], words());
    for (query, expected) in [
        ("offset:5", &[0_u64][..]),
        ("offset:[3 TO 5]", &[0, 1]),
        ("offset:{3 TO 7}", &[0]),
        ("offset:>5", &[2, 3]),
        ("offset:<=9223372036854775807", &[0, 1, 2, 3]),
        ("offset:>9223372036854775807", &[]),
        ("timestamp:1000", &[0]),
        ("timestamp:<0", &[2]),
        ("timestamp:[* TO *]", &[0, 2, 3]),
        ("timestamp:>=2024-05-01T12:00:00.5Z", &[3]),
        ("timestamp:>2024-05-01T12:00:00.5Z", &[]),
        ("timestamp:>=2024-05-01T12:00:00.5001Z", &[]),
        ("timestamp:>2024-05-01T12:00:00.4999Z", &[3]),
        ("timestamp:<2024-05-01T12:00:00.5001Z", &[0, 2, 3]),
        ("timestamp:2024-05-01T12:00:00.5Z", &[3]),
        ("timestamp:[2024-05-01 TO 2024-05-02]", &[3]),
    ] {
        assert_eq!(ordinals(&reader, query), expected, "{query}");
    }
    let search = |bounds| {
        let hits = reader.search(&Query::all(), &bounds, Order::OldestFirst, 10).unwrap();
        assert_eq!(
            reader.search(&Query::all(), &bounds, Order::OldestFirst, 0).unwrap().matched,
            hits.matched
        );
        hits.hits.iter().map(|hit| hit.offset).collect::<Vec<_>>()
    };
    assert_eq!(search(Bounds::default()), [7, 5, i64::MAX, 3]);
    assert_eq!(search(Bounds { min_offset: Some(5), max_offset: Some(7), ..Bounds::default() }), [7, 5]);
    assert_eq!(search(Bounds { min_timestamp_ms: Some(i64::MIN), ..Bounds::default() }), [7, 5, i64::MAX]);
    assert_eq!(search(Bounds { max_timestamp_ms: Some(1_000), ..Bounds::default() }), [7, 5]);
}

#[test]
fn the_newest_come_first_up_to_the_limit_and_all_are_counted() {
    let values: Vec<String> = (0..500).map(|n| format!("line {n}")).collect();
    let reader = opened(&[valued(&values)], words());
    let query = Query::parse("line").unwrap();
    let search = |order, limit| {
        let hits = reader.search(&query, &Bounds::default(), order, limit).unwrap();
        (hits.matched, hits.hits.iter().map(|hit| hit.ordinal).collect::<Vec<_>>())
    };
    assert_eq!(search(Order::NewestFirst, 3), (500, vec![499, 498, 497]));
    assert_eq!(search(Order::OldestFirst, 3), (500, vec![0, 1, 2]));
    assert_eq!(search(Order::OldestFirst, 0), (500, vec![]));
    assert_eq!(search(Order::NewestFirst, usize::MAX).1.len(), 500);
}

#[test]
fn rare_words_score_higher_than_common_ones() {
    let mut values = vec!["common".to_owned(); 200];
    values[42] = "common rare".to_owned();
    values[43] = r#"{"a": {"b": "rare"}}"#.to_owned();
    for settings in [words(), positions()] {
        let reader = opened(&[valued(&values)], settings);
        let hits = reader
            .search(&Query::parse("common OR rare").unwrap(), &Bounds::default(), Order::ByScore, 2)
            .unwrap();
        assert_eq!(hits.hits.iter().map(|hit| hit.ordinal).max(), Some(43));
        assert!(hits.hits[0].score > Some(1.0));
    }
}

#[test]
fn many_equal_numbers_and_words_are_all_found() {
    // Terms fill more than one block of postings. The terms of numbers have no frequencies, even if those of
    // words have.
    let values: Vec<String> =
        (0..1_000).map(|n| format!(r#"{{"n": {}, "w": "w w same", "b": {}}}"#, n % 2, n % 3 == 0)).collect();
    for settings in [words(), positions()] {
        let reader = opened(&[valued(&values)], settings);
        assert_eq!(ordinals(&reader, "n:1").len(), 500, "{settings:?}");
        assert_eq!(ordinals(&reader, "w:same").len(), 1_000);
        assert_eq!(ordinals(&reader, "same n:0 b:true").len(), 167);
        assert_eq!(ordinals(&reader, "n:[1 TO 5] b:false").len(), 333);
    }
}

#[test]
fn the_order_of_records_is_kept_over_parts_and_tantivy_segments() {
    let settings = words();
    let lines = |part: usize| (0..20_000).map(|n| format!("p{part} l{n} x{part}y{n}")).collect::<Vec<_>>();
    let parts = (0..3).map(|part| {
        let mut builder = IndexBuilder::with_segment_bytes_max(settings, 1 << 20).unwrap();
        builder.add(&valued(&lines(part))).unwrap();
        builder.finish().unwrap()
    });
    let index = assemble(parts.collect(), &[9; 32], &settings).unwrap();
    assert!(index.segments.len() > 3);
    let reader = both(index);
    assert_eq!(reader.documents(), 60_000);
    assert_eq!(ordinals(&reader, "x0y0"), [0]);
    assert_eq!(ordinals(&reader, "x1y19999"), [39_999]);
    assert_eq!(ordinals(&reader, "x2y7"), [40_007]);
}

#[test]
fn a_query_too_broad_for_the_paths_is_refused() {
    let object = (0..1_000).map(|n| format!(r#""k{n}": "x""#)).collect::<Vec<_>>().join(",");
    let reader = opened(&[valued(&[format!("{{{object}}}")])], words());
    let broad = Query::parse(&"x ".repeat(400)).unwrap();
    let refused = reader.search(&broad, &Bounds::default(), Order::NewestFirst, 1);
    assert!(matches!(refused, Err(ReadError::TooBroad { paths: 1_000 })), "{refused:?}");
    assert_eq!(ordinals(&reader, "x"), [0]);
}

#[test]
fn files_that_are_no_index_are_an_error() {
    let open = |files| IndexReader::open(files, &FieldCatalog::default());
    assert!(matches!(open(vec![]), Err(ReadError::Open(_))));
    let index = index(&[valued(&["a"])], words());
    let without: Vec<_> = index.files.iter().filter(|(name, _)| !name.ends_with(".term")).cloned().collect();
    assert!(matches!(open(without), Err(ReadError::Open(_))));
    let mut meta = index.files.clone();
    for (name, bytes) in &mut meta {
        if name == "meta.json" {
            *bytes =
                Bytes::from(String::from_utf8(bytes.to_vec()).unwrap().replace("\"timestamp\"", "\"time\""));
        }
    }
    assert!(matches!(open(meta), Err(ReadError::Schema)));
}
