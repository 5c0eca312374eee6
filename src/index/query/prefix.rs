//! Prefixes: they match the documents with any of the terms that start with the prefix.
//!
//! Tantivy's own query for phrases with an open end keeps the postings of all terms of the prefix in memory,
//! or silently stops at the fiftieth. Here the terms are read one by one, and the query fails if they are too
//! many.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tantivy::index::SegmentId;
use tantivy::postings::Postings;
use tantivy::query::{
    BitSetDocSet, ConstScorer, EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight,
};
use tantivy::schema::{IndexRecordOption, Term};
use tantivy::{BitSet, DocId, DocSet, InvertedIndexReader, Score, SegmentReader, TERMINATED, TantivyError};

use super::PREFIX_TERMS_MAX;

/// Matches the documents that match at least one of these prefixes.
#[derive(Clone, Debug)]
pub(in crate::index) struct PrefixQuery {
    pub ends: Vec<OpenEnd>,
    pub prefix_counter: PrefixCounter,
}

/// Words, the last of which is a prefix.
#[derive(Clone, Debug)]
pub(in crate::index) struct OpenEnd {
    /// The words directly before the prefix, in the same field. Only an index with positions can have such
    /// words.
    pub before: Vec<Term>,
    /// The start of terms. It may be any part of a word.
    pub prefix: Term,
    /// The term before which the terms end, as in [`Term::serialized_value_bytes`]. `None`: all terms with
    /// the prefix.
    pub end: Option<Vec<u8>>,
}

/// The prefixes match more than [`PREFIX_TERMS_MAX`] terms.
#[derive(Debug, thiserror::Error)]
#[error("the prefixes match more than {PREFIX_TERMS_MAX} words")]
struct TooManyTerms;

/// Returns the error of a search whose prefixes match too many terms.
pub(in crate::index) fn too_broad() -> TantivyError {
    TantivyError::IoError(Arc::new(io::Error::other(TooManyTerms)))
}

/// Returns whether a search failed because its prefixes match too many terms.
pub(in crate::index) fn is_too_broad(error: &TantivyError) -> bool {
    matches!(error, TantivyError::IoError(error) if error.get_ref().is_some_and(|cause| cause.is::<TooManyTerms>()))
}

/// Counts the terms that the prefixes of one query match in each Tantivy segment, and knows whether the
/// result is still needed.
#[derive(Clone, Debug, Default)]
pub(in crate::index) struct PrefixCounter {
    terms: Arc<Mutex<HashMap<SegmentId, usize>>>,
    over: Arc<OnceLock<Arc<AtomicBool>>>,
}

impl PrefixCounter {
    fn count(&self, segment: SegmentId, terms: usize) -> tantivy::Result<()> {
        // The number is valid even if a thread panicked while it held the lock.
        let mut counts = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        let all = counts.entry(segment).or_default();
        *all += terms;
        if *all > PREFIX_TERMS_MAX { Err(too_broad()) } else { Ok(()) }
    }

