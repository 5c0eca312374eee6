//! Whether an object that has a bundle's key may stand for the bundle that was to be stored under it.

use sha2::{Digest, Sha256};

use super::error::{ArchiveErrorKind, Fault};
use super::full_scan::{ScanVisitor, full_scan};
use super::source::{Source, blocking};
use crate::bundle::{BlockEntry, Blocks, Manifest, OpenedBlock};
use crate::store::{Existing, Refused};

/// Whether `existing` holds what a bundle with the manifest `built` and these `blocks` would: the same frames of the same segment,
/// whole. Names that callers give, settings, versions, and so the index may differ: the first object wins.
///
/// Reads the object from end to end, in bounded memory (some 10 MiB beside its largest block), and checks every member, every byte
/// of the tar, every count, and the blocks' bytes: where the segment has one partition only, their hash must be the segment's; else
/// they must be those of `blocks`, from the same places. Returns where its footer starts.
pub async fn check_existing(existing: Existing, built: &Manifest, blocks: &Blocks) -> Result<u64, Refused> {
    let source = Source::existing(existing);
    let (verified, found) = full_scan(&source, SourceHash::default(), async |_| {}).await.map_err(refused)?;
    let foreign = |reason: String| Refused::Foreign { reason };
    if let Some(what) = difference(&verified.manifest, built) {
        return Err(foreign(format!("its manifest says otherwise of the {what}")));
    }
    let found = found.finish();
    if built.segment.partitions == 1 {
        if found.bytes != built.segment.sha256 {
            return Err(foreign("its blocks hold other bytes than the segment".to_owned()));
        }
        return Ok(verified.footer.footer_offset());
    }
    let blocks = blocks.clone();
    let own = blocking(move || hash_of(&blocks)).await.and_then(|own| own);
    if found != own.map_err(|fault| refused(source.error(fault)))? {
        return Err(foreign("its blocks hold other bytes of the segment".to_owned()));
    }
    Ok(verified.footer.footer_offset())
}

fn hash_of(blocks: &Blocks) -> Result<Hashed, Fault> {
    let mut hash = SourceHash::default();
    for (entry, data) in blocks.entries().iter().zip(blocks.data()) {
        hash.add(entry, &entry.open(data)?);
    }
    Ok(hash.finish())
}

fn refused(error: super::ArchiveError) -> Refused {
    match (error.kind(), error.fault()) {
        // Out of reach, or changed under the reader's hands: no judgement.
        (
            ArchiveErrorKind::Unavailable | ArchiveErrorKind::Denied | ArchiveErrorKind::NotFound,
            Fault::Store(store),
        ) => Refused::Unread(store.clone()),
        _ => Refused::Foreign { reason: error.fault().to_string() },
    }
}

/// What the manifest says otherwise than the one that was built.
fn difference(found: &Manifest, built: &Manifest) -> Option<&'static str> {
    let (segment, built_segment) = (&found.segment, &built.segment);
    let offsets = |manifest: &Manifest| (manifest.base_offset, manifest.last_offset);
    let times = |manifest: &Manifest| (manifest.min_timestamp_ms, manifest.max_timestamp_ms);
    let same = [
        ("topic", found.topic == built.topic),
        ("partition", found.partition == built.partition),
        ("log id", found.log_id == built.log_id),
        ("segment's format", segment.format == built_segment.format),
        ("segment's sha256", segment.sha256 == built_segment.sha256),
        ("segment's crc32c", segment.crc32c == built_segment.crc32c),
        ("segment's size", segment.size_bytes == built_segment.size_bytes),
        ("segment's torn bytes", segment.torn_tail_bytes == built_segment.torn_tail_bytes),
        ("segment's number of partitions", segment.partitions == built_segment.partitions),
        ("offsets", offsets(found) == offsets(built)),
        ("times", times(found) == times(built)),
        ("gaps", found.gaps == built.gaps),
        ("records", found.record_count == built.record_count),
        ("control records", found.control_record_count == built.control_record_count),
        ("batches", found.batch_count == built.batch_count),
        ("bytes of the source", found.records.plain_bytes == built.records.plain_bytes),
    ];
    same.into_iter().find_map(|(what, same)| (!same).then_some(what))
}

/// The hash of all blocks in their order, which is the source's where one bundle holds all of it, and of where in the source they
/// come from, however they are cut.
#[derive(Default)]
struct SourceHash {
    bytes: Sha256,
    places: Sha256,
    end: u64,
}

/// What a [`SourceHash`] came to.
#[derive(PartialEq, Eq)]
struct Hashed {
    bytes: [u8; 32],
    places: [u8; 32],
}

impl SourceHash {
    fn add(&mut self, entry: &BlockEntry, plain: &[u8]) {
        self.bytes.update(plain);
        for (position, len) in entry.source_runs() {
            if position != self.end {
                self.places.update(self.end.to_le_bytes());
                self.places.update(position.to_le_bytes());
            }
            self.end = position + u64::from(len);
        }
    }

    fn finish(mut self) -> Hashed {
        self.places.update(self.end.to_le_bytes());
        Hashed { bytes: self.bytes.finalize().into(), places: self.places.finalize().into() }
    }
}

impl ScanVisitor for SourceHash {
    fn block(&mut self, block: OpenedBlock) -> Result<(), Fault> {
        self.add(&block.entry, &block.plain);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
