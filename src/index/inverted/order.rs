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
    /// Sorts the terms of each term key. `places` gives the order of the term keys.
    pub fn new(terms: &Terms, places: &[TermKeyId]) -> Self {
        let mut ends = vec![0_u32; places.len()];
        for entry in terms.entries() {
            ends[usize::from(entry.place())] += 1;
        }
        let mut sum = 0;
        for place in places {
            let end = &mut ends[usize::from(*place)];
            sum += std::mem::replace(end, sum);
        }
        let mut sorted = vec![0; terms.len()];
        for (term, entry) in terms.entries().enumerate() {
            let end = &mut ends[usize::from(entry.place())];
            sorted[*end as usize] = term as TermId;
            *end += 1;
        }
        let sorted = Self {
            terms: sorted,
            ends: places.iter().map(|place| (*place, ends[usize::from(*place)])).collect(),
        };
        sorted.sort(terms)
    }

    fn sort(mut self, terms: &Terms) -> Self {
        let (mut start, mut keys) = (0, Vec::new());
        for (_, end) in &self.ends {
            sort_place(terms, &mut self.terms[start..*end as usize], &mut keys);
            start = *end as usize;
        }
        self
    }

    /// All terms.
    pub fn terms(&self) -> &[TermId] {
        &self.terms
    }

    /// Returns the term keys that have terms, with these terms.
    pub fn places(&self) -> impl Iterator<Item = (TermKeyId, &[TermId])> {
        let mut start = 0;
        let places = self.ends.iter().map(move |(place, end)| {
            let of_place = &self.terms[start..*end as usize];
            start = *end as usize;
            (*place, of_place)
        });
        places.filter(|(_, terms)| !terms.is_empty())
    }
}

/// The first eight bytes of a term, and its number. A comparison of the bytes mostly decides.
pub(super) type Key = (u64, TermId);

fn sort_place(terms: &Terms, of_place: &mut [TermId], keys: &mut Vec<Key>) {
    if of_place.len() < 2 {
        return;
    }
    keys.clear();
    keys.extend(of_place.iter().map(|term| (terms.entry(*term).head(), *term)));
    keys.sort_unstable_by_key(|(head, _)| *head);
    for same in keys.chunk_by_mut(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
        same.sort_unstable_by(|a, b| compare(terms, terms.entry(a.1), terms.entry(b.1)));
    }
    for (term, key) in of_place.iter_mut().zip(keys) {
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
