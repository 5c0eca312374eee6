use super::super::sample::{blocks_of, bundle_with, footer_of, frames, hot_ranges, log_lines};
use super::super::{BlockIndex, Manifest, Member, VerifyError, verify};
use super::*;

/// Index files of all lengths that matter. None has a pattern that repeats every 8 KiB.
fn files() -> Vec<(String, Bytes)> {
    let lens = [0, 1, 8_191, 8_192, 8_193, 16_384, 100_000];
    lens.iter().map(|len| (format!("f{len:06}"), log_lines(*len as u64, *len))).collect()
}

/// A sound bundle with a hot cache.
fn large() -> (Bytes, Footer) {
    let (built, object) = bundle_with(files(), vec![blocks_of(&frames(&[300, 200], 3))]);
    let footer = footer_of(&object);
    assert_eq!(footer.hot().map(|hot| hot.len), Some(built.hot_bytes));
    (object, footer)
}

fn member(object: &Bytes, footer: &Footer) -> Bytes {
    footer.hot().and_then(|hot| hot.within(0, object)).expect("a hot cache")
}

fn opened(member: &[u8]) -> Vec<u8> {
    open(member).expect("it opens")
}

#[test]
fn the_hot_part_has_these_bytes() {
    let index = [("a".to_owned(), Bytes::from_static(b"0123456789"))];
    let hot = HotCache::new(Bytes::from_static(b"{}\n"), &index, &[vec![1..3, 7..10]]);
    #[rustfmt::skip]
    let expected = [
        b'W', b'I', b'B', b'U', b'N', b'H', b'O', b'T',         // magic
        1, 0, 0, 0,                                             // its version
        3, 0, 0, 0,                                             // length of the manifest
        b'{', b'}', b'\n',
        1, 0, 0, 0,                                             // one file
        10, 0, 0, 0, 0, 0, 0, 0,                                // its length
        2, 0, 0, 0,                                             // two ranges of it
        1, 2,                                                   // from byte 1, two bytes
        4, 3,                                                   // four bytes later, three
        0x9e, 0x06, 0x0c, 0x28,                                 // CRC-32C of its one chunk
        b'1', b'2', b'7', b'8', b'9',                           // the ranges
    ];
    assert_eq!(hot.encode_opened(), expected);
    assert_eq!(opened(&hot.encode().expect("a frame")), expected);
}

#[test]
fn what_was_written_is_at_hand_or_can_be_checked() {
    let (object, footer) = large();
    let hot = HotCache::parse(&member(&object, &footer), &footer).expect("sound");
    let manifest = footer.manifest().within(0, &object).expect("within");
    assert_eq!(*hot.manifest(), manifest);
    let ranges = hot_ranges(&files()).expect("ranges");
    for (number, ((_, bytes), ranges)) in files().iter().zip(&ranges).enumerate() {
        let slice = |range: &Range<u64>| bytes.slice(range.start as usize..range.end as usize);
        for range in ranges {
            assert_eq!(hot.cached(number, range), Some(slice(range)));
            let inner = range.start + 1..range.end;
            assert_eq!(hot.cached(number, &inner), Some(slice(&inner)));
            assert_eq!(hot.cached(number, &(range.start..range.end + 1)), None);
            assert!(range.start == 0 || hot.cached(number, &(range.start - 1..range.end)).is_none());
        }
        for (chunk, bytes) in bytes.chunks(8_192).enumerate() {
            hot.check_chunk(&footer, number, chunk as u64, bytes).expect("as written");
            let mut changed = bytes.to_vec();
            changed[0] ^= 1;
            let error = hot.check_chunk(&footer, number, chunk as u64, &changed).expect_err("changed");
            let at = footer.index_file(number).expect("a file").position + 8_192 * chunk as u64;
            assert!(matches!(error, HotCacheError::Chunk { position, .. } if position == at), "{error}");
        }
        let behind = bytes.len().div_ceil(8_192) as u64;
        assert!(hot.check_chunk(&footer, number, behind, b"").is_err(), "there is no such chunk");
    }
    assert_eq!(hot.cached(1_000, &(0..1)), None);
}

