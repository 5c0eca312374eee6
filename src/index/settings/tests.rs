use super::*;

#[test]
fn without_a_file_or_a_match_values_are_recognised_and_words_have_no_positions() {
    let default = TopicSettings { value: ValueMode::Auto, positions: false };
    assert_eq!(Settings::default().for_topic("orders"), default);
    assert_eq!(Settings::parse("").unwrap().for_topic("orders"), default);
    let settings = Settings::parse("[[topic]]\npattern = \"x\"\nvalue = \"none\"").unwrap();
    assert_eq!(settings.for_topic("xx"), default);
}

#[test]
fn the_first_pattern_that_matches_the_whole_name_counts() {
    let settings = Settings::parse(
        r#"
        [[topic]]
        pattern = "payments-{eu,us}"
        value = "json"
        [[topic]]
        pattern = "payments-*"
        value = "text"
        positions = true
        [[topic]]
        pattern = "*"
        value = "none"
        "#,
    )
    .unwrap();
    let of = |topic| settings.for_topic(topic);
    assert_eq!(of("payments-eu"), TopicSettings { value: ValueMode::Json, positions: false });
    assert_eq!(of("payments-asia"), TopicSettings { value: ValueMode::Text, positions: true });
    assert_eq!(of("my-payments-eu").value, ValueMode::None);
}

#[test]
fn what_is_not_understood_is_refused_and_named() {
    for (toml, named) in [
        ("[[topics]]\npattern = \"a\"", "topics"),
        ("[[topic]]\npattern = \"a\"\nposition = true", "position"),
        ("[[topic]]\npattern = \"a\"\nvalue = \"xml\"", "xml"),
        ("[[topic]]\nvalue = \"json\"", "pattern"),
        ("[[topic]]\npattern = \"a\"\n[[topic]]\npattern = \"[b\"", "number 2"),
        ("not toml", "not valid"),
    ] {
        let error = Settings::parse(toml).unwrap_err().to_string();
        assert!(error.contains(named), "{toml}: {error}");
    }
}
