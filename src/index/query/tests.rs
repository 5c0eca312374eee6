use super::*;

fn check_error(text: &str, position: usize, problem: QueryProblem) {
    assert_eq!(Query::parse(text), Err(QueryError { position, problem }), "{text:?}");
}

#[test]
fn errors_say_what_is_wrong_and_at_which_character() {
    use QueryProblem::*;
    check_error("a AND", 5, Missing);
    check_error("ünï OR ", 7, Missing);
    check_error("AND a", 0, Missing);
    check_error("a OR OR b", 5, Missing);
    check_error("NOT", 3, Missing);
    check_error("()", 1, Missing);
    check_error("a (b", 2, NotClosed('('));
    check_error("(a OR (b)", 0, NotClosed('('));
    check_error("a)", 1, Unexpected(')'));
    check_error(")", 0, Unexpected(')'));
    check_error("a \"b", 2, NotClosed('"'));
    check_error("a -- b", 3, NoWord("-".into()));
    check_error("a - b", 2, NoWord("-".into()));
    check_error("(a -)", 3, NoWord("-".into()));
    check_error("\"!?\"", 0, NoWord("!?".into()));
    check_error("level:", 6, Missing);
    check_error("level: x", 6, Missing);
    check_error("level:-", 6, NoWord("-".into()));
    check_error("level:()", 7, Missing);
    check_error("level:(a b", 6, NotClosed('('));
    check_error("level:(a OR -)", 12, NoWord("-".into()));
    check_error("offset:(1 OR b)", 13, BadEnd { text: "b".into(), expected: "whole number" });
    check_error(":a", 0, NoField(String::new()));
    check_error("header.:a", 0, NoField("header.".into()));
    check_error("n:[1 2]", 5, NoRange);
    check_error("n:[1 TO 2", 2, NotClosed('['));
    check_error("n:[1 TO 2)", 9, NoRange);
    check_error("n:[1 TO ]", 8, Missing);
    check_error("n:>", 3, Missing);
    check_error("*a", 0, StrayStar);
    check_error("ä a*b", 3, StrayStar);
    check_error("a**", 1, StrayStar);
    check_error("key:a*b*", 5, StrayStar);
    check_error("na*me:x", 2, StrayStar);
    check_error("*:x", 0, StrayStar);
    check_error("n:[\"1\"* TO 2]", 6, StrayStar);
    check_error("a \"b\"* *c", 7, StrayStar);
    check_error("offset:1*", 7, PrefixOfNumber("offset".into()));
    check_error("timestamp:2024*", 10, PrefixOfNumber("timestamp".into()));
    check_error("-.*", 1, NoWord(".".into()));
    check_error("key:>a", 4, RangeOfExact("key".into()));
    check_error("header.x:[a TO b]", 9, RangeOfExact("header.x".into()));
    check_error("text:<5", 5, RangeOfExact("text".into()));
    let bad = |text: &str, expected| BadEnd { text: text.into(), expected };
    check_error("n:>abc", 3, bad("abc", "number or RFC 3339 date"));
    check_error("n:>nan", 3, bad("nan", "number or RFC 3339 date"));
    check_error("n:>1e999", 3, bad("1e999", "number or RFC 3339 date"));
    check_error("n:[2024-05-01 TO 5]", 17, bad("5", "RFC 3339 date"));
    check_error("offset:1.5", 7, bad("1.5", "whole number"));
    check_error("offset:[a TO 5]", 8, bad("a", "whole number"));
    check_error("timestamp:soon", 10, bad("soon", "time: milliseconds since the epoch or an RFC 3339 date"));
}

#[test]
fn size_and_depth_are_bounded() {
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Query::parse(&nested(QUERY_DEPTH_MAX)).is_ok());
    check_error(&nested(QUERY_DEPTH_MAX + 1), QUERY_DEPTH_MAX, QueryProblem::TooDeep);
    check_error(&nested(30_000), QUERY_DEPTH_MAX, QueryProblem::TooDeep);
    check_error(&"NOT ".repeat(10_000), 4 * QUERY_DEPTH_MAX, QueryProblem::TooDeep);
    assert!(Query::parse(&"a ".repeat(QUERY_CLAUSES_MAX)).is_ok());
    check_error(&"a ".repeat(QUERY_CLAUSES_MAX + 1), 2 * QUERY_CLAUSES_MAX, QueryProblem::TooManyClauses);
    let long = "a".repeat(QUERY_BYTES_MAX + 1);
    check_error(&long, 0, QueryProblem::TooLong { bytes: QUERY_BYTES_MAX + 1 });
}

