//! Highlights the matches of a query in a record's value: in bold, on a terminal.

use crate::cli::terminal_escaping;
use crate::index::Query;

/// Marks the matches of a query in values.
#[derive(Debug)]
pub struct Highlighter {
    /// `None` if nothing is to be marked.
    query: Option<Query>,
}

const BOLD: &str = "\x1b[1;31m";
const PLAIN: &str = "\x1b[0m";

impl Highlighter {
    /// Marks the matches of `query`, if `colors` may be used.
    pub fn new(query: Query, colors: bool) -> Self {
        Self { query: colors.then_some(query) }
    }

    /// Returns a value on one line, as [`terminal_escaping::value`] does, with the matches marked.
    pub fn value(&self, value: Option<&[u8]>) -> String {
        let readable = value.and_then(|value| str::from_utf8(value).ok());
        let (Some(query), Some(readable)) = (&self.query, readable) else {
            return terminal_escaping::value(value);
        };
        let (mut line, mut at) = (String::with_capacity(readable.len()), 0);
        for mark in query.highlights(readable) {
            line.push_str(&terminal_escaping::one_line(&readable[at..mark.start]));
            let marked = terminal_escaping::one_line(&readable[mark.clone()]);
            line.extend([BOLD, &marked, PLAIN]);
            at = mark.end;
        }
        line.push_str(&terminal_escaping::one_line(&readable[at..]));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(query: &str, value: &[u8], colors: bool) -> String {
        let line = Highlighter::new(Query::parse(query).unwrap(), colors).value(Some(value));
        line.replace(BOLD, "<").replace(PLAIN, ">")
    }

    #[test]
    fn what_is_looked_for_is_marked_and_nothing_else_changes() {
        let log = br#"{"level":"ERROR","text":"conn errors"}"#;
        let expected = r#"{"level":"<ERROR>","text":"<conn> errors"}"#;
        assert_eq!(marked("level:Error AND (conn OR x)", log, true), expected);
        assert_eq!(marked("conn", b"not UTF-8: conn \xff", true), "not UTF-8: conn \\xff");
        assert_eq!(Highlighter::new(Query::all(), true).value(None), "(null)");
    }

    #[test]
    fn a_terminal_gets_no_orders_but_the_marks() {
        let hostile = "a\x1b[2Jb \u{202e}conn\x07\u{9b}31m conn";
        let line = marked("conn 2Jb 31m", hostile.as_bytes(), true);
        assert_eq!(line, "a\\u{1b}[2Jb \\u{202e}<conn>\\u{7}\\u{9b}<31m> <conn>");
    }

    #[test]
    fn nothing_is_marked_where_no_terminal_shows_it() {
        assert_eq!(marked("a", b"a b", false), "a b");
    }
}
