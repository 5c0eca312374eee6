//! The memory that an inverted index takes, and the memory that writing it takes in addition.

use super::order::Key;
use super::terms::{Entry, TermId};
use super::words::Words;
use super::{Found, Inverted};

/// Bytes that a term takes in the dictionary in addition to its own: its length, and the address of its
/// postings.
const IN_DICTIONARY: usize = 12;
/// Bytes that a word takes in the file of positions: its position, and the number of positions in the
/// document.
const IN_POSITIONS: usize = 3;
/// Bytes of buffers, and of what is in every file.
const BUFFERS: usize = 512 << 10;

impl Inverted {
    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        self.term_keys.mem_usage()
            + self.terms.mem_usage()
            + self.postings.mem_usage()
            + self.words.mem_usage()
            + self.positions.mem_usage()
            + self.batch.terms.capacity() * size_of::<Found>()
            + self.batch.bytes.capacity()
    }

    /// Returns the size in bytes of what is kept of the documents, without spare capacity. It depends only on
    /// the documents.
    pub fn bytes(&self) -> usize {
        self.terms.bytes() + self.postings.bytes() + self.words.bytes() + self.positions.bytes()
    }

    /// Returns the memory in bytes that [`Inverted::write`] takes at most, in addition to what is in use now.
    /// It includes the files. One file at a time is in memory twice, when it grows or ends.
    pub fn write_usage(&self) -> usize {
        let terms = self.terms.len();
        let sorting = terms * (size_of::<TermId>() + size_of::<Key>());
        let docs = self.postings.len() * size_of::<u32>();
        let words = Words::window(self.words.len()) * size_of::<(u32, u32)>();
        let dictionary = self.terms.bytes_of_terms() / 2 * 3 + terms * IN_DICTIONARY;
        let postings = self.terms.entries().map(|entry| postings_bytes(entry, self.doc)).sum::<usize>();
        let positions = self.words.len() * IN_POSITIONS;
        let files = dictionary + postings + positions + dictionary.max(postings).max(positions) + BUFFERS;
        let writing =
            terms * 2 * size_of::<u32>() + docs + (words + files).saturating_sub(self.postings.mem_usage());
        sorting.max(writing).saturating_sub(self.terms.slots_usage())
    }
}

/// Returns the maximum size of a term's postings, in bytes. The more documents have the term, the closer they
/// are.
fn postings_bytes(entry: &Entry, documents: u32) -> usize {
    let (of_term, documents) = (entry.logged as usize + 1, documents as usize);
    if of_term < 128 {
        let longer = |bytes: u32| of_term.min((documents >> (7 * bytes)) + 1);
        return of_term + longer(1) + if documents >> 14 > 0 { longer(2) + longer(3) } else { 0 };
    }
    let apart = documents * 128 / of_term + 1;
    of_term * (apart.ilog2() as usize + 2) / 8 + of_term / 8 + 16
}
