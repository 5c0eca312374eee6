//! Writes terms and documents to the files of the inverted index, with Tantivy's serializers.

use std::io;

use tantivy::index::Segment;
use tantivy::postings::{FieldSerializer, InvertedIndexSerializer};

use super::Inverted;
use super::order::Sorted;
use super::terms::TermId;
use super::words::Words;

/// How many terms are fetched before the first of them is written. In memory, terms have the order of their
/// appearance, not the sorted order. So the processor can wait for several of them at once.
const AT_ONCE: usize = 64;

impl Inverted {
    /// Writes the dictionary, the postings and the positions. What is no longer needed is freed on the way.
    pub fn write(self, segment: &Segment) -> tantivy::Result<()> {
        let in_order = self.term_keys.sorted();
        let Self { term_keys, mut terms, postings, words, positions, batch, .. } = self;
        drop(batch);
        terms.close();
        let sorted = Sorted::new(&terms, &in_order);
        let mut next = vec![0; terms.len()];
        let (mut postings_end, mut words_end) = (0, 0);
        for term in sorted.terms() {
            let entry = terms.entry(*term);
            let end = if term_keys.get(entry.term_key()).has_positions {
                &mut words_end
            } else {
                &mut postings_end
            };
            next[*term as usize] = *end;
            *end += entry.logged;
        }
        let mut docs = vec![0; postings.len()];
        postings.drain(|term, doc| {
            let next = &mut next[term as usize];
            docs[*next as usize] = doc;
            *next += 1;
        });
        let mut words = Words::new(words, positions, next);
        let count = |term: TermId| {
            let entry = terms.entry(term);
            if term_keys.get(entry.term_key()).has_positions { entry.logged as usize } else { 0 }
        };

        let mut serializer = InvertedIndexSerializer::open(segment)?;
        let mut of_term_keys = sorted.term_keys().peekable();
        let (mut written, mut docs_at) = (0, 0);
        let (mut entries, mut keys, mut deltas) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((term_key, _)) = of_term_keys.peek() {
            let field = term_keys.get(*term_key).field;
            let mut to = serializer.new_field(field, term_keys.tokens(field), None)?;
            while let Some((term_key, of_term_key)) =
                of_term_keys.next_if(|(term_key, _)| term_keys.get(*term_key).field == field)
            {
                let term_key = term_keys.get(term_key);
                let prefix = term_key.prefix();
                for of_term_key in of_term_key.chunks(AT_ONCE) {
                    entries.clear();
                    entries.extend(of_term_key.iter().map(|term| *terms.entry(*term)));
                    keys.clear();
                    for entry in &entries {
                        keys.extend_from_slice(&prefix);
                        terms.append_to(entry, &mut keys);
                    }
                    let mut rest = &keys[..];
                    for entry in &entries {
                        let (key, others) = rest.split_at(prefix.len() + entry.len());
                        rest = others;
                        if term_key.has_positions {
                            let of_term = words.take(&sorted.terms()[written..], count);
                            write_words(&mut to, key, of_term, &mut deltas)?;
                        } else {
                            let of_term = docs_at..docs_at + entry.logged as usize;
                            docs_at = of_term.end;
                            write_docs(&mut to, key, entry.first_doc, &docs[of_term])?;
                        }
                        written += 1;
                    }
                }
            }
            to.close()?;
        }
        serializer.close()?;
        Ok(())
    }
}

fn write_docs(to: &mut FieldSerializer<'_>, key: &[u8], first: u32, others: &[u32]) -> io::Result<()> {
    to.new_term(key, 0, false)?;
    to.write_doc(first, 0, &[]);
    for doc in others {
        to.write_doc(*doc, 0, &[]);
    }
    to.close_term()
}

/// Writes a term and its words. The number of documents with the term is written as 0: it is used for scores
/// only, and scores need lengths, which are not kept.
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
