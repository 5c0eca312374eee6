//! Opens a bundle and reads parts of it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;

use super::cached_parts::{CachedParts, Part};
use super::error::{ArchiveError, Fault};
use super::pick::{MemoryAllowance, Picked, WorkBounds, offsets_and_times, pick};
use super::source::{Source, Traffic, blocking};
use super::tail::Tail;
use crate::bundle::{
    BlockEntry, BlockError, BlockIndex, Disagreement, Footer, HotCache, HotCacheError, Manifest, Member,
};
use crate::ids::{CopyId, LogId, TopicPartition};
use crate::store::{BundleKey, KeyHash};

/// To hash this many bytes on a thread of the runtime would block that thread for too long.
pub(super) const LARGE_BYTES: usize = 1 << 20;

/// The memory for a manifest is at most this many times the length of its JSON.
const MANIFEST_USAGE: usize = 2;

/// An open bundle: its manifest and the positions of its parts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Archive {
    source: Source,
    opened: Arc<Opened>,
    cached: Option<CachedParts>,
}

/// The parts that are read to open a bundle, checked.
#[derive(Debug)]
pub(super) struct Opened {
    pub footer: Footer,
    manifest: Manifest,
    partition: TopicPartition,
    log_id: LogId,
    blocks: BlockIndex,
    pub hot: Option<HotCache>,
    /// The whole object, if the first read returned all of it.
    whole: Option<Bytes>,
    mem_usage: usize,
}

impl Archive {
    /// Opens a bundle: reads footer, manifest and block index, and compares them with one another and with
    /// the key. This takes one read. It takes one or two more if these parts are longer than the first read,
    /// and one more for the manifest in large bundles of version 1.
    pub async fn open(source: Source) -> Result<Self, ArchiveError> {
        let opened = Arc::new(Opened::read(&source).await?);
        Ok(Self { source, opened, cached: None })
    }

    /// Opens a bundle through the cache. Parts that are read from the bundle later are cached too.
    pub(super) async fn open_cached(source: Source, cached: CachedParts) -> Result<Self, ArchiveError> {
        let opened = cached.opened(async { Ok(Arc::new(Opened::read(&source).await?)) }).await?;
        Ok(Self { source, opened, cached: Some(cached) })
    }

    /// The same bundle. Parts that are read from now on are not cached.
    pub fn uncached(self) -> Self {
        Self { cached: None, ..self }
    }

    /// Returns where the bundle is read from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns the bundle's key, or the path of its file.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// Returns what was read so far through the bundle's source.
    pub fn traffic(&self) -> Traffic {
        self.source.traffic()
    }

    /// Returns the footer, with the positions of the members.
    pub fn footer(&self) -> &Footer {
        &self.opened.footer
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.opened.manifest
    }

    /// Returns topic and partition.
    pub fn partition(&self) -> &TopicPartition {
        &self.opened.partition
    }

    /// Returns the incarnation of the log.
    pub fn log_id(&self) -> &LogId {
        &self.opened.log_id
    }

    /// Returns the block index.
    pub fn blocks(&self) -> &BlockIndex {
        &self.opened.blocks
    }

    pub(super) fn opened(&self) -> &Arc<Opened> {
        &self.opened
    }

    /// Returns the cached parts; `None` for callers that trust only what they read themselves.
    pub(super) fn cached(&self) -> Option<&CachedParts> {
        self.cached.as_ref()
    }

    /// Returns whether the whole bundle is in memory.
    pub(super) fn has_all(&self) -> bool {
        self.opened.whole.is_some()
    }

    /// Returns all bytes of `range`, unchecked, or an error.
    pub(super) async fn read(&self, range: Range<u64>) -> Result<Bytes, ArchiveError> {
        match self.in_memory(&range) {
            Some(bytes) => Ok(bytes),
            None => self.source.read(range).await,
        }
    }

    /// Returns all bytes of `range`, unchecked, if the first read returned the whole bundle.
    pub(super) fn in_memory(&self, range: &Range<u64>) -> Option<Bytes> {
        let whole = self.opened.whole.as_ref().filter(|whole| range.end <= whole.len() as u64)?;
        Some(whole.slice(range.start as usize..range.end as usize))
    }

    /// Reads and checks the bytes of a member.
    pub async fn member(&self, member: &Member) -> Result<Bytes, ArchiveError> {
        checked(&self.source, member, self.read(member.range()).await?).await
    }

    /// Reads and checks the index files, concurrently. Returns them with their names.
    pub async fn index_files(&self) -> Result<Vec<(String, Bytes)>, ArchiveError> {
        let files = self
            .footer()
            .index_files()
            .map(async |(name, member)| Ok::<_, ArchiveError>((name.to_owned(), self.member(member).await?)));
        try_join_all(files).await
    }

