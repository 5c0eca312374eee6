//! Escapes untrusted bytes for a terminal: everything is on one line, and nothing acts as a control sequence.

use std::borrow::Cow;
use std::fmt::Write;

/// Escapes every control character, and every character that changes the place or the direction of the text
/// around it.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if is_plain(c) => line.push(c),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            // Writing to a string cannot fail.
            c => _ = write!(line, "\\u{{{:x}}}", u32::from(c)),
        }
    }
    line.into()
}

/// Names the topic and partition after a message that there is nothing: ` of orders/3`.
pub fn of(topic: Option<&str>, partition: Option<i32>) -> String {
    match (topic.map(one_line), partition) {
        (Some(topic), Some(partition)) => format!(" of {topic}/{partition}"),
        (Some(topic), None) => format!(" of topic {topic}"),
        (None, Some(partition)) => format!(" of partition {partition} of any topic"),
        (None, None) => String::new(),
    }
}

/// The text in place of a value that is larger than a worker may hold for a search or a fetch.
pub fn omitted(bytes: u64) -> String {
    format!("({bytes} bytes, more than --search-memory allows)")
}

/// A key or a value on one line. Bytes that are not UTF-8 are written as `\xff`, null as `(null)`.
pub fn value(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "(null)".to_owned() };
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        line.push_str(&one_line(chunk.valid()));
        for byte in chunk.invalid() {
            _ = write!(line, "\\x{byte:02x}");
        }
    }
    line
}

/// Returns whether a terminal shows this character as itself and does nothing else: it is no control
/// character, and it does not change the place or the direction of the text around it.
pub fn is_plain(c: char) -> bool {
    !c.is_control() && !is_direction(c)
}

/// Line and paragraph separators, and the marks, embeddings, overrides and isolates of text direction.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_orders_from_a_record() {
        assert_eq!(value(Some(b"plain \xc3\xa4 text")), "plain ä text");
        assert_eq!(value(Some(b"\x1b[2J\r\n\tx\x7f")), "\\u{1b}[2J\\r\\n\\tx\\u{7f}");
        assert_eq!(value(Some("a\u{202e}b\u{9b}c".as_bytes())), "a\\u{202e}b\\u{9b}c");
        assert_eq!(value(Some(b"\xff\x00ok\xc3")), "\\xff\\u{0}ok\\xc3");
        assert_eq!((value(None), value(Some(b""))), ("(null)".to_owned(), String::new()));
    }
}
