//! Returns the bytes of a segment in order, block by block.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::CopyError;
use super::memory::ReadReservation;
use crate::archive::{Archive, ArchiveError, Fault};
use crate::bundle::BlockEntry;

/// The longest piece that a reader returns at once, in bytes. Several fit into a flow-control window of 1 MiB,
/// so the next one has arrived when a caller asks for it. Arrays of this size are no large objects for a JVM,
/// which would keep each of them in memory regions of its own.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Blocks that lie together are read in one request of about this many bytes.
const GROUP_BYTES: u64 = 1 << 20;

/// A group of blocks has no more than this many bytes when they are decompressed. They are decompressed one by
/// one; this only bounds what is read for a reader that soon stops.
const GROUP_PLAIN_BYTES: u64 = 16 << 20;

/// The number of groups that are read before the next one is read ahead: a caller that reads a mebibyte and
/// stops must not cost a second request.
const GROUPS_BEFORE_AHEAD: u64 = 1;

type Group = VecDeque<(BlockEntry, Bytes)>;

/// Reads a segment from a position to an end. It is lazy: it reads a group of blocks when the one before is
/// used up, and from the second one on one group ahead.
#[derive(Debug)]
pub struct SegmentReader {
    archive: Archive,
    position: u64,
    end: u64,
    /// The block that is decompressed, from `position` on.
    plain: Bytes,
    /// Blocks that were read and are not decompressed yet.
    group: Group,
    groups: u64,
    ahead: JoinSet<Result<Group, ArchiveError>>,
    /// The number of the first block that was not asked for yet.
    next_block: usize,
    _memory: ReadReservation,
}

impl SegmentReader {
    /// Reads from `position` to `end`, both within the segment.
    pub(super) fn new(archive: Archive, position: u64, end: u64, memory: ReadReservation) -> Self {
        let next_block = block_at(archive.blocks().entries(), position);
        Self {
            archive: archive.uncached(),
            position,
            end,
            plain: Bytes::new(),
            group: Group::new(),
            groups: 0,
            ahead: JoinSet::new(),
            next_block,
            _memory: memory,
        }
    }

    /// The size of the whole segment, in bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.archive.manifest().segment.size_bytes
    }

    /// Returns the next bytes, at most [`CHUNK_BYTES`], or `None` at the end. The checksum of their block has
    /// been checked.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CopyError> {
        if self.position >= self.end {
            return Ok(None);
        }
        if self.plain.is_empty() {
            self.plain = self.next_block().await?;
        }
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let chunk = self.plain.split_to(self.plain.len().min(CHUNK_BYTES).min(left));
        self.position += chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// Returns the block that holds `position`, from there on.
    async fn next_block(&mut self) -> Result<Bytes, CopyError> {
        if self.group.is_empty() {
            self.group = self.next_group().await?;
            self.groups += 1;
            if self.groups > GROUPS_BEFORE_AHEAD {
                self.read_ahead();
            }
        }
        let hole = || self.archive.error(Fault::SourceHole { position: self.position });
        let (entry, compressed) = self.group.pop_front().ok_or_else(hole)?;
        let start = self.position.checked_sub(entry.source_position).ok_or_else(hole)? as usize;
        let plain = self.archive.open_block(&entry, compressed).await?;
        if start >= plain.len() {
            return Err(hole().into());
        }
        Ok(plain.slice(start..))
    }

    async fn next_group(&mut self) -> Result<Group, ArchiveError> {
        if self.ahead.is_empty() {
            self.read_ahead();
        }
        match self.ahead.join_next().await {
            Some(Ok(group)) => group,
            Some(Err(_)) => Err(self.archive.error(Fault::Panicked)),
            None => Ok(Group::new()),
        }
    }

    /// Begins to read the next group, if there is one before the end.
    fn read_ahead(&mut self) {
        let entries = group_of(self.archive.blocks().entries(), self.next_block, self.end);
        if entries.is_empty() {
            return;
        }
        self.next_block += entries.len();
        let (archive, entries) = (self.archive.clone(), entries.to_vec());
        self.ahead.spawn(async move {
            let compressed = archive.read_blocks(&entries).await?;
            Ok(entries.into_iter().zip(compressed).collect())
        });
    }
}

/// The number of the block that holds the byte at `position`.
fn block_at(entries: &[BlockEntry], position: u64) -> usize {
    entries.partition_point(|entry| entry.source_end() <= position)
}

/// The blocks from number `first` on that are read together.
fn group_of(entries: &[BlockEntry], first: usize, end: u64) -> &[BlockEntry] {
    let rest = entries.get(first..).unwrap_or_default();
    let (mut bytes, mut plain_bytes) = (0, 0);
    let len = rest.iter().enumerate().position(|(nth, entry)| {
        bytes += u64::from(entry.compressed_len);
        plain_bytes += u64::from(entry.plain_len);
        let is_full = nth > 0 && (bytes > GROUP_BYTES || plain_bytes > GROUP_PLAIN_BYTES);
        is_full || entry.source_position >= end
    });
    &rest[..len.unwrap_or(rest.len())]
}

/// The memory of a reader of `position..end`, in bytes: a group and the next one, and two blocks, one of them
/// on its way to the caller.
pub(super) fn mem_usage(archive: &Archive, position: u64, end: u64) -> u64 {
    let entries = archive.blocks().entries();
    let wanted = entries.get(block_at(entries, position)..).unwrap_or_default().iter();
    let wanted = wanted.take_while(|entry| entry.source_position < end);
    let (mut compressed, mut plain) = ((0, 0), (0, 0));
    for entry in wanted {
        let add = |(most, all): (u64, u64), len: u32| (most.max(len.into()), all + u64::from(len));
        compressed = add(compressed, entry.compressed_len);
        plain = add(plain, entry.plain_len);
    }
    (2 * compressed.0.max(GROUP_BYTES)).min(compressed.1) + (2 * plain.0).min(plain.1)
}
