//! Tests the readers of bundles. They get any bytes, and then the same bytes with correct checksums, to reach
//! the code after the checksums. What the writer makes of the bytes must be read back byte for byte.
#![no_main]
#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use wal_indexer::internals::bundle::{
    AssembleError, BlockIndex, BlockWriter, FORMAT_VERSION, Footer, FrameFacts, IndexFacts,
    IndexSegmentFacts, Manifest, OpenError, Opened, RecordsFacts, SegmentFacts, TAIL_BYTES, TantivyFacts,
    UndecodedFacts,
    Verified, Verifier, VerifyError, assemble, verify,
};
use wal_indexer::ids::{OffsetRange, SegmentFormat};

fuzz_target!(|data: &[u8]| {
    let object = Bytes::copy_from_slice(data);
    read_parts(&object);
    read_whole(&object);
    read_whole(&forge(&members_of(data)));
    write_and_read(&data[..data.len().min(1_024)]);
    read_hot(&data[..data.len().min(64)]);
});

/// Runs every reader alone, with bytes that are no bundle.
fn read_parts(bytes: &Bytes) {
    if let Ok(manifest) = Manifest::parse(bytes) {
        let encoded = manifest.encode().expect("what is read can be written");
        assert_eq!(Manifest::parse(&encoded).expect("what is written can be read"), manifest);
    }
    for bytes in [bytes.clone(), fix_block_index(bytes, &[]).into()] {
        let Ok(index) = BlockIndex::parse(&bytes) else { continue };
        assert_eq!(index.encode(), bytes, "an index has one encoding");
        for entry in index.entries() {
            assert_eq!(
                entry.source_runs().map(|(_, len)| u64::from(len)).sum::<u64>(),
                u64::from(entry.plain_len)
            );
            assert_eq!(entry.source_position_of(0), Some(entry.source_position));
            assert_eq!(entry.source_position_of(entry.plain_len - 1), Some(entry.source_end() - 1));
            assert_eq!(entry.source_position_of(entry.plain_len), None);
            assert!(entry.open(&bytes).is_err(), "an index is no block");
            for ordinal in [entry.first_ordinal, entry.ordinals().end.wrapping_sub(1)] {
                let found = index.by_ordinal(ordinal);
                assert!(entry.records == 0 || found == Some(entry));
            }
            if let Some(range) = entry.offsets {
                assert!(index.by_offsets(range).any(|found| found == entry));
            }
        }
        assert_eq!(index.by_ordinal(index.records()), None);
    }
}

/// Opens an object from its end, from its footer, and as a whole. All results must agree.
fn read_whole(object: &Bytes) {
    let size = object.len() as u64;
    let verified = verify(object);
    let opened = open(object, size.saturating_sub(TAIL_BYTES));
    // The object does not have these sizes.
    for wrong in [size + 1, size + 512, u64::MAX, size.saturating_sub(512)] {
        let _ = Footer::open(object, wrong);
    }
    let footer = match opened {
        Ok(footer) => footer,
        Err(_) => return assert!(verified.is_err()),
    };
    assert_eq!(footer.object_size(), size);
    assert_eq!(open(object, footer.footer_offset()).as_ref(), Ok(&footer));
    assert_eq!(open(object, size).as_ref(), Ok(&footer));
    for member in footer.members() {
        assert!(member.range().end <= size);
        assert!(member.within(0, object).is_some_and(|data| data.len() as u64 == member.len));
    }
    let chunked = verify_in_chunks(object, footer);
    match (verified, chunked) {
        (Ok(verified), Ok((chunked, plain_bytes))) => {
            assert_eq!(verified, chunked);
            assert_eq!(verified.crc32c, crc32c::crc32c(object));
            assert_eq!(verified.manifest.records.plain_bytes, plain_bytes);
            assert_eq!(verified.manifest.record_count, verified.blocks.records());
        }
        (Err(error), Err(chunked)) => assert_eq!(error.to_string(), chunked.to_string()),
        (verified, chunked) => panic!("{:?} and {:?}", verified.err(), chunked.err()),
    }
}