    /// Returns the data records with these ordinals, which must ascend, from their decompressed block.
    /// Ordinals that are not in the block are left out.
    ///
    /// A record that takes more than `record_bytes_max` bytes in memory comes without its value. If only one
    /// record is wanted, and `record_bytes_max` limits its size, it may keep the memory of its frame.
    /// Together the records take at most the bytes that are left in `allowance`.
    pub async fn records(
        &self,
        entry: &BlockEntry,
        plain: Bytes,
        ordinals: Vec<u64>,
        bounds: WorkBounds,
        record_bytes_max: usize,
        allowance: Arc<MemoryAllowance>,
    ) -> Result<Vec<(u64, Picked)>, ArchiveError> {
        let (entry, format) = (entry.clone(), self.manifest().segment.format);
        let picked = self
            .blocking(move || pick(&entry, &plain, format, &ordinals, bounds, record_bytes_max, &allowance))
            .await?;
        picked.map_err(|fault| self.error(fault))
    }

    /// Returns ordinals, offsets and times of data records, from their decompressed block. Ordinals that are
    /// not in the block are left out.
    pub async fn offsets_and_times(
        &self,
        entry: &BlockEntry,
        plain: Bytes,
        ordinals: Vec<u64>,
        bounds: WorkBounds,
    ) -> Result<Vec<(u64, i64, Option<i64>)>, ArchiveError> {
        let (entry, format) = (entry.clone(), self.manifest().segment.format);
        let found =
            self.blocking(move || offsets_and_times(&entry, &plain, format, &ordinals, bounds)).await?;
        found.map_err(|fault| self.error(fault))
    }

    /// Makes an error that names this bundle.
    pub fn error(&self, fault: impl Into<Fault>) -> ArchiveError {
        self.source.error(fault)
    }

    /// Runs work that may take long on a thread for blocking work.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ArchiveError> {
        blocking(work).await.map_err(|fault| self.error(fault))
    }

    /// Returns a block of [`Archive::blocks`], checked and decompressed.
    pub async fn block(&self, entry: &BlockEntry) -> Result<Bytes, ArchiveError> {
        match &self.cached {
            Some(cached) => {
                cached.part(Part::Block { position: entry.position }, self.read_block(entry)).await
            }
            None => self.read_block(entry).await,
        }
    }

    async fn read_block(&self, entry: &BlockEntry) -> Result<Bytes, ArchiveError> {
        let compressed = self.read(self.block_range(entry)?).await?;
        self.open_block(entry, compressed).await
    }

    /// Reads blocks that follow one another, in one read. Returns them compressed and unchecked, for
    /// [`Archive::open_block`].
    pub async fn read_blocks(&self, entries: &[BlockEntry]) -> Result<Vec<Bytes>, ArchiveError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(Vec::new()) };
        let (first, last) = (self.block_range(first)?, self.block_range(last)?);
        let start = first.start;
        let bytes = self.read(start..last.end).await?;
        let block = |entry| {
            let range = self.block_range(entry)?;
            Ok(bytes.slice((range.start - start) as usize..(range.end - start) as usize))
        };
        entries.iter().map(block).collect()
    }

    /// Checks and decompresses a block.
    pub async fn open_block(&self, entry: &BlockEntry, compressed: Bytes) -> Result<Bytes, ArchiveError> {
        let entry = entry.clone();
        let opened = self.blocking(move || entry.open(&compressed)).await?;
        opened.map_err(|error| self.error(error))
    }

    fn block_range(&self, entry: &BlockEntry) -> Result<Range<u64>, ArchiveError> {
        let outside = || {
            let (position, expected) = (entry.position, entry.compressed_len);
            self.source.error(BlockError::Length { position, expected, given: 0 })
        };
        self.footer().block_range(entry).ok_or_else(outside)
    }
}

impl Opened {
    async fn read(source: &Source) -> Result<Self, ArchiveError> {
        let end = Tail::read(source).await?;
        let manifest = match end.footer.hot() {
            Some(_) => None,
            None => Some(end.member(source, end.footer.manifest()).await?),
        };
        let large = end.len() + manifest.as_ref().map_or(0, Bytes::len) > LARGE_BYTES;
        let key = source.key().cloned();
        let parse = move || Self::parse(end, manifest, key.as_ref());
        let opened = if large { blocking(parse).await.and_then(|opened| opened) } else { parse() };
        opened.map_err(|fault| source.error(fault))
    }

