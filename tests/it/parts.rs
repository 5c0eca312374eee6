//! Parts of a bundle's index, read from a store by range.

use bytes::Bytes;
use wal_indexer::generate::{Size, Spec, generate};
use wal_indexer::internals::archive::{ArchiveError, ArchiveErrorKind, BundleCache, TrafficCounter};
use wal_indexer::internals::bundle::CHUNK_BYTES;
use wal_indexer::store::{KeyPrefix, Listed};

use crate::written::Written;

/// Returns a store with one bundle, large enough for a hot part, and the bundle's object.
async fn one_bundle() -> (Written, Listed, Vec<u8>) {
    let (written, mut source) = (Written::new(), Vec::new());
    generate(&Spec { size: Size::Records(400), ..Spec::default() }, &mut source).expect("in memory");
    written.put("generated", &source.into()).await;
    let listed = written.store().list(&KeyPrefix::all()).await.expect("a listing").remove(0);
    let object = std::fs::read(written.file(&listed.key)).expect("the object");
    (written, listed, object)
}

#[tokio::test]
async fn a_changed_byte_of_an_index_is_an_error_that_names_bundle_and_file() {
    let (written, listed, object) = one_bundle().await;
    // A cache without memory: everything is read from the object.
    let bundle_cache = BundleCache::new(written.store().clone(), 0);
    let archive = bundle_cache.open(&listed, &TrafficCounter::default()).await.expect("a bundle");
    let parts = archive.index_parts();
    let mut tried = 0;
    for (number, (_, member)) in archive.footer().index_files().enumerate() {
        for chunk in (0..member.len).step_by(CHUNK_BYTES as usize) {
            let chunk = chunk..member.len.min(chunk + CHUNK_BYTES);
            if parts.cached(number, chunk.clone()).is_some() {
                continue;
            }
            let sound = parts.read(number, chunk.clone()).await.expect("sound");
            let mut changed = object.clone();
            changed[(member.position + chunk.end - 1) as usize] ^= 0x20;
            std::fs::write(written.file(&listed.key), changed).expect("written");
            let error = parts.read(number, chunk.clone()).await.expect_err("changed");
            let error = error.get_ref().and_then(|error| error.downcast_ref::<ArchiveError>());
            let error = error.expect("an archive's error");
            assert_eq!((error.bundle(), error.kind()), (&*listed.key.to_string(), ArchiveErrorKind::Corrupt));
            assert!(error.to_string().contains(&member.name), "{error}");
            std::fs::write(written.file(&listed.key), &object).expect("written");
            assert_eq!(parts.read(number, chunk).await.expect("sound again"), sound);
            tried += 1;
        }
    }
    assert!(tried > 10, "{tried}");
}

#[tokio::test]
async fn an_object_that_is_cut_or_gone_is_an_error_for_those_who_have_opened_it() {
    let (written, listed, object) = one_bundle().await;
    let bundle_cache = BundleCache::new(written.store().clone(), 0);
    let archive = bundle_cache.open(&listed, &TrafficCounter::default()).await.expect("a bundle");
    let parts = archive.index_parts();
    let files: Vec<_> = parts.files().into_iter().map(|(_, len)| len).enumerate().collect();
    let (file, len) = files.into_iter().max_by_key(|(_, len)| *len).expect("a file");
    let kind = async || {
        let error = parts.read(file, 0..len).await.expect_err("not all of it is there");
        let error = error.get_ref().and_then(|error| error.downcast_ref::<ArchiveError>());
        let error = error.expect("an archive's error");
        assert_eq!(error.bundle(), listed.key.to_string());
        error.kind()
    };
    std::fs::write(written.file(&listed.key), &object[..1_000]).expect("written");
    assert_eq!(kind().await, ArchiveErrorKind::Corrupt);
    std::fs::remove_file(written.file(&listed.key)).expect("removed");
    assert_eq!(kind().await, ArchiveErrorKind::NotFound);
}

/// Returns the index files as `tar` unpacks them.
fn unpacked(object: &[u8]) -> Vec<Bytes> {
    let mut tar = tar::Archive::new(object);
    let mut files = Vec::new();
    for entry in tar.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        if entry.path().expect("a name").starts_with("index") {
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut data).expect("data");
            files.push(data.into());
        }
    }
    files
}

#[tokio::test]
async fn what_is_kept_is_what_the_object_holds() {
    let (written, listed, object) = one_bundle().await;
    let bundle_cache = BundleCache::new(written.store().clone(), 16 << 20);
    let files = unpacked(&object);
    for requests in [2, 0] {
        let counter = TrafficCounter::default();
        let archive = bundle_cache.open(&listed, &counter).await.expect("a bundle");
        let ranges = files.iter().map(|file| 0..file.len() as u64).enumerate().collect();
        let read = archive.index_parts().read_many(ranges).await.expect("checked");
        assert!(read == files);
        assert_eq!(counter.total().requests, requests);
    }
}
