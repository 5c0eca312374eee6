use std::sync::Arc;
use std::sync::atomic::Ordering;

use tantivy::tokenizer::{LowerCaser, SimpleTokenizer, TextAnalyzer};

use super::super::schema::TERM_BYTES_MAX;
use super::super::testing::stock::manager;
use super::*;

fn check(text: &str, expected: &[&str]) {
    assert_eq!(words(text), expected, "{text:?}");
}

#[test]
fn words_are_runs_of_letters_and_digits_in_small_letters() {
    check("", &[]);
    check("  --  ", &[]);
    check("Hello, World!", &["hello", "world"]);
    check("user-30", &["user", "30"]);
    check("trace_id=9F", &["trace", "id", "9f"]);
    check("10.0.0.1:8080", &["10", "0", "0", "1", "8080"]);
    check("ÜNÏCODE straße", &["ünïcode", "straße"]);
    check("x²y ½", &["x²y", "½"]);
    check("日本語 テスト", &["日本語", "テスト"]);
    check("a🦀b", &["a", "b"]);
    check("ΑΣ ΣΑ", &["ασ", "σα"]);
    check("İstanbul", &["i̇stanbul"]);
    check("e\u{301}a", &["e", "a"]);
    check("\u{0}a\u{1}b\u{7f}c\u{80}d", &["a", "b", "c", "d"]);
    check("endsÜ", &["endsü"]);
    check("Ü", &["ü"]);
}

/// The words of Tantivy's own tokenizer, without its limit of 40 bytes.
fn tantivy_words(text: &str) -> Vec<(String, usize, usize, usize)> {
    let mut analyzer = TextAnalyzer::builder(SimpleTokenizer::default()).filter(LowerCaser).build();
    tokens(&mut analyzer, text)
}

fn tokens(analyzer: &mut TextAnalyzer, text: &str) -> Vec<(String, usize, usize, usize)> {
    let mut stream = analyzer.token_stream(text);
    let mut tokens = Vec::new();
    stream.process(&mut |token| {
        tokens.push((token.text.clone(), token.position, token.offset_from, token.offset_to));
    });
    tokens
}

#[test]
fn tantivys_default_tokenizer_has_the_same_words_at_the_same_places() {
    let manager = manager(&Arc::default());
    let mut analyzer = manager.get(WORDS).unwrap();
    // Every character of Unicode, each between letters, in texts of a few hundred.
    let mut text = String::new();
    for (index, c) in ('\0'..=char::MAX).enumerate() {
        text.extend(['a', c, 'B']);
        if index % 3 == 0 {
            text.push(' ');
        }
        if index % 500 == 0 {
            assert_eq!(tokens(&mut analyzer, &text), tantivy_words(&text));
            text.clear();
        }
    }
}

#[test]
fn a_word_that_is_too_long_is_counted_and_keeps_its_place() {
    let dropped = Arc::default();
    let mut analyzer = manager(&dropped).get(WORDS).unwrap();
    let longest = "x".repeat(TERM_BYTES_MAX);
    let text = format!("a {longest} {longest}x b");
    let found: Vec<_> =
        tokens(&mut analyzer, &text).into_iter().map(|(text, position, ..)| (text, position)).collect();
    assert_eq!(found, [("a".to_owned(), 0), (longest, 1), ("b".to_owned(), 3)]);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn eight_bytes_at_once_are_what_each_of_them_is() {
    for byte in 0..0x80_u8 {
        for at in 0..8 {
            for other in [b' ', b'a', b'Z', 0, 0x7f] {
                let mut bytes = [other; 8];
                bytes[at] = byte;
                let (lower, words) = eight_ascii(bytes);
                assert_eq!(lower, bytes.map(|byte| byte.to_ascii_lowercase()));
                let expected = bytes.map(|byte| CLASSES[usize::from(byte)] == Class::Word);
                assert_eq!(std::array::from_fn(|at| words >> at & 1 == 1), expected, "{bytes:?}");
            }
        }
    }
}
