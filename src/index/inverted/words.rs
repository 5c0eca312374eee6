//! Words with their positions, sorted one window at a time. To sort all at once would take twice the memory
//! of the posting buffer, when memory is scarcest.

use super::positions::Positions;
use super::posting_buffer::PostingBuffer;
use super::terms::TermId;

/// The words of all documents, and a window with those of the terms that are written next.
pub(super) struct Words {
    postings: PostingBuffer,
    positions: Positions,
    /// The place of each term's next word, counted over all words in the order of the dictionary.
    next: Vec<u32>,
    /// Documents and positions of the words from `start` on.
    window: Vec<(u32, u32)>,
    start: usize,
    /// Where the next term's words start.
    at: usize,
}

/// The number of windows for all words. Each window is one pass over the posting buffer.
const WINDOWS: usize = 4;
/// The smallest size of a window, in words.
const WINDOW_MIN: usize = 64 << 10;

impl Words {
    pub fn new(postings: PostingBuffer, positions: Positions, next: Vec<u32>) -> Self {
        Self { postings, positions, next, window: Vec::new(), start: 0, at: 0 }
    }

    /// Returns how many words a window has, if no term has more.
    pub fn window(words: usize) -> usize {
        words.div_ceil(WINDOWS).max(WINDOW_MIN).min(words)
    }

    /// Returns documents and positions of the next term, which is the first of `rest`. `count` returns how
    /// many words a term has.
    pub fn take(&mut self, rest: &[TermId], count: impl Fn(TermId) -> usize) -> &[(u32, u32)] {
        let at = self.at;
        self.at += rest.first().map_or(0, |term| count(*term));
        if self.at > self.start + self.window.len() {
            self.start = at;
            self.fill(rest, count);
        }
        &self.window[at - self.start..self.at - self.start]
    }

    fn fill(&mut self, rest: &[TermId], count: impl Fn(TermId) -> usize) {
        let (mut len, mut terms) = (0, 0);
        for term in rest {
            let of_term = count(*term);
            if terms > 0 && len + of_term > Self::window(self.postings.len()) {
                break;
            }
            len += of_term;
            terms += 1;
        }
        self.window.clear();
        self.window.resize(len, (0, 0));
        let mut positions = self.positions.iter();
        self.postings.visit(|term, doc| {
            let position = positions.next().unwrap_or_default();
            let next = &mut self.next[term as usize];
            if let Some(place) = self.window.get_mut((*next as usize).wrapping_sub(self.start)) {
                *place = (doc, position);
                *next += 1;
            }
        });
        // Each of these places now belongs to the term after it, so it must not be used again.
        for term in &rest[..terms] {
            self.next[*term as usize] = u32::MAX;
        }
    }
}
