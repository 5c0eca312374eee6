use std::num::NonZeroU32;

use futures::future::{join_all, try_join_all};
use url::Url;

use super::super::BundleCache;
use super::super::cached_parts::CacheLookup;
use super::super::source::{Source, Traffic, TrafficCounter};
use super::super::testing::{Packed, pack, put_new, store};
use super::*;
use crate::bundle::CHUNK_BYTES;
use crate::generate::{Size, Spec, generate};
use crate::store::{Listed, Store};

/// A bundle of generated records.
fn packed(records: u64) -> Packed {
    let (mut source, batch_records) = (Vec::new(), NonZeroU32::new(1_500).expect("some"));
    let spec = Spec { size: Size::Records(records), batch_records, ..Spec::default() };
    generate(&spec, &mut source).expect("in memory");
    pack(&source.into(), "").remove(0)
}

async fn open(packed: &Packed, object: &Bytes) -> Archive {
    let store = store();
    put_new(&store, &packed.key, object).await;
    let source = Source::of_key(&store, &packed.key).await.expect("it is there");
    Archive::open(source).await.expect("a bundle")
}

/// The index files, cut out of the object.
fn files_of(archive: &Archive, object: &Bytes) -> Vec<Bytes> {
    let files = archive.footer().index_files();
    files.map(|(_, member)| member.within(0, object).expect("within")).collect()
}

/// The longest index file: its number and its length.
fn longest(archive: &Archive) -> (usize, u64) {
    let lens = archive.footer().index_files().map(|(_, member)| member.len).enumerate();
    lens.max_by_key(|(_, len)| *len).expect("a file")
}

#[tokio::test]
async fn every_range_of_every_file_is_what_was_written() {
    for packed in [packed(20), packed(3_000)] {
        let object = packed.object();
        let archive = open(&packed, &object).await;
        let (parts, files) = (archive.index_parts(), files_of(&archive, &object));
        let lens: Vec<_> = parts.files().into_iter().map(|(_, len)| len).collect();
        assert_eq!(lens, files.iter().map(|file| file.len() as u64).collect::<Vec<_>>());
        let mut all = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let len = file.len() as u64;
            for start in [0, 1, len / 3, len / 2, 8_191, 8_192, 8_193, len.saturating_sub(1), len] {
                for range_len in [0, 1, 10, 8_191, 8_192, 8_193, 20_000, len] {
                    let range = start.min(len)..(start + range_len).min(len);
                    let read = parts.read(number, range.clone()).await.expect("checked");
                    assert!(read == slice(file, &range), "{number}: {range:?}");
                    all.push((number, range));
                }
            }
        }
        let read = parts.read_many(all.clone()).await.expect("checked");
        for ((number, range), read) in all.iter().zip(read) {
            assert!(read == slice(&files[*number], range), "{number}: {range:?}");
        }
    }
}

#[tokio::test]
async fn what_a_file_does_not_have_is_an_error_that_names_bundle_and_file() {
    for packed in [packed(20), packed(3_000)] {
        let archive = open(&packed, &packed.object()).await;
        let parts = archive.index_parts();
        let (file, len) = longest(&archive);
        let reversed = Range { start: 2, end: 1 };
        for (file, range) in [(file, 0..len + 1), (file, len + 1..len + 2), (file, reversed), (1_000, 0..1)] {
            let error = parts.read(file, range.clone()).await.expect_err("there is nothing");
            assert!(parts.cached(file, range).is_none());
            let error = error.get_ref().and_then(|error| error.downcast_ref::<ArchiveError>());
            let error = error.expect("an archive's error");
            assert!(matches!(error.fault(), Fault::Beyond { .. }), "{error}");
            assert_eq!(error.bundle(), packed.key.to_string());
        }
    }
}

#[tokio::test]
async fn a_small_bundle_takes_one_request_for_everything() {
    let packed = packed(20);
    let archive = open(&packed, &packed.object()).await;
    assert!(archive.source().size_bytes() <= 65_536 && archive.footer().hot().is_none());
    let parts = archive.index_parts();
    for (number, (_, len)) in parts.files().into_iter().enumerate() {
        let read = parts.read(number, 0..len).await.expect("checked");
        assert_eq!(parts.cached(number, 0..len), Some(read));
    }
    for entry in archive.blocks().entries() {
        archive.block(entry).await.expect("a block");
    }
    let bytes = archive.source().size_bytes();
    assert_eq!(archive.traffic(), Traffic { requests: 1, bytes });
}

