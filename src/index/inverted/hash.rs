//! Hashes of terms: two words and a multiplication for nearly all of them.

use std::hash::{BuildHasher, RandomState};

/// The hash function of one table. Its seeds are random, so that nobody can write records whose terms all fall together; what is
/// written does not depend on them, since terms are sorted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher {
    seeds: [u64; 2],
}

/// A term's hash, and the first eight bytes of it, big end first and filled up with zeros: they order terms, and short ones are
/// nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hashed {
    pub hash: u32,
    pub head: u64,
}

/// How many bytes must be readable behind a term's start, whatever its length.
pub(super) const SLACK: usize = 8;

impl Hasher {
    pub fn new() -> Self {
        let random = RandomState::new();
        Self { seeds: [random.hash_one(0_u8), random.hash_one(1_u8)] }
    }

    /// The hash of the `len` bytes at `start`; at least [`SLACK`] more can be read behind them.
    #[inline]
    pub fn hash(&self, bytes: &[u8], start: usize, len: usize, mark: u32) -> Hashed {
        let first = word(bytes, start);
        let mark = u64::from(mark).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (head, folded) = if len >= 8 {
            let mut folded = self.seeds[0];
            let mut at = 0;
            while at + 16 < len {
                folded = fold(folded ^ word(bytes, start + at), self.seeds[1] ^ word(bytes, start + at + 8));
                at += 16;
            }
            // Where a single word is left before the last one, it is read with the last one overlapping it.
            let before = word(bytes, start + at.min(len - 8));
            let last = word(bytes, start + len - 8);
            (first, fold(folded ^ before, self.seeds[1] ^ last ^ mark))
        } else {
            let head = if len == 0 { 0 } else { first & (u64::MAX << (64 - 8 * len)) };
            (head, fold(self.seeds[0] ^ head, self.seeds[1] ^ mark))
        };
        Hashed { hash: folded as u32, head }
    }
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(word) => u64::from_be_bytes(*word),
        None => 0,
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
