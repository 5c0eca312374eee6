mod agreement;
mod oracle;

use super::super::paths::Dots;
use super::super::schema::{PATH_BYTES_MAX, PATHS_MAX};
use super::*;

struct Read {
    parsed: Parsed,
    leaves: Vec<String>,
    texts: Vec<String>,
    tape: Tape,
}

fn read_with(paths: &mut Paths, json: &str) -> Read {
    let mut tape = Tape::default();
    let parsed = tape.parse(json, paths);
    let leaf = |leaf: &Leaf| {
        format!("{}={:?}", paths.path(leaf.path()).replace('\u{1}', "."), leaf.scalar(&tape.text))
    };
    let leaves = tape.leaves.iter().map(leaf).collect();
    let texts = tape.texts.iter().map(|slice| slice.of(&tape.text).to_owned()).collect();
    Read { parsed, leaves, texts, tape }
}

fn read(json: &str) -> Read {
    read_with(&mut Paths::new(Dots::Separate), json)
}

#[test]
fn an_objects_leaves_are_read_in_order_with_their_paths() {
    let read = read(
        r#" {"a": 1, "b": {"c": "x\ny", "d.e": [true, null, {"f": -2}]}, "u": 18446744073709551615,
            "one": 1.0, "half": 0.5, "zero": -0.0, "big": 1e30, "at": "2024-05-01T12:00:00Z", "e": {}, "dup": 1, "dup": "2"} "#,
    );
    assert_eq!(read.parsed, Parsed::Object);
    assert_eq!(
        read.leaves,
        [
            "a=I64(1)",
            "b.c=Text(\"x\\ny\")",
            "b.d.e=Bool(true)",
            "b.d.e.f=I64(-2)",
            "u=U64(18446744073709551615)",
            "one=I64(1)",
            "half=F64(0.5)",
            "zero=I64(0)",
            "big=F64(1e30)",
            "at=Date(\"2024-05-01T12:00:00Z\", 1714564800000000000)",
            "dup=I64(1)",
            "dup=NumberText(\"2\", I64(2))",
        ]
    );
    assert!(read.texts.is_empty());
}