#[test]
fn objects_of_64_kib_have_none_and_larger_ones_do() {
    let frames = frames(&[100], 1);
    let bundle = |len: usize| {
        let (built, object) = bundle_with(vec![("a".into(), vec![7; len].into())], vec![blocks_of(&frames)]);
        verify(&object).expect("sound");
        (built.hot_bytes, object.len() as u64)
    };
    let beside = bundle(0).1;
    let fits = (65_536 - beside) as usize;
    assert_eq!(bundle(fits), (0, 65_536));
    let (hot_bytes, size) = bundle(fits + 1);
    assert!(hot_bytes > 0 && size > 65_536 + 512, "{hot_bytes}, {size}");
}

#[test]
fn every_byte_of_it_counts() {
    let (object, footer) = large();
    let sound = member(&object, &footer);
    let place = footer.hot().expect("a hot cache").position as usize;
    for at in 0..sound.len() {
        let mut flipped = object.to_vec();
        flipped[place + at] ^= 0x10;
        let error = verify(&flipped.into()).expect_err("changed");
        assert!(matches!(error, VerifyError::Member(MemberError::Checksum { .. })), "byte {at}: {error}");
    }
    // The same with all checksums right: the contents are compared with the members.
    for at in 0..opened(&sound).len() {
        let mut flipped = opened(&sound);
        flipped[at] ^= 0x10;
        let (object, _) = with_hot(&object, &footer, &flipped);
        let error = verify(&object).err();
        assert!(matches!(error, Some(VerifyError::HotCache(_))), "byte {at} of it opened: {error:?}");
    }
}

/// The bundle with another hot cache and all checksums right.
fn with_hot(object: &Bytes, footer: &Footer, opened: &[u8]) -> (Bytes, Footer) {
    let hot = zstd::bulk::compress(opened, LEVEL).expect("a frame");
    with_hot_member(object, footer, &hot)
}

fn with_hot_member(object: &Bytes, footer: &Footer, hot: &[u8]) -> (Bytes, Footer) {
    let mut parts: Vec<_> = footer
        .members()
        .iter()
        .map(|member| (member.name.clone(), member.within(0, object).expect("within").to_vec()))
        .collect();
    let place = parts.len() - 2;
    parts[place].1 = hot.to_vec();
    let object = super::super::sample::forge(footer.version(), &parts);
    let footer = footer_of(&object);
    (object, footer)
}

#[test]
fn a_hot_part_that_cannot_be_is_refused_though_all_checksums_fit() {
    let (object, footer) = large();
    let sound = opened(&member(&object, &footer));
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = sound.clone();
        change(&mut changed);
        let (object, footer) = with_hot(&object, &footer, &changed);
        let error = HotCache::parse(&member(&object, &footer), &footer).expect_err("refused");
        assert_eq!(verify(&object).expect_err("refused").to_string(), error.to_string());
        error
    };
    let manifest = footer.manifest().len as usize;
    // After the head, the manifest and the number of files come an empty file, one of 1 byte and one of 8,191
    // bytes.
    let (empty, one) = (16 + manifest + 4, 16 + manifest + 4 + 12);
    let long = one + 12 + 2 + 4 + 1;
    let check = |what: &str, change: &dyn Fn(&mut Vec<u8>)| match refused(change) {
        HotCacheError::Malformed(malformed) => assert_eq!(malformed.what, what),
        error => panic!("{what}: {error}"),
    };
    assert!(matches!(refused(&|hot| hot[0] = b'w'), HotCacheError::Absent));
    assert!(matches!(refused(&|hot| hot.clear()), HotCacheError::Absent));
    let newer = refused(&|hot| hot[8] = 2);
    assert_eq!(newer.kind(), Kind::Unsupported);
    assert_eq!(newer.to_string(), "hot.zst version 2 is newer than this build reads (1)");
    check("there is no version 0", &|hot| hot[8] = 0);
    assert!(matches!(refused(&|hot| hot[20] ^= 1), HotCacheError::Manifest(MemberError::Checksum { .. })));
    assert!(matches!(refused(&|hot| hot[12] ^= 1), HotCacheError::Manifest(MemberError::Length { .. })));
    check("a field runs past the end", &|hot| hot[12..16].fill(0xff));
    check("it does not have the footer's number of files", &|hot| hot[16 + manifest] -= 1);
    check("a file's length is not the footer's", &|hot| hot[empty] = 1);
    check("a range runs past its file's end", &|hot| {
        hot[empty + 8] = 1;
        hot.splice(empty + 12..empty + 12, [0, 1]);
    });
    check("the number of ranges is too large for the bytes", &|hot| hot[one + 8..one + 12].fill(0xff));
    check("a range is empty or touches the one before it", &|hot| hot[long + 13] = 0);
    check("a range is empty or touches the one before it", &|hot| hot[long + 14] = 0);
    check("a range runs past its file's end", &|hot| hot[long + 13] = 0xff);
    check("a field runs past the end", &|hot| hot.truncate(hot.len() - 1));
    check("bytes follow the last file", &|hot| hot.push(0));
}