    /// Resets the count of a segment that is searched again.
    pub fn forget(&self, segment: SegmentId) {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    /// Sets the flag that ends the search. Once `over` is true, nobody needs the result, and no more terms
    /// are looked up. Only the first flag is kept.
    pub fn ends_with(&self, over: Arc<AtomicBool>) {
        self.over.get_or_init(|| over);
    }

    fn is_over(&self) -> bool {
        self.over.get().is_some_and(|over| over.load(Ordering::Relaxed))
    }
}

impl Query for PrefixQuery {
    fn weight(&self, _scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for PrefixQuery {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let mut found = None;
        for end in &self.ends {
            end.find(reader, &self.prefix_counter, &mut found)?;
        }
        Ok(match found {
            Some(found) => Box::new(ConstScorer::new(BitSetDocSet::from(found), boost)),
            None => Box::new(EmptyScorer),
        })
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        if self.scorer(reader, 1.0)?.seek(doc) == doc {
            Ok(Explanation::new("has a word with the prefix", 1.0))
        } else {
            Err(TantivyError::InvalidArgument(format!("document {doc} has no word with the prefix")))
        }
    }
}

/// How many terms are read before they are added to the count.
const STRIDE: usize = 1_024;

impl OpenEnd {
    fn find(
        &self,
        reader: &SegmentReader,
        prefix_counter: &PrefixCounter,
        found: &mut Option<BitSet>,
    ) -> tantivy::Result<()> {
        let index = reader.inverted_index(self.prefix.field())?;
        let places = places_behind(&index, &self.before)?;
        if !self.before.is_empty() && places.is_empty() {
            return Ok(());
        }
        let prefix = self.prefix.serialized_value_bytes();
        let mut terms = index.terms().range().ge(prefix).limit(PREFIX_TERMS_MAX as u64 + 1);
        if let Some(end) = self.end.clone().or_else(|| behind(prefix)) {
            terms = terms.lt(end);
        }
        let (mut terms, mut uncounted) = (terms.without_keys().into_stream()?, 0);
        while terms.advance() {
            uncounted += 1;
            if uncounted == STRIDE {
                prefix_counter.count(reader.segment_id(), std::mem::take(&mut uncounted))?;
                if prefix_counter.is_over() {
                    return Ok(());
                }
            }
            let found = found.get_or_insert_with(|| BitSet::with_max_value(reader.max_doc()));
            if self.before.is_empty() {
                let mut blocks =
                    index.read_block_postings_from_terminfo(terms.value(), IndexRecordOption::Basic)?;
                while !blocks.docs().is_empty() {
                    for doc in blocks.docs() {
                        found.insert(*doc);
                    }
                    blocks.advance();
                }
            } else {
                let positions = IndexRecordOption::WithFreqsAndPositions;
                mark_at(&places, index.read_postings_from_terminfo(terms.value(), positions)?, found);
            }
        }
        prefix_counter.count(reader.segment_id(), uncounted)
    }
}

/// Returns the first bytes after all that start with `prefix`; `None` if there are none.
pub(in crate::index) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

/// Returns the documents with these words in a row, and the positions after the last word, in ascending
/// order.
fn places_behind(index: &InvertedIndexReader, words: &[Term]) -> tantivy::Result<Vec<(DocId, u32)>> {
    let mut places: Option<Vec<(DocId, u32)>> = None;
    for word in words {
        let postings = index.read_postings(word, IndexRecordOption::WithFreqsAndPositions)?;
        let Some(mut postings) = postings else { return Ok(Vec::new()) };
        let (mut behind, mut positions) = (Vec::new(), Vec::new());
        match &places {
            None => {
                while postings.doc() != TERMINATED {
                    postings.positions_with_offset(1, &mut positions);
                    behind.extend(positions.iter().map(|position| (postings.doc(), *position)));
                    postings.advance();
                }
            }
            Some(places) => {
                for in_doc in places.chunk_by(|a, b| a.0 == b.0) {
                    let doc = in_doc[0].0;
                    if postings.doc() < doc && postings.seek(doc) != doc || postings.doc() != doc {
                        continue;
                    }
                    postings.positions_with_offset(0, &mut positions);
                    let follows = in_doc.iter().filter(|place| positions.binary_search(&place.1).is_ok());
                    behind.extend(follows.map(|place| (doc, place.1 + 1)));
                }
            }
        }
        places = Some(behind);
    }
    Ok(places.unwrap_or_default())
}

/// Marks the documents that have a word at one of the places.
fn mark_at(places: &[(DocId, u32)], mut postings: impl Postings, found: &mut BitSet) {
    let (mut left, mut positions) = (places, Vec::new());
    while postings.doc() != TERMINATED {
        left = &left[left.partition_point(|place| place.0 < postings.doc())..];
        let Some((doc, _)) = left.first() else { return };
        if postings.doc() < *doc {
            postings.seek(*doc);
            continue;
        }
        let in_doc = &left[..left.partition_point(|place| place.0 == *doc)];
        postings.positions_with_offset(0, &mut positions);
        if in_doc.iter().any(|place| positions.binary_search(&place.1).is_ok()) {
            found.insert(*doc);
        }
        postings.advance();
    }
}
