//! Bundles for the tests of this module.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::*;
use crate::ids::{OffsetRange, SegmentFormat};

/// One frame of a made-up segment.
#[derive(Clone)]
pub(super) struct SampleFrame {
    pub position: u64,
    pub bytes: Bytes,
    pub facts: FrameFacts,
}

/// Makes the segment's frames, one after the other. Each has records at `base`, `base + 1`, …; the time of a
/// record is the same number as its offset.
pub(super) fn frames(lens: &[usize], records_each: u64) -> Vec<SampleFrame> {
    let mut frames: Vec<SampleFrame> = Vec::new();
    for (number, len) in lens.iter().enumerate() {
        let position = frames.last().map_or(0, |last| last.position + last.bytes.len() as u64);
        let first = (number as u64 * records_each.max(1)) as i64;
        let last = first + records_each.max(1) as i64 - 1;
        let times = records_each > 0;
        let facts = FrameFacts {
            range: OffsetRange::new(first, last),
            min_timestamp_ms: times.then_some(first),
            max_timestamp_ms: times.then_some(last),
            data_records: records_each,
            ..FrameFacts::default()
        };
        frames.push(SampleFrame { position, bytes: log_lines(number as u64, *len), facts });
    }
    frames
}

/// Returns `len` bytes of text like that of logs. Each seed gives another text.
pub(super) fn log_lines(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    while text.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text += &format!("{{\"level\":\"info\",\"user\":{},\"took_us\":{}}}\n", state % 1_000, state >> 44);
    }
    text.truncate(len);
    text.into()
}

/// The blocks of frames, as one slice.
pub(super) fn blocks_of(frames: &[SampleFrame]) -> Blocks {
    let mut writer = BlockWriter::new().expect("a context");
    for frame in frames {
        writer.add(frame.position, &frame.bytes, frame.facts).expect("a frame");
    }
    writer.finish().expect("blocks")
}

/// The blocks of frames, as two slices. The second slice starts with frame number `at`.
pub(super) fn two_slices(lens: &[usize], records_each: u64, at: usize) -> Vec<Blocks> {
    let frames = frames(lens, records_each);
    vec![blocks_of(&frames[..at]), blocks_of(&frames[at..])]
}

/// The manifest of a segment that holds these slices and nothing else.
pub(super) fn manifest_of(slices: &[Blocks]) -> Manifest {
    let records = RecordsFacts::of(slices);
    let entries = || slices.iter().flat_map(Blocks::entries);
    let offsets = entries().filter_map(|entry| entry.offsets).reduce(|a, b| a.cover(&b));
    let times = entries().filter_map(|entry| entry.times).reduce(|a, b| a.cover(&b));
    let record_count = entries().map(|entry| entry.records).sum();
    let torn = entries().filter(|entry| entry.is_torn_tail()).map(|entry| u64::from(entry.plain_len)).sum();
    Manifest {
        format_version: 2,
        created_by: Manifest::this_build(),
        tantivy: TantivyFacts { version: "0.27.0".into(), dictionary: "sstable".into() },
        topic: "orders".into(),
        partition: 3,
        log_id: "0".into(),
        base_offset: offsets.map_or(0, |offsets| offsets.first()),
        last_offset: offsets.map_or(0, |offsets| offsets.last()),
        record_count,
        control_record_count: 0,
        batch_count: records.frames,
        min_timestamp_ms: times.map(|times| times.min_ms),
        max_timestamp_ms: times.map(|times| times.max_ms),
        gaps: Vec::new(),
        anomalies: BTreeMap::new(),
        undecoded: UndecodedFacts::default(),
        transactions: None,
        copy: None,
        segment: SegmentFacts {
            id: "orders:3:17".into(),
            format: SegmentFormat::KafkaLog,
            size_bytes: records.plain_bytes,
            crc32c: 0x0123_4567,
            sha256: [0xab; 32],
            torn_tail_bytes: torn,
            partitions: 1,
        },
        index: IndexFacts {
            settings: BTreeMap::from([("value".into(), "auto".into())]),
            fields: vec![FieldFacts { path: "value.level".into(), types: vec!["text".into()] }],
            segments: vec![IndexSegmentFacts { name: "0a".into(), documents: record_count }],
            unsearchable: BTreeMap::from([("not UTF-8".into(), 2)]),
            rest_leaves: None,
        },
        records,
    }
}

/// Stand-ins for the files of a small index. This module does not look into them.
pub(super) fn index_files() -> Vec<(String, Bytes)> {
    vec![("meta.json".into(), Bytes::from_static(b"{}")), ("0a.term".into(), Bytes::from_static(b"terms"))]
}

/// Ranges for the hot cache: the first bytes of each file and some from its middle.
pub(super) fn hot_ranges(files: &[(String, Bytes)]) -> Result<Vec<Vec<Range<u64>>>, AssembleError> {
    let ranges = |(_, bytes): &(String, Bytes)| {
        let len = bytes.len() as u64;
        [0..len.min(5), len / 2..len / 2 + len / 500].into_iter().filter(|range| !range.is_empty()).collect()
    };
    Ok(files.iter().map(ranges).collect())
}

/// A whole bundle of these slices.
pub(super) fn bundle_of(slices: Vec<Blocks>) -> (Built, Bytes) {
    bundle_with(index_files(), slices)
}

/// A whole bundle of these slices and index files.
pub(super) fn bundle_with(files: Vec<(String, Bytes)>, slices: Vec<Blocks>) -> (Built, Bytes) {
    let built = assemble(&manifest_of(&slices), files, slices, hot_ranges).expect("a bundle");
    let object = built.parts.concat().into();
    (built, object)
}

/// The footer of an object, read from all of its bytes.
pub(super) fn footer_of(object: &Bytes) -> Footer {
    match Footer::open(object, object.len() as u64).expect("a footer") {
        Opened::Footer(footer) => footer,
        Opened::NeedFrom(position) => panic!("asks for more from {position}, but has everything"),
    }
}

/// An object of these members with the right checksums. Its parts may be such that `assemble` would refuse
/// them.
pub(super) fn forge(version: u32, parts: &[(String, Vec<u8>)]) -> Bytes {
    let (mut out, mut members) = (Vec::new(), Vec::new());
    for (name, data) in parts {
        out.extend(layout::tar_header(name, data.len() as u64));
        let (position, len, crc32c) = (out.len() as u64, data.len() as u64, crc32c::crc32c(data));
        members.push(Member { name: name.clone(), position, len, crc32c });
        out.extend(data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    let footer = Footer::new(version, members);
    let (header, _, zeros) = footer.own_header();
    out.extend(header);
    out.resize(out.len() + zeros as usize, 0);
    out.extend(footer.encode());
    out.resize(out.len() + 1_024, 0);
    out.into()
}
