//! Reports the contents of a file without storing anything: a segment's frames and records, or a bundle's
//! members and blocks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::archive::{Archive, FRAME_BYTES_MAX, StoredRecord};
use crate::bundle::{MANIFEST_NAME, Manifest};
use crate::formatting::hex;
use crate::ids::OffsetRange;
use crate::segment::{AnomalyCounts, Frame, FrameSplitter, SegmentError};

/// Files are read in pieces of this size.
const CHUNK_BYTES: usize = 1 << 20;

/// The report about a segment file, as far as it can be read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SegmentReport {
    /// The file's size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the whole file, in hexadecimal digits.
    pub sha256: String,
    /// CRC-32C of the whole file, in hexadecimal digits.
    pub crc32c: String,
    /// The segment's format; `None` if there are too few bytes to recognise it.
    pub format: Option<&'static str>,
    /// The number of whole frames.
    pub frames: u64,
    /// The number of frames of each kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// The number of frames with each codec.
    pub codecs: BTreeMap<String, u64>,
    /// The number of frames with each kind of deviation from the format. These frames are read all the same.
    pub anomalies: BTreeMap<&'static str, u64>,
    /// The number of frames, for each reason, that cannot be decoded although their bytes are as they were
    /// written. They are never indexed, and are stored only if that is asked for.
    pub undecodable: BTreeMap<&'static str, u64>,
    /// The contents of the frames, by partition.
    pub partitions: Vec<PartitionReport>,
    /// The number of bytes after the last whole frame.
    pub torn_tail_bytes: u64,
    /// The first records.
    #[serde(skip)]
    pub first_records: Vec<StoredRecord>,
    /// What cannot be read, and where. Nothing after it is counted, unless it is a frame that cannot be
    /// decoded.
    pub error: Option<String>,
}

/// A partition's part of a segment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PartitionReport {
    /// The topic; `None` if the frames do not name it.
    pub topic: Option<String>,
    /// The partition's number; `None` if the frames do not state it.
    pub partition: Option<i32>,
    /// The number of whole frames.
    pub frames: u64,
    /// The number of their bytes.
    pub bytes: u64,
    /// The lowest offset that a frame covers; if none covers any, the lowest base offset of a frame.
    pub base_offset: i64,
    /// The highest offset that a frame covers; if none covers any, one less than `base_offset`.
    pub last_offset: i64,
    /// The number of data records.
    pub records: u64,
    /// The number of control records.
    pub control_records: u64,
    /// The earliest time of a data record, in milliseconds since the Unix epoch.
    pub min_timestamp_ms: Option<i64>,
    /// The latest time of a data record, in milliseconds since the Unix epoch.
    pub max_timestamp_ms: Option<i64>,
    /// Whether any frame covers an offset.
    #[serde(skip)]
    covers_some: bool,
}

/// The report about a bundle.
#[derive(Clone, Debug, Serialize)]
pub struct BundleReport {
    /// Its key, or its file's path.
    pub bundle: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The position of its footer.
    pub footer_offset: u64,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its members.
    pub members: Vec<MemberReport>,
    /// Its blocks.
    pub blocks: Vec<BlockReport>,
}

/// A member of a bundle.
#[derive(Clone, Debug, Serialize)]
pub struct MemberReport {
    /// Its name in the tar.
    pub name: String,
    /// The position of its data in the bundle.
    pub position: u64,
    /// The length of its data in bytes.
    pub bytes: u64,
    /// CRC-32C of its data, in hexadecimal digits.
    pub crc32c: String,
}

/// A block of `records.zst`.
#[derive(Clone, Debug, Serialize)]
pub struct BlockReport {
    /// The position of the compressed block in `records.zst`.
    pub position: u64,
    /// Its compressed length in bytes.
    pub bytes: u32,
    /// Its decompressed length in bytes.
    pub plain_bytes: u32,
    /// The number of whole frames in it; 0 in the block of the torn tail.
    pub frames: u32,
    /// The number of data records in it.
    pub records: u64,
    /// Whether its frames could not be decoded.
    pub is_undecoded: bool,
    /// The lowest offset that one of its frames covers.
    pub first_offset: Option<i64>,
    /// The highest offset that one of its frames covers.
    pub last_offset: Option<i64>,
    /// The position in the segment that its first byte comes from.
    pub source_position: u64,
}

/// Whether a file is a bundle, by its first bytes: they are a tar that begins with a manifest.
pub fn is_bundle(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut head)?;
    let is_tar = head.get(257..262) == Some(b"ustar");
    Ok(is_tar && head.starts_with(MANIFEST_NAME.as_bytes()))
}

/// Reads a segment file to its end, or to the first bytes that cannot be read. Keeps its first
/// `first_records` records. Blocks.
pub fn segment(path: &Path, first_records: usize, progress: impl Fn(u64)) -> io::Result<SegmentReport> {
    let mut file = File::open(path)?;
    let size_bytes = file.metadata()?.len();
    let mut reader = SegmentReader::new(size_bytes, first_records);
    let (mut sha256, mut crc32c) = (Sha256::new(), 0);
    loop {
        let mut chunk = BytesMut::zeroed(CHUNK_BYTES);
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        chunk.truncate(read);
        sha256.update(&chunk);
        crc32c = crc32c::crc32c_append(crc32c, &chunk);
        progress(read as u64);
        reader.push(chunk.freeze());
    }
    let mut report = reader.finish();
    report.sha256 = hex(&sha256.finalize());
    report.crc32c = format!("{crc32c:08x}");
    Ok(report)
}