    /// Checks a chunk of an index file: number of the file, number of the chunk in it.
    pub fn check_chunk(&self, file: usize, chunk: u64, bytes: &[u8]) -> Result<(), Fault> {
        match &self.hot {
            Some(hot) => Ok(hot.check_chunk(&self.footer, file, chunk, bytes)?),
            None => Err(HotCacheError::Absent.into()),
        }
    }

    /// The memory used, in bytes.
    pub fn mem_usage(&self) -> usize {
        self.mem_usage
    }

    /// `manifest` is given if the bundle has no hot cache.
    fn parse(end: Tail, manifest: Option<Bytes>, key: Option<&BundleKey>) -> Result<Self, Fault> {
        let footer = &end.footer;
        let hot = end.hot().map(|bytes| hot_of(footer, &bytes)).transpose()?;
        let manifest_bytes = hot.as_ref().map(HotCache::manifest).or(manifest.as_ref());
        let manifest_bytes = manifest_bytes.map_or(&[][..], |bytes| bytes);
        let manifest = Manifest::parse(manifest_bytes)?;
        manifest.is_of_version(footer.version())?;
        // A copy of the bytes: the block index keeps them in memory, and must not keep the rest of the tail.
        let block_index = Bytes::copy_from_slice(&end.block_index());
        footer.block_index().check(&block_index)?;
        let blocks = BlockIndex::parse(&block_index)?;
        let (stated, found) = (footer.records().len.into(), blocks.compressed_bytes().into());
        if stated != found {
            return Err(Disagreement { what: "the length of records.zst", stated, found }.into());
        }
        manifest.agrees_with(&blocks)?;
        manifest.agrees_with_attachments(footer)?;
        let whole = end.whole();
        let mem_usage = size_of::<Self>()
            + footer.mem_usage()
            + MANIFEST_USAGE * manifest_bytes.len()
            + blocks.mem_usage()
            + block_index.len()
            + hot.as_ref().map_or(0, HotCache::mem_usage)
            + whole.as_ref().map_or(0, Bytes::len);
        let partition = TopicPartition::new(manifest.topic.as_str(), manifest.partition)
            .map_err(|_| Fault::Unusable { what: "topic and partition" })?;
        let log_id = LogId::new(&manifest.log_id);
        if let Some(key) = key {
            agrees_with_key(&manifest, &partition, &log_id, key)?;
        }
        Ok(Self { footer: end.footer, manifest, partition, log_id, blocks, hot, whole, mem_usage })
    }
}

fn hot_of(footer: &Footer, bytes: &[u8]) -> Result<HotCache, Fault> {
    if let Some(member) = footer.hot() {
        member.check(bytes)?;
    }
    Ok(HotCache::parse(bytes, footer)?)
}

/// Checks a member's bytes. Large members are checked on a thread for blocking work.
pub(super) async fn checked(source: &Source, member: &Member, bytes: Bytes) -> Result<Bytes, ArchiveError> {
    let checked = if bytes.len() < LARGE_BYTES {
        member.check(&bytes).map_err(Fault::from)
    } else {
        let (member, data) = (member.clone(), bytes.clone());
        blocking(move || member.check(&data).map_err(Fault::from)).await.and_then(|checked| checked)
    };
    checked.map_err(|fault| source.error(fault))?;
    Ok(bytes)
}

/// Checks that the bundle matches its key. Readers choose bundles by their keys in a LIST.
fn agrees_with_key(
    manifest: &Manifest,
    partition: &TopicPartition,
    log_id: &LogId,
    key: &BundleKey,
) -> Result<(), Fault> {
    let hash = match &manifest.copy {
        None => KeyHash::new(&manifest.segment.sha256, log_id, partition).hash16(),
        Some(copy) => {
            let id = CopyId::new(&copy.id).map_err(|_| Fault::Unusable { what: "copy id" })?;
            KeyHash::of_copy(&id, log_id, partition).hash16()
        }
    };
    let range = manifest.key_range();
    let times = manifest.min_timestamp_ms.zip(manifest.max_timestamp_ms);
    let from_manifest = BundleKey::new(partition.clone(), log_id.clone(), range, times, hash)
        .ok()
        .ok_or(Fault::Unusable { what: "topic, log id, offsets or times" })?;
    let differs = [
        ("topic or partition", from_manifest.partition() != key.partition()),
        ("log id", from_manifest.log_id() != key.log_id()),
        ("offsets", from_manifest.range() != key.range()),
        ("times", from_manifest.times_ms() != key.times_ms()),
        ("segment hash or copy id", from_manifest.hash() != key.hash()),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(Fault::KeyMismatch { what, own_key: from_manifest.to_string() }),
        None => Ok(()),
    }
}
