//! The log id of each topic.

use std::sync::Arc;

use super::LogId;

/// The log ids of topics: a default, and other ids for topics whose names match a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogIds {
    default: LogId,
    by_pattern: Arc<Vec<(String, LogId)>>,
}

impl LogIds {
    /// `by_pattern` has patterns of topic names, in which `*` stands for any characters and `?` for one. The
    /// first pattern that matches decides. If none matches, the default applies.
    pub fn new(default: LogId, by_pattern: Vec<(String, LogId)>) -> Self {
        Self { default, by_pattern: Arc::new(by_pattern) }
    }

    /// The log id of a topic.
    pub fn of(&self, topic: &str) -> &LogId {
        let matching = self.by_pattern.iter().find(|(pattern, _)| matches(pattern, topic));
        matching.map_or(&self.default, |(_, log_id)| log_id)
    }
}

impl From<LogId> for LogIds {
    fn from(default: LogId) -> Self {
        Self::new(default, Vec::new())
    }
}

/// Whether the pattern matches the whole text. If the rest does not match, the last `*` takes one more
/// character. So it takes at most as many steps as the product of both lengths.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut read) = (0, 0);
    let mut star = None;
    while read < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&c) if c == '?' || c == text[read] => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (at, read) = (star_at + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_whole_names() {
        for (pattern, yes, no) in [
            ("orders", "orders", "orders-eu"),
            ("orders-*", "orders-", "orders"),
            ("*-eu", "a-eu-eu", "a-eu-us"),
            ("*a*b", "xaxbxb", "xaxbx"),
            ("a?c", "aßc", "ac"),
            ("*", "", "none"),
        ] {
            assert!(matches(pattern, yes), "{pattern} {yes}");
            assert!(pattern == "*" || !matches(pattern, no), "{pattern} {no}");
        }
    }

    #[test]
    fn the_first_pattern_that_matches_decides() {
        let id = LogId::new;
        let patterns = [("orders", "1"), ("orders*", "2"), ("*-eu", "3")];
        let ids = LogIds::new(id("0"), patterns.map(|(pattern, of)| (pattern.to_owned(), id(of))).to_vec());
        for (topic, of) in [("orders", "1"), ("orders-eu", "2"), ("carts-eu", "3"), ("carts", "0")] {
            assert_eq!(*ids.of(topic), id(of), "{topic}");
        }
        assert_eq!(*LogIds::from(id("7")).of("orders"), id("7"));
    }
}
