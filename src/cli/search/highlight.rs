//! Shows where a record matches: the query's words, in bold, on a terminal.

/// Marks words of a query in text.
#[derive(Debug)]
pub struct Highlighter {
    /// In lower case; empty where nothing is to be marked.
    words: Vec<String>,
}

const BOLD: &str = "\x1b[1;31m";
const PLAIN: &str = "\x1b[0m";

impl Highlighter {
    /// For the words of `query`, if `colors` may be used. Names before a colon and operators are none.
    pub fn new(query: &str, colors: bool) -> Self {
        let mut words = Vec::new();
        for part in query.split(|c: char| c.is_whitespace() || "()[]{}\"".contains(c)).filter(|_| colors) {
            let sought = part.rsplit(':').next().unwrap_or(part);
            if !["AND", "OR", "NOT", "TO"].contains(&sought) {
                words.extend(
                    pieces(sought).filter(|(_, is_word)| *is_word).map(|(word, _)| word.to_lowercase()),
                );
            }
        }
        Self { words }
    }

    /// `text` with the words marked.
    pub fn mark(&self, text: &str) -> String {
        if self.words.is_empty() {
            return text.to_owned();
        }
        let marked = pieces(text).map(|(piece, is_word)| {
            let found = is_word && self.words.contains(&piece.to_lowercase());
            if found { format!("{BOLD}{piece}{PLAIN}") } else { piece.to_owned() }
        });
        marked.collect()
    }
}

/// Words, and what is between them.
fn pieces(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut left = text;
    std::iter::from_fn(move || {
        let is_word = left.chars().next()?.is_alphanumeric();
        let end = left.find(|c: char| c.is_alphanumeric() != is_word).unwrap_or(left.len());
        let (piece, rest) = left.split_at(end);
        left = rest;
        Some((piece, is_word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_of_the_query_are_marked_whatever_their_case() {
        let highlighter = Highlighter::new("level:Error AND (\"conn reset\" OR user-30)", true);
        let text = "{\"level\":\"ERROR\"} conn errors; USER 30 AND ärger";
        let marked = highlighter.mark(text);
        let bold: Vec<_> = marked.split(BOLD).skip(1).map(|part| part.split(PLAIN).next().unwrap()).collect();
        assert_eq!(bold, ["ERROR", "conn", "USER", "30"]);
        assert_eq!(marked.replace(BOLD, "").replace(PLAIN, ""), text);
    }

    #[test]
    fn nothing_is_marked_where_no_terminal_shows_it() {
        assert_eq!(Highlighter::new("a", false).mark("a b"), "a b");
    }
}