#[test]
fn what_is_no_json_leaves_no_path_behind() {
    let mut paths = Paths::new(Dots::Separate);
    let before = paths.mark();
    for json in [
        "",
        " ",
        "1",
        "\"a\"",
        "null",
        "{",
        "[",
        "[INFO] started",
        "[12:30:05] late",
        "{'a': 1}",
        "{a: 1}",
        "{\"a\"",
        "{\"a\": ",
        "{\"a\" 1}",
        "[1, 2",
        "[\"a\"] b",
        "INFO {\"a\": 1}",
        "{]",
        "[}",
    ] {
        let read = read_with(&mut paths, json);
        assert_eq!((read.parsed, read.leaves.len(), read.texts.len()), (Parsed::Other, 0, 0), "{json:?}");
        assert_eq!(paths.mark(), before, "{json:?}");
    }
    assert_eq!(read_with(&mut paths, r#"{"a": {"b": 1}}"#).leaves, ["a.b=I64(1)"]);
    assert_eq!(paths.admitted().count(), 1);
}

#[test]
fn what_json_does_not_allow_costs_no_more_than_its_leaf() {
    for (value, leaf) in [
        ("1e400", "a=Text(\"1e400\")"),
        ("-1e400", "a=Text(\"-1e400\")"),
        ("01", "a=Text(\"01\")"),
        ("+1", "a=Text(\"+1\")"),
        ("1.", "a=Text(\"1.\")"),
        (".5", "a=Text(\".5\")"),
        ("0x1F", "a=Text(\"0x1F\")"),
        ("NaN", "a=Text(\"NaN\")"),
        ("-Infinity", "a=Text(\"-Infinity\")"),
        ("True", "a=Text(\"True\")"),
        ("nullable", "a=Text(\"nullable\")"),
        ("12:30:05", "a=Text(\"12:30:05\")"),
        ("\"\\ud83d\"", "a=Text(\"\u{fffd}\")"),
        ("\"\\udd80x\"", "a=Text(\"\u{fffd}x\")"),
        ("\"\\ud83d\\n\"", "a=Text(\"\u{fffd}\\n\")"),
        ("\"\\ud83d\\ud83e\\udd80\"", "a=Text(\"\u{fffd}🦀\")"),
        ("\"\\u12\"", "a=Text(\"\u{fffd}12\")"),
        ("\"a\\xb\\üc\"", "a=Text(\"axbüc\")"),
        ("\"one\ntwo\tthree\"", "a=Text(\"one\\ntwo\\tthree\")"),
        ("\"\\u001b[1;31mred\\u001b[0m\"", "a=Text(\"       red    \")"),
        ("[1, NaN,]", "a=I64(1)"),
    ] {
        let read = read(&format!("{{\"level\": \"ERROR\", \"a\": {value}, \"b\": {{\"c\": 1}},}}"));
        assert_eq!(read.parsed, Parsed::Object, "{value}");
        assert_eq!(read.leaves.first().unwrap(), "level=Text(\"ERROR\")", "{value}");
        assert_eq!(read.leaves.get(1).unwrap(), leaf, "{value}");
        assert_eq!(read.leaves.last().unwrap(), "b.c=I64(1)", "{value}");
    }
    assert_eq!(read("{\"\\ud83d\": 1, \"b\": 2}").leaves, ["\u{fffd}=I64(1)", "b=I64(2)"]);
}

#[test]
fn what_json_does_not_allow_costs_no_more_than_its_element_of_an_array() {
    for json in ["[NaN, {\"a\": 1}]", "[{\"a\": 1}, 1e400, [+5]]", "[INFO] {\"a\": 1}", "{\"a\": 1} [1.]"] {
        let read = read(json);
        assert_eq!((read.parsed, &read.leaves[..]), (Parsed::Object, &["a=I64(1)".to_owned()][..]), "{json}");
        assert!(!read.texts.is_empty(), "{json}");
    }
    let read_text = read("[INFO]");
    assert_eq!((read_text.parsed, &read_text.texts[..]), (Parsed::Object, &["INFO".to_owned()][..]));
    assert_eq!(read("[NaN, {\"a\": 1}] and more").parsed, Parsed::Partial);
}

#[test]
fn several_values_in_a_row_are_read_like_the_elements_of_an_array() {
    for json in [
        r#"[{"a": 1}, {"a": 2, "b": [3]}]"#,
        r#"{"a": 1}{"a": 2, "b": [3]}"#,
        "{\"a\": 1}\n{\"a\": 2, \"b\": [3]}\n",
        "{\"a\": 1}\r\n\r\n{\"a\": 2, \"b\": [3]}",
        r#"{"a": 1}, {"a": 2, "b": [3]},"#,
        "{\"a\": 1}\n\u{1e}{\"a\": 2, \"b\": [3]}\n",
        "\u{feff}{\"a\": 1}\u{feff}{\"a\": 2, \"b\": [3]}",
        r#"[{"a": 1}] [[{"a": 2, "b": [3]}]]"#,
    ] {
        let read = read(json);
        assert_eq!(read.parsed, Parsed::Object, "{json:?}");
        assert_eq!(read.leaves, ["a=I64(1)", "a=I64(2)", "b=I64(3)"], "{json:?}");
        assert_eq!(read.texts, [""; 0], "{json:?}");
    }
    let read = read(r#"["one", 2, 2.5, true, null, {"a": 1}, [["x"]]]"#);
    assert_eq!((read.parsed, read.leaves), (Parsed::Object, vec!["a=I64(1)".to_owned()]));
    assert_eq!(read.texts, ["one", "2", "2.5", "true", "x"]);
    assert_eq!(read.tape.leaves_without_path, 0);
}

#[test]
fn what_breaks_off_has_its_leaves_so_far_and_is_text() {
    for (json, leaves) in [
        (r#"{"level": "ERROR", "n": 5, "message": "cut o"#, vec!["level=Text(\"ERROR\")", "n=I64(5)"]),
        (r#"{"level": "ERROR"} and more"#, vec!["level=Text(\"ERROR\")"]),
        (r#"[{"level": "ERROR"}, {"le"#, vec!["level=Text(\"ERROR\")"]),
        (r#"{"a": "x" "b": 1}"#, vec!["a=Text(\"x\")"]),
    ] {
        let read = read(json);
        assert_eq!((read.parsed, read.texts), (Parsed::Partial, vec![json.to_owned()]));
        assert_eq!(read.leaves, leaves);
    }
}

#[test]
fn strings_that_are_numbers_are_both() {
    for (text, number) in [
        ("500", Some("I64(500)")),
        ("-5", Some("I64(-5)")),
        ("500.0", Some("I64(500)")),
        ("5e2", Some("I64(500)")),
        ("0.25", Some("F64(0.25)")),
        ("18446744073709551615", Some("U64(18446744073709551615)")),
        ("007", None),
        ("+5", None),
        ("5 ", None),
        ("1.2.3", None),
        ("1e400", None),
        ("-", None),
        ("", None),
        ("12ab", None),
    ] {
        let read = read(&format!("{{\"a\": \"{text}\"}}"));
        let expected = match number {
            Some(number) => format!("a=NumberText({text:?}, {number})"),
            None => format!("a=Text({text:?})"),
        };
        assert_eq!(read.leaves, [expected]);
    }
}

#[test]
fn nesting_is_read_far_beyond_tantivys_twenty_levels_and_what_lies_deeper_is_text() {
    let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    for depth in [1, 20, 21, 100] {
        let read = read(&nested(depth));
        assert_eq!(read.leaves, [format!("{}=I64(1)", vec!["a"; depth].join("."))]);
    }
    for depth in [101, 128, 1_000, 100_000] {
        let read = read(&format!("{{\"a\":{},\"b\":2}}", nested(depth - 1)));
        assert_eq!((read.parsed, read.leaves), (Parsed::Object, vec!["b=I64(2)".to_owned()]), "{depth}");
        assert_eq!((read.texts, read.tape.too_deep), (vec![nested(depth - 100)], 1));
    }
    let arrays = format!("{{\"a\": {}1{}}}", "[".repeat(99), "]".repeat(99));
    assert_eq!(read(&arrays).leaves, ["a=I64(1)"]);
    let arrays = format!("{{\"a\": {}1, \"]\", \"\\\"\"{}, \"b\": 2}}", "[".repeat(100), "]".repeat(100));
    assert_eq!(
        (read(&arrays).leaves, read(&arrays).texts),
        (vec!["b=I64(2)".into()], vec![r#"[1, "]", "\""]"#.into()])
    );
}

#[test]
fn a_value_of_too_many_leaves_has_the_first_and_is_text() {
    let array = |leaves: usize| format!("{{\"a\": [1{}]}}", ",1".repeat(leaves - 1));
    assert_eq!(read(&array(LEAVES_MAX)).leaves.len(), LEAVES_MAX);
    let read = read(&array(LEAVES_MAX + 1));
    assert_eq!((read.parsed, read.leaves.len()), (Parsed::TooLarge, LEAVES_MAX));
    assert_eq!(read.texts, [array(LEAVES_MAX + 1)]);
}

#[test]
fn leaves_whose_path_cannot_be_kept_are_texts_and_counted() {
    let long = "k".repeat(PATH_BYTES_MAX);
    let read = read(&format!(
        r#"{{"nul\u0000key": "one", "ok": {{"nul\u0000": {{"below": [2, 2.5, true]}}}}, "{long}": "fits", "{long}x": "3", "x": {{"{long}": null}}}}"#
    ));
    assert_eq!(read.leaves, [format!("{long}=Text(\"fits\")")]);
    assert_eq!(read.texts, ["one", "2", "2.5", "true", "3"]);
    assert_eq!(read.tape.leaves_without_path, 5);
}

#[test]
fn paths_past_the_thousandth_are_text_whatever_their_order() {
    let mut paths = Paths::new(Dots::Separate);
    for n in 0..PATHS_MAX {
        let read = read_with(&mut paths, &format!(r#"{{"k{n}": {n}}}"#));
        assert_eq!(read.leaves, [format!("k{n}=I64({n})")]);
    }
    let read =
        read_with(&mut paths, r#"{"new": {"a": -7, "b": 18446744073709551615}, "k5": 5, "k999": 0.5}"#);
    assert_eq!(read.leaves, ["k5=I64(5)", "k999=F64(0.5)"]);
    assert_eq!(read.texts, ["-7", "18446744073709551615"]);
    assert_eq!((read.tape.unlisted.len(), read.tape.leaves_without_path), (2, 0));
    // Keys that are always new must not fill the memory either.
    for n in 0..100_000 {
        read_with(&mut paths, &format!(r#"{{"new{n}": {{"x": {{}}}}}}"#));
    }
    assert!(paths.mem_usage() < 16 << 20, "{}", paths.mem_usage());
    assert_eq!(paths.admitted().count(), PATHS_MAX);
}

#[test]
fn keys_are_found_again_in_any_order() {
    let mut paths = Paths::new(Dots::Separate);
    let keys: Vec<String> = (0..60).map(|n| format!("key{n}")).collect();
    for step in [1, 7, 59, 13, 1] {
        let entries: Vec<_> =
            (0..60).map(|n| n * step % 60).map(|n| format!(r#""{}": {n}"#, keys[n])).collect();
        let read = read_with(&mut paths, &format!("{{{}}}", entries.join(",")));
        let expected: Vec<_> = (0..60).map(|n| n * step % 60).map(|n| format!("key{n}=I64({n})")).collect();
        assert_eq!(read.leaves, expected);
    }
    assert_eq!(paths.admitted().count(), 60);
    assert_eq!(size_of::<Leaf>(), 16);
}

#[test]
fn numbers_have_one_form() {
    for (value, form) in [
        (1.0, Number::I64(1)),
        (-0.0, Number::I64(0)),
        (0.1, Number::F64(0.1)),
        (-9_223_372_036_854_775_808.0, Number::I64(i64::MIN)),
        (9_223_372_036_854_774_784.0, Number::I64(9_223_372_036_854_774_784)),
        (9_223_372_036_854_775_808.0, Number::U64(1 << 63)),
        (18_446_744_073_709_551_616.0, Number::U64(u64::MAX)),
        (-9_223_372_036_854_777_856.0, Number::F64(-9_223_372_036_854_777_856.0)),
        (1e300, Number::F64(1e300)),
    ] {
        assert_eq!(Number::of_f64(value), form);
    }
    assert_eq!(Number::of_u64(1 << 63), Number::U64(1 << 63));
    assert_eq!(Number::of_u64((1 << 63) - 1), Number::I64(i64::MAX));
}
