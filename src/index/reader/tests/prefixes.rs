//! Prefixes, and queries for any content.

use super::*;

#[test]
fn prefixes_find_every_word_that_starts_so() {
    check(
        &[
            "Timeout of a timer, in time",
            r#"{"message": "timely", "level": "error"}"#,
            r#"{"level": ["ERRATIC", "x"], "n": 5012}"#,
            r#"{"level": {"deep": "errand"}, "n": "5012"}"#,
            r#"{"ok": true, "level": "Ünder"}"#,
            "tim",
            r#"{"ok": false}"#,
        ],
        &[
            ("time*", &[0, 1]),
            ("TIM*", &[0, 1, 5]),
            ("timer*", &[0]),
            ("timers*", &[]),
            ("level:err*", &[1, 2]),
            ("level:e*", &[1, 2]),
            ("level:ün*", &[4]),
            ("level.deep:err*", &[3]),
            ("err*", &[1, 2, 3]),
            ("err* -erratic*", &[1, 3]),
            ("text:time*", &[0]),
            ("n:50*", &[3]),
            ("50*", &[3]),
            ("ok:t*", &[4]),
            ("ok:fals*", &[6]),
            ("tru*", &[4]),
            ("NOT t*", &[2, 3, 6]),
            ("nowhere:t*", &[]),
            ("level:(err* -erro*)", &[2]),
        ],
    );
}

#[test]
fn what_is_there_at_a_path_or_below_is_found() {
    check(
        &[
            r#"{"a": "word"}"#,
            r#"{"a": 5}"#,
            r#"{"a": {"b": [1.5, true]}}"#,
            r#"{"a": null, "ab": 1}"#,
            r#"{"a": "", "c": "2024-05-01T12:00:00Z"}"#,
            r#"{"a": false}"#,
            "a",
            r#"{"": {"x": 1}}"#,
        ],
        &[
            ("a:*", &[0, 1, 2, 5]),
            ("a.b:*", &[2]),
            ("NOT a:*", &[3, 4, 6, 7]),
            ("ab:*", &[3]),
            ("c:*", &[4]),
            ("x:*", &[]),
            ("text:*", &[6]),
            ("value.:*", &[7]),
            ("offset:*", &[0, 1, 2, 3, 4, 5, 6, 7]),
        ],
    );
}

#[test]
fn the_last_word_of_a_phrase_may_be_left_open() {
    let values = [
        "the quick brown fox",
        "brow quick the",
        r#"{"a": ["quick", "broth"]}"#,
        r#"{"a": "Quick-Brow"}"#,
        "quick quick the quick brown",
        "quick the br",
    ];
    for (settings, two, three) in
        [(positions(), vec![0, 3, 4], vec![0, 4]), (words(), vec![0, 1, 2, 3, 4, 5], vec![0, 1, 4, 5])]
    {
        let reader = opened(&[valued(&values)], settings);
        assert_eq!(ordinals(&reader, "\"quick br\"*"), two, "{settings:?}");
        assert_eq!(ordinals(&reader, "quick-br*"), two);
        assert_eq!(ordinals(&reader, "\"the quick br\"*"), three);
        assert_eq!(ordinals(&reader, "\"slow br\"*"), [0; 0]);
        assert_eq!(ordinals(&reader, "\"quick bra\"*"), [0; 0]);
        let hits = |query: &str| {
            let query = Query::parse(query).unwrap();
            reader.search(&query, &Bounds::default(), Order::OldestFirst, 9).unwrap()
        };
        assert_eq!(hits("\"quick br\"*").phrases_as_words, !settings.positions);
        assert!(!hits("br*").phrases_as_words);
    }
}

#[test]
fn a_prefix_over_many_words_finds_all_of_them() {
    let values: Vec<String> =
        (0..5_000).map(|n| format!(r#"{{"id": "x{n:04}", "m": "at x{:04}"}}"#, n / 2)).collect();
    for settings in [words(), positions()] {
        let reader = opened(&[valued(&values)], settings);
        assert_eq!(ordinals(&reader, "id:x12*").len(), 100);
        let count = |query| {
            reader
                .search(&Query::parse(query).unwrap(), &Bounds::default(), Order::OldestFirst, 0)
                .unwrap()
                .matched
        };
        assert_eq!(count("id:x*"), 5_000);
        assert_eq!(count("x1*"), 1_000 + 2_000);
        assert_eq!(count("m:\"at x12\"*"), 200);
    }
}

#[test]
fn prefixes_that_stand_for_too_many_words_are_refused_and_leave_nothing_out() {
    // Each prefix counts the words that it looks at: one is within the limit, a hundred equal ones are not.
    let values: Vec<String> = (0..12_000).map(|n| format!("w{n}")).collect();
    let reader = opened(&[valued(&values)], words());
    let search =
        |query: &str| reader.search(&Query::parse(query).unwrap(), &Bounds::default(), Order::NewestFirst, 0);
    assert_eq!(search("w*").unwrap().matched, 12_000);
    let refused = search("w* OR ".repeat(100).trim_end_matches(" OR ")).unwrap_err();
    assert!(matches!(refused, ReadError::PrefixTooBroad), "{refused:?}");
}
