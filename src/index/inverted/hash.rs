//! Hashes of terms. Nearly all of them take two machine words and one multiplication.

use std::hash::{BuildHasher, RandomState};

/// The hash function of one table. Its seeds are random, so that nobody can write records whose terms all
/// collide. The files do not depend on the seeds, because terms are sorted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher {
    seeds: [u64; 2],
}

/// A term's hash, and its first eight bytes as a big-endian number, filled up with zeros. This number orders
/// terms. A short term has no other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hashed {
    pub hash: u32,
    pub head: u64,
}

/// How many bytes must be readable from a term's start on, whatever its length.
pub(super) const SLACK: usize = 8;

impl Hasher {
    pub fn new() -> Self {
        let random = RandomState::new();
        Self { seeds: [random.hash_one(0_u8), random.hash_one(1_u8)] }
    }

    /// Returns the hash of the `len` bytes at `start`. At least [`SLACK`] bytes must be readable from `start`
    /// on.
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
            // If a single word is left before the last one, it is read so that it overlaps the last one.
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