#[test]
fn what_is_no_frame_or_claims_too_much_does_not_open() {
    let (object, footer) = large();
    let refused = |member: &[u8], reason: &str| {
        let error = HotCache::parse(member, &footer).expect_err(reason);
        assert!(
            matches!(&error, HotCacheError::Opening { reason: found } if found.contains(reason)),
            "{error}"
        );
        let (object, _) = with_hot_member(&object, &footer, member);
        assert_eq!(verify(&object).expect_err(reason).kind(), Kind::Corrupt);
    };
    refused(b"", "not a zstd frame");
    refused(b"WIBUNHOT", "not a zstd frame");
    let sound = member(&object, &footer);
    refused(&sound[..sound.len() - 1], "");
    // Four bytes of content size: 28 b5 2f fd, a0, then the size.
    let claim = |size: u32| [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &size.to_le_bytes(), &[1, 0, 0]].concat();
    refused(&claim(12 * 32_768 + 1), "an impossible size");
    refused(&claim(12 * 32_768), "");
    refused(&claim(u32::MAX), "an impossible size");
}

#[test]
fn a_bundle_that_should_have_one_and_has_none_is_refused_and_the_reverse() {
    let (object, footer) = large();
    let parts = |footer: &Footer, object: &Bytes| -> Vec<(String, Vec<u8>)> {
        let part =
            |member: &Member| (member.name.clone(), member.within(0, object).expect("within").to_vec());
        footer.members().iter().map(part).collect()
    };
    let mut without = parts(&footer, &object);
    let hot = without.remove(without.len() - 2);
    let what = "hot.zst is missing, or is there and must not be";
    let refused = |version: u32, parts: &[(String, Vec<u8>)]| {
        let object = super::super::sample::forge(version, parts);
        let error = Footer::open(&object, object.len() as u64).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(2, &without);
    let (_, small) = bundle_with(vec![], vec![blocks_of(&frames(&[100], 1))]);
    let mut with = parts(&footer_of(&small), &small);
    with.insert(with.len() - 1, hot.clone());
    refused(2, &with);
    refused(1, &parts(&footer, &object));
}

#[test]
fn a_version_that_the_manifest_and_the_footer_do_not_agree_on_is_refused() {
    let (_, object) = bundle_with(vec![], vec![blocks_of(&frames(&[100], 1))]);
    let footer = footer_of(&object);
    let part = |member: &Member| (member.name.clone(), member.within(0, &object).expect("within").to_vec());
    let parts: Vec<_> = footer.members().iter().map(part).collect();
    verify(&super::super::sample::forge(2, &parts)).expect("nothing changed");
    let error = verify(&super::super::sample::forge(1, &parts)).expect_err("it says 2");
    assert_eq!(error.to_string(), "manifest: format_version is not the footer's");
    let manifest = Manifest::parse(&parts[0].1).expect("a manifest");
    assert!(BlockIndex::parse(&parts[2].1.clone().into()).is_ok() && manifest.is_of_version(2).is_ok());
}
