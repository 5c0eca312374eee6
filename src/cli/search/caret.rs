//! Shows the place of an error in a query.

use unicode_width::UnicodeWidthStr;

use crate::cli::terminal_escaping::one_line;
use crate::index::QueryError;

/// How many characters of a query are shown on each side of the error.
const SHOWN: usize = 50;

/// Returns the error, and below it the query with a caret under the character.
pub fn point_at(query: &str, error: &QueryError) -> String {
    let chars: Vec<char> = query.chars().collect();
    let at = error.position.min(chars.len());
    let (from, to) = (at.saturating_sub(SHOWN), chars.len().min(at + SHOWN));
    let part = |chars: &[char]| one_line(&chars.iter().collect::<String>()).into_owned();
    let cut = |is_cut: bool| if is_cut { "…" } else { "" };
    let before = format!("{}{}", cut(from > 0), part(&chars[from..at]));
    let behind = format!("{}{}", part(&chars[at..to]), cut(to < chars.len()));
    format!("QUERY: {error}\n  {before}{behind}\n  {}^", " ".repeat(before.width()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Query;

    fn shown(query: &str) -> String {
        point_at(query, &Query::parse(query).unwrap_err())
    }

    #[test]
    fn the_caret_is_under_the_character() {
        assert_eq!(shown("a AND (b"), "QUERY: this '(' is not closed, at character 6\n  a AND (b\n        ^");
        // Wide characters take two columns.
        assert!(shown("東京 (a").ends_with("\n  東京 (a\n       ^"), "{}", shown("東京 (a"));
        assert!(shown("a AND").ends_with("\n  a AND\n       ^"));
    }

    #[test]
    fn a_long_query_is_shown_where_it_matters_and_gives_no_orders() {
        let long = format!("{}*x {}", "a ".repeat(100), "b".repeat(100));
        let text = shown(&long);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1].chars().nth(lines[2].chars().count() - 1), Some('*'), "{text}");
        assert!(lines[1].starts_with("  …") && lines[1].ends_with('…') && lines[1].chars().count() < 120);
        assert!(!shown("\x1b[2J (").contains('\x1b'));
    }
}
