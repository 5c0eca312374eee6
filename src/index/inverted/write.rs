//! Terms and documents → the files of the inverted index, through Tantivy's serializers.

use std::io;
use std::ops::Range;

use tantivy::index::Segment;
use tantivy::postings::{FieldSerializer, InvertedIndexSerializer};

use super::Inverted;
use super::order::Sorted;
use super::terms::{Entry, Terms};

/// What stands in the logs, put in order: each term's entries together, terms in the order of the dictionary.
struct Grouped {
    terms: Terms,
    sorted: Sorted,
    /// Documents.
    log: Vec<u32>,
    /// Documents and positions.
    words: Vec<(u32, u32)>,
}

impl Inverted {
    /// Writes the dictionary, the postings and the positions. Whatever is no longer needed is let go on the way.
    pub fn write(self, segment: &Segment) -> tantivy::Result<()> {
        let in_order = self.places.sorted();
        let Self { places, mut terms, log, words, positions, batch, .. } = self;
        drop(batch);
        terms.close();
        let sorted = Sorted::new(&terms, &in_order);
        let mut next = vec![0; terms.len()];
        let (mut log_end, mut words_end) = (0, 0);
        for term in sorted.terms() {
            let entry = terms.entry(*term);
            let has_positions = places.get(entry.place()).has_positions;
            let end = if has_positions { &mut words_end } else { &mut log_end };
            next[*term as usize] = *end;
            *end += entry.logged;
        }
        let mut grouped =
            Grouped { terms, sorted, log: vec![0; log.len()], words: vec![(0, 0); words.len()] };
        let mut place_of = |term: u32| {
            let next = &mut next[term as usize];
            *next += 1;
            *next as usize - 1
        };
        log.drain(|term, doc| grouped.log[place_of(term)] = doc);
        let mut positions = positions.into_chunks().flatten();
        words.drain(|term, doc| grouped.words[place_of(term)] = (doc, positions.next().unwrap_or_default()));
        drop(next);

        let mut serializer = InvertedIndexSerializer::open(segment)?;
        let mut of_places = grouped.sorted.places().peekable();
        let (mut log_at, mut words_at, mut key, mut deltas) = (0, 0, Vec::new(), Vec::new());
        while let Some((place, _)) = of_places.peek() {
            let field = places.get(*place).field;
            let mut to = serializer.new_field(field, places.tokens(field), None)?;
            while let Some((place, terms)) = of_places.next_if(|(place, _)| places.get(*place).field == field)
            {
                let place = places.get(place);
                key.clear();
                key.extend_from_slice(&place.prefix());
                let prefix = key.len();
                for term in terms {
                    let entry = grouped.terms.entry(*term);
                    key.truncate(prefix);
                    grouped.terms.append_to(entry, &mut key);
                    if place.has_positions {
                        let of_term = take(&mut words_at, entry);
                        write_words(&mut to, &key, &grouped.words[of_term], &mut deltas)?;
                    } else {
                        let of_term = take(&mut log_at, entry);
                        write_docs(&mut to, &key, entry.first_doc, &grouped.log[of_term])?;
                    }
                }
            }
            to.close()?;
        }
        serializer.close()?;
        Ok(())
    }
}

fn take(at: &mut usize, entry: &Entry) -> Range<usize> {
    let start = *at;
    *at += entry.logged as usize;
    start..*at
}

fn write_docs(to: &mut FieldSerializer<'_>, key: &[u8], first: u32, others: &[u32]) -> io::Result<()> {
    to.new_term(key, 0, false)?;
    to.write_doc(first, 0, &[]);
    for doc in others {
        to.write_doc(*doc, 0, &[]);
    }
    to.close_term()
}

/// How many documents have a term is for scores, and those need lengths, which are not kept.
fn write_words(
    to: &mut FieldSerializer<'_>,
    key: &[u8],
    words: &[(u32, u32)],
    deltas: &mut Vec<u32>,
) -> io::Result<()> {
    to.new_term(key, 0, true)?;
    for of_doc in words.chunk_by(|a, b| a.0 == b.0) {
        deltas.clear();
        let mut last = 0;
        for (_, position) in of_doc {
            deltas.push(position - last);
            last = *position;
        }
        to.write_doc(of_doc[0].0, of_doc.len() as u32, deltas);
    }
    to.close_term()
}
