//! The distinct terms, numbered in the order of their first appearance.

use super::super::chunked::Chunked;
use super::hash::{Hashed, Hasher};

/// A term's number.
pub(super) type TermId = u32;

/// A term and what is known about it, in 28 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    head: [u8; 8],
    /// The address of the bytes after the first eight.
    rest: u32,
    /// Its length in the low 16 bits, its term key in the high 16 bits.
    mark: u32,
    /// The first document that has it.
    pub first_doc: u32,
    /// The last document so far that has it.
    pub last_doc: u32,
    /// How often it is in the posting buffer.
    pub logged: u32,
}

impl Entry {
    pub fn term_key(&self) -> u16 {
        (self.mark >> 16) as u16
    }

    pub fn len(&self) -> usize {
        usize::from(self.mark as u16)
    }

    pub fn head(&self) -> u64 {
        u64::from_be_bytes(self.head)
    }
}

/// Puts length and term key into one number. The length of every term fits a `u16`.
pub(super) fn mark(term_key: u16, len: usize) -> u32 {
    u32::from(term_key) << 16 | len as u32 & 0xffff
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: u32,
    /// The term's number plus one; zero in a free slot.
    term: u32,
}

/// A hash table of terms with open addressing.
#[derive(Debug)]
pub(super) struct Terms {
    slots: Vec<Slot>,
    entries: Chunked<Entry, 12>,
    rests: Rests,
    hasher: Hasher,
}

const SLOTS_FIRST: usize = 256;

impl Terms {
    pub fn new() -> Self {
        Self {
            slots: vec![Slot::default(); SLOTS_FIRST],
            entries: Chunked::default(),
            rests: Rests::default(),
            hasher: Hasher::new(),
        }
    }

    pub fn hasher(&self) -> Hasher {
        self.hasher
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the term that likely has this hash, or a number that no term has if the first slot has another
    /// hash. Several terms are guessed before the first of them is compared: so the processor can fetch the
    /// slots, and then the entries, at once.
    #[inline]
    pub fn guess(&self, hash: u32) -> TermId {
        let slot = self.slots[hash as usize & (self.slots.len() - 1)];
        // All bits, or none. A branch here would often be mispredicted.
        let wrong = u32::from(slot.hash != hash).wrapping_neg();
        slot.term.wrapping_sub(1) | wrong
    }

    /// Returns the term with this number if it is the one that is looked for.
    #[inline]
    pub fn confirm(&mut self, guess: TermId, head: u64, mark: u32, bytes: &[u8]) -> Option<&mut Entry> {
        let Self { entries, rests, .. } = self;
        let entry = entries.find_mut(guess as usize)?;
        let same = entry.mark == mark
            && entry.head == head.to_be_bytes()
            && (bytes.len() <= 8 || rests.get(entry.rest, bytes.len() - 8) == &bytes[8..]);
        same.then_some(entry)
    }

    /// Finds the term, or inserts it with `doc` as its first document. `bytes` are all of the term. The last
    /// value says whether it is new.
    pub fn find(&mut self, hashed: Hashed, mark: u32, bytes: &[u8], doc: u32) -> (TermId, &mut Entry, bool) {
        let head = hashed.head.to_be_bytes();
        let mask = self.slots.len() - 1;
        let mut at = hashed.hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.term == 0 {
                break;
            }
            if slot.hash == hashed.hash {
                let entry = self.entries.get(slot.term as usize - 1);
                if entry.mark == mark
                    && entry.head == head
                    && (bytes.len() <= 8 || self.rests.get(entry.rest, bytes.len() - 8) == &bytes[8..])
                {
                    return (slot.term - 1, self.entries.get_mut(slot.term as usize - 1), false);
                }
            }
            at = (at + 1) & mask;
        }
        let term = self.insert(at, hashed, mark, bytes, doc);
        (term, self.entries.get_mut(term as usize), true)
    }

