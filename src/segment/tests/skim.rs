//! Compares records that are read from a stream with records that are decoded at once.

use std::num::NonZero;

use super::*;
use crate::generate::{Codec as Packing, Format, Size, Spec, generate};
use crate::record::StoredRecord;

/// Takes records with this limit.
struct Taken {
    limit: Option<usize>,
    records: Vec<StoredRecord>,
}

impl Visitor for Taken {
    fn limit(&mut self, _offset: i64, _timestamp_ms: Option<i64>) -> Option<usize> {
        self.limit
    }

    fn record(&mut self, record: StoredRecord) {
        self.records.push(record);
    }
}

/// Reads all frames of a segment from a stream that returns a few bytes at a time.
fn skim(bytes: &Bytes, frames: &[Frame], limit: Option<usize>) -> Result<Vec<StoredRecord>, Fault> {
    let mut stream = std::io::BufReader::with_capacity(13, &bytes[..]);
    let mut taken = Taken { limit, records: Vec::new() };
    for frame in frames {
        skim_frame(&mut stream, frame.format(), 16 << 20, &mut taken)?;
    }
    assert!(
        std::io::BufRead::fill_buf(&mut stream).expect("in memory").is_empty(),
        "each frame is read to its end"
    );
    Ok(taken.records)
}

fn frames_decoded(frames: &[Frame]) -> impl Iterator<Item = DecodedFrame> {
    frames.iter().map(|frame| frame.decode(DECODED_BYTES_MAX).expect("sound"))
}

fn check(bytes: &Bytes, what: &str) {
    let frames = read(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    let of_frame = |frame: &Frame, limit: usize, decoded: &DecodedFrame| {
        let leader_epoch = frame.leader_epoch();
        let within = |record: &_| StoredRecord::within(record, limit, false);
        let stored = |record: &_| StoredRecord { leader_epoch, ..within(record) };
        decoded.records.iter().map(|record| stored(&record)).collect::<Vec<_>>()
    };
    let decoded: Vec<_> =
        frames.iter().flat_map(|(frame, decoded)| of_frame(frame, usize::MAX, decoded)).collect();
    let frames: Vec<_> = frames.into_iter().map(|(frame, _)| frame).collect();
    let skim = |limit| skim(bytes, &frames, limit).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    assert!(skim(Some(usize::MAX)) == decoded, "{what}");
    assert_eq!(skim(None), [], "{what}");
    let mut sizes: Vec<_> = decoded.iter().map(StoredRecord::mem_usage).collect();
    sizes.sort_unstable();
    let limit = sizes.get(sizes.len() / 2).copied().unwrap_or_default();
    let within: Vec<_> = frames
        .iter()
        .zip(frames_decoded(&frames))
        .flat_map(|(frame, decoded)| of_frame(frame, limit, &decoded))
        .collect();
    assert!(skim(Some(limit)) == within, "{what}");
    for (skimmed, whole) in skim(Some(limit)).iter().zip(&decoded) {
        if whole.mem_usage() <= limit {
            assert_eq!(skimmed, whole, "{what}");
            continue;
        }
        let omitted =
            skimmed.omitted.unwrap_or_else(|| panic!("{what}: {whole:?} is more than {limit} bytes"));
        assert!(skimmed.mem_usage() <= limit && skimmed.value.is_none(), "{what}");
        assert_eq!((skimmed.offset, skimmed.timestamp_ms), (whole.offset, whole.timestamp_ms), "{what}");
        assert_eq!(
            (omitted.fingerprint, skimmed.fingerprint()),
            (whole.fingerprint(), whole.fingerprint()),
            "{what}"
        );
    }
}

#[test]
fn every_format_and_codec_is_read_from_a_stream_as_it_is_at_once() {
    for format in Format::ALL {
        for codec in Packing::ALL {
            let size = Size::Records(700);
            let spec = Spec { format, codec, size, gap_every: NonZero::new(7), ..Spec::default() };
            let mut bytes = Vec::new();
            generate(&spec, &mut bytes).expect("in memory");
            check(&bytes.into(), &format!("{format} {codec}"));
        }
    }
}

#[test]
fn every_fixture_is_read_from_a_stream_as_it_is_at_once() {
    let mut found = 0;
    for directory in ["kafka", "chronik", "anomalies"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(directory);
        for entry in std::fs::read_dir(path).expect("a directory") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            let bytes =
                if name.ends_with(".json") { continue } else { fixture(&format!("{directory}/{name}")) };
            if read(&bytes).is_ok() {
                check(&bytes, &name);
                found += 1;
            }
        }
    }
    assert!(found > 20, "{found} fixtures are whole");
}

/// A batch of magic 2 with values of these sizes. `raw` means one Snappy block, as librdkafka writes it.
fn batch_of(codec: Codec, raw: bool, sizes: &[usize]) -> Bytes {
    let value = |nth: usize, len: usize| -> Vec<u8> {
        // The bytes compress to literals and copies of all lengths.
        (0..len)
            .map(|at| if at % 9_000 < 7_000 { b'a' + (at % 7) as u8 } else { (at * at / 31 + nth) as u8 })
            .collect()
    };
    let records = sizes.iter().enumerate();
    let records: Vec<u8> = records
        .flat_map(|(nth, len)| encode::record(0, nth as i64, Some(b"k"), Some(&value(nth, *len))))
        .collect();
    let body = match codec {
        Codec::Snappy if raw => snap::raw::Encoder::new().compress_vec(&records).expect("small"),
        _ => super::codec::compress(codec, &records),
    };
    let count = sizes.len() as i32;
    let head = encode::BatchHead {
        attributes: codec as u16,
        last_delta: count - 1,
        count,
        ..encode::BatchHead::default()
    };
    encode::batch(head, &body).into()
}

#[test]
fn a_large_record_is_passed_over_and_those_beside_it_are_whole() {
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        for raw in [false, true] {
            check(&batch_of(codec, raw, &[10, 3 << 20, 0, 100_000]), &format!("{codec}"));
        }
    }
}

#[test]
fn a_window_larger_than_a_reader_may_hold_matters_only_where_it_is_filled() {
    for (len, is_read) in [(100_000, true), (20 << 20, false)] {
        let record = encode::record(0, 0, None, Some(&vec![b'v'; len]));
        let mut packer = zstd::Encoder::new(Vec::new(), 1).expect("in memory");
        packer.window_log(27).expect("a valid window");
        let body = std::io::Write::write_all(&mut packer, &record)
            .and_then(|()| packer.finish())
            .expect("in memory");
        let bytes = encode::batch(
            encode::BatchHead { attributes: Codec::Zstd as u16, ..encode::BatchHead::default() },
            &body,
        );
        let mut taken = Taken { limit: Some(1 << 20), records: Vec::new() };
        match skim_frame(&mut &bytes[..], SegmentFormat::KafkaLog, 16 << 20, &mut taken) {
            Ok(()) => {
                assert!(is_read && taken.records[0].value.as_ref().is_some_and(|value| value.len() == len))
            }
            Err(fault) => assert_eq!(
                (fault, is_read),
                (Fault::TooLarge { limit: super::super::skim::REACH_BYTES }, false)
            ),
        }
    }
}
