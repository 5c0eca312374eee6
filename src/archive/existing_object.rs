//! The existing-object check: whether an object that has the key of a new bundle can stand for that bundle.

use sha2::{Digest, Sha256};

use super::error::{ArchiveErrorKind, Fault};
use super::full_scan::{ScanVisitor, full_scan};
use super::source::{Source, blocking};
use crate::bundle::{BlockEntry, Blocks, Manifest, OpenedBlock};
use crate::store::{Existing, Refused};

/// Checks whether `existing` can stand for a bundle with the manifest `built` and these `blocks`: it must
/// hold the same frames of the same segment, complete. Names that callers give, settings, versions and so the
/// index may differ: the first object wins.
///
/// It reads the whole object in bounded memory (some 10 MiB, and the largest block). It checks every member,
/// every byte of the tar, every count, and the bytes in the blocks. If the segment has only one partition,
/// the hash of these bytes must be the segment's. If not, the bytes must be those of `blocks`, from the same
/// positions in the source. Returns where the footer of the object starts.
pub async fn check_existing(existing: Existing, built: &Manifest, blocks: &Blocks) -> Result<u64, Refused> {
    let source = Source::existing(existing);
    let (verified, found) = full_scan(&source, SourceHash::default(), async |_| {}).await.map_err(refused)?;
    let foreign = |reason: String| Refused::Foreign { reason };
    if let Some(what) = difference(&verified.manifest, built) {
        return Err(foreign(format!("its manifest differs in the {what}")));
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
        // The object cannot be reached, or it changed during the read: the check has no result.
        (
            ArchiveErrorKind::Unavailable | ArchiveErrorKind::Denied | ArchiveErrorKind::NotFound,
            Fault::Store(store),
        ) => Refused::Unread(store.clone()),
        _ => Refused::Foreign { reason: error.fault().to_string() },
    }
}

/// Returns the first fact that differs between the two manifests.
fn difference(found: &Manifest, built: &Manifest) -> Option<&'static str> {
    let (segment, built_segment) = (&found.segment, &built.segment);
    let offsets = |manifest: &Manifest| (manifest.base_offset, manifest.last_offset);
    let times = |manifest: &Manifest| (manifest.min_timestamp_ms, manifest.max_timestamp_ms);
    let copy_of =
        |manifest: &Manifest| manifest.copy.as_ref().map(|copy| (copy.id.clone(), copy.base_offset));
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
        ("copy id", copy_of(found) == copy_of(built)),
        ("attachments", found.attachments() == built.attachments()),
        ("bytes of the source", found.records.plain_bytes == built.records.plain_bytes),
    ];
    same.into_iter().find_map(|(what, same)| (!same).then_some(what))
}

/// Hashes the contents of all blocks in their order, and the positions in the source that they come from. The
/// hashes do not depend on where blocks are cut. If one bundle holds the whole source, the first hash is that
/// of the source.
#[derive(Default)]
struct SourceHash {
    bytes: Sha256,
    places: Sha256,
    end: u64,
}

/// The result of a [`SourceHash`].
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
