//! Generated segments, read by the decoders. Generator and decoders share no code.

use std::num::NonZero;

use bytes::Bytes;
use wal_indexer::generate::{Codec, Format, Size, Spec, Summary, generate, logs::Logs};
use wal_indexer::ids::TopicPartition;
use wal_indexer::internals::record::{Record, RecordBatch};
use wal_indexer::segment::{Frame, FrameSplitter};

const RECORDS: u64 = 1_030;

/// Generates a segment and splits it, in chunks that cut frames.
fn frames(spec: &Spec) -> (Summary, Vec<Frame>) {
    let mut bytes = Vec::new();
    let summary = generate(spec, &mut bytes).expect("a valid description");
    let mut splitter = FrameSplitter::new(summary.bytes, None);
    let mut frames = Vec::new();
    for chunk in bytes.chunks(99_991) {
        splitter.push(Bytes::copy_from_slice(chunk), &mut frames).expect("sound");
    }
    assert!(splitter.finish().expect("sound").torn.is_none());
    (summary, frames)
}

fn spec(format: Format, codec: Codec) -> Spec {
    Spec { format, codec, size: Size::Records(RECORDS), seed: 9, ..Spec::default() }
}

/// Returns everything of a record except its offset.
fn contents(record: &Record<'_>) -> impl PartialEq + std::fmt::Debug {
    let part = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("generated text is UTF-8");
    let headers: Vec<_> = record.headers().map(|(name, value)| (part(name), value.map(part))).collect();
    (record.timestamp_ms(), record.key().map(part), record.value().map(part), headers)
}

/// Decodes the frames and compares them with the log that the seed defines.
fn check(spec: &Spec) {
    let (summary, frames) = frames(spec);
    let mut logs = Logs::new(spec.seed);
    (0..RECORDS as i64).for_each(|offset| logs.push(offset));
    let expected: RecordBatch = logs.take();
    let mut expected = expected.iter();
    assert_eq!((summary.records, summary.frames), (RECORDS, frames.len() as u64));
    let mut offsets = Vec::new();
    for frame in &frames {
        let decoded = frame.decode(usize::MAX).expect("sound");
        for record in decoded.records.iter() {
            let expected = expected.next().expect("no more records than were generated");
            assert_eq!(contents(&record), contents(&expected), "{} {}", spec.format, spec.codec);
            offsets.push(record.offset());
        }
    }
    assert_eq!(expected.len(), 0);
    let [partition] = &summary.partitions[..] else { panic!("one partition") };
    let span = offsets[offsets.len() - 1] - offsets[0] + 1;
    assert_eq!((offsets[0], partition.range.last()), (partition.range.first(), offsets[offsets.len() - 1]));
    assert_eq!(span as u64, partition.records + partition.gaps);
    assert!(offsets.is_sorted_by(|a, b| a < b));
}

#[test]
fn every_format_and_codec_holds_the_records_that_the_seed_chooses() {
    for format in Format::ALL {
        for codec in Codec::ALL {
            check(&spec(format, codec));
        }
    }
}

#[test]
fn chronik_v2_without_the_producers_batch_and_logs_with_gaps_hold_them_too() {
    check(&Spec { producer_bytes: false, ..spec(Format::ChronikV2, Codec::None) });
    for format in Format::ALL {
        check(&Spec { gap_every: NonZero::new(7), base_offset: 5_000_000_000, ..spec(format, Codec::Zstd) });
    }
}

#[test]
fn frames_of_several_partitions_say_which_is_theirs() {
    let partitions = NonZero::new(3).expect("not zero");
    let partition = TopicPartition::new("orders.eu", 5).expect("a valid name");
    let (_, frames) = frames(&Spec { partitions, partition, ..spec(Format::ChronikV2, Codec::Snappy) });
    let found: Vec<i32> =
        frames.iter().filter_map(|frame| Some(frame.partition.as_ref()?.partition())).collect();
    assert_eq!(found, [5, 6, 7, 5, 6, 7]);
}
