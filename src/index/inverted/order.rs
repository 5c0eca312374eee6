//! The terms in the order of the dictionary: by term key, then by their bytes.

use super::term_keys::TermKeyId;
use super::terms::{Entry, TermId, Terms};

/// All terms in the order of the dictionary.
pub(super) struct Sorted {
    terms: Vec<TermId>,
    /// Each term key, and where its terms end.
    ends: Vec<(TermKeyId, u32)>,
}

impl Sorted {
    /// Sorts the terms of each term key. `term_keys` gives the order of the term keys.
    pub fn new(terms: &Terms, term_keys: &[TermKeyId]) -> Self {
        let mut ends = vec![0_u32; term_keys.len()];
        for entry in terms.entries() {
            ends[usize::from(entry.term_key())] += 1;
        }
        let mut sum = 0;
        for term_key in term_keys {
            let end = &mut ends[usize::from(*term_key)];
            sum += std::mem::replace(end, sum);
        }
        let mut sorted = vec![0; terms.len()];
        for (term, entry) in terms.entries().enumerate() {
            let end = &mut ends[usize::from(entry.term_key())];
            sorted[*end as usize] = term as TermId;
            *end += 1;
        }
        let sorted = Self {
            terms: sorted,
            ends: term_keys.iter().map(|term_key| (*term_key, ends[usize::from(*term_key)])).collect(),
        };
        sorted.sort(terms)
    }

    fn sort(mut self, terms: &Terms) -> Self {
        let (mut start, mut keys) = (0, Vec::new());
        for (_, end) in &self.ends {
            sort_term_key(terms, &mut self.terms[start..*end as usize], &mut keys);
            start = *end as usize;
        }
        self
    }

    /// All terms.
    pub fn terms(&self) -> &[TermId] {
        &self.terms
    }

    /// Returns the term keys that have terms, with these terms.
    pub fn term_keys(&self) -> impl Iterator<Item = (TermKeyId, &[TermId])> {
        let mut start = 0;
        let term_keys = self.ends.iter().map(move |(term_key, end)| {
            let of_term_key = &self.terms[start..*end as usize];
            start = *end as usize;
            (*term_key, of_term_key)
        });
        term_keys.filter(|(_, terms)| !terms.is_empty())
    }
}

/// The first eight bytes of a term, and its number. A comparison of the bytes mostly decides.
pub(super) type Key = (u64, TermId);

fn sort_term_key(terms: &Terms, of_term_key: &mut [TermId], keys: &mut Vec<Key>) {
    if of_term_key.len() < 2 {
        return;
    }
    keys.clear();
    keys.extend(of_term_key.iter().map(|term| (terms.entry(*term).head(), *term)));
    keys.sort_unstable_by_key(|(head, _)| *head);
    for same in keys.chunk_by_mut(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
        same.sort_unstable_by(|a, b| compare(terms, terms.entry(a.1), terms.entry(b.1)));
    }
    for (term, key) in of_term_key.iter_mut().zip(keys) {
        *term = key.1;
    }
}

/// Compares terms with equal first eight bytes, filled up with zeros.
fn compare(terms: &Terms, a: &Entry, b: &Entry) -> std::cmp::Ordering {
    if a.len() <= 8 || b.len() <= 8 {
        return a.len().cmp(&b.len());
    }
    terms.rest(a).cmp(terms.rest(b))
}
