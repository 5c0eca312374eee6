//! A buffer of which term was in which document. It is filled in the order of the records, and sorted at the
//! end.

use super::super::chunked::Chunked;
use super::terms::TermId;

/// The terms of each document, one document after the other. A term takes four bytes, and nothing is looked
/// up while records arrive.
#[derive(Debug, Default)]
pub(super) struct PostingBuffer {
    terms: Chunked<TermId, 14>,
    /// Where each document ends.
    ends: Chunked<u32, 12>,
}

impl PostingBuffer {
    #[inline]
    pub fn push(&mut self, term: TermId) {
        self.terms.push(term);
    }

    /// Ends a document: all of its terms have been pushed.
    #[inline]
    pub fn end_document(&mut self) {
        self.ends.push(self.terms.len() as u32);
    }

    pub fn len(&self) -> usize {
        self.terms.len()
    }

    pub fn mem_usage(&self) -> usize {
        self.terms.mem_usage() + self.ends.mem_usage()
    }

    /// Returns the size of the buffer in bytes, without spare capacity. It depends only on what was pushed.
    pub fn bytes(&self) -> usize {
        (self.terms.len() + self.ends.len()) * size_of::<u32>()
    }

    /// Calls `each` with every term pushed and its document, in order.
    pub fn visit(&self, mut each: impl FnMut(TermId, u32)) {
        let mut ends = self.ends.iter();
        let (mut doc, mut end) = (0, ends.next().map_or(0, |end| *end as usize));
        for (at, term) in self.terms.iter().enumerate() {
            while at >= end {
                doc += 1;
                end = ends.next().map_or(usize::MAX, |end| *end as usize);
            }
            each(*term, doc);
        }
    }

    /// Does the same as [`PostingBuffer::visit`], and frees the buffer on the way.
    pub fn drain(self, mut each: impl FnMut(TermId, u32)) {
        let mut ends = self.ends.into_chunks().flatten();
        let (mut doc, mut end, mut at) = (0, ends.next().unwrap_or(0), 0);
        for chunk in self.terms.into_chunks() {
            for term in chunk {
                while at >= end {
                    doc += 1;
                    end = ends.next().unwrap_or(u32::MAX);
                }
                each(term, doc);
                at += 1;
            }
        }
    }
}
