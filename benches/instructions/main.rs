//! The hot parts of the write path, each alone and on one thread, so that their instructions can be counted.
//!
//! `benches/instructions.py` (`make bench-instructions`) runs each case under callgrind, which counts only
//! the instructions inside [`counted`]. It compares the counts with those in `benches/instructions.json`.
//! Unlike times, counts repeat on shared and noisy machines.

use std::error::Error;
use std::hint::black_box;

use bytes::Bytes;
use wal_indexer::generate::{self, Codec, Format, Size, Spec};
use wal_indexer::internals::bundle::{BlockWriter, FrameFacts};
use wal_indexer::internals::index::{IndexBuilder, TopicSettings, ValueMode};
use wal_indexer::internals::record::RecordBatch;
use wal_indexer::segment::{DecodedFrame, Frame, FrameSplitter};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc; // as in the program

/// Enough records for tables to grow and arenas to fill, and few enough to run fifty times slower under
/// callgrind.
const RECORDS: u64 = 4_000;

const OPENED_BYTES_MAX: usize = 64 << 20;

/// The work that callgrind counts. It is never inlined, because callgrind finds it by its name.
#[inline(never)]
fn counted<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

type Case = (&'static str, fn() -> Result<(), Box<dyn Error>>);

const CASES: [Case; 9] = [
    ("decode kafka none", || decode(Format::Kafka, Codec::None)),
    ("decode kafka lz4", || decode(Format::Kafka, Codec::Lz4)),
    ("decode kafka zstd", || decode(Format::Kafka, Codec::Zstd)),
    ("decode chronik-v2 none", || decode(Format::ChronikV2, Codec::None)),
    ("decode chronik-v1 none", || decode(Format::ChronikV1, Codec::None)),
    ("index json", || index(ValueMode::Json)),
    ("index text", || index(ValueMode::Text)),
    ("blocks kafka none", || blocks(Format::Kafka, Codec::None)),
    ("blocks chronik-v2 none", || blocks(Format::ChronikV2, Codec::None)),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match arguments.next() {
        None => {
            CASES.iter().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        Some(wanted) => {
            let found = CASES.iter().find(|(name, _)| *name == wanted);
            let (_, run) = found.ok_or_else(|| format!("there is no case {wanted:?}"))?;
            run()
        }
    }
}

/// Splits a segment into frames, and decodes each.
fn decode(format: Format, codec: Codec) -> Result<(), Box<dyn Error>> {
    let segment = segment(format, codec)?;
    counted(|| -> Result<(), Box<dyn Error>> {
        for frame in split(segment)? {
            black_box(frame.decode(OPENED_BYTES_MAX)?);
        }
        Ok(())
    })
}

/// Indexes records whose values are JSON, and writes the index's files.
fn index(value: ValueMode) -> Result<(), Box<dyn Error>> {
    let frames = split(segment(Format::Kafka, Codec::None)?)?;
    let decoded = decode_all(&frames)?;
    let batches: Vec<RecordBatch> = decoded.into_iter().map(|frame| frame.records).collect();
    counted(|| -> Result<(), Box<dyn Error>> {
        let mut builder = IndexBuilder::new(TopicSettings { value, ..TopicSettings::default() })?;
        batches.iter().try_for_each(|batch| builder.add(batch))?;
        black_box(builder.finish()?);
        Ok(())
    })
}

/// Packs frames into compressed blocks.
fn blocks(format: Format, codec: Codec) -> Result<(), Box<dyn Error>> {
    let frames = split(segment(format, codec)?)?;
    let facts: Vec<FrameFacts> = decode_all(&frames)?.iter().map(facts_of).collect();
    counted(|| -> Result<(), Box<dyn Error>> {
        let mut writer = BlockWriter::new()?;
        for (frame, facts) in frames.iter().zip(facts) {
            writer.add(frame.position, &frame.bytes, facts)?;
        }
        black_box(writer.finish()?);
        Ok(())
    })
}

fn segment(format: Format, codec: Codec) -> Result<Bytes, Box<dyn Error>> {
    let mut bytes = Vec::new();
    generate::generate(&Spec { format, codec, size: Size::Records(RECORDS), ..Spec::default() }, &mut bytes)?;
    Ok(bytes.into())
}

fn split(segment: Bytes) -> Result<Vec<Frame>, Box<dyn Error>> {
    let (mut splitter, mut frames) = (FrameSplitter::new(segment.len() as u64, None), Vec::new());
    splitter.push(segment, &mut frames)?;
    splitter.finish()?;
    Ok(frames)
}

fn decode_all(frames: &[Frame]) -> Result<Vec<DecodedFrame>, Box<dyn Error>> {
    Ok(frames.iter().map(|frame| frame.decode(OPENED_BYTES_MAX)).collect::<Result<_, _>>()?)
}

fn facts_of(frame: &DecodedFrame) -> FrameFacts {
    FrameFacts {
        range: frame.range,
        min_timestamp_ms: frame.min_timestamp_ms,
        max_timestamp_ms: frame.max_timestamp_ms,
        data_records: frame.records.records.len() as u64,
        ..FrameFacts::default()
    }
}
