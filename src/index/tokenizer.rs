//! What a word is, when a record is indexed and when it is searched.
//!
//! A word is a longest run of alphanumeric characters as Unicode has them (`char::is_alphanumeric`), each character
//! lower-cased by itself. All else separates: `user-30` is two words, so are `trace_id` and `ünï_code`; `10.0.0.1` is four. A query
//! is cut the same way, so `user-30` finds `User_30` too; with `positions = true` the words must also be adjacent and in order.
//! There are no stop words and no stemming, nothing is normalised (a letter with a combining accent ends a word), and
//! scripts written without spaces are not cut into words.
//!
//! It is registered under the name of Tantivy's own `default` tokenizer, which gives the same words except that it
//! drops those over 40 bytes: so stock Tantivy searches an extracted index with its own query parser.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tantivy::tokenizer::{RawTokenizer, TextAnalyzer, Token, TokenStream, Tokenizer, TokenizerManager};

use super::schema::TERM_BYTES_MAX;

/// The name in the schema.
pub(super) const WORDS: &str = "default";
/// The name of the tokenizer that leaves a text whole.
pub(super) const RAW: &str = "raw";

/// The tokenizers for one index, and the count of words that were too long for it.
pub(super) fn manager(dropped: &Arc<AtomicU64>) -> TokenizerManager {
    let manager = TokenizerManager::new();
    manager.register(WORDS, TextAnalyzer::from(Words::new(Arc::clone(dropped))));
    manager.register(RAW, TextAnalyzer::from(RawTokenizer::default()));
    manager
}

/// The words of a text, as they are indexed.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut tokenizer = Words::new(Arc::default());
    let mut words = Vec::new();
    tokenizer.token_stream(text).process(&mut |token| words.push(token.text.clone()));
    words
}

/// Cuts text into words. Its token is used again and again, so that no text costs an allocation of its own.
#[derive(Clone)]
pub(super) struct Words {
    token: Token,
    dropped: Arc<AtomicU64>,
}

impl Words {
    fn new(dropped: Arc<AtomicU64>) -> Self {
        Self { token: Token::default(), dropped }
    }
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        self.token.reset();
        WordStream { text, at: 0, token: &mut self.token, dropped: &self.dropped }
    }
}

/// The words of one text.
pub(super) struct WordStream<'a> {
    text: &'a str,
    at: usize,
    token: &'a mut Token,
    dropped: &'a AtomicU64,
}

/// What each byte is: part of a word, a separator, or the start of a longer character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Separator,
    Word,
    Wide,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Separator; 256];
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_alphanumeric() {
            classes[byte] = Class::Word;
        } else if byte >= 0x80 {
            classes[byte] = Class::Wide;
        }
        byte += 1;
    }
    classes
};

impl WordStream<'_> {
    /// Finds the next word and puts it into the token, whatever its length.
    #[inline]
    fn find(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at).map(|byte| CLASSES[*byte as usize]) {
                None => return false,
                Some(Class::Separator) => self.at += 1,
                Some(Class::Word) => break,
                Some(Class::Wide) => match self.wide() {
                    Some(c) if c.is_alphanumeric() => break,
                    Some(c) => self.at += c.len_utf8(),
                    None => return false,
                },
            }
        }
        self.token.offset_from = self.at;
        self.token.text.clear();
        loop {
            let start = self.at;
            while self.at < bytes.len() && CLASSES[bytes[self.at] as usize] == Class::Word {
                self.at += 1;
            }
            self.token.text.push_str(&self.text[start..self.at]);
            if self.at == bytes.len() || CLASSES[bytes[self.at] as usize] == Class::Separator {
                break;
            }
            let Some(c) = self.wide().filter(|c| c.is_alphanumeric()) else { break };
            self.token.text.extend(c.to_lowercase());
            self.at += c.len_utf8();
        }
        self.token.text.make_ascii_lowercase();
        self.token.offset_to = self.at;
        self.token.position = self.token.position.wrapping_add(1);
        true
    }

    fn wide(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }
}

impl TokenStream for WordStream<'_> {
    #[inline]
    fn advance(&mut self) -> bool {
        while self.find() {
            if self.token.text.len() <= TERM_BYTES_MAX {
                return true;
            }
            self.dropped.fetch_add(1, Ordering::Relaxed);
            // It may be as long as the longest value, and would stay that long.
            self.token.text = String::new();
        }
        false
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }

    fn process(&mut self, sink: &mut dyn FnMut(&Token)) {
        while self.advance() {
            sink(self.token);
        }
    }
}

#[cfg(test)]
mod tests;
