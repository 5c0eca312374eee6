//! Whether an object that has a bundle's key may stand for the bundle that was to be stored under it.

use sha2::{Digest, Sha256};

use super::error::{ArchiveErrorKind, Fault};
use super::source::Source;
use super::walk::{Visit, walk};
use crate::bundle::{Manifest, OpenedBlock};
use crate::store::{Existing, Refused};

/// Whether `existing` holds what a bundle with the manifest `built` would: the same frames of the same segment, whole. Names that
/// callers give, settings, versions, and so the index may differ: the first object wins.
///
/// Reads the object from end to end, in bounded memory (some 10 MiB beside its largest block), and checks every member, every byte
/// of the tar, every count, and the source's hash: that of the bytes themselves where the segment has one partition only, else that
/// in the manifest. Returns where its footer starts.
pub async fn judge(existing: Existing, built: &Manifest) -> Result<u64, Refused> {
    let source = Source::existing(existing);
    let (verified, hash) = walk(&source, SourceHash::default(), |_| {}).await.map_err(refused)?;
    let foreign = |reason: String| Refused::Foreign { reason };
    if let Some(what) = difference(&verified.manifest, built) {
        return Err(foreign(format!("its manifest says otherwise of the {what}")));
    }
    if built.segment.partitions == 1 && <[u8; 32]>::from(hash.0.finalize()) != built.segment.sha256 {
        return Err(foreign("its blocks hold other bytes than the segment".to_owned()));
    }
    Ok(verified.footer.footer_offset())
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

/// The hash of all blocks in their order, which is the source's where one bundle holds all of it.
#[derive(Default)]
struct SourceHash(Sha256);

impl Visit for SourceHash {
    fn block(&mut self, block: OpenedBlock) -> Result<(), Fault> {
        self.0.update(&block.plain);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
