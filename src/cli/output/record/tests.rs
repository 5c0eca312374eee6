use super::*;

fn printed(key: Option<&[u8]>, value: Option<&[u8]>) -> String {
    let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let record = v1::Record {
        topic: "t".to_owned(),
        key: key.map(bytes),
        value: value.map(bytes),
        ..v1::Record::default()
    };
    let line = line(record, Contents::Readable).expect("JSON");
    let line = String::from_utf8(line).expect("UTF-8");
    serde_json::from_str::<Value>(&line).expect("each line reads by itself");
    let behind = line.split_once(r#""key":"#).or(line.split_once(r#""keyBase64":"#)).expect("a key").1;
    behind.trim_end_matches("}\n").to_owned()
}

#[test]
fn json_text_and_other_bytes_are_told_apart_and_nothing_is_lost() {
    for (value, expected) in [
        (&b"plain \xc3\xa4"[..], r#""value":"plain ä""#),
        (b"", r#""value":"""#),
        (
            b"{\"a\": [1, 2.50, 1E3],\r\n\t\"b c\": \"d  e\\\" f\"}\n",
            r#""value":{"a":[1,2.50,1E3],"b c":"d  e\" f"}"#,
        ),
        (b" [] ", r#""value":[]"#),
        (
            b"{\"n\":123456789012345678901234567890,\"m\":-0.10e-7}",
            r#""value":{"n":123456789012345678901234567890,"m":-0.10e-7}"#,
        ),
        (br#"{"s":"\u0041\\","t":"\\\" , "}"#, r#""value":{"s":"\u0041\\","t":"\\\" , "}"#),
        // These are text, although they are valid JSON.
        (b"42", r#""value":"42""#),
        (b"true", r#""value":"true""#),
        (b"null", r#""value":"null""#),
        (br#""quoted""#, r#""value":"\"quoted\"""#),
        // Parsers would refuse these, or would lose a part of them.
        (br#"{"big":1e400}"#, r#""value":"{\"big\":1e400}""#),
        (br#"{"a":1,"a":2}"#, r#""value":"{\"a\":1,\"a\":2}""#),
        (br#"{"x":{"a":1,"\u0061":2}}"#, r#""value":"{\"x\":{\"a\":1,\"\\u0061\":2}}""#),
        (br#"{"a":"\ud83d"}"#, r#""value":"{\"a\":\"\\ud83d\"}""#),
        (br#"{"a":1} {"b":2}"#, r#""value":"{\"a\":1} {\"b\":2}""#),
        (br#"{"a":1"#, r#""value":"{\"a\":1""#),
        ("\u{feff}{}".as_bytes(), "\"value\":\"\u{feff}{}\""),
        (b"\xff\x00", r#""valueBase64":"/wA=""#),
        (b"{\"a\":\"\xe9\"}", r#""valueBase64":"eyJhIjoi6SJ9""#),
    ] {
        assert_eq!(printed(None, Some(value)), format!("null,{expected}"));
    }
    assert_eq!(printed(Some(b"{\"id\": 7}"), None), r#"{"id":7},"value":null"#);
    assert_eq!(printed(Some(b"\xff"), Some(b"x")), r#""/w==","value":"x""#);
    let deep = [&b"[".repeat(100_000)[..], &b"]".repeat(100_000)].concat();
    assert!(printed(None, Some(&deep)).starts_with(r#"null,"value":"[["#));
}

#[test]
fn a_line_stays_one_and_a_terminal_gets_no_orders() {
    for value in
        ["a\u{9b}31m\u{202e}\u{2028}\x1b[2J\x7f\r\n", "{\"a\u{9b}\": \"\u{202e}\u{2028}\x7f\",\n \"b\":\n1}"]
    {
        let line = printed(None, Some(value.as_bytes()));
        assert!(line.chars().all(crate::cli::terminal_escaping::is_plain), "{line:?}");
        let read: Value = serde_json::from_str(&format!("{{\"key\":{line}}}")).expect("JSON");
        match &read["value"] {
            Value::String(text) => assert_eq!(text, value),
            json => assert_eq!(*json, serde_json::from_str::<Value>(value).expect("JSON")),
        }
    }
}