fn open(object: &Bytes, from: u64) -> Result<Footer, OpenError> {
    let mut from = from;
    for _ in 0..3 {
        match Footer::open(&object[from as usize..], object.len() as u64)? {
            Opened::Footer(footer) => return Ok(footer),
            Opened::NeedFrom(position) => {
                assert!(position < from, "what is asked for is not there yet");
                from = position;
            }
        }
    }
    panic!("the third read was not enough");
}

fn verify_in_chunks(object: &Bytes, footer: Footer) -> Result<(Verified, u64), VerifyError> {
    let index = footer.block_index().within(0, object).expect("within the object");
    let hot = footer.hot().map(|member| member.within(0, object).expect("within the object"));
    let mut verifier = Verifier::new(footer, &index, hot.as_ref())?;
    let (mut rest, mut len, mut plain_bytes) = (object.clone(), 1, 0);
    while !rest.is_empty() {
        let mut chunk = rest.split_to(len.min(rest.len()));
        while let Some(block) = verifier.advance(&mut chunk)? {
            let pieces = block.entry.pieces(&block.plain).map(|(_, piece)| piece.len() as u64).sum::<u64>();
            assert_eq!(pieces, block.plain.len() as u64);
            plain_bytes += pieces;
        }
        len = len % 1_000 * 3 + 1;
    }
    Ok((verifier.finish()?, plain_bytes))
}

/// Finds what looks like members, also if bytes before them were inserted or removed.
fn members_of(data: &[u8]) -> Vec<(String, Vec<u8>)> {
    let headers: Vec<usize> =
        (0..data.len().saturating_sub(512)).filter(|at| data[at + 257..].starts_with(b"ustar")).collect();
    let mut members = Vec::new();
    for (number, at) in headers.iter().enumerate() {
        let name = data[*at..at + 100].split(|byte| *byte == 0).next().unwrap_or_default();
        let digits = data[at + 124..at + 135].iter().filter(|digit| matches!(digit, b'0'..=b'7'));
        let len = digits.fold(0usize, |len, digit| len << 3 | usize::from(digit - b'0'));
        let end = headers.get(number + 1).map_or(data.len(), |next| *next).max(at + 512);
        let data = &data[at + 512..end];
        if name != b"footer" {
            members.push((String::from_utf8_lossy(name).into_owned(), data[..len.min(data.len())].to_vec()));
        }
    }
    members
}

/// Corrects the index's checksum, and the checksums of the blocks that it places within `records`.
fn fix_block_index(index: &[u8], records: &[u8]) -> Vec<u8> {
    let mut index = index.to_vec();
    let Some(body_len) = index.len().checked_sub(4).filter(|len| *len >= 16) else { return index };
    let (mut at, mut position) = (16, 0usize);
    let u32_at = |index: &[u8], at: usize| {
        u32::from_le_bytes([index[at], index[at + 1], index[at + 2], index[at + 3]]) as usize
    };
    while at + 72 <= body_len && !records.is_empty() {
        let end = position.saturating_add(u32_at(&index, at));
        if let Some(block) = records.get(position..end) {
            index[at + 4..at + 8].copy_from_slice(&crc32c::crc32c(block).to_le_bytes());
        }
        position = end;
        at = at.saturating_add(72).saturating_add(u32_at(&index, at + 68));
    }
    let crc32c = crc32c::crc32c(&index[..body_len]);
    index[body_len..].copy_from_slice(&crc32c.to_le_bytes());
    index
}

