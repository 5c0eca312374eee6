//! Reads the end of a bundle: its footer, and the members right before it that every reader needs.

use bytes::Bytes;

use super::error::ArchiveError;
use super::read::checked;
use super::source::Source;
use crate::bundle::{Footer, Member, Opened, TAIL_BYTES};

/// The end of an object: from the hot cache on, or from the block index on if there is no hot cache.
pub(super) struct Tail {
    pub footer: Footer,
    position: u64,
    bytes: Bytes,
}

/// Returns how many bytes to read from the end first. The parts that open a bundle grow with it, to about a
/// thousandth of its size.
fn first_read_bytes(size_bytes: u64) -> u64 {
    (size_bytes / 512).clamp(TAIL_BYTES, 16 * TAIL_BYTES)
}

impl Tail {
    /// Reads the end of the object, in one read. If the end is longer than the first read, it takes one or
    /// two more.
    pub async fn read(source: &Source) -> Result<Self, ArchiveError> {
        let size_bytes = source.size_bytes();
        let mut position = size_bytes.saturating_sub(first_read_bytes(size_bytes));
        loop {
            let bytes = source.read(position..size_bytes).await?;
            match Footer::open(&bytes, size_bytes).map_err(|error| source.error(error))? {
                Opened::Footer(footer) => {
                    return Self { footer, position, bytes }.reaching_back(source).await;
                }
                Opened::NeedFrom(needed) => position = needed,
            }
        }
    }

    async fn reaching_back(self, source: &Source) -> Result<Self, ArchiveError> {
        let first = self.footer.hot().unwrap_or(self.footer.block_index()).position;
        if self.position <= first {
            return Ok(self);
        }
        let before = source.read(first..self.position).await?;
        Ok(Self { footer: self.footer, position: first, bytes: [before, self.bytes].concat().into() })
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the bytes of `records.idx`, unchecked.
    pub fn block_index(&self) -> Bytes {
        self.footer.block_index().within(self.position, &self.bytes).unwrap_or_default()
    }

    /// Returns the bytes of `hot.zst`, unchecked.
    pub fn hot(&self) -> Option<Bytes> {
        Some(self.footer.hot()?.within(self.position, &self.bytes).unwrap_or_default())
    }

    /// Returns a member's bytes, checked. Reads them if they are not in memory.
    pub async fn member(&self, source: &Source, member: &Member) -> Result<Bytes, ArchiveError> {
        let bytes = match member.within(self.position, &self.bytes) {
            Some(bytes) => bytes,
            None => source.read(member.range()).await?,
        };
        checked(source, member, bytes).await
    }

    /// Returns the whole object, if the read started at its first byte.
    pub fn whole(&self) -> Option<Bytes> {
        (self.position == 0).then(|| self.bytes.clone())
    }
}
