//! The inverted index of one Tantivy segment under construction: terms, and the documents that have them.
//!
//! Tantivy's own writer keeps a list in chunks for each term. It finds the list by a hash of field, path,
//! type and bytes, which it first puts together in a buffer. It gets documents through three layers of
//! traits, one word at a time. Here the terms of a document are hashed first and then looked up. A term that
//! occurs again costs one line of a table and one entry, and its number goes to a posting buffer, which is
//! sorted once, at the end. Tantivy's serializers write the files. The files are the same, byte for byte: the
//! tests of `segment` compare them with those of Tantivy's own writer.

mod hash;
mod order;
mod positions;
mod posting_buffer;
mod term_keys;
mod terms;
mod usage;
mod words;
mod write;

use tantivy::schema::{Field, Type};

use super::paths::{PathId, Paths};
use super::schema::TERM_BYTES_MAX;
use super::words::{eight_ascii, next_word};
use hash::{Hashed, Hasher, SLACK};
use positions::Positions;
use posting_buffer::PostingBuffer;
pub(super) use term_keys::PathKeys;
use term_keys::{TermKeyId, TermKeys};
use terms::{Terms, mark};

/// The term key for text or bytes in a field without paths.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldKey(TermKeyId);

/// The inverted index of the documents so far.
#[derive(Debug)]
pub(super) struct Inverted {
    term_keys: TermKeys,
    terms: Terms,
    /// Terms without positions: an entry for each document after the term's first.
    postings: PostingBuffer,
    /// Terms with positions: an entry for each occurrence.
    words: PostingBuffer,
    positions: Positions,
    batch: Batch,
    doc: u32,
    words_too_long: u64,
}

/// Terms that were found but not looked up yet. If several are hashed first, the processor can fetch the
/// table's lines for them at once.
#[derive(Debug)]
struct Batch {
    terms: Vec<Found>,
    /// The bytes of the terms, each with some slack after it.
    bytes: Vec<u8>,
    hasher: Hasher,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    hashed: Hashed,
    mark: u32,
    start: u32,
    /// [`NO_POSITION`] if the term key has no positions.
    position: u32,
    /// The number that the term likely has.
    guess: u32,
}

/// A batch of this size is looked up. One value may have millions of words.
const BATCH_TERMS: usize = 256;
const BATCH_BYTES: usize = 64 << 10;

/// Longer texts are cut by the general code. They are rare, and their words may be too long.
const ASCII_BYTES_MAX: usize = 32 << 10;

/// The position of a term without positions. No value has so many words.
const NO_POSITION: u32 = u32::MAX;

impl Inverted {
    pub fn new() -> Self {
        let terms = Terms::new();
        let hasher = terms.hasher();
        Self {
            term_keys: TermKeys::default(),
            terms,
            postings: PostingBuffer::default(),
            words: PostingBuffer::default(),
            positions: Positions::default(),
            batch: Batch { terms: Vec::new(), bytes: Vec::new(), hasher },
            doc: 0,
            words_too_long: 0,
        }
    }

    /// Returns the term key of a field without paths.
    pub fn field_key(&mut self, field: Field, kind: Type, has_positions: bool) -> FieldKey {
        FieldKey(self.term_keys.name(field, kind, None, has_positions))
    }

    /// Adds these bytes to the document.
    pub fn push_bytes(&mut self, term_key: FieldKey, bytes: &[u8]) {
        self.push_term(term_key.0, bytes);
    }

    /// Adds this text to the document, as one term at this path.
    pub fn push_exact(&mut self, path_keys: &mut PathKeys, path: PathId, paths: &Paths, text: &str) {
        let term_key = path_keys.term_key(&mut self.term_keys, path, paths);
        self.push_term(term_key, text.as_bytes());
    }

    /// Adds this number to the document, at this path. It has Tantivy's order-preserving form.
    pub fn push_number(&mut self, path_keys: &mut PathKeys, path: PathId, paths: &Paths, number: u64) {
        let term_key = path_keys.term_key(&mut self.term_keys, path, paths);
        self.push_term(term_key, &number.to_be_bytes());
    }

    /// Adds the words of this text to the document, at this path.
    #[inline]
    pub fn push_words(&mut self, path_keys: &mut PathKeys, path: PathId, paths: &Paths, text: &str) {
        let term_key = path_keys.term_key(&mut self.term_keys, path, paths);
        self.cut(term_key, text);
    }

    /// Adds the words of this text to the document.
    pub fn push_text(&mut self, term_key: FieldKey, text: &str) {
        self.cut(term_key.0, text);
    }

    /// Ends the document: all of it has been added.
    pub fn end_document(&mut self) {
        self.look_up();
        self.postings.end_document();
        self.words.end_document();
        self.doc += 1;
    }

    fn push_term(&mut self, term_key: TermKeyId, bytes: &[u8]) {
        let start = self.batch.bytes.len();
        self.batch.bytes.extend_from_slice(bytes);
        self.batch.bytes.extend_from_slice(&[0; SLACK]);
        self.batch.push(start, bytes.len(), term_key, NO_POSITION);
        self.term_keys.get_mut(term_key).tokens += 1;
        if self.batch.is_full() {
            self.look_up();
        }
    }