/// Makes a bundle of these members, in which the tar format and all checksums are correct. It does not use
/// the library's writer.
fn forge(members: &[(String, Vec<u8>)]) -> Bytes {
    let records = members
        .iter()
        .find(|(name, _)| name == "records.zst")
        .map(|(_, data)| data.clone())
        .unwrap_or_default();
    let (mut object, mut list) = (Vec::new(), (members.len() as u32).to_le_bytes().to_vec());
    for (name, data) in members {
        let data = if name == "records.idx" { fix_block_index(data, &records) } else { data.clone() };
        put_header(&mut object, name, data.len());
        list.extend((name.len() as u16).to_le_bytes());
        list.extend(name.as_bytes());
        list.extend((object.len() as u64).to_le_bytes());
        list.extend((data.len() as u64).to_le_bytes());
        list.extend(crc32c::crc32c(&data).to_le_bytes());
        object.extend(data);
        object.resize(object.len().next_multiple_of(512), 0);
    }
    let footer_len = (list.len() + 32).next_multiple_of(512);
    put_header(&mut object, "footer", footer_len);
    let size = object.len() + footer_len + 1_024;
    object.resize(size - 1_024 - 32 - list.len(), 0);
    // Only the first version allows large objects without a hot part.
    let hot = members.iter().any(|(name, _)| name == "hot.zst");
    let version: u32 = if hot || size as u64 <= TAIL_BYTES { FORMAT_VERSION } else { 1 };
    let mut trailer = b"WIBUNDLE".to_vec();
    trailer.extend(version.to_le_bytes());
    trailer.extend((list.len() as u32).to_le_bytes());
    trailer.extend((size as u64).to_le_bytes());
    trailer.extend(crc32c::crc32c(&list).to_le_bytes());
    trailer.extend(crc32c::crc32c(&trailer).to_le_bytes());
    object.extend(list);
    object.extend(trailer);
    object.resize(size, 0);
    object.into()
}

fn put_header(object: &mut Vec<u8>, name: &str, len: usize) {
    let mut header = [0; 512];
    let name = &name.as_bytes()[..name.len().min(100)];
    header[..name.len()].copy_from_slice(name);
    header[100..124].copy_from_slice(b"0000644\x000000000\x000000000\0");
    header[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..157].copy_from_slice(b"        0");
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
    object.extend(header);
}

/// Reads a large bundle whose hot part is changed by `data`, with correct checksums. The members have other
/// contents, so the reader must refuse it.
fn read_hot(data: &[u8]) {
    static SOUND: LazyLock<Vec<(String, Vec<u8>)>> =
        LazyLock::new(|| members_of(include_bytes!("../../tests/fixtures/bundle/version-2-hot.tar")));
    let mut members = SOUND.clone();
    let (_, hot) = members.iter_mut().find(|(name, _)| name == "hot.zst").expect("a hot part");
    let sound = zstd::stream::decode_all(&hot[..]).expect("a zstd frame");
    let mut changed = sound.clone();
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % changed.len();
        changed[at] ^= change[2];
    }
    *hot = zstd::bulk::compress(&changed, 1).expect("in memory");
    let read = verify(&forge(&members));
    assert_eq!(read.is_ok(), changed == sound, "{:?}", read.err());
}

/// Returns ranges of 700 bytes in each file, with gaps of 700 bytes between them.
fn hot_ranges(files: &[(String, Bytes)]) -> Vec<Vec<Range<u64>>> {
    let starts = |len: usize| (0..len as u64).step_by(1_400);
    let ranges = |len: usize| starts(len).map(|at| at..(at + 700).min(len as u64)).collect();
    files.iter().map(|(_, bytes)| ranges(bytes.len())).collect()
}

