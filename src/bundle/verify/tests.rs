use super::super::sample::{
    blocks_of, bundle_of, footer_of, forge, frames, hot_ranges, index_files, log_lines, manifest_of,
    two_slices,
};
use super::super::{BLOCK_PLAIN_BYTES, BlockWriter, Built, FrameFacts, IndexSegmentFacts, assemble};
use super::*;

fn small() -> Bytes {
    bundle_of(two_slices(&[300, 200, 10, 400, 20], 3, 2)).1
}

#[test]
fn every_byte_of_a_bundle_counts() {
    let object = small();
    verify(&object).expect("sound");
    for at in 0..object.len() {
        for mask in [0x01, 0x80] {
            let mut flipped = object.to_vec();
            flipped[at] ^= mask;
            let error = verify(&flipped.into()).err();
            assert!(error.is_some(), "byte {at} of {} can be changed by {mask:#x} unseen", object.len());
        }
    }
}

#[test]
fn a_bundle_cut_anywhere_or_extended_is_none() {
    let object = small();
    for len in 0..object.len() {
        let cut = object.slice(..len);
        assert!(verify(&cut).is_err(), "cut to {len} of {}", object.len());
    }
    for zeros in [1, 512, 1_024, 10_240] {
        let extended = [&object[..], &vec![0; zeros]].concat();
        assert!(verify(&extended.into()).is_err(), "{zeros} zeros more");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let object = small();
    let footer = footer_of(&object);
    let flipped_at = |at: u64| {
        let mut flipped = object.to_vec();
        flipped[at as usize] ^= 0x55;
        verify(&flipped.into()).expect_err("flipped")
    };
    let member =
        |name: &str| footer.members().iter().find(|member| member.name == name).expect("a member").clone();
    let frame_at = |at| match flipped_at(at) {
        VerifyError::Frame { position, expected, found } => {
            assert_eq!((position, expected ^ 0x55), (at, found));
        }
        error => panic!("{error}"),
    };
    frame_at(0);
    frame_at(511);
    frame_at(member("manifest.json").range().end);
    frame_at(member("records.zst").position - 1);
    frame_at(footer.footer_offset() - 1);
    for name in ["manifest.json", "index/0a.term", "records.idx"] {
        match flipped_at(member(name).range().end - 1) {
            VerifyError::Member(MemberError::Checksum { name: named, position, .. }) => {
                assert_eq!((named.as_str(), position), (name, member(name).position));
            }
            error => panic!("{error}"),
        }
    }
    let block = flipped_at(member("records.zst").position + 20);
    assert!(matches!(block, VerifyError::Block(BlockError::Checksum { position: 0, .. })), "{block}");
    let end = flipped_at(object.len() as u64 - 1);
    assert!(matches!(end, VerifyError::Open(OpenError::Malformed(_))), "{end}");
}

#[test]
fn chunks_of_any_size_are_verified_alike() {
    let (built, object) = bundle_of(vec![blocks_of(&frames(&[3_000, 700, 2_500_000, 10_000], 3))]);
    let footer = footer_of(&object);
    let index = footer.block_index().within(0, &object).expect("it is there");
    let hot = footer.hot().and_then(|member| member.within(0, &object));
    for chunk_len in [1, 511, 512, 4_096, 100_000, object.len()] {
        let mut verifier = Verifier::new(footer.clone(), &index, hot.as_ref()).expect("a sound index");
        let mut plain = Vec::new();
        for chunk in object.chunks(chunk_len) {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while let Some(block) = verifier.advance(&mut chunk).expect("sound") {
                for (position, piece) in block.entry.pieces(&block.plain) {
                    assert_eq!(position, plain.len() as u64);
                    plain.extend_from_slice(&piece);
                }
            }
        }
        assert_eq!(verifier.position(), object.len() as u64);
        let verified = verifier.finish().expect("sound");
        assert_eq!((verified.crc32c, verified.blocks.records()), (built.crc32c, 12));
        assert_eq!(plain.len(), 2_513_700, "the whole segment was read");
    }
}

#[test]
fn bytes_behind_the_end_and_bytes_that_never_came_are_noticed() {
    let object = small();
    let footer = footer_of(&object);
    let index = footer.block_index().within(0, &object).expect("it is there");
    let mut verifier = Verifier::new(footer.clone(), &index, None).expect("a sound index");
    let mut cut = object.slice(..object.len() - 1);
    while verifier.advance(&mut cut).expect("sound so far").is_some() {}
    assert!(matches!(verifier.finish(), Err(VerifyError::Length { .. })));
    let mut verifier = Verifier::new(footer, &index, None).expect("a sound index");
    let mut more = Bytes::from([&object[..], b"!"].concat());
    let error = loop {
        match verifier.advance(&mut more) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the byte behind the end was not noticed"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, VerifyError::Length { given, .. } if given == object.len() as u64 + 1),
        "{error}"
    );
}

/// A bundle with the right checksums, made of parts that `assemble` would refuse.
fn forged(change: impl FnOnce(&mut Vec<(String, Vec<u8>)>)) -> Bytes {
    let object = small();
    let footer = footer_of(&object);
    let mut parts: Vec<_> = footer
        .members()
        .iter()
        .map(|member| (member.name.clone(), member.within(0, &object).expect("it is there").to_vec()))
        .collect();
    change(&mut parts);
    forge(2, &parts)
}

#[test]
fn members_that_contradict_one_another_are_refused_though_all_checksums_fit() {
    verify(&forged(|_| {})).expect("nothing changed");
    let json = |parts: &mut Vec<(String, Vec<u8>)>, from: &str, to: &str| {
        let manifest = String::from_utf8(parts[0].1.clone()).expect("UTF-8");
        assert!(manifest.contains(from), "{from} in {manifest}");
        parts[0].1 = manifest.replace(from, to).into();
    };
    let records = verify(&forged(|parts| json(parts, "\"record_count\":15", "\"record_count\":16")));
    assert!(
        matches!(records, Err(VerifyError::Disagreement(error)) if error.what == "records"),
        "one record more"
    );
    let newer = verify(&forged(|parts| json(parts, "\"format_version\":2", "\"format_version\":4")));
    assert_eq!(newer.expect_err("newer").kind(), Kind::Unsupported);
    let short = verify(&forged(|parts| parts[3].1.truncate(20)));
    let what = "the length of records.zst";
    assert!(matches!(short, Err(VerifyError::Disagreement(error)) if error.what == what), "a byte less");
    let no_index = verify(&forged(|parts| parts[4].1.clear()));
    let no_index = no_index.expect_err("an index of no bytes");
    assert!(matches!(no_index, VerifyError::BlockIndex(BlockIndexError::Absent)));
    assert_eq!(no_index.kind(), Kind::Corrupt, "the bundle is there");
    let no_json = verify(&forged(|parts| parts[0].1.clear()));
    assert!(matches!(no_json, Err(VerifyError::Manifest(ManifestError::Json { .. }))));
}

#[test]
fn bundles_of_every_shape_are_sound() {
    let check = |name: &str, Built { size_bytes, crc32c, footer_offset, .. }: &Built, object: &Bytes| {
        assert_eq!((*size_bytes, *crc32c), (object.len() as u64, crc32c::crc32c(object)), "{name}");
        let verified = verify(object).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((verified.crc32c, verified.footer.footer_offset()), (*crc32c, *footer_offset), "{name}");
        verified
    };
    let bundle = |name: &str, slices| {
        let (built, object) = bundle_of(slices);
        check(name, &built, &object)
    };
    assert_eq!(bundle("nothing at all", vec![]).blocks.entries(), []);
    assert_eq!(bundle("an empty slice", vec![blocks_of(&[])]).blocks.entries(), []);
    let control = bundle("control batches only", vec![blocks_of(&frames(&[70, 70], 0))]);
    assert_eq!((control.manifest.record_count, control.manifest.batch_count), (0, 2));
    assert_eq!(bundle("one record", vec![blocks_of(&frames(&[1], 1))]).manifest.record_count, 1);
    let large = bundle("a frame larger than a block", vec![blocks_of(&frames(&[3 * BLOCK_PLAIN_BYTES], 1))]);
    assert_eq!(large.blocks.entries().len(), 1);
    let slices = frames(&[10; 4], 1).chunks(1).map(blocks_of).collect();
    let slices = bundle("a slice a frame", slices);
    assert_eq!(
        slices.blocks.entries().iter().map(|entry| entry.first_ordinal).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    let mut writer = BlockWriter::new().expect("a context");
    writer.add(0, &log_lines(1, 40), FrameFacts::torn_tail()).expect("the torn tail");
    let torn = bundle("a torn tail only", vec![writer.finish().expect("blocks")]);
    assert_eq!(torn.manifest.segment.torn_tail_bytes, 40);

    let blocks = vec![blocks_of(&frames(&[10], 0))];
    let mut manifest = manifest_of(&blocks);
    manifest.index.segments = Vec::<IndexSegmentFacts>::new();
    let no_index = assemble(&manifest, Vec::new(), blocks, hot_ranges).expect("a bundle");
    check("no index files", &no_index, &no_index.parts.concat().into());
    let blocks = vec![blocks_of(&frames(&[10], 1))];
    let mut files = index_files();
    files.extend((0..3_000).map(|number| (format!("file-{number:089}"), Bytes::new())));
    let many = assemble(&manifest_of(&blocks), files, blocks, hot_ranges).expect("a bundle");
    let object: Bytes = many.parts.concat().into();
    assert!(object.len() as u64 - many.footer_offset > 64 * 1_024, "a footer that needs a second read");
    check("many files, empty ones", &many, &object);
    let tail = &object[object.len() - 64 * 1_024..];
    assert_eq!(Footer::open(tail, object.len() as u64), Ok(Opened::NeedFrom(many.footer_offset)));
}

/// Bundles that earlier builds wrote: name, bytes, format version, last offset.
static OLD: [(&str, &[u8], u32, i64); 4] = [
    ("version-1.tar", include_bytes!("../../../tests/fixtures/bundle/version-1.tar"), 1, 7),
    ("version-2.tar", include_bytes!("../../../tests/fixtures/bundle/version-2.tar"), 2, 7),
    ("version-2-hot.tar", include_bytes!("../../../tests/fixtures/bundle/version-2-hot.tar"), 2, 159),
    ("version-3.tar", include_bytes!("../../../tests/fixtures/bundle/version-3.tar"), 3, 34),
];

#[test]
fn bundles_of_all_versions_are_read_for_ever() {
    for (name, object, version, last_offset) in OLD {
        let object = Bytes::from_static(object);
        let verified = verify(&object).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (manifest, footer) = (&verified.manifest, &verified.footer);
        assert_eq!((manifest.format_version, footer.version()), (version, version), "{name}");
        assert_eq!(footer.hot().is_some(), name == "version-2-hot.tar");
        assert_eq!((manifest.topic.as_str(), manifest.partition), ("orders", 3), "{name}");
        assert_eq!((manifest.last_offset, manifest.log_id.as_str()), (last_offset, "0"), "{name}");
        let mut source = Vec::new();
        for entry in verified.blocks.entries() {
            let range = footer.block_range(entry).expect("within records.zst");
            source.extend(entry.open(&object[range.start as usize..range.end as usize]).expect("it opens"));
        }
        assert_eq!(crc32c::crc32c(&source), manifest.segment.crc32c, "{name}");
        let one_record = &include_bytes!("../../../tests/fixtures/kafka/one-record.log")[..];
        assert!(last_offset != 7 || source == one_record, "{name}");
    }
}

/// The bytes that a command in the page prints: those of a bundle, or the decompressed bytes of its hot
/// cache.
fn printed_by(command: &str) -> Bytes {
    let (_, object, ..) = OLD.iter().find(|(name, ..)| command.contains(name)).expect(command);
    let object = Bytes::from_static(object);
    if !command.contains("hot.zst") {
        return object;
    }
    let hot = footer_of(&object).hot().and_then(|hot| hot.within(0, &object)).expect("a hot cache");
    zstd::stream::decode_all(&hot[..]).expect("a zstd frame").into()
}

#[test]
fn the_format_s_page_shows_bytes_of_the_fixtures() {
    let page = include_str!("../../../docs/bundle-format.md");
    let (mut shown, mut command) = (0, "");
    for line in page.lines().filter_map(|line| line.strip_prefix("    ")) {
        command = line.strip_prefix("$ ").unwrap_or(command);
        // The format of xxd: position, colon, up to eight groups of hexadecimal digits, two spaces, the bytes
        // as text.
        let Some((position, rest)) = line.split_once(": ") else { continue };
        let Ok(position) = usize::from_str_radix(position, 16) else { continue };
        let digits: String = rest.split("  ").next().unwrap_or_default().split(' ').collect();
        let bytes = printed_by(command);
        let found: String =
            bytes[position..position + digits.len() / 2].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(digits, found, "{line}");
        shown += digits.len() / 2;
    }
    assert_eq!(shown, 32 + 64 + 66 + 93 + 64 + 16 + 32 + 40);
}
