//! Reads all that a query needs of a leaf, so that everything that is not loaded is noted at once and fetched
//! together.

use std::collections::HashMap;
use std::io;

use tantivy::postings::TermInfo;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{SegmentReader, Term};

use super::super::query::PREFIX_TERMS_MAX;
use super::super::query::prefix::{behind, too_broad};
use super::super::query::required_terms::RequiredTerms;

/// The outcome of a warm-up.
pub(super) enum WarmedUp {
    /// No record can match, and nothing else has to be read.
    Impossible,
    /// Everything needed is loaded, unless something was noted as missing. The value is the number of terms
    /// and prefixes that the leaf has.
    Terms(usize),
}

/// A range of terms: the field, the first bytes, and the excluded end. `None`: all terms with these first
/// bytes.
type Range<'a> = (Field, &'a [u8], Option<&'a [u8]>);

/// What a leaf has of the terms and prefixes of a query. All terms of a prefix are kept as one, since their
/// postings are adjacent.
#[derive(Default)]
struct Known<'a> {
    terms: HashMap<&'a Term, Option<TermInfo>>,
    prefixes: HashMap<Range<'a>, (TermInfo, usize)>,
    /// Number of terms that all prefixes match.
    prefix_terms: usize,
}

/// Looks up all terms, then reads the postings and columns of those parts of the query that can match. With
/// `count`, the dictionary alone answers a query that is one term. If `noted` says that something is missing,
/// errors are ignored: they are a result of that.
pub(super) fn warm_up(
    reader: &SegmentReader,
    required: &RequiredTerms,
    scored: bool,
    count: bool,
    noted: &dyn Fn() -> bool,
) -> tantivy::Result<WarmedUp> {
    let mut known = Known::default();
    let mut failed = None;
    for need in required.all() {
        failed = failed.or(known.look_up(reader, need).err().filter(|_| !noted()));
    }
    match failed {
        Some(error) => return Err(error),
        None if noted() => return Ok(WarmedUp::Terms(0)),
        None => {}
    }
    if !required.possible(&|need| known.has(need)) {
        return Ok(WarmedUp::Impossible);
    }
    if count && matches!(required, RequiredTerms::Term { .. }) {
        return Ok(WarmedUp::Terms(1));
    }
    let (mut cursors, mut failed) = (0, None);
    required.visit(&|need| known.has(need), &mut |need| {
        cursors += usize::from(!matches!(need, RequiredTerms::Column(_)) && known.has(need));
        let touched = known.warm_up(reader, need, scored);
        failed = failed.take().or(touched.err().filter(|_| !noted()));
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(WarmedUp::Terms(cursors)),
    }
}

impl<'a> Known<'a> {
    fn look_up(&mut self, reader: &SegmentReader, need: &'a RequiredTerms) -> tantivy::Result<()> {
        match need {
            RequiredTerms::Term { term, .. } => {
                let info = reader.inverted_index(term.field())?.get_term_info(term)?;
                self.terms.insert(term, info);
            }
            RequiredTerms::Prefix { field, bytes, end, .. } => {
                if let Some((all, terms)) = starting_with(reader, *field, bytes, end.as_deref())? {
                    self.prefix_terms += terms;
                    if self.prefix_terms > PREFIX_TERMS_MAX {
                        return Err(too_broad());
                    }
                    self.prefixes.insert((*field, bytes, end.as_deref()), (all, terms));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn has(&self, need: &RequiredTerms) -> bool {
        match need {
            RequiredTerms::Term { term, .. } => self.terms.get(term).is_some_and(Option::is_some),
            RequiredTerms::Prefix { field, bytes, end, .. } => {
                self.prefixes.contains_key(&(*field, bytes.as_slice(), end.as_deref()))
            }
            _ => true,
        }
    }

    /// Reads what one part of the query needs.
    fn warm_up(&self, reader: &SegmentReader, need: &RequiredTerms, scored: bool) -> tantivy::Result<()> {
        match need {
            RequiredTerms::Term { term, positions } => match self.terms.get(term) {
                // Every record has the term, so its postings are only read for scores and positions.
                Some(Some(info)) if info.doc_freq == reader.max_doc() && !scored && !positions => Ok(()),
                Some(Some(info)) => postings(reader, term.field(), info, *positions),
                _ => Ok(()),
            },
            RequiredTerms::Prefix { field, bytes, end, positions } => {
                match self.prefixes.get(&(*field, bytes.as_slice(), end.as_deref())) {
                    Some((info, _)) => postings(reader, *field, info, *positions),
                    None => Ok(()),
                }
            }
            RequiredTerms::Column(name) => columns(reader, name),
            _ => Ok(()),
        }
    }
}

/// Returns the terms that start with `bytes`, or that come before the end, as one term, and how many they
/// are.
fn starting_with(
    reader: &SegmentReader,
    field: Field,
    bytes: &[u8],
    end: Option<&[u8]>,
) -> tantivy::Result<Option<(TermInfo, usize)>> {
    let index = reader.inverted_index(field)?;
    let mut terms = index.terms().range().ge(bytes).limit(PREFIX_TERMS_MAX as u64 + 1);
    if let Some(end) = end.map(<[u8]>::to_vec).or_else(|| behind(bytes)) {
        terms = terms.lt(end);
    }
    let mut terms = terms.without_keys().into_stream()?;
    let mut found: Option<(TermInfo, usize)> = None;
    while terms.advance() {
        let info = terms.value();
        match &mut found {
            Some((all, count)) => {
                all.postings_range.end = info.postings_range.end;
                all.positions_range.end = info.positions_range.end;
                *count += 1;
            }
            None => found = Some((info.clone(), 1)),
        }
    }
    Ok(found)
}

fn postings(reader: &SegmentReader, field: Field, info: &TermInfo, positions: bool) -> tantivy::Result<()> {
    let option =
        if positions { IndexRecordOption::WithFreqsAndPositions } else { IndexRecordOption::WithFreqs };
    reader.inverted_index(field)?.read_postings_from_terminfo(info, option)?;
    Ok(())
}

/// Reads all columns with this name, even if the first one cannot be read.
pub(super) fn columns(reader: &SegmentReader, name: &str) -> tantivy::Result<()> {
    let handles = reader.fast_fields().dynamic_column_handles(name)?;
    let read = handles.iter().map(|handle| handle.file_slice().read_bytes().map(|_| ()));
    Ok(read.fold(Ok(()), io::Result::and)?)
}