/// Cuts the bytes into frames, packs them, and reads them back.
fn write_and_read(data: &[u8]) {
    let Some((torn, mut rest)) = data.split_first() else { return };
    let mut writer = BlockWriter::new().expect("a context");
    let mut slices = Vec::new();
    let (mut position, mut records, mut frames, mut source) = (0u64, 0, 0u64, Vec::new());
    let (mut offsets, mut times): (Option<OffsetRange>, Option<(i64, i64)>) = (None, None);
    while let Some((first, behind)) = rest.split_first() {
        // A frame of the next bytes. Some frames are repeated so that blocks fill, some follow a gap, and
        // some end a slice.
        let (piece, behind) = behind.split_at(usize::from(first >> 2).min(behind.len()));
        rest = behind;
        if piece.is_empty() {
            continue;
        }
        let repeats = if piece[0] > 200 && position < 3 << 19 { 1_000 } else { 1 };
        let bytes = Bytes::from(piece.repeat(repeats));
        position += u64::from(first & 1) * u64::from(piece[0]);
        let offset = i64::from(piece[0]) - 100;
        let range = OffsetRange::new(offset, offset + i64::from(*first)).expect("ascending");
        let data_records = u64::from(piece[0] % 5);
        let time = (data_records > 0 && piece[0] % 3 > 0).then_some(offset);
        let facts = FrameFacts {
            range: Some(range),
            min_timestamp_ms: time,
            max_timestamp_ms: time.map(|time| time + 1),
            data_records,
            ..FrameFacts::default()
        };
        writer.add(position, &bytes, facts).expect("a frame in order");
        offsets = Some(offsets.map_or(range, |before| before.cover(&range)));
        if let Some(time) = time {
            times = Some(times.map_or((time, time + 1), |(min, max)| (min.min(time), max.max(time + 1))));
        }
        source.resize(position as usize, 0);
        source.extend_from_slice(&bytes);
        (position, records, frames) = (position + bytes.len() as u64, records + data_records, frames + 1);
        if first % 16 == 3 {
            let next = BlockWriter::new().expect("a context");
            slices.push(std::mem::replace(&mut writer, next).finish().expect("blocks"));
        }
    }
    let torn_tail = if torn & 1 == 0 { &[][..] } else { data };
    if !torn_tail.is_empty() {
        let bytes = Bytes::copy_from_slice(torn_tail);
        writer.add(position, &bytes, FrameFacts::torn_tail()).expect("a torn tail");
        source.resize(position as usize, 0);
        source.extend_from_slice(&bytes);
        position += torn_tail.len() as u64;
    }
    slices.push(writer.finish().expect("blocks"));
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        created_by: Manifest::this_build(),
        tantivy: TantivyFacts { version: String::new(), dictionary: String::new() },
        topic: "fuzz".into(),
        partition: 0,
        log_id: "0".into(),
        base_offset: offsets.map_or(0, |offsets| offsets.first()),
        last_offset: offsets.map_or(0, |offsets| offsets.last()),
        record_count: records,
        control_record_count: 0,
        batch_count: frames,
        min_timestamp_ms: times.map(|times| times.0),
        max_timestamp_ms: times.map(|times| times.1),
        gaps: Vec::new(),
        anomalies: BTreeMap::new(),
        undecoded: UndecodedFacts::default(),
        transactions: None,
        copy: None,
        segment: SegmentFacts {
            id: String::from_utf8_lossy(&data[..data.len().min(40)]).into(),
            format: SegmentFormat::KafkaLog,
            size_bytes: position,
            crc32c: 0,
            sha256: [0; 32],
            torn_tail_bytes: torn_tail.len() as u64,
            partitions: 2,
        },
        index: IndexFacts {
            segments: vec![IndexSegmentFacts { name: "a".into(), documents: records }],
            ..IndexFacts::default()
        },
        records: RecordsFacts::of(&slices),
    };
    // Every second bundle has a hot part.
    let repeats = if torn & 2 == 0 { 1 } else { 70_000 / data.len() + 1 };
    let files = vec![("a.idx".to_owned(), Bytes::from(data.repeat(repeats)))];
    let built = assemble(&manifest, files, slices, |files| Ok::<_, AssembleError>(hot_ranges(files)))
        .expect("a bundle");
    let object: Bytes = built.parts.concat().into();
    assert_eq!(built.crc32c, crc32c::crc32c(&object));
    let verified = verify(&object).expect("what is written can be read");
    assert_eq!(verified.manifest, manifest);
    let mut restored = vec![0; source.len()];
    for entry in verified.blocks.entries() {
        let range = verified.footer.block_range(entry).expect("within records.zst");
        let plain = entry.open(&object[range.start as usize..range.end as usize]).expect("it opens");
        for (at, piece) in entry.pieces(&plain) {
            restored[at as usize..][..piece.len()].copy_from_slice(&piece);
        }
    }
    assert!(restored == source, "not what went in");
}
