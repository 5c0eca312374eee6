//! Defines what a word is, for indexing and for search.
//!
//! A word is a longest run of characters that are alphanumeric in Unicode (`char::is_alphanumeric`). Each
//! character is lower-cased by itself. All other characters separate words: `user-30` is two words, and so
//! are `trace_id` and `ünï_code`; `10.0.0.1` is four. A query is cut the same way, so `user-30` also finds
//! `User_30`. With `positions = true` the words must also be adjacent and in order. There are no stop words
//! and no stemming. Nothing is normalised: a letter with a combining accent ends a word. Scripts written
//! without spaces are not cut into words. All characters of a terminal's escape sequence separate words: see
//! [`blank`].
//!
//! In the schema the tokenizer has the name of Tantivy's own `default` tokenizer. That one gives the same
//! words, except that it drops words over 40 bytes. So stock Tantivy can search an extracted index with its
//! own query parser.

use std::borrow::Cow;
use std::ops::Range;

/// The tokenizer's name in the schema.
pub(super) const WORDS: &str = "default";
/// The name of the tokenizer that does not cut a text.
pub(super) const RAW: &str = "raw";

/// Returns the words of a text as they are indexed. It also returns words that are longer than
/// [`TERM_BYTES_MAX`](super::schema::TERM_BYTES_MAX), which are not indexed.
pub(super) fn words(text: &str) -> Vec<String> {
    let text = &*blank(text);
    let (mut words, mut at) = (Vec::new(), 0);
    loop {
        let mut word = Vec::new();
        let Some(place) = next_word(text, at, &mut word) else { return words };
        at = place.end;
        words.extend(String::from_utf8(word));
    }
}

/// Replaces each byte of a terminal's escape sequence, such as `\u{1b}[31m`, by a space: its letters and
/// digits belong to no word. Sequences whose escape character was escaped on the way are replaced, too. They
/// are written with the characters `\x1b[31m`, `\033[31m`, `\e[31m` or `\u001b[31m`.
pub(super) fn blank(text: &str) -> Cow<'_, str> {
    let (mut blanked, mut kept, mut from) = (String::new(), 0, 0);
    while let Some(at) = memchr::memchr2(ESCAPE, b'\\', &text.as_bytes()[from..]).map(|at| from + at) {
        let len = escape_bytes(&text.as_bytes()[at..]);
        from = at + len.max(1);
        if len > 0 {
            blanked.push_str(&text[kept..at]);
            blanked.extend(std::iter::repeat_n(' ', len));
            kept = from;
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    blanked.push_str(&text[kept..]);
    Cow::Owned(blanked)
}

/// Applies [`blank`] to what follows the first `start` bytes.
pub(super) fn blank_behind(text: &mut String, start: usize) {
    if let Cow::Owned(blanked) = blank(&text[start..]) {
        text.truncate(start);
        text.push_str(&blanked);
    }
}

const ESCAPE: u8 = 0x1b;

/// Returns the length of the escape sequence at the start of `bytes`; 0 if there is none. All of its bytes
/// are ASCII.
fn escape_bytes(bytes: &[u8]) -> usize {
    const WRITTEN: [&[u8]; 5] = [b"\\u001b", b"\\x1b", b"\\033", b"\\e", b"\\u{1b}"];
    let run =
        |from: usize, is: &dyn Fn(u8) -> bool| bytes[from..].iter().take_while(|byte| is(**byte)).count();
    let is_final = |at: usize| bytes.get(at).is_some_and(|byte| (0x30..0x7f).contains(byte));
    let start = match bytes {
        [ESCAPE, ..] => 1,
        _ => {
            let is = |written: &&&[u8]| {
                bytes.get(..written.len()).is_some_and(|b| b.eq_ignore_ascii_case(written))
            };
            let len = WRITTEN.iter().find(is).map_or(0, |written| written.len());
            match bytes.get(len) {
                Some(b'[') if len > 0 => len,
                _ => return 0,
            }
        }
    };
    if bytes.get(start) == Some(&b'[') {
        let parameters = start + 1 + run(start + 1, &|byte| (0x20..0x40).contains(&byte));
        return if is_final(parameters) { parameters + 1 } else { parameters };
    }
    let intermediates = start + run(start, &|byte| (0x20..0x30).contains(&byte));
    if is_final(intermediates) { intermediates + 1 } else { intermediates }
}

/// The class of a byte: part of a word, a separator, or the start of a longer character.
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

/// Returns the place of the next word in `text` from `at` on. The word is appended to `lower` in lower case.
pub(super) fn next_word(text: &str, mut at: usize, lower: &mut Vec<u8>) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    loop {
        match CLASSES[usize::from(*bytes.get(at)?)] {
            Class::Separator => at += 1,
            Class::Word => break,
            Class::Wide => match wide(text, at)? {
                c if c.is_alphanumeric() => break,
                c => at += c.len_utf8(),
            },
        }
    }
    let (start, lower_start) = (at, lower.len());
    loop {
        let run = at;
        while at < bytes.len() && CLASSES[usize::from(bytes[at])] == Class::Word {
            at += 1;
        }
        lower.extend_from_slice(&bytes[run..at]);
        if at == bytes.len() || CLASSES[usize::from(bytes[at])] == Class::Separator {
            break;
        }
        let Some(c) = wide(text, at).filter(|c| c.is_alphanumeric()) else { break };
        for small in c.to_lowercase() {
            lower.extend_from_slice(small.encode_utf8(&mut [0; 4]).as_bytes());
        }
        at += c.len_utf8();
    }
    lower[lower_start..].make_ascii_lowercase();
    Some(start..at)
}

fn wide(text: &str, at: usize) -> Option<char> {
    text[at..].chars().next()
}

/// Returns eight ASCII bytes in lower case, and a bit for each byte that belongs to a word, the first byte's
/// lowest. The result is that of [`CLASSES`], without a lookup for each byte.
#[inline]
pub(super) fn eight_ascii(bytes: [u8; 8]) -> ([u8; 8], u64) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x80 * ONES;
    // Sets the top bit of each byte that is at least `low`. No sum of two bytes below 0x80 carries into the
    // next byte.
    let at_least = |bytes: u64, low: u8| bytes + (0x80 - u64::from(low)) * ONES;
    let bytes = u64::from_le_bytes(bytes) & !TOPS;
    let capitals = at_least(bytes, b'A') & !at_least(bytes, b'Z' + 1) & TOPS;
    let lower = bytes | capitals >> 2;
    let letters = at_least(lower, b'a') & !at_least(lower, b'z' + 1);
    let digits = at_least(lower, b'0') & !at_least(lower, b'9' + 1);
    let words = (letters | digits) & TOPS;
    (lower.to_le_bytes(), (words >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56)
}

#[cfg(test)]
mod tests;