#[tokio::test]
async fn a_large_bundle_is_opened_with_one_request_and_so_is_its_index() {
    let packed = packed(3_000);
    let archive = open(&packed, &packed.object()).await;
    let bytes = 65_536;
    assert_eq!(archive.traffic(), Traffic { requests: 1, bytes }, "of {}", archive.source().size_bytes());
    let files: Vec<_> =
        files_of(&archive, &packed.object()).into_iter().zip(archive.index_parts().files()).collect();
    let named: Vec<_> = files.into_iter().map(|(bytes, (name, _))| (name, bytes)).collect();
    let hot = crate::index::hot_ranges(&named).expect("an index");
    assert!(hot.iter().flatten().count() > named.len());
    let parts = archive.index_parts();
    for (number, range) in hot.iter().enumerate().flat_map(|(n, ranges)| ranges.iter().map(move |r| (n, r))) {
        let read = parts.read(number, range.clone()).await.expect("at hand");
        assert!(read == slice(&named[number].1, range));
        assert_eq!(parts.cached(number, range.clone()), Some(read));
    }
    assert_eq!(archive.traffic(), Traffic { requests: 1, bytes });
}

#[tokio::test]
async fn ranges_that_lie_close_together_come_in_one_request() {
    let packed = packed(3_000);
    let archive = open(&packed, &packed.object()).await;
    let (parts, (file, len)) = (archive.index_parts(), longest(&archive));
    assert!(len > 20 * CHUNK_BYTES, "{len}");
    let near = vec![(file, 3..4), (file, 5 * CHUNK_BYTES + 1..5 * CHUNK_BYTES + 2)];
    parts.read_many(near).await.expect("checked");
    assert_eq!(archive.traffic(), Traffic { requests: 2, bytes: 65_536 + 6 * CHUNK_BYTES });
    let far = vec![(file, 3..4), (file, 12 * CHUNK_BYTES + 1..12 * CHUNK_BYTES + 2)];
    parts.read_many(far).await.expect("checked");
    assert_eq!(archive.traffic(), Traffic { requests: 4, bytes: 65_536 + 8 * CHUNK_BYTES });
}

#[tokio::test]
async fn a_changed_byte_anywhere_in_the_index_is_an_error_that_names_the_bundle_and_the_place() {
    for packed in [packed(20), packed(3_000)] {
        let object = packed.object();
        let sound = open(&packed, &object).await;
        for (number, (name, member)) in sound.footer().index_files().enumerate() {
            let hot = |at: u64| sound.opened().hot.as_ref().and_then(|hot| hot.cached(number, &(at..at + 1)));
            for at in (0..member.len).step_by(9_001).filter(|at| hot(*at).is_none()) {
                let mut flipped = object.to_vec();
                flipped[(member.position + at) as usize] ^= 4;
                let parts = open(&packed, &flipped.into()).await.index_parts();
                let error = parts.read(number, at..at + 1).await.expect_err("changed");
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                let error = error.to_string();
                assert!(error.contains(&packed.key.to_string()) && error.contains(name), "{error}");
                assert!(parts.cached(number, at..at + 1).is_none());
            }
        }
    }
}

/// Stores a bundle in a directory and makes a cache over it. Reads from a directory take a moment.
async fn cached_bundle(packed: &Packed, bytes_max: u64) -> (tempfile::TempDir, BundleCache, Listed) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(&Url::from_directory_path(directory.path()).expect("a url")).expect("a store");
    put_new(&store, &packed.key, &packed.object()).await;
    let listed = store.head(&packed.key).await.expect("it is there");
    (directory, BundleCache::new(store, bytes_max), listed)
}

#[tokio::test]
async fn what_was_read_once_takes_no_request_until_it_is_let_go() {
    let packed = packed(3_000);
    let (directory, bundle_cache, listed) = cached_bundle(&packed, 64 << 20).await;
    let read_all = async |counter: &TrafficCounter| {
        let archive = bundle_cache.open(&listed, counter).await.expect("a bundle");
        let (parts, (file, len)) = (archive.index_parts(), longest(&archive));
        let part = parts.read(file, 100..len / 2).await.expect("checked");
        assert_eq!(parts.cached(file, 100..len / 2), Some(part.clone()));
        let block = archive.block(&archive.blocks().entries()[0]).await.expect("a block");
        (part, block)
    };
    let (first, second) = (TrafficCounter::default(), TrafficCounter::default());
    let read = read_all(&first).await;
    assert_eq!(first.total().requests, 3);
    assert_eq!(read_all(&second).await, read);
    assert_eq!(second.total(), Traffic::default(), "all of it was kept");
    // An object with another size or ETag in the LIST is read again, though its key is the same.
    let other = Listed { size_bytes: listed.size_bytes + 512, ..listed.clone() };
    assert!(bundle_cache.open(&other, &second).await.is_err());
    let other = Listed { e_tag: Some("another".into()), ..listed.clone() };
    bundle_cache.open(&other, &second).await.expect("the same bytes");
    assert!(second.total().requests > 0);
    drop(directory);
}