    fn cut(&mut self, id: TermKeyId, text: &str) {
        let term_key = self.term_keys.get(id);
        let (positions, first) = (term_key.has_positions, term_key.position(self.doc));
        let mut found = Cut { next: first, end: first, words: 0 };
        if text.len() > ASCII_BYTES_MAX || !self.batch.cut_ascii(text, id, positions, &mut found) {
            self.cut_any(text, id, positions, &mut found);
        }
        let term_key = self.term_keys.get_mut(id);
        term_key.tokens += u64::from(found.words);
        term_key.end_value(self.doc, found.end);
        if self.batch.is_full() {
            self.look_up();
        }
    }

    fn cut_any(&mut self, text: &str, id: TermKeyId, positions: bool, found: &mut Cut) {
        let mut at = 0;
        loop {
            let start = self.batch.bytes.len();
            let Some(word) = next_word(text, at, &mut self.batch.bytes) else { break };
            at = word.end;
            let len = self.batch.bytes.len() - start;
            if len > TERM_BYTES_MAX {
                // The buffer may now be as long as the longest value, and would stay so.
                self.batch.bytes.truncate(start);
                self.batch.bytes.shrink_to(2 * BATCH_BYTES);
                self.words_too_long += 1;
                found.next = found.next.wrapping_add(1);
                continue;
            }
            self.batch.bytes.extend_from_slice(&[0; SLACK]);
            self.batch.push(start, len, id, if positions { found.next } else { NO_POSITION });
            found.word();
            if self.batch.is_full() {
                self.look_up();
            }
        }
    }

    /// Looks up the terms of the batch, and adds the document to them.
    fn look_up(&mut self) {
        let doc = self.doc;
        for found in &mut self.batch.terms {
            found.guess = self.terms.guess(found.hashed.hash);
        }
        for found in &self.batch.terms {
            let bytes = &self.batch.bytes[found.start as usize..][..usize::from(found.mark as u16)];
            let (term, entry, is_new) =
                match self.terms.confirm(found.guess, found.hashed.head, found.mark, bytes) {
                    Some(entry) => (found.guess, entry, false),
                    None => self.terms.find(found.hashed, found.mark, bytes, doc),
                };
            if found.position != NO_POSITION {
                entry.logged += 1;
                self.words.push(term);
                self.positions.push(found.position);
            } else if !is_new && entry.last_doc != doc {
                entry.logged += 1;
                self.postings.push(term);
            }
            entry.last_doc = doc;
        }
        self.batch.terms.clear();
        self.batch.bytes.clear();
    }

    /// Returns how many words were left out because they are longer than a term may be.
    pub fn words_too_long(&self) -> u64 {
        self.words_too_long
    }
}

/// How far a text has been cut into words.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The next word's position.
    next: u32,
    /// The position after the last word that was kept.
    end: u32,
    words: u32,
}

impl Cut {
    fn word(&mut self) {
        self.next = self.next.wrapping_add(1);
        self.end = self.next;
        self.words += 1;
    }
}

impl Batch {
    fn is_full(&self) -> bool {
        self.terms.len() >= BATCH_TERMS || self.bytes.len() >= BATCH_BYTES
    }

    #[inline]
    fn push(&mut self, start: usize, len: usize, term_key: TermKeyId, position: u32) {
        let mark = mark(term_key, len);
        let hashed = self.hasher.hash(&self.bytes, start, len, mark);
        self.terms.push(Found { hashed, mark, start: start as u32, position, guess: 0 });
    }

    /// Cuts an ASCII text into words, sixty-four bytes at a time. Returns `false`, and changes nothing, if
    /// the text is not ASCII.
    #[inline]
    fn cut_ascii(&mut self, text: &str, term_key: TermKeyId, positions: bool, found: &mut Cut) -> bool {
        let (start, terms) = (self.bytes.len(), self.terms.len());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(&[0; SLACK + 7]);
        let before = *found;
        let (mut at, mut open) = (start, None);
        while at < start + text.len() {
            let (mut words, mut tops) = (0, 0);
            let block = self.bytes[at..].as_chunks_mut::<8>().0.iter_mut().take(8);
            for (eight, shift) in block.zip((0..64).step_by(8)) {
                tops |= u64::from_le_bytes(*eight);
                let (lower, bits) = eight_ascii(*eight);
                *eight = lower;
                words |= bits << shift;
            }
            if tops & 0x8080_8080_8080_8080 != 0 {
                self.bytes.truncate(start);
                self.terms.truncate(terms);
                *found = before;
                return false;
            }
            if let Some(first) = open {
                let len = words.trailing_ones();
                if len < 64 {
                    self.push_word(first, at + len as usize, term_key, positions, found);
                    open = None;
                    words &= u64::MAX << len;
                } else {
                    words = 0;
                }
            }
            while words != 0 {
                let from = words.trailing_zeros();
                let end = from + (words >> from).trailing_ones();
                if end == 64 {
                    open = Some(at + from as usize);
                    break;
                }
                self.push_word(at + from as usize, at + end as usize, term_key, positions, found);
                words &= u64::MAX << end;
            }
            at += 64;
        }
        if let Some(first) = open {
            self.push_word(first, start + text.len(), term_key, positions, found);
        }
        true
    }

    #[inline]
    fn push_word(&mut self, start: usize, end: usize, term_key: TermKeyId, positions: bool, found: &mut Cut) {
        self.push(start, end - start, term_key, if positions { found.next } else { NO_POSITION });
        found.word();
    }
}