    fn insert(&mut self, at: usize, hashed: Hashed, mark: u32, bytes: &[u8], doc: u32) -> TermId {
        let term = self.entries.len() as u32;
        let rest = if bytes.len() > 8 { self.rests.push(&bytes[8..]) } else { 0 };
        let head = hashed.head.to_be_bytes();
        self.entries.push(Entry { head, rest, mark, first_doc: doc, last_doc: doc, logged: 0 });
        self.slots[at] = Slot { hash: hashed.hash, term: term + 1 };
        if self.entries.len() > self.slots.len() / 4 * 3 {
            self.grow();
        }
        term
    }

    #[cold]
    fn grow(&mut self) {
        let mut slots = vec![Slot::default(); self.slots.len() * 2];
        let mask = slots.len() - 1;
        for slot in self.slots.iter().filter(|slot| slot.term != 0) {
            let mut at = slot.hash as usize & mask;
            while slots[at].term != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = *slot;
        }
        self.slots = slots;
    }

    /// Frees the table. No more terms may be looked up.
    pub fn close(&mut self) {
        self.slots = Vec::new();
    }

    pub fn entry(&self, term: TermId) -> &Entry {
        self.entries.get(term as usize)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Returns the bytes after the first eight.
    pub fn rest(&self, entry: &Entry) -> &[u8] {
        self.rests.get(entry.rest, entry.len().saturating_sub(8))
    }

    /// Appends the term's bytes to `bytes`.
    pub fn append_to(&self, entry: &Entry, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&entry.head[..entry.len().min(8)]);
        if entry.len() > 8 {
            bytes.extend_from_slice(self.rest(entry));
        }
    }

    /// Bytes in memory.
    pub fn mem_usage(&self) -> usize {
        self.slots_usage() + self.entries.mem_usage() + self.rests.mem_usage()
    }

    /// Returns the memory in bytes that [`Terms::close`] frees.
    pub fn slots_usage(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// Returns the maximum length of all terms together, in bytes.
    pub fn bytes_of_terms(&self) -> usize {
        self.entries.len() * 8 + self.rests.len
    }

    /// Returns the size of the terms in bytes, without spare capacity. It depends only on the terms.
    pub fn bytes(&self) -> usize {
        self.entries.len() * (size_of::<Entry>() + 2 * size_of::<Slot>()) + self.rests.len
    }
}

/// Bytes of terms, in blocks that never move.
#[derive(Debug, Default)]
struct Rests {
    blocks: Vec<Vec<u8>>,
    len: usize,
}

/// No term is longer than a block. All addresses fit a `u32`, since a segment ends long before 4 GiB.
const BLOCK_LOG2: u32 = 17;

impl Rests {
    fn push(&mut self, bytes: &[u8]) -> u32 {
        let fits = |block: &Vec<u8>| block.len() + bytes.len() <= 1 << BLOCK_LOG2;
        if !self.blocks.last().is_some_and(fits) {
            let first = self.blocks.is_empty();
            self.blocks.push(if first { Vec::new() } else { Vec::with_capacity(1 << BLOCK_LOG2) });
        }
        let block = self.blocks.len() - 1;
        let start = self.blocks[block].len();
        self.blocks[block].extend_from_slice(bytes);
        self.len += bytes.len();
        (block << BLOCK_LOG2) as u32 | start as u32
    }

    #[inline]
    fn get(&self, at: u32, len: usize) -> &[u8] {
        if len == 0 {
            return &[];
        }
        let start = at as usize & ((1 << BLOCK_LOG2) - 1);
        &self.blocks[at as usize >> BLOCK_LOG2][start..start + len]
    }

    fn mem_usage(&self) -> usize {
        self.blocks.iter().map(Vec::capacity).sum::<usize>() + self.blocks.capacity() * size_of::<Vec<u8>>()
    }
}

#[cfg(test)]
mod tests;