#[test]
fn not_binds_tightest_then_and_then_or() {
    let tree = |text: &str| Query::parse(text).unwrap();
    assert_eq!(tree("a b OR c NOT d"), tree("(a AND b) OR (c AND (NOT d))"));
    assert_eq!(tree("a AND b c"), tree("a b AND c"));
    assert_eq!(tree(" ( a ) "), tree("a"));
    assert_ne!(tree("(a OR b) c"), tree("a OR b c"));
    assert_eq!(tree(""), Query::all());
    assert_eq!(tree(" * "), Query::all());
    assert_eq!(tree("a AND(b)OR c"), tree("(a b) OR c"));
    assert_eq!(tree("-a b OR -(c d)"), tree("((NOT a) AND b) OR (NOT (c AND d))"));
    assert_eq!(tree("a -n:5 -\"b c\""), tree("a AND NOT n:5 AND NOT \"b c\""));
    assert_eq!(tree("a-b"), tree("\"a b\""));
    assert_ne!(tree("-5"), tree(r"\-5"));
    assert_eq!(tree("-*"), tree("NOT *"));
}

#[test]
fn a_name_before_brackets_holds_for_all_in_them() {
    let tree = |text: &str| Query::parse(text).unwrap();
    assert_eq!(tree("level:(error OR fatal)"), tree("level:error OR level:fatal"));
    assert_eq!(tree("level:(a (b OR -c*)) d"), tree("(level:a (level:b OR NOT level:c*)) d"));
    assert_eq!(tree("n:(>5 [1 TO 2] \"x y\")"), tree("n:>5 n:[1 TO 2] n:\"x y\""));
    assert_eq!(tree("key:(a OR b*) c"), tree("(key:a OR key:b*) c"));
    assert_eq!(
        tree("level:(a OR status:5 OR other:(b c))"),
        tree("level:a OR status:5 OR (other:b other:c)")
    );
    assert_eq!(tree("level:(*)"), tree("level:*"));
    assert_ne!(tree("level:(a) b"), tree("level:(a b)"));
}

#[test]
fn a_star_ends_a_prefix_unless_it_is_escaped_or_quoted() {
    let tree = |text: &str| Query::parse(text).unwrap();
    assert_eq!(tree(r"key:a\*"), Query { root: Node::Key(Exact::Whole("a*".into())) });
    assert_eq!(tree(r"key:a\**"), Query { root: Node::Key(Exact::Prefix("a*".into())) });
    assert_eq!(tree("key:\"a*\""), Query { root: Node::Key(Exact::Whole("a*".into())) });
    assert_eq!(tree("key:\"a b\"*"), Query { root: Node::Key(Exact::Prefix("a b".into())) });
    assert_eq!(tree("key:*"), Query { root: Node::Key(Exact::Prefix(String::new())) });
    assert_eq!(tree(r"key:\*"), Query { root: Node::Key(Exact::Whole("*".into())) });
    assert_eq!(tree("conn-re*"), tree("\"conn re\"*"));
    assert_eq!(tree("conn-*"), tree("\"conn\""));
    assert_ne!(tree("time*"), tree("time"));
    assert_eq!(tree("offset:*"), Query::all());
    assert_eq!(tree("a *"), tree("a AND *"));
}

#[test]
fn an_error_repeats_little_of_a_long_query() {
    for text in [
        "!".repeat(60_000),
        format!("n:>{}", "ü".repeat(30_000)),
        format!("key.x{}:(a OR !)", "k".repeat(50_000)),
    ] {
        let error = Query::parse(&text).unwrap_err();
        assert!(error.to_string().len() < 300, "{error}");
    }
}

#[test]
fn operators_are_words_when_they_are_not_alone_or_not_in_capitals() {
    let tree = |text: &str| Query::parse(text).unwrap();
    assert_eq!(tree("and"), tree("\"and\""));
    assert_eq!(tree("ANDROID"), tree("android"));
    assert_eq!(tree(r"\AND"), tree("\"and\""));
    assert_eq!(tree("level:OR"), tree("level:or"));
}

