use super::*;

fn check(query: &str, value: &str, expected: &[&str]) {
    let highlights = Query::parse(query).unwrap().highlights(value);
    let marked: Vec<_> = highlights.iter().map(|highlight| &value[highlight.clone()]).collect();
    assert_eq!(marked, expected, "{query:?} in {value:?}");
}

const LOG: &str = r#"{"level": "ERROR", "message": "Conn reset by user; error 500", "status": 500, "user": {"id": 42, "name": "err"}, "ok": true}"#;

#[test]
fn words_are_marked_wherever_they_are_and_names_are_not() {
    check("error", LOG, &["ERROR", "error"]);
    check("user", LOG, &["user"]);
    check("level", LOG, &[]);
    check("error -conn NOT reset", LOG, &["ERROR", "error"]);
    check("", LOG, &[]);
    check("*", LOG, &[]);
    check("ÜBER", "über alles Übermut", &["über"]);
}

#[test]
fn what_is_sought_at_a_path_is_marked_there_only() {
    check("level:error", LOG, &["ERROR"]);
    check("value.user.name:err*", LOG, &["err"]);
    check("err*", LOG, &["ERROR", "error", "err"]);
    check("message:(user OR 500)", LOG, &["user", "500"]);
    check("status:500", LOG, &["500"]);
    check("user.id:>40 status:[1 TO 499]", LOG, &["42"]);
    check("ok:true", LOG, &["true"]);
    check("user:*", LOG, &[]);
    check("text:error", LOG, &[]);
    check("text:error", "an error", &["error"]);
    let written = r#"{"n":["500","5e2","4.5","x9","007",7,"600"]}"#;
    check("n:[5 TO 550]", written, &["500", "5e2", "7"]);
    check("n:>=600", written, &["600"]);
    check("n:500", written, &["500", "5e2"]);
    let dated = r#"{"at":["2024-05-01T12:00:00Z","2025-05-01T12:00:00Z"]}"#;
    check("at:<2025-01-01", dated, &["2024-05-01T12:00:00Z"]);
    check("at:2024-05-01T14:00:00+02:00", dated, &["2024-05-01T12:00:00Z"]);
}

#[test]
fn phrases_are_marked_where_the_words_follow_each_other() {
    check("\"conn reset\"", "reset conn reset; conn", &["conn", "reset"]);
    check("\"conn re\"*", LOG, &["Conn", "reset"]);
    check("user-30", "user 31, USER_30", &["USER", "30"]);
    // An index without positions matches this.
    check("\"reset conn\"", LOG, &["Conn", "reset"]);
}

#[test]
fn escapes_separate_words() {
    check("b", r#"{"a": "a\nb \"b\" \u0041b c\\b"}"#, &["b", "b", "b", "b"]);
    check("nb", r"a\nb \b b\", &["nb"]);
    check("nb", r#"{"a": "a\nb"}"#, &[]);
}

#[test]
fn no_value_is_too_odd() {
    let pieces = [
        "{", "}", "[", "]", "\"", "\\", "\\u", ":", ",", "a", "ü", "1", "-", " ", "\n", "é", "🦀", "true",
        "\u{0}",
    ];
    let queries = ["a", "a*", "\"a 1\"", "a:1", "a:>0", "ü*"].map(|query| Query::parse(query).unwrap());
    let mut seed = 1_u64;
    for _ in 0..20_000 {
        let mut value = String::from(if seed.is_multiple_of(3) { "{\"a\":" } else { "" });
        for _ in 0..10 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            value.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
        }
        for query in &queries {
            for highlight in query.highlights(&value) {
                assert!(value.get(highlight).is_some(), "{value:?}");
            }
        }
    }
}
