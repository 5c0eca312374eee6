//! Opening a bundle and reading parts of it.

use bytes::Bytes;
use futures::future::{try_join, try_join_all};

use super::error::{ArchiveError, Fault};
use super::records::{StoredRecord, pick};
use super::source::{Source, Traffic, blocking};
use crate::bundle::{
    BlockEntry, BlockError, BlockIndex, Disagreement, Footer, Manifest, Member, Opened, TAIL_BYTES,
};
use crate::ids::{LogId, OffsetRange, TopicPartition};
use crate::store::{BundleKey, KeyHash};

/// Hashing this much, in bytes, would hold up a thread of the runtime.
const LARGE_BYTES: usize = 1 << 20;

/// An open bundle: what it says of itself and where everything in it lies.
#[derive(Clone, Debug)]
pub struct Archive {
    source: Source,
    footer: Footer,
    manifest: Manifest,
    partition: TopicPartition,
    log_id: LogId,
    blocks: BlockIndex,
}

/// A footer and the bytes that it came with.
pub(super) struct OpenedFooter {
    pub footer: Footer,
    pub tail_position: u64,
    pub tail: Bytes,
}

/// Reads the object's end: once, or twice where the footer is longer than most.
pub(super) async fn open_footer(source: &Source) -> Result<OpenedFooter, ArchiveError> {
    let size_bytes = source.size_bytes();
    let mut tail_position = size_bytes.saturating_sub(TAIL_BYTES);
    loop {
        let tail = source.read(tail_position..size_bytes).await?;
        match Footer::open(&tail, size_bytes).map_err(|error| source.error(error))? {
            Opened::Footer(footer) => return Ok(OpenedFooter { footer, tail_position, tail }),
            Opened::NeedFrom(position) => tail_position = position,
        }
    }
}

impl Archive {
    /// Reads footer, manifest and the blocks' table, and holds them against one another and the key.
    pub async fn open(source: Source) -> Result<Self, ArchiveError> {
        let OpenedFooter { footer, tail_position, tail } = open_footer(&source).await?;
        let member = async |member: &Member| match member.within(tail_position, &tail) {
            Some(bytes) => checked(&source, member, bytes),
            None => read_member(&source, member).await,
        };
        let (manifest, block_index) =
            try_join(member(footer.manifest()), member(footer.block_index())).await?;
        let failed = |fault: Fault| source.error(fault);
        let manifest = Manifest::parse(&manifest).map_err(|error| failed(error.into()))?;
        let blocks = BlockIndex::parse(&block_index).map_err(|error| failed(error.into()))?;
        let (stated, found) = (footer.records().len.into(), blocks.compressed_bytes().into());
        if stated != found {
            return Err(failed(Disagreement { what: "the length of records.zst", stated, found }.into()));
        }
        manifest.agrees_with(&blocks).map_err(|error| failed(error.into()))?;
        let partition = TopicPartition::new(manifest.topic.as_str(), manifest.partition)
            .map_err(|_| failed(Fault::Unusable { what: "topic and partition" }))?;
        let log_id = LogId::new(&manifest.log_id);
        if let Some(key) = source.key() {
            agrees_with_key(&manifest, &partition, &log_id, key).map_err(failed)?;
        }
        Ok(Self { footer, manifest, partition, log_id, blocks, source })
    }

    /// Where it is read from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Its key, or its file's path.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// What was read of it so far.
    pub fn traffic(&self) -> Traffic {
        self.source.traffic()
    }

    /// Where its members lie.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Topic and partition.
    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The incarnation of the log.
    pub fn log_id(&self) -> &LogId {
        &self.log_id
    }

    /// Its blocks.
    pub fn blocks(&self) -> &BlockIndex {
        &self.blocks
    }

    /// A member's bytes, checked.
    pub async fn member(&self, member: &Member) -> Result<Bytes, ArchiveError> {
        read_member(&self.source, member).await
    }

    /// The index's files with their names, checked, read side by side.
    pub async fn index_files(&self) -> Result<Vec<(String, Bytes)>, ArchiveError> {
        let files = self.footer.index_files().map(async |(name, member)| {
            Ok::<_, ArchiveError>((name.to_owned(), read_member(&self.source, member).await?))
        });
        try_join_all(files).await
    }

    /// The data records of these ordinals, which ascend, from the block that holds them; those that it does not hold are left out.
    pub async fn records(
        &self,
        entry: &BlockEntry,
        ordinals: Vec<u64>,
    ) -> Result<Vec<(u64, StoredRecord)>, ArchiveError> {
        let (plain, entry, format) = (self.block(entry).await?, entry.clone(), self.manifest.segment.format);
        let picked = self.blocking(move || pick(&entry, &plain, format, &ordinals)).await?;
        picked.map_err(|fault| self.error(fault))
    }

    /// An error that names this bundle.
    pub fn error(&self, fault: impl Into<Fault>) -> ArchiveError {
        self.source.error(fault)
    }

    /// Runs work that takes its time on a thread that may.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ArchiveError> {
        blocking(work).await.map_err(|fault| self.error(fault))
    }

    /// A block of [`Archive::blocks`], checked and opened.
    pub async fn block(&self, entry: &BlockEntry) -> Result<Bytes, ArchiveError> {
        let outside = || {
            let (position, expected) = (entry.position, entry.compressed_len);
            self.source.error(BlockError::Length { position, expected, given: 0 })
        };
        let range = self.footer.block_range(entry).ok_or_else(outside)?;
        let compressed = self.source.read(range).await?;
        let entry = entry.clone();
        let opened = self.blocking(move || entry.open(&compressed)).await?;
        opened.map_err(|error| self.error(error))
    }
}

async fn read_member(source: &Source, member: &Member) -> Result<Bytes, ArchiveError> {
    let bytes = source.read(member.range()).await?;
    if bytes.len() < LARGE_BYTES {
        return checked(source, member, bytes);
    }
    let (member, data) = (member.clone(), bytes.clone());
    let checked = blocking(move || member.check(&data)).await.map_err(|fault| source.error(fault))?;
    checked.map_err(|error| source.error(error))?;
    Ok(bytes)
}

fn checked(source: &Source, member: &Member, bytes: Bytes) -> Result<Bytes, ArchiveError> {
    member.check(&bytes).map_err(|error| source.error(error))?;
    Ok(bytes)
}

/// A LIST prunes by what keys say, so a bundle must be what its key says.
fn agrees_with_key(
    manifest: &Manifest,
    partition: &TopicPartition,
    log_id: &LogId,
    key: &BundleKey,
) -> Result<(), Fault> {
    let hash = KeyHash::new(&manifest.segment.sha256, log_id, partition).hash16();
    let range = OffsetRange::new(manifest.base_offset, manifest.last_offset);
    let times = manifest.min_timestamp_ms.zip(manifest.max_timestamp_ms);
    let from_manifest = range
        .and_then(|range| BundleKey::new(partition.clone(), log_id.clone(), range, times, hash).ok())
        .ok_or(Fault::Unusable { what: "topic, log id, offsets or times" })?;
    let differs = [
        ("topic or partition", from_manifest.partition() != key.partition()),
        ("log id", from_manifest.log_id() != key.log_id()),
        ("offsets", from_manifest.range() != key.range()),
        ("times", from_manifest.times_ms() != key.times_ms()),
        ("segment hash", from_manifest.hash() != key.hash()),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(Fault::OtherThanItsKey { what }),
        None => Ok(()),
    }
}