#[test]
fn names_and_values_may_hold_anything_that_is_escaped() {
    let tree = |text: &str| Query::parse(text).unwrap();
    assert_eq!(
        tree(r"my\ key:x"),
        Query { root: Node::At("my key".into(), TextMatch::new("x", false).unwrap()) }
    );
    assert_eq!(tree(r"a\:b:x"), Query { root: Node::At("a:b".into(), TextMatch::new("x", false).unwrap()) });
    assert_eq!(tree(r#"key:"say \"hi\"""#), Query { root: Node::Key(Exact::Whole("say \"hi\"".into())) });
    assert_eq!(tree(r"key:a\)b"), Query { root: Node::Key(Exact::Whole("a)b".into())) });
    assert_eq!(tree("key:a:b"), Query { root: Node::Key(Exact::Whole("a:b".into())) });
    assert_eq!(tree(r"key:\\"), Query { root: Node::Key(Exact::Whole("\\".into())) });
    assert_eq!(tree("value.a:x"), tree("a:x"));
    assert_eq!(tree("n:[ 1  TO  2 ]"), tree("n:[1 TO 2]"));
}

#[test]
fn every_query_of_the_users_page_reads() {
    let page = include_str!("../../../docs/search.md");
    let table = page.split("## ").find(|part| part.starts_with("The language")).unwrap();
    let column = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let queries: Vec<&str> = column.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(queries.len() > 30, "{queries:?}");
    // Ranges that are written without a field and a number.
    let ends = [">=", "<", "<=", "[10 TO 20}", "[10 TO *]"];
    for query in queries {
        let query = if ends.contains(&query) { format!("n:{query}5") } else { query.to_owned() };
        let query = query.replace("}5", "}").replace("]5", "]");
        assert!(Query::parse(&query).is_ok(), "{query}");
    }
}

#[test]
fn no_text_panics() {
    let pieces = [
        "a",
        "AND",
        "OR",
        "NOT",
        "TO",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "\"",
        ":",
        "\\",
        ">",
        "<",
        "=",
        "*",
        " ",
        "1",
        "-",
        "\\*",
        "ü",
        "n:",
        "offset:",
        "timestamp:",
        "key:",
        "header.x:",
        "2024-05-01",
        "\u{0}",
        ".",
        "1e5",
        "🦀",
    ];
    let mut seed = 1_u64;
    for _ in 0..100_000 {
        let mut text = String::new();
        for _ in 0..8 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
        }
        if let Err(error) = Query::parse(&text) {
            assert!(error.position <= text.chars().count(), "{text:?}");
        }
    }
}

#[test]
fn operators_of_other_languages_are_refused_with_the_right_spelling() {
    for (text, position, written, instead) in [
        ("level:!error", 6, "!", "-error or name:(-error)"),
        ("level:!=error", 6, "!=", "-error or name:(-error)"),
        ("!level:error", 0, "!", "-level:error"),
        ("!error", 0, "!", "-error or name:(-error)"),
        ("a ! b", 2, "!", "-value or name:(-value)"),
        ("level:=error", 6, "=", "name:error"),
        ("level:==error", 6, "==", "name:error"),
        ("level:~err", 6, "~", "name:err"),
        ("level:(warn OR =error)", 15, "=", "name:error"),
        ("level=error", 5, "=", "level:error"),
        ("level==error", 5, "==", "level:error"),
        ("level!=error", 6, "!=", "-level:error"),
        ("level=~err", 5, "=~", "level:err"),
        ("status>500", 6, ">", "status:>500"),
        ("status>=500", 6, ">=", "status:>=500"),
        ("a status<500", 8, "<", "status:<500"),
        ("status > 500", 7, ">", "name:>value"),
        ("te?t", 2, "?", "te*"),
        ("level:err?r", 9, "?", "err*"),
        ("roam~", 4, "~", "roam*"),
        ("roam~2", 4, "~", "roam*"),
        ("/err.*/", 0, "/…/", "err*"),
        ("path:/v1/", 5, "/…/", "v1*"),
        ("_exists_:user.id", 0, "_exists_", "user.id:*"),
        ("-_exists_:user", 1, "_exists_", "user:*"),
        ("_missing_:user", 0, "_missing_", "-user:*"),
        ("a&&b", 2, "&&", "a AND b"),
        ("a || b", 3, "||", "a OR b"),
    ] {
        let problem = QueryProblem::NoOperator { written: written.into(), instead: instead.into() };
        check_error(text, position, problem);
    }
}

#[test]
fn the_characters_of_operators_are_characters_where_they_cannot_be_taken_for_one() {
    for text in [
        "\"a=b\"",
        "\"!x\"",
        r"a\=b",
        r"level:\!error",
        "key:\"a=b\"",
        "key:YWJj==",
        "header.x:a=b",
        "path:/v1/carts",
        "what!",
        "a-b/c",
        "url:https://x/y",
        "a&b",
        "level:\"/x/\"",
        "done! now",
        "n:>=5",
        "n:[1 TO 2]",
        "tags:a|b",
        "mail:x@y",
    ] {
        assert!(Query::parse(text).is_ok(), "{text}: {:?}", Query::parse(text));
    }
}
