//! The end of a bundle: its footer, and what stands right before it since everybody needs it.

use bytes::Bytes;

use super::error::ArchiveError;
use super::read::checked;
use super::source::Source;
use crate::bundle::{Footer, Member, Opened, TAIL_BYTES};

/// An object's bytes from the blocks' table on, or from the hot part on where it has one.
pub(super) struct Tail {
    pub footer: Footer,
    position: u64,
    bytes: Bytes,
}

/// How much of a bundle's end is read first: what is read to open it grows with it, to a thousandth of its size or so.
fn first_read_bytes(size_bytes: u64) -> u64 {
    (size_bytes / 512).clamp(TAIL_BYTES, 16 * TAIL_BYTES)
}

impl Tail {
    /// Reads once, or twice where the end is longer than most.
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

    /// The bytes of `records.idx`, unchecked.
    pub fn block_index(&self) -> Bytes {
        self.footer.block_index().within(self.position, &self.bytes).unwrap_or_default()
    }

    /// The bytes of `hot.zst`, unchecked.
    pub fn hot(&self) -> Option<Bytes> {
        Some(self.footer.hot()?.within(self.position, &self.bytes).unwrap_or_default())
    }

    /// A member's bytes, checked: from here, or read.
    pub async fn member(&self, source: &Source, member: &Member) -> Result<Bytes, ArchiveError> {
        let bytes = match member.within(self.position, &self.bytes) {
            Some(bytes) => bytes,
            None => source.read(member.range()).await?,
        };
        checked(source, member, bytes).await
    }

    /// The whole object, where this is it.
    pub fn whole(&self) -> Option<Bytes> {
        (self.position == 0).then(|| self.bytes.clone())
    }
}
