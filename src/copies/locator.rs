//! What a caller keeps of a copy, so that reading it needs no LIST.

use super::CopyName;
use crate::ids::OffsetRange;
use crate::store::{BundleKey, Listed};

/// The first byte of every locator: the version of its layout.
const VERSION: u8 = 1;

/// The length of a locator in bytes.
const LOCATOR_BYTES: usize = 1 + 4 * 8;

/// The rest of a copy's key, and its size. With the copy's name it is what a LIST would tell.
///
/// The layout: the version, then the last offset, the smallest and the greatest time in the key (zeros if it
/// has none), and the size of the object in bytes, each as eight bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locator {
    last_offset: i64,
    times_ms: (i64, i64),
    size_bytes: u64,
}

impl Locator {
    /// The locator of a bundle with this key and size.
    pub fn new(key: &BundleKey, size_bytes: u64) -> Self {
        Self { last_offset: key.range().last(), times_ms: key.times_ms().unwrap_or((0, 0)), size_bytes }
    }

    /// Returns it as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let (min_ms, max_ms) = self.times_ms;
        for number in [self.last_offset, min_ms, max_ms] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.size_bytes.to_le_bytes());
        bytes
    }

    /// Reads bytes of [`Locator::encode`]. `None` if they are not a locator that this build reads.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LOCATOR_BYTES] = bytes.try_into().ok()?;
        let (version, numbers) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        let number = |nth: usize| -> Option<[u8; 8]> { numbers[8 * nth..8 * (nth + 1)].try_into().ok() };
        Some(Self {
            last_offset: i64::from_le_bytes(number(0)?),
            times_ms: (i64::from_le_bytes(number(1)?), i64::from_le_bytes(number(2)?)),
            size_bytes: u64::from_le_bytes(number(3)?),
        })
    }

    /// Returns what a LIST would tell of the copy. `None` if name and locator do not make a key.
    pub(super) fn listed(&self, name: &CopyName) -> Option<Listed> {
        let front = name.marker();
        let range = OffsetRange::new(front.base_offset(), self.last_offset)?;
        let (partition, log_id) = (front.partition().clone(), front.log_id().clone());
        let key = BundleKey::new(partition, log_id, range, Some(self.times_ms), front.hash()).ok()?;
        Some(Listed { key, size_bytes: self.size_bytes, e_tag: None, stored_at_ms: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locator_is_read_as_it_was_written_and_nothing_else_is() {
        let locator =
            Locator { last_offset: i64::MAX, times_ms: (0, 1_700_000_000_000), size_bytes: 1 << 33 };
        let bytes = locator.encode();
        assert_eq!(bytes.len(), LOCATOR_BYTES);
        assert_eq!(Locator::decode(&bytes), Some(locator));
        assert_eq!(Locator::decode(&bytes[1..]), None);
        assert_eq!(Locator::decode(&[&[2], &bytes[1..]].concat()), None);
        assert_eq!(Locator::decode(&[]), None);
    }
}