/// Reports the contents of an open bundle.
pub fn bundle(archive: &Archive) -> BundleReport {
    let members = archive.footer().members().iter().map(|member| MemberReport {
        name: member.name.clone(),
        position: member.position,
        bytes: member.len,
        crc32c: format!("{:08x}", member.crc32c),
    });
    let blocks = archive.blocks().entries().iter().map(|entry| BlockReport {
        position: entry.position,
        bytes: entry.compressed_len,
        plain_bytes: entry.plain_len,
        frames: entry.frames,
        records: entry.records,
        is_undecoded: entry.is_undecoded,
        first_offset: entry.offsets.map(|offsets| offsets.first()),
        last_offset: entry.offsets.map(|offsets| offsets.last()),
        source_position: entry.source_position,
    });
    BundleReport {
        bundle: archive.name(),
        size_bytes: archive.source().size_bytes(),
        footer_offset: archive.footer().footer_offset(),
        manifest: archive.manifest().clone(),
        members: members.collect(),
        blocks: blocks.collect(),
    }
}

/// Reads a segment as its bytes arrive.
struct SegmentReader {
    splitter: Option<FrameSplitter>,
    report: SegmentReport,
    partitions: BTreeMap<Option<(String, i32)>, PartitionReport>,
    first_records: usize,
    anomalies: AnomalyCounts,
    /// The error of the first frame that cannot be decoded.
    undecodable: Option<String>,
}

impl SegmentReader {
    fn new(size_bytes: u64, first_records: usize) -> Self {
        let report = SegmentReport { size_bytes, ..SegmentReport::default() };
        let splitter = Some(FrameSplitter::new(size_bytes, None).with_any_magic(true));
        let (partitions, anomalies) = (BTreeMap::new(), AnomalyCounts::default());
        Self { splitter, report, partitions, first_records, anomalies, undecodable: None }
    }

    fn push(&mut self, chunk: Bytes) {
        let Some(splitter) = &mut self.splitter else { return };
        let mut frames = Vec::new();
        let pushed = splitter.push(chunk, &mut frames);
        self.report.format = splitter.format().map(|format| format.name());
        // A frame before the fault may be its cause, so these frames are decoded first.
        if let Err(error) = frames.iter().try_for_each(|frame| self.frame(frame)).and(pushed) {
            self.fail(&error);
        }
    }

    fn finish(mut self) -> SegmentReport {
        match self.splitter.take().map(FrameSplitter::finish) {
            Some(Ok(tail)) => {
                self.report.torn_tail_bytes = tail.torn.map_or(0, |torn| torn.bytes.len() as u64);
            }
            Some(Err(error)) => self.fail(&error),
            None => {}
        }
        self.report.anomalies = self.anomalies.by_name().collect();
        self.report.error = self.report.error.or(self.undecodable);
        self.report.partitions = self.partitions.into_values().collect();
        self.report
    }

    fn fail(&mut self, error: &SegmentError) {
        self.report.error = Some(format!("{}: {error}", error.reason()));
        self.splitter = None;
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), SegmentError> {
        let decoded = match frame.decode(FRAME_BYTES_MAX) {
            Ok(decoded) => Some(decoded),
            // The frames after it can still be read. The report's error is that of the first such frame.
            Err(error) if frame.is_keepable(error.fault()) => {
                *self.report.undecodable.entry(error.reason()).or_default() += 1;
                let first = || format!("{}: {error}", error.reason());
                self.undecodable.get_or_insert_with(first);
                None
            }
            Err(error) => return Err(error),
        };
        let report = &mut self.report;
        report.frames += 1;
        *report.kinds.entry(frame.kind()).or_default() += 1;
        self.anomalies.add(decoded.as_ref().map_or(frame.anomalies, |decoded| decoded.anomalies));
        if let Some(decoded) = &decoded {
            *report.codecs.entry(decoded.codec.to_string()).or_default() += 1;
            let missing = self.first_records.saturating_sub(report.first_records.len());
            let first = decoded.records.iter().take(missing).map(|one| StoredRecord::new(&one));
            report.first_records.extend(first);
        }
        let name = frame.partition.as_ref().map(|one| (one.topic().to_owned(), one.partition()));
        let part = self.partitions.entry(name.clone()).or_insert_with(|| PartitionReport::new(name));
        part.frames += 1;
        part.bytes += frame.bytes.len() as u64;
        let range = decoded.as_ref().map_or_else(|| frame.head_range(), |decoded| decoded.range);
        part.cover(range, decoded.as_ref().map_or(0, |decoded| decoded.base_offset));
        if let Some(decoded) = decoded {
            part.records += decoded.records.records.len() as u64;
            part.control_records += decoded.control_offsets.len() as u64;
            let (min, max) = (decoded.min_timestamp_ms, decoded.max_timestamp_ms);
            part.min_timestamp_ms = part.min_timestamp_ms.into_iter().chain(min).min();
            part.max_timestamp_ms = part.max_timestamp_ms.into_iter().chain(max).max();
        }
        Ok(())
    }
}

impl PartitionReport {
    fn new(name: Option<(String, i32)>) -> Self {
        let (topic, partition) = name.unzip();
        Self { topic, partition, ..Self::default() }
    }

    /// Adds the offsets of a frame whose base offset is `place`.
    fn cover(&mut self, range: Option<OffsetRange>, place: i64) {
        let before = OffsetRange::new(self.base_offset, self.last_offset).filter(|_| self.covers_some);
        if let Some(all) = before.into_iter().chain(range).reduce(|a, b| a.cover(&b)) {
            (self.base_offset, self.last_offset, self.covers_some) = (all.first(), all.last(), true);
        } else {
            let place = if self.frames == 1 { place } else { self.base_offset.min(place) };
            (self.base_offset, self.last_offset) = (place, place - 1);
        }
    }
}

#[cfg(test)]
mod tests;