#[tokio::test]
async fn many_who_ask_at_once_take_one_request_together() {
    let packed = packed(3_000);
    let (directory, bundle_cache, listed) = cached_bundle(&packed, 64 << 20).await;
    let counter = TrafficCounter::default();
    let archives =
        try_join_all((0..20).map(|_| bundle_cache.open(&listed, &counter))).await.expect("opened by one");
    assert_eq!(counter.total().requests, 1);
    let (file, len) = longest(&archives[0]);
    let parts: Vec<_> = archives.iter().map(Archive::index_parts).collect();
    // Each read starts in another chunk, and all overlap.
    let reads = (0..20).map(|nth| parts[nth as usize].read(file, nth * CHUNK_BYTES..len));
    let read = try_join_all(reads).await.expect("checked");
    let sound = packed.object();
    let whole = &files_of(&archives[0], &sound)[file];
    for (nth, read) in (0..).zip(read) {
        assert!(read == slice(whole, &(nth * CHUNK_BYTES..len)), "{nth}");
    }
    assert_eq!(counter.total().requests, 2);
    let entry = archives[0].blocks().entries()[0].clone();
    try_join_all(archives.iter().map(|archive| archive.block(&entry))).await.expect("opened by one");
    assert_eq!(counter.total().requests, 3);
    drop(directory);
}

#[tokio::test]
async fn who_waits_for_a_read_that_fails_or_is_given_up_reads_for_himself() {
    let packed = packed(3_000);
    let (directory, bundle_cache, listed) = cached_bundle(&packed, 64 << 20).await;
    let counter = TrafficCounter::default();
    let archive = bundle_cache.open(&listed, &counter).await.expect("a bundle");
    let (parts, (file, len)) = (archive.index_parts(), longest(&archive));
    let cached = archive.cached().expect("it is cached");
    let CacheLookup::Fill(fill_guard) = cached.look(Part::Chunk { file, chunk: 1 }) else {
        panic!("nobody has read it")
    };
    let mut waiting = parts.read(file, 0..len);
    assert!(futures::poll!(&mut waiting).is_pending());
    let mut another = parts.read(file, 0..len);
    assert!(futures::poll!(&mut another).is_pending());
    drop(fill_guard);
    assert_eq!(waiting.await.expect("read"), another.await.expect("the same"));
    // The object is gone: all callers get the error.
    let (_, bundle_cache, listed) = cached_bundle(&packed, 64 << 20).await;
    let counter = TrafficCounter::default();
    let failed = join_all((0..5).map(|_| bundle_cache.open(&listed, &counter))).await;
    for error in failed {
        assert_eq!(error.expect_err("gone").kind(), ArchiveErrorKind::NotFound);
    }
    drop(directory);
}

#[tokio::test]
async fn nobody_waits_for_ever_for_a_read_that_somebody_has_begun() {
    let packed = packed(3_000);
    let (_directory, bundle_cache, listed) = cached_bundle(&packed, 64 << 20).await;
    let archive = bundle_cache.open(&listed, &TrafficCounter::default()).await.expect("a bundle");
    let (parts, (file, len)) = (archive.index_parts(), longest(&archive));
    let (cached, entry) = (archive.cached().expect("cached"), &archive.blocks().entries()[0]);
    let begun = [
        Part::Chunk { file, chunk: 1 },
        Part::Chunk { file, chunk: 2 },
        Part::Chunk { file, chunk: 5 },
        Part::Block { position: entry.position },
    ]
    .map(|part| cached.look(part));
    parts.read(file, 0..len).await.expect("read all the same");
    archive.block(entry).await.expect("read all the same");
    assert!(begun.iter().all(|looked| matches!(looked, CacheLookup::Fill(_))));
}

#[tokio::test]
async fn no_more_is_kept_than_may_be() {
    let packed = packed(3_000);
    for bytes_max in [0, 10_000, 200_000, 1 << 20] {
        let (directory, bundle_cache, listed) = cached_bundle(&packed, bytes_max).await;
        let counter = TrafficCounter::default();
        let archive = bundle_cache.open(&listed, &counter).await.expect("a bundle");
        let parts = archive.index_parts();
        for (number, (_, len)) in parts.files().into_iter().enumerate() {
            parts.read(number, 0..len).await.expect("checked");
            assert!(bundle_cache.bytes() <= bytes_max, "{} of {bytes_max}", bundle_cache.bytes());
        }
        for entry in archive.blocks().entries() {
            archive.block(entry).await.expect("a block");
            assert!(bundle_cache.bytes() <= bytes_max, "{} of {bytes_max}", bundle_cache.bytes());
        }
        assert!(
            bundle_cache.bytes() >= bytes_max.min(700_000) / 2,
            "{} of {bytes_max}",
            bundle_cache.bytes()
        );
        drop(directory);
    }
}
